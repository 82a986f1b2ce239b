"""The DeepLabs against plain re-computations, the papers' figures, and the sizes,
norms and errors that a user meets."""

import math
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.models.deeplab import (
    AtrousVGG,
    DeepLabV1,
    DeepLabV2,
    DeepLabV3,
    DeepLabV3Plus,
    pad_to_grid,
)
from medseg.models.layers import ASPP, ImagePooling
from medseg.models.summary import describe

SMALL = {
    "v1": lambda **more: DeepLabV1(1, 2, backbone="vgg_small", channels=8, **more),
    "v2-vgg": lambda **more: DeepLabV2(1, 2, backbone="vgg_small", channels=8, **more),
    "v2": lambda **more: DeepLabV2(1, 2, backbone="resnet_small", **more),
    "v3": lambda **more: DeepLabV3(1, 2, backbone="resnet_small", channels=8, **more),
    "v3+": lambda **more: DeepLabV3Plus(
        1, 2, backbone="resnet_small", channels=8, **more
    ),
    "v3+x": lambda **more: DeepLabV3Plus(
        1, 2, backbone="xception_small", channels=8, separable=True, **more
    ),
}
BATCH_NORMED = ("v2", "v3", "v3+", "v3+x")


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def spread_heads(network: nn.Module) -> nn.Module:
    """Scores start near zero; make them large enough to compare."""
    for name, parameter in network.named_parameters():
        if name.startswith(("head", "branches")) and parameter.ndim == 4:
            nn.init.kaiming_normal_(parameter)
    return network


@pytest.fixture(params=SMALL)
def network(request):
    torch.manual_seed(0)
    return spread_heads(SMALL[request.param]()).eval()


@pytest.mark.parametrize(
    ("network", "options", "expected"),
    [
        (DeepLabV1, {}, 20_505_429),
        (DeepLabV2, {"backbone": "vgg16"}, 37_877_652),
        (DeepLabV2, {"scales": (0.5, 0.75, 1)}, 44_048_532),
        (DeepLabV3, {"backbone": "resnet50"}, 39_048_533),
        (DeepLabV3, {"output_stride": 8}, 58_040_661),
        (DeepLabV3Plus, {"backbone": "resnet50"}, 40_352_181),
        (DeepLabV3Plus, {}, 59_344_309),
        (DeepLabV3Plus, {"backbone": "xception65", "separable": True}, 41_055_413),
    ],
)
def test_parameters_from_three_channels_to_21_classes(network, options, expected):
    with torch.device("meta"):
        assert count(network(3, 21, **options)) == expected


def test_v1_multiplies_as_often_as_a_pencil_says():
    with torch.device("meta"):
        found = describe(DeepLabV1(3, 21), (1, 3, 321, 321))
    # Pixels of the five blocks; inputs x outputs of their convolutions.
    sizes = (321, 161, 81, 41, 41)
    convs = (
        3 * 64 + 64 * 64,
        64 * 128 + 128 * 128,
        128 * 256 + 2 * 256 * 256,
        256 * 512 + 2 * 512 * 512,
        3 * 512 * 512,
    )
    expected = sum(9 * n**2 * m for n, m in zip(sizes, convs, strict=True))
    expected += 41**2 * (9 * 512 * 1024 + 1024 * 1024 + 1024 * 21)
    assert found.multiply_adds == expected
    assert found.output_shape == (1, 21, 321, 321)


@pytest.mark.parametrize(
    ("network", "options", "billions"),
    [
        # chen2018deeplabv3plus, table 5, separable: 54.17 and 177.10.
        (DeepLabV3Plus, {"backbone": "xception65", "separable": True}, 54.04),
        (
            DeepLabV3Plus,
            {"backbone": "xception65", "separable": True, "output_stride": 8},
            176.85,
        ),
        # The paper's 81.0 is for a stem of three convolutions and later strides.
        (DeepLabV3, {}, 71.06),
    ],
)
def test_multiply_adds_at_the_papers_513_pixels(network, options, billions):
    with torch.device("meta"):
        found = describe(network(3, 21, **options), (1, 3, 513, 513))
    assert found.multiply_adds / 1e9 == pytest.approx(billions, abs=0.01)
    assert found.stride == (options.get("output_stride", 16),) * 2


def rates(part: nn.Module) -> list[int]:
    """The rates of the 3x3 convolutions, in order."""
    return [
        conv.dilation[0]
        for conv in part.modules()
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3)
    ]


def test_rates_are_the_papers():
    with torch.device("meta"):
        v1 = DeepLabV1(3, 21)
        v2 = DeepLabV2(3, 21, backbone="resnet50")
    assert rates(v1.backbone) == [1] * 10 + [2] * 3
    assert rates(v1.head) == [12]
    assert rates(v2.backbone) == [1] * 7 + [2] * 6 + [4] * 3
    assert rates(v2.branches) == [6, 12, 18, 24]


@pytest.mark.parametrize("network", [DeepLabV3, DeepLabV3Plus])
@pytest.mark.parametrize(
    ("output_stride", "layer3", "layer4", "aspp"),
    [(16, [1] * 6, [2, 4, 8], [6, 12, 18]), (8, [2] * 6, [4, 8, 16], [12, 24, 36])],
)
def test_rates_double_at_output_stride_eight(
    network, output_stride, layer3, layer4, aspp
):
    with torch.device("meta"):
        model = network(3, 21, backbone="resnet50", output_stride=output_stride)
    assert rates(model.backbone.layer3) == layer3
    assert rates(model.backbone.layer4) == layer4  # multi-grid 1, 2, 4
    assert rates(model.aspp) == aspp


@pytest.mark.parametrize("name", ["v3", "v3+", "v3+x"])
def test_output_stride_changes_no_parameter(name):
    torch.manual_seed(0)
    coarse, fine = SMALL[name](), SMALL[name](output_stride=8)
    fine.load_state_dict(coarse.state_dict())  # same names, same shapes
    with torch.device("meta"):
        found = [describe(model, (1, 1, 65, 65)).stride[0] for model in (coarse, fine)]
    assert found == [16, 8]


# Independent re-computations: dense kernels, matrices, and no module but weights.


def conv(x: Tensor, w: dict[str, Tensor], name: str, stride=1, rate=1) -> Tensor:
    kernel = w[f"{name}.weight"]
    size = rate * (kernel.shape[2] - 1) + 1
    dense = kernel.new_zeros(*kernel.shape[:2], size, size)
    dense[:, :, ::rate, ::rate] = kernel
    return F.conv2d(x, dense, w.get(f"{name}.bias"), stride, size // 2)


def norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    """Batch norm in evaluation."""
    mean, var, gain, shift = (
        w[f"{name}.{part}"][:, None, None]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * gain + shift


def brick(x: Tensor, w: dict[str, Tensor], name: str, rate=1) -> Tensor:
    return norm(conv(x, w, f"{name}.0", 1, rate), w, f"{name}.1").clamp(min=0)


def matrix(n: int, size: int) -> Tensor:
    """Linear interpolation from n values to ``size``, corners on corners."""
    at = torch.arange(size, dtype=torch.float64) * (n - 1) / max(size - 1, 1)
    grid = torch.arange(n, dtype=torch.float64)
    return (1 - (at[:, None] - grid).abs()).clamp(min=0)


def resize(x: Tensor, height: int, width: int) -> Tensor:
    return matrix(x.shape[2], height) @ x @ matrix(x.shape[3], width).T


def resnet_small(images: Tensor, w: dict[str, Tensor], strides, factors):
    x = norm(conv(images, w, "backbone.conv1", 2), w, "backbone.bn1").clamp(min=0)
    x = F.max_pool2d(x, 3, 2, 1)
    features = []
    for stage, (stride, rate) in enumerate(zip(strides, factors, strict=True), 1):
        name = f"backbone.layer{stage}.0"
        short = x
        if f"{name}.downsample.0.weight" in w:
            short = conv(x, w, f"{name}.downsample.0", stride)
            short = norm(short, w, f"{name}.downsample.1")
        x = norm(conv(x, w, f"{name}.conv1", stride, rate), w, f"{name}.bn1")
        x = norm(conv(x.clamp(min=0), w, f"{name}.conv2", 1, rate), w, f"{name}.bn2")
        x = (x + short).clamp(min=0)
        features.append(x)
    return features


def aspp(x: Tensor, w: dict[str, Tensor], rates) -> Tensor:
    views = [brick(x, w, "aspp.branches.0")]
    views += [brick(x, w, f"aspp.branches.{i}", r) for i, r in enumerate(rates, 1)]
    pooled = x.mean((2, 3), keepdim=True)
    pooled = brick(pooled, w, f"aspp.branches.{len(rates) + 1}.project")
    views.append(pooled + torch.zeros_like(views[0]))
    return brick(torch.cat(views, 1), w, "aspp.project")


def some_weights(network: nn.Module) -> dict[str, Tensor]:
    """Fill a network in evaluation mode with numbers that are nowhere 0 or 1."""
    torch.manual_seed(0)
    network.double().eval()
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.is_floating_point() and value.ndim == 1:
            value.add_(torch.randn_like(value) / 4)
    spread_heads(network)
    return network.state_dict()


IMAGES = torch.randn(
    2, 1, 65, 97, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
)


def test_v3_is_what_its_weights_say_when_computed_by_hand():
    model = DeepLabV3(
        1, 2, backbone="resnet_small", channels=4, multi_grid=(3,), rates=(1, 2)
    )
    w = some_weights(model)
    x = resnet_small(IMAGES, w, (1, 2, 2, 1), (1, 1, 1, 6))[-1]
    expected = resize(conv(aspp(x, w, (1, 2)), w, "head"), 65, 97)
    torch.testing.assert_close(model(IMAGES), expected)


def test_v3plus_is_what_its_weights_say_when_computed_by_hand():
    model = DeepLabV3Plus(
        1, 2, backbone="resnet_small", channels=4, rates=(1, 2), output_stride=8
    )
    w = some_weights(model)
    features = resnet_small(IMAGES, w, (1, 2, 1, 1), (1, 1, 2, 4))
    x = resize(aspp(features[-1], w, (2, 4)), 17, 25)
    x = torch.cat([x, brick(features[0], w, "reduce")], 1)
    x = brick(brick(x, w, "refine.0"), w, "refine.1")
    expected = resize(conv(x, w, "head"), 65, 97)
    torch.testing.assert_close(model(IMAGES), expected)


def test_v2_sums_its_branches_and_takes_the_maximum_over_scales():
    model = DeepLabV2(
        1, 2, backbone="resnet_small", rates=(1, 3), scales=(0.5, 0.75, 1)
    )
    w = some_weights(model)
    views = []
    for size in ((33, 49), (49, 73), (65, 97)):
        x = resnet_small(resize(IMAGES, *size), w, (1, 2, 1, 1), (1, 1, 2, 4))[-1]
        scores = conv(x, w, "branches.0", 1, 1) + conv(x, w, "branches.1", 1, 3)
        views.append(resize(scores, 9, 13))
    coarse = torch.stack(views).max(0).values
    assert not any(torch.equal(coarse, view) for view in views)
    torch.testing.assert_close(model.coarse_logits(IMAGES), coarse)
    torch.testing.assert_close(model(IMAGES), resize(coarse, 65, 97))


def plain_vgg(images: Tensor, w: dict[str, Tensor]) -> Tensor:
    x, layer = images, 0
    for stage, convs in enumerate((2, 2, 3, 3, 3)):
        for _ in range(convs):
            rate = 2 if stage == 4 else 1
            x = conv(x, w, f"backbone.features.{layer}", 1, rate).clamp(min=0)
            layer += 2
        x = F.max_pool2d(x, 3, 2 if stage < 3 else 1, 1)
        layer += 1
    return x


def fully_connected(x: Tensor, w: dict[str, Tensor], name: str, rate: int) -> Tensor:
    x = conv(x, w, f"{name}.0", 1, rate).clamp(min=0)
    return conv(conv(x, w, f"{name}.3").clamp(min=0), w, f"{name}.6")


def test_v1_is_what_its_weights_say_when_computed_by_hand():
    model = DeepLabV1(1, 2, backbone="vgg_small", channels=4, rate=2)
    w = some_weights(model)
    x = F.avg_pool2d(plain_vgg(IMAGES, w), 3, 1, 1)
    coarse = fully_connected(x, w, "head", 2)
    torch.testing.assert_close(model.coarse_logits(IMAGES), coarse)
    torch.testing.assert_close(model(IMAGES), resize(coarse, 65, 97))


def test_v2_with_a_vgg_has_a_classifier_of_its_own_for_each_rate():
    model = DeepLabV2(1, 2, backbone="vgg_small", channels=4, rates=(1, 3))
    w = some_weights(model)
    x = plain_vgg(IMAGES, w)
    coarse = fully_connected(x, w, "branches.0", 1)
    coarse = coarse + fully_connected(x, w, "branches.1", 3)
    torch.testing.assert_close(model.coarse_logits(IMAGES), coarse)


def test_the_coarse_logits_are_the_logits_at_every_s_th_pixel(network):
    images = torch.randn(1, 1, 33, 49)
    coarse = network.coarse_logits(images)
    step = 32 // (coarse.shape[2] - 1)
    expected = 4 if isinstance(network, DeepLabV3Plus) else network.stride
    assert step == expected
    torch.testing.assert_close(network(images)[:, :, ::step, ::step], coarse)


def test_nothing_shifts_a_mirrored_network_sees_a_mirrored_image(network):
    images = torch.randn(1, 1, 33, 65)
    expected = network(images).flip(2, 3)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.copy_(parameter.flip(2, 3))
    found = network(images.flip(2, 3))
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * scale)
    assert (found - found.flip(3)).abs().max() > 0.01 * scale


def test_other_sizes_are_padded_by_repeating_the_border_at_the_end(network):
    images = torch.randn(1, 1, 30, 33)
    by_hand = torch.cat([images, images[:, :, -1:].expand(-1, -1, 3, -1)], 2)
    torch.testing.assert_close(network(images), network(by_hand)[:, :, :30])


@pytest.mark.parametrize("stride", [8, 16])
def test_padding_is_the_least_that_puts_both_corners_on_the_grid(stride):
    for size in range(1, 3 * stride):
        height, width = pad_to_grid(torch.zeros(1, 1, size, stride + 1), stride).shape[
            2:
        ]
        assert width == stride + 1
        assert (height - 1) % stride == 0
        assert 0 <= height - size < stride


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 20)])
@pytest.mark.parametrize("name", SMALL)
def test_any_size_trains_even_one_image_of_one_pixel(name, size):
    torch.manual_seed(0)
    model = SMALL[name]()
    logits = model(torch.randn(1, 1, *size))
    assert logits.shape == (1, 2, *size)
    logits.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("norm", ["group", "frozen"])
@pytest.mark.parametrize("name", BATCH_NORMED)
def test_other_norms_train_too_and_know_no_batch(name, norm):
    torch.manual_seed(0)
    model = spread_heads(SMALL[name](norm=norm))
    images = torch.randn(2, 1, 17, 17)
    together = model(images)
    apart = torch.cat([model(image[None]) for image in images])
    scale = together.abs().max().item()
    torch.testing.assert_close(apart, together, rtol=0, atol=1e-5 * scale)
    assert model(images[:1, :, :1, :1]).shape == (1, 2, 1, 1)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    assert bool(frozen) == (norm == "frozen")


def test_image_pooling_tells_every_pixel_the_mean_even_in_a_batch_of_one():
    torch.manual_seed(0)
    pooling = ImagePooling(3, 64)
    features = torch.randn(1, 3, 4, 5)
    found = pooling(features)
    weight = pooling.project[0].weight[:, :, 0, 0]
    expected = (weight @ features.mean((0, 2, 3))).clamp(min=0)
    assert expected.max() > 0.1
    assert found.shape == (1, 64, 4, 5)
    torch.testing.assert_close(
        found, expected[None, :, None, None].expand(1, 64, 4, 5), rtol=1e-4, atol=1e-5
    )


def test_separable_aspp_is_nine_times_lighter_in_its_atrous_branches():
    plain, light = ASPP(512, 64, (6, 12)), ASPP(512, 64, (6, 12), separable=True)
    # Per branch: 9 * 512 * 64 against 9 * 512 + 512 * 64, and a norm of 512 channels.
    assert count(plain) - count(light) == 2 * (8 * 512 * 64 - 9 * 512 - 2 * 512)
    assert rates(light) == [6, 12]


def test_dropout_acts_in_training_alone():
    torch.manual_seed(0)
    model = spread_heads(SMALL["v1"]())
    images = torch.randn(1, 1, 17, 17)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_scores_start_near_zero():
    torch.manual_seed(0)
    model = DeepLabV2(1, 21, backbone="resnet_small")
    for branch in model.branches:
        assert branch.weight.std().item() == pytest.approx(0.01, rel=0.03)
        assert not branch.bias.any()
    model = SMALL["v1"]()
    fc6 = model.head[0].weight  # 3x3 from 128 channels
    assert fc6.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.05)


def test_backbone_weights_come_from_a_file(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "weights.pth"
    for network, backbone in [
        (DeepLabV1, "vgg_small"),
        (DeepLabV2, "vgg_small"),
        (DeepLabV2, "resnet_small"),
        (DeepLabV3, "resnet_small"),
        (DeepLabV3Plus, "resnet_small"),
        (DeepLabV3Plus, "xception_small"),
    ]:
        options = {"backbone": backbone, "channels": 8}
        saved = network(3, 2, **options).backbone.state_dict()
        torch.save(saved, path)
        loaded = network(3, 5, weights=path, **options).backbone.state_dict()
        assert all(torch.equal(loaded[key], saved[key]) for key in saved)


@pytest.mark.parametrize(
    ("network", "file"), [(DeepLabV1, "vgg16-397923af"), (DeepLabV3, "resnet101-63fe")]
)
def test_offline_the_published_weights_fail_with_advice(network, file, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    message = rf"could not be downloaded from .*{file}.*give its path as weights"
    with torch.device("meta"), pytest.raises(OSError, match=message):
        network(3, 2, weights="imagenet")


def test_published_vgg_weights_leave_out_the_classifier():
    with torch.device("meta"):
        keys = AtrousVGG(3).state_dict()
    assert len(keys) == 26
    assert tuple(keys["features.28.weight"].shape) == (512, 512, 3, 3)


class TestTools:
    def test_pickle_keeps_the_output(self, network):
        images = torch.randn(1, 1, 20, 17)
        copy = pickle.loads(pickle.dumps(network))
        assert torch.equal(copy(images), network(images))

    def test_export_keeps_the_output(self, network):
        images = torch.randn(1, 1, 20, 17)
        exported = torch.export.export(network, (images,))
        torch.testing.assert_close(exported.module()(images), network(images))

    def test_channels_last_and_bfloat16_change_rounding_only(self, network):
        images = torch.randn(2, 1, 33, 33)
        expected = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images.to(memory_format=torch.channels_last))
        scale = expected.abs().max().item()
        torch.testing.assert_close(logits.float(), expected, atol=0.1 * scale, rtol=0)


def test_one_export_takes_every_batch_and_every_size_that_needs_no_padding():
    model = SMALL["v3+"]().eval()
    high, wide = torch.export.Dim("h", min=1), torch.export.Dim("w", min=1)
    free = {0: torch.export.Dim("B"), 2: 16 * high + 1, 3: 16 * wide + 1}
    exported = torch.export.export(
        model, (torch.randn(2, 1, 33, 49),), dynamic_shapes=(free,)
    )
    images = torch.randn(3, 1, 65, 17)
    torch.testing.assert_close(exported.module()(images), model(images))


class TestErrors:
    @pytest.mark.parametrize(
        ("network", "names"),
        [
            (DeepLabV1, "'vgg_small', 'vgg16'"),
            (DeepLabV2, "'vgg_small', 'vgg16', 'resnet_small', .* 'resnet101'"),
            (DeepLabV3, "'resnet_small', 'resnet18', 'resnet50', 'resnet101'"),
            (DeepLabV3Plus, "'resnet101', 'xception_small', 'xception65'"),
        ],
    )
    def test_unknown_backbone(self, network, names):
        with pytest.raises(ValueError, match=rf"backbone .*{names}, got 'unet'"):
            network(3, 2, backbone="unet")

    @pytest.mark.parametrize("name", SMALL)
    def test_images(self, name):
        model = SMALL[name]()
        with pytest.raises(ValueError, match=r"takes 1 image channel.*in_channels=3"):
            model(torch.zeros(1, 3, 33, 33))
        with pytest.raises(TypeError, match=r"images.float\(\) / 255"):
            model(torch.zeros(1, 1, 33, 33, dtype=torch.uint8))

    @pytest.mark.parametrize(
        "network", [DeepLabV1, DeepLabV2, DeepLabV3, DeepLabV3Plus]
    )
    @pytest.mark.parametrize("wrong", [(0, 1, 8), (1, 0, 8), (1, 1, 0)])
    def test_no_channels(self, network, wrong):
        with pytest.raises(ValueError, match="must be at least 1, got"):
            network(*wrong[:2], channels=wrong[2])

    @pytest.mark.parametrize("network", [DeepLabV2, DeepLabV3, DeepLabV3Plus])
    @pytest.mark.parametrize("wrong", [(), (6, 0)])
    def test_rates(self, network, wrong):
        with pytest.raises(ValueError, match="rates must be numbers from 1"):
            network(3, 2, rates=wrong)

    @pytest.mark.parametrize("network", [DeepLabV3, DeepLabV3Plus])
    def test_output_stride(self, network):
        with pytest.raises(ValueError, match="output_stride must be one of 16, 8"):
            network(3, 2, output_stride=32)

    @pytest.mark.parametrize("network", [DeepLabV1, DeepLabV2])
    def test_dropout(self, network):
        with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 1"):
            network(3, 2, dropout=1)

    @pytest.mark.parametrize("wrong", [(), (0.5, 0)])
    def test_scales(self, wrong):
        with pytest.raises(ValueError, match="scales must be positive"):
            DeepLabV2(3, 2, scales=wrong)

    def test_multi_grid_is_not_for_an_xception(self):
        with pytest.raises(ValueError, match="multi_grid belongs to the ResNets"):
            DeepLabV3Plus(3, 2, backbone="xception65", multi_grid=(1, 2, 4))

    def test_norm(self):
        with pytest.raises(ValueError, match="norm must be one of 'batch', 'frozen'"):
            DeepLabV3(3, 2, backbone="resnet_small", norm="instance")
