"""nnU-Net's networks against plain re-computations, and its plans against what its
published rules give by hand."""

import math
import pickle
import random
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.models.nnunet import PlainConvUNet, ResidualEncoderUNet, plan

NETWORKS = [PlainConvUNet, ResidualEncoderUNet]
NARROW = (2, 4, 6)
KERNELS = ((1, 3, 3), (3, 3, 3), (3, 3, 3))
STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2))


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def randomise(network: nn.Module) -> None:
    """Numbers away from where training starts, so that nothing is hidden by a 0."""
    torch.manual_seed(0)
    for p in network.parameters():
        nn.init.normal_(p, mean=0.1, std=0.5)


def norm(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    axes = tuple(range(2, x.ndim))
    mean = x.mean(axes, keepdim=True)
    var = x.var(axes, keepdim=True, correction=0)
    spread = (-1, *(1,) * len(axes))
    return (x - mean) / (var + 1e-5).sqrt() * gain.view(spread) + shift.view(spread)


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


# --- the networks --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "expected"),
    [(PlainConvUNet, 31_196_399), (ResidualEncoderUNet, 102_350_575)],
)
def test_parameters_are_those_of_the_release(network, expected):
    with torch.device("meta"):
        assert count(network(1, 3, deep_supervision=True)) == expected


def test_plain_network_is_what_its_weights_say_when_computed_by_hand():
    network = PlainConvUNet(
        2, 3, widths=(3, 4), kernel_sizes=KERNELS[:2], strides=STRIDES[:2]
    ).double()
    randomise(network)
    images = torch.randn(2, 2, 3, 4, 6, dtype=torch.float64)
    weights = iter(network.parameters())

    def step(x: Tensor, pad: tuple[int, ...], stride: tuple[int, ...] = (1, 1, 1)):
        x = F.conv3d(x, next(weights), next(weights), stride, pad)
        return leaky(norm(x, next(weights), next(weights)))

    fine = step(step(images, (0, 1, 1)), (0, 1, 1))
    x = step(step(fine, (1, 1, 1), (1, 2, 2)), (1, 1, 1))
    x = F.conv_transpose3d(x, next(weights), next(weights), (1, 2, 2))
    x = torch.cat([x, fine], 1)  # enlarged first, then the skip
    x = step(step(x, (0, 1, 1)), (0, 1, 1))
    expected = F.conv3d(x, next(weights), next(weights))
    torch.testing.assert_close(network(images), expected)


def test_residual_network_is_what_its_weights_say_when_computed_by_hand():
    network = ResidualEncoderUNet(
        2, 3, widths=(3, 4), blocks=(1, 2), spatial_dims=2
    ).double()
    randomise(network)
    images = torch.randn(2, 2, 4, 6, dtype=torch.float64)
    weights = iter(network.parameters())

    def step(x: Tensor, stride: int = 1) -> Tensor:
        x = F.conv2d(x, next(weights), next(weights), stride, 1)
        return norm(x, next(weights), next(weights))

    fine = leaky(step(images))  # before the blocks
    fine = leaky(step(leaky(step(fine))) + fine)
    x = step(leaky(step(fine, 2)))
    short = F.conv2d(F.avg_pool2d(fine, 2), next(weights))
    x = leaky(x + norm(short, next(weights), next(weights)))
    x = leaky(step(leaky(step(x))) + x)
    x = F.conv_transpose2d(x, next(weights), next(weights), 2)
    x = leaky(step(torch.cat([x, fine], 1)))
    expected = F.conv2d(x, next(weights), next(weights))
    torch.testing.assert_close(network(images), expected)


def test_a_residual_block_starts_as_its_shortcut():
    block = ResidualEncoderUNet(1, 1, widths=NARROW).encoder[1][1]
    features = torch.rand(1, 4, 3, 3, 3)
    assert torch.equal(block(features), features)


@pytest.mark.parametrize("network", NETWORKS)
def test_deep_supervision_lists_every_scale_but_the_coarsest_finest_first(network):
    model = network(
        1,
        2,
        widths=(2, 4, 4, 4),
        strides=(*STRIDES, (2, 2, 2)),
        deep_supervision=True,
    )
    images = torch.randn(1, 1, 5, 9, 14)
    logits = model.train()(images)
    # Halves round up; the first step leaves the slices alone.
    sizes = [(5, 9, 14), (5, 5, 7), (3, 3, 4)]
    assert [tuple(x.shape) for x in logits] == [(1, 2, *size) for size in sizes]
    finest = model.eval()(images)
    assert isinstance(finest, Tensor)
    assert torch.equal(finest, logits[0])  # instance norm: the same in both modes


@pytest.mark.parametrize("network", NETWORKS)
def test_without_deep_supervision_there_is_one_head(network):
    model = network(1, 2, widths=NARROW)
    assert isinstance(model.train()(torch.randn(1, 1, 8, 8, 8)), Tensor)
    assert len(model.heads) == 1


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", [(1, 1), (4, 4), (13, 30), (1, 1, 1), (3, 5, 6)])
def test_any_size_trains_even_one_image_of_one_pixel(network, size):
    torch.manual_seed(0)
    model = network(1, 2, widths=NARROW, spatial_dims=len(size), deep_supervision=True)
    logits = model(torch.randn(1, 1, *size))
    assert logits[0].shape == (1, 2, *size)
    sum(x.square().sum() for x in logits).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("network", NETWORKS)
def test_odd_sizes_are_padded_by_repeating_the_border_at_the_end(network):
    model = network(1, 1, widths=NARROW, strides=STRIDES)
    randomise(model)
    images = torch.randn(1, 1, 3, 9, 8)
    by_hand = torch.cat([images, images[:, :, -1:]], 2)
    by_hand = torch.cat([by_hand, by_hand[:, :, :, -1:].expand(-1, -1, -1, 3, -1)], 3)
    expected = model(by_hand)[:, :, :3, :9]
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize(
    "network",
    [
        PlainConvUNet(1, 2, widths=NARROW, spatial_dims=2, deep_supervision=True),
        ResidualEncoderUNet(1, 2, widths=NARROW, strides=STRIDES),
    ],
    ids=["plain", "residual"],
)
class TestTools:
    def test_gradients_reach_every_parameter(self, network):
        randomise(network)
        size = (9, 16, 16)[-network.spatial_dims :]
        logits = network.train()(torch.randn(2, 1, *size))
        network.zero_grad()
        logits = logits if isinstance(logits, list) else [logits]
        sum(x.square().sum() for x in logits).backward()
        assert [n for n, p in network.named_parameters() if not p.grad.any()] == []

    def test_pickle_keeps_the_output(self, network):
        images = torch.randn(1, 1, *(9, 16, 16)[-network.spatial_dims :])
        network.eval()
        copy = pickle.loads(pickle.dumps(network))
        assert torch.equal(copy(images), network(images))

    def test_export_keeps_the_output(self, network):
        images = torch.randn(1, 1, *(9, 16, 16)[-network.spatial_dims :])
        network.eval()
        exported = torch.export.export(network, (images,))
        torch.testing.assert_close(exported.module()(images), network(images))

    def test_channels_last_and_bfloat16_change_rounding_only(self, network):
        network.eval()
        images = torch.randn(2, 1, *(9, 16, 16)[-network.spatial_dims :])
        expected = network(images)
        flat = network.spatial_dims == 2
        fast = torch.channels_last if flat else torch.channels_last_3d
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images.to(memory_format=fast))
        scale = expected.abs().max().item()
        torch.testing.assert_close(logits.float(), expected, atol=0.05 * scale, rtol=0)


@pytest.mark.parametrize("network", NETWORKS)
def test_wrong_arguments_are_refused_with_advice(network):
    with pytest.raises(
        ValueError, match=r"strides must hold 3 .* each of the 3 scales"
    ):
        network(1, 1, widths=NARROW, strides=STRIDES[:2])
    with pytest.raises(ValueError, match="kernel_sizes must be odd"):
        network(1, 1, widths=NARROW, kernel_sizes=[(2, 2)] * 3)
    with pytest.raises(ValueError, match=r"strides\[0\] must be all 1, got \(2, 2\)"):
        network(1, 1, widths=NARROW, strides=[(2, 2)] * 3)
    with pytest.raises(ValueError, match=r"decoder_convs must .* or 2 of them"):
        network(1, 1, widths=NARROW, decoder_convs=(1, 1, 1))
    with pytest.raises(ValueError, match="takes 1 image channel"):
        network(1, 1, widths=NARROW)(torch.zeros(1, 3, 8, 8, 8))
    with pytest.raises(TypeError, match="floating point"):
        network(1, 1, widths=NARROW)(torch.zeros(1, 1, 8, 8, 8, dtype=torch.uint8))


# --- plans, worked by hand -----------------------------------------------------------


def test_hippocampus_is_trained_on_whole_images():
    plans = plan((36, 50, 35), (1, 1, 1), cases=260, out_channels=3)
    full = plans["3d_fullres"]
    # 36 -> 18 -> 9 -> 5; 50 -> 25 -> 13 -> 7; 35 -> 18 -> 9 -> 5: under 8, so stop.
    assert full.poolings == (3, 3, 3)
    assert full.patch_size == (40, 56, 40)  # rounded up to multiples of 8
    assert full.widths == (32, 64, 128, 256)
    assert full.kernel_sizes == ((3, 3, 3),) * 4
    assert full.blocks == (2, 2, 2, 2)
    # Voxels per scale: 89,600, then / 8. Twice each on the way down; three times, with
    # the up-convolution, on the way up; and the head's 3 classes.
    down = 32 * 89_600 + 64 * 11_200 + 128 * 1_400 + 256 * 175
    up = 32 * 89_600 + 64 * 11_200 + 128 * 1_400
    assert full.feature_values == 2 * down + 3 * up + 3 * 89_600 == 19_174_400
    # 58 patches would fit, but 5 % of 260 x 63,000 voxels are 9.1 of them.
    assert round(2 * 560e6 / 19_174_400) == 58
    assert full.batch_size == 9
    # A slice: 2 x 12 x 85e6 / 651,840 = 3130; 5 % are 819,000 / 2,240 = 366.
    assert plans["2d"].patch_size == (56, 40)
    assert plans["2d"].median_size == (50, 35)
    assert plans["2d"].batch_size == 366
    assert list(plans) == ["2d", "3d_fullres"]


def test_liver_ct_needs_a_second_plan_at_low_resolution():
    plans = plan((432, 512, 512), (1, 0.77, 0.77), cases=131, out_channels=3)
    full, low = plans["3d_fullres"], plans["3d_lowres"]
    assert full.patch_size == low.patch_size == (128, 128, 128)
    assert full.poolings == (5, 5, 5)  # 128 / 32 = 4, the smallest edge
    assert full.widths == (32, 64, 128, 256, 320, 320)
    assert full.batch_size == low.batch_size == 2
    # A quarter of an image as large as 128^3 * 4 = 8.4 million voxels, of 113 million.
    # All spacings grow alike, 3 % a step, volumes by 1.03^3: 30 steps.
    steps = math.ceil(math.log(432 * 512**2 / (4 * 128**3)) / (3 * math.log(1.03)))
    assert steps == 30
    assert low.spacing == pytest.approx([s * 1.03**30 for s in (1, 0.77, 0.77)])
    assert low.median_size == (178, 211, 211)
    assert plans["2d"].patch_size == (512, 512)
    assert plans["2d"].widths == (32, 64, 128, 256, 512, 512, 512, 512)
    assert plans["2d"].batch_size == 12


def test_low_resolution_coarsens_fine_axes_alone_while_slices_are_twice_as_thick():
    plans = plan((150, 1024, 1024), (5, 0.5, 0.5), cases=50)
    full, low = plans["3d_fullres"], plans["3d_lowres"]
    assert low.spacing[0] == full.spacing[0] == 5
    steps = math.log(low.spacing[1] / 0.5) / math.log(1.03)
    assert steps == pytest.approx(round(steps))
    assert steps > 1
    assert low.spacing[1] == low.spacing[2] < 2.5 * 1.03
    assert low.median_size[0] == 150


def test_prostate_mri_leaves_its_thick_slices_alone_at_first():
    full = plan(
        (20, 320, 320), (3.6, 0.62, 0.62), cases=32, in_channels=2, out_channels=3
    )["3d_fullres"]
    # 0.62 and 1.24 mm are less than half of 3.6; 2.48 is more. Then 20 -> 10 -> 5.
    assert full.strides == (
        (1, 1, 1),
        (1, 2, 2),
        (1, 2, 2),
        (2, 2, 2),
        (2, 2, 2),
        (1, 2, 2),
        (1, 2, 2),
    )
    assert full.kernel_sizes == ((1, 3, 3),) * 2 + ((3, 3, 3),) * 5
    # 20 x 320 x 320 holds 604 million values; the last axis goes down to 256 (from
    # 320, steps of 64 as 2^6 divides it).
    assert full.patch_size == (20, 320, 256)
    assert full.widths == (32, 64, 128, 256, 320, 320, 320)
    assert full.batch_size == 2


def test_more_memory_takes_larger_patches_then_larger_batches():
    fingerprint = {"cases": 32, "in_channels": 2, "out_channels": 3}
    shape = (20, 320, 320), (3.6, 0.62, 0.62)
    patches = [
        plan(*shape, **fingerprint, memory_gb=memory)["3d_fullres"]
        for memory in (4, 8, 11, 40)
    ]
    volumes = [math.prod(p.patch_size) for p in patches]
    assert volumes == sorted(set(volumes[:3])) + [volumes[2]]
    assert [p.batch_size for p in patches] == [2, 2, 2, 2]  # 5 % of 32 cases: 1.6
    assert patches[2].patch_size == (20, 320, 320)
    large = plan(*shape, **fingerprint, network="resenc_xl")["3d_fullres"]
    assert large.batch_size == round(2 * 3600e6 / large.feature_values) == 8


def test_the_thickest_axis_comes_first_and_slices_lie_along_it():
    sagittal = plan((320, 20, 280), (0.6, 3.6, 0.7), cases=30)
    axial = plan((20, 320, 280), (3.6, 0.6, 0.7), cases=30)
    assert sagittal["2d"].axes == sagittal["3d_fullres"].axes == (1, 0, 2)
    assert axial["2d"].axes == (0, 1, 2)
    for name, found in sagittal.items():
        assert found.patch_size == axial[name].patch_size
        assert found.spacing == axial[name].spacing
    assert sagittal["2d"].spacing == (0.6, 0.7)


def test_an_axis_too_short_to_halve_is_left_whole():
    full = plan((5, 300, 300), (8, 1, 1), cases=50)["3d_fullres"]
    assert full.patch_size == (5, 320, 320)
    assert full.poolings == (0, 6, 6)
    assert full.kernel_sizes[3] == (3, 3, 3)  # 8 mm at 8 mm: no longer thick


def test_a_last_axis_is_halved_alone_only_from_12_on():
    # 88 -> 44 -> 22 -> 11, and no further; 96 -> 48 -> 24 -> 12 -> 6.
    assert plan((7, 7, 88), (1, 1, 1), cases=9)["3d_fullres"].poolings == (0, 0, 3)
    assert plan((7, 7, 96), (1, 1, 1), cases=9)["3d_fullres"].poolings == (0, 0, 4)


def test_a_batch_holds_two_patches_even_of_a_tiny_data_set():
    plans = plan((36, 50, 35), (1, 1, 1), cases=3)  # 5 %: a tenth of a patch
    assert plans["3d_fullres"].batch_size == 2


def test_images_have_a_plan_in_2d_alone():
    plans = plan((512, 512), (1, 1), cases=100)
    assert list(plans) == ["2d"]
    assert plans["2d"].axes == (0, 1)
    assert plans["2d"].patch_size == (512, 512)


def test_residual_presets_plan_the_encoders_of_2024():
    liver = (432, 512, 512), (1, 0.77, 0.77)
    medium = plan(*liver, cases=131, out_channels=3, network="resenc_m")["3d_fullres"]
    assert medium.patch_size == (128, 128, 128)
    assert medium.blocks == (1, 3, 4, 6, 6, 6)
    assert medium.decoder_convs == (1, 1, 1, 1, 1)
    # The planner's source notes 558,319,104 for this network with its other heads.
    heads = 3 * sum((128 >> scale) ** 3 for scale in range(1, 5))
    assert medium.feature_values + heads == 558_319_104
    sizes = [
        math.prod(plan(*liver, cases=131, network=name)["3d_fullres"].patch_size)
        for name in ("resenc_m", "resenc_l", "resenc_xl")
    ]
    assert sizes == sorted(set(sizes))


FINGERPRINTS = [
    ((138, 169, 138), (1, 1, 1), 484),
    ((9, 256, 216), (10, 1.56, 1.56), 200),
    ((512, 30, 400), (0.8, 3.0, 0.8), 50),
    ((54, 1039, 98), (5, 3.0, 0.3), 361),
]
RANDOM = random.Random(0)
FINGERPRINTS += [
    (
        (RANDOM.randint(8, 200), RANDOM.randint(40, 900), RANDOM.randint(40, 900)),
        tuple(RANDOM.choice([0.4, 0.7, 1, 2.5, 5]) for _ in range(3)),
        RANDOM.randint(5, 400),
    )
    for _ in range(6)
]


@pytest.mark.parametrize("network", ["plain", "resenc_m"])
@pytest.mark.parametrize(("size", "spacing", "cases"), FINGERPRINTS)
def test_every_plan_keeps_the_rules(size, spacing, cases, network):
    plans = plan(size, spacing, cases=cases, out_channels=4, network=network)
    for name, found in plans.items():
        flat = name == "2d"
        divisor = [2**halvings for halvings in found.poolings]
        pairs = list(zip(found.patch_size, divisor, strict=True))
        assert all(length % multiple == 0 for length, multiple in pairs)
        assert all(length // m >= 4 for length, m in pairs if m > 1)
        assert found.batch_size >= 2
        assert found.widths[0] == 32
        assert max(found.widths) <= (512 if flat else 320)
        assert all(b in (a, 2 * a, 320) for a, b in pairwise(found.widths))
        assert found.strides[0] == (1,) * len(found.patch_size)
        assert all(max(stride) == 2 for stride in found.strides[1:])
        millions = {"plain": (85, 560), "resenc_m": (135, 680)}[network][not flat]
        batch = 12 if flat and network != "plain" else 2
        reference = 12 if flat else 2
        assert found.feature_values * batch / reference <= millions * 1e6
    if "3d_lowres" in plans:
        low = plans["3d_lowres"]
        voxels = math.prod(low.median_size)
        assert math.prod(low.patch_size) / voxels >= 0.24  # the median is rounded
        assert voxels <= 0.51 * math.prod(size)


def conv_outputs(model: nn.Module, images: Tensor) -> int:
    """Values that convolutions put out; of a shortcut, those that are added."""
    values: list[int] = []
    for name, layer in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        is_conv = "shortcut" not in name and hasattr(layer, "kernel_size")
        if is_conv or (last == "shortcut" and len(layer) > 0):
            layer.register_forward_hook(
                lambda layer, inputs, output: values.append(output.numel())
            )
    logits = model(images)
    assert logits.shape[2:] == images.shape[2:]
    return sum(values)


@pytest.mark.parametrize("network", ["plain", "resenc_l"])
@pytest.mark.parametrize(
    ("size", "spacing"),
    [((20, 320, 320), (3.6, 0.62, 0.62)), ((36, 50, 35), (1, 1, 1))],
)
def test_the_memory_estimate_is_what_the_convolutions_of_the_built_network_put_out(
    network, size, spacing
):
    plans = plan(
        size, spacing, cases=32, in_channels=2, out_channels=3, network=network
    )
    for found in plans.values():
        with torch.device("meta"):
            model = found.build(deep_supervision=False)
            values = conv_outputs(model, torch.zeros(1, 2, *found.patch_size))
            supervised = found.build()
        assert values == found.feature_values
        assert len(supervised.heads) == len(found.widths) - 1


def test_a_plan_is_a_value():
    first, second = (plan((36, 50, 35), (1, 1, 1), cases=9)["2d"] for _ in range(2))
    assert first == second
    assert len({first, second}) == 1
    assert pickle.loads(pickle.dumps(first)) == first
    with pytest.raises(AttributeError):
        first.batch_size = 4


def test_what_cannot_be_planned_is_refused_with_the_reason():
    with pytest.raises(
        ValueError, match=r"cannot be halved.*too small, or memory_gb=8"
    ):
        plan((5, 5, 5), (1, 1, 1), cases=10)
    with pytest.raises(ValueError, match=r"cannot be halved.*memory_gb=0.001 is"):
        plan((64, 64, 64), (1, 1, 1), cases=10, memory_gb=0.001)
    with pytest.raises(ValueError, match="network must be one of 'plain', 'resenc_m'"):
        plan((64, 64, 64), (1, 1, 1), cases=10, network="unet")
    with pytest.raises(ValueError, match="spacing has 2 values, but the array has 3"):
        plan((64, 64, 64), (1, 1), cases=10)
    with pytest.raises(ValueError, match="must be positive, got"):
        plan((64, 64, 64), (1, 1, 1), cases=0)
    with pytest.raises(ValueError, match="number of axes in median_size must be one"):
        plan((64,), (1,), cases=3)
