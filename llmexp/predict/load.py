"""A trained run as a predictor: `llmexp.load(path).predict(texts)`, and `llmexp predict`.

`llmexp.json` beside the weights says how; it is data from whoever made the folder, so it can only
choose among the loaders listed here, and no `_target_` in it is ever looked at.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from llmexp import artefact
from llmexp.errors import UserError, did_you_mean
from llmexp.jobs.results import read_result

FACTS = "llmexp.json"
SCHEMA = 1
# What a folder may call its predictor -> the function (folder, facts) that builds it.
PREDICTORS = {
    "classifier": "llmexp.predict.predictors:load_classifier",
    "generator": "llmexp.predict.predictors:load_generator",
    "language_model": "llmexp.predict.predictors:load_language_model",
    "features": "llmexp.export.feature_folder:load_predictor",
    "nearest": "llmexp.modules.prompting.nearest:load_predictor",
    "likelihood": "llmexp.modules.prompting.likelihood:load_predictor",
    "generation": "llmexp.modules.prompting.generation:load_predictor",
}


class Predictor(Protocol):
    """What `load` returns, whatever the strategy."""

    def predict(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """For each text its `prediction`, and `scores` by label where there are any."""
        ...


def load(path: str | Path) -> Predictor:
    """The predictor of a run folder or of its `model/` folder."""
    folder = model_folder(Path(path).expanduser())
    facts = read_facts(folder)
    artefact.check(folder)
    module, _, function = PREDICTORS[facts["predictor"]].partition(":")
    build = getattr(importlib.import_module(module), function)
    faults: tuple[type[Exception], ...] = (OSError, *artefact.broken())
    try:
        predictor: Predictor = build(folder, facts)
    except faults as error:
        raise UserError(
            f"{folder} is no usable {facts['predictor']}: {artefact.first_line(error)}"
        ) from error
    return predictor


def model_folder(path: Path) -> Path:
    """The exported folder that `path` means, or a sentence why there is none."""
    if (path / FACTS).is_file():
        return path
    if not path.is_dir():
        raise UserError(f"there is no run folder {path}; runs lie below outputs/")
    if (path / "model" / FACTS).is_file():
        return path / "model"
    result = read_result(path)
    if result and result["status"] != "completed":
        raise UserError(
            f"the run {path} has not completed: it is {result['status']}"
            + (f" ({result['reason']})" if result.get("reason") else "")
            + (f"; continue it with: {again}" if (again := result.get("resume_command")) else "")
        )
    if result:
        raise UserError(f"the run {path} has no model/ folder; run it again to get one")
    raise UserError(
        f"{path} is no run folder (no result.json) and no exported model (no {FACTS}); give the "
        "folder of one run, such as outputs/NAME/STAMP"
    )


def read_facts(folder: Path) -> dict[str, Any]:
    """The checked `llmexp.json` of an exported folder."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder / FACTS} is not valid JSON: {error}") from error
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise UserError(f"{folder / FACTS}: this version reads schema {SCHEMA} only")
    name = facts.get("predictor")
    if not isinstance(name, str) or name not in PREDICTORS:
        raise UserError(
            f"{folder / FACTS}: unknown predictor {name!r}; {did_you_mean(str(name), PREDICTORS)}"
        )
    return facts


def main(argv: list[str]) -> int:
    """`llmexp predict RUN [TEXT ...]`; returns the exit code."""
    from llmexp.predict.command import run

    return run(argv)
