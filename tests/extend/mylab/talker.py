"""A callback that was given a secret, and says more than it should."""

import logging
import os
import sys
from pathlib import Path

import pytorch_lightning as pl


class Talker(pl.Callback):
    """Prints what it was given, wherever a callback can."""

    def __init__(self, token: str, note: str = "", fail: bool = False):
        self.token, self.note, self.fail = token, note, fail

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        print(f"given {len(self.token)} characters: {self.token}")
        # What `python-dotenv` does.
        name, _, value = Path(".env").read_text().strip().partition("=")
        os.environ[name] = value
        print(f"read {len(value)} characters: {value}")
        print("and", self.note, "ghp_stdoutcanary0123456789", file=sys.stderr)
        logging.getLogger("llmexp").warning(f"the token is {self.token}")
        if self.fail:
            raise RuntimeError(f"401 for {self.token} at https://me:{self.token}@host/")
