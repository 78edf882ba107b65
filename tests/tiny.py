"""Tiny transformers folders made on the spot: random Llama, GPT-2 and BERT, and a real story model.

Each function writes config, safetensors and tokenizer into a folder and returns it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from llmexp.tokenizers import byte_bpe

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
TEXTS = [
    "the quick brown fox jumps over the lazy dog and runs away from the big bear",
    "a question is asked and an answer is given: what is the name of the river in this story?",
    "Describe what this Python function does. It returns the number of items in a list.",
]


def tokenizer(bert: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 300 tokens; as an encoder's it frames a text with [CLS] and [SEP]."""
    made = byte_bpe(TEXTS, 300)
    if bert:
        made.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
        marks = [(name, made.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
        )
    return made


def _save(net: Any, made: PreTrainedTokenizerFast, folder: Path) -> Path:
    net.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def _ids(made: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(made),
        "bos_token_id": made.eos_token_id,
        "eos_token_id": made.eos_token_id,
        "pad_token_id": made.pad_token_id,
    }


def llama(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A random Llama of three blocks, width 32."""
    torch.manual_seed(seed)
    made = tokenizer()
    shape = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
    }
    return _save(LlamaForCausalLM(LlamaConfig(**{**_ids(made), **shape, **changes})), made, folder)


def gpt2(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A random GPT-2 of three blocks, width 32, without dropout."""
    torch.manual_seed(seed)
    made = tokenizer()
    shape = {
        "n_embd": 32,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 256,
        "initializer_range": 0.2,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }
    return _save(GPT2LMHeadModel(GPT2Config(**{**_ids(made), **shape, **changes})), made, folder)


def bert(folder: Path, seed: int = 0, labels: int = 2, **changes: Any) -> Path:
    """A random BERT classifier of three blocks, width 32, without dropout."""
    torch.manual_seed(seed)
    made = tokenizer(bert=True)
    shape = {**_encoder(made), "num_labels": labels}
    return _save(BertForSequenceClassification(BertConfig(**{**shape, **changes})), made, folder)


def deberta(folder: Path) -> Path:
    """The same as a DeBERTa, whose blocks read relative positions registered after them."""
    torch.manual_seed(0)
    made = tokenizer(bert=True)
    relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
    relative |= {"norm_rel_ebd": "layer_norm", "position_buckets": 8, "conv_kernel_size": 3}
    config = DebertaV2Config(**_encoder(made), **relative, position_biased_input=False)
    return _save(DebertaV2ForSequenceClassification(config), made, folder)


def _encoder(made: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(made),
        "pad_token_id": made.pad_token_id,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def stories260k(folder: Path) -> Path | None:
    """The 260,032-parameter story model of llama2.c as a Llama folder; None where it is absent."""
    weights, vocabulary = (SHARED / "stories260k" / n for n in ("stories260K.bin", "tok512.bin"))
    if not weights.is_file():
        return None
    data = weights.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, longest = struct.unpack_from("7i", data)
    config = LlamaConfig(
        hidden_size=dim,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocab,
        max_position_embeddings=longest,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    net = LlamaForCausalLM(config)
    flat = torch.frombuffer(bytearray(data[28:]), dtype=torch.float32)
    net.load_state_dict(_llama2c_state(flat, config), strict=False)
    net.tie_weights()
    return _save(net, _sentencepiece(vocabulary.read_bytes()), folder)


def _llama2c_state(flat: torch.Tensor, config: LlamaConfig) -> dict[str, torch.Tensor]:
    dim, hidden, n = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    kv = dim // config.num_attention_heads * config.num_key_value_heads
    at = 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal at
        size = torch.Size(shape).numel()
        at += size
        return flat[at - size : at].view(shape)

    state = {"model.embed_tokens.weight": take(config.vocab_size, dim)}
    parts = [
        ("input_layernorm", take(n, dim)),
        ("self_attn.q_proj", _halves(take(n, dim, dim), config.num_attention_heads)),
        ("self_attn.k_proj", _halves(take(n, kv, dim), config.num_key_value_heads)),
        ("self_attn.v_proj", take(n, kv, dim)),
        ("self_attn.o_proj", take(n, dim, dim)),
        ("post_attention_layernorm", take(n, dim)),
        ("mlp.gate_proj", take(n, hidden, dim)),
        ("mlp.down_proj", take(n, dim, hidden)),
        ("mlp.up_proj", take(n, hidden, dim)),
    ]
    for name, stack in parts:
        state |= {f"model.layers.{i}.{name}.weight": stack[i] for i in range(n)}
    return state | {"model.norm.weight": take(dim)}


def _halves(stack: torch.Tensor, heads: int) -> torch.Tensor:
    """Rotary pairs (2i, 2i + 1) become (i, i + half): transformers rotates halves."""
    n, out, dim = stack.shape
    pairs = stack.view(n, heads, out // heads // 2, 2, dim)
    return pairs.transpose(2, 3).reshape(n, out, dim)


def _sentencepiece(data: bytes) -> PreTrainedTokenizerFast:
    """llama2.c's vocabulary: BPE in the order of its scores, unknown characters as bytes."""
    pieces: list[str] = []
    at = 4
    while at < len(data):
        _, size = struct.unpack_from("fi", data, at)
        pieces.append(data[at + 8 : at + 8 + size].decode().replace(" ", "\u2581"))
        at += 8 + size
    pieces[:3] = ["<unk>", "<s>", "</s>"]
    ids = {piece: i for i, piece in enumerate(pieces)}
    # Ids go by falling score, so an earlier piece is merged first, whichever halves make it.
    cuts = [(p[:k], p[k:]) for p in pieces[259:] for k in range(1, len(p))]
    merges = [(a, b) for a, b in cuts if a in ids and b in ids]
    made = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    space = "\u2581"
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend(space), normalizers.Replace(" ", space)]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace(space, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
