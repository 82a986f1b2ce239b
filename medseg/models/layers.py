"""Bricks that several networks share.

    BatchNorm, make_norm         the choice of norm in backbones and their heads
    conv_norm_relu               convolution, norm, ReLU
    separable_conv               the same, factored into depthwise and pointwise
    ImagePooling, ASPP           DeepLab's view at several scales at once
    bilinear_kernel              weights that interpolate
    BilinearUpConv               FCN's up-convolution, which starts from them
    he_init                      how convolutions start
    pad_to_stride, crop_end      any image size for networks that halve it
    norm_layer                   the choice of norm in 2D and 3D

Features are ``(B, C, H, W)`` throughout.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.checks import check_choice

BackboneNorm = Literal["batch", "frozen", "group"]


class BatchNorm(nn.BatchNorm2d):
    """Batch norm that also trains where there is one value per channel.

    One image, pooled to 1x1, has no variance: PyTorch refuses it, and dividing by a
    variance of 0 would wipe the feature out. Here such a call normalises with the
    running statistics, as in evaluation, and leaves them as they are. Every other
    call is PyTorch's; so are the names and shapes in the state dict.

    Args:
        channels: Feature channels C.
        frozen: Always use the running statistics, and never train gain and shift:
            for published weights, fine-tuned with batches too small for statistics
            of their own, as DeepLab v2 does.

    Source:
        ioffe2015batch.

    Example:
        >>> features = torch.tensor([[[[3.0]], [[-2.0]]]])
        >>> norm = BatchNorm(2)
        >>> norm(features).flatten().allclose(features.flatten(), atol=1e-4)
        True
    """

    def __init__(self, channels: int, *, frozen: bool = False) -> None:
        super().__init__(channels)
        self.frozen = frozen
        if frozen:
            self.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise ``(B, C, H, W)`` per channel."""
        batch, _, height, width = features.shape
        if self.frozen or (self.training and batch * height * width == 1):
            return F.batch_norm(
                features,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                eps=self.eps,
            )
        return super().forward(features)


def make_norm(norm: BackboneNorm, channels: int) -> nn.Module:
    """The norm of a backbone or its head.

    ``"batch"`` and ``"frozen"`` are ``BatchNorm``. ``"group"`` has 8 groups, fewer
    where the width asks for it, and two channels or more in each, so that it can be
    computed from a single pixel. Instance norm is not offered: of an image pooled to
    1x1 it leaves nothing.

    Raises:
        ValueError: ``norm`` is none of the three.
    """
    check_choice(norm, "norm", ("batch", "frozen", "group"))
    if norm == "group":
        groups = math.gcd(8, channels)
        if groups == channels:
            groups = max(1, groups // 2)
        return nn.GroupNorm(groups, channels)
    return BatchNorm(channels, frozen=norm == "frozen")


def conv_norm_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 3,
    *,
    stride: int = 1,
    rate: int = 1,
    norm: BackboneNorm = "batch",
) -> nn.Sequential:
    """Convolution, norm, ReLU; padded such that stride 1 keeps the size.

    With ``rate`` r the convolution is atrous: its taps lie r pixels apart, and a 3x3
    kernel sees 2 r + 1 pixels with nine weights.
    """
    padding = rate * (kernel_size - 1) // 2
    return nn.Sequential(
        nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, rate, bias=False
        ),
        make_norm(norm, out_channels),
        nn.ReLU(inplace=True),
    )


def separable_conv(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    rate: int = 1,
    norm: BackboneNorm = "batch",
    last_relu: bool = True,
) -> nn.Sequential:
    """A 3x3 convolution in two steps: each channel by itself, then 1x1 across them.

    9 C + C C' weights in place of 9 C C'. Norm and ReLU follow both steps; the last
    ReLU can be left out where a residual is added.

    Source:
        chollet2017xception; chen2018deeplabv3plus, section 3.2.

    Example:
        >>> sum(p.numel() for p in separable_conv(10, 20)[0].parameters())
        90
    """
    layers = [
        nn.Conv2d(
            in_channels,
            in_channels,
            3,
            stride,
            padding=rate,
            dilation=rate,
            groups=in_channels,
            bias=False,
        ),
        make_norm(norm, in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        make_norm(norm, out_channels),
    ]
    if last_relu:
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class ImagePooling(nn.Module):
    """What the image as a whole says, told to every pixel.

    The mean over all pixels goes through a 1x1 convolution, norm and ReLU, and is
    spread over the map again. The norm has one value per image: see ``BatchNorm``
    for what happens to a batch of one.

    Source:
        chen2017deeplabv3, section 3.3, after liu2015parsenet.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, norm: BackboneNorm = "batch"
    ) -> None:
        super().__init__()
        self.project = conv_norm_relu(in_channels, out_channels, 1, norm=norm)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, C', H, W)``, the same in every pixel."""
        mean = features.mean(dim=(2, 3), keepdim=True)  # (B, C, 1, 1)
        return self.project(mean).expand(-1, -1, *features.shape[2:])


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling, as in DeepLab v3.

    A 1x1 convolution, a 3x3 one at each rate, and image pooling, side by side; their
    outputs are concatenated and projected by a 1x1 convolution. A norm and a ReLU
    follow each convolution.

    Args:
        in_channels: Channels of the backbone's features.
        channels: Channels of each branch and of the output.
        rates: Distance between taps, in feature pixels, one branch each.
        norm: ``"batch"``, ``"frozen"`` or ``"group"``.
        separable: Factor the atrous convolutions, as DeepLab v3+ does.

    Source:
        chen2017deeplabv3, section 3.3.

    Example:
        >>> ASPP(8, 4, (6, 12, 18))(torch.zeros(1, 8, 5, 7)).shape
        torch.Size([1, 4, 5, 7])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        rates: Sequence[int],
        *,
        norm: BackboneNorm = "batch",
        separable: bool = False,
    ) -> None:
        super().__init__()
        conv = separable_conv if separable else conv_norm_relu
        self.branches = nn.ModuleList(
            [
                conv_norm_relu(in_channels, channels, 1, norm=norm),
                *(conv(in_channels, channels, rate=rate, norm=norm) for rate in rates),
                ImagePooling(in_channels, channels, norm=norm),
            ]
        )
        joined = len(self.branches) * channels
        self.project = conv_norm_relu(joined, channels, 1, norm=norm)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, channels, H, W)``."""
        views = [branch(features) for branch in self.branches]
        return self.project(torch.cat(views, dim=1))


def he_init(network: nn.Module) -> None:
    """Draw the weights of all convolutions from N(0, 2 / N); set biases to 0.

    N counts the inputs of one neuron. In an up-convolution whose kernel is as large
    as its stride, one output has one tap, and N is the number of input channels;
    ``torch.nn.init.kaiming_normal_`` would count all taps of the output channels.

    Source:
        he2015delving; ronneberger2015unet, section 3.
    """
    for layer in network.modules():
        if isinstance(layer, (nn.ConvTranspose2d, nn.ConvTranspose3d)):
            inputs = layer.in_channels
        elif isinstance(layer, (nn.Conv2d, nn.Conv3d)):
            inputs = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
        else:
            continue
        nn.init.normal_(layer.weight, std=math.sqrt(2 / inputs))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def pad_to_stride(images: Tensor, stride: Sequence[int]) -> Tensor:
    """Repeat the last row and column until a network can halve the size throughout.

    An image that would shrink to a single value at the coarsest scale is padded to
    two there: no norm can be computed from one.

    Args:
        images: ``(B, C, *spatial)``; every size from 1.
        stride: Input pixels to one pixel of the coarsest scale, for each axis.

    Example:
        >>> pad_to_stride(torch.zeros(1, 1, 5, 9), (4, 4)).shape
        torch.Size([1, 1, 8, 12])
        >>> pad_to_stride(torch.zeros(1, 1, 5, 4), (8, 4)).shape
        torch.Size([1, 1, 8, 8])
    """
    sizes = images.shape[2:]
    padding = [-size % step for size, step in zip(sizes, stride, strict=True)]
    if all(size <= step for size, step in zip(sizes, stride, strict=True)):
        padding[-1] += stride[-1]
    ends = [end for after in reversed(padding) for end in (0, after)]
    return F.pad(images, ends, mode="replicate")


def crop_end(logits: Tensor, sizes: Sequence[int]) -> Tensor:
    """Undo ``pad_to_stride``: keep the first rows and columns.

    Example:
        >>> crop_end(torch.zeros(1, 2, 8, 12), (5, 9)).shape
        torch.Size([1, 2, 5, 9])
    """
    for axis, size in enumerate(sizes, start=2):
        logits = logits.narrow(axis, 0, size)
    return logits


def bilinear_kernel(factor: int) -> Tensor:
    r"""Weights with which an up-convolution of stride f interpolates bilinearly.

    .. math:: w_{ij} = \left(1 - \frac{|i - c|}{f}\right)
       \left(1 - \frac{|j - c|}{f}\right), \qquad
       k = 2f - f \bmod 2, \quad c = \frac{k - 1}{2}

    Returns:
        Weights ``(k, k)``, float32, in (0, 1].

    Raises:
        ValueError: ``factor`` is smaller than 1.

    Source:
        long2015fcn, section 3.3.

    Example:
        >>> bilinear_kernel(2)[1].tolist()
        [0.1875, 0.5625, 0.5625, 0.1875]
    """
    if factor < 1:
        raise ValueError(f"factor must be at least 1, got {factor}.")
    size = 2 * factor - factor % 2
    steps = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    line = 1 - steps.abs() / factor
    return line[:, None] * line[None, :]


class BilinearUpConv(nn.Module):
    """An up-convolution that starts, and stays if it is fixed, as interpolation.

    Args:
        channels: Channels C; each is interpolated by itself.
        factor: How many times larger the output is.
        edges: What lies outside the features. ``"repeat"``: the border again, so that
            the output is exactly f times as large, and the same as
            ``F.interpolate(mode="bilinear", align_corners=False)``. ``"fade"``: 0, and
            nothing is cut off: n pixels give f (n - 1) + k, which fade towards the
            edges; the caller crops. This is Caffe's layer.
        dense: Store the weights between different channels too (C x C kernels, zeros
            at the start), as Caffe does, rather than one kernel per channel.
        trainable: Whether the weights are learned from there on.

    Shapes:
        ``(B, C, H, W)`` to ``(B, C, f H, f W)`` with ``"repeat"``.

    Source:
        long2015fcn, section 3.3.

    Example:
        >>> BilinearUpConv(1, 2)(torch.tensor([[[[0.0, 4.0]]]]))[0, 0, 0].tolist()
        [0.0, 1.0, 3.0, 4.0]
    """

    def __init__(
        self,
        channels: int,
        factor: int,
        *,
        edges: Literal["repeat", "fade"] = "repeat",
        dense: bool = False,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        check_choice(edges, "edges", ("repeat", "fade"))
        kernel = bilinear_kernel(factor)
        self.factor = factor
        self.edges = edges
        self.groups = 1 if dense else channels
        if dense:
            weight = torch.eye(channels)[:, :, None, None] * kernel
        else:
            weight = kernel.repeat(channels, 1, 1, 1)
        self.weight = nn.Parameter(weight, requires_grad=trainable)

    def extra_repr(self) -> str:
        """Say in ``print(network)`` what it is."""
        return f"{self.weight.shape[0]}, factor={self.factor}, edges={self.edges!r}"

    def forward(self, features: Tensor) -> Tensor:
        """Enlarge ``(B, C, H, W)``."""
        cut = 0
        if self.edges == "repeat":
            features = F.pad(features, (1, 1, 1, 1), mode="replicate")
            cut = (self.factor + self.weight.shape[2]) // 2
        return F.conv_transpose2d(
            features, self.weight, stride=self.factor, padding=cut, groups=self.groups
        )


def norm_layer(
    norm: Literal["batch", "instance", "group"] | None,
    channels: int,
    spatial_dims: int,
) -> nn.Module:
    """A norm for features ``(B, C, *spatial)``; None passes them through.

    ``"group"`` has 8 groups, fewer where the width asks for it. All have a gain and a
    shift for each channel.

    Example:
        >>> norm_layer("group", 30, 3).num_groups
        2
    """
    if norm is None:
        return nn.Identity()
    if norm == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    layers = {
        ("batch", 2): nn.BatchNorm2d,
        ("batch", 3): nn.BatchNorm3d,
        ("instance", 2): nn.InstanceNorm2d,
        ("instance", 3): nn.InstanceNorm3d,
    }
    return layers[norm, spatial_dims](channels, affine=True)
