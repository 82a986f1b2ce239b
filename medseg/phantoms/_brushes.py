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


# The same in space, in mm, where the resolution must not change what is drawn.


class Scene:
    """Values and labels on a grid in mm, to be painted on.

    The origin is the middle of the field. Index 0 along the first axis is nearest to
    the feet, x grows to the patient's left and y to the back. A 2D scene is the
    ``plane`` of the 3D one, kept as a volume of one slice.
    """

    def __init__(
        self,
        size: tuple[int, ...],
        field: tuple[float, float, float],
        *,
        plane: float = 0.0,
        ground: float = 0.0,
    ) -> None:
        self.size = size if len(size) == 3 else (1, *size)
        self.spacing = tuple(
            length / n for length, n in zip(field[-len(size) :], size, strict=True)
        )
        steps = self.spacing if len(size) == 3 else (0.0, *self.spacing)
        lines = [
            ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32)
            for n, step in zip(self.size, steps, strict=True)
        ]
        if len(size) == 2:
            lines[0] = np.array([plane], np.float32)
        self.lines = lines
        self.field = field
        self.z, self.y, self.x = np.meshgrid(*lines, indexing="ij", sparse=True)
        self.values = np.full(self.size, ground, np.float32)
        self.labels = np.zeros(self.size, np.uint8)

    def box(self, centre: Any, reach: Any) -> tuple[slice, ...]:
        """The part of the grid that lies within ``reach`` of ``centre``."""
        reach = np.broadcast_to(reach, 3)
        return tuple(
            slice(*np.searchsorted(line, (c - r, c + r)).tolist())
            for line, c, r in zip(self.lines, centre, reach, strict=True)
        )

    def ball(
        self,
        centre: Any,
        radii: Any,
        *,
        turn: float = 0.0,
        waves: Array | None = None,
        reach: float = 1.0,
    ) -> tuple[tuple[slice, ...], Array]:
        """An ellipsoid's box, and the distance from its centre there: 1 on the surface.

        Args:
            centre: z, y, x in mm.
            radii: Half axes along z, y and x.
            turn: Degrees about z, from x towards y.
            waves: What :func:`waves_in_space` returns, for an uneven surface.
            reach: How far the box goes, in units of the surface.
        """
        a = np.deg2rad(turn)
        rz, ry, rx = (float(r) for r in radii)
        wide = np.hypot(rx * np.cos(a), ry * np.sin(a))
        high = np.hypot(rx * np.sin(a), ry * np.cos(a))
        extra = 1.0 if waves is None else 1 + 3 * float(np.abs(waves[:, 3]).max())
        at = self.box(centre, np.array([rz, high, wide]) * reach * extra)
        z = self.z[at[0]] - np.float32(centre[0])
        y = self.y[:, at[1]] - np.float32(centre[1])
        x = self.x[:, :, at[2]] - np.float32(centre[2])
        u = (np.cos(a) * x + np.sin(a) * y) / np.float32(rx)
        v = (np.cos(a) * y - np.sin(a) * x) / np.float32(ry)
        u, v, w = u.astype(np.float32), v.astype(np.float32), z / np.float32(rz)
        rho = np.sqrt(u * u + v * v + w * w)
        if waves is not None:
            swell = np.ones_like(rho)
            for kz, ky, kx, height, phase in waves.astype(np.float32):
                swell += height * np.sin(kz * w + ky * v + kx * u + phase)
            rho = rho / swell
        return at, rho

    def paint(
        self, at: tuple[slice, ...], where: Array, value: Any, label: int = 0
    ) -> None:
        """Set the value, a number or a map, and the label where the mask is true."""
        if np.ndim(value):
            value = np.broadcast_to(value, where.shape)[where]
        self.values[at][where] = value
        self.labels[at][where] = label

    def tube(
        self,
        points: Array,
        radii: Array,
        value: float,
        label: int = 0,
        inside: int = -1,
    ) -> None:
        """Paint capsules between points (z, y, x), where the label is ``inside``."""
        for a, b, ra, rb in zip(
            points[:-1], points[1:], radii[:-1], radii[1:], strict=True
        ):
            at = self.box((a + b) / 2, np.abs(b - a) / 2 + max(ra, rb))
            z, y, x = self.z[at[0]], self.y[:, at[1]], self.x[:, :, at[2]]
            along = b - a
            t = (z - a[0]) * along[0] + (y - a[1]) * along[1] + (x - a[2]) * along[2]
            t = (t / max(float(along @ along), 1e-9)).clip(0, 1)
            far = (
                (z - a[0] - t * along[0]) ** 2
                + (y - a[1] - t * along[1]) ** 2
                + (x - a[2] - t * along[2]) ** 2
            )
            where = far < (ra + t * (rb - ra)) ** 2
            if inside >= 0:
                where &= self.labels[at] == inside
            self.paint(at, where, value, label)

    def noise(self, rng: Generator, scale: float) -> Array:
        """Smooth noise of unit variance that varies over ``scale`` mm."""
        return noise_in_space(rng, self.lines, self.field, scale)

    def squeezed(self, array: Array) -> Array:
        """Without the axis of a single slice, if the scene is 2D."""
        return array[0] if len(self.spacing) == 2 else array


def waves_in_space(rng: Generator, height: float, count: int = 4) -> Array:
    """Wave vector (z, y, x), height and phase of waves for an uneven surface."""
    direction = rng.standard_normal((count, 3))
    direction *= rng.uniform(2, 4.5, (count, 1)) / np.linalg.norm(
        direction, axis=1, keepdims=True
    )
    heights = height * rng.uniform(0.3, 1, (count, 1))
    phases = rng.uniform(0, 2 * np.pi, (count, 1))
    return np.concatenate([direction, heights, phases], axis=1)


def noise_in_space(
    rng: Generator, lines: list[Array], field: tuple[float, ...], scale: float
) -> Array:
    """Cubic B-splines with random weights on a grid of ``scale`` mm: unit variance.

    The weights do not depend on the resolution, nor does the result.
    """
    counts = [int(np.ceil(length / scale)) + 4 for length in field]
    values = rng.standard_normal(counts, dtype=np.float32)
    for line, count, length in zip(lines, counts, field, strict=True):
        knots = np.arange(count) - 1.5
        t = np.abs((line[:, None] + length / 2) / scale - knots)
        spline = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, (2 - t).clip(0) ** 3 / 6)
        spline = (spline / np.sqrt(151 / 315)).astype(np.float32)
        values = np.moveaxis(np.tensordot(spline, values, (1, 0)), 0, -1)
    return np.ascontiguousarray(values)
