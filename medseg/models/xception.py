"""The modified aligned Xception of DeepLab v3+: separable convolutions throughout.

xception65       the paper's backbone: 16 blocks in the middle, 37.9 M parameters
xception_small   an eighth as wide, 4 blocks in the middle: to learn with
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from medseg.checks import check_choice, check_images
from medseg.models.layers import (
    BackboneNorm,
    conv_norm_relu,
    he_init,
    make_norm,
    separable_conv,
)
from medseg.models.weights import Weights, load_weights


class Plan(NamedTuple):
    """What tells one Xception from another."""

    stem: tuple[int, int]
    entry: tuple[int, int, int]  # blocks that halve the resolution
    middle: int  # blocks as wide as the last of the entry
    exit: tuple[int, int]  # the last block that halves, second and third convolution
    tail: tuple[int, int, int]


PLANS = {
    "xception_small": Plan((8, 8), (16, 32, 64), 4, (96, 128), (128, 128, 256)),
    "xception65": Plan((32, 64), (128, 256, 728), 16, (1024, 1024), (1536, 1536, 2048)),
}


class Block(nn.Module):
    """Three separable convolutions, the last with the stride, beside a shortcut.

    A ReLU comes before each, and one after each depthwise step. The shortcut is a 1x1
    convolution where size or width changes, else the input itself.
    """

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, int, int],
        *,
        stride: int = 1,
        rate: int = 1,
        norm: BackboneNorm = "batch",
    ) -> None:
        super().__init__()
        first, second, third = widths
        self.conv1 = separable_conv(in_channels, first, rate=rate, norm=norm)
        self.conv2 = separable_conv(first, second, rate=rate, norm=norm)
        self.conv3 = separable_conv(
            second, third, stride=stride, rate=rate, norm=norm, last_relu=False
        )
        self.shortcut = (
            nn.Identity()
            if in_channels == third
            else nn.Sequential(
                nn.Conv2d(in_channels, third, 1, stride, bias=False),
                make_norm(norm, third),
            )
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features before the stride, and the output after it."""
        fine = self.conv2(self.conv1(torch.relu(x)))  # (B, second, H, W)
        return fine, self.conv3(fine) + self.shortcut(x)  # (B, third, H/s, W/s)


class Xception(nn.Module):
    """The modified aligned Xception, at a stride of your choice.

    Max-pooling is replaced by a separable convolution of stride 2, the last of its
    block, and batch norm and ReLU follow every depthwise convolution. What the
    network no longer halves becomes rate 2 in all that comes after that convolution:
    at ``output_stride`` 16 the last three, at 8 all from the middle on.

    The authors' TensorFlow code leaves out the ReLU after the depthwise steps of all
    blocks but the last; this is what the paper says.

    Args:
        in_channels: Image channels C.
        name: ``"xception65"`` or ``"xception_small"``.
        output_stride: 32, 16 or 8.
        norm: ``"batch"``, ``"frozen"`` or ``"group"``; see ``ResNet``.
        weights: None, or the path of a state dict of this class. ImageNet weights
            for this network are published for TensorFlow alone.

    Shapes:
        ``(B, C, H, W)`` to two maps: of stride 4, before the second block halves the
        resolution again, and of stride ``output_stride``.

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, or images with other axes or channels.
        OSError: There is no file ``weights``.

    Source:
        chen2018deeplabv3plus, section 3.2 and figure 4; chollet2017xception.

    Example:
        >>> net = Xception(1, "xception_small", output_stride=8)
        >>> [tuple(f.shape[1:]) for f in net(torch.zeros(1, 1, 33, 65))]
        [(32, 9, 17), (256, 5, 9)]
    """

    def __init__(
        self,
        in_channels: int,
        name: str = "xception65",
        *,
        output_stride: int = 32,
        norm: BackboneNorm = "batch",
        weights: Weights = None,
    ) -> None:
        super().__init__()
        check_choice(name, "name", tuple(PLANS))
        check_choice(output_stride, "output_stride", (8, 16, 32))
        plan = PLANS[name]
        self.in_channels = in_channels
        self.stride = output_stride
        self.channels = (plan.entry[1], plan.tail[2])
        reached, rate = 2, 1

        def halving(channels: int, widths: tuple[int, int, int]) -> Block:
            """A block that halves the resolution, or leaves that to later rates."""
            nonlocal reached, rate
            before = rate
            stride = 2 if reached < output_stride else 1
            reached *= stride
            rate *= 2 // stride
            return Block(channels, widths, stride=stride, rate=before, norm=norm)

        first, channels = plan.stem
        self.conv1 = conv_norm_relu(in_channels, first, stride=2, norm=norm)
        self.conv2 = conv_norm_relu(first, channels, norm=norm)
        self.entry = nn.ModuleList()
        for width in plan.entry:
            self.entry.append(halving(channels, (width, width, width)))
            channels = width
        widths = (channels, channels, channels)
        self.middle = nn.ModuleList(
            Block(channels, widths, rate=rate, norm=norm) for _ in range(plan.middle)
        )
        self.exit = halving(channels, (channels, *plan.exit))
        channels = plan.exit[1]
        self.tail = nn.Sequential()
        for width in plan.tail:
            self.tail.append(separable_conv(channels, width, rate=rate, norm=norm))
            channels = width
        he_init(self)
        if weights is not None:
            load_weights(self, weights, architecture=name, first_conv="conv1.0")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images ``(B, C, H, W)`` to features of stride 4 and output stride."""
        check_images(images, self.in_channels)
        x = self.conv2(self.conv1(images))  # (B, 64, H/2, W/2)
        fine = []
        for block in self.entry:
            before, x = block(x)  # (B, 128, H/4, W/4), (B, 256, H/8, W/8), ...
            fine.append(before)
        for block in self.middle:
            x = block(x)[1]
        x = self.exit(x)[1]  # (B, 1024, H/32, W/32)
        return [fine[1], self.tail(x)]  # (B, 256, H/4, W/4), (B, 2048, H/32, W/32)
