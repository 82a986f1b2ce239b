"""Dense CRF beside pydensecrf2: time, agreement, and the distance to the exact one.

    pip install ".[bench]"
    python tests/bench/bench_crf.py [--repeats 3] [--sizes 320x480 512x512]

Both run one after the other in this process. On one thread the ratio of their CPU times
counts; with ``--threads`` it is wall time, where only ours uses more than one. Images
are the first of the skin lesions where they are found (MEDSEG_DATA), else
scikit-image's astronaut.
"""

import argparse
import statistics
import sys
import time

import numpy as np
import pydensecrf.densecrf as peer
import skimage.data
import torch
from skimage.transform import resize

from medseg import datasets
from medseg.crf import DEEPLAB_V1, DEEPLAB_V2_RESNET101, dense_crf


def photograph():
    """One natural image, uint8 (H, W, 3), and its name."""
    folder = datasets.data_root() / "isic2017_lesion" / "images"
    paths = sorted(folder.glob("*.jpg"))
    if paths:
        return skimage.io.imread(paths[0]), paths[0].stem
    return skimage.data.astronaut(), "astronaut"


def noisy_logits(image, num_classes, seed=0):
    """Classes by brightness, doubted at each pixel: (K, H, W) float32."""
    rng = np.random.default_rng(seed)
    grey = image.mean(axis=2)
    steps = np.quantile(grey, np.arange(1, num_classes) / num_classes)
    truth = np.digitize(grey, steps)
    logits = rng.normal(0, 1.5, (num_classes, *grey.shape))
    np.put_along_axis(
        logits, truth[None], np.take_along_axis(logits, truth[None], 0) + 2, 0
    )
    return logits.astype(np.float32)


def ours(logits, image, params, method="lattice"):
    images = torch.from_numpy(image).permute(2, 0, 1)[None]
    with torch.no_grad():
        return dense_crf(
            torch.from_numpy(logits)[None], images, params=params, method=method
        )[0].numpy()


def theirs(logits, image, params):
    num_classes, height, width = logits.shape
    crf = peer.DenseCRF2D(width, height, num_classes)
    logits = torch.from_numpy(logits)
    energy = -logits.log_softmax(dim=0).numpy().reshape(num_classes, -1)
    crf.setUnaryEnergy(np.ascontiguousarray(energy))
    crf.addPairwiseGaussian(params.smoothness_sigma, params.smoothness_weight)
    crf.addPairwiseBilateral(
        params.appearance_sigma_position,
        params.appearance_sigma_intensity,
        np.ascontiguousarray(image),
        params.appearance_weight,
    )
    return np.array(crf.inference(10)).reshape(logits.shape)


def seconds(function, *args):
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    result = function(*args)
    return clock() - start, result


def resized(image, size):
    scaled = resize(image, size, order=1, anti_aliasing=True, preserve_range=True)
    return np.ascontiguousarray(scaled.round().astype(np.uint8))


def compare_speed(photos, sizes, classes, repeats):
    print(f"{'image':14} {'size':>9} {'K':>3} {'ours s':>8} {'peer s':>8} "
          f"{'ours/peer':>10} {'same labels':>12}")  # fmt: skip
    for (photo, name), size in ((p, s) for p in photos for s in sizes):
        image = resized(photo, size)
        for num_classes in classes:
            logits = noisy_logits(image, num_classes)
            runs = [
                (
                    seconds(ours, logits, image, DEEPLAB_V1),
                    seconds(theirs, logits, image, DEEPLAB_V1),
                )
                for _ in range(repeats)
            ]
            ratio = statistics.median(mine[0] / other[0] for mine, other in runs)
            mine = statistics.median(mine[0] for mine, _ in runs)
            other = statistics.median(other[0] for _, other in runs)
            same = (runs[0][0][1].argmax(0) == runs[0][1][1].argmax(0)).mean()
            print(f"{name:14} {size[0]:>4}x{size[1]:<4} {num_classes:>3} {mine:8.3f} "
                  f"{other:8.3f} {ratio:10.2f} {same:12.2%}")  # fmt: skip


def compare_with_exact(photos):
    print("\nmean |dQ| to the exact mean field, 64x64, 2 classes")
    print(f"{'image':14} {'parameters':20} {'ours':>8} {'peer':>8}")
    for photo, name in photos:
        image = resized(photo, (64, 64))
        logits = noisy_logits(image, 2)
        for label, params in [
            ("DEEPLAB_V1", DEEPLAB_V1),
            ("DEEPLAB_V2_RESNET101", DEEPLAB_V2_RESNET101),
        ]:
            exact = ours(logits, image, params, "exact")
            mine = np.abs(ours(logits, image, params) - exact).mean()
            other = np.abs(theirs(logits, image, params) - exact).mean()
            print(f"{name:14} {label:20} {mine:8.4f} {other:8.4f}")


def as_size(text):
    height, width = text.split("x")
    return int(height), int(width)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--sizes",
        type=as_size,
        nargs="+",
        default=[(128, 128), (256, 256), (320, 480), (512, 512)],
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 21])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    photos = [photograph(), (skimage.data.astronaut(), "astronaut")]
    compare_speed(photos, args.sizes, args.classes, args.repeats)
    compare_with_exact(photos)
    return 0


if __name__ == "__main__":
    sys.exit(main())
