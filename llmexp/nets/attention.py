"""How attention is computed: what each way needs, and what to use where that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from llmexp.errors import UserError

if TYPE_CHECKING:
    import torch

FLASH, FLEX = "flash_attention_2", "flex_attention"
AMPERE = (8, 0)
WHY = {
    FLASH: f"{FLASH} runs on a CUDA GPU only",
    FLEX: f"{FLEX} trains on a CUDA GPU only (torch has no backward pass of it on a CPU)",
}
ELSE = "use model.attention=sdpa"


def complaints(attention: str, dtype: str, hardware: dict[str, Any]) -> list[str]:
    """Why the model cannot attend like this on this hardware; neither torch nor a network."""
    if attention not in WHY:
        return []
    if hardware.get("accelerator") in ("cpu", "mps"):
        accelerator = hardware["accelerator"]
        return [
            f"model.attention: {WHY[attention]}, and hardware.accelerator={accelerator}; {ELSE}"
        ]
    if attention != FLASH:
        return []
    if find_spec("flash_attn") is None and find_spec("kernels") is None:
        return [
            f"model.attention: {FLASH} needs the package flash_attn: pip install flash-attn (on a "
            f"machine with a CUDA GPU); or {ELSE}"
        ]
    if dtype == "float32" and not str(hardware.get("precision", "")).startswith(("16", "bf16")):
        return [
            f"model.attention: {FLASH} computes in 16 bits and model.dtype=float32; use "
            "model.dtype=bfloat16 or hardware.precision=bf16-mixed"
        ]
    return []


def no_flash(net: Any, device: torch.device, half: bool) -> str | None:
    """Why packs are not to be computed by flash attention where a network is; None: they can be.

    `half`: it is computed in 16 bits.
    """
    import torch

    if device.type != "cuda":
        return "flash attention needs a CUDA GPU"
    if torch.cuda.get_device_capability(device) < AMPERE:
        return f"flash attention is not written for {torch.cuda.get_device_name(device)}"
    # Transformers would fetch another build of it from the hub.
    if find_spec("flash_attn") is None:
        return "the package flash_attn is not installed"
    if not half:
        return "flash attention computes in 16 bits"
    if not net._supports_flash_attn:
        return f"transformers has no flash attention for {net.config.model_type}"
    return None


def runs_here(attention: str) -> bool:
    """Whether this machine has the device that it needs."""
    import torch

    return attention not in WHY or torch.cuda.is_available()


def check_here(attention: str) -> None:
    if not runs_here(attention):
        raise UserError(
            f"model.attention: {WHY[attention]}, and this machine has none that torch can use; "
            f"{ELSE}"
        )


@contextmanager
def offered(attention: str) -> Iterator[None]:
    """A family that has no such attention is one sentence."""
    try:
        yield
    except ValueError as error:
        said = str(error)
        if "does not support" in said and "ttention" in said.split(". ")[0]:
            family = said.split(" ")[0]
            raise UserError(
                f"model.attention: transformers has no {attention} for {family}; use "
                "model.attention=sdpa, or model.attention=eager where there is no other"
            ) from error
        raise
