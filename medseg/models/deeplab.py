"""DeepLab: atrous convolutions, so that a dense prediction keeps its context.

    DeepLabV1       VGG, one branch with a large field of view          2015
    DeepLabV2       four atrous branches, summed: VGG or ResNet         2016
    DeepLabV3       ResNet with multi-grid, ASPP with image pooling     2017
    DeepLabV3Plus   v3 or Xception as encoder, and a small decoder      2018

All take float images ``(B, C, H, W)`` and return logits ``(B, K, H, W)`` of the same
size, from 1x1 on, and train with a batch of one.

Geometry. Every layer that halves the resolution is centred on the pixels 0, 2, 4, ...,
so feature i of a map with stride s sits on image pixel s i, and the map of an image of
s n + 1 pixels has n + 1 features, the first and the last on the image's corners. The
image is padded at its end to such a size, by repeating the border pixel, and logits are
upsampled bilinearly with ``align_corners=True``, which is exact then: nothing shifts
and nothing is stretched. Images of s n + 1 pixels (the papers' 321 and 513) need no
padding. Without this, 256 pixels at stride 16 are off by 7.5 pixels
(``align_corners=False``), or by up to 15 (``True``).

The parameters are those of the papers; ``coarse_logits`` returns what is there before
upsampling: DeepLab v1 and v2 compute the loss on it, with labels taken at every eighth
pixel, ``labels[:, ::8, ::8]``.

For teaching, ``backbone="vgg_small"``, ``"resnet_small"`` and ``"xception_small"`` with
``channels=64`` have 0.3 to 1.3 million parameters.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.checks import check_choice, check_images
from medseg.models import resnet, xception
from medseg.models.layers import (
    ASPP,
    BackboneNorm,
    conv_norm_relu,
    he_init,
    separable_conv,
)
from medseg.models.vgg import vgg16_features
from medseg.models.weights import Weights, load_weights

VGG_WIDTHS = {
    "vgg_small": (16, 32, 64, 128, 128),
    "vgg16": (64, 128, 256, 512, 512),
}
RESNETS = tuple(resnet.PLANS)
XCEPTIONS = tuple(xception.PLANS)


def pad_to_grid(images: Tensor, stride: int) -> Tensor:
    """Repeat the last row and column until H and W are multiples of stride, plus 1.

    Example:
        >>> pad_to_grid(torch.zeros(1, 1, 17, 20), 16).shape
        torch.Size([1, 1, 17, 33])
    """
    height, width = images.shape[2:]
    ends = (0, -(width - 1) % stride, 0, -(height - 1) % stride)
    return F.pad(images, ends, mode="replicate") if any(ends) else images


def upsample(features: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate bilinearly; the corners stay on the corners."""
    return F.interpolate(
        features, size=tuple(size), mode="bilinear", align_corners=True
    )


def at_full_size(
    coarse_logits: Callable[[Tensor], Tensor], images: Tensor, stride: int
) -> Tensor:
    """Pad, compute the coarse logits, upsample, and crop to ``(B, K, H, W)``."""
    padded = pad_to_grid(images, stride)  # (B, C, s n + 1, s m + 1)
    logits = upsample(coarse_logits(padded), padded.shape[2:])
    return logits[:, :, : images.shape[2], : images.shape[3]]


class AtrousVGG(nn.Module):
    """The convolutions of VGG-16, at output stride 8.

    The last two poolings have stride 1, and the last three convolutions rate 2. All
    poolings are 3x3, centred on a pixel, so that the maps stay aligned.

    Args:
        in_channels: Image channels C.
        name: ``"vgg16"`` or ``"vgg_small"``.
        weights: None, ``"imagenet"``, or the path of a state dict; see
            ``medseg.models.weights.load_weights``.

    Source:
        chen2015deeplab, section 3.1; the released network for the 3x3 poolings.
    """

    def __init__(
        self,
        in_channels: int,
        name: str = "vgg16",
        *,
        weights: Weights = None,
    ) -> None:
        super().__init__()
        widths = VGG_WIDTHS[name]
        self.features = vgg16_features(in_channels, widths=widths)
        for block, pool in enumerate((4, 9, 16, 23, 30)):
            stride = 2 if block < 3 else 1
            self.features[pool] = nn.MaxPool2d(3, stride, padding=1)
        for layer in list(self.features.children())[24:30]:
            if isinstance(layer, nn.Conv2d):
                layer.dilation = layer.padding = (2, 2)
        self.channels = widths[-1]
        if weights is not None:
            load_weights(
                self,
                weights,
                architecture=name,
                first_conv="features.0",
                skip=("classifier.",),
            )

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(B, C, 8 n + 1, 8 m + 1)`` to ``(B, 512, n + 1, m + 1)``."""
        return self.features(images)


def fully_connected(
    in_channels: int, channels: int, out_channels: int, rate: int, dropout: float
) -> nn.Sequential:
    """VGG's classifier as convolutions: fc6 3x3 at a rate, fc7 and fc8 1x1."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=rate, dilation=rate),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(channels, channels, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(channels, out_channels, 1),
    )


def init_head(head: nn.Module) -> None:
    """As ``he_init``, but the last convolution starts near zero.

    So all classes start about equally likely.
    """
    he_init(head)
    *_, last = (conv for conv in head.modules() if isinstance(conv, nn.Conv2d))
    nn.init.normal_(last.weight, std=0.01)


class DeepLabV1(nn.Module):
    """DeepLab-LargeFOV: VGG-16 at stride 8, and fc6 as a 3x3 convolution of rate 12.

    Args:
        in_channels: Image channels C.
        out_channels: Classes K with the background; 1 for the binary shorthand.
        backbone: ``"vgg16"`` or ``"vgg_small"``.
        rate: Distance between the taps of fc6, in features (8 pixels each).
        channels: Channels of fc6 and fc7.
        dropout: After fc6 and fc7, in ``[0, 1)``.
        weights: Of the backbone: None, ``"imagenet"``, or the path of a state dict.

    Shapes:
        ``(B, C, H, W)`` to ``(B, K, H, W)``; every H, W from 1.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, or images with other axes or channels.
        OSError: The weights could not be downloaded, or there is no such file.

    Source:
        chen2015deeplab, section 3 and table 2: 20,505,429 parameters from 3 channels
        to 21 classes. The 3x3 average pooling before fc6 is the released network's.

    Example:
        >>> net = DeepLabV1(1, 2, backbone="vgg_small", channels=64)
        >>> net(torch.zeros(1, 1, 30, 41)).shape
        torch.Size([1, 2, 30, 41])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        backbone: str = "vgg16",
        rate: int = 12,
        channels: int = 1024,
        dropout: float = 0.5,
        weights: Weights = None,
    ) -> None:
        super().__init__()
        check_choice(backbone, "backbone", tuple(VGG_WIDTHS))
        _check_counts(in_channels, out_channels, channels, (rate,))
        _check_dropout(dropout)
        self.in_channels = in_channels
        self.stride = 8
        self.backbone = AtrousVGG(in_channels, backbone, weights=weights)
        self.pool = nn.AvgPool2d(3, stride=1, padding=1)
        self.head = fully_connected(
            self.backbone.channels, channels, out_channels, rate, dropout
        )
        init_head(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, C, H, W)`` to logits ``(B, K, H, W)``."""
        check_images(images, self.in_channels)
        return at_full_size(self.coarse_logits, images, self.stride)

    def coarse_logits(self, images: Tensor) -> Tensor:
        """Map ``(B, C, 8 n + 1, 8 m + 1)`` to ``(B, K, n + 1, m + 1)``."""
        x = self.backbone(images)  # (B, 512, n + 1, m + 1)
        return self.head(self.pool(x))


class DeepLabV2(nn.Module):
    """DeepLab v2: atrous branches at several rates, their scores summed.

    With a ResNet each branch is one 3x3 convolution to K scores. With a VGG each is
    fc6, fc7 and fc8, as in v1 (ASPP-L).

    With more than one scale the image is resized, the one network scores each
    version, and every pixel takes the maximum over them.

    Args:
        in_channels: Image channels C.
        out_channels: Classes K with the background; 1 for the binary shorthand.
        backbone: ``"resnet101"``, ``"vgg16"``, or a smaller one.
        rates: Distance between taps, in features (8 pixels each), a branch each;
            the paper's ASPP-S has (2, 4, 8, 12).
        scales: Factors on the image size; the paper's best is (0.5, 0.75, 1), for
            1.8 times the work.
        channels: Channels of fc6 and fc7; with a VGG alone.
        dropout: After fc6 and fc7, in ``[0, 1)``; with a VGG alone.
        norm: Of a ResNet: ``"batch"``; ``"frozen"``, the paper's, for published
            weights; or ``"group"``.
        weights: Of the backbone: None, ``"imagenet"``, or the path of a state dict.

    Shapes:
        ``(B, C, H, W)`` to ``(B, K, H, W)``; every H, W from 1.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, or images with other axes or channels.
        OSError: The weights could not be downloaded, or there is no such file.

    Source:
        chen2018deeplab, sections 3.1 and 4.1: 44,048,532 parameters with ResNet-101,
        37,877,652 with VGG-16, from 3 channels to 21 classes.

    Example:
        >>> net = DeepLabV2(1, 2, backbone="resnet_small", scales=(0.5, 0.75, 1))
        >>> net(torch.zeros(1, 1, 30, 41)).shape
        torch.Size([1, 2, 30, 41])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        backbone: str = "resnet101",
        rates: Sequence[int] = (6, 12, 18, 24),
        scales: Sequence[float] = (1.0,),
        channels: int = 1024,
        dropout: float = 0.5,
        norm: BackboneNorm = "batch",
        weights: Weights = None,
    ) -> None:
        super().__init__()
        check_choice(backbone, "backbone", (*VGG_WIDTHS, *RESNETS))
        _check_counts(in_channels, out_channels, channels, rates)
        _check_dropout(dropout)
        if not scales or min(scales) <= 0:
            raise ValueError(
                f"scales must be positive factors, at least one, got {tuple(scales)}; "
                "for example (0.5, 0.75, 1)."
            )
        self.in_channels = in_channels
        self.stride = 8
        self.scales = tuple(scales)
        self.backbone: nn.Module
        branches: list[nn.Module]
        if backbone in VGG_WIDTHS:
            self.backbone = AtrousVGG(in_channels, backbone, weights=weights)
            features = self.backbone.channels
            branches = [
                fully_connected(features, channels, out_channels, rate, dropout)
                for rate in rates
            ]
        else:
            self.backbone = resnet.ResNet(
                in_channels, backbone, output_stride=8, norm=norm, weights=weights
            )
            features = self.backbone.channels[-1]
            branches = [
                nn.Conv2d(features, out_channels, 3, padding=rate, dilation=rate)
                for rate in rates
            ]
        self.branches = nn.ModuleList(branches)
        for branch in branches:
            init_head(branch)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, C, H, W)`` to logits ``(B, K, H, W)``."""
        check_images(images, self.in_channels)
        return at_full_size(self.coarse_logits, images, self.stride)

    def coarse_logits(self, images: Tensor) -> Tensor:
        """Map ``(B, C, 8 n + 1, 8 m + 1)`` to ``(B, K, n + 1, m + 1)``."""
        steps = [(size - 1) // self.stride for size in images.shape[2:]]  # n, m
        views = []
        for scale in self.scales:
            # Sizes of the form 8 n + 1, again, keep corners on corners.
            size = [self.stride * int(n * scale + 0.5) + 1 for n in steps]
            resized = images if scale == 1 else upsample(images, size)
            x = self.backbone(resized)
            x = x[-1] if isinstance(x, list) else x
            scores = sum(branch(x) for branch in self.branches)
            views.append(upsample(scores, [n + 1 for n in steps]))
        return torch.stack(views).amax(dim=0)


class DeepLabV3(nn.Module):
    """DeepLab v3: a ResNet at stride 16 or 8 with multi-grid, and ASPP.

    The paper trains at output stride 16 and then fine-tunes and evaluates at 8. Both
    networks have the same parameters: build the second one and load the state dict
    of the first.

    Args:
        in_channels: Image channels C.
        out_channels: Classes K with the background; 1 for the binary shorthand.
        backbone: ``"resnet101"``, ``"resnet50"``, or a smaller ResNet.
        output_stride: 16, or 8 for finer logits and some three times the work.
        multi_grid: Factors on the rate of the backbone's last blocks, one each.
        rates: Of ASPP's atrous branches at output stride 16; doubled at 8.
        channels: Of each branch and of ASPP's output.
        norm: ``"batch"``; ``"frozen"``, batch norm with fixed statistics, gain and
            shift, the paper's choice at stride 8; or ``"group"``.
        weights: Of the backbone: None, ``"imagenet"``, or the path of a state dict.

    Shapes:
        ``(B, C, H, W)`` to ``(B, K, H, W)``; every H, W from 1.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, or images with other axes or channels.
        OSError: The weights could not be downloaded, or there is no such file.

    Source:
        chen2017deeplabv3, section 3: 58,040,661 parameters with ResNet-101,
        39,048,533 with ResNet-50, from 3 channels to 21 classes.

    Example:
        >>> net = DeepLabV3(1, 2, backbone="resnet_small", channels=16)
        >>> net(torch.zeros(2, 1, 30, 41)).shape
        torch.Size([2, 2, 30, 41])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        backbone: str = "resnet101",
        output_stride: int = 16,
        multi_grid: Sequence[int] = (1, 2, 4),
        rates: Sequence[int] = (6, 12, 18),
        channels: int = 256,
        norm: BackboneNorm = "batch",
        weights: Weights = None,
    ) -> None:
        super().__init__()
        check_choice(backbone, "backbone", RESNETS)
        check_choice(output_stride, "output_stride", (16, 8))
        _check_counts(in_channels, out_channels, channels, rates)
        self.in_channels = in_channels
        self.stride = output_stride
        self.backbone = resnet.ResNet(
            in_channels,
            backbone,
            output_stride=output_stride,
            multi_grid=multi_grid,
            norm=norm,
            weights=weights,
        )
        self.aspp = ASPP(
            self.backbone.channels[-1],
            channels,
            [rate * 16 // output_stride for rate in rates],
            norm=norm,
        )
        self.head = nn.Conv2d(channels, out_channels, 1)
        he_init(self.aspp)
        init_head(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, C, H, W)`` to logits ``(B, K, H, W)``."""
        check_images(images, self.in_channels)
        return at_full_size(self.coarse_logits, images, self.stride)

    def coarse_logits(self, images: Tensor) -> Tensor:
        """Map ``(B, C, s n + 1, s m + 1)`` to ``(B, K, n + 1, m + 1)``."""
        x = self.backbone(images)[-1]  # (B, 2048, n + 1, m + 1)
        return self.head(self.aspp(x))


class DeepLabV3Plus(nn.Module):
    """DeepLab v3+: the encoder is v3's; a decoder joins it with features of stride 4.

    The features of stride 4 are reduced to 48 channels, so that they do not outweigh
    the upsampled output of ASPP; two 3x3 convolutions refine both.

    Args:
        in_channels: Image channels C.
        out_channels: Classes K with the background; 1 for the binary shorthand.
        backbone: ``"resnet101"``, ``"resnet50"``, ``"xception65"``, or a smaller one.
        output_stride: Of the encoder: 16 or 8. The coarse logits have stride 4.
        multi_grid: As in v3; None is the paper's (1, 2, 4) for a ResNet, and nothing
            for an Xception, which has none.
        rates: Of ASPP's atrous branches at output stride 16; doubled at 8.
        channels: Of ASPP's branches and output, and of the decoder's convolutions.
        separable: Factor the atrous convolutions of ASPP and those of the decoder.
        norm: As in v3.
        weights: Of the backbone: None, ``"imagenet"`` (ResNets), or the path of a
            state dict.

    Shapes:
        ``(B, C, H, W)`` to ``(B, K, H, W)``; every H, W from 1.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, or images with other axes or channels.
        OSError: The weights could not be downloaded, or there is no such file.

    Source:
        chen2018deeplabv3plus, section 3 and tables 1 to 5: 59,344,309 parameters with
        ResNet-101, 41,055,413 with Xception-65 and ``separable``, from 3 channels to
        21 classes; the latter 54.04 billion multiply-adds at 513 pixels (paper:
        54.17).

    Example:
        >>> net = DeepLabV3Plus(1, 2, backbone="resnet_small", channels=16)
        >>> net(torch.zeros(2, 1, 30, 41)).shape
        torch.Size([2, 2, 30, 41])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        backbone: str = "resnet101",
        output_stride: int = 16,
        multi_grid: Sequence[int] | None = None,
        rates: Sequence[int] = (6, 12, 18),
        channels: int = 256,
        separable: bool = False,
        norm: BackboneNorm = "batch",
        weights: Weights = None,
    ) -> None:
        super().__init__()
        check_choice(backbone, "backbone", (*RESNETS, *XCEPTIONS))
        check_choice(output_stride, "output_stride", (16, 8))
        _check_counts(in_channels, out_channels, channels, rates)
        self.in_channels = in_channels
        self.stride = output_stride
        self.backbone: resnet.ResNet | xception.Xception
        if backbone in RESNETS:
            self.backbone = resnet.ResNet(
                in_channels,
                backbone,
                output_stride=output_stride,
                multi_grid=(1, 2, 4) if multi_grid is None else multi_grid,
                norm=norm,
                weights=weights,
            )
        elif multi_grid is None:
            self.backbone = xception.Xception(
                in_channels,
                backbone,
                output_stride=output_stride,
                norm=norm,
                weights=weights,
            )
        else:
            raise ValueError(
                f"multi_grid belongs to the ResNets; leave it out for {backbone!r}."
            )
        self.aspp = ASPP(
            self.backbone.channels[-1],
            channels,
            [rate * 16 // output_stride for rate in rates],
            norm=norm,
            separable=separable,
        )
        self.reduce = conv_norm_relu(self.backbone.channels[0], 48, 1, norm=norm)
        conv = separable_conv if separable else conv_norm_relu
        self.refine = nn.Sequential(
            conv(channels + 48, channels, norm=norm),
            conv(channels, channels, norm=norm),
        )
        self.head = nn.Conv2d(channels, out_channels, 1)
        for part in (self.aspp, self.reduce, self.refine):
            he_init(part)
        init_head(self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``(B, C, H, W)`` to logits ``(B, K, H, W)``."""
        check_images(images, self.in_channels)
        return at_full_size(self.coarse_logits, images, self.stride)

    def coarse_logits(self, images: Tensor) -> Tensor:
        """Map ``(B, C, s n + 1, s m + 1)`` to logits of every fourth pixel."""
        features = self.backbone(images)
        fine, coarse = features[0], features[-1]  # strides 4 and s
        x = upsample(self.aspp(coarse), fine.shape[2:])  # (B, 256, H/4, W/4)
        x = torch.cat([x, self.reduce(fine)], dim=1)  # (B, 256 + 48, H/4, W/4)
        return self.head(self.refine(x))


def _check_counts(
    in_channels: int, out_channels: int, channels: int, rates: Sequence[int]
) -> None:
    if min(in_channels, out_channels, channels) < 1:
        raise ValueError(
            "in_channels, out_channels and channels must be at least 1, got "
            f"{in_channels}, {out_channels} and {channels}."
        )
    if not rates or min(rates) < 1:
        raise ValueError(
            f"rates must be numbers from 1, at least one, got {tuple(rates)}; for "
            "example (6, 12, 18)."
        )


def _check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}.")
