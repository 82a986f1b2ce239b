"""The number format and the memory layout that a network computes in."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from medseg.checks import check_choice

PRECISIONS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def autocast_for(device: torch.device | str, precision: str) -> torch.autocast:
    """Context in which a network computes in a number format.

    Args:
        device: Where it computes.
        precision: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: half
            precision where the device has units for it. That is bfloat16 on a CPU
            with AMX or AVX-512 units for it and on a GPU from Ampere on, float16 on
            an older GPU, float32 elsewhere.

    Raises:
        ValueError: ``precision`` is none of these.

    Example:
        >>> with autocast_for("cpu", "bfloat16"):
        ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
        torch.bfloat16
    """
    dtype = pick_dtype(device, precision)
    kind = torch.device(device).type
    return torch.autocast(kind, dtype, enabled=dtype != torch.float32)


def pick_dtype(device: torch.device | str, precision: str) -> torch.dtype:
    """The format that ``precision`` stands for on a device."""
    check_choice(precision, "precision", ("auto", *PRECISIONS))
    if precision != "auto":
        return PRECISIONS[precision]
    kind = torch.device(device).type
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    # Without such units bfloat16 is emulated, and slower than float32. Old versions
    # of PyTorch cannot tell.
    units: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    has_bfloat16 = units.get("amx_bf16") or units.get("avx512_bf16")
    return torch.bfloat16 if kind == "cpu" and has_bfloat16 else torch.float32


def scaler_for(device: torch.device | str, precision: str) -> torch.amp.GradScaler:
    """Scaler of the loss; it does nothing unless the precision is float16."""
    enabled = pick_dtype(device, precision) == torch.float16
    return torch.amp.GradScaler(torch.device(device).type, enabled=enabled)


def channels_last(model: nn.Module) -> None:
    """Lay out the weights of 2D convolutions with the channels innermost, in place.

    Those of 3D convolutions stay: measured, it made networks with instance norm
    slower.
    """
    for weight in model.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
