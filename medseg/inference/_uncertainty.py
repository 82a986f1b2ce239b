"""How sure a prediction is: entropies of probabilities, in nats."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.checks import check_finite

TOLERANCE = 0.02  # of a sum of probabilities: some classes, rounded to bfloat16


@dataclass(frozen=True)
class Uncertainty:
    """Maps that say how sure several predictions are, and whether they agree.

    ``entropy = expected_entropy + mutual_information``: what is uncertain in all is
    what each prediction is unsure of by itself (blurred borders, noise: more training
    data would not help) and what they disagree on (unlike anything seen in training).
    All in nats, or as a share of the largest possible.
    """

    mean: Tensor  # (B, K, *spatial), probabilities
    entropy: Tensor  # (B, *spatial), of the mean: predictive entropy
    expected_entropy: Tensor  # (B, *spatial), the mean of the samples' entropies
    mutual_information: Tensor  # (B, *spatial), of label and sample, from 0
    count: int  # samples


def entropy(probabilities: Tensor, *, normalised: bool = False) -> Tensor:
    """Entropy of the classes at each pixel: 0 where one of them is certain.

    ``H = -sum_k p_k ln p_k``, with 0 ln 0 = 0; for K = 1 over p and 1 - p.

    Args:
        probabilities: ``(B, K, *spatial)``, in ``[0, 1]``; for K > 1 with sum 1 over
            the classes.
        normalised: Divide by the largest possible, ln K (ln 2 for K = 1).

    Returns:
        ``(B, *spatial)``, float32, in nats from 0 to ln K, or from 0 to 1.

    Raises:
        TypeError: Probabilities are not floating point.
        ValueError: There is no class axis, a value is NaN or outside ``[0, 1]``, or
            the sum over the classes is not 1.

    Example:
        >>> entropy(torch.tensor([[[0.5, 1.0]]]))  # one bit is 0.6931 nats; certain
        tensor([[0.6931, 0.0000]])
    """
    _check_probabilities(probabilities)
    p = probabilities.float()
    if p.shape[1] == 1:
        p = torch.cat([p, 1 - p], dim=1)
    nats = torch.special.entr(p).sum(dim=1)
    return nats / math.log(p.shape[1]) if normalised else nats


def uncertainty(samples: Iterable[Tensor], *, normalised: bool = False) -> Uncertainty:
    """Mean and uncertainty of several predictions of the same images.

    Args:
        samples: Probabilities ``(B, K, *spatial)``, as ``dropout_samples``,
            ``ensemble_samples`` and ``augmented_samples`` yield them. They are taken
            one after the other, and only sums are kept.
        normalised: Give shares of the largest possible entropy instead of nats.

    Returns:
        Mean probabilities, predictive entropy, expected entropy and mutual
        information. With one sample, the last is 0.

    Raises:
        TypeError: A sample is not floating point.
        ValueError: There is no sample, one has another shape than the first, or holds
            something else than probabilities.

    Source:
        gal2016dropout.

    Example:
        Two networks, each of them sure (0.9 and 0.1), that contradict each other:

        >>> maps = uncertainty([torch.tensor([[[0.9]]]), torch.tensor([[[0.1]]])])
        >>> maps.entropy, maps.expected_entropy, maps.mutual_information
        (tensor([[0.6931]]), tensor([[0.3251]]), tensor([[0.3681]]))
    """
    total, entropies, count = torch.empty(0), torch.empty(0), 0
    for sample in samples:
        nats = entropy(sample, normalised=normalised)
        if count == 0:
            total, entropies = sample.float().clone(), nats
        else:
            _check_same_shape(sample, total, count)
            total += sample
            entropies += nats
        count += 1
    _check_any(count)
    mean = total.div_(count)
    expected = entropies.div_(count)
    predictive = entropy(mean, normalised=normalised)
    # Never negative, as the entropy is concave, but for rounding.
    information = (predictive - expected).clamp_(min=0)
    return Uncertainty(mean, predictive, expected, information, count)


def mean_probabilities(samples: Iterable[Tensor]) -> Tensor:
    """Mean of several predictions, taken one after the other.

    Args:
        samples: Probabilities ``(B, K, *spatial)``.

    Returns:
        ``(B, K, *spatial)``, float32.

    Raises:
        ValueError: There is no sample, or one has another shape than the first.
    """
    total, count = torch.empty(0), 0
    for sample in samples:
        if count == 0:
            total = sample.float().clone()
        else:
            _check_same_shape(sample, total, count)
            total += sample
        count += 1
    _check_any(count)
    return total.div_(count)


def _check_any(count: int) -> None:
    if count == 0:
        raise ValueError(
            "there are no samples. An iterator can be used once: make a new one."
        )


def _check_same_shape(sample: Tensor, total: Tensor, number: int) -> None:
    if sample.shape != total.shape:
        raise ValueError(
            f"sample {number} has shape {tuple(sample.shape)}, but those before it "
            f"{tuple(total.shape)}. All must be of the same images and classes."
        )


def _check_probabilities(probabilities: Tensor) -> None:
    if not isinstance(probabilities, Tensor) or not probabilities.is_floating_point():
        kind = getattr(probabilities, "dtype", type(probabilities).__name__)
        raise TypeError(
            f"probabilities must be a floating-point tensor (B, K, *spatial), got "
            f"{kind}."
        )
    if probabilities.ndim < 3 or probabilities.numel() == 0:
        raise ValueError(
            "probabilities must have shape (B, K, *spatial) and at least one pixel, "
            f"got {tuple(probabilities.shape)}."
        )
    check_finite(probabilities, "probabilities")
    low, high = (float(value) for value in probabilities.aminmax())
    if low < 0 or high > 1:
        raise ValueError(
            f"probabilities must lie in [0, 1], got {low:g}..{high:g}. Turn logits "
            "into probabilities with to_probabilities."
        )
    if probabilities.shape[1] > 1:
        error = float((probabilities.float().sum(dim=1) - 1).abs().max())
        if error > TOLERANCE:
            raise ValueError(
                f"probabilities of K = {probabilities.shape[1]} classes must add up to "
                f"1, but are off by up to {error:g}. Use to_probabilities, a softmax; "
                "for classes that overlap, take one at a time, as K = 1."
            )
