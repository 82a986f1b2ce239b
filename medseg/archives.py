"""Download an archive and unpack it, with nothing half-unpacked left behind.

fetch          a zip or tar file from the network into a folder    chapter 21
unpack         a zip or tar file into a folder, if it can be trusted
check_space    whether the disk has room
"""

import errno
import json
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import requests
from tqdm import TqdmWarning, tqdm

with warnings.catch_warnings():  # that notebooks without widgets have plain bars
    warnings.simplefilter("ignore", TqdmWarning)
    import pooch

ATTEMPTS = 3  # in which a lost connection is taken up again
SECONDS = 30  # without a byte, after which a connection counts as lost


def fetch(
    url: str,
    target: Path,
    disk_bytes: int,
    checksum: str | None = None,
    *,
    trusted: bool = True,
    accept: Callable[[Path], bool] = lambda folder: True,
) -> None:
    """Download an archive and unpack it as the folder ``target``.

    A download that breaks off is taken up where it stopped, at once and, from
    ``<target>.part``, when this is called again; the server is asked whether the file
    is still the same. It is unpacked beside the target and then moved into place:
    whatever goes wrong, there is either the whole data set or none.

    Where no checksum is published, the SHA-256 of the first download is written to
    ``<target>.json``, and later downloads are compared with it.

    Args:
        url: Address of a zip or tar file, which may be compressed. A single folder in
            it that has the target's name is taken for the target itself.
        target: Folder to make; it must not exist yet.
        disk_bytes: Free space needed, in bytes.
        checksum: The published one, as ``"md5:..."`` or ``"sha256:..."``, or 64
            digits of SHA-256.
        trusted: Whether another checksum is an error. If not, it is a warning: some
            are known at second hand only.
        accept: Called with the unpacked folder; False refuses it.

    Warns:
        UserWarning: The archive has not the checksum given, which is not ``trusted``.

    Raises:
        OSError: The disk is too full, or the download failed (``ConnectionError``);
            what has come stays in ``<target>.part``.
        ValueError: The archive is damaged, differs from the checksum, has members that
            would be written outside the target, links or devices, or is not accepted.
    """
    parent, record = target.parent, target.with_name(target.name + ".json")
    if target.exists():
        raise ValueError(f"{target} exists already; remove it to download it again.")
    if checksum is None and record.is_file():
        checksum = _recorded(record)
    parent.mkdir(parents=True, exist_ok=True)
    try:
        part = target.with_name(target.name + ".part")
        there = part.stat().st_size if part.is_file() else 0
        check_space(parent, disk_bytes - there)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=parent) as name:
            folder = Path(name)
            archive = _download(url, part, folder / "archive")
            _compare(archive, checksum, url, record, trusted)
            unpacked = unpack(archive, folder / "unpacked", url)
            if (unpacked / target.name).is_dir():
                unpacked = unpacked / target.name
            if not accept(unpacked):
                raise ValueError(
                    f"{url} is an archive, but does not hold what it should. Nothing "
                    "was kept; look at the address in a browser."
                )
            facts = {
                "url": url,
                "sha256": pooch.file_hash(str(archive), alg="sha256"),
                "bytes": archive.stat().st_size,
            }
            draft = folder / "record.json"
            draft.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
            os.replace(draft, record)
            os.replace(unpacked, target)
    except BaseException:
        with suppress(OSError):  # there is something else in it
            parent.rmdir()
        raise


def check_space(folder: Path, needed: int) -> None:
    """Refuse to start what the disk of a folder has no room for.

    Raises:
        OSError: Less than ``needed`` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise _FullDiskError(
            f"the disk of {folder} is too full: {needed / 1e6:,.0f} MB needed, "
            f"{free / 1e6:,.0f} MB free. Make room, or set MEDSEG_DATA to a folder on "
            "another disk."
        )


class _FullDiskError(OSError):
    """There is no room."""


def _recorded(record: Path) -> str | None:
    try:
        return f"sha256:{json.loads(record.read_text(encoding='utf-8'))['sha256']}"
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{record} holds no checksum of the first download ({error!r}). Remove it "
            "to trust the next one."
        ) from error


# Downloading


class _Resumable:
    """What ``pooch`` calls to download: takes up what a ``.part`` file has already.

    Beside it, ``.part.json`` keeps the server's mark of this version of the file (its
    ETag, or its date). The rest is asked for only as long as the mark is the same.
    """

    def __init__(self, part: Path) -> None:
        self.part = part
        self.mark_file = part.with_name(part.name + ".json")

    def __call__(self, url: str, output_file: str, _: Any = None) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._get(url)
                break
            except requests.HTTPError:  # the server's last word
                raise
            except (requests.RequestException, _CutOffError):
                if attempt == ATTEMPTS:
                    raise
        os.replace(self.part, output_file)
        self.mark_file.unlink(missing_ok=True)

    def _get(self, url: str) -> None:
        have, headers = self._position(), {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": self._mark()}
        with requests.get(url, headers=headers, stream=True, timeout=SECONDS) as reply:
            if reply.status_code == requests.codes.requested_range_not_satisfiable:
                self._forget()  # the file has become shorter
                raise _CutOffError("the file on the server has changed")
            reply.raise_for_status()
            goes_on = reply.status_code == requests.codes.partial_content
            if goes_on and not _starts_at(reply, have):
                self._forget()
                raise _CutOffError("the server sent another part than was asked for")
            have = have if goes_on else 0
            length = reply.headers.get("Content-Length")
            total = have + int(length) if length else None
            if total is not None:
                check_space(self.part.parent, total - have)
            self._write_mark(reply)
            self._save(reply, have, total)

    def _save(self, reply: requests.Response, have: int, total: int | None) -> None:
        with (
            open(self.part, "ab" if have else "wb") as file,
            tqdm(
                initial=have,
                total=total,
                unit="B",
                unit_scale=True,
                desc=self.part.stem,
            ) as bar,
        ):
            for chunk in reply.iter_content(2**16):
                file.write(chunk)
                bar.update(len(chunk))
        size = self.part.stat().st_size
        if total is not None and size != total:
            raise _CutOffError(f"{size:,} of {total:,} bytes came")

    def _position(self) -> int:
        """How many bytes are here and can be gone on with; 0: start anew."""
        if not (self.part.is_file() and self._mark()):
            self._forget()
            return 0
        return self.part.stat().st_size

    def _mark(self) -> str:
        try:
            return str(json.loads(self.mark_file.read_text(encoding="utf-8"))["mark"])
        except (OSError, KeyError, TypeError, ValueError):
            return ""

    def _write_mark(self, reply: requests.Response) -> None:
        etag = reply.headers.get("ETag", "")
        # A weak ETag promises no equal bytes.
        strong = etag if not etag.startswith("W/") else ""
        mark = strong or reply.headers.get("Last-Modified", "")
        text = json.dumps({"url": reply.url, "mark": mark})
        self.mark_file.write_text(text, encoding="utf-8")

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.mark_file.unlink(missing_ok=True)


class _CutOffError(OSError):
    """Fewer bytes came than the server had announced."""


def _starts_at(reply: requests.Response, have: int) -> bool:
    return reply.headers.get("Content-Range", "").startswith(f"bytes {have}-")


def _download(url: str, part: Path, place: Path) -> Path:
    pooch.get_logger().setLevel("WARNING")  # not the advice to note the checksum
    try:
        path = pooch.retrieve(
            url, None, fname=place.name, path=place.parent, downloader=_Resumable(part)
        )
    except OSError as error:  # what requests raises, too
        if error.errno == errno.ENOSPC:
            raise _FullDiskError(
                f"the disk of {part.parent} is too full for {url}. {_kept(part)}"
            ) from error
        if isinstance(error, PermissionError | _FullDiskError):
            raise
        raise ConnectionError(
            f"{url} could not be downloaded ({error}). {_kept(part)}"
        ) from error
    return Path(path)


def _kept(part: Path) -> str:
    """What is left after a failure, and what to do."""
    if not part.is_file() or not part.stat().st_size:
        part.unlink(missing_ok=True)
        part.with_name(part.name + ".json").unlink(missing_ok=True)
        return "Nothing was kept; check the connection and try again."
    return (
        f"The first {part.stat().st_size / 1e6:,.1f} MB are kept in {part}: try again, "
        "and it will go on from there. To give it up, remove that file."
    )


def _compare(
    archive: Path, checksum: str | None, url: str, record: Path, trusted: bool
) -> None:
    if checksum is None:
        return
    kind, _, expected = checksum.rpartition(":")
    found = pooch.file_hash(str(archive), alg=kind or "sha256")
    if found == expected.lower():
        return
    name = "MD5" if kind == "md5" else "SHA-256"
    text = f"{url} has the {name} checksum {found}, expected {expected}. "
    if not trusted:
        warnings.warn(
            text + "The one expected is known at second hand only, so the download is "
            f"used all the same; its SHA-256 is recorded in {record}.",
            stacklevel=3,
        )
        return
    raise ValueError(
        text
        + "The download is damaged or the publisher has changed it: try again, and "
        f"if the change is known and meant, remove {record}."
    )


# Unpacking


class _Member(NamedTuple):
    name: str
    size: int
    is_plain: bool  # a file or a folder; not a link, a device or a pipe


def unpack(archive: str | Path, folder: str | Path, source: str = "") -> Path:
    """Unpack a zip or tar file into a new folder, if it can be trusted.

    Args:
        archive: The file, whatever its name; tar may be compressed (gz, bz2, xz).
        folder: Made by this; it must not exist yet.
        source: What an error message calls the archive. Its path, if empty.

    Returns:
        The folder.

    Raises:
        OSError: The disk is too full.
        ValueError: The archive is damaged, is no archive, or has members that would be
            written outside the folder, links, devices or pipes. Nothing is left.
    """
    archive, folder = Path(archive), Path(folder)
    source = source or str(archive)
    opened: Any = None
    try:
        opened = _open(archive)
        members = list(_members(opened))
        for member in members:
            _check_member(member, source)
        check_space(folder.parent, sum(member.size for member in members))
        folder.mkdir()
        if isinstance(opened, zipfile.ZipFile):
            opened.extractall(folder)
        else:
            opened.extractall(folder, filter="data")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        if error.errno is not None or isinstance(error, _FullDiskError):
            raise  # of the system, not of the archive
        raise _no_archive(archive, source, error) from error
    except _DAMAGE as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _no_archive(archive, source, error) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        if opened is not None:
            opened.close()
    return folder


_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,  # a compression that Python does not know
    RuntimeError,  # a password
)


def _open(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    if zipfile.is_zipfile(archive):
        return zipfile.ZipFile(archive)
    return tarfile.open(archive)


def _members(opened: zipfile.ZipFile | tarfile.TarFile) -> Iterable[_Member]:
    if isinstance(opened, zipfile.ZipFile):
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0: not made by Unix
            plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
            yield _Member(info.filename, info.file_size, plain)
    else:
        for member in opened.getmembers():
            yield _Member(member.name, member.size, member.isreg() or member.isdir())


def _check_member(member: _Member, source: str) -> None:
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in str(path):
        raise ValueError(
            f"{source} has a member {member.name!r}, which would be written outside "
            "the data set's folder. Do not trust it."
        )
    if not member.is_plain:
        raise ValueError(
            f"{source} has a member {member.name!r}, which is a link, a device or a "
            "pipe and no file. Do not trust it."
        )


def _no_archive(archive: Path, source: str, error: Exception) -> ValueError:
    return ValueError(
        f"what came from {source} is no whole zip or tar file ({error}; "
        f"{archive.stat().st_size} bytes). Nothing was kept; try again."
    )
