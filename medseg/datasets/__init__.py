"""Images with their masks: from folders, from memory, from public data sets.

    MedicalImageDataset    pairs of files in two folders          chapters 1, 22
    CaseDataset            the same samples from cases            chapters 1, 13
    VolumeDataset          volumes, or patches cut from them      chapter 24
    load, list_cases       a public data set, in fixed splits     chapters 1, 13, 21
    make_split             whole patients on one side             chapter 21
    find_leaks             whether they are                       chapter 21

The data sets yield ``(image, mask)``: an image ``(C, *spatial)`` float32, and a mask as
the loss needs it, float32 ``(1, *spatial)`` in {0, 1} for ``num_classes=1``, otherwise
int64 ``(*spatial)`` in 0..K-1. Public data lie in ``data_root()``, or are downloaded to
it. Folders in the layout of a publisher, wherever they are, are read by the functions
``decathlon_cases``, ``chaos_cases``, ``isic_cases`` and so on.
"""

from medseg.datasets._cases import CaseFiles, ImageCase, VolumeCase
from medseg.datasets._facts import DatasetInfo, Download
from medseg.datasets._images import (
    dsb2018_cases,
    isbi2012_cases,
    isic_cases,
    montgomery_cases,
    vnc_cases,
)
from medseg.datasets._leaks import Leak, find_leaks, image_hash
from medseg.datasets._public import (
    download,
    find,
    is_available,
    list_cases,
    load,
)
from medseg.datasets._registry import data_root, info, names
from medseg.datasets._samples import CaseDataset, MedicalImageDataset
from medseg.datasets._scans import chaos_cases, decathlon_cases
from medseg.datasets._splits import SplitRow, make_split, read_split, write_split
from medseg.datasets._volumes import VolumeDataset

__all__ = [
    "CaseDataset",
    "CaseFiles",
    "DatasetInfo",
    "Download",
    "ImageCase",
    "Leak",
    "MedicalImageDataset",
    "SplitRow",
    "VolumeCase",
    "VolumeDataset",
    "chaos_cases",
    "data_root",
    "decathlon_cases",
    "download",
    "dsb2018_cases",
    "find",
    "find_leaks",
    "image_hash",
    "info",
    "is_available",
    "isbi2012_cases",
    "isic_cases",
    "list_cases",
    "load",
    "make_split",
    "montgomery_cases",
    "names",
    "read_split",
    "vnc_cases",
    "write_split",
]
