"""DICOM segmentation objects (SEG), in by pydicom alone and out by highdicom."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from medseg import __version__
from medseg.dicom._series import (
    LPS_TO_RAS,
    Frame,
    frames_affine,
    read_frames,
    read_header,
    read_pixels,
    series_frames,
)
from medseg.volumes import (
    Volume,
    check_same_geometry,
    reorient,
    to_index,
    write_whole,
)


@dataclass(frozen=True)
class Segment:
    """What one segment shows.

    ``kind`` and ``category`` are codes of a terminology such as SNOMED CT. Where
    they are None, a SEG is written with the SNOMED CT code that has the label's name
    (``"liver"``, ``"Spleen"``), else with a private code that says the label.
    """

    number: int
    label: str
    category: Code | None = None  # such as anatomical structure
    kind: Code | None = None  # such as liver


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Masks of several structures, which may overlap."""

    masks: Volume  # (S, D, H, W) booleans, one channel a segment
    segments: tuple[Segment, ...]  # in the order of the channels

    @property
    def overlaps(self) -> list[tuple[str, str, int]]:
        """Pairs of labels that share voxels, and how many."""
        array = self.masks.array
        if int(array.sum(axis=0, dtype=np.int32).max()) < 2:
            return []
        found = []
        for i, one in enumerate(self.segments):
            for j, other in enumerate(self.segments[:i]):
                if shared := int((array[i] & array[j]).sum()):
                    found.append((other.label, one.label, shared))
        return found

    def labels(self) -> Volume:
        """One label map ``(D, H, W)`` with the numbers of the segments, 0 elsewhere.

        Raises:
            ValueError: Segments overlap; they are listed.
        """
        if overlaps := self.overlaps:
            listed = ", ".join(f"{a} and {b} ({n} voxels)" for a, b, n in overlaps[:5])
            raise ValueError(
                f"{self.masks.name} has segments that overlap: {listed}. A label map "
                "has one label a voxel; use .masks, or decide which segment wins."
            )
        top = max(segment.number for segment in self.segments)
        array = np.zeros(self.masks.spatial_shape, np.min_scalar_type(top))
        for mask, segment in zip(self.masks.array, self.segments, strict=True):
            array[mask] = segment.number
        return self.masks.with_array(array)


def read_segmentation(
    path: str | Path, grid: Volume | None = None, *, threshold: float = 0.5
) -> Segmentation:
    """Read a DICOM SEG object: binary, fractional or label map.

    Frames are put where their positions say; slices that the file leaves out, as it may
    where they are empty, are filled with background.

    Args:
        path: The file.
        grid: The image that was segmented, from ``read_series``. None: a grid of the
            file's own, which begins and ends with the first and last slice in it.
        threshold: Of fractional segments a voxel belongs to the mask where its
            probability or occupancy is at least this.

    Returns:
        A mask for each segment, on ``grid``; segments may overlap.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no SEG, is damaged, or does not lie on ``grid``.
    """
    path = Path(path)
    dataset = read_object(path, "SEG", "a segmentation")
    frames = read_frames(path)
    pixels = read_pixels(path).reshape(len(frames), *frames[0].rows_columns)
    kind = str(dataset.get("SegmentationType", "BINARY"))
    segments = tuple(_segment(item) for item in dataset.SegmentSequence)
    numbers = [segment.number for segment in segments]
    whole = _grid_of(frames) if grid is None else grid
    # Turn the grid so that its last two axes are the rows and columns of the frames.
    turned = reorient(_zeros(whole), _orientation(frames))
    masks = np.zeros((len(segments), *turned.spatial_shape), bool)
    for frame, values in zip(frames, pixels, strict=True):
        place = _place(frame, turned, path)
        if kind == "LABELMAP":
            for channel, number in enumerate(numbers):
                masks[channel][place] |= values == number
            continue
        if kind == "FRACTIONAL":
            top = int(dataset.get("MaximumFractionalValue", 255))
            values = values >= threshold * top
        masks[numbers.index(_segment_number(dataset, frame))][place] |= values != 0
    result = reorient(Volume(masks, turned.affine, str(path)), whole.orientation)
    return Segmentation(Volume(result.array, whole.affine, str(path)), segments)


def write_segmentation(
    masks: Volume,
    path: str | Path,
    *,
    series: str | Path,
    names: Mapping[int, str | Segment],
    uid: str | None = None,
    ignore_uids: bool = False,
    algorithm: str = "medseg",
    description: str = "Segmentation",
) -> Path:
    """Write a DICOM SEG object that refers to the images it was made from.

    Patient, study and frame of reference are copied from the series. Segments are
    numbered 1, 2, 3 ... in the order of ``names``, as DICOM wants it.

    Args:
        masks: On the grid of the series, perhaps with other axes: a label map
            ``(D, H, W)``; or ``(S, D, H, W)``, one channel for each of ``names`` in
            their order, as booleans that may overlap, or as probabilities, which are
            stored as a FRACTIONAL segmentation in 255 steps.
        path: The file to write.
        series: Folder of the images, as for ``read_series``.
        names: Label of each value of the map (each channel), such as ``{1: "liver"}``.
        uid: As for ``read_series``.
        ignore_uids: As for ``read_series``.
        algorithm: Name of what made the masks, such as the network's.
        description: What viewers show for the new series.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: highdicom is missing.
        ValueError: The masks lie on another grid, hold labels without a name or
            nothing, or the images have no UIDs to refer to.
        OSError: The folder is missing, full or not writable; nothing is left behind.
    """
    hd = _highdicom()
    path = Path(path)
    frames = series_frames(series, uid=uid, ignore_uids=ignore_uids)
    check_source(frames)
    segments = named_segments(names)
    stack = stack_masks(masks, [*names], frames, probabilities=True)
    fractional = stack.dtype.kind == "f"
    source = [frame.header for frame in frames]
    order = np.arange(len(frames))
    if frames[0].count > 1:  # one enhanced object, whose frames need not be sorted
        source, order = source[:1], np.argsort([frame.number for frame in frames])
    for dataset in source:
        _complete(dataset)
    made_by = hd.AlgorithmIdentificationSequence(
        name=algorithm, version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=segment.label,
            segmented_property_category=segment.category
            or codes.SCT.AnatomicalStructure,
            segmented_property_type=segment.kind or _code(segment.label),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=made_by,
        )
        for number, segment in enumerate(segments, start=1)
    ]
    with warnings.catch_warnings():
        # Names of patients in anonymised sets are no names of persons.
        warnings.filterwarnings("ignore", "The string", UserWarning)
        dataset = hd.seg.Segmentation(
            source_images=source,
            pixel_array=np.moveaxis(stack, 0, -1)[order],
            segmentation_type="FRACTIONAL" if fractional else "BINARY",
            segment_descriptions=described,
            series_instance_uid=generate_uid(),
            series_number=100,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="medseg",
            manufacturer_model_name=algorithm,
            software_versions=__version__,
            device_serial_number="0",
            series_description=description[:64],
        )
    write_whole(path, lambda file: dataset.save_as(file))
    return path


def named_segments(names: Mapping[int, str | Segment]) -> list[Segment]:
    """Segments in the order of ``names``.

    Raises:
        ValueError: There is none, one is background, or a label is empty.
    """
    segments = [
        name if isinstance(name, Segment) else Segment(number, name)
        for number, name in names.items()
    ]
    if not segments or 0 in names or not all(one.label.strip() for one in segments):
        raise ValueError(
            f"names must give each structure a label, and 0 is background, got "
            f"{dict(names)!r}; expected such as {{1: 'liver', 2: 'spleen'}}."
        )
    return segments


def stack_masks(
    masks: Volume,
    numbers: list[int],
    frames: list[Frame],
    *,
    probabilities: bool = False,
) -> NDArray[Any]:
    """Masks as ``(S, slices, rows, columns)``: uint8, or float32 probabilities.

    Raises:
        ValueError: The grid is not that of the frames, a label has no name, the
            channels are not as many as the names, or there is no foreground.
    """
    affine = frames_affine(frames)
    shape = (len(frames), *frames[0].rows_columns)
    image = Volume(np.broadcast_to(np.uint8(0), shape), affine, "the series")
    turned = reorient(masks, image.orientation)
    check_same_geometry(image, turned)
    array = turned.array
    if array.ndim == 3:
        if array.dtype.kind not in "bui":
            raise ValueError(
                f"a label map holds integers, got {array.dtype}. Probabilities have a "
                "channel for each segment, (S, D, H, W)."
            )
        nameless = np.setdiff1d(array, [0, *numbers])
        if nameless.size:
            raise ValueError(
                f"the masks hold labels without a name: {nameless.tolist()[:10]}; "
                f"names are given for {numbers}."
            )
        array = np.stack([array == number for number in numbers])
    elif len(array) != len(numbers):
        raise ValueError(
            f"the masks have {len(array)} channels, but {len(numbers)} names are given."
        )
    if not array.any():
        raise ValueError(
            "the masks are empty: there is nothing to write. An object without any "
            "segment cannot be stored."
        )
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind in "ui" and (low, high) == (0, 1):
        return array.astype(np.uint8)
    if not probabilities or not 0 <= low <= high <= 1:
        raise ValueError(
            f"channels must hold {'probabilities' if probabilities else 'booleans'}, "
            f"got {array.dtype} from {low:g} to {high:g}."
        )
    return array.astype(np.float32)


def check_source(frames: list[Frame]) -> None:
    """Refuse images to which no object can refer.

    Raises:
        ValueError: A UID is missing; the file is named.
    """
    tags = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
    for frame in frames:
        missing = [
            tag for tag in (*tags, "FrameOfReferenceUID") if not frame.header.get(tag)
        ]
        if missing:
            raise ValueError(
                f"{frame.path} has no {', '.join(missing)}, to which a segmentation "
                "must refer (an anonymiser may have blanked them). Write NIfTI "
                "instead, or give the images UIDs first."
            )


def _complete(dataset: pydicom.Dataset) -> None:
    """Add tags that may be empty but must be there, where an export dropped them."""
    tags = ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID"]
    tags += ["StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"]
    for tag in tags:
        if tag not in dataset:
            setattr(dataset, tag, "")
    if not dataset.get("SpecificCharacterSet"):  # empty: the default one
        dataset.pop("SpecificCharacterSet", None)


def read_object(path: Path, modality: str, what: str) -> pydicom.Dataset:
    """Read a DICOM object of one modality, without pixels.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no DICOM, damaged, or of another modality.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not there (looked for from {Path.cwd()}). Give the path of one "
            "DICOM file."
        )
    try:
        dataset = read_header(path)
    except InvalidDicomError as error:
        raise ValueError(f"{path} is no DICOM file.") from error
    found = dataset.get("Modality", "nothing")
    if found != modality:
        raise ValueError(
            f"{path} holds {found}, not {what} ({modality}). Images are read with "
            "read_series."
        )
    return dataset


def _segment(item: pydicom.Dataset) -> Segment:
    def code_of(tag: str) -> Code | None:
        if not item.get(tag):
            return None
        code = item[tag].value[0]
        value = code.get("CodeValue") or code.get("LongCodeValue") or ""
        return Code(value, code.get("CodingSchemeDesignator", ""), code.CodeMeaning)

    number = int(item.SegmentNumber)
    return Segment(
        number=number,
        label=str(item.get("SegmentLabel") or f"segment {number}"),
        category=code_of("SegmentedPropertyCategoryCodeSequence"),
        kind=code_of("SegmentedPropertyTypeCodeSequence"),
    )


def _segment_number(dataset: pydicom.Dataset, frame: Frame) -> int:
    groups = [dataset.PerFrameFunctionalGroupsSequence[frame.number]]
    groups += list(dataset.get("SharedFunctionalGroupsSequence") or [])
    for group in groups:
        if group.get("SegmentIdentificationSequence"):
            item = group.SegmentIdentificationSequence[0]
            return int(item.ReferencedSegmentNumber)
    raise ValueError(f"{frame.path}: {frame} does not say to which segment it belongs.")


def _orientation(frames: list[Frame]) -> str:
    affine = _frame_affine(frames[0], 1.0)
    return Volume(np.zeros((1, 1, 1), bool), affine).orientation


def _frame_affine(frame: Frame, step: float) -> NDArray[np.float64]:
    along_row, along_column = frame.orientation
    lps = np.eye(4)
    lps[:3, 0] = np.cross(along_row, along_column) * step
    lps[:3, 1] = along_column * frame.spacing[0]
    lps[:3, 2] = along_row * frame.spacing[1]
    lps[:3, 3] = frame.position
    return LPS_TO_RAS @ lps


def _grid_of(frames: list[Frame]) -> Volume:
    """The grid that holds all frames, at the distance of slices that is stated."""
    normal = np.cross(*frames[0].orientation)
    along = np.array([frame.position @ normal for frame in frames])
    first = frames[int(along.argmin())]
    places = np.unique(np.round(along - along.min(), 3))
    gap = float(np.diff(places).min()) if len(places) > 1 else 0.0
    step = gap or first.thickness or 1.0
    stated = first.thickness
    if stated and gap and abs(gap / stated - round(gap / stated)) < 0.01:
        step = stated
    depth = round(float(places[-1]) / step) + 1
    shape = (depth, *first.rows_columns)
    return Volume(
        np.broadcast_to(np.uint8(0), shape), _frame_affine(first, step), "the file"
    )


def _zeros(volume: Volume) -> Volume:
    blank = np.broadcast_to(np.uint8(0), volume.spatial_shape)
    return Volume(blank, volume.affine, volume.name)


def _place(frame: Frame, grid: Volume, path: Path) -> Any:
    """Where a frame lies in an array on ``grid``."""
    rows, columns = frame.rows_columns
    own = Volume(
        np.broadcast_to(np.uint8(0), (1, rows, columns)),
        _frame_affine(frame, grid.spacing[0]),
        f"{path}, frame {frame.number + 1}",
    )
    index = to_index(grid, own.affine[:3, 3])
    place = np.rint(index).astype(int)
    steps = np.linalg.inv(grid.affine[:3, :3]) @ own.affine[:3, 1:3]
    stop = place + (1, rows, columns)
    if (
        np.abs(index - place).max() > 0.1
        or not np.allclose(steps, np.eye(3)[:, 1:], atol=1e-3)
        or (place < 0).any()
        or (stop > grid.spatial_shape).any()
    ):
        raise ValueError(
            f"{path} does not lie on the given grid:\n  frame {own}\n  grid  {grid}\n"
            "Give the series that was segmented, or read it without a grid and use "
            "resample_labels_to."
        )
    return (place[0], slice(place[1], stop[1]), slice(place[2], stop[2]))


def _code(label: str) -> Code:
    """SNOMED CT's code of that name, such as Liver, else a private one."""
    words = "".join(word.capitalize() for word in label.replace("_", " ").split())
    if words and words in codes.SCT.dir(words):
        return getattr(codes.SCT, words)
    return Code(label[:16], "99MEDSEG", label[:64])


def _highdicom() -> ModuleType:
    try:
        import highdicom  # noqa: PLC0415 - an optional dependency
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "writing DICOM segmentations needs highdicom, which is not installed: "
            "pip install 'medseg[dicom]'."
        ) from error
    return highdicom
