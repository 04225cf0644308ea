"""Runs in a notebook: `runs_frame()` with settings and metrics, and how a `Run` shows itself."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from dlcli import runs_frame
from dlcli.runs.run import Run
from dlcli.runs.table import COLUMNS
from tests.test_differences import BEST, make, measured


def test_the_frame_has_the_table_the_settings_and_the_metrics(tmp_path: Path) -> None:
    run = make(tmp_path, lr=0.1, augment=("flip",), epochs=3)
    measured(run, accuracy=0.875, loss=0.5, auc=None)
    other = make(tmp_path, model="mlp", model_options={"hidden": [32, 16]}, seed=4)
    other.write_info(other.info() | {"metrics": {"val/loss": 0.25, "val/accuracy": 0.8}})
    frame = runs_frame(tmp_path)
    assert list(frame.index) == [2, 1] and frame.index.name == "run"
    assert list(frame.columns[: len(COLUMNS) - 1]) == list(COLUMNS[1:])
    assert frame.loc[1, ["model", "epochs", "lr", "best", "test/accuracy", "test/loss"]].tolist() == [
        "cnn", "3/3", 0.1, 0.9, 0.875, 0.5,
    ]  # fmt: skip
    assert frame.loc[2, ["seed", "val/loss", "val/accuracy"]].tolist() == [4, 0.25, BEST["value"]]
    assert (frame.loc[1, "augment"], frame.loc[2, "model.hidden"]) == (["flip"], [32, 16])
    assert frame["lr"].dtype == float and pd.isna(frame.loc[2, "test/accuracy"]) and pd.isna(frame.loc[1, "val/loss"])
    assert frame[frame["lr"] > 0.05].index.tolist() == [1]
    assert not {"format", "given", "checksum"} & set(frame.columns) and frame.columns.is_unique


def test_broken_runs_are_rows_and_no_runs_are_an_empty_frame(tmp_path: Path) -> None:
    make(tmp_path, lr=0.1)
    (make(tmp_path).path / "run.json").write_text("{")
    (make(tmp_path).path / "config.json").write_text("{")
    frame = runs_frame(tmp_path)
    assert frame["status"].tolist() == ["finished", "broken", "finished"]
    assert frame["reason"].notna().tolist() == [True, True, False] and frame["lr"].isna().tolist() == [
        True,
        True,
        False,
    ]
    assert runs_frame(tmp_path / "none").empty
    assert list(runs_frame(tmp_path / "none").columns) == list(COLUMNS[1:])


class Text(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += [data] if data.strip() else []


def test_a_run_shows_its_result_settings_and_metrics(tmp_path: Path) -> None:
    run = make(tmp_path, lr=0.1, model_options={"channels": [4, 8]})
    run.write_info(run.info() | {"metrics": {"val/loss": 0.25, "val/auc": None}})
    assert Text(run._repr_html_()).text == [
        f"{tmp_path}/1", "run", "status", "finished", "model", "cnn", "data", "digits", "device", "cpu", "started",
        "2026-01-01T00:00:00Z", "epochs", "3/3", "best val/accuracy", "0.9", "settings", "lr", "0.1", "model",
        "cnn", "model.channels", "4,8", "metrics", "val/loss", "0.25", "val/auc", "-",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "'\"><img src=x onerror=a()>", "&lt;b&gt;", "\x1b[31m\u202e"]
)
def test_names_of_a_stranger_are_text(name: str, tmp_path: Path) -> None:
    run = make(tmp_path / "runs")
    run.write_info(run.info() | {"data": name, "metrics": {name: 1.0}, "best": BEST | {"metric": name}})
    config = json.loads((run.path / "config.json").read_text())
    del config["checksum"]
    (run.path / "config.json").write_text(json.dumps(config | {"lr": name, name: 1, "given": ["lr", name]}))
    found = Text(run._repr_html_())
    assert found.tags == {"strong", "table", "thead", "tr", "th", "td"}
    assert set(found.attributes) == {("colspan", "2")}
    shown = name.replace("\x1b", "\N{REPLACEMENT CHARACTER}").replace("\u202e", "\N{REPLACEMENT CHARACTER}")
    assert "".join(found.text).count(shown) == 5


def test_a_damaged_run_shows_why_and_a_long_value_is_cut(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.write_info(run.info() | {"reason": "x" * 10_000})
    assert len(run._repr_html_()) < 2_000
    (run.path / "run.json").write_text("{}")
    assert Text(run._repr_html_()).text == [
        f"{run.path}", "run", "damaged", f"{run.path}/run.json is damaged: it has no status",
    ]  # fmt: skip
    assert "there is" in Run(tmp_path, 9)._repr_html_() or "missing" in Run(tmp_path, 9)._repr_html_()
