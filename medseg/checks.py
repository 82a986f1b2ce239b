"""The door: checks of what comes in, with messages that say what to do.

Every public function calls one of these first and then trusts its input. All raise
``TypeError`` for a wrong kind of value and ``ValueError`` for a wrong value, and each
message says what came, what was expected, and what to do.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor


def check_images(images: Tensor, in_channels: int, spatial_dims: int = 2) -> None:
    """Accept a float image batch ``(B, C, *spatial)``.

    Args:
        images: What a network was called with.
        in_channels: The channels C that the network expects.
        spatial_dims: 2 for ``(B, C, H, W)``, 3 for ``(B, C, D, H, W)``.

    Raises:
        TypeError: ``images`` is not a tensor of floating point numbers.
        ValueError: The number of axes or of channels is another one.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images must be a torch.Tensor, got {type(images).__name__}. "
            "Convert an array with torch.from_numpy(array)."
        )
    if not images.is_floating_point():
        raise TypeError(
            f"images must hold floating point numbers, got {images.dtype}. "
            "Scale them and convert: images.float() / 255."
        )
    axes = "(B, C, H, W)" if spatial_dims == 2 else "(B, C, D, H, W)"
    if images.ndim != spatial_dims + 2:
        raise ValueError(
            f"images must have {spatial_dims + 2} axes {axes}, got shape "
            f"{tuple(images.shape)}. Add a missing batch axis with images.unsqueeze(0)."
        )
    if images.shape[1] != in_channels:
        raise ValueError(
            f"this network takes {in_channels} image channel(s), got images of shape "
            f"{tuple(images.shape)} with {images.shape[1]}. Build the network with "
            f"in_channels={images.shape[1]}, or convert the images."
        )


def check_finite(values: Tensor, name: str) -> None:
    """Refuse NaN and infinity.

    Skipped while ``torch.compile`` or ``torch.export`` traces the caller.

    Raises:
        ValueError: A value is NaN or infinite.
    """
    if torch.compiler.is_compiling():
        return
    # The sum takes a tenth of the time, and is finite only if all values are. It may
    # overflow where none is infinite, so the values have the last word.
    total = values.detach().sum(dtype=torch.float32)
    if torch.isfinite(total) or torch.isfinite(values).all():
        return
    bad = int((~torch.isfinite(values)).sum())
    raise ValueError(
        f"{name} holds {bad} NaN or infinite value(s) among {values.numel()}. If this "
        "happens in training, lower the learning rate, clip the gradients, and look "
        "for NaN in the images."
    )


def as_labels(
    logits: Tensor, labels: Tensor, ignore_index: int | None = None
) -> Tensor:
    """Check logits and labels against each other, and return integer labels.

    Args:
        logits: Scores ``(B, K, *spatial)`` before sigmoid (K = 1) or softmax (K > 1).
        labels: Class indices ``(B, *spatial)``, integers in ``[0, K)``; for K = 1 in
            {0, 1}. For K = 1 also a mask in the logits' own shape
            ``(B, 1, *spatial)``, of any dtype, with no values but 0 and 1: what
            ``MedicalImageDataset`` yields and ``BCEWithLogitsLoss`` wants.
        ignore_index: A label that is allowed besides, and left out by the caller.

    Returns:
        Labels ``(B, *spatial)``, int64.

    Raises:
        TypeError: Logits are no floating point tensor, or labels no integer tensor.
        ValueError: The shapes do not belong together, a label is outside its range,
            or a logit is NaN or infinite.
    """
    for value, name in ((logits, "logits"), (labels, "labels")):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name} must be a torch.Tensor, got {type(value).__name__}. Convert "
                "an array with torch.from_numpy(array)."
            )
    if not logits.is_floating_point():
        raise TypeError(f"logits must hold floating point numbers, got {logits.dtype}.")
    if logits.ndim < 3:
        raise ValueError(
            f"logits must have shape (B, K, *spatial), got {tuple(logits.shape)}."
        )
    num_classes = logits.shape[1]
    if num_classes == 1 and labels.shape == logits.shape:
        labels = labels[:, 0]
        if labels.is_floating_point():
            if (
                not torch.compiler.is_compiling()
                and not ((labels == 0) | (labels == 1)).all()
            ):
                raise ValueError(
                    "a float mask must hold only 0 and 1, got values from "
                    f"{labels.min().item():g} to {labels.max().item():g}. Binarise "
                    "8-bit masks with (mask > 127)."
                )
            labels = labels.long()
    if labels.is_floating_point():
        raise TypeError(
            f"labels must be class indices (an integer dtype), got {labels.dtype}. "
            "If they are probabilities, take labels.argmax(dim=1) first."
        )
    expected = (logits.shape[0], *logits.shape[2:])
    if tuple(labels.shape) != expected:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, but logits "
            f"{tuple(logits.shape)} need labels of shape {expected}: "
            "one class index per pixel, and no channel axis."
        )
    labels = labels.long()
    if not torch.compiler.is_compiling() and labels.numel():
        counted = labels if ignore_index is None else labels[labels != ignore_index]
        top = max(num_classes, 2) - 1
        if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) <= top:
            raise ValueError(
                f"labels must lie in 0..{top} for logits with K = {num_classes}, got "
                f"{int(counted.min())}..{int(counted.max())}. 8-bit masks with 0 and "
                "255 are binarised with (mask > 127); a void label is given as "
                "ignore_index where the function has one."
            )
    check_finite(logits, "logits")
    return labels


def as_mask(mask: ArrayLike | Tensor, name: str = "mask") -> NDArray[np.bool_]:
    """Return a boolean array for a mask that holds nothing but 0 and 1.

    Args:
        mask: Array or tensor, ``(*spatial)``: booleans, or numbers 0 and 1.
        name: What the error message calls it.

    Raises:
        TypeError: The values are not numbers.
        ValueError: There are values other than 0 and 1, or no pixels.
    """
    array = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask)
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} must hold booleans or numbers, got {array.dtype}.")
    if array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}: there are no pixels in it.")
    if array.dtype == np.bool_:
        return array
    if not ((array == 0) | (array == 1)).all():
        raise ValueError(
            f"{name} must hold only 0 and 1 (or booleans), got values from "
            f"{array.min()} to {array.max()}. Turn probabilities or 0/255 masks into "
            "booleans with a threshold: mask > 0.5, or mask > 127."
        )
    return array.astype(np.bool_)


def as_mask_pair(
    pred: ArrayLike | Tensor, truth: ArrayLike | Tensor
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return prediction and reference as boolean arrays of one shape.

    Raises:
        TypeError: The values are not numbers.
        ValueError: The shapes differ, or there are values other than 0 and 1.
    """
    pred_mask, truth_mask = as_mask(pred, "pred"), as_mask(truth, "truth")
    if pred_mask.shape != truth_mask.shape:
        raise ValueError(
            f"masks differ in shape: pred {pred_mask.shape} and truth "
            f"{truth_mask.shape}. Resize the prediction to the reference, never the "
            "other way round."
        )
    return pred_mask, truth_mask


def as_label_map(labels: ArrayLike | Tensor, name: str = "labels") -> NDArray[np.int64]:
    """Return a map of non-negative integers ``(*spatial)`` as int64.

    Raises:
        TypeError: The values are not integers (or booleans).
        ValueError: A label is negative, or there are no pixels.
    """
    return as_label_array(labels, name).astype(np.int64)


def as_label_array(labels: ArrayLike | Tensor, name: str = "labels") -> NDArray[Any]:
    """Return a map of non-negative integers ``(*spatial)`` in its own dtype, no copy.

    Raises:
        TypeError: The values are not integers (or booleans).
        ValueError: A label is negative, or there are no pixels.
    """
    array = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if array.dtype.kind not in "bui":
        raise TypeError(
            f"{name} must be class indices (an integer dtype), got {array.dtype}. "
            "If they are probabilities, take the argmax over the classes first."
        )
    if array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}: there are no pixels in it.")
    if array.dtype.kind == "i" and array.min() < 0:
        raise ValueError(
            f"{name} must not be negative, got {array.min()}. Remove void labels first."
        )
    return array


def as_spacing(spacing: Sequence[float], ndim: int) -> tuple[float, ...]:
    """Return the voxel size in mm along each of ``ndim`` axes.

    Raises:
        ValueError: The number of values is not ``ndim``, or one is not positive.
    """
    values = tuple(float(value) for value in spacing)
    if len(values) != ndim:
        raise ValueError(
            f"spacing has {len(values)} values, but the array has {ndim} axes; give "
            "the voxel size in mm for each axis, in their order."
        )
    if not all(np.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"spacing must be positive and finite, in mm, got {values}.")
    return values


def check_choice(value: Any, name: str, choices: Sequence[Any]) -> None:
    """Accept one of a few values.

    Raises:
        ValueError: ``value`` is not among ``choices``.
    """
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {listed}, got {value!r}.")
