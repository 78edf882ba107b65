"""`model/`: what a run trained, in Hugging Face or PEFT layout, with all it takes to load it."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmexp.export.card import write_card
from llmexp.models import HFModel
from llmexp.tasks.base import Task

if TYPE_CHECKING:
    from llmexp.context import Context

log = logging.getLogger("llmexp")
FACTS = "llmexp.json"


def export_network(module: Any, context: Context) -> None:
    """A whole network in Hugging Face layout."""
    with published(module, context, predictor=context.task.predictor) as folder:
        save_whole(module.net, folder)


def export_adapters(module: Any, context: Context) -> None:
    """Adapters and the modules trained whole, in PEFT layout; the base stays where it is."""
    net = module.net
    own = getattr(context.config, "quantization_config", None)
    ours = getattr(net.config, "quantization_config", None) if own is None else None
    more: dict[str, Any] = {} if ours is None else {"quantization": _plain(ours)}
    with published(module, context, predictor=context.task.predictor, **more) as folder:
        net.peft_config["default"].base_model_name_or_path = findable(context.model.location())
        # Looking for resized embeddings would ask the hub for the base's config (peft #1452).
        net.save_pretrained(folder, save_embedding_layers=False)


def export_merged(module: Any, context: Context) -> None:
    """`model-merged/`: the adapters added to the base in full precision.

    Never to the 4-bit weights, whose rounding would swallow the update (peft #2321).
    """
    from peft import PeftModel

    from llmexp.export.agreement import agreement

    # Lightning leaves the trained network, its measure, on the CPU.
    base = context.model.anywhere().load(context.task.auto_class(), context.config)
    whole = PeftModel.from_pretrained(base, str(context.folder / "model")).merge_and_unload(
        safe_merge=True
    )
    said = agreement(module.net, whole, context)
    log.info(f"model-merged/: {said['sentence']}")
    name, predictor = "model-merged", context.task.predictor
    with published(module, context, predictor=predictor, name=name, merged=said) as folder:
        save_whole(whole, folder)


def save_whole(net: Any, folder: Path) -> None:
    """Weights and config, as a network that was never told to save memory in training."""
    net.config.get_text_config().use_cache = True
    net.save_pretrained(folder)


@contextmanager
def published(
    module: Any, context: Context, *, predictor: str, name: str = "model", **facts: Any
) -> Iterator[Path]:
    """A folder to fill; tokenizer, `llmexp.json` and the card are added and it becomes `name`.

    It takes its name only when it is whole: nobody finds it half-written. Everything in `facts`
    is written to `llmexp.json`, beside what every loader needs.
    """
    target, temporary = context.folder / name, context.folder / f".{name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        context.tokenizer.save_pretrained(temporary)
        known = common_facts(context, predictor) | facts
        (temporary / FACTS).write_text(
            json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        write_card(temporary, module, context, known)
        _open_modes(temporary)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def common_facts(context: Context, predictor: str) -> dict[str, Any]:
    """What any loader needs: plain values only, so that the file is data and never code."""
    return {
        "schema": 1,
        "predictor": predictor,
        "task": context.task.kind,
        "labels": context.examples.labels,
        "base": base_facts(context.model),
        "max_length": context.max_length,
        "data": task_settings(context.task),
    }


def task_settings(task: Task) -> dict[str, Any]:
    """The fields a task has beyond those of every data node: they shape what it predicts."""
    shared = {field.name for field in fields(Task)}
    return {name: value for name, value in asdict(task).items() if name not in shared}


def base_facts(model: HFModel) -> dict[str, Any]:
    """The fields by which the base is loaded again, from any working directory."""
    base = {field.name: getattr(model, field.name) for field in fields(HFModel)}
    if model.path is not None:
        # A package is found by its name on any machine; whatever else lies here has one folder.
        if model.location() != HFModel(**base).location():
            base |= {"path": model.location(), "architecture": {}}
        base["path"] = findable(base["path"])
    return base


def findable(path: str | None) -> str | None:
    """A path that means the same from any working directory; hub ids and packages do already."""
    folder = Path(path or "").expanduser()
    return str(folder.resolve()) if path and folder.is_dir() else path


def _plain(quantization: Any) -> dict[str, Any]:
    """A quantisation config as JSON holds it."""
    given = quantization if isinstance(quantization, dict) else quantization.to_dict()
    return {k: v for k, v in given.items() if not k.startswith("_") and v is not None}


def _open_modes(folder: Path) -> None:
    """Files as readable as any other of this user: safetensors leaves them 0600."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
