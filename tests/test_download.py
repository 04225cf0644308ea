"""Downloads from a real https server that fails in every way; malicious archives; files that change later."""

import contextlib
import errno
import fcntl
import gzip
import hashlib
import http.server
import io
import logging
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.core.errors import DataError, ResourceError
from dlcli.data import download, published
from dlcli.data.archives import Archive, File, unpack
from dlcli.data.download import SHA256SUMS, fetch, verify
from tests.conftest import DATA_DIR, needs_data

RAW = bytes(range(256)) * 40
PACKED = gzip.compress(RAW, mtime=0)
PART = ".part-raw.gz"

Reply = Callable[[http.server.BaseHTTPRequestHandler], None]


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def gz(*urls: str, name: str = "raw", raw: bytes = RAW, published: bool = True) -> Archive:
    packed = gzip.compress(raw, mtime=0)
    file = File(name, len(raw), sha(raw) if published else "")
    return Archive(f"{name}.gz", len(packed), sha(packed), urls, (file,))


# A server


class Server:
    """Serves `replies` by path over TLS, and records the requested paths and ranges."""

    def __init__(self, certificate: Path | None) -> None:
        self.replies: dict[str, Reply] = {}
        self.asked: list[str] = []
        self.ranges: list[str | None] = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                server.ranges.append(self.headers["Range"])
                with contextlib.suppress(OSError):  # a client that is refused closes the connection
                    server.replies[self.path](self)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *arguments: None  # type: ignore[method-assign]  # a client that hung up
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # The handshake is made in the connection's own thread, where a client that refuses it blocks no other.
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    def add(self, path: str, reply: Reply) -> str:
        self.replies[path] = reply
        return self.url + path

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def sends(content: bytes = PACKED, *, status: int = 200, length: int | None = -1, kind: str = "x/y") -> Reply:
    """Sends `content`. length: the value in the header, -1 for the true one, None for no header."""

    def reply(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        if length is not None:
            handler.send_header("Content-Length", str(len(content) if length < 0 else length))
        handler.end_headers()
        handler.wfile.write(content)

    return reply


def ranged(content: bytes = PACKED, *, stop: int | None = None, told: str = "") -> Reply:
    """Sends the requested range of `content`, up to byte `stop`. told: a Content-Range instead of the true one."""

    def reply(handler: http.server.BaseHTTPRequestHandler) -> None:
        asked = handler.headers["Range"]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        handler.send_response(206 if asked else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        if asked:
            handler.send_header("Content-Range", told or f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.end_headers()
        handler.wfile.write(content[start:stop])

    return reply


def redirects(target: str) -> Reply:
    def reply(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return reply


def in_turn(*replies: Reply) -> Reply:
    left = list(replies)
    return lambda handler: left.pop(0)(handler)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a self-signed certificate for 127.0.0.1, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    words += " -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    subprocess.run(["openssl", *words.split()], cwd=folder, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "key.pem").read_bytes() + (folder / "cert.pem").read_bytes())
    return both


@pytest.fixture
def server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with a trusted certificate, and no waiting between attempts."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(download, "_PAUSES", (0.0, 0.0, 0.0))
    server = Server(certificate)
    yield server
    server.close()


def said(archive: Archive, folder: Path, *, arrived: bytes = b"") -> str:
    """The error message of a failed download. arrived: the bytes that are kept, in the only file that remains."""
    with pytest.raises(DataError) as caught:
        fetch("Things", [archive], folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == ({PART: arrived} if arrived else {})
    return str(caught.value)


def cannot(archive: Archive, folder: Path, *reasons: str, arrived: int = 0) -> str:
    """The error message of a failed download of which this many bytes are kept."""
    told = "; ".join(f"{url}: {reason}" for url, reason in zip(archive.urls, reasons, strict=True))
    again = f"try again, which continues after the {arrived} bytes that have arrived, or " if arrived else ""
    return (
        f"Things is not in the data folder and cannot be downloaded ({told}): {again}put {archive.name} "
        f"(sha256 {archive.sha256}) into {folder}, or choose --data-dir"
    )


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# What arrives


def test_a_download_is_unpacked_into_the_folder_and_nothing_else_is_left_there(server: Server, tmp_path: Path) -> None:
    archive = gz(server.add("/raw.gz", sends()))
    folder = tmp_path / "new" / "folder"
    fetch("Things", [archive], folder)
    assert (folder / "raw").read_bytes() == RAW
    assert listing(folder) == ["raw"]
    fetch("Things", [archive], folder)
    assert server.asked == ["/raw.gz"]


def test_only_what_is_missing_is_downloaded(server: Server, tmp_path: Path) -> None:
    other = bytes(300)
    archives = [
        gz(server.add("/a.gz", sends()), name="a"),
        gz(server.add("/b.gz", sends(gzip.compress(other, mtime=0))), name="b", raw=other),
    ]
    (tmp_path / "a").write_bytes(RAW)
    fetch("Things", archives, tmp_path)
    assert server.asked == ["/b.gz"] and (tmp_path / "b").read_bytes() == other


def test_a_plain_file_and_a_tar_are_taken_too(server: Server, tmp_path: Path) -> None:
    plain = Archive(
        "raw", len(RAW), sha(RAW), (server.add("/x/input", sends(RAW)),), (File("raw", len(RAW), sha(RAW)),)
    )
    content = tar(regular("in/one", b"1"), regular("in/two", b"22"))
    files = (File("one", 1, sha(b"1")), File("two", 2, sha(b"22")))
    both = Archive("t.tar.gz", len(content), sha(content), (server.add("/t", sends(content)),), files, inside="in/")
    fetch("Things", [plain, both], tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in listing(tmp_path)} == {
        "raw": RAW, "one": b"1", "two": b"22",
    }  # fmt: skip


HTML = b"<html>Please log in to the hotel's network</html>"
WRONG = PACKED[:-1] + b"!"


@pytest.mark.parametrize(
    ("reply", "reason", "tries"),
    [
        (sends(PACKED[:50], length=len(PACKED)), f"it sent 50 of {len(PACKED)} bytes", 3),
        (sends(PACKED[:50], length=None), f"it sent 50 of {len(PACKED)} bytes", 3),
        (sends(b"", length=None), f"it sent 0 of {len(PACKED)} bytes", 3),
        (sends(HTML, kind="text/html"), f"it sends {len(HTML)} bytes of text/html instead of {len(PACKED)}", 1),
        (sends(WRONG), f"what it sends has the sha256 {sha(WRONG)}", 1),
        (sends(PACKED + b"!", length=None), f"it sends more than {len(PACKED)} bytes", 1),
        (sends(bytes(10_000_000), length=None), f"it sends more than {len(PACKED)} bytes", 1),
        (sends(HTML, status=404), "HTTP status 404", 1),
        (sends(HTML, status=403), "HTTP status 403", 1),
        (sends(HTML, status=429), "HTTP status 429", 3),
        (sends(HTML, status=503), "HTTP status 503", 3),
        (lambda handler: handler.connection.close(), "Remote end closed connection without response", 3),
        (lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"), "nonsense", 3),
    ],
)
def test_what_is_not_the_archive_is_told_and_not_kept(
    server: Server, tmp_path: Path, reply: Reply, reason: str, tries: int
) -> None:
    archive = gz(server.add("/raw.gz", reply))
    arrived = PACKED[:50] if reason.startswith("it sent 50 of") else b""
    assert said(archive, tmp_path, arrived=arrived) == cannot(archive, tmp_path, reason, arrived=len(arrived))
    assert server.asked == ["/raw.gz"] * tries


def test_no_more_is_taken_than_was_promised(server: Server, tmp_path: Path) -> None:
    sent, before = 0, threading.active_count()

    def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
        nonlocal sent
        sends(b"", length=None)(handler)
        while sent < 100_000_000:
            sent += handler.wfile.write(bytes(100_000))

    archive = gz(server.add("/raw.gz", endless))
    assert said(archive, tmp_path) == cannot(archive, tmp_path, f"it sends more than {len(PACKED)} bytes")
    wait_until(lambda: threading.active_count() == before)
    assert sent < 50_000_000  # some bytes are in the buffers of the connection


@pytest.fixture
def stalls(monkeypatch) -> Iterator[Reply]:
    """Sends 50 bytes and then nothing; after this many seconds the stall is soon reported."""
    monkeypatch.setattr(download, "_STALLED", 0.2)
    end = threading.Event()

    def reply(handler: http.server.BaseHTTPRequestHandler) -> None:
        ranged(stop=50)(handler)
        end.wait(30)

    yield reply
    end.set()


def test_a_server_that_stops_sending_is_given_up(server: Server, tmp_path: Path, stalls: Reply) -> None:
    archive = gz(server.add("/raw.gz", stalls))
    reason = "no byte came for 0.2 s"
    assert said(archive, tmp_path, arrived=PACKED[:50]) == cannot(archive, tmp_path, reason, arrived=50)
    assert server.asked == ["/raw.gz"]
    silent = gz(server.add("/silent", lambda handler: time.sleep(1)), name="other")
    with pytest.raises(DataError, match=r"no byte came for 0\.2 s\)"):
        fetch("Things", [silent], tmp_path)


def test_the_next_mirror_goes_on_where_one_has_stalled(server: Server, tmp_path: Path, stalls: Reply) -> None:
    archive = gz(server.add("/1", stalls), server.add("/2", ranged()))
    fetch("Things", [archive], tmp_path)
    assert (server.asked, server.ranges) == (["/1", "/2"], [None, "bytes=50-"])
    assert (tmp_path / "raw").read_bytes() == RAW and listing(tmp_path) == ["raw"]


def test_the_next_command_goes_on_where_one_has_stalled(server: Server, tmp_path: Path, monkeypatch) -> None:
    """First exit code 3, one message and no run; then it trains."""
    text = b"to be or not to be, " * 500
    monkeypatch.setattr(download, "_STALLED", 0.2)
    end = threading.Event()

    def stalls(handler: http.server.BaseHTTPRequestHandler) -> None:
        ranged(text, stop=50)(handler)
        end.wait(30)

    url = server.add("/input.txt", in_turn(stalls, ranged(text)))
    archive = Archive("input.txt", len(text), sha(text), (url,), (File("input.txt", len(text), sha(text)),))
    monkeypatch.setattr("dlcli.data.text.TINYSHAKESPEARE", (archive,))
    monkeypatch.chdir(tmp_path)
    words = ["train", "rnn", "--data", "tinyshakespeare", "--data-dir", "data", "--steps", "2", "--device", "cpu"]
    words += ["--set", "model.hidden=8", "--set", "data.length=16", "--quiet"]
    result = CliRunner().invoke(app, words)
    folder = Path.cwd() / "data" / "tinyshakespeare"
    told = cannot(archive, folder, "no byte came for 0.2 s", arrived=50).replace("Things", "tinyshakespeare")
    assert (result.exit_code, result.stdout, result.stderr) == (3, "", f"error: {told}\n")
    assert not Path("runs").exists()
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert server.ranges == [None, "bytes=50-"]
    assert listing(folder) == ["input.txt"]
    end.set()


def test_a_download_that_broke_off_is_tried_again(server: Server, tmp_path: Path) -> None:
    archive = gz(server.add("/raw.gz", in_turn(sends(PACKED[:9], length=len(PACKED)), sends(b"", status=500), sends())))
    fetch("Things", [archive], tmp_path)
    assert (tmp_path / "raw").read_bytes() == RAW and len(server.asked) == 3


def test_what_broke_off_is_gone_on_with(server: Server, tmp_path: Path, caplog) -> None:
    archive = gz(server.add("/raw.gz", in_turn(ranged(stop=50), ranged(stop=80), ranged())))
    with caplog.at_level(logging.WARNING):
        fetch("Things", [archive], tmp_path)
    assert server.ranges == [None, "bytes=50-", "bytes=80-"]
    assert (tmp_path / "raw").read_bytes() == RAW and listing(tmp_path) == ["raw"]
    assert caplog.messages[1] == f"downloading {archive.urls[0]} (0 kB, from byte 50 on)"


def test_what_arrived_whole_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(PACKED)
    fetch("Things", [gz(server.add("/raw.gz", sends()))], tmp_path)
    assert (server.asked, listing(tmp_path)) == ([], ["raw"])


@pytest.mark.parametrize("part", [b"?" * 50, b"?" * len(PACKED), b"?" * 100_000], ids=["begun", "whole", "more"])
def test_a_wrong_beginning_is_dropped(part: bytes, server: Server, tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(part)
    fetch("Things", [gz(server.add("/raw.gz", ranged()))], tmp_path)
    assert server.ranges == (["bytes=50-", None] if len(part) == 50 else [None])
    assert (tmp_path / "raw").read_bytes() == RAW and listing(tmp_path) == ["raw"]


@pytest.mark.parametrize("told", ["bytes 49-99/100", f"bytes 50-{len(PACKED) - 1}/{len(PACKED) + 1}", "nonsense"])
def test_a_mirror_that_goes_on_elsewhere_is_refused(told: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(PACKED[:50])
    archive = gz(server.add("/raw.gz", ranged(told=told)))
    reason = "it does not continue from byte 50"
    assert said(archive, tmp_path, arrived=PACKED[:50]) == cannot(archive, tmp_path, reason, arrived=50)


def test_a_mirror_that_cannot_go_on_is_asked_for_all(server: Server, tmp_path: Path) -> None:
    for reply, ranges in ((sends(), ["bytes=50-"]), (in_turn(sends(status=416), ranged()), ["bytes=50-", None])):
        (tmp_path / PART).write_bytes(PACKED[:50])
        server.ranges.clear()
        fetch("Things", [gz(server.add("/raw.gz", reply))], tmp_path)
        assert server.ranges == ranges
        assert (tmp_path / "raw").read_bytes() == RAW and listing(tmp_path) == ["raw"]
        (tmp_path / "raw").unlink()


def test_what_has_arrived_outlives_a_disk_that_is_full(server: Server, tmp_path: Path) -> None:
    raw = os.urandom(50_000)
    archive = gz(server.add("/raw.gz", ranged(gzip.compress(raw, mtime=0))), raw=raw)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))"
    folder, log = tmp_path / "data", tmp_path / "log"
    assert child(archive, folder, first=limit, errors=log).wait(60) == 1
    told = f"ResourceError: cannot write {folder / PART}: File too large; choose --data-dir"
    assert log.read_text().splitlines()[-1].endswith(told)
    assert listing(folder) == [PART]
    fetch("Things", [archive], folder)
    assert server.ranges == [None, "bytes=20000-"]
    assert (folder / "raw").read_bytes() == raw and listing(folder) == ["raw"]


def test_the_next_mirror_is_asked_and_a_refusal_is_final(server: Server, tmp_path: Path) -> None:
    archive = gz(
        server.add("/1", sends(b"", status=404)),
        server.add("/2", in_turn(sends(PACKED[:9], length=len(PACKED)), sends())),
        server.add("/3", sends(HTML)),
    )
    fetch("Things", [archive], tmp_path)
    assert server.asked == ["/1", "/2", "/3", "/2"]
    assert (tmp_path / "raw").read_bytes() == RAW


def test_every_mirrors_reason_is_told(server: Server, tmp_path: Path) -> None:
    archive = gz(server.add("/1", sends(b"", status=404)), server.add("/2", sends(WRONG)))
    reasons = ("HTTP status 404", f"what it sends has the sha256 {sha(WRONG)}")
    assert said(archive, tmp_path) == cannot(archive, tmp_path, *reasons)


# https and nothing else


def test_a_redirect_is_followed_to_https_only(server: Server, tmp_path: Path) -> None:
    plain = Server(None)
    http_address = plain.add("/raw.gz", sends())
    archive = gz(server.add("/to-http", redirects(http_address)))
    assert said(archive, tmp_path) == cannot(archive, tmp_path, f"it redirects to {http_address}, which is not https")
    plain.close()
    assert plain.asked == []
    fetch("Things", [gz(server.add("/moved", redirects(server.add("/raw.gz", sends()))))], tmp_path)
    assert (tmp_path / "raw").read_bytes() == RAW


@pytest.mark.parametrize("scheme", ["http", "file", "ftp", "data"])
def test_another_scheme_is_never_opened(scheme: str, server: Server, tmp_path: Path) -> None:
    (tmp_path / "it").write_bytes(PACKED)
    folder = tmp_path / "data"
    archive = gz(f"{scheme}://{tmp_path}/it")
    assert said(archive, folder) == cannot(archive, folder, f"unknown url type: {scheme}")


def test_a_certificate_that_nobody_vouches_for_is_refused(server: Server, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    archive = gz(server.add("/raw.gz", sends()))
    assert said(archive, tmp_path) == cannot(
        archive, tmp_path, "its certificate is not trusted, self-signed certificate"
    )  # fmt: skip
    assert server.asked == []


# Offline


def test_offline_each_mirror_is_asked_once_and_all_that_is_missing_is_named(tmp_path: Path, monkeypatch) -> None:
    asked = []

    def fails(host: str, *more: Any, **settings: Any) -> None:
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    monkeypatch.setattr(time, "sleep", lambda seconds: asked.append("slept") if seconds else None)
    archives = [gz("https://a.invalid/x", "https://b.invalid/y", name="x"), gz("https://a.invalid/z", name="z")]
    with pytest.raises(DataError) as caught:
        fetch("Things", archives, tmp_path)
    assert str(caught.value) == (
        "Things is not in the data folder and cannot be downloaded (https://a.invalid/x: Name or service not known; "
        f"https://b.invalid/y: Name or service not known): put x.gz (sha256 {archives[0].sha256}), z.gz "
        f"(sha256 {archives[1].sha256}) into {tmp_path}, or choose --data-dir"
    )
    assert asked == ["a.invalid", "b.invalid"]


def test_an_archive_that_was_put_there_by_hand_is_unpacked(tmp_path: Path) -> None:
    archive = gz("https://a.invalid/x")
    by_hand = tmp_path / "raw.gz"
    by_hand.write_bytes(PACKED)
    fetch("Things", [archive], tmp_path)
    assert (tmp_path / "raw").read_bytes() == RAW and by_hand.read_bytes() == PACKED
    (tmp_path / "raw").unlink()
    for content, reason in (
        (PACKED[:-1], f"it has {len(PACKED) - 1} bytes instead of {len(PACKED)}"),
        (WRONG, f"its sha256 is not {archive.sha256}"),
    ):
        by_hand.write_bytes(content)
        with pytest.raises(DataError) as caught:
            fetch("Things", [archive], tmp_path)
        assert str(caught.value) == f"{by_hand} is damaged: {reason}; delete it"


def test_nothing_is_added_to_data_of_somebodys_own(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"my own")
    with pytest.raises(DataError) as caught:
        fetch("Things", [gz("https://a.invalid/x", name="a"), gz("https://a.invalid/x", name="b")], tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} does not hold all files of Things, and b there is not the one of Things: "
        "delete it to download all, or add what is missing"
    )


def test_a_folder_that_cannot_be_made_or_written_is_told(server: Server, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    archive = gz(server.add("/raw.gz", sends()))
    with pytest.raises(ResourceError) as caught:
        fetch("Things", [archive], tmp_path / "file" / "raw")
    assert str(caught.value) == (
        f"cannot make the data folder {tmp_path / 'file' / 'raw'}: Not a directory; choose --data-dir"
    )
    (tmp_path / "file").unlink()

    def full(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError) as caught:
        fetch("Things", [archive], tmp_path)
    assert str(caught.value) == f"cannot write {tmp_path / 'raw'}: Input/output error"
    assert listing(tmp_path) == [PART]  # a full disk causes no second download


# Several processes, and processes that die


def child(archive: Archive, folder: Path, *, first: str = "", errors: str | Path = os.devnull) -> Any:
    program = f"{first}\nfrom pathlib import Path\nfrom dlcli.data.download import *\n"
    program += f"fetch('Things', [{archive!r}], Path({str(folder)!r}))"
    with open(errors, "wb") as log:
        return subprocess.Popen([sys.executable, "-c", program], stderr=log)


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.02)


def test_of_four_processes_one_downloads_and_the_others_wait_and_say_so(server: Server, tmp_path: Path) -> None:
    all_here = threading.Event()

    def late(handler: http.server.BaseHTTPRequestHandler) -> None:
        all_here.wait(60)
        sends()(handler)

    folder = tmp_path / "data"
    archive = gz(server.add("/raw.gz", late))
    logs = [tmp_path / f"{i}.txt" for i in range(4)]
    children = [child(archive, folder, errors=log) for log in logs]
    waiting = f"waiting for another process that downloads Things to {folder}\n"
    wait_until(lambda: sum(log.read_text() == waiting for log in logs) == 3)
    all_here.set()
    assert [process.wait(60) for process in children] == [0] * 4
    assert server.asked == ["/raw.gz"]
    told = sorted(log.read_text() for log in logs)
    assert told == sorted([waiting] * 3 + [f"downloading {archive.urls[0]} (0 kB)\n"])
    assert (folder / "raw").read_bytes() == RAW and listing(folder) == ["raw"]


def test_after_a_process_that_was_killed_while_it_downloads_the_next_goes_on(server: Server, tmp_path: Path) -> None:
    end = threading.Event()

    def half(handler: http.server.BaseHTTPRequestHandler) -> None:
        ranged(stop=50)(handler)
        end.wait(60)

    archive = gz(server.add("/raw.gz", in_turn(half, ranged())))
    process = child(archive, tmp_path)
    wait_until(lambda: (tmp_path / PART).exists() and (tmp_path / PART).read_bytes() == PACKED[:50])
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    end.set()
    assert listing(tmp_path) == [PART]
    fetch("Things", [archive], tmp_path)
    assert server.ranges == [None, "bytes=50-"]
    assert listing(tmp_path) == ["raw"]


def test_a_process_that_is_killed_while_it_writes_leaves_no_half_file_and_the_next_one_tidies(
    server: Server, tmp_path: Path
) -> None:
    archive = gz(server.add("/raw.gz", sends()))
    process = child(archive, tmp_path, first="import os; os.replace = lambda *a: os.kill(os.getpid(), 9)")
    assert process.wait(60) == -signal.SIGKILL
    part, leftover = listing(tmp_path)
    assert part == PART and leftover.startswith(".tmp-")
    fetch("Things", [archive], tmp_path)
    assert listing(tmp_path) == ["raw"]


def test_where_there_are_no_locks_it_is_downloaded_all_the_same(server: Server, tmp_path: Path, monkeypatch) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    (tmp_path / ".tmp-of-another").write_text("which may be alive")
    fetch("Things", [gz(server.add("/raw.gz", sends()))], tmp_path)
    assert listing(tmp_path) == [".tmp-of-another", "raw"]


def test_a_long_download_is_told_of(server: Server, tmp_path: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(download, "_NEWS_EVERY", 0.0)
    raw = os.urandom(2_000_000)
    archive = gz(server.add("/raw.gz", sends(gzip.compress(raw, mtime=0))), raw=raw)
    with caplog.at_level(logging.WARNING):
        fetch("Things", [archive], tmp_path)
    assert caplog.messages[0] == f"downloading {archive.urls[0]} (2.0 MB)"
    assert caplog.messages[-1] == "raw.gz: 2.0 MB of 2.0 MB"


# What is in an archive


def regular(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def wanting(*files: File, name: str = "t.tar.gz") -> Archive:
    return Archive(name, 0, "", (), files, inside="in/" if name.endswith(".tar.gz") else "")


ONE = File("one", 3, sha(b"one"))


def refused(content: bytes, archive: Archive) -> str:
    with pytest.raises(DataError) as caught:
        unpack(content, archive)
    return str(caught.value)


def test_nothing_of_a_tar_is_taken_but_what_is_wanted(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = tar(
        regular("../one", b"up"),
        regular("/tmp/one", b"absolute"),
        regular("in/../in/one", b"detour"),
        special("in/link", tarfile.SYMTYPE, "/etc"),
        regular("in/link/one", b"through a link"),
        special("in/device", tarfile.CHRTYPE),
        special("in/fifo", tarfile.FIFOTYPE),
        regular("in/one", b"one"),
    )
    assert unpack(content, wanting(ONE)) == [(ONE, b"one")]
    assert listing(tmp_path) == []


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_only_a_regular_file_is_taken(kind: bytes) -> None:
    content = tar(regular("in/other", b"one"), special("in/one", kind, "in/other"))
    assert refused(content, wanting(ONE)) == "t.tar.gz is refused: in/one in it is no regular file"


@pytest.mark.parametrize("name", ["one", "../in/one", "/in/one", "in/../in/one", "./in/one", "in/one/"])
def test_a_name_must_be_the_wanted_one_to_the_letter(name: str) -> None:
    assert refused(tar(regular(name, b"one")), wanting(ONE)) == "t.tar.gz is refused: it holds no in/one"


def test_the_content_must_be_the_published_one() -> None:
    assert refused(tar(regular("in/one", b"on")), wanting(ONE)) == (
        "t.tar.gz is refused: one in it has 2 of 3 bytes"
    )  # fmt: skip
    assert refused(tar(regular("in/one", bytes(9))), wanting(ONE)) == "t.tar.gz is refused: one in it has 4 of 3 bytes"
    assert refused(tar(regular("in/one", b"two")), wanting(ONE)) == (
        f"t.tar.gz is refused: one in it has not the sha256 {ONE.sha256}"
    )
    assert refused(gzip.compress(b"two"), wanting(ONE, name="one.gz")) == (
        f"one.gz is refused: one in it has not the sha256 {ONE.sha256}"
    )
    assert refused(gzip.compress(b"on"), wanting(ONE, name="one.gz")) == "one.gz is refused: one in it has 2 of 3 bytes"


def test_bombs_are_inflated_no_further_than_promised(monkeypatch) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < 60_000
    tracemalloc.start()
    try:
        assert refused(bomb, wanting(ONE, name="one.gz")) == "one.gz is refused: it holds more than 3 bytes"
        assert tracemalloc.get_traced_memory()[1] < 5_000_000  # peak memory
    finally:
        tracemalloc.stop()
    inflated = 0

    class Counted(gzip.GzipFile):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal inflated
            content = super().read(size)
            inflated += len(content)
            return content

    monkeypatch.setattr(gzip, "GzipFile", Counted)
    content = tar(regular("in/filler", bytes(50_000_000)), regular("in/one", b"one"))
    inflated = 0
    limit = 3 + (1 << 20)
    assert refused(content, wanting(ONE)) == f"t.tar.gz is refused: it holds more than {limit} bytes"
    assert limit < inflated < limit + 100_000


def test_archives_that_are_none_or_not_whole_are_told() -> None:
    one = gzip.compress(b"one", mtime=0)
    assert refused(HTML, wanting(ONE, name="one.gz")).startswith("one.gz is refused: it is no gzip file (")
    assert refused(one[:-6], wanting(ONE, name="one.gz")) == "one.gz is refused: the compressed file ends early"
    assert refused(HTML, wanting(ONE)) == (
        "t.tar.gz is refused: it is not a complete .tar.gz (Not a gzipped file (b'<h'))"
    )  # fmt: skip
    random = bytes(os.urandom(9000))
    big = File("one", 9000, sha(random))
    assert refused(tar(regular("in/one", random))[:5000], wanting(big)) == (
        "t.tar.gz is refused: it is not a complete .tar.gz "
        "(Compressed file ended before the end-of-stream marker was reached)"
    )
    assert refused(one, wanting(ONE)).startswith("t.tar.gz is refused: it is not a complete .tar.gz (")
    assert refused(tar(), wanting(ONE)) == "t.tar.gz is refused: it holds no in/one"


# Files that change later


def test_a_file_of_the_published_size_must_have_the_published_content(tmp_path: Path) -> None:
    file = File("raw", len(RAW), sha(RAW))
    verify(tmp_path / "raw", RAW, file, "Things")
    for place in (0, 5000, len(RAW) - 1):
        flipped = bytearray(RAW)
        flipped[place] ^= 1
        with pytest.raises(DataError) as caught:
            verify(tmp_path / "raw", flipped, file, "Things")
        assert str(caught.value) == (
            f"{tmp_path / 'raw'} is damaged: its sha256 is not that of Things; delete it to download it again, or, if "
            "it is data of your own, name it in a file SHA256SUMS beside it, as sha256sum writes it"
        )
    verify(tmp_path / "raw", RAW[:-1], file, "Things")  # a different size: the user's own file


def test_sha256sums_beside_a_file_has_the_last_word(tmp_path: Path) -> None:
    file, own = File("raw", 4, sha(b"that")), b"mine"
    (tmp_path / "raw").write_bytes(own)
    with (tmp_path / SHA256SUMS).open("wb") as sums:
        subprocess.run(["sha256sum", "raw"], cwd=tmp_path, stdout=sums, check=True)
    verify(tmp_path / "raw", own, file, "Things")
    for content in (b"that", b"Mine", b"much longer"):
        with pytest.raises(DataError) as caught:
            verify(tmp_path / "raw", content, file, "Things")
        assert str(caught.value) == (
            f"{tmp_path / 'raw'} is damaged: its sha256 is not the one in SHA256SUMS beside it; delete it to download "
            "it again, or correct that line"
        )
    (tmp_path / SHA256SUMS).write_text(f"{sha(b'that').upper()} *raw\nnonsense\n")
    verify(tmp_path / "raw", b"that", file, "Things")


def test_a_download_records_the_sha256_that_nobody_has_published(server: Server, tmp_path: Path) -> None:
    other = bytes(300)
    archives = [
        gz(server.add("/b.gz", sends()), name="b", published=False),
        gz(server.add("/a.gz", sends(gzip.compress(other, mtime=0))), name="a", raw=other, published=False),
    ]
    fetch("Things", archives, tmp_path)
    assert (tmp_path / SHA256SUMS).read_text() == f"{sha(other)}  a\n{sha(RAW)}  b\n"
    verify(tmp_path / "b", RAW, archives[0].files[0], "Things")
    with pytest.raises(DataError):
        verify(tmp_path / "b", bytes(len(RAW)), archives[0].files[0], "Things")
    (tmp_path / SHA256SUMS).write_text(f"{sha(b'')}  b\n")
    (tmp_path / "b").unlink()
    fetch("Things", archives, tmp_path)
    verify(tmp_path / "b", RAW, archives[0].files[0], "Things")


# The table


ALL = {
    "MNIST": published.MNIST,
    "FashionMNIST": published.FASHION_MNIST,
    "KMNIST": published.KMNIST,
    "CIFAR10": published.CIFAR10,
    "tinyshakespeare": published.TINYSHAKESPEARE,
}


@pytest.mark.parametrize("name", ALL)
def test_the_table_is_complete(name: str) -> None:
    for archive in ALL[name]:
        assert archive.urls and all(url.startswith("https://") and url.endswith(archive.name) for url in archive.urls)
        for digest in (archive.sha256, *(file.sha256 for file in archive.files)):
            assert len(digest) == 64 and set(digest) <= set("0123456789abcdef") or (name == "KMNIST" and not digest)
    files = [file.name for archive in ALL[name] for file in archive.files]
    assert len(set(files)) == len(files) == {"CIFAR10": 6, "tinyshakespeare": 1}.get(name, 4)
    if name == "CIFAR10":
        assert {file.size for file in ALL[name][0].files} == {10_000 * 3073}


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_the_archives_are_those_that_torchvision_knows(name: str) -> None:
    """By name; their MD5 is compared with the real files below."""
    import torchvision

    known = getattr(torchvision.datasets, name).resources
    assert [archive.name for archive in ALL[name]] == [file for file, _ in known]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("MNIST", marks=needs_data("MNIST", "raw", "train-images-idx3-ubyte.gz")),
        pytest.param("FashionMNIST", marks=needs_data("FashionMNIST", "raw", "train-images-idx3-ubyte.gz")),
    ],
)
def test_the_real_archives_are_those_of_the_table(name: str, tmp_path: Path) -> None:
    import torchvision

    md5 = dict(getattr(torchvision.datasets, name).resources)
    folder = Path(DATA_DIR) / name / "raw"
    for archive in ALL[name]:
        content = (folder / archive.name).read_bytes()
        assert hashlib.md5(content).hexdigest() == md5[archive.name]
        (tmp_path / archive.name).symlink_to(folder / archive.name)
    fetch(name, ALL[name], tmp_path)
    for archive in ALL[name]:
        assert (tmp_path / archive.files[0].name).read_bytes() == (folder / archive.files[0].name).read_bytes()
