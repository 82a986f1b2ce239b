"""From a trained network to probabilities, labels, and whole images.

    predict                 labels of a batch of images                  chapter 01
    predict_probabilities   the same, before the decision
    overlap_tile            large images, for networks of valid convolutions
                            such as ``UNet2015``                         chapter 13

All run in evaluation mode and without gradients, on the device of the network's
weights, and leave the network as it was; results come back to where the images are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from medseg.checks import check_finite, check_images


def to_probabilities(logits: Tensor) -> Tensor:
    """Turn logits ``(B, K, *spatial)`` into float32 probabilities of that shape.

    K = 1 goes through a sigmoid, K > 1 through a softmax over the classes.

    Example:
        >>> to_probabilities(torch.tensor([[[0.0]], [[2.0]]])).flatten()
        tensor([0.5000, 0.8808])
    """
    logits = logits.float()
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


def to_labels(probabilities: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Decide: probabilities ``(B, K, *spatial)`` to labels ``(B, *spatial)``, int64.

    K = 1: foreground where the probability is above ``threshold``; K > 1: the class
    with the highest one.

    Example:
        >>> to_labels(torch.tensor([[[0.5, 0.6]]]))
        tensor([[0, 1]])
    """
    if probabilities.shape[1] == 1:
        return (probabilities[:, 0] > threshold).long()
    return probabilities.argmax(dim=1)


@torch.no_grad()
def predict_probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """Probabilities of the classes at each pixel.

    Args:
        model: Maps images to logits ``(B, K, *spatial)``.
        images: ``(B, C, H, W)`` or ``(B, C, D, H, W)``, floating point, prepared as
            in training.

    Returns:
        ``(B, K, *spatial)``, float32, in ``[0, 1]``. For K = 1 the probability of the
        foreground; for K > 1 they sum to 1 over the classes.

    Raises:
        TypeError: The images are no floating-point tensor.
        ValueError: The images have other axes, or hold NaN or infinity.
    """
    _check_batch(images)
    with evaluation_mode(model):
        logits = model(images.to(_device_of(model, images)))
    return to_probabilities(logits).to(images.device)


def predict(model: nn.Module, images: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Labels at each pixel.

    Args:
        model: Maps images to logits ``(B, K, *spatial)``.
        images: ``(B, C, H, W)`` or ``(B, C, D, H, W)``, floating point, prepared as
            in training.
        threshold: For K = 1: above this probability a pixel is foreground, in
            ``[0, 1]``.

    Returns:
        Labels ``(B, *spatial)``, int64: 0 and 1 for K = 1, else 0 to K - 1.

    Raises:
        TypeError: The images are no floating-point tensor.
        ValueError: The images have other axes, or hold NaN or infinity; or
            ``threshold`` lies outside ``[0, 1]``.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(
            f"threshold must be a probability in [0, 1], got {threshold}. A threshold "
            "t on logits is the threshold 1 / (1 + exp(-t)) on probabilities."
        )
    return to_labels(predict_probabilities(model, images), threshold=threshold)


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
    _check_batch(images)
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


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, and each of its modules back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        # One by one: a layer that was frozen in evaluation mode stays so.
        for module in training:
            module.training = True


def _device_of(model: nn.Module, images: Tensor) -> torch.device:
    """Device of the network's weights; that of the images if it has none."""
    weight = next(model.parameters(), None)
    return images.device if weight is None else weight.device


def _check_batch(images: Tensor) -> None:
    """Accept finite images ``(B, C, H, W)`` or ``(B, C, D, H, W)``.

    Raises:
        TypeError: They are no floating-point tensor.
        ValueError: They have other axes, hold NaN or infinity, or no pixels.
    """
    ndim = images.ndim if isinstance(images, Tensor) else 4
    # The number of channels is the network's own business.
    channels = images.shape[1] if isinstance(images, Tensor) and ndim > 1 else 0
    check_images(images, channels, spatial_dims=3 if ndim == 5 else 2)
    if images.numel() == 0:
        raise ValueError(
            f"images have shape {tuple(images.shape)}: there are no pixels in them."
        )
    check_finite(images, "images")
