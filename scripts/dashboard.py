"""The W&B project's workspace and a report, built from code.

    python scripts/dashboard.py --project llmexp --metric test/accuracy [--entity ME] [--dry-run]

Needs `pip install llmexp[dashboard]` and `wandb login`; --dry-run prints what it would make, as
JSON, and needs no login. The workspace is saved anew each time; the report is another draft.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator
from typing import Any

from llmexp.errors import UserError
from llmexp.tracking.login import why_offline

STEP = "trainer/global_step"
CURVES = {
    "train/loss": "training loss",
    "val/loss": "validation loss",
    "train/learning_rate": "learning rate",
    "train/gradient_norm": "gradient norm",
    "train/tokens_per_second": "tokens per second",
    "train/memory_mb": "memory, MB",
}
COSTS = {
    "cost/total_seconds": "seconds in all",
    "cost/trainable_parameters": "trainable parameters",
    "cost/peak_memory_mb": "peak memory, MB",
}
# What a sweep varies; a run that has none of one has a gap there.
VARIED = ("choices.strategy", "optim.learning_rate", "strategy.rank", "data.batch_size", "seed")
STRATEGY = "choices.strategy"
TABLES = ("test/predictions", "val/samples")


def main(argv: list[str]) -> int:
    """Build both and save them, or print what they are."""
    parser = argparse.ArgumentParser(description="The W&B workspace and report of a project.")
    parser.add_argument("--project", default="llmexp")
    parser.add_argument("--entity", default="", help="a team; your own account where none is given")
    parser.add_argument("--metric", default="test/accuracy", help="a key of result.json")
    parser.add_argument("--dry-run", action="store_true", help="print what would be made")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UserError("needs the package wandb-workspaces; pip install llmexp[dashboard]")
    board = workspace(args.entity, args.project, args.metric)
    page = report(args.entity, args.project, args.metric)
    if args.dry_run:
        print(json.dumps(described(board, page), indent=2))
        return 0
    if (why := why_offline()) is not None:
        raise UserError(f"W&B is offline here ({why}); wandb login, or look with --dry-run")
    board.save()
    page.save(draft=True)
    print(f"workspace: {board.url}\nreport:    {page.url}")
    return 0


def sections(metric: str) -> dict[str, list[Any]]:
    """The panels by the question they answer."""
    return {
        "Quality against cost": quality(metric),
        "Curves, by strategy": curves(metric),
        "Sweeps": sweeps(metric),
        "Answers": answers(),
    }


def quality(metric: str) -> list[Any]:
    """Each run a point, and the mean of each strategy."""
    import wandb_workspaces.reports.v2 as wr

    points = [
        wr.ScatterPlot(title=f"{metric} against {name}", x=key, y=metric, log_x=True)
        for key, name in COSTS.items()
    ]
    mean = wr.BarPlot(
        title=f"{metric} by strategy",
        metrics=[metric],
        groupby=wr.Config(STRATEGY),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
    )
    return [*points, mean]


def curves(metric: str) -> list[Any]:
    """A line for each strategy: the mean of its runs, and how far they lie apart."""
    import wandb_workspaces.reports.v2 as wr

    validated = metric.replace("test/", "val/", 1)
    shown = CURVES | ({} if validated in CURVES else {validated: validated})
    return [
        wr.LinePlot(
            title=name,
            x=STEP,
            y=[key],
            groupby=wr.Config(STRATEGY),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )
        for key, name in shown.items()
    ]


def sweeps(metric: str) -> list[Any]:
    """What was varied, what it cost and what came of it, on parallel axes; and what mattered."""
    import wandb_workspaces.reports.v2 as wr

    axes: list[Any] = [wr.Config(name) for name in VARIED]
    axes += [wr.SummaryMetric("cost/fit_seconds"), wr.SummaryMetric(metric)]
    columns = [wr.ParallelCoordinatesPlotColumn(metric=axis) for axis in axes]
    return [
        wr.ParallelCoordinatesPlot(title="what was varied", columns=columns),
        wr.ParameterImportancePlot(with_respect_to=metric),
    ]


def answers() -> list[Any]:
    """What the networks said: in the test, and to validation rows as they learned."""
    import wandb_workspaces.reports.v2 as wr

    return [wr.WeavePanelSummaryTable(table_name=name) for name in TABLES]


def workspace(entity: str, project: str, metric: str) -> Any:
    """One section a question, runs grouped by strategy."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name="Which strategy is best",
        sections=[
            ws.Section(name=name, panels=panels, is_open=True)
            for name, panels in sections(metric).items()
        ],
        runset_settings=ws.RunsetSettings(groupby=[ws.Config(STRATEGY)]),
    )


def report(entity: str, project: str, metric: str) -> Any:
    """The same panels as a page that can be sent to somebody."""
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents()]
    for name, panels in sections(metric).items():
        runs = wr.Runset(entity=entity, project=project, groupby=[f"config.{STRATEGY}"])
        blocks += [wr.H1(name), wr.PanelGrid(runsets=[runs], panels=panels)]
    return wr.Report(
        entity=entity,
        project=project,
        title=f"Which strategy is best: {metric} and what it costs",
        description="Built by scripts/dashboard.py.",
        blocks=blocks,
    )


def described(board: Any, page: Any) -> dict[str, Any]:
    """Both as plain data: names, panels, keys."""
    grids = [block for block in page.blocks if hasattr(block, "panels")]
    titles = [block.text for block in page.blocks if type(block).__name__ == "H1"]
    return {
        "workspace": {
            "name": board.name,
            "project": board.project,
            "sections": {s.name: [panel_facts(p) for p in s.panels] for s in board.sections},
        },
        "report": {
            "title": page.title,
            "project": page.project,
            "sections": {
                title: [panel_facts(p) for p in grid.panels]
                for title, grid in zip(titles, grids, strict=True)
            },
        },
    }


def panel_facts(panel: Any) -> dict[str, Any]:
    """What a panel is called and the keys it shows."""
    return {
        "panel": type(panel).__name__,
        "title": getattr(panel, "title", None),
        "keys": list(dict.fromkeys(_keys(panel))),
    }


def _keys(panel: Any) -> Iterator[str]:
    """A name as it is; a key of the config begins with `config.`."""
    axes = [getattr(panel, name, None) for name in ("x", "y", "metrics", "groupby")]
    axes += [getattr(panel, "with_respect_to", None), getattr(panel, "table_name", None)]
    axes += [column.metric for column in getattr(panel, "columns", [])]
    for axis in axes:
        for key in axis if isinstance(axis, list) else [axis]:
            if key is not None:
                of_config = type(key).__name__ == "Config"
                yield f"config.{key.name}" if of_config else getattr(key, "name", key)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"dashboard: {error}", file=sys.stderr)
        sys.exit(2)
