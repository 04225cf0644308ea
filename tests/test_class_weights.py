"""Class weights in the loss, and the decision threshold of two classes. Losses are compared with torch."""

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as reference
from sklearn.utils.class_weight import compute_class_weight
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError, RunError
from dlcli.core.spec import DataSpec
from dlcli.data.preprocessing import Preprocessing
from dlcli.evaluation.baseline import baseline
from dlcli.evaluation.measure import evaluate
from dlcli.experiment.build import build
from dlcli.runs.run import Run
from dlcli.tasks.binary import Binary
from dlcli.tasks.choose import choose_task
from dlcli.tasks.multiclass import Multiclass
from dlcli.tasks.scores import best_threshold
from dlcli.tasks.weights import class_weights
from dlcli.training.train import resume, train

QUICK = ("--epochs", "3", "--device", "cpu", "--quiet")


def invoke(root: Path, *words: str, exit_code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, [*words, "--runs-dir", str(root)])
    assert result.exit_code == exit_code, result.output
    return result.stdout, result.stderr


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table in which a tenth of the rows are `yes`."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3))
    chance = 1 / (1 + np.exp(3 - 1.5 * x[:, 0] + x[:, 1]))
    frame = pd.DataFrame(
        {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "ill": np.where(rng.random(600) < chance, "yes", "no")}
    )
    path = tmp_path_factory.mktemp("rare") / "rare.csv"
    frame.to_csv(path, index=False)
    return path


# Weights


def test_balanced_weights_are_scikit_learns() -> None:
    labels = np.repeat([0, 1, 2], [50, 5, 20])
    found = class_weights("balanced", ("a", "b", "c"), (50, 5, 20))
    assert found == pytest.approx(compute_class_weight("balanced", classes=np.array([0, 1, 2]), y=labels))


@pytest.mark.parametrize("setting", ["balanced", ("1", "2", "7"), ("b=0.5",), ("c=3", "a=2")])
def test_the_mean_weight_of_the_training_samples_is_1(setting: Any) -> None:
    counts = (50, 5, 20)
    found = class_weights(setting, ("a", "b", "c"), counts)
    assert np.average(found, weights=counts) == pytest.approx(1)
    given = {"balanced": (1 / 50, 1 / 5, 1 / 20), ("1", "2", "7"): (1, 2, 7), ("b=0.5",): (1, 0.5, 1)}
    expected = given.get(setting, (2, 1, 3))
    assert np.array(found) / found[0] == pytest.approx(np.array(expected) / expected[0])


def test_a_class_without_training_samples_does_no_harm() -> None:
    assert class_weights("balanced", ("a", "b", "c"), (10, 0, 10)) == pytest.approx((1, 10, 1))


def test_the_loss_of_all_training_samples_is_torchs() -> None:
    """torch divides by the sum of the weights, their number here; in a batch we divide by its size."""
    generator = torch.Generator().manual_seed(0)
    output, target = torch.randn(200, 3, generator=generator), torch.randint(3, (200,), generator=generator) ** 2 // 2
    counts = target.bincount(minlength=3).tolist()
    weights = class_weights("balanced", "abc", counts)
    task = Multiclass(3, class_weights=weights)
    torch.testing.assert_close(task.loss(output, target), F.cross_entropy(output, target, torch.tensor(weights)))
    part = F.cross_entropy(output[:9], target[:9], torch.tensor(weights), reduction="sum") / 9
    torch.testing.assert_close(task.loss(output[:9], target[:9]), part)
    smooth = F.cross_entropy(output, target, label_smoothing=0.1, reduction="none") * torch.tensor(weights)[target]
    torch.testing.assert_close(Multiclass(3, 0.1, weights).loss(output, target), smooth.mean())


def test_the_loss_of_two_classes_is_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    output, target = torch.randn(50, 1, generator=generator), (torch.rand(50, generator=generator) < 0.2).long()
    expected = F.binary_cross_entropy_with_logits(output[:, 0], target.float(), pos_weight=torch.tensor(4.0)) * 0.5
    torch.testing.assert_close(Binary((0.5, 2.0)).loss(output, target), expected)


@pytest.mark.parametrize("task", [Binary((0.5, 2.0)), Multiclass(3, 0.1, (0.5, 2.0, 1.0))], ids=["binary", "classes"])
def test_an_evaluation_weighs_the_loss_but_not_the_log_loss(task: Binary | Multiclass) -> None:
    outputs = 1 if isinstance(task, Binary) else 3
    generator = torch.Generator().manual_seed(0)
    output, target = torch.randn(80, outputs, generator=generator), torch.randint(2, (80,), generator=generator)
    measures = [task.measure(o, t, whole=True) for o, t in zip(output.split(7), target.split(7), strict=True)]
    plain = Binary() if isinstance(task, Binary) else Multiclass(3)
    whole = task if isinstance(task, Binary) else Multiclass(3, 0.0, task.class_weights)
    assert task.metrics(measures)["loss"] == pytest.approx(whole.loss(output, target).item(), rel=1e-6)
    assert task.tables(measures).metrics["log_loss"] == pytest.approx(plain.loss(output, target).item(), rel=1e-6)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("1,2,3", "class_weights = 1,2,3 has 3 weights, but there are 2 classes: no, yes"),
        ("yess=2", "class_weights = yess=2: there is no class 'yess': did you mean yes?"),
        ("yes=2,yes=3", "class_weights = yes=2,yes=3 names a class twice, or not all: write a weight for each class, "
         "or NAME=WEIGHT"),
        ("yes=2,1", "class_weights = yes=2,1 names a class twice, or not all: write a weight for each class, or "
         "NAME=WEIGHT"),
        ("1,0", "class_weights = 1,0: '0' is no number above 0"),
        ("1,nan", "class_weights = 1,nan: 'nan' is no number above 0"),
        ("balance,1", "class_weights = balance,1: 'balance' is no number above 0"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused(setting: str, message: str, rare: Path, tmp_path: Path) -> None:
    words = ("train", "logistic", "--data", f"table:{rare}", "--target", "ill", *QUICK, "--class-weights", setting)
    assert invoke(tmp_path / "runs", *words, exit_code=2)[1] == f"error: {message}\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("linear", "--data", "diabetes", "--class-weights", "balanced"),
         "class_weights are for classes, but the task is regression"),
        (("linear", "--data", "diabetes", "--threshold", "0.3"),
         "threshold = 0.3 is for two classes, but the task is regression"),
        (("mlp", "--data", "iris", "--threshold", "best:f1"),
         "threshold = best:f1 is for two classes, but the task is multiclass"),
        (("logistic", "--data", "breast-cancer", "--threshold", "best:f1", "--val-fraction", "0"),
         "threshold = best:f1 is chosen on the validation split, and there is none: take val_fraction above 0, or give "
         "a number"),
        (("logistic", "--data", "breast-cancer", "--threshold", "1"),
         "threshold = 1.0 is out of range: it must be in (0, 1)"),
        (("logistic", "--data", "breast-cancer", "--threshold", "best:auc"),
         "threshold = 'best:auc' is not a number or one of best:f1, best:balanced_accuracy, best:accuracy"),
    ],
)  # fmt: skip
def test_what_a_task_does_not_support_is_refused(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    assert invoke(tmp_path / "runs", "train", *words, *QUICK, exit_code=2)[1] == f"error: {message}\n"
    assert not (tmp_path / "runs").exists()


def test_weights_shift_the_training_and_are_used_by_eval(rare: Path, tmp_path: Path) -> None:
    data: Any = {"data": f"table:{rare}", "data_options": {"target": "ill"}, "device": "cpu", "epochs": 4, "lr": 0.5}
    for setting in ("none", "balanced"):
        list(train(TrainConfig("logistic", class_weights=setting, **data), runs_dir=tmp_path))
    plain, balanced = (evaluate(Run(tmp_path, number), split="val").metrics for number in (1, 2))
    assert balanced["recall"] > plain["recall"] and balanced["log_loss"] > plain["log_loss"]  # type: ignore[operator]
    assert plain["loss"] == pytest.approx(plain["log_loss"], rel=1e-6)
    assert balanced["loss"] == Run(tmp_path, 2).info()["best"]["value"] != pytest.approx(balanced["log_loss"])
    assert sum(Run(tmp_path, 1).data()["class_counts"]) == Run(tmp_path, 1).info()["train_samples"]


def test_the_baseline_has_the_least_weighted_loss_and_the_accuracy_of_the_most_frequent_class(rare: Path) -> None:
    data: Any = {"data": f"table:{rare}", "data_options": {"target": "ill"}, "device": "cpu"}
    plain, balanced = (baseline(build(TrainConfig("logistic", class_weights=w, **data))) for w in ("none", "balanced"))
    assert balanced["val/loss"] == pytest.approx(math.log(2), rel=0.1) != plain["val/loss"]
    assert balanced["val/accuracy"] == plain["val/accuracy"] and plain["val/accuracy"] > 0.8  # type: ignore[operator]


# Threshold


def brute_force(score: np.ndarray, truth: np.ndarray, criterion: str) -> float:
    """The best value over all thresholds."""
    function: Any = {
        "f1": reference.f1_score, "accuracy": reference.accuracy_score,
        "balanced_accuracy": reference.balanced_accuracy_score,
    }[criterion]  # fmt: skip
    cuts = [-np.inf, 0.0, *np.unique(score), np.inf]
    return max(function(truth, score > cut, **({"zero_division": 0} if criterion == "f1" else {})) for cut in cuts)


@pytest.mark.parametrize("criterion", ["f1", "accuracy", "balanced_accuracy"])
@pytest.mark.parametrize("seed", range(12))
def test_no_threshold_is_better_than_the_chosen_one(criterion: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    score = (3 if seed % 3 else 30) * torch.randn(60, generator=generator)
    score = score.round() if seed % 2 else score
    target = (torch.rand(60, generator=generator) < torch.sigmoid(score / 3 - 1)).long()
    target[:2] = torch.tensor([0, 1])
    task = Binary(criterion=criterion).settled([Binary().measure(score[:, None], target)])
    measures = [task.measure(score[:, None], target, whole=True)]
    found = (task.metrics(measures) | task.tables(measures).metrics)[criterion]
    assert found == pytest.approx(brute_force(score.numpy(), target.numpy(), criterion), rel=1e-12)
    assert 0 < task.threshold < 1


def test_of_equal_thresholds_that_next_to_a_half_is_chosen() -> None:
    score, positive = torch.tensor([-3.0, -2.0, 2.0, 3.0]), torch.tensor([False, False, True, True])
    assert best_threshold(score, positive, "accuracy") == 0.5
    assert best_threshold(score + 5, positive, "f1") == pytest.approx(1 / (1 + math.exp(-5)))
    assert best_threshold(score, positive & ~positive, "f1") is None


def test_a_threshold_decides_classes_answers_and_scores() -> None:
    task, output, target = Binary(threshold=0.8), torch.tensor([[1.0], [1.5], [-1.0]]), torch.tensor([1, 1, 0])
    assert task.metrics([task.measure(output, target)])["accuracy"] == pytest.approx(2 / 3)
    assert [row["class"] for row in task.answers(output, ("no", "yes"))] == ["no", "yes", "no"]
    assert task.answers(output, ())[0]["probability"] == pytest.approx(1 - 1 / (1 + math.exp(-1)))
    assert task.scores(output).argmax(1).tolist() == [0, 1, 0]
    spec = DataSpec("binary", "features", (4,), 1)
    assert choose_task(spec, threshold="best:f1") == Binary(criterion="f1")


@pytest.fixture(scope="module")
def chosen(rare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: 1 chose its threshold."""
    root = tmp_path_factory.mktemp("runs")
    words = ("--class-weights", "yes=3", "--threshold", "best:f1", "--lr", "0.5", "--monitor", "f1")
    _, err = invoke(root, "train", "logistic", "--data", f"table:{rare}", "--target", "ill", *QUICK[:-1], *words)
    best = Run(root, 1).info()["best"]
    assert f"best val/f1 {best['value']:.4f} in epoch {best['epoch']}, threshold {best['threshold']:.4f}" in err
    return root


def test_the_threshold_is_that_of_the_best_checkpoint_on_the_validation_split(chosen: Path) -> None:
    run = Run(chosen, 1)
    best, found = run.info()["best"], evaluate(run, split="val")
    assert found.threshold == best["threshold"] != 0.5
    assert found.metrics["f1"] == best["value"]
    (row,) = [row for row in run.metrics() if row["step"] == best["step"]]
    assert (row["val/threshold"], row["val/f1"]) == (best["threshold"], best["value"])
    assert row["val/accuracy"] == found.metrics["accuracy"]
    out, _ = invoke(chosen, "eval", "best:f1", "--require", "f1>0", "--require", "balanced_accuracy>0")
    assert f"rare.csv, 120 samples, threshold {best['threshold']:.4f}\n" in out
    assert json.loads((run.path / "eval" / "test.json").read_text())["threshold"] == best["threshold"]


def test_eval_tries_another_threshold_beside_the_record(chosen: Path) -> None:
    before = (Run(chosen, 1).path / "eval" / "val.json").read_bytes()
    found = json.loads(invoke(chosen, "eval", "1", "--split", "val", "--threshold", "0.99", "--json")[0])
    assert found["threshold"] == 0.99 and found["metrics"]["precision"] is None
    assert found["undefined"] == {"precision": "class 1 is never predicted"}
    assert (Run(chosen, 1).path / "eval" / "val.json").read_bytes() == before
    assert (Run(chosen, 1).path / "eval" / "val-threshold-0.99.json").exists()
    _, err = invoke(chosen, "eval", "1", "--split", "val", "--threshold", "0.99")
    assert err == "undefined: precision (class 1 is never predicted)\n"
    _, err = invoke(chosen, "eval", "1", "--threshold", "1", exit_code=2)
    assert err == "error: --threshold = 1.0 is out of range: it must be in (0, 1)\n"


def test_predict_decides_with_the_threshold(chosen: Path, rare: Path) -> None:
    rows = json.loads(invoke(chosen, "predict", "1", str(rare), "--probabilities", "--json")[0])
    threshold = Run(chosen, 1).info()["best"]["threshold"]
    assert {row["class"] for row in rows} == {"no", "yes"}
    for row in rows:
        assert row["class"] == ("yes" if row["probability/yes"] > threshold else "no")
        assert row["probability"] == row[f"probability/{row['class']}"]
    assert any(row["probability"] < 0.5 for row in rows)


def test_an_exported_file_says_the_threshold(chosen: Path) -> None:
    invoke(chosen, "export", "1", "--format", "safetensors")
    record = json.loads((Run(chosen, 1).path / "export" / "safetensors.json").read_text())
    assert record["threshold"] == Run(chosen, 1).info()["best"]["threshold"]
    assert record["parity"]["holds"]


def test_a_damaged_threshold_is_told(chosen: Path, tmp_path: Path) -> None:
    """The manifest is written anew, as a stranger could do."""
    shutil.copytree(chosen, tmp_path, dirs_exist_ok=True)
    (folder,) = Run(tmp_path, 1).checkpoints.glob("best-*")
    state, manifest = folder / "state.json", folder / "MANIFEST.json"
    document = json.loads(state.read_text())
    document["metrics"]["val/threshold"] = 1.5
    old = hashlib.sha256(state.read_bytes()).hexdigest()
    state.write_text(json.dumps(document))
    sizes = manifest.read_text().replace(old, hashlib.sha256(state.read_bytes()).hexdigest())
    entries = json.loads(sizes)
    entries["files"]["state.json"]["size"] = state.stat().st_size
    manifest.write_text(json.dumps(entries))
    with pytest.raises(RunError, match=r"state.json is damaged: val/threshold = 1.5 is not between 0 and 1"):
        evaluate(Run(tmp_path, 1))


def test_a_resume_is_exact_with_weights_a_threshold_and_another_monitor(rare: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        "logistic", data=f"table:{rare}", data_options={"target": "ill"}, device="cpu", epochs=4, lr=0.5,
        class_weights="balanced", threshold="best:balanced_accuracy", monitor="average_precision",
    )  # fmt: skip
    whole = list(train(config, runs_dir=tmp_path))
    steps = 0

    def after_two_epochs() -> str | None:
        nonlocal steps
        steps += 1
        return "enough" if steps == whole[1].step else None

    list(train(config, runs_dir=tmp_path, stop=after_two_epochs))
    list(resume(Run(tmp_path, 2), exact=True))
    first, second = Run(tmp_path, 1), Run(tmp_path, 2)
    drop = ("seconds", "samples_per_second")
    rows = [[{n: v for n, v in row.items() if n not in drop} for row in run.metrics()] for run in (first, second)]
    assert rows[0] == rows[1] and first.info()["best"] == second.info()["best"]
    list(resume(first, epochs=5, monitor="loss", threshold=0.4))  # the columns of its metrics.csv stay
    assert list(first.metrics()[-1]) == list(first.metrics()[0])
    assert first.metrics()[-1]["val/threshold"] is None
    assert evaluate(first).threshold == 0.4


def test_a_validation_split_of_one_class_leaves_the_threshold(tmp_path: Path) -> None:
    rows = [f"{n},{'a' if n % 3 else 'b'},train" for n in range(30)] + [f"{n},a,val" for n in range(5)]
    (tmp_path / "one.csv").write_text("\n".join(["x,y,part", *rows, "1,a,test", "3,b,test"]))
    words = (
        "--target",
        "y",
        "--set",
        "data.split_column=part",
        "--set",
        "data.numbers=x",
        "--threshold",
        "best:f1",
        "--eval",
        "val",
    )
    _, err = invoke(tmp_path, "train", "logistic", "--data", f"table:{tmp_path / 'one.csv'}", *words, *QUICK[:-1])
    assert "warning: the threshold stays 0.5, since not every class has validation samples" in err
    assert "undefined: auc (not every class has samples), " in err
    assert evaluate(Run(tmp_path, 1)).threshold == 0.5


def test_a_config_file_holds_both(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('class_weights = ["a,b=2"]\nthreshold = 0.25\n')
    out, _ = invoke(tmp_path, "train", "logistic", "--config", str(tmp_path / "a.toml"), "--print-config")
    assert 'class_weights = ["a,b=2"]' in out and "threshold = 0.25" in out
    assert TrainConfig("mlp", class_weights="none") == TrainConfig("mlp")
    with pytest.raises(ConfigError):
        TrainConfig("mlp", threshold="best:r2")


@pytest.mark.parametrize("counts", [[1], [0, 0], [-1, 5], [0.5, 1], [10**400, 1], "ab"])
def test_damaged_counts_of_classes_are_told(counts: Any, chosen: Path, tmp_path: Path) -> None:
    document = Run(chosen, 1).data()
    assert Preprocessing.from_dict(document).class_counts == tuple(document["class_counts"])
    with pytest.raises(ValueError, match="class_counts"):
        Preprocessing.from_dict({**document, "class_counts": counts})


def test_weights_without_counts_are_a_damaged_run(chosen: Path, tmp_path: Path) -> None:
    shutil.copytree(chosen, tmp_path, dirs_exist_ok=True)
    document = Run(tmp_path, 1).data()
    del document["class_counts"]
    (tmp_path / "1" / "data.json").write_text(json.dumps(document))
    _, err = invoke(tmp_path, "eval", "1", exit_code=4)
    assert err == (
        "error: class_weights are made of the counts of the classes, which data.json of the run does not have\n"
    )
