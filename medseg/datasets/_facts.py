"""What must be known of a public data set."""

from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Download:
    """One archive of a data set."""

    url: str
    size_bytes: int | None  # roughly; None: asked of the server
    holds: str  # a pattern that some file of the unpacked folder must match
    checksum: str | None = None  # "md5:..."; None: recorded at the first download
    trusted: bool = True  # False: a checksum at second hand; a difference is a warning

    @property
    def folder(self) -> str:
        """Name of the folder that it is unpacked to."""
        return PurePosixPath(self.url).stem


@dataclass(frozen=True)
class DatasetInfo:
    """What one must know of a public data set before using it."""

    name: str
    title: str
    task: str
    modality: str
    classes: tuple[str, ...]  # classes[label]; of instances: background and object
    spatial_dims: int  # 2: images, 3: volumes
    licence: str
    citation: str
    page: str  # where people read about it and get it
    downloads: tuple[Download, ...]  # what download() fetches; none: by hand only
    size_bytes: int  # of all downloads, roughly
    disk_bytes: int  # needed while it is unpacked, roughly
    folder: str  # below data_root()
    layout: str  # what that folder holds
    notes: str

    @property
    def url(self) -> str | None:
        """Address of the first archive, None if it is to be had by hand only."""
        return self.downloads[0].url if self.downloads else None

    @property
    def sha256(self) -> str | None:
        """Its SHA-256 checksum, where one is known."""
        checksum = self.downloads[0].checksum if self.downloads else None
        kind, _, digits = (checksum or "").partition(":")
        return digits if kind == "sha256" else None
