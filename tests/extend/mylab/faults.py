"""Faults that a test brings about inside a running experiment."""

import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch


class Crowded(pl.Callback):
    """Memory for so many rows at once and no more: in the network's forward, or its backward."""

    def __init__(self, rows: int, where: str = "forward", rank: int = 0):
        self.rows, self.where, self.rank = rows, where, rank

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_rank != self.rank or hasattr(self, "handle"):
            return
        if self.where == "forward":
            self.handle = pl_module.net.register_forward_pre_hook(self._enter, with_kwargs=True)
        else:
            self.handle = pl_module.net.register_forward_hook(self._leave)

    on_test_start = on_train_start

    def _full(self, rows: int) -> None:
        if rows > self.rows:
            raise torch.OutOfMemoryError(f"out of memory: {rows} rows")

    def _enter(self, module: Any, args: Any, kwargs: Any) -> None:
        self._full(len(kwargs["input_ids"]))

    def _leave(self, module: Any, args: Any, output: Any) -> None:
        logits = output.logits
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self._full(len(gradient)))


class Limited(pl.Callback):
    """From the first training step on the process may have so many MiB more than it has."""

    def __init__(self, megabytes: int):
        self.megabytes = megabytes

    def on_train_start(self, *_: Any) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + self.megabytes * 2**20
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))

    def on_train_end(self, *_: Any) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


class Poison(pl.Callback):
    """Makes the loss of one train row not a number, on whatever process it is."""

    def __init__(self, row: int, epoch: int = 0, factor: float = float("nan")):
        self.row, self.epoch, self.factor = row, epoch, factor

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        loss = pl_module.loss

        def poisoned(batch: Any) -> Any:
            found = loss(batch)
            hit = pl_module.training or torch.is_grad_enabled() is False
            if hit and self.row in batch["index"].tolist() and trainer.current_epoch == self.epoch:
                return found._replace(total=found.total * self.factor)
            return found

        pl_module.loss = poisoned

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.__dict__.pop("loss", None)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn == "fit":
            self.on_train_start(trainer, pl_module)


class Norms(pl.Callback):
    """The norm of the gradients as a callback sees them before the step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.seen.append(float(torch.nn.utils.get_total_norm(grads)))


class KillWorker(pl.Callback):
    """SIGKILL, as the kernel sends it, to a data worker, once."""

    killed = False

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if self.killed:
            return
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        workers = [int(c) for c in children if _is_ours(Path(f"/proc/{c}/cmdline"))]
        os.kill(workers[0], signal.SIGKILL)
        self.killed = True


def _is_ours(command: Path) -> bool:
    """A fork of this process; others come and go."""
    try:
        return "llmexp" in command.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
