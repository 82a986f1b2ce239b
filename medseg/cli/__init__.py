"""The command ``medseg``: its options and its help.

What the commands do is in ``medseg.commands``, which is loaded when one runs: so
``medseg --help`` need not wait for torch.
"""

import os
import sys
from collections.abc import Sequence

import medseg
from medseg.cli._options import build_parser

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``medseg``.

    Args:
        argv: The words after ``medseg``; None for those of the shell.

    Returns:
        The exit status, 0 if all went well, 1 if a check failed (``doctor``,
        ``export --check``), 2 for bad input, a full disk or too little memory, with
        the reason in one line, 130 after Ctrl-C.

    Raises:
        SystemExit: Options that do not exist (status 2), ``--help``, ``--version``.

    Example:
        >>> main(["datasets", "list"])  # doctest: +ELLIPSIS
        dsb2018 ...
        isbi2012 ...
        0
    """
    parser = build_parser()
    options = vars(parser.parse_args(argv))
    command = options.pop("command")
    if command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        status: int = getattr(medseg.commands, command)(**options)
        sys.stdout.flush()  # so that a closed pipe shows here
        return status
    except KeyboardInterrupt as error:
        kept = f"; {error}" if str(error) else ""  # training says what it has saved
        print(f"\nmedseg {command}: interrupted{kept}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `medseg describe | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, ValueError, MemoryError, ImportError) as error:
        reason = " ".join(str(error).split())
        print(f"medseg {command}: error: {reason}", file=sys.stderr)
        return 2
