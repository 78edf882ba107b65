"""What a run would have cost on its own: nothing computed before, and in operations."""

from __future__ import annotations

from typing import Any


def charged_seconds(cost: dict[str, Any]) -> float:
    """The whole run with cached features at the price they had when first computed."""
    # Results of versions that did not record what was spared: all of it, or nothing.
    whole = cost.get("prefix_seconds", 0.0) if cost.get("cache_hit") else 0.0
    return float(cost["total_seconds"] + cost.get("spared_seconds", whole))


def estimated_flops(module: Any, data: Any, tokens: int) -> float:
    """Floating point operations of training, frozen features computed once included.

    For each weight of a matrix and position that it is applied to: two forward, two more backward
    where it lies above the lowest trained one, two more where it is trained itself (Kaplan et al.
    2020, arXiv 2001.08361, appendix B). Attention's own products, padding, validation and what is
    computed again are left out.
    """
    if getattr(data, "features", None):
        return of_features(module.net, data, tokens)
    return of_network(module.net, data, tokens) if tokens else 0.0


def of_features(net: Any, data: Any, tokens: int) -> float:
    """A backbone that ran once, and a classifier that was trained on what it gave."""
    classifier = weights(getattr(net, "classifier", None) or net)
    once = 2.0 * weights(data.backbone) * tokens_of(data)
    return once + 6.0 * classifier * rows_of(data, tokens)


def of_network(net: Any, data: Any, tokens: int) -> float:
    """A network that ran in every step, above its frozen blocks where their states are stored."""
    from llmexp.jobs.record import count
    from llmexp.nets.freezing import frozen_blocks
    from llmexp.nets.last_block import once_a_row

    below = {id(p) for block in frozen_blocks(net) for p in block.parameters()}
    single = {id(p) for module in once_a_row(net) for p in module.parameters()}
    stored = bool(getattr(data, "stored", None))
    rows = rows_of(data, tokens) if single or stored else tokens
    # Of stored states either every position is kept, or the one that is read.
    read = rows if stored and data.at is not None else tokens
    once = 2.0 * tokens_of(data) if stored else 0.0
    total = 0.0
    for p in matrices(net):
        if id(p) in below:
            total += count(p) * (once if stored else 2.0 * tokens)
        else:
            positions = rows if id(p) in single else read
            total += count(p) * positions * (6.0 if p.requires_grad else 4.0)
    return total


def weights(net: Any) -> int:
    """How many values the matrices hold."""
    from llmexp.jobs.record import count

    return sum(count(p) for p in matrices(net))


def matrices(net: Any) -> list[Any]:
    """What is multiplied by: no biases and norms, no embeddings but where a head shares them."""
    from torch import nn

    tables = {id(p) for m in net.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    found = [p for p in net.parameters() if id(p) not in tables and p.ndim > 1]
    head = net.get_output_embeddings() if hasattr(net, "get_output_embeddings") else None
    shared = [p for p in head.parameters() if id(p) in tables] if head is not None else []
    return found + shared


def rows_of(data: Any, tokens: int) -> float:
    """Rows trained on, each counted as often as it was seen; the tokens where a stream hides it."""
    train = getattr(data, "encoded", {}).get("train")
    if train is None:
        return tokens
    return len(train.rows) * tokens / max(1, sum(train.lengths()))


def tokens_of(data: Any, split: str | None = None) -> int:
    """How many tokens the rows of one split have, or of all."""
    splits = [data.encoded[split]] if split else data.encoded.values()
    return sum(sum(encoded.lengths()) for encoded in splits)
