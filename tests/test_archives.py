"""Tests of medseg.archives."""

import hashlib
import io
import json
import shutil
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from medseg.archives import fetch


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


GOOD = zip_of({"a/x.txt": "one" * 1000, "b.txt": "two"})


@pytest.fixture
def server(monkeypatch):
    """A server on this machine; set its ``content``, and its promised ``length``."""
    state = SimpleNamespace(content=GOOD, length=None, requests=0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.requests += 1
            if state.content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", state.length or len(state.content))
            self.end_headers()
            self.wfile.write(state.content)

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


def test_archive_is_unpacked_and_its_checksum_recorded(server, tmp_path):
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
        "sha256": hashlib.sha256(GOOD).hexdigest(),
        "bytes": len(GOOD),
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
    "cut in half": (GOOD[: len(GOOD) // 2], "no whole zip file"),
    "a page of text": (b"<html>Not here</html>", "no whole zip file"),
    "damaged inside": (GOOD.replace(b"oneone", b"onetwo", 1), "no whole zip file"),
    "climbing out": (zip_of({"../evil.txt": "x"}), r"member '\.\./evil\.txt'"),
    "climbing out, Windows": (zip_of({"a\\..\\..\\evil": "x"}), "outside the data"),
    "from the root": (zip_of({"/tmp/evil.txt": "x"}), "outside the data"),
    "from a drive": (zip_of({"C:/evil.txt": "x"}), "outside the data"),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_bad_archive_is_refused_and_leaves_nothing(server, tmp_path, kind):
    server.content, message = BAD_ARCHIVES[kind]
    with pytest.raises(ValueError, match=message):
        fetch(server.url, tmp_path / "set" / "data", disk_bytes=1)
    assert everything_in(tmp_path) == []


def test_connection_lost_half_way_leaves_nothing(server, tmp_path):
    server.content, server.length = GOOD[: len(GOOD) // 2], len(GOOD)
    with pytest.raises(ConnectionError, match=r"data\.zip could not be downloaded"):
        fetch(server.url, tmp_path / "set" / "data", disk_bytes=1)
    assert everything_in(tmp_path) == []


def test_missing_page_leaves_nothing(server, tmp_path):
    server.content = None
    with pytest.raises(ConnectionError, match=r"404.*try again"):
        fetch(server.url, tmp_path / "set" / "data", disk_bytes=1)
    assert everything_in(tmp_path) == []


def test_interruption_while_unpacking_leaves_nothing(server, tmp_path, monkeypatch):
    def interrupt(self, folder):
        (folder / "half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile.ZipFile, "extractall", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, tmp_path / "set" / "data", disk_bytes=1)
    assert everything_in(tmp_path) == []


def test_archive_that_differs_from_the_first_download_is_refused(server, tmp_path):
    fetch(server.url, tmp_path / "data", disk_bytes=1)
    shutil.rmtree(tmp_path / "data")
    fetch(server.url, tmp_path / "data", disk_bytes=1)  # the same again is welcome
    shutil.rmtree(tmp_path / "data")
    server.content = zip_of({"b.txt": "three"})
    with pytest.raises(ValueError, match=r"checksum .* remove .*data\.json"):
        fetch(server.url, tmp_path / "data", disk_bytes=1)
    assert everything_in(tmp_path) == ["data.json"]


def test_published_checksum_is_compared(server, tmp_path):
    with pytest.raises(ValueError, match="expected 0000"):
        fetch(server.url, tmp_path / "data", disk_bytes=1, sha256="0" * 64)
    fetch(
        server.url,
        tmp_path / "data",
        disk_bytes=1,
        sha256=hashlib.sha256(GOOD).hexdigest(),
    )
    assert (tmp_path / "data").is_dir()


def test_archive_of_something_else_is_refused(server, tmp_path):
    with pytest.raises(ValueError, match="does not hold what it should"):
        fetch(server.url, tmp_path / "data", disk_bytes=1, accept=lambda folder: False)
    assert everything_in(tmp_path) == []


def test_full_disk_is_told_before_anything_is_downloaded(server, tmp_path, monkeypatch):
    usage = SimpleNamespace(free=100_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match="400 MB needed, 100 MB free"):
        fetch(server.url, tmp_path / "set" / "data", disk_bytes=400_000_000)
    assert server.requests == 0
    assert everything_in(tmp_path) == []


def test_existing_folder_is_not_overwritten(server, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        fetch(server.url, tmp_path / "data", disk_bytes=1)
    assert server.requests == 0
