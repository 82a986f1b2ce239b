"""Grey values: CT windows, and normalisation for networks."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Window(NamedTuple):
    """Which Hounsfield units are shown: ``level`` in the middle, ``width`` of them."""

    level: float
    width: float


WINDOWS = {
    "lung": Window(-600, 1500),
    "mediastinum": Window(50, 350),
    "soft tissue": Window(50, 400),
    "liver": Window(30, 150),
    "bone": Window(400, 1800),
    "brain": Window(40, 80),
}


def apply_window(values: ArrayLike, level: float, width: float) -> NDArray[np.float32]:
    """Map a window of a CT to 0..1; what lies below is 0, what lies above 1.

    Named windows are in ``WINDOWS``; hospitals differ a little:
    ``apply_window(ct.array, *WINDOWS["lung"])``.

    Args:
        values: Hounsfield units, any shape.
        level: Middle of the window, in HU.
        width: Its width, in HU.

    Returns:
        float32 in [0, 1], same shape. (DICOM's LINEAR_EXACT function.)

    Raises:
        ValueError: ``width`` is not positive.

    Example:
        >>> apply_window([-1000, 40, 60, 3000], *WINDOWS["brain"]).tolist()
        [0.0, 0.5, 0.75, 1.0]
    """
    if not width > 0:
        raise ValueError(
            f"the width of a window must be positive, in HU, got {width}. Level comes "
            "first: apply_window(values, level, width)."
        )
    scaled = (np.asarray(values, np.float32) - np.float32(level)) / np.float32(width)
    return np.clip(scaled + np.float32(0.5), 0, 1)


@dataclass(frozen=True)
class IntensityFingerprint:
    """Grey values of the foreground of a training set.

    Take it from the training cases alone, keep it with the weights, and use it for
    every image that the network sees.
    """

    mean: float
    std: float
    low: float  # percentile 0.5
    high: float  # percentile 99.5


def intensity_fingerprint(
    cases: Iterable[tuple[ArrayLike, ArrayLike]], *, samples_per_case: int = 10_000
) -> IntensityFingerprint:
    """Mean, spread and percentiles of the labelled voxels of a training set.

    Of each case the same number of voxels is taken, evenly over its foreground, so that
    large organs and large images do not count more.

    Args:
        cases: Image and label map of each case, of one shape; what is not 0 is
            foreground. A generator will do: one case is in memory at a time.
        samples_per_case: How many voxels of each are taken, if it has as many.

    Returns:
        Percentiles 0.5 and 99.5, and the mean and standard deviation of all values,
        those beyond the percentiles included.

    Raises:
        ValueError: Shapes differ, or there is no foreground in any case.

    Source:
        isensee2021nnunet.
    """
    samples = []
    for image, labels in cases:
        values, mask = np.asarray(image), np.asarray(labels) != 0
        if values.shape != mask.shape:
            raise ValueError(
                f"an image of shape {values.shape} came with labels of shape "
                f"{mask.shape}; expected the same grid."
            )
        inside = values[mask]
        count = min(samples_per_case, inside.size)
        index = np.linspace(0, inside.size - 1, count).round().astype(int)
        samples.append(inside[index].astype(np.float64))
    if not any(part.size for part in samples):
        raise ValueError(
            f"none of {len(samples)} case(s) has foreground, so there are no values to "
            "measure. Check that the labels were read."
        )
    every = np.concatenate(samples)
    low, high = np.percentile(every, (0.5, 99.5))
    return IntensityFingerprint(
        mean=float(every.mean()),
        std=float(every.std()),
        low=float(low),
        high=float(high),
    )


def normalise_ct(
    values: ArrayLike, fingerprint: IntensityFingerprint
) -> NDArray[np.float32]:
    """Clip a CT to the training set's percentiles, subtract its mean, divide by its sd.

    Hounsfield units mean the same in every scan, so all scans are treated alike.

    Args:
        values: Hounsfield units, any shape.
        fingerprint: From :func:`intensity_fingerprint` over the training cases.

    Returns:
        float32, same shape; all 0 where the training values were constant.

    Source:
        isensee2021nnunet.
    """
    clipped = np.clip(
        np.asarray(values, np.float32),
        np.float32(fingerprint.low),
        np.float32(fingerprint.high),
    )
    return (clipped - np.float32(fingerprint.mean)) / np.float32(fingerprint.std or 1)


def normalise_mr(
    values: ArrayLike, mask: ArrayLike | None = None
) -> NDArray[np.float32]:
    """Give the body of an MR image mean 0 and standard deviation 1.

    MR values have no unit, so each image (and each channel, each for itself) is its own
    reference.

    Args:
        values: One channel, any shape.
        mask: Voxels that count, of the same shape. None: those that are not 0, as in
            brains without skull. Voxels outside become 0.

    Returns:
        float32, same shape; all 0 where nothing counts or values are constant.

    Raises:
        ValueError: The mask has another shape, or a value that counts is not finite.

    Source:
        isensee2021nnunet.

    Example:
        >>> normalise_mr([0, 0, 3, 5]).tolist()
        [0.0, 0.0, -1.0, 1.0]
    """
    array = np.asarray(values)
    inside = array != 0 if mask is None else np.asarray(mask) != 0
    if inside.shape != array.shape:
        raise ValueError(
            f"a mask of shape {inside.shape} came with an image of shape "
            f"{array.shape}; expected the same grid, one channel at a time."
        )
    body: NDArray[Any] = array[inside].astype(np.float64)
    if not np.isfinite(body).all():
        raise ValueError(
            f"the image holds {int((~np.isfinite(body)).sum())} NaN or infinite "
            "value(s). Leave them out with mask=np.isfinite(values)."
        )
    result = np.zeros(array.shape, np.float32)
    if body.size and body.std() > 0:
        result[inside] = (body - body.mean()) / body.std()
    return result
