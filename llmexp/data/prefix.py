"""Token batches that carry the states of the frozen prefix, computed once for each distinct row."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmexp.cache.distinct import Distinct, cut
from llmexp.cache.features import Entry, FeatureCache, digest, size_of
from llmexp.data.features import PrefixCost
from llmexp.data.module import TokenData
from llmexp.data.state_key import UNKNOWN, circumstances
from llmexp.data.stored import Collate, CollateStored, Stored
from llmexp.data.stream_module import StreamData
from llmexp.data.token_cache import about
from llmexp.errors import UserError
from llmexp.modules.finetune import half_precision
from llmexp.modules.gathered import from_all
from llmexp.modules.memory import halved
from llmexp.nets.architecture import backbone, blocks
from llmexp.nets.freezing import beside_blocks, frozen_blocks
from llmexp.nets.prefix import evaluating, kept, proven, states_of
from llmexp.nets.weights import fingerprint
from llmexp.tasks.base import Batch, Loss, Row

if TYPE_CHECKING:
    from llmexp.context import Context

log = logging.getLogger("llmexp")


def token_data(context: Context, net: Any) -> TokenData:
    """Batches of tokens, with stored states where blocks are frozen below all that is trained."""
    if context.examples.stream is not None:
        return StreamData(context, len(frozen_blocks(net)))
    if context.cache.enabled and frozen_blocks(net):
        return PrefixData(context, net)
    return TokenData(context, context.accumulate)


class PrefixData(TokenData):
    """`hidden` [B, T, H] in every batch where it is proven to change nothing; else tokens alone."""

    def __init__(self, context: Context, net: Any):
        super().__init__(context, context.accumulate)
        self.net = net
        self.frozen = frozen_blocks(net)
        self.half = half_precision(net)
        self.distinct: dict[str, Distinct] = {}
        self.stored: dict[str, Stored] = {}
        self.prefix = PrefixCost(hit=False)
        self.why: str | None = None
        """Why no states are stored."""

    def setup(self, stage: str) -> None:
        """Tokenise every split and find or compute the states of its rows."""
        super().setup(stage)
        if self.distinct:
            return
        self.distinct = {name: Distinct(e.rows) for name, e in self.encoded.items()}
        # All processes in the same way: the disk of one may be fuller than that of another.
        self.why = next((why for why in from_all(self._refusal()) if why is not None), None)
        if self.why is None:
            self._store()
        else:
            note = f"the {len(self.frozen)} frozen blocks run in every step: {self.why}"
            log.warning(note)
            self.context.examples.notes.append(note)

    def collate(self, name: str) -> Collate:
        plain = super().collate(name)
        return CollateStored(plain, self.stored[name]) if name in self.stored else plain

    def state_dict(self) -> dict[str, Any]:
        """Room on the disk decides whether states are stored, and bits of the loss depend on it."""
        return {"stored": bool(self.stored)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in the way that the checkpoint was trained."""
        if state_dict["stored"] and not self.stored:
            raise UserError(
                f"cache: this run was begun on stored states and would go on without: {self.why}; "
                "make room, raise cache.max_gb, or start a run of its own in another hydra.run.dir"
            )
        if not state_dict["stored"]:
            self.stored = {}

    def _refusal(self) -> str | None:
        """Why nothing is stored, or None; decides which positions are."""
        if self.trainer is not None and hasattr(self.trainer.strategy, "shard"):
            return "their weights are spread over devices"
        if self.trainer is not None and self.net.device != self.trainer.strategy.root_device:
            self.net.to(self.trainer.strategy.root_device)
        where = self._positions()
        if where is None:
            return f"stored states are not proven to be equal for {type(self.frozen[-1]).__name__}"
        (self.at,) = where
        self.how = circumstances(self.context, self.net)
        if self.how is None:
            return UNKNOWN
        self.dtype = self._states([self.distinct["train"].rows[0]])[1].dtype
        self.cache = FeatureCache(self.context.cache)
        total = sum(size_of(self._shape(d), self.dtype) for d in self.distinct.values())
        return self.cache.refusal(total)

    def _positions(self) -> tuple[int | None] | None:
        """(0,) or (-1,) where one position is all that is read, (None,) for all; None: unproven."""
        rows = _specimens(self.distinct["train"])
        pad_id, task = self.context.pad_id, self.context.task
        whole = self._moved(task.collate(rows, pad_id))
        tolerance = max(1e-5, torch.finfo(self.half).eps if self.half else 0.0)
        candidates: list[int | None] = [None]
        if all(isinstance(row["labels"], int) for row in rows):
            # A row that holds the pad id is read elsewhere by networks that look for it.
            odd = any(pad_id in r["input_ids"] for d in self.distinct.values() for r in d.rows)
            candidates = [0, None] if odd else [0, -1, None]
        for at in candidates:
            read = (
                whole
                if at is None
                else self._moved(task.collate([cut(r, at) for r in rows], pad_id))
            )
            if proven(self.net, self.frozen, self._run, whole, read, at, tolerance):
                return (at,)
        return None

    def _moved(self, batch: Batch) -> Batch:
        device = self.net.device
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def _run(self, batch: Batch) -> Loss:
        """The loss as a training step computes it, in the precision of one."""
        with ExitStack() as stack:
            if self.trainer is not None:
                stack.enter_context(self.trainer.precision_plugin.forward_context())
            if self.half is not None:
                stack.enter_context(torch.autocast(self.net.device.type, self.half))
            return self.context.task.loss(self.net, batch)

    def _shape(self, distinct: Distinct) -> tuple[int, int]:
        positions = sum(1 if self.at is not None else len(r["input_ids"]) for r in distinct.rows)
        return positions, self.net.config.get_text_config().hidden_size

    def _store(self) -> None:
        self.prefix.hit = True
        weights = prefix_fingerprint(self.net, len(self.frozen))
        for name, distinct in self.distinct.items():
            key = self._key(distinct, weights)
            entry = self._entry(name, key, distinct)
            self.prefix.add(key, entry)
            self.stored[name] = Stored(distinct, entry.states, self.at)
        log.info(
            f"{len(self.frozen)} frozen blocks ran once for each row: "
            f"{self.prefix.seconds:.1f} s{', in an earlier run' if self.prefix.hit else ''}"
        )

    def _key(self, distinct: Distinct, weights: str) -> str:
        return digest(
            {
                "circumstances": self.how,
                "weights": weights,
                "blocks": len(self.frozen),
                "tokens": distinct.fingerprint(),
                "position": self.at,
                "dtype": str(self.dtype),
                "precision": [str(self.half), self.trainer.precision if self.trainer else None],
                "task": self.context.task.kind,
            }
        )

    def _entry(self, name: str, key: str, distinct: Distinct) -> Entry:
        return self.cache.entry(
            key,
            self._shape(distinct),
            self.dtype,
            lambda out: self._compute(distinct, out),
            kind="hidden states",
            **about(self.context, name),
        )

    @torch.inference_mode()
    def _states(self, rows: list[Row]) -> tuple[Batch, Tensor]:
        """A batch of these rows and what the highest frozen block returns for it."""
        with evaluating(self.net):
            batch = self._moved(self.context.task.collate(rows, self.context.pad_id))
            return batch, states_of(self.frozen, self._run, batch)

    @torch.inference_mode()
    def _compute(self, distinct: Distinct, out: Tensor) -> None:
        """Write the states of every distinct row into `out` [positions, H]."""
        starts = Stored(distinct, out, self.at).starts

        def compute(numbers: list[int]) -> list[int]:
            rows = [distinct.rows[i] for i in numbers]
            batch, hidden = self._states(rows)
            if self.at is not None:
                hidden = kept(hidden, batch, self.at)
            hidden = hidden.to(out.device)
            for states, i, row in zip(hidden, numbers, rows, strict=True):
                n = 1 if self.at is not None else len(row["input_ids"])
                out[starts[i] : starts[i] + n] = states[:n]
            return numbers

        for numbers in distinct.batches(self.net.device.type):
            halved(compute, numbers)


def prefix_fingerprint(net: Any, count: int) -> str:
    """A hash of all of the backbone but what comes after its first `count` blocks."""
    later = [*blocks(net)[count:], *beside_blocks(net)[1]]
    return fingerprint(backbone(net), net.config, without=later)


def _specimens(distinct: Distinct) -> list[Row]:
    """A few rows of different lengths."""
    order = sorted(distinct.rows, key=lambda row: len(row["input_ids"]))
    return [order[k * (len(order) - 1) // 3] for k in range(4)]
