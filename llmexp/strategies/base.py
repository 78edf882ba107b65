"""What a strategy is: how the network is loaded, what of it is trained, and with which module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from llmexp.config import RunConfig, spec

if TYPE_CHECKING:
    import pytorch_lightning as pl
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from llmexp.context import Context
    from llmexp.models import HFModel
    from llmexp.tasks.base import Examples, Task


# What only an optimizer's steps would read.
TRAINING = (
    "optim",
    "trainer.max_epochs",
    "trainer.min_epochs",
    "trainer.max_steps",
    "trainer.min_steps",
    "trainer.max_time",
    "trainer.limit_train_batches",
    "trainer.val_check_interval",
    "trainer.check_val_every_n_epoch",
    "trainer.num_sanity_val_steps",
    "trainer.log_every_n_steps",
    "trainer.enable_model_summary",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm",
    "trainer.reload_dataloaders_every_n_epochs",
    "trainer.detect_anomaly",
    "callbacks.checkpoint",
    "callbacks.early_stopping",
    "callbacks.guard",
    "model.gradient_checkpointing",
    "model.compile",
)


@spec
class Strategy:
    """Base: load pretrained weights, train all of them. A strategy overrides what differs."""

    trains: ClassVar[bool] = True

    def check(self, model: HFModel, task: Task, config: RunConfig) -> list[str]:
        """Complaints about this strategy on this model and task; no weights, no network."""
        if model.path is None:
            return [
                "strategy: needs pretrained weights, and this model is only an architecture; "
                "use strategy=from_scratch, or model=local model.path=FOLDER"
            ]
        return []

    def unread(self, model: HFModel, task: Task) -> dict[str, str]:
        """Keys of the experiment, whole groups too, that this strategy never reads, and why."""
        found = {
            "model.pooling": "this strategy pools no features",
            "model.vocab_size": "no tokenizer is trained on the data",
            "data.labels": "words for labels are read by prompting only",
        }
        if task.tokens_per_batch is not None and not task.writes:
            found["data.batch_size"] = "data.tokens_per_batch says how many rows go together"
        return found

    def targets(self, context: Context) -> list[str]:
        """Full names of the layers that get an adapter."""
        return []

    def silent_at_first(self, net: nn.Module) -> set[str]:
        """Trained parameters whose first gradient is zero by design."""
        return set()

    def tokenizer(self, model: HFModel, task: Task, examples: Examples) -> PreTrainedTokenizerBase:
        return model.load_tokenizer()

    def config(
        self, model: HFModel, task: Task, examples: Examples, tokenizer: PreTrainedTokenizerBase
    ) -> PretrainedConfig:
        """The network's config with what the task and the tokenizer add to it."""
        config = model.config(**task.config_changes(examples.labels))
        if config.get_text_config().pad_token_id is None:
            config.get_text_config().pad_token_id = tokenizer.pad_token_id
        return config

    def check_targets(self, context: Context) -> None:
        """Complaints that need the architecture, raised before any weight is read."""

    def load(self, context: Context) -> nn.Module:
        """The network before anything is frozen or added."""
        return context.model.load(context.task.auto_class(), context.config)

    def adapt(self, net: nn.Module, context: Context) -> nn.Module:
        """Freeze, wrap, or leave."""
        return net

    def meant(self, net: nn.Module, context: Context) -> set[str] | None:
        """Names of the parameters of the adapted network that are to train, which the doctor
        compares with those that do; None declares nothing."""
        return None

    def data(self, context: Context, net: nn.Module) -> pl.LightningDataModule:
        """Batches of tokens, with a frozen prefix's states computed once where there is one."""
        from llmexp.data.prefix import token_data

        return token_data(context, net)

    def module(self, net: nn.Module, context: Context) -> Any:
        """The LightningModule: it has `test_metrics` and `answers` after a test."""
        from llmexp.modules.finetune import FineTune

        return FineTune(net, context)

    def export(self, module: Any, context: Context) -> None:
        """Write `model/`: a Hugging Face or PEFT folder with tokenizer and card."""
        from llmexp.export.folder import export_network

        export_network(module, context)
