"""Augmentation of volumes: image and labels are moved together, once."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medseg import artefacts
from medseg.checks import as_spacing
from medseg.transforms._elastic import elastic_field

Array = NDArray[Any]


def rotation_matrix(degrees: Sequence[float]) -> NDArray[np.float64]:
    """The turn about the axes z, y and x, one after the other, of points (z, y, x).

    Args:
        degrees: Angle about each axis. About z, positive turns y towards x.

    Example:
        >>> rotation_matrix((90, 0, 0)).round() @ (0, 1, 0)
        array([0., 0., 1.])
    """
    matrix = np.eye(3)
    for (a, b), angle in zip(
        ((1, 2), (0, 2), (0, 1)), np.deg2rad(degrees), strict=True
    ):
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[b, a], turn[a, b] = np.sin(angle), -np.sin(angle)
        matrix = turn @ matrix
    return matrix


def warp_volume(
    volume: Array,
    spacing: Sequence[float],
    *,
    matrix: Array | None = None,
    displacement: Array | None = None,
    labels: str | None = None,
) -> Array:
    """Turn, scale and bend a volume about its middle, in one interpolation.

    Args:
        volume: ``(D, H, W)``, or ``(C, D, H, W)`` for an image.
        spacing: mm along D, H, W: angles are angles in the body, whose voxels are no
            cubes.
        matrix: 3 x 3, where a point (z, y, x), in mm from the middle, goes. None: it
            stays.
        displacement: ``(3, D, H, W)`` in voxels, as of :func:`elastic_field`. None: 0.
        labels: None for an image, interpolated linearly; "nearest" for labels; "linear"
            for labels, each interpolated linearly by itself, of which the largest wins:
            smoother borders, at the cost of one interpolation a label.

    Returns:
        An array of the same shape; float32 for an image, of the same dtype for labels.
        What lies outside of the volume is its mirror.

    Raises:
        ValueError: Shapes do not belong together, the matrix cannot be inverted, or
            ``labels`` is something else.
    """
    volume = np.asarray(volume)
    spacing = as_spacing(spacing, 3)
    if volume.ndim not in (3, 4) or (labels and volume.ndim == 4):
        raise ValueError(
            "volume must have shape (D, H, W), or (C, D, H, W) for an image, got "
            f"{volume.shape}."
        )
    if labels not in (None, "nearest", "linear"):
        raise ValueError(f"labels must be None, 'nearest' or 'linear', got {labels!r}.")
    grid = _grid(volume.shape[-3:], spacing, matrix, displacement)
    if labels is None:
        image = torch.from_numpy(np.array(volume, np.float32, ndmin=4))
        moved = _sample(image, grid).numpy()
        return moved.reshape(volume.shape)
    if labels == "nearest":
        # Their numbers, which float32 holds exactly however large the labels are.
        values, numbers = np.unique(volume, return_inverse=True)
        numbers = numbers.reshape(volume.shape).astype(np.float32)
        picked = _sample(torch.from_numpy(numbers)[None], grid, "nearest")[0]
        return values[picked.long().numpy()]
    best, winner = None, None
    for value in np.unique(volume):
        mask = torch.from_numpy((volume == value).astype(np.float32))
        share = _sample(mask[None], grid)[0].numpy()
        if best is None or winner is None:
            best, winner = share, np.full(volume.shape, value)
        else:
            more = share > best
            winner[more], best = value, np.maximum(share, best)
    assert winner is not None
    return winner


def _grid(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    matrix: Array | None,
    displacement: Array | None,
) -> Tensor:
    """Where each new voxel looks, as ``grid_sample`` wants it: x, y, z from -1 to 1."""
    if displacement is not None and displacement.shape != (3, *shape):
        raise ValueError(
            f"displacement must have shape {(3, *shape)}, got {displacement.shape}."
        )
    half = [(n - 1) / 2 for n in shape]
    if matrix is None:
        back = np.eye(3)
    else:
        if np.shape(matrix) != (3, 3) or abs(np.linalg.det(matrix)) < 1e-6:
            raise ValueError(f"matrix must be an invertible 3 x 3 one, got {matrix}.")
        # From mm to voxels on both sides.
        back = np.linalg.inv(matrix) * np.array(spacing) / np.array(spacing)[:, None]
    lines = [
        torch.arange(n, dtype=torch.float32) - h
        for n, h in zip(shape, half, strict=True)
    ]
    z, y, x = torch.meshgrid(*lines, indexing="ij")
    looks = []
    for axis in range(3):
        a, b, c = (float(v) for v in back[axis])
        look = a * z + b * y + c * x
        if displacement is not None:
            look = look + torch.from_numpy(np.asarray(displacement[axis], np.float32))
        looks.append(look / max(half[axis], 0.5))
    return torch.stack(looks[::-1], dim=-1)[None]  # (1, D, H, W, 3)


def _sample(image: Tensor, grid: Tensor, mode: str = "bilinear") -> Tensor:
    """``(C, D, H, W)`` seen at the places of the grid."""
    return F.grid_sample(
        image[None], grid, mode=mode, padding_mode="reflection", align_corners=True
    )[0]


class VolumeTransform:
    """Steps of chance for volumes, called as an albumentations ``Compose`` is.

    ``transform(image=..., mask=..., weights=...)`` moves all of them together: arrays
    of floating point numbers linearly, integers and booleans as labels; and changes
    the values of ``image`` alone. Data sets of this package seed it by
    :meth:`set_random_state`, so that any number of workers works.

    It is made by :func:`make_volume_transform`, whose arguments its attributes are.
    """

    def __init__(self, options: Mapping[str, Any], seed: int | None) -> None:
        self.options = dict(options)
        self.seed = seed
        self.random_generator = np.random.default_rng(seed)

    def set_random_state(
        self, random_generator: Generator, py_random: random.Random | None = None
    ) -> None:
        """Go on with this generator; the second is taken for albumentations' sake."""
        self.random_generator = random_generator

    def __call__(self, *, image: Array, **others: Array) -> dict[str, Tensor]:
        """Return tensors: image ``(C, D, H, W)`` float32, the others ``(D, H, W)``."""
        image = np.asarray(image)
        if image.ndim == 3:
            image = image[None]
        if image.ndim != 4 or image.dtype.kind not in "fui":
            raise ValueError(
                "image must be numbers of shape (D, H, W) or (C, D, H, W), got "
                f"{image.dtype} of shape {image.shape}."
            )
        for name, array in others.items():
            if np.shape(array) != image.shape[1:]:
                raise ValueError(
                    f"{name} must have the image's shape {image.shape[1:]}, got "
                    f"{np.shape(array)}."
                )
        rng, o = self.random_generator, self.options
        arrays = {"image": image.astype(np.float32)} | {
            name: np.asarray(array) for name, array in others.items()
        }
        arrays = self._move(arrays, rng)
        pixels = arrays["image"]
        for chance, change in (
            (o["p_gamma"], _bend),
            (o["p_contrast"], _stretch),
            (o["p_bias_field"], _shade),
            (o["p_blur"], _soften),
            (o["p_noise"], _add_noise),
        ):
            if rng.random() < chance:
                pixels = np.stack([change(channel, rng) for channel in pixels])
        arrays["image"] = pixels
        return {
            name: torch.from_numpy(np.ascontiguousarray(array))
            for name, array in arrays.items()
        }

    def _move(self, arrays: dict[str, Array], rng: Generator) -> dict[str, Array]:
        o = self.options
        shape = arrays["image"].shape[1:]
        flips = tuple(axis - 3 for axis in o["flip_axes"] if rng.random() < 0.5)
        matrix = displacement = None
        if rng.random() < o["p_affine"]:
            angles = [rng.uniform(-a, a) for a in o["rotate"]]
            low, high = np.log(o["scale"])
            matrix = rotation_matrix(angles) * np.exp(rng.uniform(low, high))
        if rng.random() < o["p_elastic"]:
            sd = [o["elastic_mm"] / step for step in o["spacing"]]
            displacement = elastic_field(shape, rng, sd=sd, grid=o["elastic_grid"])
        moved = {}
        for name, array in arrays.items():
            if matrix is not None or displacement is not None:
                array = warp_volume(
                    array,
                    o["spacing"],
                    matrix=matrix,
                    displacement=displacement,
                    labels=None if array.dtype.kind == "f" else o["labels"],
                )
            moved[name] = np.flip(array, flips) if flips else array
        return moved


def make_volume_transform(
    spacing: Sequence[float],
    *,
    flip_axes: Sequence[int] = (0, 1, 2),
    rotate: float | Sequence[float] = 15.0,
    scale: tuple[float, float] = (0.8, 1.25),
    elastic_mm: float = 4.0,
    elastic_grid: int = 4,
    labels: str = "nearest",
    p_affine: float = 0.5,
    p_elastic: float = 0.2,
    p_gamma: float = 0.3,
    p_contrast: float = 0.3,
    p_bias_field: float = 0.1,
    p_blur: float = 0.15,
    p_noise: float = 0.2,
    seed: int | None = None,
) -> VolumeTransform:
    """Augmentation of volumes: mirrored, turned, scaled, bent; other grey values.

    All movements are joined into one, so that the image is interpolated once. Values
    are changed for each channel by itself; none needs a certain range, so images may
    be normalised before.

    Args:
        spacing: mm along D, H, W.
        flip_axes: Axes of ``(D, H, W)`` to mirror, each half of the time; () for none.
            A mirrored patient has the liver on the wrong side.
        rotate: Largest angle in degrees about the axes, one for all or for z, y, x.
            Thick slices bear a turn about z only: (15, 0, 0).
        scale: Smallest and largest factor of size, above 0.
        elastic_mm: Standard deviation of the elastic displacements in mm.
        elastic_grid: Points of their grid along each axis.
        labels: How integer arrays are moved: "nearest", or "linear" for smoother
            borders, see :func:`warp_volume`.
        p_affine: Chance that a volume is turned and scaled.
        p_elastic: Chance that it is bent.
        p_gamma: Chance that its grey scale is bent, by an exponent of 0.7 to 1.5.
        p_contrast: Chance that its contrast is multiplied by 0.75 to 1.25.
        p_bias_field: Chance of a bias field, of up to 0.4.
        p_blur: Chance of a blur of 0.5 to 1 voxels.
        p_noise: Chance of noise, of up to 0.1 of the image's standard deviation.
        seed: Start of the random stream when the transform is called directly. None:
            a different one each time, or, in a data set of this package, the one of
            ``torch.manual_seed``.

    Returns:
        A transform from ``image=`` ``(D, H, W)`` or ``(C, D, H, W)``, ``mask=``
        ``(D, H, W)`` and further arrays to a dictionary of tensors.

    Raises:
        ValueError: A number is out of its range.

    Example:
        >>> transform = make_volume_transform((3, 1, 1), rotate=(15, 0, 0), seed=0)
        >>> image = np.zeros((8, 16, 16), np.float32)
        >>> out = transform(image=image, mask=image.astype(np.uint8))
        >>> out["image"].shape, out["mask"].dtype
        (torch.Size([1, 8, 16, 16]), torch.uint8)
    """
    angles = np.broadcast_to(np.asarray(rotate, float), 3)
    if (angles < 0).any() or (angles > 180).any():
        raise ValueError(f"rotate must be one or three angles, 0 to 180, got {rotate}.")
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(
            f"scale must be a smallest and a largest factor above 0, got {scale}."
        )
    if not set(flip_axes) <= {0, 1, 2}:
        raise ValueError(f"flip_axes must be among 0, 1, 2, got {tuple(flip_axes)}.")
    if labels not in ("nearest", "linear"):
        raise ValueError(f"labels must be 'nearest' or 'linear', got {labels!r}.")
    elastic_field((2, 2, 2), np.random.default_rng(0), sd=elastic_mm, grid=elastic_grid)
    chances = {
        "p_affine": p_affine,
        "p_elastic": p_elastic,
        "p_gamma": p_gamma,
        "p_contrast": p_contrast,
        "p_bias_field": p_bias_field,
        "p_blur": p_blur,
        "p_noise": p_noise,
    }
    for name, chance in chances.items():
        if not 0 <= chance <= 1:
            raise ValueError(f"{name} must lie between 0 and 1, got {chance}.")
    options = {
        "spacing": as_spacing(spacing, 3),
        "flip_axes": tuple(sorted(set(flip_axes))),
        "rotate": tuple(angles.tolist()),
        "scale": tuple(scale),
        "elastic_mm": float(elastic_mm),
        "elastic_grid": int(elastic_grid),
        "labels": labels,
        **chances,
    }
    return VolumeTransform(options, seed)


def _bend(channel: Array, rng: Generator) -> Array:
    return artefacts.gamma(channel, float(np.exp(rng.uniform(*np.log((0.7, 1.5))))))


def _stretch(channel: Array, rng: Generator) -> Array:
    middle = channel.mean()
    return middle + np.float32(rng.uniform(0.75, 1.25)) * (channel - middle)


def _shade(channel: Array, rng: Generator) -> Array:
    """A bias field about the darkest value, which is 0 only before normalising."""
    low = channel.min()
    field = artefacts.bias_field(channel.shape, rng.uniform(0, 0.4), rng)
    return low + (channel - low) * field


def _soften(channel: Array, rng: Generator) -> Array:
    return ndimage.gaussian_filter(channel, rng.uniform(0.5, 1.0))


def _add_noise(channel: Array, rng: Generator) -> Array:
    sd = np.float32(rng.uniform(0, 0.1) * channel.std())
    return channel + sd * rng.standard_normal(channel.shape, np.float32)
