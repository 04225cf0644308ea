"""`dlcli eval` of several runs, against a baseline, and what it tells a CI job: JUnit, Markdown, the step summary."""

import csv
import io
import json
import re
import shutil
import statistics
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.evaluation.against import against
from dlcli.evaluation.measure import Evaluation, evaluate
from dlcli.evaluation.rules import check_rules_of, parse_rules
from dlcli.runs.run import Run
from dlcli.runs.sample_tests import compare_samples
from tests import test_differences


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs 1 to 3: logistic on iris with seeds 0 to 2; 4: an mlp on iris; 5: a regression."""
    root = tmp_path_factory.mktemp("several") / "runs"
    for words in (
        *(["logistic", "--data", "iris", "--epochs", str(1 + 2 * seed), "--seed", str(seed)] for seed in range(3)),
        ["mlp", "--data", "iris", "--epochs", "3"],
        ["linear", "--data", "diabetes", "--epochs", "2"],
    ):
        words = ["train", *words, "--device", "cpu", "--quiet", "--runs-dir", str(root)]
        assert CliRunner().invoke(app, words).exit_code == 0
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, "runs"))


def call(*words: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["eval", *words])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def accuracies(*numbers: int) -> list[float]:
    found = [evaluate(Run(Path("runs"), number)).metrics["accuracy"] for number in numbers]
    return [value for value in found if value is not None]


def test_each_run_is_measured_as_alone_and_the_metrics_are_put_together(root: Path) -> None:
    found = json.loads(call("1:2", "3", "2", "--json")[0])
    alone = [json.loads(call(str(number), "--json")[0]) for number in (1, 2, 3)]
    assert found["evaluations"] == alone
    values = [one["metrics"]["accuracy"] for one in alone]
    assert len(set(values)) > 1
    over = found["metrics"]["accuracy"]
    interval = stats.t.interval(0.95, 2, loc=statistics.fmean(values), scale=stats.sem(values))
    assert over.pop("interval") == pytest.approx(list(interval))
    assert over == pytest.approx({
        "count": 3, "mean": statistics.fmean(values), "median": statistics.median(values),
        "std": statistics.stdev(values), "min": min(values), "max": max(values),
    })  # fmt: skip
    assert "require" not in found and "baseline" not in found
    assert all((root / str(number) / "eval" / "test.json").exists() for number in (1, 2, 3))


def test_the_tables_have_a_row_for_each_run(root: Path) -> None:
    out, err = call("1:3")
    first, second = out.split("\n\n")
    header, *lines = first.splitlines()
    assert header.split()[:6] == ["run", "data", "split", "samples", "epoch", "loss"]
    assert [line.split()[:4] for line in lines] == [[n, "iris", "test", "30"] for n in ("1", "2", "3")]
    assert second.splitlines()[0].split() == ["metric", "mean", "std", "median", "min", "max", "from", "to"]
    assert second.splitlines()[2].split()[:2] == ["accuracy", f"{statistics.fmean(accuracies(1, 2, 3)):.4f}"]
    rows = list(csv.DictReader(io.StringIO(call("1:3", "--csv")[0])))
    assert [float(row["accuracy"]) for row in rows] == accuracies(1, 2, 3)


def test_a_rule_must_hold_in_each_run_and_one_on_the_mean_for_all(root: Path) -> None:
    values = accuracies(1, 2, 3)
    mean, low = statistics.fmean(values), min(values)
    rules = [f"mean(accuracy) >= {mean - 1e-9}", f"min( accuracy )>={low}", f"accuracy > {low}", "std(accuracy)<0"]
    words = [word for rule in rules for word in ("--require", rule)]
    out, err = call("1:3", *words, "--json", code=7)
    verdicts = [(v["rule"], v["run"], v["holds"], v["value"]) for v in json.loads(out)["require"]]
    assert verdicts == [
        (rules[0], None, True, pytest.approx(mean)),
        (rules[1], None, True, low),
        *((rules[2], f"runs/{n}", v > low, v) for n, v in enumerate(values, start=1)),
        (rules[3], None, False, pytest.approx(statistics.stdev(values))),
    ]
    worst = 1 + values.index(low)
    message = json.loads(err)["error"]
    assert f"{rules[2]} does not hold in runs/{worst}: the value is {low:.6g}" in message
    assert message.endswith(f"{rules[3]} does not hold: it is {statistics.stdev(values):.6g} of 3 runs")
    assert call("1:3", "--require", rules[0])[1] == f"{rules[0]} holds: it is {mean:.6g} of 3 runs\n"
    assert call("1", "--require", "max(accuracy)>=0")[1] == f"max(accuracy)>=0 holds: it is {values[0]:.6g}\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("1:2", "--require", "avg(accuracy)>0"), 2,
         "--require 'avg(accuracy)>0': there is no avg() of runs: known are mean, median, min, max, std"),
        (("1:2", "--require", "mean(accuracy>0"), 2, "--require 'mean(accuracy>0' is no rule such as 'accuracy>=0.98'"),
        (("1:2", "--require", "mean(acuracy)>0"), 2,
         "--require 'mean(acuracy)>0': there is no metric acuracy: did you mean accuracy or macro_f1?"),
        (("1", "5", "--require", "mean(loss)>0"), 4,
         "runs/1 and runs/5 were measured on different data, so that no mean of theirs can be required: name runs on "
         "the same data"),
        (("1", "--baseline", "5"), 4,
         "runs/1 and runs/5 were measured on different data, so they cannot be compared: name runs on the same data, "
         "or one data set with --data"),
        (("1", "--require", "std(loss)>0"), 7, "std(loss)>0 does not hold: one run has no std"),
        (("1:2", "--importance"), 2, "--importance is of one run, but 1:2 names 2"),
        (("1", "--junit", "a.xml"), 2, "--junit reports requirements: add a --require or a --baseline"),
        (("1", "--require", "loss>0", "--junit", "no/a.xml"), 6, "cannot write no/a.xml: there is no folder no"),
        (("1", "--require", "loss>0", "--junit", "mine.py"), 2,
         "--junit mine.py would replace a file that is no XML: choose another name"),
        (("1", "--require", "loss>0", "--junit", "runs"), 6, "cannot write runs: it is a folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_said(words: tuple[str, ...], code: int, message: str, root: Path) -> None:
    Path("mine.py").write_text("x = 1\n")
    told = call(*words, code=code)[1].splitlines()[-1].removeprefix("error: ")
    assert re.sub(r"did you mean .*", "did you mean accuracy or macro_f1?", told) == message
    assert Path("mine.py").read_text() == "x = 1\n"


def test_a_metric_that_one_run_cannot_have_satisfies_no_rule() -> None:
    def report(number: int, **metrics: float | None) -> Evaluation:
        return Evaluation(
            Run(Path("runs"), number), "finished", None, "best", 1, 1, "iris", "test", 9, metrics, (), None, None
        )

    reports = [report(1, auc=0.5, loss=1.0), report(2, auc=None, loss=2.0)]
    verdicts = check_rules_of(reports, parse_rules(["mean(auc)<2", "auc<2", "median(loss)==1.5"]))
    why = "since not every class has samples"
    assert [(v.value, v.holds, v.sentence) for v in verdicts] == [
        (None, False, f"mean(auc)<2 does not hold: auc is undefined in runs/2, {why}"),
        (0.5, True, "auc<2 holds in runs/1: the value is 0.5"),
        (None, False, f"auc<2 does not hold in runs/2: auc is undefined, {why}"),
        (1.5, True, "median(loss)==1.5 holds: it is 1.5 of 2 runs"),
    ]
    compared = against(reports, reports[:1], "auc")
    assert (compared.holds, compared.sentence) == (False, "auc is undefined in runs/2")
    assert compared.as_dict()["difference"] is None


def test_the_baseline_is_in_the_json_with_difference_and_interval(root: Path) -> None:
    found = json.loads(call("4", "--baseline", "1", "--max-drop", "0.01", "--json")[0])["baseline"]
    value, base = *accuracies(4), *accuracies(1)
    test = compare_samples(Run(root, 1), Run(root, 4), "test", "accuracy")
    assert found["samples"] == {
        "metric": "accuracy", "count": 30, "difference": test.difference, "interval": list(test.interval),
        "only_baseline": test.only_first, "only_run": test.only_second, "p": test.p,
    }  # fmt: skip
    assert found["difference"] == pytest.approx(test.difference)
    rest = {name: found[name] for name in found if name not in ("samples", "difference")}
    assert rest == {
        "runs": ["runs/1"], "metric": "accuracy", "value": value, "baseline": base, "interval": list(test.interval),
        "method": "samples", "drop": base - value, "max_drop": 0.01, "holds": True,
    }  # fmt: skip


def test_several_runs_against_several_pair_by_seed_or_not(root: Path) -> None:
    first, second = accuracies(1, 2, 3), accuracies(1, 2, 3)[::-1]
    for number, copied in ((6, 3), (7, 2), (8, 1)):  # the same models with the seeds the other way round
        shutil.copytree(root / str(copied), root / str(number))
        config = json.loads((root / str(number) / "config.json").read_text())
        del config["checksum"]
        (root / str(number) / "config.json").write_text(json.dumps(config | {"seed": 8 - number}))
    found = json.loads(call("6:8", "--baseline", "1:3", "--json")[0])["baseline"]
    assert (found["method"], found["runs"], found["difference"]) == ("seeds", [f"runs/{n}" for n in (1, 2, 3)], 0)
    by_seed = dict(zip((2, 1, 0), second, strict=True))
    paired = stats.ttest_rel([by_seed[seed] for seed in range(3)], first).confidence_interval()
    assert found["interval"] == pytest.approx([paired.low, paired.high])
    found = json.loads(call("2:4", "--baseline", "1:2", "--max-drop", "1", "--json")[0])["baseline"]
    welch = stats.ttest_ind(accuracies(2, 3, 4), accuracies(1, 2), equal_var=False).confidence_interval()
    assert (found["method"], found["interval"]) == ("welch", pytest.approx([welch.low, welch.high]))
    err = call("2:4", "--baseline", "1:2", "--max-drop", "1")[1]
    assert re.fullmatch(r"accuracy \S+ \(mean of 3 runs\) against \S+ of runs 1,2: a drop of \S+\n", err)
    assert json.loads(call("1:3", "--baseline", "4", "--max-drop", "1", "--json")[0])["baseline"]["interval"] is None


def test_junit_has_a_case_for_each_requirement_and_run(root: Path) -> None:
    values = accuracies(1, 2, 3)
    rule = f"accuracy>{min(values)}"
    words = ("--require", rule, "--require", "mean(accuracy) < 2", "--baseline", "1", "--junit", "gate.xml")
    Path("gate.xml").write_text("<old/>")
    call("1:3", *words, "--max-drop", "1", code=7)
    suites = ET.parse("gate.xml").getroot()
    (suite,) = suites
    failing = sum(value == min(values) for value in values)
    counts = {"tests": "5", "failures": str(failing), "errors": "0", "skipped": "0"}
    assert suites.attrib == counts and suite.attrib == {"name": "dlcli eval", **counts}
    assert [(case.get("classname"), case.get("name")) for case in suite] == [
        *((f"runs/{n}", rule) for n in (1, 2, 3)),
        ("1:3", "mean(accuracy) < 2"),
        ("1:3", "accuracy against runs/1, a drop of at most 1"),
    ]
    told = [[(one.tag, one.get("message"), one.get("type")) for one in case] for case in suite]
    assert told == [
        *(
            [("failure", f"{rule} does not hold in runs/{n}: the value is {value:.6g}", "requirement")]
            if value == min(values)
            else []
            for n, value in enumerate(values, start=1)
        ),
        [],
        [],
    ]


def test_hostile_names_are_text_in_a_report(tmp_path: Path) -> None:
    from dlcli.evaluation.junit import Case, write_junit

    name = "a<b>&\"'\x00\x1b[31m\ud800\ufffe\N{PILE OF POO}]]>"
    write_junit(tmp_path / "a.xml", [Case(name, name, False, name), Case("b", "c", True, "")])
    first, second = ET.parse(tmp_path / "a.xml").getroot()[0]
    shown = re.sub("[\x00\x1b\ud800\ufffe]", "\N{REPLACEMENT CHARACTER}", name)
    assert first.attrib == {"classname": shown, "name": shown} and first[0].get("message") == shown
    assert second.attrib == {"classname": "c", "name": "b"}


def test_markdown_and_the_summary_of_a_step(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = call("1", "--md")[0]
    Path("summary.md").write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    assert call("1", "--md")[0] == plain
    assert Path("summary.md").read_text() == "before\n"  # without a requirement there is nothing to tell
    out = call("1", "--md", "--require", "accuracy<2", "--require", "accuracy>2", code=7)[0]
    value = f"{accuracies(1)[0]:.4f}"
    required = (
        "| requirement | run | value | holds |\n| --- | --- | --- | --- |\n"
        f"| accuracy&lt;2 | runs/1 | {value} | yes |\n| accuracy>2 | runs/1 | {value} | no |\n"
    )
    assert out == f"{plain}\n{required}"
    summary = Path("summary.md").read_text()
    assert summary.startswith(f"before\n### dlcli eval: 1 of 2 requirements holds\n\n{required}\n| run | data | split")
    call("1:2", "--baseline", "1", "--max-drop", "1")
    rest = Path("summary.md").read_text().removeprefix(summary)
    assert rest.startswith("### dlcli eval: 1 of 1 requirement holds\n\n") and rest.count("\n| 1 | iris ") == 1
    assert "| accuracy against runs/1, a drop of at most 1 | 1,2 | " in rest
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "no/folder")
    assert call("1", "--require", "accuracy<2")[1].splitlines()[0] == (
        "warning: GITHUB_STEP_SUMMARY: cannot write no/folder: No such file or directory"
    )


def test_an_interval_is_in_the_markdown(root: Path) -> None:
    low, high = compare_samples_of(root)
    out = call("4", "--baseline", "1", "--max-drop", "1", "--md")[0]
    assert f" ({low:.4f} to {high:.4f}) | yes |" in out.splitlines()[-1]


def compare_samples_of(root: Path) -> Any:
    for number in (1, 4):
        evaluate(Run(root, number))
    return compare_samples(Run(root, 1), Run(root, 4), "test", "accuracy").interval


def test_a_damaged_run_among_several_is_exit_4_and_no_report(root: Path) -> None:
    test_differences.make(root)
    out, err = call("1", "6", "--require", "accuracy>0", "--junit", "gate.xml", code=4)
    assert out == "" and not Path("gate.xml").exists()
