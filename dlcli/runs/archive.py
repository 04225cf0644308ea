"""Runs as one .tar.gz, to be moved to another folder or machine: `dlcli runs archive`, `dlcli runs import`.

An archive holds `42/config.json` and so on. An untrusted archive is as safe as an untrusted run: only regular files
with plain names are unpacked, into a folder of our own, and a run appears there in one rename.
"""

import contextlib
import os
import re
import shutil
import tarfile
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dlcli.core.errors import ConfigError, DlcliError, ResourceError, RunError
from dlcli.core.files import flush_folder, held, make_folder, sweep
from dlcli.core.reading import files_below, open_regular
from dlcli.runs.given_names import check_free, name_of
from dlcli.runs.lock import MARK
from dlcli.runs.run import Run

_MEMBER = re.compile(r"([1-9][0-9]{0,8})((?:/[A-Za-z0-9_+,=@][A-Za-z0-9_.+,=@ -]{0,200}){0,4})/?")
_MOST_FILES = 100_000
_MOST_TIMES, _AT_LEAST = 50, 200_000_000  # the most bytes that are unpacked: 50 times those of the archive, or 200 MB

_PREFIX = ".tmp-import-"


class Imported(NamedTuple):
    """number: in the archive. run: what it has become. name: that it lost, as another run has it; empty if it did
    not."""

    number: int
    run: Run
    name: str


def write_archive(runs: Sequence[Run], file: Path, *, force: bool = False) -> int:
    """All files of the runs in a .tar.gz, which is complete or not there. Returns its size in bytes.

    ConfigError (exit 2) if the file exists, unless `force`, or does not end in .tar.gz; RunError (exit 4) if settings
    or record of a run are damaged; BusyError (exit 9) if one is in training; ResourceError (exit 6) if it cannot be
    written.
    """
    if not file.name.endswith(".tar.gz"):
        raise ConfigError(f"--output {file} must end in .tar.gz")
    if file.exists() and not force:
        raise ConfigError(f"--output {file} exists: add --force to replace it, or choose another file")
    temporary = file.with_name(f".part-{uuid.uuid4().hex}")
    try:
        with contextlib.ExitStack() as locks:
            for run in runs:
                locks.enter_context(run.locked())
                run.settings()  # what `read_archive` would refuse is not packed
                run.info()
            try:
                with open(temporary, "xb") as raw:
                    with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=1, format=tarfile.PAX_FORMAT) as archive:
                        for run in runs:
                            _add(archive, run)
                    raw.flush()
                    os.fsync(raw.fileno())
                    size = raw.tell()
                os.replace(temporary, file)
                flush_folder(file.parent)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot write {file}: {error.strerror}") from None
    return size


def _add(archive: tarfile.TarFile, run: Run) -> None:
    for path in files_below(run.path, most=_MOST_FILES):
        inside = f"{run.number}/{path.relative_to(run.path)}"
        if inside == f"{run.number}/lock" or not _MEMBER.fullmatch(inside):
            continue  # what a person or a killed process left there
        with open(open_regular(path), "rb") as file:
            member = tarfile.TarInfo(inside)
            member.size, member.mtime = os.fstat(file.fileno()).st_size, int(os.fstat(file.fileno()).st_mtime)
            archive.addfile(member, file)


def read_archive(file: Path, root: Path) -> list[Imported]:
    """Unpack all runs of an archive into the folder `root`, each with a new number.

    RunError (exit 4) if it is no archive of runs, and then none is added; ResourceError (exit 6) if they cannot be
    written.
    """
    try:
        make_folder(root)
        with open(open_regular(file, follow=True), "rb") as content, _place(root) as place:
            _unpack(content, file, place)
            found = [Run(place, int(name)) for name in sorted(os.listdir(place), key=int)]
            if not found:
                raise RunError(f"{file} holds no runs")
            for run in found:
                _check(run, file)
            return [_taken_in(run, root) for run in found]
    except FileNotFoundError:
        raise RunError(f"there is no file {file}: name an archive that `dlcli runs archive` wrote") from None
    except OSError as error:
        raise ResourceError(f"cannot import {file} into {root}: {error.strerror or error}") from None


@contextlib.contextmanager
def _place(root: Path) -> Iterator[Path]:
    """A folder in `root` to unpack into, removed in the end. Those of killed processes are removed as well."""
    with held(os.open(root / ".import.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)) as alone:
        if alone:
            sweep(root)
        place = root / f"{_PREFIX}{uuid.uuid4().hex}"
        place.mkdir()
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _unpack(content: BinaryIO, file: Path, place: Path) -> None:
    most = max(_AT_LEAST, _MOST_TIMES * os.fstat(content.fileno()).st_size)
    left = most
    try:
        with tarfile.open(fileobj=content, mode="r|gz") as archive:
            for count, member in enumerate(archive):
                left -= member.size
                if count >= _MOST_FILES or left < 0:
                    limit = f"{_MOST_FILES:,} files" if left >= 0 else f"{most:,} bytes"
                    raise RunError(f"{file} is refused: it holds more than {limit}")
                match = _MEMBER.fullmatch(member.name)
                if match is None or not (member.isreg() or member.isdir()) or member.issparse():
                    raise RunError(f"{file} is refused: it holds {member.name[:100]!r}, which is no file of a run")
                path = place / member.name.rstrip("/")
                if member.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                elif match[2]:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _copy(archive, member, path)
    except (FileExistsError, IsADirectoryError, NotADirectoryError):
        raise RunError(f"{file} is refused: it holds {member.name!r} twice") from None
    except (tarfile.TarError, EOFError, ValueError, zlib.error) as error:
        raise RunError(f"{file} is no complete archive of runs: {error}") from None
    except OSError as error:
        if error.errno is None:  # gzip: it is damaged
            raise RunError(f"{file} is no complete archive of runs: {error}") from None
        raise


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = archive.extractfile(member)
    assert source is not None
    with open(path, "xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
        if file.tell() != member.size:
            raise EOFError("it ends early")
        file.flush()
        os.fsync(file.fileno())


def _check(run: Run, file: Path) -> None:
    """RunError unless the settings and the record can be read."""
    try:
        run.settings()
        run.info()
    except DlcliError as error:
        raise RunError(f"{file} is refused: {str(error).replace(f'{run.root}/', '')}") from None


def _taken_in(run: Run, root: Path) -> Imported:
    name = name_of(run) or ""
    try:
        if name:
            check_free(name, root)
            name = ""
    except ConfigError:
        (run.path / "name.txt").unlink()
    (run.path / "lock").write_bytes(MARK)
    run.checkpoints.mkdir(exist_ok=True)
    flush_folder(run.path)
    new = Run.numbered(root)
    os.rename(run.path, new.path)  # onto the empty folder that holds its number
    flush_folder(root)
    return Imported(run.number, new, name)
