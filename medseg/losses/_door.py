"""What every loss does first: check its input, and turn logits into soft masks."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medseg.checks import as_labels


class SoftMasks(NamedTuple):
    """A prediction and its labels as one mask for each class.

    Pixels that do not count are 0 in both, so that no sum sees them.
    """

    probs: Tensor  # (B, classes, *spatial), at least float32
    truth: Tensor  # (B, classes, *spatial), 0 and 1, of the same dtype
    counted: Tensor  # (B, 1, *spatial), bool: False where the label is ignored


def check_logits_and_labels(
    logits: Tensor, labels: Tensor, ignore_index: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Check both, and return logits, labels, and the pixels that count.

    Args:
        logits: Scores ``(B, K, *spatial)``.
        labels: Class indices ``(B, *spatial)``, or for K = 1 a mask of the logits'
            shape.
        ignore_index: A label whose pixels do not count.

    Returns:
        Logits, at least float32; labels ``(B, *spatial)``, int64, with 0 for the
        ignored ones; a bool tensor of the same shape, False for the ignored ones.

    Raises:
        TypeError: Logits are not floating point, or labels are not integers.
        ValueError: The shapes do not belong together, there is no pixel, a label is
            out of range, or a logit is NaN or infinite.
    """
    labels = as_labels(logits, labels, ignore_index)
    if logits.numel() == 0:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)}: there is no class or no pixel "
            "in them. Leave empty batches out."
        )
    if ignore_index is None:
        counted = torch.ones_like(labels, dtype=torch.bool)
    else:
        counted = labels != ignore_index
        labels = labels.where(counted, 0)
    return at_least_float32(logits), labels, counted


def soft_masks(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int | None,
    include_background: bool,
    binary_background: bool = False,
) -> SoftMasks:
    """Probabilities and labels of each class that counts: see `SoftMasks`.

    For K > 1 these are all classes, or with ``include_background=False`` all but 0.
    For K = 1 the foreground is the only class, unless ``binary_background`` asks for
    its complement too.

    Raises:
        TypeError: As `check_logits_and_labels`.
        ValueError: As `check_logits_and_labels`.
    """
    logits, labels, counted = check_logits_and_labels(logits, labels, ignore_index)
    if logits.shape[1] == 1 and binary_background:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    # (B, K, *spatial)
    if logits.shape[1] == 1:
        probs, truth = logits.sigmoid(), labels[:, None].to(logits.dtype)
    else:
        probs = logits.softmax(dim=1)
        truth = torch.zeros_like(probs).scatter_(1, labels[:, None], 1)
        if not include_background:
            probs, truth = probs[:, 1:], truth[:, 1:]
    counted = counted[:, None]
    if ignore_index is not None:
        probs, truth = probs * counted, truth * counted
    return SoftMasks(probs, truth, counted)


def at_least_float32(logits: Tensor) -> Tensor:
    """Return float32, unless it is float64 already."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def as_weights(
    weights: Tensor | Sequence[float], logits: Tensor, shape: tuple[int, ...], name: str
) -> Tensor:
    """Return weights of this shape, with the dtype and device of the logits.

    Raises:
        ValueError: Another shape; or a weight is negative or not finite.
    """
    values = torch.as_tensor(weights, dtype=logits.dtype, device=logits.device)
    if tuple(values.shape) != shape:
        raise ValueError(
            f"{name} must have shape {shape} for logits {tuple(logits.shape)}, got "
            f"{tuple(values.shape)}. Give one weight for each "
            + ("class." if name == "class_weights" else "pixel, and no channel axis.")
        )
    if torch.compiler.is_compiling():
        return values
    if not (torch.isfinite(values) & (values >= 0)).all():
        raise ValueError(
            f"{name} must be finite and not negative, got values from "
            f"{values.min().item():g} to {values.max().item():g}. Use 0 for what "
            "should not count."
        )
    return values


def check_number(value: float, name: str, low: float, *, above: bool = True) -> None:
    """Accept a finite number above ``low``, or with ``above=False`` from ``low`` on.

    Raises:
        ValueError: It is lower, NaN or infinite.
    """
    if not (math.isfinite(value) and (value > low if above else value >= low)):
        bound = f"greater than {low:g}" if above else f"at least {low:g}"
        raise ValueError(f"{name} must be {bound} and finite, got {value}.")
