"""Schedules of the learning rate, as PyTorch's ``LambdaLR``.

    polynomial   falls as a power of what is left: DeepLab, nnU-Net
    cosine       falls along half a cosine

Both may begin with a warm-up. They count steps of the scheduler: pass the number of
epochs to ``training.train``, or, with its ``scheduler_interval="step"``, the number of
optimizer steps, ``num_epochs * len(train_loader)``.
"""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def polynomial(
    optimizer: Optimizer, total: int, *, power: float = 0.9, warm_up: int = 0
) -> LambdaLR:
    r"""Learning rate that falls to 0 as a power of the steps that are left.

    .. math:: r_i = r \left(1 - \frac{i - w}{T - w}\right)^p

    for step i from 0, total T, warm-up w and power p.

    Args:
        optimizer: Its groups of parameters keep their own rates r, all scaled alike.
        total: Steps until the rate is 0, at least 1. It is not reached in training:
            the last step, of number T - 1, still has a rate.
        power: 1 for a straight line, larger to fall early; above 0.
        warm_up: Steps over which the rate rises first, along a straight line:
            :math:`r (i + 1) / (w + 1)`.

    Returns:
        A scheduler, to be stepped after each epoch or each step.

    Raises:
        ValueError: A setting is out of range.

    Source:
        chen2018deeplab, whose "poly" has a power of 0.9.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> factor = polynomial(optimizer, 4, power=1).lr_lambdas[0]
        >>> [factor(i) for i in range(5)]
        [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if not power > 0:
        raise ValueError(f"power must be above 0, got {power}; 0.9 is usual.")
    return _schedule(optimizer, total, warm_up, lambda left: left**power)


def cosine(
    optimizer: Optimizer, total: int, *, floor: float = 0.0, warm_up: int = 0
) -> LambdaLR:
    r"""Learning rate that falls along half a cosine.

    .. math:: r_i = r \left(f + (1 - f)
        \frac{1}{2} \left(1 + \cos \pi \frac{i - w}{T - w}\right)\right)

    for step i from 0, total T, warm-up w and floor f.

    Args:
        optimizer: Its groups of parameters keep their own rates r, all scaled alike.
        total: Steps until the rate is at its lowest, at least 1.
        floor: Share of the rate that is left at the end, in ``[0, 1]``.
        warm_up: Steps over which the rate rises first, along a straight line:
            :math:`r (i + 1) / (w + 1)`.

    Returns:
        A scheduler, to be stepped after each epoch or each step.

    Raises:
        ValueError: A setting is out of range.

    Source:
        loshchilov2017sgdr, without the restarts.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> factor = cosine(optimizer, 3, warm_up=1).lr_lambdas[0]
        >>> [round(factor(i), 3) for i in range(4)]
        [0.5, 1.0, 0.5, 0.0]
    """
    if not 0 <= floor <= 1:
        raise ValueError(f"floor must lie between 0 and 1, got {floor}.")
    return _schedule(
        optimizer,
        total,
        warm_up,
        lambda left: floor + (1 - floor) * (1 - math.cos(math.pi * left)) / 2,
    )


def _schedule(
    optimizer: Optimizer,
    total: int,
    warm_up: int,
    decay: Callable[[float], float],
) -> LambdaLR:
    """Rise for ``warm_up`` steps, then follow ``decay`` of the share that is left."""
    if not 0 <= warm_up < total:
        raise ValueError(
            f"total must be at least 1 and more than warm_up, got total={total} and "
            f"warm_up={warm_up}."
        )

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / (warm_up + 1)
        return decay(max(0.0, (total - step) / (total - warm_up)))

    return LambdaLR(optimizer, factor)
