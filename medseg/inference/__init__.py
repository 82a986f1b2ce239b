"""From a trained network to probabilities, labels, and whole images.

    predict                 labels of a batch of images                  chapter 01
    predict_probabilities   the same, before the decision
    overlap_tile            large images, for networks of valid convolutions
                            such as ``UNet2015``                         chapter 13
    sliding_window          large images and volumes, for all others
    predict_volume          one volume in its own grid, from another spacing

    augmented_samples       mirrored and turned      and their means,
    ensemble_samples        by several networks      predict_augmented,
    dropout_samples         with dropout at work     predict_ensemble
    uncertainty             entropies and mutual information of such samples

    keep_largest, remove_small, fill_holes           clean-up of label maps
    instances_from_border, instances_from_distance   one number for each cell

All that call a network run it in evaluation mode and without gradients, on the device
of its weights, and leave it as it was, after an error too; results come back to where
the images are. Those that take a ``predictor`` call it with network and images:
``functools.partial(sliding_window, patch_size=64)`` is one, and so they combine.
"""

from medseg.inference._cleanup import fill_holes, keep_largest, remove_small
from medseg.inference._instances import instances_from_border, instances_from_distance
from medseg.inference._predict import (
    evaluation_mode,
    predict,
    predict_probabilities,
    to_labels,
    to_probabilities,
)
from medseg.inference._resampling import predict_volume, resize, size_at
from medseg.inference._samples import (
    augmented_samples,
    dropout_samples,
    ensemble_samples,
    predict_augmented,
    predict_ensemble,
)
from medseg.inference._sliding import sliding_window
from medseg.inference._tiles import overlap_tile
from medseg.inference._uncertainty import (
    Uncertainty,
    entropy,
    mean_probabilities,
    uncertainty,
)

__all__ = [
    "Uncertainty",
    "augmented_samples",
    "dropout_samples",
    "ensemble_samples",
    "entropy",
    "evaluation_mode",
    "fill_holes",
    "instances_from_border",
    "instances_from_distance",
    "keep_largest",
    "mean_probabilities",
    "overlap_tile",
    "predict",
    "predict_augmented",
    "predict_ensemble",
    "predict_probabilities",
    "predict_volume",
    "remove_small",
    "resize",
    "size_at",
    "sliding_window",
    "to_labels",
    "to_probabilities",
    "uncertainty",
]
