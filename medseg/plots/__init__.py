"""Figures: images with contours, curves, and scores by patient.

    set_style             the same look in every chapter
    overlay               one image with the outlines of truth and prediction
    panel                 a grid of such images, with one legend
    training_curves       loss and validation Dice against the epoch
    score_boxes           scores by class: a box, and each patient as a dot
    paired_differences    two models, patient by patient
    bland_altman          two measurements: difference against mean
    reliability_diagram   does a probability of 0.8 mean 8 of 10?
    froc_curve            lesions found against false alarms

Colours are those of Okabe and Ito, which colour-blind readers can tell apart. The
truth is drawn as a broad blue line and the prediction as a thin orange one on top, so
that they differ without colour too. Masks are drawn as outlines: a filled mask hides
the image that it is to be judged by.
"""

from medseg.plots._curves import froc_curve, reliability_diagram, training_curves
from medseg.plots._images import overlay, panel
from medseg.plots._scores import bland_altman, paired_differences, score_boxes
from medseg.plots._style import (
    CLASS_COLOURS,
    OKABE_ITO,
    PRED_COLOUR,
    TRUTH_COLOUR,
    set_style,
)

__all__ = [  # noqa: RUF022 - by subject
    "set_style",
    "OKABE_ITO",
    "TRUTH_COLOUR",
    "PRED_COLOUR",
    "CLASS_COLOURS",
    "overlay",
    "panel",
    "training_curves",
    "score_boxes",
    "paired_differences",
    "bland_altman",
    "reliability_diagram",
    "froc_curve",
]
