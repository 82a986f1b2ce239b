"""What scanners do to an image, drawn anew for each: steps of albumentations.

The plain functions are those of ``medseg.artefacts``.
"""

from typing import Any

import albumentations as A
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from medseg import artefacts
from medseg.volumes import apply_window

Array = NDArray[Any]
Range = tuple[float, float]


class _Intensity(A.ImageOnlyTransform):
    """A step that changes values only, and keeps the dtype of the image."""

    names: tuple[str, ...] = ()

    def change(self, image: NDArray[np.float32], rng: Generator) -> Array:
        """Return the new values of an image ``(H, W, C)``."""
        raise NotImplementedError

    def get_params(self) -> dict[str, Any]:
        """Draw one seed for all images that are changed together."""
        return {"seed": int(self.random_generator.integers(2**63))}

    def apply(self, img: Array, *args: Any, **params: Any) -> Array:
        """Change an image ``(H, W)`` or ``(H, W, C)``, uint8 or float32."""
        if img.dtype not in (np.uint8, np.float32):
            raise TypeError(
                f"{type(self).__name__} takes uint8 or float32 images, got {img.dtype}."
            )
        values = img.astype(np.float32).reshape(*img.shape[:2], -1)
        new = self.change(values, np.random.default_rng(params["seed"]))
        if img.dtype == np.uint8:
            new = np.rint(new).clip(0, 255)
        return new.astype(img.dtype).reshape(img.shape)

    def get_transform_init_args_names(self) -> tuple[str, ...]:
        """Names of the arguments, for a description."""
        return self.names


class BiasField(_Intensity):
    """Multiply with :func:`medseg.artefacts.bias_field`: an uneven coil or lamp.

    Args:
        strength: Range of how much darker the darkest spot becomes, within 0 to 1.
        p: Chance that an image is changed.

    Raises:
        ValueError: The range is not one.
    """

    names = ("strength",)

    def __init__(self, strength: Range = (0.0, 0.5), p: float = 0.5) -> None:
        super().__init__(p=p)
        self.strength = _range(strength, "strength", 0, 1)

    def change(self, image: NDArray[np.float32], rng: Generator) -> Array:
        """Multiply with the field."""
        field = artefacts.bias_field(image.shape[:2], rng.uniform(*self.strength), rng)
        return image * field[..., None]


class Ghosting(_Intensity):
    """Add :func:`medseg.artefacts.ghosting`, along either axis.

    Args:
        strength: Range of the strength, from 0 on.
        num_ghosts: Smallest and largest number of parts that the copies cut the image
            into, from 2 on.
        p: Chance that an image is changed.

    Raises:
        ValueError: A range is not one.
    """

    names = ("strength", "num_ghosts")

    def __init__(
        self,
        strength: Range = (0.0, 0.4),
        num_ghosts: tuple[int, int] = (2, 8),
        p: float = 0.5,
    ) -> None:
        super().__init__(p=p)
        self.strength = _range(strength, "strength", 0, np.inf)
        low, high = _range(num_ghosts, "num_ghosts", 2, np.inf)
        self.num_ghosts = (int(low), int(high))

    def change(self, image: NDArray[np.float32], rng: Generator) -> Array:
        """Add the ghosts."""
        low, high = self.num_ghosts
        return artefacts.ghosting(
            image,
            rng.uniform(*self.strength),
            num_ghosts=int(rng.integers(low, high + 1)),
            axis=int(rng.integers(2)),
        )


class Gamma(_Intensity):
    """Bend the grey scale by :func:`medseg.artefacts.gamma`, whatever its range.

    Exponents are drawn so that brighter and darker are equally likely: evenly in their
    logarithm.

    Args:
        exponent: Smallest and largest exponent, above 0.
        p: Chance that an image is changed.

    Raises:
        ValueError: The range is not one.
    """

    names = ("exponent",)

    def __init__(self, exponent: Range = (0.7, 1.5), p: float = 0.5) -> None:
        super().__init__(p=p)
        self.exponent = _range(exponent, "exponent", 1e-3, np.inf)

    def change(self, image: NDArray[np.float32], rng: Generator) -> Array:
        """Bend the grey scale."""
        low, high = np.log(self.exponent)
        return artefacts.gamma(image, float(np.exp(rng.uniform(low, high))))


class RicianNoise(_Intensity):
    """Add :func:`medseg.artefacts.rician_noise`, before the image is normalised.

    Args:
        sd: Range of the standard deviation, as a fraction of the image's largest value.
        p: Chance that an image is changed.

    Raises:
        ValueError: The range is not one.
    """

    names = ("sd",)

    def __init__(self, sd: Range = (0.0, 0.08), p: float = 0.5) -> None:
        super().__init__(p=p)
        self.sd = _range(sd, "sd", 0, np.inf)

    def change(self, image: NDArray[np.float32], rng: Generator) -> Array:
        """Add the noise."""
        sd = rng.uniform(*self.sd) * float(image.max(initial=0))
        return artefacts.rician_noise(image, sd, rng)


class WindowJitter(_Intensity):
    """HU to 0..1 by a window whose width and level change from image to image.

    Args:
        level: Middle of the window in HU.
        width: Its width in HU, above 0.
        jitter: How much the two change, as a fraction of the width, 0 to 0.5; the
            changes are drawn evenly. 0: always the same window.
        p: Chance that an image is changed at all; below 1 some stay in HU.

    Raises:
        TypeError: An image is not float32: 8 bits cannot hold HU.
        ValueError: A number is out of its range.
    """

    names = ("level", "width", "jitter")

    def __init__(
        self, level: float, width: float, *, jitter: float = 0.1, p: float = 1.0
    ) -> None:
        super().__init__(p=p)
        if not width > 0:
            raise ValueError(f"the window's width must be above 0 HU, got {width}.")
        self.jitter = _range((0, jitter), "jitter", 0, 0.5)[1]
        self.width, self.level = float(width), float(level)

    def apply(self, img: Array, *args: Any, **params: Any) -> Array:
        """Window an image in HU."""
        if img.dtype != np.float32:
            raise TypeError(
                f"a window takes float32 images in HU, got {img.dtype}. Read the CT "
                "with its rescale slope, and convert: image.astype(np.float32)."
            )
        return super().apply(img, *args, **params)

    def change(self, image: NDArray[np.float32], rng: Generator) -> Array:
        """Apply the window."""
        width, level = self.width, self.level
        if self.jitter:
            width += rng.uniform(-self.jitter, self.jitter) * self.width
            level += rng.uniform(-self.jitter, self.jitter) * self.width
        return apply_window(image, level, width)


def _range(limits: Range, name: str, low: float, high: float) -> Range:
    if len(limits) != 2 or not low <= limits[0] <= limits[1] <= high:
        raise ValueError(
            f"{name} must be a smallest and a largest value between {low:g} and "
            f"{high:g}, got {limits}."
        )
    return float(limits[0]), float(limits[1])
