"""Ultrasound: echoes of countless scatterers, and what they do to each other."""

from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from medseg.checks import check_choice
from medseg.phantoms._brushes import blob, noise_in_space, to_uint8, wobble
from medseg.phantoms._phantom import Phantom, check_range, check_size

Array = NDArray[Any]

_RANGE_DB = 60.0  # from black to white


class _Body(NamedTuple):
    """What a sound wave meets."""

    echo_db: Array  # brightness, 0 for fat
    damping: Array  # dB per mm lost on the way there and back
    labels: NDArray[np.int32]
    names: tuple[str, ...]
    facts: dict[str, Any]


def ultrasound(
    size: tuple[int, int] = (256, 256),
    *,
    seed: int = 0,
    target: str = "lesion",
    noise: float = 1.0,
    contrast: float = 1.0,
    bias_field: float = 0.2,
    artefacts: float = 0.5,
) -> Phantom:
    r"""An ultrasound image: a lesion of the breast, or the head of a fetus.

    The echo of a voxel is the sum of many scatterers with random phases. Its envelope
    follows Rayleigh's distribution: speckle, the same at each look, which no averaging
    of pictures removes. Sound is damped on its way, :math:`e^{-2 \int \alpha dz}`; the
    machine corrects the usual damping, so that behind what damps more lies a shadow,
    behind fluid a bright band. The picture shows decibels, 60 from black to white.

    Args:
        size: Height (depth) and width in pixels, each 16 or more. The field is 45 x 45
            mm for a lesion, 120 x 120 mm for a head; the probe is above.
        seed: The same seed gives the same patient.
        target: "lesion": a dark mass that casts a shadow, or, for every third
            seed on average, a cyst, with a bright band behind it; "head": skull,
            midline and brain of a fetus.
        noise: Speckle: 1 for full (Rayleigh), 0 for none; between, a steady echo is
            mixed in.
        contrast: How much darker than its surroundings a target is: 1 for 14 dB
            (a cyst: 35 dB), 0 for not at all. Brightness of the skull likewise.
        bias_field: Damping that the machine has not corrected: 0 for none, 1 for 30
            dB at the lower edge, which then is darker than the upper one.
        artefacts: Shadows and bright bands: 0 none, 1 as strong as physics has them
            for a calcified target; and echoes between skin and probe.

    Returns:
        ``image`` ``(H, W)`` uint8; ``labels`` int32: 1 the lesion, or 1 skull and
        2 what is inside of it; ``spacing`` in mm. ``facts``: of a lesion ``kind``,
        ``area_mm2`` and ``depth_mm``; of a head ``circumference_mm``,
        ``biparietal_diameter_mm`` and ``occipitofrontal_diameter_mm``, all of the
        outer border of the skull; ``range_db``.

    Raises:
        ValueError: A number is out of its range, or there is no such target.

    Example:
        >>> phantom = ultrasound((64, 64), target="head")
        >>> phantom.names, phantom.image.dtype
        (('background', 'skull', 'brain'), dtype('uint8'))
    """
    check_size(size)
    check_choice(target, "target", ("lesion", "head"))
    check_range("noise", noise, 0, 1)
    check_range("contrast", contrast, 0, 1)
    check_range("bias_field", bias_field, 0, 1)
    check_range("artefacts", artefacts, 0, 1)
    anatomy, speckle = np.random.default_rng(seed).spawn(2)
    field = 45.0 if target == "lesion" else 120.0
    spacing = (field / size[0], field / size[1])
    lines = [
        (np.arange(n) + 0.5) * step - centre
        for n, step, centre in zip(size, spacing, (0.0, field / 2), strict=True)
    ]
    draw = _breast if target == "lesion" else _head
    body = draw(anatomy, lines, field, contrast)

    # Shadows: everything above a pixel in its column has damped its sound.
    damped = np.cumsum(body.damping, axis=0) * spacing[0]
    wide = 0.01 * field / spacing[1]
    echo_db = body.echo_db - artefacts * ndimage.gaussian_filter(damped, (0, wide))
    depth = lines[0][:, None] / field
    echo_db = echo_db - bias_field * 30 * depth

    # Speckle: complex noise, weighted by the echo, seen through the pulse, which is
    # shorter along the beam than across it.
    echo = 10 ** (echo_db / 20)
    grain = (0.0045 * field / spacing[0], 0.0085 * field / spacing[1])
    # A pulse is no shorter than a pixel.
    grain = (max(grain[0], 0.5), max(grain[1], 0.5))
    fields = speckle.standard_normal((2, *size))
    for part in fields:
        part *= echo
        ndimage.gaussian_filter(part, grain, output=part)
    # The mean square of white noise after a Gaussian pulse.
    power = 1 / (4 * np.pi * grain[0] * grain[1])
    fields *= noise / np.sqrt(2 * power)
    steady = np.sqrt(1 - noise**2) * ndimage.gaussian_filter(echo, grain)
    envelope = np.hypot(fields[0] + steady, fields[1])
    if artefacts:  # echoes between the probe and the skin
        rings = np.exp(-lines[0] / (0.03 * field)) * (
            1 + np.cos(2 * np.pi * lines[0] / (0.022 * field))
        )
        envelope = envelope + 0.8 * artefacts * rings[:, None]
    decibels = 20 * np.log10(np.maximum(envelope, 1e-6))
    image = to_uint8((decibels + 42) / _RANGE_DB)
    facts = {**body.facts, "range_db": _RANGE_DB}
    return Phantom(image, body.labels, spacing, body.names, facts)


def _breast(rng: Generator, lines: list[Array], field: float, contrast: float) -> _Body:
    """Skin, fat, gland, fascia, muscle, ribs' line; a lesion in the gland."""
    y, x = np.meshgrid(*lines, indexing="ij")
    centred = [lines[0] - field / 2, lines[1]]

    def sway(scale: float, height: float) -> Array:
        return height * noise_in_space(rng, centred, (field, field), scale)

    levels = y + sway(14, 0.9)
    echo = np.full(y.shape, -22.0)  # fat
    echo[levels < 1.8] = -6  # skin
    gland = (levels > 9 + sway(18, 0.8)) & (levels < 30)
    echo[gland] = -11
    strands = np.abs(noise_in_space(rng, centred, (field, field), 5))
    echo += np.where(levels > 1.8, 10 * np.exp(-9 * strands), 0) * ~gland
    echo += np.where(gland, sway(2.5, 2.2), 0)
    echo[levels > 33] = -17  # muscle, with its fibres
    echo += np.where(levels > 33, 4 * np.sin(2 * np.pi * levels / 1.4), 0)
    for fascia in (9.2, 31.5):
        echo[np.abs(levels - fascia) < 0.35] = -5
    damping = np.zeros(y.shape)

    cyst = rng.random() < 1 / 3
    ry, rx = rng.uniform(3, 6), rng.uniform(5, 9)
    cy, cx = rng.uniform(15, 23), rng.uniform(-9, 9)
    rough = 0.015 if cyst else 0.07
    rho = blob(
        y - cy,
        x - cx,
        ry,
        rx,
        angle=rng.uniform(-0.35, 0.35),
        wobble=wobble(rng, rough),
    )
    inside = rho < 1
    drop = 35.0 if cyst else 14.0
    echo[inside] = (1 - contrast) * echo[inside] + contrast * (-11 - drop)
    if not cyst:
        rim = (rho >= 1) & (rho < 1.2)
        echo[rim] += 4 * contrast
    damping[inside] = -1.4 if cyst else 2.0
    facts = {
        "kind": "cyst" if cyst else "solid",
        "area_mm2": float(np.pi * rx * ry),
        "depth_mm": float(cy),
    }
    return _Body(
        echo, damping, inside.astype(np.int32), ("background", "lesion"), facts
    )


def _head(rng: Generator, lines: list[Array], field: float, contrast: float) -> _Body:
    """A fetal head across, in fluid: skull, midline, brain."""
    y, x = np.meshgrid(*lines, indexing="ij")
    centred = [lines[0] - field / 2, lines[1]]
    uneven = noise_in_space(rng, centred, (field, field), 9)
    long, short = rng.uniform(40, 47), rng.uniform(31, 36)  # outer half axes, mm
    angle = rng.uniform(-0.5, 0.5)
    cy, cx = field / 2 + rng.normal(0, 2), rng.normal(0, 2)
    u = np.cos(angle) * (x - cx) + np.sin(angle) * (y - cy)
    v = np.cos(angle) * (y - cy) - np.sin(angle) * (x - cx)
    outer = np.hypot(u / long, v / short)
    inner = np.hypot(u / (long - 3), v / (short - 3))
    wall = y + 4 * noise_in_space(rng, centred, (field, field), 30)
    echo = np.where((wall < 16) | (wall > 104), -16 + 2.5 * uneven, -44.0)
    inside, skull = inner < 1, (outer < 1) & (inner >= 1)
    tissue = -27 + 2.0 * uneven
    echo[inside] = tissue[inside]
    falx = (np.abs(v) < 0.7) & (np.abs(u) < 0.92 * long) & inside
    falx &= np.abs(u - 12) > 5  # the cavum in front
    echo[falx] = -13
    for side in (-1, 1):  # ventricles and thalami
        horn = np.hypot((u + 12) / 15, (v - side * 12) / 4)
        echo[horn < 1] = -36
        echo[np.abs(horn - 1.1) < 0.09] = -15
        echo[np.hypot((u - 2) / 8, (v - side * 6) / 5) < 1] = -33
    # Bone that meets the beam squarely sends it back; at the sides it is lost.
    slope = np.abs((v / short) * np.cos(angle) + (u / long) * np.sin(angle))
    bone = -1.0 - 16 * (1 - slope.clip(0, 1)) ** 1.5
    level = tissue + contrast * (bone - tissue)
    echo[skull] = level[skull]
    damping = np.where(skull, 0.9, 0.0)
    ratio = ((long - short) / (long + short)) ** 2
    around = np.pi * (long + short) * (1 + 3 * ratio / (10 + np.sqrt(4 - 3 * ratio)))
    facts = {
        "circumference_mm": float(around),
        "biparietal_diameter_mm": float(2 * short),
        "occipitofrontal_diameter_mm": float(2 * long),
    }
    labels = (skull + 2 * inside).astype(np.int32)
    return _Body(echo, damping, labels, ("background", "skull", "brain"), facts)
