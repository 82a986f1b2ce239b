"""Sliding window: whole images and volumes from a network that sees patches."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from medseg.checks import check_choice
from medseg.inference._predict import (
    check_batch,
    check_logits,
    check_threshold,
    device_of,
    evaluation_mode,
    run_network,
    to_labels,
    to_probabilities,
)

Output = Literal["probabilities", "logits", "labels"]
Weights = Literal["gaussian", "constant"]
PIECE = 2**20  # values that are decided at a time
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@torch.no_grad()
def sliding_window(
    model: nn.Module,
    images: Tensor,
    *,
    patch_size: int | Sequence[int],
    overlap: float = 0.5,
    weights: Weights = "gaussian",
    sigma: float = 1 / 8,
    batch_size: int = 1,
    output: Output = "probabilities",
    threshold: float = 0.5,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
) -> Tensor:
    """Predict images and volumes that are too large for one pass, window by window.

    The windows are spread evenly, so that the last one ends with the image, and where
    they overlap the logits are averaged:

    ``mean(x) = sum_w weight(x - w) logits_w(x) / sum_w weight(x - w)``

    A Gaussian weight trusts a window most at its centre, where the network sees
    context on all sides. The weight is a product over the axes and so are the windows,
    hence the denominator is one too: each window is multiplied by weights that add up
    to 1 already, and there is neither a second volume of weights nor a division.

    **Memory.** Beside the images and one batch of windows: for ``"probabilities"``
    and ``"logits"`` the result, which is the running sum itself. For ``"labels"`` the
    K sums are kept for one slab alone, as thick as a patch, across the axis along
    which that is the smallest part of the image: its rows are decided as soon as no
    later window touches them. Keep the images on the CPU, and a network on a GPU gets
    one batch of windows after the other, while sum and result stay on the CPU.

    Args:
        model: Maps patches to logits ``(B, K, *patch)``.
        images: ``(B, C, H, W)`` or ``(B, C, D, H, W)``, floating point, prepared as
            in training; any size. Along an axis where the image is smaller than the
            patch, its border is repeated on both sides, and cut off again.
        patch_size: Size of a window in pixels, one number for all axes or one each;
            that of training, as a rule.
        overlap: The share of a window that its neighbour covers too, in ``[0, 1)``,
            at least: 0.5 lets windows start half a window apart.
        weights: ``"gaussian"``, or ``"constant"`` for the plain mean.
        sigma: Standard deviation of the Gaussian, as a fraction of the patch.
            Weights too small for a number become the smallest that is not 0.
        batch_size: Windows that pass through the network together.
        output: What to return: ``"probabilities"`` (of the mean logits), the mean
            ``"logits"``, or ``"labels"``.
        threshold: For K = 1 and ``"labels"``: above this probability a pixel is
            foreground, in ``[0, 1]``.
        device: Where the sum is kept, and the result; None for where the images are.
        dtype: Of the sum. float32 by default, whatever the network computes in:
            bfloat16 keeps 8 binary digits, so that each of the eight windows or more
            that meet in a voxel is rounded by up to 0.4 %, and close decisions flip;
            float16 overflows besides.
        progress: Show a bar with the number of windows.

    Returns:
        Probabilities (float32) or logits (``dtype``) ``(B, K, *spatial)``, or labels
        ``(B, *spatial)`` as from ``predict``, but int16: two bytes a voxel.

    Raises:
        TypeError: The images are no floating-point tensor, or the network returns
            something else than one tensor.
        ValueError: The images have other axes, or hold NaN or infinity; the network
            returns logits of another size, NaN or infinity; or another argument lies
            outside its range.

    Source:
        isensee2021nnunet.

    Example:
        >>> volume = torch.rand(1, 1, 30, 40, 20)
        >>> probabilities = sliding_window(nn.Identity(), volume, patch_size=16)
        >>> torch.allclose(probabilities, volume.sigmoid())
        True
    """
    check_batch(images)
    dims = images.ndim - 2
    patch = _check_patch(patch_size, dims)
    check_choice(weights, "weights", ("gaussian", "constant"))
    check_choice(output, "output", ("probabilities", "logits", "labels"))
    check_choice(dtype, "dtype", DTYPES)
    check_threshold(threshold)
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap must lie in [0, 1), got {overlap}.")
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma must be positive and finite, got {sigma}.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")

    size = tuple(images.shape[2:])
    window = tuple(min(pair) for pair in zip(size, patch, strict=True))
    starts = [window_starts(*axis, overlap) for axis in zip(size, window, strict=True)]
    where = images.device if device is None else torch.device(device)
    shares = [
        window_shares(size[axis], window[axis], starts[axis], weights, sigma)
        for axis in range(dims)
    ]
    shares = [[share.to(where, dtype) for share in along] for along in shares]
    slow = max(range(dims), key=lambda axis: size[axis] / window[axis])
    numbers = [range(len(along)) for along in starts]
    total = len(images) * math.prod(len(along) for along in starts)

    mean: _RunningMean | None = None
    with (
        evaluation_mode(model),
        tqdm(total=total, unit="window", disable=not progress) as bar,
    ):
        for row, start in enumerate(starts[slow]):
            # All windows of all images that begin in this row of the slow axis.
            places = list(
                product(
                    range(len(images)),
                    *([row] if axis == slow else numbers[axis] for axis in range(dims)),
                )
            )
            if mean is not None:
                mean.finish(start)  # no window from here on touches what lies before
            for first in range(0, len(places), batch_size):
                batch = places[first : first + batch_size]
                corners = [
                    [along[n] for along, n in zip(starts, place[1:], strict=True)]
                    for place in batch
                ]
                cuts = [
                    _cut(images[place[0]], corner, window, patch)
                    for place, corner in zip(batch, corners, strict=True)
                ]
                patches = torch.cat(cuts) if len(cuts) > 1 else cuts[0]
                logits = run_network(model, patches.to(device_of(model, images)))
                _check_size(logits, patch, model)
                logits = _uncut(logits, window, patch).to(where, dtype)
                if mean is None:
                    mean = _RunningMean(
                        (len(images), logits.shape[1], *size),
                        slow,
                        window[slow],
                        output,
                        threshold,
                        logits,
                    )
                for place, corner, part in zip(batch, corners, logits, strict=True):
                    along = [axis[n] for axis, n in zip(shares, place[1:], strict=True)]
                    mean.add(part, place[0], corner, along)
                bar.update(len(batch))
        assert mean is not None  # there are images, and so there are windows
        mean.finish(size[slow])
    return mean.result


class _RunningMean:
    """The sum of weighted logits, and the result that it turns into row by row.

    Rows lie along the ``slow`` axis. For probabilities and logits, sum and result are
    the same tensor. For labels, the sum holds the rows that windows can still touch.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        slow: int,
        thickness: int,
        output: Output,
        threshold: float,
        like: Tensor,
    ) -> None:
        self.axis = slow + 2
        self.output = output
        self.threshold = threshold
        self.done = 0  # rows before it are decided
        self.origin = 0  # the row of the image that is row 0 of the sum
        kept = list(shape)
        if output == "labels":
            kept[self.axis] = thickness
        self.sum = like.new_zeros(kept)
        self.weight = like.new_empty(0)  # room for the weights of one window
        self.result = self.sum
        if output == "labels":
            self.result = like.new_empty((shape[0], *shape[2:]), dtype=torch.int16)

    def add(
        self, logits: Tensor, image: int, corner: list[int], shares: list[Tensor]
    ) -> None:
        """Add one window ``(K, *window)``; ``shares`` are its weights along the axes.

        They add up to 1 over the windows of an axis.
        """
        target = self.sum[image]
        for axis, (start, share) in enumerate(zip(corner, shares, strict=True)):
            if axis + 2 == self.axis:
                start -= self.origin
            target = target.narrow(axis + 1, start, len(share))
        plane = shares[-2][:, None] * shares[-1]  # (H, W) of the window
        if len(shares) == 3:
            if self.weight.shape != logits.shape[1:]:
                self.weight = logits.new_empty(logits.shape[1:])
            torch.mul(shares[0][:, None, None], plane, out=self.weight)
            plane = self.weight
        target.addcmul_(logits, plane)

    def finish(self, end: int) -> None:
        """Decide the rows before ``end``: no window will touch them any more."""
        across = self.sum[0].numel() // self.sum.shape[self.axis]
        piece = max(1, PIECE // across)  # rows whose values stay in the cache
        for first in range(self.done, end, piece):
            count = min(piece, end - first)
            rows = self.sum.narrow(self.axis, first - self.origin, count)
            check_logits(rows)
            if self.output == "probabilities":
                rows.copy_(to_probabilities(rows))
            elif self.output == "labels":
                labels = self.result.narrow(self.axis - 1, first, count)
                labels.copy_(_decide(rows, self.threshold))
        if self.output == "labels":
            self._move_up(end - self.done)
        self.done = end

    def _move_up(self, count: int) -> None:
        """Drop the first ``count`` rows of the sum; the rows that come in are 0."""
        length = self.sum.shape[self.axis]
        for row in range(count, length, count):  # pieces that do not overlap
            piece = min(count, length - row)
            self.sum.narrow(self.axis, row - count, piece).copy_(
                self.sum.narrow(self.axis, row, piece)
            )
        self.sum.narrow(self.axis, max(length - count, 0), min(count, length)).zero_()
        self.origin += count


def _decide(logits: Tensor, threshold: float) -> Tensor:
    """Labels from logits; for K > 1 the softmax would not change the largest."""
    if logits.shape[1] == 1:
        return to_labels(to_probabilities(logits), threshold=threshold)
    return to_labels(logits)


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Where windows start along one axis: evenly spread from 0 to ``size - window``.

    Example:
        >>> window_starts(10, 4, overlap=0.5), window_starts(11, 4, overlap=0.0)
        ([0, 2, 4, 6], [0, 4, 7])
    """
    step = max(1.0, window * (1 - overlap))
    last = size - window
    steps = math.ceil(last / step - 1e-9)  # no window more for a rounding error
    return [*(round(number * last / steps) for number in range(steps)), last]


def window_shares(
    size: int, window: int, starts: Sequence[int], weights: str, sigma: float
) -> list[Tensor]:
    """The weights of each window along one axis, which add up to 1 at each pixel.

    Returns:
        For each start a tensor ``(window,)``, float64.

    Example:
        >>> window_shares(3, 2, [0, 1], "constant", 1 / 8)
        [tensor([1.0000, 0.5000], dtype=torch.float64),
         tensor([0.5000, 1.0000], dtype=torch.float64)]
    """
    weight = torch.ones(window, dtype=torch.float64)
    if weights == "gaussian":
        offset = torch.arange(window, dtype=torch.float64) - (window - 1) / 2
        weight = torch.exp(-0.5 * (offset / (sigma * window)) ** 2)
        if not weight.any():  # of an even window: its two middle pixels were too far
            weight = torch.ones_like(weight)
        weight[weight == 0] = weight[weight > 0].min()
    total = torch.zeros(size, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += weight
    return [weight / total[start : start + window] for start in starts]


def _check_patch(patch_size: int | Sequence[int], dims: int) -> tuple[int, ...]:
    """One whole number from 1 for each axis."""
    given = (patch_size,) * dims if isinstance(patch_size, int) else tuple(patch_size)
    if len(given) != dims:
        raise ValueError(
            f"patch_size names {len(given)} axes, but the images have {dims}; give one "
            "number, or one for each axis."
        )
    if any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in given):
        raise ValueError(f"patch_size must be whole numbers from 1, got {patch_size}.")
    return given


def _check_size(logits: Tensor, patch: tuple[int, ...], model: nn.Module) -> None:
    if tuple(logits.shape[2:]) == patch:
        return
    advice = (
        "For a network of valid convolutions, use overlap_tile."
        if hasattr(model, "output_size")
        else "Interpolate its logits to the size of the patch inside the network."
    )
    raise ValueError(
        f"{type(model).__name__} returned logits of size {tuple(logits.shape[2:])} for "
        f"patches of {patch}; sliding_window needs them of the same size. {advice}"
    )


def _padding(window: Sequence[int], patch: Sequence[int]) -> list[tuple[int, int]]:
    """Pixels before and after a window that is smaller than the patch, by axis."""
    missing = [full - part for part, full in zip(window, patch, strict=True)]
    return [(n // 2, n - n // 2) for n in missing]


def _cut(
    image: Tensor, corner: Sequence[int], window: Sequence[int], patch: Sequence[int]
) -> Tensor:
    """Take a patch ``(1, C, *patch)`` out of an image ``(C, *spatial)``."""
    for axis, (start, length) in enumerate(zip(corner, window, strict=True), start=1):
        image = image.narrow(axis, start, length)
    image = image[None]
    ends = [end for pair in reversed(_padding(window, patch)) for end in pair]
    return F.pad(image, ends, mode="replicate") if any(ends) else image


def _uncut(logits: Tensor, window: Sequence[int], patch: Sequence[int]) -> Tensor:
    """Take what ``_cut`` has added off again."""
    for axis, (before, _) in enumerate(_padding(window, patch), start=2):
        logits = logits.narrow(axis, before, window[axis - 2])
    return logits
