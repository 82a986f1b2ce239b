"""CT of the chest: lungs with vessels, and nodules among them."""

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from medseg.phantoms._brushes import Scene
from medseg.phantoms._phantom import Phantom, check_count, check_range, check_size
from medseg.phantoms._scanner import ray_artefacts

Array = NDArray[Any]

CHEST_HU: dict[str, float] = {
    "lung": -860,
    "solid nodule": 40,
    "vessel": 40,
    "muscle": 50,
    "fat": -100,
    "blood": 45,
    "bone": 300,
}
_NAMES = ("background", "lung", "nodule")
_FIELD = (256.0, 340.0, 340.0)  # mm
_LUNG, _NODULE = 1, 2


def lung_nodules(
    size: tuple[int, ...] = (128, 192, 192),
    *,
    seed: int = 0,
    num_nodules: int = 5,
    diameter: tuple[float, float] = (6.0, 24.0),
    noise_hu: float = 25.0,
    contrast: float = 1.0,
    artefacts: float = 0.0,
    blur: float = 0.8,
    vessels: int = 60,
) -> Phantom:
    """CT of the chest with round nodules in the lungs, in Hounsfield units.

    Vessels have the density of nodules, and in one slice their form: only the third
    dimension tells them apart, as in life. What is simple about it: nodules are balls
    of one density, vessels straight pieces that fork, and there is no airway.

    Args:
        size: ``(D, H, W)``, or ``(H, W)`` for the slice through the largest nodule;
            each 16 or more. The field is 256 x 340 x 340 mm.
        seed: The same seed gives the same patient, at any size.
        num_nodules: How many, exactly, at most 20; 0 for a healthy patient.
        diameter: Smallest and largest diameter in mm, 2 to 40; drawn evenly.
        noise_hu: Standard deviation of the noise in HU.
        contrast: 1 for solid nodules, 40 HU; less makes them fainter, as ground glass:
            0 is no denser than the lung, 0.3 has -590 HU.
        artefacts: Streaks from rays with few photons and through bone, 0 to 1.
        blur: Standard deviation of the reconstruction in mm.
        vessels: How many branches leave each lung's hilum, 0 or more.

    Returns:
        ``image`` float32 in HU; ``labels`` int32: 1 lung (with its vessels), 2 nodule;
        ``spacing`` in mm. ``facts``: ``nodules``, a list by falling diameter of
        ``number``, ``diameter_mm``, ``volume_ml``, ``centre_mm`` (z, y, x from the
        middle of the image) and ``centre_voxel``; ``instances``, int32 like the labels:
        the number of the nodule in each voxel, 0 elsewhere.

    Raises:
        ValueError: A number is out of its range, or so many nodules do not fit.

    Example:
        >>> phantom = lung_nodules((32, 32, 32), num_nodules=3)
        >>> [nodule["number"] for nodule in phantom.facts["nodules"]]
        [1, 2, 3]
    """
    check_size(size, (2, 3))
    check_range("diameter", diameter[0], 2, diameter[1])
    check_range("diameter", diameter[1], 2, 40)
    check_count("num_nodules", num_nodules, least=0)
    check_range("num_nodules", num_nodules, 0, 20)
    check_count("vessels", vessels, least=0)
    check_range("noise_hu", noise_hu, 0, 1000)
    check_range("contrast", contrast, 0, 1)
    check_range("artefacts", artefacts, 0, 10)
    check_range("blur", blur, 0, 20)
    anatomy, tree, grain, beam = np.random.default_rng(seed).spawn(4)

    stretch = anatomy.uniform(0.95, 1.05, 3)
    nodules = _place_nodules(anatomy, num_nodules, diameter, stretch)
    plane = nodules[0]["centre_mm"][0] if nodules else 0.0
    s = Scene(size, _FIELD, plane=plane, ground=-1000)
    _draw_chest(s, stretch)
    _draw_vessels(s, tree, vessels, stretch)
    instances = np.zeros(s.size, np.int32)
    level = CHEST_HU["lung"] + contrast * (CHEST_HU["solid nodule"] - CHEST_HU["lung"])
    for nodule in nodules:
        centre = nodule["centre_mm"]
        at, rho = s.ball(centre, [nodule["diameter_mm"] / 2] * 3)
        s.paint(at, rho < 1, level, _NODULE)
        instances[at][rho < 1] = nodule["number"]
        middle = [
            (c + length / 2) / step - 0.5
            for c, length, step in zip(
                centre[-len(size) :], _FIELD[-len(size) :], s.spacing, strict=True
            )
        ]
        nodule["centre_voxel"] = tuple(float(m) for m in middle)

    image = s.values
    if blur:
        widths = [blur / step for step in s.spacing]
        image = ndimage.gaussian_filter(image, [0.0] * (3 - len(size)) + widths)
    if noise_hu:
        noise = grain.standard_normal(s.size, np.float32)
        noise = ndimage.gaussian_filter(noise, (0, 0.5, 0.5), truncate=3)
        image = image + np.float32(noise_hu / noise[:8].std()) * noise
    if artefacts:
        image = image + ray_artefacts(s.values, s.spacing, artefacts, beam)
    return Phantom(
        s.squeezed(np.maximum(image, -1024)),
        s.squeezed(s.labels).astype(np.int32),
        s.spacing,
        _NAMES,
        {"nodules": nodules, "instances": s.squeezed(instances)},
    )


def _lung_shape(
    z: Any, y: Any, x: Any, stretch: Array, margin: float = 0.0
) -> tuple[Any, Any]:
    """Two maps, right and left lung: below 1 is inside, ``margin`` mm from the wall."""
    z, y, x = (
        c / np.float32(scale) for c, scale in zip((z, y, x), stretch, strict=True)
    )
    lungs = []
    for side, dome in ((-1, -62.0), (1, -74.0)):
        u = x - side * 72
        top = ((z + 30) / (140 - margin)) ** 2 * (z > -30)
        # Narrow towards the apex, and hollow where the heart lies.
        body = (u / (54 - margin)) ** 2 + ((y - 4) / (88 - margin)) ** 2 + top
        below = dome - (u**2 + (y - 20) ** 2) / 95 + margin
        body = np.where(z < below, 9.0, body)
        if side > 0:
            heart = ((x - 34) / (56 + margin)) ** 2 + ((y + 28) / (48 + margin)) ** 2
            heart = heart + ((z + 40) / (58 + margin)) ** 2
            body = np.where(heart < 1, 9.0, body)
        lungs.append(body)
    return lungs[0], lungs[1]


def _place_nodules(
    rng: Generator, count: int, diameter: tuple[float, float], stretch: Array
) -> list[dict[str, Any]]:
    """Balls within the lungs and apart from each other, largest first."""
    nodules: list[dict[str, Any]] = []
    for size in sorted(rng.uniform(*diameter, count), reverse=True):
        for _ in range(500):
            place = rng.uniform((-90, -80, -125), (95, 85, 125))
            margin = size / 2 + 3
            if min(_lung_shape(place[0], place[1], place[2], stretch, margin)) >= 1:
                continue
            if all(
                np.linalg.norm(place - other["centre_mm"])
                > (size + other["diameter_mm"]) / 2 + 5
                for other in nodules
            ):
                break
        else:
            raise ValueError(
                f"{count} nodules of {diameter[0]:g} to {diameter[1]:g} mm do not fit "
                "into the lungs. Ask for fewer or smaller ones."
            )
        nodules.append(
            {
                "number": len(nodules) + 1,
                "diameter_mm": float(size),
                "volume_ml": float(np.pi / 6 * size**3 / 1000),
                "centre_mm": tuple(place.tolist()),
            }
        )
    return nodules


def _draw_chest(s: Scene, stretch: Array) -> None:
    hu = CHEST_HU
    y, x, z = s.y / stretch[1], s.x / stretch[2], s.z

    def ring(rx: float, ry: float) -> Array:
        return (np.abs(x / rx) ** 2.4 + np.abs(y / ry) ** 2.4)[0]

    s.values[np.broadcast_to((np.abs(x) < 165) & (np.abs(y - 128) < 2), s.size)] = -60
    profile = np.full(s.size[1:], -1000, np.float32)
    for rx, ry, value in (
        (162, 116, 20.0),
        (160, 114, hu["fat"]),
        (150, 104, hu["muscle"]),
        (134, 97, 30.0),
    ):
        profile[ring(rx, ry) < 1] = value
    body = profile > -999
    s.values[:, body] = profile[body]
    turn = ((z - np.float32(0.5) * y) / 26) % 1
    wall = np.abs(ring(140, 100) - 1) < 0.07
    ribs = (np.abs(turn - 0.5) < 0.18) & wall & (np.abs(x) > 20)
    s.values[ribs] = hu["bone"]

    right, left = _lung_shape(s.z, s.y, s.x, stretch)
    lung = (right < 1) | (left < 1)
    s.values[lung] = hu["lung"]
    s.labels[lung] = _LUNG
    spine = np.hypot(x / 21, (y - 72) / 17)
    disc = (z % 30) < 5
    bone = np.broadcast_to(spine < 1, s.size) & ~disc
    for where, value in (
        (bone, 380.0),
        (bone & (spine < 0.88), 170.0),
        (np.broadcast_to(np.hypot(x, y - 94) < 8, s.size), 25.0),
        ((np.abs(x) < 10) & (np.abs(y + 94) < 5) & (z > -50), 250.0),  # sternum
    ):
        s.values[where] = value
        s.labels[where] = 0
    for points, radius, value in (
        (
            [(-128, 48, 18), (50, 48, 18), (66, 30, 10), (62, 0, 2), (0, -10, 0.0)],
            12,
            45,
        ),
        ([(128, 22, 0), (26, 22, 0), (4, 24, -26), (-12, 26, -38.0)], 8, -1000),
        ([(26, 22, 0), (2, 24, 28), (-10, 26, 38.0)], 7, -1000),  # windpipe
    ):
        line = np.array(points)
        s.tube(line, np.full(len(line), float(radius)), float(value))


def _draw_vessels(s: Scene, rng: Generator, count: int, stretch: Array) -> None:
    """Branches from both hila outwards, which fork and grow thinner."""
    for side in (-1, 1):
        hilum = np.array((0, 18, side * 34.0))
        for _ in range(count):
            end = rng.uniform((-95, -75, 25), (80, 75, 122)) * (1, 1, side)
            points = np.linspace(hilum, end, 5)
            points[1:-1] += rng.normal(0, 7, (3, 3))
            thick = rng.uniform(1.5, 4.5)
            radii = np.linspace(thick, 0.7, 5)
            s.tube(points, radii, CHEST_HU["vessel"], _LUNG, inside=_LUNG)
            for start in (2, 3):
                tip = points[start] + rng.normal(0, 22, 3)
                fork = np.linspace(points[start], tip, 3)
                thin = np.linspace(0.8 * radii[start], 0.6, 3)
                s.tube(fork, thin, CHEST_HU["vessel"], _LUNG, inside=_LUNG)
