"""Overlap-tile: whole images from a network of valid convolutions."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from medseg.inference._predict import check_batch, predict_probabilities


@torch.no_grad()
def overlap_tile(
    model: Any, images: Tensor, *, tile: int = 572, batch_size: int = 1
) -> Tensor:
    """Probabilities of whole images from a network of valid convolutions.

    Such a network sees only the centre of what it is given. So the border of the
    image is mirrored outwards, and overlapping tiles are cut whose centres cover the
    image. Tiles lie at multiples of the network's stride: elsewhere pooling would
    pair other pixels. Then the result is that of one pass over the whole image,
    whatever the tile, at the memory of one tile.

    Args:
        model: A network with ``output_size(n)``, the size of the output for an input
            of size n, and ``stride``, the product of its poolings: ``UNet2015``, or
            ``UNet3D`` for volumes.
        images: ``(B, C, H, W)`` or ``(B, C, D, H, W)``, floating point, any size.
        tile: Height and width of a tile (and depth), a size that the network takes.
        batch_size: Tiles that pass through the network together, for each image.

    Returns:
        Probabilities ``(B, K, *spatial)``, float32, as ``predict_probabilities``.

    Raises:
        TypeError: The network has no ``output_size`` and ``stride``, or the images
            are no floating-point tensor.
        ValueError: The network takes no such tile, or one whose centre is smaller
            than the stride; the images have other axes, or hold NaN or infinity; or
            ``batch_size`` is below 1.

    Source:
        ronneberger2015unet, figure 2.
    """
    if not (hasattr(model, "output_size") and hasattr(model, "stride")):
        raise TypeError(
            f"overlap_tile needs a network with output_size(n) and stride, such as "
            f"UNet2015; {type(model).__name__} has not both. If its logits are as "
            "large as its images, use predict_probabilities."
        )
    check_batch(images)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    centre = model.output_size(tile)
    if centre < model.stride:
        raise ValueError(
            f"tiles of {tile} yield centres of {centre}, which leave gaps at a stride "
            f"of {model.stride}. Take a larger tile: {tile + model.stride} or more."
        )
    margin = (tile - centre) // 2
    size = images.shape[2:]
    starts = [_tile_starts(length, centre, model.stride) for length in size]
    mirrored = images
    for axis, (length, along) in enumerate(zip(size, starts, strict=True), start=2):
        index = _mirror_index(length, margin, along[-1] + tile, images.device)
        mirrored = mirrored.index_select(axis, index)

    corners = list(product(*starts))
    whole = images.new_empty(0)
    for first in range(0, len(corners), batch_size):
        batch = corners[first : first + batch_size]
        tiles = torch.cat([_box(mirrored, corner, tile) for corner in batch])
        centres = predict_probabilities(model, tiles)  # (tiles * B, K, centre, centre)
        if whole.ndim == 1:
            whole = centres.new_empty(len(images), centres.shape[1], *size)
        for corner, part in zip(batch, centres.split(len(images)), strict=True):
            target = _box(whole, corner, centre)
            target.copy_(_box(part, [0] * len(size), target.shape[2:]))
    return whole


def _box(values: Tensor, corner: Sequence[int], size: int | Sequence[int]) -> Tensor:
    """A view of the pixels from a corner on, no farther than the values go."""
    sizes = [size] * len(corner) if isinstance(size, int) else size
    for axis, (start, length) in enumerate(zip(corner, sizes, strict=True), start=2):
        values = values.narrow(axis, start, min(length, values.shape[axis] - start))
    return values


def _tile_starts(size: int, centre: int, stride: int) -> list[int]:
    """Where tiles start along one axis: multiples of ``stride`` that leave no gap.

    Example:
        >>> _tile_starts(512, centre=388, stride=16)  # 0..387 and 128..515
        [0, 128]
    """
    last = max(0, -(-(size - centre) // stride) * stride)
    step = centre // stride * stride
    return [*range(0, last, step), last]


def _mirror_index(
    size: int, margin: int, padded: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Which pixel stands where after mirroring at both ends, the end pixel once.

    Args:
        size: Pixels along the axis.
        margin: Pixels to add in front.
        padded: Pixels in all; it may be many times ``size``.
        device: Where the index is made.

    Returns:
        Indices ``(padded,)`` into the axis, int64.

    Example:
        >>> _mirror_index(3, margin=2, padded=9)
        tensor([2, 1, 0, 1, 2, 1, 0, 1, 2])
    """
    period = max(2 * (size - 1), 1)
    position = torch.arange(-margin, padded - margin, device=device) % period
    return torch.minimum(position, period - position)
