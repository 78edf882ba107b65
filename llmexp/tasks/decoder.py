"""What the tasks of a language model share: the loss at supervised tokens, and generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from llmexp.config import spec
from llmexp.tasks.base import IGNORE, Batch, Encoded, Loss, Row, Task
from llmexp.tasks.generation import Generation

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from llmexp.models import HFModel


@spec
class DecoderTask(Task):
    """Rows whose `labels[t]` is the token that position t must predict, or IGNORE."""

    streams: ClassVar[bool] = True
    writes: ClassVar[bool] = True

    packing: bool = False
    """Train on rows of several documents that do not see each other; `batch_size` counts packs."""
    generation: Generation = Generation()

    def check(self, model: HFModel) -> list[str]:
        if model.is_decoder() is False:
            return [
                f"data: {self.kind} needs a decoder (a causal language model) and {model.path} is "
                "an encoder; use model=gpt2, model=smollm2_135m or model=local "
                "model.path=FOLDER, or strategy=from_scratch model=tiny_llama"
            ]
        return []

    def unread(self) -> dict[str, str]:
        found = Task.unread(self)
        if self.generation.examples == 0:
            why = "data.generation.examples=0: no answer is written"
            found |= {f"generation.{name}": why for name in ("max_new_tokens", "temperature")}
        return found

    def auto_class(self) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM

    def packed(self, encoded: Encoded, max_length: int) -> Encoded:
        """Packs of at most `max_length` tokens, the same in every epoch; counts say how full."""
        if not self.packing:
            return encoded
        from llmexp.data.packing import packed

        rows = packed(encoded.rows, max_length)
        tokens = sum(len(row["input_ids"]) for row in rows)
        counts: dict[str, Any] = {"packed": len(encoded.rows), "packs": len(rows)}
        counts["fill"] = round(tokens / (len(rows) * max_length), 4)
        return Encoded(rows, {**encoded.counts, **counts})

    def prove(self, net: nn.Module) -> None:
        if self.packing:
            from llmexp.nets.packing_proof import prove_packing

            prove_packing(net, self)

    def shortcomings(self, net: Any, max_length: int) -> list[str]:
        from llmexp.tasks.chunked_loss import CHUNK
        from llmexp.tasks.token_loss import whole_logits

        positions = self.tokens_per_batch or self.batch_size * max_length
        vocabulary = net.config.get_text_config().vocab_size
        why = whole_logits(net) if positions * vocabulary > CHUNK else None
        if why is None:
            return []
        size = positions * vocabulary * 4 / 2**30
        return [f"the loss is not taken in chunks: {why}; logits take up to {size:.1f} GB a batch"]

    def collate(self, rows: list[Row], pad_id: int) -> Batch:
        from llmexp.data.batches import pad, pad_labels, pad_positions
        from llmexp.tasks.token_loss import flat

        batch = pad(rows, pad_id)
        longest = batch["input_ids"].shape[1]
        batch["labels"] = pad_labels(rows, longest)
        if "position_ids" in rows[0]:
            batch["position_ids"] = pad_positions(rows, longest)
            batch["real"] = flat(batch["attention_mask"])
        # Counted here, where it is on the host, so that no step waits for the device to tell.
        batch["supervised"] = flat(batch["labels"] != IGNORE)
        return batch

    def loss(self, net: nn.Module, batch: Batch) -> Loss:
        from llmexp.tasks.token_loss import token_loss

        return token_loss(net, batch)

    def logits(self, net: nn.Module, batch: Batch) -> Tensor:
        from llmexp.tasks.token_loss import token_loss

        logits = token_loss(net, batch, whole=True).logits
        assert logits is not None
        return logits

    def scores(self, labels: list[str]) -> nn.Module:
        from llmexp.tasks.token_scores import TokenScores

        return TokenScores()

    def answers(
        self,
        net: Any,
        rows: list[Row],
        loss: Loss,
        tokenizer: PreTrainedTokenizerBase,
        labels: list[str],
    ) -> list[Row]:
        """None from the logits of a batch: `written` gives them."""
        return []

    def samples(self) -> int:
        return self.generation.examples

    def longest(self, net: Any, tokenizer: PreTrainedTokenizerBase) -> int:
        """How many tokens a prompt and its answer may have together.

        A tokenizer carries `model.max_length`, also in an exported folder; one without a limit
        says a number far above any network's.
        """
        config = net.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        reads = limit if isinstance(limit, int) else self.max_length or 512
        return min(reads, int(tokenizer.model_max_length))
