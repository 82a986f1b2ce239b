"""The command ``medseg``: its options and its help.

What the commands do is in ``medseg.commands``, which is loaded when one runs: so
``medseg --help`` need not wait for torch.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import medseg

DESCRIPTION = """\
Segment medical images with a U-Net, from the command line.

  medseg demo        see it work: draws images, trains, writes a picture and a report
  medseg doctor      check the installation

Every command has its own --help, with examples."""

TRAIN_HELP = """\
Train a U-Net on a folder of images and a folder of masks.

The mask of x.png is x.png, x_mask.png or x_segmentation.png. A mask is 0 and 255 (or 0
and 1); with --classes K it holds class numbers from 0. The weights of the epoch with
the highest validation Dice are kept, beside a small file with the network's settings
that `medseg predict` reads."""

TRAIN_EXAMPLES = """\
examples:
  medseg train images masks
      a fifth of the images, chosen by a hash of their names, is used to validate
  medseg train images masks --val-images val/images --val-masks val/masks
      the honest way if one patient has several images: no patient in both
  medseg train images masks --epochs 100 --resume
      go on after an interruption, or for more epochs
  medseg train images masks --widths 64 128 256 512 1024 --batch-size 4
      the network of the paper, for a GPU"""

PREDICT_EXAMPLES = """\
examples:
  medseg predict best_model.pth new/images --out new/masks
  medseg predict best_model.pth scan.png --out . --force"""

EVALUATE_HELP = """\
Compare predicted masks with the reference: Dice and IoU of each image, and their mean
with a bootstrap interval.

An image where the reference holds something and the prediction nothing is missed: its
scores are 0 and stay in the mean. Where both are empty, a score is undefined: it is
counted, and left out."""

EVALUATE_EXAMPLES = """\
examples:
  medseg evaluate new/masks reference/masks
  medseg evaluate prediction.png reference.png
  medseg evaluate new/masks reference/masks --json > scores.json"""

DEMO_EXAMPLES = """\
examples:
  medseg demo
  medseg predict medseg_demo/best_model.pth medseg_demo/test/images --out predicted
  medseg evaluate predicted medseg_demo/test/masks"""

DESCRIBE_EXAMPLES = """\
examples:
  medseg describe
  medseg describe unet --widths 16 32 64 128 256 --size 128
  medseg describe unet2015 --channels 1 --classes 2 --size 572"""

DATASETS_EXAMPLES = """\
examples:
  medseg datasets list
  medseg datasets info dsb2018
  medseg datasets get dsb2018 --dir ~/data"""

DOCTOR_EXAMPLES = """\
examples:
  medseg doctor
  medseg doctor --json > doctor.json      to send with a question"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``medseg``.

    Args:
        argv: The words after ``medseg``; None for those of the shell.

    Returns:
        The exit status, 0 if all went well, 1 if ``doctor`` found a fault, 2 for bad
        input, with the reason in one line, 130 after Ctrl-C.

    Raises:
        SystemExit: Options that do not exist (status 2), ``--help``, ``--version``.

    Example:
        >>> main(["datasets", "list"])  # doctest: +ELLIPSIS
        dsb2018 ...
        isbi2012 ...
        0
    """
    parser = _parser()
    options = vars(parser.parse_args(argv))
    command = options.pop("command")
    if command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        status: int = getattr(medseg.commands, command)(**options)
        sys.stdout.flush()  # so that a closed pipe shows here
        return status
    except KeyboardInterrupt:
        print(f"\nmedseg {command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `medseg describe | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        print(f"medseg {command}: error: {reason}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medseg",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"medseg {medseg.__version__}"
    )
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, summary: str, text: str, examples: str) -> Any:
        command = commands.add_parser(
            name,
            help=summary,
            description=text,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=name)
        return command

    demo = add(
        "demo",
        "draw images, train on them, show the result: a minute, no data needed",
        "Draw images of cells, train a small U-Net on them, and test it on others. It "
        "takes about\na minute on two cores, and leaves a picture, a report, and the "
        "images and the network to\ntry the other commands on.",
        DEMO_EXAMPLES,
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("medseg_demo"),
        metavar="DIR",
        help="folder to write to (default: %(default)s)",
    )
    demo.add_argument(
        "--force", action="store_true", help="replace a demo that is there already"
    )
    _add_device(demo)
    demo.add_argument("--epochs", type=_count, default=15, help=argparse.SUPPRESS)
    demo.add_argument("--count", type=_count, default=64, help=argparse.SUPPRESS)

    train = add("train", "train on your own images", TRAIN_HELP, TRAIN_EXAMPLES)
    train.add_argument("images", type=Path, metavar="IMAGES", help="folder of images")
    train.add_argument("masks", type=Path, metavar="MASKS", help="folder of masks")
    train.add_argument("--val-images", type=Path, metavar="DIR", help="to validate on")
    train.add_argument("--val-masks", type=Path, metavar="DIR", help="their masks")
    train.add_argument(
        "--val-fraction",
        type=float,
        default=0.2,
        metavar="F",
        help="share of IMAGES to validate on, without --val-images "
        "(default: %(default)s)",
    )
    train.add_argument(
        "--epochs", type=_count, default=20, metavar="N", help="default: %(default)s"
    )
    train.add_argument(
        "--lr",
        type=_positive,
        default=1e-3,
        metavar="X",
        help="learning rate of Adam (default: %(default)s)",
    )
    train.add_argument(
        "--batch-size", type=_count, default=8, metavar="N", help="default: %(default)s"
    )
    train.add_argument(
        "--size",
        type=_count,
        default=256,
        metavar="N",
        help="images are resized to N x N pixels (default: %(default)s)",
    )
    _add_network(train, widths=[16, 32, 64, 128, 256])
    train.add_argument(
        "--seed", type=int, default=0, metavar="N", help="default: %(default)s"
    )
    train.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that load images (default: %(default)s)",
    )
    train.add_argument(
        "--out",
        type=Path,
        default=Path("best_model.pth"),
        metavar="FILE",
        help="weights of the best epoch (default: %(default)s)",
    )
    train.add_argument("--resume", action="store_true", help="go on with FILE")
    train.add_argument("--force", action="store_true", help="replace FILE")
    _add_device(train)

    predict = add(
        "predict",
        "write masks for your images",
        "Write a mask for each image: a PNG of the image's own size, 0 and 255, or "
        "class numbers\nif the network has several classes.",
        PREDICT_EXAMPLES,
    )
    predict.add_argument(
        "model", type=Path, metavar="MODEL", help="what `medseg train` wrote: a .pth"
    )
    predict.add_argument(
        "images", type=Path, metavar="IMAGES", help="a folder of images, or one image"
    )
    predict.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the masks"
    )
    predict.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="foreground from this probability on (default: %(default)s)",
    )
    predict.add_argument("--force", action="store_true", help="replace masks in DIR")
    _add_device(predict)

    evaluate = add(
        "evaluate",
        "compare masks with a reference",
        EVALUATE_HELP,
        EVALUATE_EXAMPLES,
    )
    evaluate.add_argument(
        "pred", type=Path, metavar="PRED", help="folder of predicted masks, or one"
    )
    evaluate.add_argument(
        "truth", type=Path, metavar="TRUTH", help="folder of reference masks, or one"
    )
    evaluate.add_argument(
        "--classes",
        type=_count,
        default=1,
        metavar="K",
        help="class numbers 0..K-1 in the masks; an image's score is the mean over "
        "1..K-1 (default: %(default)s, for masks of 0 and 255)",
    )
    evaluate.add_argument("--json", action="store_true", help="print JSON")

    describe = add(
        "describe",
        "show a network: shapes, parameters, receptive field",
        "Print each layer's output shape, parameters, multiply-adds and receptive "
        "field.",
        DESCRIBE_EXAMPLES,
    )
    describe.add_argument(
        "network",
        nargs="?",
        default="unet",
        choices=["unet", "unet2015"],
        help="unet: any size, batch norm; unet2015: the paper's, valid convolutions "
        "(default: %(default)s)",
    )
    describe.add_argument(
        "--size",
        type=_count,
        metavar="N",
        help="of the square input, in pixels (default: 256; unet2015: 572)",
    )
    _add_network(describe, widths=[64, 128, 256, 512, 1024])

    datasets = add(
        "datasets",
        "public data sets: list, facts, download",
        "List the public data sets, show source, licence and size of one, or download "
        "it.",
        DATASETS_EXAMPLES,
    )
    datasets.add_argument("action", choices=["list", "info", "get"])
    datasets.add_argument("name", nargs="?", metavar="NAME")
    datasets.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="folder of all data (default: $MEDSEG_DATA, or ~/.cache/medseg)",
    )

    doctor = add(
        "doctor",
        "check the installation",
        "Check versions, device, data and free disk. Exit status 1 if something is "
        "wrong.",
        DOCTOR_EXAMPLES,
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_network(command: argparse.ArgumentParser, widths: list[int]) -> None:
    command.add_argument(
        "--widths",
        type=_count,
        nargs="+",
        default=widths,
        metavar="N",
        help=f"channels at each scale (default: {' '.join(map(str, widths))})",
    )
    command.add_argument(
        "--channels",
        type=int,
        default=3,
        choices=[1, 3],
        help="of the images the network sees (default: %(default)s)",
    )
    command.add_argument(
        "--classes",
        type=_count,
        default=1,
        metavar="K",
        help="1: foreground or not (default); K > 1: with the background",
    )


def _add_device(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="cpu, cuda, cuda:1, mps (default: cuda where there is one, else cpu)",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value
