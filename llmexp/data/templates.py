"""Conversations as text and as tokens, with the turns that are to be learned marked."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from llmexp.artefact import broken
from llmexp.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOLDER = Path(__file__).parents[1] / "templates"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.jinja")))
# A private-use character: templates trim and split text, but leave it alone.
PROBE = "\ue000"
Messages = list[dict[str, str]]


def install(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    """Make `template` the tokenizer's own, so that whoever loads it renders as in training.

    `auto` keeps the one the tokenizer has. A name or file gets the tokenizer's BOS in front where
    the tokenizer itself puts one: ids are always made without special tokens of their own.
    """
    if template == "auto":
        if tokenizer.chat_template is not None:
            return
        template = "alpaca"
    path = FOLDER / f"{template}.jinja" if template in NAMES else Path(template)
    source = path.read_text(encoding="utf-8")
    if "<|im_end|>" in source and "<|im_end|>" not in tokenizer.get_vocab():
        raise UserError(
            f"data.template: {template} needs a tokenizer with the token <|im_end|>, and this one "
            "has none; use data.template=alpaca or data.template=plain"
        )
    tokenizer.chat_template = source
    if adds_bos(tokenizer) and not _writes_bos(tokenizer):
        tokenizer.chat_template = "{{- bos_token }}" + source


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts BOS before a text by itself."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def writes_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether conversations are rendered with the date of the day they are rendered on."""
    return "strftime_now" in str(tokenizer.chat_template)


def _writes_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template begins a conversation with BOS, however it names it."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    return render(tokenizer, turns).lstrip().startswith(str(tokenizer.bos_token))


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, prompt: bool = False) -> str:
    """The conversation as text; with `prompt`, opened for the assistant's next turn."""
    from jinja2 import TemplateError

    faults: tuple[type[Exception], ...] = (TemplateError, ArithmeticError, *broken())
    try:
        return str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        )
    except faults as error:
        raise UserError(
            f"data.template: the template refuses a conversation ({error}); "
            "try data.template=alpaca"
        ) from error


class Template:
    """The template of a tokenizer, and how it ends an assistant's turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if not tokenizer.is_fast:
            raise UserError(
                f"model: {type(tokenizer).__name__} tells no character offsets, which answers "
                "are found by; use a checkpoint that has a tokenizer.json"
            )
        self.tokenizer = tokenizer
        self.terminator = self._terminator()
        if self.terminator is None and tokenizer.eos_token_id is None:
            raise UserError("model: this tokenizer has no end-of-text token to end an answer with")

    def render(self, messages: Messages, prompt: bool = False) -> str:
        """The conversation as text; with `prompt`, opened for the assistant's next turn."""
        return render(self.tokenizer, messages, prompt)

    def stop_ids(self) -> list[int]:
        """Any of these ends an answer."""
        ids = [self.tokenizer.eos_token_id]
        if self.terminator is not None:
            ids.append(self.tokenizer.convert_tokens_to_ids(self.terminator))
        return sorted({int(i) for i in ids if i is not None})

    def answer_spans(self, messages: Messages, text: str) -> list[tuple[int, int]]:
        """From where to where in the rendered `text` each assistant turn lies, terminator too."""
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        spans = [self._span(messages, i, text) for i in turns]
        for (_, end), (start, _) in pairwise(spans):
            if start < end:
                raise UserError(
                    "data.template: the template writes one answer inside another; "
                    "try data.template=alpaca"
                )
        return spans

    def encode(self, messages: Messages) -> tuple[list[int], list[list[bool]]]:
        """Token ids of a conversation, and for each assistant turn a mask of its tokens.

        Where the template does not end a turn with a special token, EOS is put at the very end.
        """
        text = self.render(messages)
        spans = self.answer_spans(messages, text)
        text = text[: spans[-1][1]]
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
        turns = [[a < end and b > start for a, b in offsets] for start, end in spans]
        if self.terminator is None or not text.endswith(self.terminator):
            ids.append(self._eos())
            turns = [[*turn, False] for turn in turns]
            turns[-1][-1] = True
        return ids, turns

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Token ids that ask for the assistant's next turn."""
        text = self.render(messages, prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def asks_as_trained(self, messages: Messages) -> bool:
        """Whether the tokens that ask for the last turn are those that stand before it in training.

        They are not where a prompt ends in a space that the tokenizer puts into the next word.
        """
        if len(messages) < 2:
            return True
        asked = self.prompt_ids(messages[:-1])
        return self.encode(messages)[0][: len(asked)] == asked

    def _terminator(self) -> str | None:
        """The special token that follows an assistant's words, if the template writes one."""
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": PROBE}]
        tail = self.render(turns).rpartition(PROBE)[2].lstrip()
        known = {token.content for token in self.tokenizer.added_tokens_decoder.values()}
        ends = [token for token in known if tail.startswith(token)]
        return max(ends, key=len) if ends else None

    def _eos(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                "data.template: the template does not end every last answer, and the tokenizer has "
                "no end-of-text token to end it with; try data.template=alpaca"
            )
        return int(self.tokenizer.eos_token_id)

    def _span(self, messages: Messages, i: int, text: str) -> tuple[int, int]:
        """Where turn `i` lies. Its words may stand anywhere, so they are not what is looked for:
        the same conversation with another answer there tells what stands before and behind.
        """
        head, tail = self._around(messages, i, text)
        start, close = self._start(messages, i, text, head), len(text) - len(tail)
        if start is None or start > close or not text.endswith(tail):
            raise UserError(
                "data.template: the template changes an answer so that it cannot be found in the "
                f"rendered text: {messages[i]['content'].strip()[:60]!r}; try data.template=alpaca"
            )
        end = len(text) - len(tail.lstrip())
        if self.terminator is not None and text.startswith(self.terminator, end):
            return start, end + len(self.terminator)
        return start, start + len(text[start:close].rstrip())

    def _start(self, messages: Messages, i: int, text: str, head: str) -> int | None:
        """Right behind the prompt that would ask for this turn, so training meets generation."""
        prompt = self.render(messages[:i], prompt=True) if i else ""
        if prompt and text.startswith(prompt):
            return len(prompt)
        # Some templates write the prompt or earlier turns otherwise than the whole conversation.
        if not text.startswith(head):
            return None
        found = text[len(head) :].lstrip().startswith(messages[i]["content"].strip())
        return len(head) if found else None

    def _around(self, messages: Messages, i: int, text: str) -> tuple[str, str]:
        """What the template writes before and behind turn `i`, whatever that says."""
        probe = next(chr(c) for c in range(ord(PROBE), 0xF8FF) if chr(c) not in text)
        turns = [*messages[:i], {**messages[i], "content": probe}, *messages[i + 1 :]]
        head, *tails = self.render(turns).split(probe)
        if len(tails) != 1:
            raise UserError(
                f"data.template: the template writes an answer {len(tails)} times, not once; "
                "try data.template=alpaca"
            )
        return head, tails[0]


def check_template(template: str) -> list[str]:
    """Complaints about a template's name or file."""
    if template in ("auto", *NAMES) or Path(template).is_file():
        return []
    known = ", ".join(("auto", *NAMES))
    return [f"data.template: {template!r} is neither one of {known} nor a file"]
