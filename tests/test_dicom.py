"""Tests of medseg.dicom."""

import os
import shutil
import sys
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from numpy.testing import assert_allclose, assert_array_equal
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import get_decoder
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    generate_uid,
)
from skimage.draw import polygon2mask

from medseg import dicom, volumes
from medseg.volumes import Volume, grid_affine, to_world

DATA = Path(os.environ.get("MEDSEG_DATA", "/nowhere"))
SAMPLES = DATA / "dicom_samples"
TOTAL = DATA / "totalsegmentator_examples"
needs_data = pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs MEDSEG_DATA")

AXIAL = (1, 0, 0, 0, 1, 0)
STUDY, FRAME_OF_REFERENCE = generate_uid(), generate_uid()


def ct_slice(pixels, position, orientation=AXIAL, uid="1.2.3", **tags):
    """One CT slice as a scanner writes it; ``None`` leaves a tag out."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    instance = generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = instance
    dataset.Modality, dataset.SeriesDescription = "CT", "ABDOMEN"
    dataset.PatientName, dataset.PatientID = "Phantom^One", "P1"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyID = ""
    dataset.StudyDate, dataset.StudyTime = "20200101", "120000"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = STUDY, uid
    dataset.FrameOfReferenceUID = FRAME_OF_REFERENCE
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.ImagePositionPatient = [float(value) for value in position]
    dataset.ImageOrientationPatient = [float(value) for value in orientation]
    dataset.PixelSpacing = [0.7, 0.5]  # between rows, between columns
    dataset.SliceThickness = 9  # overlapping slices: not their distance
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    dataset.PixelData = pixels.astype("<u2").tobytes()
    for tag, value in tags.items():
        if value is None:
            delattr(dataset, tag)
        else:
            setattr(dataset, tag, value)
    return dataset


def save(dataset, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def pixels_of(count=5, rows=6, columns=8):
    return np.random.default_rng(0).integers(0, 3000, (count, rows, columns))


def write_series(folder, count=5, *, skip=(), step=2.5, **tags):
    """Axial slices from z = 10 on, in files whose names run the other way."""
    stored = pixels_of(count)
    for index in range(count):
        if index not in skip:
            dataset = ct_slice(stored[index], (-50, -60, 10 + step * index), **tags)
            dataset.InstanceNumber = 100 - index
            save(dataset, folder / f"IM{99 - index:03d}")
    return stored


# Series


def test_slices_are_stacked_by_position_not_by_name_or_number(tmp_path):
    stored = write_series(tmp_path / "ct")
    volume = dicom.read_series(tmp_path / "ct")
    assert_array_equal(volume.array, stored - 1024)
    assert volume.array.dtype == np.int16
    assert volume.spacing == (2.5, 0.7, 0.5)
    assert volume.orientation == "SPL"
    # DICOM counts x and y to the left and to the back, RAS the other way.
    assert_allclose(to_world(volume, (0, 0, 0)), (50, 60, 10))
    assert_allclose(to_world(volume, (1, 2, 3)), (50 - 1.5, 60 - 1.4, 12.5))


@pytest.mark.parametrize(
    "orientation",
    [AXIAL, (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1), (0.8, 0.6, 0, 0, 0, -1)],
)
def test_any_orientation_agrees_with_simpleitk(tmp_path, orientation):
    along_row, along_column = np.reshape(orientation, (2, 3))
    normal = np.cross(along_row, along_column)
    stored = pixels_of(4)
    for index in range(4):
        position = np.array([5, -7, 11]) + 3 * index * normal
        save(ct_slice(stored[index], position, orientation), tmp_path / f"{index}.dcm")
    volume = dicom.read_series(tmp_path)
    reader = sitk.ImageSeriesReader()
    names = reader.GetGDCMSeriesFileNames(str(tmp_path))
    reader.SetFileNames(names)
    image = reader.Execute()
    for i, j, k in [(0, 0, 0), (7, 5, 3), (2, 4, 1)]:
        x, y, z = image.TransformIndexToPhysicalPoint((i, j, k))
        ours = volumes.to_index(volume, (-x, -y, z))
        d, h, w = np.rint(ours).astype(int)
        assert_allclose(ours, (d, h, w), atol=1e-4)
        assert volume.array[d, h, w] == image[i, j, k]
    assert_array_equal(volume.array, stored - 1024)


def test_rescaling_of_each_slice_its_own(tmp_path):
    for index, slope in enumerate((0.5, 2.0)):
        pixels = np.full((2, 2), 100)
        dataset = ct_slice(pixels, (0, 0, index), RescaleSlope=slope)
        save(dataset, tmp_path / str(index))
    volume = dicom.read_series(tmp_path)
    assert volume.array.dtype == np.float32
    assert volume.array[:, 0, 0].tolist() == [50 - 1024, 200 - 1024]


def test_large_values_are_not_cut_to_16_bits(tmp_path):
    for index in range(2):
        dataset = ct_slice(np.full((2, 2), 60_000), (0, 0, index), RescaleIntercept=0)
        save(dataset, tmp_path / str(index))
    volume = dicom.read_series(tmp_path)
    assert volume.array.dtype == np.int32
    assert volume.array.max() == 60_000


def test_mr_without_rescaling_keeps_its_values_and_ct_is_refused(tmp_path):
    tags = {"RescaleSlope": None, "RescaleIntercept": None}
    stored = write_series(tmp_path / "mr", 3, Modality="MR", **tags)
    assert_array_equal(dicom.read_series(tmp_path / "mr").array, stored)
    write_series(tmp_path / "ct", 3, **tags)
    with pytest.raises(ValueError, match="is CT without RescaleSlope"):
        dicom.read_series(tmp_path / "ct")


def test_phases_that_share_a_uid_are_kept_apart_by_folder(tmp_path):
    root = tmp_path / "MR" / "34" / "T1DUAL" / "DICOM_anon"
    first = write_series(root / "InPhase", 3, Modality="MR", EchoTime=4.6)
    write_series(root / "OutPhase", 3, Modality="MR", EchoTime=2.3)
    series = dicom.find_series(tmp_path)
    assert [one.folder.name for one in series] == ["InPhase", "OutPhase"]
    assert [len(one.files) for one in series] == [3, 3]
    assert_array_equal(dicom.read_series(root / "InPhase").array, first - 1024)
    for path in (root / "OutPhase").iterdir():
        shutil.copy(path, root / "InPhase" / f"out_{path.name}")
    with pytest.raises(
        ValueError, match=r"3 pair.s. of slices lie in the same"
    ) as caught:
        dicom.read_series(root / "InPhase")
    assert "IM099 and out_IM099 at 10.00 mm" in str(caught.value)
    assert "differ in EchoTime" in str(caught.value)


def test_two_series_in_a_folder_are_listed_and_one_is_chosen(tmp_path):
    stored = write_series(tmp_path, 3)
    for index in range(2):
        dataset = ct_slice(np.zeros((4, 4)), (0, 0, index), uid="1.2.9")
        save(dataset, tmp_path / f"scout{index}")
    with pytest.raises(ValueError, match=r"holds 2 series; give uid=") as caught:
        dicom.read_series(tmp_path)
    assert "CT ABDOMEN, 3 file(s), 1.2.3" in str(caught.value)
    assert "CT ABDOMEN, 2 file(s), 1.2.9" in str(caught.value)
    assert_array_equal(dicom.read_series(tmp_path, uid="1.2.3").array, stored - 1024)
    with pytest.raises(ValueError, match=r"holds no series 7, only: .*1.2.9"):
        dicom.read_series(tmp_path, uid="7")
    with pytest.raises(ValueError, match=r"differ in Rows x Columns") as caught:
        dicom.read_series(tmp_path, ignore_uids=True)
    assert "(4, 4): scout0, scout1" in str(caught.value)


def test_blank_uids_and_a_uid_for_each_file(tmp_path):
    stored = write_series(tmp_path / "blank", 3, uid="")
    assert_array_equal(dicom.read_series(tmp_path / "blank").array, stored - 1024)
    (series,) = dicom.find_series(tmp_path)
    assert series.uid == ""
    for index in range(3):
        dataset = ct_slice(stored[index], (0, 0, index), uid=f"1.{index}")
        save(dataset, tmp_path / "own" / str(index))
    with pytest.raises(ValueError, match="or ignore_uids=True"):
        dicom.read_series(tmp_path / "own")
    volume = dicom.read_series(tmp_path / "own", ignore_uids=True)
    assert_array_equal(volume.array, stored - 1024)


def test_missing_slices_are_listed_with_their_places(tmp_path):
    write_series(tmp_path, 8, skip=(2, 5, 6))
    expected = (
        "3 slice.s. are missing among 5 that lie 2.5 mm apart, at 15.00, 22.50, 25.00"
    )
    with pytest.raises(ValueError, match=expected):
        dicom.read_series(tmp_path)


def test_uneven_slices_are_listed(tmp_path):
    for index, z in enumerate((0, 2, 4, 7.1, 9.1)):
        save(ct_slice(np.zeros((2, 2)), (0, 0, z)), tmp_path / f"s{index}")
    with pytest.raises(
        ValueError,
        match=r"unevenly spaced: 3.1 mm after s2 at 4.00 mm; the others lie 2",
    ):
        dicom.read_series(tmp_path)


def test_rounded_positions_are_no_gap(tmp_path):
    for index in range(30):
        position = (0, 0, round(index * 0.6667, 2))
        save(ct_slice(np.zeros((2, 2)), position), tmp_path / f"{index:02d}")
    assert dicom.read_series(tmp_path).spacing[0] == pytest.approx(0.6667, abs=1e-3)


def test_a_tilted_gantry_is_refused_unless_it_is_wanted(tmp_path):
    stored = pixels_of(4)
    for index in range(4):
        dataset = ct_slice(stored[index], (0, 0.4 * index, 2 * index))
        dataset.GantryDetectorTilt = 11.3
        save(dataset, tmp_path / str(index))
    with pytest.raises(
        ValueError, match=r"up to 0.4 mm a slice; GantryDetectorTilt is 11.3 degrees"
    ):
        dicom.read_series(tmp_path)
    volume = dicom.read_series(tmp_path, allow_tilt=True)
    assert_allclose(to_world(volume, (3, 0, 0)), (0, -1.2, 6))
    grid = volumes.upright_grid(volume, (2, 0.7, 0.5))
    assert volumes.resample_to(volume, grid, order=1).orientation == "SPL"


def test_slices_of_other_orientation_are_named(tmp_path):
    write_series(tmp_path, 3)
    save(ct_slice(np.zeros((6, 8)), (0, 0, 0), (0, 1, 0, 0, 0, -1)), tmp_path / "scout")
    with pytest.raises(
        ValueError, match=r"differ in ImageOrientationPatient(.|\n)*: scout"
    ):
        dicom.read_series(tmp_path)


@pytest.mark.parametrize(
    "tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
)
def test_a_missing_tag_is_named_with_its_file(tmp_path, tag):
    write_series(tmp_path, 3)
    path = save(ct_slice(np.zeros((6, 8)), (0, 0, 99), **{tag: None}), tmp_path / "bad")
    with pytest.raises(ValueError, match=f"{path} has no {tag}, without which"):
        dicom.read_series(tmp_path)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"PixelSpacing": [0, 1]}, r"PixelSpacing \[0.0, 1.0\]; expected mm above 0"),
        ({"ImagePositionPatient": [0, 1]}, "expected 3 finite"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "two unit vectors"),
        ({"SamplesPerPixel": 3}, "is a colour image"),
        ({"NumberOfFrames": 4}, "holds 4 frames and does not say where each lies"),
        ({"PixelData": b"\0\0"}, "the pixels of .* cannot be read"),
        ({"SliceThickness": None}, "a single slice without SliceThickness"),
    ],
)
def test_bad_tags_are_clear_errors(tmp_path, tags, reason):
    dataset = ct_slice(np.zeros((6, 8)), (0, 0, 0))
    for tag, value in tags.items():
        if value is None:
            delattr(dataset, tag)
        else:
            setattr(dataset, tag, value)
    save(dataset, tmp_path / "a")
    with pytest.raises(ValueError, match=reason):
        dicom.read_series(tmp_path)


def test_other_files_are_passed_over_or_named(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "text.dcm").write_text("hello")
    shutil.copy(get_testdata_file("rtplan.dcm"), tmp_path / "plan.dcm")
    with pytest.raises(ValueError, match="holds no DICOM image, only") as caught:
        dicom.read_series(tmp_path)
    assert "notes.txt (no DICOM)" in str(caught.value)
    assert "text.dcm (no DICOM)" in str(caught.value)
    assert "plan.dcm (RTPLAN without image)" in str(caught.value)
    (tmp_path / ".DS_Store").write_bytes(b"\0" * 200)
    shutil.copy(get_testdata_file("waveform_ecg.dcm"), tmp_path)
    stored = write_series(tmp_path, 3)
    shutil.copy(tmp_path / "IM099", tmp_path / "._IM099")
    assert_array_equal(dicom.read_series(tmp_path).array, stored - 1024)
    assert len(dicom.find_series(tmp_path)) == 1
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        dicom.read_series(tmp_path / "notes.txt")


def test_a_file_cut_off_is_named(tmp_path):
    write_series(tmp_path, 3)
    path = tmp_path / "IM098"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"the pixels of .*IM098 cannot be read"):
        dicom.read_series(tmp_path)


def test_an_old_file_without_preamble_is_read(tmp_path):
    stored = pixels_of(2)
    for index in range(2):
        dataset = ct_slice(stored[index], (0, 0, index))
        dataset.file_meta = FileMetaDataset()
        path = tmp_path / f"{index}.dcm"
        dataset.save_as(path, implicit_vr=True, little_endian=True)
    assert_array_equal(dicom.read_series(tmp_path).array, stored - 1024)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLosslessSV1])
def test_a_missing_decoder_is_named_with_its_package(tmp_path, monkeypatch, syntax):
    shutil.copy(get_testdata_file("MR_small_jp2klossless.dcm"), tmp_path / "a.dcm")
    if syntax != JPEG2000Lossless:
        dataset = pydicom.dcmread(tmp_path / "a.dcm")
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(tmp_path / "a.dcm")
    monkeypatch.setattr(get_decoder(syntax), "_available", {})
    package = (
        r"'medseg\[dicom\]'" if syntax == JPEG2000Lossless else "pylibjpeg-libjpeg"
    )
    with pytest.raises(ModuleNotFoundError, match=rf"pip install {package}"):
        dicom.read_series(tmp_path)


@pytest.mark.parametrize(
    "kind", ["jp2klossless", "jpeg_ls_lossless", "RLE", "bigendian"]
)
def test_compressed_pixels_are_those_of_the_plain_file(tmp_path, kind):
    for name in ("MR_small", f"MR_small_{kind}"):
        (tmp_path / name).mkdir()
        shutil.copy(get_testdata_file(f"{name}.dcm"), tmp_path / name)
    plain = dicom.read_series(tmp_path / "MR_small")
    packed = dicom.read_series(tmp_path / f"MR_small_{kind}")
    assert_array_equal(packed.array, plain.array)
    assert plain.array.std() > 0


def enhanced_ct(stored, z):
    """An enhanced CT of many frames, those in the order of ``z``."""
    dataset = ct_slice(stored[0], (0, 0, 0))
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(dataset, tag)
    del dataset.RescaleSlope, dataset.RescaleIntercept, dataset.SliceThickness
    dataset.SOPClassUID = EnhancedCTImageStorage
    dataset.NumberOfFrames = len(stored)
    dataset.PixelData = stored.astype("<u2").tobytes()
    shared, plane, measures, values = Dataset(), Dataset(), Dataset(), Dataset()
    plane.ImageOrientationPatient = list(AXIAL)
    measures.PixelSpacing, measures.SliceThickness = [0.7, 0.5], 9
    values.RescaleSlope, values.RescaleIntercept = 1, -1000
    shared.PlaneOrientationSequence = [plane]
    shared.PixelMeasuresSequence = [measures]
    shared.PixelValueTransformationSequence = [values]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for place in z:
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = [1, 2, place]
        group.PlanePositionSequence = [position]
        dataset.PerFrameFunctionalGroupsSequence.append(group)
    return dataset


def test_an_enhanced_object_of_many_frames_is_a_series(tmp_path):
    stored = pixels_of(3)
    save(enhanced_ct(stored, (4, 0, 2)), tmp_path / "a.dcm")
    volume = dicom.read_series(tmp_path)
    assert_array_equal(volume.array, stored[[1, 2, 0]] - 1000)
    assert volume.spacing == (2, 0.7, 0.5)
    assert_allclose(to_world(volume, (0, 0, 0)), (-1, -2, 0))
    save(enhanced_ct(stored, (4, 0, 0)), tmp_path / "a.dcm")
    with pytest.raises(ValueError, match=r"a.dcm, frame 2 and a.dcm, frame 3 at 0.00"):
        dicom.read_series(tmp_path)


@needs_data
def test_a_real_series_with_blank_uids_and_jpeg_2000_lies_under_its_labels():
    image = dicom.read_series(TOTAL / "dicom" / "ct_series")
    labels = volumes.read_nifti(TOTAL / "dicom" / "ct_series_label.nii.gz")
    assert image.array.shape == (20, 512, 512)
    assert image.array.min() == -1024
    turned = volumes.reorient(labels, image.orientation)
    volumes.check_same_geometry(image, turned)
    median = {k: np.median(image.array[turned.array == k]) for k in (5, 32)}
    assert 20 < median[5] < 200  # liver
    assert median[32] > 100  # a vertebra
    with pytest.raises(ValueError, match="different grids"):
        volumes.check_same_geometry(image, labels)


@needs_data
def test_a_real_series_agrees_with_simpleitk():
    folder = SAMPLES / "ct_3slice" / "ct"
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image, volume = reader.Execute(), dicom.read_series(folder)
    assert_array_equal(volume.array, sitk.GetArrayFromImage(image))
    x, y, z = image.GetOrigin()
    assert_allclose(to_world(volume, (0, 0, 0)), (-x, -y, z))
    assert volume.spacing == pytest.approx(image.GetSpacing()[::-1], rel=1e-5)


# Segmentations


def labels_for(folder):
    """A label map with a hole, two parts, a single voxel and an empty slice."""
    image = dicom.read_series(folder)
    array = np.zeros(image.array.shape, np.uint8)
    array[0, 1:5, 1:6] = 1
    array[0, 2:4, 3:5] = 0
    array[3, 0, 0] = array[3, 1, 1] = array[3, 5, 7] = 1
    array[1, 2:, 6] = 2
    return image.with_array(array)


@pytest.mark.parametrize("orientation", ["SPL", "SAR", "RIA"])
def test_a_segmentation_comes_back_on_the_grid_of_its_series(tmp_path, orientation):
    write_series(tmp_path / "ct")
    labels = labels_for(tmp_path / "ct")
    given = volumes.reorient(labels, orientation)
    path = dicom.write_segmentation(
        given,
        tmp_path / "seg.dcm",
        series=tmp_path / "ct",
        names={1: "liver", 2: "odd thing"},
        algorithm="U-Net",
    )
    back = dicom.read_segmentation(path, given)
    assert_array_equal(back.labels().array, given.array)
    assert_array_equal(back.labels().affine, given.affine)
    liver, odd = back.segments
    assert (liver.label, liver.kind.value, liver.kind.scheme_designator) == (
        "liver",
        "10200004",
        "SCT",
    )
    assert odd.kind.scheme_designator == "99MEDSEG"
    assert {p.name for p in tmp_path.iterdir()} == {"ct", "seg.dcm"}
    alone = dicom.read_segmentation(path)  # slices 0 to 3, as 4 is empty
    assert_array_equal(alone.labels().array, labels.array[:4])
    assert_allclose(alone.masks.affine, labels.affine)


def test_a_segmentation_is_what_highdicom_reads(tmp_path):
    write_series(tmp_path / "ct")
    labels = labels_for(tmp_path / "ct")
    path = dicom.write_segmentation(
        labels, tmp_path / "s.dcm", series=tmp_path / "ct", names={1: "a", 2: "b"}
    )
    theirs = hd.seg.segread(path)
    source = [pydicom.dcmread(p) for p in (tmp_path / "ct").iterdir()]
    uids = [s.SOPInstanceUID for s in sorted(source, key=lambda s: s.InstanceNumber)]
    pixels = theirs.get_pixels_by_source_instance(uids[::-1], combine_segments=True)
    assert_array_equal(pixels, labels.array)
    assert theirs.StudyInstanceUID == STUDY
    assert theirs.PatientID == "P1"
    ours = dicom.read_segmentation(path, labels)
    assert [segment.label for segment in ours.segments] == ["a", "b"]


def test_overlapping_segments_are_kept_and_refuse_to_be_one_label_map(tmp_path):
    write_series(tmp_path / "ct")
    image = dicom.read_series(tmp_path / "ct")
    masks = np.zeros((2, *image.array.shape), bool)
    masks[0, 1, :4], masks[1, 1, 2:] = True, True
    path = dicom.write_segmentation(
        image.with_array(masks),
        tmp_path / "s.dcm",
        series=tmp_path / "ct",
        names={3: "liver", 7: "tumour"},
    )
    back = dicom.read_segmentation(path, image)
    assert_array_equal(back.masks.array, masks)
    assert [segment.number for segment in back.segments] == [1, 2]
    assert back.overlaps == [("liver", "tumour", 16)]
    with pytest.raises(ValueError, match=r"overlap: liver and tumour \(16 voxels\)"):
        back.labels()


def test_probabilities_are_stored_and_thresholded(tmp_path):
    write_series(tmp_path / "ct")
    image = dicom.read_series(tmp_path / "ct")
    soft = np.linspace(0, 1, image.array.size).reshape(1, *image.array.shape)
    path = dicom.write_segmentation(
        image.with_array(soft),
        tmp_path / "s.dcm",
        series=tmp_path / "ct",
        names={1: "a"},
    )
    assert pydicom.dcmread(path).SegmentationType == "FRACTIONAL"
    for threshold in (0.5, 0.9):
        back = dicom.read_segmentation(path, image, threshold=threshold)
        steps = np.rint(soft * 255) / 255
        assert_array_equal(back.masks.array, steps >= threshold)


def test_a_segmentation_of_an_enhanced_object(tmp_path):
    stored = pixels_of(3)
    dataset = enhanced_ct(stored, (4, 0, 2))
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    save(dataset, tmp_path / "ct" / "a.dcm")
    image = dicom.read_series(tmp_path / "ct")
    array = np.zeros(image.array.shape, np.uint8)
    array[0, 1], array[2, 2] = 1, 1
    path = dicom.write_segmentation(
        image.with_array(array),
        tmp_path / "s.dcm",
        series=tmp_path / "ct",
        names={1: "a"},
    )
    assert_array_equal(dicom.read_segmentation(path, image).labels().array, array)


@pytest.mark.parametrize("write", [dicom.write_segmentation, dicom.write_contours])
def test_what_cannot_be_written_is_refused(tmp_path, write):
    write_series(tmp_path / "ct")
    labels = labels_for(tmp_path / "ct")
    options = {"series": tmp_path / "ct", "names": {1: "a", 2: "b"}}
    path = tmp_path / "out.dcm"
    move = np.zeros((4, 4))
    move[1, 3] = 0.1
    shifted = Volume(labels.array, labels.affine + move)
    with pytest.raises(ValueError, match="lie on different grids"):
        write(shifted, path, **options)
    with pytest.raises(ValueError, match=r"labels without a name: \[2\]"):
        write(labels, path, series=tmp_path / "ct", names={1: "a"})
    with pytest.raises(ValueError, match="0 is background"):
        write(labels, path, series=tmp_path / "ct", names={0: "a", 1: "b"})
    with pytest.raises(ValueError, match="the masks are empty"):
        write(labels.with_array(labels.array * 0), path, **options)
    with pytest.raises(ValueError, match="a label map holds integers"):
        write(labels.with_array(labels.array * 0.5), path, **options)
    with pytest.raises(ValueError, match="have 3 channels, but 2 names"):
        write(
            labels.with_array(np.ones((3, *labels.array.shape), bool)), path, **options
        )
    with pytest.raises(ValueError, match=r"channels must hold .* from 0 to 2"):
        write(labels.with_array(np.stack([labels.array] * 2)), path, **options)
    write_series(tmp_path / "blank", uid="")
    with pytest.raises(ValueError, match="has no SeriesInstanceUID, to which"):
        write(labels, path, series=tmp_path / "blank", names={1: "a", 2: "b"})
    with pytest.raises(FileNotFoundError, match="make it first"):
        write(labels, tmp_path / "x" / "out.dcm", **options)
    assert {p.name for p in tmp_path.iterdir()} == {"ct", "blank"}


def test_writing_a_segmentation_names_the_missing_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'medseg\[dicom\]'"):
        dicom.write_segmentation(
            Volume(np.ones((1, 1, 1), int), np.eye(4)),
            tmp_path / "a.dcm",
            series=tmp_path,
            names={1: "a"},
        )


def test_files_that_are_no_segmentation_and_other_grids_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"CT_small.dcm holds CT, not a segmentation"):
        dicom.read_segmentation(get_testdata_file("CT_small.dcm"))
    with pytest.raises(FileNotFoundError, match="is not there"):
        dicom.read_segmentation(tmp_path / "none.dcm")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"a.txt is no DICOM file"):
        dicom.read_contours(tmp_path / "a.txt", Volume(np.zeros((1, 1, 1)), np.eye(4)))
    write_series(tmp_path / "ct")
    labels = labels_for(tmp_path / "ct")
    path = dicom.write_segmentation(
        labels, tmp_path / "s.dcm", series=tmp_path / "ct", names={1: "a", 2: "b"}
    )
    for orientation, spacing in (("SPL", (2.5, 0.7, 0.6)), ("SPL", (1, 0.7, 0.5))):
        grid = Volume(
            labels.array,
            grid_affine(spacing, orientation=orientation, origin=(1, 2, 3)),
        )
        with pytest.raises(ValueError, match="does not lie on the given grid"):
            dicom.read_segmentation(path, grid)


@needs_data
def test_real_segmentations_hold_the_regions_of_their_nrrd_copies():
    root = SAMPLES / "ct_3slice"
    image = dicom.read_series(root / "ct")
    liver = dicom.read_segmentation(root / "seg" / "liver.dcm", image)
    nrrd = volumes.reorient(
        volumes.read_volume(root / "nrrd" / "liver_seg.nrrd"), "SPL"
    )
    volumes.check_same_geometry(image, nrrd)
    assert_array_equal(liver.labels().array, nrrd.array)
    assert liver.segments[0].kind.value == "T-62000"
    parts = dicom.read_segmentation(root / "seg" / "partial_overlaps.dcm", image)
    assert len(parts.segments) == 5
    assert {pair[:2] for pair in parts.overlaps} == {
        ("GREEN", "ORANGE"),
        ("GREEN", "PURPLE"),
        ("ORANGE", "PURPLE"),
    }
    for name, numbers in (("1", (1, 4, 5)), ("2", (2,)), ("3", (3,))):
        path = root / "nrrd" / f"partial_overlaps-{name}.nrrd"
        nrrd = volumes.reorient(volumes.read_volume(path), "SPL")
        for number in numbers:
            assert_array_equal(parts.masks.array[number - 1], nrrd.array == number)


@needs_data
@pytest.mark.parametrize(
    "kind",
    ["binary", "binary_overlap", "binary_fractional", "true_fractional"]
    + ["binary_single_frame"],
)
def test_real_segmentations_agree_with_highdicom(kind):
    path = SAMPLES / "highdicom" / f"seg_image_ct_{kind}.dcm"
    ours = dicom.read_segmentation(path)
    theirs = hd.seg.segread(path).get_volume()  # slices run the other way
    masks = np.moveaxis(np.asarray(theirs.array), -1, 0) >= 0.5
    affine = np.diag([-1.0, -1, 1, 1]) @ theirs.affine
    turned = volumes.reorient(Volume(masks, affine), ours.masks.orientation)
    assert_array_equal(ours.masks.array, turned.array)
    volumes.check_same_geometry(ours.masks, turned)
    assert ours.masks.array.any()


@needs_data
def test_a_slide_segmentation_is_refused():
    with pytest.raises(ValueError, match="has no ImageOrientationPatient"):
        dicom.read_segmentation(SAMPLES / "highdicom" / "seg_image_sm_dots.dcm")


# Contours


def even_odd(outlines, shape):
    mask = np.zeros(shape, bool)
    for outline in outlines:
        mask ^= polygon2mask(shape, outline)
    return mask


@pytest.mark.parametrize("seed", range(5))
def test_outlines_fill_to_the_mask_and_have_its_area(seed):
    mask = np.random.default_rng(seed).random((13, 17)) < 0.2 + 0.15 * seed
    outlines = dicom.mask_outlines(mask)
    assert_array_equal(even_odd(outlines, mask.shape), mask)
    areas = []
    for outline in outlines:
        row, column = outline.T
        areas.append(0.5 * (row @ np.roll(column, -1) - column @ np.roll(row, -1)))
        steps = np.abs(np.diff(outline, axis=0, append=outline[:1]))
        assert (np.count_nonzero(steps, axis=1) == 1).all()  # corners only
        assert (steps[:, 0] > 0).tolist() == [
            not went for went in np.roll(steps[:, 0] > 0, 1)
        ]
    assert sum(areas) == mask.sum()  # holes are negative


def test_pixels_that_touch_at_a_corner_have_outlines_of_their_own():
    assert len(dicom.mask_outlines(np.eye(3))) == 3
    ring = np.ones((5, 5))
    ring[2, 2] = 0
    assert len(dicom.mask_outlines(ring)) == 2
    assert dicom.mask_outlines(np.zeros((3, 3))) == []
    with pytest.raises(ValueError, match=r"a slice has two axes \(H, W\)"):
        dicom.mask_outlines(np.zeros((1, 3, 3)))


@pytest.mark.parametrize("orientation", [AXIAL, (0, 0.8, -0.6, 1, 0, 0)])
def test_contours_come_back_as_the_same_masks(tmp_path, orientation):
    normal = np.cross(*np.reshape(orientation, (2, 3)))
    for index, pixels in enumerate(pixels_of(5)):
        position = np.array([-31.2, 17.77, 400.1]) + 2.5 * index * normal
        save(ct_slice(pixels, position, orientation), tmp_path / "ct" / f"{index}.dcm")
    labels = labels_for(tmp_path / "ct")
    path = dicom.write_contours(
        volumes.reorient(labels, "RAS"),
        tmp_path / "rt.dcm",
        series=tmp_path / "ct",
        names={1: "with a hole", 2: "whole"},
    )
    back = dicom.read_contours(path, labels)
    assert_array_equal(back.labels().array, labels.array)
    assert [segment.label for segment in back.segments] == ["with a hole", "whole"]
    stored = pydicom.dcmread(path)
    assert stored.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    kinds = [
        {contour.ContourGeometricType for contour in roi.ContourSequence}
        for roi in stored.ROIContourSequence
    ]
    assert kinds == [{"CLOSEDPLANAR_XOR"}, {"CLOSED_PLANAR"}]
    sources = {
        pydicom.dcmread(p).SOPInstanceUID: p for p in (tmp_path / "ct").iterdir()
    }
    for roi in stored.ROIContourSequence:
        for contour in roi.ContourSequence:
            uid = contour.ContourImageSequence[0].ReferencedSOPInstanceUID
            source = pydicom.dcmread(sources[uid])
            points = np.reshape(np.array(contour.ContourData, float), (-1, 3))
            away = (points - np.array(source.ImagePositionPatient, float)) @ normal
            assert np.abs(away).max() < 1e-3  # on the slice that it names


def test_contours_drawn_through_pixel_centres_include_them(tmp_path):
    write_series(tmp_path / "ct")
    image = dicom.read_series(tmp_path / "ct")
    labels = labels_for(tmp_path / "ct")
    path = dicom.write_contours(
        labels, tmp_path / "rt.dcm", series=tmp_path / "ct", names={1: "a", 2: "b"}
    )
    dataset = pydicom.dcmread(path)
    roi = dataset.ROIContourSequence[0]
    roi.ContourSequence = roi.ContourSequence[:1]
    contour = roi.ContourSequence[0]
    corners = to_world(image, [(2, 1, 2), (2, 1, 6), (2, 4, 6), (2, 4, 2)])
    contour.ContourData = (corners * (-1, -1, 1)).ravel().round(4).tolist()
    point = Dataset()
    point.ContourGeometricType, point.NumberOfContourPoints = "POINT", 1
    point.ContourData = [0, 0, 0]
    roi.ContourSequence.append(point)
    dataset.save_as(path)
    mask = dicom.read_contours(path, image).masks.array[0]
    assert mask[2, 1:5, 2:7].all()
    assert mask.sum() == 20
    contour.ContourData = [
        v + 1.2 * (i % 3 == 2) for i, v in enumerate(contour.ContourData)
    ]
    dataset.save_as(path)
    with pytest.raises(
        ValueError, match=r"an outline between the slices 2.48 and 2.48"
    ):
        dicom.read_contours(path, image)


def test_contours_of_an_enhanced_object_are_refused(tmp_path):
    save(enhanced_ct(pixels_of(3), (0, 2, 4)), tmp_path / "ct" / "a.dcm")
    image = dicom.read_series(tmp_path / "ct")
    with pytest.raises(ValueError, match="one frame a file"):
        dicom.write_contours(
            image.with_array(image.array > 0),
            tmp_path / "rt.dcm",
            series=tmp_path / "ct",
            names={1: "a"},
        )


def test_slices_left_out_of_a_file_leave_no_hole_in_its_own_grid(tmp_path):
    write_series(tmp_path / "ct")
    image = dicom.read_series(tmp_path / "ct")
    array = np.zeros(image.array.shape, np.uint8)
    array[0, 1], array[2, 2] = 1, 1
    path = dicom.write_segmentation(
        image.with_array(array),
        tmp_path / "s.dcm",
        series=tmp_path / "ct",
        names={1: "a"},
    )
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence[0].SpacingBetweenSlices = 2.5
    dataset.save_as(path)
    alone = dicom.read_segmentation(path)
    assert alone.masks.spacing[0] == 2.5
    assert_array_equal(alone.labels().array, array[:3])
