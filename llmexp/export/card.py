"""The model card of an export: what it is, how good it is, how to load it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmexp.models import PACKAGE_PREFIX

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

    from llmexp.context import Context

# Predictor -> the hub's word for what the model does.
PIPELINES = {
    "classifier": "text-classification",
    "features": "text-classification",
    "nearest": "text-classification",
    "likelihood": "text-classification",
}
LIMITS = """Measured on the test rows named above and on nothing else: on other text, in other \
languages or from other sources it may do much worse. It inherits the licence, the limits and the \
biases of its base model and of its data, which were not examined here."""


def write_card(folder: Path, module: Any, context: Context, facts: dict[str, Any]) -> None:
    """`README.md` with metadata the hub reads; works offline."""
    from huggingface_hub import ModelCard

    metrics = {**module.test_metrics, **module.validation_metrics}
    data = metadata(folder, context, facts, module.test_metrics)
    text = "\n\n".join(
        [
            f"# {title(context)}",
            description(context, facts),
            "## Results",
            results(metrics, context.task.baseline(context.examples)),
            "## Loading it",
            loading(folder, context, facts),
            "## Limits",
            LIMITS,
        ]
    )
    ModelCard(f"---\n{data}\n---\n\n{text}\n", ignore_metadata_errors=True).save(
        folder / "README.md"
    )


def title(context: Context) -> str:
    return f"{base_name(context)}: {strategy_name(context)}, {context.task.kind.replace('_', ' ')}"


def strategy_name(context: Context) -> str:
    return type(context.strategy).__name__


def base_name(context: Context) -> str:
    """How people call the base: the hub id, or the last part of where it lies."""
    path = context.model.path
    if path is None:
        return f"a new {context.model.architecture.get('model_type', 'network')}"
    if path.startswith(PACKAGE_PREFIX):
        return path.removeprefix(PACKAGE_PREFIX).partition("/")[0].replace("_", "-")
    return path if is_hub_id(path) else Path(path).resolve().name


def is_hub_id(path: str) -> bool:
    return path.count("/") == 1 and ":" not in path and not Path(path).exists()


def metadata(
    folder: Path, context: Context, facts: dict[str, Any], metrics: dict[str, float]
) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    pipeline = PIPELINES.get(facts["predictor"], "text-generation")
    path = context.model.path
    scores = [
        EvalResult(
            task_type=pipeline,
            dataset_type="data",
            dataset_name=data_name(context),
            metric_type=name.removeprefix("test/"),
            metric_value=round(value, 6),
        )
        for name, value in metrics.items()
        if "/" not in name.removeprefix("test/")
    ]
    return ModelCardData(
        model_name=title(context),
        base_model=path if path and is_hub_id(path) else None,
        library_name="peft" if is_adapter(folder) else "transformers",
        pipeline_tag=pipeline,
        tags=["llmexp", strategy_name(context)],
        eval_results=scores or None,
    )


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def data_name(context: Context) -> str:
    """The source of the train rows, without the folders of this machine."""
    source = context.task.train
    return source if ":" in source else Path(source).name


def description(context: Context, facts: dict[str, Any]) -> str:
    counts = context.examples.counts().items()
    rows = ", ".join(f"{'streamed' if n is None else n} {name}" for name, n in counts)
    test = context.examples.fingerprint.get("test", "")[:16]
    what = (type(context.strategy).__doc__ or "").strip().splitlines()[0]
    lines = [
        f"- **base model**: {base_name(context)}"
        + (f", revision {context.model.revision}" if context.model.revision else ""),
        f"- **strategy**: {strategy_name(context)}: {what}",
        f"- **data**: {data_name(context)} ({rows} rows; fingerprint of the test rows {test})",
        f"- **inputs**: up to {context.max_length} tokens; seed {context.seed}",
    ]
    if context.examples.labels:
        lines.append(f"- **labels**: {', '.join(context.examples.labels)}")
    if "quantization" in facts:
        kind = facts["quantization"].get("bnb_4bit_quant_type", "4-bit")
        lines.append(f"- **base weights**: loaded in 4 bits ({kind}); adapters and head in full")
    if "merged" in facts:
        lines.append(f"- **merged**: {facts['merged']['sentence']}")
    return "\n".join(lines)


def results(metrics: dict[str, float], baseline: dict[str, float]) -> str:
    """Every metric beside the best answer that looks at no input."""
    lines = ["| metric | this model | baseline |", "|---|---|---|"]
    for name, value in metrics.items():
        beside = f"{baseline[name]:.4f}" if name in baseline else ""
        lines.append(f"| {name} | {value:.4f} | {beside} |")
    return "\n".join(lines)


def loading(folder: Path, context: Context, facts: dict[str, Any]) -> str:
    ours = 'import llmexp\n\nllmexp.load("model").predict(["some text"])'
    plain = plain_loading(folder, context, facts)
    if plain is None:
        return f"```python\n{ours}\n```"
    return f"With plain libraries:\n\n```python\n{plain}\n```\n\nOr:\n\n```python\n{ours}\n```"


def plain_loading(folder: Path, context: Context, facts: dict[str, Any]) -> str | None:
    """Code that needs nothing of ours; None where the folder holds no transformers network."""
    whole, adapter = (folder / "config.json").is_file(), is_adapter(folder)
    if not whole and not adapter:
        return None
    auto = context.task.auto_class().__name__
    names = [auto, "AutoTokenizer", *(["BitsAndBytesConfig"] if "quantization" in facts else [])]
    lines = [f"from transformers import {', '.join(sorted(names))}"]
    if not adapter:
        lines += ["", f'net = {auto}.from_pretrained("model")']
    else:
        lines += ["from peft import PeftConfig, PeftModel", ""]
        lines += ['place = PeftConfig.from_pretrained("model").base_model_name_or_path']
        lines += [f"base = {auto}.from_pretrained(place{_base_arguments(context, facts)})"]
        lines += ['net = PeftModel.from_pretrained(base, "model").eval()']
    return "\n".join([*lines, 'tokenizer = AutoTokenizer.from_pretrained("model")'])


def _base_arguments(context: Context, facts: dict[str, Any]) -> str:
    said = ""
    if context.examples.labels:
        said += f", num_labels={len(context.examples.labels)}"
    if context.model.revision:
        said += f', revision="{context.model.revision}"'
    if context.model.dtype != "auto":
        said += f', dtype="{context.model.dtype}"'
    if "quantization" in facts:
        keep = ("load_in_4bit", "bnb_4bit_", "llm_int8_skip_modules")
        values = {k: v for k, v in facts["quantization"].items() if k.startswith(keep)}
        written = ", ".join(f"{k}={v!r}" for k, v in values.items())
        said += f", quantization_config=BitsAndBytesConfig({written})"
    return said
