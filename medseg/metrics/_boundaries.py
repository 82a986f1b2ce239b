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
    """IoU of the bands along the inner side of two contours."""
    pred, truth = as_mask_pair(pred, truth)
    if width is None:
        width = max(1, round(fraction * float(np.hypot.reduce(pred.shape))))
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
    """Centreline Dice, clDice, for vessels and other tubes."""
    pred, truth = as_mask_pair(pred, truth)
    if not (pred.any() and truth.any()):
        return 0.0 if pred.any() or truth.any() else nan
    pred_line, truth_line = skeletonize(pred) > 0, skeletonize(truth) > 0
    precise = np.count_nonzero(pred_line & truth) / np.count_nonzero(pred_line)
    found = np.count_nonzero(truth_line & pred) / np.count_nonzero(truth_line)
    return 2 * precise * found / (precise + found) if precise + found else 0.0
