"""Runs that are killed and go on end with the bits of a run that nobody touched.

Every case is a run in peace, and one that SIGKILL or SIGTERM ends at a moment, once or twice, and
that a process of its own takes up each time: the same command, or `llmexp resume`. The long cases
cover pairs of strategy, task, packing, accumulation, workers and moment; to be quick, their
processes are forked where everything is imported already, and run the job of the folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from omegaconf import OmegaConf

from llmexp.configure.compose import compose_jobs
from llmexp.jobs import job
from tests import runs, tiny
from tests.machine import unable
from tests.test_resume_loops import assert_equal

ROOT = Path(__file__).parents[1]
KILL, TERM = int(signal.SIGKILL), int(signal.SIGTERM)
TASKS = {"classification": runs.classified, "instruction": runs.answered, "text": runs.written}
# Moments as hooks of a callback and how often they were called by then; there are 3 to 6 batches
# in an epoch, and a checkpoint every second step. A moment that never comes fails the test.
MOMENTS: dict[str, list[tuple[str, int, int]]] = {
    "first step": [("batch_end", 1, KILL)],
    "before a step": [("step", 3, KILL)],
    "mid-epoch": [("batch_start", 4, KILL)],
    "last batch": [("last_batch", 1, KILL)],
    "validation": [("validation", 2, KILL)],
    "mid-accumulation": [("accumulating", 2, KILL)],
    "saving": [("save", 3, KILL)],
    "test": [("test", 1, KILL)],
    "asked": [("batch_end", 3, TERM)],
    "asked in validation": [("validation", 1, TERM)],
    "twice": [("batch_end", 3, KILL), ("batch_end", 3, KILL)],
    "twice, asked": [("batch_end", 2, TERM), ("validation", 1, KILL)],
}


class Case(NamedTuple):
    strategy: str
    task: str
    packing: bool
    accumulate: int
    workers: int
    moment: str
    more: tuple[str, ...] = ()


SEPARATED = r"data.separator='\n'"
STREAMED = (
    "data.streaming=true",
    "data.limit.validation=6",
    "data.limit.test=6",
    "trainer.max_steps=7",
    "trainer.val_check_interval=2",
)
SHORT = (
    Case("lora", "classification", False, 2, 0, "twice"),
    Case("full_finetune", "text", True, 1, 0, "asked in validation"),
)
LONG = (
    Case("head_only", "classification", False, 1, 2, "first step"),
    Case("head_only", "text", True, 2, 0, "mid-epoch"),
    Case("head_only", "instruction", True, 1, 0, "validation"),
    Case("head_only", "classification", False, 2, 0, "asked"),
    Case("partial_finetune", "classification", False, 2, 2, "last batch"),
    Case("partial_finetune", "instruction", False, 1, 0, "mid-epoch"),
    Case("partial_finetune", "text", True, 1, 2, "twice"),
    Case("partial_finetune", "classification", False, 2, 0, "saving"),
    Case("full_finetune", "classification", False, 1, 2, "asked"),
    Case("full_finetune", "instruction", True, 2, 2, "mid-accumulation"),
    Case("full_finetune", "classification", False, 1, 0, "test"),
    Case("full_finetune", "text", False, 1, 0, "last batch", ("trainer.max_steps=8",)),
    Case("lora", "instruction", True, 2, 0, "first step"),
    Case("lora", "text", False, 1, 2, "validation"),
    Case("lora", "classification", False, 1, 0, "before a step", ("trainer.val_check_interval=2",)),
    Case("lora", "text", True, 2, 2, "asked in validation"),
    Case("qlora", "classification", False, 1, 0, "mid-epoch"),
    Case("qlora", "instruction", False, 2, 2, "twice, asked"),
    Case("qlora", "text", True, 1, 0, "saving"),
    Case("from_scratch", "classification", False, 2, 2, "validation"),
    Case("from_scratch", "text", True, 2, 0, "mid-accumulation"),
    Case("from_scratch", "text", False, 1, 2, "test"),
    Case("from_scratch", "instruction", True, 1, 0, "twice, asked"),
    Case("full_finetune", "classification", False, 1, 0, "twice", ("optim.states=8bit",)),
    Case("lora", "classification", False, 1, 0, "mid-epoch", ("data.tokens_per_batch=256",)),
    Case("full_finetune", "text", True, 1, 0, "mid-epoch", (*STREAMED, SEPARATED)),
    Case("lora", "instruction", False, 2, 2, "validation", STREAMED),
    Case("head_only", "text", False, 1, 2, "first step", (*STREAMED, SEPARATED)),
    Case("from_scratch", "text", True, 1, 0, "last batch", (*STREAMED, SEPARATED)),
    Case("qlora", "instruction", False, 2, 0, "mid-accumulation", STREAMED),
    Case("partial_finetune", "instruction", False, 1, 0, "twice", STREAMED),
    Case("lora", "classification", False, 1, 2, "mid-epoch"),
    Case("full_finetune", "text", True, 2, 2, "saving"),
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An encoder and a decoder with dropout: without it, random numbers would not be missed."""
    folder = tmp_path_factory.mktemp("models")
    llama = tiny.llama(folder / "llama", attention_dropout=0.1)
    bert = tiny.bert(folder / "bert", labels=3, hidden_dropout_prob=0.1)
    return {"classification": bert, "instruction": llama, "text": llama}


def overrides(case: Case, folder: Path, models: dict[str, Path]) -> list[str]:
    lines = [
        *TASKS[case.task](folder / "data"),
        "model=local",
        f"model.path={models[case.task]}",
        f"strategy={case.strategy}",
        f"cache.dir={folder / 'cache'}",
        "tracking=none",
        "hardware=cpu",
        "trainer.max_epochs=2",
        "trainer.log_every_n_steps=1",
        f"trainer.accumulate_grad_batches={case.accumulate}",
        f"data.num_workers={case.workers}",
        f"data.batch_size={2 if case.task == 'instruction' else 4}",
        "optim.warmup=1",
        "callbacks.checkpoint.every_n_train_steps=2",
        *case.more,
    ]
    return [*lines, "data.packing=true"] if case.packing else lines


def command(words: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "LLMEXP_ALLOW": "mylab",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'extend'}",
    }
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def peaceful(lines: list[str], folder: Path) -> None:
    done = command(["run.py", *lines, f"hydra.run.dir={folder}"])
    assert done.returncode == 0, done.stdout + done.stderr


def haunted(
    lines: list[str],
    folder: Path,
    deaths: list[tuple[str, int, int]],
    between: Callable[[], None] = lambda: None,
) -> list[str]:
    """Run until nobody kills it any more; what each life said. `between` comes after each death."""
    told = json.dumps([list(death) for death in deaths]).replace('"', "")
    killer = "{_target_: mylab.killer.Killer, lives: %s, deaths: %s}"
    words = [*lines, "+callbacks.killer=" + killer % (folder.with_name("lives"), told)]
    said = []
    for number, (_, _, by) in enumerate(deaths):
        again = ["resume=auto"] if number else []
        done = command(["run.py", *words, *again, f"hydra.run.dir={folder}"])
        assert done.returncode == (-by if by == KILL else 128 + by), done.stdout + done.stderr
        said.append(done.stdout)
        between()
    done = command(["-m", "llmexp", "resume", str(folder)])
    assert done.returncode == 0, done.stdout + done.stderr
    return [*said, done.stdout]


def left(folder: Path) -> dict[str, Any]:
    """All that a run leaves and that may not depend on the clock."""
    result = json.loads((folder / "result.json").read_text())
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    kept = ("state_dict", "optimizer_states", "lr_schedulers", "resume", "global_step", "epoch")
    return {
        "last": {name: last[name] for name in kept},
        "best": best["state_dict"],
        "callbacks": {k: v for k, v in last["callbacks"].items() if "EarlyStopping" in k},
        "history": history(folder),
        "predictions": (folder / "predictions.jsonl").read_text(),
        "metrics": result["metrics"],
        "tokens": result["cost"]["tokens_trained"],
        "model": {p.name: p.read_bytes() for p in (folder / "model").glob("*.safetensors")},
    }


def history(folder: Path) -> list[dict[str, Any]]:
    clocked = ("time", "train/tokens_per_second", "train/memory_mb")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in clocked} for line in lines]


def life(folder: Path, lines: list[str]) -> int:
    """The exit code of a process that runs, or takes up, the job of a folder; -n by signal n."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            with (folder.parent / "said.txt").open("ab") as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
            code = lived(folder, [*lines, "resume=auto"])
        except SystemExit as end:
            code = int(str(end.code))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def lived(folder: Path, lines: list[str]) -> int:
    (composed,) = compose_jobs(lines, "run", None, False)
    folder.mkdir(exist_ok=True)
    launch = {"overrides": lines, "sweep": False, "made": False}
    text = OmegaConf.to_yaml(OmegaConf.create({**composed.tree, "launch": launch}))
    (folder / "config.yaml").write_text(text)
    return job.main([str(folder)])


def carried_through(case: Case, folder: Path, models: dict[str, Path]) -> None:
    lines = overrides(case, folder, models)
    deaths = MOMENTS[case.moment]
    told = json.dumps([list(death) for death in deaths]).replace('"', "")
    killer = "{_target_: mylab.killer.Killer, lives: %s, deaths: %s}"
    haunted = [*lines, "+callbacks.killer=" + killer % (folder / "lives", told)]
    codes = [life(folder / "whole", lines)]
    codes += [life(folder / "killed", haunted) for _ in range(len(deaths) + 1)]
    wanted = [0, *(-by if by == KILL else 128 + by for _, _, by in deaths), 0]
    assert codes == wanted, (folder / "said.txt").read_text()
    assert_equal(left(folder / "whole"), left(folder / "killed"))


def name(case: Case) -> str:
    return "-".join(str(part) for part in case[:6])


@pytest.mark.parametrize("case", SHORT, ids=name)
def test_a_killed_run_ends_with_the_same_bits(
    case: Case, models: dict[str, Path], tmp_path: Path
) -> None:
    lines = overrides(case, tmp_path, models)
    peaceful(lines, tmp_path / "whole")
    haunted(lines, tmp_path / "killed", MOMENTS[case.moment])
    assert_equal(left(tmp_path / "whole"), left(tmp_path / "killed"))


@pytest.mark.long
@pytest.mark.parametrize("case", LONG, ids=name)
def test_killed_runs_of_every_kind_end_with_the_same_bits(
    case: Case, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.get_num_threads() > 1:
        unable("forked processes need OMP_NUM_THREADS=1, as `make test-long` sets it")
    monkeypatch.setenv("LLMEXP_ALLOW", "mylab")
    monkeypatch.syspath_prepend(ROOT / "tests" / "extend")
    carried_through(case, tmp_path, models)
