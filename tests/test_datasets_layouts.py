"""Tests of the readers of true layouts, on small trees written in each of them."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from layouts import (
    PARTS_2016,
    PARTS_2017,
    PARTS_2018,
    chaos_ct,
    chaos_mr,
    decathlon_tree,
    isic_tree,
    montgomery_tree,
    vnc_tree,
    write,
)

from medseg import datasets
from medseg.datasets import CaseDataset, MedicalImageDataset

DATA = os.environ.get("MEDSEG_DATA")
real_data = pytest.mark.skipif(
    not DATA, reason="MEDSEG_DATA is not set: no real images to read"
)


# ISIC


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
    vnc_tree(tmp_path)
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
