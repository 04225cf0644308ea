"""`dlcli runs archive` and `dlcli runs import`: runs as one file; a stranger's archive can do no harm."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.core.errors import DlcliError
from dlcli.runs import archive
from dlcli.runs.run import Run
from tests.faults import at_each_call
from tests.test_compare import make
from tests.test_where import call


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def contents(run: Path) -> dict[str, str]:
    files = (path for path in run.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def invoked(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, result.output
    return result.stderr


def test_runs_go_from_one_folder_to_another(tmp_path: Path) -> None:
    for seed in ("0", "1"):
        invoked("train", "linear", "--data", "make-regression", "--epochs", "1", "--seed", seed, "--quiet",
                "--name", f"line-{seed}", "--runs-dir", "one")  # fmt: skip
    invoked("runs", "tag", "1", "+good", "--runs-dir", "one")
    make(Path("two"), 0.9, seed=7)
    assert invoked("runs", "archive", "1:2", "-o", "x.tar.gz", "--runs-dir", "one").startswith("x.tar.gz: 2 runs, ")
    out, _ = call("import", "x.tar.gz", "--runs-dir", "two")
    assert out == "in the archive  run  path\n             1    2  two/2\n             2    3  two/3\n"
    assert contents(Path("one/1")) == contents(Path("two/2")) and contents(Path("one/2")) == contents(Path("two/3"))
    assert json.loads(call("--tag", "good", "--json", "--runs-dir", "two")[0])[0]["name"] == "line-0"
    for words in (("eval", "line-0"), ("resume", "3", "--epochs", "2"), ("runs", "verify", "2:3"), ("runs", "rm", "2")):
        invoked(*words, "--runs-dir", "two")
    assert sorted(os.listdir("two")) == [".import.lock", ".trash", "1", "3"]


def test_a_name_that_is_taken_is_dropped() -> None:
    invoked("train", "linear", "--data", "make-regression", "--epochs", "1", "--quiet", "--name", "line")
    call("archive", "1", "-o", "x.tar.gz")
    out, err = call("import", "x.tar.gz", "--json")
    assert json.loads(out) == [{"run": 2, "was": 1, "path": "runs/2"}]
    assert err == "runs/2 has no name any more: another run is named line\n"


def test_the_archive_is_complete_or_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    make(Path("runs"), 0.9, seed=7)
    assert call("archive", "1", code=2)[1] == (
        "error: name the file to write: dlcli runs archive 4:9 --output runs.tar.gz\n"
    )
    assert call("archive", "1", "-o", "x.zip", code=2)[1] == "error: --output x.zip must end in .tar.gz\n"
    call("archive", "1", "-o", "x.tar.gz")
    before = Path("x.tar.gz").read_bytes()
    assert call("archive", "1", "-o", "x.tar.gz", code=2)[1] == (
        "error: --output x.tar.gz exists: add --force to replace it, or choose another file\n"
    )
    assert call("archive", "1", "-o", "no/x.tar.gz", code=6)[1] == (
        "error: cannot write no/x.tar.gz: No such file or directory\n"
    )
    call("archive", "1", "-o", "x.tar.gz", "--force")
    monkeypatch.setattr(archive, "_add", _fails)
    assert call("archive", "1", "-o", "x.tar.gz", "--force", code=6)[1] == (
        "error: cannot write x.tar.gz: No space left on device\n"
    )
    assert len(Path("x.tar.gz").read_bytes()) == len(before) and sorted(os.listdir()) == ["runs", "x.tar.gz"]
    with Run(Path("runs"), 1).locked():
        assert call("archive", "1", "-o", "y.tar.gz", code=9)[1] == (
            "error: runs/1 is being trained by another process\n"
        )


def test_what_could_not_be_imported_is_not_archived() -> None:
    run = make(Path("runs"), 0.9, seed=7)
    (run.path / "config.json").write_text("{")
    assert call("archive", "1", "-o", "x.tar.gz", code=4)[1].startswith("error: runs/1/config.json is damaged: ")
    assert os.listdir() == ["runs"]


def _fails(*words: object) -> None:
    raise OSError(28, "No space left on device")


def test_killed_at_any_moment_only_whole_runs_are_there(tmp_path: Path) -> None:
    """The next import removes what is left of the one that was killed."""
    for seed in range(2):
        make(Path("from"), 0.9, seed=seed)
    call("archive", "1:2", "-o", "x.tar.gz", "--runs-dir", "from")
    whole = [contents(Path(f"from/{number}")) for number in (1, 2)]
    file = Path("x.tar.gz").absolute()

    def check(place: Path, code: int) -> None:
        root = place / "runs"
        found = [contents(path) for path in sorted(root.glob("[0-9]*"))]
        if code:
            assert code == -9
            if found and not found[-1]:
                del found[-1]  # its number was taken, and it had not moved there yet
            assert found == whole[: len(found)]
        else:
            assert found == whole
        archive.read_archive(file, root)
        assert not list(root.glob(".tmp-*"))
        assert [contents(path) for path in sorted(root.glob("[0-9]*"))][-2:] == whole

    assert at_each_call(tmp_path / "killed", lambda place: archive.read_archive(file, place / "runs"), check) > 20


Entry = tuple[tarfile.TarInfo, bytes]


def packed(*entries: Entry) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member, content in entries:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def entry(name: str, content: bytes = b"x", *, type: bytes = tarfile.REGTYPE, to: str = "") -> Entry:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = type, to
    return member, content if type == tarfile.REGTYPE else b""


def _good() -> list[Entry]:
    run = make(Path("good"), 0.9, seed=1)
    return [entry(f"1/{name}", (run.path / name).read_bytes()) for name in ("config.json", "run.json")]


_NO_FILE = "x.tar.gz is refused: it holds {!r}, which is no file of a run"
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    **{
        f"the name {name}": (lambda name=name: packed(*_good(), entry(name)), _NO_FILE.format(name))
        for name in (
            "../1/x", "1/../../x", "/etc/x", "1//x", "1/.hidden", "1/a/.tmp-x", "x", "0/x", "1/a/b/c/d/e", "1/a\nb",
            "1/\N{LATIN SMALL LETTER A WITH DIAERESIS}", "1/-rf", "./1/x",
        )
    },
    "a symbolic link": (
        lambda: packed(*_good(), entry("1/log.txt", type=tarfile.SYMTYPE, to="/etc/passwd")),
        _NO_FILE.format("1/log.txt"),
    ),
    "a folder that is a link": (
        lambda: packed(*_good(), entry("1/eval", type=tarfile.SYMTYPE, to=".."), entry("1/eval/x")),
        _NO_FILE.format("1/eval"),
    ),
    "a hard link": (
        lambda: packed(*_good(), entry("1/x", type=tarfile.LNKTYPE, to="1/run.json")), _NO_FILE.format("1/x")
    ),
    "a device": (lambda: packed(*_good(), entry("1/x", type=tarfile.CHRTYPE)), _NO_FILE.format("1/x")),
    "a FIFO": (lambda: packed(*_good(), entry("1/x", type=tarfile.FIFOTYPE)), _NO_FILE.format("1/x")),
    "a file twice": (
        lambda: packed(*_good(), entry("1/tags.txt"), entry("1/tags.txt")),
        "x.tar.gz is refused: it holds '1/tags.txt' twice",
    ),
    "a file and a folder of one name": (
        lambda: packed(*_good(), entry("1/run.json/x")), "x.tar.gz is refused: it holds '1/run.json/x' twice"
    ),
    "nothing": (lambda: packed(), "x.tar.gz holds no runs"),
    "no settings": (lambda: packed(_good()[1]), "x.tar.gz is refused: 1/config.json is missing"),
    "no record": (lambda: packed(_good()[0]), "x.tar.gz is refused: 1/run.json is missing"),
    "settings that are none": (
        lambda: packed(entry("1/config.json", b"[]"), _good()[1]),
        "x.tar.gz is refused: 1/config.json is damaged: it holds no settings",
    ),
    "a bomb": (
        lambda: packed(*_good(), entry("1/metrics.csv", bytes(201_000_000))),
        "x.tar.gz is refused: it holds more than 200,000,000 bytes",
    ),
    "no archive": (lambda: b"PK\3\4 no archive at all", "x.tar.gz is no complete archive of runs: not a gzip file"),
    "no tar": (lambda: gzip.compress(b"x" * 2000), "x.tar.gz is no complete archive of runs: "),
    "cut off": (lambda: packed(*_good())[:-300], "x.tar.gz is no complete archive of runs: "),
    "an empty file": (lambda: b"", "x.tar.gz is no complete archive of runs: "),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_archive_is_refused_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    make_it, message = BAD[kind]
    Path("x.tar.gz").write_bytes(make_it())
    err = call("import", "x.tar.gz", code=4)[1]
    assert err.startswith(f"error: {message}") and err.count("\n") == 1
    assert os.listdir("runs") == [".import.lock"] and {*os.listdir()} <= {"runs", "x.tar.gz", "good"}


def test_a_file_that_is_not_there() -> None:
    assert call("import", "x.tar.gz", code=4)[1] == (
        "error: there is no file x.tar.gz: name an archive that `dlcli runs archive` wrote\n"
    )
    with pytest.raises(DlcliError, match=r"^cannot import /dev/zero into runs: it is no regular file$"):
        archive.read_archive(Path("/dev/zero"), Path("runs"))
