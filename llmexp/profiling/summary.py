"""The one page that says where a step's time goes."""

from __future__ import annotations

from llmexp.profiling.timeline import Profile


def page(found: Profile, unprofiled: float | None, roof: float, kind: str) -> str:
    """Markdown; seconds are those of a step, `roof` is in operations a second."""
    text = [
        "# Where a step's time goes",
        "",
        f"{found.steps} warmed-up steps, {1000 * found.step:.2f} ms each while they were recorded"
        + (f", {1000 * unprofiled:.2f} ms before that." if unprofiled else "."),
        "",
        *_table("phase", found.phases, found.step),
        "",
        "`optimizer` is dividing, clipping, stepping and the schedule; `loop` is what Lightning's "
        "loop takes around all this.",
        "",
        *_table("operators", found.groups, found.step, found.calls),
        "",
        "What is missing to the step is Python and the framework between operators. Largest:",
        "",
        *(f"- `{name}` {1000 * seconds:.2f} ms" for name, seconds in found.operators.items()),
        "",
        *_roof(found, unprofiled, roof, kind),
        "",
        "`trace.json` beside this page opens in ui.perfetto.dev or chrome://tracing.",
        "",
    ]
    return "\n".join(text)


def _table(
    what: str, seconds: dict[str, float], step: float, calls: dict[str, float] | None = None
) -> list[str]:
    more = " calls |" if calls else ""
    rows = [f"| {what} | ms | share |{more}", "|---|---:|---:|" + ("---:|" if calls else "")]
    for name, spent in seconds.items():
        count = f" {calls[name]:.0f} |" if calls else ""
        rows.append(f"| {name} | {1000 * spent:.2f} | {spent / step:.1%} |{count}")
    if calls is None:
        rows.append(f"| step | {1000 * sum(seconds.values()):.2f} | 100.0% |")
    return rows


def _roof(found: Profile, unprofiled: float | None, roof: float, kind: str) -> list[str]:
    """What of the machine's matrix products the step reaches, as a whole and while it does them."""
    within = found.groups.get("matmul", 0.0)
    step = unprofiled or found.step
    said = [
        f"A 2048-cubed {kind} product reaches {roof / 1e9:,.0f} GFLOP/s here. The matrix products "
        f"of a step are {found.flops / 1e9:,.2f} GFLOP (those inside a fused attention are not "
        f"counted): {found.flops / step / roof:.1%} of that roof over the whole step",
    ]
    if within > 0:
        said[0] += f", {found.flops / within / roof:.1%} while they run"
    said[0] += "."
    return said
