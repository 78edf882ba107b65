"""`llmexp compare --html`: one file, whatever stands in the rows, in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmexp.compare import command as compare
from llmexp.jobs.results import write_result
from tests.test_compare import result

CHROMIUM = Path("/usr/bin/chromium")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
EVIL = "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=1'>"


def runs(folder: Path, evil: str = "") -> Path:
    """Three arms of three seeds, with answers and curves; `evil` stands wherever text may."""
    shares = {"lora": 0.9, "head_only": 0.8, f"zero_shot{evil}": 0.6}
    for place, (strategy, share) in enumerate(shares.items()):
        for seed in range(3):
            made = folder / f"{place}_{seed}"
            made.mkdir(parents=True)
            right = [(i * 7 + seed) % 100 < 100 * share for i in range(300)]
            accuracy = sum(right) / 300
            metrics = {"test/accuracy": accuracy, "test/f1/yes": 0.5, f"test/f1/no{evil}": 0.5}
            cost = {"fit_seconds": 10.0 * share, "total_seconds": 30.0 * share**3}
            one = result(strategy, accuracy, seed=seed, metrics=metrics, cost=cost)
            overrides = [f"strategy={strategy}", f"optim.learning_rate={share}{evil}"]
            write_result(made, one | {"overrides": overrides})
            rows = [answer(i, mark, evil) for i, mark in enumerate(right)]
            (made / "predictions.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
            points = [{"step": n, "train/loss": 1 / (n + seed + 1)} for n in range(40)]
            points += [{"step": 20 * n, "val/accuracy": share - 0.1 / (n + 1)} for n in range(3)]
            (made / "metrics.jsonl").write_text("".join(json.dumps(p) + "\n" for p in points))
    return folder


def answer(i: int, right: bool, evil: str) -> dict[str, Any]:
    names = ("yes", f"no{evil}")
    return {
        "index": i,
        "input": f"row {i} {evil} " + "word " * (i % 9),
        "reference": names[i % 2],
        "prediction": names[i % 2 if right else 1 - i % 2],
    }


def page(folder: Path, evil: str = "") -> Path:
    made = folder / "report.html"
    assert compare.main([str(runs(folder / "runs", evil)), "--html", str(made)]) == 0
    return made


def test_the_page_holds_everything_and_asks_for_nothing(tmp_path: Path) -> None:
    text = page(tmp_path).read_text()
    assert len(text) < 1_000_000
    for word in ("lora is better than head_only by", "Learning curves", "Confusion matrices"):
        assert word in text
    for word in ("Where two disagree", "Hardest for all", "optim.learning_rate", "by length"):
        assert word in text
    addresses = re.findall(r"https?://[^\s\"'<>]+", text)
    # Names of XML vocabularies, which nobody fetches.
    assert {a for a in addresses if "www.w3.org" not in a} == set()
    assert not re.search(r"<(link|img|iframe|object)\b", text)
    assert text.count("<script") == 1


def test_two_pages_of_the_same_runs_are_the_same(tmp_path: Path) -> None:
    first = page(tmp_path).read_text()
    compare.main([str(tmp_path / "runs"), "--html", str(tmp_path / "again.html")])
    assert (tmp_path / "again.html").read_text() == first


def test_text_of_rows_is_never_markup(tmp_path: Path) -> None:
    text = page(tmp_path, EVIL).read_text()
    assert EVIL not in text and "<img" not in text
    assert text.count("<script") == text.count("</script") == 1
    assert "&lt;/script&gt;" in text


def test_runs_without_answers_or_curves_still_make_a_page(tmp_path: Path) -> None:
    for n, status in enumerate(("completed", "failed")):
        (tmp_path / str(n)).mkdir()
        write_result(tmp_path / str(n), result("lora", 0.9, status=status, reason="why not"))
    compare.main([str(tmp_path), "--html", str(tmp_path / "r.html")])
    text = (tmp_path / "r.html").read_text()
    assert "Quality against cost" in text and "Learning curves" not in text
    assert "why not" in text


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    if not CHROMIUM.is_file():
        pytest.skip(f"there is no {CHROMIUM} to open the page in")
    with sync.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=list(QUIET))
        yield browser
        browser.close()


def opened(chromium: Any, file: Path, width: int = 800, scheme: str = "light") -> Any:
    """The page without a network, and what the browser complained about."""
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    tab = context.new_page()
    tab.said = []
    tab.on("console", lambda message: tab.said.append(message.text))
    tab.on("pageerror", lambda error: tab.said.append(str(error)))
    tab.goto(file.resolve().as_uri())
    return tab


def names(tab: Any, table: str = "s0-arms") -> list[str]:
    return tab.eval_on_selector_all(
        f"#{table} tbody tr:not([hidden]) td:nth-child(2)", "cells => cells.map(c => c.textContent)"
    )


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1600])
def test_it_opens_without_a_complaint_and_fits(
    chromium: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    tab = opened(chromium, page(tmp_path), width, scheme)
    assert tab.said == []
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    back = tab.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")
    shown = tab.eval_on_selector_all(
        ".wide, .slim", "all => all.filter(e => e.offsetHeight).map(e => e.className)"
    )
    assert set(shown) == {"slim" if width < 640 else "wide"}
    sizes = tab.eval_on_selector_all(
        "svg text",
        "all => all.filter(e => e.getClientRects().length).map(e =>"
        " parseFloat(getComputedStyle(e).fontSize)"
        " * Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b))",
    )
    assert min(sizes) > 7.5


@pytest.mark.long
def test_a_click_sorts_and_another_turns_it_round(chromium: Any, tmp_path: Path) -> None:
    tab = opened(chromium, page(tmp_path))
    assert names(tab) == ["lora", "head_only", "zero_shot"]
    tab.click("#s0-arms th:nth-child(4) button")
    assert names(tab) == ["zero_shot", "head_only", "lora"]
    tab.click("#s0-arms th:nth-child(4) button")
    assert names(tab) == ["lora", "head_only", "zero_shot"]
    assert tab.get_attribute("#s0-arms th:nth-child(4)", "aria-sort") == "descending"
    tab.click("#s0-arms th:nth-child(2) button")
    assert names(tab) == ["head_only", "lora", "zero_shot"]
    assert tab.said == []


@pytest.mark.long
def test_filters_hide_rows_and_curves(chromium: Any, tmp_path: Path) -> None:
    tab = opened(chromium, page(tmp_path))
    tab.fill("input[type=search]", "head")
    assert names(tab) == ["head_only"]
    tab.fill("input[type=search]", "")
    tab.click(".chip >> nth=0")
    assert names(tab) == ["head_only", "zero_shot"]
    seen = "all => all.map(g => getComputedStyle(g).display)"
    assert set(tab.eval_on_selector_all("svg .arm-0", seen)) == {"none"}
    assert "none" not in tab.eval_on_selector_all("svg .arm-1", seen)
    assert tab.locator("#s0-pairs tbody tr:visible").count() == 1
    tab.click(".chip >> nth=0")
    assert len(names(tab)) == 3
    assert tab.said == []


@pytest.mark.long
def test_a_row_that_is_a_script_does_not_run(chromium: Any, tmp_path: Path) -> None:
    """Escaped; and were it not, the page's policy lets no other script run."""
    file = page(tmp_path, EVIL)
    tab = opened(chromium, file)
    assert tab.evaluate("window.pwned") is None and tab.said == []
    broken = tmp_path / "broken.html"
    broken.write_text(file.read_text().replace("<main>", f"<main>{EVIL}<script>pwned=1</script>"))
    tab = opened(chromium, broken)
    assert tab.evaluate("window.pwned") is None
    assert any("Content Security Policy" in line for line in tab.said)
