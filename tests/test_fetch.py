"""dlcli datasets fetch."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.core.errors import ConfigError, DataError
from dlcli.experiment.catalogue import fetch_data
from tests.conftest import DATA_DIR, needs_data


@needs_data("tinyshakespeare", "input.txt")
def test_what_is_there_is_checked_and_told() -> None:
    done = CliRunner().invoke(app, ["datasets", "fetch", "tinyshakespeare", "--data-dir", str(DATA_DIR), "--json"])
    found = json.loads(done.stdout)
    assert (found["files"], found["downloaded"]) == (["input.txt"], [])
    shown = CliRunner().invoke(app, ["datasets", "fetch", "tinyshakespeare", "--data-dir", str(DATA_DIR)])
    assert "it was there already" in shown.stdout


def test_what_is_missing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlcli.data import text

    monkeypatch.setattr(text, "fetch", lambda title, archives, folder: (_ for _ in ()).throw(DataError("no network")))
    with pytest.raises(DataError, match="no network"):
        fetch_data("tinyshakespeare", data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("iris", "iris comes with dlcli or its libraries, and needs no download: fetch takes mnist, "),
        ("table:a.csv", "table:a.csv is a file of your own, and needs no download: fetch takes mnist, "),
        ("mnits", "unknown data"),
    ],
)
def test_what_cannot_be_fetched(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fetch_data(name, data_dir=None)
    assert str(caught.value).startswith(message)
