"""Dice, HD95, ASSD and surface Dice of every class: time and memory beside the peers.

    pip install ".[bench]"
    python tests/bench/bench_metrics.py [--quick] [--repeats 5]

All score the same pair of label maps, one after the other, on one thread; the ratio of
their CPU times is what counts. Each peer gets masks in the form it wants (one-hot
tensors for MONAI) before the clock starts. Peak memory is what one call adds to a fresh
process (Linux; elsewhere the row is left empty).

MONAI and medpy count voxel edges, as `scores_per_class` does; surface-distance weighs
surface elements by area, so that its values differ, and `surface_distances` with
``surface="area_weighted"`` is timed beside it.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from medpy.metric import binary as medpy_binary
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from surface_distance import metrics as deepmind

from medseg.metrics import dice_score, scores_per_class, surface_distances

np.Inf = np.inf  # noqa: NPY201 - surface-distance 0.1 was written for NumPy 1
TOLERANCE = 2.0
SPACINGS = {2: (0.8, 0.8), 3: (0.8, 0.8, 2.0)}


def organs(shape, count, seed):
    """Label maps of wavy ellipsoids, and a prediction that is off by a few voxels."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij", sparse=True)
    truth, pred = np.zeros((2, *shape), dtype=np.uint8)
    for k in range(1, count + 1):
        centre = rng.uniform(0.25, 0.75, len(shape)) * shape
        radii = rng.uniform(0.09, 0.2, len(shape)) * shape
        waves = rng.normal(0, 1, (4, len(shape))) * 3
        phases = rng.uniform(0, 6, 4)
        for labels, error in ((truth, 0.0), (pred, 0.04)):
            place = [
                (x - c - rng.normal(0, 20 * error)) / r
                for x, c, r in zip(grid, centre, radii, strict=True)
            ]
            bumps = sum(
                0.04 * np.sin(sum(w * x for w, x in zip(wave, place, strict=True)) + p)
                for wave, p in zip(
                    waves, phases + rng.normal(0, 20 * error), strict=True
                )
            )
            labels[sum(x**2 for x in place) < (1 + bumps) ** 2] = k
    return pred, truth


def one_hot(labels, count):
    """(1, count, *spatial), without the background."""
    return torch.from_numpy(np.stack([labels == k for k in range(1, count + 1)])[None])


def prepare(library, pred, truth, count):
    """The masks in the form that a library takes."""
    if library == "MONAI":
        return one_hot(pred, count), one_hot(truth, count)
    if library in ("surface-distance", "medpy", "ours by area"):
        return [(pred == k, truth == k) for k in range(1, count + 1)]
    return pred, truth


def ours(masks, count, spacing):
    scores = scores_per_class(*masks, count + 1, spacing, tolerance=TOLERANCE)
    return np.array(scores[1:]).T


def ours_by_area(masks, count, spacing):
    rows = []
    for pred, truth in masks:
        distances = surface_distances(pred, truth, spacing, surface="area_weighted")
        rows.append(
            (
                dice_score(pred, truth),
                distances.hausdorff(95),
                distances.average("mean_of_means"),
                distances.surface_dice(TOLERANCE),
            )
        )
    return np.array(rows)


def monai(masks, count, spacing):
    pred, truth = masks
    return np.stack(
        [
            compute_dice(pred, truth)[0],
            compute_hausdorff_distance(
                pred, truth, True, percentile=95, spacing=spacing
            )[0],
            compute_average_surface_distance(
                pred, truth, True, symmetric=True, spacing=spacing
            )[0],
            compute_surface_dice(
                pred, truth, [TOLERANCE] * count, True, spacing=spacing
            )[0],
        ],
        axis=1,
    )


def deepminds(masks, count, spacing):
    rows = []
    for pred, truth in masks:
        distances = deepmind.compute_surface_distances(truth, pred, spacing)
        rows.append(
            (
                deepmind.compute_dice_coefficient(truth, pred),
                deepmind.compute_robust_hausdorff(distances, 95),
                np.mean(deepmind.compute_average_surface_distance(distances)),
                deepmind.compute_surface_dice_at_tolerance(distances, TOLERANCE),
            )
        )
    return np.array(rows)


def medpys(masks, count, spacing):
    """It has no surface Dice: three scores, not four."""
    return np.array(
        [
            (
                medpy_binary.dc(pred, truth),
                medpy_binary.hd95(pred, truth, spacing),
                medpy_binary.assd(pred, truth, spacing),
            )
            for pred, truth in masks
        ]
    )


LIBRARIES = {
    "medseg": ours,
    "MONAI": monai,
    "surface-distance": deepminds,
    "ours by area": ours_by_area,
    "medpy": medpys,
}
ROWS = {
    "2D, 5 classes": ((512, 512), 5),
    "3D, 1 class": ((256, 256, 128), 1),
    "3D, 5 classes": ((256, 256, 128), 5),
    "3D, 10 classes": ((256, 256, 128), 10),
}
QUICK = {
    "2D, 5 classes": ((256, 256), 5),
    "3D, 5 classes": ((96, 96, 48), 5),
}
BARS = {  # ratios of CPU time to medseg's
    ("2D, 5 classes", "MONAI"): 10,
    ("2D, 5 classes", "surface-distance"): 2,
    ("3D, 5 classes", "MONAI"): 12,
    ("3D, 5 classes", "surface-distance"): 12,
}


def seconds(function, *args):
    """CPU time and wall time of one call, and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(*args)
    return time.process_time() - cpu, time.perf_counter() - wall, result


def peak_of_this_process(library, file):
    """Print the MiB that a call adds to the peak of memory of this process."""
    with np.load(file) as arrays:
        pred, truth, count = arrays["pred"], arrays["truth"], int(arrays["count"])
    masks, spacing = prepare(library, pred, truth, count), SPACINGS[pred.ndim]
    small = tuple(slice(0, 8) for _ in pred.shape)  # loads what is loaded on first use
    corner = np.zeros_like(pred[small])
    corner[(slice(2, 5),) * pred.ndim] = 1
    LIBRARIES[library](prepare(library, corner, corner, 1), 1, spacing)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    LIBRARIES[library](masks, count, spacing)
    print((memory("VmHWM") - before) / 1024)


def memory(field):
    """A line of /proc/self/status, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise LookupError(field)


def peak_memory(library, pred, truth, count):
    """MiB that one call needs on top of its masks, in a process of its own."""
    if not Path("/proc/self/clear_refs").exists():
        return float("nan")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "masks.npz"
        np.savez(file, pred=pred, truth=truth, count=count)
        command = [sys.executable, __file__, "--peak-of", library, str(file)]
        out = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(out.stdout)


def row(name, shape, count, repeats, libraries):
    """Time and print one row; return whether all bars are reached."""
    pred, truth = organs(shape, count, seed=0)
    spacing = SPACINGS[len(shape)]
    masks = {lib: prepare(lib, pred, truth, count) for lib in libraries}
    runs = {lib: [] for lib in libraries}
    results = {}
    for _ in range(repeats):  # in turns: what else the machine does hits all alike
        for lib in libraries:
            if lib == "medpy" and runs[lib]:
                continue  # too slow to be timed twice
            *times, results[lib] = seconds(LIBRARIES[lib], masks[lib], count, spacing)
            runs[lib].append(times)
    agree = np.nanmax(np.abs(results["medseg"] - results["MONAI"]))
    hd95 = np.median(results["medseg"][:, 1])
    print(f"\n{name}, {'x'.join(map(str, shape))}: median HD95 {hd95:.1f} mm")
    print(f"largest difference to MONAI: {agree:.1e}")
    print(f"{'':18}{'CPU s':>9}{'wall s':>9}{'ratio':>8}{'bar':>6}{'peak MiB':>10}")
    reached = True
    for lib in libraries:
        cpu, wall = (statistics.median(t[i] for t in runs[lib]) for i in (0, 1))
        ratio = statistics.median(
            theirs[0] / mine[0]
            for theirs, mine in zip(runs[lib], runs["medseg"], strict=False)
        )
        bar = BARS.get((name, lib))
        reached &= bar is None or ratio >= bar
        peak = peak_memory(lib, pred, truth, count)
        print(f"{lib:18}{cpu:9.4f}{wall:9.4f}{ratio:7.1f}x{bar or '':>6}{peak:10.1f}")
    return reached


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small masks, seconds")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--medpy", action="store_true", help="medpy too: a minute")
    parser.add_argument("--peak-of", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # surface-distance calls SciPy by its old names
    if args.peak_of:
        peak_of_this_process(*args.peak_of)
        return 0
    libraries = [lib for lib in LIBRARIES if lib != "medpy" or args.medpy]
    rows = QUICK if args.quick else ROWS
    reached = [
        row(name, shape, count, args.repeats, libraries)
        for name, (shape, count) in rows.items()
    ]
    if not args.quick:
        print("\nall bars reached" if all(reached) else "\na bar is missed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
