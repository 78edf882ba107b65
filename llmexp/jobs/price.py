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

    Two for each weight and token forward, two backward for what lies above the lowest trained
    weight, two more for each trained weight (Kaplan et al. 2020, arXiv 2001.08361, appendix B).
    Attention's own products, validation and recomputed activations are left out.
    """
    net = module.net
    features = getattr(data, "features", None)
    if features:
        classifier = weights(getattr(net, "classifier", None) or net)
        once = 2.0 * weights(data.backbone) * tokens_of(data)
        rows = len(features["train"]) * tokens / max(1, tokens_of(data, "train"))
        return once + 6.0 * classifier * rows
    if not tokens:
        return 0.0
    from llmexp.nets.freezing import frozen_blocks

    below = sum(weights(block) for block in frozen_blocks(net))
    above = weights(net) - below
    trained = weights(net, trained=True)
    stored = bool(getattr(data, "stored", None))
    once = 2.0 * below * tokens_of(data) if stored else 0.0
    forward = above if stored else above + below
    return once + 2.0 * tokens * (forward + above + trained)


def weights(net: Any, trained: bool = False) -> int:
    """Weights of matrix products: all but the embeddings, and a head that shares with them."""
    from torch import nn

    from llmexp.jobs.record import count

    tables = {id(p) for m in net.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    known = [p for p in net.parameters() if not trained or p.requires_grad]
    total = sum(count(p) for p in known if id(p) not in tables)
    head = net.get_output_embeddings() if hasattr(net, "get_output_embeddings") else None
    shared = [p for p in head.parameters() if id(p) in tables] if head is not None else []
    return total + sum(count(p) for p in shared if not trained or p.requires_grad)


def tokens_of(data: Any, split: str | None = None) -> int:
    """How many tokens the rows of one split have, or of all."""
    splits = [data.encoded[split]] if split else data.encoded.values()
    return sum(sum(encoded.lengths()) for encoded in splits)
