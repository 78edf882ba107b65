"""What a study comes to, in sentences."""

from __future__ import annotations

from llmexp.compare.figures import number, seconds
from llmexp.compare.price import mean_price
from llmexp.compare.study import Study
from llmexp.metrics import lower_is_better

# More sentences than this are a page: --html has them all.
SHOWN = 12


def conclusions(study: Study, rest: str = "--pairs or --html for all") -> list[str]:
    """Who is better than whom, and what is cheap and good; `rest` says where all pairs stand."""
    lines = [verdict.sentence for verdict in study.against_best()[:SHOWN]]
    pairs = len(study.evidence.pairs)
    if pairs > len(lines):
        lines.append(f"({len(lines)} of {pairs} pairs, the best with the others; {rest})")
    return [*lines, *how(study), *economy(study)]


def how(study: Study) -> list[str]:
    """On what the sentences rest."""
    verdicts = study.evidence.verdicts
    if not verdicts:
        return []
    tests = " or ".join(dict.fromkeys(v.difference.test for v in verdicts))
    rest = f"({tests} on the same {study.evidence.examples:,} test examples"
    if len(verdicts) > 1:
        rest += f", p by Holm's correction for {len(verdicts)} pairs, intervals of a pair alone"
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
