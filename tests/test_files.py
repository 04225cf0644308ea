"""Files are written completely or not at all."""

import errno
import json
import os
import resource
from pathlib import Path

import pytest

from dlcli.core import files, reading
from dlcli.core.errors import ResourceError, RunError
from dlcli.core.reading import read_json
from tests.faults import forked


def test_replacing_keeps_the_old_content_until_the_new_one_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    seen: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append("flush"), real_fsync(fd))[1])

    def replace(source: object, target: object) -> None:
        seen.append("rename")
        assert read_json(path) == {"a": 1}
        real_replace(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", replace)
    files.write_json(path, {"a": 2})
    assert seen == ["flush", "rename", "flush"]
    assert read_json(path) == {"a": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        ResourceError, match=r"^cannot write .*/a\.json: No space left on device \(0\.000 MB needed, [\d.]+ MB free\)$"
    ):
        files.write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_json_never_holds_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_reading_names_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(RunError, match=f"^{path} is missing$"):
        reading.read_json(path)
    path.write_text("{")
    with pytest.raises(RunError, match=f"^{path} is damaged: Expecting property name"):
        reading.read_json(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match=f"^{path} is damaged: 'utf-8' codec"):
        reading.read_json(path)


def test_a_folder_appears_whole_with_its_manifest(tmp_path: Path) -> None:
    files.write_folder(tmp_path / "a", {"x": b"hello"})
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["MANIFEST.json", "x"]
    manifest = json.loads((tmp_path / "a" / "MANIFEST.json").read_text())
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert manifest == {"format": 1, "files": {"x": {"size": 5, "sha256": digest}}}
    files.verify_folder(tmp_path / "a")


def test_a_folder_that_cannot_be_filled_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ResourceError) as caught:
        files.write_folder(tmp_path / "a", {"x": b"hello", "y": tmp_path / "missing"})
    assert str(caught.value) == f"cannot write {tmp_path / 'a'}: No such file or directory"
    assert list(tmp_path.iterdir()) == []


def test_a_linked_file_is_the_same_file(tmp_path: Path) -> None:
    files.write_folder(tmp_path / "a", {"x": b"hello"})
    files.write_folder(tmp_path / "b", {"y": tmp_path / "a" / "x"})
    assert (tmp_path / "b" / "y").samefile(tmp_path / "a" / "x")
    files.verify_folder(tmp_path / "b")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' appears twice"),
        ("[" * 33 + "]" * 33, "it is nested too deeply"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "it is nested too deeply"),
        ("9223372036854775808", "9223372036854775808 is too large a number"),
        ("-" + "1" * 5000, "-" + "1" * 39 + "... is too large a number"),
        ("[NaN]", "NaN is not a finite number"),
        ("[-Infinity]", "-Infinity is not a finite number"),
        ("[1e999]", "1e999 is not a finite number"),
        ('["\\ud83d"]', "'utf-8' codec can't encode character '\\ud83d' in position 2: surrogates not allowed"),
    ],
    ids=lambda value: value[:20],
)
def test_json_that_is_not_plain_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        reading.parse_json(text.encode())
    assert str(caught.value) == reason


def test_plain_json_is_read_as_python_reads_it() -> None:
    document = {"a": [1, -(2**63), 2**63 - 1, 1.5e-300, None, True, {"b": "\N{GRINNING FACE}"}], "c": [[[[]]]]}
    assert reading.parse_json(json.dumps(document).encode()) == document
    assert reading.parse_json(b"[" * 32 + b"]" * 32) == json.loads("[" * 32 + "]" * 32)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: os.mkfifo(path), "it is a FIFO"),
        (lambda path: path.mkdir(), "it is a folder"),
        (lambda path: path.symlink_to("/etc/hostname"), "it is a symbolic link"),
        (lambda path: path.write_bytes(b"12345"), "it has more than 4 bytes"),
        (lambda path: (path.touch(), os.truncate(path, 2**40)), "it has more than 4 bytes"),
    ],
)
def test_only_a_regular_file_of_a_bounded_size_is_read(tmp_path: Path, make: object, reason: str) -> None:
    path = tmp_path / "a"
    make(path)  # type: ignore[operator]
    with pytest.raises(OSError) as caught:
        reading.read_bytes(path, most=4)
    assert caught.value.strerror == reason


def test_a_file_is_read_whole_up_to_the_bound(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1234")
    (tmp_path / "b").symlink_to("a")
    assert reading.read_bytes(tmp_path / "a", most=4) == b"1234"
    assert reading.read_bytes(tmp_path / "b", most=4, follow=True) == b"1234"
    with pytest.raises(OSError, match="its name holds a NUL character"):
        reading.read_bytes(Path("a\0b"), most=4)
    with pytest.raises(OSError, match="it is no regular file"):
        reading.read_bytes(Path("/dev/zero"), most=4, follow=True)


def test_files_below_a_folder_without_links_and_bounded(tmp_path: Path) -> None:
    for name in ("b/c.txt", "a.txt", "b/d/e.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link.txt").symlink_to("a.txt")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "fifo.txt")
    found = [str(path.relative_to(tmp_path)) for path in reading.files_below(tmp_path, most=100)]
    assert found == ["a.txt", "b/c.txt", "b/d/e.txt"]
    for number in range(50):
        (tmp_path / f"{number}").touch()
    assert 20 <= len(reading.files_below(tmp_path, most=30)) <= 30


def test_a_file_is_cut_down_and_never_stretched(tmp_path: Path) -> None:
    path = tmp_path / "a"
    files.truncate(path, 3)
    assert not path.exists()
    path.write_bytes(b"12345")
    files.truncate(path, 7)
    files.truncate(path, 3)
    assert path.read_bytes() == b"123"
    (tmp_path / "b").symlink_to(path)
    for write in (lambda: files.truncate(tmp_path / "b", 1), lambda: files.append_line(tmp_path / "b", "x")):
        with pytest.raises(ResourceError) as caught:
            write()
        assert str(caught.value) == f"cannot write {tmp_path / 'b'}: it is a symbolic link"
    assert path.read_bytes() == b"123"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda x: x.write_bytes(b"hellO"), "x is damaged: its sha256 is not the recorded one"),
        (lambda x: x.write_bytes(b"hell"), "x is damaged: 4 of 5 bytes"),
        (lambda x: x.unlink(), "x is missing"),
        (lambda x: (x.unlink(), x.symlink_to("/etc/hostname")), "x cannot be read: it is a symbolic link"),
        (lambda x: (x.parent / "MANIFEST.json").unlink(), "MANIFEST.json is missing"),
        (lambda x: (x.parent / "MANIFEST.json").write_text("[]"), "MANIFEST.json is damaged: not a manifest"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: object, message: str) -> None:
    files.write_folder(tmp_path / "a", {"x": b"hello"})
    damage(tmp_path / "a" / "x")  # type: ignore[operator]
    with pytest.raises(RunError) as caught:
        files.verify_folder(tmp_path / "a")
    assert str(caught.value) == f"{tmp_path / 'a'}/{message}"


def test_a_line_that_does_not_fit_is_told_and_leaves_no_half_line(tmp_path: Path) -> None:
    """The kernel writes what fits and returns its size; a limit on the size of files simulates the disk."""
    path = tmp_path / "log.txt"
    files.append_line(path, "one")

    def append() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8, 8))
        files.append_line(path, "two words")

    assert forked(append) == 6
    assert path.read_text() == "one\n"
    files.append_line(path, "two words")
    assert path.read_text() == "one\ntwo words\n"
