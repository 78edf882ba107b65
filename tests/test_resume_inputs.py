"""A run goes on only with what it was begun with; what may change its last bits is told."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from llmexp.cache.checksum import checksum
from llmexp.cache.features import FeatureCache
from llmexp.checkpoints.durable import DurableCheckpoints
from llmexp.config import Cache
from llmexp.data.stream_files import sampled
from llmexp.errors import UserError
from llmexp.modules.beginning import weights
from llmexp.strategies.head_only import HeadOnly
from tests import fitted, tiny
from tests.test_resume_folder import KILL, command, files, killed, run  # noqa: F401
from tests.test_resume_folder import models as models
from tests.test_resume_loops import assert_equal, carried

Killed = tuple[list[str], Path]
SETTINGS = {"max_epochs": 2, "val_check_interval": 0.5}


def refused(words: list[str]) -> str:
    """The one sentence of a command that is refused."""
    done = command(words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("llmexp: "))
    return said


def test_an_edited_config_is_refused_also_by_resume(run: Path) -> None:  # noqa: F811
    """The folder's own file is no witness of what it was begun with; its checkpoint is."""
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("learning_rate: 0.002", "learning_rate: 0.02"))
    last = (run / "checkpoints" / "last.ckpt").read_bytes()
    said = refused(["-m", "llmexp", "resume", str(run)])
    assert "begun with another config" in said and "optim.learning_rate: 0.002 -> 0.02" in said
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == last


def test_another_train_file_at_the_same_path_is_refused(
    killed: Killed,  # noqa: F811
    run: Path,  # noqa: F811
) -> None:
    (line,) = (line for line in killed[0] if line.startswith("data.train="))
    path = Path(line.partition("=")[2])
    text = path.read_text()
    provenance = (run / "provenance.json").read_text()
    try:
        path.write_text(text.replace("fox", "cat"))
        said = refused(["-m", "llmexp", "resume", str(run)])
    finally:
        path.write_text(text)
    assert "begun with other contents of train" in said and "put back what was there" in said
    data = provenance.partition('"data"')[2]
    assert (run / "provenance.json").read_text().partition('"data"')[2] == data


class Posed:
    """A head trained on a tiny encoder, and a folder with one of its checkpoints."""

    def __init__(self, tmp_path: Path, max_gb: float = 1.0):
        self.net = tiny.bert(tmp_path / "bert", labels=3)
        self.made = fitted.context(self.net, HeadOnly(), fitted.texts(16), max_gb=max_gb)
        (tmp_path / "copies").mkdir()
        self.whole = carried(tmp_path / "whole", self.made, tmp_path / "copies", None, **SETTINGS)
        self.point = tmp_path / "copies" / "001"

    def again(self, **more: Any) -> dict[str, Any]:
        """Gone on with, from that checkpoint."""
        folder = shutil.copytree(self.point, self.point.with_name("again"), dirs_exist_ok=True)
        task, examples = fitted.texts(16)
        made = fitted.context(self.net, HeadOnly(), (task, examples), **more)
        self.notes = made.examples.notes
        return carried(folder, made, None, None, **SETTINGS)

    def change(self, key: str, **values: Any) -> None:
        path = self.point / "checkpoints" / "last.ckpt"
        found = torch.load(path, weights_only=True)
        found[key] |= values
        DurableCheckpoints().save_checkpoint(found, path)


def test_other_frozen_weights_at_the_same_path_are_refused(tmp_path: Path) -> None:
    posed = Posed(tmp_path)
    shutil.rmtree(posed.net)
    tiny.bert(posed.net, seed=1, labels=3)
    with pytest.raises(UserError, match="other contents of the model's weights that are not train"):
        posed.again()


def test_stored_and_inline_states_are_not_mixed(tmp_path: Path) -> None:
    """Equal to 1e-5 is not equal: a run goes on as it was begun, or not at all."""
    posed = Posed(tmp_path)
    with pytest.raises(UserError, match=r"begun on stored states.*cache.max_gb=1e-09; make room"):
        posed.again(max_gb=1e-9)


def test_a_run_begun_inline_goes_on_inline(tmp_path: Path) -> None:
    posed = Posed(tmp_path, max_gb=1e-9)
    assert_equal(posed.whole, posed.again())


def test_notes_are_kept_and_another_version_is_one(tmp_path: Path) -> None:
    posed = Posed(tmp_path)
    last = torch.load(posed.point / "checkpoints" / "last.ckpt", weights_only=True)
    machine = {**last["beginning"]["machine"], "torch": "2.0.0", "threads": "64"}
    posed.change("beginning", machine=machine)
    posed.change("resume", notes=["step 1: an update was left out"])
    assert_equal(posed.whole, posed.again())
    assert posed.notes[0] == "step 1: an update was left out"
    told = "\n".join(posed.notes)
    assert f"resumed with torch {torch.__version__} after 2.0.0: the last bits may differ" in told
    assert "after 64: " in told


class Harm(pl.Callback):
    """Flips a byte of best.ckpt, or removes it, when training is over."""

    def __init__(self, gone: bool):
        self.gone = gone

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        path = Path(trainer.default_root_dir) / "checkpoints" / "best.ckpt"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.unlink()
        if not self.gone:
            path.write_bytes(data)


@pytest.mark.parametrize("gone", [False, True])
def test_a_harmed_best_checkpoint_is_neither_tested_nor_unsaid(tmp_path: Path, gone: bool) -> None:
    task, examples = fitted.texts(16)
    made = fitted.context(tiny.bert(tmp_path / "bert", labels=3), HeadOnly(), (task, examples))
    # An earlier validation is the best one: the last weights are others, and it is read.
    made = replace(made, optim=replace(made.optim, learning_rate=30.0))
    found = carried(tmp_path / "run", made, None, None, (Harm(gone),), **SETTINGS)
    assert_equal(found["weights"], dict(found["best"]))
    assert "checkpoints/best.ckpt is not whole: the last weights are tested" in examples.notes[-1]


def test_a_flipped_byte_in_stored_states_is_noticed_and_they_are_computed_again(
    tmp_path: Path,
) -> None:
    cache = FeatureCache(Cache(enabled=True, dir=str(tmp_path), max_gb=1.0))
    states = torch.randn(5, 3)

    def opened() -> bool:
        found = cache.entry("key", (5, 3), torch.float32, lambda out: out.copy_(states))
        assert torch.equal(found.states, states)
        return found.hit

    assert [opened(), opened()] == [False, True]
    (path,) = tmp_path.rglob("states.bin")
    data = bytearray(path.read_bytes())
    data[17] ^= 1
    path.write_bytes(data)
    assert [opened(), opened()] == [False, True]


@pytest.mark.parametrize("count", [0, 1, 7, 300_001])
def test_a_checksum_changes_with_any_byte(count: int) -> None:
    values = torch.randn(count).bfloat16()
    before = checksum(values)
    assert checksum(values.clone()) == before
    raw = values.view(torch.uint8)
    for at in {0, len(raw) // 2, len(raw) - 1} if count else ():
        raw[at] ^= 1
        assert checksum(values) != before
        raw[at] ^= 1


def test_a_streamed_file_is_known_without_reading_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    seen = set()
    for text in (b"", b"a", b"b", b"a" * 5000, b"a" * 4999 + b"b", b"a" * 900_000, b"b" * 900_000):
        path.write_bytes(text)
        seen.add(sampled(path))
        assert sampled(path) in seen
    assert len(seen) == 7


def test_weights_are_known_by_name_type_and_value() -> None:
    one = torch.arange(20.0)
    assert weights([("a", one[3:9])]) == weights([("a", one[3:9].clone())])
    other = [("b", one[3:9]), ("a", one[3:9].double()), ("a", one[4:10]), ("a", one[3:9][None])]
    assert len({weights([pair]) for pair in [("a", one[3:9]), *other]}) == 5
