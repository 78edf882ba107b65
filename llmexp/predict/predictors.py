"""Predictors of fine-tuned networks: whole folders and adapters on their base."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from llmexp.configure.trust import is_trusted
from llmexp.data.batches import pad
from llmexp.errors import UserError
from llmexp.export.card import is_adapter
from llmexp.models import HFModel
from llmexp.tasks.classification import label_answers
from llmexp.tasks.instruction import Instruction
from llmexp.tasks.language_modeling import LanguageModeling, Stream
from llmexp.unneeded import without_bitsandbytes

BATCH = 32
Write = Callable[[Any, list[str], Any, Any], list[str]]


class Classifier:
    """Class probabilities of texts; a pair of texts is given as a tuple."""

    def __init__(self, net: Any, tokenizer: Any, labels: list[str], max_length: int):
        self.net = net
        self.tokenizer = tokenizer
        self.labels = labels
        self.max_length = max_length

    def predict(self, texts: Sequence[Any]) -> list[dict[str, Any]]:
        """For each text its `prediction` and the `scores` of all labels."""
        found: dict[int, dict[str, Any]] = {}
        for rows in self._batches(texts):
            batch = pad(rows, self.tokenizer.pad_token_id or 0)
            scores = self._scores(batch)
            for row, answer in zip(rows, label_answers(rows, scores, self.labels), strict=True):
                found[row["index"]] = {k: answer[k] for k in ("prediction", "scores")}
        return [found[i] for i in range(len(texts))]

    def _batches(self, texts: Sequence[Any]) -> Iterator[list[dict[str, Any]]]:
        """Token rows, long ones together."""
        rows = []
        for index, text in enumerate(texts):
            first, second = text if isinstance(text, tuple) else (text, None)
            ids = self.tokenizer(first, second, truncation=True, max_length=self.max_length)
            rows.append({"text": first, "input_ids": ids["input_ids"], "index": index})
        rows.sort(key=lambda row: -len(row["input_ids"]))
        for start in range(0, len(rows), BATCH):
            yield rows[start : start + BATCH]

    @torch.inference_mode()
    def _scores(self, batch: dict[str, Any]) -> list[list[float]]:
        device = next(self.net.parameters()).device
        inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
        scores: list[list[float]] = self.net(**inputs).logits.float().softmax(-1).tolist()
        return scores


def load_classifier(folder: Path, facts: dict[str, Any]) -> Classifier:
    labels = facts["labels"]
    config = {"num_labels": len(labels), "id2label": dict(enumerate(labels))}
    config["label2id"] = {name: i for i, name in enumerate(labels)}
    net = load_network(folder, facts, AutoModelForSequenceClassification, **config)
    return Classifier(net, load_tokenizer(folder), labels, facts["max_length"])


def load_tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def load_network(folder: Path, facts: dict[str, Any], auto_class: Any, **config: Any) -> Any:
    """The trained network of a folder, ready to predict, on the best device there is."""
    if is_adapter(folder):
        config["pad_token_id"] = load_tokenizer(folder).pad_token_id
        base = load_base(facts, auto_class, **config)
        with without_bitsandbytes():
            from peft import PeftModel

            return PeftModel.from_pretrained(base, str(folder)).eval()
    base = recorded_base(facts)
    net = auto_class.from_pretrained(
        folder,
        attn_implementation=base.attends(),
        trust_remote_code=base.trust_remote_code,
        use_safetensors=True,
    )
    return net.to(device()).eval()


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_base(facts: dict[str, Any], auto_class: Any, **config: Any) -> Any:
    """The base that was trained on, quantised as it was, on the best device there is."""
    from transformers import BitsAndBytesConfig

    base = recorded_base(facts)
    net: Any
    if "quantization" not in facts:
        net = base.load(auto_class, base.config(**config))
        return net.to(device()).eval()
    quantization = BitsAndBytesConfig.from_dict(facts["quantization"])
    more = {"quantization_config": quantization, "device_map": {"": device()}}
    return base.load(auto_class, base.config(**config), **more).eval()


def recorded_base(facts: dict[str, Any]) -> HFModel:
    """The base as it was described; its code runs only where LLMEXP_ALLOW names its repository."""
    base = dict(facts["base"])
    trusted = is_trusted(base.get("path"), base.get("revision"))
    base["trust_remote_code"] = base.get("trust_remote_code") is True and trusted
    base["gradient_checkpointing"] = False
    try:
        return HFModel(**base).anywhere()
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UserError(
            f"llmexp.json: base.{field} is not understood by this version of llmexp"
        ) from error


class Writer:
    """Text written by a language model, one piece for each text."""

    def __init__(self, net: Any, tokenizer: Any, task: Any, write: Write):
        self.net = net
        self.tokenizer = tokenizer
        self.task = task
        self.write = write

    def predict(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """For each text the `prediction` that the task's generation settings give."""
        written = self.write(self.net, list(texts), self.tokenizer, self.task)
        return [{"prediction": text} for text in written]


def answers(net: Any, texts: list[str], tokenizer: Any, task: Instruction) -> list[str]:
    """The answer to each request."""
    opening = [] if task.system is None else [{"role": "system", "content": task.system}]
    ending = {"role": "assistant", "content": ""}
    rows = [{"messages": [*opening, {"role": "user", "content": t}, ending]} for t in texts]
    return [row["prediction"] for row in task.written(net, rows, tokenizer)]


def continuations(net: Any, texts: list[str], tokenizer: Any, task: LanguageModeling) -> list[str]:
    """How each text goes on."""
    stream = Stream(tokenizer)
    prompts = [[*stream.opening, *stream.tokens(text)] for text in texts]
    longest = task.longest(net, tokenizer)
    return task.generation.generate(net, prompts, tokenizer, stream.ending, longest)


def load_generator(folder: Path, facts: dict[str, Any]) -> Writer:
    net = load_network(folder, facts, AutoModelForCausalLM)
    # Where rows came from does not matter any more.
    task = Instruction(train="", **facts["data"])
    return Writer(net, load_tokenizer(folder), task, answers)


def load_language_model(folder: Path, facts: dict[str, Any]) -> Writer:
    net = load_network(folder, facts, AutoModelForCausalLM)
    task = LanguageModeling(train="", **facts["data"])
    return Writer(net, load_tokenizer(folder), task, continuations)
