"""Out of memory: half the rows, twice as often, the same update; at one row three things to try."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from llmexp.configure.compose import compose_jobs, open_keys
from llmexp.configure.preflight import build
from llmexp.errors import OutOfMemory
from llmexp.jobs.outcome import is_out_of_memory
from llmexp.modules.memory import Parts, cut, halved, size
from tests import fitted, nets, tiny
from tests.test_guard import DDP, LAB, command, trained

sys.path.append(str(LAB))
from mylab.faults import Crowded


class Steps(pl.Callback):
    """Loss and gradient norm of every update."""

    def __init__(self) -> None:
        self.found: list[tuple[float, float]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        if not trainer.fit_loop._should_accumulate():
            self.found.append((float(module.update_loss), float(module.update_norm)))


@pytest.fixture
def context(tmp_path: Path) -> Any:
    return fitted.context(tiny.bert(tmp_path / "bert", labels=3), nets.lora())


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_update_stays_the_same(context: Any, where: str, accumulate: int) -> None:
    """Rows of ragged lengths, 5 of them a batch, with room for 2 and for all: equal updates."""
    whole, parts = Steps(), Steps()
    steady = {"epochs": 1, "accumulate_grad_batches": accumulate}
    trained(context, whole, **steady)
    context.examples.notes.clear()
    module = trained(context, Crowded(2, where), parts, **steady)
    assert len(whole.found) == len(parts.found) == -(-5 // accumulate)
    assert parts.found[0] == pytest.approx(whole.found[0], rel=1e-5)
    for found, wanted in zip(parts.found, whole.found, strict=True):
        assert found == pytest.approx(wanted, rel=1e-3)
    assert module.portions.parts.count == 4
    said = [note for note in context.examples.notes if "out of memory in step 0" in note]
    assert "from here on 3 rows at a time and 2 times as often" in said[0]
    assert f"data.batch_size=2 trainer.accumulate_grad_batches={4 * accumulate}" in said[1]


def test_validation_and_test_go_on_in_parts(context: Any) -> None:
    """The same scores and answers, each row once, where two rows fit at once."""
    found = []
    for callbacks in ([], [Crowded(2)]):
        module = trained(context, *callbacks, epochs=0)
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            callbacks=callbacks,
        )
        net = module.net
        trainer.test(module, datamodule=context.strategy.data(context, net), verbose=False)
        found.append((module.test_metrics, module.answers))
    whole, parts = found
    assert [a["index"] for a in parts[1]] == list(range(len(context.examples.test)))
    assert [a["prediction"] for a in parts[1]] == [a["prediction"] for a in whole[1]]
    assert parts[0]["test/loss"] == pytest.approx(whole[0]["test/loss"], rel=1e-5)


@pytest.mark.parametrize("strategy", ["feature_based", "head_only"])
def test_features_are_extracted_in_halves(tmp_path: Path, strategy: str, monkeypatch: Any) -> None:
    """Pooled features, and the states below a head, are those of the rows at once."""
    from llmexp.data import features
    from llmexp.strategies.head_only import HeadOnly

    spec = fitted.features() if strategy == "feature_based" else HeadOnly()
    made = fitted.context(tiny.bert(tmp_path / "bert", labels=3), spec, cache=True)
    wanted = fitted.fit(made, epochs=1)
    for file in (tmp_path / "cache").rglob("*"):
        if file.is_file():
            file.unlink()
    calls: list[int] = []

    def crowded(module: Any, args: Any, kwargs: Any) -> None:
        rows = len(kwargs["input_ids"])
        calls.append(rows)
        if rows > 6:
            raise torch.OutOfMemoryError("out of memory")

    net = nets.adapted(made)
    getattr(net, "backbone", net).register_forward_pre_hook(crowded, with_kwargs=True)
    found = fitted.fit(made, epochs=1, net=net)
    assert max(calls) > 6 >= min(calls)
    assert features.extract is not None
    assert found.losses == pytest.approx(wanted.losses, rel=1e-4)


def test_what_counts_as_out_of_memory() -> None:
    """torch's CUDA allocator, its CPU allocator, Python: and nothing that merely sounds alike."""
    with pytest.raises(RuntimeError) as cpu:
        torch.empty(2**60)
    assert is_out_of_memory(cpu.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(OutOfMemory("", single=True))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_parts_are_the_batch() -> None:
    batch = {"index": torch.arange(7), "ids": torch.arange(21).view(7, 3), "tokens": 9}
    for parts in (1, 2, 4, 8, 16):
        cuts = cut(batch, parts)
        assert torch.equal(torch.cat([c["ids"] for c in cuts]), batch["ids"])
        assert sum(size(c) for c in cuts) == 7 and len(cuts) <= parts
    room = Parts()
    room.count = 8
    with pytest.raises(OutOfMemory, match="one row at a time"):
        room.double(batch)


def test_halves_are_all_of_it_in_order() -> None:
    def work(items: list[int]) -> list[int]:
        if len(items) > 3:
            raise MemoryError
        return [i * i for i in items]

    assert halved(work, list(range(20))) == [i * i for i in range(20)]
    with pytest.raises(OutOfMemory):
        halved(lambda items: [items[10]] if not items else work([0] * 4), [1, 2])


CROWDED = "callbacks.crowded={_target_: mylab.faults.Crowded, rows: ROWS, rank: RANK}"


def crowded(rows: int, rank: int = 0) -> str:
    return CROWDED.replace("ROWS", str(rows)).replace("RANK", str(rank))


def overrides_in(reason: str) -> list[str]:
    return re.findall(r"[a-z_]+\.[a-z_.]+=\S+?(?=,|\s|$)", reason.partition("; try ")[2])


@pytest.mark.parametrize(
    "more", [[], pytest.param([crowded(1, 1), *DDP], marks=pytest.mark.long)], ids=["one", "two"]
)
def test_at_one_row_it_stops_with_three_overrides(tmp_path: Path, more: list[str]) -> None:
    """Exit 4 and a sentence; each override composes. A process of several stops all of them."""
    code, result, said = command(tmp_path, *(more or [crowded(0)]))
    assert (code, result["status"]) == (4, "out_of_memory"), said
    assert "Traceback" not in said.replace("rank_1", "")
    reason = result["reason"]
    assert "one row at a time" in reason or "one process alone" in reason
    tries = overrides_in(reason)
    assert len(tries) >= 3, reason
    for line in tries:
        (job,) = compose_jobs(open_keys([line, "model=minilm"]), "run", None, False)
        build(job.tree)


@pytest.mark.long
def test_real_memory_runs_out_and_the_run_completes(tmp_path: Path) -> None:
    """The process may have some 400 MiB more: a batch of long rows does not fit, a part does.

    Address space is what is limited, and a heap for each thread would reserve 128 MiB of it.
    """
    limited = "callbacks.limited={_target_: mylab.faults.Limited, megabytes: 400}"
    big = ["data.batch_size=128", "model.attention=eager", "data.max_length=256"]
    rows = tmp_path / "long.jsonl"
    made = [{"text": "word and " * 200 + str(i), "label": "ab"[i % 2]} for i in range(160)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in made))
    more = [f"data.train={rows}", f"data.test={rows}", "hardware=cpu", "strategy=full_finetune"]
    code, result, said = command(tmp_path, limited, *big, *more, MALLOC_ARENA_MAX="1")
    assert (code, result["status"]) == (0, "completed"), said
    assert [n for n in result["notes"] if n.startswith("out of memory in step")], result["notes"]


@pytest.mark.long
def test_a_killed_data_worker_is_a_sentence(tmp_path: Path) -> None:
    kill = "callbacks.kill={_target_: mylab.faults.KillWorker}"
    code, result, said = command(tmp_path, kill, "data.num_workers=2", "trainer.max_epochs=50")
    assert (code, result["status"]) == (1, "failed"), said
    assert re.match(r"a data worker (was killed|is gone)", result["reason"]), result["reason"]
    for word in ("data.num_workers=1", "data.num_workers=0", "smaller data.batch_size than 4"):
        assert word in result["reason"]
    assert "Traceback" not in said
