"""Lightning without anything of ours: the same network, rows, optimizer and schedule."""

from __future__ import annotations

import random
from typing import Any

import pytorch_lightning as pl
import torch
from rows import Rows, labels, scored
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from work import Clock, classifier_config, given

work, clock = given(), Clock()
pl.seed_everything(work.seed, verbose=False)
tokenizer = AutoTokenizer.from_pretrained(work.model)
rows = Rows.of(work, "train", tokenizer)


class Batches(torch.utils.data.Sampler[list[int]]):
    """Rows of like length, drawn anew in each epoch."""

    def __init__(self) -> None:
        self.draw = random.Random(work.seed)

    def __iter__(self) -> Any:
        return iter(rows.batches(work.batch_size, self.draw))

    def __len__(self) -> int:
        return -(-len(rows.ids) // work.batch_size)


class Bare(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = AutoModelForSequenceClassification.from_pretrained(
            work.model, **classifier_config(work.model, len(labels(work)))
        )

    def training_step(self, batch: Any, number: int) -> torch.Tensor:
        inputs, about = batch
        return torch.nn.functional.cross_entropy(self.net(**inputs).logits, about)

    def on_train_start(self) -> None:
        clock.start()

    def on_train_batch_end(self, *args: Any) -> None:
        clock.stepped()

    def on_train_end(self) -> None:
        clock.stop()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.net.parameters(),
            lr=work.learning_rate,
            weight_decay=work.weight_decay,
            fused=True,
        )
        total = int(self.trainer.estimated_stepping_batches)
        linear = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
        return [optimizer], [{"scheduler": linear, "interval": "step"}]


module = Bare()
module.train()
loader = torch.utils.data.DataLoader(
    list(range(len(rows.ids))), batch_sampler=Batches(), collate_fn=rows.padded
)
trainer = pl.Trainer(
    accelerator="cpu",
    max_epochs=work.epochs,
    gradient_clip_val=1.0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(module, loader)
clock.report(tokens=work.epochs * rows.tokens(), **scored(module.net, work, tokenizer))
