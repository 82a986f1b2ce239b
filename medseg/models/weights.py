"""Published weights for the backbones, or those of a file.

    load_weights       fill a network, from ImageNet's weights or a file
    adapt_first_conv   filters of RGB images, made to fit 1, 2 or N channels

Names and shapes are those of torchvision, whose published files are read as they are;
torchvision itself is not needed.
"""

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Weights = str | os.PathLike[str] | None

# Trained on ImageNet-1k (IMAGENET1K_V1). After the hyphen: the SHA-256's beginning.
PUBLISHED = {
    "vgg16": "vgg16-397923af.pth",
    "vgg16_bn": "vgg16_bn-6c64b313.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
}
ADDRESS = "https://download.pytorch.org/models/"


def load_weights(
    network: nn.Module,
    weights: str | os.PathLike[str],
    *,
    architecture: str,
    first_conv: str,
    skip: Sequence[str] = (),
) -> None:
    """Fill a network from published weights or from a file.

    Published weights are downloaded once, compared with the hash in their name, and
    kept in PyTorch's cache (``torch.hub.get_dir()``; ``TORCH_HOME`` moves it). They
    expect RGB images in [0, 1], minus the mean (0.485, 0.456, 0.406), divided by
    (0.229, 0.224, 0.225).

    Args:
        network: Changed in place, and only if everything fits.
        weights: ``"imagenet"``, or the path of a file with a ``state_dict``.
        architecture: Key of ``PUBLISHED``, such as ``"vgg16"``.
        first_conv: Name of the first convolution, such as ``"features.0"``; its
            filters are adapted to the network's channels (``adapt_first_conv``).
        skip: Beginnings of names, such as ``"classifier."``, that are neither read
            from the file nor changed in the network.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The download failed.
        ValueError: No weights are published for this architecture, the file is
            damaged, or its names or shapes are not the network's.

    Source:
        The files of torchvision 0.28 (``IMAGENET1K_V1``).
    """
    published = weights == "imagenet"
    state = _download(architecture) if published else _read(Path(weights))
    skipped = tuple(skip)
    state = {
        name: value for name, value in state.items() if not name.startswith(skipped)
    }
    own = {
        name: value
        for name, value in network.state_dict().items()
        if not name.startswith(skipped)
    }
    first = f"{first_conv}.weight"
    if first in state and first in own and state[first].ndim == own[first].ndim:
        state[first] = adapt_first_conv(state[first], own[first].shape[1])
    differences = [
        f"{name}: {_shape(state.get(name))} in the weights, "
        f"{_shape(own.get(name))} in the network"
        for name in sorted({*own, *state})
        if _shape(state.get(name)) != _shape(own.get(name))
        # A count that older files lack and only momentum=None uses.
        and not (name.endswith(".num_batches_tracked") and name not in state)
    ]
    if differences:
        shown = "; ".join(islice(differences, 3))
        raise ValueError(
            f"the weights {str(weights)!r} do not fit this network, in "
            f"{len(differences)} of {len({*own, *state})} places: {shown}. Published "
            f"{architecture} weights fit the default widths only; build the network "
            "as the one that the weights were saved from."
        )
    network.load_state_dict(state, strict=False)


def adapt_first_conv(filters: Tensor, in_channels: int) -> Tensor:
    r"""Make the first convolution's filters fit another number of image channels.

    The filters are repeated in turn (R, G, B, R, ...), scaled by C / N, and shifted
    alike so that their sum over the channels is what it was:

    .. math:: v_i = \frac{C}{N} w_{i \bmod C} + \frac{1}{N}
       \Big(\sum_c w_c - \frac{C}{N} \sum_{j < N} w_{j \bmod C}\Big)

    So an image whose N channels are all alike gives what the same image gave as C
    equal channels, for every N, and the layers above see activations of the size they
    were trained on. For one channel it is the sum of the filters. (Their mean would
    be the rule for the mean of C images, and make all activations C times smaller.)

    Args:
        filters: Weights ``(out, C, *kernel)``.
        in_channels: The channels N that are wanted.

    Returns:
        Weights ``(out, N, *kernel)``; the same tensor if N = C.

    Example:
        >>> rgb = torch.tensor([1.0, 2.0, 6.0]).reshape(1, 3, 1, 1)
        >>> [adapt_first_conv(rgb, n).flatten().tolist() for n in (1, 2, 6)]
        [[9.0], [3.75, 5.25], [0.5, 1.0, 3.0, 0.5, 1.0, 3.0]]
    """
    channels = filters.shape[1]
    if in_channels == channels:
        return filters
    turns = torch.arange(in_channels, device=filters.device) % channels
    repeated = filters[:, turns] * (channels / in_channels)
    missing = filters.sum(1, keepdim=True) - repeated.sum(1, keepdim=True)
    return repeated + missing / in_channels


def _download(architecture: str) -> dict[str, Tensor]:
    if architecture not in PUBLISHED:
        raise ValueError(
            f"there are no published ImageNet weights for {architecture!r}, only for "
            f"{', '.join(map(repr, PUBLISHED))}. Give the path of a file with a "
            "state_dict, or weights=None."
        )
    name = PUBLISHED[architecture]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        state = torch.hub.load_state_dict_from_url(
            ADDRESS + name, map_location="cpu", check_hash=True, weights_only=True
        )
    except OSError as error:
        raise OSError(
            f"the weights could not be downloaded from {ADDRESS}{name} ({error}). "
            "Without a network: download the file elsewhere and put it into "
            f"{folder}, or give its path as weights, or use weights=None."
        ) from error
    except Exception as error:  # another hash, or damage, which shows in many ways
        raise ValueError(
            f"{ADDRESS}{name} did not give what it should ({error}). Delete "
            f"{folder / name} if it is there, and try again."
        ) from error
    return _checked(state, name)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file of weights {str(path)!r}; weights is None, 'imagenet', "
            "or the path of a file that torch.save(network.state_dict(), path) wrote."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage shows in many ways
        raise ValueError(
            f"{path} cannot be read as weights: it is damaged, cut short, or holds "
            "more than tensors. Save network.state_dict(), not the network. "
            f"({type(error).__name__})"
        ) from error
    return _checked(state, path)


def _checked(state: Any, source: object) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise ValueError(
            f"{source} does not hold a state_dict (names and tensors). If it is a "
            "whole checkpoint, save the part that holds the network's weights."
        )
    return dict(state)


def _shape(value: Tensor | None) -> str:
    return "nothing" if value is None else str(tuple(value.shape))
