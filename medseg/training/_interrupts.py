"""Ctrl-C and SIGTERM that wait for the end of a step."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred_interrupts() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM instead of obeying it at once.

    In the middle of a step the weights are half old and half new. So the first signal
    is noted, and the loop stops where a checkpoint can be written; a second one stops
    at once. Outside the main thread, where Python allows no handlers, and in one of
    several processes, which cannot agree on a step, nothing is changed.

    Yields:
        The signals seen, none until one comes.
    """
    seen: list[int] = []
    owner = os.getpid()
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    if not alone or threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def handle(number: int, frame: Any) -> None:
        if os.getpid() != owner:  # a worker of a loader, which inherits this
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return  # the main process decides
        if seen:
            stop(number)
        seen.append(number)

    former: dict[int, Any] = {
        number: signal.signal(number, handle)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield seen
    finally:
        for number, handler in former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def stop(number: int, message: str = "") -> None:
    """Obey a signal: what Python does for Ctrl-C, and the usual end for SIGTERM.

    Raises:
        KeyboardInterrupt: For SIGINT.
        SystemExit: For SIGTERM, with status 143.
    """
    if number == signal.SIGINT:
        raise KeyboardInterrupt(message)
    raise SystemExit(128 + number)


def stops_after(seen: list[int], save: Callable[[], object], path: object) -> None:
    """If a signal has come, save and obey it."""
    if seen:
        save()
        stop(seen[0], f"{path} holds all so far: resume=True goes on from there")
