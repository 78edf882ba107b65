"""Where a run takes place: the Trainer, its callbacks and loggers, from YAML to objects."""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.accelerators import CUDAAccelerator
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from llmexp import quiet
from llmexp.callbacks.stop import NoHandlers, Stop
from llmexp.checkpoints.durable import DurableCheckpoints
from llmexp.configure import allow
from llmexp.errors import UserError
from llmexp.jobs.ranks import Ranks

if TYPE_CHECKING:
    from llmexp.configure.preflight import Experiment
    from llmexp.context import Context
    from llmexp.jobs.record import Record


def hide_gpus(hardware: dict[str, Any]) -> None:
    """hardware=cpu beside a GPU: whoever asks torch what is there, to load 4 bits or to count
    memory, is told of none. For a process that has not used one yet."""
    if hardware.get("accelerator") == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def check_devices(hardware: dict[str, Any]) -> None:
    """An accelerator that is asked for and is not there is one sentence, before any work."""
    wanted = hardware.get("accelerator", "auto")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there["gpu"] = there["cuda"] or there["mps"]
    if wanted in there and not there[wanted]:
        raise UserError(
            f"hardware.accelerator: {wanted} was asked for, and this machine has none that torch "
            f"{torch.__version__} can use; hardware=auto takes what is here, or hardware=cpu"
        )
    devices = hardware.get("devices", "auto")
    count = torch.cuda.device_count()
    if wanted in ("gpu", "cuda") and isinstance(devices, int) and there["cuda"] and devices > count:
        raise UserError(
            f"hardware.devices: {devices} GPUs were asked for, this machine has {count}"
        )


def cpu_notes(e: Experiment) -> list[str]:
    """What will be slow where the run is on a CPU: bfloat16 that it cannot do, many workers."""
    wanted = e.config.hardware.get("accelerator", "auto")
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if wanted != "cpu" and (wanted != "auto" or gpu):
        return []
    found = []
    precision = str(e.config.hardware.get("precision", ""))
    halves = {"model.dtype=bfloat16": e.model.dtype == "bfloat16"}
    halves[f"hardware.precision={precision}"] = precision.startswith("bf16")
    asked = [key for key, is_half in halves.items() if is_half]
    if asked and not multiplies_bfloat16():
        found.append(
            f"{' and '.join(asked)}: this CPU has neither AMX nor avx512_bf16, so bfloat16 is "
            "slower here than float32, if smaller"
        )
    if e.task.num_workers > 2:
        found.append(
            f"data.num_workers={e.task.num_workers}: on a CPU more than two take time from "
            "training itself; data.num_workers=0 is often fastest"
        )
    return found


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for it."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def environment(e: Experiment) -> None:
    """Process-wide settings that belong to a run: threads of the tokenizer, noise of libraries."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The loaders hold tokens in memory; workers are a setting, not advice.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Frozen parts are meant to be in eval mode.
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
    warnings.filterwarnings("ignore", message=".*`isinstance.treespec, LeafSpec.*")
    # How a batch is moved is the module's to say, whoever made the batch.
    warnings.filterwarnings("ignore", message=".*overridden `transfer_batch_to_device`.*")
    # Our metrics are over all processes already.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*lr_scheduler.step.* before .*optimizer.step.*")
    quiet.libraries()


def instantiate(node: Any) -> Any:
    """Build a third-party object from its `_target_`, nested ones first."""
    if isinstance(node, list):
        return [instantiate(value) for value in node]
    if not isinstance(node, dict):
        return node
    values = {key: instantiate(value) for key, value in node.items() if key != "_target_"}
    return allow.resolve(node["_target_"])(**values) if "_target_" in node else values


def build_trainer(e: Experiment, context: Context, record: Record) -> pl.Trainer:
    """Lightning's Trainer for this experiment."""
    trainer = pl.Trainer(
        **instantiate(e.config.trainer),
        **instantiate(e.config.hardware),
        **observers(e, context, record),
        plugins=DurableCheckpoints(),
        default_root_dir=str(context.folder),
        # Our samplers know their rank: every row once, none padded in (Lightning #7929).
        use_distributed_sampler=False,
    )
    if isinstance(trainer.accelerator, CUDAAccelerator):
        torch.set_float32_matmul_precision("high")
    trainer._signal_connector = NoHandlers(trainer)
    spare_calls(trainer)
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        trainer.strategy._launcher = Ranks(launcher, record)
    return trainer


# Hooks of callbacks in every step.
STEP_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def spare_calls(trainer: pl.Trainer) -> None:
    """Take the hooks that do nothing from each callback: Lightning would call them, some seventy
    in a step, and skips what is not callable."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for hook in STEP_HOOKS:
            if getattr(type(callback), hook) is getattr(pl.Callback, hook):
                setattr(callback, hook, None)


def observers(e: Experiment, context: Context, record: Record) -> dict[str, Any]:
    """The callbacks of the experiment, our own after them, and the tracker's logger."""
    from llmexp.callbacks.cost import Cost
    from llmexp.callbacks.curves import Curves
    from llmexp.callbacks.last_validation import LastValidation
    from llmexp.callbacks.metrics_file import MetricsFile
    from llmexp.callbacks.progress import progress
    from llmexp.callbacks.resume import Resume

    nodes = {f"callbacks.{k}": node for k, node in e.config.callbacks.items() if node is not None}
    named = [instantiate(node) for node in nodes.values()]
    for key, made in zip(nodes, named, strict=True):
        if not isinstance(made, pl.Callback):
            raise UserError(f"{key}._target_: {type(made).__name__} is no Lightning callback")
    if not context.strategy.trains:
        named = [c for c in named if not isinstance(c, pl.callbacks.Checkpoint)]
    history = MetricsFile(context.folder, fresh=record.checkpoint is None)
    seen = [Curves(), history, progress(), Cost(record)]
    # Resume is first: it puts back what the others read.
    own = [Resume(), LastValidation(), *seen, Stop(record.signals)]
    logger = e.tracking.logger(e, context)
    return {
        "callbacks": [*named, *own, *e.tracking.callbacks(context.folder)],
        "logger": logger,
        "enable_progress_bar": False,
        # Lightning adds a checkpoint of its own where it is given none.
        "enable_checkpointing": any(isinstance(c, pl.callbacks.Checkpoint) for c in named),
    }


def disband(trainer: pl.Trainer, module: Any) -> None:
    """End the part that several processes did: the first one goes on alone, with whole weights."""
    if hasattr(trainer.strategy, "gather"):
        trainer.strategy.gather(module)
    if dist.is_available() and dist.is_initialized():
        trainer.strategy.barrier("disband")
        dist.destroy_process_group()
