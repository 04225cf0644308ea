"""`dlcli runs publish --to mlflow:URI`, read back by MLflow's own client from a real server and a database."""

import builtins
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dlcli.core.errors import ResourceError
from dlcli.runs import metrics
from dlcli.runs.mlflow import publish
from dlcli.runs.run import Run
from dlcli.runs.tags import change_tags, write_note
from tests import test_differences
from tests.test_tensorboard import call

pytestmark = pytest.mark.filterwarnings("ignore")  # of mlflow and what it imports
installed = pytest.mark.skipif(
    find_spec("mlflow") is None or find_spec("sqlalchemy") is None, reason="mlflow is not installed"
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run 1: two evaluations with an extra row between, measured, tagged, with a note."""
    monkeypatch.chdir(tmp_path)
    run = test_differences.make(Path("runs"), lr=0.05, seed=7, log_every=2)
    columns = ["step", "train/loss", "val/loss", "seconds"]
    for step, loss, seconds in ((2, None, 1.0), (3, 0.5, 1.5), (6, 0.25, 4.0)):
        run.append_metrics({"step": step, "train/loss": 2 / step, "val/loss": loss, "seconds": seconds}, columns)
    test_differences.measured(run, step=3, accuracy=0.875, auc=None)
    change_tags(run, add=["good", "old"], remove=[])
    write_note(run, "rates <b>too high</b>")
    return run


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def there(uri: str, experiment: str = "dlcli") -> list[Any]:
    found = client(uri).get_experiment_by_name(experiment)
    return [] if found is None else list(client(uri).search_runs([found.experiment_id]))


def history(uri: str, one: Any, name: str) -> list[tuple[int, float]]:
    found = client(uri).get_metric_history(one.info.run_id, name)
    return sorted((each.step, each.value) for each in found)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/m.db",
             "--artifacts-destination", str(folder / "artifacts"), "--workers", "1"]  # fmt: skip
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words], stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


@installed
def test_a_server_has_settings_metrics_tags_and_files(run: Run, server: str) -> None:
    out, err = call("runs", "publish", "1", "--to", f"mlflow:{server}", "--artifacts", "--json")
    (one,) = there(server)
    assert json.loads(out) == [{"run": 1, "id": one.info.run_id}]
    assert one.data.params["lr"] == "0.05" and one.data.params["seed"] == "7"
    assert "data_dir" not in one.data.params and "log" not in one.data.params
    assert history(server, one, "train/loss") == [(2, 1.0), (3, 2 / 3), (6, 1 / 3)]
    assert history(server, one, "val/loss") == [(3, 0.5), (6, 0.25)]
    assert history(server, one, "test/accuracy") == [(3, 0.875)] and "seconds" not in one.data.metrics
    times = [each.timestamp for each in client(server).get_metric_history(one.info.run_id, "train/loss")]
    assert [each - one.info.start_time for each in sorted(times)] == [1000, 1500, 5500]
    assert one.data.tags["dlcli.tags"] == "good old" and one.info.run_name == "run 1"
    assert one.data.tags["mlflow.note.content"] == "rates <b>too high</b>"
    assert one.info.status == "FINISHED"
    files = {file.path for file in client(server).list_artifacts(one.info.run_id)}
    assert {"config.json", "run.json", "metrics.csv", "eval"} <= files and "lock" not in files
    fetched = client(server).download_artifacts(one.info.run_id, "config.json", str(Path.cwd()))
    assert Path(fetched).read_bytes() == (run.path / "config.json").read_bytes()


@installed
def test_publishing_twice_does_not_double(run: Run, server: str) -> None:
    to = ("--to", f"mlflow:{server}", "--experiment", "twice")
    call("runs", "publish", "1", *to)
    told = "error: runs/1 is in experiment twice already: replace it with --force\n"
    assert call("runs", "publish", "1", *to, code=2)[1] == told
    (first,) = there(server, "twice")
    call("runs", "publish", "1", *to, "--force")
    (second,) = there(server, "twice")
    assert second.info.run_id != first.info.run_id
    assert history(server, second, "val/loss") == [(3, 0.5), (6, 0.25)]
    test_differences.make(Path("runs"), lr=0.1)
    assert call("runs", "publish", "1:2", *to, code=2)[1] == told and len(there(server, "twice")) == 1
    call("runs", "publish", "2", *to)
    assert {each.data.params["lr"] for each in there(server, "twice")} == {"0.05", "0.1"}


@installed
def test_a_server_that_is_not_there_is_exit_6(run: Run) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://me:secret@127.0.0.1:{probe.getsockname()[1]}"
        started = time.monotonic()
        err = call("runs", "publish", "1", "--to", f"mlflow:{uri}", code=6)[1]
    assert err.startswith(f"error: cannot publish to {uri.replace('me:secret@', '')}, is it running and allowed? ")
    assert err.count("\n") == 1 and "secret" not in err and time.monotonic() - started < 30


@installed
@pytest.mark.parametrize("broken", ["log_batch", "log_artifact", "set_tag", "set_terminated"])
def test_an_upload_that_breaks_off_is_removed_and_what_was_there_stays(
    broken: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    uri = f"sqlite:///{tmp_path}/m.db"
    (before,) = publish([run], uri)

    def fails(*_: Any, **__: Any) -> None:
        raise MlflowException("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, broken, fails)
        with pytest.raises(ResourceError) as caught:
            publish([run], uri, files=True, force=True)
    assert str(caught.value) == f"cannot publish to {uri}, is it running and allowed? the disk is full"
    assert [each.info.run_id for each in there(uri)] == [before]
    (after,) = publish([run], uri, force=True)
    assert [each.info.run_id for each in there(uri)] == [after]


@installed
@pytest.mark.parametrize(
    ("status", "expected"),
    [("interrupted", "KILLED"), ("diverged", "FAILED"), ("failed", "FAILED"), ("running", "KILLED")],
)
def test_how_it_ended_is_told(status: str, expected: str, run: Run, tmp_path: Path) -> None:
    run.write_info(run.info() | {"status": status})  # nobody holds the lock: a running one is dead
    publish([run], f"sqlite:///{tmp_path}/m.db")
    (one,) = there(f"sqlite:///{tmp_path}/m.db")
    assert one.info.status == expected


@installed
def test_a_long_history_is_thinned_and_odd_names_are_plain(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_MOST_ROWS", 1000)
    lines = [f"{k},{9.5 if k == 7777 else 1.0},1" for k in range(1, 20_001)]
    run.metrics_file.write_text("step,a<b>,seconds\n" + "\n".join(lines) + "\n")
    uri = f"sqlite:///{tmp_path}/m.db"
    publish([run], uri)
    (one,) = there(uri)
    found = history(uri, one, "a_b_")
    assert len(found) < 1500 and (7777, 9.5) in found


@installed
def test_a_damaged_run_is_told_before_anything_is_written(run: Run, tmp_path: Path) -> None:
    other = test_differences.make(Path("runs"))
    other.metrics_file.write_text("step,a\n1,x\n")
    told = "error: runs/2/metrics.csv is damaged: a value is no number\n"
    assert call("runs", "publish", "1:2", "--to", f"mlflow:sqlite:///{tmp_path}/m.db", code=4)[1] == told
    assert not (tmp_path / "m.db").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--to", "mlflow:"), "--to mlflow: is not of the form tensorboard:DIR or mlflow:URI"),
        *(
            (("--to", f"mlflow:{uri}"),
             f"--to mlflow:{uri} is no address of an MLflow server or database: write mlflow:http://HOST:5000 or "
             "mlflow:sqlite:///FILE")
            for uri in ("mlruns", "file:///mlruns", "http://")
        ),
        (("--to", "mlflow:http://a", "--weights"), "--weights is for --to tensorboard: leave it out"),
        (("--to", "tensorboard:a", "--artifacts"), "--artifacts is for --to mlflow: leave it out"),
        (("--to", "tensorboard:a", "--experiment", "x"), "--experiment is for --to mlflow: leave it out"),
    ],
)  # fmt: skip
def test_what_is_no_address(words: tuple[str, ...], message: str, run: Run) -> None:
    assert call("runs", "publish", "1", *words, code=2)[1] == f"error: {message}\n"


@pytest.mark.parametrize(
    ("lacking", "told"),
    [
        ("mlflow", "needs mlflow: pip install 'dlcli[mlflow]'"),
        ("sqlalchemy", "needs all of mlflow: pip install mlflow"),
    ],
)
def test_a_missing_package_is_one_sentence(lacking: str, told: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("mlflow"):
            raise ModuleNotFoundError(f"No module named {lacking!r}", name=lacking)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    uri = "sqlite:///m.db"
    assert call("runs", "publish", "1", "--to", f"mlflow:{uri}", code=2)[1] == f"error: --to mlflow:{uri} {told}\n"
