"""What scanners do to an image, as plain functions: the dials of phantoms.

    rician_noise    the noise of a magnitude image, MRI
    bias_field      uneven sensitivity of the receiving coil, MRI
    ghosting        faint copies along one axis, from motion in rhythm, MRI
    gamma           a bent grey scale, any image

All take arrays ``(*spatial)``, 2D or 3D, and return new ones. What has chance in it
takes a generator: the same generator, the same result. ``medseg.transforms`` makes
augmentations of them.
"""

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[Any]


def rician_noise(image: Array, sd: float, rng: Generator) -> NDArray[np.float32]:
    r"""The magnitude of a signal with Gaussian noise in both its channels.

    .. math:: \sqrt{(S + n_1)^2 + n_2^2}, \quad n_1, n_2 \sim N(0, \sigma^2)

    Where there is signal, the noise is nearly Gaussian; where there is none, it has a
    mean of :math:`\sigma \sqrt{\pi / 2}`: air is not black in MRI.

    Args:
        image: Signal without noise, 0 or more.
        sd: Standard deviation of either channel, in the units of the image.
        rng: Where the chance comes from.

    Returns:
        An array of the same shape, float32.

    Raises:
        ValueError: ``sd`` is negative, or the image has negative values.

    Source:
        gudbjartsson1995rician.
    """
    _check(sd >= 0, f"sd must be 0 or more, got {sd}.")
    image = np.asarray(image, np.float32)
    _check(
        not (image < 0).any(),
        "Rician noise is that of a magnitude image, but this image has values down to "
        f"{image.min(initial=0):g}. Add the noise before the image is normalised.",
    )
    real = image + np.float32(sd) * rng.standard_normal(image.shape, np.float32)
    other = np.float32(sd) * rng.standard_normal(image.shape, np.float32)
    return np.hypot(real, other)


def bias_field(
    shape: tuple[int, ...], strength: float, rng: Generator
) -> NDArray[np.float32]:
    """A smooth map to multiply an image with, from 1 - strength to 1.

    It is a random quadratic polynomial of the coordinates, which run from -1 to 1 along
    each axis, so that it does not depend on the resolution.

    Args:
        shape: ``(*spatial)``, each 1 or more.
        strength: How much darker the darkest spot is than the brightest, 0 to 1.
        rng: Where the chance comes from.

    Returns:
        A map of this shape, float32, whose largest value is 1.

    Raises:
        ValueError: ``strength`` is not between 0 and 1.

    Example:
        >>> field = bias_field((4, 5), 0.5, np.random.default_rng(0))
        >>> field.shape, float(field.min()), float(field.max())
        ((4, 5), 0.5, 1.0)
    """
    _check(0 <= strength <= 1, f"strength must lie between 0 and 1, got {strength}.")
    axes = np.meshgrid(
        *(np.linspace(-1, 1, n, dtype=np.float32) if n > 1 else [0.0] for n in shape),
        indexing="ij",
        sparse=True,
    )
    weights = rng.standard_normal(len(shape)), rng.standard_normal((len(shape),) * 2)
    field = np.zeros(shape, np.float32)
    for i, first in enumerate(axes):
        field += np.float32(weights[0][i]) * first
        for j, second in enumerate(axes[: i + 1]):
            field += np.float32(0.5 * weights[1][i, j]) * (first * second)
    field -= field.max()
    depth = -float(field.min())
    return 1 + field * np.float32(strength / depth) if depth else field + 1


def ghosting(
    image: Array, strength: float, *, num_ghosts: int = 4, axis: int = -2
) -> NDArray[np.float32]:
    r"""Faint copies of the image along the direction of phase encoding.

    MRI measures the Fourier transform line by line. What moves in rhythm (breath,
    pulse) makes the lines stronger and weaker in turn: line k is multiplied by
    :math:`1 + s \cos(2 \pi k / n)`. That is the image plus copies of strength s / 2,
    shifted by N / n pixels up and down, and wrapped around.

    Args:
        image: ``(*spatial)``.
        strength: s above, 0 or more.
        num_ghosts: n above: into how many parts the copies cut the axis, 2 or more.
        axis: The direction of phase encoding.

    Returns:
        An array of the same shape, float32. It is a magnitude, 0 or more, if the image
        has no negative values.

    Raises:
        ValueError: ``strength`` is negative, or ``num_ghosts`` below 2.

    Example:
        >>> ghosting(np.array([[4.0], [0], [0], [0]]), 0.5, num_ghosts=4).ravel()
        array([4., 1., 0., 1.], dtype=float32)
    """
    _check(strength >= 0, f"strength must be 0 or more, got {strength}.")
    _check(num_ghosts >= 2, f"num_ghosts must be 2 or more, got {num_ghosts}.")
    image = np.asarray(image, np.float32)
    length = image.shape[axis]
    shift, rest = divmod(length, num_ghosts)
    if not rest:  # whole pixels: the sum below, without rounding
        copies = np.roll(image, shift, axis) + np.roll(image, -shift, axis)
        return image + np.float32(strength / 2) * copies
    spectrum = np.fft.rfft(image, axis=axis)
    k = np.arange(spectrum.shape[axis])
    lines = 1 + strength * np.cos(2 * np.pi * k / num_ghosts)
    changed = np.moveaxis(np.moveaxis(spectrum, axis, -1) * lines, -1, axis)
    ghosts = np.fft.irfft(changed, n=length, axis=axis).astype(np.float32)
    return ghosts if (image < 0).any() else np.abs(ghosts)


def gamma(image: Array, exponent: float) -> NDArray[np.float32]:
    """Bend the grey scale: values between the darkest and the brightest to a power.

    Args:
        image: Any shape and range, which is kept.
        exponent: Above 1 makes the middle darker, below 1 brighter.

    Returns:
        An array of the same shape, float32. A constant image is returned as it is.

    Raises:
        ValueError: ``exponent`` is not positive.

    Example:
        >>> gamma(np.array([0.0, 5, 10]), 2)
        array([ 0. ,  2.5, 10. ], dtype=float32)
    """
    _check(exponent > 0, f"exponent must be above 0, got {exponent}.")
    image = np.asarray(image, np.float32)
    low, high = image.min(), image.max()
    if low == high:
        return image.copy()
    bent = ((image - low) / (high - low)) ** np.float32(exponent)
    return (low + (high - low) * bent).clip(low, high)


def _check(fine: bool, message: str) -> None:
    if not fine:
        raise ValueError(message)
