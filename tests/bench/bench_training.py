"""A step of ``train_one_epoch`` beside the bare loop that anyone would write.

    python tests/bench/bench_training.py [--quick] [--repeats 15]

Both take the same batches from memory through the same network, in turns, and the
order changes from turn to turn; what counts is the median ratio of their CPU times on
one thread. The bare loop reads the loss of each step, as a loop that logs does; beside
it, a loop that never looks. The bar is 1.03.
"""

import argparse
import statistics
import sys
import time

import torch
from torch import nn

from medseg.models.unet import UNet
from medseg.training import train_one_epoch

BAR = 1.03


def batches_of(size, batch_size, steps, num_classes):
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(steps):
        images = torch.randn(batch_size, 1, size, size, generator=generator)
        labels = (images[:, 0] > 0).long()
        found.append((images, labels[:, None].float() if num_classes == 1 else labels))
    return found


def bare(model, batches, criterion, optimizer):
    """Forward, backward, step, and the mean loss."""
    model.train()
    total = 0.0
    for images, targets in batches:
        optimizer.zero_grad()
        loss = criterion(model(images), targets)
        loss.backward()
        optimizer.step()
        total += loss.item()
    return total / len(batches)


def silent(model, batches, criterion, optimizer):
    """The same, without a look at the loss."""
    model.train()
    for images, targets in batches:
        optimizer.zero_grad()
        criterion(model(images), targets).backward()
        optimizer.step()


def ours(model, batches, criterion, optimizer):
    return train_one_epoch(model, batches, criterion, optimizer, "cpu")


def cpu_seconds(function, make, batches, criterion):
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    function(model, batches[:1], criterion, optimizer)  # allocates Adam's moments
    start = time.process_time()
    function(model, batches, criterion, optimizer)
    return (time.process_time() - start) / len(batches)


def compare(width, size, batch_size, num_classes, steps, repeats):
    def make():
        torch.manual_seed(0)
        return UNet(1, num_classes, widths=[width * 2**i for i in range(5)])

    criterion = nn.BCEWithLogitsLoss() if num_classes == 1 else nn.CrossEntropyLoss()
    batches = batches_of(size, batch_size, steps, num_classes)
    loops = [ours, bare, silent]
    times = {loop: [] for loop in loops}
    for turn in range(repeats):
        for place in range(3):
            loop = loops[(turn + place) % 3]
            times[loop].append(cpu_seconds(loop, make, batches, criterion))
    to_bare, to_silent = (
        statistics.median(a / b for a, b in zip(times[ours], times[peer], strict=True))
        for peer in (bare, silent)
    )
    mine, other = (1e3 * statistics.median(times[loop]) for loop in (ours, bare))
    print(f"{width:>5} {size:>5} {batch_size:>6} {num_classes:>3} {mine:9.1f} "
          f"{other:9.1f} {to_bare:10.3f} {to_silent:12.3f}")  # fmt: skip
    return to_bare


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one case, few turns")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    cases = [  # width, size, batch size, classes, steps
        (8, 128, 4, 1, 6),
        (16, 128, 4, 3, 4),
        (16, 128, 8, 1, 3),
        (16, 256, 4, 1, 2),
    ]
    print("CPU ms a step of a U-Net with five scales, one thread")
    print(f"{'width':>5} {'size':>5} {'batch':>6} {'K':>3} {'ours':>9} {'bare':>9} "
          f"{'ours/bare':>10} {'ours/silent':>12}")  # fmt: skip
    chosen = cases[:1] if args.quick else cases
    repeats = min(args.repeats, 9) if args.quick else args.repeats
    ratios = [compare(*case, repeats=repeats) for case in chosen]
    median = statistics.median(ratios)
    verdict = "within" if median <= BAR else "ABOVE"
    print(f"median of the ratios to the bare loop: {median:.3f}, {verdict} {BAR}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
