"""``describe`` against hand-worked counts and brute-force perturbation."""

import copy
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from medseg.models.fcn import FCN32s
from medseg.models.layers import ImagePooling
from medseg.models.summary import describe, effective_receptive_field
from medseg.models.unet import UNet, UNet2015


def brute_force_field(network: nn.Module, size: int, axis: int) -> int:
    """The largest span of input pixels along an axis that changes one output.

    Every weight is made positive, so that no two changes cancel and max-pooling lets
    a raised pixel through; then lines of the image are raised one after another.
    """
    network = copy.deepcopy(network).double().eval()
    for name, parameter in network.named_parameters():
        nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    seen: dict[int, list[int]] = {}
    with torch.no_grad():
        for line in range(size):
            images = torch.zeros(1, 1, size, size, dtype=torch.float64)
            images.select(axis, line).fill_(1.0)
            changed = network(images)[0, 0].select(3 - axis, 0) != 0
            for output in changed.nonzero().flatten().tolist():
                seen.setdefault(output, []).append(line)
    return max(lines[-1] - lines[0] + 1 for lines in seen.values())


class Scales(nn.Module):
    """Views of an image at two scales; the larger value wins, as in DeepLab v2."""

    def forward(self, x):
        half = nn.functional.avg_pool2d(x, 3, stride=2, padding=1)
        size = x.shape[2:]
        half = nn.functional.interpolate(
            half, size=size, mode="bilinear", align_corners=True
        )
        return torch.stack([x, half]).amax(dim=0)


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize(
    ("network", "size"),
    [
        (UNet2015(1, 1, widths=(1, 1, 1)), 92),
        (UNet2015(1, 1, widths=(1, 1, 1, 1)), 220),
        (UNet(1, 1, widths=(1, 1, 1), norm=None), 80),
        (UNet(1, 1, widths=(1, 1, 1), norm=None), 27),  # ends at the image's border
        (nn.Conv2d(1, 1, 3, dilation=4, stride=2, padding=1), 32),
        (nn.Sequential(nn.Conv2d(1, 1, 5), nn.ConvTranspose2d(1, 1, 3, stride=2)), 32),
        (nn.Sequential(nn.AvgPool2d(3, 2), nn.MaxPool2d(2, 1, 1), nn.ReLU()), 32),
        (
            nn.Sequential(
                nn.Conv2d(1, 1, 4, 3), nn.Upsample(scale_factor=3.0), nn.Conv2d(1, 1, 3)
            ),
            32,
        ),
        (nn.Sequential(nn.Conv2d(1, 1, 4, 3), nn.Upsample(29, mode="bilinear")), 32),
        (Scales(), 21),
        (nn.Sequential(nn.ZeroPad2d((1, 0, 2, 5)), nn.Conv2d(1, 1, 3)), 20),
    ],
    ids=["2015, 3", "2015, 4", "same, 3", "same, small", "dilated", "up", "pools"]
    + ["repeated", "bilinear", "corners, scales", "zeros"],
)
def test_receptive_field_is_the_one_found_by_changing_pixels(network, size, axis):
    found = describe(network, (1, 1, size, size)).receptive_field
    assert found[axis - 2] == brute_force_field(network, size, axis)


def test_figures_of_the_2015_network():
    with torch.device("meta"):
        network = UNet2015(1, 2)
    result = describe(network, (1, 1, 572, 572))
    assert result.output_shape == (1, 2, 388, 388)
    assert result.parameters == 31_030_658
    assert result.multiply_adds == pytest.approx(150.4e9, rel=1e-3)
    assert result.stride == (Fraction(16), Fraction(16))
    assert sum(layer.kind.startswith("Conv") for layer in result.layers) == 23


def test_a_layer_of_the_table_is_right_when_worked_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, bias=False), nn.ReLU())
    (layer,) = describe(net, (2, 3, 9, 11)).layers  # ReLU has nothing to report
    assert layer == ("0", "Conv2d", (2, 4, 4, 5), 108, 2 * 4 * 5 * 108, (3, 3), (2, 2))


def test_activations_are_the_bytes_that_autograd_keeps():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1))
    # Input of each convolution; ReLU's result is the second one's input.
    kept = 4 * (10 * 10 + 4 * 8 * 8)
    assert describe(net, (1, 1, 10, 10)).activation_bytes == kept


def test_it_prints_a_table_with_totals():
    text = str(describe(UNet(1, 2, widths=(4, 8)), (1, 1, 16, 16)))
    assert text.splitlines()[0].split()[:3] == ["layer", "type", "output"]
    assert "encoder.1.0  Conv2d           8x8x8" in text
    assert "input 1x1x16x16, output 1x2x16x16" in text


def test_an_operation_without_a_rule_leaves_the_field_unknown_but_counts_the_rest():
    class Turn(nn.Module):
        def forward(self, x):
            return x.transpose(2, 3)

    result = describe(nn.Sequential(nn.Conv2d(1, 1, 3), Turn()), (1, 1, 8, 9))
    assert result.receptive_field is None
    assert result.parameters == 10
    assert "receptive field  unknown" in str(result)


def test_the_network_is_left_as_it_was():
    net = UNet(1, 1, widths=(2, 3))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    describe(net, (1, 1, 16, 16))
    assert net.training
    assert next(net.parameters()).device.type == "cpu"
    assert not any(layer._forward_hooks for layer in net.modules())
    assert all(torch.equal(before[name], net.state_dict()[name]) for name in before)


def test_batch_norm_of_a_single_value_is_described():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert describe(net, (1, 1, 3, 3)).output_shape == (1, 2, 1, 1)


def test_a_network_in_half_precision_keeps_half_the_bytes():
    single, half = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3).bfloat16()
    bytes_kept = [
        describe(net, (1, 1, 8, 8)).activation_bytes for net in (single, half)
    ]
    assert bytes_kept == [256, 128]


def test_pooling_over_the_image_sees_all_of_it():
    assert describe(ImagePooling(1, 1), (1, 1, 12, 9)).receptive_field == (12, 9)


def test_effective_field_of_a_stack_of_blurs_is_the_binomial_bell():
    net = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(4)))
    for blur in net:
        line = torch.tensor([1.0, 2.0, 1.0])
        blur.weight.data = torch.outer(line, line)[None, None]
    field = effective_receptive_field(net, (1, 1, 21, 24), share=0.9, repeats=2)
    line = np.poly1d([1, 1]) ** 8 / 2**8  # (1 2 1) four times: 9 taps
    expected = np.zeros((21, 24))
    expected[6:15, 8:17] = np.outer(line.coeffs, line.coeffs)
    np.testing.assert_allclose(field.influence, expected, atol=1e-7)
    assert field.side == 7
    held = [np.outer(c, c).sum() for c in (line.coeffs[2:7], line.coeffs[1:8])]
    assert held[0] < 0.9 <= held[1]  # 5 pixels do not hold it, 7 do


@pytest.mark.parametrize(
    ("build", "size"),
    [
        (lambda: UNet(1, 2, widths=(4, 6, 8), norm=None), (2, 1, 81, 90)),
        (lambda: UNet2015(1, 2, widths=(4, 6, 8), dropout=0), (1, 1, 92, 100)),
        (
            lambda: UNet(1, 2, widths=(4, 6), norm=None, spatial_dims=3),
            (1, 1, 23, 21, 22),
        ),
    ],
    ids=["same", "valid", "3D"],
)
def test_effective_field_lies_inside_the_theoretical_one(build, size):
    network = build()  # under the seed of every test: few channels can all be dead
    found = effective_receptive_field(network, size, share=1, repeats=20)
    theory = describe(network, size).receptive_field
    assert found.influence.shape == size[2:]
    assert found.influence.sum() == pytest.approx(1)
    for axis, extent in enumerate(theory):
        others = tuple(a for a in range(len(theory)) if a != axis)
        seen = found.influence.max(axis=others).nonzero()[0]
        assert seen[-1] - seen[0] + 1 <= extent
    half = effective_receptive_field(network, size, share=0.5, repeats=20)
    assert half.side < found.side <= 2 * max(theory) + 1


@pytest.mark.parametrize("size", [8, 9])
def test_effective_field_of_a_network_without_padding_lies_in_the_image_centre(size):
    net = nn.Conv2d(1, 1, 3)
    field = effective_receptive_field(net, (1, 1, size, size), share=1, repeats=1)
    assert field.side == 3
    middle = (size - 2) // 2 + 1  # of the output; and it sees one pixel further
    assert field.influence[middle - 1 : middle + 2, middle].all()


def test_effective_field_does_not_vanish_where_classes_cancel():
    net = nn.Conv2d(1, 2, 1, bias=False)
    net.weight.data = torch.tensor([1.0, -1.0])[:, None, None, None]
    assert effective_receptive_field(net, (1, 1, 5, 5)).side == 1


def test_effective_field_repeats_and_leaves_the_network_as_it_was():
    torch.manual_seed(0)
    net = UNet(1, 1, widths=(8, 8))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    one, other, third = (
        effective_receptive_field(net, (1, 1, 16, 16), repeats=2, seed=seed).influence
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, other)
    assert not np.array_equal(one, third)
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(before[name], net.state_dict()[name]) for name in before)


def test_effective_field_refuses_what_has_none():
    net = FCN32s(1, 2, widths=(2,) * 5, hidden=2)  # scores start at 0
    with pytest.raises(ValueError, match=r"no input pixel has any influence.*train"):
        effective_receptive_field(net, (1, 1, 8, 8), repeats=1)
    for share, repeats in ((0, 1), (1.1, 1), (0.5, 0)):
        with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]"):
            effective_receptive_field(
                nn.Conv2d(1, 1, 1), (1, 1, 4, 4), share=share, repeats=repeats
            )
    with pytest.raises(ValueError, match=r"must be \(B, C, H, W\)"):
        effective_receptive_field(nn.Conv2d(1, 1, 1), (4, 4))


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match=r"must be \(B, C, H, W\).*got \(256, 256\)"):
        describe(nn.Conv2d(3, 1, 1), (256, 256))
    with pytest.raises(ValueError, match="takes 1 image channel"):
        describe(UNet(1, 1, widths=(2, 3)))
