"""``medseg describe``: the layers of a network."""

from torch import nn

from medseg.models.summary import describe as describe_model
from medseg.models.unet import UNet, UNet2015


def describe(
    *, network: str, size: int | None, widths: list[int], channels: int, classes: int
) -> int:
    """Print the layers of a network."""
    if network == "unet2015":
        model: nn.Module = UNet2015(channels, classes, widths=widths)
        size = size or 572
    else:
        model = UNet(channels, classes, widths=widths)
        size = size or 256
    print(describe_model(model, (1, channels, size, size)))
    return 0
