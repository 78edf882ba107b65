"""Random weights: what the architecture learns from this data alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmexp.config import RunConfig, spec
from llmexp.strategies.base import Strategy

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from llmexp.context import Context
    from llmexp.models import HFModel
    from llmexp.tasks.base import Examples, Task


@spec
class FromScratch(Strategy):
    """The model's architecture, every parameter trained from a random value.

    The tokenizer is `model.tokenizer` if that names one, else the checkpoint's own, else a
    byte-level BPE trained on the train rows; the embeddings take its size.
    """

    def check(self, model: HFModel, task: Task, config: RunConfig) -> list[str]:
        """An architecture is enough; the model's own check asks for one."""
        if model.quantized():
            return [
                f"strategy: {model.path} is quantised, and random weights cannot be; "
                "use the unquantised checkpoint's architecture"
            ]
        return []

    def unread(self, model: HFModel, task: Task) -> dict[str, str]:
        from llmexp.tokenizers import TRAINED

        found = Strategy.unread(self, model, task)
        if self.tokenizer_name(model) in TRAINED:
            del found["model.vocab_size"]
        return found

    def tokenizer_name(self, model: HFModel) -> str | None:
        """What the tokenizer is called, or None where it is the checkpoint's own."""
        return model.tokenizer or ("byte_bpe" if not has_tokenizer(model) else None)

    def tokenizer(self, model: HFModel, task: Task, examples: Examples) -> PreTrainedTokenizerBase:
        from llmexp.tokenizers import TRAINED

        name = self.tokenizer_name(model)
        if name not in TRAINED:
            return model.load_tokenizer()
        return TRAINED[name](task.texts(examples.train), model.vocab_size)

    def config(
        self, model: HFModel, task: Task, examples: Examples, tokenizer: PreTrainedTokenizerBase
    ) -> PretrainedConfig:
        config = model.config(**task.config_changes(examples.labels))
        text = config.get_text_config()
        text.vocab_size = len(tokenizer)
        text.bos_token_id = tokenizer.bos_token_id
        text.eos_token_id = tokenizer.eos_token_id
        text.pad_token_id = tokenizer.pad_token_id
        return config

    def load(self, context: Context) -> nn.Module:
        return context.model.random(context.task.auto_class(), context.config)

    def meant(self, net: nn.Module, context: Context) -> set[str] | None:
        return {name for name, _ in net.named_parameters()}


def has_tokenizer(model: HFModel) -> bool:
    """Whether the checkpoint brings one; a hub id is taken to."""
    if model.path is None:
        return False
    folder = Path(model.location())
    return not folder.is_dir() or any(folder.glob("*token*")) or any(folder.glob("vocab.*"))
