"""The README's commands compose, its snippets are the files that run, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from llmexp.cli import COMMANDS, main
from llmexp.configure.compose import compose_jobs, open_keys

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
# A command may go on after a backslash at the end of its line.
JOINED = re.sub(r"\\\n\s*", "", TEXT)
RUNS = re.findall(r"^    (?:python run\.py|.*llmexp run)(.*?)(?:\s{2,}#.*)?$", JOINED, re.M)
MAKE = re.findall(r'^    make run ARGS="(.*)"$', TEXT, re.M)


def overrides(line: str) -> tuple[list[str], bool, str | None]:
    words = shlex.split(line)
    multirun = "-m" in words
    config_dir = None
    if "--config-dir" in words:
        at = words.index("--config-dir")
        config_dir = str(ROOT / "tests" / "extend" / words[at + 1])
        del words[at : at + 2]
    return open_keys([w for w in words if w != "-m"]), multirun, config_dir


def test_there_are_commands_to_check() -> None:
    assert len(RUNS) >= 8 and MAKE


@pytest.mark.parametrize("line", [*RUNS, *MAKE])
def test_a_command_composes(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMEXP_ALLOW", "mylab")
    words, multirun, config_dir = overrides(line)
    jobs = compose_jobs(words, "run", config_dir, multirun)
    # A named sweep needs no -m.
    sweeping = multirun or any(word.startswith("sweep=") for word in words)
    assert (len(jobs) > 1) == sweeping


def test_a_misspelt_key_says_what_the_readme_says(capsys: pytest.CaptureFixture[str]) -> None:
    from llmexp.cli import report
    from llmexp.errors import UserError

    shown = re.search(r"\$ python run\.py (\S+)\n    (llmexp: .*)\n", TEXT)
    assert shown is not None
    with pytest.raises(UserError) as raised:
        main(["run", shown[1]])
    assert report(raised.value) == shown[2]


def test_every_command_named_exists() -> None:
    named = set(re.findall(r"llmexp ([a-z]+) ", TEXT))
    assert named <= set(COMMANDS)


def test_snippets_are_the_files_that_run() -> None:
    for block in re.findall(r"```(?:python|yaml)\n(.*?)```", TEXT, re.S):
        name, _, body = block.partition("\n")
        file = (ROOT / "tests" / "extend" / name.removeprefix("# ").strip()).read_text()
        assert body.strip().removeprefix("# @package _global_\n") in file


def test_the_tree_names_what_is_there() -> None:
    tree = TEXT.split("## Where things are")[1].split("```")[1]
    for line in tree.strip().splitlines():
        assert list(ROOT.glob(line.split()[0])), line


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(((?!http)[^)#]+)", TEXT):
        assert (ROOT / target).exists(), target
