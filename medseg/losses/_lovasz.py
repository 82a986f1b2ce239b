"""The Lovász losses: surrogates of the IoU."""

import torch
from torch import Tensor

from medseg.losses._door import at_least_float32, soft_masks


def lovasz_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    per_sample: bool = False,
    include_background: bool = True,
    ignore_index: int | None = None,
) -> Tensor:
    r"""Lovász-softmax loss (K > 1) or Lovász hinge (K = 1): a surrogate of the IoU.

    One minus the IoU depends on the set of wrong pixels alone. Its Lovász extension
    carries it over from sets to errors of any size: with the errors of a class in
    falling order, :math:`e_{(1)} \ge e_{(2)} \ge \dots`, and J(i) one minus the IoU of
    a mask that is wrong in the first i pixels,

    .. math:: \frac{1}{K} \sum_k \sum_i e_{(i)} \, \big(J(i) - J(i - 1)\big).

    - K > 1: e = abs(g - p), from 0 to 1. Of hard predictions it is the mean of
      1 - IoU over the classes.
    - K = 1: e = max(0, 1 - z) on the foreground and max(0, 1 + z) on the background:
      0 for a pixel that is right by a margin of 1, and above 1 for one that is wrong.

    A class that does not occur is scored by its complement, as in `dice_loss`: all
    pixels are in the reference then, and the sum is the mean error: for K = 1 every
    pixel with z above -1 costs and has a gradient. Without that only the single worst
    pixel would count, or none where such classes are left out.

    Args:
        logits: Scores before softmax or sigmoid, ``(B, K, *spatial)``.
        labels: Class indices ``(B, *spatial)``; for K = 1 also a mask of zeros and
            ones ``(B, 1, *spatial)``.
        per_sample: Sort the pixels of each image, and average over images. By default
            those of the whole batch are sorted together.
        include_background: Let class 0 count as one of the K classes. Without effect
            for K = 1.
        ignore_index: A label whose pixels are left out.

    Returns:
        A scalar, at least float32; in ``[0, 1]`` for K > 1, in ``[0, inf)`` for K = 1.
        0 where every pixel is ignored.

    Raises:
        TypeError: As `dice_loss`.
        ValueError: As `dice_loss`.

    Source:
        berman2018lovasz. Of a class that does not occur its code counts nothing
        (``classes="present"``) or the worst pixel alone (``"all"``).

    Example:
        One false pixel beside one true: IoU 1/2 of class 1, 2/3 of class 0.

        >>> z = torch.tensor([50.0, 50, -50, -50])
        >>> logits = torch.stack([-z, z]).view(1, 2, 1, 4)
        >>> loss = lovasz_loss(logits, torch.tensor([[[0, 1, 0, 0]]]))
        >>> round(loss.item(), 4)  # 1 - (1/2 + 2/3) / 2
        0.4167
    """
    masks = soft_masks(
        logits,
        labels,
        ignore_index=ignore_index,
        include_background=include_background,
    )
    truth, counted = masks.truth > 0, masks.counted
    if logits.shape[1] == 1:
        z = at_least_float32(logits)
        errors = (1 + torch.where(truth, -z, z)).relu().masked_fill(~counted, 0)
    else:
        errors = (masks.truth - masks.probs).abs()
    if per_sample:
        errors, truth, counted = (x.flatten(2) for x in (errors, truth, counted))
    else:
        errors, truth, counted = (
            x.transpose(0, 1).flatten(1) for x in (errors, truth, counted)
        )
    pixels = counted.sum(-1)  # (1,), or (B, 1) per sample
    complement = errors.sum(-1) / pixels.clamp(min=1)
    present = _lovasz_extension(errors, truth)  # (classes,), or (B, classes)
    return torch.where(truth.any(-1), present, complement).mean()


def _lovasz_extension(errors: Tensor, truth: Tensor) -> Tensor:
    """Lovász extension of 1 - IoU over the last axis, for errors of at least 0."""
    errors, order = errors.sort(dim=-1, descending=True)
    truth = truth.gather(-1, order)
    found = truth.cumsum(-1)
    actual = found[..., -1:]
    rank = torch.arange(1, truth.shape[-1] + 1, device=truth.device)
    union = actual + rank - found
    overlap = actual - found
    # Steps of 1 - overlap / union, each in closed form: a pixel of the class leaves
    # the overlap, any other enters the union. Differences of the ratios themselves
    # would cancel in float32.
    steps = torch.where(
        truth,
        1 / union.to(errors.dtype),
        overlap / (union * (union - 1)).clamp(min=1).to(errors.dtype),
    )
    return (errors * steps).sum(-1)
