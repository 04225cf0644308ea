"""Export of a run to a file: the file equals the trained model, or it is not kept."""

import getpass
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlcli.analysis.prune.prune import Wish, prune, written
from dlcli.cli.main import app
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import CheckError, ConfigError
from dlcli.core.reading import read_json
from dlcli.core.spec import DataSpec
from dlcli.evaluation.measure import evaluate
from dlcli.evaluation.predict import predict
from dlcli.experiment.restore import preprocessing_of, restore
from dlcli.export import exporter, latency, original, parity, recurrent, wrapper
from dlcli.export.child import RuntimeProcess
from dlcli.export.formats import FORMATS, check_formats
from dlcli.export.runtime import Artifact
from dlcli.export.signature import Port, Signature
from dlcli.runs.run import Run
from dlcli.tasks.binary import Binary
from dlcli.tasks.multiclass import Multiclass
from dlcli.tasks.regression import Regression
from dlcli.training.train import train
from tests.conftest import needs_data

STORY = "".join(
    f"The {a} fox saw {b} dogs and ran away.\n" for a in ("red", "old", "sly", "shy") for b in range(10, 60)
)

RUNS: dict[str, dict[str, Any]] = {
    "linear": {"model": "linear", "data": "line", "optimizer": "sgd", "normalize": True},
    "logistic": {"model": "logistic", "data": "breast-cancer"},
    "mlp": {"model": "mlp", "data": "digits", "model_options": {"dropout": 0.3}},
    "tabular": {"model": "tabular", "data": "breast-cancer"},
    "lenet": {"model": "lenet", "data": "digits", "optimizer": "adam"},
    "cnn": {"model": "cnn", "data": "digits", "optimizer": "adam"},
    "simple-cnn": {"model": "simple-cnn", "data": "digits"},
    "airbench": {"model": "airbench", "data": "digits", "model_options": {"channels": (8, 16, 24)}},
    "rnn": {"model": "rnn", "data": "text:", "model_options": {"hidden": 24, "embedding": 12, "layers": 2}},
    "attention": {"model": "attention", "data_options": {"samples": 600}},
    "attention-text": {"model": "attention", "data": "text:", "model_options": {"width": 16, "dropout": 0.1}},
    "rnn-words": {
        "model": "rnn",
        "data": "text:",
        "data_options": {"tokens": "words"},
        "model_options": {"hidden": 24},
    },
}
# Further models, for the planted faults.
OTHERS: dict[str, dict[str, Any]] = {
    "other-cnn": {"model": "cnn", "data": "digits", "optimizer": "adam", "seed": 1},
    "normed": {"model": "tests.test_export:Normed", "data": "digits", "optimizer": "adam"},
    "careless": {"model": "tests.test_export:Careless", "data": "digits"},
    "odd": {"model": "tests.test_export:Odd", "data": "iris"},
}


class Normed(nn.Module):
    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, spec.outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class Careless(nn.Module):
    """Applies dropout in evaluation too, the default of F.dropout."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.linear = nn.Linear(64, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.dropout(x.flatten(1), 0.5))  # type: ignore[no-any-return]


class Odd(nn.Module):
    """Branches on the values of its input, which a tracer cannot follow."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.linear = nn.Linear(4, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x if x.abs().sum() >= 0 else -x)  # type: ignore[no-any-return]


Trained = Callable[[str], Run]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run with that name in a runs folder, trained for one epoch when it is first requested."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "story.txt").write_text(STORY)
    found: dict[str, Run] = {}

    def of(name: str) -> Run:
        if name.startswith("narrow-"):
            parent = of(name.removeprefix("narrow-"))
            wish = Wish(structured=True, by="magnitude", amount=0.5, flops=None, epochs=0)
            cut = prune(parent, wish, split="val", runs_dir=parent.root)
            found[name] = written(cut, runs_dir=parent.root, name=None, command="")
        if name not in found:
            settings = {"epochs": 1, **(RUNS | OTHERS)[name]}
            if settings.get("data") == "text:":
                options = {"length": 20} | settings.get("data_options", {})
                settings |= {"data": f"text:{folder}/story.txt", "data_options": options, "optimizer": "adam"}
            torch.set_num_threads(1)
            for _ in train(TrainConfig(**settings, device="cpu"), runs_dir=folder / name):
                pass
            found[name] = Run(folder / name, 1)
        return found[name]

    return of


@pytest.fixture(autouse=True)
def _few_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_SECONDS", 0.0)


def one(run: Run, format: str = "onnx", **settings: Any) -> dict[str, Any]:
    """The record of an export that passes the comparison."""
    (outcome,) = exporter.export(run, [format], **settings)
    assert outcome.error is None, outcome.error
    assert outcome.record is not None
    return outcome.record


def refused(run: Run, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code of `dlcli export` and its last line, without the name of the folder."""
    with pytest.raises(SystemExit) as caught:
        app(["export", str(run), *words])
    said = capsys.readouterr().err.splitlines()[-1].replace(str(run), "RUN")
    return int(caught.value.code or 0), re.sub(r"\b\d+(\.\d+)?(e[-+]\d+)?", "#", said)


@dataclass(frozen=True)
class Exported:
    """An ONNX file of a run, its bytes and its record."""

    run: Run
    record: dict[str, Any]
    content: bytes

    def session(self) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(self.content)


@pytest.fixture(scope="module")
def exported(trained: Trained) -> Callable[[str], Exported]:
    """The run with that name as ONNX, exported when it is first requested."""
    found: dict[str, Exported] = {}

    def of(name: str) -> Exported:
        if name not in found:
            run = trained(name)
            record = one(run)
            assert read_json(run.path / "export/onnx.json") == record
            found[name] = Exported(run, record, (run.path / "export/model.onnx").read_bytes())
        return found[name]

    return of


Export = Callable[[str], Exported]


# Every model, every format


@pytest.mark.parametrize("name", RUNS)
def test_every_model_as_onnx_is_the_trained_model(exported: Export, name: str) -> None:
    run, record, content = exported(name).run, exported(name).record, exported(name).content
    found = record["parity"]
    assert found["holds"] and found["max_relative_difference"] <= 1e-4
    assert found["agreement"] in (1.0, None) and (found["agreement"] is None) == (name == "linear")
    expected = evaluate(run).metrics[found["metric"]]
    assert found["trained"][found["metric"]] == pytest.approx(expected, abs=1e-12)
    assert found["exported"][found["metric"]] == pytest.approx(expected, abs=1e-6)
    probed = [(p["batch_size"], p["steps"], p["pieces"]) for p in found["probes"]]
    sequence = {"rnn": [(2, 10, 1), (2, None, 2)], "attention": [(2, 4, 1)], "attention-text": [(2, 10, 1)]}
    sequence["rnn-words"] = sequence["rnn"]
    assert probed == [(64, None, 1), (1, None, 1), (2, None, 1), *sequence.get(name, [])]
    assert len(content) == record["size"]
    assert set(record["latency"]) == {"1", "64"} and record["latency"]["64"]["pairs"] == 5
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    assert no_path_in(content, run)


@pytest.mark.parametrize(
    "name", ["narrow-cnn", *(pytest.param(n, marks=pytest.mark.slow) for n in ("narrow-attention-text", "narrow-rnn"))]
)
def test_a_pruned_model_as_onnx_is_the_narrower_model(exported: Export, name: str) -> None:
    run, record, content = exported(name).run, exported(name).record, exported(name).content
    assert record["parity"]["holds"] and record["parity"]["max_relative_difference"] <= 1e-4
    assert len(content) < 0.9 * len(exported(name.removeprefix("narrow-")).content)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    assert no_path_in(content, run)


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("rnn", "safetensors"),
        ("cnn", "safetensors"),
        ("narrow-attention", "safetensors"),
        pytest.param("narrow-cnn", "pt2", marks=pytest.mark.slow),
        pytest.param("narrow-attention-text", "pt2", marks=pytest.mark.slow),
        pytest.param("rnn", "pt2", marks=pytest.mark.slow),
        pytest.param("linear", "aoti", marks=pytest.mark.slow),
    ],
)
def test_other_formats_are_the_trained_model(
    trained: Trained, name: str, format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(name)
    kept = f"torchinductor_{getpass.getuser()}"  # the compiler's own; warm, it saves its tests
    cache = Path(tempfile.gettempdir()) / kept
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(cache))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    record = one(run, format)
    assert [path.name for path in tmp_path.iterdir() if path.name != kept] == []  # the runtimes unpack, and are killed
    assert record["parity"]["holds"] and record["parity"]["agreement"] in (1.0, None)
    assert no_path_in((run.path / "export" / f"model{FORMATS[format]}").read_bytes(), run)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", RUNS)
def test_every_model_in_every_format(trained: Trained, name: str, format: str, dtype: str) -> None:
    run = trained(name)
    record = one(run, format, half=dtype == "float16")
    assert record["parity"]["max_relative_difference"] <= parity.TOLERANCE[dtype]
    assert record["dtype"] == dtype
    if dtype == "float32":
        assert record["parity"]["agreement"] in (1.0, None)
    assert no_path_in((run.path / "export" / record["file"]).read_bytes(), run)


@pytest.mark.slow
@needs_data("MNIST")
@pytest.mark.parametrize("model", ["lenet", "cnn"])
def test_int8_on_mnist_loses_nothing_and_is_a_third(tmp_path: Path, model: str) -> None:
    from tests.conftest import DATA_DIR

    config = TrainConfig(model, data="mnist", epochs=1, device="cpu", data_dir=DATA_DIR)
    for _ in train(config, runs_dir=tmp_path):
        pass
    record = one(Run(tmp_path, 1), quantize="int8")
    found = record["parity"]
    print(model, found["trained"]["accuracy"], found["exported"]["accuracy"], record["size"], record["float32_size"])
    assert found["samples"] == 10_000
    assert found["exported"]["accuracy"] >= found["trained"]["accuracy"] - 0.01
    assert record["size"] <= record["float32_size"] / 3


def no_path_in(content: bytes, run: Run) -> bool:
    """No local path occurs in an artifact, nor in a member of it if it is an archive."""
    parts = [content]
    if content[:2] == b"PK":
        with tempfile.TemporaryFile() as file:
            file.write(content)
            with zipfile.ZipFile(file) as archive:
                parts += [archive.read(name) for name in archive.namelist()]
                parts += [" ".join(archive.namelist()).encode()]
    places = [Path.home(), Path.cwd(), Path(torch.__file__).parent.parent, tempfile.gettempdir(), run.root.parent]
    names = [str(place).encode() for place in places if len(str(place)) > 2] + [b"site-packages", b"test_export.py"]
    return not [name for name in names for part in parts if name in part]


# The ONNX file


def test_onnx_takes_every_batch_size_from_1_to_257(exported: Export) -> None:
    about = original.Original(exported("cnn").run, raw=False, dtype="float32")
    samples, _ = about.data.train.rows.take(slice(257))
    x, expected = samples.contiguous().numpy(), about.restored.answer(samples).numpy()
    opened = exported("cnn").session()
    for size in range(1, 258):
        (answer,) = opened.run(None, {"image": x[:size]})
        np.testing.assert_allclose(answer, expected[:size], rtol=1e-4, atol=1e-4)


def test_onnx_says_what_it_is_and_keeps_everything_inside(exported: Export) -> None:
    run, record, opened = exported("cnn").run, exported("cnn").record, exported("cnn").session()
    model = onnx.load_from_string(exported("cnn").content)
    assert not any(i.external_data or i.data_location for i in model.graph.initializer)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert {entry.domain for entry in model.opset_import} == {""}
    (image,), (logits,) = opened.get_inputs(), opened.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["batch", 1, 8, 8])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(float)", ["batch", 10])
    says = opened.get_modelmeta().custom_metadata_map
    assert (says["model"], says["data"], says["task"], says["run"]) == ("cnn", "digits", "multiclass", "1")
    assert says["fingerprint"] == run.data()["fingerprint"] == record["fingerprint"]
    assert json.loads(says["class_names"]) == [str(digit) for digit in range(10)]
    assert json.loads(says["preprocessing"]) == preprocessing_of(run).as_dict() == record["preprocessing"]
    assert json.loads(says["inputs"]) == record["inputs"] == [
        {"name": "image", "dtype": "float32", "shape": ["batch", 1, 8, 8]}
    ]  # fmt: skip


def test_a_value_comes_in_the_targets_own_units(exported: Export, tmp_path: Path) -> None:
    run = exported("linear").run
    (tmp_path / "a.csv").write_text("x\n-3.5\n0\n12\n")
    expected = [p.values["value"] for p in predict(restore(run), [str(tmp_path / "a.csv")])]
    (value,) = exported("linear").session().run(["value"], {"features": np.array([[-3.5], [0], [12]], np.float32)})
    np.testing.assert_allclose(value[:, 0], expected, rtol=1e-6)


def test_a_recurrent_model_takes_and_gives_its_state(exported: Export) -> None:
    run, record = exported("rnn").run, exported("rnn").record
    assert record["inputs"][1] == {"name": "state", "dtype": "float32", "shape": [2, "batch", 24]}
    assert record["outputs"][1] == {"name": "next_state", "dtype": "float32", "shape": [2, "batch", 24]}
    tokens = np.arange(33)[None] % 20
    model = restore(run).model
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).numpy()
    state, opened = np.zeros((2, 1, 24), np.float32), exported("rnn").session()
    for i in range(33):  # a character at a time, as text is generated
        logits, state = opened.run(None, {"tokens": tokens[:, i : i + 1], "state": state})
        np.testing.assert_allclose(logits[0, 0], expected[0, i], rtol=1e-4, atol=1e-5)


def test_attention_takes_sequences_up_to_the_length_of_its_positions(exported: Export) -> None:
    run, record, opened = exported("attention").run, exported("attention").record, exported("attention").session()
    assert (record["inputs"][0]["shape"], record["most_steps"]) == (["batch", "steps"], 9)
    model = restore(run).model
    for steps in range(1, 10):
        tokens = np.arange(3 * steps).reshape(3, steps) % 100
        with torch.no_grad():
            expected = model(torch.from_numpy(tokens)).numpy()
        (logits,) = opened.run(None, {"tokens": tokens})
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_raw_leaves_the_normalisation_to_others(trained: Trained) -> None:
    run = trained("cnn")
    record = one(run, raw=True)
    assert (record["name"], record["file"], record["raw"]) == ("onnx-raw", "model-raw.onnx", True)
    about = original.Original(run, raw=False, dtype="float32")
    x, _ = about.data.train.rows.take(slice(5))
    mean, std = record["preprocessing"]["mean"][0], record["preprocessing"]["std"][0]
    opened = onnxruntime.InferenceSession(run.path / "export/model-raw.onnx")
    (answer,) = opened.run(None, {"image": ((x.numpy() - mean) / std).astype(np.float32)})
    np.testing.assert_allclose(answer, about.restored.answer(x).numpy(), rtol=1e-4, atol=1e-5)


def test_raw_leaves_the_targets_units_to_others_too(exported: Export) -> None:
    record = one(exported("linear").run, raw=True)
    about, x = record["preprocessing"], np.array([[-3.5], [0], [12]], np.float32)
    (expected,) = exported("linear").session().run(None, {"features": x})
    opened = onnxruntime.InferenceSession(exported("linear").run.path / "export/model-raw.onnx")
    (value,) = opened.run(["value"], {"features": ((x - about["mean"]) / about["std"]).astype(np.float32)})
    np.testing.assert_allclose(value * about["target_std"] + about["target_mean"], expected, rtol=1e-5)


@pytest.mark.parametrize(("name", "smaller"), [("cnn", 3.0), ("rnn", 1.4), ("mlp", 2.5)])
def test_int8_is_smaller_and_keeps_the_accuracy(trained: Trained, name: str, smaller: float) -> None:
    run = trained(name)
    record = one(run, quantize="int8")
    found = record["parity"]
    assert (record["file"], found["tolerance"]) == ("model-int8.onnx", 0.01)
    assert found["exported"]["accuracy"] >= found["trained"]["accuracy"] - 0.01
    assert record["size"] * smaller <= record["float32_size"]
    model = onnx.load(run.path / "export/model-int8.onnx")
    onnx.checker.check_model(model, full_check=True)
    bodies = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    kinds = {node.op_type for graph in (model.graph, *bodies) for node in graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds if name == "cnn" else "MatMulInteger" in kinds
    assert all("MatMulInteger" in {node.op_type for node in body.node} for body in bodies)
    assert len(bodies) == (2 if name == "rnn" else 0)
    assert no_path_in((run.path / "export/model-int8.onnx").read_bytes(), run)


def test_half_is_half(exported: Export) -> None:
    record = one(exported("cnn").run, half=True)
    assert (record["name"], record["dtype"], record["parity"]["tolerance"]) == ("onnx-half", "float16", 0.01)
    assert record["inputs"][0]["dtype"] == "float32"
    assert 1e-6 < record["parity"]["max_relative_difference"] < 1e-2
    assert record["size"] < 0.55 * len(exported("cnn").content)


# Planted faults: exit code 7, the message, and no file

DIFFERS = (
    "its answers differ by # of the deviation of the trained model's, more than # (at batch size #); "
    "# of its predictions differ (at batch size #)"
)


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Trained], str]:
    """Plant a fault in the exported model; returns the name of the run in which it is visible."""
    real = wrapper.wrap

    def wrapped(change: Callable[[Any], object]) -> None:
        def wrap(*words: Any, **settings: Any) -> Any:
            module = real(*words, **settings)
            change(module)
            return module

        monkeypatch.setattr(original, "wrap", wrap)

    def fault(name: str, trained: Trained) -> str:
        if name == "normalisation left out":
            wrapped(lambda module: setattr(module, "normalises", False))
            return "cnn"
        if name == "dropout in train mode":
            wrapped(lambda module: module.train())
            return "mlp"
        if name == "batch norm in train mode":
            wrapped(lambda module: module.train())
            return "normed"
        if name == "weights of another checkpoint":
            other = restore(trained("other-cnn")).model.state_dict()
            wrapped(lambda module: module.model.load_state_dict(other))
            return "cnn"
        if name == "a wrong axis":
            monkeypatch.setattr(
                wrapper.Exportable, "prepared", lambda self, x: ((x - self.mean) * self.factor).transpose(2, 3)
            )
            return "cnn"
        raise AssertionError(name)

    return fault


@pytest.mark.parametrize(
    "fault",
    [
        "normalisation left out",
        "dropout in train mode",
        "batch norm in train mode",
        "weights of another checkpoint",
        "a wrong axis",
    ],
)
def test_a_planted_fault_is_found_and_the_file_not_kept(
    trained: Trained,
    plant: Callable[[str, Trained], str],
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = trained(plant(fault, trained))
    (run.path / "export").mkdir(exist_ok=True)
    for old in ("model.onnx", "model.pt2"):
        (run.path / "export" / old).write_bytes(b"an older one")
    # torch.onnx exports a module in training mode as if it were in evaluation mode, which undoes the fault.
    format, file = ("pt2", "model.pt2") if "train mode" in fault else ("onnx", "model.onnx")
    code, said = refused(run, capsys, "--format", format)
    start = f"error: RUN: {format} is not the trained model, and was not kept: {DIFFERS}"
    assert code == 7
    assert said in (start, f"{start}; accuracy on test is # against #")
    assert not (run.path / "export" / file).exists()
    record = json.loads((run.path / f"export/{format}.json").read_text())
    assert (record["file"], record["parity"]["holds"]) == (None, False)


def test_targets_that_are_not_scaled_back_are_found(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wrapper.Exportable, "answer", lambda self, output: output)
    code, said = refused(trained("linear"), capsys)
    assert (code, said) == (
        7,
        "error: RUN: onnx is not the trained model, and was not kept: its answers differ by # of the deviation of "
        "the trained model's, more than # (at batch size #); r2 on test is # against #",
    )


@pytest.mark.slow
def test_a_state_that_is_ignored_is_found_by_a_sequence_in_two_pieces(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = recurrent.ScannedGRU.forward
    monkeypatch.setattr(recurrent.ScannedGRU, "forward", lambda self, x, state=None: real(self, x, 0 * state))
    code, said = refused(trained("rnn"), capsys)
    assert code == 7 and "(at batch size # in # pieces)" in said


def test_a_fixed_batch_is_found(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dlcli.export import program

    real = torch.export.export
    monkeypatch.setattr(
        program.torch.export, "export", lambda *words, **settings: real(*words, **settings | {"dynamic_shapes": None})
    )
    monkeypatch.setattr(exporter.onnx, "finish", lambda content, traced, metadata: with_metadata(content, metadata))
    code, said = refused(trained("cnn"), capsys)
    assert code == 7
    assert said.startswith("error: RUN: onnx is not the trained model, and was not kept: its runtime refuses it: ")


def with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    model = onnx.load_from_string(content)
    onnx.helper.set_model_props(model, metadata)
    return model.SerializeToString()  # type: ignore[no-any-return]


def test_metadata_that_is_lost_is_found(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = exporter.safetensors.write

    def write(weights: Any, metadata: dict[str, str], *, dtype: torch.dtype) -> bytes:
        return real(weights, metadata | {"class_names": "[]"}, dtype=dtype)

    monkeypatch.setattr(exporter.safetensors, "write", write)
    assert refused(trained("cnn"), capsys, "--format", "safetensors") == (
        7,
        "error: RUN: safetensors is not the trained model, and was not kept: its metadata differs from what was "
        "written: class_names",
    )


def test_a_model_that_drops_out_in_evaluation_is_found(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(trained("careless"), capsys)
    assert code == 7 and said.startswith("error: RUN: onnx is not the trained model, and was not kept: its answers")


def test_badly_calibrated_integers_are_found(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = original.Original.calibration
    scaled = lambda self: {name: 0.01 * values for name, values in real(self).items()}  # noqa: E731
    monkeypatch.setattr(original.Original, "calibration", scaled)
    assert refused(trained("cnn"), capsys, "--quantize", "int8") == (
        7,
        "error: RUN: onnx-int8 is not the trained model, and was not kept: accuracy on test is # against #",
    )


def test_the_tolerance_is_the_users(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(trained("cnn"), capsys, "--tolerance", "0")
    assert code == 7 and said.startswith(
        "error: RUN: onnx is not the trained model, and was not kept: its answers differ by # of the deviation of the "
        "trained model's, more than # (at "
    )


# What cannot be exported


def test_a_model_that_cannot_be_traced_is_told_and_still_goes_as_safetensors(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained("odd")
    with pytest.raises(SystemExit) as caught:
        app(["export", str(run), "--format", "pt2,safetensors", "--json"])
    out, err = capsys.readouterr()
    assert caught.value.code == 4
    document = json.loads(out)
    assert [e["name"] for e in document["exports"]] == ["pt2", "safetensors"]
    assert document["exports"][0]["error"].startswith("torch.export cannot follow model tests.test_export:Odd: ")
    assert document["exports"][1]["parity"]["holds"]
    assert json.loads(err.splitlines()[-1]) == {"error": document["exports"][0]["error"], "exit_code": 4}


def test_without_the_extra_the_sentence_names_it(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert refused(trained("cnn"), capsys) == (
        6,
        "error: format onnx needs onnxscript, not installed here: pip install 'dlcli[export]'",
    )


def test_without_a_compiler_aoti_says_so(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch._inductor.cpp_builder as builder

    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    builder.cpp_compiler_search.cache_clear()
    assert refused(trained("cnn"), capsys, "--format", "aoti") == (
        6,
        "error: format aoti needs a C++ compiler, and none was found: install g++ or name yours in CXX",
    )
    builder.cpp_compiler_search.cache_clear()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "onxx"], "unknown format 'onxx': did you mean onnx?"),
        (["--format", "torchscript"], "unknown format 'torchscript': known are onnx, pt2, aoti, safetensors"),
        (["--all", "--format", "onnx"], "--all and --format exclude each other: choose one"),
        (["--half", "--quantize", "int8"], "--half and --quantize exclude each other: choose one"),
        (["--quantize", "int4"], "quantize = int4 is not offered: use int8"),
        (["--all", "--quantize", "int8"], "quantize = int8 is for format onnx, not for pt2, aoti, safetensors"),
    ],
)
def test_what_does_not_go_together_is_told(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as caught:
        app(["export", str(tmp_path / "1"), *words])
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"error: {said}\n"


def test_no_format_is_told() -> None:
    with pytest.raises(ConfigError, match="^no format was given: choose from onnx, pt2, aoti, safetensors$"):
        check_formats([])


def test_the_table_tells_all(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("cnn")
    with pytest.raises(SystemExit) as caught:
        app(["export", str(run), "--csv"])
    out, err = capsys.readouterr()
    assert not caught.value.code
    assert err == f"onnx: wrote {run}/export/model.onnx\n"
    heading, row = out.splitlines()
    assert heading == (
        "name,size,max_relative_difference,agreement,trained,exported,batch_1,speedup_1,batch_64,speedup_64,memory,"
        "parity"
    )
    values = dict(zip(heading.split(","), row.split(","), strict=True))
    assert (values["name"], values["agreement"], values["parity"]) == ("onnx", "1.0", "holds")
    assert float(values["trained"]) == float(values["exported"]) == evaluate(run).metrics["accuracy"]


# No telemetry


@pytest.mark.slow
def test_nothing_lands_in_the_home_folder(trained: Trained, tmp_path: Path) -> None:
    """By default ONNX Runtime stores an id of the machine and a database of events there, and sends them."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ORT_", "XDG_"))} | {"HOME": str(tmp_path)}
    for model, words in (
        ("cnn", ["--format", "onnx,pt2,safetensors"]),
        ("cnn", ["--quantize", "int8"]),  # statically
        ("linear", ["--quantize", "int8"]),  # dynamically
    ):
        command = [sys.executable, "-m", "dlcli", "export", str(trained(model).path), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert list(tmp_path.rglob("*")) == []


# Written completely or not at all


@pytest.mark.slow
def test_killed_while_writing_leaves_no_half_file(trained: Trained) -> None:
    """Killed before every file operation between the comparison and the end."""
    run = trained("linear")
    program = f"""
import os, signal, sys
from pathlib import Path
from dlcli.export import exporter, latency
from dlcli import Run
latency._SECONDS = 0.0
names = ("mkdir", "open", "fsync", "replace")
real, keep, folder = {{n: getattr(os, n) for n in names}}, exporter._keep, Path({str(run.path)!r}) / "export"

def killed(*words, **settings):
    for point in range(1, 100):
        for file in folder.glob("*") if folder.exists() else ():
            file.unlink()
        child = os.fork()
        if not child:
            left = point
            def counted(name):
                def call(*a, **k):
                    nonlocal left
                    left -= 1
                    if not left:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return real[name](*a, **k)
                return call
            for name in names:
                setattr(os, name, counted(name))
            keep(*words, **settings)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        there = sorted(f"{{p.name}}:{{p.stat().st_size}}" for p in folder.glob("[a-z]*")) if folder.exists() else []
        print(point, os.WIFSIGNALED(status), *there)
        if not os.WIFSIGNALED(status):
            break
    return keep(*words, **settings)

exporter._keep = killed
(outcome,) = exporter.export(Run(Path({str(run.root)!r}), 1), ["safetensors"])
print("size", outcome.record["size"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *points, size = [line.split() for line in done.stdout.splitlines()]
    assert [point[1] for point in points] == ["True"] * (len(points) - 1) + ["False"]
    assert len(points) >= 8
    artifact = f"model.safetensors:{size[1]}"
    assert all(point[2:] in ([], [artifact]) or point[2] == artifact for point in points)
    assert points[0][2:] == [] and len(points[-1][2:]) == 2


def test_a_folder_that_is_a_link_is_refused(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, 1)
    shutil.copytree(trained("linear").path, run.path, ignore=shutil.ignore_patterns("export"))
    (tmp_path / "elsewhere").mkdir()
    (run.path / "export").symlink_to(tmp_path / "elsewhere")
    assert refused(run, capsys, "--format", "safetensors") == (
        6,
        "error: cannot write into RUN/export: it is a symbolic link",
    )
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_data_that_have_changed_are_told(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, 1)
    shutil.copytree(trained("linear").path, run.path, ignore=shutil.ignore_patterns("export"))
    (run.path / "data.json").write_text(json.dumps(run.data() | {"fingerprint": "0" * 64}))
    code, said = refused(run, capsys, "--format", "safetensors")
    assert code == 3 and said.startswith("error: data line has changed since the model was trained on it: ")


def test_only_what_was_just_written_is_opened(tmp_path: Path) -> None:
    """A .pt2 can execute code when it is opened, so its bytes are compared first."""
    (tmp_path / "a.pt2").write_bytes(b"a stranger's")
    signature = Signature((Port("x", "float32", ("batch", 1)),), (Port("y", "float32", ("batch", 1)),))
    for format in FORMATS:
        with pytest.raises(ValueError, match="^the file is not the one that was written$"):
            Artifact(format, str(tmp_path / "a.pt2"), sha256="0" * 64, threads=1, signature=signature)


def test_opening_onnx_needs_no_torch(exported: Export, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(exported("cnn").content)
    (tmp_path / "onnx.json").write_text(json.dumps(exported("cnn").record))
    program = """
import sys, json
from pathlib import Path
from dlcli.export.runtime import Artifact
from dlcli.export.signature import Signature
record = json.loads(Path("onnx.json").read_text())
Artifact("onnx", "model.onnx", sha256=record["sha256"], threads=1, signature=Signature.from_dict(record))
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_runtime_that_crashes_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dlcli.export import child

    monkeypatch.setattr(child, "_PROGRAM", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with RuntimeProcess(tmp_path) as dead, pytest.raises(CheckError, match=r"^it crashes its runtime \(signal 11\)$"):
        dead.ask("open")


# The parts


@torch.no_grad()
def test_a_gru_as_a_scan_is_the_gru() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"gru": nn.GRU(5, 7, 3, batch_first=True), "not": nn.GRU(5, 7, bidirectional=True)})
    model.requires_grad_(False)
    x, state, gru = torch.randn(4, 6, 5), torch.randn(3, 4, 7), model["gru"]
    expected = [gru(x), gru(x, state)]
    scanned = recurrent.with_scans(model)
    assert isinstance(scanned["gru"], recurrent.ScannedGRU) and isinstance(scanned["not"], nn.GRU)
    for found, wanted in zip([scanned["gru"](x), scanned["gru"](x, state)], expected, strict=True):
        torch.testing.assert_close(found, wanted)


TASKS = {"multiclass": Multiclass(3), "binary": Binary(), "regression": Regression()}


def difference(expected: Any, answer: Any, task: str = "multiclass", deviation: float = 1.0) -> parity.Discrepancy:
    question = parity.Question(2, len(expected))
    return parity._difference(
        question, torch.tensor(expected), torch.tensor(answer), deviation=deviation, task=TASKS[task]
    )


def test_differences_are_relative_to_the_deviation() -> None:
    found = difference([[1.0, 2.0], [5.0, 3.0]], [[1.0, 2.5], [5.0, 3.0]], deviation=5.0)
    assert (found.max_absolute, found.relative, found.agreement, found.disagreements) == (0.5, 0.1, 1.0, 0)
    assert parity._deviation(torch.tensor([1.0, 3.0])) == 1.0
    assert parity._deviation(torch.tensor([100.0, 100.0])) == 1.0
    assert parity._deviation(torch.tensor([0.0, 0.0])) == 1.0


def test_only_a_tie_explains_another_prediction() -> None:
    found = difference([[1.0, 1.000001], [1.0, 1.1]], [[1.000002, 1.0], [1.2, 1.1]])
    assert (found.agreement, found.disagreements, found.ties) == (0.0, 2, 1)
    found = difference([[1e-7], [0.1]], [[-1e-7], [-0.1]], task="binary")
    assert (found.agreement, found.disagreements, found.ties) == (0.0, 2, 1)


@pytest.mark.parametrize("answer", [[[float("nan"), 1.0]], [[1.0, 2.0, 3.0]]], ids=["nan", "shape"])
def test_an_answer_that_is_none_is_a_fault(answer: Any) -> None:
    found = difference([[1.0, 2.0]], answer)
    compared = parity.Parity("test", 1, 1e-4, "accuracy", (found,), {"accuracy": 1.0}, {"accuracy": 1.0}, ())
    assert parity._faults(compared, "float16") == [
        "its answers differ by no finite number of the deviation of the trained model's, more than 0.0001 "
        "(at batch size 2)"
    ]


def test_an_undefined_metric_judges_nothing() -> None:
    found = difference([[1.0], [2.0]], [[1.0], [2.0]], task="regression")
    compared = parity.Parity("test", 2, 0.01, "r2", (found,), {"r2": None}, {"r2": None}, ())
    assert parity._faults(compared, "float32") == []
    assert parity._faults(compared, "int8") == ["r2 on test is undefined, so it cannot be compared"]


def test_latency_is_the_median_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(clock))
    seconds = iter([9.0, 9.0, 0.5, 0.25, 1.0, 2.0, 0.5])
    found = latency.paired(lambda: next(seconds), lambda: None)
    assert found == {"eager": 1, "exported": 0.5, "speedup": 2.0, "pairs": 5}


# The documentation


def test_the_lines_of_the_documentation_answer_as_dlcli_predict(exported: Export, tmp_path: Path) -> None:
    run = exported("cnn").run
    page = (Path(__file__).parent.parent / "docs/export.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 7
    (tmp_path / "runs/1/export").mkdir(parents=True)
    (tmp_path / "runs/1/export/model.onnx").write_bytes(exported("cnn").content)
    images, _ = original.Original(run, raw=False, dtype="float32").data.train.rows.take(slice(6))
    np.save(tmp_path / "images.npy", images.numpy())
    rows = "\n".join(",".join(map(str, image.flatten().tolist())) for image in images)
    (tmp_path / "images.csv").write_text(rows + "\n")
    predicted = predict(restore(run), [str(tmp_path / "images.csv")])
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; assert 'torch' not in sys.modules and 'dlcli' not in sys.modules"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [p.values["class"] for p in predicted]
