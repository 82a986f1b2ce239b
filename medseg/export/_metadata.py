"""What must be known to use a network out of a file."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from medseg.checks import as_spacing


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a network expects of an image, and what its numbers mean.

    Fields that are not known stay None or empty. What is known is checked: names
    against the network's channels and classes, numbers against its axes.
    """

    channel_names: tuple[str, ...] = ()  # C names, in order
    class_names: tuple[str, ...] = ()  # K names; for K = 1 that of the foreground
    spacing: tuple[float, ...] | None = None  # mm along the axes, of training
    patch_size: tuple[int, ...] | None = None  # pixels, of training
    input_size: tuple[int, ...] | None = None  # images are resized to it
    window: tuple[float, float] | None = None  # intensities are cut off, then 0..1
    mean: tuple[float, ...] | None = None  # of each channel, taken off after that
    std: tuple[float, ...] | None = None  # of each channel, divided by after that
    threshold: float = 0.5  # of the probability, for K = 1
    description: str = ""  # data, licence, intended use

    def check(self, channels: int, classes: int, dims: int) -> None:
        """Compare with a network of C channels, K classes and two or three axes.

        Raises:
            ValueError: A field does not fit.
        """
        for name, values, count, what in (
            ("channel_names", self.channel_names or None, channels, "channel(s)"),
            ("class_names", self.class_names or None, classes, "class(es)"),
            ("patch_size", self.patch_size, dims, "spatial axes"),
            ("input_size", self.input_size, dims, "spatial axes"),
            ("mean", self.mean, channels, "channel(s)"),
            ("std", self.std, channels, "channel(s)"),
            ("window", self.window, 2, "ends"),
        ):
            if values is not None and len(values) != count:
                raise ValueError(
                    f"metadata: {name} has {len(values)} entries, {tuple(values)}, but "
                    f"there are {count} {what}."
                )
        if self.spacing is not None:
            as_spacing(self.spacing, dims)
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(
                f"metadata: window must be (low, high), got {self.window}."
            )
        if self.std is not None and not min(self.std) > 0:
            raise ValueError(f"metadata: std must be positive, got {self.std}.")
        if not 0 <= self.threshold <= 1:
            raise ValueError(
                f"metadata: threshold must lie in [0, 1], got {self.threshold}."
            )

    def prepare(self, images: Tensor) -> Tensor:
        """Intensities as in training: window, then mean and standard deviation.

        Args:
            images: ``(B, C, *spatial)``, raw intensities of any dtype, in the spacing
                of training.

        Returns:
            ``(B, C, *spatial)``, float32.

        Example:
            >>> ct = Metadata(window=(-100.0, 300.0), mean=(0.5,), std=(0.25,))
            >>> ct.prepare(torch.tensor([[[[-1000, 100, 300]]]]))
            tensor([[[[-2.,  0.,  2.]]]])
        """
        values = images.float()
        channels = (1, -1, *(1,) * (images.ndim - 2))
        if self.window is not None:
            low, high = self.window
            values = (values.clamp(low, high) - low) / (high - low)
        if self.mean is not None:
            values = values - torch.tensor(self.mean).to(values).view(channels)
        if self.std is not None:
            values = values / torch.tensor(self.std).to(values).view(channels)
        return values


def to_metadata(values: dict[str, Any]) -> Metadata:
    """Metadata from JSON, which has lists for tuples."""
    known = {field.name for field in fields(Metadata)}
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in known
    }
    return Metadata(**given)
