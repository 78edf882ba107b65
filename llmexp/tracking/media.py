"""What W&B shows of a test beside its numbers: answers, confused labels, precision by recall."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from llmexp.secrets import masked
from llmexp.tasks.base import Row

if TYPE_CHECKING:
    import wandb

    from llmexp.tasks.base import Task

# Longer texts make a table that no browser opens; more curves make a chart that nobody reads.
TEXT_LENGTH = 1000
CURVES = 20


def tables(module: Any, rows: int) -> dict[str, Any]:
    """The answers as a table; where there are labels, how they are confused and found."""
    answers: list[Row] = module.answers
    labels: list[str] = module.labels
    shown: dict[str, Any] = {}
    if labels and all(a["reference"] in labels for a in answers):
        shown |= charts(answers, labels)
    if answers and rows > 0:
        shown["test/predictions"] = predictions(answers[:rows], module.task)
    return shown


def charts(answers: list[Row], labels: list[str]) -> dict[str, Any]:
    """The confusion matrix, and a precision-recall curve for each of the most frequent labels."""
    import wandb

    number = {name: i for i, name in enumerate(labels)}
    truth = [number[a["reference"]] for a in answers]
    found: dict[str, Any] = {}
    found["test/confusion_matrix"] = wandb.plot.confusion_matrix(
        y_true=truth, preds=[number[a["prediction"]] for a in answers], class_names=labels
    )
    if answers and all("scores" in a for a in answers):
        # W&B takes the columns for the labels that occur, whatever their numbers.
        seen = sorted(set(truth))
        likely: Any = [[a["scores"][labels[i]] for i in seen] for a in answers]
        found["test/pr_curve"] = wandb.plot.pr_curve(
            y_true=truth,
            y_probas=likely,
            labels=labels,
            classes_to_plot=[i for i, _ in Counter(truth).most_common(CURVES)],
        )
    return found


def predictions(answers: list[Row], task: Task) -> wandb.Table:
    """One row an answer: input, reference, prediction, score or scores, and what else it has."""
    import wandb

    columns, data = cells([scored(answer, task) for answer in answers])
    return wandb.Table(columns=columns, data=data)


def cells(rows: list[Row]) -> tuple[list[Any], list[list[Any]]]:
    """The columns that any of the rows has, and what may be shown of each row in them."""
    columns: list[Any] = list(dict.fromkeys(key for row in rows for key in row))
    return columns, [[_cell(row.get(key)) for key in columns] for row in rows]


def scored(answer: Row, task: Task) -> Row:
    """A label's probability; of a text every metric that can be told of one answer."""
    scores = answer.get("scores")
    if isinstance(scores, dict):
        return {**answer, "score": scores.get(answer["prediction"])}
    return {**answer, **task.answer_scores([answer])}


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, (int, float)):
        return value
    return masked(str(value))[:TEXT_LENGTH]
