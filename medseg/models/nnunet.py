"""nnU-Net: U-Nets whose size is planned from the data instead of by hand.

    plan                  from a data set's fingerprint to patch, batch and network
    Plan                  what it finds; ``plan.build()`` makes the network
    PlainConvUNet         two convolutions a scale, as in every U-Net
    ResidualEncoderUNet   residual blocks on the way down, more where it is coarse

The networks take float images ``(B, C, *spatial)`` of any size and return logits
``(B, K, *spatial)``. They differ from ``unet.UNet`` in what nnU-Net found to matter
little but to be robust: strided convolutions in place of pooling, instance norm,
leaky ReLU, a stride and a kernel of its own for each axis, at most 320 features in 3D
and 512 in 2D.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import mul
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medseg.checks import as_spacing, check_choice, check_images
from medseg.models.layers import crop_end, norm_layer, pad_to_stride
from medseg.models.unet import CONV, UP_CONV, check_channels

Size = tuple[int, ...]
AVG_POOL: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
SLOPE = 0.01  # of the leaky ReLU below zero


def conv_norm(
    in_channels: int, out_channels: int, kernel: Size, stride: Size | None = None
) -> nn.Sequential:
    """Convolution with bias, instance norm. Stride 1 keeps the spatial size."""
    dims = len(kernel)
    conv: Any = CONV[dims]
    padding = tuple(size // 2 for size in kernel)
    return nn.Sequential(
        conv(in_channels, out_channels, kernel, stride or 1, padding),
        norm_layer("instance", out_channels, dims),
    )


def conv_stack(
    in_channels: int, out_channels: int, kernel: Size, stride: Size | None, convs: int
) -> nn.Sequential:
    """Some times: convolution, instance norm, leaky ReLU; the first one strided."""
    layers: list[nn.Module] = []
    for index in range(convs):
        before = in_channels if index == 0 else out_channels
        layers += [
            *conv_norm(before, out_channels, kernel, stride if index == 0 else None),
            nn.LeakyReLU(SLOPE, inplace=True),
        ]
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """Two convolutions, and what came in added to what goes out.

    Where the size changes, the shortcut is averaged; where the channels change, a 1x1
    convolution without bias and an instance norm follow.

    Source:
        he2019bag (the shortcut of ResNet-D); isensee2024nnunet.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Size, stride: Size
    ) -> None:
        super().__init__()
        dims = len(kernel)
        self.convs = nn.Sequential(
            *conv_norm(in_channels, out_channels, kernel, stride),
            nn.LeakyReLU(SLOPE, inplace=True),
            *conv_norm(out_channels, out_channels, kernel),
        )
        self.shortcut = nn.Sequential()
        if max(stride) > 1:
            self.shortcut.append(AVG_POOL[dims](stride, stride))
        if in_channels != out_channels:
            self.shortcut.append(
                CONV[dims](in_channels, out_channels, 1, bias=False),
            )
            self.shortcut.append(norm_layer("instance", out_channels, dims))
        self.relu = nn.LeakyReLU(SLOPE, inplace=True)

    def start_as_identity(self) -> None:
        """Set the last gain to 0: the block begins as its shortcut."""
        nn.init.zeros_(self.convs[-1].get_parameter("weight"))

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, C, *spatial)`` to ``(B, C', *spatial / stride)``."""
        return self.relu(self.convs(features) + self.shortcut(features))


class _PlannedUNet(nn.Module):
    """What both networks share: the way up, the heads, and any image size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        kernel_sizes: Sequence[Size],
        strides: Sequence[Size],
        decoder_convs: Sequence[int],
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.spatial_dims = len(strides[0])
        self.strides = tuple(strides)
        self.stride = tuple(math.prod(axis) for axis in zip(*strides, strict=True))
        self.deep_supervision = deep_supervision

        up_conv: Any = UP_CONV[self.spatial_dims]
        self.encoder = nn.ModuleList()
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        self.heads = nn.ModuleList()  # finest first
        for scale in reversed(range(len(widths) - 1)):
            fine, coarse, step = widths[scale], widths[scale + 1], strides[scale + 1]
            self.up.append(up_conv(coarse, fine, step, step))
            convs = decoder_convs[len(self.decoder)]
            self.decoder.append(
                conv_stack(2 * fine, fine, kernel_sizes[scale], None, convs)
            )
        for fine in widths[: len(widths) - 1 if deep_supervision else 1]:
            self.heads.append(CONV[self.spatial_dims](fine, out_channels, 1))

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Map images ``(B, C, *spatial)`` to logits ``(B, K, *spatial)``.

        With deep supervision and in training mode: a list of logits, finest first,
        as the class describes.
        """
        check_images(images, self.in_channels, self.spatial_dims)
        x = pad_to_stride(images, self.stride)
        skips: list[Tensor] = []
        for stage in self.encoder:
            x = stage(x)  # (B, w0, *size), then (B, w1, *size / stride), ...
            skips.append(x)
        skips.pop()  # the coarsest is x itself
        features: list[Tensor] = []
        for up, convs in zip(self.up, self.decoder, strict=True):
            x = convs(torch.cat([up(x), skips.pop()], dim=1))
            features.append(x)
        features.reverse()  # finest first
        if not (self.training and self.deep_supervision):
            return crop_end(self.heads[0](features[0]), images.shape[2:])
        logits: list[Tensor] = []
        size: Sequence[int] = images.shape[2:]
        for head, x, step in zip(self.heads, features, self.strides, strict=False):
            size = [-(-length // each) for length, each in zip(size, step, strict=True)]
            logits.append(crop_end(head(x), size))
        return logits


class PlainConvUNet(_PlannedUNet):
    """nnU-Net's network: stacks of convolution, instance norm, leaky ReLU.

    The first convolution of a scale has that scale's stride; there is no pooling. An
    up-convolution has a kernel as large as its stride. Convolutions have a bias, as in
    nnU-Net, although the instance norm takes it out again: its gradient is rounding
    noise. Weights start as ``torch.nn.init.kaiming_normal_`` draws them for a leaky
    ReLU, biases from 0. As in ``UNet``, the image is padded at its end by repeating
    the border, and the logits are cropped back; ``stride`` holds a number per axis.

    **Deep supervision.** In training mode, with ``deep_supervision=True``, the network
    returns a list of logits, finest first: one for each scale but the coarsest, item i
    of the image's size divided by the strides so far and rounded up. Compare each with
    labels subsampled to its size. nnU-Net weights the losses 1, 1/2, 1/4, ..., with 0
    for the last, divided by their sum. In evaluation mode it returns the finest alone,
    and without deep supervision the other heads do not exist.

    Args:
        in_channels: Image channels C.
        out_channels: Classes K with the background; 1 for the binary shorthand.
        widths: Features per scale, finest first. At least two.
        kernel_sizes: Per scale, one size for each axis; 3 everywhere if None. Odd.
        strides: Per scale, the step from the scale before, one for each axis; 1 for
            the first scale and 2 for the others if None.
        convs: Convolutions per scale of the encoder, or one number for all.
        decoder_convs: The same for the decoder, **coarsest first**, one fewer.
        spatial_dims: 2 or 3; only asked where neither kernels nor strides are given.
        deep_supervision: Train with logits at every scale.

    Shapes:
        ``(B, C, *spatial)`` to ``(B, K, *spatial)``, every size from 1.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, or images with other axes or channels.

    Source:
        isensee2021nnunet, and its released planner, version 2.

    Example:
        >>> net = PlainConvUNet(1, 3, widths=(4, 8, 8), deep_supervision=True)
        >>> images = torch.zeros(1, 1, 9, 16, 16)
        >>> [tuple(logits.shape[2:]) for logits in net(images)]
        [(9, 16, 16), (5, 8, 8)]
        >>> net.eval()(images).shape
        torch.Size([1, 3, 9, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int] = (32, 64, 128, 256, 320, 320),
        kernel_sizes: Sequence[Sequence[int]] | None = None,
        strides: Sequence[Sequence[int]] | None = None,
        convs: int | Sequence[int] = 2,
        decoder_convs: int | Sequence[int] = 2,
        spatial_dims: int = 3,
        deep_supervision: bool = False,
    ) -> None:
        check_channels(in_channels, out_channels, widths)
        kernels, steps = _geometry(len(widths), kernel_sizes, strides, spatial_dims)
        blocks = _per_scale(convs, len(widths), "convs")
        up_convs = _per_scale(decoder_convs, len(widths) - 1, "decoder_convs")
        super().__init__(
            in_channels,
            out_channels,
            widths,
            kernels,
            steps,
            up_convs,
            deep_supervision,
        )
        for scale, (fine, coarse) in enumerate(pairwise((in_channels, *widths))):
            self.encoder.append(
                conv_stack(fine, coarse, kernels[scale], steps[scale], blocks[scale])
            )
        _init(self)


class ResidualEncoderUNet(_PlannedUNet):
    """nnU-Net's network since 2024: residual blocks in the encoder.

    A convolution at full resolution, then ``blocks`` residual blocks per scale, the
    first of each strided. Each block starts as the identity, with a last gain of 0.
    All else, deep supervision too, is as in ``PlainConvUNet``.

    Args:
        in_channels: Image channels C.
        out_channels: Classes K with the background; 1 for the binary shorthand.
        widths: Features per scale, finest first. At least two.
        kernel_sizes: Per scale, one size for each axis; 3 everywhere if None. Odd.
        strides: Per scale, the step from the scale before, one for each axis; 1 for
            the first scale and 2 for the others if None.
        blocks: Residual blocks per scale, or one number for all; 1, 3, 4, 6, 6, ...
            if None.
        decoder_convs: Convolutions per scale of the decoder, **coarsest first**.
        spatial_dims: 2 or 3; only asked where neither kernels nor strides are given.
        deep_supervision: Train with logits at every scale.

    Shapes:
        ``(B, C, *spatial)`` to ``(B, K, *spatial)``, every size from 1.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, or images with other axes or channels.

    Source:
        isensee2024nnunet, and the released planner of its presets M, L and XL.

    Example:
        >>> net = ResidualEncoderUNet(1, 3, widths=(4, 8, 8), spatial_dims=2)
        >>> net(torch.zeros(1, 1, 21, 50)).shape
        torch.Size([1, 3, 21, 50])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        widths: Sequence[int] = (32, 64, 128, 256, 320, 320),
        kernel_sizes: Sequence[Sequence[int]] | None = None,
        strides: Sequence[Sequence[int]] | None = None,
        blocks: int | Sequence[int] | None = None,
        decoder_convs: int | Sequence[int] = 1,
        spatial_dims: int = 3,
        deep_supervision: bool = False,
    ) -> None:
        check_channels(in_channels, out_channels, widths)
        kernels, steps = _geometry(len(widths), kernel_sizes, strides, spatial_dims)
        if blocks is None:
            blocks = _residual_blocks(len(widths))
        counts = _per_scale(blocks, len(widths), "blocks")
        up_convs = _per_scale(decoder_convs, len(widths) - 1, "decoder_convs")
        super().__init__(
            in_channels,
            out_channels,
            widths,
            kernels,
            steps,
            up_convs,
            deep_supervision,
        )
        for scale, (fine, coarse) in enumerate(pairwise((widths[0], *widths))):
            kernel, step = kernels[scale], steps[scale]
            stage = nn.Sequential()
            if scale == 0:
                stage.append(conv_stack(in_channels, fine, kernel, None, 1))
            stage.append(ResidualBlock(fine, coarse, kernel, step))
            for _ in range(counts[scale] - 1):
                stage.append(ResidualBlock(coarse, coarse, kernel, (1,) * len(step)))
            self.encoder.append(stage)
        _init(self)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.start_as_identity()


def _residual_blocks(scales: int) -> Size:
    return (1, 3, 4, *(6,) * scales)[:scales]


def _geometry(
    scales: int,
    kernel_sizes: Sequence[Sequence[int]] | None,
    strides: Sequence[Sequence[int]] | None,
    spatial_dims: int,
) -> tuple[list[Size], list[Size]]:
    """Kernels and strides as tuples, one per scale, checked."""
    given = kernel_sizes or strides
    dims = len(given[0]) if given else spatial_dims
    check_choice(dims, "spatial_dims", (2, 3))
    kernels = [tuple(k) for k in kernel_sizes or [(3,) * dims] * scales]
    steps = [tuple(s) for s in strides or [(1,) * dims, *[(2,) * dims] * (scales - 1)]]
    for name, sizes in (("kernel_sizes", kernels), ("strides", steps)):
        if [len(size) for size in sizes] != [dims] * scales or min(map(min, sizes)) < 1:
            raise ValueError(
                f"{name} must hold {dims} positive numbers for each of the {scales} "
                f"scales in widths, got {sizes}."
            )
    if any(size % 2 == 0 for kernel in kernels for size in kernel):
        raise ValueError(f"kernel_sizes must be odd, to keep sizes, got {kernels}.")
    if max(steps[0]) > 1:
        raise ValueError(
            f"the first scale has the image's resolution: strides[0] must be all 1, "
            f"got {steps[0]}."
        )
    return kernels, steps


def _per_scale(count: int | Sequence[int], scales: int, name: str) -> Size:
    counts = (count,) * scales if isinstance(count, int) else tuple(count)
    if len(counts) != scales or min(counts) < 1:
        raise ValueError(
            f"{name} must be a positive number, or {scales} of them, got {count}."
        )
    return counts


def _init(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(
            layer, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        ):
            nn.init.kaiming_normal_(layer.weight, a=SLOPE)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


# --- planning ------------------------------------------------------------------------

Network = Literal["plain", "resenc_m", "resenc_l", "resenc_xl"]


@dataclass(frozen=True)
class _Preset:
    """What an author's GPU could hold, and for which budget that was measured."""

    memory_gb: float
    values: dict[int, float]  # in 2D and 3D: feature values that fit
    share: float  # of the data set that one batch may hold
    min_batch: dict[int, int]  # for which the patch is shrunk


BATCH = {2: 12, 3: 2}  # that the reference values were measured with
PRESETS = {
    "plain": _Preset(8, {2: 85e6, 3: 560e6}, 0.05, {2: 2, 3: 2}),
    "resenc_m": _Preset(8, {2: 135e6, 3: 680e6}, 1.0, BATCH),
    "resenc_l": _Preset(24, {2: 380e6, 3: 2100e6}, 1.0, BATCH),
    "resenc_xl": _Preset(40, {2: 560e6, 3: 3600e6}, 1.0, BATCH),
}
MAX_WIDTH = {2: 512, 3: 320}
FIRST_PATCH = {2: 2048**2, 3: 256**3}  # pixels or voxels to start from
MIN_EDGE = 4  # of the coarsest feature map
LOWRES_SHARE = 0.25  # of the median image, that a full-resolution patch should show
SPACING_STEP = 1.03


@dataclass(frozen=True)
class Plan:
    """How to train on a data set: what ``plan`` found for one configuration.

    Sizes and spacings follow ``axes``, coarsest spacing first: use
    ``image.transpose(plan.axes)``. In ``"2d"`` the slices lie along ``axes[0]``, and
    everything else speaks of the two axes within a slice.
    """

    configuration: str  # "2d", "3d_fullres" or "3d_lowres"
    axes: Size  # of the image, in the order that the plan speaks of
    spacing: tuple[float, ...]  # mm, to resample all images to
    median_size: tuple[float, ...]  # of the images at this spacing
    patch_size: Size
    batch_size: int
    network: str
    in_channels: int
    out_channels: int
    widths: Size  # features per scale, finest first
    kernel_sizes: tuple[Size, ...]
    strides: tuple[Size, ...]
    blocks: Size  # convolutions (plain) or residual blocks per scale of the encoder
    decoder_convs: Size  # coarsest first
    feature_values: int  # the memory estimate for one patch

    @property
    def poolings(self) -> Size:
        """How often each axis is halved."""
        return tuple(
            sum(s == 2 for s in axis) for axis in zip(*self.strides, strict=True)
        )

    def build(
        self, *, deep_supervision: bool = True
    ) -> PlainConvUNet | ResidualEncoderUNet:
        """Make the network, with fresh weights."""
        if self.network == "plain":
            return PlainConvUNet(
                self.in_channels,
                self.out_channels,
                widths=self.widths,
                kernel_sizes=self.kernel_sizes,
                strides=self.strides,
                convs=self.blocks,
                decoder_convs=self.decoder_convs,
                deep_supervision=deep_supervision,
            )
        return ResidualEncoderUNet(
            self.in_channels,
            self.out_channels,
            widths=self.widths,
            kernel_sizes=self.kernel_sizes,
            strides=self.strides,
            blocks=self.blocks,
            decoder_convs=self.decoder_convs,
            deep_supervision=deep_supervision,
        )


def plan(
    median_size: Sequence[float],
    spacing: Sequence[float],
    *,
    cases: int,
    in_channels: int = 1,
    out_channels: int = 2,
    network: Network = "plain",
    memory_gb: float | None = None,
) -> dict[str, Plan]:
    """Plan patch, batch and network from a data set's fingerprint, as nnU-Net does.

    The rules, in the order in which they are applied:

    1. *First patch.* As many pixels along each axis as give a square in mm with
       2048 x 2048 pixels, or a cube with 256 x 256 x 256 voxels; nowhere larger than
       the median image.
    2. *Scales.* An axis is halved while its feature map stays at 4 or more, and only
       together with the finest axis: if its spacing is less than twice the smallest
       one among the axes that can still be halved. A last axis is halved alone only
       from 12 on. So a thick slice direction is left alone until the others have
       caught up. The kernel is 1 along an axis until, at that scale, its spacing is
       less than twice the smallest; then 3, and 3 at the coarsest scale.
    3. *Patch.* Rounded up to a multiple of its halvings.
    4. *Features.* 32 at the finest scale, doubled at each, up to 512 (2D), 320 (3D).
    5. *Memory.* While the network for this patch does not fit, the patch shrinks along
       the axis that is longest relative to the median image, by one step, and rules 2
       to 4 are applied again.
    6. *Batch.* As many patches as fit, but no more than 5 % of the data set's voxels
       (``"plain"``) or all of them (``"resenc_*"``), and at least 2.
    7. *Low resolution.* If a full-resolution patch shows less than a quarter of the
       median image, ``"3d_lowres"`` coarsens the spacing in steps of 3 % (first along
       the axes whose spacing is less than half the largest) until a patch of its own
       plan shows a quarter. It is dropped if the image then has more than half of its
       voxels left.

    The memory estimate is the number of values that all convolutions of the network
    put out for one patch, ``sum over convolutions of channels * voxels``: of the
    encoder, up-convolutions, decoder, and the finest head, and of shortcuts where the
    size changes, whether by a convolution or by averaging alone. It is compared with
    the number that was found to fit: for ``"plain"`` and 8 GB, 85 million at a batch
    of 12 in 2D and 560 million at a batch of 2 in 3D; in proportion for other budgets.
    It leaves out the weights, which cost the same whatever the patch.

    Args:
        median_size: Median size of the images at ``spacing``, in voxels; two axes
            for 2D images.
        spacing: Voxel size in mm, along the same axes: the data set's median; along a
            thick slice axis, nnU-Net takes the 10th percentile.
        cases: Number of training images.
        in_channels: Image channels C.
        out_channels: Classes K with the background.
        network: ``"plain"``, or a residual encoder for a GPU with about 9 to 11
            (``"resenc_m"``), 24 (``"resenc_l"``) or 40 GB (``"resenc_xl"``).
        memory_gb: GPU memory to plan for; 8, 8, 24 and 40 GB if None.

    Returns:
        One plan for each configuration, ``"2d"``; for 3D images ``"3d_fullres"``; and
        ``"3d_lowres"`` where rule 7 calls for it.

    Raises:
        ValueError: A wrong argument, images too small to halve even once, or a memory
            budget that no patch fits.

    Source:
        isensee2021nnunet and isensee2024nnunet; the numbers are those of the
        released planner, version 2.

    Example:
        >>> plans = plan((36, 50, 35), (1, 1, 1), cases=260, out_channels=3)
        >>> plans["3d_fullres"].patch_size, plans["3d_fullres"].batch_size
        ((40, 56, 40), 9)
        >>> plans["3d_fullres"].widths, plans["3d_fullres"].poolings
        ((32, 64, 128, 256), (3, 3, 3))
        >>> list(plans)
        ['2d', '3d_fullres']
    """
    check_choice(network, "network", tuple(PRESETS))
    dims = len(median_size)
    check_choice(dims, "the number of axes in median_size", (2, 3))
    steps = as_spacing(spacing, dims)
    if memory_gb is None:
        memory_gb = PRESETS[network].memory_gb
    if min(*median_size, cases, in_channels, out_channels, memory_gb) <= 0:
        raise ValueError(
            "median_size, cases, in_channels, out_channels and memory_gb must be "
            f"positive, got {tuple(median_size)}, {cases}, {in_channels}, "
            f"{out_channels} and {memory_gb}."
        )
    thick = steps.index(max(steps))
    axes = (thick, *(axis for axis in range(dims) if axis != thick))
    if dims == 2:
        axes = (0, 1)
    size = tuple(float(median_size[axis]) for axis in axes)
    steps = tuple(steps[axis] for axis in axes)

    def configure(
        name: str, size: tuple[float, ...], steps: tuple[float, ...], voxels: float
    ) -> Plan:
        return _configure(
            name,
            axes,
            size,
            steps,
            voxels,
            in_channels,
            out_channels,
            network,
            memory_gb,
        )

    voxels = math.prod(size)
    flat = configure("2d", size[-2:], steps[-2:], voxels * cases)
    if dims == 2:
        return {"2d": flat}
    full = configure("3d_fullres", size, steps, voxels * cases)
    plans = {"2d": flat, "3d_fullres": full}

    low, coarser, left = full, steps, voxels
    while math.prod(low.patch_size) / left < LOWRES_SHARE:
        finer = [max(coarser) / step > 2 for step in coarser]
        if not any(finer):
            finer = [True] * dims
        coarser = tuple(
            step * SPACING_STEP if chosen else step
            for step, chosen in zip(coarser, finer, strict=True)
        )
        exact = [
            length * step / new
            for length, step, new in zip(size, steps, coarser, strict=True)
        ]
        left = math.prod(exact)
        small = tuple(float(round(length)) for length in exact)
        low = configure("3d_lowres", small, coarser, left * cases)
    if low is not full and voxels / left >= 2:
        plans["3d_lowres"] = low
    return plans


def _configure(
    configuration: str,
    axes: Size,
    size: tuple[float, ...],
    spacing: tuple[float, ...],
    voxels: float,
    in_channels: int,
    out_channels: int,
    network: str,
    memory_gb: float,
) -> Plan:
    """Rules 1 to 6 of ``plan``; ``voxels`` are those of the whole data set."""
    dims = len(size)
    preset = PRESETS[network]
    budget = preset.values[dims] * memory_gb / preset.memory_gb
    edge = (FIRST_PATCH[dims] * math.prod(spacing)) ** (1 / dims)  # mm
    patch: Sequence[float] = [
        min(round(edge / step), length)
        for step, length in zip(spacing, size, strict=True)
    ]
    while True:
        kernels, strides, rounded = _scales(patch, spacing)
        if len(strides) < 2:
            raise ValueError(
                f"no plan for {configuration}: patches of {tuple(patch)} cannot be "
                f"halved without feature maps under {MIN_EDGE}. Either the images "
                f"(median {size}) are too small, or memory_gb={memory_gb} is."
            )
        widths = tuple(
            min(32 * 2**scale, MAX_WIDTH[dims]) for scale in range(len(strides))
        )
        if network == "plain":
            blocks, up_convs = (2,) * len(widths), (2,) * (len(widths) - 1)
        else:
            blocks = _residual_blocks(len(widths))
            up_convs = (1,) * (len(widths) - 1)
        values = _feature_values(
            rounded, strides, widths, blocks, up_convs, out_channels, network != "plain"
        )
        if values * preset.min_batch[dims] / BATCH[dims] <= budget:
            break
        relative = [now / length for now, length in zip(rounded, size, strict=True)]
        axis = max(range(dims), key=lambda index: (relative[index], index))
        # One step is the multiple that the *smaller* patch needs: 256 -> 224, not 192.
        shrunk = list(rounded)
        shrunk[axis] -= _multiples(strides)[axis]
        smaller = _multiples(_scales(shrunk, spacing)[1])
        patch = list(rounded)
        patch[axis] -= smaller[axis]
    batch = round(budget / values * BATCH[dims])
    limit = round(voxels * preset.share / math.prod(rounded))
    return Plan(
        configuration,
        axes,
        spacing,
        size,
        rounded,
        max(min(batch, limit), 2),
        network,
        in_channels,
        out_channels,
        widths,
        kernels,
        strides,
        blocks,
        up_convs,
        values,
    )


def _scales(
    patch: Sequence[float], spacing: Sequence[float]
) -> tuple[tuple[Size, ...], tuple[Size, ...], Size]:
    """Rules 2 and 3: kernels, strides, and the patch rounded up to fit them."""
    dims = len(patch)
    size, step = list(patch), list(spacing)
    kernel = [1] * dims
    kernels, strides = [], [(1,) * dims]
    while True:
        large = [axis for axis in range(dims) if size[axis] >= 2 * MIN_EDGE]
        finest = min((step[axis] for axis in large), default=0.0)
        halved = [axis for axis in large if step[axis] / finest < 2]
        if not halved or (len(halved) == 1 and size[halved[0]] < 3 * MIN_EDGE):
            break
        for axis in range(dims):
            if step[axis] / min(step) < 2:
                kernel[axis] = 3
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in halved else 1 for axis in range(dims)))
        for axis in halved:
            size[axis] = math.ceil(size[axis] / 2)
            step[axis] *= 2
    kernels.append((3,) * dims)
    rounded = tuple(
        math.ceil(length / multiple) * multiple
        for length, multiple in zip(patch, _multiples(strides), strict=True)
    )
    return tuple(kernels), tuple(strides), rounded


def _multiples(strides: Sequence[Size]) -> Size:
    return tuple(math.prod(axis) for axis in zip(*strides, strict=True))


def _feature_values(
    patch: Size,
    strides: Sequence[Size],
    widths: Size,
    blocks: Size,
    decoder_convs: Size,
    out_channels: int,
    residual: bool,
) -> int:
    """Values that all convolutions put out for one patch, as ``plan`` describes."""
    shrink = accumulate((math.prod(stride) for stride in strides), mul)
    voxels = [math.prod(patch) // factor for factor in shrink]
    values = out_channels * voxels[0]
    if residual:
        values += widths[0] * voxels[0]  # the convolution before the first block
    for scale, width in enumerate(widths):
        convs = blocks[scale]
        if residual:
            convs = 2 * convs + (scale > 0)  # and a shortcut where the size changes
        values += convs * width * voxels[scale]
    for scale, convs in enumerate(reversed(decoder_convs)):
        values += (convs + 1) * widths[scale] * voxels[scale]  # up, then the stack
    return values
