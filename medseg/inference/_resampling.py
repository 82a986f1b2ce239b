"""From a scanner's grid to the network's, and back."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.checks import as_spacing
from medseg.inference._predict import (
    check_batch,
    check_threshold,
    predict_probabilities,
    to_labels,
)

PIECE = 2**22  # values of the K classes that are interpolated at a time
Image = TypeVar("Image", Tensor, NDArray[Any])


@torch.no_grad()
def predict_volume(
    model: nn.Module,
    image: Image,
    spacing: Sequence[float],
    *,
    training_spacing: Sequence[float],
    predictor: Callable[[nn.Module, Tensor], Tensor] = predict_probabilities,
    threshold: float = 0.5,
    antialias: bool = True,
) -> Image:
    """Labels of one image or volume in its own grid, predicted in that of training.

    The image is resampled to the spacing that the network was trained with. What goes
    back to the image's grid are the probabilities, and they are decided there, a few
    rows at a time: so a label's border runs between voxels of training where it
    should, and no class appears between two others, as it would if labels were
    interpolated.

    Args:
        model: Maps images to logits ``(B, K, *spatial)``.
        image: ``(H, W)``, ``(D, H, W)``, or with channels first ``(C, *spatial)``;
            floating point, with intensities prepared as in training.
        spacing: Size of its voxels in mm, one number for each spatial axis; their
            count says whether ``image`` has an axis of channels.
        training_spacing: That of the grid on which the network was trained.
        predictor: Called with the network and images ``(1, C, *spatial)``; returns
            probabilities ``(1, K, *spatial)``. For volumes take
            ``functools.partial(sliding_window, patch_size=...)``.
        threshold: For K = 1: above this probability a voxel is foreground.
        antialias: As in ``resize``, for the image. Say False if training resampled
            without.

    Returns:
        Labels ``(*spatial)``, int16, an array for an array and a tensor for a tensor.

    Raises:
        TypeError: The image does not hold floating point numbers.
        ValueError: It has other axes than the spacing, or NaN; or a spacing is not
            positive.

    Source:
        isensee2021nnunet.

    Example:
        >>> thick = np.zeros((2, 4, 4), dtype=np.float32)
        >>> thick[:, 1:3, 1:3] = 9.0
        >>> labels = predict_volume(
        ...     nn.Identity(), thick - 4.5, (5, 1, 1), training_spacing=(2.5, 1, 1)
        ... )
        >>> labels[0].tolist()
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    check_threshold(threshold)
    dims = len(spacing)
    old, new = as_spacing(spacing, dims), as_spacing(training_spacing, dims)
    tensor = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    if tensor.ndim not in (dims, dims + 1) or dims not in (2, 3):
        raise ValueError(
            f"image has shape {tuple(tensor.shape)}, but spacing names {dims} axes; "
            "give (H, W) or (C, H, W) with two numbers, (D, H, W) or (C, D, H, W) "
            "with three."
        )
    batch = tensor[None] if tensor.ndim == dims + 1 else tensor[None, None]
    check_batch(batch)
    if batch.dtype == torch.float64:
        batch = batch.float()
    size = batch.shape[2:]
    there = size_at(size, old, new)
    probabilities = predictor(model, resize(batch, there, antialias=antialias))
    if probabilities.ndim != batch.ndim or tuple(probabilities.shape[2:]) != there:
        raise ValueError(
            f"the predictor returned shape {tuple(probabilities.shape)} for an image "
            f"of size {there}; expected probabilities (1, K, *spatial) of that size."
        )
    labels = torch.empty(size, dtype=torch.int16, device=probabilities.device)
    rows = max(1, PIECE // (probabilities.shape[1] * math.prod(size[1:])))
    for first in range(0, size[0], rows):
        some = slice(first, min(first + rows, size[0]))
        part = resize(probabilities, size, rows=some)
        labels[some] = to_labels(part, threshold=threshold)[0]
    if isinstance(image, Tensor):
        return labels.to(image.device)
    return labels.cpu().numpy()


def size_at(
    size: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]
) -> tuple[int, ...]:
    """Voxels that an image has at another spacing, rounded, at least one an axis.

    Example:
        >>> size_at((40, 512, 512), spacing=(5, 0.8, 0.8), new_spacing=(2, 1, 1))
        (100, 410, 410)
    """
    old = as_spacing(spacing, len(size))
    new = as_spacing(new_spacing, len(size))
    return tuple(
        max(1, round(length * before / after))
        for length, before, after in zip(size, old, new, strict=True)
    )


def resize(
    values: Tensor,
    size: Sequence[int],
    *,
    antialias: bool = True,
    rows: slice | None = None,
) -> Tensor:
    """Interpolate linearly to another number of pixels over the same field of view.

    Pixels are areas, not points: the corners of the image stay where they are, and
    pixel i lies at ``(i + 1/2) / n``. Where an axis shrinks and ``antialias`` is set,
    each new pixel is a mean over all old ones within its reach (a triangle as wide as
    two new pixels); without, it is taken between two old ones, and those in between
    are skipped.

    Args:
        values: ``(B, C, *spatial)``, images or probabilities. Never labels.
        size: New numbers of pixels, one for each spatial axis.
        antialias: Average where an axis shrinks.
        rows: Which rows of the result to compute, along the first spatial axis; None
            for all.

    Returns:
        ``(B, C, *size)``, float32; the values themselves if the size is theirs.
        Probabilities stay in ``[0, 1]`` with sum 1.

    Raises:
        ValueError: ``size`` does not fit the axes, or is not positive.

    Example:
        >>> resize(torch.tensor([[[[0.0, 4.0]]]]), (1, 4))
        tensor([[[[0., 1., 3., 4.]]]])
        >>> resize(torch.tensor([[[[0.0, 1.0, 2.0, 3.0]]]]), (1, 2))
        tensor([[[[0.7143, 2.2857]]]])
    """
    if len(size) != values.ndim - 2 or min(size) < 1:
        raise ValueError(
            f"size must name {values.ndim - 2} positive numbers of pixels for values "
            f"of shape {tuple(values.shape)}, got {tuple(size)}."
        )
    result = values.float()
    # Axes that shrink come first: the others then have less to do.
    order = sorted(
        range(len(size)), key=lambda axis: size[axis] / result.shape[axis + 2]
    )
    for axis in order:
        wanted = rows if axis == 0 else None
        if size[axis] == result.shape[axis + 2]:
            if wanted is not None:
                result = result[:, :, wanted]
            continue
        index, weight = _taps(result.shape[axis + 2], size[axis], antialias)
        if wanted is not None:
            index, weight = index[wanted], weight[wanted]
        result = _interpolate(result, axis + 2, index, weight)
    return result


def _taps(old: int, new: int, antialias: bool) -> tuple[Tensor, Tensor]:
    """For each new pixel, the old ones that it is made of, and their weights.

    Returns:
        Indices ``(new, taps)``, int64, and weights of the same shape, float32, with
        sum 1.

    Example:
        >>> _taps(2, 4, antialias=True)[1]
        tensor([[0.0000, 1.0000],
                [0.7500, 0.2500],
                [0.2500, 0.7500],
                [1.0000, 0.0000]])
    """
    reach = max(1.0, old / new) if antialias else 1.0
    centre = (torch.arange(new, dtype=torch.float64) + 0.5) * (old / new) - 0.5
    first = torch.floor(centre - reach).long() + 1
    index = first[:, None] + torch.arange(math.ceil(2 * reach))
    weight = (1 - (index - centre[:, None]).abs() / reach).clamp(min=0)
    weight[(index < 0) | (index >= old)] = 0
    weight /= weight.sum(dim=1, keepdim=True)
    return index.clamp(0, old - 1), weight.float()


def _interpolate(values: Tensor, axis: int, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of old pixels along one axis."""
    index, weight = index.to(values.device), weight.to(values.device)
    along = [1] * values.ndim
    along[axis] = len(index)
    result = values.index_select(axis, index[:, 0]).mul_(weight[:, 0].view(along))
    for tap in range(1, index.shape[1]):
        result.addcmul_(
            values.index_select(axis, index[:, tap]), weight[:, tap].view(along)
        )
    return result
