"""A profiled step as phases and as groups of operators."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

PHASES = ("data", "forward", "backward", "optimizer", "callbacks", "loop")
STEP = "ProfilerStep"
# The first that fits: how a recorded range is named by Lightning or torch -> its phase.
NAMED = {
    STEP: "loop",
    "[Callback]": "callbacks",
    "[pl]run_training_batch": "loop",
    "train_dataloader_next": "data",
    "DataLoader": "data",
    "batch_transfer": "data",
    "batch_to_device": "data",
    ".training_step": "forward",
    # The sum of the gradients becomes their mean.
    ".on_after_backward": "optimizer",
    ".backward": "backward",
    "Optimizer.": "optimizer",
    "optimizer_step": "optimizer",
    "zero_grad": "optimizer",
    "clipping": "optimizer",
    "lr_scheduler": "optimizer",
    "[pl]": "callbacks",
}
# The first that fits: a part of an operator's name -> its group.
GROUPS = {
    "4bit": "4-bit",
    "bitsandbytes": "4-bit",
    "attention": "attention",
    "softmax": "softmax and loss",
    "nll_loss": "softmax and loss",
    "cross_entropy": "softmax and loss",
    "norm": "norm",
    "embedding": "embedding",
    "adam": "optimizer",
    "foreach": "optimizer",
    "mm": "matmul",
    "linear": "matmul",
    "matmul": "matmul",
    **dict.fromkeys(("copy", "cat", "clone", "contiguous", "index", "gather"), "data movement"),
    **dict.fromkeys(("scatter", "fill", "zero", "empty", "select", "slice"), "data movement"),
    **dict.fromkeys(("view", "transpose", "expand", "as_strided", "reshape"), "data movement"),
    **dict.fromkeys(("unsqueeze", "squeeze", "permute", "split", "narrow"), "data movement"),
    **dict.fromkeys(("detach", "resize", "aten::t", "aten::to"), "data movement"),
    "aten::": "elementwise",
    "Backward": "autograd",
    "autograd": "autograd",
}


@dataclass(frozen=True)
class Profile:
    """Seconds per step; of the host, and by operator of the device where there is one."""

    steps: int
    step: float
    phases: dict[str, float]
    groups: dict[str, float]
    calls: dict[str, float]
    operators: dict[str, float]
    flops: float
    """Operations of matrix products per step, backward included."""


def profile(events: Iterable[Any]) -> Profile:
    """Read `torch.profiler`'s events of some whole steps."""
    found = list(events)
    host = [e for e in found if e.device_type.name == "CPU"]
    steps = [e for e in host if e.name.startswith(STEP)]
    count = max(1, len(steps))
    total = sum(e.time_range.elapsed_us() for e in steps)
    operators = [e for e in host if phase_of(e.name) is None and group_of(e.name) is not None]
    on_device = any(e.self_device_time_total for e in operators)
    seconds: Counter[str] = Counter()
    times: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for e in operators:
        spent = (e.self_device_time_total if on_device else e.self_cpu_time_total) / 1e6 / count
        group = str(group_of(e.name))
        seconds[group] += spent
        names[e.name] += spent
        times[group] += 1
    return Profile(
        steps=len(steps),
        step=total / 1e6 / count,
        phases={name: spent / 1e6 / count for name, spent in phases(host).items()},
        groups=dict(seconds.most_common()),
        calls={name: calls / count for name, calls in times.items()},
        operators=dict(names.most_common(8)),
        flops=sum(e.flops or 0 for e in operators if group_of(e.name) == "matmul") / count,
    )


def phases(events: Iterable[Any]) -> dict[str, float]:
    """Microseconds of each phase: of a range, what no range within it accounts for."""
    marked = [(e, phase) for e in events if (phase := phase_of(e.name)) is not None]
    found = dict.fromkeys(PHASES, 0.0)
    by_thread = defaultdict(list)
    for event, phase in marked:
        by_thread[event.thread].append((event.time_range, phase))
    stepping = {e.thread for e, _ in marked if e.name.startswith(STEP)}
    for thread in stepping:
        open_: list[tuple[Any, str]] = []
        for span, phase in sorted(by_thread[thread], key=lambda m: (m[0].start, -m[0].end)):
            while open_ and open_[-1][0].end <= span.start:
                open_.pop()
            if open_:
                found[open_[-1][1]] -= span.elapsed_us()
            found[phase] += span.elapsed_us()
            open_.append((span, phase))
    return found


def phase_of(name: str) -> str | None:
    """Of a recorded range; None of an operator."""
    return next((phase for part, phase in NAMED.items() if part in name), None)


def group_of(name: str) -> str | None:
    """Of an operator; None of a range that is none."""
    if name.startswith("[") or "#" in name:
        return None
    return next((group for part, group in GROUPS.items() if part in name), "other")
