"""Projections: a chest from the front, and a breast under the paddle.

A radiograph adds up what lies on each ray, by the law of Beer and Lambert:
I = I0 exp(-sum of attenuation times thickness). The pictures show -log I, as
radiographs are read: dense is white.
"""

from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from medseg.artefacts import bias_field as exposure_map
from medseg.phantoms._brushes import blob, noise_in_space, to_uint8, wobble
from medseg.phantoms._phantom import Phantom, check_count, check_range, check_size

Array = NDArray[Any]

# Attenuation per mm: the chest at some 60 keV, the breast at some 20 keV.
CHEST_ATTENUATION = {"soft tissue": 0.0205, "lung": 0.0055, "bone": 0.046}
BREAST_ATTENUATION = {
    "fat": 0.055,
    "glandular tissue": 0.080,
    "mass": 0.085,
    "calcification": 1.0,
}


def chest_xray(
    size: tuple[int, int] = (256, 256),
    *,
    seed: int = 0,
    noise: float = 0.02,
    contrast: float = 1.0,
    bias_field: float = 0.1,
    artefacts: float = 0.0,
    cardiothoracic_ratio: float | None = None,
) -> Phantom:
    """A radiograph of the chest from the front, by projection.

    The patient's right is on the image's left. Thicknesses of body, lungs, heart, ribs
    and spine along each ray are those of ellipsoids and tubes; the lungs are labelled
    where they are seen beside the heart and above the diaphragm, as readers draw them.

    Args:
        size: Height and width in pixels, each 16 or more; the field is 380 x 380 mm.
        seed: The same seed gives the same patient.
        noise: Photons arrive at random: behind the lungs, a pixel has this standard
            deviation as a fraction of its value, and more where it is darker; 0 for
            none.
        contrast: 1 for the given attenuations; less for harder X-rays, which see
            less of a difference: log intensities are pulled to their mean.
        bias_field: How much weaker the beam is at its weakest spot, 0 to 1.
        artefacts: What is not the patient's: 0 none, above 0 also a cable with its
            electrodes and a tube, the more opaque the nearer to 1.
        cardiothoracic_ratio: Width of the heart over that of the chest inside, 0.35 to
            0.65; above 0.5 the heart is enlarged. None for a random healthy one.

    Returns:
        ``image`` ``(H, W)`` uint8, dense is white; ``labels`` int32: 1 right lung,
        2 left lung, 3 heart; ``spacing`` in mm. ``facts``: ``cardiothoracic_ratio``,
        and ``silhouettes``, boolean masks of the whole heart and of each whole lung,
        which overlap in a projection.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> phantom = chest_xray((64, 64), cardiothoracic_ratio=0.6)
        >>> phantom.names, phantom.facts["cardiothoracic_ratio"]
        (('background', 'right lung', 'left lung', 'heart'), 0.6)
    """
    check_size(size)
    check_range("noise", noise, 0, 1)
    check_range("contrast", contrast, 0.01, 1)
    check_range("bias_field", bias_field, 0, 0.95)
    check_range("artefacts", artefacts, 0, 1)
    anatomy, beam, photons, things = np.random.default_rng(seed).spawn(4)
    ratio = anatomy.uniform(0.40, 0.48)
    if cardiothoracic_ratio is not None:
        check_range("cardiothoracic_ratio", cardiothoracic_ratio, 0.35, 0.65)
        ratio = cardiothoracic_ratio
    spacing = (380 / size[0], 380 / size[1])
    y, x = (
        (np.arange(n) - (n - 1) / 2) * step
        for n, step in zip(size, spacing, strict=True)
    )
    y, x = np.meshgrid(y, x, indexing="ij")
    stretch = anatomy.uniform(0.95, 1.04)
    x = x / stretch

    body = _chord(x / 178, (y - 60) / 330, 112)  # half depth 112 mm
    neck = np.where(np.abs(x) < 55, 60 * np.sqrt((1 - (x / 55) ** 2).clip(0)), 0)
    shoulder = y > -150 + 55 * (np.abs(x) / 150) ** 2.2
    body = np.where(shoulder, body, 2 * neck)

    lungs, half_width = [], 0.0
    for side, dome in ((-1, 78.0), (1, 88.0)):
        u = x - side * 66
        wide = 60 + 14 * ((y + 20) / 120).clip(-1, 1) + anatomy.normal(0, 1)
        high = np.where(y < 40, 172.0, 400.0)
        lung = _chord(u / wide, (y - 40) / high, 82)
        diaphragm = dome + 0.0045 * (x - side * 62) ** 2 + 6 * np.sin(x / 40)
        lungs.append(np.where(y < diaphragm, lung, 0))
        inside = (lungs[-1] > 0).any(axis=0)
        half_width += float(np.abs(x[0][inside]).max()) if inside.any() else 0
    heart_width = ratio * half_width
    left, low = 0.68 * heart_width, 72.0
    heart = blob(
        y - (low - 46),
        x - (left - heart_width / 2),
        52,
        heart_width / 2,
    )
    heart_depth = 2 * 45 * np.sqrt((1 - heart**2).clip(0))
    vessels = 2 * 26 * np.sqrt((1 - (np.abs(x - 6) / 30) ** 2).clip(0)) * (y < low - 40)
    vessels = vessels * (y > -105)
    air = np.where((np.abs(x + 2) < 9) & (y < -62), 14.0, 0.0)  # the windpipe

    bone = _ribs(x, y, anatomy) + _spine(x, y)
    mu = CHEST_ATTENUATION
    lung_depth = lungs[0] + lungs[1]
    lung_depth = np.maximum(lung_depth - np.maximum(heart_depth, vessels), 0) + air
    markings = _lung_markings(x, y, anatomy) * (lung_depth > 0)
    soft = np.maximum(body - lung_depth, 0) + markings
    through = mu["soft tissue"] * soft + mu["lung"] * lung_depth + mu["bone"] * bone
    through = np.where(body > 0, through, 0)
    through *= 0.55  # harder rays than at 60 keV, and scatter, which fills the dark
    if artefacts:
        through += artefacts * _cables(x, y, things)

    seen = ndimage.gaussian_filter(through, [0.8 / step for step in spacing])
    middle = float(seen[lung_depth > 20].mean()) if (lung_depth > 20).any() else 1.0
    light = np.exp(middle - seen)  # 1 behind the lungs
    light = light * exposure_map(size, bias_field, beam) if bias_field else light
    if noise:
        count = 1 / noise**2
        light = photons.poisson(np.minimum(light, 50) * count).clip(0.5) / count
    film = -np.log(light)
    image = to_uint8(0.42 + contrast * film * 0.24)

    whole = np.stack([lungs[0] > 0, lungs[1] > 0, heart < 1])
    labels = np.zeros(size, np.int32)
    for code, shape in enumerate(whole, start=1):
        labels[shape] = code
    facts = {
        "cardiothoracic_ratio": float(ratio),
        "silhouettes": {
            "right lung": whole[0],
            "left lung": whole[1],
            "heart": whole[2],
        },
    }
    names = ("background", "right lung", "left lung", "heart")
    return Phantom(image, labels, spacing, names, facts)


def _chord(u: Array, v: Array, half_depth: float) -> Array:
    """How long a ray stays in an ellipsoid, in mm."""
    return 2 * half_depth * np.sqrt((1 - u**2 - v**2).clip(0))


def _ribs(x: Array, y: Array, rng: Generator) -> Array:
    """Rings that fall to the side behind, and to the middle in front; mm of bone."""
    bone = np.zeros_like(x)
    for side in (-1, 1):
        u = side * x
        for number in range(9):
            top = -118 + 25 * number + rng.normal(0, 1)
            outer = 92 + 46 * np.sqrt(min(1.0, (number + 0.8) / 7))
            inside = ((u > 12) & (u < outer)).astype(float)
            t = (u / outer).clip(0, 1)
            back = top + 26 * t**2.2
            front = top + 26 + 50 * (1 - t) ** 1.2
            for line, width, solid in ((back, 5.0, 1.0), (front, 5.5, 0.55)):
                across = ((y - line) / width) ** 2
                shell = np.sqrt((1 - across).clip(0)) * (0.5 + 0.5 * across)
                edge = 1 + 2.2 * t**8  # along the ray at the side
                bone += (
                    solid
                    * 9
                    * shell
                    * edge
                    * inside
                    * ((u > 42) if line is front else 1)
                )
        # collar bones
        line = -112 - 0.22 * u + 8 * np.sin(u / 30)
        across = ((y - line) / 6) ** 2
        bone += 11 * np.sqrt((1 - across).clip(0)) * ((u > 12) & (u < 140))
    return bone


def _spine(x: Array, y: Array) -> Array:
    body = 26 * np.sqrt((1 - (x / 17) ** 2).clip(0))
    return body * np.where(np.mod(y, 26) < 4, 0.25, 0.8)


def _lung_markings(x: Array, y: Array, rng: Generator) -> Array:
    """Vessels of the lungs, mm of blood: many near the hilum, few outside."""
    total = np.zeros_like(x)
    for side in (-1, 1):
        for _ in range(42):
            angle = rng.uniform(-1.45, 1.45)
            length, bend = rng.uniform(30, 95), rng.normal(0, 0.35)
            cx, cy = side * rng.uniform(22, 36), rng.uniform(-25, 25)
            u, v = side * (x - cx), y - cy
            along = u * np.cos(angle) + v * np.sin(angle)
            across = v * np.cos(angle) - u * np.sin(angle) - bend * along**2 / length
            t = (along / length).clip(0, 1)
            width = rng.uniform(1.4, 3.4) * (1 - 0.8 * t)
            on = (along > 0) & (along < length)
            total += 2 * width * np.sqrt((1 - (across / width) ** 2).clip(0)) * on
    return 2.2 * total


def _cables(x: Array, y: Array, rng: Generator) -> Array:
    total = np.zeros_like(x)
    for _ in range(2):
        start, slope = rng.uniform(-100, 100), rng.uniform(-0.5, 0.5)
        line = start + slope * y + 18 * np.sin(y / rng.uniform(25, 50))
        total += 1.2 * (np.abs(x - line) < 1.6)
        cy = rng.uniform(-60, 80)
        at = start + slope * cy + 18 * np.sin(cy / 40)
        total += 1.5 * (np.hypot(x - at, y - cy) < 7)
    return total


def mammogram(
    size: tuple[int, int] = (320, 256),
    *,
    seed: int = 0,
    noise: float = 0.03,
    contrast: float = 1.0,
    artefacts: float = 0.0,
    density: float = 0.35,
    mass: bool = True,
    spiculated: bool = True,
    calcifications: int = 12,
) -> Phantom:
    """A mammogram seen from the side, with a mass and a cluster of calcifications.

    Glandular tissue is smooth noise whose power falls with the cube of the frequency,
    which gives the clouds and strands of real ones. The chest wall is on the left.

    Args:
        size: Height and width in pixels, each 16 or more; the field is 200 mm high,
            and its pixels are square.
        seed: The same seed gives the same breast, mass and calcifications.
        noise: Photons arrive at random: behind fat, a pixel has this standard
            deviation as a fraction of its value; 0 for none.
        contrast: Of mass and calcifications: 1 for the given attenuations, 0 for none.
        artefacts: Grid lines left in the picture, 0 for none, 1 for strong ones.
        density: Share of glandular tissue, 0 to 1. Dense breasts hide masses.
        mass: Whether there is one, of 5 to 12 mm radius.
        spiculated: Whether strands of tissue run out from it, the sign of a malignant
            one. They are not labelled.
        calcifications: How many grains of 0.4 to 1.2 mm, in a cluster of 12 mm;
            0 to 100. On a coarse grid a grain is one pixel at least.

    Returns:
        ``image`` ``(H, W)`` uint8, dense is white; ``labels`` int32: 1 breast, 2 the
        pectoral muscle, 3 mass, 4 calcification; ``spacing`` in mm. ``facts``:
        ``mass``, with ``centre_mm`` (y, x from the middle of the image),
        ``diameter_mm`` of the circle of equal area, and ``spiculated``, or None;
        ``calcifications``, their number.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> phantom = mammogram((64, 64), calcifications=0)
        >>> phantom.names[3], phantom.facts["calcifications"]
        ('mass', 0)
    """
    check_size(size)
    check_range("noise", noise, 0, 1)
    check_range("contrast", contrast, 0, 1)
    check_range("artefacts", artefacts, 0, 1)
    check_range("density", density, 0, 1)
    check_count("calcifications", calcifications, least=0)
    check_range("calcifications", calcifications, 0, 100)
    anatomy, texture, lesion, photons = np.random.default_rng(seed).spawn(4)
    step = 200 / size[0]
    width = step * size[1]
    lines = [(np.arange(n) - (n - 1) / 2) * step for n in size]
    y, x = np.meshgrid(*lines, indexing="ij")
    depth = x + width / 2  # mm from the chest wall

    reach = 0.82 * width * anatomy.uniform(0.9, 1.05)
    low = y - 12 + 0.10 * depth
    outline = np.hypot(depth / reach, low / np.where(low > 0, 76, 88))
    breast = outline < 1
    # Pressed flat: equally thick, but for a round rim.
    thick = 52 * np.sqrt(1 - outline.clip(0, 1) ** 6) * breast
    muscle = breast & (depth < 0.42 * (-y - 5) * anatomy.uniform(0.9, 1.1))

    field = (200.0, width)
    lobes = np.zeros(size)
    for scale in (48, 24, 12, 6, 3, 1.5):  # power falls as 1 / f ** 3
        lobes += scale**0.6 * noise_in_space(texture, lines, field, scale)
    lobes /= lobes.std()
    towards = 1.3 * np.exp(-(((depth - 0.55 * reach) / (0.35 * reach)) ** 2)) - 0.7
    rim = ((outline - 0.72) / 0.2).clip(0, 1)
    towards -= 2.2 * rim**2 * (3 - 2 * rim)  # fat under the skin
    gland = 1 / (1 + np.exp(-1.9 * (lobes + 1.6 * towards + 4 * (density - 0.5))))
    strands = np.exp(-np.abs(noise_in_space(texture, lines, field, 14)) * 9)
    gland = np.maximum(gland, 0.45 * strands * (outline < 0.93) * (0.3 + density))
    mu = BREAST_ATTENUATION
    extra = mu["glandular tissue"] - mu["fat"]
    through = thick * (mu["fat"] + 0.75 * extra * gland)
    through += 22 * extra * muscle * (1 - depth / 120).clip(0.3)
    through += 1.6 * extra * ((outline > 0.975) & breast) * 3  # skin
    labels = breast.astype(np.int32)
    labels[muscle] = 2

    room = breast & ~muscle & (outline < 0.75) & (depth > 25)
    places = np.argwhere(room)
    cy, cx = (
        lines[axis][int(places[int(lesion.random() * len(places)), axis])]
        for axis in (0, 1)
    )
    radius = lesion.uniform(5, 12)
    rho = blob(y - cy, x - cx, radius, radius, wobble=wobble(lesion, 0.08))
    facts: dict[str, Any] = {"mass": None, "calcifications": int(calcifications)}
    if mass:
        ball = 2 * radius * np.sqrt((1 - rho**2).clip(0)) ** 0.7
        bulge = ball + (_spicules(rho, y - cy, x - cx, lesion) if spiculated else 0)
        through += contrast * 1.3 * extra * bulge
        labels[rho < 1] = 3
        facts["mass"] = {
            "centre_mm": (float(cy), float(cx)),
            "diameter_mm": float(2 * radius),
            "spiculated": bool(spiculated),
        }
    cluster = places[int(lesion.random() * len(places))]
    for _ in range(calcifications):
        # Apart from each other would be untrue: grains may merge.
        gy, gx = (lines[a][cluster[a]] + lesion.normal(0, 3.5) for a in (0, 1))
        grain = np.hypot(y - gy, x - gx) / lesion.uniform(0.2, 0.6)
        nearest = np.unravel_index(np.argmin(grain), grain.shape)
        where = grain < 1
        where[nearest] = True
        through[where] += contrast * 0.6 * mu["calcification"]
        labels[where] = 4

    seen = ndimage.gaussian_filter(through, 0.12 / step)
    light = np.exp(thick.max() * mu["fat"] - seen)  # 1 behind fat
    if artefacts:
        light = light * (1 + 0.12 * artefacts * np.sin(2 * np.pi * y / 3.1))
    if noise:
        count = 1 / noise**2
        light = photons.poisson(np.minimum(light, 50) * count).clip(0.5) / count
    film = -np.log(light)
    image = to_uint8(0.38 + 0.34 * film)
    names = ("background", "breast", "pectoral muscle", "mass", "calcification")
    return Phantom(image, labels, (step, step), names, facts)


def _spicules(rho: Array, y: Array, x: Array, rng: Generator) -> Array:
    """Thin strands out of a mass, mm of tissue."""
    turn = np.arctan2(y, x)
    total = np.zeros_like(rho)
    for _ in range(rng.integers(14, 22)):
        angle, length = rng.uniform(-np.pi, np.pi), rng.uniform(1.5, 2.8)
        off = np.angle(np.exp(1j * (turn - angle))) * rho
        fade = ((length - rho) / (length - 0.8)).clip(0, 1)
        total += 5 * np.exp(-((off / 0.07) ** 2)) * fade * (rho > 0.8)
    return total
