"""Runs made by an earlier dlcli, in golden/: the current one lists, shows, measures, applies, exports and resumes them,
and must find the same numbers as the earlier one, which are in golden/expected.json.

On the same processor, with the same torch, they are equal bit for bit; on others to five digits.

    1  linear on make-regression, finished
    2  logistic on breast-cancer, averaged weights, finished
    3  simple-cnn on digits, flip, mixup, accumulate, one-cycle, averaged weights; interrupted inside its second epoch
    4  rnn on pydocs, dropout; interrupted inside its second epoch
    5  attention on recall, stopped early
"""

import hashlib
import json
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dlcli.cli.main import app

GOLDEN = Path(__file__).with_name("golden")
NUMBERS = (1, 2, 3, 4, 5)
# The arguments of `dlcli resume`: a finished run is extended, the others are only continued.
EXTENSION = {1: ("--epochs", "260"), 2: ("--epochs", "5"), 5: ("--epochs", "13")}
# Values that differ in each process, or when the run continues.
TIMES = ("seconds", "samples_per_second", "started")
# What the earlier dlcli did not report about a run.
LATER = ("best_step", "test", "settings", "sweep", "trial")
# Attention does not depend on it: its gradient is only rounding error, which Adam scales to full steps.
UNDETERMINED = "key.bias"

# Relative and absolute tolerance, since two machines round differently.
RELATIVE, ABSOLUTE = 1e-5, 1e-5


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A writable copy of the golden runs."""
    return copy(tmp_path / "runs")


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads((GOLDEN / "expected.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def exact(expected: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> bool:
    """Whether this machine computes like the one that made the golden runs, so that every bit must be equal."""
    return bool(machine(tmp_path_factory.mktemp("machine")) == expected["machine"])


def test_all_runs_are_listed(runs: Path, expected: dict[str, Any]) -> None:
    wanted = {number: of["row"] for number, of in expected["runs"].items()}
    found = listed(runs)
    assert found.keys() == wanted.keys()
    assert_same(found, wanted, exact=True)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_run_is_shown(runs: Path, expected: dict[str, Any], number: int) -> None:
    assert shown(runs, number) == expected["runs"][str(number)]["show"]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_run_is_measured(runs: Path, expected: dict[str, Any], exact: bool, number: int) -> None:
    skip_other_data(expected, number)
    assert_same(measured(runs, number), expected["runs"][str(number)]["eval"], exact=exact)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_run_is_applied_to_new_inputs(runs: Path, expected: dict[str, Any], exact: bool, number: int) -> None:
    assert_same(predicted(runs, number), expected["runs"][str(number)]["predict"], exact=exact)


@pytest.mark.parametrize("number", [pytest.param(n, marks=pytest.mark.slow) if n == 4 else n for n in NUMBERS])
def test_a_run_is_exported(runs: Path, expected: dict[str, Any], exact: bool, number: int) -> None:
    import onnxruntime

    skip_other_data(expected, number)
    exact = exact and onnxruntime.__version__ == expected["onnxruntime"]
    assert_same(exported(runs, number), expected["runs"][str(number)]["onnx"], exact=exact)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_run_goes_on(runs: Path, expected: dict[str, Any], exact: bool, number: int) -> None:
    """To the end, or further: checkpoints, metrics, weights; bit for bit on the same machine."""
    skip_other_data(expected, number)
    found, wanted = resumed(runs, number), dict(expected["runs"][str(number)]["resume"])
    digests, wanted_digests = found.pop("sha256"), wanted.pop("sha256")
    assert_same(found, wanted, exact=exact)
    assert digests.keys() == wanted_digests.keys()
    if exact:
        assert digests == wanted_digests


def copy(folder: Path) -> Path:
    """Only the runs: they are numbered."""
    for number in NUMBERS:
        shutil.copytree(GOLDEN / str(number), folder / str(number))
    return folder


def dlcli(runs: Path, *words: str) -> str:
    """Standard output of a command in this process."""
    result = CliRunner().invoke(app, [*words, "--runs-dir", str(runs)])
    assert result.exit_code == 0, result.output
    return result.stdout


def machine(folder: Path) -> dict[str, str]:
    """What determines the rounding of sums, as recorded in a run that is made here."""
    dlcli(folder, "train", "linear", "--epochs", "1", "--device", "cpu", "--quiet")
    info = json.loads((folder / "1" / "run.json").read_text(encoding="utf-8"))
    return {name: info[name] for name in ("cpu", "cpu_capability", "torch")}


def pydocs_digest() -> str:
    """The digest of the texts in the data set pydocs, which differ between Python versions."""
    from pydoc_data.topics import topics

    return hashlib.sha256(json.dumps(topics, sort_keys=True).encode()).hexdigest()


def skip_other_data(expected: dict[str, Any], number: int) -> None:
    if number == 4 and pydocs_digest() != expected["pydocs"]:
        pytest.skip(f"pydocs of Python {platform.python_version()} is not that of {expected['python']}")


def listed(runs: Path) -> dict[str, dict[str, Any]]:
    """Number -> its row of `dlcli runs`."""
    rows = [without_times(row) for row in json.loads(dlcli(runs, "runs", "--json"))]
    return {str(row["run"]): {name: v for name, v in row.items() if name not in LATER} for row in rows}


def shown(runs: Path, number: int) -> dict[str, Any]:
    """Settings, metrics and files of a run."""
    document = json.loads(dlcli(runs, "runs", "show", str(number), "--json"))
    metrics = [without_times(row) for row in document["metrics"]]
    return {"config": document["config"], "metrics": metrics, "files": sorted(document["files"])}


def measured(runs: Path, number: int) -> dict[str, Any]:
    document = json.loads(dlcli(runs, "eval", str(number), "--json"))
    return {name: document[name] for name in ("epoch", "step", "samples", "metrics", "confusion")}


def predicted(runs: Path, number: int) -> list[dict[str, Any]]:
    """The answers for the inputs for that run."""
    files = sorted(map(str, (GOLDEN / "inputs" / str(number)).iterdir()))
    rows = json.loads(dlcli(runs, "predict", str(number), *files, "--json"))
    return [{**row, "input": Path(row["input"]).name} for row in rows]


def exported(runs: Path, number: int) -> dict[str, Any]:
    """Each output of the ONNX file, as onnxruntime computes it from golden/inputs/onnx-NUMBER.json."""
    import numpy as np
    import onnxruntime

    dlcli(runs, "export", str(number))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    content = (runs / str(number) / "export" / "model.onnx").read_bytes()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    inputs = json.loads((GOLDEN / "inputs" / f"onnx-{number}.json").read_text(encoding="utf-8"))
    types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
    feeds = {port.name: np.array(inputs[port.name], dtype=types[port.type]) for port in session.get_inputs()}
    names = [port.name for port in session.get_outputs()]
    return {name: value.tolist() for name, value in zip(names, session.run(names, feeds), strict=True)}


def resumed(runs: Path, number: int) -> dict[str, Any]:
    """The state after `dlcli resume`. sha256: of all tensors in a file; weights: a few values of each tensor."""
    from safetensors.torch import load_file

    dlcli(runs, "resume", str(number), *EXTENSION.get(number, ()), "--quiet")
    folder = runs / str(number) / "checkpoints"
    files = {str(file.relative_to(folder)): load_file(file) for file in sorted(folder.rglob("*.safetensors"))}
    best = max(folder.glob("best-*"), key=lambda path: int(path.name.split("-")[1])).name
    weights = files[f"{best}/model.safetensors"]
    return {
        "row": listed(runs)[str(number)],
        "metrics": shown(runs, number)["metrics"],
        "sha256": {name: digest(tensors) for name, tensors in files.items()},
        "weights": {n: t.flatten()[:4].tolist() for n, t in weights.items() if not n.endswith(UNDETERMINED)},
    }


def digest(tensors: dict[str, Any]) -> str:
    """sha256 over the names, types, shapes and bytes of all tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in TIMES}


def assert_same(found: Any, wanted: Any, *, exact: bool, where: str = "") -> None:
    """The same values at the same places; numbers within the tolerance unless `exact`. Later versions may add some."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        assert found.keys() >= wanted.keys(), where
        for name, value in wanted.items():
            assert_same(found[name], value, exact=exact, where=f"{where}.{name}")
    elif isinstance(wanted, list) and isinstance(found, list):
        assert len(found) == len(wanted), where
        for place, (one, other) in enumerate(zip(found, wanted, strict=True)):
            assert_same(one, other, exact=exact, where=f"{where}[{place}]")
    elif isinstance(wanted, float) and not exact:
        assert found == pytest.approx(wanted, rel=RELATIVE, abs=ABSOLUTE), where
    else:
        assert found == wanted, where
