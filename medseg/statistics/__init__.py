"""How sure we are: intervals and tests over patients, which are what varies.

    bootstrap_interval       a mean over images, with its interval over patients
    difference_interval      the same for the difference of two models
    limits_of_agreement      Bland and Altman: how far two measurements lie apart
    permutation_test         is the mean difference of two models more than chance?
    wilcoxon_test            the same by signed ranks
    adjust_p_values          many tests at once: Holm, Benjamini and Hochberg
    rank_models              who is first, and how safely

Images of one patient resemble each other, so ``groups`` names the patient of each
image, and every function draws, flips or ranks whole patients.
"""

from medseg.statistics._intervals import (
    Agreement,
    Interval,
    bootstrap_interval,
    difference_interval,
    limits_of_agreement,
)
from medseg.statistics._ranking import RankedModel, rank_models
from medseg.statistics._tests import (
    PairedTest,
    adjust_p_values,
    permutation_test,
    wilcoxon_test,
)

__all__ = [
    "Agreement",
    "Interval",
    "PairedTest",
    "RankedModel",
    "adjust_p_values",
    "bootstrap_interval",
    "difference_interval",
    "limits_of_agreement",
    "permutation_test",
    "rank_models",
    "wilcoxon_test",
]
