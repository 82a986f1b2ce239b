"""The usual four scores of every class of a label map, measured in one pass."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from medseg.metrics._classes import as_label_pair
from medseg.metrics._overlap import dice_score
from medseg.metrics._surface import surface_distances


class ClassScores(NamedTuple):
    """Scores of the classes of two label maps, one value for each class."""

    classes: NDArray[np.int64]  # (M,) labels: 1 to K - 1
    dice: NDArray[np.float64]  # (M,)
    hd95: NDArray[np.float64]  # (M,) mm, the larger of the two directed percentiles
    assd: NDArray[np.float64]  # (M,) mm, over the points of both surfaces
    surface_dice: NDArray[np.float64]  # (M,) at the tolerance, over voxel edges


def scores_per_class(
    pred: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    num_classes: int,
    spacing: Sequence[float],
    *,
    tolerance: float | Sequence[float],
) -> ClassScores:
    """Dice, HD95, ASSD and surface Dice of every class but the background."""
    pred, truth = as_label_pair(pred, truth)
    classes = np.arange(1, max(num_classes, 2))
    tolerances = np.broadcast_to(np.asarray(tolerance, dtype=float), classes.shape)
    rows = []
    for k, near in zip(classes, tolerances, strict=True):
        distances = surface_distances(pred == k, truth == k, spacing)
        rows.append(
            (
                dice_score(pred == k, truth == k),
                distances.hausdorff(95),
                distances.average(),
                distances.surface_dice(near),
            )
        )
    return ClassScores(classes, *np.array(rows).T)
