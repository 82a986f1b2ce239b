"""Elastic deformation as in the U-Net's paper."""

from collections.abc import Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[Any]


def elastic_field(
    shape: tuple[int, ...],
    rng: Generator,
    *,
    sd: float | Sequence[float] = 10.0,
    grid: int = 3,
) -> NDArray[np.float32]:
    """Displacements that change smoothly: random vectors on a coarse grid, bicubic.

    The grid's outer points lie on the edges of the image. Each component of each
    vector is drawn from a normal distribution; between the points the displacement of
    each pixel is interpolated by cubic convolution, and outside of the grid its
    outermost vectors go on.

    Args:
        shape: ``(H, W)`` or ``(D, H, W)``, each 2 or more.
        rng: Where the chance comes from.
        sd: Standard deviation of a component in pixels; one for each axis for voxels
            that are not cubes.
        grid: Points along each axis, 2 or more.

    Returns:
        Displacements in pixels, one map an axis, ``(len(shape), *shape)`` float32: the
        new pixel at p shows what was at p + displacement.

    Raises:
        ValueError: A number is out of its range.

    Source:
        ronneberger2015unet, section 3.1: a grid of 3 x 3, 10 pixels.

    Example:
        >>> field = elastic_field((64, 64), np.random.default_rng(0), sd=2)
        >>> field.shape
        (2, 64, 64)
    """
    sds = np.broadcast_to(np.asarray(sd, float), len(shape))
    if (sds < 0).any() or not np.isfinite(sds).all():
        raise ValueError(f"sd must be 0 or more pixels, got {sd}.")
    if grid < 2 or int(grid) != grid:
        raise ValueError(f"grid must be a whole number of points, 2 or more: {grid}.")
    if min(shape) < 2:
        raise ValueError(f"shape must be 2 or more pixels along each axis: {shape}.")
    points = (len(shape), *(grid,) * len(shape))
    field = rng.standard_normal(points) * sds.reshape(-1, *(1,) * len(shape))
    for axis, n in enumerate(shape, start=1):
        weights = _cubic_weights(n, grid)  # (n, grid)
        field = np.moveaxis(np.tensordot(weights, field, (1, axis)), 0, axis)
    return field.astype(np.float32)


def _cubic_weights(n: int, grid: int) -> NDArray[np.float64]:
    """Cubic convolution (Catmull-Rom) from points on the edges to n pixels."""
    place = np.linspace(0, grid - 1, n)
    weights = np.zeros((n, grid))
    for point in range(-1, grid + 1):
        t = np.abs(place - point)
        kernel = np.where(
            t <= 1,
            1.5 * t**3 - 2.5 * t**2 + 1,
            np.where(t < 2, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2, 0.0),
        )
        weights[:, min(max(point, 0), grid - 1)] += kernel
    return weights


def warp(image: Array, field: Array, *, nearest: bool = False) -> Array:
    """Move the pixels of an image: the new one at p shows what was at p + field(p).

    Args:
        image: ``(H, W)`` or ``(H, W, C)``, of any number type.
        field: ``(2, H, W)``: displacement in pixels along H and W.
        nearest: Take the nearest pixel, for labels; otherwise bilinear. What lies
            outside of the image is its mirror.

    Returns:
        An array of the image's shape and dtype.

    Raises:
        ValueError: Shapes do not belong together, or integers of more than 8 bits
            would be interpolated.
    """
    image = np.asarray(image)
    if field.shape != (2, *image.shape[:2]):
        raise ValueError(
            f"field must have shape {(2, *image.shape[:2])} for an image of shape "
            f"{image.shape}, got {field.shape}."
        )
    # OpenCV knows few dtypes; float64 holds every label up to 2 ** 53.
    known = image.dtype in (np.uint8, np.float32, np.float64)
    if not known and not nearest:
        raise ValueError(
            f"only uint8 and float images are interpolated, got {image.dtype}. Convert "
            "the image to float32, or set nearest=True for labels."
        )
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    rows += field[0]
    columns += field[1]
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    planes = image if known else image.astype(np.float64)
    planes = planes.reshape(*image.shape[:2], -1)
    moved = [  # OpenCV takes up to four channels at once
        cv2.remap(
            np.ascontiguousarray(planes[..., start : start + 4]),
            columns,
            rows,
            how,
            borderMode=cv2.BORDER_REFLECT_101,
        ).reshape(*image.shape[:2], -1)
        for start in range(0, planes.shape[2], 4)
    ]
    return np.concatenate(moved, axis=2).reshape(image.shape).astype(image.dtype)


class ElasticGrid(A.DualTransform):
    """:func:`elastic_field` and :func:`warp` as a step of albumentations.

    Image, mask and additional targets move together, masks by the nearest pixel.

    Args:
        sd: Standard deviation of the displacements in pixels. The paper's 10 belong to
            images of 512 pixels.
        grid: Points along each axis.
        p: Chance that an image is bent.

    Raises:
        ValueError: A number is out of its range.

    Source:
        ronneberger2015unet, section 3.1.
    """

    _targets = (
        A.core.type_definitions.Targets.IMAGE,
        A.core.type_definitions.Targets.MASK,
    )

    def __init__(self, sd: float = 10.0, grid: int = 3, p: float = 1.0) -> None:
        super().__init__(p=p)
        elastic_field((2, 2), np.random.default_rng(0), sd=sd, grid=grid)  # the door
        self.sd, self.grid = sd, grid

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """Draw one field for all that moves together."""
        shape = params["shape"][:2]
        field = elastic_field(shape, self.random_generator, sd=self.sd, grid=self.grid)
        return {"field": field}

    def apply(self, img: Array, *args: Any, **params: Any) -> Array:
        """Bend an image."""
        return warp(img, params["field"])

    def apply_to_mask(self, mask: Array, *args: Any, **params: Any) -> Array:
        """Bend labels."""
        return warp(mask, params["field"], nearest=True)

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        """Names of the arguments, for a description."""
        return ("sd", "grid")
