"""Every YAML in `conf/` composes, says what it is for, and is checked without importing torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
HEAVY = ("torch", "transformers", "pytorch_lightning", "peft", "datasets", "wandb", "sklearn")
# What an option needs beside it: rows or weights that only a user can name.
BESIDE = {
    "data": {"*": ["model=smollm2_135m"], "classification": ["data.train=specimens:train"]},
    "model": {"local": ["model.path=gpt2", "model.family=gpt2", "model.kind=decoder"]},
}
OWN_ROWS = ["data.train=specimens:train"]
PROBE = f"""
import json, sys
from llmexp.configure.compose import compose_jobs, open_keys
from llmexp.errors import UserError
from llmexp.configure.preflight import build
said = {{}}
for name, overrides in json.load(sys.stdin).items():
    try:
        for job in compose_jobs(open_keys(overrides), "run", None, False):
            build(job.tree, job.where)
        said[name] = None
    except UserError as error:
        said[name] = str(error)
heavy = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps({{"said": said, "heavy": heavy}}))
"""


def llmexp(cwd: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, str(ROOT / "run.py"), *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def options() -> Iterator[tuple[str, list[str]]]:
    """(`group/option`, overrides that choose it) of every YAML that can be chosen."""
    for file in FILES:
        group, option = str(file.parent.relative_to(CONF)), file.stem
        if group in (".", "hydra"):
            continue
        more = BESIDE.get(group, {}).get(option, BESIDE.get(group, {}).get("*", []))
        if "train: ???" in file.read_text() or option == "news_riddles":
            more = [*more, *OWN_ROWS]
        if "kind: encoder" not in file.read_text() and group == "model":
            more = [*more, *from_nothing(file)]
        yield f"{group}/{option}", [f"{group}={option}", *more]


def from_nothing(file: Path) -> list[str]:
    return ["strategy=from_scratch", "data=tinystories"] if "path: null" in file.read_text() else []


GROUPS = sorted({name.rpartition("/")[0] for name, _ in options()})


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_composes_with_known_keys_only_and_imports_nothing_heavy(group: str) -> None:
    cases = {name: lines for name, lines in options() if name.rpartition("/")[0] == group}
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps(cases),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["said"] == dict.fromkeys(cases)
    assert answer["heavy"] == []


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(CONF)))
def test_every_file_opens_with_its_purpose(file: Path) -> None:
    lines = file.read_text().splitlines()
    header = [line for line in lines if line.startswith("#") and not line.startswith("# @package")]
    assert header, "a header line says what it is for"
    assert lines[0].startswith("#")
    assert len(header[0]) > 20


def test_the_groups_that_a_run_names_are_the_folders_there_are() -> None:
    page = (CONF / "run.yaml").read_text()
    for folder in CONF.iterdir():
        if folder.is_dir() and any(folder.glob("*.yaml")):
            assert f"- {folder.name}:" in page, f"{folder.name} is not in conf/run.yaml"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--cfg", "job"],
        ["dry=true"],
        ["strategy=qlora", "model=mistral7b", "dry=true"],
        ["+sweep=strategies", "dry=true"],
        ["+experiment=shawgpt_mistral7b_gptq", "debug=smoke", "dry=true"],
        ["strategy.rnk=8"],
        ["hardware.acelerator=cpu"],
        ["callbacks.checkpoint.monitr=x"],
    ],
    ids=" ".join,
)
def test_an_answer_about_the_configuration_imports_nothing_heavy(
    words: list[str], tmp_path: Path
) -> None:
    done = llmexp(tmp_path, *words, PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported & {"hydra"}, "the list of imports is there"
    assert not imported & set(HEAVY)
    assert done.returncode == (2 if "." in words[0] else 0)
    assert list(tmp_path.iterdir()) == []


def test_without_the_hub_a_run_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    away = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = llmexp(tmp_path, "strategy=qlora", "model=mistral7b", "tracking=none", **away)
    assert done.returncode == 2, done.stderr
    (said,) = done.stderr.strip().splitlines()
    assert "mistralai/Mistral-7B-v0.1 is neither a folder nor in the local" in said
    assert "hf download mistralai/Mistral-7B-v0.1" in said
    assert not any((tmp_path / "outputs").rglob("*"))


def test_a_recipe_can_be_changed_from_the_command_line_and_debug_comes_last(
    tmp_path: Path,
) -> None:
    words = ["+experiment=distilbert_imdb_lora", "strategy.rank=2", "debug=smoke", "--cfg", "job"]
    done = llmexp(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "rank: 2" in done.stdout
    assert "alpha: 32" in done.stdout
    assert "train: specimens:train" in done.stdout
