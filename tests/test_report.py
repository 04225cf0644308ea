"""`dlcli report`: what the page and the card say is what the run records; what is refused, left out and said."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from dlcli.cli.main import app
from dlcli.core.files import write_json
from dlcli.core.reading import read_json
from dlcli.report.contents import report as contents
from dlcli.report.page import to_html
from dlcli.runs.run import Run
from dlcli.runs.sample_answers import packed
from dlcli.runs.statistics import summarise
from tests import test_differences
from tests.pages import Page
from tests.test_plots import HEADER
from tests.test_start_up import call, heavy_after

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path("runs")


def make(root: Path, *, value: float = 0.9, names: tuple[str, ...] = ("no", "yes"), **settings: Any) -> Run:
    """A run of three epochs, for classes with these names, that `dlcli eval` did not measure."""
    run = test_differences.make(root, best={**test_differences.BEST, "value": value}, **settings)
    run.metrics_file.write_text(HEADER + f"1,30,1,1,0.5,.1,1,1\n2,60,.8,.9,{value},.1,1,1\n")
    binary = len(names) == 2
    spec = {"task": "binary" if binary else "multiclass", "kind": "features", "input_shape": [3], "vocabulary": 0}
    spec["outputs"] = 1 if binary else len(names)
    about = {"spec": spec, "class_names": list(names), "class_counts": [7] * len(names), "fingerprint": "f00d"}
    write_json(run.path / "data.json", about)
    run.write_info(run.info() | {"fingerprint": "f00d", "step": 60, "steps": 60, "parameters": 1234, "torch": "2.99"})
    return run


def measure(run: Run, names: tuple[str, ...] = ("no", "yes"), **more: Any) -> None:
    """Six stored answers, two of them wrong: of these the third is the worse."""
    target, predicted = np.array([0, 1, 0, 1, 1, 0]), np.array([0, 1, 1, 0, 1, 0])
    arrays = {
        "index": np.arange(10, 16), "target": target, "predicted": predicted,
        "probability": np.array([0.6, 0.7, 0.95, 0.85, 0.9, 0.8]),
    }  # fmt: skip
    record = {
        "run": str(run), "epoch": 3, "step": 60, "data": "digits", "split": "test", "samples": 6,
        "metrics": {"loss": 0.25, "accuracy": 4 / 6, "auc": None}, "undefined": {"auc": "there is one class"},
        "class_names": list(names),
        "per_class": [{"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "count": 3} for _ in names],
        "fingerprint": "f00d",
    }  # fmt: skip
    run.write_record("eval", "test", record | more, npz=packed(arrays))


def report(*words: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, ["report", *words])
    assert done.exit_code == code, done.output
    return done


def page(*words: str) -> Page:
    report(*words, "-o", "report.html", "--force")
    found = Page(Path("report.html").read_text())
    assert found.unclosed == []
    return found


def test_a_page_says_what_was_trained_how_and_with_what_result(root: Path) -> None:
    run = make(root, lr=0.125, batch_size=64, model_options={"hidden": 9}, seed=5)
    measure(run)
    (run.path / "note.txt").write_text("too high a rate\n")
    found = page("1")
    assert ["parameters", "1,234"] in found.tables["Model"] and ["model", "cnn"] in found.tables["Model"]
    assert ["classes", "2"] in found.tables["Data"] and ["yes", "7"] in found.tables["classes"]
    assert "Note: too high a rate" in found.sections["run-1-model-and-data"]
    changed = found.tables["settings that differ from the defaults of this model and data"]
    assert changed[1:] == [["model.hidden", "9", ""], ["lr", "0.125", "0.01"], ["seed", "5", "0"]]
    assert ["optimizer", "sgd"] in found.tables["all other settings"]
    results = found.sections["run-1-results"]
    assert "Finished after 60 of 60 steps in 1.5s. Best val/accuracy: 0.9000, in epoch 3 (step 60)." in results
    assert found.tables["test split of digits, 6 samples"][1:] == [
        ["loss", "0.2500"], ["accuracy", "0.6667"], ["auc", "undefined: there is one class"],
    ]  # fmt: skip
    assert found.tables["each class on the test split of digits, 6 samples"][1] == [
        "no",
        "0.5000",
        "0.2500",
        "0.3333",
        "3",
    ]
    assert found.tables["the worst 2 of 2 wrong answers on the test split"][1:] == [
        ["12", "no", "yes", "0.9500"], ["13", "yes", "no", "0.8500"],
    ]  # fmt: skip
    assert ["fingerprint of the data", "f00d"] in found.tables["What must be the same"]
    assert ["PyTorch", "2.99"] in found.tables["Machine and versions"]
    assert "never resumed" in found.sections["run-1-checks"]
    assert found.tables["metrics.csv"][2][:4] == ["2", "60", "0.8000", "0.9000"]
    pictures = [dict(attributes).get("aria-label") for tag, attributes in found.tags if tag == "svg"]
    assert pictures == ["confusion: confusion matrix on test, run 1", "curves: loss, accuracy", "learning rate: lr"]


def test_a_page_is_for_keyboards_screen_readers_and_small_screens(root: Path) -> None:
    measure(make(root))
    make(root, seed=1)
    found = page("1:2")
    tags = [tag for tag, _ in found.tags]
    assert tags.count("caption") == tags.count("table") >= len(found.tables) >= 10
    headings = [attributes.get("scope") for tag, attributes in found.tags if tag == "th"]
    assert set(headings) == {"col", "row"} and None not in headings
    for tag, attributes in found.tags:
        if tag == "svg":
            assert attributes["role"] == "img" and attributes["aria-label"]
        if attributes.get("class") == "wide":
            assert attributes["tabindex"] == "0" and attributes["role"] == "group" and attributes["aria-label"]
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    links = [str(attributes["href"]) for tag, attributes in found.tags if tag == "a"]
    assert len(set(ids)) == len(ids) and {link.removeprefix("#") for link in links} <= set(ids)
    assert tags.count("h1") == tags.count("main") == tags.count("nav") == 1
    assert ("html", {"lang": "en"}) in found.tags


def test_several_seeds_have_an_interval_and_settings_a_difference(root: Path) -> None:
    values = {0.01: [0.90, 0.92, 0.91], 0.02: [0.80, 0.83, 0.82]}
    for lr, each in values.items():
        for seed, value in enumerate(each):
            make(root, lr=lr, seed=seed, value=value)
    found = page("1:6")
    rows = found.tables["val/accuracy on digits"]
    assert rows[0] == [
        "settings", "runs", "n", "mean", "standard deviation", "95 % interval", "difference", "its interval", "p",
    ]  # fmt: skip
    for row, (lr, each) in zip(rows[1:], values.items(), strict=True):
        told = summarise(each)
        assert told.std is not None and told.interval is not None
        assert row[0] == f"lr={lr}" and row[2] == "3"
        assert row[3:6] == [f"{told.mean:.4f}", f"{told.std:.4f}", "{:.4f} to {:.4f}".format(*told.interval)]
    assert rows[2][6] == "-0.0933" and rows[2][8] == "0.25"  # 2 of 8 signs
    assert "p of val/accuracy cannot be below 0.25" in found.sections["comparison"]
    assert "lr=0.01 (n = 3) val" in found.sections["curves"]
    summary = found.tables["6 runs, with the settings in which they differ"]
    place = {name: k for k, name in enumerate(summary[0])}
    assert [row[place["best"]] for row in summary[1:]] == [f"{v:.4f}" for each in values.values() for v in each]
    assert [row[place["lr"]] for row in summary[1:]] == ["0.01"] * 3 + ["0.02"] * 3


def test_runs_on_other_data_or_with_other_metrics_are_not_compared(root: Path) -> None:
    make(root)
    make(root, data="iris")
    found = page("1:2")
    assert "comparison" not in found.sections and "curves" not in found.sections
    assert "run-2-curves" in found.sections


def test_checks_are_those_that_the_run_records(root: Path) -> None:
    run = make(root)
    resumes = [
        {"step": 10, "after": "dead", "not_exact": [], "command": "dlcli resume 1"},
        {"step": 20, "after": "interrupted", "not_exact": ["torch 1 -> 2"]},
        {"step": 30, "after": "interrupted"},
    ]
    run.write_info(run.info() | {"resumes": resumes, "command": "dlcli train cnn"})
    parity = {"holds": True, "faults": [], "split": "test", "samples": 6, "tolerance": 1e-4, "agreement": 1.0}
    run.write_record("export", "onnx", {"name": "onnx", "format": "onnx", "size": 2000, "parity": parity})
    failed = {"holds": False, "faults": ["an answer differs"]}
    run.write_record("export", "pt2", {"name": "pt2", "format": "pt2", "size": 5, "parity": failed})
    found = page("1")
    assert "dlcli train cnn\ndlcli resume 1" in found.sections["run-1-reproduce"]
    assert found.tables["checks that the run records"][1:] == [
        ["resume", "exact", "from step 10, after it was dead"],
        ["resume", "not exact", "from step 20, after it was interrupted; torch 1 -> 2"],
        ["resume", "not recorded", "from step 30, after it was interrupted"],
        ["export onnx", "equal within the tolerance", "onnx, 2.0 kB; 6 test samples; 100.00% of the predictions agree"],
        ["export pt2", "DIFFERENT, not kept", "pt2, 5 B; an answer differs"],
    ]


@pytest.mark.parametrize("resume", [{"step": "x"}, {"not_exact": 3}, {"after": None}])
def test_a_resume_that_is_no_record_of_one_is_damage(root: Path, resume: dict[str, Any]) -> None:
    run = make(root)
    run.write_info(run.info() | {"resumes": [resume]})
    ((name, value),) = resume.items()
    told = page("1").sections["run-1-checks"]
    assert f"Damaged, and left out of this report: runs/1/run.json is damaged: {name} = {value!r} is not" in told


def test_runs_that_are_not_whole_are_said_and_the_others_reported(root: Path) -> None:
    whole, running, broken, bare = (make(root, seed=seed) for seed in range(4))
    running.write_info(running.info() | {"status": "running", "step": 30})
    (broken.path / "run.json").write_text("{")
    for name in ("data.json", "metrics.csv", "config.json"):
        (bare.path / name).unlink()
    (bare.path / "eval").mkdir()
    (bare.path / "eval" / "test.json").write_text('{"split": 1}')
    gone = Run(root, 99)
    with running.locked():
        found = Page(to_html(contents([whole, running, broken, bare, gone])))
    rows = found.tables["5 runs, with the settings in which they differ"]
    place = {name: k for k, name in enumerate(rows[0])}
    assert [(row[0], row[place["status"]]) for row in rows[1:]] == [
        ("1", "finished"), ("2", "running"), ("3", "broken"), ("4", "finished"), ("99", "-"),
    ]  # fmt: skip
    reasons = [row[place["reason"]] for row in rows[1:]]
    assert reasons[2].startswith("runs/3/run.json is damaged: ")
    assert [reasons[k] for k in (0, 1, 3, 4)] == ["-", "-", "runs/4/config.json is missing", "was removed meanwhile"]
    assert "Still in training: 30 of 60 steps are done" in found.sections["run-2-results"]
    assert "Its records cannot be read." in found.sections["run-3-results"]
    assert "Damaged, and left out of this report: runs/3/run.json is damaged" in found.sections["run-3-checks"]
    for sentence in ("runs/4/config.json is missing.", "runs/4/data.json is missing.", "split = 1 is not text."):
        assert sentence in found.sections["run-4-checks"]
    assert "There are no curves: runs/4 has no rows yet." in found.sections["run-4-curves"]
    assert "run-99" not in found.sections and "run-1-results" in found.sections
    assert "3 of 5 runs have not finished" in found.sections["runs"]


def test_runs_of_earlier_versions_are_reported(root: Path) -> None:
    shutil.copytree(GOLDEN, "golden")
    found = page("1:5", "--runs-dir", "golden")
    for number in range(1, 6):
        interrupted = {3: "Ended as interrupted after 16 of 44 steps", 4: "Ended as interrupted after 50 of 74 steps"}
        assert interrupted.get(number, "Finished after") in found.sections[f"run-{number}-results"]
        assert "Damaged" not in found.sections[f"run-{number}-checks"]
    report("1", "--runs-dir", "golden", "--md")


def test_of_more_than_twenty_runs_only_all_together_are_described(root: Path) -> None:
    for seed in range(21):
        make(root, seed=seed, lr=0.01 * (1 + seed % 3))
    found = page("1:21")
    assert set(found.sections) == {"runs", "comparison"}
    assert "21 runs: single ones are described in a report of at most 20." in found.text
    assert len(found.tables["val/accuracy on digits"]) == 4
    assert "run-20" in page("1:20").sections


def test_of_more_than_200_runs_groups_are_summarised_without_tests(root: Path) -> None:
    for seed in range(201):
        test_differences.make(
            root, best={**test_differences.BEST, "value": seed % 4 / 4}, seed=seed % 5, lr=1 + seed // 5
        )
    found = page("1:201")
    rows = found.tables["finished runs with equal settings apart from the seed, at their best checkpoints"]
    assert len(rows) == 42 and "201 runs are too many for tests: name at most 200." in found.text
    told = summarise([0.0, 0.25, 0.5, 0.75, 0.0])
    assert told.interval is not None
    row = next(row for row in rows if row[0] == "1:5")
    assert row[rows[0].index("n") :] == [
        "5", f"{told.mean:.4f}", f"{told.std:.4f}", "{:.4f} to {:.4f}".format(*told.interval),
    ]  # fmt: skip


def test_a_card_says_the_same_without_samples_and_pictures(root: Path) -> None:
    run = make(root, lr=0.125, seed=5)
    measure(run)
    done = report("1", "--md")
    card = done.stdout
    assert card.startswith("# run 1: cnn on digits\n")
    for line in (
        "| parameters | 1,234 |",
        "| lr | 0.125 | 0.01 |",
        "| accuracy | 0.6667 |",
        "| fingerprint of the data | f00d |",
    ):
        assert line in card.splitlines()
    assert "| actual \\\\ predicted | no | yes |\n| --- | --- | --- |\n| no | 2 | 1 |\n| yes | 1 | 2 |" in card
    assert "Worst mistakes" not in card and "svg" not in card and "all other settings" not in card
    report("1", "-o", "card.md")
    written = Path("card.md").read_text().splitlines()
    assert [line for line in written if not line.startswith("Made at")] == [
        line for line in card.splitlines() if not line.startswith("Made at")
    ]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "name the runs to report: dlcli report latest -o report.html"),
        (["1"], 2, "name the file with -o report.html, or print a model card with --md"),
        (
            ["1", "--md", "-o", "a.md"],
            2,
            "--md prints the model card, and -o FILE.md writes it: leave out one of them",
        ),
        (["1", "--md", "--force"], 2, "--force is for --output FILE: add it, or leave out --force"),
        (["1", "-o", "a.pdf"], 2, "--output a.pdf must end in .html or .md"),
        (["1", "-o", "there.html"], 2, "--output there.html exists: add --force to replace it, or choose another file"),
        (["9", "-o", "a.html"], 4, "there is no run 9 in runs: see `dlcli runs`"),
        (["1", "-o", "nowhere/a.html"], 6, "cannot write nowhere/a.html: No such file or directory"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(root: Path, words: list[str], code: int, message: str) -> None:
    make(root)
    Path("there.html").write_text("precious")
    assert report(*words, code=code).stderr == f"error: {message}\n"
    assert Path("there.html").read_text() == "precious" and not list(Path().glob("a.*"))


def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(root)
    Path("a.html").write_text("precious")
    before = sorted(Path().rglob("*"))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    told = report("1", "-o", "a.html", "--force", code=6).stderr
    assert told.startswith("error: cannot write a.html: No space left on device")
    assert Path("a.html").read_text() == "precious" and sorted(Path().rglob("*")) == before


def test_a_report_changes_nothing_in_the_run(root: Path) -> None:
    measure(make(root))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    page("1")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_records_of_another_checkpoint_are_said(root: Path) -> None:
    run = make(root)
    measure(run, step=30)
    found = page("1")
    assert "What follows was measured at step 30, and the best checkpoint now is of step 60." in found.text
    assert not any(tag == "rect" for tag, _ in found.tags) and "Worst mistakes" not in found.text


def test_a_very_long_history_is_reported(root: Path) -> None:
    run = make(root)
    with open(run.metrics_file, "a") as file:
        file.writelines(f"{k},{60 + k},1,1,0.5,.1,1,1\n" for k in range(3, 200_000))
    found = page("1")
    assert "of long runs only the lowest and highest values" in found.text
    assert Path("report.html").stat().st_size < 1_000_000


def test_reporting_imports_neither_torch_nor_pandas(root: Path) -> None:
    make(root)
    make(root, seed=1)
    assert heavy_after(call("report", "1", "-o", "a.html")) == []
    measure(Run(root, 1))
    assert heavy_after(call("report", "1:2", "-o", "b.html")) == ["numpy"]


def test_json_values_of_any_kind_are_shown(root: Path) -> None:
    run = make(root)
    info = json.loads((run.path / "run.json").read_text())
    del info["checksum"]
    odd = {"command": 7, "git_commit": ["a"], "environment": {"A": {"b": 1}}, "weights": [1], "parents": [{}],
           "parameters": "many", "torch": None, "cuda": {"x": [1]}, "warning": "careful"}  # fmt: skip
    (run.path / "run.json").write_text(json.dumps(info | odd))
    data = read_json(run.path / "data.json")
    write_json(run.path / "data.json", data | {"feature_names": [1, None], "mean": 3, "class_counts": "x"})
    run.write_record("eval", "val", {"split": "val", "metrics": {"a": "b", "c": True, "d": 2}})
    found = page("1")
    assert "Warning: careful" in found.text and ["parameters", "many"] in found.tables["Model"]
    assert found.tables["val split of the data, 0 samples"][1:] == [["d", "2.0000"]]
    report("1", "--md")
