"""Opening an untrusted run or file executes nothing, uses little memory and ends with one message. See evil.py."""

import json
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from dlcli.cli.main import app
from tests import evil

# Megabytes that a command may use in addition to what it uses for a good run.
MOST_MEMORY = 500
# Control characters other than the line end, and those that change the direction of a text.
COMMANDS_A_TERMINAL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
OWN_MODULES = ("evil_net", "evil_side", "evil_package", "evil_package.inner", "evil_space", "evil_data")


@dataclass(frozen=True)
class Good:
    """Runs 1 (an mlp on iris), 2 (an rnn on a text) and 3 (a cnn on digits), and a file of rows for run 1."""

    root: Path
    rows: Path


assert torch  # loaded here, so that it does not count as the memory of the first command


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    folder = tmp_path_factory.mktemp("good")
    text = folder / "text.txt"
    text.write_text("to be or not to be\n" * 60)
    for words in (
        ["mlp", "--data", "iris", "--set", "model.hidden=4", "--epochs", "2", "--keep-last", "1"],
        ["rnn", "--data", f"text:{text}", "--set", "data.length=8", "--set", "model.hidden=4", "--epochs", "1"],
        ["cnn", "--set", "model.channels=2,2", "--set", "model.hidden=4", "--epochs", "1"],
    ):
        call("train", *words, "--device", "cpu", "--quiet", "--runs-dir", str(folder / "runs"))
    rows = folder / "rows.csv"
    rows.write_text("7,3.5,6,2.5\n")
    return Good(folder / "runs", rows)


@dataclass(frozen=True)
class Ended:
    """The result of a command. memory: its peak memory in megabytes."""

    exit_code: int
    stdout: str
    stderr: str
    memory: float


def call(*words: str, refused: bool | None = False) -> Ended:
    """Run a command in this process, and check what every command guarantees for any input."""
    before = peak_memory(reset=True)
    signal.setitimer(signal.ITIMER_REAL, 60)  # a command that hangs is stopped, and fails
    try:
        result = CliRunner().invoke(app, list(words))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    ended = Ended(result.exit_code, result.stdout, result.stderr, peak_memory() - before)
    told = f"{' '.join(words)[:300]} -> {ended.exit_code}: {ended.stderr[:1500]}"
    assert ended.exit_code in (0, 2, 3, 4, 6), told
    assert refused is None or refused == bool(ended.exit_code), told
    if ended.exit_code:
        assert ended.stderr.startswith('{"error": "' if "--json" in words else "error: "), told
        assert ended.stderr.count("\n") == 1 and len(ended.stderr) < 1200, told
    assert not COMMANDS_A_TERMINAL.search(ended.stdout + ended.stderr), told
    assert ended.memory < MOST_MEMORY, f"{ended.memory:.0f} MB: {told}"
    return ended


def peak_memory(*, reset: bool = False) -> float:
    """Peak memory of this process since the last reset, in megabytes; with `reset`, its current memory."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1e3  # type: ignore[index]


def commands(good: Good, root: Path) -> dict[str, tuple[str, ...]]:
    """Every command that opens run 1 in `root`, and one that uses its settings."""
    where = ("--runs-dir", str(root))
    return {
        "runs": ("runs", *where),
        "show": ("runs", "show", "1", *where),
        "eval": ("eval", "1", *where),
        "predict": ("predict", "1", str(good.rows), *where),
        "resume": ("resume", "1", "--epochs", "3", "--quiet", *where),
        "train": ("train", "--config", str(root / "1" / "config.json"), "--quiet", *where),
    }


class Hangs(Exception):
    """Not an OSError, which would have its own message: this one is reported as a bug."""


@pytest.fixture(autouse=True)
def _an_alarm_is_an_error() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hangs("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def root(good: Good, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the good runs; the current folder and the Python path contain malicious files."""
    root = tmp_path / "runs"
    shutil.copytree(good.root, root)
    monkeypatch.chdir(root / "1")
    monkeypatch.setattr(sys, "path", [*sys.path, str(root), str(root / "1")])
    yield root
    for name in OWN_MODULES:
        sys.modules.pop(name, None)
    os.chdir("/")
    subprocess.run(["rm", "-rf", str(tmp_path)], check=True)  # pytest cannot remove folders that are nested so deeply


@pytest.mark.parametrize("name", evil.KINDS)
def test_a_run_that_was_made_to_harm(name: str, good: Good, root: Path) -> None:
    damage, refused_by, tried = evil.KINDS[name]
    damage(root / "1")
    for command, words in commands(good, root).items():
        if command in tried:
            call(*words, refused=command in refused_by)
            assert not (root / evil.MARKER).exists(), f"{command} executed what came with the run"
        if command == "eval" and "eval" in refused_by:  # export opens the same, before it starts a process of its own
            other = name == "eval folder that is a link"
            call("export", "1", "--format", "safetensors", "--runs-dir", str(root), refused=not other)
            assert not (root / evil.MARKER).exists(), "export executed what came with the run"
    for what in ("curves", "errors"):  # of metrics.csv; of the stored answers, or of data and checkpoint
        call("plot", "1", "--what", what, "--runs-dir", str(root), refused=None)
        assert not (root / evil.MARKER).exists(), "plot executed what came with the run"
    call("explain", "1", str(good.rows), "--runs-dir", str(root), refused=None)
    assert not (root / evil.MARKER).exists(), "explain executed what came with the run"
    call("report", "1", "-o", str(root / "report.html"), "--runs-dir", str(root), refused=None)
    assert not (root / evil.MARKER).exists(), "report executed what came with the run"


@pytest.mark.parametrize(
    "name",
    ["pickle for weights", "model module in the run", "data os:system", "a gigantic model", "config.json is a FIFO",
     "weights that are not finite", "checkpoints elsewhere", "data.json with a key twice"],
)  # fmt: skip
def test_what_is_refused_is_not_exported(name: str, root: Path) -> None:
    evil.KINDS[name][0](root / "1")
    call("export", "1", "--format", "safetensors", "--runs-dir", str(root), refused=True)
    assert not (root / evil.MARKER).exists() and not (root / "1" / "export").exists()


def test_an_export_through_a_link_is_not_written(root: Path) -> None:
    (root / "victim").mkdir()
    (root / "victim" / "model.safetensors").write_text("precious")
    (root / "1" / "export").symlink_to(root / "victim")
    assert call("export", "1", "--format", "safetensors", "--runs-dir", str(root), refused=True).stderr == (
        f"error: cannot write into {root}/1/export: it is a symbolic link\n"
    )
    assert [file.read_text() for file in (root / "victim").iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("name", "purged"),
    [
        ("lock is a FIFO", None), ("config.json is a FIFO", True), ("run.json is a link to dev zero", True),
        ("folders nested deeply", False), ("checkpoint folders that are links", True), ("checkpoints elsewhere", True),
        ("files that command a terminal", True),
    ],
)  # fmt: skip
def test_a_run_that_was_made_to_harm_is_removed_or_left(name: str, purged: bool | None, root: Path) -> None:
    """purged: whether `dlcli runs purge` deletes it; None if it cannot even be moved to the trash."""
    where = ("--runs-dir", str(root))
    others = {path for path in root.rglob("*") if root / "1" not in path.parents}
    evil.KINDS[name][0](root / "1")
    call("runs", "rm", "1", *where, refused=purged is None)
    if purged is not None:
        call("runs", "restore", "1", *where)
        call("runs", "rm", "1", *where)
        call("runs", "purge", "1", "--yes", *where, refused=not purged)
    assert {path for path in others if not os.path.lexists(path)} <= {root / "1"}


def test_own_code_beside_the_runs_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_code.py").write_text(
        "import torch\nfrom torch import nn\nfrom pathlib import Path\n"
        "from dlcli import DataSpec, Source\n\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, spec, *, bias: bool = True):\n"
        "        super().__init__(spec.input_shape[0], spec.outputs, bias)\n\n"
        "def points(data_dir: Path, *, samples: int = 60) -> Source:\n"
        "    x = torch.arange(samples * 2.0).view(-1, 2) / samples\n"
        "    return Source(DataSpec('multiclass', 'features', (2,), 2), x, torch.arange(samples) % 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = ("own_code:Net", "--data", "own_code:points", "--set", "model.bias=no", "--set", "data.samples=40")
    call("train", *words, "--epochs", "1", "--device", "cpu", "--quiet")
    assert json.loads(call("eval", "1", "--json").stdout)["samples"] == 8
    call("resume", "1", "--epochs", "2", "--quiet")
    sys.modules.pop("own_code")


def test_there_are_many_kinds() -> None:
    assert len(evil.KINDS) >= 150


def test_the_memory_of_a_command_is_measured() -> None:
    before = peak_memory(reset=True)
    assert len(b"x" * 200_000_000) and peak_memory() - before > 180


@pytest.mark.parametrize("document", evil.DOCUMENTS)
def test_a_wrong_value_at_any_key(document: str, good: Good, root: Path) -> None:
    """With one command that reads everything; `test_every_command_and_every_wrong_value` tries all commands."""
    command = {"run.json": "show", "data.json": "predict", "config.json": "predict"}.get(document, "eval")
    _wrong_values(document, [command], evil.VALUES[:6], good, root)


@pytest.mark.slow
@pytest.mark.parametrize("document", evil.DOCUMENTS)
def test_every_command_and_every_wrong_value(document: str, good: Good, root: Path) -> None:
    _wrong_values(document, list(evil.COMMANDS), evil.VALUES, good, root)


def _wrong_values(document: str, tried: list[str], values: tuple[object, ...], good: Good, root: Path) -> None:
    place, *_ = evil.places(root / "1", document)
    before = {file: file.read_bytes() for file in place.parent.iterdir() if file.suffix == ".json"}
    refused = 0
    for path in evil.keys(json.loads(place.read_text())):
        for value in values:
            if path == ("compile",) and value is True:
                continue  # this value is not wrong, and takes long
            for command in tried:
                evil.set_in(place, *path, to=value)
                if (path[-1], command) != ("lr", "resume"):  # this may diverge
                    refused += bool(call(*commands(good, root)[command], refused=None).exit_code)
                if command in ("resume", "train"):
                    shutil.rmtree(root)
                    shutil.copytree(good.root, root)
                    os.chdir(root / "1")  # the one before is gone, and no command works in such
                for file, content in before.items():
                    file.write_bytes(content)
    assert refused > len(values) * len(tried) / 2


def test_a_wrong_value_at_any_key_of_a_training(good: Good, root: Path) -> None:
    place = evil.places(root / "1", "state.json")[-1]
    training = json.loads(place.read_text())["training"]
    for key in training:
        for value in (None, -1, "x", {}):
            evil.set_in(place, "training", key, to=value)
            ended = call(*commands(good, root)["resume"], refused=None)
            harmless = (key, value) in (("average_steps", None), ("scaler", None), ("scaler", {}))
            harmless = harmless or key in ("best", "best_loss", "lr", "told_loss", "metrics_bytes", "log_bytes")
            assert harmless or ended.exit_code == 4, (key, value)
            shutil.rmtree(root / "1")
            shutil.copytree(good.root / "1", root / "1")
            os.chdir(root / "1")  # the one before is gone, and no command works in such


# ---------------------------------------- whole sentences


def _sentence(good: Good, root: Path, name: str, command: str) -> str:
    evil.KINDS[name][0](root / "1")
    return call(*commands(good, root)[command], refused=True).stderr.replace(str(root), "RUNS")


@pytest.mark.parametrize(
    ("name", "command", "sentence"),
    [
        (
            "model module in the run", "eval",
            "error: 'evil_net:Net' is refused: RUNS/1/evil_net.py lies in the folder of runs RUNS, and no code that "
            "came with a run is executed; keep your own in another folder\n",
        ),
        (
            "model os:system", "eval",
            "error: 'os:system' is part of Python, not a model or data set: name one of your own\n",
        ),
        ("model torch:load", "eval", "error: model 'torch:load' is no torch.nn.Module class\n"),
        (
            "data shutil:rmtree", "eval",
            "error: 'shutil:rmtree' is part of Python, not a model or data set: name one of your own\n",
        ),
        (
            "data torch:load", "eval",
            "error: data 'torch:load' is no function that is annotated to load data: def NAME(data_dir) -> Source\n",
        ),
        (
            "pickle for weights", "predict",
            "error: no intact best checkpoint in RUNS/1/checkpoints: RUNS/1/checkpoints/best-14/model.safetensors is "
            "damaged: it is not a safetensors file, or its header is too long\n",
        ),
        (
            "header with a key twice", "predict",
            "error: no intact best checkpoint in RUNS/1/checkpoints: RUNS/1/checkpoints/best-14/model.safetensors is "
            "damaged: 'layers.1.bias' appears twice\n",
        ),
        (
            "tensors that overlap", "predict",
            "error: no intact best checkpoint in RUNS/1/checkpoints: RUNS/1/checkpoints/best-14/model.safetensors is "
            "damaged: its tensors overlap, or leave a gap\n",
        ),
        (
            "another model in the config", "eval",
            "error: RUNS/1/checkpoints/best-14 does not fit the model that the run describes (missing: linear.bias, "
            "linear.weight; unexpected: layers.1.bias, layers.1.weight, layers.3.bias, layers.3.weight)\n",
        ),
        (
            "a gigantic model", "eval",
            "error: RUNS/1/checkpoints/best-14 does not fit the model that the run describes, which is far larger\n",
        ),
        ("run.json is a FIFO", "show", "error: RUNS/1/run.json cannot be read: it is a FIFO\n"),
        ("checkpoints elsewhere", "eval", "error: RUNS/1/checkpoints is a symbolic link, not a folder of the run\n"),
        (
            "eval folder that is a link", "eval",
            "error: cannot write into RUNS/1/eval: it is a symbolic link\n",
        ),
        ("config.json nested deeply", "eval", "error: RUNS/1/config.json is damaged: it is nested too deeply\n"),
        (
            "a million threads", "show",
            "error: RUNS/1/run.json is damaged: threads = 1000000 is not a number of threads\n",
        ),
    ],
)  # fmt: skip
def test_the_sentence(name: str, command: str, sentence: str, good: Good, root: Path) -> None:
    assert _sentence(good, root, name, command) == sentence


def test_nothing_outside_the_run_is_written(good: Good, root: Path) -> None:
    """A link instead of a file that a command writes, in an otherwise good run."""
    victims = root / "victims"
    victims.mkdir()
    for name in ("log.txt", "metrics.csv", "lock", "error.log"):
        (victims / name).write_text("precious\n")
        (root / "1" / name).unlink(missing_ok=True)
        (root / "1" / name).symlink_to(victims / name)
        call(*commands(good, root)["resume"], refused=name != "error.log")
        (root / "1" / name).unlink()
    assert {file.read_text() for file in victims.iterdir()} == {"precious\n"}


def test_the_log_of_an_error_follows_no_link(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlcli import resume
    from dlcli.runs.run import Run

    victim = root / "victim"
    victim.write_text("precious")
    (root / "1" / "error.log").symlink_to(victim)

    def fail(*_: object) -> Iterator[None]:
        raise RuntimeError("on purpose")
        yield

    monkeypatch.setattr("dlcli.training.train.steps", fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        list(resume(Run(root, 1), epochs=3))
    assert victim.read_text() == "precious"
    assert "on purpose" in (root / "1" / "error.log").read_text()


# ---------------------------------------- names


@pytest.mark.parametrize(
    "name",
    ["../../1", "1/../1", "../1/../2", "runs/../1", "x" * 300, "x" * 300 + "/1", "a\nb", "a\0b/1", "\x1b[2J", "1\n",
     "1 ", "\u0661", "-0", "01", "1.0", "best:\x1b[2J", "a/" * 3000 + "1", "9999999999", "1:"],
    ids=repr,
)  # fmt: skip
def test_a_name_that_names_no_run(name: str, root: Path) -> None:
    ended = call("runs", "show", "--runs-dir", str(root), "--", name, refused=True)
    assert ended.exit_code == 4


def test_a_linked_run_is_no_run(root: Path) -> None:
    (root / "7").symlink_to(root / "1")
    assert call("eval", "7", "--runs-dir", str(root), refused=True).stderr == (
        f"error: there is no run 7 in {root}: see `dlcli runs`\n"
    )
    rows = json.loads(call("runs", "--json", "--runs-dir", str(root)).stdout)
    assert [row["run"] for row in rows] == [3, 2, 1]


def test_a_run_may_lie_above(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`..` is refused only after the name of a folder."""
    assert "mlp" in call("runs", "show", "../1").stdout


# ---------------------------------------- terminals, spreadsheets, pages


def test_names_become_text_in_every_format(good: Good, root: Path) -> None:
    evil.KINDS["metrics that command a terminal"][0](root / "1")
    evil.KINDS["names that command a terminal"][0](root / "1")
    where = ("--runs-dir", str(root))
    table = call("runs", "show", "1", "--csv", *where).stdout
    assert "'=1+1,'@SUM(A1),<script>" in table.splitlines()[0]
    page = call("runs", "show", "1", "--md", *where).stdout
    assert "&lt;script>" in page and "a\\|b" in page and "[/x][bold]markup" in page
    document = json.loads(call("runs", "show", "1", "--json", *where).stdout)
    assert list(document["metrics"][0])[1:] == [name.replace("\n", " ") for name in evil.NAMES]
    evaluated = call("eval", "1", *where).stdout
    assert "[/x][bold]markup" in evaluated and "\N{REPLACEMENT CHARACTER}]0;title" in evaluated
    assert json.loads(call("eval", "1", "--json", *where).stdout)["class_names"] == list(evil.NAMES[:3])
    answer = call("predict", "1", str(good.rows), "--csv", *where).stdout.splitlines()[1]
    assert answer.split(",")[1] in ("[/x][bold]markup", "\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}"
                                    "\N{REPLACEMENT CHARACTER}[2J", "over\N{REPLACEMENT CHARACTER}written")  # fmt: skip


def test_classes_without_names_have_numbers(root: Path) -> None:
    evil.set_in(root / "1" / "data.json", "class_names", to=[])
    lines = call("eval", "1", "--runs-dir", str(root)).stdout.splitlines()
    first = lines.index(next(line for line in lines if line.startswith("class ")))
    assert [line.split()[0] for line in lines[first + 1 : first + 4]] == ["0", "1", "2"]


def test_a_language_model_cannot_write_escape_codes(root: Path) -> None:
    data = json.loads((root / "2" / "data.json").read_text())
    spelt = "\n\t\x1b\x9b\r\x07" + data["alphabet"]
    evil.set_in(root / "2" / "data.json", "alphabet", to=spelt[: len(data["alphabet"])])
    words = ("generate", "2", "--length", "400", "--temperature", "5", "--runs-dir", str(root))
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    assert "\N{REPLACEMENT CHARACTER}" in result.stdout
    assert "\t" in result.stdout and not COMMANDS_A_TERMINAL.search(result.stdout.replace("\t", ""))


def test_a_language_model_whose_values_are_not_finite(root: Path) -> None:
    evil.fill(root / "2", {"gru.bias_ih_l0": -1e3, "output.weight": 3e38}, other=0.0)  # the state is -1
    text = root / "text.txt"
    text.write_text("to be or not to be\n")
    for words in (("generate", "2"), ("predict", "2", str(text))):
        assert call(*words, "--runs-dir", str(root), refused=True).stderr == (
            f"error: the model of {root}/2 gives values that are not finite: its weights are of no use\n"
        )


def test_a_language_model_that_is_very_wrong_has_no_perplexity(root: Path) -> None:
    evil.fill(root / "2", {}, other=0.0)
    header, data = evil.header_of(evil.weights(root / "2"))
    content = bytearray(data)
    first = header["output.bias"]["data_offsets"][0]
    content[first : first + 4] = struct.pack("<f", 1e30)  # only the first character
    evil.replace(root / "2", "model.safetensors", evil.safetensors(header, bytes(content)))
    text = root / "text.txt"
    text.write_text("to be or not to be")
    (answer,) = json.loads(call("predict", "2", str(text), "--json", "--runs-dir", str(root)).stdout)
    assert answer["bits_per_char"] > 1e29 and answer["perplexity"] is None


# ---------------------------------------- config files

CONFIGS: dict[str, bytes | str | Callable[[Path], object]] = {
    "deep.toml": "model = " + "[" * 9000 + "]" * 9000,
    "tables.toml": "model = " + "{a=" * 4000 + "1" + "}" * 4000,
    "dots.toml": "a." * 9000 + "a = 1",
    "header.toml": "[" + "a." * 9000 + "a]\nx = 1",
    "twice.toml": "lr = 1\nlr = 2",
    "digits.toml": "epochs = 1" + "0" * 5000,
    "infinite.toml": "model = 'mlp'\nlr = 1e999",
    "large.toml": "model = 'mlp'\nlrr = 1\n#" + "#" * 200_000,
    "options.toml": "model.name = 'mlp'\nmodel.hidden." + "a." * 3000 + "a = 1",
    "latin.toml": b"model = '\xff'",
    "escape.toml": 'model = "\\u001b]0;x\\u0007"',
    "code.toml": "model = 'os:system'",
    "call.toml": "model = 'mlp'\ndata = 'os:system'\ndata_dir = '/;touch EXECUTED'",
    "table.toml": "model = 'mlp'\nmodel_options = 'x'\n[data]\nlength = 1",
    "gigantic.toml": "model = {name = 'mlp', hidden = [100000, 100000]}",
    "threads.toml": "model = 'mlp'\nthreads = 1000000",
    "centuries.toml": "model = 'mlp'\nschedule = 'one-cycle'\nepochs = 1" + "0" * 400,
    "twice.json": '{"model": "mlp", "model": "cnn"}',
    "deep.json": '{"model": ' + "[" * 9000 + "]" * 9000 + "}",
    "half.json": '{"model": "\\ud800:x"}',
    "nan.json": '{"model": "mlp", "lr": NaN}',
    "digits.json": '{"epochs": 1' + "0" * 5000 + "}",
    "zero.toml": lambda path: path.symlink_to("/dev/zero"),
    "zero.json": lambda path: path.symlink_to("/dev/zero"),
    "memory.json": lambda path: path.symlink_to("/proc/self/mem"),
    "loop.toml": lambda path: path.symlink_to(path),
    "fifo.toml": os.mkfifo,
    "fifo.json": os.mkfifo,
    "folder.toml": os.mkdir,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_file_that_was_made_to_harm(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, file = CONFIGS[name], tmp_path / name
    if callable(content):
        content(file)
    else:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    ended = call("train", "--config", str(file), "--runs-dir", str(tmp_path / "runs"), refused=True)
    assert ended.exit_code in (2, 6)
    assert not (tmp_path / "runs").exists() and not (tmp_path / evil.MARKER).exists()


def test_a_large_config_file_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("a." * 40_000 + "a = 1")  # the standard parser takes half a minute for this
    assert call("train", "--config", str(tmp_path / "a.toml"), refused=True).stderr == (
        f"error: config file {tmp_path / 'a.toml'} cannot be read: it has more than 20,000 bytes\n"
    )


def test_a_config_file_of_ones_own_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("model = 'mlp'\n")
    (tmp_path / "b.toml").symlink_to("a.toml")
    assert 'name = "mlp"' in call("train", "--config", str(tmp_path / "b.toml"), "--print-config").stdout


# ---------------------------------------- inputs

ROWS: dict[str, bytes | Callable[[Path], object]] = {
    "cell.csv": b"1,2,3," + b"1" * 10_000_000 + b"\n",
    "quote.csv": b'1,2,3,"' + b"1\n" * 300_000,
    "columns.csv": b"1," * 500_000 + b"\n",
    "infinite.csv": b"1,2,3,1e999\n",
    "nul.csv": b"1,2,3,\x004\n",
    "latin.csv": b"\xff,1,2,3\n",
    "fifo.csv": os.mkfifo,
    "zero.csv": lambda path: path.symlink_to("/dev/zero"),
    "sparse.csv": lambda path: (path.write_bytes(b""), os.truncate(path, 2_000_000_000)),
    "folder.csv": os.mkdir,
    "numbered.csv": b"0,1,2,3\n0,1,2,3," + b"4," * 100_000 + b"\n",
    "header.csv": b"".join(b"%d," % i for i in range(100_000)) + b"x\n",
}
IMAGES: dict[str, bytes | Callable[[Path], object]] = {
    "bomb.png": lambda path: path.write_bytes(evil.png(14_000, 14_000)),
    "wide.png": lambda path: path.write_bytes(evil.png(10_000_000, 10)),
    "text.png": b"this is a text\n" * 10,
    "empty.png": b"",
    "cut.jpg": lambda path: path.write_bytes(evil.jpeg_cut_off()),
    "fifo.png": os.mkfifo,
    "zero.png": lambda path: path.symlink_to("/dev/zero"),
    "sparse.webp": lambda path: (path.write_bytes(b"RIFF\0\0\0\x80WEBPVP8 "), os.truncate(path, 2_000_000_000)),
    "signed.tif": evil.tiff({339: 2}),
    "samples.tif": evil.tiff({277: 60_000}),
    "bits.tif": evil.tiff({258: 12, 262: 0}),
    "clear.png": evil.png(8, 8, colours=2, depth=16, clear=b"\0\0\0\0\0\0"),
    "shade.png": evil.png(10_000_000, 10, depth=16, clear=b"\0\0"),
    "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file\n",
}


def _put(path: Path, content: bytes | Callable[[Path], object]) -> Path:
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ROWS)
def test_rows_that_were_made_to_harm(name: str, good: Good, tmp_path: Path) -> None:
    ended = call("predict", "1", str(_put(tmp_path / name, ROWS[name])), "--runs-dir", str(good.root), refused=True)
    assert ended.exit_code == 3


@pytest.mark.parametrize("name", IMAGES)
def test_images_that_were_made_to_harm(name: str, good: Good, tmp_path: Path) -> None:
    ended = call("predict", "3", str(_put(tmp_path / name, IMAGES[name])), "--runs-dir", str(good.root), refused=True)
    assert ended.exit_code == 3


def test_the_image_bomb_is_small(tmp_path: Path) -> None:
    assert len(evil.png(14_000, 14_000)) < 200_000


def test_a_folder_of_images_is_searched_for_images_only(good: Good, tmp_path: Path) -> None:
    _put(tmp_path / "a.png", evil.png(8, 8))
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("/dev/zero")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "e").symlink_to(tmp_path)
    table = call("predict", "3", str(tmp_path), "--csv", "--runs-dir", str(good.root)).stdout
    assert [line.split(",")[0] for line in table.splitlines()] == ["input", str(tmp_path / "a.png")]


@pytest.mark.parametrize("target", ["os:system", "subprocess:Popen", "builtins:eval", "torch:load"])
def test_gradcheck_calls_nothing_that_is_no_module(target: str) -> None:
    assert call("gradcheck", target, "--input", "2,2", refused=True).exit_code == 2


# ---------------------------------------- processes


SOURCE = str(Path(__file__).parent.parent)
# `python -m dlcli`, which at its end writes its memory, as the kernel reports it, into a file.
MEASURED = """
import atexit, pathlib
atexit.register(lambda: pathlib.Path("memory").write_text(pathlib.Path("/proc/self/status").read_text()))
from dlcli.cli.main import main
main()
"""


def process(*words: str, cwd: Path, program: tuple[str, ...] = ("-m", "dlcli")) -> "subprocess.CompletedProcess[str]":
    """Run the command as a process. If it hangs, it is killed and the test fails."""
    return subprocess.run(
        [sys.executable, *program, *words], cwd=cwd, env={**os.environ, "PYTHONPATH": SOURCE}, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip


def test_the_current_folder_cannot_pass_for_a_library(good: Good, tmp_path: Path) -> None:
    """Libraries import optional other libraries. An untrusted folder must not provide them."""
    for name in ("org", "msvcrt", "dill", "tqdm", "opt_einsum", "monkeytype", "pydot", "pynvml", "cutlass",
                 "torchcomms", "sitecustomize", "numexpr", "pyarrow", "defusedxml", "attr"):  # fmt: skip
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / evil.MARKER)!r}, 'w').close()\n")
    shutil.copytree(good.root, tmp_path / "runs")
    for words in (("runs",), ("predict", "1", str(good.rows))):
        done = process(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert not (tmp_path / evil.MARKER).exists()


def test_a_repository_of_a_stranger_starts_no_program(
    good: Good, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """run.json records whether the tree is dirty; `git status` would start programs that the repository configures."""
    from dlcli.training.provenance import ask_git

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True, capture_output=True)

    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    (tmp_path / "a.txt").write_text("a")
    git("add", "a.txt")
    git("commit", "-qm", "a")
    assert ask_git()["git_dirty"] is False
    (tmp_path / "a.txt").write_text("b")
    assert ask_git()["git_dirty"] is True
    git("config", "core.fsmonitor", f"touch {tmp_path / evil.MARKER}; false")
    assert ask_git()["git_dirty"] is True
    git("config", "filter.evil.clean", f"touch {tmp_path / evil.MARKER}; cat")
    (tmp_path / ".gitattributes").write_text("* filter=evil\n")
    assert ask_git()["git_dirty"] is None
    assert not (tmp_path / evil.MARKER).exists()
    subprocess.run(["git", "status"], check=True, capture_output=True)
    assert (tmp_path / evil.MARKER).exists()  # the test itself works


def test_a_terminal_gets_no_command(good: Good, root: Path) -> None:
    import pty

    evil.KINDS["names that command a terminal"][0](root / "1")
    reader, writer = os.openpty()
    words = [sys.executable, "-m", "dlcli", "eval", "1", "--runs-dir", str(root)]
    environment = {**os.environ, "PYTHONPATH": SOURCE, "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(words, stdout=writer, stderr=writer, env=environment) as child:
        os.close(writer)
        shown = b""
        try:
            while piece := os.read(reader, 65536):
                shown += piece
        except OSError:  # the end of a pseudo-terminal
            pass
    assert child.returncode == 0
    assert pty and b"[/x][bold]markup" in shown
    styled = re.sub(rb"\x1b\[[0-9;]*m", b"", shown)  # rich's own: colour and weight
    assert b"\x1b" not in styled and b"\x07" not in styled and b"title" in styled


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory is read from /proc")
def test_processes_take_little_memory_and_do_not_hang(good: Good, root: Path) -> None:
    base = measured(*commands(good, good.root)["eval"], cwd=root.parent)
    assert base > 100
    evil.KINDS["a gigantic model"][0](root / "1")
    assert measured(*commands(good, root)["eval"], cwd=root.parent) < base + MOST_MEMORY
    evil.KINDS["lock is a FIFO"][0](root / "1")
    evil.set_in(root / "1" / "run.json", "status", to="running")
    assert measured("runs", "--runs-dir", str(root), cwd=root.parent) < base


def measured(*words: str, cwd: Path) -> float:
    """Megabytes that a process used; it must print at most one message."""
    done = process(*words, cwd=cwd, program=("-c", MEASURED))
    assert done.returncode in (0, 2, 4), done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1
    return int(re.search(r"VmHWM:\s+(\d+)", (cwd / "memory").read_text())[1]) / 1e3  # type: ignore[index]
