"""A data node: where rows come from, how they split, and which task they pose."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from llmexp.config import Fraction, NonNegativeInt, PositiveInt, spec
from llmexp.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from llmexp.data.stream_rows import RowStream
    from llmexp.models import HFModel

Row = dict[str, Any]
Batch = dict[str, Any]
# The label of a position that is not supervised (torch's cross_entropy default).
IGNORE = -100


@dataclass
class Encoded:
    """Token rows of one split, in split order.

    Each row has `input_ids` (list of int), `labels` (an int, or a list as long as `input_ids`)
    and `index` (the row's number in its split).
    """

    rows: Sequence[Row]
    counts: dict[str, Any] = field(default_factory=dict)
    """What happened on the way: truncated, dropped (too long), fully_masked, packs ..."""

    def facts(self) -> dict[str, Any]:
        """How many rows and tokens a network reads, how many of them it learns, and the counts."""
        tokens = self.lengths()
        found = {"rows": len(self.rows), "tokens": sum(tokens), "longest": max(tokens)}
        learned = self.supervised()
        if learned is not None:
            found["supervised"] = learned
        return {**found, **self.counts}

    def lengths(self) -> list[int]:
        """Tokens of each row; asked of the file, where one holds the rows."""
        known = getattr(self.rows, "lengths", None)
        return known() if known is not None else [len(row["input_ids"]) for row in self.rows]

    def supervised(self) -> int | None:
        """Positions that are learned; None where a row has one label and not one a token."""
        known = getattr(self.rows, "supervised", None)
        if known is not None:
            return known()
        lists = [row["labels"] for row in self.rows if isinstance(row["labels"], list)]
        return sum(len(one) - one.count(IGNORE) for one in lists) if lists else None


class Loss(NamedTuple):
    """A sum, never a mean: what an update divides by is known only when all its parts are in."""

    total: Tensor
    """Summed over the supervised positions, scalar with gradient."""
    count: Tensor
    """How many positions that were, integer scalar on the device."""
    logits: Tensor | None
    """At the supervised positions: [count, classes or vocabulary]; None where they were too many
    to be there together (`Task.logits` gives them nevertheless)."""
    labels: Tensor
    """Their labels: [count]."""
    text_bytes: Tensor | None = None
    """UTF-8 bytes that the supervised positions of each row spell, where the task counts them."""
    right: Tensor | None = None
    """In evaluation without logits: how many positions have their label as the likeliest."""
    rows: Callable[[], Tensor | None] | None = None
    """Of a language model: works out the loss and the right answers of each row, summed [B, 2]."""


@spec
class Limit:
    """At most this many rows of each split, drawn with `data.split_seed`; null takes all."""

    train: PositiveInt | None = None
    validation: PositiveInt | None = None
    test: PositiveInt | None = None


@dataclass
class Examples:
    """Canonical rows of each split, with what was learned from the train rows.

    Rows are dicts in the task's canonical form (classification: text, label and perhaps
    text_pair; instruction: messages; language modeling: text).
    """

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    labels: list[str] = field(default_factory=list)
    """Class names in index order; empty where the task has no classes."""
    fingerprint: dict[str, str] = field(default_factory=dict)
    """A content hash for each split."""
    stream: RowStream | None = None
    """All train rows, where `data.streaming` does not hold them; `train` has the first ones."""
    bad: int = 0
    """Rows left out because they could not be used (`data.on_bad_row=skip`)."""
    encoding: dict[str, Any] = field(default_factory=dict)
    """`Encoded.facts` of each split, once it is tokenised."""
    notes: list[str] = field(default_factory=list)
    """What a user should be told: what was detected, carved off, dropped, or looks leaked."""

    def counts(self) -> dict[str, int | None]:
        """Rows of each split; None where nobody has counted them."""
        streamed = self.stream is not None
        train = None if streamed else len(self.train)
        return {"train": train, "validation": len(self.validation), "test": len(self.test)}


@spec
class Task:
    """Fields that every data node has; a task adds its own and says what a batch and a metric is.

    `train`, `validation` and `test` say where rows come from: a file, or
    `hub:OWNER/NAME[/CONFIG][@REVISION]:SPLIT`, or `pydocs:KIND:SPLIT`, or
    `python:package.module.function` (allow-listed; returns an iterable of dicts).
    """

    kind: ClassVar[str] = "task"
    in_blocks: ClassVar[bool] = False
    """Whether rows are joined and cut into blocks, so that no row is too long."""
    streams: ClassVar[bool] = False
    """Whether it can be trained without a look at all train rows first."""
    writes: ClassVar[bool] = False
    """Whether a network trained on it generates answers."""
    predictor: ClassVar[str] = ""
    """What loads a network trained on this task (a key of `llmexp.predict.load.PREDICTORS`)."""

    train: str
    validation: str | None = None
    test: str | None = None
    validation_fraction: Fraction = 0.1
    """Taken from train when `validation` is null."""
    test_fraction: Fraction = 0.1
    """Taken from train when `test` is null."""
    split_seed: NonNegativeInt = 0
    """Decides splits and limits; the run's `seed` never does."""
    limit: Limit = Limit()
    columns: dict[str, str] = Field(default_factory=dict)
    """Role -> column, for example {text: review, label: stars}."""
    encoding: str = "utf-8"
    delimiter: str | None = None
    """Of csv and tsv files; null takes the one the file's ending implies."""
    quoting: Literal["minimal", "none"] = "minimal"
    header: bool = True
    """False: columns are named by `names`."""
    names: list[str] = Field(default_factory=list)
    pattern: str | None = None
    """A regular expression with named groups that reads one row from one line."""
    separator: str | None = None
    """What parts documents in a .txt file; null makes the file one document."""
    overlap: Literal["keep", "drop"] = "keep"
    """Train rows whose text also stands in validation or test (lower-cased, letters and digits)."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Train rows that repeat the text of an earlier one."""
    on_bad_row: Literal["raise", "skip"] = "raise"
    """A row that cannot be used: stop at it, or leave it out and count it."""
    max_bad_rows: NonNegativeInt | Fraction = 0.01
    """What skip leaves out at most: an int is rows of a source, a float a fraction of them."""
    max_length: PositiveInt | None = None
    """Tokens; null takes the model's own limit."""
    batch_size: PositiveInt = 32
    """Rows per process and step."""
    tokens_per_batch: PositiveInt | None = None
    """Padded tokens per process and step (rows times the longest); then `batch_size` says only
    how many prompts are answered at once."""
    num_workers: NonNegativeInt = 0
    streaming: bool = False
    """Read train rows as they are needed, again in every epoch, and never hold them all."""
    shuffle_buffer: PositiveInt = 10_000
    """Of a stream: the rows among which the next one is drawn."""

    def check(self, model: HFModel) -> list[str]:
        """Complaints about this task on this model; no weights, no network."""
        return []

    def unread(self) -> dict[str, str]:
        """Fields that nothing reads as the others are set, and why."""
        from llmexp.data.check import unread

        return unread(self)

    def ends(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """Tokens that end what is written; none where nothing is."""
        return []

    def specimens(self, split: str) -> list[Row]:
        """A few made-up raw rows in the columns this node reads, to try it without its source."""
        raise UserError(f"data.{split}: {type(self).__name__} has no made-up rows; give it a file")

    def canonical(self, raw: Row, where: str) -> Row:
        """One raw row in the task's canonical form; a UserError names the row at `where`."""
        raise NotImplementedError

    def texts(self, rows: list[Row]) -> Iterator[str]:
        """What the rows say, for a tokenizer to be trained on."""
        return (row[name] for row in rows for name in ("text", "text_pair") if name in row)

    def prepare(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Set on the tokenizer what the task needs and its saved copy should carry."""

    def remarks(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """What a user should know of how a prepared tokenizer writes this task's rows."""
        return []

    def asked_otherwise(self, rows: list[Row], tokenizer: PreTrainedTokenizerBase) -> int:
        """How many rows are asked for by other tokens than those they are trained behind."""
        return 0

    def auto_class(self) -> Any:
        """The transformers Auto class of a network trained on this task."""
        raise NotImplementedError

    def config_changes(self, labels: list[str]) -> dict[str, Any]:
        """What the network's config must say about this task."""
        return {}

    def encode(
        self,
        rows: list[Row],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        labels: list[str],
    ) -> Encoded:
        """Token rows, at most `max_length` long; a UserError where none of the rows is left."""
        raise NotImplementedError

    def encode_some(
        self,
        rows: list[Row],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        labels: list[str],
    ) -> Encoded:
        """The same for a few rows of many, of which perhaps none is left."""
        return self.encode(rows, tokenizer, max_length, labels)

    def packed(self, encoded: Encoded, max_length: int) -> Encoded:
        """The rows as they are trained on: several documents in one where the task packs."""
        return encoded

    def prove(self, net: nn.Module) -> None:
        """Look at the network where it will be trained: refuse what would train it wrong, spare
        what nothing reads."""

    def shortcomings(self, net: nn.Module, max_length: int) -> list[str]:
        """What training this network on the task cannot spare, for a user to know."""
        return []

    def collate(self, rows: list[Row], pad_id: int) -> Batch:
        """One right-padded batch: input_ids, attention_mask [B, T]; labels; index [B]."""
        raise NotImplementedError

    def loss(self, net: nn.Module, batch: Batch) -> Loss:
        """The summed loss of a batch."""
        raise NotImplementedError

    def logits(self, net: nn.Module, batch: Batch) -> Tensor:
        """Those of the supervised positions, all together: [count, classes or vocabulary]."""
        logits = self.loss(net, batch).logits
        assert logits is not None
        return logits

    def scores(self, labels: list[str]) -> nn.Module:
        """A fresh torchmetrics module: update(loss), compute() -> {metric: float}, reset()."""
        raise NotImplementedError

    def baseline(self, examples: Examples) -> dict[str, float]:
        """Test metrics of the best answer that looks at no input."""
        return {}

    def answers(
        self,
        net: Any,
        rows: list[Row],
        loss: Loss,
        tokenizer: PreTrainedTokenizerBase,
        labels: list[str],
    ) -> list[Row]:
        """For each test row: input, reference, prediction and scores, as in predictions.jsonl."""
        raise NotImplementedError

    def samples(self) -> int:
        """How many of the first test rows get a generated answer; the rest is `answers`' part."""
        return 0

    def written(self, net: Any, rows: list[Row], tokenizer: PreTrainedTokenizerBase) -> list[Row]:
        """Answers that are generated, one for each row."""
        raise NotImplementedError

    def answer_scores(self, answers: list[Row]) -> dict[str, float]:
        """Metrics that need the written answers (exact_match, bleu ...)."""
        return {}
