"""The table, and the figures as JSON with what they were measured on."""

from __future__ import annotations

from typing import Any

from contest.agenda import Contest
from contest.bars import written
from contest.ledger import Ledger


def lines(contests: list[Contest], ledger: Ledger) -> list[dict[str, Any]]:
    """One for each bar, measured or not."""
    return [line for contest in contests for line in of_contest(contest, ledger)]


def of_contest(contest: Contest, ledger: Ledger) -> list[dict[str, Any]]:
    rounds = list(ledger.rounds(contest).values())
    commits = ledger.origins(contest)["commits"]
    return [{**bar.line(rounds), "commits": commits} for bar in contest.bars]


def page(contests: list[Contest], ledger: Ledger) -> dict[str, Any]:
    """Everything that docs/benchmarks.md and its picture rest on."""
    raw = {contest.title: ledger.rounds(contest) for contest in contests}
    origins = [ledger.origins(contest) for contest in contests]
    return {
        "measured": sorted({date for one in origins for date in one["dates"]}),
        "commits": sorted({commit for one in origins for commit in one["commits"]}),
        "machines": distinct([machine for one in origins for machine in one["machines"]]),
        "sizes": ledger.sizes,
        "bars": lines(contests, ledger),
        "rounds": {title: list(found.values()) for title, found in raw.items() if found},
    }


def distinct(values: list[Any]) -> list[Any]:
    return [value for i, value in enumerate(values) if value not in values[:i]]


def mixed(found: list[dict[str, Any]]) -> str:
    """A sentence for each contest whose rounds come from several commits; '' where none do."""
    told = {
        f"{line['number']} {line['work']}: rounds of commits {', '.join(line['commits'])}"
        for line in found
        if len(line["commits"]) > 1
    }
    return "\n".join(sorted(told))


def table(found: list[dict[str, Any]]) -> str:
    """As docs/benchmarks.md holds it."""
    head = ["#", "work", "against", "measure", "ours", "theirs", "value", "bar", ""]
    body = [
        [
            line["number"], line["work"], line["against"] or "-", line["measure"],
            figure(line["ours"]), figure(line["other"]), written(line), limit(line),
            line["state"],
        ]
        for line in found
    ]  # fmt: skip
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *body])


def limit(line: dict[str, Any]) -> str:
    if line["bar"] is None:
        return "-"
    return f"{'>=' if line['more_is_better'] else '<='} {written(line, 'bar')}"


def figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
