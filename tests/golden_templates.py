"""What is read and what is learned, one line a token: `python -m tests.golden_templates` writes
tests/golden/*.txt again. Read the difference before it is committed: it is what changes for users.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llmexp.data.templates import Template
from llmexp.tasks.base import IGNORE
from llmexp.tasks.instruction import Instruction

HERE = Path(__file__).parent
TEMPLATES, GOLDEN = HERE / "templates", HERE / "golden"
MODES = ("answers", "last_answer", "everything")


class Family(NamedTuple):
    """The special tokens of a family; a tokenizer with a BOS puts it before every text."""

    eos: str
    bos: str | None
    more: tuple[str, ...] = ()


FAMILIES = {
    "llama-2": Family("</s>", "<s>"),
    "llama-3": Family(
        "<|end_of_text|>",
        "<|begin_of_text|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "mistral": Family("</s>", "<s>", ("[INST]", "[/INST]")),
    "chatml": Family("<|im_end|>", None, ("<|im_start|>", "<|endoftext|>")),
    "gemma": Family("<eos>", "<bos>", ("<start_of_turn>", "<end_of_turn>")),
    "alpaca": Family("</s>", "<s>"),
}
# Those that are shipped, each with the tokenizer of a family.
SHIPPED = {"alpaca": "alpaca", "chatml": "chatml", "plain": "alpaca"}
SNAPSHOTS = FAMILIES | {f"llmexp-{name}": FAMILIES[like] for name, like in SHIPPED.items()}
CHATS = {
    "one turn": [
        {"role": "user", "content": "Name a river."},
        {"role": "assistant", "content": "The Nile."},
    ],
    "a system turn and two answers": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a river."},
        {"role": "assistant", "content": "The Nile."},
        {"role": "user", "content": "Another?"},
        {"role": "assistant", "content": "The Po."},
    ],
}


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Words, spaces and marks that the conversations are made of, anything else as bytes."""
    facts = SNAPSHOTS[family]
    special = [token for token in (facts.bos, facts.eos, *facts.more) if token is not None]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in vocabulary:
                merges.append((word[: end - 1], word[end - 1]))
                vocabulary[word[:end]] = len(vocabulary)
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=facts.bos,
        eos_token=facts.eos,
        pad_token=facts.eos,
        additional_special_tokens=list(facts.more),
    )
    if facts.bos is not None:
        wrapped.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{facts.bos} $A",
            pair=f"{facts.bos} $A $B",
            special_tokens=[(facts.bos, wrapped.bos_token_id)],
        )
    return wrapped


# As byte-level BPE writes them, with its letter for a space in front.
SPACED = ("user", "assistant", "system", "model", "Name", "The", "Be", "Another", "You")
PLAIN = ("Ġa", "Ġriver", "ĠNile", "ĠPo", "Ġbrief", "Ġhelp", "Ġ[", "INST", "SYS", "Instruction")
WORDS = [*SPACED, *(f"Ġ{word}" for word in SPACED), *PLAIN, "Response", "ĠInstruction", "###"]
WORDS += ["ĠResponse"]


def task(family: str, train_on: str = "answers") -> Instruction:
    own = str(TEMPLATES / f"{family}.jinja")
    template = family.removeprefix("llmexp-") if family.startswith("llmexp-") else own
    fields: dict[str, Any] = {"template": template, "train_on": train_on}
    return Instruction(train="made.jsonl", **fields)


def snapshot(family: str) -> str:
    """Each position's token, then what it must predict under each `train_on`; a dot is nothing."""
    made = tokenizer(family)
    parts = [f"# {family}: a token, and what it learns to predict with train_on={', '.join(MODES)}"]
    for name, messages in CHATS.items():
        rows = [
            task(family, mode).encode([{"messages": messages}], made, 500, []).rows[0]
            for mode in MODES
        ]
        parts += ["", f"## {name}"]
        for t, token in enumerate(rows[0]["input_ids"]):
            cells = [_shown(made, i) for i in (token, *(row["labels"][t] for row in rows))]
            parts.append(" | ".join(f"{cell:<19}" for cell in cells).strip())
        asked = Template(made).prompt_ids(messages[:-1])
        parts += ["", f"## {name}, asked", *(_shown(made, token) for token in asked)]
    return "\n".join(parts) + "\n"


def _shown(made: PreTrainedTokenizerFast, token: int) -> str:
    return "." if token == IGNORE else repr(made.decode([token]))


def main() -> None:
    for family in SNAPSHOTS:
        (GOLDEN / f"{family}.txt").write_text(snapshot(family), encoding="utf-8")


if __name__ == "__main__":
    main()
