"""The cache of decoded images: nothing is decoded twice, and nothing that happens to it gives wrong pixels."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from dlcli.core.errors import ResourceError
from dlcli.data.images import cache as image_cache
from dlcli.data.images import decoding
from dlcli.data.readers.pictures import Fit
from dlcli.data.source import Source
from tests.faults import at_each_call
from tests.test_image_folder import cache, folder, photo, read

__all__ = ["cache"]  # a fixture


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = folder(tmp_path / "photos", count=40)
    time.sleep(0.05)  # a file that has just been changed is read again
    return made


def undecodable(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("decoded again")

    monkeypatch.setattr(image_cache, "decoded", never)


def same(one: Source, other: Source) -> bool:
    assert one.y is not None and other.y is not None
    return torch.equal(one.x, other.x) and torch.equal(one.y, other.y) and one.digest == other.digest


def only(cache: Path, pattern: str) -> Path:
    (found,) = cache.glob(pattern)
    return found


@pytest.mark.parametrize("storage", ["memory", "cache"])
def test_images_are_decoded_once(storage: Any, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(root, storage=storage)
    undecodable(monkeypatch)
    assert same(first, read(root, storage=storage))
    with pytest.raises(AssertionError):
        read(root, size=5)
    only(cache, "*.pixels")


def test_without_a_change_no_file_is_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read(root)
    files = [str(path) for path in root.rglob("*.png")]
    opened: list[str] = []
    before = os.open

    def noting(path: Any, *more: Any, **settings: Any) -> int:
        opened.append(str(path))
        return before(path, *more, **settings)

    monkeypatch.setattr(os, "open", noting)
    assert same(first, read(root)) and len(files) == 80
    assert opened and not set(files) & set(opened)


def test_the_same_content_has_the_same_digest_wherever_it_lies(root: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy")
    assert same(read(root), read(tmp_path / "copy"))
    only(cache, "*.pixels")
    assert len(list(cache.glob("*.files"))) == 2


def test_a_changed_file_is_seen_even_if_its_size_and_time_are_kept(root: Path) -> None:
    first, file = read(root), root / "ants/7.png"
    times, content = os.stat(file), bytearray(file.read_bytes())
    photo(root / "x.png", seed=9)
    new = (root / "x.png").read_bytes()[: len(content)]
    with open(file, "r+b") as opened:
        opened.write(new.ljust(len(content), b"\0"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert os.stat(file).st_size == times.st_size and os.stat(file).st_mtime_ns == times.st_mtime_ns
    after = read(root, invalid="skip")
    assert after.digest != first.digest


_DAMAGE = ["cut", "longer", "empty json", "other json", "no json", "junk files"]


# The content of a mapped file is not read at the start, so a flipped bit is found in memory only.
@pytest.mark.parametrize(
    ("storage", "damage"),
    [("memory", "flipped"), *((storage, damage) for storage in ("memory", "cache") for damage in _DAMAGE)],
)
def test_damage_leads_to_decoding_again(
    storage: Any, damage: str, root: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = read(root)
    pixels, described, known = (only(cache, f"*.{end}") for end in ("pixels", "json", "files"))
    if damage == "flipped":
        content = bytearray(pixels.read_bytes())
        content[77] ^= 1
        pixels.write_bytes(content)
    elif damage in ("cut", "longer"):
        os.truncate(pixels, pixels.stat().st_size + (1 if damage == "longer" else -1))
    elif damage == "junk files":
        known.write_text('{"version": 1, "files": {"ants/0.png": [[1, 2], 3]}}')
    elif damage == "no json":
        described.unlink()
    else:
        described.write_text("" if damage == "empty json" else '{"shape": [1, 2], "sha256": 3}')
    assert same(first, read(root, storage=storage))
    told = f"what the cache holds of {root} is damaged: the images are decoded again"
    assert [r.getMessage() for r in caplog.records].count(told) == int(damage != "junk files")
    assert same(first, read(root))
    assert {path.suffix for path in cache.iterdir()} == {".pixels", ".json", ".sums", ".files", ".lock"}


def train(*words: str) -> "subprocess.Popen[str]":
    line = [sys.executable, "-m", "dlcli", "train", "mlp", "--data", "images:photos", "--epochs", "1", *words]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_that_need_it_at_once_both_get_it(tmp_path: Path, cache: Path) -> None:
    folder(tmp_path / "photos", count=300, size=(60, 60))
    both = [train("--runs-dir", name) for name in ("one", "two")]
    told = [child.communicate(timeout=300)[1] for child in both]
    assert [child.returncode for child in both] == [0, 0], told
    found = [(tmp_path / name / "1/data.json").read_text() for name in ("one", "two")]
    assert found[0] == found[1]
    assert {path.suffix for path in cache.iterdir()} == {".pixels", ".json", ".sums", ".files", ".lock"}
    only(cache, "*.pixels")


def test_a_process_that_is_killed_while_it_decodes_leaves_nothing_wrong(tmp_path: Path, cache: Path) -> None:
    root = folder(tmp_path / "photos", count=300, size=(60, 60))
    for size in (128, 129):
        child = train("--set", f"data.size={size}")
        deadline = time.monotonic() + 60
        while not list(cache.glob(".tmp-*")) and time.monotonic() < deadline:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=60)
        assert list(cache.glob(".tmp-*")) and not list(cache.glob("*.pixels"))
    source = read(root, size=128)
    assert len(source.x) == 600 and not list(cache.glob(".tmp-*"))
    shutil.rmtree(cache)
    assert same(source, read(root, size=128))


@pytest.mark.parametrize("storage", ["cache", pytest.param("files", marks=pytest.mark.slow)])
def test_killed_at_any_call_that_changes_the_disk(storage: Any, tmp_path: Path, cache: Path) -> None:
    """Whatever is left, the next process gets the right pixels, and nothing partial remains."""
    root = folder(tmp_path / "photos", count=3)
    right = read(root, storage="memory")
    decoded = torch.arange(len(right.x))

    def place(under: Path) -> None:
        os.environ["XDG_CACHE_HOME"] = str(under)

    def check(under: Path, code: int) -> None:
        assert code in (0, -signal.SIGKILL)
        before = os.environ["XDG_CACHE_HOME"]
        try:
            place(under)
            found = read(root, storage=storage)
        finally:
            place(Path(before))
        pixels = found.encoded["x"].take(decoded) if storage == "files" else found.x
        assert torch.equal(pixels, right.x) and found.digest == right.digest
        assert not list(under.rglob(".tmp-*"))

    def build(under: Path) -> None:
        place(under)
        read(root, storage=storage)

    assert at_each_call(tmp_path / "killed", build, check) > 10


def dies(paths: Sequence[str], fit: Fit | None, **_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_process_that_dies_is_a_sentence(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "decode", dies)
    with pytest.raises(ResourceError) as caught:
        read(root)
    assert str(caught.value) == (
        "a process that decodes images died, killed or for lack of memory: try again with more of it free, or with "
        "fewer --workers"
    )
    assert caught.value.exit_code == 6
    assert {path.suffix for path in cache.iterdir()} == {".lock"}


def test_a_full_disk_is_a_sentence(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = (
        f"cannot write {cache}: No space left on device (0.0 MB needed); name another folder for caches in "
        "XDG_CACHE_HOME"
    )
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 0))  # type: ignore[attr-defined]
        with pytest.raises(ResourceError) as caught:
            read(root)
        assert str(caught.value) == message

    def full(descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ResourceError) as caught:
            read(root)
        assert str(caught.value) == message
    assert {path.suffix for path in cache.iterdir()} == {".lock"}
    assert len(read(root).x) == 80


def test_a_cache_that_cannot_be_made_is_a_sentence(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ResourceError) as caught:
        read(root)
    assert str(caught.value) == (
        f"cannot write {tmp_path}/file/dlcli/images: Not a directory; name another folder for caches in XDG_CACHE_HOME"
    )
