"""HighRes3DNet and DeepMedic: the papers' figures, and both against re-computations
from their weights alone."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medseg.models.deepmedic import DeepMedic
from medseg.models.highresnet import HighRes3DNet
from medseg.models.summary import describe

NORMS = ["batch", "instance", "group", None]


def count(network: torch.nn.Module, *, convs_only: bool = False) -> int:
    sizes = [p.numel() for p in network.parameters() if p.ndim > 2 or not convs_only]
    return sum(sizes)


def meta(network, *args, **options):
    with torch.device("meta"):
        return network(*args, **options)


def narrow_deepmedic(in_channels=1, out_channels=2, **options):
    options = {"widths": (2, 2, 3, 3, 3, 3, 4, 4), "hidden": (5, 5), **options}
    return DeepMedic(in_channels, out_channels, **options)


# --- HighRes3DNet -------------------------------------------------------------------


def test_highresnet_has_the_papers_20_convolutions_and_field_of_87():
    result = describe(meta(HighRes3DNet, 1, 160), (1, 1, 96, 96, 96))
    assert result.receptive_field == (87, 87, 87)
    assert sum(layer.kind == "Conv3d" for layer in result.layers) == 20
    assert all(layer.output_shape[2:] == (96,) * 3 for layer in result.layers)


def test_highresnet_has_081_million_parameters():
    first, stages = (
        27 * 16,
        27 * (6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2),
    )
    weights = first + stages + 64 * 160
    norms = 2 * (16 + 6 * 16 + 16 + 5 * 32 + 32 + 5 * 64)
    network = meta(HighRes3DNet, 1, 160)
    assert count(network, convs_only=True) == weights == 812_464
    assert count(network) == weights + norms + 160 == 813_904  # 160 biases
    # NiftyNet's further layer of 80 takes the place of 64 in the last.
    more = 64 * 80 + 2 * 80 + (80 - 64) * 160
    assert count(meta(HighRes3DNet, 1, 160, hidden=80)) == 813_904 + more == 821_744


def test_highresnet_is_what_its_weights_say_when_computed_by_hand():
    torch.manual_seed(0)
    network = HighRes3DNet(2, 3, widths=(2, 5), blocks=2, norm=None).double()
    images = torch.randn(1, 2, 5, 6, 7, dtype=torch.float64)
    weights = iter(network.parameters())

    def conv(x: Tensor, dilation: int = 1) -> Tensor:
        weight, bias = next(weights), next(weights)
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv3d(x, weight, bias, padding=padding, dilation=dilation)

    x = conv(images).relu()
    for dilation in (1, 1, 2, 2):
        y = conv(conv(x.relu(), dilation).relu(), dilation)
        shortcut = torch.zeros_like(y)
        start = (y.shape[1] - x.shape[1]) // 2
        shortcut[:, start : start + x.shape[1]] = x
        x = shortcut + y
    torch.testing.assert_close(network(images), conv(x))


def test_highresnet_norms_and_hidden_layer_stand_where_the_paper_draws_them():
    names = [type(m).__name__ for m in HighRes3DNet(1, 2, hidden=80).modules()]
    leaves = [n for n in names if n not in ("Sequential", "ModuleList", "HighRes3DNet")]
    block = ["HighResBlock", *2 * ["BatchNorm3d", "ReLU", "Conv3d"]]
    first = ["Conv3d", "BatchNorm3d", "ReLU"]
    assert leaves == [*first, *9 * block, *first, "Dropout", "Conv3d"]


# --- DeepMedic ----------------------------------------------------------------------


def test_deepmedic_has_the_papers_patch_geometry():
    network = meta(DeepMedic, 4, 5)
    normal, low = (torch.zeros(1, 4, n, n, n, device="meta") for n in (25, 19))
    assert network.forward_patches(normal, low).shape == (1, 5, 9, 9, 9)
    assert describe(network.normal, (1, 4, 25, 25, 25)).receptive_field == (17,) * 3
    assert describe(network.low, (1, 4, 19, 19, 19)).receptive_field == (17,) * 3
    assert describe(network, (1, 4, 75, 75, 75)).receptive_field == (51,) * 3
    # 8 in each pathway, and 3 after: 11 deep.
    assert sum(isinstance(m, torch.nn.Conv3d) for m in network.modules()) == 2 * 8 + 3


def test_deepmedic_has_the_parameters_that_the_papers_text_implies():
    network = meta(DeepMedic, 4, 5)
    maps = 30 * 30 + 30 * 40 + 3 * 40 * 40 + 40 * 50 + 50 * 50
    weights = 2 * 27 * (4 * 30 + maps) + 100 * 150 + 150 * 150 + 150 * 5
    assert count(network, convs_only=True) == weights == 660_330
    normed = 2 * (30 + 30 + 4 * 40 + 50) + 100 + 150 + 150
    assert count(network) == weights + 3 * normed + 5 == 663_155  # gain, shift, slope
    assert count(network) == pytest.approx(662_000, rel=0.002)  # the first author's


def plain_deepmedic(network: DeepMedic, normal: Tensor, low: Tensor, residual: bool):
    """Logits of patches, from the weights of a network without norm."""
    weights = iter(network.parameters())

    def act(x: Tensor) -> Tensor:
        slope = next(weights)[:, None, None, None]
        return torch.where(x > 0, x, slope * x)

    def pathway(x: Tensor) -> Tensor:
        x = F.conv3d(x, next(weights), next(weights))
        for number in range(2, 9):
            y = F.conv3d(act(x), next(weights), next(weights))
            if residual and number in (4, 6, 8):
                y[:, : x.shape[1]] += x[:, :, 1:-1, 1:-1, 1:-1]
            x = y
        return x

    detail, context = pathway(normal), pathway(low)
    for axis in (2, 3, 4):
        context = context.repeat_interleave(3, dim=axis)
        context = context.narrow(axis, 0, detail.shape[axis])
    x = torch.cat([detail, context], dim=1)
    for _ in range(3):
        x = F.conv3d(act(x), next(weights), next(weights))
    return x


@pytest.mark.parametrize("residual", [False, True])
def test_deepmedic_is_what_its_weights_say_when_computed_by_hand(residual):
    torch.manual_seed(0)
    network = narrow_deepmedic(2, 3, norm=None, residual=residual).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    normal, low = (torch.randn(1, 2, n, 25, 25).double() for n in (23, 19))
    low = low[..., :19, :19]
    expected = plain_deepmedic(network, normal, low, residual)
    torch.testing.assert_close(network.forward_patches(normal, low), expected)


def test_deepmedic_says_the_same_of_a_whole_image_as_of_patches_cut_by_hand():
    torch.manual_seed(0)
    network = narrow_deepmedic().double().eval()
    image = torch.randn(1, 1, 15, 16, 14, dtype=torch.float64)
    logits = network(image)
    # By hand: 24 voxels of border all round, and a cube whose coarse grid is the
    # image's, which begins at its corner.
    rows = [torch.arange(-24, 24 + n).clamp(0, n - 1) for n in image.shape[2:]]
    block = image[:, :, rows[0]][:, :, :, rows[1]][..., rows[2]]
    for axis, corner in enumerate((3, 6, 3), start=2):
        block = block.narrow(axis, corner, 57)
    normal = block[:, :, 16:41, 16:41, 16:41]
    low = block.reshape(1, 1, 19, 3, 19, 3, 19, 3).mean(dim=(3, 5, 7))
    patch = network.forward_patches(normal, low)
    there = logits[:, :, 3:12, 6:15, 3:12]
    torch.testing.assert_close(patch, there)


def test_deepmedic_pads_by_repeating_the_border():
    torch.manual_seed(0)
    network = narrow_deepmedic().double().eval()
    image = torch.randn(1, 1, 4, 5, 6, dtype=torch.float64)
    rows = [torch.arange(-24, 24 + n).clamp(0, n - 1) for n in image.shape[2:]]
    larger = image[:, :, rows[0]][:, :, :, rows[1]][..., rows[2]]
    inside = network(larger)[:, :, 24:28, 24:29, 24:30]
    torch.testing.assert_close(network(image), inside)


def test_deepmedic_takes_the_larger_patches_of_inference():
    network = meta(DeepMedic, 2, 5).eval()
    normal, low = (torch.zeros(1, 2, n, n, n, device="meta") for n in (45, 26))
    assert network.forward_patches(normal, low).shape == (1, 5, 29, 29, 29)


@pytest.mark.parametrize(
    ("normal", "low"), [(25, 18), (25, 20), (16, 16), (26, 19), (24, 18)]
)
def test_deepmedic_refuses_patches_that_do_not_belong_together(normal, low):
    network = meta(narrow_deepmedic)
    cubes = [torch.zeros(1, 1, n, n, n, device="meta") for n in (normal, low)]
    with pytest.raises(ValueError, match=r"Give at least 17.*25 and 19, say"):
        network.forward_patches(*cubes)


def test_deepmedic_checks_both_patches():
    network = narrow_deepmedic()
    normal, low = torch.zeros(1, 1, 25, 25, 25), torch.zeros(1, 1, 19, 19, 19)
    with pytest.raises(TypeError, match="floating point"):
        network.forward_patches(normal, low.long())
    with pytest.raises(ValueError, match="takes 1 image channel"):
        network.forward_patches(normal.repeat(1, 2, 1, 1, 1), low)


# --- both ---------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 2, 1), (5, 4, 7)])
@pytest.mark.parametrize(
    "make",
    [
        lambda norm: HighRes3DNet(1, 2, widths=(2, 4), blocks=1, norm=norm, hidden=4),
        lambda norm: narrow_deepmedic(norm=norm, widths=(2, 4), residual=True),
    ],
    ids=["HighRes3DNet", "DeepMedic"],
)
def test_one_image_of_any_size_trains_with_any_norm(make, size, norm):
    torch.manual_seed(0)
    network = make(norm)
    logits = network(torch.randn(1, 1, *size))
    assert logits.shape == (1, 2, *size)
    logits.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_highresnet_takes_images_too():
    network = HighRes3DNet(3, 1, widths=(2, 4), spatial_dims=2)
    assert network(torch.zeros(2, 3, 7, 9)).shape == (2, 1, 7, 9)


@pytest.mark.parametrize("network", [HighRes3DNet, DeepMedic])
def test_wrong_arguments_are_refused_with_advice(network):
    for wrong in ({"widths": ()}, {"widths": (4, 0)}, {"out_channels": 0}):
        with pytest.raises(ValueError, match="must be counts from 1"):
            network(1, **{"out_channels": 1, **wrong})
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 1"):
        network(1, 1, dropout=1)
    with pytest.raises(ValueError, match="norm must be one of"):
        network(1, 1, norm="layer")
    falling = {"widths": (4, 2)} | ({"residual": True} if network is DeepMedic else {})
    with pytest.raises(ValueError, match=r"widths must not fall.*\(4, 2\)"):
        network(1, 1, **falling)
    with pytest.raises(ValueError, match="5 axes"):
        network(1, 1)(torch.zeros(1, 1, 8, 8))


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    image = torch.randn(1, 1, 4, 4, 4)
    for network in (
        HighRes3DNet(1, 1, widths=(4,), blocks=1, norm=None, hidden=8),
        narrow_deepmedic(norm=None, widths=(4, 4)),
    ):
        assert not torch.equal(network(image), network(image))
        network.eval()
        assert torch.equal(network(image), network(image))
