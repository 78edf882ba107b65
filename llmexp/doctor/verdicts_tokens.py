"""What is wrong about the rows as tokens, and the override that mends it."""

from __future__ import annotations

from llmexp.context import Context
from llmexp.doctor.report import Level, Report
from llmexp.doctor.splits import Split

# The share from which something is worth a warning.
MANY = 0.01
LENGTH_STEP = 32


def tokens(report: Report, train: Split) -> None:
    """Rows that lose something, learn nothing, or begin or end wrongly."""
    found, context, task = report.sections["tokens"], train.context, train.context.task
    if found["too_long"] > MANY * found["sample"] and not train.refuses:
        what = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in found["counts"].items())
        fix = longer(found["lengths"]["longest"], context)
        more = "" if fix else "; a model that reads more would take them whole"
        report.add(
            "too_long",
            "warning",
            f"{found['too_long']} of {found['sample']} rows are longer than "
            f"{context.max_length} tokens ({what}){more}",
            fix,
        )
    if found["fully_masked"]:
        report.add(
            "fully_masked",
            "warning",
            f"{found['fully_masked']} of {found['sample']} rows teach nothing: no token is learned",
            "data.train_on=everything" if hasattr(task, "train_on") else None,
        )
    marks = found["marks"]
    if marks["doubled_bos"]:
        said = f"{marks['doubled_bos']} of {found['encoded']} rows begin with {marks['bos']} twice"
        report.add("doubled_bos", "fails", *_retemplated(said, context))
    if found["asked"]["otherwise"]:
        said = (
            f"{found['asked']['otherwise']} of {found['asked']['rows']} rows drawn are asked for "
            "by other tokens than stand before their answer in training, as where the template's "
            "prompt ends in a space that the tokenizer puts into the next word"
        )
        report.add("prompt_not_prefix", "warning", *_retemplated(said, context))
    if not task.in_blocks:
        _ends(report, train)


def split(report: Report, found: Split) -> None:
    """What of a split would stop a run: rows it refuses, or none that is left."""
    context, name = found.context, found.name
    rows = (
        f"{found.total} {name} rows" if found.complete else f"{len(found.rows)} {name} rows drawn"
    )
    if found.refuses and found.long:
        first = found.long[0]
        report.add(
            "overflow",
            "fails",
            f"data.overflow=error stops at row {first} of {name}, {found.quoted(first)}: "
            f"{len(found.long)} of {rows} are longer than {context.max_length} tokens",
            "data.overflow=truncate",
        )
    elif found.refuses and not found.complete:
        _sampled(report, found, "data.overflow=error stops", "data.overflow=truncate")
    if not found.left.rows:
        report.add(
            "no_rows_left",
            "fails",
            f"data.{name}: no row is left after tokenising: none of {rows} fits into "
            f"{context.max_length} tokens ({found.left.counts})",
            longer(found.needed, context),
        )


def longer(needed: int, context: Context) -> str | None:
    """The override that makes room for so many tokens, where the model has it."""
    room = context.model.longest(context.config)
    wanted = min(-(-needed // LENGTH_STEP) * LENGTH_STEP, room)
    return f"data.max_length={wanted}" if wanted > context.max_length else None


def budget(report: Report, train: Split) -> None:
    """A train row that alone is more than a batch may hold stops a run."""
    context, most = train.context, train.task.tokens_per_batch
    unread = context.strategy.unread(context.model, train.task)
    if most is None or not context.strategy.trains or "data.tokens_per_batch" in unread:
        return
    longest = train.longest()
    enough = longest if train.complete else context.max_length
    fix = f"data.tokens_per_batch={enough}"
    if longest > most:
        report.add(
            "tokens_per_batch",
            "fails",
            f"data.tokens_per_batch={most} is less than {longest}, the longest train row",
            fix,
        )
    elif not train.complete and context.max_length > most:
        _sampled(report, train, f"data.tokens_per_batch={most} stops", fix)


def _sampled(report: Report, found: Split, what: str, fix: str) -> None:
    report.add(
        "sample_only",
        "warning",
        f"{what} a run at a longer row: only {len(found.rows)} of the {found.name} rows were "
        "looked at, and none of these is",
        fix,
    )


def _retemplated(said: str, context: Context) -> tuple[str, str | None]:
    """The sentence and the template that mends it; where there is no other one, what is to do."""
    template = getattr(context.task, "template", None)
    if template is None:
        return f"{said}: the texts themselves begin with it", None
    if template == "alpaca":
        return f"{said}: the texts themselves hold it", None
    return said, "data.template=alpaca"


def _ends(report: Report, train: Split) -> None:
    """Rows whose answer has no end that is learned: all of them, or some."""
    found, marks = report.sections["tokens"], report.sections["tokens"]["marks"]
    without = found["encoded"] - marks["end_learned"]
    if not marks["ends"] or not without:
        return
    names = " or ".join(marks["ends"])
    every = without == found["encoded"]
    said = (
        f"no row learns {names}, so a trained model would not stop"
        if every
        else f"{without} of {found['encoded']} rows do not learn {names}, where an answer ends"
    )
    level: Level = "fails" if every else "warning"
    report.add("end_not_learned", level, *_retemplated(said, train.context))
