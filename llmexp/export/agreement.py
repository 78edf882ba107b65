"""How alike two networks answer: the check of a merge."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from llmexp.nets.compilation import eagerly

if TYPE_CHECKING:
    from llmexp.context import Context

# Enough rows to see a wrong merge, few enough to cost nothing beside a test.
ROWS = 64


def agreement(first: Any, second: Any, context: Context) -> dict[str, Any]:
    """Largest logit difference and share of equal choices on the first test rows."""
    from llmexp.data.batches import EvaluationBatches, TokenRows

    task = context.task
    rows = context.examples.test[:ROWS]
    encoded = task.encode(rows, context.tokenizer, context.max_length, context.examples.labels).rows
    encoded = list(islice(encoded, ROWS))
    data = TokenRows(encoded)
    apart, same, count = 0.0, 0, 0
    for positions in EvaluationBatches([len(r["input_ids"]) for r in encoded], task.batch_size):
        batch = task.collate([data[i] for i in positions], context.pad_id)
        one, two = logits(first, batch, task), logits(second, batch, task)
        apart = max(apart, float((one - two).abs().max()))
        same += int((one.argmax(-1) == two.argmax(-1)).sum())
        count += len(one)
    sentence = (
        f"{same} of {count} choices on test rows are those of the trained network, "
        f"largest logit difference {apart:.2g}"
    )
    return {"largest_logit_difference": apart, "same": same, "of": count, "sentence": sentence}


@torch.inference_mode()
def logits(net: Any, batch: dict[str, Any], task: Any) -> torch.Tensor:
    """Logits at the supervised positions, on the CPU."""
    net.eval()
    device = next(net.parameters()).device
    moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    # A network that was compiled where it trained may be elsewhere by now.
    with eagerly(net):
        found: torch.Tensor = task.logits(net, moved)
    return found.float().cpu()
