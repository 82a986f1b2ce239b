"""ResNet as a backbone: named like torchvision's, atrous where the papers are.

    resnet_small     10 layers, 0.3 M parameters      to learn with
    resnet18         two 3x3 convolutions a block, 11.2 M
    resnet50, 101    1x1, 3x3, 1x1: the backbones of DeepLab, 23.5 M and 42.5 M

The convolutions, norms and their names are torchvision's, so its weights load. The
stride of a stage sits in its first block, in the 3x3 convolution.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from medseg.checks import check_choice, check_images
from medseg.models.layers import BackboneNorm, he_init, make_norm
from medseg.models.weights import Weights, load_weights


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Source:
        he2016resnet, figure 5, left.
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        rate: int = 1,
        norm: BackboneNorm = "batch",
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, width, stride, rate)
        self.bn1 = make_norm(norm, width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(width, width, 1, rate)
        self.bn2 = make_norm(norm, width)
        self.downsample = _shortcut(in_channels, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, width, H / stride, W / stride)``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)


class Bottleneck(nn.Module):
    """A 1x1 convolution down to ``width``, a 3x3 one, a 1x1 one up to 4 ``width``.

    Source:
        he2016resnet, figure 5, right.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int = 1,
        rate: int = 1,
        norm: BackboneNorm = "batch",
    ) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = make_norm(norm, width)
        self.conv2 = _conv3x3(width, width, stride, rate)
        self.bn2 = make_norm(norm, width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = make_norm(norm, out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, out_channels, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to ``(B, 4 width, H / stride, W / stride)``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)


def _conv3x3(in_channels: int, out_channels: int, stride: int, rate: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, rate, rate, bias=False)


def _shortcut(
    in_channels: int, out_channels: int, stride: int, norm: BackboneNorm
) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
        make_norm(norm, out_channels),
    )


class Plan(NamedTuple):
    """What tells one ResNet from another."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, ...]  # in each of the four stages
    widths: tuple[int, ...]


PLANS = {
    "resnet_small": Plan(BasicBlock, (1, 1, 1, 1), (16, 32, 64, 128)),
    "resnet18": Plan(BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet50": Plan(Bottleneck, (3, 4, 6, 3), (64, 128, 256, 512)),
    "resnet101": Plan(Bottleneck, (3, 4, 23, 3), (64, 128, 256, 512)),
}


class ResNet(nn.Module):
    """A ResNet that returns its features, at a stride of your choice.

    With ``output_stride`` 16, ``layer4`` no longer halves the resolution: its stride
    becomes 1, and its 3x3 convolutions take rate 2, so that their taps meet the pixels
    that they met before. With 8 the same holds for ``layer3`` (rate 2) and ``layer4``
    (rate 4). The parameters stay as they are.

    As in the papers, the new rate holds from the first block of the stage on. In the
    papers' ResNets the stride comes before that block's 3x3 convolution; in published
    PyTorch weights it sits in it, so its taps are spread wider than when they were
    trained. torchvision therefore keeps the previous stage's rate there. It is one
    layer a stage, and fine-tuning settles it.

    Args:
        in_channels: Image channels C.
        name: ``"resnet50"``, ``"resnet101"``, ``"resnet18"``, or
            ``"resnet_small"``: one block a stage and a quarter as wide, without
            published weights.
        output_stride: 32 as published, 16 or 8.
        multi_grid: Factors on the rate of ``layer4``'s blocks, one each; what
            exceeds the blocks is not used.
        norm: ``"batch"``; ``"frozen"``, batch norm with fixed statistics, gain and
            shift, for published weights and small batches; or ``"group"``.
        num_classes: Classes of ``classify``, 1000 in published weights; None
            leaves the layer out.
        weights: None, ``"imagenet"``, or the path of a state dict
            (``medseg.models.weights.load_weights``). Where C is not the file's, the
            first filters are adapted; where ``num_classes`` is not 1000, ``fc`` keeps
            its random start with ``"imagenet"``, and a file must hold as many.

    Shapes:
        ``(B, C, H, W)`` to four maps of strides 4, 8, 16, 32 (at most
        ``output_stride``); a side of H pixels becomes ceil(H / stride).

    Raises:
        TypeError: The images are not floating point (when called).
        ValueError: A wrong argument, or images with other axes or channels.
        OSError: The weights could not be downloaded, or there is no such file.

    Source:
        he2016resnet; chen2017deeplabv3, section 3.2, for the rates.

    Example:
        >>> import torch
        >>> net = ResNet(1, "resnet_small", output_stride=8)
        >>> [tuple(f.shape[1:]) for f in net(torch.zeros(1, 1, 33, 65))]
        [(16, 9, 17), (32, 5, 9), (64, 5, 9), (128, 5, 9)]
    """

    def __init__(
        self,
        in_channels: int,
        name: str = "resnet50",
        *,
        output_stride: int = 32,
        multi_grid: Sequence[int] = (1, 1, 1),
        norm: BackboneNorm = "batch",
        num_classes: int | None = None,
        weights: Weights = None,
    ) -> None:
        super().__init__()
        check_choice(name, "name", tuple(PLANS))
        check_choice(output_stride, "output_stride", (8, 16, 32))
        plan = PLANS[name]
        if len(multi_grid) < plan.blocks[3] or min(multi_grid) < 1:
            raise ValueError(
                f"multi_grid must give a factor from 1 for each of the {plan.blocks[3]}"
                f" blocks of layer4, got {tuple(multi_grid)}; for example (1, 2, 4)."
            )
        if weights == "imagenet" and norm == "group":
            raise ValueError(
                "the published weights belong to a network with batch norm; use "
                'norm="batch", or norm="frozen" for batches of one or two images.'
            )
        self.in_channels = in_channels
        self.stride = output_stride
        self.channels = tuple(width * plan.block.expansion for width in plan.widths)
        stem = plan.widths[0]

        self.conv1 = nn.Conv2d(in_channels, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(norm, stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels, reached, rate = stem, 4, 1
        stages = []
        for stage, (width, blocks) in enumerate(
            zip(plan.widths, plan.blocks, strict=True)
        ):
            stride = 1 if stage == 0 else 2
            if reached * stride > output_stride:
                rate *= stride
                stride = 1
            reached *= stride
            layers = []
            for block in range(blocks):
                factor = multi_grid[block] if stage == 3 else 1
                layers.append(
                    plan.block(
                        channels,
                        width,
                        stride=stride if block == 0 else 1,
                        rate=rate * factor,
                        norm=norm,
                    )
                )
                channels = width * plan.block.expansion
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = None if num_classes is None else nn.Linear(channels, num_classes)
        he_init(self)
        if weights is not None:
            new_classes = weights == "imagenet" and num_classes != 1000
            load_weights(
                self,
                weights,
                architecture=name,
                first_conv="conv1",
                skip=("fc.",) if self.fc is None or new_classes else (),
            )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map images ``(B, C, H, W)`` to the features of the four stages."""
        check_images(images, self.in_channels)
        x = self.relu(self.bn1(self.conv1(images)))  # (B, 64, H/2, W/2)
        x = self.maxpool(x)  # (B, 64, H/4, W/4)
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)  # (B, 256, H/4, W/4), (B, 512, H/8, W/8), ...
            features.append(x)
        return features

    def classify(self, images: Tensor) -> Tensor:
        """Map images ``(B, C, H, W)`` to scores ``(B, num_classes)``.

        Raises:
            ValueError: The network was built without ``num_classes``.
        """
        if self.fc is None:
            raise ValueError(
                "this ResNet has no classifier; build it with num_classes=1000."
            )
        return self.fc(self.forward(images)[-1].mean(dim=(2, 3)))
