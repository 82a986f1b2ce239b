"""Losses that look at each pixel by itself: cross entropy and focal loss."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.losses._door import as_weights, check_logits_and_labels, check_number


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | Sequence[float] | None = None,
    pixel_weights: Tensor | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Cross entropy, averaged over the pixels with their weights.

    .. math:: \frac{\sum_i w_i \, (-\log p_{i, y_i})}{\sum_i w_i}, \qquad
        w_i = c_{y_i} \, m_i

    p is the softmax of the logits (K > 1), or the sigmoid and its complement (K = 1);
    c are the class weights and m the pixel weights, all 1 if not given. The sum of
    the weights divides, as in torch: doubling every weight changes nothing.

    Label smoothing s asks for probability 1 - s + s/K of the label and s/K of every
    other class: :math:`-c_{y_i} \log p_{i, y_i}` becomes

    .. math:: -(1 - s) \, c_{y_i} \log p_{i, y_i}
        - \frac{s}{K} \sum_k c_k \log p_{ik},

    with K = 2 for the binary shorthand.

    Args:
        logits: Scores before softmax or sigmoid, ``(B, K, *spatial)``.
        labels: Class indices ``(B, *spatial)``; for K = 1 also a mask of zeros and
            ones ``(B, 1, *spatial)``.
        class_weights: K non-negative weights; for K = 1 two, background first. See
            `class_balance_weights`.
        pixel_weights: Non-negative weights ``(B, *spatial)``, such as U-Net's: see
            `border_weights`.
        ignore_index: A label whose pixels do not count (weight 0).
        label_smoothing: s, from 0 to below 1.

    Returns:
        A scalar in ``[0, inf)``, at least float32. Where all weights are 0 (every
        pixel ignored) it is 0, with a gradient of 0.

    Raises:
        TypeError: Logits are not floating point, or labels are not integers.
        ValueError: Shapes do not belong together, a label is out of range, a logit
            is not finite, a weight is negative or not finite, or the smoothing is out
            of range.

    Source:
        ronneberger2015unet, section 3, equations 1 and 2 for the weighted form, which
        is a sum there and an average here. Smoothing: szegedy2016inception, section
        7, weighted as in torch.

    Example:
        Without evidence, each of four classes has probability 1/4:

        >>> logits, labels = torch.zeros(1, 4, 2, 2), torch.tensor([[[0, 1], [2, 3]]])
        >>> round(cross_entropy(logits, labels).item(), 4)  # log 4
        1.3863
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"label_smoothing must be at least 0 and below 1, got {label_smoothing}."
        )
    logits, labels, counted = check_logits_and_labels(logits, labels, ignore_index)
    of_class, of_pixel = _weights(logits, counted, class_weights, pixel_weights)
    of_label = of_class.take(labels) if class_weights is not None else 1
    losses = of_label * _minus_log_prob(logits, labels)  # (B, *spatial)
    if label_smoothing:
        # Mean over the classes, with the weight of each.
        if logits.shape[1] == 1:
            z = logits[:, 0]
            spread = (of_class[0] * F.softplus(z) + of_class[1] * F.softplus(-z)) / 2
        else:
            log_probs = logits.log_softmax(dim=1)
            spread = -(log_probs.movedim(1, -1) * of_class).mean(dim=-1)
        losses = (1 - label_smoothing) * losses + label_smoothing * spread
    return _weighted_mean(losses, of_pixel, of_pixel * of_label)


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float = 2.0,
    class_weights: Tensor | Sequence[float] | None = None,
    pixel_weights: Tensor | None = None,
    ignore_index: int | None = None,
) -> Tensor:
    r"""Cross entropy in which pixels that are already right count less.

    .. math:: \frac{\sum_i w_i \, (1 - p_{i, y_i})^\gamma \, (-\log p_{i, y_i})}
        {\sum_i w_i}

    With p = 0.9 for the right class a pixel counts 1/100 of what it does in
    `cross_entropy`, for gamma = 2. Weights are as there; the paper's alpha is
    ``class_weights=(1 - alpha, alpha)``.

    Args:
        logits: Scores before softmax or sigmoid, ``(B, K, *spatial)``.
        labels: Class indices ``(B, *spatial)``; for K = 1 also a mask of zeros and
            ones ``(B, 1, *spatial)``.
        gamma: At least 0; 0 is `cross_entropy`.
        class_weights: As in `cross_entropy`.
        pixel_weights: As in `cross_entropy`.
        ignore_index: A label whose pixels do not count.

    Returns:
        A scalar in ``[0, inf)``, at least float32; 0 where all weights are 0.

    Raises:
        TypeError: Logits are not floating point, or labels are not integers.
        ValueError: As `cross_entropy`; or gamma is negative or not finite.

    Source:
        lin2017focal, equation 5. It divides by the number of anchors with an object,
        here the weights divide, so that the scale is that of `cross_entropy`.
        MONAI's ``FocalLoss(use_softmax=True)`` averages over the classes too: it is
        this value divided by K, and its class weights do not divide.

    Example:
        >>> logits, labels = torch.zeros(1, 1, 1, 2), torch.tensor([[[0, 1]]])
        >>> round(focal_loss(logits, labels).item(), 4)  # (1 - 1/2)^2 log 2
        0.1733
    """
    check_number(gamma, "gamma", 0, above=False)
    logits, labels, counted = check_logits_and_labels(logits, labels, ignore_index)
    of_class, of_pixel = _weights(logits, counted, class_weights, pixel_weights)
    weights = of_pixel
    if class_weights is not None:
        weights = weights * of_class.take(labels)
    losses = _minus_log_prob(logits, labels)
    # 1 - p without cancellation. A power below 1 has slope inf at 0, hence the clamp.
    wrong = -torch.expm1(-losses)
    losses = wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** gamma * losses
    return _weighted_mean(losses, weights, weights)


def _minus_log_prob(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the logarithm of the label's probability, ``(B, *spatial)``."""
    if logits.shape[1] > 1:
        return F.cross_entropy(logits, labels, reduction="none")
    return F.binary_cross_entropy_with_logits(
        logits[:, 0], labels.to(logits.dtype), reduction="none"
    )


def _weights(
    logits: Tensor,
    counted: Tensor,
    class_weights: Tensor | Sequence[float] | None,
    pixel_weights: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Weights of the classes ``(K,)`` (two for K = 1), and of the pixels."""
    of_class = logits.new_ones(max(logits.shape[1], 2))
    if class_weights is not None:
        shape = tuple(of_class.shape)
        of_class = as_weights(class_weights, logits, shape, "class_weights")
    of_pixel = counted.to(logits.dtype)
    if pixel_weights is not None:
        shape = tuple(counted.shape)
        of_pixel = of_pixel * as_weights(pixel_weights, logits, shape, "pixel_weights")
    return of_class, of_pixel


def _weighted_mean(losses: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Sum of the weighted losses over the sum of the counts; 0 for counts of 0."""
    total = counts.sum()
    return (weights * losses).sum() / total.where(total > 0, torch.inf)
