"""Tests of medseg.volumes."""

import gzip
import os
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage

from medseg import volumes
from medseg.volumes import Volume, grid_affine, to_index, to_world

DATA = Path(os.environ.get("MEDSEG_DATA", "/nowhere"))
SPINE = DATA / "sct_spinal_cord_mr"
RADIOMICS = DATA / "pyradiomics_cases_nrrd"
TOTAL = DATA / "totalsegmentator_examples"
HIPPOCAMPUS = DATA / "msd_task04_hippocampus"
needs_data = pytest.mark.skipif(not SPINE.is_dir(), reason="needs MEDSEG_DATA")

RAMP = np.array([2.0, -3.0, 0.5])  # HU a mm along x, y, z
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.4) @ grid_affine((3, 0.8, 1.2))[:3, :3],
    (-40, 25, 110),
)


def rng():
    return np.random.default_rng(0)


def ramp_image(affine, shape=(12, 20, 24)):
    """An image whose value is known at every point of the patient, in mm."""
    index = np.moveaxis(np.indices(shape), 0, -1)
    volume = Volume(np.zeros(shape), affine)
    return volume.with_array(to_world(volume, index) @ RAMP)


def blobs(shape=(20, 30, 40), seed=0):
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, 3)
    return np.digitize(smooth, np.quantile(smooth, (0.5, 0.8))).astype(np.uint8)


def file_axes(affine):
    """The affine of an array (D, H, W) for a file's axes (W, H, D)."""
    return affine[:, [2, 1, 0, 3]]


# The type


def test_positions_spacing_and_orientation_of_a_hand_made_grid():
    affine = grid_affine((5, 0.5, 0.7), orientation="SPL", origin=(10, 20, 30))
    volume = Volume(np.zeros((4, 6, 8)), affine)
    assert volume.spacing == (5, 0.5, 0.7)
    assert volume.orientation == "SPL"
    assert_allclose(to_world(volume, (2, 4, 3)), (10 - 2.1, 20 - 2, 30 + 10))
    points = rng().normal(size=(5, 7, 3))
    assert_allclose(to_index(volume, to_world(volume, points)), points, atol=1e-12)


def test_channels_come_first_and_do_not_count_as_space():
    volume = Volume(np.zeros((2, 4, 6, 8)), np.eye(4))
    assert volume.spatial_shape == (4, 6, 8)
    assert volume.with_array(np.ones((4, 6, 8))).array.ndim == 3
    with pytest.raises(ValueError, match="does not fit the grid"):
        volume.with_array(np.ones((4, 6, 2)))


def test_a_volume_cannot_be_changed_by_its_affine():
    affine = np.eye(4)
    volume = Volume(np.zeros((1, 1, 1)), affine)
    affine[0, 0] = 9
    assert volume.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        volume.affine[0, 0] = 9


@pytest.mark.parametrize(
    ("affine", "reason"),
    [
        (np.full((4, 4), np.nan), "NaN"),
        (np.diag([1.0, 1, 0, 1]), "1 x 1 x 0 mm"),
        (np.eye(3), r"expected \(4, 4\)"),
        (np.ones((4, 4)), "last row"),
        (
            [[1.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
            "in one plane",
        ),
    ],
)
def test_geometry_that_is_none_is_refused(affine, reason):
    with pytest.raises(ValueError, match=reason):
        Volume(np.zeros((2, 2, 2)), np.array(affine), "case7.nii")


def test_arrays_that_are_no_volume_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"A single slice is array\[None\]"):
        Volume(np.zeros((5, 5)), np.eye(4))
    with pytest.raises(TypeError, match="complex128"):
        Volume(np.zeros((5, 5, 5), complex), np.eye(4))
    with pytest.raises(ValueError, match="one of R/L"):
        grid_affine((1, 1, 1), orientation="RLS")


def test_the_same_grid_is_accepted_within_the_tolerance_only():
    image = Volume(np.zeros((3, 4, 5)), grid_affine((5, 1, 1)), "ct.nii.gz")
    mask = Volume(np.zeros((3, 4, 5)), grid_affine((5, 1, 1), origin=(0, 0.05, 0)))
    volumes.check_same_geometry(image, image.with_array(np.ones((3, 4, 5))))
    volumes.check_same_geometry(image, mask, tolerance_mm=0.06)
    with pytest.raises(ValueError, match=r"up to 0.05 mm apart \(tolerance 0.01 mm\)"):
        volumes.check_same_geometry(image, mask)


def test_other_spacing_is_seen_at_the_far_corner_and_both_grids_are_printed():
    image = Volume(np.zeros((3, 400, 5)), grid_affine((5, 1, 1)), "ct.nii.gz")
    mask = Volume(np.zeros((3, 400, 5)), grid_affine((5, 1.001, 1)), "mask.nii.gz")
    with pytest.raises(ValueError, match=r"up to 0.399 mm") as caught:
        volumes.check_same_geometry(image, mask)
    assert "image ct.nii.gz: (3, 400, 5) voxels of 5 x 1 x 1 mm" in str(caught.value)
    assert "mask  mask.nii.gz: (3, 400, 5) voxels of 5 x 1.001" in str(caught.value)
    assert "resample_labels_to(mask, image)" in str(caught.value)
    with pytest.raises(ValueError, match="their shapes differ"):
        volumes.check_same_geometry(image, Volume(np.zeros((3, 4, 5)), image.affine))


# NIfTI


def save_nifti(path, array, affine=None, **header):
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def test_nifti_axes_are_reversed_and_positions_kept(tmp_path):
    stored = rng().integers(0, 99, (4, 5, 6)).astype(np.int16)
    affine = nib.affines.from_matvec(OBLIQUE[:3, [2, 0, 1]], (1, 2, 3))
    path = save_nifti(tmp_path / "a.nii.gz", stored, affine)
    volume = volumes.read_nifti(path)
    assert volume.array.shape == (6, 5, 4)
    assert volume.array[5, 3, 2] == stored[2, 3, 5]
    assert volume.array.flags.c_contiguous
    assert volume.array.dtype == np.int16
    expected = nib.affines.apply_affine(nib.load(path).affine, (2, 3, 5))
    assert_allclose(to_world(volume, (5, 3, 2)), expected, atol=1e-5)


def test_channels_last_in_the_file_come_first(tmp_path):
    stored = rng().normal(size=(4, 5, 6, 2)).astype(np.float32)
    volume = volumes.read_nifti(save_nifti(tmp_path / "a.nii", stored))
    assert volume.array.shape == (2, 6, 5, 4)
    assert_array_equal(volume.array[1, 5, 3, 2], stored[2, 3, 5, 1])


def test_vectors_with_an_empty_time_axis_are_channels_and_slices_have_depth_one(
    tmp_path,
):
    vectors = np.zeros((4, 5, 6, 1, 3), np.float32)
    vectors[1, 2, 3, 0, 2] = 7
    volume = volumes.read_nifti(save_nifti(tmp_path / "v.nii", vectors))
    assert volume.array[2, 3, 2, 1] == 7
    flat = volumes.read_nifti(save_nifti(tmp_path / "f.nii", vectors[:, :, 0, 0, 0]))
    assert flat.array.shape == (1, 5, 4)
    with pytest.raises(ValueError, match="has 5 axes"):
        volumes.read_nifti(
            save_nifti(tmp_path / "x.nii", np.ones((2, 2, 2, 2, 2), "f4"))
        )


def test_scaled_integers_become_the_values_that_count(tmp_path):
    path = save_nifti(tmp_path / "ct.nii", np.full((2, 2, 2), 1, np.int16))
    content = bytearray(path.read_bytes())
    content[112:120] = np.float32([0.5, -1000]).tobytes()  # scl_slope, scl_inter
    path.write_bytes(content)
    volume = volumes.read_nifti(path)
    assert volume.array.dtype == np.float32
    assert_allclose(volume.array, -999.5)


def test_units_of_the_header_become_millimetres(tmp_path):
    for unit, factor in (("micron", 1e-3), ("meter", 1e3), ("unknown", 1)):
        image = nib.Nifti1Image(np.zeros((2, 2, 2), "u1"), np.diag([2.0, 3, 4, 1]))
        image.header.set_xyzt_units(unit)
        nib.save(image, tmp_path / "a.nii")
        spacing = volumes.read_nifti(tmp_path / "a.nii").spacing
        assert_allclose(spacing, np.array([4, 3, 2]) * factor, rtol=1e-6)


def test_unknown_orientation_is_a_warning(tmp_path):
    image = nib.Nifti1Image(np.zeros((2, 2, 2), "u1"), None)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.save(image, tmp_path / "a.nii")
    with pytest.warns(UserWarning, match=r"a.nii does not say how the patient lies"):
        volumes.read_nifti(tmp_path / "a.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_a_file_cut_off_is_named(tmp_path, suffix, keep):
    whole = tmp_path / f"whole{suffix}"
    save_nifti(whole, rng().normal(size=(20, 20, 20)))
    content = whole.read_bytes()
    path = tmp_path / f"case_012{suffix}"
    path.write_bytes(content[: int(keep * len(content)) if keep == 0.5 else keep])
    with pytest.raises(ValueError, match=rf"case_012\{suffix} cannot be read as NIfTI"):
        volumes.read_nifti(path)


def test_files_that_are_no_nifti_are_named(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"hello" * 200))
    with pytest.raises(ValueError, match=r"a.nii.gz cannot be read"):
        volumes.read_nifti(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes(b"not compressed" * 99)
    with pytest.raises(ValueError, match=r"b.nii.gz cannot be read"):
        volumes.read_nifti(tmp_path / "b.nii.gz")
    with pytest.raises(
        FileNotFoundError, match=r"c.nii is not there \(looked for from"
    ):
        volumes.read_nifti(tmp_path / "c.nii")
    with pytest.raises(FileNotFoundError, match="is a folder, not a file"):
        volumes.read_nifti(tmp_path)
    with pytest.raises(ValueError, match=r"d.tif ends in none of .nii, .nii.gz"):
        volumes.read_volume(tmp_path / "d.tif")


def test_nan_geometry_and_colours_are_refused(tmp_path):
    path = save_nifti(tmp_path / "a.nii", np.zeros((2, 2, 2), "u1"))
    content = bytearray(path.read_bytes())
    content[280:284] = np.float32(np.nan).tobytes()  # srow_x[0]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"affine of .*a.nii has NaN"):
        volumes.read_nifti(path)
    colours = np.zeros((2, 2, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(TypeError, match="Split colour"):
        volumes.read_nifti(save_nifti(tmp_path / "rgb.nii", colours))


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_what_is_written_is_read_back(tmp_path, name, channels):
    array = rng().normal(size=(*channels, 4, 5, 6)).astype(np.float32)
    volume = Volume(array, OBLIQUE)
    assert volumes.write_volume(volume, tmp_path / name) == tmp_path / name
    back = volumes.read_volume(tmp_path / name)
    assert_array_equal(back.array, array)
    assert_allclose(back.affine, OBLIQUE, atol=1e-4)
    assert back.array.flags.c_contiguous
    volumes.check_same_geometry(volume, back)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_sheared_volume_can_be_kept_as_nifti(tmp_path):
    sheared = OBLIQUE.copy()
    sheared[:3, 0] += (0, 0.4, 0.1)
    volumes.write_nifti(Volume(np.zeros((2, 3, 4), "u1"), sheared), tmp_path / "a.nii")
    back = volumes.read_nifti(tmp_path / "a.nii")
    assert_allclose(back.affine, sheared, atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "top", "stored"),
    [
        (bool, 1, np.uint8),
        (np.int64, 4, np.uint8),
        (np.int64, 300, np.int16),
        (np.uint64, 70_000, np.int32),
        (np.float16, 2, np.float32),
        (np.uint8, 255, np.uint8),
    ],
)
def test_dtypes_that_tools_cannot_read_are_stored_in_others(
    tmp_path, dtype, top, stored
):
    array = np.array([[[0, top]]]).astype(dtype)
    for name in ("a.nii.gz", "a.nrrd"):
        volumes.write_volume(Volume(array, np.eye(4)), tmp_path / name)
        back = volumes.read_volume(tmp_path / name)
        assert back.array.dtype == stored
        assert_array_equal(back.array, array)
    with pytest.raises(ValueError, match="few tools read"):
        volumes.write_nifti(
            Volume(np.array([[[0, 2**40]]]), np.eye(4)), tmp_path / "b.nii"
        )


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    volumes.write_nifti(Volume(np.ones((2, 2, 2), "u1"), np.eye(4)), path)
    before = path.read_bytes()

    def full(image, file):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    with pytest.raises(OSError, match="No space left"):
        volumes.write_nifti(Volume(np.zeros((2, 2, 2), "u1"), np.eye(4)), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError, match="make it first"):
        volumes.write_nifti(
            Volume(np.zeros((1, 1, 1)), np.eye(4)), tmp_path / "x/a.nii"
        )


@needs_data
@pytest.mark.parametrize("case", ["t1_cord", "t2_cord", "t2s_greymatter", "mt1_cord"])
def test_real_orientations_agree_with_nibabel_and_simpleitk(case):
    path = SPINE / "imagesTr" / f"{case}.nii.gz"
    volume, reference = volumes.read_nifti(path), nib.load(path)
    itk = sitk.ReadImage(str(path))
    codes = "".join(nib.aff2axcodes(reference.affine))
    assert volume.orientation == codes[::-1]
    assert volume.spacing == pytest.approx(reference.header.get_zooms()[::-1], rel=1e-5)
    for i, j, k in rng().integers(0, min(reference.shape), (5, 3)).tolist():
        place = to_world(volume, (k, j, i))
        assert volume.array[k, j, i] == reference.dataobj[i, j, k]
        assert_allclose(
            place, nib.affines.apply_affine(reference.affine, (i, j, k)), atol=1e-4
        )
        x, y, z = itk.TransformIndexToPhysicalPoint((i, j, k))
        assert_allclose(place, (-x, -y, z), atol=1e-3)
    mask = volumes.read_nifti(SPINE / "labelsTr" / f"{case}.nii.gz")
    volumes.check_same_geometry(volume, mask)


@needs_data
def test_three_real_orientations_of_one_cord_lie_in_the_same_place():
    centres = []
    for case in ("t1_cord", "t2_cord", "mt1_cord"):
        mask = volumes.read_nifti(SPINE / "labelsTr" / f"{case}.nii.gz")
        index = np.argwhere(mask.array > 0)
        centres.append(to_world(mask, index).mean(axis=0))
    # One patient, and each field of view holds the cervical cord: left to right, where
    # flipped axes would put it on the other side, the cord lies within millimetres.
    assert np.ptp([centre[0] for centre in centres]) < 5


@needs_data
def test_real_labels_in_floats_become_integers():
    labels = volumes.read_nifti(SPINE / "labelsTr" / "t2_vertebral_levels.nii.gz")
    assert labels.array.dtype == np.float64
    converted = volumes.to_labels(labels)
    assert converted.array.dtype == np.uint8
    assert np.unique(converted.array).tolist() == [0, 2, 3, 4, 5]
    assert_array_equal(converted.array, labels.array)


@needs_data
def test_every_dtype_of_a_real_decathlon_task_is_read():
    paths = sorted((HIPPOCAMPUS / "imagesTr").glob("*.nii.gz"))
    seen = {}
    for path in paths:
        image = volumes.read_nifti(path)
        seen.setdefault(image.array.dtype.name, path)
        if len(seen) == 2:
            break
    assert set(seen) == {"uint8", "float32"}
    for path in seen.values():
        labels = volumes.to_labels(
            volumes.read_nifti(HIPPOCAMPUS / "labelsTr" / path.name)
        )
        volumes.check_same_geometry(volumes.read_nifti(path), labels)
        assert labels.array.dtype == np.uint8
        assert labels.array.max() == 2


def test_to_labels_names_what_is_no_label():
    soft = Volume(np.array([[[0, 0.25, -1, np.nan]]]), np.eye(4), "soft.nii")
    with pytest.raises(ValueError, match=r"soft.nii holds -1, 0.25, nan; labels are"):
        volumes.to_labels(soft)
    large = Volume(np.array([[[0, 70_000]]]), np.eye(4))
    assert volumes.to_labels(large).array.dtype == np.uint32


# NRRD and MetaImage


@pytest.mark.parametrize("direction", [(1, 1, 1), (1, -1, 1), (-1, -1, 1), (1, 1, -1)])
def test_flipped_direction_cosines_keep_every_position(tmp_path, direction):
    image = sitk.GetImageFromArray(rng().integers(0, 99, (3, 4, 5)).astype(np.int16))
    image.SetDirection(np.diag(np.float64(direction)).ravel().tolist())
    image.SetSpacing((0.78, 0.8, 6.5))
    image.SetOrigin((-99, 50, 3))
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    volume = volumes.read_itk(tmp_path / "a.nrrd")
    assert volume.spacing == (6.5, 0.8, 0.78)
    for i, j, k in [(0, 0, 0), (4, 2, 1), (1, 3, 2)]:
        x, y, z = image.TransformIndexToPhysicalPoint((i, j, k))
        assert_allclose(to_world(volume, (k, j, i)), (-x, -y, z))
        assert volume.array[k, j, i] == image[i, j, k]


@needs_data
@pytest.mark.parametrize("case", ["brain1", "breast1", "prostate_phantom"])
def test_real_nrrd_and_its_nifti_copy_are_one_volume(tmp_path, case):
    volume = volumes.read_volume(RADIOMICS / "images" / f"{case}.nrrd")
    sitk.WriteImage(
        sitk.ReadImage(str(RADIOMICS / "images" / f"{case}.nrrd")),
        str(tmp_path / "copy.nii.gz"),
    )
    copy = volumes.read_nifti(tmp_path / "copy.nii.gz")
    assert_array_equal(copy.array, volume.array)
    volumes.check_same_geometry(volume, copy)
    mask = volumes.read_volume(RADIOMICS / "masks" / f"{case}.nrrd")
    volumes.check_same_geometry(volume, mask)


def test_bad_itk_files_and_shear_are_refused(tmp_path, monkeypatch):
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\ntype: short\n")
    with pytest.raises(ValueError, match=r"a.nrrd cannot be read by SimpleITK"):
        volumes.read_volume(tmp_path / "a.nrrd")
    sitk.WriteImage(sitk.Image(4, 4, sitk.sitkUInt8), str(tmp_path / "flat.mha"))
    with pytest.raises(ValueError, match="has 2 axes; expected 3"):
        volumes.read_volume(tmp_path / "flat.mha")
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    with pytest.raises(ValueError, match="not at right angles"):
        volumes.write_itk(Volume(np.zeros((2, 2, 2)), sheared), tmp_path / "b.nrrd")
    with pytest.raises(ValueError, match="formats of one file are written"):
        volumes.write_volume(Volume(np.zeros((2, 2, 2)), np.eye(4)), tmp_path / "b.mhd")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'medseg\[itk\]'"):
        volumes.read_volume(tmp_path / "flat.mha")


# Turned, cut out, put back


@pytest.mark.parametrize("wanted", ["SPL", "RAS", "IAR", "PSR", "LIP"])
def test_reorient_agrees_with_nibabel(wanted):
    volume = Volume(rng().normal(size=(3, 4, 5)), OBLIQUE)
    turned = volumes.reorient(volume, wanted)
    change = ornt_transform(io_orientation(OBLIQUE), axcodes2ornt(wanted))
    assert_array_equal(turned.array, apply_orientation(volume.array, change))
    assert_allclose(turned.affine, OBLIQUE @ inv_ornt_aff(change, (3, 4, 5)))
    assert turned.orientation == wanted
    assert turned.array.flags.c_contiguous
    assert not np.shares_memory(turned.array, volume.array)


def test_reorient_moves_no_voxel_and_keeps_channels():
    volume = ramp_image(OBLIQUE, (3, 4, 5))
    both = volume.with_array(np.stack([volume.array, -volume.array]))
    turned = volumes.reorient(both, "LIP")
    expected = ramp_image(turned.affine, turned.spatial_shape).array
    assert_allclose(turned.array, [expected, -expected])
    back = volumes.reorient(turned, volume.orientation)
    assert_allclose(back.affine, OBLIQUE)
    assert_array_equal(back.array, both.array)


@needs_data
def test_real_image_turned_is_what_simpleitk_turns():
    path = SPINE / "imagesTr" / "t2_cord.nii.gz"
    turned = volumes.reorient(volumes.read_nifti(path), "SPL")
    itk = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")  # letters of ITK: towards
    assert_array_equal(turned.array, sitk.GetArrayFromImage(itk))
    x, y, z = itk.GetOrigin()
    assert_allclose(to_world(turned, (0, 0, 0)), (-x, -y, z), atol=1e-4)


def test_crop_keeps_positions_and_paste_puts_it_back():
    image = ramp_image(OBLIQUE)
    mask = np.zeros(image.spatial_shape, bool)
    mask[4:7, 8, 10:13] = True
    part = volumes.crop_to_foreground(image, mask, margin_mm=2)
    # 2 mm are one voxel of 3 mm, three of 0.8 mm, two of 1.2 mm.
    assert part.array.shape == (3 + 2, 1 + 6, 3 + 4)
    expected = ramp_image(part.affine, part.array.shape)
    assert_allclose(part.array, expected.array)
    blank = image.with_array(np.zeros(image.spatial_shape))
    whole = volumes.paste(part, blank)
    box = (slice(3, 8), slice(5, 12), slice(8, 15))
    assert_array_equal(whole.array[box], image.array[box])
    assert np.count_nonzero(whole.array) <= 5 * 7 * 7
    assert not blank.array.any()


def test_crop_stops_at_the_edge_and_needs_foreground():
    image = Volume(np.zeros((4, 5, 6)), grid_affine((2, 1, 1)))
    image.array[0, 4, 3] = 1
    assert volumes.crop_to_foreground(image, margin_mm=2).array.shape == (2, 3, 5)
    channels = image.with_array(np.stack([image.array, np.roll(image.array, 1, 2)]))
    assert volumes.crop_to_foreground(channels).array.shape == (2, 1, 1, 2)
    with pytest.raises(ValueError, match="no foreground to crop to"):
        volumes.crop_to_foreground(image, np.zeros((4, 5, 6)))
    with pytest.raises(ValueError, match="does not fit the grid"):
        volumes.crop_to_foreground(image, np.zeros((4, 5)))
    with pytest.raises(ValueError, match="cuts nothing out"):
        volumes.crop(image, (slice(2, 2), slice(0, 1), slice(0, 1)))


def test_paste_refuses_what_does_not_lie_on_the_grid():
    whole = Volume(np.zeros((4, 5, 6)), grid_affine((2, 1, 1)))
    shifted = Volume(np.ones((1, 1, 1)), grid_affine((2, 1, 1), origin=(0, 0.5, 0)))
    outside = Volume(np.ones((9, 1, 1)), whole.affine)
    turned = Volume(np.ones((1, 1, 1)), grid_affine((2, 1, 1), orientation="SAL"))
    for part in (shifted, outside, turned):
        with pytest.raises(ValueError, match="not a box of the whole volume"):
            volumes.paste(part, whole)


# Resampling


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("spacing", [(1.5, 1.5, 1.5), (4, 0.5, 2.5), (3, 0.8, 1.2)])
def test_resampled_ramp_has_the_value_of_its_place(order, spacing):
    image = ramp_image(OBLIQUE)
    result = volumes.resample(image, spacing, order=order)
    assert result.spacing == pytest.approx(spacing)
    expected = ramp_image(result.affine, result.spatial_shape).array
    # Splines bend within a few voxels of an edge, where a ramp ends.
    index = to_index(
        image, to_world(result, np.moveaxis(np.indices(result.spatial_shape), 0, -1))
    )
    border = 0 if order == 1 else 4
    inner = (index >= border) & (index <= np.array(image.spatial_shape) - 1 - border)
    inner = inner.all(axis=-1)
    assert inner.sum() > 30
    assert_allclose(
        result.array[inner], expected[inner], atol=0.01 * (order == 3) + 1e-4
    )


def test_the_resampled_grid_covers_the_same_box():
    image = ramp_image(OBLIQUE)
    for spacing in [(1, 1, 1), (5, 2, 0.7), (100, 100, 100)]:
        result = volumes.resample(image, spacing, order=1)
        size = np.array(image.spatial_shape) * (3, 0.8, 1.2)
        covered = np.array(result.spatial_shape) * spacing
        assert (np.abs(covered - size) <= np.array(spacing) / 2 + 1e-6).all() or (
            min(result.spatial_shape) == 1
        )
        middle = [
            to_world(v, (np.array(v.spatial_shape) - 1) / 2) for v in (image, result)
        ]
        assert_allclose(*middle, atol=1e-9)


@pytest.mark.parametrize("order", [1, 3])
def test_resample_agrees_with_scipy(order):
    values = rng().normal(size=(9, 14, 11))
    image = Volume(values, grid_affine((3, 1, 0.7), origin=(5, -3, 2)))
    result = volumes.resample(image, (2, 1.3, 1.1), order=order)
    place = to_index(
        image, to_world(result, np.moveaxis(np.indices(result.spatial_shape), 0, -1))
    )
    place = np.clip(place, 0, np.array(values.shape) - 1)
    expected = ndimage.map_coordinates(
        values, np.moveaxis(place, -1, 0), order=order, mode="mirror"
    )
    expected = np.clip(expected, values.min(), values.max())
    assert_allclose(result.array, expected, atol=2e-6)


def test_linear_resampling_onto_an_oblique_grid_agrees_with_simpleitk(tmp_path):
    image = Volume(
        rng().normal(size=(12, 16, 14)).astype(np.float32), grid_affine((2, 1, 1))
    )
    centre = to_world(image, (5.5, 7.5, 6.5))
    affine = OBLIQUE.copy()
    affine[:3, 3] = centre - affine[:3, :3] @ (4, 9, 6)
    grid = Volume(np.zeros((9, 19, 13), np.uint8), affine)
    ours = volumes.resample_to(image, grid, order=1, fill=-7)
    for name, volume in (("image", image), ("grid", grid)):
        volumes.write_volume(volume, tmp_path / f"{name}.nrrd")
    theirs = sitk.Resample(
        sitk.ReadImage(str(tmp_path / "image.nrrd")),
        sitk.ReadImage(str(tmp_path / "grid.nrrd")),
        sitk.Transform(),
        sitk.sitkLinear,
        -7.0,
        sitk.sitkFloat32,
    )
    assert_allclose(ours.array, sitk.GetArrayFromImage(theirs), atol=1e-4)
    assert_allclose(ours.affine, affine)
    assert (ours.array == -7).any()
    assert (ours.array != -7).any()


def test_the_way_back_from_a_crop_in_other_axes_is_exact_for_a_ramp():
    image = ramp_image(OBLIQUE)
    part = volumes.crop(image, (slice(2, 10), slice(3, 17), slice(2, 22)))
    turned = volumes.reorient(part, "RAS")
    smaller = volumes.resample(turned, (1, 1, 1), order=1)
    back = volumes.resample_to(smaller, image, order=1, fill=1e9)
    inner = (slice(3, 9), slice(5, 15), slice(4, 20))
    assert_allclose(back.array[inner], image.array[inner], atol=1e-3)
    assert back.array[0, 0, 0] == np.float32(1e9)
    assert_array_equal(back.affine, image.affine)


def test_what_lies_outside_is_the_smallest_value_or_fill():
    image = Volume(np.full((2, 2, 2), 5.0), np.eye(4))
    image.array[0, 0, 0] = -1000
    grid = Volume(np.zeros((4, 2, 2)), np.eye(4))
    assert_array_equal(volumes.resample_to(image, grid).array[2:], -1000)
    assert_array_equal(volumes.resample_to(image, grid, fill=3).array[2:], 3)
    away = Volume(np.zeros((2, 2, 2)), grid_affine((1, 1, 1), origin=(500, 0, 0)))
    with pytest.raises(ValueError, match="two grids do not overlap") as caught:
        volumes.resample_to(image, away)
    assert "500" in str(caught.value)


def test_the_same_grid_changes_nothing():
    image = Volume(rng().normal(size=(5, 6, 7)).astype(np.float32), OBLIQUE)
    for order in (0, 1, 3):
        result = volumes.resample_to(image, image, order=order)
        assert_allclose(result.array, image.array, atol=1e-5)
    labels = image.with_array(blobs((5, 6, 7)))
    assert_array_equal(volumes.resample_labels_to(labels, image).array, labels.array)


def test_cubic_resampling_stays_within_the_range_and_keeps_channels():
    step = np.zeros((2, 3, 4, 20), np.float32)
    step[..., 10:] = 100
    image = Volume(step, np.eye(4))
    result = volumes.resample(image, (1, 1, 0.4))
    assert result.array.shape == (2, 3, 4, 50)
    assert (result.array.min(), result.array.max()) == (0, 100)
    assert_array_equal(result.array[0], result.array[1])


def test_thick_slices_are_not_mixed_with_nearest_axis():
    slices = np.arange(4.0)[:, None, None] * np.ones((4, 6, 6))
    image = Volume(slices, grid_affine((6, 1, 1)))
    assert volumes.thick_axis(image.spacing) == 0
    nearest = volumes.resample(image, (2, 0.5, 0.5), nearest_axis=0)
    assert_allclose(
        nearest.array[:, 0, 0], [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3], atol=1e-5
    )
    smooth = volumes.resample(image, (2, 0.5, 0.5), order=1)
    assert smooth.array[2, 0, 0] == pytest.approx(1 / 3)
    plane = rng().normal(size=(1, 6, 7))
    stack = Volume(np.repeat(plane, 4, axis=0), grid_affine((6, 1, 1)))
    flat = Volume(plane, grid_affine((6, 1, 1)))
    assert_allclose(
        volumes.resample(stack, (2, 0.5, 0.5), nearest_axis=0).array[7],
        volumes.resample(flat, (6, 0.5, 0.5)).array[0],
        atol=1e-5,
    )
    labels = Volume(np.arange(4)[:, None, None] * np.ones((4, 6, 6), int), image.affine)
    kept = volumes.resample_labels(labels, (2, 1, 1), nearest_axis=0).array[:, 0, 0]
    assert kept.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    with pytest.raises(ValueError, match="needs parallel grids"):
        volumes.resample_to(
            image, Volume(np.zeros((9, 9, 9)), _near(image)), nearest_axis=0
        )


def _near(image):
    affine = OBLIQUE.copy()
    affine[:3, 3] = to_world(image, (0, 0, 0))
    return affine


def test_bad_options_of_resampling_are_refused():
    image = Volume(np.zeros((3, 3, 3)), np.eye(4), "ct")
    with pytest.raises(ValueError, match="order must be one of 0, 1, 3, got 2"):
        volumes.resample(image, (1, 1, 1), order=2)
    with pytest.raises(ValueError, match="spacing must be positive"):
        volumes.resample(image, (1, 0, 1))
    with pytest.raises(
        TypeError, match=r"ct holds float64; expected labels.*to_labels"
    ):
        volumes.resample_labels(image, (1, 1, 1))
    with pytest.raises(ValueError, match="values from -1"):
        volumes.resample_labels(image.with_array(np.full((3, 3, 3), -1)), (1, 1, 1))


def slow_vote(labels, result):
    """The class with the largest linear weight, by K full volumes; and the weights."""
    weights = np.stack(
        [
            volumes.resample_to(
                labels.with_array((labels.array == k).astype(np.float32)),
                result,
                order=1,
                fill=float(k == 0),
            ).array
            for k in np.unique(labels.array)
        ]
    )
    return weights


@pytest.mark.parametrize("spacing", [(1.3, 0.9, 2.1), (4, 1.5, 1), (0.7, 3, 3)])
@pytest.mark.parametrize("oblique", [False, True])
def test_labels_are_the_vote_of_linear_weights(spacing, oblique):
    labels = Volume(blobs(), grid_affine((2, 1, 1.5), origin=(5, 5, 5)))
    if oblique:
        affine = OBLIQUE.copy()
        affine[:3, :3] *= np.array(spacing) / (3, 0.8, 1.2)
        affine[:3, 3] = to_world(labels, (4, 8, 8))
        grid = Volume(np.zeros((8, 14, 12), np.uint8), affine)
    else:
        grid = volumes.resample(labels, spacing, order=0)
    result = volumes.resample_labels_to(labels, grid, keep_small=False)
    weights = slow_vote(labels, grid)
    chosen = np.take_along_axis(weights, result.array[None].astype(int), axis=0)[0]
    assert_allclose(chosen, weights.max(axis=0), atol=1e-4)
    ties = np.isclose(weights[0], weights[1:].max(axis=0), atol=1e-6)
    assert (result.array[ties & (weights.max(axis=0) < 0.999)] > 0).all()
    assert set(np.unique(result.array)) == {0, 1, 2}
    assert result.array.dtype == np.uint8


def test_small_parts_on_an_oblique_grid_are_where_they_were():
    array = np.zeros((14, 20, 24), np.uint8)
    array[4:7, 5:9, 6:10], array[9:12, 12:16, 15:20] = 1, 2
    labels = Volume(array, grid_affine((2, 1, 1.5), origin=(5, 5, 5)))
    affine = OBLIQUE.copy()
    affine[:3, 3] = to_world(labels, (2, 2, 2))
    grid = Volume(np.zeros((10, 18, 18), np.uint8), affine)
    result = volumes.resample_labels_to(labels, grid, keep_small=False)
    weights = slow_vote(labels, grid)
    chosen = np.take_along_axis(weights, result.array[None].astype(int), axis=0)[0]
    assert_allclose(chosen, weights.max(axis=0), atol=1e-4)
    assert (np.bincount(result.array.ravel()) > 10).all()


def test_a_ring_that_would_vanish_is_kept_on_the_ring():
    array = np.zeros((1, 13, 13), np.uint8)
    array[0, 2:11, 2:11] = 1
    array[0, 3:10, 3:10] = 0
    grid = Volume(np.zeros((1, 3, 3)), grid_affine((1, 4, 4), origin=(-2.8, -2.8, 0)))
    labels = Volume(array, grid_affine((1, 1, 1)))
    assert not volumes.resample_labels_to(labels, grid, keep_small=False).array.any()
    kept = volumes.resample_labels_to(labels, grid)
    (place,) = np.argwhere(kept.array)
    index = to_index(labels, to_world(kept, place))
    assert np.abs(index - np.argwhere(array)).max(axis=1).min() < 1  # not its middle


def test_outside_of_labels_without_background_is_background():
    labels = Volume(np.full((2, 3, 4), 5, np.uint8), np.eye(4))
    grid = Volume(np.zeros((3, 3, 4)), np.eye(4))
    result = volumes.resample_labels_to(labels, grid).array
    assert (result[:2] == 5).all()
    assert (result[2] == 0).all()


def test_label_numbers_are_never_mixed_and_gaps_in_them_do_not_matter():
    array = np.zeros((6, 6, 6), np.uint16)
    array[:, :3], array[:, 3:] = 7, 900
    result = volumes.resample_labels(Volume(array, np.eye(4)), (0.6, 0.6, 0.6))
    assert set(np.unique(result.array)) == {7, 900}
    mask = volumes.resample_labels(Volume(array > 10, np.eye(4)), (0.6, 0.6, 0.6))
    assert mask.array.dtype == bool
    assert_array_equal(mask.array, result.array == 900)


def test_small_structures_survive_where_voxels_become_large():
    array = np.zeros((24, 24, 24), np.uint8)
    for n, (d, h, w) in enumerate(np.ndindex(4, 4, 4)):
        array[6 * d + n % 3, 6 * h + n % 4, 6 * w + n % 5] = 1 + n % 3  # 64 lesions
    labels = Volume(array, np.eye(4))
    kept = volumes.resample_labels(labels, (3, 3, 3))
    assert ndimage.label(kept.array)[1] >= 32  # some of the 64 touch by now
    assert set(np.unique(kept.array)) == {0, 1, 2, 3}
    place = to_world(kept, np.argwhere(kept.array == 1))
    original = to_world(labels, np.argwhere(array == 1))
    nearest = np.abs(place[:, None] - original).max(axis=2)
    assert nearest.min(axis=0).max() <= 3  # each lesion has a voxel where it was
    assert nearest.min(axis=1).max() <= 3  # and no voxel is where none was
    lost = volumes.resample_labels(labels, (3, 3, 3), keep_small=False)
    assert (lost.array > 0).sum() < (kept.array > 0).sum()


def test_nothing_is_kept_that_lies_outside_the_target():
    array = np.zeros((10, 4, 4), np.uint8)
    array[9, 1, 1] = 1
    grid = Volume(np.zeros((3, 4, 4)), np.eye(4))
    assert not volumes.resample_labels_to(Volume(array, np.eye(4)), grid).array.any()


@needs_data
def test_forty_real_organs_come_through_and_back():
    labels = volumes.read_nifti(TOTAL / "labelsTr" / "ct_sm.nii.gz")
    coarse = volumes.resample_labels(labels, (4.5, 4.5, 4.5))
    assert_array_equal(np.unique(coarse.array), np.unique(labels.array))
    back = volumes.resample_labels_to(coarse, labels)
    for label in (1, 5, 6, 52):  # spleen, liver, stomach, aorta
        a, b = back.array == label, labels.array == label
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.85


def test_upright_grid_covers_an_oblique_volume():
    image = ramp_image(OBLIQUE)
    grid = volumes.upright_grid(image, (2, 1, 1))
    assert grid.orientation == "SPL"
    assert grid.spacing == (2, 1, 1)
    index = to_index(grid, to_world(image, np.argwhere(image.array < np.inf)))
    assert index.min() >= -1e-6
    assert (index.max(axis=0) <= np.array(grid.spatial_shape) - 1 + 1e-6).all()
    result = volumes.resample_to(image, grid, order=1, fill=np.nan)
    expected = ramp_image(grid.affine, grid.spatial_shape).array
    # Half a voxel beyond the outermost centres the value of the edge is repeated.
    source = to_index(
        image, to_world(grid, np.moveaxis(np.indices(grid.spatial_shape), 0, -1))
    )
    inner = ((source >= 0) & (source <= np.array(image.spatial_shape) - 1)).all(-1)
    assert inner.sum() > 1000
    assert_allclose(result.array[inner], expected[inner], atol=1e-3)


# Grey values


def test_windows_have_the_level_in_the_middle():
    for level, width in volumes.WINDOWS.values():
        ends = volumes.apply_window(
            [level - width / 2, level, level + width / 2], level, width
        )
        assert_allclose(ends, [0, 0.5, 1])
    assert volumes.WINDOWS["lung"] == (-600, 1500)
    with pytest.raises(ValueError, match="must be positive, in HU, got -600"):
        volumes.apply_window([0], 1500, -600)


def test_fingerprint_takes_the_same_number_of_voxels_of_each_case():
    small = np.full(10, 100.0), np.ones(10, int)
    large = np.full(1000, -100.0), np.ones(1000, int)
    empty = np.full(50, 9e9), np.zeros(50, int)
    even = volumes.intensity_fingerprint(
        iter([small, large, empty]), samples_per_case=10
    )
    assert (even.mean, even.std) == (0, 100)
    uneven = volumes.intensity_fingerprint([small, large])
    assert uneven.mean == pytest.approx((1000 - 100_000) / 1010)
    with pytest.raises(ValueError, match=r"none of 1 case\(s\) has foreground"):
        volumes.intensity_fingerprint([empty])
    with pytest.raises(
        ValueError, match=r"shape \(2,\) came with labels of shape \(3,\)"
    ):
        volumes.intensity_fingerprint([(np.zeros(2), np.zeros(3))])


def test_ct_is_clipped_and_scaled_by_the_training_set():
    values = np.arange(1001.0)
    fingerprint = volumes.intensity_fingerprint([(values, np.ones(1001))])
    assert (fingerprint.low, fingerprint.high) == pytest.approx((5, 995))
    result = volumes.normalise_ct([-2000, 5, 500, 995, 3000], fingerprint)
    std = values.std()
    expected = np.array([-495, -495, 0, 495, 495]) / std
    assert_allclose(result, expected, rtol=1e-5)
    assert result.dtype == np.float32
    constant = volumes.intensity_fingerprint([(np.full(9, 7.0), np.ones(9))])
    assert_array_equal(volumes.normalise_ct([7, 8], constant), [0, 0])


def test_mr_is_its_own_reference_and_its_empty_border_stays_zero():
    image = rng().normal(300, 40, (6, 7, 8))
    image[:2] = 0
    result = volumes.normalise_mr(image)
    assert_array_equal(result[:2], 0)
    assert_allclose(result[2:].mean(), 0, atol=1e-6)
    assert_allclose(result[2:].std(), 1, rtol=1e-6)
    assert_allclose(volumes.normalise_mr(image * 7), result, atol=1e-5)
    masked = volumes.normalise_mr(image, image > 300)
    assert_allclose(masked[image > 300].mean(), 0, atol=1e-6)
    assert_array_equal(volumes.normalise_mr(np.full((2, 2), 9)), 0)
    assert_array_equal(volumes.normalise_mr(np.zeros((2, 2))), 0)
    image[3, 3, 3] = np.nan
    with pytest.raises(ValueError, match=r"holds 1 NaN"):
        volumes.normalise_mr(image)
    with pytest.raises(ValueError, match="one channel at a time"):
        volumes.normalise_mr(image, image[0])
