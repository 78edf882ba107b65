from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


class LastValidation(pl.Callback):
    """Validates where training ended inside an epoch: the last weights may be the best.

    Lightning leaves weights that `max_steps` stopped between two validations unjudged, and an older
    checkpoint would be tested in their place.
    """

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        loop = trainer.fit_loop.epoch_loop.val_loop
        if trainer.global_step == pl_module.validated_at or trainer.limit_val_batches == 0:
            return
        trainer.validating = True
        loop.run()
        trainer.training = True
