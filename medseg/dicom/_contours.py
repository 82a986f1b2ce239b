"""RT structure sets (RTSTRUCT): outlines of masks, slice by slice, by pydicom alone."""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from skimage.measure import grid_points_in_poly

from medseg import __version__
from medseg.dicom._segments import (
    Segment,
    Segmentation,
    check_source,
    named_segments,
    read_object,
    stack_masks,
)
from medseg.dicom._series import LPS_TO_RAS, Frame, frames_affine, series_frames
from medseg.volumes import Volume, to_index, to_world, write_whole

_COLOURS = [(230, 75, 53), (77, 187, 213), (0, 160, 135), (243, 155, 127)]
_COLOURS += [(60, 84, 136), (145, 209, 194), (126, 97, 72), (220, 0, 0)]


def mask_outlines(mask: ArrayLike) -> list[NDArray[np.float64]]:
    """The outlines of a mask along the edges of its pixels.

    Pixels that touch at a corner only are outlined each for itself. The even-odd rule
    turns the outlines, holes included, into the mask again, and their area is the
    number of its pixels: a smoothed outline would lose part of small structures.

    Args:
        mask: ``(H, W)``.

    Returns:
        Closed polygons ``(N, 2)`` of row and column, without repeating the first point;
        pixel centres are whole numbers, so corners end in .5. Outer outlines and
        holes run in opposite directions. None for an empty mask.

    Raises:
        ValueError: The mask has another number of axes.

    Example:
        >>> mask_outlines([[0, 1], [0, 1]])[0].tolist()
        [[-0.5, 0.5], [1.5, 0.5], [1.5, 1.5], [-0.5, 1.5]]
    """
    inside = np.asarray(mask) != 0
    if inside.ndim != 2:
        raise ValueError(f"a slice has two axes (H, W), got shape {inside.shape}.")
    padded = np.pad(inside, 1).astype(np.int8)
    across, down = np.diff(padded, axis=1), np.diff(padded, axis=0)
    # Each edge between foreground and background is a step from corner to corner, with
    # the foreground at its left; corner (r, c) is the upper left one of pixel (r, c).
    exits: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for changes, sign, step in (
        (across, 1, (1, 0)),
        (across, -1, (-1, 0)),
        (down, 1, (0, -1)),
        (down, -1, (0, 1)),
    ):
        for row, column in np.argwhere(changes == sign).tolist():
            corner = (row - 1, column) if changes is across else (row, column - 1)
            if -1 in step:  # it starts at the other end
                corner = (corner[0] - step[0], corner[1] - step[1])
            exits[corner].append(step)
    outlines = []
    for start in sorted(exits):
        while exits[start]:
            outlines.append(_follow(exits, start))
    return outlines


def write_contours(
    masks: Volume,
    path: str | Path,
    *,
    series: str | Path,
    names: Mapping[int, str | Segment],
    uid: str | None = None,
    ignore_uids: bool = False,
    label: str = "medseg",
) -> Path:
    """Write an RT structure set: the outlines of masks on the slices of a series.

    Outlines run along pixel edges, so that areas and, read back, masks are exactly
    those that were given; they look like stairs. Structures with holes are stored as
    ``CLOSEDPLANAR_XOR``, which older planning systems may not read. The format has
    outlines in the slices only, nothing in between, and is written for images of one
    frame a file. What this function writes has not been tried in a planning system: it
    is for teaching and research.

    Args:
        masks: On the grid of the series, perhaps with other axes: a label map
            ``(D, H, W)``, or booleans ``(S, D, H, W)``, which may overlap.
        path: The file to write.
        series: Folder of the images, as for ``read_series``.
        names: Label of each value of the map (each channel), such as ``{1: "liver"}``.
        uid: As for ``read_series``.
        ignore_uids: As for ``read_series``.
        label: Name of the structure set, which viewers show.

    Returns:
        The path.

    Raises:
        ValueError: The masks lie on another grid, hold labels without a name or
            nothing, or the images have no UIDs to refer to.
        OSError: The folder is missing, full or not writable; nothing is left behind.
    """
    path = Path(path)
    frames = series_frames(series, uid=uid, ignore_uids=ignore_uids)
    if frames[0].count > 1:
        raise ValueError(
            f"{frames[0].path} is an enhanced object of many frames; contours are "
            "written for images of one frame a file. Write a segmentation instead."
        )
    check_source(frames)
    segments = named_segments(names)
    stack = stack_masks(masks, [*names], frames)
    dataset = _structure_set(frames, label)
    lps = LPS_TO_RAS @ frames_affine(frames)
    image = Volume(np.broadcast_to(np.uint8(0), stack.shape[1:]), lps, "series in LPS")
    for number, (segment, mask) in enumerate(
        zip(segments, stack, strict=True), start=1
    ):
        roi, observation = Dataset(), Dataset()
        roi.ROINumber = observation.ReferencedROINumber = number
        roi.ReferencedFrameOfReferenceUID = frames[0].header.FrameOfReferenceUID
        roi.ROIName = segment.label[:64]
        roi.ROIGenerationAlgorithm = "AUTOMATIC"
        observation.ObservationNumber = number
        observation.RTROIInterpretedType = ""
        observation.ROIInterpreter = ""
        dataset.StructureSetROISequence.append(roi)
        dataset.RTROIObservationsSequence.append(observation)
        contours = Dataset()
        contours.ReferencedROINumber = number
        contours.ROIDisplayColor = list(_COLOURS[(number - 1) % len(_COLOURS)])
        contours.ContourSequence = _contours(mask, frames, image)
        dataset.ROIContourSequence.append(contours)
    write_whole(path, lambda file: dataset.save_as(file, enforce_file_format=True))
    return path


def read_contours(path: str | Path, grid: Volume) -> Segmentation:
    """Read an RT structure set as masks on the grid of the image it was drawn on.

    A voxel belongs to a structure if its centre lies inside the outlines of its slice,
    or on one. Of nested outlines the inner one is a hole (even-odd rule), whether they
    are stored as XOR or, as most planning systems do, as plain closed outlines.
    Points and open lines are passed over.

    Args:
        path: The file.
        grid: The image, from ``read_series``; outlines lie in its slices ``[d]``.

    Returns:
        A mask for each structure; those without outlines are empty.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no structure set or is damaged, or an outline does not
            lie in a slice of ``grid``.
    """
    path = Path(path)
    dataset = read_object(path, "RTSTRUCT", "a structure set")
    rois = dataset.get("StructureSetROISequence") or []
    segments = [
        Segment(int(roi.ROINumber), str(roi.get("ROIName") or f"ROI {roi.ROINumber}"))
        for roi in rois
    ]
    if not segments:
        raise ValueError(f"{path} is a structure set without any structure.")
    masks = np.zeros((len(segments), *grid.spatial_shape), bool)
    numbers = [segment.number for segment in segments]
    for item in dataset.get("ROIContourSequence") or []:
        channel = masks[numbers.index(int(item.ReferencedROINumber))]
        on_edge = np.zeros(grid.spatial_shape, bool)
        for contour in item.get("ContourSequence") or []:
            if not str(contour.ContourGeometricType).startswith("CLOSED"):
                continue
            depth, polygon = _in_slice(contour, grid, path)
            where = grid_points_in_poly(grid.spatial_shape[1:], polygon, binarize=False)
            channel[depth] ^= where == 1
            on_edge[depth] |= where > 1
        channel |= on_edge
    return Segmentation(Volume(masks, grid.affine, str(path)), tuple(segments))


def _follow(
    exits: dict[tuple[int, int], list[tuple[int, int]]], start: tuple[int, int]
) -> NDArray[np.float64]:
    """Walk from a corner along the edges, back to it; used edges are removed."""
    corner, step = start, exits[start].pop()
    corners = []
    first_step = step
    while True:
        corner = (corner[0] + step[0], corner[1] + step[1])
        if corner == start:
            break
        ways = exits[corner]
        # Where four edges meet, turn left and stay with the same pixel.
        left = (-step[1], step[0])
        following = left if left in ways else ways[0]
        ways.remove(following)
        if following != step:
            corners.append(corner)
        step = following
    if first_step != step:
        corners.insert(0, start)
    return np.array(corners) - 0.5


def _contours(mask: NDArray[Any], frames: list[Frame], image: Volume) -> list[Dataset]:
    """One item for each outline of a structure."""
    found = [
        (depth, outline)
        for depth, pixels in enumerate(mask)
        if pixels.any()
        for outline in mask_outlines(pixels)
    ]
    with_holes = any(_signed_area(outline) < 0 for _, outline in found)
    items = []
    for number, (depth, outline) in enumerate(found, start=1):
        index = np.column_stack([np.full(len(outline), depth), outline])
        points = to_world(image, index)
        item = Dataset()
        item.ContourNumber = number
        item.ContourGeometricType = (
            "CLOSEDPLANAR_XOR" if with_holes else "CLOSED_PLANAR"
        )
        item.NumberOfContourPoints = len(points)
        item.ContourData = [f"{value:.4f}" for value in points.ravel()]
        item.ContourImageSequence = [_reference(frames[depth])]
        items.append(item)
    return items


def _signed_area(outline: NDArray[np.float64]) -> float:
    """Positive for outer outlines, negative for holes, in pixels."""
    row, column = outline.T
    return 0.5 * float(row @ np.roll(column, -1) - column @ np.roll(row, -1))


def _in_slice(
    contour: Dataset, grid: Volume, path: Path
) -> tuple[int, NDArray[np.float64]]:
    """The slice of an outline, and its points as rows and columns."""
    values = np.array(contour.ContourData, float)
    points = values.reshape(-1, 3) * (-1, -1, 1)  # LPS to RAS
    index = to_index(grid, points)
    depth = int(np.rint(index[:, 0].mean()))
    if not (
        np.abs(index[:, 0] - depth).max() <= 0.25 and 0 <= depth < grid.spatial_shape[0]
    ):
        raise ValueError(
            f"{path} has an outline between the slices {index[:, 0].min():.2f} and "
            f"{index[:, 0].max():.2f} of 0..{grid.spatial_shape[0] - 1}; expected it "
            f"in one slice of {grid}. Give the series that it was drawn on."
        )
    # Rounded, so that a point on a pixel's centre is not just beside it.
    return depth, np.round(index[:, 1:], 3)


def _reference(frame: Frame) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = frame.header.SOPClassUID
    item.ReferencedSOPInstanceUID = frame.header.SOPInstanceUID
    return item


def _structure_set(frames: list[Frame], label: str) -> FileDataset:
    """An RTSTRUCT object without structures yet."""
    source = frames[0].header
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    # With explicit VR a contour of more than 64 KiB could not be stored.
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    if source.get("SpecificCharacterSet"):
        dataset.SpecificCharacterSet = source.SpecificCharacterSet
    tags = ["PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID"]
    tags += ["StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName"]
    for tag in tags:
        setattr(dataset, tag, source.get(tag, ""))
    dataset.StudyInstanceUID = source.StudyInstanceUID
    dataset.SeriesInstanceUID = generate_uid()
    dataset.SeriesNumber = 101
    dataset.Modality = "RTSTRUCT"
    dataset.OperatorsName = ""
    dataset.Manufacturer = "medseg"
    dataset.SoftwareVersions = __version__
    dataset.FrameOfReferenceUID = source.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = ""
    now = datetime.now(UTC)
    dataset.StructureSetLabel = label[:16]
    dataset.StructureSetDate = now.strftime("%Y%m%d")
    dataset.StructureSetTime = now.strftime("%H%M%S")
    images, study, reference = Dataset(), Dataset(), Dataset()
    images.SeriesInstanceUID = source.SeriesInstanceUID
    images.ContourImageSequence = [_reference(frame) for frame in frames]
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # a study, retired
    study.ReferencedSOPInstanceUID = source.StudyInstanceUID
    study.RTReferencedSeriesSequence = [images]
    reference.FrameOfReferenceUID = source.FrameOfReferenceUID
    reference.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [reference]
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    return dataset
