"""Synthetic images with exact labels, drawn by seeded NumPy code.

    cells          fluorescent nuclei under a microscope      instance numbers
    em_membranes   tissue under an electron microscope        1 cell, 0 membrane
    abdomen_ct     a CT slice of the abdomen, in HU           organs and a tumour
    write_cells    a folder of cells as PNG files             what `medseg demo` uses

Each image is drawn as what is there, in exact shapes; the labels are read off at
this point. Only then come the optics and the noise. So the labels are exact where an
annotator could only guess, and the same seed gives the same picture.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from skimage.io import imsave

Array = NDArray[Any]


class Phantom(NamedTuple):
    """An image, and what is in it."""

    image: Array  # (H, W), uint8 or, for CT, float32 in HU
    labels: NDArray[np.int32]  # (H, W), class indices or instance numbers
    spacing: tuple[float, float] | None  # mm along H and W; None where unknown
    names: tuple[str, ...]  # names[label] for classes; empty for instances


# HU without contrast medium, and in the portal venous phase.
ABDOMEN_HU: dict[str, tuple[float, float]] = {
    "liver": (55, 110),
    "tumour": (40, 65),
    "spleen": (48, 120),
    "kidney": (32, 180),
    "aorta": (42, 150),
    "spine": (160, 180),
    "vena cava": (40, 130),
    "portal vein": (40, 155),
    "pancreas": (40, 95),
    "bowel wall": (40, 90),
    "muscle": (50, 60),
}


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
    _check_size(size)
    _check_range("contrast", contrast, 0.01, 0.9)
    _check_range("touching", touching, 0, 1)
    _check_range("illumination", illumination, 0, 1)
    _check_range("noise", noise, 0, 1)
    _check_range("blur", blur, 0, 20)
    _check_range("radius", radius[0], 2, radius[1])
    _check_count("num_cells", num_cells)
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

    chromatin = np.exp(0.18 * _smooth_noise(rng, labels.shape, 1.5))
    light *= contrast * chromatin
    haze = ndimage.gaussian_filter(light, 15)  # from above and below the focus
    light = ndimage.gaussian_filter(light, blur) + 0.3 * haze + 0.05
    inside = (slice(pad, -pad), slice(pad, -pad))
    light = light[inside] * _vignette(rng, size, illumination)
    if noise:
        photons = 1 / noise**2  # at full brightness
        light = rng.poisson(light * photons) / photons
        light = light + noise / 3 * rng.standard_normal(size)
    return Phantom(_to_uint8(light), labels[inside].copy(), None, ())


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
    _check_size(size)
    _check_range("noise", noise, 0, 1)
    _check_range("contrast", contrast, 0.01, 0.5)
    _check_range("thickness", thickness[0], 2, thickness[1])
    if num_cells is None:
        num_cells = max(2, round(size[0] * size[1] / 45**2))
    _check_count("num_cells", num_cells, least=2)
    rng = np.random.default_rng(seed)

    # Cells on a grid of half the resolution: the nearest of a few circles, on a warped
    # plane. Distances to their borders are then enlarged, which keeps them smooth.
    half = (-(-size[0] // 2), -(-size[1] // 2))
    plane = np.mgrid[: half[0], : half[1]].astype(np.float32)
    plane += np.stack([5 * _smooth_noise(rng, half, 12) for _ in range(2)])
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
    depth = 2 * _enlarge(depth_half, 1)[crop]  # pixels from the middle of a membrane

    thin, thick = thickness
    swing = np.clip(0.5 + 0.35 * _smooth_noise(rng, size, 8), 0, 1)
    width = thin + (thick - thin) * swing
    # Surface tension: blurred and cut at one half, corners become round.
    cell = (depth > width / 2 - 0.06).astype(np.float32)
    interior = ndimage.gaussian_filter(cell, 1.2) > 0.5

    grey = (0.5 + 0.035 * rng.standard_normal(num_cells))[owner]
    tissue = _enlarge(grey.astype(np.float32), 0)[crop]
    tissue += 0.03 * _smooth_noise(rng, size, 4)
    _draw_mitochondria(rng, tissue, depth_half, owner)
    tissue -= 0.16 * _vesicles(rng, size, interior & (depth > 6))
    tissue[~interior] = tissue[~interior].clip(0.45) - contrast
    tissue = ndimage.gaussian_filter(tissue, 0.8)
    tissue += 0.03 * _smooth_noise(rng, size, 40)  # uneven stain
    grain = _smooth_noise(rng, size, 0.7) + _smooth_noise(rng, size, 1.3)
    tissue += noise / np.sqrt(2) * grain
    return Phantom(
        _to_uint8(tissue), interior.astype(np.int32), (4e-6, 4e-6), ("membrane", "cell")
    )


def abdomen_ct(
    size: tuple[int, int] = (256, 256),
    *,
    seed: int = 0,
    noise_hu: float = 12.0,
    contrast: float = 1.0,
    tumour: bool = True,
) -> Phantom:
    """An axial CT slice of the upper abdomen, in Hounsfield units.

    Seen from the feet, as radiologists do: the patient's right is on the image's left,
    and so is the liver; the spine is at the bottom. The image shows 380 x 380 mm.
    Window it to look at it: ``plots.overlay(ax, image, window=(400, 40))``.

    Args:
        size: Height and width in pixels, each 16 or more.
        seed: The same seed gives the same patient: sizes and places of the organs, and
            the noise.
        noise_hu: Standard deviation of the noise in HU. It is correlated between
            neighbours, as the reconstruction leaves it.
        contrast: Contrast medium: 0 for none, 1 for the portal venous phase, where
            organs have the values of ``ABDOMEN_HU``. Without it the tumour is
            15 HU darker than the liver; with it, 45 HU.
        tumour: Whether there is a tumour in the liver, of 9 to 20 mm radius.

    Returns:
        ``image`` ``(H, W)`` float32 in HU; ``labels`` ``(H, W)`` int32; ``spacing`` in
        mm; ``names`` of the labels. Label 0 is all that has no name of its own: air,
        fat, muscle, bowel. The liver's vessels count as liver, and the fat in the
        middle of a kidney does not count as kidney.

    Raises:
        ValueError: A number is out of its range.

    Source:
        Without contrast medium buzug2008ct; the enhancement of the liver, 56 HU in
        the portal phase, naruo2007liver; of the kidney goshima2007kidney. The other
        values are typical ones.

    Example:
        >>> phantom = abdomen_ct((64, 64))
        >>> phantom.names[1:3], phantom.spacing
        (('liver', 'tumour'), (5.9375, 5.9375))
    """
    _check_size(size)
    _check_range("noise_hu", noise_hu, 0, 1000)
    _check_range("contrast", contrast, 0, 2)
    # Two streams, so that the patient is the same at any resolution.
    anatomy, rng = np.random.default_rng(seed).spawn(2)
    spacing = (_FIELD_MM / size[0], _FIELD_MM / size[1])
    mottle = _smooth_noise(rng, size, 4 / min(spacing))
    hu, labels = _draw_abdomen(anatomy, mottle, spacing, contrast, tumour)

    blur = [0.9 / step for step in spacing]  # the reconstruction kernel, 0.9 mm
    image = ndimage.gaussian_filter(hu, blur)
    grain = rng.standard_normal(size)
    # Filtered backprojection lets no slow noise through: a difference of two blurs.
    grain = ndimage.gaussian_filter(grain, 0.6) - ndimage.gaussian_filter(grain, 2.0)
    image += noise_hu * grain / grain.std()
    return Phantom(
        image.clip(-1024).astype(np.float32), labels, spacing, _ABDOMEN_NAMES
    )


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
    _check_count("count", count)
    _check_size(size)
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
    return _blob(
        grid[0] - offset[0],
        grid[1] - offset[1],
        r * aspect**0.5,
        r / aspect**0.5,
        angle=rng.uniform(0, np.pi),
        wobble=_wobble(rng, 0.04),
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
        rho = _blob(y, x, long, 0.6 * long, angle=angle, wobble=_wobble(rng, 0.05))
        cristae = np.sin((x * np.sin(angle) + y * np.cos(angle)) * 1.1 + 0.15 * y)
        dark = 0.14 + 0.05 * cristae + 0.08 * (rho > 0.85)
        part[rho < 1] -= dark[rho < 1]


def _vesicles(rng: Generator, size: tuple[int, int], where: Array) -> Array:
    """Rings some five pixels across, in clusters, 1 at their darkest."""
    crowded = np.clip(_smooth_noise(rng, size, 15), 0, None)
    dots = (rng.random(size) < 0.006 * crowded) & where
    points = dots.astype(np.float32)
    ring = ndimage.gaussian_filter(points, 2) - ndimage.gaussian_filter(points, 1.1) / 2
    return (60 * ring).clip(-0.5, 1)


# What the abdomen is made of. x and y in mm from the middle of the image: x grows to
# the patient's left, y to the back.

_FIELD_MM = 380.0
_ABDOMEN_NAMES = (
    "background",
    "liver",
    "tumour",
    "spleen",
    "left kidney",
    "right kidney",
    "aorta",
    "spine",
)


class _Slice:
    """An abdomen under the brush: HU and labels before blur and noise."""

    def __init__(
        self, rng: Generator, size: tuple[int, ...], spacing: tuple[float, float]
    ) -> None:
        self.rng, self.spacing = rng, spacing
        rows, columns = (
            (np.arange(n, dtype=np.float32) - (n - 1) / 2) * step
            for n, step in zip(size, spacing, strict=True)
        )
        self.stretch = rng.uniform(0.94, 1.05, 2)  # a smaller or larger patient
        self.y, self.x = np.meshgrid(
            rows / self.stretch[0], columns / self.stretch[1], indexing="ij"
        )
        self.hu = np.full(size, -1000.0, np.float32)
        self.labels = np.zeros(size, np.int32)

    def blob(
        self,
        cx: float,
        cy: float,
        rx: float,
        ry: float,
        turn: float = 0,
        wave: float = 0,
    ) -> Array:
        """1 on the outline of a blob, less inside; its place and size vary a little."""
        cx, cy = self.rng.normal((cx, cy), 1.0)
        rx, ry = (rx, ry) * self.rng.uniform(0.95, 1.05, 2)
        waves = _wobble(self.rng, wave) if wave else None
        rho = np.full(self.hu.shape, 9.0, np.float32)  # far outside: not computed
        reach = 1.5 * max(rx, ry) + max(self.spacing)
        box = (
            slice(*np.searchsorted(self.y[:, 0], (cy - reach, cy + reach))),
            slice(*np.searchsorted(self.x[0], (cx - reach, cx + reach))),
        )
        y, x = self.y[box] - cy, self.x[box] - cx
        rho[box] = _blob(y, x, ry, rx, angle=np.deg2rad(turn), wobble=waves)
        return rho

    def paint(self, where: Array, hu: Any, name: str = "background") -> None:
        """Set HU, a number or a map, and the label where the mask is true."""
        self.hu[where] = np.broadcast_to(hu, where.shape)[where]
        self.labels[where] = _ABDOMEN_NAMES.index(name)


def _draw_abdomen(
    rng: Generator,
    mottle: Array,
    spacing: tuple[float, float],
    contrast: float,
    tumour: bool,
) -> tuple[Array, NDArray[np.int32]]:
    """HU and labels before blur and noise: each organ painted over the ones before."""
    level = {
        name: native + contrast * (portal - native) + 2 * rng.standard_normal()
        for name, (native, portal) in ABDOMEN_HU.items()
    }
    piece = _Slice(rng, mottle.shape, spacing)
    cavity = _draw_trunk(piece, level, mottle)
    _draw_bowel(piece, level, cavity, mottle)
    _draw_spleen_and_stomach(piece, level, cavity)
    _draw_liver(piece, level, cavity)
    _draw_kidneys(piece, level)
    _draw_spine_and_vessels(piece, level)
    if tumour:
        _draw_tumour(piece, level)
    soft = piece.hu > 0
    piece.hu[soft] += 3 * mottle[soft]  # no tissue is quite even
    return piece.hu, piece.labels


def _draw_trunk(s: _Slice, level: dict[str, float], mottle: Array) -> Array:
    """Table, skin, fat, wall, ribs and muscles of the back; returns the cavity."""
    x, y = s.x, s.y
    s.paint((np.abs(x) < 185) & (np.abs(y - 138 + 0.0011 * x**2) < 2), -60)
    furrow = y + 7 * np.exp(-((x / 10) ** 2)) * (y > 0)  # over the spine
    power = np.where(y > 0, 2.5, 2.1)  # flatter behind than in front

    def ring(rx: float, ry: float) -> Array:
        return np.abs(x / rx) ** power + np.abs(furrow / ry) ** power

    fat = s.rng.uniform(8, 16)  # mm under the skin
    s.paint(ring(164, 120) < 1, 20)
    s.paint(ring(162, 118) < 1, -105 + 4 * mottle)
    s.paint(ring(164 - fat, 120 - fat) < 1, level["muscle"])
    s.paint(np.abs(ring(158 - fat, 114 - fat) - 1) < 0.012, -70)  # between its layers
    inner = ring(152 - fat, 109 - fat)
    cavity = inner < 1
    s.paint(cavity, -98 + 6 * mottle)
    for side in (-1, 1):
        for turn in (-40, -14, 10, 30, 50):  # ribs, cut obliquely: shell and marrow
            at = np.deg2rad(turn + s.rng.normal(0, 3))
            cx, cy = (156 - fat) * np.cos(at), (110 - fat) * np.sin(at)
            tilt = np.rad2deg(np.arctan2(cx * 110**2, -cy * 156**2))
            rib = s.blob(side * cx, cy, s.rng.uniform(7, 12), 4, side * tilt)
            shell, marrow = (350, 150) if turn > -30 else (130, 90)  # or cartilage
            s.paint(rib < 1, shell)
            s.paint(rib < 0.55, marrow)
        back = s.blob(side * 38, 83, 32, 20, side * -12, 0.03)
        s.paint((back < 1.07) & (s.hu > 0), -60)
        s.paint(back < 1, level["muscle"])
        s.paint(s.blob(side * 31, 47, 11, 17, side * -15, 0.04) < 1, level["muscle"])
        s.paint(s.blob(side * 17, 16, 5, 14, side * -15) < 1, level["muscle"])
    return (inner < 0.97) & (s.hu < 0)


def _draw_bowel(
    s: _Slice, level: dict[str, float], cavity: Array, mottle: Array
) -> None:
    """Pancreas, loops of the small bowel, and the colon with its gas."""
    s.paint(
        (s.blob(24, -20, 44, 9, -14, 0.08) < 1) & cavity,
        level["pancreas"] - 10 + 9 * mottle,
    )
    s.paint(
        (s.blob(-22, -14, 15, 13, 0, 0.08) < 1) & cavity, level["pancreas"] + 6 * mottle
    )
    for cx, cy, r in ((48, -2, 12), (72, -10, 13), (30, -46, 10), (62, 8, 9)):
        loop = s.blob(cx, cy, r * s.rng.uniform(1, 1.4), r, s.rng.uniform(0, 180), 0.06)
        s.paint((loop < 1) & cavity, level["bowel wall"])
        s.paint((loop < 0.75) & cavity, 20 + 8 * mottle)
    colon = s.blob(112, -26, 24, 21, 20, 0.05)
    s.paint((colon < 1) & cavity, level["bowel wall"])
    s.paint((colon < 0.88) & cavity, np.where(mottle > 0.1, -750, -40))  # gas in stool


def _draw_spleen_and_stomach(s: _Slice, level: dict[str, float], cavity: Array) -> None:
    hollow = s.blob(84, 22, 20, 40, -22) > 1  # towards the stomach and the kidney
    spleen = (s.blob(114, 24, 28, 52, -18, 0.03) < 1) & hollow & cavity
    s.paint(spleen, level["spleen"], "spleen")
    stomach = s.blob(66, -62, 52, 27, 14, 0.04)
    s.paint((stomach < 1.06) & cavity, -95)
    s.paint((stomach < 1) & cavity, level["bowel wall"])
    lumen = (stomach < 0.87) & cavity
    s.paint(lumen, 22)
    s.paint(lumen & (s.y < s.rng.normal(-63, 5)), -960)  # gas rises to the front


def _draw_liver(s: _Slice, level: dict[str, float], cavity: Array) -> None:
    right = s.blob(-100, -10, 50, 84, 8, 0.03)
    left = s.blob(-42, -70, 66, 30, 8, 0.03)
    joined = -np.log(np.exp(-9 * right) + np.exp(-9 * left)) / 9  # a soft minimum
    liver = (joined < 1) & cavity
    fissure = s.blob(-22, -52, 2.5, 22, -18) < 1
    liver &= ~fissure
    s.paint(liver, level["liver"], "liver")
    # Veins: a few curved branches from the hilum, each thinner towards its end.
    t = np.linspace(0, 1, 20)[:, None]
    veins = np.zeros_like(liver)
    x, y = s.x[liver][:, None], s.y[liver][:, None]
    for _ in range(6):
        start = s.rng.normal((-62, -22), 8)
        end = s.rng.normal((-105, -20), (24, 46))
        bend = s.rng.normal((start + end) / 2, 18)
        path = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        path = path.astype(np.float32)
        width = np.linspace(s.rng.uniform(2.5, 4.5), 1, len(path), dtype=np.float32)
        near = (x - path[:, 0]) ** 2 + (y - path[:, 1]) ** 2 < width**2
        veins[liver] |= near.any(axis=1)
    s.paint(veins, level["portal vein"], "liver")
    gallbladder = s.blob(-56, -30, 13, 20, 25)
    s.paint(gallbladder < 1.12, level["bowel wall"])
    s.paint(gallbladder < 1, 8)


def _draw_kidneys(s: _Slice, level: dict[str, float]) -> None:
    for side, name in ((1, "left kidney"), (-1, "right kidney")):
        cx, cy, turn = side * 64, 46 + s.rng.normal(0, 2), side * 24
        fat = s.blob(cx, cy, 34, 40, turn, 0.03) < 1
        s.paint(fat, -100)
        kidney = s.blob(cx, cy, 25, 31, turn, 0.025)
        inside = kidney < 1
        # Pyramids are darker than the cortex between and around them.
        turns = np.arctan2(s.y[inside] - cy, s.x[inside] - cx)
        pyramids = (np.cos(9 * turns) > 0) & (kidney[inside] < 0.78)
        s.paint(inside, level["kidney"], name)
        s.hu[inside] += np.where(pyramids, -12, 8)
        sinus = s.blob(cx - side * 14, cy - 4, 16, 11, -turn, 0.1) < 1
        s.paint(sinus & fat, -80)
        s.paint(s.blob(cx - side * 13, cy - 5, 5, 3.5, turn) < 1, 10)  # renal pelvis


def _draw_spine_and_vessels(s: _Slice, level: dict[str, float]) -> None:
    body = s.blob(0, 41, 23, 19, 0, 0.02)
    arch = s.blob(0, 68, 17, 15) < 1
    process = np.abs(s.x) < 3.5 - 0.03 * (s.y - 70)
    process &= (s.y > 70) & (s.y < 100)
    wings = (s.blob(-27, 62, 18, 4.5, 20) < 1) | (s.blob(27, 62, 18, 4.5, -20) < 1)
    for bone in (wings, process, arch):
        s.paint(bone, 380, "spine")
    s.paint(body < 1, 420, "spine")
    s.paint(body < 0.9, level["spine"], "spine")
    s.paint(s.blob(0, 66, 10, 9) < 1, 25)  # the canal
    s.paint(s.blob(11, 8, 11, 11) < 1, level["aorta"], "aorta")
    s.paint(s.blob(-20, 6, 14, 9, -15) < 1, level["vena cava"])
    s.paint(s.blob(5, -10, 4.5, 4.5) < 1, level["aorta"])  # superior mesenteric artery
    s.paint(s.blob(-9, -14, 7, 7) < 1, level["portal vein"])


def _draw_tumour(s: _Slice, level: dict[str, float]) -> None:
    liver = s.labels == _ABDOMEN_NAMES.index("liver")
    depth = ndimage.distance_transform_edt(liver, sampling=s.spacing)
    radius = min(s.rng.uniform(9, 20), 0.85 * depth.max())
    places = np.argwhere(depth >= radius)
    cy, cx = places[int(s.rng.random() * len(places))]
    y, x = (s.y - s.y[cy, cx]) * s.stretch[0], (s.x - s.x[cy, cx]) * s.stretch[1]
    rho = _blob(y, x, radius, radius, wobble=_wobble(s.rng, 0.07))
    s.paint((rho < 1) & liver, level["tumour"], "tumour")


# The brushes.


def _blob(
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


def _wobble(rng: Generator, height: float) -> Array:
    """Height and phase of the waves with 2 to 5 periods around an outline."""
    heights = height * rng.standard_normal(4).clip(-2, 2) / np.sqrt([1, 1.5, 2, 2.5])
    return np.stack([heights, rng.uniform(0, 2 * np.pi, 4)], axis=1)


def _smooth_noise(rng: Generator, size: tuple[int, ...], scale: float) -> Array:
    """Gaussian noise of unit variance that varies over ``scale`` pixels."""
    step = max(1, int(scale / 2))  # slow noise needs no fine grid
    coarse = [-(-n // step) + 1 for n in size]
    noise = rng.standard_normal(coarse, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, scale / step, mode="reflect")
    noise = _enlarge(noise, 1, step)[tuple(slice(n) for n in size)]
    return noise / max(float(noise.std()), 1e-6)


def _enlarge(values: Array, order: int, factor: int = 2) -> Array:
    return ndimage.zoom(values, factor, order=order, mode="nearest", grid_mode=True)


def _to_uint8(light: Array) -> NDArray[np.uint8]:
    return np.rint(255 * light.clip(0, 1)).astype(np.uint8)


# The door.


def _check_size(size: tuple[int, int]) -> None:
    if len(size) != 2 or not all(int(n) == n and n >= 16 for n in size):
        raise ValueError(
            f"size must be (height, width) in whole pixels, each 16 or more, got "
            f"{size}."
        )


def _check_count(name: str, value: int, least: int = 1) -> None:
    if int(value) != value or value < least:
        raise ValueError(
            f"{name} must be a whole number, {least} or more, got {value}."
        )


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, got {value}.")
