"""Several predictions of the same images: turned, by other networks, with dropout."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from medseg.inference._predict import predict_probabilities
from medseg.inference._uncertainty import mean_probabilities

Predictor = Callable[[nn.Module, Tensor], Tensor]


def augmented_samples(
    model: nn.Module,
    images: Tensor,
    *,
    flips: Sequence[int] | None = None,
    plane: tuple[int, int] | None = None,
    predictor: Predictor = predict_probabilities,
) -> Iterator[Tensor]:
    """Probabilities of mirrored and turned images, put back into their place.

    Mirroring along every subset of the axes ``flips``, and with ``plane`` turned by 0,
    90, 180 and 270 degrees besides; what comes out twice is predicted once. All move
    whole pixels, so that undoing them is exact. Do only what training did too: a
    network that knows the left kidney from the right must not see them mirrored.

    Args:
        model: Maps images to logits ``(B, K, *spatial)``.
        images: ``(B, C, H, W)`` or ``(B, C, D, H, W)``, as for ``predictor``.
        flips: Spatial axes to mirror, counted from 0 for the first after the
            channels; None for all, ``()`` for none.
        plane: Two spatial axes to turn in, such as ``(1, 2)`` for H and W of a
            volume; None for no turns. Their voxels should be square.
        predictor: Called with network and images; returns probabilities
            ``(B, K, *spatial)``, as ``functools.partial(sliding_window,
            patch_size=64)`` does.

    Returns:
        An iterator over probabilities ``(B, K, *spatial)``, computed one after the
        other: 4 for flips in 2D, 8 in 3D; 8 for flips and turns in 2D, 16 in 3D.

    Raises:
        ValueError: An axis does not exist or is named twice.

    Example:
        >>> import torch
        >>> images = torch.rand(1, 1, 4, 6)
        >>> samples = augmented_samples(nn.Identity(), images, plane=(0, 1))
        >>> sum(torch.allclose(sample, images.sigmoid()) for sample in samples)
        8
    """
    dims = images.ndim - 2
    axes = tuple(range(dims)) if flips is None else tuple(flips)
    for name, given in (("flips", axes), ("plane", plane or ())):
        if len(set(given)) != len(given) or not set(given) <= set(range(dims)):
            raise ValueError(
                f"{name} must name different spatial axes among 0..{dims - 1}, for "
                f"images {tuple(images.shape)}, got {tuple(given)}."
            )
    if plane is not None and len(plane) != 2:
        raise ValueError(f"plane must name two spatial axes, got {tuple(plane)}.")
    moves = _moves(axes, plane)

    def samples() -> Iterator[Tensor]:
        for swap, mirrored in moves:
            turned = images.transpose(plane[0] + 2, plane[1] + 2) if swap else images  # type: ignore[index]
            dims_of = [axis + 2 for axis in sorted(mirrored)]
            back = predictor(model, turned.flip(dims_of)).flip(dims_of)
            yield back.transpose(plane[0] + 2, plane[1] + 2) if swap else back  # type: ignore[index]

    return samples()


def _moves(
    axes: Sequence[int], plane: tuple[int, int] | None
) -> list[tuple[bool, frozenset[int]]]:
    """Different moves: whether the plane's axes are swapped, then which are mirrored.

    Example:
        >>> len(_moves((0, 1), None)), len(_moves((0, 1), plane=(0, 1)))
        (4, 8)
    """
    turns: list[tuple[bool, frozenset[int]]] = [(False, frozenset())]
    if plane is not None:
        first, second = plane
        turns += [  # a quarter turn is a swap of the axes and one mirror
            (True, frozenset({first})),
            (False, frozenset({first, second})),
            (True, frozenset({second})),
        ]
    subsets = [
        frozenset(subset)
        for count in range(len(axes) + 1)
        for subset in combinations(axes, count)
    ]
    every = [(swap, turn ^ subset) for swap, turn in turns for subset in subsets]
    return list(dict.fromkeys(every))


def predict_augmented(
    model: nn.Module,
    images: Tensor,
    *,
    flips: Sequence[int] | None = None,
    plane: tuple[int, int] | None = None,
    predictor: Predictor = predict_probabilities,
) -> Tensor:
    """The mean of ``augmented_samples``: test-time augmentation.

    Holds the sum and one prediction at a time. A mirrored image has, exactly but for
    rounding, the mirrored result. It is a predictor itself.

    Args:
        model: Maps images to logits ``(B, K, *spatial)``.
        images: ``(B, C, *spatial)``, as for ``predictor``.
        flips: As for ``augmented_samples``.
        plane: As for ``augmented_samples``.
        predictor: As for ``augmented_samples``.

    Returns:
        Probabilities ``(B, K, *spatial)``, float32.

    Raises:
        ValueError: An axis does not exist or is named twice.
    """
    return mean_probabilities(
        augmented_samples(model, images, flips=flips, plane=plane, predictor=predictor)
    )


def ensemble_samples(
    models: Sequence[nn.Module],
    images: Tensor,
    *,
    predictor: Predictor = predict_probabilities,
) -> Iterator[Tensor]:
    """Probabilities from each of several networks, such as those of five folds.

    Args:
        models: Networks that map images to logits ``(B, K, *spatial)``.
        images: ``(B, C, *spatial)``, as for ``predictor``.
        predictor: Called with a network and the images; returns probabilities.

    Returns:
        An iterator over probabilities ``(B, K, *spatial)``, computed one after the
        other.

    Raises:
        ValueError: There is no network.
    """
    if len(models) == 0:
        raise ValueError("models is empty: an ensemble has at least one network.")
    return (predictor(model, images) for model in models)


def predict_ensemble(
    models: Sequence[nn.Module],
    images: Tensor,
    *,
    predictor: Predictor = predict_probabilities,
) -> Tensor:
    """The mean probability over several networks.

    Args:
        models: Networks that map images to logits ``(B, K, *spatial)``.
        images: ``(B, C, *spatial)``, as for ``predictor``.
        predictor: Called with a network and the images; returns probabilities.

    Returns:
        Probabilities ``(B, K, *spatial)``, float32.

    Raises:
        ValueError: There is no network, or they disagree on the classes K.
    """
    return mean_probabilities(ensemble_samples(models, images, predictor=predictor))


def dropout_samples(
    model: nn.Module,
    images: Tensor,
    *,
    count: int = 20,
    predictor: Predictor = predict_probabilities,
) -> Iterator[Tensor]:
    """Probabilities with dropout at work: Monte-Carlo dropout.

    Each sample drops other features, as in training, while all other layers stay in
    evaluation mode: batch norm neither uses nor changes the statistics of the batch.
    Between samples, and after an error, the network is as it was. Dropout is what
    derives from PyTorch's own layers; a ``functional.dropout`` is not reached. The
    random numbers are those of ``torch.manual_seed``.

    Args:
        model: A network with dropout that maps images to logits ``(B, K, *spatial)``.
        images: ``(B, C, *spatial)``, as for ``predictor``.
        count: How many samples, at least 1.
        predictor: Called with network and images; returns probabilities.

    Returns:
        An iterator over probabilities ``(B, K, *spatial)``, computed one after the
        other.

    Raises:
        ValueError: The network has no dropout layer with a probability above 0, or
            ``count`` is below 1.

    Source:
        gal2016dropout.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}.")
    layers = [m for m in model.modules() if isinstance(m, _DropoutNd) and m.p > 0]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no dropout layer with a probability above 0, "
            "so all samples would be the same. Train a network with dropout, or use "
            "ensemble_samples."
        )

    def samples() -> Iterator[Tensor]:
        for _ in range(count):
            with _dropping(layers):
                sample = predictor(model, images)
            yield sample

    return samples()


@contextmanager
def _dropping(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Make layers behave as in training, whatever mode the network is put into."""

    def on(layer: nn.Module, _: Any) -> None:
        layer.training = True

    def off(layer: nn.Module, *_: Any) -> None:
        layer.training = False  # so that a mode is put back as it was

    with ExitStack() as stack:
        for layer in layers:
            before = layer.training
            stack.callback(setattr, layer, "training", before)
            stack.callback(layer.register_forward_pre_hook(on).remove)
            stack.callback(layer.register_forward_hook(off, always_call=True).remove)
        yield
