"""The index of a large folder of runs: what it says is what the files say."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dlcli.core.errors import RunError
from dlcli.runs import index
from dlcli.runs.differences import rows, rows_with_settings
from dlcli.runs.names import find
from dlcli.runs.run import Run
from dlcli.runs.where import parse
from tests.test_compare import make
from tests.test_differences import measured
from tests.test_where import call


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs 1 to 6, whose folder counts as a large one. 3 is interrupted, 4 claims to run, 5 is damaged."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(index, "_FEWEST", 1)
    root = Path("runs")
    for seed in range(6):
        run = make(root, 0.9, seed=seed, info={2: {"status": "interrupted"}, 3: {"status": "running"}}.get(seed, {}))
        if seed == 1:
            measured(run, accuracy=0.8)
    (root / "5/run.json").write_text("{")
    return root


def listed(root: Path) -> Any:
    return rows(root, conditions=parse(["seed != 99"]), sort="seed", extra=["val/accuracy"])


def read(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The runs whose files are read."""
    numbers: list[int] = []
    real = index.through

    def through(root: Path, wanted: list[int], entry: Any) -> Any:
        return real(root, wanted, lambda number: (numbers.append(number), entry(number))[1])

    with monkeypatch.context() as patch:
        patch.setattr(index, "through", through)
        listed(root)
    return numbers


def test_the_second_time_only_runs_that_can_change_are_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = listed(root)
    assert listed(root) == first
    assert read(root, monkeypatch) == [5, 4]


def test_the_best_run_is_that_of_the_files(root: Path) -> None:
    (root / "5/run.json").unlink()
    assert [run.number for run in find("best:accuracy", root)] == [6]
    run = Run(root, 2)
    run.write_info(run.info() | {"best": run.info()["best"] | {"value": 0.95}})
    assert [run.number for run in find("best:accuracy", root)] == [2]
    config = root / "2/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"checksum": None, "val_fraction": 0.3}))
    with pytest.raises(RunError, match="^best:accuracy finds runs whose data or splits differ: digits"):
        find("best:accuracy", root)
    assert [run.number for run in find("best:accuracy@6", root)] == [6]


@pytest.mark.parametrize(
    "change",
    [
        lambda run: run.write_info(run.info() | {"device": "cuda"}),
        lambda run: (run.path / "config.json").write_text((run.path / "config.json").read_text() + " "),
        lambda run: measured(run, accuracy=0.7),
        lambda run: (run.path / "tags.txt").write_text("good\n"),
        lambda run: (run.path / "note.txt").write_text("good\n"),
        lambda run: (run.path / "name.txt").write_text("good\n"),
    ],
    ids=["record", "settings in place", "measured", "tag", "note", "name"],
)
def test_whatever_changes_is_seen(root: Path, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "1/eval").mkdir()
    listed(root)
    change(Run(root, 1))
    assert read(root, monkeypatch) == [5, 4, 1]
    new = listed(root)
    monkeypatch.setattr(index, "_FEWEST", 10**9)
    assert new == listed(root)


def test_what_differs_between_runs_is_kept_to_its_type(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what compares as equal, or has other keys: 0, 0.0 and false, another model, more metrics, no settings."""
    for number, config in enumerate(
        ({"seed": 0.0}, {"seed": False}, {"seed": True}, {"model": {"name": "mlp", "hidden": [1]}}, {"odd": None}), 7
    ):
        run = make(root, 0.5, seed=0, info={"metrics": {"val/loss": 1.0} if number == 8 else {"val/f1": number / 7}})
        assert run.number == number
        content = json.loads((run.path / "config.json").read_text())
        content.pop("checksum", None)
        (run.path / "config.json").write_text(json.dumps(content | config))
    (root / "11/config.json").write_text("[]")
    monkeypatch.setattr(index, "_FEWEST", 10**9)
    expected = repr(rows_with_settings(root))
    monkeypatch.setattr(index, "_FEWEST", 1)
    assert repr(rows_with_settings(root)) == expected
    assert read(root, monkeypatch) == [5, 4]
    assert repr(rows_with_settings(root)) == expected


def test_a_tag_that_is_edited_by_hand_is_seen(root: Path) -> None:
    (root / "1/tags.txt").write_text("good\n")
    assert [row["tags"] for row in listed(root)[0]][-1] == []
    assert [row["tags"] for row in listed(root)[0]][0] == ["good"]
    with open(root / "1/tags.txt", "r+") as file:  # the folder does not change
        file.write("fine")
    assert [row["tags"] for row in listed(root)[0]][0] == ["fine"]


def test_an_index_that_is_damaged_or_cannot_be_written_is_done_without(root: Path, tmp_path: Path) -> None:
    first = listed(root)
    (file,) = (tmp_path / "cache/dlcli/runs").iterdir()
    good = file.read_bytes()
    for content in (b"", b"\xff\n[1]\n{}\n" + good, good[:-100], good.replace(b"0.1.0", b"9.9.9"), b"[[[[" * 10_000,
                    good[good.index(b"\n", 5) :]):  # fmt: skip
        file.write_bytes(content)
        assert listed(root) == first
    file.unlink()
    file.mkdir()
    assert listed(root) == first


def test_it_does_not_grow_without_end(root: Path, tmp_path: Path) -> None:
    listed(root)
    (file,) = (tmp_path / "cache/dlcli/runs").iterdir()
    for turn in range(40):
        os.utime(root / "1/run.json", ns=(turn, turn))
        listed(root)
    assert len(file.read_bytes().split()) and len(file.read_bytes().splitlines()) < 40
    assert json.loads(call("--json", "--last", "1")[0])[0]["run"] == 6
