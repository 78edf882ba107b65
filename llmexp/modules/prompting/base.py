"""What the prompting modules share: no training, and a description instead of weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from llmexp.exemplars import Exemplars
from llmexp.export.folder import published
from llmexp.modules.evaluation import Evaluation
from llmexp.tasks.base import Batch, Row

if TYPE_CHECKING:
    from llmexp.context import Context

TENSORS = "centroids.safetensors"


class Asked(Evaluation):
    """A frozen network, the train rows it is shown, and what must be written down to ask again."""

    predictor: ClassVar[str]
    tokens_trained = 0

    def __init__(self, net: nn.Module, context: Context, exemplars: Exemplars):
        super().__init__(context)
        self.net = net
        self.exemplars = exemplars

    def rows(self, batch: Batch) -> list[Row]:
        """The rows of a validation or test batch; a filler is row 0, and supervises nothing."""
        examples = self.context.examples
        split = examples.validation if self.trainer.validating else examples.test
        return [split[max(i, 0)] for i in batch["index"].tolist()]

    def facts(self) -> dict[str, Any]:
        """What `llmexp.json` says beside the base model: enough to give the same answers again."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """The embeddings that the answers were made of."""
        return {}

    def export(self) -> None:
        """Write `model/`; the weights stay where the base model is."""
        from safetensors.torch import save_file

        kept = {name: value.cpu().contiguous() for name, value in self.tensors().items()}
        with published(self, self.context, predictor=self.predictor, **self.facts()) as folder:
            if kept:
                save_file(kept, folder / TENSORS)


def shown(exemplars: Exemplars) -> list[Row]:
    """The examples as `llmexp.json` keeps them: their number in train, and the row."""
    pairs = zip(exemplars.indices, exemplars.rows, strict=True)
    return [{"index": index, **row} for index, row in pairs]


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """What `tensors` gave; nothing where nothing was kept."""
    from safetensors.torch import load_file

    file = folder / TENSORS
    return load_file(file) if file.is_file() else {}
