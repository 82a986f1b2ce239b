"""Sliding window over a volume, beside MONAI's: time outside the network, and memory.

    pip install ".[bench]"
    python tests/bench/bench_inference.py [--quick] [--repeats 1] [--threads 1]

The task is a label map of a volume of 256 x 256 x 96 voxels by a small 3D U-Net, in
windows of 64 x 64 x 64 with an overlap of a half and Gaussian weights: what a user
wants in the end. MONAI's ``sliding_window_inference`` returns the mean logits, of which
``argmax`` is taken; rows with those alone are printed too. Both run the same windows.

*Outside* is the CPU time of the call without that of the network, whose forward passes
are timed by themselves. *Memory* is the peak of the process above what it held before
the call, the volume among it, after one window had passed through the network; what
the network needs for one window is in it, and printed beside it. Each row runs in a
process of its own, whose allocator hands large blocks back at once, as otherwise its
habits are measured. Rows take turns, so that a busy machine slows all of them; figures
are medians. Nearly all of the time, some ten minutes for the full size, goes into the
network.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from medseg.inference import sliding_window
from medseg.models.unet import UNet

PATCH = (64, 64, 64)
WIDTHS = (16, 32, 64)  # with 4 channels, the convolutions themselves take more memory
TASKS = {"label map": True, "logits": False}


class Timed(nn.Module):
    """A network that adds up the CPU time of its forward passes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seconds = network, 0.0

    def forward(self, images: Tensor) -> Tensor:
        start = time.process_time()
        logits = self.network(images)
        self.seconds += time.process_time() - start
        return logits


def monai(volume: Tensor, model: nn.Module, labels: bool) -> Tensor:
    from monai.inferers import sliding_window_inference  # noqa: PLC0415 - a peer

    with torch.no_grad():
        logits: Any = sliding_window_inference(
            volume, PATCH, 1, model, overlap=0.5, mode="gaussian"
        )
        return logits.argmax(dim=1) if labels else logits


def ours(volume: Tensor, model: nn.Module, labels: bool) -> Tensor:
    output: Any = "labels" if labels else "logits"
    return sliding_window(model, volume, patch_size=PATCH, output=output)


WHO: dict[str, Callable[[Tensor, nn.Module, bool], Tensor]] = {
    "medseg": ours,
    "MONAI": monai,
}


def held() -> float:
    """MiB that the process holds; from here on its peak is counted anew (Linux)."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return status("VmRSS")


def status(name: str) -> float:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(name))
    return int(line.split()[1]) / 2**10


def measure(
    who: str, task: str, classes: int, size: tuple[int, ...], threads: int
) -> dict[str, float]:
    """Predict one volume in this process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Timed(UNet(1, classes, widths=WIDTHS, spatial_dims=3).eval())
    volume = torch.randn(1, 1, *size)
    window = torch.zeros(1, 1, *PATCH)
    WHO[who](window, model, TASKS[task])  # imports, buffers
    before = held()
    with torch.no_grad():
        model(window)
    network = status("VmHWM") - before
    before, model.seconds = held(), 0.0
    start = time.process_time()
    found = WHO[who](volume, model, TASKS[task])
    total = time.process_time() - start
    return {
        "outside": total - model.seconds,
        "total": total,
        "mib": status("VmHWM") - before,
        "network": network,
        "mean": float(found.float().mean()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--classes", nargs="+", type=int, default=[5, 15])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a smaller volume, once")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = (128, 128, 96) if args.quick else (256, 256, 96)
    if args.one:
        who, task, classes = args.one
        print(json.dumps(measure(who, task, int(classes), size, args.threads)))
        return 0
    repeats = 1 if args.quick else args.repeats
    print(
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{args.threads} thread(s); {'x'.join(map(str, size))}, windows "
        f"{'x'.join(map(str, PATCH))}, overlap 0.5, Gaussian, float32, seed 0"
    )
    there = [who for who in WHO if find_spec(who.lower())]
    if "MONAI" not in there:
        print("MONAI is not installed: no ratios (pip install '.[bench]')")
    for task in args.tasks:
        for classes in args.classes:
            runs: dict[str, list[dict[str, float]]] = {who: [] for who in there}
            for _ in range(repeats):
                for who in there:
                    command = [sys.executable, __file__, "--threads", str(args.threads)]
                    command += ["--one", who, task, str(classes)]
                    command += ["--quick"] * args.quick
                    output = subprocess.run(
                        command,
                        stdout=subprocess.PIPE,
                        text=True,
                        check=True,
                        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**17)},
                    ).stdout
                    runs[who].append(json.loads(output.splitlines()[-1]))
            print(f"\n{task}, {classes} classes")
            rows = {
                who: {
                    key: statistics.median(run[key] for run in found)
                    for key in found[0]
                }
                for who, found in runs.items()
            }
            for who, row in rows.items():
                print(
                    f"  {who:7} outside {row['outside']:6.2f} s of "
                    f"{row['total']:6.2f} s, memory {row['mib']:5.0f} MiB, of which "
                    f"the network {row['network']:4.0f}"
                )
            if "MONAI" in rows:
                outside, memory = (
                    rows["medseg"][key] / rows["MONAI"][key]
                    for key in ("outside", "mib")
                )
                print(
                    f"  medseg / MONAI: {outside:.2f} of the time outside, "
                    f"{memory:.2f} of the memory"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
