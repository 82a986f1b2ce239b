"""Write book/models.md: our networks beside the figures of their papers.

usage: python scripts/model_table.py

Parameters and multiply-adds come from running the code on shapes alone; the figures of
the papers stand in ROWS, with their source, and why ours is another one. A test
compares the page with what this writes.
"""

import os
import textwrap
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from medseg.models.deeplab import DeepLabV1, DeepLabV2, DeepLabV3, DeepLabV3Plus
from medseg.models.deepmedic import DeepMedic
from medseg.models.fcn import FCN8s, FCN16s, FCN32s
from medseg.models.highresnet import HighRes3DNet
from medseg.models.nnunet import PlainConvUNet, ResidualEncoderUNet
from medseg.models.summary import describe
from medseg.models.unet import UNet, UNet2015
from medseg.models.unet_variants import (
    AttentionUNet,
    ResidualUNet,
    UNet3D,
    UNetPlusPlus,
)

PAGE = Path(__file__).resolve().parent.parent / "book" / "models.md"


class Figure(NamedTuple):
    """A published number: as printed, in units, and the last digit's worth."""

    printed: str
    value: float
    digit: float = 1
    hand: bool = False  # our sum of the layers that the source describes
    why: str = ""  # the reason, where ours is another number


class Row(NamedTuple):
    """One line of the table."""

    name: str
    make: Callable[[], nn.Module]
    input_size: tuple[int, ...]
    source: str  # key in book/references.bib
    parameters: Figure | None = None
    multiply_adds: Figure | None = None


def by_hand(total: int, why: str = "") -> Figure:
    return Figure(f"{total:,}", total, hand=True, why=why)


def conv(size: int, *channels: int, bias: bool = True) -> int:
    """Parameters of a chain of 2D convolutions of one kernel size."""
    return sum(size**2 * i * o + bias * o for i, o in pairwise(channels))


def conv_norm(size: int, *channels: int) -> int:
    """The same without bias, and with the gain and shift of a norm."""
    return conv(size, *channels, bias=False) + 2 * sum(channels[1:])


# What torchvision publishes for its classifiers, less what follows the last pooling.
RESNET50 = 25_557_032 - (2048 * 1000 + 1000)
RESNET101 = 44_549_160 - (2048 * 1000 + 1000)
VGG = 138_357_544 - (7 * 7 * 512 + 1) * 4096 - 4097 * 4096 - 4097 * 1000
FCN = VGG + conv(7, 512, 4096) + conv(1, 4096, 4096, 21)
VGG_BRANCH = conv(3, 512, 1024) + conv(1, 1024, 1024, 21)
ASPP = (
    2 * conv_norm(1, 2048, 256)
    + 3 * conv_norm(3, 2048, 256)
    + conv_norm(1, 5 * 256, 256)
    + conv(1, 256, 21)
)
DECODER = conv_norm(1, 256, 48) + conv_norm(3, 256 + 48, 256, 256)
UNET = (
    conv(3, 1, 64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024)
    + sum(conv(2, 2 * w, w) + conv(3, 2 * w, w, w) for w in (512, 256, 128, 64))
    + conv(1, 64, 2)
)
RESUNET = conv(3, 3, 64, 64, 128, 128, 256, 256, 512, 512, bias=False) + sum(
    conv(3, joined, w, w, bias=False)
    for joined, w in ((768, 256), (384, 128), (192, 64))
)

STEM = (
    "The paper's ResNet is TensorFlow's: three 3x3 convolutions at the entrance in "
    "place of one of 7x7, and strides in the last block of a stage in place of the "
    "first, so that more blocks work at the higher resolution. Ours is torchvision's, "
    "whose published weights fit."
)
XCEPTION = (
    "Not settled: the paper does not say which operations it counts. Ours are those "
    "of convolutions alone."
)

ROWS = (
    Row(
        "`FCN32s(3, 21, paper=True)`",
        lambda: FCN32s(3, 21, paper=True),
        (1, 3, 256, 256),
        "long2015fcn",
        Figure("134 M", 134e6, 1e6),
    ),
    Row(
        "`FCN16s(3, 21, paper=True)`",
        lambda: FCN16s(3, 21, paper=True),
        (1, 3, 256, 256),
        "shelhamer2017fcn",
        by_hand(FCN + conv(1, 512, 21)),
    ),
    Row(
        "`FCN8s(3, 21, paper=True)`",
        lambda: FCN8s(3, 21, paper=True),
        (1, 3, 256, 256),
        "shelhamer2017fcn",
        by_hand(FCN + conv(1, 512, 21) + conv(1, 256, 21)),
    ),
    Row(
        "`UNet2015(1, 2)`",
        lambda: UNet2015(1, 2),
        (1, 1, 572, 572),
        "ronneberger2015unet",
        by_hand(UNET),
    ),
    Row("`UNet(1, 2)`", lambda: UNet(1, 2), (1, 1, 256, 256), "ronneberger2015unet"),
    Row(
        "`UNet(1, 1, widths=(32, ..., 512))`",
        lambda: UNet(1, 1, widths=(32, 64, 128, 256, 512)),
        (1, 1, 256, 256),
        "zhou2018unetplusplus",
        Figure("7.76 M", 7.76e6, 1e4),
    ),
    Row(
        "`UNetPlusPlus(1, 1, norm=None)`",
        lambda: UNetPlusPlus(1, 1, norm=None),
        (1, 1, 256, 256),
        "zhou2018unetplusplus",
        Figure("9.04 M", 9.04e6, 1e4),
    ),
    Row(
        "`ResidualUNet(3, 1)`",
        lambda: ResidualUNet(3, 1),
        (1, 3, 224, 224),
        "zhang2018resunet",
        by_hand(
            RESUNET,
            "The paper's table has the 3x3 convolutions alone. The rest are the "
            "1x1 convolutions that widen shortcuts (430,272), the norms, biases and "
            "the last layer.",
        ),
    ),
    Row(
        "`AttentionUNet(1, 4, widths=(16, ..., 256), gates=2, spatial_dims=3)`",
        lambda: AttentionUNet(
            1, 4, widths=(16, 32, 64, 128, 256), gates=2, spatial_dims=3
        ),
        (1, 1, 160, 160, 96),
        "oktay2018attention",
        Figure("6.40 M", 6.40e6, 1e4),
    ),
    Row(
        "`UNet3D(3, 3)`",
        lambda: UNet3D(3, 3),
        (1, 3, 132, 132, 116),
        "cicek2016unet3d",
        Figure("19,069,955", 19_069_955),
    ),
    Row(
        "`PlainConvUNet(1, 2)`",
        lambda: PlainConvUNet(1, 2),
        (1, 1, 128, 128, 128),
        "isensee2021nnunet",
    ),
    Row(
        "`ResidualEncoderUNet(1, 2)`",
        lambda: ResidualEncoderUNet(1, 2),
        (1, 1, 128, 128, 128),
        "isensee2024nnunet",
    ),
    Row(
        "`DeepLabV1(3, 21)`",
        lambda: DeepLabV1(3, 21),
        (1, 3, 321, 321),
        "chen2015deeplab",
        Figure("20.5 M", 20.5e6, 1e5),
    ),
    Row(
        '`DeepLabV2(3, 21, backbone="vgg16")`',
        lambda: DeepLabV2(3, 21, backbone="vgg16"),
        (1, 3, 321, 321),
        "chen2018deeplab",
        by_hand(VGG + 4 * VGG_BRANCH),
    ),
    Row(
        "`DeepLabV2(3, 21)`",
        lambda: DeepLabV2(3, 21),
        (1, 3, 321, 321),
        "chen2018deeplab",
        by_hand(RESNET101 + 4 * conv(3, 2048, 21)),
    ),
    Row(
        '`DeepLabV3(3, 21, backbone="resnet50")`',
        lambda: DeepLabV3(3, 21, backbone="resnet50"),
        (1, 3, 513, 513),
        "chen2017deeplabv3",
        by_hand(RESNET50 + ASPP),
    ),
    Row(
        "`DeepLabV3(3, 21)`",
        lambda: DeepLabV3(3, 21),
        (1, 3, 513, 513),
        "chen2018deeplabv3plus",
        by_hand(RESNET101 + ASPP),
        Figure("81.0 G", 81.0e9, 1e8, why=STEM),
    ),
    Row(
        "`DeepLabV3Plus(3, 21)`",
        lambda: DeepLabV3Plus(3, 21),
        (1, 3, 513, 513),
        "chen2018deeplabv3plus",
        by_hand(RESNET101 + ASPP + DECODER),
        Figure("101.28 G", 101.28e9, 1e7, why=STEM),
    ),
    Row(
        "`DeepLabV3Plus(3, 21, output_stride=8)`",
        lambda: DeepLabV3Plus(3, 21, output_stride=8),
        (1, 3, 513, 513),
        "chen2018deeplabv3plus",
        multiply_adds=Figure("297.92 G", 297.92e9, 1e7, why=STEM),
    ),
    Row(
        '`DeepLabV3Plus(3, 21, backbone="xception65")`',
        lambda: DeepLabV3Plus(3, 21, backbone="xception65"),
        (1, 3, 513, 513),
        "chen2018deeplabv3plus",
        multiply_adds=Figure("89.76 G", 89.76e9, 1e7, why=XCEPTION),
    ),
    Row(
        '`DeepLabV3Plus(3, 21, backbone="xception65", separable=True)`',
        lambda: DeepLabV3Plus(3, 21, backbone="xception65", separable=True),
        (1, 3, 513, 513),
        "chen2018deeplabv3plus",
        multiply_adds=Figure("54.17 G", 54.17e9, 1e7, why=XCEPTION),
    ),
    Row(
        "the same, `output_stride=8`",
        lambda: DeepLabV3Plus(
            3, 21, backbone="xception65", separable=True, output_stride=8
        ),
        (1, 3, 513, 513),
        "chen2018deeplabv3plus",
        multiply_adds=Figure("177.10 G", 177.10e9, 1e7, why=XCEPTION),
    ),
    Row(
        "`HighRes3DNet(1, 160)`",
        lambda: HighRes3DNet(1, 160),
        (1, 1, 96, 96, 96),
        "li2017highres3dnet",
        Figure("0.81 M", 0.81e6, 1e4),
    ),
    Row(
        "`DeepMedic(4, 5)`",
        lambda: DeepMedic(4, 5),
        (1, 4, 60, 60, 60),
        "kamnitsas2017deepmedic",
        Figure(
            "about 662,000",
            662_000,
            1000,
            why="We know of no number in print; the first author gives this one (issue "
            "158 of github.com/deepmedic/deepmedic), and not for how many channels and "
            "classes, nor whether the norms count. Here 660,330 are weights of "
            "convolutions; gains, shifts and slopes are 2,820, the last biases 5.",
        ),
    ),
)

HEAD = """# The networks in numbers

Written by `scripts/model_table.py`, which runs the code; a test keeps the page fresh.

All networks are those of {doc}`api/models`. *Parameters* are those that training may
change; the FCNs have fixed interpolations besides. *Multiply-adds* are those of
convolutions and matrix products for one image of the size given, in billions (G).
Numbers in *italics* are our sums over the layers that the source describes, where it
prints no total. A difference of 0 means: equal in all digits printed.
Letters lead to the reasons below.

{py:func}`~medseg.models.summary.describe` gives these numbers for any network and
size, and the table of its layers.

"""


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def compare(ours: int, figure: Figure | None, scale: float, unit: str) -> str:
    """The difference as it is printed: 0, or by how much ours is larger."""
    if figure is None:
        return ""
    if round(ours / figure.digit) == round(figure.value / figure.digit):
        return "0"
    difference = ours - figure.value
    shown = f"{difference / scale:+.2f}{unit}" if unit else f"{difference:+,.0f}"
    return f"{shown} ({difference / figure.value:+.1%})"


def published(figure: Figure | None) -> str:
    if figure is None:
        return ""
    return f"*{figure.printed}*" if figure.hand else figure.printed


def page() -> str:
    """The page, from running the code.

    Raises:
        ValueError: A number differs from the paper's, and ROWS gives no reason.
    """
    reasons: list[str] = []
    lines: list[str] = []
    for row in ROWS:
        with torch.device("meta"):
            model = row.make()
        multiply_adds = describe(model, row.input_size).multiply_adds
        size = " × ".join(str(n) for n in row.input_size[2:])
        cells = [row.name, size]
        for ours, text, figure, scale, unit in (
            (count(model), f"{count(model):,}", row.parameters, 1, ""),
            (
                multiply_adds,
                f"{multiply_adds / 1e9:.2f} G",
                row.multiply_adds,
                1e9,
                " G",
            ),
        ):
            difference = compare(ours, figure, scale, unit)
            if figure is not None and difference != "0":
                if not figure.why:
                    raise ValueError(
                        f"{row.name}: {ours} is not {figure.printed}. Say why in ROWS."
                    )
                if figure.why not in reasons:
                    reasons.append(figure.why)
                difference += f" {letter(reasons.index(figure.why))}"
            cells += [text, published(figure), difference]
        lines.append("* - " + "\n  - ".join([*cells, f"{{cite}}`{row.source}`"]))
    header = ["Network", "Image", "Parameters", "published", "difference"]
    header += ["Multiply-adds", "published", "difference", "Source"]
    table = "```{list-table}\n:header-rows: 1\n\n* - " + "\n  - ".join(header) + "\n"
    table += "\n".join(lines).replace("- \n", "-\n") + "\n```\n"
    why = "\n\n".join(
        textwrap.fill(f"**{letter(index)}** {text}", 88, break_on_hyphens=False)
        for index, text in enumerate(reasons)
    )
    rest = """
No published number stands beside `UNet`, which is the practical form of the 2015
network and has a norm, and beside nnU-Net's networks, whose size is planned from the
data set; theirs are for the default arguments.
"""
    return f"{HEAD}{table}\n## Why they differ\n\n{why}\n{rest}"


def letter(index: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[index]


def main() -> None:
    new = PAGE.with_suffix(".md.tmp")
    new.write_text(page(), encoding="utf-8")
    os.replace(new, PAGE)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
