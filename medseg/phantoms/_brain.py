"""Magnetic resonance of the head: tissues, sequences, a tumour."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from medseg.artefacts import bias_field as coil_map
from medseg.artefacts import ghosting, rician_noise
from medseg.checks import check_choice
from medseg.phantoms._brushes import Scene, waves_in_space
from medseg.phantoms._phantom import Phantom, check_range, check_size

Array = NDArray[Any]


class Tissue(NamedTuple):
    """What a spin echo sees of a tissue."""

    t1: float  # ms
    t2: float  # ms
    density: float  # of protons, 1 for water


class Echo(NamedTuple):
    """The times of a spin echo, in ms; ``ti`` 0 for no inversion."""

    tr: float
    te: float
    ti: float = 0
    gadolinium: bool = False


# Typical values at 1.5 T. The first seven are labels; the others are label 0.
BRAIN_TISSUES: dict[str, Tissue] = {
    "background": Tissue(1000, 50, 0.0),
    "cerebrospinal fluid": Tissue(4000, 2000, 1.0),
    "grey matter": Tissue(950, 100, 0.82),
    "white matter": Tissue(600, 80, 0.70),
    "oedema": Tissue(1100, 150, 0.86),
    "enhancing tumour": Tissue(1200, 115, 0.85),
    "necrotic core": Tissue(2400, 280, 0.92),
    "bone": Tissue(400, 30, 0.06),
    "marrow": Tissue(320, 60, 0.35),
    "fat": Tissue(260, 70, 0.9),
    "muscle": Tissue(900, 45, 0.8),
}
MR_SEQUENCES: dict[str, Echo] = {
    "T1": Echo(500, 15),
    "T1c": Echo(500, 15, gadolinium=True),
    "T2": Echo(4000, 100),
    "FLAIR": Echo(9000, 110, 2500),
}
_GADOLINIUM_T1 = 330.0  # ms, of the enhancing tumour
_NAMES = tuple(BRAIN_TISSUES)
_CODE = {name: code for code, name in enumerate(_NAMES)}
_LABELS = 7
_FIELD = (224.0, 224.0, 224.0)  # mm


def mr_signal(sequence: str) -> dict[str, float]:
    r"""The signal of each tissue in a spin echo, white matter being 1.

    .. math:: \rho \, \left| 1 - 2 e^{-TI/T_1} + e^{-TR/T_1} \right| e^{-TE/T_2}

    Without inversion, the middle is :math:`1 - e^{-TR/T_1}`.

    Args:
        sequence: One of ``MR_SEQUENCES``: T1, T1c (with gadolinium, which shortens the
            T1 of the enhancing tumour), T2 or FLAIR.

    Returns:
        The signal by the name of the tissue.

    Raises:
        ValueError: There is no such sequence.

    Example:
        >>> signal = mr_signal("T2")
        >>> signal["white matter"], signal["cerebrospinal fluid"] > 2.5
        (1.0, True)
    """
    check_choice(sequence, "sequence", tuple(MR_SEQUENCES))
    tr, te, ti, gadolinium = MR_SEQUENCES[sequence]
    signal = {}
    for name, (t1, t2, density) in BRAIN_TISSUES.items():
        if gadolinium and name == "enhancing tumour":
            t1 = _GADOLINIUM_T1
        recovered = 1 - np.exp(-tr / t1)
        if ti:
            recovered = abs(1 - 2 * np.exp(-ti / t1) + np.exp(-tr / t1))
        signal[name] = density * recovered * np.exp(-te / t2)
    return {name: float(s / signal["white matter"]) for name, s in signal.items()}


def brain_mr(
    size: tuple[int, ...] = (128, 128, 128),
    *,
    seed: int = 0,
    sequences: str | Sequence[str] = ("T1", "T1c", "T2", "FLAIR"),
    noise: float = 0.04,
    contrast: float = 1.0,
    bias_field: float = 0.3,
    artefacts: float = 0.0,
    blur: float = 0.8,
    tumour: bool = True,
) -> Phantom:
    """Magnetic resonance of a head with a tumour, in four sequences or fewer.

    The head is made of ellipsoids, with furrows where smooth noise is near 0; the
    signals follow from T1, T2 and proton density by :func:`mr_signal`. The tumour is as
    in BraTS: a necrotic core, an enhancing rim, and oedema, which spreads in the white
    matter only. The image shows 224 mm along each axis; front is above, the patient's
    right on the left. What is simple about it: there are no vessels, no face, and no
    change within a tissue.

    Args:
        size: ``(D, H, W)``, or ``(H, W)`` for the axial slice through the middle of
            the tumour's place; each 16 or more.
        seed: The same seed gives the same patient, at any size.
        sequences: Names from ``MR_SEQUENCES``, or one name alone.
        noise: Standard deviation of the noise in either channel, before the
            magnitude is taken, as a fraction of white matter's signal.
        contrast: 1 for the signals of :func:`mr_signal`; less moves the brain's
            tissues towards white matter, 0 makes them equal.
        bias_field: How much darker the coil's darkest spot is than its brightest,
            0 to 1; the same in all sequences.
        artefacts: Ghosts of motion from front to back, 0 for none, 1 for strong
            ones: each of a fifth of the signal.
        blur: Standard deviation of the blur in mm, which mixes tissues in a voxel.
        tumour: Whether there is one, of 10 to 20 mm radius without its oedema.

    Returns:
        ``image`` float32 ``(C, *size)``, one channel a sequence, or ``size`` for one
        name; white matter is 1 in each sequence before the dials. ``labels`` int32:
        1 cerebrospinal fluid, 2 grey and 3 white matter, 4 oedema, 5 enhancing tumour,
        6 necrotic core. ``spacing`` in mm. ``facts``: ``sequences``; ``regions``, the
        labels of BraTS's three overlapping regions; ``tumour_centre_mm``, z, y, x from
        the middle of the image, and ``tumour_radius_mm``.

    Raises:
        ValueError: A number is out of its range, or there is no such sequence.

    Source:
        menze2015brats, for the regions of the tumour.

    Example:
        >>> phantom = brain_mr((64, 64), sequences="FLAIR")
        >>> phantom.image.shape, phantom.spacing, phantom.names[4]
        ((64, 64), (3.5, 3.5), 'oedema')
    """
    check_size(size, (2, 3))
    check_range("noise", noise, 0, 1)
    check_range("contrast", contrast, 0, 1)
    check_range("bias_field", bias_field, 0, 1)
    check_range("artefacts", artefacts, 0, 1)
    check_range("blur", blur, 0, 20)
    wanted = [sequences] if isinstance(sequences, str) else list(sequences)
    signals = [mr_signal(name) for name in wanted]
    anatomy, coil, grain = np.random.default_rng(seed).spawn(3)

    side = anatomy.choice([-1, 1])
    centre = anatomy.uniform((14, -35, 22), (38, 30, 34)) * (1, 1, side)
    radius = anatomy.uniform(10, 20)
    scene = Scene(size, _FIELD, plane=float(centre[0]))
    _draw_head(scene, anatomy)
    if tumour:
        _draw_tumour(scene, anatomy, centre, radius)
    tissue = scene.squeezed(scene.labels)

    uneven = coil_map(tissue.shape, bias_field, coil)
    image = np.empty((len(wanted), *tissue.shape), np.float32)
    for channel, signal in zip(image, signals, strict=True):
        levels = np.array([signal[name] for name in _NAMES], np.float32)
        levels[1:_LABELS] = 1 + contrast * (levels[1:_LABELS] - 1)
        clean = levels[tissue]
        if blur:
            widths = [blur / step for step in scene.spacing]
            clean = ndimage.gaussian_filter(clean, widths, truncate=3)
        if bias_field:
            clean *= uneven
        if artefacts:
            clean = ghosting(clean, 0.4 * artefacts, num_ghosts=5).clip(0)
        channel[...] = rician_noise(clean, noise, grain) if noise else clean
    labels = np.where(tissue < _LABELS, tissue, 0).astype(np.int32)
    facts: dict[str, Any] = {
        "sequences": tuple(wanted),
        "regions": {
            "whole tumour": (4, 5, 6),
            "tumour core": (5, 6),
            "enhancing tumour": (5,),
        },
    }
    if tumour:
        facts["tumour_centre_mm"] = tuple(centre.tolist())
        facts["tumour_radius_mm"] = float(radius)
    pixels = image[0] if isinstance(sequences, str) else image
    return Phantom(pixels, labels, scene.spacing, _NAMES[:_LABELS], facts)


def _draw_head(s: Scene, rng: Generator) -> None:
    """Scalp, skull, brain and ventricles."""
    stretch = rng.uniform(0.96, 1.04, 3)
    z, y, x = (
        line / np.float32(scale)
        for line, scale in zip((s.z - 8, s.y, s.x), stretch, strict=True)
    )

    def ellipsoid(rz: float, ry: float, rx: float) -> Array:
        low = np.where(z < 0, z / np.float32(0.9 * rz), z / np.float32(rz))
        return np.sqrt(low**2 + (y / np.float32(ry)) ** 2 + (x / np.float32(rx)) ** 2)

    wide = 1 + np.float32(0.0007) * y  # wider behind than in front
    x = x / wide
    rho = ellipsoid(74, 84, 67)
    rho += np.float32(0.012) * s.noise(rng, 30)
    depth = (1 - rho) * 74  # mm below the surface, nearly

    neck = np.hypot(x / 58, (y - 12) / 62) < 1
    s.labels[(rho < 1.19) | (neck & (z < -30))] = _CODE["fat"]
    s.labels[(rho < 1.145) & (z < -25) | ((neck & (z < -30)) & (rho > 1.2))] = _CODE[
        "muscle"
    ]
    s.labels[rho < 1.13] = _CODE["bone"]
    s.labels[np.abs(rho - 1.095) < 0.014] = _CODE["marrow"]
    s.labels[rho < 1.045] = _CODE["cerebrospinal fluid"]

    # Furrows: where smooth noise passes 0. Its value over its mean slope, 2 / scale, is
    # the distance to there, nearly.
    scale = 9.5
    furrow = np.abs(s.noise(rng, scale)) * np.float32(scale / 2)
    reach = depth + 3 * s.noise(rng, 25)
    near_middle = np.abs(s.x) + np.where(depth < 30, 0, 99)
    cortex = (depth < 3.2) | ((furrow < 3.3) & (reach < 24)) | (near_middle < 4.2)
    fluid = ((furrow < 0.7) & (reach < 17)) | (near_middle < 1.2)
    brain = (depth > 0) & (z > -42)
    s.labels[(rho < 1.045) & (z < -44)] = _CODE["muscle"]
    s.labels[brain] = _CODE["white matter"]
    s.labels[brain & cortex] = _CODE["grey matter"]
    s.labels[brain & fluid] = _CODE["cerebrospinal fluid"]

    grey, white = _CODE["grey matter"], _CODE["white matter"]
    for side in (-1, 1):
        for where, radii, turn in (
            ((12, 9, 10), (9, 13, 8), 20),  # thalamus
            ((14, -10, 25), (11, 17, 5.5), -14),  # putamen
            ((19, -24, 12), (9, 8, 6), -10),  # head of the caudate nucleus
        ):
            at, rho = s.ball((*where[:2], side * where[2]), radii, turn=side * -turn)
            s.paint(at, rho < 1, 0, grey)
    at, rho = s.ball((-46, 44, 0), (25, 30, 46), waves=waves_in_space(rng, 0.02))
    s.paint(at, rho < 1.06, 0, _CODE["cerebrospinal fluid"])
    folia = np.cos(14 * rho * (1 + 0.3 * rho)) > -0.35
    s.paint(at, (rho < 1) & (folia | (rho > 0.93)), 0, grey)
    s.paint(at, (rho < 1) & ~(folia | (rho > 0.93)), 0, white)
    stem = np.array([(0, 10, 0), (-25, 10, 0), (-45, 16, 0), (-112, 26, 0.0)])
    s.tube(stem, np.array([14, 15, 13, 8.0]), 0, white)

    swell = rng.uniform(0.85, 1.25)
    csf = _CODE["cerebrospinal fluid"]
    for side in (-1, 1):
        horn = np.array(
            [(20, -36, 9), (26, -14, 8), (27, 10, 12), (19, 30, 21), (4, 22, 29.0)]
        ) * (1, 1, side)
        s.tube(horn, swell * np.array([4.5, 6, 5.5, 7, 3.5]), 0, csf)
    s.tube(np.array([(12, -12, 0), (10, 14, 0.0)]), np.array([2.6, 2.6]), 0, csf)


def _draw_tumour(s: Scene, rng: Generator, centre: Array, radius: float) -> None:
    white, fluid = _CODE["white matter"], _CODE["cerebrospinal fluid"]
    spread = rng.uniform(1.6, 2.1)
    waves = waves_in_space(rng, 0.12, 6)
    at, rho = s.ball(centre, [spread * radius] * 3, waves=waves)
    s.paint(at, (rho < 1) & (s.labels[at] == white), 0, _CODE["oedema"])
    radii = radius * rng.uniform(0.88, 1.12, 3)
    waves = waves_in_space(rng, 0.05)
    at, rho = s.ball(centre, radii, turn=rng.uniform(0, 180), waves=waves)
    brain = (s.labels[at] >= fluid) & (s.labels[at] < _LABELS)
    s.paint(at, (rho < 1) & brain, 0, _CODE["enhancing tumour"])
    at, rho = s.ball(
        centre + rng.uniform(-0.08, 0.08, 3) * radius,
        0.68 * radii,
        waves=waves_in_space(rng, 0.1),
    )
    inside = s.labels[at] == _CODE["enhancing tumour"]
    s.paint(at, (rho < 1) & inside, 0, _CODE["necrotic core"])
