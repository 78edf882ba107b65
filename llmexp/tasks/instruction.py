"""A request and its answer; the loss counts answer tokens."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from llmexp.config import spec
from llmexp.data.shortened import cut_prompt
from llmexp.errors import UserError
from llmexp.tasks.base import IGNORE, Encoded, Examples, Row
from llmexp.tasks.decoder import DecoderTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

    from llmexp.data.templates import Template
    from llmexp.models import HFModel

# A conversation to try a template on.
SHORT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a"}]


@spec
class Instruction(DecoderTask):
    """Rows of `messages`: an optional system turn, then user and assistant turns."""

    kind: ClassVar[str] = "instruction"
    predictor: ClassVar[str] = "generator"

    format: Literal["auto", "alpaca", "prompt_completion", "messages", "sharegpt"] = "auto"
    """How requests are written down; auto tells it from the columns."""
    system: str | None = None
    """A system turn for rows that have none."""
    prompt: str | None = None
    """The user's turn, made of columns: "{dialogue} Summarize the dialogue." """
    template: str = "auto"
    """auto (the tokenizer's own, else alpaca), alpaca, chatml, plain, or a jinja file."""
    train_on: Literal["answers", "last_answer", "everything"] = "answers"
    """Which tokens are learned; an answer's end token belongs to it."""
    overflow: Literal["truncate", "drop", "error"] = "truncate"
    """What happens to a row longer than `max_length`; truncation cuts from the beginning and never
    the last answer; earlier ones that are lost by it are counted as `answers_lost`."""

    def check(self, model: HFModel) -> list[str]:
        from llmexp.data.templates import check_template

        return DecoderTask.check(self, model) + check_template(self.template)

    def ends(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        from llmexp.data.templates import Template

        return Template(tokenizer).stop_ids()

    def specimens(self, split: str) -> list[Row]:
        from llmexp.data.specimens import answered

        return answered(self, split)

    def canonical(self, raw: Row, where: str) -> Row:
        from llmexp.data.formats import instruction_row

        return instruction_row(raw, self, where)

    def texts(self, rows: list[Row]) -> Iterator[str]:
        return (turn["content"] for row in rows for turn in row["messages"])

    def prepare(self, tokenizer: PreTrainedTokenizerBase) -> None:
        from llmexp.data.templates import install

        install(tokenizer, self.template)

    def remarks(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        from llmexp.data.templates import writes_date

        found = []
        if writes_date(tokenizer):
            found.append(
                "data.template: the template writes the day's date into every conversation "
                "(strftime_now), so runs of two days differ; a jinja file with a fixed date would "
                "not"
            )
        try:
            otherwise = self.asked_otherwise([{"messages": SHORT}], tokenizer)
        except UserError:
            otherwise = 0  # what is wrong with the template is said of a row
        if otherwise:
            found.append(
                "data.template: the tokens that ask for an answer are not those that stand before "
                "it in training, as where a prompt ends in a space that the tokenizer puts into "
                "the next word; write it without that, or use data.template=alpaca"
            )
        return found

    def asked_otherwise(self, rows: list[Row], tokenizer: PreTrainedTokenizerBase) -> int:
        from llmexp.data.templates import Template

        template = Template(tokenizer)
        return sum(not template.asks_as_trained(row["messages"]) for row in rows)

    def encode(
        self,
        rows: list[Row],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        labels: list[str],
    ) -> Encoded:
        made = self.encode_some(rows, tokenizer, max_length, labels)
        if rows and not made.rows:
            raise UserError(
                f"data.max_length: no row has room for its answer in {max_length} tokens "
                f"({made.counts}); raise data.max_length"
            )
        return made

    def encode_some(
        self,
        rows: list[Row],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        labels: list[str],
    ) -> Encoded:
        from llmexp.data.templates import Template

        self.prepare(tokenizer)
        template = Template(tokenizer)
        counts: Counter[str] = Counter()
        encoded = []
        for i, row in enumerate(rows):
            ids, wanted = self.supervised(row["messages"], template)
            number = row.get("number", i)  # of a stream, which is encoded in parts
            fitted = self._fit(ids, wanted, max_length, tokenizer.bos_token_id, counts, number)
            if fitted is not None:
                encoded.append({**fitted, "index": i})
        return Encoded(encoded, dict(counts))

    def supervised(self, messages: list[Row], template: Template) -> tuple[list[int], list[int]]:
        """Token ids, and a mark for each: 1, 2 ... in a learned turn, -1 learned beside, else 0."""
        ids, turns = template.encode(messages)
        if self.train_on == "last_answer":
            turns = turns[-1:]
        marks = [-1 if self.train_on == "everything" else 0] * len(ids)
        for number, turn in enumerate(turns, start=1):
            marks = [number if inside else mark for inside, mark in zip(turn, marks, strict=True)]
        return ids, marks

    def _fit(
        self,
        ids: list[int],
        marks: list[int],
        max_length: int,
        bos: int | None,
        counts: Counter[str],
        number: int,
    ) -> Row | None:
        """input_ids and labels of at most `max_length`, or None where the row is dropped."""
        excess = len(ids) - 1 - max_length
        if excess > 0:
            if self.overflow == "error":
                raise UserError(
                    f"data.overflow: row {number} has {len(ids) - 1} tokens, more than "
                    f"data.max_length={max_length}; raise it, or use data.overflow=truncate"
                )
            kept = None if self.overflow == "drop" else cut_prompt(ids, marks, excess, bos)
            counts["truncated" if kept else "dropped"] += 1
            if kept is None:
                return None
            if lost := _turns(marks) - _turns(kept[1]):
                counts["answers_lost"] += lost
            ids, marks = kept
        labels = [i if m else IGNORE for i, m in zip(ids[1:], marks[1:], strict=True)]
        if all(label == IGNORE for label in labels):
            counts["fully_masked"] += 1
            return None
        return {"input_ids": ids[:-1], "labels": labels}

    def baseline(self, examples: Examples) -> dict[str, float]:
        """The most frequent train answer, given to every test row that is scored."""
        from llmexp.tasks.written_scores import written_scores

        answers = Counter(row["messages"][-1]["content"] for row in examples.train)
        usual = max(sorted(answers), key=lambda text: answers[text])
        rows = examples.test[: self.generation.examples]
        pairs = [{"reference": r["messages"][-1]["content"], "prediction": usual} for r in rows]
        return {f"test/{name}": v for name, v in written_scores(pairs).items()}

    def written(
        self,
        net: Any,
        rows: list[Row],
        tokenizer: PreTrainedTokenizerBase,
    ) -> list[Row]:
        """The answers a network writes to rows, each up to its last turn."""
        from llmexp.data.templates import Template

        template = Template(tokenizer)
        prompts = [template.prompt_ids(row["messages"][:-1]) for row in rows]
        longest = self.longest(net, tokenizer)
        texts = self.generation.generate(
            net, prompts, tokenizer, template.stop_ids(), longest, self.batch_size
        )
        return [
            {
                "input": row["messages"][-2]["content"] if len(row["messages"]) > 1 else "",
                "reference": row["messages"][-1]["content"],
                "prediction": text.strip(),
            }
            for row, text in zip(rows, texts, strict=True)
        ]

    def answer_scores(self, answers: list[Row]) -> dict[str, float]:
        from llmexp.tasks.written_scores import written_scores

        return written_scores(answers)


def _turns(marks: list[int]) -> int:
    """How many turns are learned."""
    return len({mark for mark in marks if mark > 0})
