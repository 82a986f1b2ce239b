"""Which public data sets there are, and where data lie."""

import os
from pathlib import Path

from medseg.checks import check_choice
from medseg.datasets._entries import entries
from medseg.datasets._facts import DatasetInfo

_REGISTRY = {about.name: about for about in entries()}


def data_root() -> Path:
    """Return the folder of all data: ``MEDSEG_DATA`` if set, or ~/.cache/medseg."""
    return Path(os.environ.get("MEDSEG_DATA") or "~/.cache/medseg").expanduser()


def names() -> tuple[str, ...]:
    """Return the names of the public data sets.

    Example:
        >>> names()[:4]
        ('dsb2018', 'isbi2012', 'vnc', 'montgomery')
    """
    return tuple(_REGISTRY)


def info(name: str) -> DatasetInfo:
    """Return source, licence, size and caveats of a public data set.

    Raises:
        ValueError: There is no data set of this name.

    Example:
        >>> info("msd_task04").classes
        ('background', 'anterior', 'posterior')
    """
    check_choice(name, "name", names())
    return _REGISTRY[name]
