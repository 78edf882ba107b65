"""`llmexp cache` tells what is kept and what for, and removes what it is asked to."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from llmexp.cache.features import FeatureCache
from llmexp.cache.store import Store, kept
from llmexp.cli import main
from llmexp.config import Cache
from llmexp.errors import UserError

DAY = 86_400


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache of features, hidden states and tokens, last used 10, 2 and 0 days ago."""
    cache = Cache(enabled=True, dir=str(tmp_path), max_gb=1.0)
    for key, about in (("f", {"model": "bert"}), ("h", {"kind": "hidden states"})):
        FeatureCache(cache).entry(key, (10, 2), torch.float32, lambda out: None, **about)
    with Store(cache, "tokens").publishing("t", 5) as (made, facts):
        (made / "tokens.arrow").write_bytes(b"12345")
        facts |= {"kind": "tokens", "data": "some.csv", "split": "train"}
    for kind, key, days in (("features", "f", 10), ("features", "h", 2), ("tokens", "t", 0)):
        then = time.time() - days * DAY
        os.utime(tmp_path / kind / key / "meta.json", (then, then))
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> dict[str, Any]:
    assert main(["cache", *words, f"cache.dir={folder}", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert isinstance(answer, dict)
    return answer


def test_the_list_names_kind_size_use_and_owner(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(capsys, folder, "cache.max_gb=3")
    assert found["max_gb"] == 3 and found["dir"] == str(folder)
    assert [e["kind"] for e in found["entries"]] == ["features", "hidden states", "tokens"]
    assert found["bytes"] == sum(e["bytes"] for e in found["entries"])
    on_disk = sum(p.stat().st_size for p in folder.glob("*/*/[st]*.*"))
    assert found["bytes"] == on_disk
    assert found["entries"][0]["model"] == "bert"
    assert (found["entries"][2]["data"], found["entries"][2]["split"]) == ("some.csv", "train")


def test_the_page_shows_the_same_to_people(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", f"cache.dir={folder}", "cache.max_gb=3"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert "3 entries" in head and "cache.max_gb=3" in head
    assert [line.split()[0] for line in lines] == ["tokens", "features", "hidden"]
    assert "10 d" in lines[1] and "some.csv" in lines[0]


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ([], []),
        (["--older-than", "5"], ["h", "t"]),
        (["--kind", "tokens"], ["f", "h"]),
        (["--kind", "features"], ["t"]),
        (["--kind", "features", "--older-than", "5"], ["h", "t"]),
        (["--kind", "tokens", "--older-than", "1"], ["f", "h", "t"]),
    ],
)
def test_clear_removes_what_is_asked_and_nothing_else(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], left: list[str]
) -> None:
    found = said(capsys, folder, "clear", *words)
    assert found["removed"] == 3 - len(left)
    assert sorted(entry.folder.name for entry in kept(folder)) == left


def test_what_a_process_is_building_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(Cache(enabled=True, dir=str(folder), max_gb=1.0), "tokens")
    with store.lock("t"):
        assert said(capsys, folder, "clear")["in_use"] == 1
    assert [entry.folder.name for entry in kept(folder)] == ["t"]


def test_half_an_entry_is_called_so_and_can_be_cleared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = folder / "tokens" / "z.tmp"
    half.mkdir()
    (half / "tokens.arrow").write_bytes(b"12")
    kinds = [e["kind"] for e in said(capsys, folder)["entries"]]
    assert kinds.count("unfinished") == 1
    assert main(["cache", f"cache.dir={folder}"]) == 0
    assert "unfinished" in capsys.readouterr().out
    said(capsys, folder, "clear")
    assert not half.exists()


def test_an_empty_cache_is_no_error_and_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(capsys, tmp_path / "none")["entries"] == []
    assert said(capsys, tmp_path / "none", "clear")["removed"] == 0
    assert not (tmp_path / "none").exists()


def test_the_folder_is_the_one_a_run_would_use(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMEXP_CACHE", str(folder))
    assert main(["cache", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["entries"]) == 3


@pytest.mark.parametrize("word", ["strategy=lora", "cache.max_gb=0", "cache.max_gb=lots", "all"])
def test_what_it_does_not_take_is_one_sentence(word: str) -> None:
    with pytest.raises(UserError, match=r"^cache") as caught:
        main(["cache", "list", word])
    assert "\n" not in str(caught.value)


def test_a_wrong_action_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"^cache: cannot clean; did you mean clear"):
        main(["cache", "clean"])
