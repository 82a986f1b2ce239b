"""HighRes3DNet: context from dilated convolutions, at full resolution throughout.

    HighResBlock    two dilated convolutions beside a shortcut
    HighRes3DNet    20 layers that never shrink the image: NiftyNet's main network

Float images ``(B, C, *spatial)`` of any size give logits ``(B, K, *spatial)``.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from medseg.checks import check_choice, check_images
from medseg.models.layers import crop_end, he_init, norm_layer, pad_to_stride
from medseg.models.unet import CONV, Norm


class HighResBlock(nn.Module):
    """Twice: norm, ReLU, dilated 3x3 convolution; then what came in is added.

    Where the channels grow, the shortcut gets channels of zeros, half of them before
    its own and half after: it has no weights.

    Source:
        li2017highres3dnet, section 2; he2016identity for the order.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilation: int,
        *,
        norm: Norm = "batch",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (in_channels, out_channels):
            layers += [
                norm_layer(norm, channels, spatial_dims),
                nn.ReLU(),
                CONV[spatial_dims](
                    channels,
                    out_channels,
                    3,
                    padding=dilation,
                    dilation=dilation,
                    bias=norm is None,
                ),
            ]
        self.convs = nn.Sequential(*layers)
        new = out_channels - in_channels
        # Pairs for F.pad, the last axis first: nothing along the image's axes.
        self.zeros = (*(0,) * (2 * spatial_dims), new // 2, new - new // 2)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)`` to ``(B, C', *spatial)``."""
        shortcut = F.pad(features, self.zeros) if any(self.zeros) else features
        return self.convs(features) + shortcut


class HighRes3DNet(nn.Module):
    """A compact network that sees far without ever losing resolution.

    A convolution, then three stages of residual blocks whose taps lie 1, 2 and 4
    voxels apart, then a 1x1x1 convolution that scores. With the defaults these are 20
    convolutions, and a voxel's score depends on 87 voxels along each axis:
    1 + 2 + 6 * (2 + 4 + 8). Nothing is pooled, so the memory that training needs is
    large for so few parameters.

    Outside the image lies 0, as in NiftyNet, which takes multiples of 8 only; here any
    size will do. An image of a single voxel is padded to two, for the norm.

    Args:
        in_channels: Image channels C.
        out_channels: Classes K with the background; 1 for the binary shorthand.
        widths: Feature channels of the stages; each doubles the distance between the
            taps. They must not fall.
        blocks: Residual blocks in each stage.
        hidden: Channels of one more 1x1x1 convolution before the last, with a norm, a
            ReLU and dropout; NiftyNet has 80. None leaves it out.
        dropout: Probability that one of these is dropped in training, in ``[0, 1)``.
        norm: ``"batch"``, ``"instance"``, ``"group"``, or None.
        spatial_dims: 3 for volumes, 2 for images.

    Shapes:
        ``(B, C, D, H, W)`` to ``(B, K, D, H, W)``; every D, H, W from 1. With
        ``spatial_dims=2`` without D.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, or images with other axes or channels.

    Source:
        li2017highres3dnet: 0.81 million parameters. Here 813,904 from 1 channel to
        160 classes, 812,464 of them weights of convolutions; 821,744 with
        ``hidden=80``.

    Example:
        >>> import torch
        >>> net = HighRes3DNet(1, 2, widths=(2, 4), blocks=1)
        >>> net(torch.zeros(1, 1, 3, 5, 4)).shape
        torch.Size([1, 2, 3, 5, 4])
    """

    stride = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 3,
        hidden: int | None = None,
        dropout: float = 0.5,
        norm: Norm = "batch",
        spatial_dims: int = 3,
    ) -> None:
        super().__init__()
        check_choice(norm, "norm", ("batch", "instance", "group", None))
        check_choice(spatial_dims, "spatial_dims", (2, 3))
        counts = (in_channels, out_channels, blocks, *widths)
        if not widths or min(counts) < 1 or (hidden is not None and hidden < 1):
            raise ValueError(
                "in_channels, out_channels, blocks, hidden and at least one of widths "
                f"must be counts from 1, got {in_channels}, {out_channels}, {blocks}, "
                f"{hidden} and {tuple(widths)}."
            )
        if list(widths) != sorted(widths):
            raise ValueError(
                f"widths must not fall from stage to stage, got {tuple(widths)}: the "
                "shortcuts can add channels, but not drop them."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}.")
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        conv, bias = CONV[spatial_dims], norm is None

        self.first = nn.Sequential(
            conv(in_channels, widths[0], 3, padding=1, bias=bias),
            norm_layer(norm, widths[0], spatial_dims),
            nn.ReLU(),
        )
        self.stages = nn.ModuleList()
        channels = widths[0]
        for stage, width in enumerate(widths):
            layers = []
            for _ in range(blocks):
                layers.append(
                    HighResBlock(
                        channels, width, 2**stage, norm=norm, spatial_dims=spatial_dims
                    )
                )
                channels = width
            self.stages.append(nn.Sequential(*layers))
        self.hidden = nn.Sequential()
        if hidden is not None:
            self.hidden = nn.Sequential(
                conv(channels, hidden, 1, bias=bias),
                norm_layer(norm, hidden, spatial_dims),
                nn.ReLU(),
                nn.Dropout(dropout),
            )
            channels = hidden
        self.head = conv(channels, out_channels, 1)
        he_init(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, C, *spatial)`` to logits ``(B, K, *spatial)``."""
        check_images(images, self.in_channels, self.spatial_dims)
        x = self.first(pad_to_stride(images, (1,) * self.spatial_dims))  # 16 channels
        for stage in self.stages:
            x = stage(x)  # 16, 32, 64
        logits = self.head(self.hidden(x))
        return crop_end(logits, images.shape[2:])
