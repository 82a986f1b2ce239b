"""Losses that compare whole regions: Dice and its relatives, and Lovász.

All follow one rule for a class that does not occur in the labels. Its overlap is 0
whatever is predicted, so that its score would not say which way is better; with a
constant in the denominator the gradient can be a millionth of the others', and with the
class left out its false pixels are free. Here it is scored by its complement, the
pixels that are rightly *not* this class: 0 when nothing is predicted, more with every
false pixel, and with a gradient everywhere.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from medseg.losses._door import check_number, soft_masks


class RegionSums(NamedTuple):
    """Soft counts of pixels per class: ``(classes,)``, or ``(B, classes)`` per sample.

    p is the probability, g the reference as 0 and 1.
    """

    overlap: Tensor  # sum of p g
    invented: Tensor  # sum of p (1 - g)
    missed: Tensor  # sum of (1 - p) g
    actual: Tensor  # sum of g; 0 where the class does not occur
    pixels: Tensor  # all pixels that count


def region_sums(
    logits: Tensor,
    labels: Tensor,
    *,
    per_sample: bool,
    include_background: bool,
    ignore_index: int | None,
    binary_background: bool = False,
) -> RegionSums:
    """Count soft true and false pixels of each class, over the batch or per sample.

    Raises:
        TypeError: Logits are not floating point, or labels are not integers.
        ValueError: They do not belong together, or have values out of range.
    """
    masks = soft_masks(
        logits,
        labels,
        ignore_index=ignore_index,
        include_background=include_background,
        binary_background=binary_background,
    )
    probs, truth = masks.probs.flatten(2), masks.truth.flatten(2)
    axes = (2,) if per_sample else (0, 2)
    overlap = probs * truth
    # Each sum by itself: a difference of two large sums would lose what is small.
    return RegionSums(
        overlap=overlap.sum(axes),
        invented=(probs - overlap).sum(axes),
        missed=(truth - overlap).sum(axes),
        actual=truth.sum(axes),
        pixels=masks.counted.flatten(2).sum(axes),
    )


def dice_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    per_sample: bool = False,
    include_background: bool = True,
    ignore_index: int | None = None,
) -> Tensor:
    r"""Soft Dice loss, averaged over the classes.

    .. math:: 1 - \frac{1}{K} \sum_k
        \frac{2 \sum_i p_{ki} g_{ki}}{\sum_i p_{ki} + \sum_i g_{ki}}

    p are probabilities, g is 1 where the label is k and 0 elsewhere. For K = 1 the
    foreground is the only class. A class that does not occur in the labels is scored
    by its complement: its Dice would be 0 for one wrong pixel as for a thousand, and
    would not say which way is better. Its term is

    .. math:: 1 - \mathrm{Dice}(1 - p, 1 - g) =
        \frac{\sum_i p_{ki}}{2N - \sum_i p_{ki}},

    with N pixels: 0 when nothing is predicted, more with every false pixel, and with a
    gradient everywhere. No constant has to be added to a denominator.

    Args:
        logits: Scores before softmax or sigmoid, ``(B, K, *spatial)``.
        labels: Class indices ``(B, *spatial)``; for K = 1 also a mask of zeros and
            ones ``(B, 1, *spatial)``.
        per_sample: Sum over the pixels of each image, and average over images. By
            default the sums run over the whole batch, where a structure is absent
            less often.
        include_background: Let class 0 count as one of the K classes. Without effect
            for K = 1, where the foreground is the only class.
        ignore_index: A label whose pixels are in no sum.

    Returns:
        A scalar in ``[0, 1]``, at least float32; 0 for a perfect prediction, and
        where every pixel is ignored.

    Raises:
        TypeError: Logits are not floating point, or labels are not integers.
        ValueError: The shapes do not belong together, there is no pixel, a label is
            out of range, or a logit is not finite.

    Source:
        milletari2016vnet, section 3, with p and g in place of their squares. MONAI's
        ``DiceLoss`` has this value where every class occurs, but for the 1e-5 that it
        adds above and below; with it, a false pixel on a class that does not occur
        has almost no gradient.

    Example:
        Two of four pixels are foreground; the network says 1/2 everywhere:

        >>> logits, labels = torch.zeros(1, 1, 1, 4), torch.tensor([[[0, 0, 1, 1]]])
        >>> dice_loss(logits, labels).item()  # 1 - 2 * 1 / (2 + 2)
        0.5
    """
    sums = region_sums(
        logits,
        labels,
        per_sample=per_sample,
        include_background=include_background,
        ignore_index=ignore_index,
    )
    present = sums.actual > 0  # (classes,), or (B, classes)
    errors = sums.invented + sums.missed
    # No denominator may be 0, not even in the branch that is not taken: 0/0 would
    # put nan into its gradient.
    of_class = errors / (2 * sums.overlap + errors).where(present, 1)
    rest = 2 * sums.pixels - sums.invented
    of_complement = sums.invented / rest.where(sums.pixels > 0, 1)
    return torch.where(present, of_class, of_complement).mean()


def tversky_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    per_sample: bool = False,
    include_background: bool = True,
    ignore_index: int | None = None,
) -> Tensor:
    r"""Dice loss in which false positives and false negatives weigh differently.

    .. math:: 1 - \frac{1}{K} \sum_k \frac{T_k}{T_k + \alpha F_k + \beta M_k}, \qquad
        T = \sum_i p_i g_i, \quad
        F = \sum_i p_i (1 - g_i), \quad
        M = \sum_i (1 - p_i) \, g_i

    With alpha = beta = 1/2 it is `dice_loss`, with 1 and 1 the soft IoU loss; with
    beta above alpha, sensitivity is bought with precision. A class that does not occur
    is scored by its complement, as in `dice_loss`: its term is

    .. math:: \frac{\alpha F}{N - F + \alpha F}.

    Args:
        logits: Scores before softmax or sigmoid, ``(B, K, *spatial)``.
        labels: Class indices ``(B, *spatial)``; for K = 1 also a mask of zeros and
            ones ``(B, 1, *spatial)``.
        alpha: Weight of what is invented (false positives), above 0.
        beta: Weight of what is missed (false negatives), above 0.
        per_sample: As in `dice_loss`.
        include_background: As in `dice_loss`.
        ignore_index: A label whose pixels are in no sum.

    Returns:
        A scalar in ``[0, 1]``, at least float32; 0 for a perfect prediction, and
        where every pixel is ignored.

    Raises:
        TypeError: As `dice_loss`.
        ValueError: As `dice_loss`; or alpha or beta is not positive.

    Source:
        salehi2017tversky, with the weights of its best run. As MONAI's
        ``TverskyLoss`` (alpha and beta in this order) where every class occurs, but
        for its 1e-5. abraham2019focal names them the other way round.

    Example:
        One false pixel, and one of two missed: 1 / (1 + 0.3 + 0.7).

        >>> logits = torch.tensor([[[[20.0, -20, 20, -20]]]])
        >>> tversky_loss(logits, torch.tensor([[[1, 1, 0, 0]]])).item()
        0.5
    """
    check_number(alpha, "alpha", 0)
    check_number(beta, "beta", 0)
    sums = region_sums(
        logits,
        labels,
        per_sample=per_sample,
        include_background=include_background,
        ignore_index=ignore_index,
    )
    return _tversky_terms(sums, alpha, beta).mean()


def focal_tversky_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    per_sample: bool = False,
    include_background: bool = True,
    ignore_index: int | None = None,
) -> Tensor:
    r"""Tversky loss of each class to the power of one over gamma, averaged.

    .. math:: \frac{1}{K} \sum_k \ell_k^{\,1 / \gamma}

    with the terms of `tversky_loss`. For gamma above 1 the slope grows as a class gets
    better: classes that are nearly right keep their gradient. A class that does not
    occur has the term of `tversky_loss`, to the same power.

    Args:
        logits: Scores before softmax or sigmoid, ``(B, K, *spatial)``.
        labels: Class indices ``(B, *spatial)``; for K = 1 also a mask of zeros and
            ones ``(B, 1, *spatial)``.
        alpha: Weight of what is invented (false positives), above 0.
        beta: Weight of what is missed (false negatives), above 0.
        gamma: Above 0; the paper tries 1 to 3.
        per_sample: As in `dice_loss`.
        include_background: As in `dice_loss`.
        ignore_index: A label whose pixels are in no sum.

    Returns:
        A scalar in ``[0, 1]``, at least float32; 0, with a gradient of 0, for a
        prediction without any error.

    Raises:
        TypeError: As `dice_loss`.
        ValueError: As `dice_loss`; or alpha, beta or gamma is not positive.

    Source:
        abraham2019focal, which sums over the classes where this averages, and calls
        alpha what is beta here.

    Example:
        >>> logits = torch.tensor([[[[20.0, -20, 20, -20]]]])
        >>> loss = focal_tversky_loss(logits, torch.tensor([[[1, 1, 0, 0]]]))
        >>> round(loss.item(), 4)  # 0.5 to the power of 3/4
        0.5946
    """
    check_number(alpha, "alpha", 0)
    check_number(beta, "beta", 0)
    check_number(gamma, "gamma", 0)
    sums = region_sums(
        logits,
        labels,
        per_sample=per_sample,
        include_background=include_background,
        ignore_index=ignore_index,
    )
    terms = _tversky_terms(sums, alpha, beta)
    # At 0 the slope of the power is inf, and inf * 0 would be nan.
    power = terms.where(terms > 0, 1) ** (1 / gamma)
    return torch.where(terms > 0, power, 0).mean()


def generalised_dice_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    per_sample: bool = False,
    ignore_index: int | None = None,
) -> Tensor:
    r"""Generalised Dice loss: one Dice of all classes, rare ones weighted up.

    .. math:: 1 - 2 \,
        \frac{\sum_k w_k \sum_i p_{ki} g_{ki}}
             {\sum_k w_k \left(\sum_i p_{ki} + \sum_i g_{ki}\right)}, \qquad
        w_k = \Big(\sum_i g_{ki}\Big)^{-2}

    The background is always one of the classes. For K = 1 it is made from the
    complement, so that K = 1 is K = 2 with a background logit of 0.

    A class that does not occur would have an infinite weight. The formula is taken
    over the P classes that do, and each of the others has its term of `dice_loss`,
    F / (2N - F): the loss is P/K times the first and 1/K of each of the second.

    Args:
        logits: Scores before softmax or sigmoid, ``(B, K, *spatial)``.
        labels: Class indices ``(B, *spatial)``; for K = 1 also a mask of zeros and
            ones ``(B, 1, *spatial)``.
        per_sample: Sum over the pixels of each image, and average over images.
        ignore_index: A label whose pixels are in no sum.

    Returns:
        A scalar in ``[0, 1]``, at least float32; 0 for a perfect prediction, and
        where every pixel is ignored.

    Raises:
        TypeError: As `dice_loss`.
        ValueError: As `dice_loss`.

    Source:
        sudre2017generalised. MONAI's ``GeneralizedDiceLoss`` has this value where every
        class occurs, if its ``smooth_nr`` and ``smooth_dr`` are set to 0: on images of
        usual size their 1e-5 is as large as the weighted sums. There a class that does
        not occur gets the largest weight of the others, and K = 1 has no background.

    Example:
        Three pixels of background, one of foreground, 1/2 everywhere:

        >>> logits, labels = torch.zeros(1, 1, 1, 4), torch.tensor([[[0, 0, 0, 1]]])
        >>> loss = generalised_dice_loss(logits, labels)
        >>> round(loss.item(), 4)  # 1 - 2 (1.5/9 + 0.5) / (5/9 + 3)
        0.625
    """
    sums = region_sums(
        logits,
        labels,
        per_sample=per_sample,
        include_background=True,
        ignore_index=ignore_index,
        binary_background=True,
    )
    occurs = sums.actual > 0
    weights = torch.where(occurs, sums.actual**-2.0, 0)
    errors = (weights * (sums.invented + sums.missed)).sum(-1)
    total = 2 * (weights * sums.overlap).sum(-1) + errors
    together = errors / total.where(total > 0, 1)  # (), or (B,) per sample
    absent = torch.where(occurs, 0, _tversky_terms(sums, 0.5, 0.5))
    share = occurs.to(total.dtype).mean(-1)
    return (share * together + absent.mean(-1)).mean()


def _tversky_terms(sums: RegionSums, alpha: float, beta: float) -> Tensor:
    """One minus the Tversky index of each class; of the complement where absent."""
    present = sums.actual > 0
    errors = alpha * sums.invented + beta * sums.missed
    of_class = errors / (sums.overlap + errors).where(present, 1)
    errors = alpha * sums.invented
    rest = (sums.pixels - sums.invented).clamp(min=0)
    of_complement = errors / (rest + errors).where(sums.pixels > 0, 1)
    return torch.where(present, of_class, of_complement)
