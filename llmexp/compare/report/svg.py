"""matplotlib figures as SVG that takes its colours from the page and belongs to its arms."""

from __future__ import annotations

import io
import re
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = 10
# Stand-ins for what the page's style decides, so that one picture serves light and dark.
INK, FAINT, PAPER = "#010101", "#020202", "#030303"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "llmexp",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "text.parse_math": False,
}


def colour(arm: int) -> str:
    """The stand-in for an arm's colour."""
    return f"#c000{arm % COLOURS:02x}"


def svg(figure: Figure, prefix: str, names: list[str], label: str) -> str:
    """The picture as an element; groups with the id `arm3` get that arm's class and tooltip."""
    out = io.StringIO()
    none: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(out, format="svg", metadata=none, transparent=True)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', _opening(label), text, count=1)
    text = re.sub(r'<g id="arm(\d+)[^"]*">', lambda m: _group(int(m[1]), names), text)
    # Two pictures on a page must not share ids.
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{prefix}", text)
    for stand_in, name in ((INK, "ink"), (FAINT, "line"), (PAPER, "paper")):
        text = text.replace(stand_in, f"var(--{name})")
    text = re.sub(r"#c000([0-9a-f]{2})", lambda m: f"var(--c{int(m[1], 16)})", text)
    return re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", text)


def _opening(label: str) -> str:
    return rf'<svg viewBox="\1" role="img" aria-label="{escape(label)}">'.replace("\\1", r"\g<1>")


def _group(arm: int, names: list[str]) -> str:
    return f'<g class="arm arm-{arm}"><title>{escape(names[arm])}</title>'
