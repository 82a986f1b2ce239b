"""CT of the abdomen in three dimensions."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from medseg.phantoms._brushes import Scene, waves_in_space
from medseg.phantoms._phantom import Phantom
from medseg.phantoms._scanner import ray_artefacts

Array = NDArray[Any]

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
ABDOMEN_NAMES = (
    "background",
    "liver",
    "tumour",
    "spleen",
    "left kidney",
    "right kidney",
    "aorta",
    "spine",
)
_FIELD = (240.0, 380.0, 380.0)  # mm
_MODEL_SIZE = (60, 95, 95)  # voxels of 4 mm
_LIVER, _TUMOUR, _SPLEEN, _LEFT, _RIGHT, _AORTA, _SPINE = range(1, 8)


def abdomen_volume(
    size: tuple[int, ...],
    seed: int,
    noise_hu: float,
    contrast: float,
    artefacts: float,
    num_tumours: int,
) -> Phantom:
    """The volume of :func:`medseg.phantoms.abdomen_ct`; arguments are checked there."""
    anatomy, grain, beam, growth = np.random.default_rng(seed).spawn(4)
    level = {
        name: np.float32(native + contrast * (portal - native))
        for name, (native, portal) in ABDOMEN_HU.items()
    }
    # The tumours' places come from a body of one resolution, whatever the size.
    start = anatomy.bit_generator.state
    tumours = []
    if num_tumours:
        model = _draw_body(_MODEL_SIZE, anatomy, level)
        tumours = _place_tumours(model, growth, num_tumours)
        anatomy.bit_generator.state = start
    s = _draw_body(size, anatomy, level)
    for tumour in tumours:
        at, rho = s.ball(tumour["centre_mm"], tumour["radii_mm"])
        s.paint(at, rho < 1, level["tumour"], _TUMOUR)

    widths = [0.9 / step for step in s.spacing]  # the reconstruction kernel, 0.9 mm
    image = ndimage.gaussian_filter(s.values, widths, truncate=3)
    if noise_hu:
        noise = grain.standard_normal(s.size, np.float32)
        flat = (0, 1, 1)  # slices are reconstructed one by one
        wide = ndimage.gaussian_filter(noise, np.multiply(flat, 2.0), truncate=3)
        noise = ndimage.gaussian_filter(noise, np.multiply(flat, 0.6), truncate=3)
        noise -= wide
        image += np.float32(noise_hu) * noise / noise[::4].std()
    if artefacts:
        image += ray_artefacts(s.values, s.spacing, artefacts, beam)
    np.maximum(image, -1024, out=image)
    labels = s.labels.astype(np.int32)
    return Phantom(image, labels, s.spacing, ABDOMEN_NAMES, {"tumours": tumours})


def _draw_body(size: tuple[int, ...], rng: Generator, level: dict[str, Any]) -> Scene:
    """Everything but tumours: each organ painted over the ones before."""
    s = Scene(size, _FIELD, ground=-1000)
    cavity, under = _draw_trunk(s, rng, level)
    _draw_bowel(s, rng, level, cavity)
    _draw_upper_organs(s, rng, level, cavity, under)
    _draw_kidneys(s, rng, level)
    _draw_spine_and_vessels(s, rng, level)
    return s


def _draw_trunk(s: Scene, rng: Generator, level: dict[str, Any]) -> tuple[Array, Array]:
    """Skin, fat, muscles, ribs, lungs; the cavity, and what is under the diaphragm."""
    stretch = rng.uniform(0.95, 1.04, 2).astype(np.float32)
    x, y, z = s.x / stretch[0], s.y / stretch[1], s.z
    s.values[np.broadcast_to((np.abs(x) < 185) & (np.abs(y - 138) < 2), s.size)] = -60
    furrow = y + 7 * np.exp(-((x / 10) ** 2)) * (y > 0)  # over the spine

    def ring(rx: float, ry: float) -> Array:  # one slice: the trunk is a cylinder
        power = np.where(y > 0, 2.5, 2.1)
        return (np.abs(x / rx) ** power + np.abs(furrow / ry) ** power)[0]

    fat = rng.uniform(8, 16)
    skin, inner = ring(164, 120), ring(152 - fat, 109 - fat)
    profile = np.full(skin.shape, -1000, np.float32)
    profile[skin < 1] = 20
    profile[ring(162, 118) < 1] = -105
    profile[ring(164 - fat, 120 - fat) < 1] = level["muscle"]
    profile[np.abs(ring(158 - fat, 114 - fat) - 1) < 0.012] = -70
    profile[inner < 1] = -98
    for side in (-1, 1):
        for cx, cy, rx, ry in ((38, 83, 30, 19), (31, 47, 11, 17)):  # back, psoas
            muscle = ((x - side * cx) / rx) ** 2 + ((y - cy) / ry) ** 2
            profile[muscle[0] < 1] = level["muscle"]
    body = profile > -999
    s.values[:, body] = profile[body]

    # Ribs: rings in the wall, higher behind than in front.
    wall = np.abs(ring(155 - fat, 112 - fat) - 1) < 0.06
    turn = ((z - np.float32(0.55) * y) / 27) % 1
    ribs = (np.abs(turn - 0.5) < 0.17) & (z - np.float32(0.55) * y > -75)
    ribs = ribs & wall & (np.abs(x) > 34)
    s.values[ribs & (y > -60)] = 330
    s.values[ribs & (y <= -60)] = 130  # cartilage

    right = 92 - ((x + 72) ** 2 + (y + 5) ** 2) / 95
    left = 80 - ((x - 72) ** 2 + (y + 5) ** 2) / 95
    dome = np.maximum(right, left)
    cavity = (inner < 0.97) & (profile < 0)
    above = (z > dome) & cavity
    s.values[above] = -860  # lung
    s.values[(z > dome - 4) & ~above & cavity & (z < dome)] = level["muscle"]
    at, heart = s.ball((118, -40, 22), (42, 42, 55), turn=25)
    s.paint(at, (heart < 1) & (s.z[at[0]] > dome[:, at[1], at[2]]), level["aorta"])
    return cavity[None], s.z < dome - 4


def _draw_bowel(s: Scene, rng: Generator, level: dict[str, Any], cavity: Array) -> None:
    """Loops of the small bowel, and the colon with its gas."""
    for _ in range(46):
        centre = rng.uniform((-118, -72, -90), (-12, 10, 95))
        radii = rng.uniform(9, 14) * rng.uniform((1, 1, 1), (1.6, 1.2, 1.9))
        at, rho = s.ball(centre, radii, turn=rng.uniform(0, 180))
        room = np.broadcast_to(cavity[:, at[1], at[2]], rho.shape)
        s.paint(at, (rho < 1) & room, level["bowel wall"])
        s.paint(at, (rho < 0.8) & room, 18)
    for side in (-1, 1):
        colon = np.array([(-130, 10, 112), (-60, 0, 116), (-22, -30, 104.0)])
        colon *= (1, 1, side)
        for a, b in pairwise(colon):
            for t in np.linspace(0, 1, 5):
                at, rho = s.ball(a + t * (b - a), (15, 19, 20))
                room = np.broadcast_to(cavity[:, at[1], at[2]], rho.shape)
                s.paint(at, (rho < 1) & room, level["bowel wall"])
                high = s.y[:, at[1]] < (a + t * (b - a))[1] - 4
                s.paint(at, (rho < 0.86) & room, np.where(high, -800, -30))


def _draw_upper_organs(
    s: Scene, rng: Generator, level: dict[str, Any], cavity: Array, under: Array
) -> None:
    """Stomach, spleen, pancreas; the liver with its veins and gallbladder."""

    def room(at: tuple[slice, ...]) -> Array:
        return cavity[:, at[1], at[2]] & under[at]

    jitter = rng.normal(0, 2, (4, 3))
    waves = waves_in_space(rng, 0.03)
    at, rho = s.ball((34, -46, 62) + jitter[0], (46, 36, 46), turn=14, waves=waves)
    s.paint(at, (rho < 1.05) & room(at), -95)
    s.paint(at, (rho < 1) & room(at), level["bowel wall"])
    gas = s.y[:, at[1]] < -60
    s.paint(at, (rho < 0.88) & room(at), np.where(gas, -960, 22))
    waves = waves_in_space(rng, 0.03)
    radii = np.array((48, 50, 27)) * rng.uniform(0.92, 1.08, 3)
    at, rho = s.ball((28, 26, 114) + jitter[1], radii, turn=-18, waves=waves)
    s.paint(at, (rho < 1) & room(at), level["spleen"], _SPLEEN)
    pancreas = np.array([(-12, -14, -24), (0, -22, 2), (8, -14, 34), (16, 2, 72.0)])
    s.tube(pancreas, np.array([13, 9, 9, 7.0]), level["pancreas"])

    # The liver: two lobes with a soft joint, under the diaphragm.
    waves = waves_in_space(rng, 0.03)
    scale = rng.uniform(0.93, 1.05)
    lobes = [
        ((10, -6, -92) + jitter[2], np.array((82, 82, 56)) * scale, 8),
        ((36, -62, -26) + jitter[3], np.array((44, 34, 74)) * scale, 10),
    ]
    joined = np.zeros(s.size, np.float32)
    for centre, radii, turn in lobes:
        at, rho = s.ball(centre, radii, turn=turn, waves=waves, reach=1.15)
        joined[at] += np.exp(-9 * rho)
    liver = (joined > np.exp(np.float32(-9))) & under & cavity
    fissure, rho = s.ball((10, -52, -24), (60, 24, 2.5), turn=-18)
    liver[fissure] &= rho >= 1
    s.values[liver] = level["liver"]
    s.labels[liver] = _LIVER
    for number in range(9):
        start = np.array((8, -16, -40.0)) if number % 2 else np.array((70, 18, -28.0))
        end = rng.normal((12, -10, -105), (34, 40, 22))
        bend = (start + end) / 2 + rng.normal(0, 14, 3)
        t = np.linspace(0, 1, 8)[:, None]
        path = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        widths = np.linspace(rng.uniform(3.5, 5.5), 1.5, 8)
        s.tube(path, widths, level["portal vein"], _LIVER, inside=_LIVER)
    at, rho = s.ball((-22, -42, -58), (27, 15, 14), turn=20)
    s.paint(at, (rho < 1) & room(at), level["bowel wall"])
    s.paint(at, (rho < 0.88) & room(at), 8)


def _place_tumours(s: Scene, rng: Generator, count: int) -> list[dict[str, Any]]:
    """Ellipsoids that lie in the liver, apart from each other."""
    depth = ndimage.distance_transform_edt(s.labels == _LIVER, sampling=s.spacing)
    tumours: list[dict[str, Any]] = []
    for _ in range(5000):
        if len(tumours) == count:
            return tumours
        centre = rng.uniform((-60, -85, -140), (80, 60, 20))
        radii = rng.uniform(6, 20) * rng.uniform(0.85, 1.0, 3)
        index = tuple(
            int(np.abs(line - c).argmin())
            for line, c in zip(s.lines, centre, strict=True)
        )
        apart = all(
            np.linalg.norm(centre - other["centre_mm"])
            > radii.max() + max(other["radii_mm"]) + 8
            for other in tumours
        )
        if apart and depth[index] > radii.max() + max(s.spacing):
            tumours.append(
                {
                    "centre_mm": tuple(centre.tolist()),
                    "radii_mm": tuple(radii.tolist()),
                    "volume_ml": float(4 / 3 * np.pi * radii.prod() / 1000),
                }
            )
    raise ValueError(
        f"{count} tumours do not fit into the liver of this patient. Ask for fewer, or "
        "take another seed."
    )


def _draw_kidneys(s: Scene, rng: Generator, level: dict[str, Any]) -> None:
    for side, label, low in ((1, _LEFT, -28), (-1, _RIGHT, -40)):
        centre = np.array((low, 48, side * 66)) + rng.normal(0, 2, 3)
        turn = side * 24.0
        at, rho = s.ball(centre, (64, 39, 33), turn=turn)
        near = (rho < 1) & (s.values[at] < 200)  # the wall's ribs stay
        s.paint(at, near, -100)
        radii = np.array((54, 29, 24)) * rng.uniform(0.95, 1.05, 3)
        waves = waves_in_space(rng, 0.02)
        at, rho = s.ball(centre, radii, turn=turn, waves=waves)
        s.paint(at, rho < 1, level["kidney"], label)
        sinus, rho = s.ball(centre - (0, 4, side * 15), (30, 11, 17), turn=-turn)
        s.paint(sinus, rho < 1, -80)
        pelvis, rho = s.ball(centre - (0, 5, side * 14), (14, 4, 5), turn=turn)
        s.paint(pelvis, rho < 1, 10)


def _draw_spine_and_vessels(s: Scene, rng: Generator, level: dict[str, Any]) -> None:
    z, y, x = s.z, s.y, s.x
    height = (z + rng.uniform(0, 36)) % 36  # a vertebra and a disc
    waist = 1 - 0.10 * np.sin(np.pi * ((height - 8) / 28).clip(0, 1))
    body = np.hypot(x / (23 * waist), (y - 41) / (19 * waist))
    bone = height > 8

    def put(where: Array, value: Any, label: int = _SPINE) -> None:
        s.values[where] = value
        s.labels[where] = label

    process = (np.abs(x) < 3.5) & (y > 70) & (y < 100) & (height > 14)
    wing = (height > 18) & (height < 28)
    wings = wing & (np.abs(np.abs(x) - 27) < 18) & (np.abs(y - 62) < 5)
    arch = (np.hypot(x / 17, (y - 68) / 15) < 1) & (height > 10)
    put(np.broadcast_to(wings | process | arch, s.size), 380)
    put((body < 1) & ~bone, 80, 0)  # a disc
    put((body < 1) & bone, 420)
    put((body < 0.9) & (height > 10) & (height < 34), level["spine"])
    canal = np.broadcast_to(np.hypot(x / 10, (y - 66) / 9) < 1, s.size)
    put(canal, 25, 0)
    sway = 3 * np.sin(z / 60 + rng.uniform(0, 6))
    put(np.hypot(x - 11 - sway, y - 8) < 11, level["aorta"], _AORTA)
    cava = np.hypot((x + 20) / 13, (y - 6) / 10) < 1
    put(np.broadcast_to(cava, s.size) & (z < 88), level["vena cava"], 0)
    s.tube(
        np.array([(-40, -14, 6), (4, -12, -8), (8, -16, -40.0)]),
        np.array([5.5, 6.5, 6.0]),
        level["portal vein"],
    )
