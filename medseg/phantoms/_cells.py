"""Cells under a microscope, and a folder full of them."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from skimage.io import imsave

from medseg.phantoms._brushes import blob, smooth_noise, to_uint8, wobble
from medseg.phantoms._phantom import Phantom, check_count, check_range, check_size

Array = NDArray[Any]


def cells(
    size: tuple[int, int] = (256, 256),
    num_cells: int = 20,
    *,
    seed: int = 0,
    noise: float = 0.03,
    contrast: float = 0.3,
    touching: float = 0.3,
    illumination: float = 0.3,
    radius: tuple[float, float] = (6.0, 11.0),
    blur: float = 1.0,
) -> Phantom:
    """Fluorescent cell nuclei, bright on dark, some touching, none overlapping.

    A nucleus is an ellipse with a smoothly deformed outline and the area of a circle
    of its radius; it may be cut by the edge of the image.

    Args:
        size: Height and width in pixels, each 16 or more.
        num_cells: Nuclei in the image, exactly.
        seed: The same seed gives the same phantom.
        noise: 0 for none. Photons arrive at random: a pixel of full brightness has
            this standard deviation, as a fraction of its value, and a darker one
            more; a third of it is added everywhere as read noise.
        contrast: Mean brightness of a nucleus above the background, before the
            optics, as a fraction of full brightness, in (0, 0.9].
        touching: Chance that a nucleus is pushed against an earlier one, 0 to 1.
            At 0 all are at least a pixel apart.
        illumination: How much darker the darkest spot is than the brightest, 0 to 1.
        radius: Smallest and largest radius in pixels.
        blur: Standard deviation of the optics in pixels.

    Returns:
        ``image`` ``(H, W)`` uint8; ``labels`` ``(H, W)`` int32: 0 background, then
        1..num_cells; no spacing, no names.

    Raises:
        ValueError: A number is out of its range, or so many nuclei do not fit.

    Example:
        >>> phantom = cells((64, 64), num_cells=3)
        >>> phantom.image.shape, phantom.image.dtype, int(phantom.labels.max())
        ((64, 64), dtype('uint8'), 3)
    """
    check_size(size)
    check_range("contrast", contrast, 0.01, 0.9)
    check_range("touching", touching, 0, 1)
    check_range("illumination", illumination, 0, 1)
    check_range("noise", noise, 0, 1)
    check_range("blur", blur, 0, 20)
    check_range("radius", radius[0], 2, radius[1])
    check_count("num_cells", num_cells)
    rng = np.random.default_rng(seed)

    # A frame wide enough for a nucleus around a centre on the image's edge.
    pad = int(np.ceil(1.8 * radius[1])) + 2
    labels = np.zeros((size[0] + 2 * pad, size[1] + 2 * pad), np.int32)
    light = np.zeros(labels.shape, np.float32)
    centres: list[NDArray[np.int64]] = []
    grid = np.mgrid[-pad : pad + 1, -pad : pad + 1]
    for number in range(1, num_cells + 1):
        rho = _nucleus(rng, grid, radius)
        shape = rho < 1
        centre = _find_place(rng, labels, rho, centres, size, touching)
        if centre is None:
            raise ValueError(
                f"{num_cells} nuclei of radius {radius[0]:g} to {radius[1]:g} pixels "
                f"do not fit into {size[0]}x{size[1]}: no place was found for number "
                f"{number}. Ask for fewer or smaller ones, or for a larger image."
            )
        centres.append(centre)
        window = _window(centre, pad)
        labels[window][shape] = number
        # Thicker in the middle. The mean of sqrt(1 - rho^2) over a disc is 2/3.
        thickness = 0.6 + 0.6 * np.sqrt(1 - rho[shape] ** 2)
        light[window][shape] = thickness * rng.lognormal(-0.08, 0.4)

    chromatin = np.exp(0.18 * smooth_noise(rng, labels.shape, 1.5))
    light *= contrast * chromatin
    haze = ndimage.gaussian_filter(light, 15)  # from above and below the focus
    light = ndimage.gaussian_filter(light, blur) + 0.3 * haze + 0.05
    inside = (slice(pad, -pad), slice(pad, -pad))
    light = light[inside] * _vignette(rng, size, illumination)
    if noise:
        photons = 1 / noise**2  # at full brightness
        light = rng.poisson(light * photons) / photons
        light = light + noise / 3 * rng.standard_normal(size)
    return Phantom(to_uint8(light), labels[inside].copy(), None, ())


def phase_contrast(
    size: tuple[int, int] = (256, 256),
    num_cells: int = 14,
    *,
    seed: int = 0,
    noise: float = 0.03,
    contrast: float = 0.6,
    touching: float = 0.3,
    illumination: float = 0.2,
    artefacts: float = 1.0,
    radius: tuple[float, float] = (10.0, 18.0),
) -> Phantom:
    """Living cells under a phase-contrast microscope: dark, each with a bright halo.

    The microscope makes phase (thickness) visible, but its ring lets some of the light
    through that should be held back: what is seen is the thickness less its local mean.
    So the middle of a flat cell is as grey as the background, and a halo runs around
    it: a threshold finds neither.

    Args:
        size: Height and width in pixels, each 16 or more.
        num_cells: Cells in the image, exactly.
        seed: The same seed gives the same phantom.
        noise: Standard deviation of the noise, as a fraction of full brightness.
        contrast: How much darker the middle of a cell would be than the background if
            there were no halo, same unit, in [0, 0.9].
        touching: Chance that a cell is pushed against an earlier one, 0 to 1.
        illumination: How much darker the darkest spot is than the brightest, 0 to 1.
        artefacts: The halo: 0 for none, an ideal microscope; 1 for the usual one.
        radius: Smallest and largest radius in pixels, of the circle of equal area.

    Returns:
        ``image`` ``(H, W)`` uint8; ``labels`` ``(H, W)`` int32: 0 background, then
        1..num_cells; no spacing, no names.

    Raises:
        ValueError: A number is out of its range, or so many cells do not fit.

    Example:
        >>> phantom = phase_contrast((96, 96), num_cells=3)
        >>> phantom.image.shape, int(phantom.labels.max())
        ((96, 96), 3)
    """
    check_size(size)
    check_range("contrast", contrast, 0, 0.9)
    check_range("touching", touching, 0, 1)
    check_range("illumination", illumination, 0, 1)
    check_range("noise", noise, 0, 1)
    check_range("artefacts", artefacts, 0, 2)
    check_range("radius", radius[0], 3, radius[1])
    check_count("num_cells", num_cells)
    place, look, camera = np.random.default_rng(seed).spawn(3)

    pad = int(np.ceil(2.1 * radius[1])) + 2
    labels = np.zeros((size[0] + 2 * pad, size[1] + 2 * pad), np.int32)
    phase = np.zeros(labels.shape, np.float32)
    centres: list[NDArray[np.int64]] = []
    grid = np.mgrid[-pad : pad + 1, -pad : pad + 1]
    for number in range(1, num_cells + 1):
        r, aspect = place.uniform(*radius), place.uniform(1, 2.2)
        rho = blob(
            grid[0],
            grid[1],
            r * aspect**0.5,
            r / aspect**0.5,
            angle=place.uniform(0, np.pi),
            wobble=wobble(place, 0.1),
        )
        centre = _find_place(place, labels, rho, centres, size, touching)
        if centre is None:
            raise ValueError(
                f"{num_cells} cells of radius {radius[0]:g} to {radius[1]:g} pixels "
                f"do not fit into {size[0]}x{size[1]}: no place was found for number "
                f"{number}. Ask for fewer or smaller ones, or for a larger image."
            )
        centres.append(centre)
        window, shape = _window(centre, pad), rho < 1
        labels[window][shape] = number
        # Flat, with a steep edge and a thicker nucleus.
        nucleus = np.exp(-((rho / 0.45) ** 2))
        phase[window][shape] = (
            0.75 * np.sqrt(1 - rho[shape] ** 4) + 0.35 * nucleus[shape]
        )
    grains = 0.12 * smooth_noise(look, labels.shape, 1.2)
    phase *= 1 + grains + 0.08 * smooth_noise(look, labels.shape, 4)
    seen = ndimage.gaussian_filter(phase, 0.8)
    middle = sum(radius) / 2
    held_back = ndimage.gaussian_filter(phase, 0.45 * middle)
    light = 0.5 - contrast * (seen - artefacts * held_back)
    light += 0.012 * smooth_noise(look, labels.shape, 20)
    inside = (slice(pad, -pad), slice(pad, -pad))
    light = light[inside] * _vignette(look, size, illumination)
    if noise:
        light = light + noise * camera.standard_normal(size)
    return Phantom(to_uint8(light), labels[inside].copy(), None, ())


def write_cells(
    folder: str | Path,
    count: int,
    *,
    seed: int = 0,
    size: tuple[int, int] = (256, 256),
) -> tuple[Path, Path]:
    """Write phantoms of cells as a folder of images and a folder of masks.

    Numbers, brightness, noise and illumination vary from image to image. The files
    appear all at once: an interrupted call leaves nothing behind.

    Args:
        folder: Made if it does not exist; otherwise it must be empty.
        count: How many images.
        seed: Of the whole folder; another seed shares no image with it.
        size: Height and width of each image in pixels.

    Returns:
        ``folder/images``, grey 8-bit PNG, and ``folder/masks``, PNG of 0 and 255,
        under the same file names.

    Raises:
        FileExistsError: ``folder`` is a file, or holds something.
        ValueError: ``count`` is below 1, or ``size`` is too small.
    """
    check_count("count", count)
    check_size(size)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"{folder} exists and is not an empty folder: nothing was written. Give "
            "the name of a new folder, or remove this one."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        draft = Path(scratch, "draft")
        (draft / "images").mkdir(parents=True)
        (draft / "masks").mkdir()
        for index in range(count):
            # Not seed + index, which would share images with the next seed.
            rng = np.random.default_rng([seed, index])
            per_area = size[0] * size[1] / 256**2
            phantom = cells(
                size,
                max(1, round(per_area * rng.integers(10, 35))),
                seed=int(rng.integers(2**32)),
                noise=rng.uniform(0.02, 0.08),
                contrast=rng.uniform(0.12, 0.4),
                illumination=rng.uniform(0, 0.5),
            )
            name = f"cells_{index:03d}.png"
            mask = np.where(phantom.labels > 0, 255, 0).astype(np.uint8)
            imsave(draft / "images" / name, phantom.image, check_contrast=False)
            imsave(draft / "masks" / name, mask, check_contrast=False)
        if folder.exists():
            folder.rmdir()
        draft.rename(folder)
    return folder / "images", folder / "masks"


# What the cells are made of.


def _nucleus(
    rng: Generator, grid: NDArray[np.int64], radius: tuple[float, float]
) -> NDArray[np.float64]:
    """Distance from the centre, 1 on the outline of a random nucleus."""
    r, aspect = rng.uniform(*radius), rng.uniform(1, 1.5)
    offset = rng.uniform(-0.5, 0.5, 2)
    return blob(
        grid[0] - offset[0],
        grid[1] - offset[1],
        r * aspect**0.5,
        r / aspect**0.5,
        angle=rng.uniform(0, np.pi),
        wobble=wobble(rng, 0.04),
    )


def _find_place(
    rng: Generator,
    labels: NDArray[np.int32],
    rho: NDArray[np.float64],
    centres: list[NDArray[np.int64]],
    size: tuple[int, int],
    touching: float,
) -> NDArray[np.int64] | None:
    """A centre in the padded ``labels`` where the nucleus overlaps no other."""
    pad = rho.shape[0] // 2
    shape = rho < 1
    around = ndimage.binary_dilation(shape, iterations=2)
    for _ in range(200):
        if not centres or rng.random() >= touching:
            centre = rng.integers(0, size) + pad
            if not labels[_window(centre, pad)][around].any():
                return centre
            continue
        # Slide away from a neighbour, a pixel at a time, until nothing overlaps.
        angle = rng.uniform(0, 2 * np.pi)
        direction = np.array([np.sin(angle), np.cos(angle)])
        start = centres[rng.integers(len(centres))]
        for step in range(2 * pad):
            centre = start + np.rint(step * direction).astype(np.int64)
            if not ((centre >= pad) & (centre < pad + np.array(size))).all():
                break
            if not labels[_window(centre, pad)][shape].any():
                return centre
    return None


def _window(centre: NDArray[np.int64], pad: int) -> tuple[slice, slice]:
    y, x = centre
    return slice(y - pad, y + pad + 1), slice(x - pad, x + pad + 1)


def _vignette(rng: Generator, size: tuple[int, int], depth: float) -> Array:
    """Illumination between 1 - ``depth`` and 1, brightest somewhere near the middle."""
    y, x = np.ogrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    cy, cx = rng.uniform(-0.5, 0.5, 2)
    distance = (y - cy) ** 2 + (x - cx) ** 2
    return 1 - depth * distance / distance.max()
