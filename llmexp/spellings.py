"""What becomes of a text where it is written in some syntax: it is found there only so."""

from __future__ import annotations

import html
import json
from functools import partial
from urllib.parse import quote, quote_plus

import yaml


def spellings(text: str) -> set[str]:
    """A text, and what JSON, YAML, a shell, Python, a page and an address make of it."""
    in_yaml = partial(yaml.safe_dump, text, default_style='"', width=1 << 30)
    return {
        text,
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        in_yaml()[1:-2],
        in_yaml(allow_unicode=True)[1:-2],
        text.replace("'", "''"),
        text.replace("'", "'\"'\"'"),
        repr(text)[1:-1],
        html.escape(text),
        html.escape(text, quote=False),
        quote(text),
        quote_plus(text),
    }
