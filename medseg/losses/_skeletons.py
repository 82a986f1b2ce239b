"""clDice: a loss for what is long and thin, by way of its skeleton."""

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.losses._door import check_number, soft_masks


def cldice_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    iterations: int = 10,
    smooth: float = 1.0,
    per_sample: bool = False,
    ignore_index: int | None = None,
) -> Tensor:
    r"""Soft clDice loss of the foreground classes: whether centre lines are whole.

    With p the probabilities, g the reference, and s(p), s(g) their skeletons,

    .. math:: 1 - \frac{2 P S}{P + S}, \qquad
        P = \frac{\sum_i s(p)_i \, g_i + \epsilon}{\sum_i s(p)_i + \epsilon}, \quad
        S = \frac{\sum_i s(g)_i \, p_i + \epsilon}{\sum_i s(g)_i + \epsilon},

    averaged over the classes. P is the part of the predicted centre line that lies in
    the reference, S the part of the true one that was found. The width of a vessel
    hardly counts: add `dice_loss`, as the paper does, with `combined_loss`.

    A class that does not occur has its term of `dice_loss`, F / (2N - F). A structure
    too thick for the iterations to leave any skeleton is its own.

    Args:
        logits: Scores before softmax or sigmoid, ``(B, K, H, W)`` or
            ``(B, K, D, H, W)``.
        labels: Class indices ``(B, *spatial)``; for K = 1 also a mask of zeros and
            ones ``(B, 1, *spatial)``. The background, class 0, does not count.
        iterations: Of `soft_skeleton`: at least the largest radius in pixels.
        smooth: Epsilon, in pixels, above 0. A uniform prediction has no skeleton.
        per_sample: Sum over the pixels of each image, and average over images.
        ignore_index: A label whose pixels are background in p and g.

    Returns:
        A scalar in ``[0, 1]``, at least float32.

    Raises:
        TypeError: As `dice_loss`.
        ValueError: As `dice_loss`; or there are not two or three spatial axes, or a
            setting is out of range.

    Source:
        shit2021cldice, with the constant of its code. MONAI's ``SoftclDiceLoss`` has
        this value for one class that occurs and ``per_sample=True``, but for 1e-4 in
        the last denominator; of several classes it sums the pixels together.

    Example:
        A line of five pixels, of which two are found: P = 1, S = (2 + 1) / (5 + 1).

        >>> labels = torch.zeros(1, 5, 5, dtype=torch.long)
        >>> labels[:, 2] = 1
        >>> logits = torch.full((1, 1, 5, 5), -50.0)
        >>> logits[:, :, 2, :2] = 50.0
        >>> round(cldice_loss(logits, labels).item(), 4)  # 1 - 2 (1/2) / (3/2)
        0.3333
    """
    check_number(smooth, "smooth", 0)
    masks = soft_masks(
        logits, labels, ignore_index=ignore_index, include_background=False
    )
    probs, truth = masks.probs, masks.truth
    axes = tuple(range(2, logits.ndim)) if per_sample else (0, *range(2, logits.ndim))
    of_probs = soft_skeleton(probs, iterations)
    of_truth = soft_skeleton(truth, iterations)
    none_left = of_truth.sum(axes, keepdim=True) == 0
    of_truth = torch.where(none_left, truth, of_truth)

    precision = ((of_probs * truth).sum(axes) + smooth) / (of_probs.sum(axes) + smooth)
    sensitivity = ((of_truth * probs).sum(axes) + smooth) / (
        of_truth.sum(axes) + smooth
    )
    present = 1 - 2 * precision * sensitivity / (precision + sensitivity)
    predicted, pixels = probs.sum(axes), masks.counted.sum(axes)
    absent = predicted / (2 * pixels - predicted).where(pixels > 0, 1)
    return torch.where(truth.sum(axes) > 0, present, absent).mean()


def soft_skeleton(masks: Tensor, iterations: int) -> Tensor:
    """Skeleton of soft masks, by erosions and dilations that have a gradient.

    Layer after layer is eroded, and what an opening (erosion, then dilation) would
    remove from a layer is a ridge, and kept. Erosion takes the least value of a pixel
    and its neighbours along the axes, dilation the greatest of the 3x3 or 3x3x3 pixels
    around. Beyond the image's border nothing is assumed, so that a vessel that leaves
    the image is not shortened.

    Args:
        masks: Values from 0 to 1, ``(B, K, H, W)`` or ``(B, K, D, H, W)``.
        iterations: Erosions, at least 0. What is thicker than twice their number is not
            thinned through, and its core is missing.

    Returns:
        Values from 0 to 1, of the same shape.

    Raises:
        ValueError: There are not two or three spatial axes, or a negative number of
            iterations.

    Source:
        shit2021cldice, algorithm 1.

    Example:
        A bar three pixels thick:

        >>> bar = torch.zeros(1, 1, 5, 6)
        >>> bar[..., 1:4, :] = 1
        >>> soft_skeleton(bar, 3)[0, 0].int()
        tensor([[0, 0, 0, 0, 0, 0],
                [0, 0, 0, 0, 0, 0],
                [1, 1, 1, 1, 1, 1],
                [0, 0, 0, 0, 0, 0],
                [0, 0, 0, 0, 0, 0]], dtype=torch.int32)
    """
    if masks.ndim not in (4, 5):
        raise ValueError(
            "masks must have shape (B, K, H, W) or (B, K, D, H, W), got "
            f"{tuple(masks.shape)}."
        )
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0, got {iterations}.")
    skeleton = torch.zeros_like(masks)
    for _ in range(iterations + 1):
        eroded = _erode(masks)
        ridge = (masks - _dilate(eroded)).relu()
        skeleton = skeleton + ridge * (1 - skeleton)  # soft union
        masks = eroded
    return skeleton


def _erode(masks: Tensor) -> Tensor:
    """Least value of a pixel and its neighbours along each axis."""
    least = masks
    for axis in range(2, masks.ndim):
        least = torch.minimum(least, -_max_along(-masks, axis))
    return least


def _dilate(masks: Tensor) -> Tensor:
    """Greatest value of the 3x3 or 3x3x3 pixels around."""
    for axis in range(2, masks.ndim):
        masks = _max_along(masks, axis)
    return masks


def _max_along(masks: Tensor, axis: int) -> Tensor:
    """Greatest value of three pixels in a row."""
    pool = F.max_pool2d if masks.ndim == 4 else F.max_pool3d
    size = [3 if each == axis else 1 for each in range(2, masks.ndim)]
    return pool(masks, size, stride=1, padding=[side // 2 for side in size])
