"""Export of models of tables: one input for each group of columns, and the encoding inside the file."""

import datetime
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dlcli.cli.main import app
from dlcli.config.settings import TrainConfig
from dlcli.data.readers.separated import Format
from dlcli.data.readers.tables import read_table
from dlcli.data.tables.columns import DATE_PARTS
from dlcli.data.tables.encoding import Column, Encoding
from dlcli.evaluation.predict import predict
from dlcli.experiment.restore import preprocessing_of, restore
from dlcli.export import cells, exporter, features, latency, original
from dlcli.export.columns import groups_of
from dlcli.runs.run import Run
from dlcli.training.train import train

CITIES = ("Bern", "Köln", 'Paris "IV", north')


def people(count: int = 300, seed: int = 0) -> pd.DataFrame:
    """A table with a column of every kind, with and without missing cells, of which some values are rare."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, count).astype(float)
    city = rng.choice(CITIES, count).astype(object)
    at = [f"{1960 + i * 7 % 90}-{i % 12 + 1:02}-{i % 28 + 1:02} {i % 24:02}:{i * 7 % 60:02}" for i in range(count)]
    frame = pd.DataFrame(
        {
            "age": np.where(rng.random(count) < 0.1, np.nan, age),
            "city": np.where(rng.random(count) < 0.05, None, city),
            "amount": np.exp(rng.normal(0, 3, count)).round(3),
            "member": np.where(rng.random(count) < 0.05, None, rng.choice(["no", "yes"], count)),
            "at": np.where(rng.random(count) < 0.1, None, at),
            "floors": rng.integers(0, 4, count),
            "paid": rng.choice([0, 1], count),
            "joined": [f"20{i % 20 + 10}-0{i % 9 + 1}-15" for i in range(count)],
            "zone": rng.choice(["1", "2.5", "7"], count),
        }
    )
    frame["income"] = (age * 1000 + rng.normal(0, 1, count)).round(2)
    frame["plan"] = np.where((age > 50) == (city == "Bern"), "gold", "basic")
    frame.loc[0:2, "city"] = ["Rome", "Oslo", "Wien"]  # rare
    return frame


RUNS: dict[str, dict[str, Any]] = {
    "mlp": {"model": "mlp", "data_options": {"target": "plan"}},
    "tabular": {"model": "tabular", "data_options": {"target": "plan"}, "model_options": {"width": 32}},
    "linear": {"model": "linear", "data_options": {"target": "income"}, "optimizer": "sgd", "lr": 0.01},
    "logistic": {"model": "logistic", "data_options": {"target": "plan", "scale": "none", "min_count": 1}},
    "quantile": {"model": "mlp", "data_options": {"target": "income", "scale": "quantile"}},
    "classes": {"model": "mlp", "data_options": {"target": "city", "drop": ("at", "joined")}},
    "categories": {
        "model": "logistic",
        "data_options": {"target": "plan", "drop": ("age", "amount", "at", "floors", "joined", "income")},
    },
    "dates": {
        "model": "tabular",
        "data_options": {
            "target": "income", "drop": ("age", "amount", "city", "member", "floors", "paid", "zone", "plan"),
        },
    },
}  # fmt: skip
INPUTS = {
    "mlp": ["numbers", "dates", "categories"],
    "classes": ["numbers", "categories"],
    "categories": ["categories"],
    "dates": ["dates"],
}

Trained = Callable[[str], Run]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run with that name, trained on `people` for one epoch when it is first requested."""
    folder = tmp_path_factory.mktemp("tables")
    people().to_csv(folder / "people.csv", index=False)
    found: dict[str, Run] = {}

    def of(name: str) -> Run:
        if name not in found:
            torch.set_num_threads(1)
            settings = {"data": f"table:{folder}/people.csv", "epochs": 1, "device": "cpu", **RUNS[name]}
            kinds = {"categories": ("zone",)} if settings["data_options"]["target"] != "zone" else {}
            settings["data_options"] = {**kinds, **settings["data_options"]}
            if "zone" in settings["data_options"].get("drop", ()):
                del settings["data_options"]["categories"]
            for _ in train(TrainConfig(**settings), runs_dir=folder / name):
                pass
            found[name] = Run(folder / name, 1)
        return found[name]

    return of


@pytest.fixture(autouse=True)
def _few_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_SECONDS", 0.0)
    monkeypatch.setattr(latency, "_FEWEST", 1)


def one(run: Run, format: str = "onnx", **settings: Any) -> dict[str, Any]:
    """The record of an export that passes the comparison."""
    (outcome,) = exporter.export(run, [format], **settings)
    assert outcome.error is None, outcome.error
    assert outcome.record is not None
    return outcome.record


def refused(run: Run, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        app(["export", str(run), *words])
    said = capsys.readouterr().err.splitlines()[-1].replace(str(run), "RUN")
    return int(caught.value.code or 0), re.sub(r"\b\d+(\.\d+)?(e[-+]\d+)?", "#", said)


DOCUMENTED = (Path(__file__).parent.parent / "docs/export.md").read_text().split("```python\n")[2].split("```")[0]


# The matrix is also tried without files: test_the_graph_makes_the_features_that_the_training_had.
@pytest.mark.parametrize(
    "name", ["tabular", *(pytest.param(n, marks=pytest.mark.slow) for n in RUNS if n != "tabular")]
)
def test_the_lines_of_the_documentation_answer_as_dlcli_predict(trained: Trained, name: str, tmp_path: Path) -> None:
    """Of new rows: with missing cells in every column, categories that there were not, and dates of other years."""
    run = trained(name)
    record = one(run)
    assert record["parity"]["max_relative_difference"] <= 1e-5
    assert [port["name"] for port in record["inputs"]] == INPUTS.get(name, INPUTS["mlp"])
    new = people(60, seed=1).astype(object)
    new.loc[5:8, "city"] = ["Utopia", "Rome", "", "bern"]
    new.loc[9:13, "member"] = "perhaps"
    new.loc[14:15, "zone"] = ["9", None]
    new.loc[16, ["amount", "floors", "paid", "joined"]] = None
    new.loc[17:18, "at"] = ["1899-02-28 23:59:59", "2096-02-29"]
    new.loc[19:20, "amount"] = [-1e9, 1e9]
    new.to_csv(tmp_path / "new.csv", index=False)
    (tmp_path / "runs/1/export").mkdir(parents=True)
    (tmp_path / "runs/1/export/model.onnx").write_bytes((run.path / "export/model.onnx").read_bytes())
    answer = record["outputs"][0]["name"]
    code = f"{DOCUMENTED.replace('logits', answer)}\nnumpy.save('answer.npy', {answer})\n"
    code += "import sys; assert 'torch' not in sys.modules and 'dlcli' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = torch.from_numpy(np.load(tmp_path / "answer.npy"))
    expected = [p.values for p in predict(restore(run), [str(tmp_path / "new.csv")])]
    if answer == "value":
        scale = record["preprocessing"]["target_std"]
        np.testing.assert_allclose(found[:, 0] / scale, [p["value"] / scale for p in expected], rtol=1e-5, atol=1e-5)
    elif found.shape[1] == 1:
        gold = [p["probability"] if p["class"] == "gold" else 1 - p["probability"] for p in expected]
        np.testing.assert_allclose(torch.sigmoid(found[:, 0]), gold, rtol=1e-4, atol=1e-5)
    else:
        assert [record["class_names"][at] for at in found.argmax(1)] == [p["class"] for p in expected]


@pytest.mark.parametrize("name", ["categories", pytest.param("tabular", marks=pytest.mark.slow)])
def test_texts_are_looked_up_in_the_graph(trained: Trained, name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run = trained(name)
    record = one(run, strings=True)
    assert record["file"] == "model-strings.onnx" and record["parity"]["max_relative_difference"] <= 1e-5
    given = record["inputs"][-1]
    assert (given["name"], given["dtype"]) == ("categories", "string")
    city = given["columns"][0]
    assert sorted(city.pop("levels")) == sorted(CITIES)
    assert city == {"name": "city", "kind": "category", "missing": ""}
    # The same rows as codes, looked up here, give the same answers to the file with codes.
    plain = one(run)
    session, other = (
        onnxruntime.InferenceSession(run.path / "export" / each["file"]) for each in (record, plain)
    )  # fmt: skip
    rows = [
        ["Bern", "yes", "0", "2.5"], ["Köln", "no", "1", "1"], ['Paris "IV", north', "yes", "1", "7"],
        ["Utopia", "perhaps", "9", "8"], ["", "", "", ""], ["bern", "Yes", "0.5", " 1"],
    ]  # fmt: skip
    codes = [
        [c["missing"] if not text else c["codes"].get(text, c["other"]) for text, c in zip(row, columns, strict=True)]
        for row in rows
        for columns in [plain["inputs"][-1]["columns"]]
    ]
    rng = np.random.default_rng(0)
    others = {
        port["name"]: rng.normal(size=(len(rows), port["shape"][1])).astype(port["dtype"])
        for port in plain["inputs"][:-1]
    }
    (found,) = session.run(None, others | {"categories": np.array(rows)})
    (expected,) = other.run(None, others | {"categories": np.array(codes)})
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > 3


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"half": True}, {"quantize": "int8"}], ids=["half", "int8"])
def test_texts_go_with_few_bits(trained: Trained, how: dict[str, Any]) -> None:
    record = one(trained("tabular"), tolerance=0.1, strings=True, **how)
    assert [port["dtype"] for port in record["inputs"]] == ["float64", "float64", "string"]


def test_strings_where_there_are_none(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained("dates")
    assert refused(run, capsys, "--strings") == (
        2, "error: --strings is for categories of a table, and RUN has none: leave it out",
    )  # fmt: skip
    assert refused(run, capsys, "--strings", "--raw") == (
        2, "error: --strings and --raw exclude each other: with --raw the program encodes the columns",
    )  # fmt: skip
    assert refused(run, capsys, "--strings", "--format", "onnx,pt2") == (
        2, "error: --strings is for format onnx, not for pt2: only ONNX has texts in its graph",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tabular", "linear"])
@pytest.mark.parametrize("format", ["pt2", "safetensors", "aoti"])
def test_other_formats_take_the_same_inputs(trained: Trained, name: str, format: str) -> None:
    record = one(trained(name), format)
    assert record["parity"]["holds"] and record["inputs"] == inputs_of(trained(name))


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"half": True}, {"quantize": "int8"}], ids=["half", "int8"])
def test_few_bits_are_for_the_model_alone(trained: Trained, how: dict[str, Any]) -> None:
    record = one(trained("tabular"), tolerance=0.1, **how)
    assert [port["dtype"] for port in record["inputs"]] == ["float64", "float64", "int64"]


@pytest.mark.slow
def test_raw_takes_the_features_of_the_model(trained: Trained) -> None:
    record = one(trained("mlp"), raw=True)
    count = len(preprocessing_of(trained("mlp")).feature_names)
    assert record["inputs"] == [{"name": "features", "dtype": "float32", "shape": ["batch", count]}]


def inputs_of(run: Run) -> Any:
    """As in the record of an export, without one."""
    return original.Original(run, raw=False, dtype="float32").signature.as_dict()["inputs"]


def test_the_record_says_what_is_in_each_column(trained: Trained) -> None:
    numbers, dates, categories = inputs_of(trained("mlp"))
    number = [{"name": name, "kind": "number"} for name in ("age", "amount", "floors", "income")]
    assert numbers == {"name": "numbers", "dtype": "float32", "shape": ["batch", 4], "columns": number}
    date = [{"name": name, "kind": "date", "unit": "seconds since 1970-01-01T00:00:00"} for name in ("at", "joined")]
    assert dates == {"name": "dates", "dtype": "float64", "shape": ["batch", 2], "columns": date}
    assert (categories["dtype"], categories["shape"]) == ("int64", ["batch", 4])
    city, *others = categories["columns"]
    assert sorted(city.pop("codes")) == sorted(CITIES)
    assert city == {"name": "city", "kind": "category", "other": 3, "missing": 4}
    assert [(c["name"], c["kind"]) for c in others] == [("member", "yes/no"), ("paid", "yes/no"), ("zone", "category")]
    assert others[0]["codes"] == {"no": 0, "yes": 1} and (others[0]["other"], others[0]["missing"]) == (2, 3)


# The parts


@pytest.mark.parametrize("name", RUNS)
def test_the_graph_makes_the_features_that_the_training_had(trained: Trained, name: str, tmp_path: Path) -> None:
    run = trained(name)
    encoding = preprocessing_of(run).encoding
    assert encoding is not None
    new = people(80, seed=2).astype(object)
    new.loc[0:3, "city"] = ["Utopia", "Rome", "", "bern"]
    new.loc[4:5, "member"] = ["perhaps", None]
    new.loc[6, ["age", "amount", "floors", "paid", "joined", "zone", "at"]] = None
    new.loc[7:8, "at"] = ["1899-02-28 23:59:59", "2096-02-29"]
    new.loc[9:10, "amount"] = [-1e9, 1e9]
    new.to_csv(tmp_path / "new.csv", index=False)
    table = read_table(tmp_path / "new.csv", how=Format())
    expected, _ = encoding.encode(table)
    given = [torch.from_numpy(values) for values in cells.inputs_of(table, encoding).values()]
    found = features.Features(encoding)(*given)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-6)


def test_a_code_that_a_column_does_not_have_is_another_value() -> None:
    columns = (
        Column("a", "category", levels=("x", "y"), rare=True, missing=True),
        Column("b", "yes/no", levels=("no", "yes"), fills=(1.0,), missing=True),
    )
    made = features.Features(Encoding(columns))
    codes = torch.tensor([[0, 0], [1, 1], [2, 2], [3, 3], [4, 4], [-1, -1]])
    assert made(codes).tolist() == [
        [1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 1, 1], [0, 0, 1, 0, 1, 0],
        [0, 0, 1, 0, 1, 0],
    ]  # fmt: skip


def test_parts_of_dates_are_those_of_the_calendar() -> None:
    rng = np.random.default_rng(0)
    first = datetime.datetime(1970, 1, 1)
    moments = [first + datetime.timedelta(seconds=int(s)) for s in rng.integers(-62_135_596_800, 253_402_300_799, 3000)]
    moments += [
        datetime.datetime(y, m, d, 23, 59, 59) for y in (1899, 1900, 2000) for m, d in ((2, 28), (3, 1), (1, 1))
    ]
    moments += [datetime.datetime(2000, 2, 29), datetime.datetime(9999, 12, 31), datetime.datetime(1, 1, 1), first]
    seconds = torch.tensor([[(m - first).total_seconds()] for m in moments], dtype=torch.float64)
    found = features.DateParts()(seconds)[:, 0].numpy()
    whole = [(m.year, m.month, m.day, m.weekday(), m.hour) for m in moments]
    assert found[:, :5].tolist() == [list(map(float, each)) for each in whole]
    np.testing.assert_array_equal(found[:, 5], [(m - first).total_seconds() / 86400 for m in moments])
    turns = np.array([((m.month - 1) / 12, m.weekday() / 7, (m.hour * 60 + m.minute) / 1440) for m in moments])
    circles = np.stack([np.sin(2 * np.pi * turns), np.cos(2 * np.pi * turns)], 2).reshape(-1, 6)
    np.testing.assert_allclose(found[:, 6:], circles, atol=1e-12)
    assert len(DATE_PARTS) == found.shape[1]


def test_normal_scores_are_those_of_the_normal_distribution() -> None:
    probabilities = np.concatenate((np.linspace(1e-6, 1 - 1e-6, 999), 10.0 ** -np.arange(1, 8), [0.0, 1.0]))
    normal = statistics.NormalDist()
    expected = [normal.inv_cdf(min(max(p, 1e-7), 1 - 1e-7)) for p in probabilities]
    found = features.NormalScore()(torch.from_numpy(probabilities))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_a_value_that_knots_share_is_in_the_middle_of_them() -> None:
    knots = [[0.0, 0.0, 0.0, 1.0, 3.0], [1.0, 2.0]]  # of two columns, at 0, 1/4, ... and at 0, 1
    x = torch.tensor([[0.0, 1.5], [1.0, 0.0], [2.0, 9.0], [-5.0, 1.0], [0.5, 1.25]], dtype=torch.float64)
    normal = statistics.NormalDist().inv_cdf
    least = normal(1e-7)
    expected = [
        [normal(0.25), 0.0], [normal(0.75), least], [normal(0.875), -least], [least, least],
        [normal(0.625), normal(0.25)],
    ]  # fmt: skip
    np.testing.assert_allclose(features.NormalScores(knots)(x), expected, atol=1e-9)


def test_each_group_has_the_columns_that_have_features() -> None:
    columns = (
        Column("a", "number", fills=(0.0,)),
        Column("b", "date"),  # the same in every training row
        Column("c", "left out", "it is empty"),
        Column("d", "target"),
    )
    assert [(group.name, group.columns) for group in groups_of(Encoding(columns))] == [("numbers", columns[:1])]


# Planted faults: exit code 7, the message, and no file


@pytest.mark.parametrize("fault", ["a fill", *(pytest.param(f, marks=pytest.mark.slow) for f in ("an order", "a day"))])
def test_a_fault_in_the_encoding_is_found(
    trained: Trained, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = original.wrap

    def wrap(*words: Any, **settings: Any) -> Any:
        module = real(*words, **settings)
        made = module.features
        if fault == "a fill":
            made.numbers.fills.add_(30)
        elif fault == "an order":
            made.order.copy_(made.order.roll(1))
        else:
            made.dates.dates.weekdays.copy_(made.dates.dates.weekdays.roll(1, 0))
        return module

    monkeypatch.setattr(original, "wrap", wrap)
    code, said = refused(trained("mlp"), capsys, "--format", "pt2")
    assert code == 7
    assert said.startswith(
        "error: RUN: pt2 is not the trained model, and was not kept: its answers differ by # of the "
    )
    assert not (trained("mlp").path / "export/model.pt2").exists()
