"""Packed cells under an electron microscope."""

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from medseg.phantoms._brushes import blob, enlarge, smooth_noise, to_uint8, wobble
from medseg.phantoms._phantom import Phantom, check_count, check_range, check_size

Array = NDArray[Any]


def em_membranes(
    size: tuple[int, int] = (512, 512),
    num_cells: int | None = None,
    *,
    seed: int = 0,
    noise: float = 0.11,
    contrast: float = 0.28,
    thickness: tuple[float, float] = (3.0, 5.5),
) -> Phantom:
    """Packed cells with dark membranes, as in electron microscopy of brain tissue.

    Mitochondria and vesicles are dark too, and belong to the cells: what makes the
    task harder than a threshold.

    Args:
        size: Height and width in pixels, each 16 or more.
        num_cells: Cells in the image, 2 or more; None for one per 45x45 pixels.
        seed: The same seed gives the same phantom.
        noise: Standard deviation of the grain, as a fraction of full brightness.
        contrast: How much darker a membrane is than the cells, before the optics,
            same unit; in (0, 0.5].
        thickness: Thinnest and thickest membrane, in pixels, to within half a pixel.

    Returns:
        ``image`` ``(H, W)`` uint8; ``labels`` ``(H, W)`` int32: 1 cell, 0 membrane, as
        in the ISBI 2012 challenge; ``spacing`` of that challenge, 4 nm.

    Raises:
        ValueError: A number is out of its range.

    Source:
        argandacarreras2015crowdsourcing, for the task and the size of a pixel.

    Example:
        >>> phantom = em_membranes((64, 64))
        >>> phantom.names[0], bool((phantom.labels == 0).any())
        ('membrane', True)
    """
    check_size(size)
    check_range("noise", noise, 0, 1)
    check_range("contrast", contrast, 0.01, 0.5)
    check_range("thickness", thickness[0], 2, thickness[1])
    if num_cells is None:
        num_cells = max(2, round(size[0] * size[1] / 45**2))
    check_count("num_cells", num_cells, least=2)
    rng = np.random.default_rng(seed)

    # Cells on a grid of half the resolution: the nearest of a few circles, on a warped
    # plane. Distances to their borders are then enlarged, which keeps them smooth.
    half = (-(-size[0] // 2), -(-size[1] // 2))
    plane = np.mgrid[: half[0], : half[1]].astype(np.float32)
    plane += np.stack([5 * smooth_noise(rng, half, 12) for _ in range(2)])
    pitch = np.sqrt(half[0] * half[1] / num_cells)
    seeds = rng.uniform((0, 0), half, (num_cells, 2)).astype(np.float32)
    sizes = rng.gamma(1.0, 0.2 * pitch, num_cells).astype(np.float32)
    nearest = np.full(half, np.inf, np.float32)
    owner = np.zeros(half, np.int32)
    for number, ((y, x), extra) in enumerate(zip(seeds, sizes, strict=True)):
        distance = np.hypot(plane[0] - y, plane[1] - x) - extra
        closer = distance < nearest
        nearest[closer], owner[closer] = distance[closer], number
    border = np.zeros(half, bool)
    border[:-1] |= owner[1:] != owner[:-1]
    border[:, :-1] |= owner[:, 1:] != owner[:, :-1]
    depth_half = ndimage.distance_transform_edt(~border).astype(np.float32)
    crop = (slice(size[0]), slice(size[1]))
    depth = 2 * enlarge(depth_half, 1)[crop]  # pixels from the middle of a membrane

    thin, thick = thickness
    swing = np.clip(0.5 + 0.35 * smooth_noise(rng, size, 8), 0, 1)
    width = thin + (thick - thin) * swing
    # Surface tension: blurred and cut at one half, corners become round.
    cell = (depth > width / 2 - 0.06).astype(np.float32)
    interior = ndimage.gaussian_filter(cell, 1.2) > 0.5

    grey = (0.5 + 0.035 * rng.standard_normal(num_cells))[owner]
    tissue = enlarge(grey.astype(np.float32), 0)[crop]
    tissue += 0.03 * smooth_noise(rng, size, 4)
    _draw_mitochondria(rng, tissue, depth_half, owner)
    tissue -= 0.16 * _vesicles(rng, size, interior & (depth > 6))
    tissue[~interior] = tissue[~interior].clip(0.45) - contrast
    tissue = ndimage.gaussian_filter(tissue, 0.8)
    tissue += 0.03 * smooth_noise(rng, size, 40)  # uneven stain
    grain = smooth_noise(rng, size, 0.7) + smooth_noise(rng, size, 1.3)
    tissue += noise / np.sqrt(2) * grain
    return Phantom(
        to_uint8(tissue), interior.astype(np.int32), (4e-6, 4e-6), ("membrane", "cell")
    )


# What the tissue under the electron microscope is made of.


def _draw_mitochondria(
    rng: Generator, tissue: Array, depth_half: Array, owner: NDArray[np.int32]
) -> None:
    """Put a dark, striped mitochondrion into a third of the larger cells."""
    numbers = np.unique(owner)
    deepest = np.array(ndimage.maximum_position(depth_half, owner, numbers))
    radii = 2 * depth_half[tuple(deepest.T)]
    for centre, room in zip(2 * deepest, radii, strict=True):
        if room < 14 or rng.random() > 0.4:
            continue
        long = min(rng.uniform(0.4, 0.75) * room, 26)
        reach = int(long) + 2
        top, left = np.maximum(centre - reach, 0)
        part = tissue[top : centre[0] + reach + 1, left : centre[1] + reach + 1]
        y, x = np.mgrid[: part.shape[0], : part.shape[1]]
        y, x = y + top - centre[0], x + left - centre[1]
        angle = rng.uniform(0, np.pi)
        rho = blob(y, x, long, 0.6 * long, angle=angle, wobble=wobble(rng, 0.05))
        cristae = np.sin((x * np.sin(angle) + y * np.cos(angle)) * 1.1 + 0.15 * y)
        dark = 0.14 + 0.05 * cristae + 0.08 * (rho > 0.85)
        part[rho < 1] -= dark[rho < 1]


def _vesicles(rng: Generator, size: tuple[int, int], where: Array) -> Array:
    """Rings some five pixels across, in clusters, 1 at their darkest."""
    crowded = np.clip(smooth_noise(rng, size, 15), 0, None)
    dots = (rng.random(size) < 0.006 * crowded) & where
    points = dots.astype(np.float32)
    ring = ndimage.gaussian_filter(points, 2) - ndimage.gaussian_filter(points, 1.1) / 2
    return (60 * ring).clip(-0.5, 1)
