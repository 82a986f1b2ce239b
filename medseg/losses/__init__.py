"""Losses for semantic segmentation, as plain functions of logits and labels.

    cross_entropy, focal_loss                 pixel by pixel
    dice_loss, generalised_dice_loss          overlap of regions
    tversky_loss, focal_tversky_loss          overlap, false pixels weighed apart
    lovasz_loss                               IoU
    boundary_loss                             distance from the boundary, in mm
    cldice_loss                               centre lines of vessels
    cross_entropy_dice, combined_loss         sums
    deep_supervision_loss                     outputs at several scales
    border_weights, class_balance_weights     weights for the cross entropy
    signed_distance_maps, soft_skeleton       what the others are made of

All take logits ``(B, K, *spatial)`` and integer labels ``(B, *spatial)``, and return
a scalar to minimise. ``K = 1`` is the binary shorthand: one foreground logit and a
sigmoid. Sums are taken in float32, whatever the logits are (float64 stays float64):
in float16 the sum over a mask of 300 x 300 pixels is already infinite. Set options
with ``functools.partial``.

A class that does not occur in the labels is never left out: every false pixel on it
costs, and has a gradient. Each docstring says how.
"""

from medseg.losses._borders import (
    border_weights,
    class_balance_weights,
    separate_touching,
)
from medseg.losses._compound import (
    combined_loss,
    cross_entropy_dice,
    deep_supervision_loss,
)
from medseg.losses._distances import boundary_loss, signed_distance_maps
from medseg.losses._entropy import cross_entropy, focal_loss
from medseg.losses._lovasz import lovasz_loss
from medseg.losses._regions import (
    dice_loss,
    focal_tversky_loss,
    generalised_dice_loss,
    tversky_loss,
)
from medseg.losses._skeletons import cldice_loss, soft_skeleton

__all__ = [
    "border_weights",
    "boundary_loss",
    "class_balance_weights",
    "cldice_loss",
    "combined_loss",
    "cross_entropy",
    "cross_entropy_dice",
    "deep_supervision_loss",
    "dice_loss",
    "focal_loss",
    "focal_tversky_loss",
    "generalised_dice_loss",
    "lovasz_loss",
    "separate_touching",
    "signed_distance_maps",
    "soft_skeleton",
    "tversky_loss",
]
