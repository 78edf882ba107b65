"""What a study comes to, in sentences."""

from __future__ import annotations

from llmexp.compare.figures import number, seconds, short
from llmexp.compare.price import mean_price
from llmexp.compare.study import Study
from llmexp.metrics import lower_is_better

# More sentences than this are a page: --html has them all.
SHOWN = 12


def conclusions(study: Study) -> list[str]:
    """Who is better than whom, and what is cheap and good."""
    lines = [verdict.sentence for verdict in study.against_best()]
    hidden = len(lines) - SHOWN
    lines = lines[:SHOWN] + ([f"and {hidden} more (--html shows all)"] if hidden > 0 else [])
    return [*lines, *how(study), *economy(study)]


def how(study: Study) -> list[str]:
    """On what the sentences rest."""
    verdicts = study.evidence.verdicts
    if not verdicts:
        return []
    tests = " or ".join(dict.fromkeys(v.difference.test for v in verdicts))
    rest = f"({tests} on the same {study.evidence.examples:,} test examples"
    if len(verdicts) > 1:
        rest += f", Holm's correction for {len(verdicts)} pairs"
    once = [arm.name for arm in study.evidence.intervals if study.seeds(arm) == 1]
    if len(once) == len(study.evidence.intervals):
        return [rest + "; one seed each: this is about these runs, other seeds may differ)"]
    if once:
        return [rest + f"; one seed only of {', '.join(once)})"]
    return [rest + "; intervals cover seeds and test examples)"]


def economy(study: Study) -> list[str]:
    """What is worth its price."""
    front = [arm.name for arm in study.front()]
    if len(study.arms) < 2 or not front:
        return []
    cheap, lines = study.cheapest_near_best(), []
    if cheap is not None:
        near = "1 %" if lower_is_better(study.group.metric) else "one point"
        cost = mean_price(cheap)["total_seconds"] or 0.0
        value = number(study.quality(cheap))
        metric = study.group.metric.removeprefix("test/")
        lines.append(
            f"cheapest within {near} of the best: {cheap.name} "
            f"({metric} {value}, {seconds(cost)} in all)"
        )
    lines.append(f"best for their price (total seconds): {', '.join(front)}")
    return lines


def remarks(study: Study) -> list[str]:
    """What was left out, and how runs were gathered."""
    return [*study.evidence.refused, *(note for arm in study.arms for note in arm.notes)]


def amount(name: str, value: float | None) -> str:
    """A price as a table shows it."""
    if value is None:
        return "-"
    if name.endswith("_seconds"):
        return seconds(value)
    if name == "peak_memory_mb":
        return f"{value / 1024:.1f} GB" if value >= 1024 else f"{value:.0f} MB"
    if name in ("money", "energy_kwh"):
        return f"{value:.3g}"
    if name == "estimated_flops":
        return f"{value:.2g}"
    return short(round(value))
