"""DICOM: series of images as volumes.

find_series    which series lie under a folder
read_series    one of them as a Volume
"""

from medseg.dicom._series import Series, find_series, read_series

__all__ = [
    "Series",
    "find_series",
    "read_series",
]
