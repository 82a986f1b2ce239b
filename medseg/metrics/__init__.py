"""Scores that compare a predicted segmentation with the reference.

    confusion_counts, dice_score, iou_score ...   overlap of two masks
    confusion_matrix, dice_per_class ...          label maps, all classes at once
    surface_distances, hausdorff_distance ...     distances between surfaces, in mm
    scores_per_class                              the usual four of every class
    boundary_iou, centreline_dice                 overlap of what is thin
    average_precision, panoptic_quality ...       objects, each with a number
    lesion_scores, froc                           lesions found and false alarms
    calibration_error, brier_score ...            whether probabilities are honest
    pixel_error, rand_error, warping_error        membranes: the three of ISBI 2012
    v_rand                                        split and merge score of a label map

All take arrays or tensors, of any shape that both share, and count their pixels
together; score images one by one and average, with `medseg.statistics`. Empty masks
follow one rule: what is missed or invented altogether scores 0, at a distance of inf,
and is never dropped from an average; where there was nothing to find and nothing was
found, the score is undefined, nan, and counted separately.
"""

from medseg.metrics._boundaries import boundary_iou, centreline_dice
from medseg.metrics._calibration import (
    ReliabilityTable,
    brier_score,
    calibration_error,
    negative_log_likelihood,
    reliability_table,
)
from medseg.metrics._classes import (
    PooledScores,
    confusion_matrix,
    dice_per_class,
    iou_per_class,
    pooled_scores,
)
from medseg.metrics._instances import (
    IOU_THRESHOLDS,
    AveragePrecision,
    PanopticQuality,
    aggregated_jaccard,
    average_precision,
    panoptic_quality,
)
from medseg.metrics._lesions import (
    FROC_RATES,
    Candidates,
    Froc,
    LesionScores,
    froc,
    lesion_candidates,
    lesion_scores,
)
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
    accuracy,
    confusion_counts,
    dice_score,
    iou_score,
    precision,
    relative_volume_difference,
    sensitivity,
    specificity,
    volume_similarity,
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
    "accuracy",
    "volume_similarity",
    "relative_volume_difference",
    "confusion_matrix",
    "dice_per_class",
    "iou_per_class",
    "PooledScores",
    "pooled_scores",
    "SurfaceDistances",
    "surface_distances",
    "hausdorff_distance",
    "average_surface_distance",
    "surface_dice",
    "ClassScores",
    "scores_per_class",
    "boundary_iou",
    "centreline_dice",
    "IOU_THRESHOLDS",
    "AveragePrecision",
    "average_precision",
    "PanopticQuality",
    "panoptic_quality",
    "aggregated_jaccard",
    "LesionScores",
    "lesion_scores",
    "Candidates",
    "lesion_candidates",
    "FROC_RATES",
    "Froc",
    "froc",
    "ReliabilityTable",
    "reliability_table",
    "calibration_error",
    "brier_score",
    "negative_log_likelihood",
    "THRESHOLDS",
    "pixel_error",
    "rand_error",
    "warping_error",
    "v_rand",
    "RandScore",
]
