"""Write book/metrics.md: one set of mask pairs, and what each library scores them.

usage: python scripts/metric_table.py       (needs pip install ".[bench]")

All values come from running the libraries. Where one differs from ours under the same
definition, REASONS says why; a difference without a reason is an error. A test compares
the page with what this writes.
"""

import math
import os
import textwrap
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK
import torch
from numpy.typing import NDArray
from skimage.metrics import adapted_rand_error
from skimage.metrics import hausdorff_distance as skimage_hausdorff

from medseg import metrics

PAGE = Path(__file__).resolve().parent.parent / "book" / "metrics.md"
TOLERANCE = 2.0  # mm
LETTERS = "abcdefghijklmnopqrstuvwxyz"
Mask = NDArray[np.bool_]
Spacing = tuple[float, ...]
Score = Callable[[Mask, Mask, Spacing], float]


class Pair(NamedTuple):
    """Two masks, and what there is to see in them."""

    name: str
    text: str
    pred: Mask
    truth: Mask
    spacing: Spacing


def ellipsoid(shape: Spacing, centre: Spacing, radii: Spacing) -> Mask:
    grid = np.indices([int(n) for n in shape]).T
    return (((grid - centre) / radii) ** 2).sum(axis=-1).T <= 1


def pairs() -> list[Pair]:
    square, blob = np.zeros((2, 80, 80), dtype=bool)
    square[2:40, 2:40] = True
    blob[square] = True
    blob[65:69, 64:69] = True

    organ = ellipsoid((14, 60, 60), (6.5, 30, 30), (4.3, 18, 14))
    other = ellipsoid((14, 60, 60), (6.5, 31.5, 30), (5.2, 19, 15.5))

    border = ellipsoid((48, 48), (24, 4), (15, 15))
    shifted = ellipsoid((48, 48), (24, 6), (15, 15))

    disc = ellipsoid((48, 48), (24, 24), (16, 16))
    ring = disc & ~ellipsoid((48, 48), (24, 24), (9, 9))

    small = ellipsoid((48, 48), (24, 24), (4, 4))
    empty = np.zeros_like(small)
    mm = (1.0, 1.0)
    return [
        Pair("stray", "A square, and a blob of 20 pixels far away", blob, square, mm),
        Pair("slices", "Slices of 5 mm, pixels of 1 mm", other, organ, (5.0, 1.0, 1.0)),
        Pair("border", "Cut by the border of the image", shifted, border, mm),
        Pair("ring", "A ring where there is a disc", ring, disc, mm),
        Pair("missed", "A structure that was missed", empty, small, mm),
        Pair("invented", "A structure that is not there", small, empty, mm),
        Pair("nothing", "Nothing there, and nothing found", empty, empty, mm),
    ]


def ours() -> dict[str, Score]:
    """Our scores by the name of their row, each with its definition."""

    def distances(pred: Mask, truth: Mask, spacing: Spacing) -> float:
        found = metrics.surface_distances(pred, truth, spacing, surface="area_weighted")
        return found.average("mean_of_means")

    def hd(**options: Any) -> Score:
        return lambda p, t, s: metrics.hausdorff_distance(p, t, s, **options)

    def assd(definition: Any) -> Score:
        return lambda p, t, s: metrics.average_surface_distance(
            p, t, s, definition=definition
        )

    def nsd(definition: Any) -> Score:
        return lambda p, t, s: metrics.surface_dice(
            p, t, s, TOLERANCE, definition=definition
        )

    return {
        "Dice": lambda p, t, s: metrics.dice_score(p, t),
        "IoU": lambda p, t, s: metrics.iou_score(p, t),
        "sensitivity": lambda p, t, s: metrics.sensitivity(p, t),
        "specificity": lambda p, t, s: metrics.specificity(p, t),
        "precision": lambda p, t, s: metrics.precision(p, t),
        "volume similarity": lambda p, t, s: metrics.volume_similarity(p, t),
        "relative volume difference": (
            lambda p, t, s: metrics.relative_volume_difference(p, t)
        ),
        "HD": hd(),
        "HD, `area_weighted`": hd(definition="area_weighted"),
        "HD95, `directed_max`": hd(percentile=95),
        "HD95, `pooled`": hd(percentile=95, definition="pooled"),
        "HD95, `area_weighted`": hd(percentile=95, definition="area_weighted"),
        "average distance, `pooled`": assd("pooled"),
        "average distance, `mean_of_means`": assd("mean_of_means"),
        "average distance, by area": distances,
        "surface Dice, `voxel_edges`": nsd("voxel_edges"),
        "surface Dice, `area_weighted`": nsd("area_weighted"),
        "boundary IoU": lambda p, t, s: metrics.boundary_iou(p, t),
        "clDice": lambda p, t, s: metrics.centreline_dice(p, t),
    }


def peers() -> dict[str, dict[str, Score]]:
    """Scores of other libraries, in the row of the definition that they follow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from medpy.metric import binary as medpy  # noqa: PLC0415 - optional
        from monai import metrics as monai  # noqa: PLC0415
        from surface_distance import metrics as deepmind  # noqa: PLC0415

    # surface-distance 0.1 was written for NumPy 1.
    np.Inf, np.NaN = np.inf, np.nan  # type: ignore[attr-defined] # noqa: NPY201

    def of_monai(function: Callable[..., Any], *args: Any, **options: Any) -> Score:
        def score(pred: Mask, truth: Mask, spacing: Spacing) -> float:
            batch = [torch.from_numpy(m)[None, None] for m in (pred, truth)]
            if "spacing" in options:
                options["spacing"] = spacing
            return float(function(*batch, *args, **options))

        return score

    def of_deepmind(function: Callable[..., Any], *args: Any) -> Score:
        def score(pred: Mask, truth: Mask, spacing: Spacing) -> float:
            found = deepmind.compute_surface_distances(truth, pred, spacing)
            return float(np.mean(function(found, *args)))

        return score

    def of_medpy(function: Callable[..., Any], *, mm: bool = False) -> Score:
        return lambda p, t, s: float(function(p, t, s) if mm else function(p, t))

    def of_itk(name: str, kind: str = "LabelOverlapMeasuresImageFilter") -> Score:
        def score(pred: Mask, truth: Mask, spacing: Spacing) -> float:
            images = []
            for mask in (truth, pred):
                images.append(SimpleITK.GetImageFromArray(mask.astype(np.uint8)))
                images[-1].SetSpacing(spacing[::-1])
            measured = getattr(SimpleITK, kind)()
            measured.Execute(*images)
            return float(getattr(measured, name)())

        return score

    def confusion(name: str) -> Score:
        def score(pred: Mask, truth: Mask, spacing: Spacing) -> float:
            batch = [torch.from_numpy(m)[None, None].float() for m in (pred, truth)]
            counts = monai.get_confusion_matrix(batch[0], batch[1])
            return float(monai.compute_confusion_matrix_metric(name, counts))

        return score

    hausdorff = monai.compute_hausdorff_distance
    surface_dice = monai.compute_surface_dice
    itk_distance = "HausdorffDistanceImageFilter"
    return {
        "MONAI": {
            "Dice": of_monai(monai.compute_dice),
            "IoU": of_monai(monai.compute_iou),
            "sensitivity": confusion("sensitivity"),
            "specificity": confusion("specificity"),
            "precision": confusion("precision"),
            "HD": of_monai(hausdorff, True, spacing=()),
            "HD95, `directed_max`": of_monai(
                hausdorff, True, percentile=95, spacing=()
            ),
            "average distance, `pooled`": of_monai(
                monai.compute_average_surface_distance,
                True,
                symmetric=True,
                spacing=(),
            ),
            "surface Dice, `voxel_edges`": of_monai(
                surface_dice, [TOLERANCE], True, spacing=()
            ),
            "surface Dice, `area_weighted`": of_monai(
                surface_dice, [TOLERANCE], True, spacing=(), use_subvoxels=True
            ),
        },
        "surface-distance": {
            "Dice": lambda p, t, s: float(deepmind.compute_dice_coefficient(t, p)),
            "HD, `area_weighted`": of_deepmind(deepmind.compute_robust_hausdorff, 100),
            "HD95, `area_weighted`": of_deepmind(deepmind.compute_robust_hausdorff, 95),
            "average distance, by area": of_deepmind(
                deepmind.compute_average_surface_distance
            ),
            "surface Dice, `area_weighted`": of_deepmind(
                deepmind.compute_surface_dice_at_tolerance, TOLERANCE
            ),
        },
        "medpy": {
            "Dice": of_medpy(medpy.dc),
            "IoU": of_medpy(medpy.jc),
            "sensitivity": of_medpy(medpy.sensitivity),
            "specificity": of_medpy(medpy.specificity),
            "precision": of_medpy(medpy.precision),
            "relative volume difference": of_medpy(medpy.ravd),
            "HD": of_medpy(medpy.hd, mm=True),
            "HD95, `pooled`": of_medpy(medpy.hd95, mm=True),
            "average distance, `pooled`": of_medpy(medpy.assd, mm=True),
        },
        "SimpleITK": {
            "Dice": of_itk("GetDiceCoefficient"),
            "IoU": of_itk("GetJaccardCoefficient"),
            "volume similarity": of_itk("GetVolumeSimilarity"),
            "HD": of_itk("GetHausdorffDistance", itk_distance),
            "average distance, `mean_of_means`": of_itk(
                "GetAverageHausdorffDistance", itk_distance
            ),
        },
        "scikit-image": {"HD": lambda p, t, s: float(skimage_hausdorff(p, t))},
    }


class Reason(NamedTuple):
    """Why a library differs from us in some rows (by their start) of some pairs."""

    libraries: tuple[str, ...]
    rows: tuple[str, ...]
    pairs: tuple[str, ...]  # none: all
    text: str


EMPTY = ("missed", "invented", "nothing")
REASONS = (
    Reason(
        ("SimpleITK", "scikit-image"),
        ("HD", "average"),
        ("stray", "border", "ring"),
        "Takes distances from all voxels of a mask, not from those at its surface. "
        "What lies inside the other mask is at a distance of 0: averages shrink, and a "
        "hole counts only from the other side.",
    ),
    Reason(
        ("SimpleITK",),
        ("average",),
        ("slices",),
        "Takes distances from all voxels of a mask, as above.",
    ),
    Reason(
        ("scikit-image",),
        ("HD",),
        ("slices",),
        "Has no spacing: the figure is in voxels.",
    ),
    Reason(
        ("SimpleITK",),
        ("volume",),
        (),
        "Has a sign, and a range of 2: 2 (P - T) / (P + T), here for T first. Ours is "
        "1 minus half its size, as in the paper.",
    ),
    Reason(
        ("MONAI",),
        ("Dice", "IoU"),
        ("invented",),
        "With an empty reference, nan by default (`ignore_empty`): what is invented is "
        "dropped from an average. Ours is 0.",
    ),
    Reason(
        ("MONAI",),
        ("HD95",),
        ("missed", "invented"),
        "nan, which drops out of an average: the worst case improves it. (HD, at 100 "
        "per cent, is inf.) Ours is inf, and a report puts its policy in the place.",
    ),
    Reason(
        ("MONAI", "medpy"),
        ("precision",),
        ("missed",),
        "0/0 by its formula. Ours is 0, since something was missed.",
    ),
    Reason(
        ("medpy", "SimpleITK"),
        ("HD", "average", "relative"),
        EMPTY,
        "Raises an error when a mask is empty.",
    ),
    Reason(
        ("medpy", "SimpleITK", "surface-distance", "scikit-image"),
        ("Dice", "IoU", "HD"),
        ("nothing",),
        "Each has its own value for two empty masks. Ours is nan throughout, to be "
        "counted and not averaged.",
    ),
    Reason(
        ("surface-distance",),
        ("average",),
        ("missed", "invented"),
        "nan, where a surface without a counterpart is infinitely far from it.",
    ),
    Reason(
        ("scikit-image",),
        ("Rand",),
        (),
        "Takes all that is predicted as background for one more object, and leaves out "
        "the pairs of a pixel with itself. Ours, as ISBI 2012, takes each such pixel "
        "for an object of its own.",
    ),
    Reason(
        ("MONAI",),
        ("FROC",),
        (),
        "Interpolates between the points of the curve, and leaves out the point of the "
        "lowest score. Ours reads the best point with no more false positives.",
    ),
)


def value(score: Callable[..., float], *args: Any) -> float | str:
    """The score, or the name of the error."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return score(*args)
    except Exception as error:  # whatever a library raises is what the table shows
        return type(error).__name__


def shown(number: float | str) -> str:
    if isinstance(number, str):
        return f"`{number}`"
    if abs(number) > 1e100 and math.isfinite(number):
        return "largest float"
    return f"{number:.3f}" if math.isfinite(number) else f"{number}"


def letter(library: str, row: str, pair: str) -> str:
    """The letter of the reason for a difference.

    Raises:
        ValueError: REASONS has none.
    """
    for index, reason in enumerate(REASONS):
        if (
            library in reason.libraries
            and row.startswith(reason.rows)
            and (not reason.pairs or pair in reason.pairs)
        ):
            return LETTERS[index]
    raise ValueError(f"{library} differs from us in {row!r} of {pair!r}: say why.")


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |\n"


def our_cells(pair: Pair) -> list[tuple[str, str]]:
    """Our column of a table: the row and the value."""
    return [
        (row, shown(value(score, pair.pred, pair.truth, pair.spacing)))
        for row, score in ours().items()
    ]


def table(pair: Pair, others: dict[str, dict[str, Score]]) -> str:
    """One pair: our value and the peers', a letter where they differ."""
    text = line(["", "medseg", *others]) + line(["---"] * (2 + len(others)))
    for row, mine in our_cells(pair):
        cells = [row, mine]
        for library, scores in others.items():
            if row not in scores:
                cells.append("")
                continue
            cell = shown(value(scores[row], pair.pred, pair.truth, pair.spacing))
            cells.append(
                cell
                if cell == mine
                else f"{cell} **{letter(library, row, pair.name)}**"
            )
        text += line(cells)
    return text


def object_rows() -> list[tuple[str, float, dict[str, Callable[[], float]]]]:
    """Scores of objects, lesions and probabilities: row, ours, and the peers'."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai import metrics as monai  # noqa: PLC0415 - optional

    truth = np.zeros((24, 24), dtype=np.int64)
    truth[2:10, 2:10], truth[2:10, 12:20], truth[14:22, 4:12] = 1, 2, 3
    pred = np.roll(truth, 1, axis=1)
    pred[truth == 3] = 0
    pred[14:18, 16:20] = 4

    def quality(name: str) -> Callable[[], float]:
        maps = [torch.from_numpy(m) for m in (pred, truth)]
        return lambda: float(monai.compute_panoptic_quality(maps[0], maps[1], name))

    scans = [
        metrics.Candidates(np.array([0.9, 0.2, -np.inf]), np.array([0.8, 0.6])),
        metrics.Candidates(np.array([0.7]), np.array([0.5, 0.3])),
    ]

    def froc() -> float:
        hits = np.concatenate([c.lesion_scores for c in scans])
        alarms = np.concatenate([c.false_scores for c in scans])
        curve = monai.compute_froc_curve_data(alarms, hits[hits > 0], hits.size, 2)
        return float(monai.compute_froc_score(*curve, metrics.FROC_RATES))

    grid = (np.indices((24, 24)).sum(axis=0) + 0.5) / 48
    inside = (truth > 0).astype(np.int64)
    both = np.stack([1 - grid, grid])[None]

    def ece() -> float:
        metric = monai.CalibrationErrorMetric(num_bins=15, include_background=False)
        one_hot = np.stack([1 - inside, inside])[None]
        metric(torch.from_numpy(both), torch.from_numpy(one_hot))
        value: Any = metric.aggregate()
        return float(value)

    panoptic = metrics.panoptic_quality(pred, truth)
    return [
        ("PQ", panoptic.quality, {"MONAI": quality("pq")}),
        ("SQ", panoptic.segmentation, {"MONAI": quality("sq")}),
        ("RQ", panoptic.recognition, {"MONAI": quality("rq")}),
        ("AJI", metrics.aggregated_jaccard(pred, truth), {}),
        ("average precision", metrics.average_precision(pred, truth).mean, {}),
        (
            "Rand F-score",
            metrics.v_rand(pred, truth).f_score,
            {"scikit-image": lambda: 1 - float(adapted_rand_error(truth, pred)[0])},
        ),
        ("FROC, average sensitivity", metrics.froc(scans).average, {"MONAI": froc}),
        (
            "ECE of class 1, 15 bins",
            metrics.calibration_error(both, inside[None], class_index=1),
            {"MONAI": ece},
        ),
        ("Brier score", metrics.brier_score(both[:, 1:], inside[None]), {}),
    ]


def object_table() -> str:
    libraries = ["MONAI", "scikit-image"]
    text = line(["", "medseg", *libraries]) + line(["---"] * 4)
    for row, number, others in object_rows():
        cells = [row, shown(number)]
        for library in libraries:
            cell = shown(value(others[library])) if library in others else ""
            if cell in ("", shown(number)):
                cells.append(cell)
            else:
                cells.append(f"{cell} **{letter(library, row, 'objects')}**")
        text += line(cells)
    return text


HEAD = """# The metrics beside other libraries

Written by `scripts/metric_table.py`, which runs the libraries; a test keeps it fresh.

Scores have names, and names have several definitions. Here are {count} pairs of masks,
and what each library says of them: {versions}.
All functions are called with their defaults (surface-distance 0.1 with `np.Inf` and
`np.NaN` put back, without which it fails on NumPy 2). A library's value stands in the
row of the definition that it follows, as far as it follows one; what the definitions
are is in {{doc}}`api/metrics`. Where it differs from ours, a **letter** leads to the
reason below. Distances are in mm; surface Dice is that at {tolerance:g} mm.

Read down a column first. For the first pair, HD95 is {stray}:
one pair of masks, one name, three definitions in use. A paper that gives an HD95 and
not its definition, or the library with its version, cannot be compared with another.

"""


def page() -> str:
    """The page, from running the libraries.

    Raises:
        ValueError: A value differs from ours, and REASONS does not say why.
    """
    others = peers()
    cases = pairs()
    names = ["monai", "surface-distance", "medpy", "SimpleITK", "scikit-image"]
    versions = [f"{name} {version(name)}" for name in names]
    cells = dict(our_cells(cases[0]))
    hd95 = [cells[f"HD95, `{d}`"] for d in ("directed_max", "area_weighted", "pooled")]
    text = HEAD.format(
        count="seven" if len(cases) == 7 else len(cases),
        versions=", ".join(versions[:-1]) + " and " + versions[-1],
        tolerance=TOLERANCE,
        stray=f"{hd95[0]}, {hd95[1]} or {hd95[2]} mm",
    )
    for pair in cases:
        text += f"## {pair.text}\n\n{table(pair, others)}\n"
    text += "## Objects, lesions, probabilities\n\n"
    text += (
        "Three objects, of which two are found a pixel to the side, one is missed and "
        "one\ninvented; two scans with four lesions; a ramp of probabilities.\n\n"
    )
    text += object_table() + "\n## Why they differ\n\n"
    used = [
        index for index, reason in enumerate(REASONS) if f"**{LETTERS[index]}**" in text
    ]
    if len(used) < len(REASONS):
        unused = [r.text for i, r in enumerate(REASONS) if i not in used]
        raise ValueError(f"REASONS that no value needs: {unused}")
    text += "\n\n".join(
        textwrap.fill(
            f"**{LETTERS[index]}** {reason.text}",
            88,
            break_on_hyphens=False,
        )
        for index, reason in enumerate(REASONS)
    )
    return text + "\n"


def main() -> None:
    new = PAGE.with_suffix(".md.tmp")
    new.write_text(page(), encoding="utf-8")
    os.replace(new, PAGE)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
