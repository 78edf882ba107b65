"""`debug=profile`: torch's profiler over some warmed-up training steps, and a page about them."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.profilers import Profiler
from torch.profiler import ProfilerActivity, record_function, schedule

from llmexp.profiling.roof import roof
from llmexp.profiling.summary import page
from llmexp.profiling.timeline import profile

log = logging.getLogger("llmexp")
BATCH = "run_training_batch"
# The profiler's own first steps are slow.
WARMUP = 2


class StepProfiler(Profiler):
    """Writes `profile/trace.json` and `profile/summary.md` into the run folder.

    Lightning says when each of its parts begins and ends; these ranges become phases. A step is
    from the end of one batch to the end of the next, so that it holds the wait for its data.
    """

    def __init__(self, wait: int = 5, steps: int = 5):
        super().__init__()
        self.wait = wait
        self.steps = steps
        self.folder: Path | None = None
        self.recorder: Any = None
        self.done = False
        self.ranges: dict[str, Any] = {}
        self.seen: list[float] = []
        """When each update so far ended."""

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        super().setup(stage, local_rank, log_dir)
        # One process of several is enough: they do the same.
        if stage == "fit" and not local_rank and not self.done:
            trainer: Any = self._lightning_module.trainer  # type: ignore[attr-defined]
            self.folder = Path(trainer.default_root_dir) / "profile"

    def start(self, action_name: str) -> None:
        if self.recorder is not None:
            made = record_function(f"[pl]{action_name}")
            made.__enter__()
            self.ranges[action_name] = made

    def stop(self, action_name: str) -> None:
        made = self.ranges.pop(action_name, None)
        if made is not None:
            made.__exit__(None, None, None)
        if action_name == BATCH and self.folder is not None and not self.done:
            self._count()

    def _count(self) -> None:
        """A batch has ended, and an update with it unless it waits for others."""
        if self._lightning_module.trainer.fit_loop._should_accumulate():  # type: ignore[attr-defined]
            return
        self.seen.append(time.perf_counter())
        if len(self.seen) == self.wait + 1:
            self.recorder = self._record()
            self.recorder.start()
        elif self.recorder is not None:
            self.recorder.step()

    def _record(self) -> Any:
        gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        return torch.profiler.profile(
            activities=[ProfilerActivity.CPU, *gpu],
            schedule=schedule(wait=0, warmup=WARMUP, active=self.steps, repeat=1),
            on_trace_ready=self._write,
            record_shapes=True,
            with_flops=True,
        )

    def _write(self, recorder: Any) -> None:
        assert self.folder is not None
        self.folder.mkdir(exist_ok=True)
        recorder.export_chrome_trace(str(self.folder / "trace.json"))
        module: Any = self._lightning_module  # type: ignore[attr-defined]
        kind = half(module.trainer.precision) or getattr(module, "autocast_dtype", None)
        kind = kind or torch.float32
        # The first batches load code and memory.
        waited = self.seen[self.wait // 2 : self.wait + 1]
        before = (waited[-1] - waited[0]) / (len(waited) - 1) if len(waited) > 1 else None
        reached = roof(module.device, kind)
        text = page(profile(recorder.events()), before, reached, str(kind).removeprefix("torch."))
        (self.folder / "summary.md").write_text(text, encoding="utf-8")
        log.info("where a step's time goes: %s", self.folder / "summary.md")

    def summary(self) -> str:
        """Called when the fit is over, and after it at other ends."""
        if self.folder is not None and not self.done:
            self.done = True
            self._end()
        return ""

    def _end(self) -> None:
        recorder, self.recorder = self.recorder, None
        if recorder is not None:
            recorder.stop()
        if not (self.folder and (self.folder / "summary.md").is_file()):
            needed = self.wait + 1 + WARMUP + self.steps
            log.warning(
                "trainer.profiler: nothing was written: %d steps were trained and %d are needed",
                len(self.seen),
                needed,
            )


def half(precision: str) -> torch.dtype | None:
    """The 16-bit type of a Trainer's precision."""
    kinds = {"bf16": torch.bfloat16, "16": torch.float16}
    return kinds.get(precision.partition("-")[0])
