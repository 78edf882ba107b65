"""`report.html`: one file that needs no network and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from llmexp.compare.apart import why_apart
from llmexp.compare.report.view import view
from llmexp.compare.study import Study

HERE = Path(__file__).parent


def html_text(studies: list[Study]) -> str:
    """The page of all studies; whatever comes from a run is text in it, never markup."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    style, script = ((HERE / name).read_text(encoding="utf-8") for name in FILES)
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [study for study in studies if study.group.runs]
    return environment.get_template("page.html").render(
        style=Markup(style),  # noqa: S704  (our own file)
        script=Markup(script),  # noqa: S704
        policy=_policy(script),
        apart=why_apart([study.group for study in studies], None).splitlines(),
        studies=[view(study, i) for i, study in enumerate(shown)],
        unfinished=[r for study in studies for r in study.group.unfinished],
        raw=Markup,
    )


FILES = ("style.css", "script.js")


def _policy(script: str) -> str:
    """Nothing is fetched, and no script runs but the one with this hash."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )
