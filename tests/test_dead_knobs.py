"""A key that is set and changes nothing is named dead, and no other."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from llmexp.configure import compose, composed, loader
from llmexp.configure.compose import compose_jobs, conf_dir
from llmexp.configure.preflight import GROUPS, build
from llmexp.doctor import origins
from llmexp.doctor.knobs import dead_knobs
from llmexp.doctor.origins import Origins
from llmexp.errors import UserError
from tests import doctoring, runs, tiny

STRATEGIES = sorted(path.stem for path in (conf_dir() / "strategy").glob("*.yaml"))
POSED = {"classified": ("bert", "llama"), "answered": ("llama",), "written": ("llama",)}
# Another value of each key than the one it has here.
VALUES: dict[str, Any] = {
    "seed": 3,
    "objective": "test/loss",
    "tags": "[a]",
    "cache.dir": "{folder}/elsewhere",
    "cache.max_gb": 3,
    "cost.per_hour": 7.0,
    "cost.watts": 70.0,
    "model.pooling": "cls",
    "model.dtype": "bfloat16",
    "model.attention": "eager",
    "model.max_length": 24,
    "model.dropout": 0.5,
    "model.gradient_checkpointing": True,
    "model.vocab_size": 290,
    "data.validation_fraction": 0.2,
    "data.test_fraction": 0.2,
    "data.split_seed": 5,
    "data.limit.train": 5,
    "data.limit.validation": 2,
    "data.limit.test": 5,
    "data.overlap": "drop",
    "data.duplicates": "drop",
    "data.max_bad_rows": 7,
    "data.delimiter": "';'",
    "data.quoting": "none",
    "data.header": False,
    "data.names": "[a]",
    "data.max_length": 20,
    "data.batch_size": 3,
    "data.tokens_per_batch": 200,
    "data.shuffle_buffer": 7,
    "data.labels": "{bad: awful}",
    "data.overflow": "drop",
    "data.packing": True,
    "data.template": "plain",
    "data.train_on": "everything",
    "data.system": "'Be short.'",
    "data.generation.max_new_tokens": 3,
    "data.generation.temperature": 1.0,
    "data.generation.examples": 1,
    "optim.learning_rate": 0.02,
    "optim.weight_decay": 0.5,
    "optim.beta1": 0.5,
    "optim.beta2": 0.5,
    "optim.warmup": 2,
    "optim.schedule": "constant",
    "optim.states": "8bit",
    "optim.final_learning_rate": 0.001,
    "trainer.max_epochs": 2,
    "trainer.min_epochs": 2,
    "trainer.max_steps": 1,
    "trainer.min_steps": 9,
    "trainer.accumulate_grad_batches": 2,
    "trainer.gradient_clip_val": 0.001,
    "trainer.gradient_clip_algorithm": "value",
    "trainer.val_check_interval": 0.5,
    "trainer.check_val_every_n_epoch": 2,
    "trainer.limit_train_batches": 1,
    "trainer.limit_val_batches": 1,
    "trainer.limit_test_batches": 1,
    "trainer.limit_predict_batches": 1,
    "trainer.overfit_batches": 1,
    "trainer.log_every_n_steps": 1,
    "trainer.num_sanity_val_steps": 1,
    "callbacks.checkpoint.monitor": "val/none",
    "callbacks.checkpoint.save_last": False,
    "callbacks.checkpoint.every_n_train_steps": 1,
    "callbacks.early_stopping.monitor": "val/none",
    "callbacks.early_stopping.mode": "min",
    "callbacks.early_stopping.min_delta": 9.0,
    "callbacks.guard.max_skipped": 0,
    "strategy.rank": 3,
    "strategy.alpha": 3,
    "strategy.dropout": 0.5,
    "strategy.target_modules": "[q_proj,query]",
    "strategy.rslora": True,
    "strategy.dora": True,
    "strategy.layers": 1,
    "strategy.merge": True,
    "strategy.top_blocks": 1,
    "strategy.pooling": "cls",
    "strategy.classifier": "mlp",
    "strategy.hidden": 3,
    "strategy.batch_size": 3,
    "strategy.options": "{C: 0.1}",
    "strategy.k": 1,
    "strategy.selection": "random",
    "strategy.hypothesis": "'of {label}'",
    "strategy.temperature": 0.5,
    "strategy.prompt": "'{text} is'",
    "strategy.quant_type": "fp4",
    "strategy.double_quant": False,
    "strategy.compute_dtype": "bfloat16",
    "strategy.dequantize": "never",
}
# Where things lie and what they are called, switches of the command, how a source is read, what
# says when and not what, and what only a fault or a second process would read.
LEFT_OUT = (
    "*_target_",
    "name",
    "dry",
    "preview",
    "resume",
    "choices.*",
    "tracking*",
    "hardware.*",
    "cache.enabled",
    "model.path",
    "model.revision",
    "model.family",
    "model.kind",
    "model.tokenizer",
    "model.trust_remote_code",
    "model.architecture",
    "model.compile",
    "data.train",
    "data.validation",
    "data.test",
    "data.columns*",
    "data.pattern",
    "data.encoding",
    "data.separator",
    "data.on_bad_row",
    "data.format",
    "data.prompt",
    "data.streaming",
    "data.num_workers",
    "trainer.enable_model_summary",
    "callbacks.checkpoint.every_minutes",
    "callbacks.checkpoint.mode",
    "callbacks.early_stopping.patience",
    "callbacks.guard.policy",
    "callbacks.guard.spike",
)
TIMES = ("time", "train/tokens_per_second", "train/memory_mb")
# What an end looks like that is no planned one.
ENDS = (UserError, MisconfigurationException, ValueError, RuntimeError)


class Refused(Exception):
    """The key does not exist here, or its value is refused: it cannot be set in vain."""


@contextmanager
def shapes() -> Iterator[list[Any]]:
    """The shapes of everything that is embedded."""
    seen: list[Any] = []

    def note(module: nn.Module, args: Any) -> None:
        if isinstance(module, nn.Embedding):
            seen.append(list(args[0].shape))

    hook = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        hook.remove()


def observed(folder: Path, *overrides: str) -> str:
    """All that can be seen of a run but its time and what merely repeats its config."""
    try:
        with shapes() as seen:
            result = runs.finished(folder, *overrides)
    except (*ENDS, SystemExit) as error:
        # What is refused or breaks a run is read.
        raise Refused(str(error)) from error
    weights = hashlib.sha256()
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    for name in names:
        if name.endswith((".safetensors", ".skops", "adapter_config.json")):
            weights.update(name.encode() + (folder / name).read_bytes())
        elif name.endswith("llmexp.json"):
            # It repeats the spec of the model it was made of.
            said = json.loads((folder / name).read_text()) | {"base": None}
            weights.update(json.dumps(said).encode())
    facts = {k: result[k] for k in ("metrics", "encoding", "examples", "fingerprint", "notes")}
    counts = ("tokens_trained", "trainable_parameters", "total_parameters", "estimated_flops")
    facts |= {name: result["cost"][name] for name in counts}
    facts |= {name: result["cost"][name] is None for name in ("money", "energy_kwh")}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    curves = [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
    answers = (folder / "predictions.jsonl").read_text()
    found = [facts, curves, names, seen, weights.hexdigest(), answers]
    return json.dumps(found, default=str, sort_keys=True)


def dead(*overrides: str) -> set[str]:
    (job,) = compose_jobs([*runs.COMMON, *overrides], "run", None, False)
    experiment = build(job.tree, job.where)
    return {knob.key for knob in dead_knobs(experiment, Origins(job))}


def leaves(*overrides: str) -> set[str]:
    """Every key of a composed experiment, those of its classes too."""
    (job,) = compose_jobs([*runs.COMMON, *overrides], "run", None, False)
    e = build(job.tree, job.where)
    specs = dict(zip(GROUPS, (e.strategy, e.model, e.task, e.optim, e.tracking), strict=True))
    found = set()
    for item in Origins(job).values(specs):
        inner = item["value"] if isinstance(item["value"], dict) else {}
        found |= {f"{item['key']}.{name}" for name in inner} or {item["key"]}
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return doctoring.models(tmp_path_factory.mktemp("models"))


def posed(folder: Path, kind: str, given: list[str], strategy: str) -> list[str]:
    """A task on a few rows that are several steps an epoch: what acts between steps shall act."""
    data = [line for line in getattr(runs, kind)(folder) if "batch_size" not in line]
    if kind == "written":
        # Documents of their own, so that there is something to limit, to split and to repeat.
        texts = [tiny.TEXTS[n % 3][n:] + tiny.TEXTS[(n + 1) % 3] for n in range(24)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / "train.jsonl").write_text(lines)
        data[1] = f"data.train={folder / 'train.jsonl'}"
    for file in folder.glob("train.jsonl"):
        # A row that repeats another, for what drops such.
        file.write_text(file.read_text() + file.read_text().splitlines()[0] + "\n")
    more = [f"strategy={strategy}", "cache.enabled=false", "data.batch_size=4"]
    if strategy == "feature_based":
        more.append("strategy.batch_size=4")
    return [*given, *data, *more]


# Strategy, task, model -> what is set in vain beside what, and what is not in vain.
NAMED = [
    ("zero_shot", "classified", "llama", ["model.pooling=cls"], True),
    ("zero_shot", "classified", "bert", ["model.pooling=cls"], False),
    ("zero_shot", "answered", "llama", ["model.pooling=cls"], True),
    ("zero_shot", "classified", "bert", ["+trainer.limit_train_batches=2"], True),
    ("zero_shot", "classified", "bert", ["+trainer.min_epochs=2"], True),
    ("zero_shot", "classified", "bert", ["trainer.log_every_n_steps=2"], True),
    ("zero_shot", "classified", "bert", ["+trainer.limit_test_batches=2"], False),
    ("zero_shot", "classified", "bert", ["data.batch_size=2", "data.tokens_per_batch=300"], False),
    ("lora", "classified", "bert", ["data.batch_size=2", "data.tokens_per_batch=300"], True),
    ("lora", "answered", "llama", ["data.batch_size=2", "data.tokens_per_batch=300"], False),
    ("lora", "classified", "bert", ["callbacks.early_stopping.min_delta=1.0"], True),
    (
        "lora",
        "classified",
        "bert",
        ["callbacks.early_stopping.min_delta=1.0", "callbacks.early_stopping.patience=1"],
        False,
    ),
    ("lora", "classified", "bert", ["cache.dir=elsewhere", "cache.enabled=false"], True),
    ("lora", "classified", "bert", ["cache.dir=elsewhere", "cache.enabled=true"], False),
    ("lora", "classified", "bert", ["callbacks.guard.max_skipped=3"], True),
    (
        "lora",
        "classified",
        "bert",
        ["callbacks.guard.max_skipped=3", "callbacks.guard.policy=skip"],
        False,
    ),
    (
        "lora",
        "classified",
        "bert",
        ["+trainer.gradient_clip_algorithm=value", "trainer.gradient_clip_val=null"],
        True,
    ),
    ("lora", "classified", "bert", ["+trainer.gradient_clip_algorithm=value"], False),
    ("lora", "classified", "bert", ["objective=test/loss"], True),
    ("lora", "classified", "bert", ["tags=[a]"], True),
    ("lora", "classified", "bert", ["tags=[a]", "tracking=wandb"], False),
    ("lora", "classified", "bert", ["objective=test/loss", "tracking=wandb"], False),
    ("zero_shot", "classified", "bert", ["seed=3"], True),
    ("few_shot", "classified", "bert", ["seed=3"], False),
]


@pytest.mark.parametrize(("strategy", "kind", "model", "lines", "named"), NAMED)
def test_what_nothing_reads_is_named(
    tmp_path: Path,
    models: dict[str, list[str]],
    strategy: str,
    kind: str,
    model: str,
    lines: list[str],
    named: bool,
) -> None:
    data = getattr(runs, kind)(tmp_path / "data")
    key = lines[0].partition("=")[0].lstrip("+")
    found = dead(*models[model], *data, f"strategy={strategy}", *lines)
    assert (key in found) is named


def test_a_sweep_reads_its_objective(tmp_path: Path, models: dict[str, list[str]]) -> None:
    given = [*runs.COMMON, *models["bert"], *runs.classified(tmp_path / "data")]
    jobs = compose_jobs([*given, "objective=test/loss", "seed=0,1"], "run", None, True)
    for job in jobs:
        found = dead_knobs(build(job.tree, job.where), Origins(job))
        assert "objective" not in {knob.key for knob in found}


def test_a_main_page_of_one_s_own_chooses(
    tmp_path: Path, models: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its values are as chosen as those of an experiment; `run.yaml`'s are nobody's choice."""
    pages = tmp_path / "conf"
    shutil.copytree(conf_dir(), pages)
    (pages / "own.yaml").write_text("defaults: [run, _self_]\ntrainer: {min_epochs: 4}\n")
    for module in (compose, composed, loader, origins):
        monkeypatch.setattr(module, "conf_dir", lambda: pages)
    given = [*runs.COMMON, *models["bert"], *runs.classified(tmp_path / "data")]
    (job,) = compose_jobs(given, "own", None, False)
    found = dead_knobs(build(job.tree, job.where), Origins(job, "own"))
    assert [(knob.key, knob.origin) for knob in found] == [("trainer.min_epochs", "conf/own.yaml")]


CASES = [(s, kind, m) for s in STRATEGIES for kind, names in POSED.items() for m in names]


@pytest.mark.parametrize(("strategy", "kind", "model"), CASES)
def test_no_key_is_forgotten(
    tmp_path: Path, models: dict[str, list[str]], strategy: str, kind: str, model: str
) -> None:
    """Each key of each experiment is tried below, or left out for a reason."""
    try:
        found = leaves(*posed(tmp_path / "data", kind, models[model], strategy))
    except UserError:
        pytest.skip(f"{strategy} refuses this task")
    left = {k for k in found - VALUES.keys() if not any(fnmatchcase(k, p) for p in LEFT_OUT)}
    assert left == set()


# A minute each, so not each with each.
TRIED = [(name, "classified", "bert") for name in ("zero_shot", "few_shot", "head_only", "lora")]


@pytest.mark.long
@pytest.mark.parametrize(("strategy", "kind", "model"), TRIED)
def test_dead_is_what_changes_nothing(
    tmp_path: Path, models: dict[str, list[str]], strategy: str, kind: str, model: str
) -> None:
    """The truth is a run with another value: all that can be seen of it is the same, or not."""
    given = posed(tmp_path / "data", kind, models[model], strategy)
    try:
        before = observed(tmp_path / "plain", *given)
    except Refused:
        pytest.skip(f"{strategy} refuses this task")
    vain, wrongly = set(), set()
    there = leaves(*given)
    for key, value in VALUES.items():
        if key not in there and not key.startswith("trainer."):
            continue
        given_too = str(value).replace("{folder}", str(tmp_path))
        override = f"{key if key in there else f'+{key}'}={given_too}"
        try:
            named = key in dead(*given, override)
        except UserError:
            # Refused: it cannot be set in vain.
            continue
        try:
            same = observed(tmp_path / key, *given, override) == before
        except Refused:
            same = False
        if same != named:
            (wrongly if named else vain).add(key)
    assert (vain, wrongly) == (set(), set())
