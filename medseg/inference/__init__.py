"""From a trained network to probabilities, labels, and whole images.

    predict                 labels of a batch of images                  chapter 01
    predict_probabilities   the same, before the decision
    overlap_tile            large images, for networks of valid convolutions
                            such as ``UNet2015``                         chapter 13

All run in evaluation mode and without gradients, on the device of the network's
weights, and leave the network as it was; results come back to where the images are.
"""

from medseg.inference._predict import (
    evaluation_mode,
    predict,
    predict_probabilities,
    to_labels,
    to_probabilities,
)
from medseg.inference._tiles import overlap_tile

__all__ = [
    "evaluation_mode",
    "overlap_tile",
    "predict",
    "predict_probabilities",
    "to_labels",
    "to_probabilities",
]
