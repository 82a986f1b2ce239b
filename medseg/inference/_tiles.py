"""Overlap-tile: whole images from a network of valid convolutions."""

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
            of size n, and ``stride``, the product of its poolings: ``UNet2015``.
        images: ``(B, C, H, W)``, floating point, any H and W.
        tile: Height and width of a tile, a size that the network takes.
        batch_size: Tiles that pass through the network together, for each image.

    Returns:
        Probabilities ``(B, K, H, W)``, float32, as from ``predict_probabilities``.

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
    if images.ndim != 4:
        raise ValueError(
            f"overlap_tile takes images (B, C, H, W), got {tuple(images.shape)}."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
    centre = model.output_size(tile)
    if centre < model.stride:
        raise ValueError(
            f"tiles of {tile} yield centres of {centre}, which leave gaps at a stride "
            f"of {model.stride}. Take a larger tile: {tile + model.stride} or more."
        )
    margin = (tile - centre) // 2
    height, width = images.shape[2:]
    rows = _tile_starts(height, centre, model.stride)
    columns = _tile_starts(width, centre, model.stride)
    row_index = _mirror_index(height, margin, rows[-1] + tile, images.device)
    column_index = _mirror_index(width, margin, columns[-1] + tile, images.device)
    mirrored = images[:, :, row_index][:, :, :, column_index]

    starts = list(product(rows, columns))
    whole = images.new_empty(0)
    for first in range(0, len(starts), batch_size):
        batch = starts[first : first + batch_size]
        tiles = torch.cat(
            [mirrored[:, :, y : y + tile, x : x + tile] for y, x in batch]
        )  # (tiles * B, C, tile, tile)
        centres = predict_probabilities(model, tiles)  # (tiles * B, K, centre, centre)
        if whole.ndim == 1:
            whole = centres.new_empty(len(images), centres.shape[1], height, width)
        for (y, x), part in zip(batch, centres.split(len(images)), strict=True):
            part = part[:, :, : height - y, : width - x]  # past the image: not needed
            whole[:, :, y : y + centre, x : x + centre] = part
    return whole


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
