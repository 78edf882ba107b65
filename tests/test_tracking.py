"""Trackers see what `result.json` holds, and a run never depends on them."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sklearn.metrics import precision_recall_curve

from llmexp.callbacks.samples import Samples
from llmexp.secrets import hidden, masked
from llmexp.tracking import artifacts
from llmexp.tracking.artifacts import aliases
from llmexp.tracking.base import numbers
from llmexp.tracking.csv import CSV
from llmexp.tracking.login import WAIT
from llmexp.tracking.media import TEXT_LENGTH, charts, predictions
from llmexp.tracking.wandb import summary
from tests import runs, tiny
from tests.test_distributed import ROOT, TWO, inputs, run  # noqa: F401  (a fixture)

COMMON = ["strategy=head_only", "data.batch_size=8", "trainer.log_every_n_steps=1"]


def offline(folder: Path) -> dict[str, Any]:
    """The one W&B run in a folder, read back from its file: run, config, summary and history."""
    (found,) = sessions(folder)
    return found


def sessions(folder: Path) -> list[dict[str, Any]]:
    """What each process that worked on a run wrote, in order."""
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    return [read(file) for file in files]


def read(file: Path) -> dict[str, Any]:
    """A `.wandb` file by its records."""
    found: dict[str, Any] = {"run": {}, "history": [], "artifacts": []}
    for line in inspected(file).splitlines():
        record = json.loads(line)
        if record["type"] == "run":
            found["run"] |= record["run"]
            found["config"] = record["run"]["config"]["update"]
        elif record["type"] == "history":
            found["history"].append(record["history"]["item"])
        elif record["type"] == "artifact":
            found["artifacts"].append(record["artifact"])
    return found | {"summary": json.loads(inspected(file, "--summary"))["summary"]}


def inspected(file: Path, *options: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *options, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def tracked(inputs: list[str]) -> list[str]:  # noqa: F811
    return [o for o in inputs if not o.startswith("tracking=")]


@pytest.fixture(autouse=True)
def logged_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no.netrc"))


def test_an_offline_wandb_run_holds_what_the_result_holds(
    tracked: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "a"
    result = run(folder, *tracked, *COMMON, "tags=[first]")
    found = offline(folder)
    for key, value in summary(result).items():
        assert found["summary"][key] == pytest.approx(value), key
    assert set(result["metrics"]) <= set(found["summary"])
    assert found["summary"]["test/predictions"]["nrows"] == 17
    assert found["summary"]["test/confusion_matrix_table"]["nrows"] == 9
    told = found["run"]
    assert found["config"]["optim"]["learning_rate"] == 1e-3
    assert told["job_type"] == "head_only" and "run_group" not in told
    assert {"first", "head_only", "local", "classification"} == set(told["tags"])
    for key in ("learning_rate", "tokens_per_second", "gradient_norm", "memory_mb", "loss"):
        assert sum(f"train/{key}" in row for row in found["history"]) == 6, key


def test_the_printed_commands_of_an_offline_run_work(tracked: list[str], tmp_path: Path) -> None:
    """As they stand there, in a folder whose name has to be quoted."""
    folder = tmp_path / "my runs" / "a"
    command = [sys.executable, str(ROOT / "run.py"), *tracked, *COMMON, "tracking=wandb"]
    said = subprocess.run(
        [*command, f"hydra.run.dir='{folder.relative_to(tmp_path)}'", f"cache.dir={tmp_path}/c"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    printed = [shlex.split(line.partition(":")[2]) for line in said.stdout.splitlines()]
    sync, leet = (
        [words for words in printed if words[:2] == ["wandb", name]] for name in ("sync", "leet")
    )
    # At the start, where the run may yet be killed, and after the last word of training.
    assert len(sync) == len(leet) == 2
    assert said.stdout.rindex("wandb sync") > said.stdout.index("W&B was offline")
    for *_, path in (*sync, *leet):
        assert (tmp_path / path).samefile(file.parent)
    told = typed(tmp_path, *sync[-1], "--dry-run")
    assert file.name in told or file.parent.name in told
    assert leet[-1][:3] == ["wandb", "leet", "run"]
    shown = json.loads(typed(tmp_path, "wandb", "leet", "inspect", "--summary", "--json", path))
    result = json.loads((folder / "result.json").read_text())
    assert shown["summary"]["test/loss"] == pytest.approx(result["metrics"]["test/loss"])
    # Two classes and more have a curve each, of the probabilities that the answers hold.
    assert found_curve(read(file), folder) == {"class 0", "class 1", "class 2"}


def found_curve(told: dict[str, Any], folder: Path) -> set[str]:
    """The labels whose curves are in the table behind `test/pr_curve`."""
    assert told["summary"]["test/pr_curve_table"]["nrows"] > 0
    (file,) = folder.glob("wandb/*/files/media/table/test/pr_curve*.table.json")
    table = json.loads(file.read_text())
    return {row[table["columns"].index("class")] for row in table["data"]}


def typed(cwd: Path, *words: str) -> str:
    """What a command says that is typed in a folder."""
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.long
def test_each_job_of_a_sweep_is_one_run_in_one_group(tracked: list[str], tmp_path: Path) -> None:
    """Two processes for each job; folders == jobs == W&B runs (Lightning #11300)."""
    sweep = tmp_path / "sweep"
    overrides = [*tracked, "strategy=head_only", "hardware=ddp", *TWO, "seed=0,1"]
    done = subprocess.run(
        [sys.executable, "run.py", "-m", *overrides, f"hydra.sweep.dir={sweep}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = sorted(path for path in sweep.iterdir() if path.is_dir())
    assert len(jobs) == 2
    for seed, folder in enumerate(jobs):
        assert json.loads((folder / "result.json").read_text())["seed"] == seed
        assert offline(folder)["run"]["run_group"] == "sweep"
        assert (folder / "console.log").read_text().count("W&B is offline") == 1
    assert len({offline(folder)["run"]["run_id"] for folder in jobs}) == 2


@pytest.mark.long
def test_every_tracker_carries_the_same_keys(tracked: list[str], tmp_path: Path) -> None:
    """Curves and the numbers of `result.json`: in W&B, TensorBoard, CSV, under the same names."""
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    found = {}
    for tracking in ("wandb", "csv", "tensorboard"):
        result = run(tmp_path / tracking, *tracked, *COMMON, f"tracking={tracking}")
        assert set(numbers(result)) > set(result["metrics"])
    told = offline(tmp_path / "wandb")
    charts = ("test/predictions", "test/confusion_matrix_table", "test/pr_curve_table")
    keys = {key.partition(".")[0] for row in [*told["history"], told["summary"]] for key in row}
    found["wandb"] = {k for k in keys if "/" in k and k not in (*charts, "trainer/global_step")}
    table = (tmp_path / "csv" / "csv" / "metrics.csv").read_text().splitlines()
    found["csv"] = {column for column in table[0].split(",") if "/" in column}
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "tensorboard"))
    found["tensorboard"] = {tag for tag in events.Reload().Tags()["scalars"] if "/" in tag}
    assert found["csv"] == found["tensorboard"] == found["wandb"] >= set(numbers(result))


@pytest.mark.long
def test_a_killed_run_goes_on_as_the_same_wandb_run(
    tracked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same id; the last file alone holds every step once, though the first may be half a file."""
    folder = tmp_path / "a"
    monkeypatch.setenv("LLMEXP_ALLOW", "mylab")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'extend'}")
    killer = "{_target_: mylab.killer.Killer, lives: %s, deaths: [[batch_end, 40, 9]]}"
    given = [*tracked, *COMMON, "trainer.max_epochs=25"]
    given = [o for o in given if o != "trainer.max_epochs=1"]
    given += ["+callbacks.killer=" + killer % (tmp_path / "lives")]
    assert run(folder, *given, code=-9)["status"] == "running"
    assert run(folder, *given, "resume=auto")["status"] == "completed"
    files = sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2 and files[0].name == files[1].name
    last = read(files[1])
    assert last["run"]["run_id"] == (folder / "wandb" / "id").read_text()
    steps = [row["trainer/global_step"] for row in last["history"] if "train/loss" in row]
    assert steps == list(range(6 * 25))
    losses = [row["val/loss"] for row in last["history"] if "val/loss" in row]
    assert len(losses) == 25


def test_the_network_s_answers_can_be_read_as_it_learns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every evaluation the same rows; the test's table has a score beside each answer."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "a"
    model = tiny.llama(tmp_path / "llama")
    given = [f"model.path={model}", *runs.answered(tmp_path / "data"), "strategy=lora"]
    more = ["trainer.max_epochs=2", "tracking=wandb", "tracking.samples=2"]
    runs.finished(folder, "model=local", *given, *more)
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    validated = [row for row in offline(folder)["history"] if "val/loss" in row]
    steps = [row["trainer/global_step"] + 1 for row in validated]
    assert [line["step"] for line in lines] == [s for s in steps for _ in range(2)]
    assert len(steps) == 2 and [line["index"] for line in lines] == [0, 1, 0, 1]
    (told,) = sessions(folder)
    tables = [row["val/samples.nrows"] for row in told["history"] if "val/samples.nrows" in row]
    assert tables == [2, 2]
    wanted = {"input", "reference", "prediction", "exact_match", "rouge_l"}
    assert wanted <= set(columns_of(folder, "test/predictions"))
    assert {"step", "index"} | wanted <= set(columns_of(folder, "val/samples"))
    assert all(0 <= line["rouge_l"] <= 1 for line in lines)


def test_answers_of_a_validation_hold_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the file nor in the table; on resuming they are written as they stand."""
    for i, text in enumerate(tiny.TEXTS):
        monkeypatch.setenv(f"LAB_{i}_API_KEY", text[:20])
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "a"
    model = tiny.llama(tmp_path / "llama")
    given = [f"model.path={model}", *runs.answered(tmp_path / "data"), "strategy=lora"]
    runs.finished(folder, "model=local", *given, "tracking=wandb", "tracking.samples=8")
    lines = (folder / "samples.jsonl").read_text()
    assert "***" in lines and hidden(lines) == lines
    (table,) = folder.glob("wandb/*/files/media/table/val/samples*.table.json")
    assert "***" in table.read_text() and hidden(table.read_text()) == table.read_text()


def columns_of(folder: Path, key: str) -> list[str]:
    """Of the last such table."""
    files = sorted(folder.glob(f"wandb/*/files/media/table/{key}*.table.json"))
    columns: list[str] = json.loads(files[-1].read_text())["columns"]
    return columns


def test_what_a_network_writes_is_masked_and_cut_in_every_table(tmp_path: Path) -> None:
    """A network repeats what it was trained on, and it may never end."""
    told: dict[str, list[list[Any]]] = {}
    logger = SimpleNamespace(log_table=lambda key, columns, data, step: told.update({key: data}))
    secret = "hf_abcdefghijklmnopqrstuv"
    answer = {"input": f"a {secret}", "reference": "b", "prediction": f"{secret} {'z' * 5000}"}
    task = SimpleNamespace(
        samples=lambda: 2, written=lambda *_: [answer], answer_scores=lambda _: {"rouge_l": 0.5}
    )
    context: Any = SimpleNamespace(task=task, tokenizer=None)
    context.examples = SimpleNamespace(validation=[{}])
    trainer: Any = SimpleNamespace(
        state=SimpleNamespace(fn="fit"),
        global_step=3,
        is_global_zero=True,
        sanity_checking=False,
        loggers=[logger],
    )
    module: Any = SimpleNamespace(net=None, context=context, writing=nullcontext)
    Samples(tmp_path, 1).on_validation_end(trainer, module)
    (shown,) = told["val/samples"]
    assert shown[:4] == [3, 0, "a ***", "b"] and shown[5] == 0.5
    assert shown[4].startswith("*** zzz") and len(shown[4]) == TEXT_LENGTH
    assert predictions([answer], module.context.task).data[0] == shown[2:]


@pytest.mark.long
def test_two_runs_of_one_process_are_two_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    model = tiny.bert(tmp_path / "bert", labels=3)
    given = [f"model.path={model}", *runs.classified(tmp_path / "data"), "strategy=head_only"]
    told = []
    for name in ("a", "b"):
        result = runs.finished(tmp_path / name, "model=local", *given, "tracking=wandb")
        told.append(offline(tmp_path / name))
        assert told[-1]["summary"]["test/loss"] == pytest.approx(result["metrics"]["test/loss"])
    assert told[0]["run"]["run_id"] != told[1]["run"]["run_id"]
    assert "score" in columns_of(tmp_path / "a", "test/predictions")


def test_precision_by_recall_is_scikit_learn_s_though_a_label_is_missing() -> None:
    """W&B's chart takes columns by what occurs: label b never does."""
    draw = random.Random(0)
    labels, answers = ["a", "b", "c"], []
    for _ in range(60):
        scores = [draw.random() for _ in labels]
        shares = {name: s / sum(scores) for name, s in zip(labels, scores, strict=True)}
        best = max(shares, key=lambda name: shares[name])
        answers.append({"reference": draw.choice("ac"), "prediction": best, "scores": shares})
    rows = charts(answers, labels)["test/pr_curve"].table.data
    for name in "ac":
        truth = [a["reference"] == name for a in answers]
        precision, recall, _ = precision_recall_curve(truth, [a["scores"][name] for a in answers])
        for label, shown, at in rows:
            if label == name:
                best = max(p for p, r in zip(precision, recall, strict=True) if r >= at - 5e-4)
                assert shown == pytest.approx(best, abs=1e-3)
    assert {row[0] for row in rows} == {"a", "c"}


@pytest.mark.parametrize(
    ("objective", "mine", "best", "wins"),
    [
        ("val/loss", 0.5, None, True),
        ("val/loss", 0.5, 0.6, True),
        ("val/loss", 0.6, 0.5, False),
        ("val/accuracy", 0.6, 0.5, True),
        ("val/accuracy", 0.5, 0.5, False),
        ("val/perplexity", 9.0, 8.0, False),
        ("val/accuracy", None, None, False),
        ("val/accuracy", None, 0.5, False),
    ],
)
def test_best_is_the_version_with_the_best_objective(
    objective: str, mine: float | None, best: float | None, wins: bool
) -> None:
    facts = {"objective": objective, "metrics": {objective: mine}}
    other = None if best is None else {"metrics": {objective: best}}
    assert aliases(facts, other) == (["latest", "best"] if wins else ["latest"])


def test_data_model_and_files_are_artifacts(tmp_path: Path) -> None:
    """What an online run would send, recorded in an offline file: names, kinds and aliases."""
    import wandb

    model = tiny.bert(tmp_path / "bert", labels=3)
    given = [f"model.path={model}", *runs.classified(tmp_path / "data"), "strategy=head_only"]
    result = runs.finished(tmp_path / "run", "model=local", *given)
    made = artifacts.model(tmp_path / "run", result, "val/loss")
    source = artifacts.data(tmp_path / "run", result)
    left = artifacts.files(tmp_path / "run", "abc")
    assert source.metadata["fingerprint"] == result["fingerprint"]
    assert "model.safetensors" in made.manifest.entries and "result.json" in left.manifest.entries
    assert list(source.manifest.entries) == ["data.json"]
    with wandb.init(mode="offline", dir=tmp_path, project="p") as told:
        told.log_artifact(made, aliases=aliases(made.metadata, None))
        told.log_artifact(source)
        told.log_artifact(left)
    wandb.teardown()
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    sent = {a["name"]: a for a in read(file)["artifacts"]}
    assert {"latest", "best"} <= set(sent[f"model-{result['name']}"]["aliases"])
    assert sent[f"data-{result['data']}"]["type"] == "dataset"
    assert sent["run-abc"]["type"] == "run"


class Server:
    """Stands in for an online W&B run, of which no server is here: it keeps what it is given."""

    def __init__(self, best: dict[str, Any] | None):
        self.id, self.entity, self.project = "abc", "me", "mine"
        self.best = best
        self.given: list[tuple[str, str, list[str]]] = []

    def use_artifact(self, artifact: Any) -> None:
        self.given.append(("used", artifact.name, []))

    def log_artifact(self, artifact: Any, aliases: list[str] | None = None) -> None:
        self.given.append(("made", artifact.name, aliases or []))

    def artifact(self, path: str, type: str) -> Any:
        """What W&B's public API answers."""
        import wandb

        if self.best is None:
            raise wandb.errors.CommError("no such artifact")
        assert type == "model" and path.startswith("me/mine/model-") and path.endswith(":best")
        return SimpleNamespace(metadata=self.best)


def test_lineage_leads_from_the_data_to_the_model_and_the_best_one_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.bert(tmp_path / "bert", labels=3)
    given = [f"model.path={model}", *runs.classified(tmp_path / "data"), "strategy=head_only"]
    folder = tmp_path / "run"
    result = runs.finished(folder, "model=local", *given)
    loss = result["metrics"]["val/loss"]
    marks = {None: ["latest", "best"], loss + 1: ["latest", "best"], loss - 1: ["latest"]}
    for best, wanted in marks.items():
        run: Any = Server(None if best is None else {"metrics": {"val/loss": best}})
        monkeypatch.setattr("wandb.Api", lambda run=run: run)
        artifacts.publish(run, folder, result, "val/loss")
        assert run.given == [
            ("used", f"data-{result['data']}", []),
            ("made", f"model-{result['name']}", wanted),
            ("made", "run-abc", []),
        ]
    shutil.rmtree(folder / "model")
    run = Server(None)
    artifacts.publish(run, folder, result, "val/loss")
    assert [name for _, name, _ in run.given] == [f"data-{result['data']}", "run-abc"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("tracking", "file"),
    [
        ("csv", "csv/metrics.csv"),
        ("tensorboard", "tensorboard/events.*"),
        ("none", "metrics.jsonl"),
    ],
)
def test_the_other_trackers_write_into_the_run_folder(
    tracking: str, file: str, tracked: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "a"
    run(folder, *tracked, *COMMON, f"tracking={tracking}")
    found = list(folder.glob(file))
    assert found and all(path.stat().st_size > 0 for path in found)
    assert not (folder / "wandb").exists()
    if tracking == "csv":
        columns = found[0].read_text().splitlines()[0].split(",")
        assert {"train/loss", "val/loss", "test/accuracy"} <= set(columns)


def test_required_tracking_without_a_key_is_refused_at_once(
    tracked: list[str], tmp_path: Path
) -> None:
    overrides = [*tracked, *COMMON, "tracking.required=true", f"hydra.run.dir={tmp_path / 'a'}"]
    done = subprocess.run(
        [sys.executable, "run.py", *overrides],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 2
    assert "tracking.required" in done.stderr and "not logged in" in done.stderr
    assert not (tmp_path / "a").exists()


@pytest.mark.long
def test_a_server_that_never_answers_costs_seconds(
    tracked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the connection and is silent: the run is offline after WAIT seconds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        words = [*tracked, *COMMON, f"hydra.run.dir={tmp_path / 'a'}"]
        child = subprocess.Popen(
            [sys.executable, "run.py", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        server.settimeout(240)
        asker, _ = server.accept()
        began = time.monotonic()
        assert child.stdout is not None
        offline_line = next(line for line in child.stdout if "W&B is offline" in line)
        assert time.monotonic() - began < WAIT + 60
        assert "127.0.0.1 does not answer" in offline_line
        rest = child.communicate(timeout=300)[0]
        asker.close()
    assert child.returncode == 0 and "W&B is offline" not in rest
    assert json.loads((tmp_path / "a" / "result.json").read_text())["status"] == "completed"
    assert offline(tmp_path / "a")["summary"]["status"] == "completed"


@pytest.mark.long
def test_a_server_that_is_no_wandb_does_not_stop_a_run(
    tracked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers, and then refuses all that W&B asks: offline once START seconds are over."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        assert run(tmp_path / "a", *tracked, *COMMON)["status"] == "completed"
        server.shutdown()
    assert offline(tmp_path / "a")["summary"]["status"] == "completed"


class Refusing(BaseHTTPRequestHandler):
    """A web server that has nothing."""

    def do_GET(self) -> None:
        self.send_error(500)

    do_POST = do_GET  # noqa: N815  (the library's name)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.long
def test_an_unreachable_server_costs_seconds_and_one_line(
    tracked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key and a host where nobody listens: offline, said once, the run completes."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    folder = tmp_path / "a"
    done = subprocess.run(
        [sys.executable, "run.py", *tracked, *COMMON, f"hydra.run.dir={folder}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    result = json.loads((folder / "result.json").read_text())
    assert (done.returncode, result["status"]) == (0, "completed"), done.stderr
    assert offline(folder)["summary"]["status"] == "completed"
    said = done.stdout + done.stderr
    told = [line for line in said.splitlines() if "W&B" in line or "127.0.0.1" in line]
    # One where it begins, and one where it ends: what was kept can be sent now.
    once = "W&B is offline (127.0.0.1 does not answer); this run is kept here"
    assert told == [once, "W&B was offline"], said
    assert "Traceback" not in said and "wandb: ERROR" not in said
    # Of a run that takes some ten; W&B itself would try for minutes.
    assert result["cost"]["total_seconds"] < 150


def test_a_run_goes_on_without_wandbs_processes(
    tracked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are killed after the third of six steps: one line, the history is whole."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests' / 'extend'}")
    monkeypatch.setenv("LLMEXP_ALLOW", "mylab")
    vandal = "callbacks.vandal={_target_: mylab.vandal.Vandal, step: 3}"
    folder = tmp_path / "a"
    done = subprocess.run(
        [sys.executable, "run.py", *tracked, *COMMON, vandal, f"hydra.run.dir={folder}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert json.loads((folder / "result.json").read_text())["status"] == "completed"
    told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [event["step"] for event in told if "train/loss" in event] == [1, 2, 3, 4, 5, 6]
    assert any("val/loss" in event for event in told) and any("test/loss" in e for e in told)
    assert "Traceback" not in said and said.count("W&B: ") == 1, said


def test_a_tracker_that_fails_at_the_end_does_not_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its folder is gone when the last numbers are written."""
    folder = tmp_path / "a"
    finish = CSV.finish

    def vanished(self: CSV, result: dict[str, Any], module: Any) -> None:
        shutil.rmtree(folder / "csv")
        (folder / "csv").touch()
        finish(self, result, module)

    monkeypatch.setattr(CSV, "finish", vanished)
    model = tiny.bert(tmp_path / "bert", labels=3)
    given = [f"model.path={model}", *runs.classified(tmp_path / "data"), "strategy=head_only"]
    assert runs.finished(folder, "model=local", *given, "tracking=csv")["status"] == "completed"
    assert json.loads((folder / "result.json").read_text())["status"] == "completed"
    assert "the tracker could not write its end: NotADirectoryError" in capsys.readouterr().out


def test_secrets_are_masked_by_name_and_by_shape() -> None:
    tree = {
        "hub_token": "abc",
        "tokenizer": "char",
        "max_new_tokens": 8,
        "nested": [{"API_KEY": "x", "note": "use hf_abcdefghijklmnopqrstuv here"}],
    }
    assert masked(tree) == {
        "hub_token": "***",
        "tokenizer": "char",
        "max_new_tokens": 8,
        "nested": [{"API_KEY": "***", "note": "use *** here"}],
    }
