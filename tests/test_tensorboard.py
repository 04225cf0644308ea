"""TensorBoard: `--log tensorboard` and `dlcli runs publish`, read back by TensorBoard's own classes."""

import builtins
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler
from tensorboard.summary.writer.record_writer import RecordWriter
from typer.testing import CliRunner

from dlcli import TrainConfig, resume, train
from dlcli.cli.main import app
from dlcli.core.errors import ConfigError
from dlcli.runs import events
from dlcli.runs.run import Run
from dlcli.runs.tensorboard import publish
from tests import test_differences

LINE = TrainConfig(
    "linear", data="line", optimizer="sgd", epochs=3, device="cpu", batch_size=200, eval_every="4steps", log_every=1,
    log="tensorboard",
)  # fmt: skip
CLOCKED = ("seconds", "samples_per_second")


def opened(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return found


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of each scalar of a run, as TensorBoard shows them, without those that depend on the clock."""
    found = opened(folder)
    return {
        tag: [(one.step, one.value) for one in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
        if tag not in CLOCKED
    }


def recorded(run: Run) -> dict[str, list[tuple[int, float]]]:
    """The same from metrics.csv; an event has single precision."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in run.metrics():
        for name, value in row.items():
            if name not in ("step", *CLOCKED) and value is not None:
                single = struct.unpack("<f", struct.pack("<f", value))[0]
                found.setdefault(name, []).append((int(row["step"] or 0), single))
    return found


def call(*words: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, [*words])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def stopping_after(steps: int) -> Any:
    count = iter(range(1, 10**9))
    return lambda: "SIGINT" if next(count) >= steps else None


def test_a_training_is_there_row_by_row_while_it_runs(tmp_path: Path) -> None:
    run, folder = Run(tmp_path, 1), tmp_path / "1" / "tensorboard"
    board, seen = None, []
    for _ in train(LINE, runs_dir=tmp_path):
        board = board or EventAccumulator(str(folder), size_guidance={"scalars": 0})
        board.Reload()
        assert {tag: [one.step for one in board.Scalars(tag)] for tag in recorded(run)} == {
            tag: [step for step, _ in points] for tag, points in recorded(run).items()
        }
        seen.append(len(board.Scalars("train/loss")))
    assert seen == sorted(set(seen)) and len(seen) == 3
    assert scalars(folder) == recorded(run) and len(recorded(run)["train/loss"]) > 6


def test_live_and_published_are_the_same(tmp_path: Path) -> None:
    list(train(LINE, runs_dir=tmp_path))
    (written,) = publish([Run(tmp_path, 1)], tmp_path / "board")
    assert written.parent == tmp_path / "board" / "1"
    live, after = opened(tmp_path / "1" / "tensorboard"), opened(tmp_path / "board" / "1")
    assert live.Tags() == after.Tags()
    for tag in live.Tags()["scalars"]:
        assert live.Scalars(tag) == after.Scalars(tag)


def test_the_log_changes_nothing_else(tmp_path: Path) -> None:
    from tests.test_resume import everything

    for log in ("tensorboard", "none"):
        list(train(LINE.replace(log=log), runs_dir=tmp_path / log))
    (logged, values, rows), (plain, plain_values, plain_rows) = (
        everything(Run(tmp_path / log, 1)) for log in ("tensorboard", "none")
    )
    assert rows == plain_rows and values == plain_values
    assert logged.keys() == plain.keys() and all(logged[name].equal(plain[name]) for name in plain)
    assert not (tmp_path / "none" / "1" / "tensorboard").exists()


def test_a_resumed_run_goes_on_without_a_step_twice(tmp_path: Path) -> None:
    """Also in a TensorBoard that was open all the time."""
    made = LINE.replace(batch_size=100, checkpoint_every="3steps")
    list(train(made, runs_dir=tmp_path / "straight"))
    run, folder = Run(tmp_path, 1), tmp_path / "1" / "tensorboard"
    board = None
    with pytest.raises(ZeroDivisionError):
        for record in train(made, runs_dir=tmp_path):
            board = board or EventAccumulator(str(folder), size_guidance={"scalars": 0})
            board.Reload()
            if record.step > 5:
                raise ZeroDivisionError
    assert board is not None
    for stop in (stopping_after(2), None):
        list(resume(run, stop=stop))
        board.Reload()
        assert scalars(folder) == recorded(run)
        for tag, points in recorded(run).items():
            assert [one.step for one in board.Scalars(tag)] == [step for step, _ in points]
    assert recorded(run) == recorded(Run(tmp_path / "straight", 1))
    files = sorted(folder.iterdir())
    assert [file.name[-6:] for file in files] == ["000000", "000001", "000002"]
    assert [file.stat().st_size > 0 for file in files] == [False, False, True]


def test_the_hyperparameters_stand_beside_the_metrics(tmp_path: Path) -> None:
    """In the table that TensorBoard itself makes: two runs, what differs, the results."""
    for lr, seed in ((0.1, 1), (0.05, 2)):
        list(train(LINE.replace(lr=lr, seed=seed, log="none"), runs_dir=tmp_path / "runs"))
    publish([Run(tmp_path / "runs", number) for number in (1, 2)], tmp_path / "board")
    board = EventMultiplexer()
    board.AddRunsFromDirectory(str(tmp_path / "board"))
    board.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(board, str(tmp_path / "board"))))
    asked = RequestContext()
    experiment = context.experiment_from_metadata(
        asked, "", True, context.hparams_metadata(asked, ""), context.hparams_from_data_provider(asked, "", 0)
    )
    assert {"lr", "seed", "optimizer", "epochs"} <= {info.name for info in experiment.hparam_infos}
    metrics = [{"metric": {"group": "", "tag": tag}} for tag in ("val/loss", "val/r2")]
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=10, allowed_statuses=[api_pb2.STATUS_SUCCESS], col_params=metrics
    )
    groups = Handler(asked, context, "", request).run().session_groups
    found = {group.hparams["seed"].number_value: group for group in groups}
    assert {seed: group.hparams["lr"].number_value for seed, group in found.items()} == {1: 0.1, 2: 0.05}
    for number, group in found.items():
        last = Run(tmp_path / "runs", int(number)).metrics()[-1]
        told = {value.name.tag: value.value for value in group.metric_values}
        assert told["val/loss"] == pytest.approx(last["val/loss"]) and told["val/r2"] == pytest.approx(last["val/r2"])


def test_what_eval_measured_is_published_at_its_step(tmp_path: Path) -> None:
    run = test_differences.make(tmp_path / "runs")
    test_differences.measured(run, step=40, accuracy=0.875, auc=None)
    publish([run], tmp_path / "board")
    assert scalars(tmp_path / "board" / "1") == {"test/accuracy": [(40, 0.875)]}


def test_times_go_on_from_the_last_evaluation(tmp_path: Path) -> None:
    """`seconds` starts anew after each, also if the next takes longer."""
    run = test_differences.make(tmp_path / "runs", log_every=2)
    columns = ["step", "train/loss", "val/loss", "seconds"]
    for step, loss, seconds in ((2, None, 1.0), (3, 0.5, 1.5), (6, 0.4, 4.0), (8, None, 2.0), (9, 0.3, 3.0)):
        run.append_metrics({"step": step, "train/loss": 1.0, "val/loss": loss, "seconds": seconds}, columns)
    publish([run], tmp_path / "board")
    found = opened(tmp_path / "board" / "1").Scalars("train/loss")
    start = found[0].wall_time - 1.0
    assert [one.wall_time - start for one in found] == [1.0, 1.5, 5.5, 7.5, 8.5]


def test_a_record_is_framed_as_tensorboard_frames_it(tmp_path: Path) -> None:
    content = events.scalars({"loss": 0.5, "": -1.0, "ü": 1e300}, step=2**40, time=1.5)
    (event,) = RawEventFileLoader(str(written(tmp_path, content))).Load()
    with open(tmp_path / "peer", "wb") as file:
        RecordWriter(file).write(event)
    assert (tmp_path / "peer").read_bytes() == content


def written(folder: Path, content: bytes) -> Path:
    file = folder / "events.out.tfevents.1.1"
    file.write_bytes(content)
    return file


def test_a_command_publishes_runs_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for lr in (0.1, 0.2):
        run = test_differences.make(Path("runs"), lr=lr)
        run.append_metrics({"step": 1, "val/loss": lr}, ["step", "val/loss"])
    out, err = call("runs", "publish", "1:2", "2", "--to", "tensorboard:board")
    name = "events.out.tfevents.1767225600.000000"
    assert out.splitlines() == ["run  file", f"  1  board/1/{name}", f"  2  board/2/{name}"] and err == ""
    assert json.loads(call("runs", "publish", "2", "--to", "tensorboard:board", "--force", "--json")[0]) == [
        {"run": 2, "file": f"board/2/{name[:-1]}1"}
    ]
    assert scalars(tmp_path / "board" / "2") == {"val/loss": [(1, pytest.approx(0.2))]}
    assert [path.stat().st_size > 0 for path in sorted(Path("board/2").iterdir())] == [False, True]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "name the runs: dlcli runs publish 4:9"),
        (("1", "--to", "board"), 2, "--to board is not of the form tensorboard:DIR or mlflow:URI"),
        (("1", "--to", "tensorboard:"), 2, "--to tensorboard: is not of the form tensorboard:DIR or mlflow:URI"),
        (("1",), 2, "--to is missing: write --to tensorboard:DIR or mlflow:URI"),
        (("9", "--to", "tensorboard:b"), 4, "there is no run 9 in runs: see `dlcli runs`"),
        (("1:2", "--to", "tensorboard:old"), 2, "old/2 holds event files already: replace them with --force"),
        (("1:3", "--to", "tensorboard:other", "--force"), 2,
         "other/3/events.out.tfevents.7.host is of another program: choose another folder"),
        (("1", "--to", "tensorboard:file"), 6, "cannot write into file/1: Not a directory; choose another folder"),
        (("1,4", "--to", "tensorboard:b"), 4, "runs/4/metrics.csv is damaged: a value is no number"),
        (("1,5", "--to", "tensorboard:b"), 4, "runs/5/metrics.csv is damaged: step = -1.0 in a row"),
    ],
)  # fmt: skip
def test_what_cannot_be_published_is_told_before_anything_is_written(
    words: tuple[str, ...], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(5):
        test_differences.make(Path("runs"))
    Path("runs/4/metrics.csv").write_text("step,a\n1,x\n")
    Path("runs/5/metrics.csv").write_text("step,a\n-1,0\n")
    for file in ("old/2/events.out.tfevents.0000000001.000000", "other/3/events.out.tfevents.7.host", "file"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert call("runs", "publish", *words, code=code)[1] == f"error: {message}\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_package_is_one_sentence_and_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("tensorboard"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args)

    test_differences.make(tmp_path / "runs")
    monkeypatch.setattr(builtins, "__import__", without)
    told = "needs tensorboard: pip install 'dlcli[tensorboard]'"
    with pytest.raises(ConfigError, match=f"^log = tensorboard {told.replace('[', '.').replace(']', '.')}$"):
        list(train(LINE, runs_dir=tmp_path / "other"))
    assert not (tmp_path / "other").exists()
    root = ("--runs-dir", str(tmp_path / "runs"))
    assert call("runs", "publish", "1", "--to", "tensorboard:b", *root, code=2)[1] == (
        f"error: --to tensorboard:b {told}\n"
    )


def test_names_and_values_of_a_stranger_are_text(tmp_path: Path) -> None:
    run = test_differences.make(tmp_path / "runs", seed=3)
    run.append_metrics({"step": 3, "<b>": 1e39}, ["step", "<b>"])
    config = json.loads((run.path / "config.json").read_text())
    del config["checksum"]
    config |= {"lr": "\x1b[31m", "augment": ["a", None], "epochs": 2**62}
    (run.path / "config.json").write_text(json.dumps(config))
    publish([run], tmp_path / "board")
    assert scalars(tmp_path / "board" / "1") == {"<b>": [(3, float("inf"))]}
