"""`debug=smoke`: a tiny random checkpoint of the same family stands in for the real one."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import string
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmexp.config import spec
from llmexp.data.specimens import SENTENCES
from llmexp.errors import UserError
from llmexp.models import HFModel

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("llmexp")
# By the names all families share (transformers' attribute_map); each takes what it has.
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "hidden_dim": 64,
    "max_position_embeddings": 600,
}
VOCABULARY = 600


@spec
class TinyModel(HFModel):
    """The model its YAML describes, two blocks deep and 32 wide, with random weights.

    The checkpoint is a real one, made on first use: config, safetensors and a tokenizer of the
    family's kind. Quantised checkpoints (GPTQ) get a stand-in that is not.
    """

    folder: str
    """Where the checkpoints are kept."""

    def check(self) -> list[str]:
        if self.model_type() is None:
            return ["model.family: debug=smoke must know it, for example model.family=llama"]
        return []

    def facts(self) -> dict[str, Any]:
        """Of the model that is stood in for, as far as they are on disk."""
        found: dict[str, Any] = {}
        config = Path(HFModel.location(self)) / "config.json" if self.path else None
        if config is not None and config.is_file():
            found = json.loads(config.read_text(encoding="utf-8"))
            found.pop("quantization_config", None)
        return {**found, **self.architecture}

    def model_type(self) -> str | None:
        return self.family or self.facts().get("model_type")

    def location(self) -> str:
        """The stand-in's folder, made if it is not there yet."""
        family, decoder = self.model_type() or "", self.is_decoder() is not False
        facts = json.dumps([family, decoder, SHAPE, VOCABULARY]).encode()
        folder = Path(self.folder) / f"{family}-{hashlib.sha256(facts).hexdigest()[:8]}"
        if not (folder / "config.json").is_file():
            make_checkpoint(folder, family, decoder)
        return str(folder)

    def config(self, **changes: Any) -> PretrainedConfig:
        """Of the stand-in: the real model's `architecture` would make it large again."""
        return HFModel(path=self.location(), dropout=self.dropout).config(**changes)

    def load(self, auto_class: Any, config: PretrainedConfig, **more: Any) -> PreTrainedModel:
        net = super().load(auto_class, config, **more)
        size = sum(p.numel() for p in net.parameters())
        log.warning(
            "debug=smoke: %s is stood in for by a random, unquantised %s of %s parameters",
            self.path,
            self.model_type(),
            f"{size:,}",
        )
        return net


def make_checkpoint(folder: Path, family: str, decoder: bool) -> None:
    """Write the checkpoint beside `folder` and rename it: concurrent runs see all of it or none."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    tokenizer = make_tokenizer(family, decoder)
    auto = AutoModelForCausalLM if decoder else AutoModel
    # The same for every run that shares it, and no run draws other numbers for having made it.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = auto.from_config(make_config(family, tokenizer))
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        tokenizer.save_pretrained(unfinished)
        net.save_pretrained(unfinished)
        unfinished.rename(folder)
    except OSError:
        shutil.rmtree(unfinished)
        if not folder.is_dir():
            raise


def make_config(family: str, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    """The family's config in the tiny shape."""
    from transformers import AutoConfig

    try:
        usual = AutoConfig.for_model(family)
    except ValueError as error:
        raise UserError(f"model.family: transformers knows no model_type {family}") from error
    shape = {usual.attribute_map.get(name, name): size for name, size in SHAPE.items()}
    shape = {name: size for name, size in shape.items() if hasattr(usual, name)}
    marks = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
    ids = {name: getattr(tokenizer, name, None) for name in marks}
    return AutoConfig.for_model(family, vocab_size=len(tokenizer), **shape, **ids)


def make_tokenizer(family: str, decoder: bool) -> PreTrainedTokenizerBase:
    """A tokenizer of the family's own kind, trained on a few sentences."""
    import transformers
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    # Families without a class of their own have several kinds of tokenizer on the hub.
    name = TOKENIZER_MAPPING_NAMES.get(family)
    if name in (None, "TokenizersBackend", "PreTrainedTokenizerFast"):
        name = "LlamaTokenizer" if decoder else "BertTokenizer"
    texts = [*SENTENCES, *string.printable, string.printable]
    return getattr(transformers, name)().train_new_from_iterator(texts, VOCABULARY)
