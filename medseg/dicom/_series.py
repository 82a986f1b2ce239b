"""Series of DICOM images: found in folders, checked, and stacked into a `Volume`."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medseg.volumes import Volume

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Objects that hold pixels or none, but no slices of a scan.
_NO_IMAGES = {"SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG", "RWV"}


@dataclass(frozen=True)
class Series:
    """Files of one folder that share a SeriesInstanceUID.

    The folder counts as well, because anonymised sets repeat UIDs or leave them
    blank: in CHAOS, in-phase and out-of-phase images share one.
    """

    folder: Path
    uid: str  # "" where the files have none
    modality: str
    description: str
    files: tuple[Path, ...]  # sorted by name; slices are sorted when they are read

    def __str__(self) -> str:
        what = " ".join(part for part in (self.modality, self.description) if part)
        uid = self.uid or "no UID"
        return f"{self.folder}: {what or 'images'}, {len(self.files)} file(s), {uid}"


@dataclass(frozen=True)
class Frame:
    """One slice: where it lies, and how its pixels are read."""

    header: pydicom.Dataset  # of the file
    path: Path
    number: int  # of the frame in its file, from 0
    rows_columns: tuple[int, int]
    orientation: NDArray[np.float64]  # (2, 3) LPS: along a row, along a column
    position: NDArray[np.float64]  # (3,) LPS: centre of the first pixel
    spacing: tuple[float, float]  # mm between rows, between columns
    thickness: float | None  # mm between slices as the header states it
    slope: float
    intercept: float

    def __str__(self) -> str:
        frame = f", frame {self.number + 1}" if self.count > 1 else ""
        return f"{self.path.name}{frame}"

    @property
    def count(self) -> int:
        """Frames in the file."""
        return int(self.header.get("NumberOfFrames") or 1)


def find_series(folder: str | Path) -> list[Series]:
    """List the image series under a folder, its sub-folders included.

    Files that are no DICOM, that are hidden, or that hold no image (segmentations,
    contours, doses, reports, directories) are passed over.

    Args:
        folder: Where to look.

    Returns:
        One entry for each folder and SeriesInstanceUID, sorted; none if there is no
        image.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: A DICOM file is damaged; it is named.
    """
    folder = _folder(folder)
    return _group(p for p in sorted(folder.rglob("*")) if p.is_file())[0]


def read_series(
    folder: str | Path,
    *,
    uid: str | None = None,
    ignore_uids: bool = False,
    allow_tilt: bool = False,
    tolerance_mm: float = 0.02,
) -> Volume:
    """Read the slices of one series from a folder.

    Slices are sorted by ImagePositionPatient along the normal of the slices, never by
    name or InstanceNumber, towards the normal (of axial slices, from the feet to the
    head). Stored values are turned into those that count, Hounsfield units for CT, by
    RescaleSlope and RescaleIntercept. An enhanced CT or MR file of many frames is read
    in the same way.

    Args:
        folder: Holds the files of a series; sub-folders are not looked into.
        uid: SeriesInstanceUID of the one to read, where the folder holds several.
        ignore_uids: Take all images of the folder as one series, whatever their UIDs:
            some anonymisers give each file its own.
        allow_tilt: Read a CT with tilted gantry. Its affine is sheared: bring it onto
            an upright grid with ``volumes.resample_to`` before distances are taken.
        tolerance_mm: How much a distance of slices, or 1 % of it if that is more,
            may differ from the others.

    Returns:
        ``(D, H, W)``: slices, rows, columns; int16 (or int32) where the rescaling keeps
        whole numbers, else float32. Its ``name`` is the folder.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: The folder has no image or several series; a file is damaged or
            lacks a tag that the geometry needs; slices are missing, double, unevenly
            spaced, tilted, or differ in size or orientation (each is listed).
        ModuleNotFoundError: The pixels are compressed, and no decoder is installed.
    """
    frames = series_frames(
        folder,
        uid=uid,
        ignore_uids=ignore_uids,
        allow_tilt=allow_tilt,
        tolerance_mm=tolerance_mm,
    )
    return Volume(_stack(frames), frames_affine(frames), str(folder))


def series_frames(
    folder: str | Path,
    *,
    uid: str | None = None,
    ignore_uids: bool = False,
    allow_tilt: bool = False,
    tolerance_mm: float = 0.02,
) -> list[Frame]:
    """The sorted slices of a series without their pixels; see :func:`read_series`."""
    folder = _folder(folder)
    series, passed_over = _group(p for p in sorted(folder.iterdir()) if p.is_file())
    found = [one for one in series if uid in (None, one.uid)]
    if not found:
        reason = f"no series {uid}" if series else "no DICOM image"
        has = [str(one) for one in series] or passed_over
        raise ValueError(
            f"{folder} holds {reason}, only: {_shorten(has)}. Give the folder whose "
            "files are the slices; medseg.dicom.find_series lists those under a folder."
        )
    if len(found) > 1 and not ignore_uids:
        listed = "\n  ".join(str(one) for one in found)
        raise ValueError(
            f"{folder} holds {len(found)} series; give uid= of one of them, or "
            f"ignore_uids=True if they are slices of one scan:\n  {listed}"
        )
    return sort_frames(
        [frame for one in found for path in one.files for frame in read_frames(path)],
        name=str(folder),
        allow_tilt=allow_tilt,
        tolerance_mm=tolerance_mm,
    )


def read_frames(path: Path) -> list[Frame]:
    """Read the header of a file, without its pixels, as one or many slices.

    Raises:
        ValueError: A tag that the geometry needs is missing or has no valid value.
    """
    header = read_header(path)
    palette = header.get("PhotometricInterpretation") == "PALETTE COLOR"
    if palette or int(header.get("SamplesPerPixel") or 1) != 1:
        raise ValueError(
            f"{path} is a colour image; expected the grey values of a scan. Leave it "
            "out (it may be a screenshot)."
        )
    enhanced = "PerFrameFunctionalGroupsSequence" in header
    count = int(header.get("NumberOfFrames") or 1)
    if count > 1 and not enhanced:
        raise ValueError(
            f"{path} holds {count} frames and does not say where each lies; expected "
            "one slice a file, or an enhanced CT or MR object."
        )
    return [_frame(header, path, number, enhanced) for number in range(count)]


def sort_frames(
    frames: Sequence[Frame],
    *,
    name: str,
    allow_tilt: bool = False,
    tolerance_mm: float = 0.02,
) -> list[Frame]:
    """Sort slices along their normal, and refuse those that make no grid.

    Raises:
        ValueError: Slices differ in size or orientation, lie in the same place, are
            missing, unevenly spaced or tilted; they are listed.
    """
    first = frames[0]
    _check_alike(frames, name)
    normal = np.cross(*first.orientation)
    frames = sorted(
        frames, key=lambda frame: (float(frame.position @ normal), *_age(frame))
    )
    along = np.array([frame.position @ normal for frame in frames])
    gaps = np.diff(along)
    if not gaps.size:
        return list(frames)
    step = float(np.median(gaps))
    allowed = max(tolerance_mm, 0.01 * step)
    _check_double(
        frames, along, gaps <= min(tolerance_mm, 0.05 * float(gaps.max())), name
    )
    if (np.abs(gaps - step) > allowed).any():
        raise ValueError(_uneven(frames, along, gaps, step, allowed, name))
    moves = np.diff([frame.position for frame in frames], axis=0)
    drift = np.linalg.norm(moves - np.outer(gaps, normal), axis=1)
    if drift.max() > allowed and not allow_tilt:
        tilt = first.header.get("GantryDetectorTilt")
        stated = f"; GantryDetectorTilt is {tilt} degrees" if tilt else ""
        raise ValueError(
            f"{name}: slices do not lie above each other but move sideways by up to "
            f"{drift.max():.4g} mm a slice{stated}. With allow_tilt=True the series is "
            "read with a sheared affine; then resample it onto an upright grid."
        )
    return list(frames)


def frames_affine(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """The affine of sorted slices, RAS: ``(slice, row, column)`` to mm.

    Raises:
        ValueError: There is a single slice, and nothing says how thick it is.
    """
    first, last = frames[0], frames[-1]
    along_row, along_column = first.orientation
    if len(frames) > 1:
        step = (last.position - first.position) / (len(frames) - 1)
    elif first.thickness:
        step = np.cross(along_row, along_column) * first.thickness
    else:
        raise ValueError(
            f"{first.path} is a single slice without SliceThickness or "
            "SpacingBetweenSlices: its depth is unknown. Give the folder with all "
            "slices."
        )
    lps = np.eye(4)
    lps[:3, 0] = step
    lps[:3, 1] = along_column * first.spacing[0]  # down the rows
    lps[:3, 2] = along_row * first.spacing[1]  # along the columns
    lps[:3, 3] = first.position
    return LPS_TO_RAS @ lps


def read_header(path: Path, *, pixels: bool = False) -> pydicom.Dataset:
    """Read a DICOM file, by default all but its pixels.

    Raises:
        InvalidDicomError: It is no DICOM file.
        ValueError: It is damaged.
    """
    try:
        return pydicom.dcmread(path, stop_before_pixels=not pixels)
    except InvalidDicomError:
        if path.suffix.lower() not in (".dcm", ".ima"):
            raise
        return _read_bare(path, pixels)
    except Exception as error:  # damage shows as many kinds of error
        raise ValueError(
            f"{path} is damaged or cut off ({type(error).__name__}: {error}). Get it "
            "again, or leave the series out."
        ) from error


def _read_bare(path: Path, pixels: bool) -> pydicom.Dataset:
    """Read an old file that begins with its data set, without preamble and meta."""
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
    except Exception as error:  # text that is called .dcm, for instance
        raise InvalidDicomError(f"{path} is no DICOM file") from error
    if "SOPClassUID" not in dataset:
        raise InvalidDicomError(f"{path} is no DICOM file")
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, _ = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        )
    return dataset


def _group(paths: Iterable[Path]) -> tuple[list[Series], list[str]]:
    """Return the series of some files, and what was passed over with the reason."""
    groups: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    headers: dict[tuple[Path, str], pydicom.Dataset] = {}
    passed_over = []
    for path in paths:
        if path.name.startswith("."):
            continue
        try:
            header = read_header(path)
        except InvalidDicomError:
            passed_over.append(f"{path.name} (no DICOM)")
            continue
        modality = str(header.get("Modality", ""))
        if modality in _NO_IMAGES or "Rows" not in header:
            passed_over.append(f"{path.name} ({modality or 'object'} without image)")
            continue
        key = (path.parent, str(header.get("SeriesInstanceUID") or ""))
        groups[key].append(path)
        headers.setdefault(key, header)
    series = [
        Series(
            folder=folder,
            uid=uid,
            modality=str(headers[folder, uid].get("Modality", "")),
            description=str(headers[folder, uid].get("SeriesDescription", "")),
            files=tuple(files),
        )
        for (folder, uid), files in sorted(groups.items())
    ]
    return series, passed_over


def _frame(header: pydicom.Dataset, path: Path, number: int, enhanced: bool) -> Frame:
    """Where one slice lies; from the functional groups in an enhanced object."""
    parts = [header]
    if enhanced:
        shared = header.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
        groups = [header.PerFrameFunctionalGroupsSequence[number], shared[0]]
        macros = ("PlanePosition", "PlaneOrientation", "PixelMeasures")
        names = [f"{macro}Sequence" for macro in macros]
        names.append("PixelValueTransformationSequence")
        parts = [g[n].value[0] for g in groups for n in names if n in g and g[n].value]
        parts.append(header)

    def numbers(tag: str, count: int) -> list[float]:
        value = next((part.get(tag) for part in parts if part.get(tag)), None)
        found = list(value) if isinstance(value, MultiValue | list) else [value]
        if value is None or value == "":
            raise ValueError(
                f"{path} has no {tag}, without which nobody knows where the slice "
                "lies. Leave the file out, or get the original: an export or an "
                "anonymiser has dropped it."
            )
        if len(found) != count or not np.isfinite(np.asarray(found, float)).all():
            raise ValueError(
                f"{path} has {tag} = {value}; expected {count} finite number(s)."
            )
        return [float(str(one)) for one in found]

    def number_or_none(tag: str) -> float | None:
        value = next((p.get(tag) for p in parts if p.get(tag) not in (None, "")), None)
        return None if value is None else float(value)

    orientation = np.reshape(numbers("ImageOrientationPatient", 6), (2, 3))
    if not np.allclose(orientation @ orientation.T, np.eye(2), atol=1e-3):
        raise ValueError(
            f"{path} has ImageOrientationPatient {orientation.ravel().tolist()}; "
            "expected two unit vectors at right angles."
        )
    spacing = numbers("PixelSpacing", 2)
    if min(spacing) <= 0:
        raise ValueError(f"{path} has PixelSpacing {spacing}; expected mm above 0.")
    slope, intercept = (
        number_or_none("RescaleSlope"),
        number_or_none("RescaleIntercept"),
    )
    if header.get("Modality") == "CT" and (slope is None or intercept is None):
        raise ValueError(
            f"{path} is CT without RescaleSlope and RescaleIntercept: its values are "
            "no Hounsfield units. Get the original, or convert it by hand."
        )
    return Frame(
        header=header,
        path=path,
        number=number,
        rows_columns=(int(header.Rows), int(header.Columns)),
        orientation=orientation / np.linalg.norm(orientation, axis=1, keepdims=True),
        position=np.array(numbers("ImagePositionPatient", 3)),
        spacing=(spacing[0], spacing[1]),
        thickness=number_or_none("SpacingBetweenSlices")
        or number_or_none("SliceThickness"),
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
    )


def _check_alike(frames: Sequence[Frame], name: str) -> None:
    first = frames[0]
    checks: dict[str, Callable[[Frame], Any]] = {
        "Rows x Columns": lambda frame: frame.rows_columns,
        "PixelSpacing": lambda frame: tuple(np.round(frame.spacing, 4).tolist()),
        "ImageOrientationPatient": lambda frame: tuple(
            (np.round(frame.orientation, 3) + 0.0).ravel().tolist()
        ),
    }
    for what, value_of in checks.items():
        groups: dict[Any, list[str]] = defaultdict(list)
        for frame in frames:
            groups[value_of(frame)].append(str(frame))
        if len(groups) > 1 and not _nearly_equal(list(groups), value_of(first)):
            listed = "\n  ".join(f"{k}: {_shorten(v)}" for k, v in groups.items())
            raise ValueError(
                f"{name}: slices differ in {what}, so they are no stack. A scout "
                f"image or a second scan may be among them; move it out.\n  {listed}"
            )


def _nearly_equal(values: Sequence[Any], first: Any) -> bool:
    return all(np.allclose(value, first, atol=2e-3, rtol=1e-4) for value in values)


def _age(frame: Frame) -> tuple[int, int]:
    return int(frame.header.get("InstanceNumber") or 0), frame.number


def _check_double(
    frames: Sequence[Frame],
    along: NDArray[np.float64],
    double: NDArray[np.bool_],
    name: str,
) -> None:
    if not double.any():
        return
    pairs = [
        f"{frames[i]} and {frames[i + 1]} at {along[i]:.2f} mm"
        for i in np.flatnonzero(double).tolist()
    ]
    one, other = frames[int(np.argmax(double))], frames[int(np.argmax(double)) + 1]
    tags = ["EchoTime", "ImageType", "AcquisitionNumber", "AcquisitionTime"]
    tags += ["TemporalPositionIdentifier", "DiffusionBValue", "SeriesInstanceUID"]
    differ = [t for t in tags if one.header.get(t) != other.header.get(t)]
    hint = f" They differ in {', '.join(differ)}." if differ else ""
    raise ValueError(
        f"{name}: {len(pairs)} pair(s) of slices lie in the same place: "
        f"{_shorten(pairs)}.{hint} Keep one copy of a file, and one echo, phase or "
        "time point a folder."
    )


def _uneven(
    frames: Sequence[Frame],
    along: NDArray[np.float64],
    gaps: NDArray[np.float64],
    step: float,
    allowed: float,
    name: str,
) -> str:
    """The message for slices that are missing, or not at even distances."""
    step = min(step, float(gaps[gaps > allowed].min(initial=step)))
    steps = np.rint(gaps / step)
    if (np.abs(gaps - steps * step) <= allowed * steps).all():
        missing = [
            f"{along[i] + step * k:.2f}"
            for i in np.flatnonzero(steps > 1)
            for k in range(1, int(steps[i]))
        ]
        return (
            f"{name}: {len(missing)} slice(s) are missing among {len(frames)} that lie "
            f"{step:.4g} mm apart, at {_shorten(missing)} mm along the normal. Get the "
            "whole series, or leave it out."
        )
    odd = [
        f"{gaps[i]:.4g} mm after {frames[i]} at {along[i]:.2f} mm"
        for i in np.flatnonzero(np.abs(gaps - np.median(gaps)) > allowed).tolist()
    ]
    return (
        f"{name}: slices are unevenly spaced: {_shorten(odd)}; the others lie "
        f"{float(np.median(gaps)):.4g} mm apart. A grid cannot hold them; leave the "
        "series out, or resample it with a tool that knows uneven slices."
    )


def _stack(frames: Sequence[Frame]) -> NDArray[Any]:
    """Read the pixels of sorted slices, ``(D, H, W)``, rescaled."""
    stored: NDArray[Any] | None = None
    file: tuple[Path, NDArray[Any]] | None = None
    for depth, frame in enumerate(frames):
        if file is None or file[0] != frame.path:
            file = frame.path, read_pixels(frame.path)
        pixels = file[1] if frame.count == 1 else file[1][frame.number]
        if pixels.shape != frame.rows_columns:
            raise ValueError(
                f"{frame.path} has pixels of shape {pixels.shape}; its header says "
                f"{frame.rows_columns}."
            )
        if stored is None:
            stored = np.empty((len(frames), *pixels.shape), np.int32)
        if pixels.dtype.kind not in "ui" or pixels.dtype.itemsize > 2:
            stored = stored.astype(np.float64)
        stored[depth] = pixels
    assert stored is not None
    scale = {(frame.slope, frame.intercept) for frame in frames}
    whole = stored.dtype.kind == "i" and all(
        slope.is_integer() and intercept.is_integer() for slope, intercept in scale
    )
    if not whole:
        values = np.empty(stored.shape, np.float32)
        for depth, frame in enumerate(frames):
            values[depth] = stored[depth] * frame.slope + frame.intercept
        return values
    for depth, frame in enumerate(frames):
        if (frame.slope, frame.intercept) != (1, 0):
            stored[depth] *= int(frame.slope)
            stored[depth] += int(frame.intercept)
    fits = int(stored.min()) >= -(2**15) and int(stored.max()) < 2**15
    return stored.astype(np.int16) if fits else stored


def read_pixels(path: Path) -> NDArray[Any]:
    """Decode the pixels of a file as they are stored.

    Raises:
        ValueError: They are missing, cut off or damaged.
        ModuleNotFoundError: They are compressed, and no decoder is installed.
    """
    dataset = read_header(path, pixels=True)
    try:
        return dataset.pixel_array
    except Exception as error:
        text = str(error)
        if "plugins are missing dependencies" in text or isinstance(
            error, NotImplementedError
        ):
            syntax = dataset.file_meta.TransferSyntaxUID
            extra = "JPEG 2000" in syntax.name or "JPEG-LS" in syntax.name
            package = "'medseg[dicom]'" if extra else "pylibjpeg-libjpeg"
            raise ModuleNotFoundError(
                f"{path} is compressed ({syntax.name}) and no decoder for it is "
                f"installed: pip install {package}."
            ) from error
        raise ValueError(
            f"the pixels of {path} cannot be read ({type(error).__name__}: {text}). "
            "The file may be cut off: get it again, or leave the series out."
        ) from error


def _folder(folder: str | Path) -> Path:
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not a folder (looked for from {Path.cwd()}). Give the folder "
            "that holds the DICOM files of a series."
        )
    return folder


def _shorten(values: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(values[:most])
    return f"{shown} and {len(values) - most} more" if len(values) > most else shown
