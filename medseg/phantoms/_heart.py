"""A beating heart in short-axis slices, as cine magnetic resonance shows it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from medseg.artefacts import bias_field as coil_map
from medseg.artefacts import ghosting, rician_noise
from medseg.phantoms._brushes import Scene, waves_in_space
from medseg.phantoms._phantom import Phantom, check_count, check_range, check_size

Array = NDArray[Any]

# Balanced steady state: fluid and fat are bright, muscle dark, lung black.
CARDIAC_SIGNAL: dict[str, float] = {
    "blood": 1.0,
    "myocardium": 0.38,
    "fat": 0.9,
    "muscle": 0.3,
    "liver": 0.45,
    "lung": 0.06,
}
_NAMES = ("background", "left ventricle", "myocardium", "right ventricle")
_FIELD = (100.0, 256.0, 256.0)  # mm
_BASE = 40.0  # mm above the middle: the plane of the valves
_MUSCLE_DENSITY = 1.05  # g/ml


def cardiac_cine(
    size: tuple[int, ...] = (10, 128, 128),
    *,
    seed: int = 0,
    frames: int = 16,
    end_diastolic_ml: float = 140.0,
    ejection_fraction: float = 0.6,
    muscle_ml: float = 110.0,
    noise: float = 0.03,
    contrast: float = 1.0,
    bias_field: float = 0.3,
    artefacts: float = 0.0,
    blur: float = 0.8,
) -> Phantom:
    r"""A left ventricle of known volumes that beats, in short-axis slices.

    The cavity is half an ellipsoid below the plane of the valves, with half axes a, a
    and c, so its volume is :math:`V = \frac{2}{3} \pi a^2 c`. It follows a curve V(t)
    from the end-diastolic volume (frame 0) to

    .. math:: V_{ES} = V_{ED} (1 - EF), \quad EF = (V_{ED} - V_{ES}) / V_{ED}

    and back. Muscle cannot be compressed: the wall keeps its volume, and so grows
    thicker as the cavity shrinks. What is simple about it: the plane of the valves
    stays in its place, there are no papillary muscles and no twist.

    Args:
        size: ``(D, H, W)``: slices from apex to base, 10 mm apart for 10 of them; or
            ``(H, W)`` for one slice through the middle of the ventricle.
        seed: The same seed gives the same patient; volumes do not depend on it.
        frames: T, frames of one beat, 2 or more.
        end_diastolic_ml: Largest volume of the cavity, 40 to 400 ml.
        ejection_fraction: 0.05 to 0.8; 0.55 and more is healthy.
        muscle_ml: Volume of the wall, 40 to 300 ml.
        noise: Standard deviation of the noise in either channel, before the
            magnitude is taken, as a fraction of the blood's signal.
        contrast: 1 for ``CARDIAC_SIGNAL``; less moves the muscle's signal to that of
            blood, 0 makes them equal.
        bias_field: How much darker the coil's darkest spot is than its brightest.
        artefacts: Ghosts of motion from front to back, 0 for none, 1 for strong.
        blur: Standard deviation of the blur in the slice, in mm.

    Returns:
        ``image`` float32 ``(T, *size)``, blood being 1 before the dials; ``labels``
        int32 of the same shape: 1 left ventricle (its cavity), 2 myocardium, 3 right
        ventricle; ``spacing`` in mm along ``size``. ``facts``, exact for the shapes
        that are drawn: ``volumes_ml`` (T,) of the cavity, ``end_diastolic_ml``,
        ``end_systolic_ml``, ``stroke_ml``, ``ejection_fraction``, ``muscle_ml``,
        ``muscle_g``, ``end_systolic_frame``. Voxels of the labels add up to them as
        nearly as voxels can; for one slice they describe the whole ventricle.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> phantom = cardiac_cine((6, 32, 32), frames=4, ejection_fraction=0.5)
        >>> phantom.image.shape, phantom.facts["end_systolic_ml"]
        ((4, 6, 32, 32), 70.0)
    """
    if len(size) == 3 and size[0] >= 2:
        check_size(size[1:])
    else:
        check_size(size)
    check_count("frames", frames, least=2)
    check_range("end_diastolic_ml", end_diastolic_ml, 40, 400)
    check_range("ejection_fraction", ejection_fraction, 0.05, 0.8)
    check_range("muscle_ml", muscle_ml, 40, 300)
    check_range("noise", noise, 0, 1)
    check_range("contrast", contrast, 0, 1)
    check_range("bias_field", bias_field, 0, 1)
    check_range("artefacts", artefacts, 0, 1)
    check_range("blur", blur, 0, 20)
    anatomy, coil, grain = np.random.default_rng(seed).spawn(3)

    scene = Scene(size, _FIELD, plane=_BASE - 35)
    chest = _draw_chest(scene, anatomy)
    volumes, lowest = _beat(frames, end_diastolic_ml, ejection_fraction)
    uneven = coil_map(scene.size, bias_field, coil) if bias_field else None
    centre = np.array((-8.0, 22.0)) + anatomy.normal(0, 2, 2)  # y, x
    muscle = CARDIAC_SIGNAL["myocardium"]
    muscle = 1 + contrast * (muscle - 1)
    images, labels = [], []
    for volume in volumes:
        scene.values[...] = chest
        scene.labels[...] = 0
        _draw_ventricles(scene, volume, muscle_ml, end_diastolic_ml, centre, muscle)
        image = scene.values
        if blur:
            widths = [0.0, *(blur / step for step in scene.spacing[-2:])]
            image = ndimage.gaussian_filter(image, widths, truncate=3)
        if uneven is not None:
            image = image * uneven
        if artefacts:
            image = ghosting(image, 0.4 * artefacts, num_ghosts=6).clip(0)
        image = rician_noise(image, noise, grain) if noise else image.copy()
        images.append(scene.squeezed(image))
        labels.append(scene.squeezed(scene.labels).astype(np.int32))
    end_systolic = end_diastolic_ml * (1 - ejection_fraction)
    facts = {
        "volumes_ml": volumes,
        "end_diastolic_ml": float(end_diastolic_ml),
        "end_systolic_ml": float(end_systolic),
        "stroke_ml": float(end_diastolic_ml - end_systolic),
        "ejection_fraction": float(ejection_fraction),
        "muscle_ml": float(muscle_ml),
        "muscle_g": float(muscle_ml * _MUSCLE_DENSITY),
        "end_systolic_frame": lowest,
    }
    return Phantom(np.stack(images), np.stack(labels), scene.spacing, _NAMES, facts)


def _beat(frames: int, largest: float, fraction: float) -> tuple[Array, int]:
    """Volumes over one beat, and the frame of the smallest: a third of the way."""
    lowest = max(1, round(0.38 * frames))
    t = np.arange(frames)
    falling = t / lowest
    rising = (t - lowest) / (frames - lowest)
    emptied = np.where(
        t <= lowest,
        0.5 - 0.5 * np.cos(np.pi * falling),
        0.5 + 0.5 * np.cos(np.pi * rising.clip(0, 1) ** 0.7),
    )
    return largest * (1 - fraction * emptied), lowest


def ventricle_axes(volume: float, muscle: float, largest: float) -> Array:
    """Half axes in mm: a and c of the cavity, then those of the wall's outside.

    The cavity's length is 1.9 of its radius when it is full, and shrinks by the cube
    root of the volume to the power 0.7; the wall is equally thick all around.
    """
    full = (largest * 1000 * 3 / (2 * np.pi * 1.9)) ** (1 / 3)
    c = 1.9 * full * (volume / largest) ** 0.23
    a = np.sqrt(volume * 1000 * 3 / (2 * np.pi * c))
    total = (volume + muscle) * 1000 * 3 / (2 * np.pi)
    wall = optimize.brentq(lambda w: (a + w) ** 2 * (c + w) - total, 0, 100)
    return np.array([a, c, a + wall, c + wall])


def _draw_ventricles(
    s: Scene, volume: float, muscle: float, largest: float, centre: Array, level: float
) -> None:
    a, c, outer_a, outer_c = ventricle_axes(volume, muscle, largest)
    depth = np.float32(_BASE) - s.z  # below the valves
    below = depth > 0
    y, x = s.y - np.float32(centre[0]), s.x - np.float32(centre[1])
    flat = x * x + y * y
    cavity = below & (flat / a**2 + (depth / c) ** 2 < 1)
    wall = below & (flat / outer_a**2 + (depth / outer_c) ** 2 < 1)
    # The right ventricle: what an ellipsoid has outside of the left one's wall.
    shrink = (volume / largest) ** 0.4
    right = (
        ((x + 30) / (33 * shrink)) ** 2
        + ((y + 4) / (40 * shrink**0.5)) ** 2
        + (depth / (0.9 * outer_c)) ** 2
    )
    rim = (
        ((x + 30) / (33 * shrink + 3.5)) ** 2
        + ((y + 4) / (40 * shrink**0.5 + 3.5)) ** 2
        + (depth / (0.9 * outer_c + 3)) ** 2
    )
    s.values[(rim < 1) & below] = level
    for where, value, label in (
        (right < 1, CARDIAC_SIGNAL["blood"], 3),
        (wall, level, 2),
        (cavity, CARDIAC_SIGNAL["blood"], 1),
    ):
        inside = where & below
        s.values[inside] = value
        s.labels[inside] = label


def _draw_chest(s: Scene, rng: np.random.Generator) -> Array:
    """What does not beat: lung, wall of the chest, liver, spine, aorta, fat."""
    signal = CARDIAC_SIGNAL
    y, x = s.y, s.x
    trunk = np.hypot(x / 150, (y - 20) / 104)
    trunk = np.broadcast_to(trunk, s.size)
    chest = np.full(s.size, 0.0, np.float32)
    chest[trunk < 1] = signal["fat"]
    chest[trunk < 0.93] = signal["muscle"]
    chest[trunk < 0.86] = signal["fat"]
    chest[trunk < 0.84] = signal["muscle"]
    chest[trunk < 0.76] = signal["lung"]
    s.values[...] = chest
    for centre, radii, value in (
        ((0, 88, -5), (90, 24, 26), signal["muscle"]),  # spine
        ((0, 84, -5), (90, 15, 17), 0.5),
        ((0, 60, 24), (90, 13, 13), signal["muscle"]),
        ((0, 60, 24), (90, 11, 11), signal["blood"]),  # descending aorta
        ((-62, 30, -62), (75, 66, 66), signal["liver"]),
        ((0, -2, 4), (80, 48, 62), 0.62),  # fat and vessels around the heart
        ((4, -8, 16), (72, 46, 46), signal["lung"]),
        ((60, -2, 2), (28, 40, 50), signal["blood"]),  # atria and great vessels
    ):
        waves = waves_in_space(rng, 0.02)
        at, rho = s.ball(centre, radii, waves=waves)
        where = (rho < 1) & (trunk[at] < 0.84)
        s.paint(at, where, value)
    return s.values.copy()
