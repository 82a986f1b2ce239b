"""A lesion of the skin under the dermatoscope, in colour."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from medseg.phantoms._brushes import blob, noise_in_space, to_uint8, wobble
from medseg.phantoms._phantom import Phantom, check_range, check_size

# How much light a full layer of pigment (melanin) and of blood takes from red, green
# and blue, as natural logarithms: typical shapes, not measurements.
_MELANIN = np.array([0.9, 1.5, 2.2])
_BLOOD = np.array([0.15, 0.9, 0.75])
_PALE = np.array([0.93, 0.80, 0.72])


def skin_lesion(
    size: tuple[int, int] = (256, 256),
    *,
    seed: int = 0,
    noise: float = 0.02,
    contrast: float = 1.0,
    illumination: float = 0.3,
    artefacts: float = 0.3,
    tone: float = 0.15,
    irregular: float = 0.5,
) -> Phantom:
    """A pigmented lesion of the skin, as a dermatoscope shows it, in colour.

    Light is taken away layer by layer, as Beer and Lambert say: by the skin's pigment
    and blood, and by the lesion's pigment, which lies in patches and a fine net. On
    dark skin the same lesion has less contrast, which is a question of fairness.

    Args:
        size: Height and width in pixels, each 16 or more.
        seed: The same seed gives the same lesion.
        noise: Standard deviation of the camera's noise, as a fraction of full
            brightness.
        contrast: Amount of the lesion's pigment, 1 for a dark mole, 0 for none.
        illumination: How much darker the darkest corner is than the middle, 0 to 1.
        artefacts: Hairs and bubbles, 0 for none, 1 for many; they are drawn over the
            lesion, and the labels go on below them.
        tone: Pigment of the healthy skin, 0 for very light, 1 for very dark.
        irregular: Of the outline, 0 for an ellipse, 1 for a ragged one.

    Returns:
        ``image`` ``(H, W, 3)`` uint8; ``labels`` ``(H, W)`` int32: 1 the lesion; no
        spacing. ``facts``: ``area_fraction``, of the image, of the shape as drawn, if
        it is not cut by the edge; ``hairs``, their number.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> phantom = skin_lesion((64, 64))
        >>> phantom.image.shape, phantom.names
        ((64, 64, 3), ('skin', 'lesion'))
    """
    check_size(size)
    check_range("noise", noise, 0, 1)
    check_range("contrast", contrast, 0, 2)
    check_range("illumination", illumination, 0, 1)
    check_range("artefacts", artefacts, 0, 1)
    check_range("tone", tone, 0, 1)
    check_range("irregular", irregular, 0, 1)
    shape, texture, things, camera = np.random.default_rng(seed).spawn(4)

    # Coordinates in hundredths of the image's height.
    lines = [(np.arange(n) - (n - 1) / 2) * 100 / size[0] for n in size]
    field = (100.0, 100.0 * size[1] / size[0])
    y, x = np.meshgrid(*lines, indexing="ij")
    ry, rx = shape.uniform(17, 30, 2)
    cy, cx = shape.normal(0, 4, 2)
    angle = shape.uniform(0, np.pi)
    waves = irregular * np.stack(
        [wobble(shape, 0.2)[:, 0], np.zeros(4)], axis=1
    ) + np.stack([np.zeros(4), shape.uniform(0, 2 * np.pi, 4)], axis=1)
    rho = blob(y - cy, x - cx, ry, rx, angle=angle, wobble=waves)
    lesion = rho < 1

    def cloud(scale: float) -> NDArray[np.float64]:
        return noise_in_space(texture, lines, field, scale).astype(float)

    # Pigment: soft at the edge, patchy, with a net of fine lines.
    patches = 0.55 + 0.22 * cloud(14) + 0.08 * cloud(5)
    net = np.exp(-6 * np.abs(cloud(3.2)))
    edge = ((1 - rho) / 0.18).clip(0, 1)
    edge = 0.35 + 0.65 * edge * edge * (3 - 2 * edge)
    pigment = np.where(lesion, edge * (patches.clip(0.15, 1.2) + 0.25 * net), 0)
    melanin = 0.08 + 1.15 * tone + 0.03 * cloud(8) + 0.03 * cloud(1.5)
    blood = 0.25 + 0.06 * cloud(20) + 0.1 * lesion
    taken = (melanin.clip(0) + contrast * pigment)[..., None] * _MELANIN + blood.clip(
        0
    )[..., None] * _BLOOD
    colour = _PALE * np.exp(-taken)

    far = (y**2 + x**2) / (lines[0][-1] ** 2 + lines[1][-1] ** 2)
    colour *= (1 - illumination * far)[..., None]
    hairs = round(30 * artefacts)
    for _ in range(hairs):
        _draw_hair(colour, y, x, things, tone)
    for _ in range(round(10 * artefacts)):
        _draw_bubble(colour, y, x, things)
    if noise:
        colour = colour + noise * camera.standard_normal(colour.shape)
    facts = {"area_fraction": float(np.pi * ry * rx / field[0] / field[1])}
    return Phantom(
        to_uint8(colour),
        lesion.astype(np.int32),
        None,
        ("skin", "lesion"),
        {**facts, "hairs": hairs},
    )


def _draw_hair(
    colour: NDArray[np.float64],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    rng: Generator,
    tone: float,
) -> None:
    """A curved dark line over the picture."""
    angle, offset = rng.normal(0.6, 0.5), rng.uniform(-60, 60)
    u = np.cos(angle) * x + np.sin(angle) * y
    v = np.cos(angle) * y - np.sin(angle) * x
    bend, width = rng.normal(0, 0.004), rng.uniform(0.3, 0.6)
    start = rng.uniform(-80, 20)
    line = np.abs(v - offset - bend * (u - start) ** 2) < width
    line &= (u > start) & (u < start + rng.uniform(40, 110))
    colour[line] = colour[line] * 0.2 + np.array([0.03, 0.02, 0.02]) * (1 - tone)


def _draw_bubble(
    colour: NDArray[np.float64],
    y: NDArray[np.float64],
    x: NDArray[np.float64],
    rng: Generator,
) -> None:
    """A bubble of the gel: a bright rim and a glint."""
    cy, cx, radius = rng.uniform(-48, 48), rng.uniform(-48, 48), rng.uniform(1, 3.5)
    far = np.hypot(y - cy, x - cx)
    rim = np.abs(far - radius) < 0.3
    glint = np.hypot(y - cy + 0.4 * radius, x - cx + 0.4 * radius) < 0.25 * radius
    colour[rim] = 0.6 * colour[rim] + 0.35
    colour[glint] = 0.95
