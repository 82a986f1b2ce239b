"""A coarse CT scanner: what reconstruction makes of the errors of its rays.

Streaks and dark bands are no disturbances of pixels. The rays of a CT are too few in
the thick of the body and the X-rays grow harder on their way through bone; each ray's
small error is smeared over all pixels on its line. So the errors are made where they
arise, on the rays, and reconstructed by filtered backprojection, on a coarse grid,
whose result is enlarged and added to the image.
"""

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage, sparse

Array = NDArray[Any]

_WATER = 0.019  # attenuation of water per mm, at 70 keV
_ANGLES = 120
_PIXELS = 80  # along each side of the coarse grid


def ray_artefacts(
    hu: Array, spacing: tuple[float, ...], strength: float, rng: Generator
) -> NDArray[np.float32]:
    """What to add to slices ``(D, H, W)``, in HU, for streaks and dark bands.

    Args:
        hu: Slices without noise.
        spacing: mm along the last two axes.
        strength: 0 for none, 1 for a lot.
        rng: Where the chance comes from.
    """
    depth, height, width = hu.shape
    # Every slice of 2D, every 2nd to 4th of a volume: the errors vary slowly.
    skip = 1 if depth < 32 else 2 if depth < 96 else 4
    chosen = hu[:: skip or 1]
    n = _PIXELS
    coarse = _resize(chosen, (len(chosen), n, n))
    pixel = (height * spacing[-2] + width * spacing[-1]) / 2 / n  # mm
    rays = _rays(n, _ANGLES)

    def project(maps: Array) -> Array:  # (S, n, n) to (angles, bins, S)
        lines = rays @ maps.reshape(len(maps), -1).T
        return (lines * pixel).reshape(_ANGLES, -1, len(maps))

    through = project(_WATER * (1 + coarse.clip(-1000) / 1000))
    bone = project(_WATER * (coarse - 150).clip(0, 2500) / 1000)
    hardened = -0.12 * bone * through / (1 + 0.1 * through)
    photons = 4e4
    starved = np.sqrt(np.exp(through.clip(0, 10)) / photons)
    errors = hardened + starved * rng.standard_normal(through.shape, np.float32)

    bins = errors.shape[1]
    padded = 2 * bins
    frequencies = np.fft.rfftfreq(padded)
    ramp = 2 * frequencies * np.cos(np.pi * frequencies)  # softened
    spectrum = np.fft.rfft(errors, n=padded, axis=1) * ramp[:, None]
    filtered = np.fft.irfft(spectrum, n=padded, axis=1)[:, :bins]
    smeared = rays.T @ filtered.reshape(-1, len(chosen)).astype(np.float32)
    image = smeared.T.reshape(-1, n, n) * (np.pi / (2 * _ANGLES)) / pixel
    image *= 1000 / _WATER * strength
    return _resize(image.astype(np.float32), hu.shape)


def _rays(n: int, num_angles: int) -> sparse.csr_matrix:
    """The matrix from pixels to the sums along rays, two neighbouring rays a pixel."""
    bins = int(np.ceil(n * np.sqrt(2))) + 3
    middle = (n - 1) / 2
    y, x = (np.mgrid[:n, :n] - middle).astype(np.float32)
    angles = np.pi * np.arange(num_angles, dtype=np.float32)[:, None] / num_angles
    place = np.cos(angles) * x.ravel() + np.sin(angles) * y.ravel() + bins / 2
    low = np.floor(place).astype(np.int32)
    part = (place - low).ravel()
    row = (low + bins * np.arange(num_angles, dtype=np.int32)[:, None]).ravel()
    pixels = np.tile(np.arange(n * n, dtype=np.int32), num_angles)
    return sparse.csr_matrix(
        (
            np.concatenate([1 - part, part]),
            (np.concatenate([row, row + 1]), np.concatenate([pixels, pixels])),
        ),
        shape=(num_angles * bins, n * n),
    )


def _resize(stack: Array, shape: tuple[int, ...]) -> Array:
    factors = [new / old for new, old in zip(shape, stack.shape, strict=True)]
    return ndimage.zoom(stack, factors, order=1, mode="nearest", grid_mode=True)
