"""Checks whether dlcli works on this machine: one line for each thing that a training needs."""

import contextlib
import fcntl
import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dlcli.checks.children import Child, place_in
from dlcli.compute.processor import processor
from dlcli.core.errors import DlcliError
from dlcli.core.files import append_line, verify_folder, write_folder
from dlcli.core.version import __version__
from dlcli.data import published
from dlcli.runs.lease import lacks_locks

Tell = Callable[[str], None]
Verdict = Literal["ok", "warn", "fail"]

_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[.*?\])?\s*(?:>=\s*([\d.]+))?.*?(?:;\s*extra == ['\"]([\w-]+)['\"])?")
_PYTHON = (3, 11)
_LEAST_FREE = 1e9  # bytes; enough for a few checkpoints
_SLOW_IMPORT = 15.0  # seconds
_KNOWN = "linear-make-regression"  # the recipe whose result has a closed form
_CLOSED_FORM = {"weight": 47.1332, "bias": 2.3302, "mse": 312.217}
_TOLERANCE = 1e-4  # relative


@dataclass(frozen=True)
class Line:
    """One line of the report: what was checked, what was found, whether that is sufficient, and a remark or nothing."""

    what: str
    value: str
    verdict: Verdict = "ok"
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_install(*, runs_dir: str, data_dir: str | None, tell: Tell = lambda line: None) -> list[Line]:
    """All checks, in the order in which a training needs these things. Nothing is downloaded."""
    lines: list[Line] = []
    with contextlib.ExitStack() as stack:

        def look(what: str, probe: Callable[[], Iterator[Line]]) -> None:
            tell(f"checking {what}")
            try:
                lines.extend(probe())
            except Exception as error:  # any failure is a result of this check
                reason = str(error) if isinstance(error, DlcliError) else f"{type(error).__name__}: {error}"
                lines.append(Line(what, "-", "fail", " ".join(reason.split())))

        look("versions", _versions)
        try:
            folder = stack.enter_context(place_in(runs_dir, "install")).path
            look("the runs folder", lambda: _runs_folder(folder, runs_dir))
        except DlcliError as error:
            lines.append(Line("runs folder", str(runs_dir), "fail", str(error)))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        look("import of torch", lambda: _import(folder))
        look("devices", _devices)
        look("threads", _threads)
        look("data sets", lambda: _data(data_dir))
        look("time to the first step", lambda: _first_step(folder))
        look("a training whose result is known", lambda: _known_result(folder))
    return lines


def _versions() -> Iterator[Line]:
    yield Line("dlcli", __version__)
    version = platform.python_version()
    if tuple(map(int, platform.python_version_tuple()[:2])) < _PYTHON:
        yield Line("python", version, "fail", "dlcli needs Python {}.{} or newer".format(*_PYTHON))
    else:
        yield Line("python", version)
    try:
        requirements = importlib.metadata.requires("dlcli") or []
    except importlib.metadata.PackageNotFoundError:
        yield Line("requirements", "-", "warn", "dlcli is not installed as a package, so what it needs is not recorded")
        return
    for requirement in requirements:
        match = _REQUIREMENT.fullmatch(requirement)
        if match is None or match[3] == "dev":
            continue
        yield _version(*match.groups())


def _version(name: str, least: str | None, extra: str | None) -> Line:
    """Compares a package with the oldest supported version. extra: the extra of dlcli that needs it; None if dlcli
    itself does."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if extra:
            return Line(name, "not installed", note=f"only needed for dlcli[{extra}]")
        return Line(name, "not installed", "fail", f"pip install '{name}{f'>={least}' if least else ''}'")
    if least and _numbers(version) < _numbers(least):
        return Line(name, version, "warn" if extra else "fail", f"too old: pip install '{name}>={least}'")
    return Line(name, version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _runs_folder(folder: Path, shown: str) -> Iterator[Line]:
    """folder: a new folder in the runs folder."""
    start = time.perf_counter()
    content = os.urandom(1_000_000)
    write_folder(folder / "probe", {"content": content})
    verify_folder(folder / "probe")
    append_line(folder / "log.txt", "a line")
    if (folder / "probe" / "content").read_bytes() != content:
        yield Line("runs folder", shown, "fail", "what is read back differs from what was written")
        return
    spent = 1000 * (time.perf_counter() - start)
    yield Line("runs folder", shown, note=f"1 MB written, flushed, renamed and read back in {spent:.0f}ms")
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield Line("flush of a folder", "yes")
    except OSError as error:
        note = f"{error.strerror}: a power failure just after a save may lose that save; a killed process does not"
        yield Line("flush of a folder", "no", "warn", note)
    yield _lock(folder)
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE:
        yield Line("free disk", f"{free / 1e9:.2f} GB", "warn", "some checkpoints may not fit: choose --runs-dir")
    else:
        yield Line("free disk", f"{free / 1e9:.1f} GB")


def _lock(folder: Path) -> Line:
    """Whether a lock on a file has an effect on another opener."""
    note = "two machines would not see each other's: set DLCLI_LOCKS=files if they share this folder"
    with open(folder / "lock", "w") as one, open(folder / "lock") as other:
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not lacks_locks(error):
                return Line("lock", "no", "warn", f"{error.strerror}: choose --runs-dir on another file system")
            return Line("lock", "by files", note=f"{error.strerror}: the lock of a run is a file that is renewed")
        try:
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Line("lock", "yes")
        return Line("lock", "no", "warn", note)


def _import(folder: Path) -> Iterator[Line]:
    program = "import time; t = time.perf_counter(); import torch; import sys\n"
    program += "sys.stdout.write(str(time.perf_counter() - t))"
    with Child([], program=("-c", program), log=folder / "import.log") as child:
        if child.process.wait() != 0:
            yield Line("import of torch", "-", "fail", child.sentence())
            return
        seconds = float(child.sentence())
    if seconds > _SLOW_IMPORT:
        yield Line(
            "import of torch", f"{seconds:.1f}s", "warn", "every command waits for it: a slow disk, or a virus scanner?"
        )
    else:
        yield Line("import of torch", f"{seconds:.1f}s")


def _devices() -> Iterator[Line]:
    import torch

    from dlcli.checks.arithmetic import wrong_products
    from dlcli.compute.threads import usable_cores

    def arithmetic(name: str) -> Line:
        wrong = wrong_products(torch.device(name))
        if wrong:
            return Line(f"products on {name}", f"{len(wrong)} wrong", "fail", wrong[0])
        return Line(f"products on {name}", "exact")

    cores = os.cpu_count() or 1
    usable = usable_cores()
    note = f"this process may use {usable} of {cores} (affinity, quota, two threads of a core counted once)"
    yield Line("cpu", processor(), note=note if usable != cores else f"{cores} core{'s' * (cores > 1)}")
    yield arithmetic("cpu")
    reason = _why_no_cuda()
    if reason is not None:
        there = os.path.exists("/dev/nvidia0")
        yield Line("cuda", "none", "warn" if there else "ok", reason)
    else:
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            value = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {about.major}.{about.minor}"
            yield Line(f"cuda:{number}", value, note=f"torch for CUDA {torch.version.cuda}")
            yield arithmetic(f"cuda:{number}")
    if torch.backends.mps.is_available():
        yield Line("mps", "yes")
        yield arithmetic("mps")
    else:
        yield Line("mps", "none", note="" if platform.system() == "Darwin" else "only Macs have it")


def _why_no_cuda() -> str | None:
    """Why there is no CUDA device, as a phrase; None if there is one that works."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    if torch.cuda.is_available():
        return None
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None:
        return f"CUDA_VISIBLE_DEVICES = {hidden!r} hides all devices"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (AssertionError, RuntimeError) as error:
        return str(error).splitlines()[0].split(". ")[0]
    return "torch finds none"


def _threads() -> Iterator[Line]:
    import torch

    from dlcli.compute.threads import choose_threads

    small, large = (choose_threads("auto", device=torch.device("cpu"), flops=flops) for flops in (1e6, 1e11))
    yield Line("threads", f"{small} for a small step, {large} for a large one")


def _data(data_dir: str | None) -> Iterator[Line]:
    from dlcli.config.own_code import load
    from dlcli.config.schemes import data_entry
    from dlcli.config.settings import TrainConfig
    from dlcli.experiment.load import data_folder

    folder = data_folder(TrainConfig("mlp", data_dir=data_dir))
    yield Line(
        "data folder", str(folder), note="" if folder.is_dir() else "does not exist yet; it is created when needed"
    )
    for name, (place, archives) in published.DOWNLOADS.items():
        files = {folder / place / file.name: file for archive in archives for file in archive.files}
        missing = [path for path in files if not path.is_file()]
        if len(missing) == len(files):
            yield Line(name, "not there")
        elif missing:
            value = f"{len(files) - len(missing)} of {len(files)} files"
            yield Line(name, value, "warn", f"{missing[0]} is missing: it is downloaded when needed")
        else:
            try:
                load(data_entry(name).target)(folder)  # all files exist, so nothing is downloaded
            except DlcliError as error:
                yield Line(name, "damaged", "fail", str(error))
                continue
            known = all(file.sha256 and path.stat().st_size == file.size for path, file in files.items())
            yield Line(name, "there", note="" if known else "it can be read, but no sha256 is published for it")


def _first_step(folder: Path) -> Iterator[Line]:
    root = folder / "first"
    words = ["train", "mlp", "--data", "digits", "--epochs", "1", "--log-every", "1", "--device", "cpu", "--quiet"]
    with Child([*words, "--runs-dir", root], log=folder / "first.log") as child:
        metrics = root / "1" / "metrics.csv"
        while child.runs() and not (metrics.exists() and metrics.read_text().count("\n") > 1):
            time.sleep(0.005)
        seconds = time.monotonic() - child.started
        if child.process.wait() != 0:
            raise child.error()
    yield Line("time to the first step", f"{seconds:.1f}s", note="dlcli train mlp --data digits, from its start")


def _known_result(folder: Path) -> Iterator[Line]:
    """Compares least squares by gradient descent with the closed form: the mse and the weights, since errors of the
    weights may cancel in the mse."""
    from dlcli.checkpoints import checkpoint
    from dlcli.evaluation.measure import evaluate
    from dlcli.runs.run import Run

    root = folder / "known"
    words = ["train", "--config", f"recipe:{_KNOWN}", "--device", "cpu", "--quiet"]
    with Child([*words, "--runs-dir", root], log=folder / "known.log") as child:
        if child.process.wait() != 0:
            raise child.error()
    run = Run(root, 1)
    found = {name.rpartition(".")[2]: t.item() for name, t in checkpoint.load(run.checkpoints, "last").weights.items()}
    found["mse"] = evaluate(run, split="train").metrics["mse"] or 0.0
    value = ", ".join(f"{name} {found[name]:.6g}" for name in _CLOSED_FORM)
    wrong = [name for name, known in _CLOSED_FORM.items() if not abs(found[name] / known - 1) < _TOLERANCE]
    if wrong:
        note = f"the {wrong[0]} of recipe {_KNOWN} must be {_CLOSED_FORM[wrong[0]]}: this torch computes wrongly"
        yield Line("known result", value, "fail", note)
    else:
        yield Line("known result", value, note=f"recipe {_KNOWN}: the closed form")
