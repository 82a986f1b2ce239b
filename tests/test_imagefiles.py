"""Tests of medseg.imagefiles."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from medseg.imagefiles import pair_files, read_image, read_labels, read_mask, to_uint8

GREY = np.array([[0, 100, 255], [7, 8, 9]], np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)


def save(path, array, **options):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def folders(tmp_path, images, masks):
    for kind, names in (("images", images), ("masks", masks)):
        (tmp_path / kind).mkdir()
        for name in names:
            (tmp_path / kind / name).touch()
    return tmp_path / "images", tmp_path / "masks"


# Pairs


def test_pairs_are_sorted_and_found_across_formats_and_mask_endings(tmp_path):
    images, masks = pair_files(
        *folders(
            tmp_path,
            ["d.BMP", "b.jpg", "a.png", "c.tif", ".hidden.png", "notes.txt"],
            [
                "c_segmentation.png",
                "a.tiff",
                "b_mask.png",
                "d_Segmentation.png",
                "._a.png",
            ],
        )
    )
    assert [p.name for p in images] == ["a.png", "b.jpg", "c.tif", "d.BMP"]
    assert [p.name for p in masks] == [
        "a.tiff",
        "b_mask.png",
        "c_segmentation.png",
        "d_Segmentation.png",
    ]


def test_all_files_without_partner_are_listed(tmp_path):
    dirs = folders(tmp_path, ["a.png", "b.png", "c.png"], ["a.png", "x.png"])
    with pytest.raises(ValueError, match="do not pair up") as caught:
        pair_files(*dirs)
    assert "2 of 3 images have no mask: b.png, c.png" in str(caught.value)
    assert "masks without an image: x.png" in str(caught.value)


def test_long_lists_of_lonely_files_are_cut_with_their_count(tmp_path):
    dirs = folders(tmp_path, [f"{i:03d}.png" for i in range(500)], ["x.png"])
    with pytest.raises(ValueError, match=r"009\.png and 490 more") as caught:
        pair_files(*dirs)
    assert "010.png" not in str(caught.value)


def test_two_masks_of_an_image_and_two_images_of_a_mask_are_refused(tmp_path):
    dirs = folders(tmp_path, ["a.png"], ["a.png", "a.tif"])
    with pytest.raises(ValueError, match=r"1 images have several masks: a\.png"):
        pair_files(*dirs)
    (tmp_path / "masks" / "a.tif").unlink()
    (tmp_path / "images" / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"masks of several images: a\.png"):
        pair_files(*dirs)


def test_missing_empty_and_equal_folders_are_refused(tmp_path):
    images, masks = folders(tmp_path, ["a.png"], ["notes.txt"])
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        pair_files(images, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"masks holds no image.*\.png"):
        pair_files(images, masks)
    with pytest.raises(ValueError, match="every image would be its own mask"):
        pair_files(images, images)


# Images


def test_grey_is_repeated_and_alpha_dropped(tmp_path):
    path = save(tmp_path / "grey.png", GREY)
    assert np.array_equal(read_image(path), np.repeat(GREY[..., None], 3, axis=2))
    assert np.array_equal(read_image(path, channels=1)[..., 0], GREY)
    path = save(tmp_path / "rgba.png", np.dstack([COLOUR, GREY]))
    assert np.array_equal(read_image(path), COLOUR)
    path = save(tmp_path / "la.png", np.dstack([GREY, GREY[::-1]]))
    assert np.array_equal(read_image(path, channels=1)[..., 0], GREY)


def test_colour_becomes_grey_by_luminance():
    red_green_blue = np.eye(3, dtype=np.uint8)[None] * 255
    assert to_uint8(red_green_blue, channels=1)[0, :, 0].tolist() == [76, 150, 29]
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    assert np.array_equal(to_uint8(grey, channels=1)[..., 0], grey[..., 0])


def test_palette_image_is_read_in_its_colours(tmp_path):
    file = Image.fromarray(np.array([[0, 1]], np.uint8), mode=None).convert("P")
    file.putpalette([255, 0, 0, 0, 0, 255])
    file.save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert read_labels(tmp_path / "p.png").tolist() == [[0, 1]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_scaled_by_their_own_range(tmp_path, suffix):
    path = save(tmp_path / f"x{suffix}", np.array([[300, 400, 500]], np.uint16))
    assert read_image(path, channels=1)[..., 0].tolist() == [[0, 128, 255]]


def test_16_bit_colour_and_float_tiffs_are_read(tmp_path):
    path = tmp_path / "colour.tif"
    tifffile.imwrite(path, COLOUR.astype(np.uint16) * 257, photometric="rgb")
    assert np.array_equal(read_image(path), COLOUR)
    tifffile.imwrite(path, np.array([[-1000, 0, 1000]], np.float32))
    assert read_image(path, channels=1)[..., 0].tolist() == [[0, 128, 255]]


def test_constant_image_of_16_bits_becomes_black(tmp_path):
    path = save(tmp_path / "x.png", np.full((2, 2), 9000, np.uint16))
    assert not read_image(path).any()


def test_bmp_jpeg_and_1_bit_files_are_read(tmp_path):
    assert np.array_equal(read_image(save(tmp_path / "x.bmp", COLOUR)), COLOUR)
    flat = np.full((8, 8), 100, np.uint8)
    jpeg = read_image(save(tmp_path / "x.jpg", flat, quality=95))
    assert abs(jpeg.astype(int) - 100).max() <= 1
    bits = save(tmp_path / "x.png", GREY > 50)
    assert np.array_equal(read_image(bits, channels=1)[..., 0], (GREY > 50) * 255)


def test_nan_in_a_float_tiff_is_refused_by_name(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.array([[1, np.nan, np.inf]], np.float32))
    with pytest.raises(ValueError, match=r"x\.tif holds 2 NaN or infinite"):
        read_image(tmp_path / "x.tif")


def test_several_pages_are_refused_by_name(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((5, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"x\.tif holds several images \(5 page"):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("share", [0.6, 0.0])
def test_cut_off_files_are_refused_by_name(tmp_path, suffix, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    path = save(tmp_path / f"x{suffix}", noise)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"x\.\w+ cannot be read as an image"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.filterwarnings("ignore")  # of decoders, about what they pass over
def test_damaged_files_are_read_or_refused_by_name(tmp_path, suffix):
    rng = np.random.default_rng(0)
    whole = save(tmp_path / f"x{suffix}", COLOUR).read_bytes()
    refused = unnamed = 0
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] = rng.integers(256)
        (tmp_path / f"x{suffix}").write_bytes(damaged)
        try:
            read_image(tmp_path / f"x{suffix}")
        except ValueError as error:
            refused += f"x{suffix} " in str(error)
            unnamed += f"x{suffix} " not in str(error)
    assert refused > 5
    assert unnamed == 0


def test_missing_file_stays_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.png"):
        read_image(tmp_path / "x.png")


def test_file_that_may_not_be_read_is_said_to_be_so(tmp_path, monkeypatch):
    path = save(tmp_path / "x.png", GREY)

    def forbidden(file, *args):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(Image, "open", forbidden)
    with pytest.raises(PermissionError, match=r"Permission denied: .*x\.png"):
        read_image(path)


def test_only_files_of_the_pattern_count(tmp_path):
    dirs = folders(tmp_path, ["a1.png", "a2.png", "a2_x.png", "b.png"], ["a2.png"])
    with pytest.raises(ValueError, match="3 of 4 images have no mask"):
        pair_files(*dirs)
    images, masks = pair_files(*dirs, "a2.png")
    assert [p.name for p in images + masks] == ["a2.png", "a2.png"]
    with pytest.raises(ValueError, match=r"no image named c\?: expected"):
        pair_files(*dirs, "c?")


def test_image_is_a_copy_that_can_be_written_to():
    pixels = np.zeros((2, 2, 3), np.uint8)
    to_uint8(pixels)[:] = 1
    assert not pixels.any()


# Masks


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0, 1, 1]], [[0, 1, 1]]),
        ([[0, 255, 255]], [[0, 1, 1]]),
        ([[0, 127, 128, 255, 255]], [[0, 0, 1, 1, 1]]),  # soft edges
        ([[0, 0]], [[0, 0]]),
        ([[1, 1]], [[1, 1]]),
        ([[255, 255]], [[1, 1]]),
        ([[0, 250, 249]], [[0, 1, 1]]),  # what JPEG makes of 255
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_binary_masks_become_0_and_1(tmp_path, values, expected, suffix):
    path = save(tmp_path / f"m{suffix}", np.array(values, np.uint8))
    assert read_mask(path).tolist() == expected


def test_mask_as_jpeg_1_bit_palette_or_grey_in_colour_is_read(tmp_path):
    truth = np.zeros((32, 32), np.uint8)
    truth[8:24, 8:24] = 1
    white = truth * np.uint8(255)
    for path in (
        save(tmp_path / "m.jpg", white, quality=90),
        save(tmp_path / "bits.png", truth.astype(bool)),
        save(tmp_path / "rgba.png", np.dstack([white] * 3 + [255 - truth])),
    ):
        assert np.array_equal(read_mask(path), truth), path
    file = Image.fromarray(1 - truth).convert("P")
    file.putpalette([255, 255, 255, 0, 0, 0])  # index 0 is white
    file.save(tmp_path / "palette.png")
    assert np.array_equal(read_mask(tmp_path / "palette.png"), truth)


@pytest.mark.parametrize("top", [2, 36, 120, 200, 255])
def test_object_numbers_are_not_mistaken_for_a_binary_mask(tmp_path, top):
    numbers = np.repeat(np.arange(top + 1, dtype=np.uint8)[None], 4, axis=0)
    path = save(tmp_path / "m.png", numbers)
    with pytest.raises(ValueError, match=r"m\.png holds 0, 1, 2.*looks like label"):
        read_mask(path)


def test_mask_values_that_are_no_8_bit_mask_are_named(tmp_path):
    path = save(tmp_path / "m.png", np.array([[0, 65535]], np.uint16))
    with pytest.raises(ValueError, match=r"holds 0, 65535 \(uint16\)"):
        read_mask(path)
    tifffile.imwrite(tmp_path / "m.tif", np.array([[0, 0.5, np.nan]], np.float32))
    with pytest.raises(ValueError, match=r"holds 0\.0, 0\.5, nan \(float32\)"):
        read_mask(tmp_path / "m.tif")
    with pytest.raises(ValueError, match=r"0\.5, nan; expected whole numbers"):
        read_mask(tmp_path / "m.tif", num_classes=3)
    tifffile.imwrite(tmp_path / "m.tif", np.array([[0, np.inf]], np.float32))
    with pytest.raises(ValueError, match="inf; expected whole numbers"):
        read_labels(tmp_path / "m.tif")


def test_colour_mask_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"m\.png is a colour image"):
        read_mask(save(tmp_path / "m.png", COLOUR))


def test_classes_out_of_range_are_named_with_the_file(tmp_path):
    path = save(tmp_path / "m.png", np.array([[0, 1, 2, 3, 255]], np.uint8))
    with pytest.raises(ValueError, match=r"m\.png holds 3, 255, outside .* 0\.\.2"):
        read_mask(path, num_classes=3)
    with pytest.raises(ValueError, match=r"m\.png holds 255, outside"):
        read_mask(path, num_classes=255)
    assert read_mask(path, num_classes=256).tolist() == [[0, 1, 2, 3, 255]]


def test_labels_may_have_more_than_256_numbers(tmp_path):
    path = save(tmp_path / "m.png", np.array([[0, 1, 4000]], np.uint16))
    labels = read_labels(path)
    assert labels.tolist() == [[0, 1, 4000]]
    assert labels.dtype == np.int32
