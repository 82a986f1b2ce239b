"""Download an archive and unpack it, with nothing half-written left behind.

fetch    a zip file from the network into a folder    chapter 21
"""

import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath

import pooch


def fetch(
    url: str,
    target: Path,
    disk_bytes: int,
    sha256: str | None = None,
    *,
    accept: Callable[[Path], bool] = lambda folder: True,
) -> None:
    """Download a zip file and unpack it as the folder ``target``.

    All is done in a temporary folder beside the target, which is moved into place at
    the end: whatever goes wrong, there is either the whole data set or nothing.

    Where no checksum is published, the one of the first download is written to
    ``<target>.json``, and later downloads are compared with it.

    Args:
        url: Address of the zip file. A single folder in it that has the target's name
            is taken for the target itself.
        target: Folder to make; it must not exist yet.
        disk_bytes: Free space needed, in bytes.
        sha256: The published checksum, if there is one.
        accept: Called with the unpacked folder; False refuses it.

    Raises:
        OSError: The disk is too full, or the download failed (``ConnectionError``).
        ValueError: The archive is damaged, differs from the checksum, has members that
            would be written outside the target, or is not accepted.
    """
    parent, record = target.parent, target.with_name(target.name + ".json")
    if target.exists():
        raise ValueError(f"{target} exists already; remove it to download it again.")
    if sha256 is None and record.is_file():
        sha256 = json.loads(record.read_text(encoding="utf-8"))["sha256"]
    parent.mkdir(parents=True, exist_ok=True)
    try:
        _check_space(parent, disk_bytes)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=parent) as name:
            folder = Path(name)
            archive = _download(url, folder)
            found = _check_sum(archive, sha256, url, record)
            unpacked = _unpack(archive, folder / "unpacked", url)
            if (unpacked / target.name).is_dir():
                unpacked = unpacked / target.name
            if not accept(unpacked):
                raise ValueError(
                    f"{url} is a zip file, but does not hold what it should. Nothing "
                    "was kept; look at the address in a browser."
                )
            facts = {"url": url, "sha256": found, "bytes": archive.stat().st_size}
            draft = folder / "record.json"
            draft.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
            os.replace(draft, record)
            os.replace(unpacked, target)
    except BaseException:
        with suppress(OSError):  # there is something else in it
            parent.rmdir()
        raise


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"the disk of {folder} is too full: {needed / 1e6:.0f} MB needed, "
            f"{free / 1e6:.0f} MB free. Make room, or set MEDSEG_DATA to a folder on "
            "another disk."
        )


def _download(url: str, folder: Path) -> Path:
    pooch.get_logger().setLevel("WARNING")  # not the advice to note the checksum
    downloader = pooch.HTTPDownloader(progressbar=True, chunk_size=2**16)
    try:
        path = pooch.retrieve(
            url, None, fname="archive.zip", path=folder, downloader=downloader
        )
    except OSError as error:  # what requests raises, too
        raise ConnectionError(
            f"{url} could not be downloaded ({error}). Nothing was kept; check the "
            "connection and try again."
        ) from error
    return Path(path)


def _check_sum(archive: Path, sha256: str | None, url: str, record: Path) -> str:
    found = pooch.file_hash(str(archive), alg="sha256")
    if sha256 is not None and found != sha256:
        raise ValueError(
            f"{url} has the SHA-256 checksum {found}, expected {sha256}. The download "
            "is damaged or the publisher has changed it: try again, and if the change "
            f"is known and meant, remove {record}."
        )
    return found


def _unpack(archive: Path, folder: Path, url: str) -> Path:
    try:
        with zipfile.ZipFile(archive) as members:
            for member in members.infolist():
                path = PurePosixPath(member.filename.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or ":" in str(path):
                    raise ValueError(
                        f"{url} has a member {member.filename!r}, which would be "
                        "written outside the data set's folder. Do not trust it."
                    )
            _check_space(archive.parent, sum(m.file_size for m in members.infolist()))
            folder.mkdir()
            members.extractall(folder)
    except (zipfile.BadZipFile, EOFError, RuntimeError, zlib.error) as error:
        raise ValueError(
            f"what came from {url} is no whole zip file ({error}; "
            f"{archive.stat().st_size} bytes). Nothing was kept; try again."
        ) from error
    return folder
