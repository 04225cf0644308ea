"""A trained run recognises its data: changed files are an error unless --data is given."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlcli import TrainConfig, train
from dlcli.cli.main import app
from dlcli.core.errors import DataError
from dlcli.evaluation.measure import evaluate
from dlcli.runs.run import Run
from dlcli.training.train import resume
from tests.test_vision import IDX, idx, some_images, some_labels

STORY = "".join(f"The old fox saw {i} dogs and ran away.\n" for i in range(60))

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Exit code and stderr of a command in tmp_path."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, list(words))
        return done.exit_code, done.stderr

    return run


def trained(**settings: object) -> None:
    for _ in train(TrainConfig(device="cpu", epochs=1, **settings)):  # type: ignore[arg-type]
        pass


@pytest.fixture
def language_model(call: Call, tmp_path: Path) -> Path:
    """The text of run 1, a trained language model."""
    (tmp_path / "story.txt").write_text(STORY)
    options = {"data_options": {"length": 16}, "model_options": {"hidden": 16}}
    trained(model="rnn", data="text:story.txt", **options)
    return tmp_path / "story.txt"


def changed(data: str) -> str:
    return (
        f"error: data {data} has changed since the model was trained on it: restore it, or use it as it is now with "
        f"--data {data}\n"
    )


@pytest.mark.parametrize("content", [STORY.replace("7", "8"), STORY + "a" * 20, STORY[:-40], STORY.replace("T", "Z")])
def test_a_text_that_changed_is_told_by_eval_and_resume(call: Call, language_model: Path, content: str) -> None:
    assert call("eval", "1")[0] == 0
    language_model.write_text(content)
    assert call("eval", "1") == (3, changed(f"text:{language_model}"))
    assert call("resume", "1", "--epochs", "2") == (3, changed(f"text:{language_model}"))
    with pytest.raises(DataError):
        list(resume(Run(Path("runs"), 1), epochs=2))
    assert call("resume", "1", "--epochs", "2", "--exact")[0] == 3
    language_model.write_text(STORY)
    assert call("eval", "1")[0] == 0
    code, told = call("resume", "1", "--epochs", "2")
    assert code == 0 and "exact: yes" in told


def test_a_text_that_was_moved_is_told_with_the_option_that_names_its_place(call: Call, language_model: Path) -> None:
    place = language_model.with_name("moved.txt")
    language_model.rename(place)
    gone = f"error: {language_model} does not exist: if it was moved, name its new place with --data text:PATH\n"
    for words in (("eval", "1"), ("export", "1", "--format", "safetensors"), ("resume", "1", "--epochs", "2")):
        assert call(*words) == (3, gone)
        assert call(*words, "--data", "text:moved.txt")[0] == 0
        assert call(*words[:1], "1", "--data", "text:missing.txt")[0] == 3


def test_asked_for_by_name_what_is_there_is_taken(call: Call, language_model: Path) -> None:
    run = Run(Path("runs"), 1)
    before = evaluate(run)
    language_model.write_text(STORY.replace("fox", "oxf"))
    after = evaluate(run, data=f"text:{language_model}")
    assert after.metrics["loss"] != before.metrics["loss"]
    assert json.loads((run.path / "eval" / "test.json").read_text())["metrics"] == after.metrics
    assert call("eval", "1", "--data", "text:story.txt")[0] == 0
    code, told = call("resume", "1", "--epochs", "2", "--data", "text:story.txt")
    assert code == 0 and "exact: no (data changed)" in told
    assert call("eval", "1")[0] == 0  # the run has been resumed with the changed data


def test_another_text_is_read_in_the_alphabet_of_the_run(call: Call, language_model: Path, tmp_path: Path) -> None:
    """The same text without a line of other characters has a different alphabet, but the same losses."""
    run = Run(Path("runs"), 1)
    part = STORY[: STORY.index("10 dogs")]
    part = "".join(line for line in part.splitlines(True) if not set(line) & set("789")) * 4
    (tmp_path / "part.txt").write_text(part)
    assert len(set(part)) < len(set(STORY))
    whole = evaluate(run, split="train").metrics["loss"]
    found = evaluate(run, split="train", data="text:part.txt").metrics["loss"]
    assert whole is not None and found is not None and abs(found - whole) < 0.5
    (tmp_path / "other.txt").write_text("QUICK! " * 40)
    assert call("eval", "1", "--data", "text:other.txt") == (
        3,
        "error: the text has characters that the model never saw: '!' 'C' 'I' 'K' 'Q' 'U'\n",
    )


def test_images_that_changed_are_told(call: Call, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    contents = (some_images(60, 28, 28), some_labels(60), some_images(20, 28, 28), some_labels(20))
    for name, content in zip(IDX, contents, strict=True):
        (folder / name).write_bytes(idx(content))
    trained(model="mlp", data="mnist", data_dir=str(tmp_path))
    assert call("eval", "1")[0] == 0
    file = folder / IDX[2]
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert call("eval", "1") == (3, changed("mnist"))
    assert call("eval", "1", "--data", "mnist")[0] == 0
    for name, content in zip(
        IDX, (some_images(60, 27, 28), contents[1], some_images(20, 27, 28), contents[3]), strict=True
    ):
        (folder / name).write_bytes(idx(content))
    assert call("eval", "1") == (3, changed("mnist"))
    assert call("eval", "1", "--data", "mnist") == (
        3,
        "error: data mnist (image of 1x27x28, 10 outputs, multiclass) does not have the shape that the model was "
        "trained on (image of 1x28x28, 10 outputs, multiclass)\n",
    )
