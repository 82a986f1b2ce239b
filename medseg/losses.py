"""Losses for semantic segmentation, as plain functions of logits and labels.

    cross_entropy        every pixel counts the same, unless weighted
    dice_loss            every class counts the same
    cross_entropy_dice   the sum of both

All take logits ``(B, K, *spatial)`` and integer labels ``(B, *spatial)``, and return
a scalar to minimise. ``K = 1`` is the binary shorthand: one foreground logit and a
sigmoid. Sums are taken in float32, whatever the logits are (float64 stays float64):
in float16 the sum over a mask of 300 x 300 pixels is already infinite. Set options
with ``functools.partial``.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.checks import as_labels


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | Sequence[float] | None = None,
    pixel_weights: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    r"""Cross entropy, averaged over the pixels with their weights.

    .. math:: \frac{\sum_i w_i \, (-\log p_{i, y_i})}{\sum_i w_i}, \qquad
        w_i = c_{y_i} \, m_i

    p is the softmax of the logits (K > 1), or the sigmoid and its complement (K = 1);
    c are the class weights and m the pixel weights, all 1 if not given. The sum of
    the weights divides, as in torch: doubling every weight changes nothing.

    Args:
        logits: Scores before softmax or sigmoid, ``(B, K, *spatial)``.
        labels: Class indices ``(B, *spatial)``; for K = 1 also a mask of zeros and
            ones ``(B, 1, *spatial)``.
        class_weights: K non-negative weights; for K = 1 two, background first.
        pixel_weights: Non-negative weights ``(B, *spatial)``, such as U-Net's border
            weights.
        ignore_index: A label whose pixels do not count (weight 0).

    Returns:
        A scalar in ``[0, inf)``, at least float32. Where all weights are 0 (every
        pixel ignored) it is 0, with a gradient of 0.

    Raises:
        TypeError: Logits are not floating point, or labels are not integers.
        ValueError: Shapes do not belong together, a label is out of range, a logit
            is not finite, or a weight is negative or not finite.

    Source:
        ronneberger2015unet, section 3, equations 1 and 2 for the weighted form, which
        is a sum there and an average here.

    Example:
        Without evidence, each of four classes has probability 1/4:

        >>> logits, labels = torch.zeros(1, 4, 2, 2), torch.tensor([[[0, 1], [2, 3]]])
        >>> round(cross_entropy(logits, labels).item(), 4)  # log 4
        1.3863
    """
    labels = as_labels(logits, labels, ignore_index)  # (B, *spatial)
    logits = _at_least_float32(logits)
    num_classes = max(logits.shape[1], 2)
    weights = torch.ones_like(logits[:, 0])  # (B, *spatial)
    if ignore_index is not None:
        weights = (labels != ignore_index).to(logits.dtype)
        labels = labels.where(labels != ignore_index, 0)
    if class_weights is not None:
        weights = weights * _as_weights(
            class_weights, logits, (num_classes,), "class_weights"
        ).take(labels)
    if pixel_weights is not None:
        weights = weights * _as_weights(
            pixel_weights, logits, tuple(labels.shape), "pixel_weights"
        )
    if logits.shape[1] == 1:
        losses = F.binary_cross_entropy_with_logits(
            logits[:, 0], labels.to(logits.dtype), reduction="none"
        )
    else:
        losses = F.cross_entropy(logits, labels, reduction="none")  # (B, *spatial)
    total = weights.sum()
    return (weights * losses).sum() / total.where(total > 0, 1)


def dice_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    per_sample: bool = False,
    include_background: bool = True,
) -> Tensor:
    r"""Soft Dice loss, averaged over the classes.

    .. math:: 1 - \frac{1}{K} \sum_k
        \frac{2 \sum_i p_{ki} g_{ki}}{\sum_i p_{ki} + \sum_i g_{ki}}

    p are probabilities, g is 1 where the label is k and 0 elsewhere. For K = 1 the
    foreground is the only class. A class that does not occur in the labels is scored
    by its complement: its Dice would be 0 for one wrong pixel as for a thousand, and
    would not say which way is better. Its term is

    .. math:: 1 - \mathrm{Dice}(1 - p, 1 - g) =
        \frac{\sum_i p_{ki}}{2N - \sum_i p_{ki}},

    with N pixels: 0 when nothing is predicted, more with every false pixel, and with a
    gradient everywhere. No constant has to be added to a denominator.

    Args:
        logits: Scores before softmax or sigmoid, ``(B, K, *spatial)``.
        labels: Class indices ``(B, *spatial)``; for K = 1 also a mask of zeros and
            ones ``(B, 1, *spatial)``.
        per_sample: Sum over the pixels of each image, and average over images. By
            default the sums run over the whole batch, where a structure is absent
            less often.
        include_background: Let class 0 count as one of the K classes. Without effect
            for K = 1, where the foreground is the only class.

    Returns:
        A scalar in ``[0, 1]``, at least float32; 0 for a perfect prediction.

    Raises:
        TypeError: Logits are not floating point, or labels are not integers.
        ValueError: The shapes do not belong together, a label is out of range, or a
            logit is not finite.

    Source:
        milletari2016vnet, section 3, with p and g in place of their squares.

    Example:
        Two of four pixels are foreground; the network says 1/2 everywhere:

        >>> logits, labels = torch.zeros(1, 1, 1, 4), torch.tensor([[[0, 0, 1, 1]]])
        >>> dice_loss(logits, labels).item()  # 1 - 2 * 1 / (2 + 2)
        0.5
    """
    labels = as_labels(logits, labels)  # (B, *spatial)
    logits = _at_least_float32(logits)
    if logits.shape[1] == 1:
        probs, first = logits.sigmoid(), 1
    else:
        probs, first = logits.softmax(dim=1), 0 if include_background else 1
        probs = probs[:, first:]
    probs = probs.flatten(2)  # (B, classes, pixels)
    classes = torch.arange(first, first + probs.shape[1], device=labels.device)
    truth = labels.flatten(1)[:, None] == classes[:, None]  # (B, classes, pixels)
    axes = (2,) if per_sample else (0, 2)
    overlap = (probs * truth).sum(axes)  # (B, classes) or (classes,)
    predicted, actual = probs.sum(axes), truth.sum(axes)
    pixels = truth.shape[2] if per_sample else labels.numel()
    absent = predicted / (2 * pixels - predicted)
    # Where the class is absent, predicted can underflow to 0, and 0/0 would put nan
    # into the gradient of the branch that is not taken.
    present = 1 - 2 * overlap / (predicted + actual).where(actual > 0, 1)
    return torch.where(actual > 0, present, absent).mean()


def cross_entropy_dice(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | Sequence[float] | None = None,
    pixel_weights: Tensor | None = None,
    per_sample: bool = False,
    include_background: bool = True,
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
        logits, labels, class_weights=class_weights, pixel_weights=pixel_weights
    ) + dice_loss(
        logits, labels, per_sample=per_sample, include_background=include_background
    )


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _as_weights(
    weights: Tensor | Sequence[float], logits: Tensor, shape: tuple[int, ...], name: str
) -> Tensor:
    """Return weights of this shape, with the dtype and device of the logits."""
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
