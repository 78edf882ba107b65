"""Adapters on a base in 4 bits (Dettmers et al. 2023)."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from llmexp.config import RunConfig, spec
from llmexp.strategies.lora import LoRA

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import BitsAndBytesConfig

    from llmexp.context import Context
    from llmexp.models import HFModel
    from llmexp.tasks.base import Task

log = logging.getLogger("llmexp")


@spec
class QLoRA(LoRA):
    """LoRA on a base that is loaded in 4 bits, or that is quantised already (GPTQ)."""

    quant_type: Literal["nf4", "fp4"]
    double_quant: bool
    """Quantise the scales too: 0.4 bits a parameter less."""
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"]
    """What weights are dequantised to; auto is bfloat16 on a GPU that has it, float32 on a CPU."""
    dequantize: Literal["auto", "never", "always"]
    """Keep the base as the numbers its 4 bits stand for: the same results at LoRA's speed, in
    LoRA's memory. auto does where they take at most half of the memory that is free."""

    def check(self, model: HFModel, task: Task, config: RunConfig) -> list[str]:
        found = LoRA.check(self, model, task, config)
        if not model.quantized() and find_spec("bitsandbytes") is None:
            found.append("strategy: qlora needs the package bitsandbytes: pip install bitsandbytes")
        return found

    def unread(self, model: HFModel, task: Task) -> dict[str, str]:
        found = LoRA.unread(self, model, task)
        if model.quantized():
            names = ("quant_type", "double_quant", "compute_dtype", "dequantize")
            why = "the checkpoint is quantised already"
            found |= {f"strategy.{name}": why for name in names}
        return found

    def load(self, context: Context) -> nn.Module:
        """The base in 4 bits; its new head, and whatever else the checkpoint lacks, in full."""
        if getattr(context.config, "quantization_config", None) is not None:
            return LoRA.load(self, context)
        from llmexp.nets.architecture import empty_network, new_head_names, new_modules

        skip = new_head_names(empty_network(context))
        net = self._load_in_4_bits(context, skip)
        lacking = [name for name in new_modules(net) if name.split(".")[0] not in skip]
        if lacking:
            net = self._load_in_4_bits(context, [*skip, *lacking])
        return self._dequantised(net)

    def _dequantised(self, net: nn.Module) -> nn.Module:
        """The base in the numbers that its 4 bits stand for, if there is room for them."""
        from llmexp.nets import dequantization

        needed, free = dequantization.needed_bytes(net), dequantization.free_bytes()
        keep = self.dequantize == "always" or (self.dequantize == "auto" and needed <= free / 2)
        how = "kept dequantised, for speed" if keep else "dequantised anew at each use, for memory"
        sizes = f"{needed / 2**30:.2f} of {free / 2**30:.1f} GB that are free"
        log.info(f"strategy.dequantize={self.dequantize}: the 4-bit base is {how} ({sizes})")
        return dequantization.dequantise(net) if keep else net

    def _load_in_4_bits(self, context: Context, skip: list[str]) -> nn.Module:
        import torch

        # Straight to where they stay: each process of a machine has a GPU of its own.
        gpu = torch.cuda.is_available()
        here = int(os.environ.get("LOCAL_RANK", 0)) if gpu else "cpu"
        return context.model.load(
            context.task.auto_class(),
            context.config,
            quantization_config=self.quantization(skip),
            device_map={"": here},
        )

    def quantization(self, skip: list[str]) -> BitsAndBytesConfig:
        """What transformers is told; without names to skip it spares the output head by itself."""
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.quant_type,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=self._compute_dtype(),
            llm_int8_skip_modules=skip or None,
        )

    def _compute_dtype(self) -> torch.dtype:
        import torch

        if self.compute_dtype != "auto":
            dtype: Any = getattr(torch, self.compute_dtype)
            return dtype
        if not torch.cuda.is_available():
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
