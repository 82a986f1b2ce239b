"""Small trees in the exact layouts of the publishers, for tests of what reads them."""

import json

import nibabel as nib
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

RNG = np.random.default_rng(0)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def kaggle_tree(folder, ids):
    """Write tiny cases in Kaggle's layout: an image, and two masks that overlap."""
    for name in ids:
        one, two = np.zeros((2, 6, 8), np.uint8)
        one[1:4, 1:4], two[3:6, 3:6] = 255, 255
        image = np.full((6, 8, 4), 255, np.uint8)
        image[..., :3] = RNG.integers(0, 256, 3)
        write(folder / name / "images" / f"{name}.png", image)
        write(folder / name / "masks" / "b.png", two)
        write(folder / name / "masks" / "a.png", one)
    return folder


def isbi_stacks(folder):
    """Write the two stacks of the challenge, small; return their arrays."""
    volume = RNG.integers(0, 256, (30, 16, 16), np.uint8)
    labels = (RNG.random((30, 16, 16)) < 0.8).astype(np.uint8) * np.uint8(255)
    folder.mkdir(parents=True)
    tifffile.imwrite(folder / "train-volume.tif", volume)
    tifffile.imwrite(folder / "train-labels.tif", labels)
    return volume, labels


VNC_CODES = (0, 32, 64, 96, 128, 159, 191, 223, 255)


def vnc_tree(root, shape=(3, 9)):
    """Write 20 sections: section i has the value i, and column j the class j % 9."""
    codes = np.resize(np.array(VNC_CODES, np.uint8), shape[1])
    for i in range(20):
        raw = root / "stack1" / "raw" / f"{i:02d}.tif"
        raw.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(raw, np.full(shape, i, np.uint8))
        labels = np.tile(codes, (shape[0], 1))
        write(root / "stack1" / "labels" / f"labels{i:08d}.png", labels)
    return root


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


def decathlon_tree(
    folder, names, *, sequences=1, labels=2, dtype=np.uint8, mm=(1, 2, 3)
):
    """Write a task as it is unpacked: reversed axes, channels last, stray files."""
    affine = np.diag([*mm, 1.0])  # of the axes i, j, k
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
