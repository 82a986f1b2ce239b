"""Volumes: voxels, and where they lie in the patient.

    Volume                                    array (D, H, W), affine, name
    read_volume, write_volume                 by the ending of the file's name
    read_nifti, write_nifti                   .nii, .nii.gz
    read_itk, write_itk                       .nrrd, .mha; extra `itk`
    reorient, crop_to_foreground, paste       the same voxels, turned or cut out
    resample, resample_labels                 another voxel size, or another grid
    apply_window, normalise_ct, normalise_mr  grey values for eyes and for networks

One rule for axes: the array has the file's axes in reverse order, ``(D, H, W)`` or
``(C, D, H, W)``, and so have ``spacing`` and ``orientation``. Positions are in mm, RAS.
DICOM is in ``medseg.dicom``, which builds on this.
"""

from medseg.volumes._files import (
    read_itk,
    read_nifti,
    read_volume,
    to_labels,
    write_itk,
    write_nifti,
    write_volume,
    write_whole,
)
from medseg.volumes._grid import (
    crop,
    crop_to_foreground,
    foreground_box,
    paste,
    reorient,
)
from medseg.volumes._intensity import (
    WINDOWS,
    IntensityFingerprint,
    Window,
    apply_window,
    intensity_fingerprint,
    normalise_ct,
    normalise_mr,
)
from medseg.volumes._resample import (
    resample,
    resample_labels,
    resample_labels_to,
    resample_to,
    thick_axis,
    upright_grid,
)
from medseg.volumes._volume import (
    Volume,
    check_same_geometry,
    grid_affine,
    to_index,
    to_world,
)

__all__ = [  # noqa: RUF022 - in the order of use
    "Volume",
    "grid_affine",
    "to_world",
    "to_index",
    "check_same_geometry",
    "read_volume",
    "write_volume",
    "read_nifti",
    "write_nifti",
    "read_itk",
    "write_itk",
    "to_labels",
    "write_whole",
    "reorient",
    "foreground_box",
    "crop",
    "crop_to_foreground",
    "paste",
    "resample",
    "resample_to",
    "resample_labels",
    "resample_labels_to",
    "upright_grid",
    "thick_axis",
    "Window",
    "WINDOWS",
    "apply_window",
    "IntensityFingerprint",
    "intensity_fingerprint",
    "normalise_ct",
    "normalise_mr",
]
