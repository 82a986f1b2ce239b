"""CT of the abdomen."""

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from medseg.phantoms._abdomen_volume import (
    ABDOMEN_HU,
    ABDOMEN_NAMES,
    abdomen_volume,
)
from medseg.phantoms._brushes import blob, smooth_noise, wobble
from medseg.phantoms._phantom import Phantom, check_range, check_size
from medseg.phantoms._scanner import ray_artefacts

Array = NDArray[Any]


def abdomen_ct(
    size: tuple[int, ...] = (256, 256),
    *,
    seed: int = 0,
    noise_hu: float = 12.0,
    contrast: float = 1.0,
    artefacts: float = 0.0,
    tumour: bool | int = True,
) -> Phantom:
    """CT of the upper abdomen, in Hounsfield units: an axial slice, or a volume.

    Seen from the feet, as radiologists do: the patient's right is on the image's left,
    and so is the liver; the spine is at the bottom. The image shows 380 x 380 mm, and a
    volume 240 mm from below the kidneys (index 0) to above the liver's dome. A volume
    is another patient than the slice of the same seed, drawn more simply: no texture,
    but each organ has exactly the HU of ``ABDOMEN_HU`` before blur and noise.
    Window it to look at it: ``plots.overlay(ax, image, window=(400, 40))``.

    Args:
        size: ``(H, W)`` or ``(D, H, W)`` in pixels, each 16 or more.
        seed: The same seed gives the same patient: sizes and places of the organs, and
            the noise.
        noise_hu: Standard deviation of the noise in HU. It is correlated between
            neighbours, as the reconstruction leaves it.
        contrast: Contrast medium: 0 for none, 1 for the portal venous phase, where
            organs have the values of ``ABDOMEN_HU``. Without it the tumour is
            15 HU darker than the liver; with it, 45 HU.
        artefacts: Streaks and dark bands between bones, from rays on which few photons
            are left and from X-rays that bone hardens: 0 none, 1 many. They arise on
            the rays of a coarse scanner and are reconstructed.
        tumour: Whether there is a tumour in the liver, of 9 to 20 mm radius. In a
            volume also how many, at most 5, of 6 to 20 mm.

    Returns:
        ``image`` ``size`` float32 in HU; ``labels`` ``size`` int32; ``spacing`` in
        mm; ``names`` of the labels. Label 0 is all that has no name of its own: air,
        fat, muscle, bowel. The liver's vessels count as liver, and the fat in the
        middle of a kidney does not count as kidney. ``facts`` of a volume: ``tumours``,
        each with ``centre_mm`` (z, y, x from the middle of the image), ``radii_mm`` and
        ``volume_ml``, as drawn: an ellipsoid within the liver.

    Raises:
        ValueError: A number is out of its range, or so many tumours do not fit.

    Source:
        Without contrast medium buzug2008ct; the enhancement of the liver, 56 HU in
        the portal phase, naruo2007liver; of the kidney goshima2007kidney. The other
        values are typical ones.

    Example:
        >>> phantom = abdomen_ct((64, 64))
        >>> phantom.names[1:3], phantom.spacing
        (('liver', 'tumour'), (5.9375, 5.9375))
    """
    check_size(size, (2, 3))
    check_range("noise_hu", noise_hu, 0, 1000)
    check_range("contrast", contrast, 0, 2)
    check_range("artefacts", artefacts, 0, 10)
    if len(size) == 3:
        check_range("tumour", tumour, 0, 5)
        return abdomen_volume(size, seed, noise_hu, contrast, artefacts, int(tumour))
    # Two streams, so that the patient is the same at any resolution.
    anatomy, rng = np.random.default_rng(seed).spawn(2)
    spacing = (_FIELD_MM / size[0], _FIELD_MM / size[1])
    mottle = smooth_noise(rng, size, 4 / min(spacing))
    hu, labels = _draw_abdomen(anatomy, mottle, spacing, contrast, bool(tumour))

    blur = [0.9 / step for step in spacing]  # the reconstruction kernel, 0.9 mm
    image = ndimage.gaussian_filter(hu, blur)
    grain = rng.standard_normal(size)
    # Filtered backprojection lets no slow noise through: a difference of two blurs.
    grain = ndimage.gaussian_filter(grain, 0.6) - ndimage.gaussian_filter(grain, 2.0)
    image += noise_hu * grain / grain.std()
    if artefacts:
        beam = np.random.default_rng([seed, 1])
        image += ray_artefacts(hu[None], spacing, artefacts, beam)[0]
    return Phantom(image.clip(-1024).astype(np.float32), labels, spacing, ABDOMEN_NAMES)


# What the abdomen is made of. x and y in mm from the middle of the image: x grows to
# the patient's left, y to the back.

_FIELD_MM = 380.0


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
        waves = wobble(self.rng, wave) if wave else None
        rho = np.full(self.hu.shape, 9.0, np.float32)  # far outside: not computed
        reach = 1.5 * max(rx, ry) + max(self.spacing)
        box = (
            slice(*np.searchsorted(self.y[:, 0], (cy - reach, cy + reach))),
            slice(*np.searchsorted(self.x[0], (cx - reach, cx + reach))),
        )
        y, x = self.y[box] - cy, self.x[box] - cx
        rho[box] = blob(y, x, ry, rx, angle=np.deg2rad(turn), wobble=waves)
        return rho

    def paint(self, where: Array, hu: Any, name: str = "background") -> None:
        """Set HU, a number or a map, and the label where the mask is true."""
        self.hu[where] = np.broadcast_to(hu, where.shape)[where]
        self.labels[where] = ABDOMEN_NAMES.index(name)


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
    liver = s.labels == ABDOMEN_NAMES.index("liver")
    depth = ndimage.distance_transform_edt(liver, sampling=s.spacing)
    radius = min(s.rng.uniform(9, 20), 0.85 * depth.max())
    places = np.argwhere(depth >= radius)
    cy, cx = places[int(s.rng.random() * len(places))]
    y, x = (s.y - s.y[cy, cx]) * s.stretch[0], (s.x - s.x[cy, cx]) * s.stretch[1]
    rho = blob(y, x, radius, radius, wobble=wobble(s.rng, 0.07))
    s.paint((rho < 1) & liver, level["tumour"], "tumour")
