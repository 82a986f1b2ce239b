"""Overlap of what is thin: bands along the contour, and centrelines."""

from math import nan

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.morphology import skeletonize
from torch import Tensor

from medseg.checks import as_mask_pair
from medseg.metrics._overlap import ratio


def boundary_iou(
    pred: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    *,
    width: int | None = None,
    fraction: float = 0.02,
) -> float:
    """IoU of the bands along the inner side of both contours.

    A band holds the pixels of its mask from which a square path (through corners, too)
    leaves the mask within ``width`` steps; beyond the image is background. IoU of whole
    masks says less the larger they are, as most of their pixels lie far inside; here
    all pixels are near the contour.

    Args:
        pred: Predicted mask, ``(H, W)`` or ``(D, H, W)``: booleans, or 0 and 1.
        truth: Reference mask, same shape.
        width: Of the band, in pixels, at least 1; None for ``fraction``.
        fraction: Width as a share of the image's diagonal, rounded, at least a pixel.

    Returns:
        A number in ``[0, 1]``; 0.0 when one mask is empty, nan when both are.

    Raises:
        TypeError: The values are not numbers.
        ValueError: The shapes differ, there are values other than 0 and 1, or the width
            is not positive.

    Source:
        cheng2021boundary.

    Example:
        Bands of 8 and 12 pixels, of which 5 are in both:

        >>> pred, truth = np.zeros((2, 6, 6), dtype=bool)
        >>> pred[1:4, 1:4] = truth[1:5, 1:5] = True
        >>> round(boundary_iou(pred, truth, width=1), 4)  # 5 / (8 + 12 - 5)
        0.3333
    """
    pred, truth = as_mask_pair(pred, truth)
    if width is None:
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], got {fraction}.")
        width = max(1, round(fraction * float(np.linalg.norm(pred.shape))))
    if width < 1:
        raise ValueError(f"width must be at least 1 pixel, got {width}.")
    pred_band, truth_band = _band(pred, width), _band(truth, width)
    both = int((pred_band & truth_band).sum())
    return ratio(both, int((pred_band | truth_band).sum()))


def _band(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Pixels of the mask at most so many steps from background, corners included."""
    inner = ndimage.minimum_filter(
        mask.view(np.uint8), 2 * width + 1, mode="constant", cval=0
    )
    return mask & (inner == 0)


def centreline_dice(pred: ArrayLike | Tensor, truth: ArrayLike | Tensor) -> float:
    r"""Centreline Dice (clDice), for vessels and other tubes.

    .. math:: \frac{2\,pq}{p + q}, \qquad p = \frac{|C_P \cap T|}{|C_P|}, \quad
        q = \frac{|C_T \cap P|}{|C_T|}

    p is the share of the predicted centreline C that lies in the reference, q the share
    of the reference's centreline that lies in the prediction. A gap costs as much in a
    thin vessel as in a thick one. Centrelines are those of scikit-image's
    ``skeletonize`` (a blob that it deletes counts as a whole); another thinning moves
    the third decimal.

    Args:
        pred: Predicted mask, ``(H, W)`` or ``(D, H, W)``: booleans, or 0 and 1.
        truth: Reference mask, same shape.

    Returns:
        A number in ``[0, 1]``; 0.0 when one mask is empty, nan when both are.

    Raises:
        TypeError: The values are not numbers.
        ValueError: The shapes differ, are not 2D or 3D, or there are values other than
            0 and 1.

    Source:
        shit2021cldice.

    Example:
        A line of eight pixels, of which three are missed: p = 1, q = 5 / 8.

        >>> truth = np.array([[0] * 8, [1] * 8, [0] * 8])
        >>> pred = truth * [1, 1, 1, 1, 1, 0, 0, 0]
        >>> round(centreline_dice(pred, truth), 4)  # 2 * 5 / (5 + 8)
        0.7692
    """
    pred, truth = as_mask_pair(pred, truth)
    if pred.ndim not in (2, 3):
        raise ValueError(f"masks must be (H, W) or (D, H, W), got shape {pred.shape}.")
    if not (pred.any() and truth.any()):
        return 0.0 if pred.any() or truth.any() else nan
    pred_line, truth_line = _centreline(pred), _centreline(truth)
    precise = (pred_line & truth).sum() / pred_line.sum()
    found = (truth_line & pred).sum() / truth_line.sum()
    return float(2 * precise * found / (precise + found)) if precise + found else 0.0


def _centreline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Thin a mask to a line; in 3D thinning deletes 2 x 2 x 2 voxels, which stay."""
    line = skeletonize(mask) > 0
    blobs, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    deleted = np.ones(count + 1, dtype=bool)
    deleted[blobs[line]] = deleted[0] = False
    return line | deleted[blobs]
