"""DICOM: series of images as volumes, and masks as DICOM objects.

    find_series                             which series lie under a folder
    read_series                             one of them as a Volume
    read_segmentation, write_segmentation   SEG: masks; writing needs the extra `dicom`
    read_contours, write_contours           RTSTRUCT: outlines in the slices

Volumes have slices, rows and columns as ``(D, H, W)`` and positions in mm, RAS, as all
volumes here; DICOM counts in LPS.
"""

from medseg.dicom._contours import mask_outlines, read_contours, write_contours
from medseg.dicom._segments import (
    Segment,
    Segmentation,
    read_segmentation,
    write_segmentation,
)
from medseg.dicom._series import Series, find_series, read_series

__all__ = [  # noqa: RUF022 - in the order of use
    "Series",
    "find_series",
    "read_series",
    "Segment",
    "Segmentation",
    "read_segmentation",
    "write_segmentation",
    "mask_outlines",
    "read_contours",
    "write_contours",
]
