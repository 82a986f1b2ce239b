"""VGG16 against torchvision's names, shapes and counts; weights from files and from
an address, adapted to other channels."""

import hashlib

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medseg.models import weights as weights_module
from medseg.models.vgg import VGG16, vgg16_features
from medseg.models.weights import PUBLISHED, adapt_first_conv, load_weights

NARROW = {"widths": (2, 3, 4, 5, 6), "hidden": 7, "input_size": 32}


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def save(network: torch.nn.Module, path) -> str:
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A server and a cache of our own, with a narrow VGG16 of 1000 classes."""
    server = tmp_path / "server"
    server.mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(weights_module, "ADDRESS", server.as_uri() + "/")
    network = VGG16(**NARROW)
    draft = server / "draft.pth"
    save(network, draft)
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()
    name = f"vgg16-{digest[:8]}.pth"
    draft.rename(server / name)
    monkeypatch.setitem(PUBLISHED, "vgg16", name)
    return network, server / name


class TestNetwork:
    def test_names_and_shapes_are_torchvisions(self):
        with torch.device("meta"):
            state = VGG16().state_dict()
        expected = {}
        channels = 3
        for number, width in zip(
            [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
            [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6,
            strict=True,
        ):
            expected[f"features.{number}.weight"] = (width, channels, 3, 3)
            expected[f"features.{number}.bias"] = (width,)
            channels = width
        for number, shape in [(0, (4096, 25088)), (3, (4096, 4096)), (6, (1000, 4096))]:
            expected[f"classifier.{number}.weight"] = shape
            expected[f"classifier.{number}.bias"] = shape[:1]
        assert {name: tuple(value.shape) for name, value in state.items()} == expected
        assert list(state) == list(expected)
        assert len(state) == 32

    def test_with_batch_norm_names_are_those_of_torchvisions_vgg16_bn(self):
        with torch.device("meta"):
            network = VGG16(norm="batch")
        assert count(network) == 138_365_992
        assert len(network.state_dict()) == 97
        assert network.state_dict()["features.40.weight"].shape == (512, 512, 3, 3)
        assert network.state_dict()["features.41.running_mean"].shape == (512,)

    def test_it_has_the_papers_number_of_parameters(self):
        with torch.device("meta"):
            assert count(VGG16()) == 138_357_544

    def test_it_is_what_its_weights_say_when_computed_by_hand(self):
        network = VGG16(2, 3, widths=(2, 3, 4, 5, 6), hidden=7, input_size=64).double()
        network.eval()
        images = torch.randn(2, 2, 64, 64, dtype=torch.float64)
        weights = iter(network.parameters())
        x = images
        for convs in (2, 2, 3, 3, 3):
            for _ in range(convs):
                x = F.conv2d(x, next(weights), next(weights), padding=1).clamp(min=0)
            x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
        x = x.reshape(2, -1)
        for _ in range(2):
            x = (x @ next(weights).T + next(weights)).clamp(min=0)
        x = x @ next(weights).T + next(weights)
        torch.testing.assert_close(network(images), x)

    def test_the_signal_keeps_its_size_through_all_layers(self):
        network = vgg16_features(3, widths=(32,) * 5)
        with torch.no_grad():
            ratio = network(torch.randn(1, 3, 64, 64)).square().mean()
        assert 0.1 < ratio < 20

    @pytest.mark.parametrize("norm", ["batch", "frozen", "group", None])
    def test_one_image_trains_with_any_norm(self, norm):
        network = VGG16(1, 2, norm=norm, **NARROW)
        network(torch.randn(1, 1, 32, 32)).sum().backward()
        grads = [p.grad for p in network.parameters() if p.requires_grad]
        assert all(torch.isfinite(grad).all() for grad in grads)

    def test_dropout_follows_both_hidden_layers_in_training_only(self):
        network = VGG16(**NARROW, dropout=0.5)
        images = torch.randn(1, 3, 32, 32)
        assert not torch.equal(network(images), network(images))
        network.eval()
        assert torch.equal(network(images), network(images))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"widths": (1, 2, 3)}, r"five blocks.*\(1, 2, 3\)"),
            ({"widths": (1, 2, 3, 0, 5)}, "at least 1"),
            ({"in_channels": 0}, "at least 1"),
            ({"out_channels": 0}, "at least 1, got 0 and 7"),
            ({"input_size": 100}, "multiple of 32, got 100"),
            ({"input_size": 0}, "multiple of 32, got 0"),
            ({"dropout": 1}, r"dropout must lie in \[0, 1\), got 1"),
            ({"norm": "layer"}, "norm must be one of 'batch', 'frozen', 'group'"),
        ],
    )
    def test_wrong_arguments_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            VGG16(**{**NARROW, **arguments})

    def test_images_of_another_size_are_refused(self):
        network = VGG16(**NARROW)
        with pytest.raises(ValueError, match=r"32 x 32 pixels, got \(32, 64\)"):
            network(torch.zeros(1, 3, 32, 64))
        with pytest.raises(ValueError, match="takes 3 image channel"):
            network(torch.zeros(1, 1, 32, 32))
        with pytest.raises(TypeError, match=r"images.float\(\) / 255"):
            network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


class TestFirstConv:
    def test_equal_channels_give_what_they_gave_before_whatever_their_number(self):
        rgb = torch.randn(4, 3, 3, 3, dtype=torch.float64)
        grey = torch.randn(1, 1, 8, 8, dtype=torch.float64)
        expected = F.conv2d(grey.expand(-1, 3, -1, -1), rgb)
        for channels in range(1, 9):
            filters = adapt_first_conv(rgb, channels)
            assert filters.shape == (4, channels, 3, 3)
            got = F.conv2d(grey.expand(-1, channels, -1, -1), filters)
            torch.testing.assert_close(got, expected)

    def test_one_channel_gets_the_sum_of_the_filters(self):
        rgb = torch.randn(4, 3, 3, 3)
        torch.testing.assert_close(adapt_first_conv(rgb, 1), rgb.sum(1, keepdim=True))

    def test_six_channels_get_each_filter_twice_at_half_its_size(self):
        rgb = torch.randn(4, 3, 3, 3)
        torch.testing.assert_close(
            adapt_first_conv(rgb, 6), torch.cat([rgb, rgb], 1) / 2
        )

    def test_two_channels_keep_the_difference_of_red_and_green(self):
        rgb = torch.randn(4, 3, 3, 3)
        red, green = adapt_first_conv(rgb, 2).unbind(1)
        torch.testing.assert_close(red - green, 1.5 * (rgb[:, 0] - rgb[:, 1]))

    def test_the_same_number_of_channels_changes_nothing(self):
        rgb = torch.randn(4, 3, 3, 3)
        assert adapt_first_conv(rgb, 3) is rgb


class TestFile:
    def test_a_saved_network_comes_back(self, tmp_path):
        first = VGG16(3, 4, **NARROW).eval()
        path = save(first, tmp_path / "vgg.pth")
        torch.manual_seed(1)
        second = VGG16(3, 4, weights=path, **NARROW).eval()
        images = torch.randn(1, 3, 32, 32)
        assert torch.equal(first(images), second(images))

    @pytest.mark.parametrize("channels", [1, 2, 5])
    def test_a_network_of_other_channels_sees_the_same_grey_image(
        self, tmp_path, channels
    ):
        first = VGG16(3, 4, **NARROW).eval()
        path = save(first, tmp_path / "vgg.pth")
        second = VGG16(channels, 4, weights=path, **NARROW).eval()
        grey = torch.randn(1, 1, 32, 32)
        torch.testing.assert_close(
            second(grey.expand(-1, channels, -1, -1)),
            first(grey.expand(-1, 3, -1, -1)),
        )

    def test_skipped_layers_are_neither_read_nor_changed(self, tmp_path):
        path = save(VGG16(3, 4, **NARROW), tmp_path / "vgg.pth")
        network = VGG16(3, 9, **NARROW)
        before = network.classifier[6].weight.clone()
        hidden = network.classifier[3].weight.clone()
        load_weights(
            network,
            path,
            architecture="vgg16",
            first_conv="features.0",
            skip=("classifier.6.",),
        )
        assert torch.equal(network.classifier[6].weight, before)
        assert not torch.equal(network.classifier[3].weight, hidden)

    def test_counts_of_batches_may_be_missing_and_nothing_else(self, tmp_path):
        network = VGG16(norm="batch", **NARROW)
        state = network.state_dict()
        old = {n: v for n, v in state.items() if "num_batches_tracked" not in n}
        assert len(old) == len(state) - 13
        torch.save(old, tmp_path / "old.pth")
        VGG16(norm="batch", weights=tmp_path / "old.pth", **NARROW)
        del old["features.1.running_mean"]
        torch.save(old, tmp_path / "bad.pth")
        with pytest.raises(ValueError, match=r"1 of 97 places.*running_mean: nothing"):
            VGG16(norm="batch", weights=tmp_path / "bad.pth", **NARROW)

    def test_what_does_not_fit_is_listed_and_the_network_stays_as_it_was(
        self, tmp_path
    ):
        path = save(VGG16(3, 4, **NARROW), tmp_path / "vgg.pth")
        network = VGG16(3, 5, **{**NARROW, "hidden": 8})
        before = {name: value.clone() for name, value in network.state_dict().items()}
        message = (
            r"in 6 of 32 places: classifier\.0\.bias: \(7,\) in the weights, \(8,\) in "
            r"the network; classifier\.0\.weight: .*; classifier\.3\.bias: [^;]*\. Pub"
        )
        with pytest.raises(ValueError, match=message):
            load_weights(network, path, architecture="vgg16", first_conv="features.0")
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name])

    def test_an_entry_too_much_is_a_difference(self, tmp_path):
        state = VGG16(3, 4, **NARROW).state_dict()
        torch.save({**state, "extra": torch.zeros(2)}, tmp_path / "vgg.pth")
        with pytest.raises(ValueError, match=r"extra: \(2,\) .* nothing in the netw"):
            VGG16(3, 4, weights=tmp_path / "vgg.pth", **NARROW)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"there is no file.*imagnet"):
            VGG16(weights="imagnet", **NARROW)

    def test_a_damaged_file(self, tmp_path):
        path = tmp_path / "vgg.pth"
        save(VGG16(**NARROW), path)
        path.write_bytes(path.read_bytes()[:-2000])
        with pytest.raises(ValueError, match="damaged, cut short"):
            VGG16(weights=path, **NARROW)

    def test_a_file_that_would_run_code_is_refused(self, tmp_path):
        network = VGG16(**NARROW)
        torch.save(network, tmp_path / "whole.pth")
        with pytest.raises(ValueError, match=r"Save network.state_dict\(\)"):
            VGG16(weights=tmp_path / "whole.pth", **NARROW)

    @pytest.mark.parametrize("content", [torch.zeros(2), {"model": {}, "epoch": 3}])
    def test_a_file_of_something_else(self, tmp_path, content):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(ValueError, match="does not hold a state_dict"):
            VGG16(weights=tmp_path / "other.pth", **NARROW)


class TestPublished:
    def test_weights_are_downloaded_once_and_kept(self, published):
        network, file = published
        state = network.state_dict()

        def same(other: VGG16) -> bool:
            return all(torch.equal(state[n], v) for n, v in other.state_dict().items())

        assert same(VGG16(weights="imagenet", **NARROW))
        file.unlink()
        assert same(VGG16(weights="imagenet", **NARROW))

    def test_another_number_of_classes_starts_its_last_layer_anew(self, published):
        network, _ = published
        other = VGG16(1, 5, weights="imagenet", **NARROW)
        assert other.classifier[6].weight.shape == (5, 7)
        assert torch.equal(other.classifier[3].weight, network.classifier[3].weight)

    def test_without_a_network_the_error_says_where_to_put_the_file(self, published):
        _, file = published
        file.unlink()
        with pytest.raises(OSError, match=r"put it into .*home/hub/checkpoints, or"):
            VGG16(weights="imagenet", **NARROW)

    def test_a_file_with_another_hash_is_refused(self, published):
        _, file = published
        file.write_bytes(file.read_bytes() + b"!")
        with pytest.raises(ValueError, match=r"invalid hash value.*Delete .*vgg16-"):
            VGG16(weights="imagenet", **NARROW)

    def test_an_architecture_without_published_weights(self):
        network = VGG16(**NARROW)
        with pytest.raises(ValueError, match="no published ImageNet weights for 'x65'"):
            load_weights(
                network, "imagenet", architecture="x65", first_conv="features.0"
            )

    @pytest.mark.parametrize("name", PUBLISHED.values())
    def test_every_published_name_carries_the_hash_that_pytorch_checks(self, name):
        found = torch.hub.HASH_REGEX.search(name)
        assert found
        assert len(found.group(1)) == 8


def test_features_follow_the_documented_numbering():
    layers = vgg16_features(1, widths=(1,) * 5)
    pools = [n for n, m in enumerate(layers) if isinstance(m, torch.nn.MaxPool2d)]
    assert pools == [4, 9, 16, 23, 30]
    assert all(isinstance(layers[n - 2], torch.nn.Conv2d) for n in pools)
    features: Tensor = layers(torch.zeros(1, 1, 65, 100))
    assert features.shape == (1, 1, 2, 3)
