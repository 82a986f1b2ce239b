"""Forward and training-step time and peak memory, beside peers with the same network.

    pip install ".[bench]"
    python tests/bench/bench_models.py [--repeats 5] [--size 128] [--threads 2]

Peers are used where they can be imported: segmentation_models.pytorch and torchvision
(neither is needed by the package, and both want a torchvision that fits torch) and
MONAI. Each row runs in a process of its own, so that peak memory is its own; rows of
one group take turns, so that a busy machine slows all of them. Times are medians; the
ratio is the peer's time over ours: above 1, ours is faster.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import nn

from medseg.models import deeplab, fcn, unet, unet_variants

WIDTHS = (16, 32, 64, 128, 256)


def monai_unet() -> nn.Module:
    from monai.networks.nets import BasicUNet  # noqa: PLC0415 - a peer, if there

    return BasicUNet(2, 1, 2, features=(*WIDTHS, WIDTHS[0]), norm="batch", act="relu")


def monai_attention_unet() -> nn.Module:
    from monai.networks.nets import AttentionUnet  # noqa: PLC0415

    return AttentionUnet(2, 1, 2, channels=WIDTHS, strides=(2, 2, 2, 2))


def smp_v3plus() -> nn.Module:
    import segmentation_models_pytorch as smp  # noqa: PLC0415

    return smp.DeepLabV3Plus("resnet50", encoder_weights=None, in_channels=3, classes=2)


def torchvision_v3() -> nn.Module:
    from torchvision.models.segmentation import deeplabv3_resnet50  # noqa: PLC0415

    return deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=2)


# group: (channels, who: (what must be importable, the network))
GROUPS: dict[str, tuple[int, dict[str, tuple[str, Callable[[], nn.Module]]]]] = {
    "U-Net, widths 16 to 256": (
        1,
        {
            "medseg": ("medseg", lambda: unet.UNet(1, 2, widths=WIDTHS)),
            "MONAI": ("monai", monai_unet),
        },
    ),
    "Attention U-Net, widths 16 to 256": (
        1,
        {
            "medseg": (
                "medseg",
                lambda: unet_variants.AttentionUNet(1, 2, widths=WIDTHS),
            ),
            "MONAI": ("monai", monai_attention_unet),
        },
    ),
    "DeepLabv3+, ResNet-50, stride 16": (
        3,
        {
            "medseg": (
                "medseg",
                lambda: deeplab.DeepLabV3Plus(3, 2, backbone="resnet50"),
            ),
            "SMP": ("segmentation_models_pytorch", smp_v3plus),
        },
    ),
    "DeepLabv3, ResNet-50, stride 8": (
        3,
        {
            "medseg": (
                "medseg",
                lambda: deeplab.DeepLabV3(3, 2, backbone="resnet50", output_stride=8),
            ),
            "torchvision": ("torchvision", torchvision_v3),
        },
    ),
    "FCN-8s, VGG widths / 4": (
        3,
        {
            "medseg": (
                "medseg",
                lambda: fcn.FCN8s(3, 2, widths=(16, 32, 64, 128, 128), hidden=256),
            )
        },
    ),
}


def measure(group: str, who: str, size: int, threads: int) -> dict[str, float]:
    """Time one forward pass and one training step of a fresh network."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    channels, rows = GROUPS[group]
    model = rows[who][1]()
    images, labels = (
        torch.randn(2, channels, size, size),
        torch.zeros(2, size, size, dtype=torch.long),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def logits() -> torch.Tensor:
        found = model(images)
        return found["out"] if isinstance(found, dict) else found

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits(), labels).backward()
        optimizer.step()

    def forward() -> None:
        with torch.no_grad():
            logits()

    times = {}
    for name, call, mode in (("forward", forward, False), ("step", step, True)):
        model.train(mode)
        call()  # warm up
        start = time.perf_counter()
        for _ in range(2):
            call()
        times[name] = (time.perf_counter() - start) / 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    parameters = sum(value.numel() for value in model.parameters())
    return {**times, "peak_mib": peak, "parameters": parameters}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=128, help="height and width")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, args.size, args.threads)))
        return 0
    print(
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{args.threads} thread(s); batch 2, {args.size}x{args.size}, float32, seed 0"
    )
    for group, (_, rows) in GROUPS.items():
        there = [who for who, (module, _) in rows.items() if find_spec(module)]
        runs: dict[str, list[dict[str, float]]] = {who: [] for who in there}
        for _ in range(args.repeats):
            for who in list(runs):
                command = [sys.executable, __file__, "--one", group, who]
                command += ["--size", str(args.size), "--threads", str(args.threads)]
                result = subprocess.run(command, capture_output=True, text=True)
                if result.returncode:
                    last = result.stderr.strip().splitlines()[-1]
                    print(f"{group}: {who} does not run here: {last[:90]}")
                    del runs[who]
                    continue
                runs[who].append(json.loads(result.stdout.splitlines()[-1]))
        print(f"\n{group}")
        middle = {
            who: {key: statistics.median(run[key] for run in found) for key in found[0]}
            for who, found in runs.items()
        }
        for who, row in middle.items():
            ours = middle["medseg"]
            print(
                f"  {who:12s} {row['parameters']:>12,.0f} parameters   "
                f"forward {1e3 * row['forward']:7.0f} ms "
                f"({row['forward'] / ours['forward']:.2f})   "
                f"step {1e3 * row['step']:7.0f} ms ({row['step'] / ours['step']:.2f})"
                f"   peak {row['peak_mib']:6.0f} MiB "
                f"({row['peak_mib'] / ours['peak_mib']:.2f})"
            )
        for who in set(rows) - set(middle):
            print(f"  {who}: not installed, or it does not run here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
