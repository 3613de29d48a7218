"""Downloads go on where they broke off, and a half file never has the name of a whole one."""

import errno
import fcntl
import hashlib
import multiprocessing
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from spotesm.base.failures import NoLocksError, WeightsError
from spotesm.weights import downloads
from spotesm.weights.downloads import BLOCK_BYTES, download

CONTENT = os.urandom(5 * BLOCK_BYTES + 12345)
WAIT_SECONDS = 60


class Server(ThreadingHTTPServer):
    """Serves CONTENT at any path; counts, and breaks off as it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.breaks: list[int] = []  # after how many bytes the next answers break off
        self.ranges: list[str | None] = []
        self.gives_parts = True
        self.says_length = True
        self.status = 200
        self.release = threading.Event()  # an answer that holds back waits for it
        self.holds_back_at = -1
        self.held = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/model.pt"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.ranges.append(asked)
        etag = f'"{hashlib.sha256(server.content).hexdigest()[:16]}"'
        start = 0
        if asked and server.gives_parts and self.headers.get("If-Range") == etag:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        self.send_response(206 if start else server.status)
        self.send_header("ETag", etag)
        if server.says_length:
            self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        end = server.breaks.pop(0) if server.breaks else len(server.content)
        for place in range(start, end, 1 << 16):
            if 0 <= server.holds_back_at < place + (1 << 16):
                server.held.set()
                server.release.wait(WAIT_SECONDS)
            self.wfile.write(server.content[place : min(place + (1 << 16), end)])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.release.set()
        server.shutdown()


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_whole_file_arrives(server: Server, tmp_path: Path) -> None:
    download(server.url, tmp_path / "hub" / "model.pt")
    assert (tmp_path / "hub/model.pt").read_bytes() == CONTENT
    assert left(tmp_path / "hub") == {"model.pt"}
    assert server.ranges == [None]


@pytest.mark.parametrize("places", [[1], [3 * BLOCK_BYTES + 7], [9, 2 * BLOCK_BYTES, 4 << 20]])
def test_what_breaks_off_is_gone_on_with(server: Server, tmp_path: Path, places: list[int]) -> None:
    server.breaks = list(places)
    download(server.url, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    assert server.ranges == [None, *(f"bytes={place}-" for place in places)]
    assert left(tmp_path) == {"model.pt"}


def test_what_always_breaks_off_ends_with_a_line(server: Server, tmp_path: Path) -> None:
    server.breaks = [1000] * 50
    with pytest.raises(WeightsError, match=r"breaks off after 1000 bytes.*put it at .*model\.pt"):
        download(server.url, tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()
    server.breaks = []
    download(server.url, tmp_path / "model.pt")
    assert server.ranges[-1] == "bytes=1000-"
    assert (tmp_path / "model.pt").read_bytes() == CONTENT


def test_without_locks_nothing_is_asked_and_the_setting_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes would write into one half file."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(NoLocksError, match=f"{tmp_path}: .* no locks .* set TORCH_HOME to a"):
        download(server.url, tmp_path / "model.pt")
    assert server.ranges == []


def test_what_arrived_whole_is_not_asked_for_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ended before the file had its name."""
    with monkeypatch.context() as patch:
        patch.setattr(downloads, "publish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            download(server.url, tmp_path / "model.pt")
    download(server.url, tmp_path / "model.pt")
    assert server.ranges == [None]
    assert (tmp_path / "model.pt").read_bytes() == CONTENT


@pytest.mark.parametrize("why", ["another file", "no parts"])
def test_parts_of_another_file_are_never_joined(server: Server, tmp_path: Path, why: str) -> None:
    server.breaks = [2 * BLOCK_BYTES] * 50
    with pytest.raises(WeightsError):
        download(server.url, tmp_path / "model.pt")
    server.breaks = []
    server.gives_parts = why != "no parts"
    if why == "another file":
        server.content = os.urandom(len(CONTENT))
    download(server.url, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == server.content


@pytest.mark.parametrize("why", ["not found", "no length", "nobody there"])
def test_no_answer_is_a_line(server: Server, tmp_path: Path, why: str) -> None:
    url = server.url
    if why == "not found":
        server.status = 404
    elif why == "no length":
        server.says_length = False
    else:
        url = "http://127.0.0.1:1/model.pt"
    with pytest.raises(WeightsError, match=f"cannot download {url} ") as caught:
        download(url, tmp_path / "model.pt")
    assert "\n" not in str(caught.value)
    assert left(tmp_path) <= {"model.pt.part", "model.pt.part.json"}


def start(url: str, path: Path) -> multiprocessing.Process:
    process = multiprocessing.get_context("spawn").Process(target=download, args=(url, path))
    process.start()
    return process


@pytest.mark.parametrize("place", [0, 2 * BLOCK_BYTES + 100, len(CONTENT) - 10])
def test_a_kill_leaves_nothing_that_is_taken_for_whole(
    server: Server, tmp_path: Path, place: int
) -> None:
    server.holds_back_at = place
    process = start(server.url, tmp_path / "model.pt")
    assert server.held.wait(WAIT_SECONDS)
    process.kill()
    process.join(WAIT_SECONDS)
    assert not (tmp_path / "model.pt").exists()
    server.release.set()
    server.holds_back_at = -1
    download(server.url, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == CONTENT


def test_of_two_at_once_one_downloads(server: Server, tmp_path: Path) -> None:
    processes = [start(server.url, tmp_path / "model.pt") for _ in range(2)]
    for process in processes:
        process.join(WAIT_SECONDS)
        assert process.exitcode == 0
    assert len(server.ranges) == 1
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
