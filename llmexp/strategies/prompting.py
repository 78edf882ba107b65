"""What zero_shot and few_shot share: a frozen pretrained network that is asked, never trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from llmexp.config import RunConfig, spec
from llmexp.exemplars import Exemplars
from llmexp.nets.quantization import NEEDS, complaints, method
from llmexp.prompts import template_complaints
from llmexp.strategies.base import TRAINING, Strategy
from llmexp.tasks.classification import Classification

if TYPE_CHECKING:
    from torch import nn

    from llmexp.context import Context
    from llmexp.models import HFModel
    from llmexp.tasks.base import Task


@spec
class Prompting(Strategy):
    """Nothing is trained: labels are compared with the input, or text is generated."""

    trains: ClassVar[bool] = False

    prompt: str | None
    """Decoders, classification: a template with {text} once and perhaps {labels}; paragraphs
    before the one with {text} are said once, it itself for every example. null takes a default."""
    hypothesis: str | None
    """Encoders: the sentence that is embedded for a label, with {label}; null embeds the label's
    words alone."""
    temperature: Annotated[float, Field(gt=0, strict=True)]
    """Encoders: cosine similarities are divided by it before the softmax, which changes the loss
    and the scores, never the prediction. 0.05 is the scale of 20 with which sentence encoders
    are trained."""

    def check(self, model: HFModel, task: Task, config: RunConfig) -> list[str]:
        found = Strategy.check(self, model, task, config)
        if model.quantized():
            found += quantized_complaints(model.facts()["quantization_config"])
        if self.hypothesis is not None and "{label}" not in self.hypothesis:
            found.append("strategy.hypothesis: must hold {label}; null embeds its words alone")
        if self.prompt is None:
            return found
        if not isinstance(task, Classification):
            found.append(
                "strategy.prompt: asks for a label, and this task has none; leave it null and "
                "set the task's own template, as in data.prompt"
            )
        elif model.is_decoder() is False:
            found.append("strategy.prompt: an encoder reads none; set strategy.hypothesis instead")
        return found + [f"strategy.prompt: {c}" for c in template_complaints(self.prompt)]

    def unread(self, model: HFModel, task: Task) -> dict[str, str]:
        found = Strategy.unread(self, model, task)
        found |= dict.fromkeys((*TRAINING, "model.dropout", "data.packing"), "nothing is trained")
        found.pop("data.batch_size", None)
        del found["data.labels"]
        if not isinstance(task, Classification):
            why = f"{task.kind} has no labels to compare"
            return found | dict.fromkeys(("strategy.hypothesis", "strategy.temperature"), why)
        if not model.is_decoder():
            del found["model.pooling"]
        else:
            why = "a decoder weighs labels by their likelihood, it embeds none"
            found |= dict.fromkeys(("strategy.hypothesis", "strategy.temperature"), why)
        return found

    def exemplars(self, context: Context) -> Exemplars:
        """The train rows that are shown."""
        return Exemplars()

    def load(self, context: Context) -> nn.Module:
        """A language model as it is, an encoder without any head."""
        from transformers import AutoModel, AutoModelForCausalLM

        if not isinstance(context.task, Classification):
            return Strategy.load(self, context)
        auto_class = AutoModelForCausalLM if generates(context) else AutoModel
        return context.model.load(auto_class, context.config)

    def adapt(self, net: nn.Module, context: Context) -> nn.Module:
        return net.requires_grad_(False).eval()

    def meant(self, net: nn.Module, context: Context) -> set[str] | None:
        return set()

    def module(self, net: nn.Module, context: Context) -> Any:
        from llmexp.modules.prompting.generation import Generation, ShownGeneration
        from llmexp.modules.prompting.likelihood import LabelLikelihood
        from llmexp.modules.prompting.nearest import NearestLabel

        exemplars = self.exemplars(context)
        if isinstance(context.task, Classification):
            kind = LabelLikelihood if generates(context) else NearestLabel
            return kind(net, context, self, exemplars)
        return (ShownGeneration if exemplars.rows else Generation)(net, context, exemplars)

    def export(self, module: Any, context: Context) -> None:
        """`llmexp.json` names the base model and all that the answers were made of."""
        module.export()


def quantized_complaints(quantization: dict[str, Any]) -> list[str]:
    """What this machine lacks to run a checkpoint that is quantised already."""
    return complaints(quantization) if method(quantization) in NEEDS else []


def generates(context: Context) -> bool:
    """Whether the network writes text; asks the loaded config where YAML and disk do not tell."""
    known = context.model.is_decoder()
    if known is not None:
        return known
    return any(n.endswith(("CausalLM", "LMHeadModel")) for n in context.config.architectures or [])
