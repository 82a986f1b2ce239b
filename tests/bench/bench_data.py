"""Loading and augmentation of 256 x 256 images, beside MONAI's and plain PyTorch's.

    pip install ".[bench]"
    python tests/bench/bench_data.py [--quick] [--images 48] [--repeats 7]

All do the same work: decode an image in colour and its mask (or take them from
memory), resize to 256 x 256, turn by up to 35 degrees, mirror half of them, normalise,
make tensors. *Plain PyTorch* is what a user would write: a dozen lines with OpenCV and
the same albumentations pipeline. Rows of one group take turns, image by image in one
process and one thread, so that a busy machine slows all of them; times are medians of
CPU time. The ratio is the peer's time over ours: above 1, ours is faster.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from medseg import phantoms
from medseg.datasets import CaseDataset, ImageCase, MedicalImageDataset
from medseg.transforms import make_train_transform

SIZE = 256


class PlainDataset(Dataset):
    """What a user writes without this package, from files or from memory."""

    def __init__(self, images: Sequence[Path], masks: Sequence[Path], cached: bool):
        self.pairs = list(zip(images, masks, strict=True))
        self.transform = make_train_transform(SIZE)
        self.kept = [self.read(i) for i in range(len(self.pairs))] if cached else None

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = self.pairs[index]
        colour = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
        return colour, (cv2.imread(str(mask), 0) > 127).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = self.read(index) if self.kept is None else self.kept[index]
        result = self.transform(image=image, mask=mask)
        return result["image"], result["mask"].float().unsqueeze(0)


def monai_dataset(
    images: Sequence[Path], masks: Sequence[Path], cached: bool
) -> Dataset:
    """The same steps in MONAI's words; what has no chance in it is cached."""
    from monai import data, transforms  # noqa: PLC0415 - a peer, if there

    keys, modes = ("image", "mask"), ("bilinear", "nearest")
    steps = transforms.Compose(
        [
            transforms.LoadImaged(
                keys, reader="PILReader", image_only=True, ensure_channel_first=True
            ),
            transforms.Lambdad("mask", lambda mask: (mask > 127).float()),
            transforms.Resized(keys, (SIZE, SIZE), mode=("area", "nearest")),
            transforms.NormalizeIntensityd(
                "image",
                subtrahend=[255 * v for v in (0.485, 0.456, 0.406)],
                divisor=[255 * v for v in (0.229, 0.224, 0.225)],
                channel_wise=True,
            ),
            transforms.RandRotated(
                keys,
                range_x=np.pi * 35 / 180,
                prob=1.0,
                mode=modes,
                padding_mode="reflection",
            ),
            transforms.RandFlipd(keys, prob=0.5, spatial_axis=1),
            transforms.ToTensord(keys, track_meta=False),
        ]
    )
    pairs = [
        {"image": str(i), "mask": str(m)} for i, m in zip(images, masks, strict=True)
    ]
    if cached:
        return data.CacheDataset(pairs, steps, progress=False)
    return data.Dataset(pairs, steps)


def write_images(folder: Path, count: int, size: int) -> None:
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for seed in range(count):
        phantom = phantoms.skin_lesion((size, size), seed=seed)
        name = f"{seed:04d}.png"
        cv2.imwrite(str(folder / "images" / name), phantom.image[..., ::-1])
        mask = (phantom.labels > 0).astype(np.uint8) * 255
        cv2.imwrite(str(folder / "masks" / name), mask)


def cases_of(data: MedicalImageDataset) -> list[ImageCase]:
    return [
        ImageCase(path.stem, path.stem, *map(np.asarray, data._read(index)))
        for index, path in enumerate(data.image_paths)
    ]


def measure(rows: dict[str, Dataset], repeats: int) -> dict[str, float]:
    """CPU time of one sample of each, in ms: the median over images and repeats."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    names = list(rows)
    for repeat in range(repeats + 1):
        for index in range(len(rows[names[0]])):  # type: ignore[arg-type]
            # In turn, each one first as often as the others.
            for name in names[index % len(names) :] + names[: index % len(names)]:
                begin = time.process_time()
                rows[name][index]
                if repeat:  # the first one warms up
                    times[name].append(1000 * (time.process_time() - begin))
    return {name: statistics.median(found) for name, found in times.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds, rough")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--size", type=int, default=SIZE, help="of the files")
    args = parser.parse_args(argv)
    if args.quick:
        args.images, args.repeats = 12, 3
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    warnings.simplefilter("ignore")  # MONAI's about its own dependencies
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, args.images, args.size)
        transform = make_train_transform(SIZE)
        dirs: Any = (folder / "images", folder / "masks")
        files = MedicalImageDataset(*dirs, transform)
        paths = files.image_paths, files.mask_paths
        groups: dict[str, dict[str, Dataset]] = {
            "from files": {
                "medseg MedicalImageDataset": files,
                "plain PyTorch": PlainDataset(*paths, cached=False),
            },
            "from memory": {
                "medseg cache=True": MedicalImageDataset(*dirs, transform, cache=True),
                "medseg CaseDataset": CaseDataset(cases_of(files), transform),
                "plain PyTorch": PlainDataset(*paths, cached=True),
            },
        }
        if find_spec("monai"):
            groups["from files"]["MONAI Dataset"] = monai_dataset(*paths, cached=False)
            groups["from memory"]["MONAI CacheDataset"] = monai_dataset(
                *paths, cached=True
            )
        print(f"{args.images} PNG images of {args.size} x {args.size}, one thread\n")
        print(f"{'':12} {'':28} {'ms/image':>9} {'images/s':>9} {'ratio':>7}")
        for group, rows in groups.items():
            found = measure(rows, args.repeats)
            ours = found[next(iter(rows))]
            for who, ms in found.items():
                print(
                    f"{group:12} {who:28} {ms:9.2f} {1000 / ms:9.0f} {ms / ours:7.2f}"
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
