"""The options of each command of ``medseg``, a function a command."""

import argparse
from pathlib import Path

import medseg
from medseg.cli._help import DESCRIPTION, TEXTS


def build_parser() -> argparse.ArgumentParser:
    """Parser of the whole command line; the command's name is in ``command``."""
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
    for name, add_options in COMMANDS.items():
        summary, text, examples = TEXTS[name]
        command = commands.add_parser(
            name,
            help=summary,
            description=text,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=name)
        add_options(command)
    return parser


def _demo(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--out",
        type=Path,
        default=Path("medseg_demo"),
        metavar="DIR",
        help="folder to write to (default: %(default)s)",
    )
    command.add_argument(
        "--force", action="store_true", help="replace a demo that is there already"
    )
    _add_device(command)
    command.add_argument("--epochs", type=_count, default=15, help=argparse.SUPPRESS)
    command.add_argument("--count", type=_count, default=64, help=argparse.SUPPRESS)


def _train(command: argparse.ArgumentParser) -> None:
    command.add_argument("images", type=Path, metavar="IMAGES", help="folder of images")
    command.add_argument("masks", type=Path, metavar="MASKS", help="folder of masks")
    command.add_argument(
        "--val-images", type=Path, metavar="DIR", help="to validate on"
    )
    command.add_argument("--val-masks", type=Path, metavar="DIR", help="their masks")
    command.add_argument(
        "--val-fraction",
        type=float,
        default=0.2,
        metavar="F",
        help="share of IMAGES to validate on, without --val-images "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--patients",
        metavar="EXPR",
        help="regular expression that finds the patient in a file's name, in brackets: "
        "'case_([0-9]+)'; then no patient is on both sides",
    )
    command.add_argument(
        "--epochs", type=_count, default=20, metavar="N", help="default: %(default)s"
    )
    command.add_argument(
        "--lr",
        type=_positive,
        default=1e-3,
        metavar="X",
        help="learning rate of Adam (default: %(default)s)",
    )
    command.add_argument(
        "--schedule",
        default="constant",
        choices=["constant", "poly", "cosine"],
        help="of the learning rate over the epochs (default: %(default)s)",
    )
    command.add_argument(
        "--warm-up",
        type=int,
        default=0,
        metavar="N",
        help="epochs over which the rate of a schedule rises (default: %(default)s)",
    )
    command.add_argument(
        "--batch-size",
        type=_count,
        metavar="N",
        help="default: 8; for scans 2 patches",
    )
    command.add_argument(
        "--accumulate",
        type=_count,
        default=1,
        metavar="N",
        help="batches that make one step, if memory is short (default: %(default)s)",
    )
    command.add_argument(
        "--clip", type=_positive, metavar="X", help="largest norm of the gradients"
    )
    command.add_argument(
        "--ema",
        type=float,
        metavar="D",
        help="keep a moving average of the weights, such as 0.99",
    )
    command.add_argument(
        "--patience",
        type=_count,
        metavar="N",
        help="stop when N epochs have brought no better one",
    )
    command.add_argument(
        "--precision",
        default="auto",
        choices=["auto", "float32", "bfloat16", "float16"],
        help="auto: half precision where the device is made for it (default)",
    )
    command.add_argument(
        "--size",
        type=_count,
        default=256,
        metavar="N",
        help="images are resized to N x N pixels (default: %(default)s)",
    )
    command.add_argument(
        "--patch",
        type=_count,
        nargs=3,
        metavar=("D", "H", "W"),
        help="of scans: voxels of a patch (default: the median scan, 64 at most)",
    )
    command.add_argument(
        "--modality",
        default="mr",
        choices=["mr", "ct"],
        help="of scans: mr, each by itself has mean 0 and sd 1; ct, Hounsfield units "
        "clipped to what the labels hold (default: %(default)s)",
    )
    _add_network(command)
    command.add_argument(
        "--seed", type=int, default=0, metavar="N", help="default: %(default)s"
    )
    command.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that load images (default: %(default)s)",
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("best_model.pth"),
        metavar="FILE",
        help="weights of the best epoch (default: %(default)s)",
    )
    command.add_argument(
        "--checkpoint-every",
        type=_count,
        metavar="N",
        help="be ready to resume after N steps too, not only after each epoch",
    )
    command.add_argument(
        "--csv", type=Path, metavar="FILE", help="table with a line an epoch"
    )
    command.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="curves for TensorBoard"
    )
    command.add_argument("--json", action="store_true", help="print JSON at the end")
    command.add_argument("--resume", action="store_true", help="go on with FILE")
    command.add_argument("--force", action="store_true", help="replace FILE")
    _add_device(command)


def _predict(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "model", type=Path, metavar="MODEL", help="what `medseg train` wrote: a .pth"
    )
    command.add_argument(
        "images",
        type=Path,
        metavar="IMAGES",
        help="a folder of images or scans, or one",
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the masks"
    )
    command.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="P",
        help="foreground from this probability on (default: %(default)s)",
    )
    command.add_argument("--force", action="store_true", help="replace masks in DIR")
    command.add_argument("--json", action="store_true", help="print JSON")
    _add_device(command)


def _export(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "model",
        nargs="?",
        type=Path,
        metavar="MODEL",
        help="what `medseg train` wrote: a .pth",
    )
    command.add_argument(
        "--format",
        choices=["onnx", "program"],
        default="onnx",
        help="onnx, for onnxruntime; program, for torch.export (default: %(default)s)",
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="ending in .onnx or .pt2 (default: beside MODEL)",
    )
    command.add_argument(
        "--check",
        action="store_true",
        help="run file and network on the same images; write only what agrees",
    )
    command.add_argument(
        "--class-names",
        nargs="+",
        metavar="NAME",
        help="one for each class, the background first; one alone for a foreground",
    )
    command.add_argument("--force", action="store_true", help="replace FILE")
    command.add_argument(
        "--verify",
        type=Path,
        metavar="FILE",
        help="run an exported file on the test pattern that it keeps; no MODEL",
    )


def _evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "pred", type=Path, metavar="PRED", help="folder of predicted masks, or one"
    )
    command.add_argument(
        "truth", type=Path, metavar="TRUTH", help="folder of reference masks, or one"
    )
    command.add_argument(
        "--classes",
        type=_count,
        default=1,
        metavar="K",
        help="class numbers 0..K-1 in the masks (default: %(default)s, for masks of 0 "
        "and 255)",
    )
    command.add_argument(
        "--names", nargs="+", metavar="NAME", help="of the classes, background first"
    )
    command.add_argument(
        "--patients",
        metavar="WHICH",
        help="a CSV file with the columns name and patient, or a regular expression "
        "that finds the patient in a name: 'case_([0-9]+)'",
    )
    command.add_argument(
        "--spacing",
        type=_positive,
        nargs=2,
        metavar="MM",
        help="of images: height and width of a pixel; then distances are scored too",
    )
    command.add_argument(
        "--tolerance", type=_positive, metavar="MM", help="for surface Dice"
    )
    command.add_argument(
        "--csv", type=Path, metavar="FILE", help="write a line for each image and class"
    )
    command.add_argument("--json", action="store_true", help="print JSON")


def _describe(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "network",
        nargs="?",
        default="unet",
        choices=["unet", "unet2015"],
        help="unet: any size, batch norm; unet2015: the paper's, valid convolutions "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--size",
        type=_count,
        metavar="N",
        help="of the square input, in pixels (default: 256; unet2015: 572)",
    )
    _add_network(command, widths=[64, 128, 256, 512, 1024])


def _datasets(command: argparse.ArgumentParser) -> None:
    command.add_argument("action", choices=["list", "info", "get", "check-split"])
    command.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="of a data set; for check-split: two or more folders of images or NIfTI "
        "volumes, one folder with --split, or a data set",
    )
    command.add_argument(
        "--dir",
        type=Path,
        metavar="DIR",
        help="folder of all data (default: $MEDSEG_DATA, or ~/.cache/medseg)",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    leaks = command.add_argument_group("check-split")
    leaks.add_argument(
        "--split",
        type=Path,
        metavar="FILE",
        help="CSV with the columns id (file names without ending), split, and group "
        "where there are patients",
    )
    leaks.add_argument(
        "--group",
        metavar="REGEX",
        help="finds the patient in a file's name, in brackets: '(P[0-9]+)_'",
    )
    leaks.add_argument(
        "--max-distance",
        type=float,
        default=10,
        metavar="N",
        help="images that differ in at most N of 256 bits count as the same "
        "(default: %(default)s)",
    )
    leaks.add_argument(
        "--turned",
        action="store_true",
        help="also find copies that were mirrored or turned",
    )


def _doctor(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON")


COMMANDS = {
    "demo": _demo,
    "train": _train,
    "predict": _predict,
    "evaluate": _evaluate,
    "export": _export,
    "describe": _describe,
    "datasets": _datasets,
    "doctor": _doctor,
}


def _add_network(
    command: argparse.ArgumentParser, widths: list[int] | None = None
) -> None:
    usual = "16 32 64 128 256; scans: 16 32 64 128"
    if widths is not None:
        usual = " ".join(map(str, widths))
    command.add_argument(
        "--widths",
        type=_count,
        nargs="+",
        default=widths,
        metavar="N",
        help=f"channels at each scale (default: {usual})",
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
