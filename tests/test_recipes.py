"""Every recipe, every model and every data set runs end to end: offline, on a CPU, in seconds."""

from __future__ import annotations

import json
import logging
import math
import socket
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from llmexp.configure.compose import compose_jobs, open_keys
from llmexp.configure.composed import conf_dir
from llmexp.jobs import job
from llmexp.jobs.results import read_result

# What an encoder can be used for, and a language model, and an architecture without weights.
USES = {
    "encoder": "strategy=head_only data=trec",
    "decoder": "strategy=qlora data=dolly",
    None: "strategy=from_scratch data=tinystories",
}
STRATEGIES = sorted(path.stem for path in (conf_dir() / "strategy").glob("*.yaml"))


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"reached for the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def smoke(folder: Path, cache: Path, *overrides: str) -> dict[str, Any]:
    """The result of a run with debug=smoke, carried out as a job of its own would be."""
    lines = open_keys([*overrides, "debug=smoke", f"cache.dir={cache}"])
    (composed,) = compose_jobs(lines, "run", None, False)
    launch = {"overrides": lines, "sweep": False}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / job.CONFIG).write_text(OmegaConf.to_yaml({**composed.tree, "launch": launch}))
    assert job.main([str(folder)]) == 0
    return check(folder)


def check(folder: Path) -> dict[str, Any]:
    result = read_result(folder)
    assert result["status"] == "completed"
    assert result["model"].startswith("random_"), "its numbers must never look like a real run's"
    assert result["metrics"]
    assert all(math.isfinite(value) for value in result["metrics"].values())
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines
    assert all("prediction" in json.loads(line) for line in lines)
    assert any((folder / "model").iterdir())
    return result


@pytest.mark.parametrize("name", names("experiment"))
def test_a_published_recipe_runs(name: str, tmp_path: Path, cache: Path) -> None:
    smoke(tmp_path, cache, f"+experiment={name}")


@pytest.mark.long
@pytest.mark.parametrize("name", [n for n in names("model") if n != "local"])
def test_every_model_has_a_tiny_stand_in_of_its_family(
    name: str, tmp_path: Path, cache: Path
) -> None:
    node = OmegaConf.load(conf_dir() / "model" / f"{name}.yaml")
    while "defaults" in node:
        base = node.pop("defaults")[0]
        node = OmegaConf.merge(OmegaConf.load(conf_dir() / "model" / f"{base}.yaml"), node)
    kind = node.kind if node.path is not None else None
    smoke(tmp_path, cache, f"model={name}", *USES[kind].split())


@pytest.mark.long
@pytest.mark.parametrize("name", names("data"))
def test_every_data_set_has_rows_to_try(name: str, tmp_path: Path, cache: Path) -> None:
    result = smoke(tmp_path, cache, f"data={name}", "model=smollm2_135m", "strategy=lora")
    assert result["examples"]["train"] >= 1


@pytest.mark.long
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_runs(strategy: str, tmp_path: Path, cache: Path) -> None:
    smoke(tmp_path, cache, f"strategy={strategy}")


def test_a_quantised_checkpoint_is_stood_in_for_and_the_log_says_so(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "llmexp"):
        smoke(tmp_path, cache, "+experiment=shawgpt_mistral7b_gptq")
    assert "TheBloke/Mistral-7B-Instruct-v0.2-GPTQ is stood in for" in caplog.text
    assert "unquantised" in caplog.text


def test_a_stand_in_is_of_the_family_and_made_once(cache: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    from llmexp.debug import TinyModel

    for family, kind in (("mistral", "decoder"), ("roberta", "encoder"), ("gpt2", "decoder")):
        model = TinyModel(path="owner/name", family=family, kind=kind, folder=str(cache / "tiny"))
        folder = Path(model.location())
        before = (folder / "config.json").stat().st_mtime_ns
        assert AutoConfig.from_pretrained(folder).model_type == family
        text = "The ferry left the harbour."
        tokenizer = AutoTokenizer.from_pretrained(folder)
        read = tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)
        assert read.strip() == text
        assert Path(model.location()) == folder
        assert (folder / "config.json").stat().st_mtime_ns == before
