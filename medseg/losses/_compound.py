"""Losses made of losses: sums, and deep supervision."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.checks import check_choice
from medseg.losses._entropy import cross_entropy
from medseg.losses._regions import dice_loss

Loss = Callable[..., Tensor]  # (logits, labels, *, ...) -> scalar
SPLINE = {1: "linear", 2: "bilinear", 3: "trilinear"}  # by spatial axes


def cross_entropy_dice(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | Sequence[float] | None = None,
    pixel_weights: Tensor | None = None,
    per_sample: bool = False,
    include_background: bool = True,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Sum of `cross_entropy` and `dice_loss`.

    The cross entropy gives every pixel a gradient from the first step on; the Dice
    loss keeps small structures from being outvoted.

    Args:
        logits: Scores before softmax or sigmoid, ``(B, K, *spatial)``.
        labels: Class indices ``(B, *spatial)``; for K = 1 also a mask of zeros and
            ones ``(B, 1, *spatial)``.
        class_weights: As in `cross_entropy`; the Dice loss does not see them.
        pixel_weights: As in `cross_entropy`; the Dice loss does not see them.
        per_sample: As in `dice_loss`.
        include_background: As in `dice_loss`.
        ignore_index: A label whose pixels count in neither.
        label_smoothing: As in `cross_entropy`; the Dice loss does not see it.

    Returns:
        A scalar in ``[0, inf)``, at least float32. A class that does not occur in the
        labels is treated as in `dice_loss`.

    Raises:
        TypeError: As in the two.
        ValueError: As in the two.

    Source:
        isensee2021nnunet, whose default is this sum with other rules for empty masks.

    Example:
        >>> logits, labels = torch.zeros(1, 1, 1, 4), torch.tensor([[[0, 0, 1, 1]]])
        >>> round(cross_entropy_dice(logits, labels).item(), 4)  # log 2 + 1/2
        1.1931
    """
    return cross_entropy(
        logits,
        labels,
        class_weights=class_weights,
        pixel_weights=pixel_weights,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    ) + dice_loss(
        logits,
        labels,
        per_sample=per_sample,
        include_background=include_background,
        ignore_index=ignore_index,
    )


def combined_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    terms: Sequence[tuple[float, Loss]],
    ignore_index: int | None = None,
) -> Tensor:
    """Weighted sum of any losses.

    Args:
        logits: Scores before softmax or sigmoid, ``(B, K, *spatial)``.
        labels: What all the losses take.
        terms: Pairs of weight and loss. Options are set with ``functools.partial``:
            ``partial(boundary_loss, spacing=(1, 1))``.
        ignore_index: Given to every loss, if it is given.

    Returns:
        A scalar.

    Raises:
        TypeError: A term is not a pair of a number and a function.
        ValueError: There is no term, or a weight is not finite; else as the losses.

    Example:
        Dice, and the distance of wrong pixels from the boundary, 1 mm for all:

        >>> from functools import partial
        >>> from medseg.losses import boundary_loss
        >>> distance = partial(boundary_loss, spacing=(1, 1))
        >>> logits, labels = torch.zeros(1, 1, 2, 2), torch.tensor([[[0, 0], [1, 1]]])
        >>> terms = [(1, dice_loss), (0.01, distance)]
        >>> loss = combined_loss(logits, labels, terms=terms)  # 0.5 + 0.01 * 0.5
        >>> round(loss.item(), 4)
        0.505
    """
    if not terms:
        raise ValueError("terms must hold at least one pair of weight and loss.")
    options = {} if ignore_index is None else {"ignore_index": ignore_index}
    values = []
    for term in terms:
        if not (isinstance(term, Sequence) and len(term) == 2 and callable(term[1])):
            raise TypeError(
                f"each of the terms must be a pair (weight, loss), got {term!r}."
            )
        weight, loss = term
        if not math.isfinite(weight):
            raise ValueError(f"the weight of a loss must be finite, got {weight}.")
        values.append(weight * loss(logits, labels, **options))
    return sum(values[1:], start=values[0])


def deep_supervision_loss(
    logits: Tensor | Sequence[Tensor],
    labels: Tensor,
    *,
    loss: Loss = cross_entropy_dice,
    weights: Sequence[float] | None = None,
    drop_last: bool = False,
    resize: str = "labels",
    ignore_index: int | None = None,
) -> Tensor:
    r"""Weighted mean of a loss over the outputs of a network at several scales.

    .. math:: \frac{\sum_i w_i \, L(z_i, y_i)}{\sum_i w_i}

    Where an output is smaller than the labels, the labels are subsampled to its size
    by default: of each cell of pixels the one at its centre is taken, as PyTorch's
    ``nearest-exact`` does. No class is invented, but a structure of a pixel or two can
    vanish from a coarse scale, and predicting it there is punished. With
    ``resize="logits"`` the logits are interpolated to the labels' size instead:
    nothing vanishes, at the price of a full-size loss for each scale.

    Args:
        logits: A list of scores ``(B, K, *spatial)``, finest first, as the networks of
            `medseg.models` return in training mode. A single tensor, as they return in
            evaluation mode, is given to the loss as it is.
        labels: Class indices ``(B, *spatial)`` of the finest output's size; for K = 1
            also a mask ``(B, 1, *spatial)``.
        loss: Any loss of this module; set options with ``functools.partial``.
        weights: One for each output. By default 1, 1/2, 1/4, ... For U-Net++, whose
            outputs all have full size, give equal ones.
        drop_last: Give the last, coarsest output weight 0, as nnU-Net does, if it is
            not the only one.
        resize: ``"labels"`` or ``"logits"``.
        ignore_index: Given to the loss, if it is given.

    Returns:
        A scalar.

    Raises:
        TypeError: The logits are neither a tensor nor a sequence of tensors; else as
            the loss.
        ValueError: There is no output; the weights are of another number, negative, or
            all 0; else as the loss.

    Source:
        lee2015deeply for the idea; isensee2021nnunet for the weights.

    Example:
        >>> labels = torch.tensor([[[0, 0, 1, 1]] * 4])
        >>> fine, coarse = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)
        >>> deep_supervision_loss([fine, coarse], labels, loss=dice_loss).item()
        0.5
    """
    check_choice(resize, "resize", ("labels", "logits"))
    options = {} if ignore_index is None else {"ignore_index": ignore_index}
    if isinstance(logits, Tensor):
        return loss(logits, labels, **options)
    if not isinstance(logits, Sequence) or not all(
        isinstance(scale, Tensor) and scale.ndim > 2 for scale in logits
    ):
        raise TypeError(
            "logits must be a tensor (B, K, *spatial) or a list of them, got "
            f"{type(logits).__name__}."
        )
    if not logits:
        raise ValueError("logits are an empty list: the network returned no output.")
    shares = _scale_weights(len(logits), weights, drop_last)
    values = []
    for scale, share in zip(logits, shares, strict=True):
        reference = labels
        if resize == "labels":
            reference = _subsample(labels, scale)
        elif scale.shape[2:] != logits[0].shape[2:]:
            size = logits[0].shape[2:]
            scale = F.interpolate(scale, size, mode=SPLINE[len(size)])
        # With a share of 0 too: a head without a gradient stops distributed training.
        values.append(share * loss(scale, reference, **options))
    return sum(values[1:], start=values[0])


def _scale_weights(
    count: int, weights: Sequence[float] | None, drop_last: bool
) -> list[float]:
    """Weights of the outputs, with a sum of 1."""
    values = [0.5**i for i in range(count)] if weights is None else list(weights)
    if len(values) != count:
        raise ValueError(
            f"weights has {len(values)} values for {count} outputs; give one for each."
        )
    if drop_last and count > 1:
        values[-1] = 0.0
    if not all(math.isfinite(value) and value >= 0 for value in values):
        raise ValueError(f"weights must be finite and not negative, got {values}.")
    total = math.fsum(values)
    if total == 0:
        raise ValueError(f"weights must not all be 0, got {values}.")
    return [value / total for value in values]


def _subsample(labels: Tensor, logits: Tensor) -> Tensor:
    """Take the pixel at the centre of each cell, so many as the logits have.

    Raises:
        TypeError: The labels are no tensor.
        ValueError: They have other axes than the logits need, or no pixel.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}.")
    if labels.ndim not in (logits.ndim - 1, logits.ndim) or labels.numel() == 0:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, but logits "
            f"{tuple(logits.shape)} need labels (B, *spatial) with pixels in them."
        )
    first = labels.ndim - (logits.ndim - 2)
    for axis, target in enumerate(logits.shape[2:], start=first):
        length = labels.shape[axis]
        if length != target:
            cells = torch.arange(target, device=labels.device)
            labels = labels.index_select(axis, (2 * cells + 1) * length // (2 * target))
    return labels
