"""A key that is set and changes nothing is named dead, and no other: every strategy is tried."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from torch import nn

from llmexp.configure.compose import compose_jobs, conf_dir
from llmexp.configure.preflight import build
from llmexp.doctor.knobs import dead_knobs
from llmexp.doctor.origins import Origins
from llmexp.errors import UserError
from tests import runs, tiny

STRATEGIES = sorted(path.stem for path in (conf_dir() / "strategy").glob("*.yaml"))
POSED = {"classified": ("bert", "llama"), "answered": ("llama",), "written": ("llama",)}
# Another value of each key than the one it has; not how a source is read, nor what depends on it.
DATA = {
    "validation_fraction": 0.2,
    "split_seed": 5,
    "limit.train": 5,
    "limit.validation": 2,
    "limit.test": 5,
    "max_length": 20,
    "batch_size": 3,
    "tokens_per_batch": 300,
    "labels": "{bad: awful}",
    "packing": True,
    "template": "chatml",
    "train_on": "everything",
    "overflow": "drop",
    "generation.max_new_tokens": 3,
    "generation.temperature": 1.0,
    "generation.examples": 1,
    "system": "'Be short.'",
}
OPTIM = {
    "learning_rate": 0.02,
    "weight_decay": 0.5,
    "beta1": 0.5,
    "beta2": 0.5,
    "warmup": 2,
    "schedule": "constant",
    "states": "8bit",
    "final_learning_rate": 0.001,
}
TRAINER = {
    "max_epochs": 2,
    "max_steps": 1,
    "accumulate_grad_batches": 2,
    "gradient_clip_val": 0.001,
    "val_check_interval": 0.5,
}
STRATEGY = {
    "rank": 3,
    "alpha": 3,
    "dropout": 0.5,
    "target_modules": "[q_proj,query]",
    "rslora": True,
    "dora": True,
    "layers": 1,
    "merge": True,
    "top_blocks": 1,
    "pooling": "cls",
    "classifier": "mlp",
    "hidden": 3,
    "batch_size": 3,
    "options": "{C: 0.1}",
    "k": 1,
    "selection": "random",
    "hypothesis": "'of {label}'",
    "temperature": 0.5,
    "prompt": "'{text} is'",
    "quant_type": "fp4",
    "double_quant": False,
    "compute_dtype": "bfloat16",
}
KEYS = {
    f"{group}.{name}": value
    for group, values in {
        "data": DATA,
        "optim": OPTIM,
        "trainer": TRAINER,
        "strategy": STRATEGY,
    }.items()
    for name, value in values.items()
}


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


def observed(folder: Path, *overrides: str) -> Any:
    """All that can be seen of a run but its time."""
    try:
        with shapes() as seen:
            result = runs.finished(folder, *overrides)
    except UserError as error:
        raise Refused(str(error)) from error
    weights = hashlib.sha256()
    for path in sorted((folder / "model").rglob("*")):
        if path.suffix == ".safetensors":
            weights.update(path.name.encode())
            weights.update(path.read_bytes())
    names = ("metrics", "encoding", "data", "parameters", "steps", "epochs", "notes")
    facts = {name: result.get(name) for name in names}
    # Train rows are counted also where nobody trains on them; shapes and weights tell the rest.
    facts["encoding"].pop("train", None)
    lines = (folder / "predictions.jsonl").read_text()
    return json.dumps([facts, seen, weights.hexdigest(), lines], default=str, sort_keys=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("models")
    made = {"bert": tiny.bert(folder / "bert", labels=3), "llama": tiny.llama(folder / "llama")}
    return {name: ["model=local", f"model.path={path}"] for name, path in made.items()}


CASES = [(s, posed, m) for s in STRATEGIES for posed, names in POSED.items() for m in names]


@pytest.mark.long
@pytest.mark.parametrize(("strategy", "posed", "model"), CASES)
def test_dead_is_what_changes_nothing(
    tmp_path: Path, models: dict[str, list[str]], strategy: str, posed: str, model: str
) -> None:
    data = getattr(runs, posed)(tmp_path / "data")
    given = [*models[model], *data, f"strategy={strategy}", "cache.enabled=false"]
    file = OmegaConf.load(conf_dir() / "strategy" / f"{strategy}.yaml")
    if "batch_size" in file.strategy:
        # More than one step an epoch, or what acts between steps would seem dead.
        given += ["strategy.batch_size=4"]
    try:
        before = observed(tmp_path / "plain", *given)
    except Refused:
        pytest.skip(f"{strategy} refuses this task")
    vain, wrongly = set(), set()
    for key, value in KEYS.items():
        override = f"{key}={value}"
        try:
            dead = key in named_dead(*given, override)
            after = observed(tmp_path / key, *given, override)
        except (Refused, UserError):
            continue
        if (before == after) != dead:
            (wrongly if dead else vain).add(key)
    assert (vain, wrongly) == (set(), set())


def named_dead(*overrides: str) -> set[str]:
    lines = ["tracking=none", "hardware=cpu", *overrides]
    (job,) = compose_jobs(lines, "run", None, False)
    experiment = build(job.tree, job.where)
    return {knob.key for knob in dead_knobs(experiment, Origins(job))}
