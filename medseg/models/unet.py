"""U-Net: a path down, a path up, and skips that join them at every scale.

    UNet        same padding, a norm, any image size, 2D and 3D      chapter 01
    UNet2015    the paper's network: valid convolutions, 572 to 388  chapter 13

Both take float images ``(B, C, *spatial)`` and return logits ``(B, K, *spatial)``;
``UNet`` of the same size, ``UNet2015`` of the centre that it has the context for.
Layers are created in the order encoder (fine to coarse), up-convolutions, decoder
(both coarse to fine), head; ``course.assert_same`` pairs weights by this order.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from medseg.checks import check_choice, check_images
from medseg.models.layers import crop_end, he_init, norm_layer, pad_to_stride

Norm = Literal["batch", "instance", "group"] | None
CONV = {2: nn.Conv2d, 3: nn.Conv3d}
UP_CONV = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


def double_conv(
    in_channels: int, out_channels: int, norm: Norm, spatial_dims: int
) -> nn.Sequential:
    """Twice: 3x3 convolution, norm, ReLU. Keeps the spatial size."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        # A norm has a shift of its own, which makes the convolution's bias idle.
        bias = norm is None
        layers.append(
            CONV[spatial_dims](channels, out_channels, 3, padding=1, bias=bias)
        )
        if norm is not None:
            layers.append(norm_layer(norm, out_channels, spatial_dims))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """The U-Net of practice: same padding, a norm, and images of any size.

    The image is padded at its end to a multiple of ``stride``, by repeating the
    border pixel, and the logits are cropped back. Repeating keeps the grey level of
    the border; zeros would draw an edge there, and mirroring cannot fill more than
    the image is wide. An image that would shrink to a single value at the coarsest
    scale is padded to two: no norm can be computed from one. So any size from 1 and
    any batch from 1 trains, though a small batch of small images is better served by
    ``norm="group"`` than by batch statistics of a handful of values.

    ``torch.export`` can leave the batch free, and a size that is declared as a
    multiple: ``{0: Dim("B"), 2: 16 * Dim("h"), 3: 16 * Dim("w")}``.

    Weights start from a normal distribution with variance 2 / N, N being the inputs
    of one neuron; biases from 0.

    Args:
        in_channels: Image channels C: 1 for CT and MRI, 3 for colour.
        out_channels: Classes K with the background; 1 for the binary shorthand.
        widths: Feature channels per scale, finest first; one more halves the
            resolution once more. At least two.
        norm: After each 3x3 convolution: ``"batch"``, ``"instance"``, ``"group"``
            (8 groups, fewer where the width asks for it), or None.
        spatial_dims: 2 for images, 3 for volumes.

    Shapes:
        ``(B, C, H, W)`` to ``(B, K, H, W)``, or ``(B, C, D, H, W)`` to
        ``(B, K, D, H, W)``; every H, W, D from 1.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, or images with other axes or channels.

    Source:
        ronneberger2015unet; cicek2016unet3d for batch norm and 3D. With a norm and
        in 2D it has 31,036,546 parameters from 1 channel to 2 classes.

    Example:
        >>> images = torch.zeros(1, 3, 61, 50)
        >>> UNet(3, 1, widths=(4, 8, 16))(images).shape
        torch.Size([1, 1, 61, 50])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        norm: Norm = "batch",
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        check_channels(in_channels, out_channels, widths)
        check_choice(norm, "norm", ("batch", "instance", "group", None))
        check_choice(spatial_dims, "spatial_dims", (2, 3))
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        self.stride = 2 ** (len(widths) - 1)

        self.encoder = nn.ModuleList(
            double_conv(fine, coarse, norm, spatial_dims)
            for fine, coarse in pairwise((in_channels, *widths))
        )
        self.pool = MAX_POOL[spatial_dims](2)
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for coarse, fine in pairwise(reversed(widths)):
            self.up.append(UP_CONV[spatial_dims](coarse, fine, 2, stride=2))
            self.decoder.append(double_conv(2 * fine, fine, norm, spatial_dims))
        self.head = CONV[spatial_dims](widths[0], out_channels, 1)
        he_init(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, C, *spatial)`` to logits ``(B, K, *spatial)``."""
        check_images(images, self.in_channels, self.spatial_dims)
        x = pad_to_stride(images, (self.stride,) * self.spatial_dims)
        skips: list[Tensor] = []
        for convs in self.encoder:
            if skips:
                x = self.pool(x)  # half the size
            x = convs(x)  # (B, w0, H, W), then (B, w1, H/2, W/2), ...
            skips.append(x)
        skips.pop()  # the coarsest is x itself
        for up, convs in zip(self.up, self.decoder, strict=True):
            x = up(x)  # twice the size, half the channels
            x = torch.cat([skips.pop(), x], dim=1)  # channels doubled again
            x = convs(x)  # back to the width of this scale
        logits = self.head(x)  # (B, K, padded H, padded W)
        return crop_end(logits, images.shape[2:])  # (B, K, H, W)


def valid_convs(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice: 3x3 convolution without padding, ReLU. Each size shrinks by 4."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3),
        nn.ReLU(inplace=True),
    )


def centre_crop(features: Tensor, height: int, width: int) -> Tensor:
    """Cut ``(B, C, height, width)`` out of the middle of ``(B, C, H, W)``."""
    top = (features.shape[2] - height) // 2
    left = (features.shape[3] - width) // 2
    return features[:, :, top : top + height, left : left + width]


class UNet2015(nn.Module):
    """The network of the 2015 paper: valid convolutions, 572 pixels in, 388 out.

    A logit is computed only where its whole context lies in the image, so the output
    is smaller than the input by ``margin`` (184 pixels for five scales), the same on
    all sides. ``medseg.inference.overlap_tile`` covers a whole image with such tiles.

    The ReLU after each up-convolution and the places of dropout (the last two scales
    of the encoder, before pooling and skip) follow the released network; the paper
    draws no ReLU there and says "at the end of the contracting path". Weights start
    from a normal distribution with variance 2 / N, N being the inputs of one neuron
    (9 C for a 3x3 convolution, C for a 2x2 up-convolution of stride 2); biases
    from 0.

    Args:
        in_channels: Image channels C.
        out_channels: Classes K with the background; 1 for the binary shorthand.
        widths: Feature channels per scale, finest first. At least two.
        dropout: Probability that a feature is dropped in training, in ``[0, 1)``.

    Shapes:
        ``(B, C, H, W)`` to ``(B, K, H - margin, W - margin)``. H and W must be in
        ``valid_sizes``: for five scales 188, 204, 220, ..., that is 12 more than a
        multiple of 16.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, images with other axes or channels, or of a
            size that does not fit; the message names the nearest that do.

    Source:
        ronneberger2015unet, section 2 and figure 1. 31,030,658 parameters from 1
        channel to 2 classes.

    Example:
        >>> net = UNet2015(1, 2, widths=(2, 4, 8, 16, 32))
        >>> net(torch.zeros(1, 1, 188, 204)).shape
        torch.Size([1, 2, 4, 20])
        >>> net.output_size(572)
        388
        >>> list(net.valid_sizes[:3]), 572 in net.valid_sizes
        ([188, 204, 220], True)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_channels(in_channels, out_channels, widths)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}.")
        self.in_channels = in_channels
        self.stride = 2 ** (len(widths) - 1)
        # A scale with pixels s wide loses 4 s in each pair of convolutions: one pair
        # at the coarsest scale, two at 1, 2, 4, ..., stride / 2.
        self.margin = 4 * self.stride + 2 * 4 * (self.stride - 1)

        self.encoder = nn.ModuleList(
            valid_convs(fine, coarse)
            for fine, coarse in pairwise((in_channels, *widths))
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for coarse, fine in pairwise(reversed(widths)):
            self.up.append(
                nn.Sequential(
                    nn.ConvTranspose2d(coarse, fine, 2, stride=2), nn.ReLU(inplace=True)
                )
            )
            self.decoder.append(valid_convs(2 * fine, fine))
        self.head = nn.Conv2d(widths[0], out_channels, 1)
        he_init(self)

    @property
    def valid_sizes(self) -> range:
        """Heights and widths that fit, smallest first; every pooling meets even."""
        smallest_output = min(4, self.stride)
        return range(smallest_output + self.margin, 2**31, self.stride)

    def output_size(self, size: int) -> int:
        """Height or width of the logits for an image ``size`` pixels high or wide.

        Raises:
            ValueError: No such image fits; the message names the nearest that do.
        """
        first = self.valid_sizes[0]
        if size < first or (size - first) % self.stride:
            raise ValueError(
                f"UNet2015 with {len(self.encoder)} scales takes heights and widths "
                f"{first}, {first + self.stride}, {first + 2 * self.stride}, ...; got "
                f"{size}. The nearest that fit: {self._nearest(size)}. Crop or mirror "
                "the image to one of them, use medseg.inference.overlap_tile for a "
                "whole image, or UNet, which takes any size."
            )
        return size - self.margin

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, C, H, W)`` to logits of their centre."""
        check_images(images, self.in_channels)
        for size in images.shape[2:]:
            self.output_size(size)
        x = images  # (B, C, 572, 572), say
        skips: list[Tensor] = []
        for scale, convs in enumerate(self.encoder):
            if skips:
                x = self.pool(x)  # 284, 140, 68, 32
            x = convs(x)  # 568, 280, 136, 64, 28
            if scale >= len(self.encoder) - 2:
                x = self.dropout(x)
            skips.append(x)
        skips.pop()  # the coarsest is x itself
        for up, convs in zip(self.up, self.decoder, strict=True):
            x = up(x)  # 56, 104, 200, 392
            skip = centre_crop(skips.pop(), x.shape[2], x.shape[3])
            x = torch.cat([skip, x], dim=1)  # channels doubled again
            x = convs(x)  # 52, 100, 196, 388
        return self.head(x)  # (B, K, 388, 388)

    def _nearest(self, size: int) -> str:
        first = self.valid_sizes[0]
        below = first + (size - first) // self.stride * self.stride
        return f"{below} and {below + self.stride}" if below >= first else f"{first}"


def check_channels(in_channels: int, out_channels: int, widths: Sequence[int]) -> None:
    """Accept counts of channels from 1, and at least two widths.

    Raises:
        ValueError: A count is smaller than 1, or there are fewer than two widths.
    """
    if len(widths) < 2:
        raise ValueError(
            f"widths must name at least two scales, finest first, got {widths!r}; "
            "for example widths=(16, 32, 64)."
        )
    if min(in_channels, out_channels, *widths) < 1:
        raise ValueError(
            "in_channels, out_channels and widths must be at least 1, got "
            f"{in_channels}, {out_channels} and {tuple(widths)}."
        )
