"""Volumes from and to files: NIfTI, and what SimpleITK reads."""

import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from medseg.volumes._volume import Volume

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Size of the unit in which a NIfTI file counts, in mm; most files leave it unknown.
_UNIT_MM = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}


def read_volume(path: str | Path) -> Volume:
    """Read a volume by the ending of its name: NIfTI, NRRD or MetaImage.

    A DICOM series is a folder: :func:`medseg.dicom.read_series`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The ending is another, or the file is damaged.
        ModuleNotFoundError: NRRD and MetaImage need the extra ``itk``.
    """
    path = Path(path)
    if path.name.endswith(NIFTI_SUFFIXES):
        return read_nifti(path)
    if path.name.endswith(ITK_SUFFIXES):
        return read_itk(path)
    raise ValueError(
        f"{path} ends in none of {', '.join(NIFTI_SUFFIXES + ITK_SUFFIXES)}. A folder "
        "of DICOM files is read with medseg.dicom.read_series."
    )


def write_volume(volume: Volume, path: str | Path) -> Path:
    """Write a volume by the ending of the name; see the writers of each format.

    Raises:
        ValueError: The ending is another, or the format cannot hold this volume.
        ModuleNotFoundError: NRRD and MetaImage need the extra ``itk``.
    """
    path = Path(path)
    if path.name.endswith(NIFTI_SUFFIXES):
        return write_nifti(volume, path)
    return write_itk(volume, path)


def read_nifti(path: str | Path) -> Volume:
    """Read a NIfTI file of 3 axes, or of 4 with channels.

    The file's axes i, j, k become W, H, D, that is ``(D, H, W)`` is their reverse; a
    fourth axis, such as the sequences of a Decathlon case, becomes C. The affine is the
    sform if its code says so, else the qform; millimetres whatever the file's unit.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file.

    Returns:
        Voxels in the stored dtype; float32 where the header scales integers
        (``scl_slope``). Labels that a tool has stored as floating point become
        integers with :func:`to_labels`.

    Warns:
        UserWarning: Neither sform nor qform is set: the voxel size is known, left and
            right are a guess.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut off or no NIfTI, its geometry is not finite, it
            holds colours or more than 4 axes.
    """
    path = _existing(path)
    try:
        image: Any = nib.load(path, mmap=False)  # no file stays open behind the array
        if not isinstance(image, nib.Nifti1Pair):
            raise ImageFileError("another format than NIfTI")
        voxels = _voxels(image)
    except Exception as error:  # damage shows as a dozen kinds of error
        raise ValueError(
            f"{path} cannot be read as NIfTI ({type(error).__name__}: {error}). It may "
            "be cut off or misnamed: get it again, or leave it out."
        ) from error
    if voxels.ndim == 5 and voxels.shape[3] == 1:  # vectors: the time axis is empty
        voxels = voxels[:, :, :, 0]
    while voxels.ndim < 3:
        voxels = voxels[..., None]
    if voxels.ndim > 4:
        raise ValueError(
            f"{path} has {voxels.ndim} axes {voxels.shape}; expected 3, or 4 with "
            "channels last. Split it into volumes."
        )
    header = image.header
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        warnings.warn(
            f"{path} does not say how the patient lies (sform and qform codes are 0): "
            "left and right are a guess.",
            stacklevel=2,
        )
    unit = header.get_xyzt_units()[0]
    affine = np.diag([_UNIT_MM[unit]] * 3 + [1.0]) @ image.affine
    return Volume(_reverse_axes(voxels), _reverse_columns(affine), str(path))


def write_nifti(volume: Volume, path: str | Path) -> Path:
    """Write a NIfTI file, whole or not at all; the inverse of :func:`read_nifti`.

    Booleans are stored as uint8, 64-bit integers as the smallest type that holds them,
    16-bit floats as 32-bit ones. Both sform and qform are written (a qform cannot
    hold shear), in mm.

    Args:
        volume: 3 axes, or 4 with channels first, which come last in the file.
        path: Ends in ``.nii`` or ``.nii.gz``. A file that is there is replaced.

    Returns:
        The path.

    Raises:
        ValueError: The name ends otherwise, or numbers are too large for 32 bits.
        OSError: The folder is missing, full or not writable; nothing is left behind.
    """
    path = Path(path)
    if not path.name.endswith(NIFTI_SUFFIXES):
        raise ValueError(f"a NIfTI file ends in .nii or .nii.gz, got {path.name}.")
    array = _storable(volume)
    affine = _reverse_columns(volume.affine)
    image = nib.Nifti1Image(_reverse_axes(array), affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    write_whole(path, lambda file: nib.save(image, file))
    return path


def read_itk(path: str | Path) -> Volume:
    """Read NRRD or MetaImage (``.nrrd``, ``.nhdr``, ``.mha``, ``.mhd``) by SimpleITK.

    Origin and direction cosines are turned from LPS to RAS.

    Args:
        path: The file.

    Returns:
        ``(D, H, W)``, or ``(C, D, H, W)`` where a voxel holds several values.

    Raises:
        ModuleNotFoundError: SimpleITK is missing.
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, or has not three axes.
    """
    sitk = _simpleitk()
    path = _existing(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ValueError(
            f"{path} cannot be read by SimpleITK. It may be cut off, misnamed, or its "
            f"data file may be missing: get it again. ({_last_line(error)})"
        ) from error
    if image.GetDimension() != 3:
        raise ValueError(
            f"{path} has {image.GetDimension()} axes; expected 3. Split it into "
            "volumes, or store channels as a vector image."
        )
    array = sitk.GetArrayFromImage(image)  # (D, H, W), or (D, H, W, C)
    if array.ndim == 4:
        array = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    lps = np.eye(4)
    direction = np.reshape(image.GetDirection(), (3, 3))
    lps[:3, :3] = direction * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    return Volume(array, _reverse_columns(_LPS_TO_RAS @ lps), str(path))


def write_itk(volume: Volume, path: str | Path) -> Path:
    """Write ``.nrrd`` or ``.mha``, compressed, whole or not at all.

    Args:
        volume: Its axes must be at right angles, as ITK stores direction cosines.
        path: A file that is there is replaced.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: SimpleITK is missing.
        ValueError: The name ends otherwise, or the affine is sheared.
        OSError: The folder is missing, full or not writable; nothing is left behind.
    """
    path = Path(path)
    if path.suffix not in (".nrrd", ".mha"):
        raise ValueError(
            f"{path.name} ends in none of {', '.join(NIFTI_SUFFIXES)}, .nrrd, .mha: "
            "formats of one file are written."
        )
    sitk = _simpleitk()
    lps = _reverse_columns(_LPS_TO_RAS @ volume.affine)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    direction = lps[:3, :3] / spacing
    if not np.allclose(direction.T @ direction, np.eye(3), atol=1e-4):
        raise ValueError(
            f"{volume.name} has axes that are not at right angles, which "
            f"{path.suffix} cannot store. Resample it onto an upright grid, or write "
            "NIfTI."
        )
    array = _storable(volume)
    channels = array.ndim == 4
    image = sitk.GetImageFromArray(
        np.moveaxis(array, 0, -1) if channels else array, isVector=channels
    )
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(direction.ravel().tolist())
    write_whole(path, lambda file: _write_itk_file(sitk, image, file))
    return path


def to_labels(volume: Volume) -> Volume:
    """Turn voxels that hold whole numbers into the smallest unsigned integers.

    Tools store label maps as int16, float32 or float64; losses and metrics take
    integers only.

    Returns:
        The same grid with uint8, uint16 or uint32.

    Raises:
        ValueError: A value is negative, not whole, or not finite; it is shown.

    Example:
        >>> stored = Volume(np.array([[[0.0, 4.0]]]), np.eye(4))
        >>> to_labels(stored).array
        array([[[0, 4]]], dtype=uint8)
    """
    values = volume.array
    whole = values >= 0
    if values.dtype.kind == "f":
        whole &= np.isfinite(values) & (values == np.rint(values))
    if not whole.all():
        odd = np.unique(values[~whole])
        shown = ", ".join(f"{value:.6g}" for value in odd[:5])
        more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        raise ValueError(
            f"{volume.name} holds {shown}{more}; labels are whole numbers from 0. If "
            "these are probabilities, threshold them; if labels were interpolated, "
            "resample the originals with resample_labels."
        )
    return volume.with_array(values.astype(np.min_scalar_type(int(values.max()))))


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write`` with a temporary file beside ``path``, then move it there.

    The temporary name keeps the endings, from which libraries tell the format.

    Raises:
        OSError: The folder is missing, full or not writable; nothing is left behind.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"there is no folder {path.parent} to write {path.name} to; make it first."
        )
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent) as folder:
        unfinished = Path(folder) / path.name
        write(unfinished)
        os.replace(unfinished, path)


def _voxels(image: Any) -> NDArray[Any]:
    """Voxels in the file's axes; float32 if the header scales them."""
    stored = image.dataobj
    scaled = (stored.slope, stored.inter) != (1, 0)
    if scaled and stored.dtype.kind in "ui":
        return image.get_fdata(dtype=np.float32, caching="unchanged")
    values = np.asanyarray(stored)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    return values


def _storable(volume: Volume) -> NDArray[Any]:
    """Voxels in a dtype that all the formats have."""
    array = volume.array
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind in "ui" and array.dtype.itemsize == 8:
        low, high = int(array.min()), int(array.max())
        for dtype in (np.uint8, np.int16, np.int32):
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return array.astype(dtype)
        raise ValueError(
            f"{volume.name} holds integers from {low} to {high}, which few tools read "
            "from a file. Convert them to 32 bits or to floating point."
        )
    return array


def _reverse_axes(array: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(array.T) if array.flags.f_contiguous else array.T


def _reverse_columns(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return affine[:, [2, 1, 0, 3]]


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        what = "a folder, not a file" if path.is_dir() else "not there"
        raise FileNotFoundError(
            f"{path} is {what} (looked for from {Path.cwd()}). Give the path of one "
            "file; a folder of DICOM files is read with medseg.dicom.read_series."
        )
    return path


def _simpleitk() -> ModuleType:
    try:
        import SimpleITK  # noqa: PLC0415 - an optional dependency
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "NRRD and MetaImage files need SimpleITK, which is not installed: "
            "pip install 'medseg[itk]'."
        ) from error
    return SimpleITK


def _write_itk_file(sitk: ModuleType, image: Any, file: Path) -> None:
    try:
        sitk.WriteImage(image, str(file), useCompression=True)
    except RuntimeError as error:
        raise OSError(f"{file.name} was not written ({_last_line(error)}).") from error


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2]
