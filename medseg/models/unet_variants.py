"""What others made of the U-Net: shorter paths, gated skips, nested skips, volumes.

    ResidualUNet    each pair of convolutions adds to what came in
    AttentionUNet   the decoder decides which pixels of a skip to use
    UNetPlusPlus    the skips hold the decoders of U-Nets of all smaller depths
    UNet3D          the paper's network for volumes: valid convolutions

All take float images ``(B, C, *spatial)`` and return logits ``(B, K, *spatial)``; all
but ``UNet3D`` take any size from 1, pad it as ``unet.UNet`` does, and exist in 2D and
3D. Weights start from a normal distribution with variance 2 / N, N being the inputs of
one neuron; biases from 0.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.checks import check_choice, check_images
from medseg.models.layers import crop_end, he_init, norm_layer, pad_to_stride
from medseg.models.unet import (
    CONV,
    MAX_POOL,
    UP_CONV,
    Norm,
    check_channels,
    double_conv,
)

LINEAR = {2: "bilinear", 3: "trilinear"}


def _check(
    in_channels: int,
    out_channels: int,
    widths: Sequence[int],
    norm: Norm,
    spatial_dims: int,
) -> None:
    check_channels(in_channels, out_channels, widths)
    check_choice(norm, "norm", ("batch", "instance", "group", None))
    check_choice(spatial_dims, "spatial_dims", (2, 3))


class ResidualUnit(nn.Module):
    """Twice norm, ReLU, 3x3 convolution; plus what came in.

    The order is *pre-activation*: nothing touches the sum, so the signal and its
    gradient pass many units unchanged. Where size or channels change, the shortcut is
    a 1x1 convolution with the same stride.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Of the first convolution.
        norm: As in ``UNet``.
        spatial_dims: 2 or 3.
        first: Leave out the first norm and ReLU: the unit reads the image itself.

    Source:
        he2016identity; zhang2018resunet, figure 1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        norm: Norm = "batch",
        spatial_dims: int = 2,
        first: bool = False,
    ) -> None:
        super().__init__()
        conv, bias = CONV[spatial_dims], norm is None
        # ReLU must not work in place: the shortcut reads the same tensor.
        start = [norm_layer(norm, in_channels, spatial_dims), nn.ReLU()]
        self.convs = nn.Sequential(
            *([] if first else start),
            conv(in_channels, out_channels, 3, stride, padding=1, bias=bias),
            norm_layer(norm, out_channels, spatial_dims),
            nn.ReLU(inplace=True),
            conv(out_channels, out_channels, 3, padding=1),
        )
        # The 1x1 convolution reads every stride-th pixel. Picked first: with the stride
        # in the convolution, some CPUs corrupt memory (PyTorch 2.13, bfloat16,
        # channels_last, channels that are no multiple of 16).
        self.pick: nn.Module = nn.Identity()
        if stride > 1:
            self.pick = MAX_POOL[spatial_dims](1, stride)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = conv(in_channels, out_channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)`` to ``(B, C', *spatial / stride)``."""
        return self.convs(features) + self.shortcut(self.pick(features))


class ResidualUNet(nn.Module):
    """Deep residual U-Net: units with a shortcut, strides in place of pooling.

    Four scales of residual units; the decoder enlarges by repeating pixels, and joins
    the skip by concatenation. From 3 channels, the 3x3 convolutions of the paper's
    table hold 7,780,032 weights. The table does not say how a shortcut changes its
    number of channels; the 1x1 convolutions that do it here add 430,272.

    Args:
        in_channels: Image channels C.
        out_channels: Classes K with the background; 1 for the binary shorthand.
        widths: Feature channels per scale, finest first. At least two.
        norm: ``"batch"`` (the paper's), ``"instance"``, ``"group"`` or None.
        spatial_dims: 2 for images, 3 for volumes.

    Shapes:
        ``(B, C, *spatial)`` to ``(B, K, *spatial)``, every size from 1.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, or images with other axes or channels.

    Source:
        zhang2018resunet, table I.

    Example:
        >>> ResidualUNet(3, 1, widths=(4, 8, 16))(torch.zeros(1, 3, 61, 50)).shape
        torch.Size([1, 1, 61, 50])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
        norm: Norm = "batch",
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        _check(in_channels, out_channels, widths, norm, spatial_dims)
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        self.stride = 2 ** (len(widths) - 1)

        self.encoder = nn.ModuleList()
        for scale, (fine, coarse) in enumerate(pairwise((in_channels, *widths))):
            self.encoder.append(
                ResidualUnit(
                    fine,
                    coarse,
                    stride=2 if scale else 1,
                    norm=norm,
                    spatial_dims=spatial_dims,
                    first=scale == 0,
                )
            )
        self.decoder = nn.ModuleList(
            ResidualUnit(coarse + fine, fine, norm=norm, spatial_dims=spatial_dims)
            for coarse, fine in pairwise(reversed(widths))
        )
        self.head = CONV[spatial_dims](widths[0], out_channels, 1)
        he_init(self)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, C, *spatial)`` to logits ``(B, K, *spatial)``."""
        check_images(images, self.in_channels, self.spatial_dims)
        x = pad_to_stride(images, (self.stride,) * self.spatial_dims)
        skips: list[Tensor] = []
        for unit in self.encoder:
            x = unit(x)  # (B, w0, H, W), then (B, w1, H/2, W/2), ...
            skips.append(x)
        skips.pop()  # the coarsest is x itself
        for unit in self.decoder:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = unit(torch.cat([skips.pop(), x], dim=1))
        return crop_end(self.head(x), images.shape[2:])


class AttentionGate(nn.Module):
    r"""How much of each pixel of a skip the decoder lets through.

    With skip x at full and gating features g at half the resolution,

    .. math:: \alpha = \sigma(\psi^T \, \mathrm{ReLU}(W_x x + W_g g + b_g) + b_\psi)

    and the gate returns :math:`\alpha x`. ``W_x`` is a 2x2 convolution of stride 2,
    ``W_g`` and psi are 1x1; alpha is enlarged linearly to the resolution of x.

    Args:
        skip_channels: Channels of x, and of the space where x and g meet.
        gating_channels: Channels of g.
        spatial_dims: 2 or 3.

    Source:
        oktay2018attention, figure 2.
    """

    def __init__(
        self, skip_channels: int, gating_channels: int, *, spatial_dims: int = 2
    ) -> None:
        super().__init__()
        conv = CONV[spatial_dims]
        self.skip = conv(skip_channels, skip_channels, 2, stride=2, bias=False)
        self.gating = conv(gating_channels, skip_channels, 1)
        self.psi = conv(skip_channels, 1, 1)
        self.mode = LINEAR[spatial_dims]

    def coefficients(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Alpha in (0, 1), ``(B, 1, *spatial)``, at the resolution of the skip."""
        joint = F.relu(self.skip(skip) + self.gating(gating))
        alpha = torch.sigmoid(self.psi(joint))
        return F.interpolate(alpha, scale_factor=2, mode=self.mode)

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """The skip ``(B, C, *spatial)``, each pixel times its coefficient."""
        return self.coefficients(skip, gating) * skip


class GatedSkip(nn.Module):
    """One skip: through one gate, or through several that are joined again.

    Several gates can watch several organs. Each gated copy passes a 1x1 convolution
    and a norm; then all are concatenated and brought back to the channels of the skip
    by a 1x1 convolution, norm and ReLU. So does the released network, with two. One
    gate is the paper's equation and nothing else.
    """

    def __init__(
        self, skip: int, gating: int, gates: int, norm: Norm, spatial_dims: int
    ) -> None:
        super().__init__()
        conv, bias = CONV[spatial_dims], norm is None
        self.gates = nn.ModuleList(
            AttentionGate(skip, gating, spatial_dims=spatial_dims) for _ in range(gates)
        )
        self.views = nn.ModuleList()
        self.join: nn.Module = nn.Identity()
        if gates > 1:
            for _ in range(gates):
                view = conv(skip, skip, 1, bias=bias)
                self.views.append(
                    nn.Sequential(view, norm_layer(norm, skip, spatial_dims))
                )
            self.join = nn.Sequential(
                conv(gates * skip, skip, 1, bias=bias),
                norm_layer(norm, skip, spatial_dims),
                nn.ReLU(inplace=True),
            )

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)`` to the same shape."""
        gated = [gate(skip, gating) for gate in self.gates]
        if len(gated) == 1:
            return gated[0]
        views = [view(x) for view, x in zip(self.views, gated, strict=True)]
        return self.join(torch.cat(views, dim=1))


class AttentionUNet(nn.Module):
    """U-Net whose skips are gated by what the next coarser scale has recognised.

    The finest skip is not gated: it holds edges, and no organs yet. The decoder
    enlarges linearly and has no up-convolutions.

    The paper's 3D networks, 5.88 M parameters without gates and 6.40 M with them, are
    ``widths=(16, 32, 64, 128, 256), gates=2, spatial_dims=3`` as far as paper and
    released code tell: 5,885,556 and 6,403,898 here, from 1 channel to 4 classes. Two
    things of the released code are left out: one head that reads the logits of all
    scales, and a 1x1 convolution before the coarsest gate, with which that code has
    6,473,322. The paper's figure draws neither.

    Args:
        in_channels: Image channels C.
        out_channels: Classes K with the background; 1 for the binary shorthand.
        widths: Feature channels per scale, finest first. At least two.
        gates: Gates per skip, from 1; see ``GatedSkip``.
        norm: ``"batch"`` (the paper's), ``"instance"``, ``"group"`` or None.
        spatial_dims: 2 for images, 3 for volumes.

    Shapes:
        ``(B, C, *spatial)`` to ``(B, K, *spatial)``, every size from 1.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, or images with other axes or channels.

    Source:
        oktay2018attention.

    Example:
        >>> AttentionUNet(3, 1, widths=(4, 8, 16))(torch.zeros(1, 3, 61, 50)).shape
        torch.Size([1, 1, 61, 50])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        gates: int = 1,
        norm: Norm = "batch",
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        _check(in_channels, out_channels, widths, norm, spatial_dims)
        if gates < 1:
            raise ValueError(f"gates must be at least 1, got {gates}; or take UNet.")
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        self.stride = 2 ** (len(widths) - 1)

        self.encoder = nn.ModuleList(
            double_conv(fine, coarse, norm, spatial_dims)
            for fine, coarse in pairwise((in_channels, *widths))
        )
        self.pool = MAX_POOL[spatial_dims](2)
        self.gated = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for coarse, fine in pairwise(reversed(widths)):
            self.decoder.append(double_conv(coarse + fine, fine, norm, spatial_dims))
            if len(self.decoder) < len(widths) - 1:  # not the finest
                self.gated.append(GatedSkip(fine, coarse, gates, norm, spatial_dims))
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
            x = convs(x)
            skips.append(x)
        skips.pop()  # the coarsest is x itself
        for scale, convs in enumerate(self.decoder):
            skip = skips.pop()
            if scale < len(self.gated):
                skip = self.gated[scale](skip, x)
            x = F.interpolate(x, scale_factor=2, mode=LINEAR[self.spatial_dims])
            x = convs(torch.cat([skip, x], dim=1))
        return crop_end(self.head(x), images.shape[2:])


class UNetPlusPlus(nn.Module):
    """U-Net++: U-Nets of all depths in one, their decoders joined into nested skips.

    Node (i, j) lies at scale i and j steps to the right. Nodes (i, 0) are the encoder.
    Each other node is a pair of convolutions, on all nodes to its left at its own
    scale and on node (i + 1, j - 1), enlarged by an up-convolution::

        (0,0)-(0,1)-(0,2)     (0,1), (0,2): outputs of a U-Net with 2, with 3 scales
          |  /  |  /
        (1,0)-(1,1)           every line to the right reaches all nodes further right
          |  /
        (2,0)

    **Deep supervision.** In training mode, with ``deep_supervision=True``, the network
    returns a list of logits, **the deepest U-Net's first**: of nodes (0, L), ..,
    (0, 1). All have the full size of the image; train with the mean of their losses.
    In evaluation mode it returns the first alone; the paper's *accurate mode* averages
    all.

    Args:
        in_channels: Image channels C.
        out_channels: Classes K with the background; 1 for the binary shorthand.
        widths: Feature channels per scale, finest first. At least two.
        norm: ``"batch"``, ``"instance"``, ``"group"``, or None as in the release.
        spatial_dims: 2 for images, 3 for volumes.
        deep_supervision: Train with a head on every node of the finest scale.

    Shapes:
        ``(B, C, *spatial)`` to ``(B, K, *spatial)``, every size from 1.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, or images with other axes or channels.

    Source:
        zhou2018unetplusplus; zhou2020unetplusplus. With ``norm=None``, from 1 channel
        to 1 class, 9,041,601 parameters like the release (paper: 9.04 M), where a
        ``UNet`` of these widths has 7,759,521. The release uses ELU and dropout.

    Example:
        >>> net = UNetPlusPlus(3, 1, widths=(4, 8, 16), deep_supervision=True)
        >>> [tuple(logits.shape) for logits in net(torch.zeros(1, 3, 61, 50))]
        [(1, 1, 61, 50), (1, 1, 61, 50)]
        >>> net.eval()(torch.zeros(1, 3, 61, 50)).shape
        torch.Size([1, 1, 61, 50])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int] = (32, 64, 128, 256, 512),
        norm: Norm = "batch",
        spatial_dims: int = 2,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        _check(in_channels, out_channels, widths, norm, spatial_dims)
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        self.stride = 2 ** (len(widths) - 1)
        self.deep_supervision = deep_supervision

        self.encoder = nn.ModuleList(
            double_conv(fine, coarse, norm, spatial_dims)
            for fine, coarse in pairwise((in_channels, *widths))
        )
        self.pool = MAX_POOL[spatial_dims](2)
        self.up = nn.ModuleDict()  # "i_j": the up-convolution into node (i, j)
        self.nodes = nn.ModuleDict()
        for column in range(1, len(widths)):
            used = widths[: len(widths) - column + 1]
            for scale, (fine, coarse) in enumerate(pairwise(used)):
                up = UP_CONV[spatial_dims](coarse, fine, 2, stride=2)
                node = double_conv((column + 1) * fine, fine, norm, spatial_dims)
                self.up[f"{scale}_{column}"] = up
                self.nodes[f"{scale}_{column}"] = node
        heads = len(widths) - 1 if deep_supervision else 1
        self.heads = nn.ModuleList(
            CONV[spatial_dims](widths[0], out_channels, 1) for _ in range(heads)
        )
        he_init(self)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Map images ``(B, C, *spatial)`` to logits ``(B, K, *spatial)``.

        With deep supervision and in training mode: a list of them, deepest first.
        """
        check_images(images, self.in_channels, self.spatial_dims)
        x = pad_to_stride(images, (self.stride,) * self.spatial_dims)
        rows: list[list[Tensor]] = []  # [i][j]
        for convs in self.encoder:
            if rows:
                x = self.pool(x)  # half the size
            x = convs(x)
            rows.append([x])
        for column in range(1, len(rows)):
            for scale, row in enumerate(rows[:-column]):
                key = f"{scale}_{column}"
                below = self.up[key](rows[scale + 1][column - 1])  # twice the size
                row.append(self.nodes[key](torch.cat([*row, below], dim=1)))
        outputs = rows[0][:0:-1]  # (0, L), ..., (0, 1)
        if not (self.training and self.deep_supervision):
            return crop_end(self.heads[0](outputs[0]), images.shape[2:])
        return [
            crop_end(head(x), images.shape[2:])
            for head, x in zip(self.heads, outputs, strict=True)
        ]


class ShiftNorm3d(nn.BatchNorm3d):
    """Batch norm with a shift and no gain: one number for each feature map."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        del self.weight
        self.register_buffer("weight", torch.ones(channels))


def valid_convs_3d(
    in_channels: int, mid_channels: int, out_channels: int
) -> nn.Sequential:
    """Twice: 3x3x3 convolution without padding, norm, ReLU. Each size shrinks by 4."""
    layers: list[nn.Module] = []
    for channels in pairwise((in_channels, mid_channels, out_channels)):
        layers += [nn.Conv3d(*channels, 3, bias=False), ShiftNorm3d(channels[1])]
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class UNet3D(nn.Module):
    """The 3D U-Net of the 2016 paper: valid convolutions, 132x132x116 to 44x44x28.

    The features double *before* each pooling, and up-convolutions keep their number.
    A logit is computed only where its whole context lies in the volume, so the output
    is ``margin`` voxels smaller along each axis (88 for four scales). For a network
    that takes any size, see ``unet.UNet`` with ``spatial_dims=3``.

    The paper's total of 19,069,955 parameters, from 3 channels to 3 classes, holds
    with one number for each feature map of a 3x3x3 convolution, and up-convolutions
    without bias. The paper does not say which number: here it is the shift of the
    norm, as a bias before a norm would do nothing.

    Args:
        in_channels: Image channels C.
        out_channels: Classes K with the background; 1 for the binary shorthand.
        widths: Feature channels per scale, finest first, each even. At least two.

    Shapes:
        ``(B, C, D, H, W)`` to ``(B, K, D - margin, H - margin, W - margin)``. Sizes
        must be in ``valid_sizes``: for four scales 92, 100, 108, ....

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, images with other axes or channels, or of a
            size that does not fit; the message names the nearest that do.

    Source:
        cicek2016unet3d, section 2 and figure 2.

    Example:
        >>> net = UNet3D(1, 2, widths=(2, 4))
        >>> net.output_size(20), list(net.valid_sizes[:3])
        (4, [18, 20, 22])
        >>> net(torch.zeros(1, 1, 18, 20, 22)).shape
        torch.Size([1, 2, 2, 4, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
    ) -> None:
        super().__init__()
        check_channels(in_channels, out_channels, widths)
        if any(width % 2 for width in widths):
            raise ValueError(
                f"widths must be even, as half of them come first at each scale, "
                f"got {tuple(widths)}."
            )
        self.in_channels = in_channels
        self.stride = 2 ** (len(widths) - 1)
        # A scale with voxels s wide loses 4 s in each pair of convolutions.
        self.margin = 4 * self.stride + 2 * 4 * (self.stride - 1)

        self.encoder = nn.ModuleList(
            valid_convs_3d(fine, width // 2, width)
            for fine, width in pairwise((in_channels, *widths))
        )
        self.pool = nn.MaxPool3d(2)
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for coarse, fine in pairwise(reversed(widths)):
            self.up.append(nn.ConvTranspose3d(coarse, coarse, 2, stride=2, bias=False))
            self.decoder.append(valid_convs_3d(coarse + fine, fine, fine))
        self.head = nn.Conv3d(widths[0], out_channels, 1)
        he_init(self)

    @property
    def valid_sizes(self) -> range:
        """Sizes that fit, smallest first; every pooling meets an even number."""
        return range(min(4, self.stride) + self.margin, 2**31, self.stride)

    def output_size(self, size: int) -> int:
        """Depth, height or width of the logits for ``size`` voxels.

        Raises:
            ValueError: No such volume fits; the message names the nearest that do.
        """
        first = self.valid_sizes[0]
        if size < first or (size - first) % self.stride:
            below = first + (size - first) // self.stride * self.stride
            nearest = f"{below} and {below + self.stride}" if size > first else first
            raise ValueError(
                f"UNet3D with {len(self.encoder)} scales takes depths, heights and "
                f"widths {first}, {first + self.stride}, {first + 2 * self.stride}, "
                f"...; got {size}. The nearest that fit: {nearest}. Crop or mirror the "
                "volume to one of them, or use UNet with spatial_dims=3, which takes "
                "any size."
            )
        return size - self.margin

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, C, D, H, W)`` to logits of their centre."""
        check_images(images, self.in_channels, 3)
        for size in images.shape[2:]:
            self.output_size(size)
        x = images  # (B, C, 132, 132, 116), say
        skips: list[Tensor] = []
        for convs in self.encoder:
            if skips:
                x = self.pool(x)  # 64, 30, 13 of 132
            x = convs(x)  # 128, 60, 26, 9
            skips.append(x)
        skips.pop()  # the coarsest is x itself
        for up, convs in zip(self.up, self.decoder, strict=True):
            x = up(x)  # 18, 28, 48
            skip = skips.pop()
            for axis, size in enumerate(x.shape[2:], start=2):
                skip = skip.narrow(axis, (skip.shape[axis] - size) // 2, size)
            x = convs(torch.cat([skip, x], dim=1))  # 14, 24, 44
        return self.head(x)  # (B, K, 44, 44, 28)
