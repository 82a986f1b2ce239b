"""Tests of the readers of true layouts, on small trees written in each of them."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medseg import datasets
from medseg.datasets import CaseDataset, MedicalImageDataset

DATA = os.environ.get("MEDSEG_DATA")
real_data = pytest.mark.skipif(
    not DATA, reason="MEDSEG_DATA is not set: no real images to read"
)
RNG = np.random.default_rng(0)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


# ISIC

PARTS_2017 = [
    ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth", "train"),
    ("ISIC-2017_Validation_Data", "ISIC-2017_Validation_Part1_GroundTruth", "val"),
    ("ISIC-2017_Test_v2_Data", "ISIC-2017_Test_v2_Part1_GroundTruth", "test"),
]
PARTS_2016 = [
    (
        "ISBI2016_ISIC_Part1_Training_Data",
        "ISBI2016_ISIC_Part1_Training_GroundTruth",
        "train",
    ),
    ("ISBI2016_ISIC_Part1_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth", "test"),
]
PARTS_2018 = [
    (
        "ISIC2018_Task1-2_Training_Input",
        "ISIC2018_Task1_Training_GroundTruth",
        "train",
    ),
    (
        "ISIC2018_Task1-2_Validation_Input",
        "ISIC2018_Task1_Validation_GroundTruth",
        "val",
    ),
    ("ISIC2018_Task1-2_Test_Input", "ISIC2018_Task1_Test_GroundTruth", "test"),
]


def isic_tree(root, parts, ending, count=2):
    """Write the unpacked zip files of one year, with all that lies about in them."""
    number = 0
    for images, masks, _ in parts:
        for _ in range(count):
            name = f"ISIC_{number:07d}"
            colour = RNG.integers(0, 256, (9, 12, 3), np.uint8)
            write(root / images / f"{name}.jpg", colour)
            write(root / images / f"{name}_superpixels.png", colour)
            mask = np.zeros((9, 12), np.uint8)
            mask[2:5, 3 : 5 + number] = 255
            write(root / masks / f"{name}{ending}.png", mask)
            number += 1
        (root / images / "ATTRIBUTION.txt").write_text("CC-0")
        (root / images / f"{images}_metadata.csv").write_text("image_id\n")
    return root


@pytest.mark.parametrize(
    ("year", "parts", "ending"),
    [
        ("2016", PARTS_2016, "_Segmentation"),
        ("2017", PARTS_2017, "_segmentation"),
        ("2018", PARTS_2018, "_segmentation"),
    ],
)
def test_isic_has_the_parts_of_the_challenge(tmp_path, year, parts, ending):
    folder = datasets.info(f"isic{year}").folder
    isic_tree(tmp_path / folder, parts, ending, count=10)
    for number, (*_, split) in enumerate(parts):
        cases = datasets.load(f"isic{year}", split, tmp_path)
        own = {f"ISIC_{10 * number + i:07d}" for i in range(10)}
        assert {case.name for case in cases} <= own
        assert len(cases) == (8 if (year, split) == ("2016", "train") else 10)
        assert cases[0].image.shape == (9, 12, 3)
        assert set(np.unique(cases[0].labels)) == {0, 1}
    if year == "2016":  # the challenge has no validation part
        assert len(datasets.load("isic2016", "val", tmp_path)) == 2


def test_isic_masks_belong_to_their_images(tmp_path):
    isic_tree(tmp_path, PARTS_2017, "_segmentation")
    for case in datasets.isic_cases(tmp_path, 2017):
        number = int(case.name[-7:])
        assert case.read().labels.sum() == 3 * (2 + number)
        assert case.files[0].name == f"ISIC_{number:07d}.jpg"


def test_isic_image_without_mask_is_named(tmp_path):
    isic_tree(tmp_path, PARTS_2017, "_segmentation")
    (tmp_path / PARTS_2017[0][1] / "ISIC_0000001_segmentation.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 images.*: ISIC_0000001\.jpg"):
        datasets.isic_cases(tmp_path, 2017)
    with pytest.raises(ValueError, match="2016, 2017 or 2018, got 2019"):
        datasets.isic_cases(tmp_path, 2019)


def test_isic_part_that_is_not_there_is_said_to_be_missing(tmp_path):
    isic_tree(tmp_path, PARTS_2018[:1], "_segmentation")
    assert len(datasets.load("isic2018", "train", tmp_path)) == 2
    with pytest.raises(FileNotFoundError, match="no images of the test part"):
        datasets.load("isic2018", "test", tmp_path)


def test_isic_folders_can_be_given_with_a_pattern(tmp_path):
    isic_tree(tmp_path, PARTS_2017, "_segmentation")
    dirs = tmp_path / PARTS_2017[0][0], tmp_path / PARTS_2017[0][1]
    with pytest.raises(ValueError, match="superpixels"):
        MedicalImageDataset(*dirs)
    data = MedicalImageDataset(*dirs, pattern="ISIC_???????.jpg")
    assert [path.name for path in data.image_paths] == [
        "ISIC_0000000.jpg",
        "ISIC_0000001.jpg",
    ]


def test_cases_on_the_disk_train_as_cases_in_memory(tmp_path):
    isic_tree(tmp_path / "isic2018_lesion", PARTS_2018, "_segmentation")
    lazy = CaseDataset(datasets.list_cases("isic2018", "train", tmp_path))
    eager = CaseDataset(datasets.load("isic2018", "train", tmp_path))
    assert len(lazy) == len(eager) == 2
    for ours, theirs in zip(lazy, eager, strict=True):
        assert (ours[0] == theirs[0]).all()
        assert (ours[1] == theirs[1]).all()


# Montgomery, VNC


def montgomery_tree(root, names):
    for name in names:
        film = RNG.integers(0, 4096, (10, 12)).astype(np.uint16)
        write(root / "CXR_png" / f"{name}.png", film)
        left, right = np.zeros((2, 10, 12), bool)
        left[2:8, 7:10], right[2:8, 1:4] = True, True
        write(root / "ManualMask" / "leftMask" / f"{name}.png", left)
        write(root / "ManualMask" / "rightMask" / f"{name}.png", right)
    (root / "ClinicalReadings").mkdir()
    (root / "CXR_png" / "Thumbs.db").touch()
    return root


def test_montgomery_lungs_are_merged_and_splits_are_of_the_list(tmp_path):
    rows = datasets._splits.stored_split("montgomery")
    tree = tmp_path / "montgomery_cxr_lungs" / "NLM-MontgomeryCXRSet" / "MontgomerySet"
    montgomery_tree(tree, [row.id for row in rows] + ["MCUCXR_9999_1"])
    cases = datasets.load("montgomery", "val", tmp_path)
    assert [case.name for case in cases] == [r.id for r in rows if r.split == "val"]
    expected = np.zeros((10, 12), int)
    expected[2:8, 7:10] = expected[2:8, 1:4] = 1
    assert np.array_equal(cases[0].labels, expected)
    assert (cases[0].image.min(), cases[0].image.max()) == (0, 255)
    assert len(datasets.montgomery_cases(tree.parent)) == len(rows) + 1


def test_montgomery_mask_of_another_size_is_named(tmp_path):
    montgomery_tree(tmp_path, ["MCUCXR_0001_0"])
    write(
        tmp_path / "ManualMask" / "leftMask" / "MCUCXR_0001_0.png",
        np.zeros((5, 5), bool),
    )
    with pytest.raises(ValueError, match=r"leftMask.*\(5, 5\).*\(10, 12\)"):
        datasets.montgomery_cases(tmp_path)[0].read()


def test_vnc_codes_become_class_indices(tmp_path):
    codes = [0, 32, 64, 96, 128, 159, 191, 223, 255]
    for i in range(20):
        (tmp_path / "stack1" / "raw").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(
            tmp_path / "stack1" / "raw" / f"{i:02d}.tif", np.full((3, 9), i, np.uint8)
        )
        write(
            tmp_path / "stack1" / "labels" / f"labels{i:08d}.png",
            np.array([codes] * 3, np.uint8),
        )
    cases = datasets.load("vnc", "val", tmp_path)
    assert [case.name for case in cases] == ["10", "11", "12"]
    assert cases[1].image.tolist() == [[11] * 9] * 3
    assert cases[0].labels.tolist() == [list(range(9))] * 3
    write(
        tmp_path / "stack1" / "labels" / "labels00000010.png",
        np.full((3, 9), 7, np.uint8),
    )
    with pytest.raises(ValueError, match=r"labels00000010\.png holds 7; expected"):
        datasets.load("vnc", "val", tmp_path)


# Medical Segmentation Decathlon


def decathlon_tree(folder, names, *, sequences=1, labels=2, dtype=np.uint8):
    """Write a task as it is unpacked: reversed axes, channels last, stray files."""
    affine = np.diag([1.0, 2.0, 3.0, 1.0])  # i, j, k: 1, 2, 3 mm
    for kind in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / kind).mkdir(parents=True)
        (folder / kind / f"._{names[0]}.nii.gz").write_bytes(b"\0\5\26\7Mac OS X")
    for number, name in enumerate(names):
        shape = (4, 5, 6) if sequences == 1 else (4, 5, 6, sequences)
        image = np.zeros(shape, np.float32)
        image[1, 2, 3] = np.arange(1, sequences + 1) if sequences > 1 else 7
        reference = np.zeros((4, 5, 6), dtype)
        reference[1, 2, 3] = number % (labels + 1)
        for kind, array in (("imagesTr", image), ("labelsTr", reference)):
            nib.save(nib.Nifti1Image(array, affine), folder / kind / f"{name}.nii.gz")
    facts = {
        "name": "Hippocampus",
        "rel" + "ase": "1.0 04/05/2018",  # misspelt as in the true file of task 4
        "modality": {str(i): "MRI" for i in range(sequences)},
        "labels": {str(i): f"label {i}" for i in range(labels + 1)},
        "numTraining": len(names),
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"}
            for n in reversed(names)
        ],
        "test": ["./imagesTs/x.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_decathlon_task_is_read_by_its_dataset_json(tmp_path, dtype):
    names = [f"hippocampus_{i:03d}" for i in range(5)]
    decathlon_tree(tmp_path, names, dtype=dtype)
    cases = datasets.decathlon_cases(tmp_path)
    assert [case.name for case in cases] == names
    case = cases[2].read()
    assert case.image.array.shape == (6, 5, 4)  # D, H, W: the file's axes reversed
    assert case.image.spacing == (3.0, 2.0, 1.0)
    assert case.image.array[3, 2, 1] == 7
    assert case.labels.array[3, 2, 1] == 2
    assert case.labels.array.dtype == np.uint8


def test_sequences_of_a_decathlon_case_come_first(tmp_path):
    decathlon_tree(tmp_path, ["BRATS_001"], sequences=4)
    case = datasets.decathlon_cases(tmp_path)[0].read()
    assert case.image.array.shape == (4, 6, 5, 4)
    assert case.image.array[:, 3, 2, 1].tolist() == [1, 2, 3, 4]
    assert case.labels.array.shape == (6, 5, 4)


def test_decathlon_tasks_without_a_list_are_split_by_the_rule(tmp_path):
    names = [f"la_{i:03d}" for i in range(20)]
    decathlon_tree(tmp_path / "msd_task02_heart" / "Task02_Heart", names, labels=1)
    found = {
        split: [
            case.name for case in datasets.list_cases("msd_task02", split, tmp_path)
        ]
        for split in ("train", "val", "test")
    }
    assert {split: len(cases) for split, cases in found.items()} == {
        "train": 13,
        "val": 3,
        "test": 4,
    }
    assert sorted(found["train"] + found["val"] + found["test"]) == names
    rows = datasets.make_split(names, "msd_task02")
    assert found["test"] == [row.id for row in rows if row.split == "test"]
    direct = tmp_path / "msd_task02_heart"
    assert len(datasets.load("msd_task02", "val", direct)) == 3
    with pytest.raises(FileNotFoundError, match=r"msd_task03.*28,700 MB"):
        datasets.load("msd_task03", "val", direct / "Task02_Heart")


def test_decathlon_errors_name_the_file(tmp_path):
    decathlon_tree(tmp_path, ["a_001", "a_002"])
    facts = json.loads((tmp_path / "dataset.json").read_text())

    def with_facts(**changes):
        (tmp_path / "dataset.json").write_text(json.dumps(facts | changes))

    with_facts(labels={"0": "background", "1": "x"}, training=facts["training"][::-1])
    nib.save(
        nib.Nifti1Image(np.full((4, 5, 6), 9, np.uint8), np.diag([1, 2, 3, 1.0])),
        tmp_path / "labelsTr" / "a_001.nii.gz",
    )
    with pytest.raises(
        ValueError, match=r"a_001\.nii\.gz holds labels up to 9.*above 1"
    ):
        datasets.decathlon_cases(tmp_path)[0].read()
    with_facts(modality={"0": "T2", "1": "ADC"})
    with pytest.raises(ValueError, match=r"a_001.*has 1 channel.*names 2"):
        datasets.decathlon_cases(tmp_path)[0].read()
    outside = [{"image": "../../etc/passwd", "label": "./labelsTr/a_001.nii.gz"}]
    with_facts(training=outside)
    with pytest.raises(ValueError, match="not inside the folder"):
        datasets.decathlon_cases(tmp_path)
    with_facts(training=[])
    with pytest.raises(ValueError, match="has no training in it"):
        datasets.decathlon_cases(tmp_path)
    with_facts()
    (tmp_path / "imagesTr" / "a_002.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"missing \(imagesTr/a_002\.nii\.gz\)"):
        datasets.decathlon_cases(tmp_path)
    (tmp_path / "dataset.json").write_text('{"labels": {"0": "back')
    with pytest.raises(ValueError, match=r"dataset\.json is no dataset\.json of the"):
        datasets.decathlon_cases(tmp_path)


def test_truncated_nifti_and_labels_on_another_grid_are_named(tmp_path):
    decathlon_tree(tmp_path, ["a_001", "a_002"])
    path = tmp_path / "imagesTr" / "a_001.nii.gz"
    path.write_bytes(path.read_bytes()[:60])
    nib.save(
        nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), np.diag([1, 2, 4, 1.0])),
        tmp_path / "labelsTr" / "a_002.nii.gz",
    )
    first, second = datasets.decathlon_cases(tmp_path)
    with pytest.raises(ValueError, match=r"imagesTr.a_001\.nii\.gz cannot be read"):
        first.read()
    with pytest.raises(ValueError, match=r"(?s)imagesTr.a_002.*labelsTr.a_002"):
        second.read()


# CHAOS


def write_slice(path, pixels, height, series, *, modality, instance=1):
    """Write an axial slice at ``height`` mm, as an anonymiser would leave it."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.Modality, data.SeriesInstanceUID = modality, series
    data.InstanceNumber = instance
    data.Rows, data.Columns = pixels.shape
    data.PixelSpacing = [1.5, 1.25]
    data.SliceThickness = 5
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [-10.0, -20.0, float(height)]
    data.RescaleSlope, data.RescaleIntercept = 1, -1024 if modality == "CT" else 0
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.PixelData = pixels.astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def chaos_ct(root, patient, *, downwards=False, count=12):
    """Slice ``k`` by name has the value 1000 + k and k + 1 liver pixels."""
    folder = root / "Train_Sets" / "CT" / patient
    for k in range(count):
        pixels = np.full((6, 16), 1000 + k)
        height = -5 * k if downwards else 5 * k
        write_slice(  # each file has a series of its own: no UID is to be believed
            folder / "DICOM_anon" / f"i{k:04d},0000b.dcm",
            pixels,
            height,
            generate_uid(),
            modality="CT",
        )
        mask = np.zeros((6, 16), bool)
        mask[2, : k + 1] = True
        write(folder / "Ground" / f"liver_GT_{k:03d}.png", mask)


@pytest.mark.parametrize("downwards", [False, True])
def test_chaos_ct_masks_follow_their_slices(tmp_path, downwards):
    chaos_ct(tmp_path, "6", downwards=downwards)
    (case,) = datasets.chaos_cases(tmp_path, "CT")
    assert (case.name, case.group) == ("CT_6", "CT_6")
    _, _, image, labels = case.read()
    assert image.array.shape == (12, 6, 16)
    assert image.spacing == (5.0, 1.5, 1.25)
    numbers = image.array[:, 0, 0] + 24  # 1000 - 1024 + k
    assert numbers.tolist() == (list(range(12))[::-1] if downwards else list(range(12)))
    assert labels.array.sum(axis=(1, 2)).tolist() == [k + 1 for k in numbers]
    assert labels.array[0, 2, 0] == 1


def test_chaos_slices_whose_names_do_not_run_along_the_patient_are_refused(tmp_path):
    chaos_ct(tmp_path, "6")
    folder = tmp_path / "Train_Sets" / "CT" / "6" / "DICOM_anon"
    (folder / "i0000,0000b.dcm").rename(folder / "i0099,0000b.dcm")
    with pytest.raises(ValueError, match="do not run along the patient"):
        datasets.chaos_cases(tmp_path, "CT")[0].read()


def test_chaos_scan_with_a_mask_too_few_is_refused(tmp_path):
    chaos_ct(tmp_path, "6")
    (tmp_path / "Train_Sets" / "CT" / "6" / "Ground" / "liver_GT_003.png").unlink()
    with pytest.raises(ValueError, match=r"12 slices, but .*Ground 11 masks"):
        datasets.chaos_cases(tmp_path, "CT")[0].read()


def test_chaos_mask_of_another_size_is_named(tmp_path):
    chaos_ct(tmp_path, "6")
    write(
        tmp_path / "Train_Sets" / "CT" / "6" / "Ground" / "liver_GT_003.png",
        np.zeros((3, 3), bool),
    )
    with pytest.raises(ValueError, match=r"liver_GT_003\.png has \(3, 3\).*\(6, 16\)"):
        datasets.chaos_cases(tmp_path, "CT")[0].read()


def chaos_mr(root, patient, codes=(63, 126, 189, 252)):
    """In and out of phase share a series UID; names count both, even and odd."""
    folder = root / "Train_Sets" / "MR" / patient
    series = generate_uid()
    for k in range(11):
        number = 2 * k + 2  # names reach two digits without a leading zero
        for phase, add, value in (("InPhase", 0, 100), ("OutPhase", -1, 200)):
            write_slice(
                folder / "T1DUAL" / "DICOM_anon" / phase / f"IMG-4-{number + add}.dcm",
                np.full((4, 5), value + k),
                100 - 5 * k,  # from the head to the feet
                series,
                modality="MR",
                instance=number + add,
            )
        write_slice(
            folder / "T2SPIR" / "DICOM_anon" / f"IMG-2-{k + 1}.dcm",
            np.full((4, 5), 50 + k),
            5 * k,
            generate_uid(),
            modality="MR",
        )
        mask = np.zeros((4, 5), np.uint8)
        mask[0, :4] = codes
        mask[1, 0] = 63 if k == 0 else 0  # the first by name has one pixel more
        write(folder / "T1DUAL" / "Ground" / f"IMG-4-{number}.png", mask)
        write(folder / "T2SPIR" / "Ground" / f"IMG-2-{k + 1}.png", mask)


def test_chaos_mr_phases_share_a_mask_and_stay_in_one_group(tmp_path):
    chaos_mr(tmp_path, "34")
    cases = {case.name: case for case in datasets.chaos_cases(tmp_path, "MR")}
    assert list(cases) == ["MR_34_t1in", "MR_34_t1out", "MR_34_t2"]
    assert {case.group for case in cases.values()} == {"MR_34"}
    for name, first in (("t1in", 100), ("t1out", 200), ("t2", 50)):
        _, _, image, labels = cases[f"MR_34_{name}"].read()
        assert image.array.shape == labels.array.shape == (11, 4, 5)
        named_first = int(np.flatnonzero(image.array[:, 0, 0] == first)[0])
        assert named_first == (0 if name == "t2" else 10)
        assert labels.array[:, 1, 0].tolist() == [
            int(depth == named_first) for depth in range(11)
        ]
        assert labels.array[5, 0].tolist() == [1, 2, 3, 4, 0]


def test_chaos_masks_of_the_slices_own_names_need_no_order(tmp_path):
    chaos_mr(tmp_path, "34")
    folder = tmp_path / "Train_Sets" / "MR" / "34" / "T2SPIR"
    for part, suffix in (("DICOM_anon", "dcm"), ("Ground", "png")):
        one, five = (folder / part / f"IMG-2-{n}.{suffix}" for n in (1, 5))
        one.rename(folder / part / "x")
        five.rename(one)
        (folder / part / "x").rename(five)
    case = datasets.chaos_cases(tmp_path, "MR")[2].read()
    assert case.labels.array[:, 1, 0].tolist() == [1] + [0] * 10


@pytest.mark.parametrize("codes", [(56, 111, 176, 241), (70, 135, 200, 255)])
def test_chaos_mr_values_are_read_by_ranges(tmp_path, codes):
    chaos_mr(tmp_path, "34", codes)
    labels = datasets.chaos_cases(tmp_path, "MR")[0].read().labels
    assert labels.array[5, 0].tolist() == [1, 2, 3, 4, 0]


@pytest.mark.parametrize("code", [55, 71, 110, 136, 175, 201, 240])
def test_chaos_mr_values_between_the_ranges_are_refused(tmp_path, code):
    chaos_mr(tmp_path, "34", (63, 126, 189, code))
    with pytest.raises(
        ValueError, match=rf"holds {code}, which are no labels of CHAOS"
    ):
        datasets.chaos_cases(tmp_path, "MR")[0].read()


def test_chaos_is_split_by_patient(tmp_path):
    for patient in range(1, 21):
        for sub in ("T1DUAL/DICOM_anon/InPhase", "T1DUAL/DICOM_anon/OutPhase"):
            (tmp_path / "chaos" / "Train_Sets" / "MR" / str(patient) / sub).mkdir(
                parents=True
            )
        for sub in ("T1DUAL/Ground", "T2SPIR/DICOM_anon", "T2SPIR/Ground"):
            (tmp_path / "chaos" / "Train_Sets" / "MR" / str(patient) / sub).mkdir(
                parents=True
            )
    patients = {}
    for split, count in (("train", 13), ("val", 3), ("test", 4)):
        cases = datasets.list_cases("chaos_mr", split, tmp_path)
        patients[split] = {case.group for case in cases}
        assert len(patients[split]) == count
        assert len(cases) == 3 * count
    assert not patients["train"] & (patients["val"] | patients["test"])


# Real copies


@real_data
def test_real_hippocampi_are_those_of_the_lists():
    facts = json.loads(
        (Path(DATA) / "msd_task04_hippocampus" / "dataset.json").read_text()
    )
    names = set()
    for split, count in (("train", 134), ("val", 32), ("test", 42)):
        cases = datasets.list_cases("msd_task04", split, DATA)
        assert [case.name for case in cases] == facts["splits"][split]
        assert len(cases) == count
        names |= {case.name for case in cases}
    assert len(names) == 208


@real_data
def test_real_hippocampus_has_the_voxels_of_the_table():
    rows = (Path(DATA) / "msd_task04_hippocampus" / "cases.csv").read_text()
    table = {line.split(",")[0]: line.split(",") for line in rows.splitlines()}
    for case in datasets.load("msd_task04", "val", DATA, limit=6):
        _, shape, _, _, _, _, anterior, posterior, _ = table[case.name]
        assert case.image.array.shape == tuple(map(int, shape.split("x")))[::-1]
        counts = np.bincount(case.labels.array.ravel(), minlength=3)
        assert counts[1:].tolist() == [int(anterior), int(posterior)]


@real_data
@pytest.mark.parametrize("name", ["isic2017", "montgomery", "vnc"])
def test_real_splits_are_those_of_the_data_sets_own_list(name):
    folder = datasets.find(name, DATA)
    splits = json.loads((folder / "dataset.json").read_text())["splits"]
    for split, expected in splits.items():
        cases = datasets.list_cases(name, split, DATA)
        assert [case.name for case in cases] == sorted(expected)


@real_data
def test_real_nerve_cord_has_the_shares_of_the_table():
    table = (Path(DATA) / "vnc_sstem_multiclass" / "cases.csv").read_text().splitlines()
    shares = [float(v) for v in table[1 + 10].split(",")[4:13]]
    case = datasets.load("vnc", "val", DATA, limit=1)[0]
    found = np.bincount(case.labels.ravel(), minlength=9) / case.labels.size
    assert found == pytest.approx(shares, abs=1e-5)
