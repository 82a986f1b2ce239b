"""Blobs with wavy outlines, smooth noise: what phantoms are drawn with."""

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]


def blob(
    y: Array,
    x: Array,
    ry: float,
    rx: float,
    *,
    angle: float = 0.0,
    wobble: Array | None = None,
) -> Array:
    """Distance from the centre, in units of the outline: below 1 is inside.

    The outline is an ellipse with half axes ``rx`` and ``ry``, its radius multiplied
    by waves around it, and scaled back to the ellipse's area, pi rx ry.
    """
    u = (np.cos(angle) * x + np.sin(angle) * y) / rx
    v = (np.cos(angle) * y - np.sin(angle) * x) / ry
    rho = np.hypot(u, v)
    if wobble is None:
        return rho
    around = (u + 1j * v) / np.maximum(rho, 1e-6)  # exp(i theta)
    outline, turns = np.ones_like(rho), around
    for height, phase in wobble:
        turns = turns * around  # 2, 3, ... periods
        outline += height * (np.cos(phase) * turns.real - np.sin(phase) * turns.imag)
    # The waves are orthogonal, so that they enlarge the area by this factor.
    return rho / outline * np.sqrt(1 + 0.5 * (wobble[:, 0] ** 2).sum())


def wobble(rng: Generator, height: float) -> Array:
    """Height and phase of the waves with 2 to 5 periods around an outline."""
    heights = height * rng.standard_normal(4).clip(-2, 2) / np.sqrt([1, 1.5, 2, 2.5])
    return np.stack([heights, rng.uniform(0, 2 * np.pi, 4)], axis=1)


def smooth_noise(rng: Generator, size: tuple[int, ...], scale: float) -> Array:
    """Gaussian noise of unit variance that varies over ``scale`` pixels."""
    step = max(1, int(scale / 2))  # slow noise needs no fine grid
    coarse = [-(-n // step) + 1 for n in size]
    noise = rng.standard_normal(coarse, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, scale / step, mode="reflect")
    noise = enlarge(noise, 1, step)[tuple(slice(n) for n in size)]
    return noise / max(float(noise.std()), 1e-6)


def enlarge(values: Array, order: int, factor: int = 2) -> Array:
    return ndimage.zoom(values, factor, order=order, mode="nearest", grid_mode=True)


def to_uint8(light: Array) -> NDArray[np.uint8]:
    return np.rint(255 * light.clip(0, 1)).astype(np.uint8)
