"""The FCNs against plain functional re-computations, the figures of the paper and of
the released networks, and the sizes and errors that a user meets."""

import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.models.fcn import FCN, FCN8s, FCN16s, FCN32s, convolutionalise, grow_from
from medseg.models.layers import BilinearUpConv, bilinear_kernel
from medseg.models.summary import describe
from medseg.models.vgg import VGG16

NARROW = {"widths": (2, 3, 4, 5, 6), "hidden": 7}
TINY = {"widths": (1, 1, 1, 1, 1), "hidden": 1}
NETWORKS = [FCN32s, FCN16s, FCN8s]


def fill(network: FCN) -> FCN:
    """Give the score layers, which start at 0, random weights; no dropout."""
    for name, parameter in network.named_parameters():
        if name.startswith("score"):
            nn.init.normal_(parameter)
    return network.eval()


def plain_pools(network: FCN, x: Tensor, padding: int, ceil: bool) -> list[Tensor]:
    """Outputs of the five poolings, from the weights."""
    weights = iter(network.features.parameters())
    pools = []
    for convs in (2, 2, 3, 3, 3):
        for _ in range(convs):
            x = F.conv2d(x, next(weights), next(weights), padding=padding).clamp(min=0)
            padding = 1
        if ceil:  # an odd last row or column makes a window of its own
            ends = (0, x.shape[3] % 2, 0, x.shape[2] % 2)
            x = F.pad(x, ends, value=-math.inf)
        x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
        pools.append(x)
    return pools


def triangle(size: int) -> Tensor:
    """A bilinear kernel as the released code makes it, for even sizes."""
    rows, columns = np.ogrid[:size, :size]
    half = size // 2
    line = 1 - abs(rows - (half - 0.5)) / half
    return torch.from_numpy(line * (1 - abs(columns - (half - 0.5)) / half))


def plain_paper(network: FCN, images: Tensor, scales=(1.0, 1.0)) -> Tensor:
    """The released networks, number by number."""
    height, width = images.shape[2:]
    _, _, pool3, pool4, x = plain_pools(network, images, 100, ceil=True)
    x = F.conv2d(x, network.fc6.weight, network.fc6.bias).clamp(min=0)
    x = F.conv2d(x, network.fc7.weight, network.fc7.bias).clamp(min=0)
    x = F.conv2d(x, network.score_fr.weight, network.score_fr.bias)

    def up(x: Tensor, size: int) -> Tensor:
        kernel = triangle(size).expand(x.shape[1], 1, size, size)
        return F.conv_transpose2d(x, kernel, stride=size // 2, groups=x.shape[1])

    def add(x: Tensor, layer: nn.Conv2d, skip: Tensor, offset: int) -> Tensor:
        skip = F.conv2d(skip, layer.weight, layer.bias)
        return x + skip[..., offset:, offset:][..., : x.shape[2], : x.shape[3]]

    offset = 19
    if isinstance(network, FCN16s):
        x = add(up(x, 4), network.score_pool4, pool4, 5)
        offset, size = 27, 32
    elif isinstance(network, FCN8s):
        x = add(up(x, 4), network.score_pool4, pool4 * scales[0], 5)
        x = add(up(x, 4), network.score_pool3, pool3 * scales[1], 9)
        offset, size = 31, 16
    else:
        size = 64
    return up(x, size)[..., offset:, offset:][..., :height, :width]


def plain_practical(network: FCN, images: Tensor) -> Tensor:
    """The practical networks: same padding and F.interpolate."""
    height, width = images.shape[2:]
    x = images
    while x.shape[2] % 32:
        x = torch.cat([x, x[:, :, -1:]], 2)
    while x.shape[3] % 32:
        x = torch.cat([x, x[:, :, :, -1:]], 3)
    _, _, pool3, pool4, x = plain_pools(network, x, 1, ceil=False)
    x = F.conv2d(x, network.fc6.weight, network.fc6.bias, padding=3).clamp(min=0)
    x = network.score_fr(network.fc7(x).clamp(min=0))

    def up(x: Tensor, factor: int) -> Tensor:
        return F.interpolate(x, scale_factor=factor, mode="bilinear")

    if isinstance(network, FCN16s):
        x = up(up(x, 2) + network.score_pool4(pool4), 16)
    elif isinstance(network, FCN8s):
        x = up(up(x, 2) + network.score_pool4(pool4), 2)
        x = up(x + network.score_pool3(pool3), 8)
    else:
        x = up(x, 32)
    return x[..., :height, :width]


@pytest.mark.parametrize("network", NETWORKS)
def test_paper_network_is_the_released_one_computed_by_hand(network):
    model = fill(network(2, 3, paper=True, **NARROW)).double()
    images = torch.randn(1, 2, 53, 70, dtype=torch.float64)
    torch.testing.assert_close(model(images), plain_paper(model, images))


def test_at_once_scales_the_finer_features_by_the_released_factors():
    model = fill(FCN8s(2, 3, paper=True, at_once=True, **NARROW)).double()
    images = torch.randn(1, 2, 53, 70, dtype=torch.float64)
    with torch.no_grad():  # or the finest scores would be lost in the tolerance
        model.score_pool3.weight.mul_(1e4)
        model.score_pool4.weight.mul_(1e2)
    torch.testing.assert_close(
        model(images), plain_paper(model, images, scales=(0.01, 0.0001))
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_practical_network_is_what_its_weights_say_with_plain_interpolation(network):
    model = fill(network(2, 3, **NARROW)).double()
    images = torch.randn(2, 2, 50, 65, dtype=torch.float64)
    torch.testing.assert_close(model(images), plain_practical(model, images))


@pytest.mark.parametrize(
    ("network", "trained", "with_fixed"),
    [
        (FCN32s, 134_346_581, 136_152_917),
        (FCN16s, 134_357_354, 134_815_994),
        (FCN8s, 134_362_751, 134_489_759),
    ],
)
def test_parameters_and_cost_at_21_classes_are_those_of_the_released_networks(
    network, trained, with_fixed
):
    with torch.device("meta"):
        model = network(3, 21, paper=True)
        practical = network(3, 21)
    parameters = list(model.parameters())
    assert sum(p.numel() for p in parameters if p.requires_grad) == trained
    assert sum(p.numel() for p in parameters) == with_fixed
    assert sum(p.numel() for p in practical.parameters() if p.requires_grad) == trained
    cost = describe(model, (1, 3, 256, 256)).multiply_adds
    assert round(cost / 1e9, 1) == 73.5


def test_a_score_sees_404_pixels_in_steps_of_32():
    with torch.device("meta"):
        model = FCN32s(3, 21, paper=True)
    layers = {layer.name: layer for layer in describe(model, (1, 3, 500, 500)).layers}
    assert layers["score_fr"].receptive_field == (404, 404)
    assert layers["score_fr"].stride == (32, 32)


@pytest.mark.parametrize("network", NETWORKS)
def test_paper_network_returns_the_images_size_for_every_size(network):
    with torch.device("meta"):
        model = network(1, 2, paper=True, **TINY)
        for size in [*range(1, 120), *range(224, 514, 17), 513]:
            other = 640 - size
            logits = model(torch.zeros(1, 1, size, other))
            assert logits.shape == (1, 2, size, other)


@pytest.mark.parametrize("network", NETWORKS)
def test_practical_network_returns_the_images_size_for_every_size(network):
    with torch.device("meta"):
        model = network(1, 2, **TINY)
        for size in range(1, 120):
            other = 121 - size
            assert model(torch.zeros(1, 1, size, other)).shape == (1, 2, size, other)


def test_paper_networks_layers_are_those_of_the_released_description():
    model = FCN8s(3, 21, paper=True, **TINY)
    convs = [m for m in model.features if isinstance(m, nn.Conv2d)]
    assert [m.padding for m in convs] == [(100, 100)] + [(1, 1)] * 12
    pools = [m for m in model.features if isinstance(m, nn.MaxPool2d)]
    assert [m.ceil_mode for m in pools] == [True] * 5
    assert (model.fc6.kernel_size, model.fc6.padding) == ((7, 7), (0, 0))
    assert model.fc7.kernel_size == (1, 1)
    assert model.drop.p == 0.5
    ups = {n: m for n, m in model.named_modules() if isinstance(m, BilinearUpConv)}
    assert {n: (tuple(m.weight.shape), m.factor) for n, m in ups.items()} == {
        "upscore2": ((21, 21, 4, 4), 2),
        "upscore_pool4": ((21, 21, 4, 4), 2),
        "upscore8": ((21, 21, 16, 16), 8),
    }
    assert not any(name.startswith("upscore") and "bias" in name for name in ups)


@pytest.mark.parametrize("paper", [True, False])
@pytest.mark.parametrize("network", NETWORKS)
def test_scores_start_at_zero_and_interpolation_is_not_trained(network, paper):
    model = network(1, 2, paper=paper, **NARROW)
    images = torch.randn(1, 1, 33, 40)
    assert not model(images).any()
    fixed = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert fixed == {n for n in model.state_dict() if n.startswith("upscore")}
    before = {n: model.state_dict()[n].clone() for n in fixed}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(images).mean(0)[0].sum().backward()
        optimizer.step()
    assert model(images).any()
    assert all(torch.equal(model.state_dict()[n], v) for n, v in before.items())


def test_learned_upsampling_trains_all_interpolations_but_the_last():
    model = FCN8s(1, 2, learned_upsampling=True, **NARROW)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n in trained if n.startswith("up")} == {
        "upscore2.weight",
        "upscore_pool4.weight",
    }


def test_caffes_pooling_gives_an_odd_last_row_a_window_of_its_own():
    model = FCN8s(1, 2, paper=True, **TINY)
    pool = next(m for m in model.features if isinstance(m, nn.MaxPool2d))
    rows = torch.tensor([[[[1.0, 4.0, 2.0, 3.0, -7.0]]]])
    assert pool(rows).flatten().tolist() == [4, 3, -7]
    assert FCN8s(1, 2, **TINY).features[4](rows.expand(1, 1, 2, 5)).numel() == 2


@pytest.mark.parametrize("norm", ["batch", "frozen", "group", None])
@pytest.mark.parametrize("size", [(1, 1), (7, 40)])
def test_one_image_of_any_size_trains_with_any_norm(norm, size):
    model = FCN8s(1, 2, norm=norm, **NARROW)
    fill(model).train()
    model(torch.randn(1, 1, *size)).square().sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert all(grad is not None for grad in grads.values())
    assert all(torch.isfinite(grad).all() for grad in grads.values())


class TestConvolutionalise:
    def test_a_classifier_gives_the_same_numbers_on_its_own_patch(self):
        classifier = VGG16(3, 5, input_size=96, **NARROW)
        classifier = classifier.double().eval()
        network = nn.Sequential(
            classifier.features, convolutionalise(classifier.classifier, 3)
        ).eval()
        patch = torch.randn(2, 3, 96, 96, dtype=torch.float64)
        scores = network(patch)
        assert scores.shape == (2, 5, 1, 1)
        torch.testing.assert_close(scores[:, :, 0, 0], classifier(patch))

    def test_a_heat_map_is_the_classifier_slid_over_the_image(self):
        # No padding below the head, so that no patch brings zeros of its own.
        features = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2))
        head = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * 4 * 5, 7), nn.ReLU(), nn.Linear(7, 2)
        )
        network = nn.Sequential(features, convolutionalise(head, (4, 5))).double()
        classifier = nn.Sequential(features, head).double()
        image = torch.randn(1, 2, 22, 30, dtype=torch.float64)
        heat = network(image)
        assert heat.shape == (1, 2, 7, 10)
        for row in range(7):
            for column in range(10):
                patch = image[:, :, 2 * row :, 2 * column :][:, :, :10, :12]
                torch.testing.assert_close(heat[..., row, column], classifier(patch))

    def test_the_weights_are_copies_and_dropout_stays(self):
        head = nn.Sequential(nn.Linear(8, 3, bias=False), nn.Dropout(0.3))
        convs = convolutionalise(head, 2)
        assert convs[0].bias is None
        assert convs[1].p == 0.3
        assert convs[1] is not head[1]
        nn.init.zeros_(head[0].weight)
        assert convs[0].weight.any()

    def test_a_size_that_does_not_divide_the_inputs_is_refused(self):
        with pytest.raises(ValueError, match=r"of 10 inputs cannot read .* 7 x 7"):
            convolutionalise(nn.Sequential(nn.Linear(10, 2)))

    def test_other_layers_are_refused_by_name(self):
        with pytest.raises(TypeError, match="got BatchNorm1d"):
            convolutionalise(nn.Sequential(nn.Linear(9, 2), nn.BatchNorm1d(2)), 3)


class TestWeights:
    def test_a_vgg16_file_fills_all_but_the_scores(self, tmp_path):
        classifier = VGG16(3, 11, **NARROW)
        torch.save(classifier.state_dict(), tmp_path / "vgg.pth")
        torch.manual_seed(1)
        model = FCN16s(3, 2, weights=tmp_path / "vgg.pth", **NARROW)
        state = classifier.state_dict()
        for name, value in model.features.state_dict().items():
            assert torch.equal(value, state[f"features.{name}"])
        fc6 = state["classifier.0.weight"].reshape(7, 6, 7, 7)
        assert torch.equal(model.fc6.weight, fc6)
        assert torch.equal(model.fc7.weight[:, :, 0, 0], state["classifier.3.weight"])
        assert torch.equal(model.fc7.bias, state["classifier.3.bias"])
        assert not model.score_fr.weight.any()

    def test_one_channel_sees_a_grey_image_as_three_do(self, tmp_path):
        classifier = VGG16(3, 11, **NARROW)
        torch.save(classifier.state_dict(), tmp_path / "vgg.pth")
        grey = torch.randn(1, 1, 40, 40)
        first, third = (
            FCN32s(channels, 2, weights=tmp_path / "vgg.pth", **NARROW).features(
                grey.expand(-1, channels, -1, -1)
            )
            for channels in (1, 3)
        )
        torch.testing.assert_close(first, third)


class TestGrow:
    @pytest.mark.parametrize("paper", [True, False])
    @pytest.mark.parametrize(
        ("finer", "coarser"), [(FCN16s, FCN32s), (FCN8s, FCN16s), (FCN8s, FCN32s)]
    )
    def test_what_they_share_is_taken_and_what_is_new_keeps_its_start(
        self, finer, coarser, paper
    ):
        old = fill(coarser(1, 2, paper=paper, **NARROW))
        new = finer(1, 2, paper=paper, **NARROW)
        start = {name: value.clone() for name, value in new.state_dict().items()}
        grow_from(new, old)
        for name, value in new.state_dict().items():
            source = old.state_dict() if name in old.state_dict() else start
            assert torch.equal(value, source[name])
        assert torch.equal(new.fc6.weight, old.fc6.weight)

    @pytest.mark.parametrize("paper", [True, False])
    def test_the_grown_network_says_what_the_coarser_one_said(self, paper):
        old = fill(FCN32s(1, 2, paper=paper, **NARROW))
        new = FCN16s(1, 2, paper=paper, **NARROW).eval()
        newest = FCN8s(1, 2, paper=paper, **NARROW).eval()
        grow_from(new, old)
        grow_from(newest, new)
        images = 5 * torch.randn(1, 1, 128, 128)
        images += 50 * (torch.arange(128) > 64)
        expected = old(images)
        spread = (expected.amax() - expected.amin()).item()
        for network in (new, newest):
            # Only the kinks between scores are rounded differently.
            difference = (network(images) - expected).abs()
            assert 0 < difference.max() < 0.15 * spread
            assert difference.mean() < 0.02 * spread

    @pytest.mark.parametrize(
        ("finer", "coarser"), [(FCN32s, FCN16s), (FCN16s, FCN16s), (FCN16s, FCN8s)]
    )
    def test_only_a_finer_network_grows(self, finer, coarser):
        message = f"{finer.__name__}.* cannot grow from {coarser.__name__}.*32s grows"
        with pytest.raises(ValueError, match=message):
            grow_from(finer(1, 2, **TINY), coarser(1, 2, **TINY))

    def test_the_released_network_does_not_grow_from_the_practical_one(self):
        with pytest.raises(ValueError, match="same value of paper"):
            grow_from(FCN16s(1, 2, paper=True, **TINY), FCN32s(1, 2, **TINY))

    def test_other_arguments_are_named_and_nothing_is_changed(self):
        old, new = FCN32s(1, 3, **NARROW), FCN16s(1, 2, **NARROW)
        before = new.fc6.weight.clone()
        with pytest.raises(ValueError, match=r"2 of their weights.*\(score_fr.bias, s"):
            grow_from(new, old)
        with pytest.raises(ValueError, match=r"of their weights.*features\.1"):
            grow_from(FCN16s(1, 3, norm="batch", **NARROW), old)
        assert torch.equal(new.fc6.weight, before)


class TestBilinear:
    @pytest.mark.parametrize("factor", [1, 2, 3, 4, 5, 8, 16, 32])
    @pytest.mark.parametrize("dense", [True, False])
    def test_repeated_edges_make_it_interpolate(self, factor, dense):
        features = torch.randn(2, 3, 4, 5)
        expected = F.interpolate(features, scale_factor=factor, mode="bilinear")
        torch.testing.assert_close(
            BilinearUpConv(3, factor, dense=dense)(features), expected
        )

    @pytest.mark.parametrize("factor", [2, 3, 8])
    def test_faded_edges_hold_the_same_values_inside_and_less_outside(self, factor):
        ones = torch.ones(1, 1, 4, 4)
        faded = BilinearUpConv(1, factor, edges="fade")(ones)
        kernel = 2 * factor - factor % 2
        assert faded.shape[2] == 3 * factor + kernel
        inside = faded[..., factor:-factor, factor:-factor]
        torch.testing.assert_close(inside, torch.ones_like(inside))
        assert faded[0, 0, 0].max() < 1

    @pytest.mark.parametrize("size", [4, 16, 32, 64])
    def test_kernel_is_that_of_the_released_code(self, size):
        torch.testing.assert_close(bilinear_kernel(size // 2), triangle(size).float())

    def test_an_odd_factor_has_its_peak_on_a_pixel(self):
        kernel = bilinear_kernel(3)
        assert kernel.shape == (5, 5)
        torch.testing.assert_close(kernel[2], torch.tensor([1, 2, 3, 2, 1]) / 3)

    def test_wrong_arguments_are_refused(self):
        with pytest.raises(ValueError, match="factor must be at least 1, got 0"):
            bilinear_kernel(0)
        with pytest.raises(ValueError, match="edges must be one of 'repeat', 'fade'"):
            BilinearUpConv(1, 2, edges="zero")


@pytest.mark.parametrize("paper", [True, False])
class TestTools:
    def test_pickle_keeps_the_output(self, paper):
        network = fill(FCN8s(1, 2, paper=paper, **NARROW))
        images = torch.randn(1, 1, 21, 30)
        copy = pickle.loads(pickle.dumps(network))
        assert torch.equal(copy(images), network(images))

    def test_export_keeps_the_output(self, paper):
        network = fill(FCN8s(1, 2, paper=paper, **NARROW))
        images = torch.randn(1, 1, 21, 30)
        exported = torch.export.export(network, (images,))
        torch.testing.assert_close(exported.module()(images), network(images))

    def test_channels_last_and_bfloat16_change_rounding_only(self, paper):
        network = fill(FCN8s(1, 2, paper=paper, **NARROW))
        images = torch.randn(2, 1, 21, 30)
        expected = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(images.to(memory_format=torch.channels_last))
        scale = expected.abs().max().item()
        torch.testing.assert_close(logits.float(), expected, atol=0.05 * scale, rtol=0)

    def test_the_same_seed_gives_the_same_network(self, paper):
        states = []
        for _ in range(2):
            torch.manual_seed(5)
            states.append(FCN8s(1, 2, paper=paper, **NARROW).state_dict())
        assert all(torch.equal(value, states[1][n]) for n, value in states[0].items())


def test_one_export_takes_every_batch_and_every_size_that_needs_no_padding():
    network = fill(FCN8s(1, 2, **NARROW))
    high, wide = torch.export.Dim("h", min=2), torch.export.Dim("w", min=2)
    free = {0: torch.export.Dim("B"), 2: 32 * high, 3: 32 * wide}
    exported = torch.export.export(
        network, (torch.randn(2, 1, 64, 96),), dynamic_shapes=(free,)
    )
    images = torch.randn(1, 1, 96, 128)
    torch.testing.assert_close(exported.module()(images), network(images))


@pytest.mark.parametrize("network", NETWORKS)
class TestErrors:
    def test_wrong_images(self, network):
        model = network(3, 2, **TINY)
        with pytest.raises(ValueError, match=r"takes 3 image channel.*in_channels=1"):
            model(torch.zeros(1, 1, 44, 44))
        with pytest.raises(ValueError, match=r"unsqueeze\(0\)"):
            model(torch.zeros(3, 44, 44))
        with pytest.raises(TypeError, match=r"images.float\(\) / 255"):
            model(torch.zeros(1, 3, 44, 44, dtype=torch.uint8))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"out_channels": 0}, "out_channels must be at least 1, got 0"),
            ({"in_channels": 0}, "in_channels and widths must be at least 1"),
            ({"hidden": 0}, "hidden must be at least 1"),
            ({"widths": (1, 2)}, "five blocks"),
            ({"paper": True, "norm": "batch"}, "no norm, got norm='batch'"),
        ],
    )
    def test_wrong_arguments(self, network, arguments, message):
        good = {"in_channels": 1, "out_channels": 2, **TINY}
        with pytest.raises(ValueError, match=message):
            network(**{**good, **arguments})


def test_what_they_share_is_no_network():
    with pytest.raises(NotImplementedError, match="use FCN32s, FCN16s or FCN8s"):
        FCN(1, 2, **TINY)
