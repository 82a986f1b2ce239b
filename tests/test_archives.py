"""Tests of medseg.archives."""

import builtins
import errno
import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from medseg import archives
from medseg.archives import fetch, unpack


def zip_of(members, modes=()):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        for name, mode in modes:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, "/etc/passwd")
    return buffer.getvalue()


def tar_of(members, mode="w", **special):
    """A tar file; ``special`` is one more member that is no file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))
        if special:
            info = tarfile.TarInfo("special")
            for field, value in special.items():
                setattr(info, field, value)
            archive.addfile(info)
    return buffer.getvalue()


GOOD = zip_of({"a/x.txt": "one" * 1000, "b.txt": "two"})


@pytest.fixture
def server(monkeypatch):
    """A server on this machine, which knows ranges.

    ``content`` is what it has; ``cuts`` after how many bytes the next replies break
    off; ``ranges`` what was asked for.
    """
    state = SimpleNamespace(content=GOOD, cuts=[], ranges=[], etag='"one"', knows=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            if state.content is None:
                self.send_error(404)
                return
            start = 0
            if asked and state.knows and self.headers.get("If-Range") == state.etag:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
            total = len(state.content)
            if start >= total:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.send_header("Content-Length", str(total - start))
            if state.etag:
                self.send_header("ETag", state.etag)
            self.end_headers()
            cut = state.cuts.pop(0) if state.cuts else total
            self.wfile.write(state.content[start : start + cut])

        def log_message(self, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/data.zip"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def everything_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# Whole or not at all


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        tar_of({"a/x.txt": "one" * 1000, "b.txt": "two"}),
        tar_of({"a/x.txt": "one" * 1000, "b.txt": "two"}, "w:gz"),
    ],
    ids=["zip", "tar", "tar.gz"],
)
def test_archive_is_unpacked_and_its_checksum_recorded(server, tmp_path, content):
    server.content = content
    fetch(server.url, tmp_path / "set" / "data", disk_bytes=1)
    assert everything_in(tmp_path / "set") == [
        "data",
        "data.json",
        "data/a",
        "data/a/x.txt",
        "data/b.txt",
    ]
    assert (tmp_path / "set" / "data" / "b.txt").read_text() == "two"
    assert json.loads((tmp_path / "set" / "data.json").read_text()) == {
        "url": server.url,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }


def test_folder_of_the_same_name_in_the_archive_is_not_doubled(server, tmp_path):
    server.content = zip_of({"data/x.txt": "one", "__MACOSX/._x": ""})
    fetch(server.url, tmp_path / "data", disk_bytes=1)
    assert everything_in(tmp_path / "data") == ["x.txt"]


def test_other_readers_of_the_disk_may_read_the_data(server, tmp_path):
    (tmp_path / "plain").mkdir()
    fetch(server.url, tmp_path / "data", disk_bytes=1)
    assert (tmp_path / "data").stat().st_mode == (tmp_path / "plain").stat().st_mode


BAD_ARCHIVES = {
    "cut in half": (GOOD[: len(GOOD) // 2], "no whole zip or tar file"),
    "a page of text": (b"<html>Not here</html>", "no whole zip or tar file"),
    "damaged inside": (GOOD.replace(b"oneone", b"onetwo", 1), "no whole zip or tar"),
    "climbing out": (zip_of({"../evil.txt": "x"}), r"member '\.\./evil\.txt'"),
    "climbing out, Windows": (zip_of({"a\\..\\..\\evil": "x"}), "outside the data"),
    "from the root": (zip_of({"/tmp/evil.txt": "x"}), "outside the data"),
    "from a drive": (zip_of({"C:/evil.txt": "x"}), "outside the data"),
    "a link in a zip": (
        zip_of({}, [("evil", stat.S_IFLNK | 0o777)]),
        "'evil', which is a link",
    ),
    "tar cut in half": (
        tar_of({"x": "one" * 9000}, "w:gz")[:80],
        "no whole zip or tar file",
    ),
    "tar climbing out": (tar_of({"a/../../evil": "x"}), "outside the data"),
    "tar from the root": (tar_of({"/tmp/evil.txt": "x"}), "outside the data"),
    "a link in a tar": (
        tar_of({}, type=tarfile.SYMTYPE, linkname="/etc"),
        "'special', which is a link",
    ),
    "a hard link": (
        tar_of({"x": "1"}, type=tarfile.LNKTYPE, linkname="x"),
        "which is a link",
    ),
    "a device": (tar_of({}, type=tarfile.CHRTYPE), "a device or a pipe"),
    "a pipe": (tar_of({}, type=tarfile.FIFOTYPE), "a device or a pipe"),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_bad_archive_is_refused_and_leaves_nothing(server, tmp_path, kind):
    server.content, message = BAD_ARCHIVES[kind]
    with pytest.raises(ValueError, match=message):
        fetch(server.url, tmp_path / "set" / "data", disk_bytes=1)
    assert everything_in(tmp_path) == []


def test_missing_page_leaves_nothing(server, tmp_path):
    server.content = None
    with pytest.raises(ConnectionError, match=r"404.*Nothing was kept.*try again"):
        fetch(server.url, tmp_path / "set" / "data", disk_bytes=1)
    assert everything_in(tmp_path) == []
    assert len(server.ranges) == 1  # the server's last word is not asked for again


def test_interruption_while_unpacking_leaves_nothing(server, tmp_path, monkeypatch):
    def interrupt(self, folder):
        (folder / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile.ZipFile, "extractall", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, tmp_path / "set" / "data", disk_bytes=1)
    assert everything_in(tmp_path) == []


def test_archive_of_something_else_is_refused(server, tmp_path):
    with pytest.raises(ValueError, match="does not hold what it should"):
        fetch(server.url, tmp_path / "data", disk_bytes=1, accept=lambda folder: False)
    assert everything_in(tmp_path) == []


def test_existing_folder_is_not_overwritten(server, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        fetch(server.url, tmp_path / "data", disk_bytes=1)
    assert server.ranges == []


# Going on where it stopped


BIG = zip_of({"x.bin": np.random.default_rng(0).bytes(3_000_000)})
SOME, MORE = 15 * 2**16, 10 * 2**16  # bytes; what comes is written in steps of 2**16


def test_lost_connection_is_taken_up_where_it_broke_off(server, tmp_path):
    server.content, server.cuts = BIG, [SOME, MORE]
    fetch(server.url, tmp_path / "data", disk_bytes=1)
    assert server.ranges == [None, f"bytes={SOME}-", f"bytes={SOME + MORE}-"]
    record = json.loads((tmp_path / "data.json").read_text())
    assert record["sha256"] == hashlib.sha256(BIG).hexdigest()
    assert everything_in(tmp_path) == ["data", "data.json", "data/x.bin"]


def test_download_that_stopped_goes_on_when_asked_again(server, tmp_path):
    server.content, server.cuts = BIG, [SOME, 0, 0]
    with pytest.raises(
        ConnectionError, match=r"first 1\.0 MB are kept in .*data\.part"
    ):
        fetch(server.url, tmp_path / "set" / "data", disk_bytes=1)
    assert everything_in(tmp_path / "set") == ["data.part", "data.part.json"]
    assert (tmp_path / "set" / "data.part").read_bytes() == BIG[:SOME]
    server.ranges.clear()
    fetch(server.url, tmp_path / "set" / "data", disk_bytes=1)
    assert server.ranges == [f"bytes={SOME}-"]
    assert everything_in(tmp_path / "set") == ["data", "data.json", "data/x.bin"]


def test_file_that_has_changed_meanwhile_is_downloaded_anew(server, tmp_path):
    server.content, server.cuts = BIG, [SOME, 0, 0]
    with pytest.raises(ConnectionError):
        fetch(server.url, tmp_path / "data", disk_bytes=1)
    server.content, server.etag = zip_of({"y.txt": "new"}), '"two"'
    fetch(server.url, tmp_path / "data", disk_bytes=1)
    assert everything_in(tmp_path / "data") == ["y.txt"]


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_mark_of_the_version_nothing_is_put_together(server, tmp_path, etag):
    server.content, server.cuts, server.etag = BIG, [SOME, 5, 5], etag
    with pytest.raises(ConnectionError):
        fetch(server.url, tmp_path / "data", disk_bytes=1)
    fetch(server.url, tmp_path / "data", disk_bytes=1)
    assert set(server.ranges) == {None}
    assert everything_in(tmp_path) == ["data", "data.json", "data/x.bin"]


def test_server_that_knows_no_ranges_sends_all_again(server, tmp_path):
    server.content, server.cuts, server.knows = BIG, [SOME], False
    fetch(server.url, tmp_path / "data", disk_bytes=1)
    assert server.ranges == [None, f"bytes={SOME}-"]
    assert (tmp_path / "data" / "x.bin").stat().st_size == 3_000_000


def test_partial_file_longer_than_the_new_one_is_given_up(server, tmp_path):
    server.content, server.cuts = BIG, [SOME, 0, 0]
    with pytest.raises(ConnectionError):
        fetch(server.url, tmp_path / "data", disk_bytes=1)
    server.content = GOOD  # with the same ETag: a careless server, which says 416
    fetch(server.url, tmp_path / "data", disk_bytes=1)
    assert (tmp_path / "data" / "b.txt").read_text() == "two"


# Checksums


def test_archive_that_differs_from_the_first_download_is_refused(server, tmp_path):
    fetch(server.url, tmp_path / "data", disk_bytes=1)
    shutil.rmtree(tmp_path / "data")
    fetch(server.url, tmp_path / "data", disk_bytes=1)  # the same again is welcome
    shutil.rmtree(tmp_path / "data")
    server.content = zip_of({"b.txt": "three"})
    with pytest.raises(ValueError, match=r"checksum .* remove .*data\.json"):
        fetch(server.url, tmp_path / "data", disk_bytes=1)
    assert everything_in(tmp_path) == ["data.json"]


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_published_checksum_is_compared(server, tmp_path, kind):
    found = hashlib.new(kind, GOOD).hexdigest()
    with pytest.raises(ValueError, match=f"{found}, expected 0000"):
        fetch(server.url, tmp_path / "data", 1, f"{kind}:{'0' * len(found)}")
    assert everything_in(tmp_path) == []
    fetch(server.url, tmp_path / "data", 1, f"{kind}:{found.upper()}")
    assert (tmp_path / "data").is_dir()


def test_checksum_at_second_hand_only_warns(server, tmp_path):
    with pytest.warns(UserWarning, match=r"expected 0000.*second hand"):
        fetch(server.url, tmp_path / "data", 1, f"md5:{'0' * 32}", trusted=False)
    record = json.loads((tmp_path / "data.json").read_text())
    assert record["sha256"] == hashlib.sha256(GOOD).hexdigest()


def test_damaged_record_of_the_first_download_says_what_to_do(server, tmp_path):
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(ValueError, match=r"data\.json holds no checksum.*Remove it"):
        fetch(server.url, tmp_path / "data", disk_bytes=1)


# Full disks and forbidden folders


def test_full_disk_is_told_before_anything_is_downloaded(server, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=100_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="400 MB needed, 100 MB free"):
        fetch(server.url, tmp_path / "set" / "data", disk_bytes=400_000_000)
    assert server.ranges == []
    assert everything_in(tmp_path) == []


def test_archive_larger_than_the_disk_is_told_before_it_is_saved(
    server, tmp_path, monkeypatch
):
    server.content = BIG
    usage = SimpleNamespace(free=2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="3 MB needed, 2 MB free"):
        fetch(server.url, tmp_path / "set" / "data", disk_bytes=1)
    assert everything_in(tmp_path) == []


def test_bomb_is_told_before_it_is_unpacked(tmp_path, monkeypatch):
    (tmp_path / "bomb.tar").write_bytes(tar_of({"x": "0" * 5_000_000}, "w:gz"))
    usage = SimpleNamespace(free=2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="5 MB needed, 2 MB free"):
        unpack(tmp_path / "bomb.tar", tmp_path / "data")
    assert everything_in(tmp_path) == ["bomb.tar"]


class FullDisk:
    """A file on a disk with room for a million bytes."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.file.close()

    def write(self, chunk):
        room = 1_000_000 - self.file.tell()
        self.file.write(chunk[:room])
        if len(chunk) > room:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_disk_that_fills_up_keeps_what_has_come(server, tmp_path, monkeypatch):
    server.content = BIG
    monkeypatch.setattr(
        archives,
        "open",
        lambda *a: FullDisk(builtins.open(*a)),  # noqa: SIM115
        raising=False,
    )
    with pytest.raises(OSError, match=r"too full .*1\.0 MB are kept"):
        fetch(server.url, tmp_path / "set" / "data", disk_bytes=1)
    assert everything_in(tmp_path / "set") == ["data.part", "data.part.json"]
    monkeypatch.undo()
    os.environ["NO_PROXY"] = "127.0.0.1"
    fetch(server.url, tmp_path / "set" / "data", disk_bytes=1)
    assert server.ranges[-1] == "bytes=1000000-"


def test_disk_that_fills_up_while_unpacking_leaves_nothing_unpacked(
    tmp_path, monkeypatch
):
    def full(self, folder):
        (folder / "half").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "data.zip").write_bytes(GOOD)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(tmp_path / "data.zip", tmp_path / "data")
    assert everything_in(tmp_path) == ["data.zip"]


def test_forbidden_folder_is_named(server, tmp_path, monkeypatch):
    def forbidden(path, *args):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(archives, "open", forbidden, raising=False)
    with pytest.raises(PermissionError, match=r"Permission denied: .*data\.part"):
        fetch(server.url, tmp_path / "set" / "data", disk_bytes=1)
