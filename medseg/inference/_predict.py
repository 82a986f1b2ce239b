"""From logits to probabilities and labels; what all of ``inference`` rests on."""

from collections.abc import Iterator
from contextlib import contextmanager

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
    return probabilities.max(dim=1).indices  # as argmax, at a fraction of its time


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
        TypeError: The images are no floating-point tensor, or the network returns
            something else than one tensor.
        ValueError: The images have other axes, or hold NaN or infinity; or the logits
            do.
    """
    check_batch(images)
    with evaluation_mode(model):
        logits = run_network(model, images.to(device_of(model, images)))
    check_logits(logits)
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
        TypeError: The images are no floating-point tensor, or the network returns
            something else than one tensor.
        ValueError: The images have other axes, or hold NaN or infinity; the logits
            do; or ``threshold`` lies outside ``[0, 1]``.
    """
    check_threshold(threshold)
    return to_labels(predict_probabilities(model, images), threshold=threshold)


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


def device_of(model: nn.Module, images: Tensor) -> torch.device:
    """Device of the network's weights; that of the images if it has none."""
    weight = next(model.parameters(), None)
    return images.device if weight is None else weight.device


def check_batch(images: Tensor) -> None:
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


def check_threshold(threshold: float) -> None:
    """Accept a probability.

    Raises:
        ValueError: It lies outside ``[0, 1]``.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(
            f"threshold must be a probability in [0, 1], got {threshold}. A threshold "
            "t on logits is the threshold 1 / (1 + exp(-t)) on probabilities."
        )


def run_network(model: nn.Module, images: Tensor) -> Tensor:
    """Logits ``(B, K, *spatial)`` of a batch, whatever their spatial size.

    Raises:
        TypeError: The network returns something else than one floating-point tensor.
        ValueError: It returns another number of images or of axes.
    """
    logits = model(images)
    name = type(model).__name__
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"{name} returned a {type(logits).__name__}, expected one tensor of logits "
            "(B, K, *spatial). Wrap it in a module whose forward returns the one of "
            "its outputs to predict with."
        )
    if not logits.is_floating_point():
        raise TypeError(
            f"{name} returned {logits.dtype}, expected logits, in floating point. "
            "Return the scores before the decision between classes."
        )
    if logits.ndim != images.ndim or len(logits) != len(images):
        raise ValueError(
            f"{name} returned shape {tuple(logits.shape)} for images "
            f"{tuple(images.shape)}, expected logits (B, K, *spatial) with "
            f"B = {len(images)} and {images.ndim} axes."
        )
    return logits


def check_logits(logits: Tensor) -> None:
    """Refuse NaN and infinity that a network returned for finite images.

    Raises:
        ValueError: A logit is NaN or infinite.
    """
    # The sum is one pass without a copy, and finite only if all values are; it may
    # overflow where none is infinite, so the values have the last word.
    if torch.isfinite(logits.sum(dtype=torch.float32)) or torch.isfinite(logits).all():
        return
    bad = int((~torch.isfinite(logits)).sum())
    raise ValueError(
        f"the network returned {bad} NaN or infinite logit(s) among {logits.numel()}, "
        "for finite images. Look for NaN in its weights; in float16, also for "
        "activations above 65504: run it in bfloat16 or float32."
    )
