"""`llmexp doctor`: what it says about an experiment is what a run of it would do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmexp.config import RunConfig
from llmexp.data.splits import content_key
from llmexp.doctor.command import run as doctor
from llmexp.doctor.fixes import fix_in
from llmexp.doctor.origins import COMMAND_LINE
from llmexp.doctor.overlap import jaccard, near_pairs, overlap, shingles
from llmexp.doctor.report import Report
from tests import runs, tiny
from tests.doctoring import ids, looked_at, of

ROOT = Path(__file__).resolve().parents[1]
FINDING = {"id", "level", "message", "fix"}


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tiny.bert(tmp_path_factory.mktemp("doctor") / "bert", labels=3)
    return ["model=local", f"model.path={folder}", "tracking=none", "hardware=cpu"]


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tiny.llama(tmp_path_factory.mktemp("doctor") / "llama")
    return ["model=local", f"model.path={folder}", "tracking=none", "hardware=cpu"]


def shared(*names: str) -> list[str]:
    paths = [tiny.SHARED / name for name in names]
    for path in paths:
        if not path.is_file():
            pytest.skip(f"{path} is not here")
    return [str(path) for path in paths]


def test_overlap_of_banking77(bert: list[str]) -> None:
    train, test = shared("banking77/train.csv", "banking77/test.csv")
    source = ["data=classification", f"data.train={train}", f"data.test={test}"]
    given = [*source, "data.columns.label=category", "strategy=zero_shot"]
    report = looked_at(*bert, *given)
    assert (report.overlap["exact"], report.overlap["normalised"]) == (0, 29)
    assert report.overlap["near"] > 29
    assert report.verdict == "warning"
    fix = of(report, "overlap").fix
    assert fix == "data.overlap=drop"
    mended = looked_at(*bert, *given, fix)
    assert mended.overlap["normalised"] == 0 and "overlap" not in ids(mended)


def test_overlap_of_trec(bert: list[str]) -> None:
    train, test = shared("trec/TREC.train", "trec/TREC.test")
    pattern = r"data.pattern='(?P<label>[A-Z]+):\S+ (?P<text>.*)'"
    given = ["data=classification", f"data.train={train}", f"data.test={test}", pattern]
    report = looked_at(*bert, *given, "data.encoding=latin-1", "strategy=zero_shot")
    assert (report.overlap["exact"], report.overlap["normalised"]) == (10, 11)
    # Read as utf-8 it fails, and the fix is the encoding.
    unread = looked_at(*bert, *given, "strategy=zero_shot")
    assert unread.verdict == "fails" and of(unread, "data").fix == "data.encoding=latin-1"


def test_near_pairs_are_those_of_all_pairs() -> None:
    """MinHash finds what comparing every pair finds, and nothing else."""
    words = " ".join(tiny.TEXTS).split()
    texts = [" ".join(words[i : i + 14]) for i in range(20)]
    train = [{"text": text} for text in texts]
    test = [{"text": text.replace("the", "a", 1)} for text in texts]
    test += [{"text": f"{number} nothing like it {number * 7919}"} for number in range(20)]
    pairs = {(a, s) for a, _, s in near_pairs(train, test)}
    ours = [shingles(content_key(row)) for row in train]
    wanted = set()
    for row in test:
        best = max(jaccard(shingles(content_key(row)), other) for other in ours)
        wanted |= {(row["text"], best)} if best >= 0.8 else set()
    assert pairs == wanted and len(pairs) >= 5
    counts = overlap([*train, {"text": "Yes, indeed!"}], [*test, {"text": "yes indeed"}])
    assert (counts["exact"], counts["normalised"]) == (
        sum(row["text"] in texts for row in test),
        counts["exact"] + 1,
    )


# Strategy and task -> keys that nothing reads, though somebody set them.
DEAD = [
    ("zero_shot", "classified", "bert", "optim.learning_rate=0.1"),
    ("zero_shot", "classified", "bert", "trainer.max_epochs=3"),
    ("zero_shot", "classified", "llama", "strategy.hypothesis='on {label}'"),
    ("zero_shot", "answered", "llama", "strategy.temperature=0.1"),
    ("feature_based", "classified", "bert", "strategy.hidden=8"),
    ("full_finetune", "classified", "bert", "model.pooling=cls"),
    ("head_only", "classified", "bert", "data.delimiter=';'"),
    ("head_only", "classified", "bert", "data.max_bad_rows=3"),
    ("lora", "answered", "llama", "model.vocab_size=99"),
]


@pytest.mark.parametrize(("strategy", "task", "model", "dead"), DEAD)
def test_dead_knobs_are_named(
    tmp_path: Path, request: Any, strategy: str, task: str, model: str, dead: str
) -> None:
    data = getattr(runs, task)(tmp_path / "data")
    base = [*request.getfixturevalue(model), *data, f"strategy={strategy}"]
    report = looked_at(*base, dead)
    key = dead.partition("=")[0]
    assert dead_keys(report) - dead_keys(looked_at(*base)) == {key}
    said = [f for f in report.findings if f.id == "dead_knob" and key in f.message]
    assert len(said) == 1 and key in said[0].fix and said[0].level == "warning"


def dead_keys(report: Report) -> set[str]:
    return {knob["key"] for knob in report.sections["dead_knobs"]}


def test_a_classifier_that_is_fitted_reads_no_optimizer(tmp_path: Path, bert: list[str]) -> None:
    base = [*bert, *runs.classified(tmp_path / "data"), "strategy=feature_based"]
    report = looked_at(*base, "strategy.classifier=knn", "optim.learning_rate=0.1")
    assert "optim.learning_rate" in dead_keys(report)
    assert "optim.learning_rate" not in dead_keys(looked_at(*base, "optim.learning_rate=0.1"))


def test_an_experiment_s_dead_knobs_are_named_with_its_file() -> None:
    report = looked_at("experiment=distilbert_imdb_head", "strategy=zero_shot")
    found = {knob["key"]: knob["from"] for knob in report.sections["dead_knobs"]}
    assert found["optim.learning_rate"] == "conf/experiment/distilbert_imdb_full.yaml"


def test_every_value_says_where_it_came_from() -> None:
    report = looked_at("strategy=qlora", "data=trec", "seed=3", "debug=smoke")
    found = {item["key"]: (item["value"], item["from"]) for item in report.sections["experiment"]}
    assert found["seed"] == (3, COMMAND_LINE)
    assert found["strategy.rank"] == (8, "conf/strategy/lora.yaml")
    assert found["strategy.quant_type"] == ("nf4", "conf/strategy/qlora.yaml")
    assert found["optim.learning_rate"][1] == "conf/strategy/lora.yaml"
    assert found["optim.beta1"][1] == "conf/optim/adamw.yaml"
    assert found["data.columns.label"][1] == "conf/data/trec.yaml"
    assert found["data.quoting"][1] == "conf/data/classification.yaml"
    assert found["data.max_length"] == (256, "conf/debug/smoke.yaml")
    assert found["model.dtype"] == ("float32", "built in")
    groups = {key.partition(".")[0] for key in found}
    assert set(RunConfig.__annotations__) <= groups


def test_adapters_that_match_and_that_do_not(tmp_path: Path, llama: list[str]) -> None:
    base = [*llama, *runs.answered(tmp_path / "data"), "strategy=lora"]
    report = looked_at(*base, "strategy.target_modules=[q_proj,v_proj]", "strategy.layers=2")
    adapters = report.sections["training"]["adapters"]
    assert adapters["by_name"]["q_proj"] == [2, 3] and adapters["by_name"]["o_proj"] == [0, 3]
    wrong = looked_at(*base, "strategy.target_modules=[q_proj,w_proj]")
    assert wrong.verdict == "fails" and "w_proj" in of(wrong, "model").message


def test_learned_tokens_are_marked_and_ends_counted(tmp_path: Path, llama: list[str]) -> None:
    report = looked_at(*llama, *runs.answered(tmp_path / "data"), "strategy=lora")
    tokens, examples = report.sections["tokens"], report.sections["examples"]
    assert len(examples) == min(10, report.sections["rows"]["train"]["rows"])
    for example in examples:
        learned = "".join(p["text"] for p in example["pieces"] if p["learned"] and not p["special"])
        prompt = "".join(p["text"] for p in example["pieces"] if not p["learned"])
        assert learned.strip() in runs.LABELS and any(t[:40] in prompt for t in tiny.TEXTS)
        assert example["pieces"][-1]["special"] and example["pieces"][-1]["learned"]
    assert tokens["marks"]["end_learned"] == tokens["encoded"]
    assert tokens["learned_tokens"] == sum(e["learned"] for e in examples[: tokens["encoded"]]) > 0
    assert sum(row["rows"] for row in tokens["histogram"]) == tokens["sample"]


def test_what_is_too_long_is_counted_and_mended(tmp_path: Path, bert: list[str]) -> None:
    base = [*bert, *runs.classified(tmp_path / "data"), "strategy=head_only"]
    report = looked_at(*base, "data.max_length=16")
    found = report.sections["tokens"]
    assert found["too_long"] == sum(n > 16 for n in _lengths(report)) > 0
    mended = looked_at(*base, of(report, "too_long").fix)
    assert mended.sections["tokens"]["too_long"] == 0 and "too_long" not in ids(mended)


def _lengths(report: Report) -> list[int]:
    """One length of each bin's upper end, as many as it has rows."""
    bins = report.sections["tokens"]["histogram"]
    return [row["up_to"] for row in bins for _ in range(row["rows"])]


def test_bad_empty_and_odd_rows_with_their_lines(tmp_path: Path, bert: list[str]) -> None:
    base = [*bert, *runs.classified(tmp_path / "data"), "strategy=zero_shot"]
    path = tmp_path / "data" / "train.jsonl"
    start = len(path.read_text().splitlines())
    odd = ['{"text": ', '{"text": "  ", "label": "bad"}', '{"text": "cafÃ©", "label": "bad"}']
    with path.open("a") as file:
        file.write("\n".join(odd) + "\n")
    report = looked_at(*base)
    assert f"{path}:{start + 1}: not valid JSON" in of(report, "bad_rows").message
    assert f"{path}:{start + 2}" in of(report, "empty_rows").message
    assert f"{path}:{start + 3}" in of(report, "suspicious_rows").message
    assert report.verdict == "fails" and of(report, "bad_rows").level == "fails"
    mended = looked_at(*base, *of(report, "bad_rows").fix.split())
    assert mended.verdict == "warning" and of(mended, "bad_rows").level == "warning"
    assert report.sections["sources"][0]["bad"]["count"] == 1


def test_duplicates_and_labels_that_disagree(tmp_path: Path, bert: list[str]) -> None:
    rows = [{"text": f"text number {i}", "label": "ab"[i % 2]} for i in range(40)]
    rows += [{"text": "Text number 0!", "label": "b"}, rows[2]]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"text": "something else", "label": "a"}))
    given = ["data=classification", f"data.train={path}", f"data.test={test}"]
    given += [f"data.validation={test}", "strategy=zero_shot"]
    report = looked_at(*bert, *given)
    assert report.sections["rows"]["train"]["normalised"] == 2
    assert report.sections["rows"]["train"]["exact"] == 1
    assert "1 in train" in of(report, "conflicting_labels").message
    mended = looked_at(*bert, *given, of(report, "duplicates").fix)
    assert mended.sections["rows"]["train"]["normalised"] == 0


def test_weights_that_are_not_here_leave_config_and_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = "model.path=nobody/not-here"
    report = looked_at("model=mistral7b", path, "strategy=qlora", "data=pydocs_instruct")
    assert of(report, "model").fix == "hf download nobody/not-here"
    assert report.verdict == "fails" and report.exit_code == 2
    assert report.sections["rows"]["train"]["rows"] > 1000 and report.overlap


MISTAKES = {
    "data.max_lenght=3": "data.max_length=3",
    "strategy=lorra": "strategy=lora",
    "seeed=1": "seed=1",
    "strategy.rank=x": "strategy.rank=<a valid integer>",
    "strategy=full_finetune strategy.rank=3": "leave out strategy.rank",
    "data=trec data.train=null": None,
}


@pytest.mark.parametrize(("line", "fix"), MISTAKES.items())
def test_a_mistake_is_a_finding_with_its_fix(
    line: str, fix: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor([*line.split(), "tracking=none", "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"] == "fails"
    assert {"verdict", "findings", "overlap"} <= said.keys()
    assert all(finding.keys() == FINDING for finding in said["findings"])
    assert fix is None or said["findings"][0]["fix"] == fix


SENTENCES = {
    "a.csv:3: byte 0xe9 is no utf-8; data.encoding=latin-1 reads the file": "data.encoding=latin-1",
    "hardware.accelerator: gpu was asked for; hardware=cpu runs here": "hardware=cpu",
    "model.path: a/b is not here; fetch it once: hf download a/b": "hf download a/b",
}


@pytest.mark.parametrize(("sentence", "fix"), SENTENCES.items())
def test_fixes_are_read_from_sentences(sentence: str, fix: str) -> None:
    assert fix_in(sentence) == fix


def test_the_command_and_preview_print_the_same_and_leave_nothing(
    tmp_path: Path, bert: list[str]
) -> None:
    given = [*bert, *runs.classified(tmp_path / "data"), "strategy=head_only", "preview=true"]
    given += [f"cache.dir={tmp_path / 'cache'}"]
    before = sorted(tmp_path.rglob("*"))
    environment = {**os.environ, "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    pages = []
    for command in (["-m", "llmexp", "doctor"], [str(ROOT / "run.py")]):
        done = subprocess.run(
            [sys.executable, *command, *given],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=environment,
        )
        assert (done.returncode, done.stderr) == (0, "")
        pages.append(done.stdout)
    assert pages[0] == pages[1]
    assert sorted(tmp_path.rglob("*")) == before
    lines = pages[0].splitlines()
    assert lines[0].startswith("llmexp doctor") and max(map(len, lines)) <= 80
    assert lines[-1].startswith(lines[0].split()[-1])
    titles = ["experiment", "data", "labels", "tokens", "examples", "training", "verdict"]
    starts = [line.split()[0] for line in lines if line and line[0] != " "]
    assert [title for title in starts if title in titles] == titles


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("coloured", [True, False])
def test_colour_in_a_terminal_and_brackets_elsewhere(
    tmp_path: Path,
    llama: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
    coloured: bool,
) -> None:
    """No line is wider than the terminal, and what is learned can be told in both."""
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR" if coloured else "NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    given = [*llama, *runs.answered(tmp_path / "data"), "strategy=lora"]
    assert doctor(given) == 0
    said = capsys.readouterr().out
    examples = said.partition("\nexamples" if not coloured else "examples")[2]
    plain = re.sub(r"\x1b\[[0-9;]*m", "", said)
    assert max(map(len, plain.splitlines())) <= width
    if coloured:
        assert re.search(r"\x1b\[1;32m(bad|fine|good)\x1b\[0m", examples) and "[[" not in said
        assert re.search(r"\x1b\[1;35m<\|endoftext\|>", examples)
    else:
        assert "\x1b" not in said and re.search(r"\[\[(bad|fine|good)\]\]", examples)


@pytest.mark.parametrize("kind", ["answered", "written"])
def test_packs_and_their_fill(tmp_path: Path, llama: list[str], kind: str) -> None:
    """What the doctor says of packs is what a run then trains on; a warm cache tells the same."""
    given = [*llama, *getattr(runs, kind)(tmp_path / "data"), "strategy=full_finetune"]
    given += ["data.packing=true", f"cache.dir={tmp_path / 'cache'}", "data.max_length=160"]
    cold = looked_at(*given).sections["tokens"]
    assert cold["kept"] is None and not (tmp_path / "cache").exists()
    ran = runs.finished(tmp_path / "run", *given)["encoding"]["train"]
    warm = looked_at(*given).sections["tokens"]
    for found in (cold, warm):
        assert found["packing"] == {name: ran[name] for name in ("packed", "packs", "fill")}
    assert warm["kept"]["rows"] == ran["packs"] and warm["kept"]["tokens"] == ran["tokens"]
    plain = looked_at(*given, "data.packing=false").sections["tokens"]
    assert plain["packing"] is None and plain["kept"] is None


def test_json_is_all_that_is_printed(
    tmp_path: Path, bert: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [*bert, *runs.classified(tmp_path / "data"), "strategy=head_only"]
    assert doctor([*given, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"] in ("ok", "warning")
    assert {"exact", "normalised", "near"} <= said["overlap"].keys()
    assert {"experiment", "dead_knobs", "rows", "tokens", "examples", "training"} <= said.keys()
