"""LitGPT's LoRA finetuning on prompt and completion, run by a Python that has it.

Its recipe `litgpt finetune_lora --precision 32-true` as a call: r=8 on every linear layer, rows in
random order padded to the longest of a batch, its cosine schedule. What is clocked is the training
loop: no sanity check before it, no answer generated and no merged checkpoint after it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from litgpt import Config
from litgpt.args import EvalArgs, TrainArgs
from litgpt.data import JSON
from litgpt.finetune import lora
from litgpt.prompts import Default
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from litgpt.utils import save_config
from safetensors.torch import load_file
from work import Clock, Work, given


def checkpoint(place: Path, work: Work) -> Path:
    """The random Llama as LitGPT keeps one."""
    shutil.copytree(work.model, place)
    shape = json.loads((place / "config.json").read_text(encoding="utf-8"))
    config = Config(
        name="llama", block_size=shape["max_position_embeddings"],
        n_layer=shape["num_hidden_layers"], n_embd=shape["hidden_size"],
        n_head=shape["num_attention_heads"],
        intermediate_size=shape["intermediate_size"], vocab_size=shape["vocab_size"],
        padded_vocab_size=shape["vocab_size"], norm_eps=shape["rms_norm_eps"],
        norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", rotary_percentage=1.0,
        parallel_residual=False, bias=False,
    )  # fmt: skip
    weights: dict[str, Any] = {}
    copy_weights_hf_llama(config, {}, weights, load_file(place / "model.safetensors"))
    torch.save(weights, place / "lit_model.pth")
    save_config(config, place)
    return place


def rows(place: Path, work: Work) -> JSON:
    place.mkdir()
    for split, name in (("train", "train"), ("test", "val")):
        found = [
            {"instruction": row["prompt"], "output": row["completion"]} for row in work.rows(split)
        ]
        (place / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")
    return JSON(json_path=place, mask_prompt=True, prompt_style=Default(), num_workers=0)


def clocked(clock: Clock, fit: Any) -> Any:
    """LitGPT's own loop; the process ends with it."""

    def wrapped(**given: Any) -> None:
        counts = fit(**given)
        clock.stop()
        clock.report(tokens=int(counts["raw_tokens_plus_prompt_template"]))
        sys.exit()

    return wrapped


class Began(lora.CycleIterator):
    """Is made where the loop begins."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        clock.start()


class Counted(torch.optim.AdamW):
    def step(self, *args: Any, **kwargs: Any) -> Any:
        done = super().step(*args, **kwargs)
        clock.stepped()
        return done


def main(work: Work) -> None:
    # It runs in a folder of its own.
    here = Path.cwd()
    lora.CycleIterator = Began
    lora.fit = clocked(clock, lora.fit)
    lora.generate_example = lambda *args: None
    lora.instantiate_torch_optimizer = lambda _, parameters: Counted(
        parameters, lr=work.learning_rate, weight_decay=work.weight_decay, fused=True
    )
    lora.setup(
        checkpoint_dir=checkpoint(here / "checkpoint", work),
        out_dir=here / "out",
        precision="32-true",
        lora_dropout=0.0,
        lora_key=True,
        lora_projection=True,
        lora_mlp=True,
        data=rows(here / "rows", work),
        train=TrainArgs(
            global_batch_size=work.batch_size,
            micro_batch_size=work.batch_size,
            # None is refused by its schedule, which divides by it.
            lr_warmup_steps=1,
            epochs=work.epochs,
            max_seq_length=work.max_length,
            log_interval=10_000,
            save_interval=None,
        ),
        eval=EvalArgs(interval=10_000, max_new_tokens=1, final_validation=False),
        seed=work.seed,
    )


clock = Clock()
main(given())
