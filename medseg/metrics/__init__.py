"""Scores that compare a predicted segmentation with the reference.

    confusion_counts, dice_score, iou_score ...   overlap of two masks
    confusion_matrix, dice_per_class              label maps, all classes at once
    surface_distances, hausdorff_distance ...     distances between surfaces, in mm
    scores_per_class                              the usual four of every class
    boundary_iou, centreline_dice                 overlap of what is thin
    pixel_error, rand_error, warping_error        membranes: the three of ISBI 2012
    v_rand                                        split and merge score of a label map

All take arrays or tensors, of any shape that both share, and count their pixels
together; score images one by one and average, with `medseg.statistics`. Empty masks
follow one rule: what is missed or invented altogether scores 0, at a distance of inf,
and is never dropped from an average; where there was nothing to find and nothing was
found, the score is undefined, nan, and counted separately.
"""

from medseg.metrics._boundaries import boundary_iou, centreline_dice
from medseg.metrics._classes import confusion_matrix, dice_per_class
from medseg.metrics._membranes import (
    THRESHOLDS,
    RandScore,
    pixel_error,
    rand_error,
    v_rand,
    warping_error,
)
from medseg.metrics._overlap import (
    ConfusionCounts,
    confusion_counts,
    dice_score,
    iou_score,
    precision,
    sensitivity,
    specificity,
)
from medseg.metrics._scores import ClassScores, scores_per_class
from medseg.metrics._surface import (
    SurfaceDistances,
    average_surface_distance,
    hausdorff_distance,
    surface_dice,
    surface_distances,
)

__all__ = [  # noqa: RUF022 - by subject
    "ConfusionCounts",
    "confusion_counts",
    "dice_score",
    "iou_score",
    "sensitivity",
    "specificity",
    "precision",
    "confusion_matrix",
    "dice_per_class",
    "SurfaceDistances",
    "surface_distances",
    "hausdorff_distance",
    "average_surface_distance",
    "surface_dice",
    "ClassScores",
    "scores_per_class",
    "boundary_iou",
    "centreline_dice",
    "THRESHOLDS",
    "pixel_error",
    "rand_error",
    "warping_error",
    "v_rand",
    "RandScore",
]
