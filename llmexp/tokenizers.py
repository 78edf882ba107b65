"""Tokenizers made from the train rows, for networks that start from nothing.

Both are ordinary fast tokenizers: they save and load as any checkpoint's tokenizer does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from llmexp.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

EOS, PAD, UNK = "<|endoftext|>", "<|pad|>", "<|unk|>"
# The 256 bytes and the special tokens: any text can be spelled with them.
SMALLEST = 259


def byte_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Byte-level BPE (as in GPT-2) trained on the texts; the same texts give the same tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < SMALLEST:
        raise UserError(
            f"model.vocab_size: byte_bpe needs at least {SMALLEST} tokens, not {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS, PAD, UNK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _fast(tokenizer)


def char(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """One token a character; characters the texts do not have become the unknown token.

    `vocab_size` bounds it: the rarest characters are left out.
    """
    from collections import Counter

    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    kept = sorted(counts, key=lambda c: (-counts[c], c))[: max(0, vocab_size - 3)]
    vocabulary = {name: i for i, name in enumerate([EOS, PAD, UNK, *sorted(kept)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    # A dot would leave line breaks out, and this engine has no (?s).
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return _fast(tokenizer)


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
    )


TRAINED: dict[str, Callable[[Iterable[str], int], Any]] = {"byte_bpe": byte_bpe, "char": char}
