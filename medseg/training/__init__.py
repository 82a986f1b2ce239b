"""Training: one epoch, one evaluation, and the loop around both.

    train_one_epoch   every image once, with a step after each batch   chapter 01
    evaluate          loss and Dice on images that are not trained on  chapter 01
    train             epochs, the best weights in a file, resuming     chapter 01
    autocast_for      the number format that a network computes in

A loader yields pairs of images ``(B, C, *spatial)`` and targets: float masks
``(B, 1, *spatial)`` for one class, integer labels ``(B, *spatial)`` for more. A
criterion is any function of logits ``(B, K, *spatial)`` and targets that returns a
scalar: ``nn.BCEWithLogitsLoss()``, ``nn.CrossEntropyLoss()``, ``losses.dice_loss``.
"""

from medseg.training._epoch import Tally, train_one_epoch
from medseg.training._evaluation import Evaluation, evaluate
from medseg.training._loop import EpochRecord, train
from medseg.training._precision import autocast_for

__all__ = [
    "EpochRecord",
    "Evaluation",
    "Tally",
    "autocast_for",
    "evaluate",
    "train",
    "train_one_epoch",
]
