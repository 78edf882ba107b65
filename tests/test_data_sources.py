"""Sources that are not files: the hub with and without a network, and Python's documentation."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from llmexp.data import hub, pydocs
from llmexp.data.hub import HubSet
from llmexp.data.sources import load_examples
from llmexp.errors import UserError
from llmexp.tasks.base import Limit
from llmexp.tasks.classification import Classification
from llmexp.tasks.instruction import Instruction
from llmexp.tasks.language_modeling import LanguageModeling

CONF = Path(__file__).resolve().parents[1] / "conf" / "data"


def test_hub_locators() -> None:
    assert HubSet.parse("hub:a/b:train") == HubSet("a/b", "train")
    full = HubSet.parse("hub:a/b.c/conf-1@refs/convert/parquet:train[:10%]")
    assert full == HubSet("a/b.c", "train[:10%]", "conf-1", "refs/convert/parquet")
    for wrong in ("hub:a:train", "hub:a/b", "hub:a/b/c/d:train", "hub:a/b:"):
        with pytest.raises(UserError, match="not of the form hub:OWNER/NAME"):
            HubSet.parse(wrong)


def test_without_network_the_hub_is_one_sentence_within_seconds(monkeypatch: Any) -> None:
    import datasets  # noqa: F401  (takes its seconds here, not below)

    monkeypatch.setattr(hub, "hub_answers", lambda: False)
    began = time.monotonic()
    command = "hf download --repo-type dataset nobody/nothing --revision v1"
    with pytest.raises(UserError, match=f"nobody/nothing is not on this machine.*{command}") as e:
        load_examples(Classification(train="hub:nobody/nothing@v1:train"))
    assert "\n" not in str(e.value)
    assert time.monotonic() - began < 30


def hub_cache(home: Path) -> None:
    """A dataset repository as `hf download` leaves it."""
    import pyarrow
    import pyarrow.parquet

    repo = home / "hub" / "datasets--owner--name"
    folder = repo / "snapshots" / ("0" * 40)
    (folder / "data").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    (folder / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n"
        "    dtype:\n      class_label:\n        names:\n          '0': neg\n          '1': pos\n"
        "  splits:\n  - name: train\n    num_examples: 40\n---\n"
    )
    table = pyarrow.table({"text": [f"t{i}" for i in range(40)], "label": [0, 1] * 20})
    pyarrow.parquet.write_table(table, folder / "data" / "train-00000-of-00001.parquet")


PROGRAM = """
from llmexp.data.sources import load_examples
from llmexp.errors import UserError
from llmexp.tasks.classification import Classification
print(load_examples(Classification(train="hub:owner/name:train")).labels)
for wrong in ("hub:owner/name:tests", "hub:owner/name/other:train"):
    try:
        load_examples(Classification(train=wrong))
    except UserError as error:
        print(error)
"""


def test_hub_offline_works_from_what_was_downloaded(tmp_path: Path, monkeypatch: Any) -> None:
    hub_cache(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for variable in ("HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[1],
    )
    assert done.returncode == 0, done.stderr
    labels, split, config = done.stdout.splitlines()
    assert labels == "['neg', 'pos']"
    assert "tests" in split and "train" in split
    assert "other" in config


def test_topics_are_stable_balanced_and_described() -> None:
    task = Classification(train="pydocs:topics:train", test="pydocs:topics:test")
    examples = load_examples(task)
    assert examples.labels == sorted(pydocs.AREAS)
    assert 1200 < len(examples.train) + len(examples.validation) + len(examples.test) < 2500
    assert load_examples(task).fingerprint == examples.fingerprint
    texts = [row["text"] for row in examples.train + examples.validation + examples.test]
    assert len(set(texts)) == len(texts)
    described = OmegaConf.load(CONF / "pydocs_topics.yaml").labels
    assert sorted(described) == examples.labels


def test_instruct_and_text() -> None:
    requests = load_examples(
        Instruction(train="pydocs:instruct:train", test="pydocs:instruct:test")
    )
    assert len(requests.train) > 2000 and len(requests.test) > 400
    assert any("format alpaca detected" in note for note in requests.notes)
    texts = load_examples(LanguageModeling(train="pydocs:text:train", test="pydocs:text:test"))
    size = sum(len(row["text"]) for row in texts.train + texts.validation + texts.test)
    assert size > 1_500_000


def test_documentation_is_read_not_imported() -> None:
    program = (
        "import sys\nfrom llmexp.data import pydocs\nbefore = set(sys.modules)\n"
        "rows = [pydocs.KINDS[kind]() for kind in pydocs.KINDS]\n"
        "new = {n for n in set(sys.modules) - before if not n.startswith('encodings.')}\n"
        "assert all(rows) and not new, new\n"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=root
    )
    assert done.returncode == 0, done.stderr


def test_an_unknown_documentation_set_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"no documentation set 'topic'; did you mean topics\?"):
        load_examples(Classification(train="pydocs:topic:train"))


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_data_yaml_says_what_it_is_for_and_where_rows_come_from(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    node = OmegaConf.load(path)
    base = node.get("defaults", [path.stem])[0].removesuffix("@data")
    # A file of the global package holds its rows under `data`.
    node = node.get("data", node)
    keys = set(OmegaConf.load(CONF / f"{base}.yaml"))
    assert set(node) - {"defaults"} <= keys
    for name in ("train", "validation", "test"):
        locator = None if OmegaConf.is_missing(node, name) else node.get(name)
        if locator is not None and locator.startswith("hub:"):
            HubSet.parse(locator)


def test_limits_apply_to_embedded_data() -> None:
    limit = Limit(train=64, validation=16, test=32)
    task = Classification(train="pydocs:topics:train", test="pydocs:topics:test", limit=limit)
    examples = load_examples(task)
    sizes = [len(examples.train), len(examples.validation), len(examples.test)]
    assert sizes == [64, 16, 32]
    assert {row["label"] for row in examples.train} == set(examples.labels)
