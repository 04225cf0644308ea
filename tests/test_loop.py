"""Training through the library: results, records, repeatability and errors."""

import csv
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from dlcli import TrainConfig, evaluate, resume, train
from dlcli.checkpoints import checkpoint
from dlcli.config.toml import read_file
from dlcli.core.errors import ConfigError, DivergedError, ResourceError
from dlcli.data.batches import epoch_order, full
from dlcli.experiment.build import build
from dlcli.runs.run import Run
from dlcli.training.records import Progress, Row
from tests.trained import fit_new

TIMES = ("seconds", "samples_per_second")


def finished(config: TrainConfig, root: Path) -> tuple[Run, list[Row]]:
    records = list(train(config, runs_dir=root))
    return Run(root, max(int(p.name) for p in root.iterdir())), records


def without_times(run: Run) -> list[dict[str, float | None]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in run.metrics()]


def digits(**settings: object) -> TrainConfig:
    return TrainConfig(**({"model": "mlp", "data": "digits", "epochs": 2, "device": "cpu"} | settings))


def test_the_loop_is_plain_gradient_descent(tmp_path: Path) -> None:
    """Bit for bit equal to the same steps written by hand with torch.optim, with the same weights and order."""
    config = digits(lr=0.05, momentum=0.9, weight_decay=0.01, batch_size=100)
    built = build(config)
    theirs = build(config)
    rows = [r for r in fit_new(built, tmp_path) if isinstance(r, Row)]

    model, data = theirs.model, theirs.dataset
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    losses = []
    for epoch in (1, 2):
        order, total = epoch_order(data.train, seed=0, epoch=epoch), 0.0
        for start in range(0, len(order), 100):
            rows_of = order[start : start + 100]
            x, y = data.train.rows.take(rows_of)
            loss = F.cross_entropy(model(x), y)  # type: ignore[arg-type]
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(rows_of)
        losses.append(total / len(order))
    for ours, hand in zip(built.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, hand)
    assert [row.metrics["train/loss"] for row in rows] == pytest.approx(losses, rel=1e-12)
    with torch.no_grad():
        x, y = data.val.rows.take(data.val.index)  # type: ignore[union-attr, arg-type, assignment]
        logits = model(x)
    assert rows[-1].metrics["val/loss"] == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-6)
    assert rows[-1].metrics["val/accuracy"] == (logits.argmax(1) == y).double().mean().item()


def test_accumulated_batches_are_one_large_batch(tmp_path: Path) -> None:
    whole, parts = digits(batch_size=200, epochs=1), digits(batch_size=100, accumulate=2, epochs=1)
    models = []
    for config in (whole, parts):
        built = build(config.replace(val_fraction=0.0, test_fraction=197 / 1797))  # 1600 = 8 x 200
        assert built.steps_per_epoch == 8
        fit_new(built, tmp_path)
        models.append(built.model)
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_every_sample_of_an_accumulated_step_counts_the_same(tmp_path: Path) -> None:
    """Batches of 100, 100 and 61 as one step: the step of the mean loss over the 261, by torch.optim."""
    config = digits(batch_size=100, accumulate=3, epochs=1, test_fraction=1536 / 1797, val_fraction=0.0, lr=0.1)
    built, theirs = build(config), build(config)
    assert (len(built.dataset.train), built.steps_per_epoch) == (261, 1)
    fit_new(built, tmp_path)

    batch = full(theirs.dataset.train)
    optimizer = torch.optim.SGD(theirs.model.parameters(), lr=0.1)
    F.cross_entropy(theirs.model(batch.x), batch.y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for ours, hand in zip(built.model.parameters(), theirs.model.parameters(), strict=True):
        assert torch.allclose(ours, hand, atol=1e-6)


def test_a_last_batch_of_one_sample_is_joined_to_the_one_before_where_the_model_needs_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "normed.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, spec):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    config = digits(model="normed:Net", test_fraction=1536 / 1797, val_fraction=0.0, batch_size=20)
    sizes: list[int] = []
    for model, last in (("normed:Net", 21), ("mlp", 1)):
        sizes.clear()
        built = build(config.replace(model=model))
        built.model.register_forward_hook(lambda _, x, y: sizes.append(len(y)) if torch.is_grad_enabled() else None)
        rows = [r for r in fit_new(built, tmp_path / "runs") if isinstance(r, Row)]
        assert sizes == [*[20] * (12 if last > 1 else 13), last] * 2
        assert [row.step for row in rows] == [len(sizes) // 2, len(sizes)]
    # Stopped inside an epoch and resumed, it ends in the same bits.
    steps = iter(range(1000))
    list(train(config, runs_dir=tmp_path / "runs", stop=lambda: "enough" if next(steps) == 16 else None))
    list(resume(tmp_path / "runs" / "3"))
    weights = [
        load_file(next(Run(tmp_path / "runs", n).checkpoints.glob("last-26")) / "model.safetensors") for n in (1, 3)
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(ConfigError) as told:
        build(config.replace(batch_size=1))
    assert str(told.value) == (
        "model normed:Net cannot be trained on one sample at a time, as with batch normalization: take batch_size "
        "above 1 (batch_size = 1, 261 training samples)"
    )


def test_one_seed_gives_one_result_and_another_seed_another(tmp_path: Path) -> None:
    settings = {"model": "cnn", "augment": ("shift=1", "noise=0.1", "mixup=0.3"), "ema": 0.9, "schedule": "cosine"}
    config = digits(**settings, model_options={"dropout": 0.2})
    runs = [finished(config.replace(seed=seed), tmp_path)[0] for seed in (0, 0, 1)]
    assert without_times(runs[0]) == without_times(runs[1])
    assert without_times(runs[0]) != without_times(runs[2])
    files = [next(run.checkpoints.glob("last-*")) / "model.safetensors" for run in runs]
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()


def test_validation_does_not_change_training(tmp_path: Path) -> None:
    config = digits(epochs=4, model_options={"dropout": 0.5})
    often, seldom = (finished(config.replace(eval_every=every), tmp_path)[0] for every in (1, 4))
    weights = [load_file(next(r.checkpoints.glob("last-*")) / "model.safetensors") for r in (often, seldom)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [row["epoch"] for row in seldom.metrics()] == [4]


def test_a_run_on_disk(tmp_path: Path) -> None:
    run, records = finished(digits(epochs=3), tmp_path)
    assert sorted(p.name for p in run.path.iterdir()) == [
        "checkpoints", "config.json", "data.json", "lock", "log.txt", "metrics.csv", "run.json",
    ]  # fmt: skip
    with open(run.metrics_file) as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "epoch", "step", "train/loss", "val/loss", "val/accuracy", "val/top5_accuracy", "lr", *TIMES,
    ]  # fmt: skip
    assert [(int(r["epoch"]), int(r["step"])) for r in rows] == [(1, 21), (2, 42), (3, 63)]
    for row, record in zip(rows, records, strict=True):
        assert {name: float(row[name]) for name in record.metrics} == record.metrics
        assert float(row["lr"]) == record.lr == 0.01
    info = run.info()
    assert (info["status"], info["epochs_done"], info["step"], info["steps"]) == ("finished", 3, 63, 63)
    assert (info["parameters"], info["train_samples"], info["val_samples"], info["test_samples"]) == (
        64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10, 1294, 144, 359,
    )  # fmt: skip
    assert info["torch"] == torch.__version__
    assert run.config().model_options == {"hidden": [128, 64], "activation": "relu", "dropout": 0.0}
    assert run.config().loss == "cross-entropy"
    log = (run.path / "log.txt").read_text().splitlines()
    assert log == [str(record) for record in records]


def test_best_is_the_best_on_validation_and_last_the_last(tmp_path: Path) -> None:
    run, records = finished(digits(model="cnn", epochs=8, lr=0.05), tmp_path)
    score = [(-r.metrics["val/accuracy"], r.metrics["val/loss"]) for r in records]  # type: ignore[operator]
    best = min(range(len(score)), key=lambda i: score[i])
    saved = checkpoint.load(run.checkpoints, "best")
    assert saved.state == {"epoch": best + 1, "step": records[best].step, "metrics": records[best].metrics}
    assert checkpoint.load(run.checkpoints, "last").state["epoch"] == 8
    assert run.info()["best"] == {
        "metric": "val/accuracy", "value": records[best].metrics["val/accuracy"], "higher_is_better": True,
        "epoch": best + 1, "step": records[best].step,
    }  # fmt: skip
    assert [r.best for r in records] == [
        score[i] < min(score[:i], default=(math.inf, math.inf)) for i in range(len(score))
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "cnn", "ema": 0.9},
        {"model": "linear", "data": "diabetes", "epochs": 20},
        {"model": "logistic", "data": "breast-cancer"},
        {"model": "attention", "data": "recall", "data_options": {"samples": 500}},
        {"model": "rnn", "data": "pydocs", "epochs": 1, "model_options": {"hidden": 16}},
        {"model": "lenet", "precision": "bf16", "epochs": 1},
    ],
    ids=lambda s: s["model"],
)
def test_eval_measures_bit_for_bit_what_training_recorded(tmp_path: Path, settings: dict[str, object]) -> None:
    run, _ = finished(TrainConfig(**({"device": "cpu", "epochs": 3} | settings)), tmp_path)  # type: ignore[arg-type]
    for role in ("best", "last"):
        state = checkpoint.load(run.checkpoints, role).state
        recorded = {n.removeprefix("val/"): v for n, v in state["metrics"].items() if n.startswith("val/")}
        report = evaluate(run, split="val", checkpoint=role)
        assert recorded
        assert {name: report.metrics[name] for name in recorded} == recorded


def test_without_validation_best_is_the_last(tmp_path: Path) -> None:
    run, records = finished(digits(val_fraction=0.0, epochs=3), tmp_path)
    assert [list(r.metrics) for r in records] == [["train/loss"]] * 3
    assert checkpoint.load(run.checkpoints, "best").state["epoch"] == 3
    assert run.info()["train_samples"] == 1438


def test_early_stopping_waits_for_patience_evaluations(tmp_path: Path) -> None:
    run, records = finished(TrainConfig(model="mlp", data="random", epochs=60, patience=3, lr=0.1), tmp_path)
    assert len(records) < 60
    assert [r.best for r in records[-3:]] == [False] * 3
    assert records[-4].best
    assert run.info()["status"] == "finished"
    assert run.info()["stopped_early"] == len(records)
    message = f"stopped after epoch {len(records)}: 3 evaluations without a better val/accuracy"
    assert (run.path / "log.txt").read_text().splitlines()[-1] == message


def test_the_learning_rate_in_the_row_is_the_one_used(tmp_path: Path) -> None:
    config = digits(epochs=4, lr=0.1, schedule="step", step_epochs=2, step_gamma=0.5)
    _, records = finished(config, tmp_path)
    assert [r.lr for r in records] == pytest.approx([0.1, 0.1, 0.05, 0.05])


def test_rows_between_evaluations(tmp_path: Path) -> None:
    run, _ = finished(digits(log_every=5, epochs=1), tmp_path)
    rows = run.metrics()
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 21]
    assert [row["val/loss"] is None for row in rows] == [True] * 4 + [False]
    whole, _ = finished(digits(epochs=1, batch_size=64), tmp_path)
    # The row of an evaluation has the mean since the last evaluation, regardless of rows in between.
    assert rows[-1]["train/loss"] == whole.metrics()[0]["train/loss"]
    every_step, _ = finished(digits(log_every=1, epochs=1), tmp_path)
    losses = [row["train/loss"] for row in every_step.metrics()[:20]]
    assert [row["train/loss"] for row in rows[:4]] == pytest.approx(np.reshape(losses, (4, 5)).mean(1), rel=1e-12)


def test_the_loss_of_a_row_does_not_change_with_log_every_even_over_a_resume(tmp_path: Path) -> None:
    plain, _ = finished(digits(epochs=2), tmp_path)
    steps = iter(range(1, 10**9))
    list(train(digits(epochs=2, log_every=4), runs_dir=tmp_path, stop=lambda: "enough" if next(steps) == 30 else None))
    logged = Run(tmp_path, 2)
    list(resume(logged))
    evaluated = [row for row in logged.metrics() if row["val/loss"] is not None]
    assert [row["train/loss"] for row in evaluated] == [row["train/loss"] for row in plain.metrics()]


def test_the_length_of_a_training_and_its_evaluations_in_steps(tmp_path: Path) -> None:
    """25 steps at 21 per epoch: the weights are those of a longer training after its 25th step."""
    run, rows = finished(digits(epochs=None, steps=25, eval_every="10steps", checkpoint_every="5steps"), tmp_path)
    assert [(row.epoch, row.step, row.steps) for row in rows] == [(1, 10, 25), (1, 20, 25), (2, 25, 25)]
    assert str(rows[0]).startswith("step 10/25  loss ")
    info = run.info()
    assert (info["status"], info["step"], info["steps"], info["epochs"], info["epochs_done"]) == (
        "finished",
        25,
        25,
        2,
        1,
    )
    assert sorted(p.name for p in run.checkpoints.glob("last-*")) == ["last-20", "last-25"]
    steps = iter(range(1, 10**9))
    list(train(digits(epochs=3), runs_dir=tmp_path, stop=lambda: "enough" if next(steps) == 25 else None))
    ours, longer = (load_file(Run(tmp_path, n).checkpoints / "last-25" / "model.safetensors") for n in (1, 2))
    assert all(torch.equal(ours[name], longer[name]) for name in ours)
    # Extended to the end of the second epoch, it equals the run whose length was given in epochs.
    list(resume(run, steps=42, eval_every="1epoch"))
    list(train(digits(epochs=2), runs_dir=tmp_path))
    ours, straight = (load_file(Run(tmp_path, n).checkpoints / "last-42" / "model.safetensors") for n in (1, 3))
    assert all(torch.equal(ours[name], straight[name]) for name in ours)


def test_an_evaluation_that_a_stop_left_out_comes_first_after_the_resume(tmp_path: Path) -> None:
    steps = iter(range(1, 10**9))
    config = digits(epochs=2, eval_every="10steps")
    list(train(config, runs_dir=tmp_path, stop=lambda: "enough" if next(steps) == 20 else None))
    run = Run(tmp_path, 1)
    assert [row["step"] for row in run.metrics()] == [10]
    list(resume(run))
    straight, _ = finished(config, tmp_path)
    assert without_times(run) == without_times(straight)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_finite_weights(tmp_path: Path) -> None:
    with pytest.raises(DivergedError) as caught:
        finished(digits(lr=1e6, model="cnn"), tmp_path)
    run = Run(tmp_path, 1)
    message = str(caught.value)
    assert message.startswith("the loss became nan at step 3 (epoch 1, lr 1e+06, gradient norm 9.992e+14 at step 2; ")
    assert run.info()["status"] == "diverged"
    assert run.info()["reason"] == message
    assert list(run.checkpoints.iterdir()) == []


def test_a_reason_to_stop_saves_and_marks_interrupted(tmp_path: Path) -> None:
    steps = iter([None] * 25 + ["SIGINT"])
    records = list(train(digits(epochs=5), runs_dir=tmp_path, stop=lambda: next(steps)))
    run = Run(tmp_path, 1)
    assert len(records) == 1
    assert run.info()["status"] == "interrupted"
    assert (run.info()["stop"], run.info()["step"]) == ("SIGINT", 26)
    assert checkpoint.load(run.checkpoints, "last").state["step"] == 26
    assert checkpoint.load(run.checkpoints, "best").state["step"] == 21


def test_a_consumer_that_goes_away_leaves_an_interrupted_run(tmp_path: Path) -> None:
    records = train(digits(epochs=5), runs_dir=tmp_path)
    next(records)
    records.close()  # type: ignore[attr-defined]
    assert Run(tmp_path, 1).info()["status"] == "interrupted"
    assert not Run(tmp_path, 1).is_locked()


def test_an_error_leaves_a_failed_run_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build(digits())
    monkeypatch.setattr(type(built.model), "forward", lambda self, x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit_new(built, tmp_path)
    run = Run(tmp_path, 1)
    assert run.info()["status"] == "failed"
    assert re.fullmatch(r"ZeroDivisionError in .*test_loop.py, line \d+: division by zero", run.info()["reason"])
    assert "ZeroDivisionError: division by zero" in (run.path / "error.log").read_text()


def test_out_of_memory_is_a_resource_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build(digits())

    def forward(self: object, x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 ...")

    monkeypatch.setattr(type(built.model), "forward", forward)
    with pytest.raises(ResourceError) as caught:
        fit_new(built, tmp_path)
    told = str(caught.value)
    assert told.startswith("there is not enough memory for another 2.1 GB: this training takes at least ")
    assert re.search(r", and cpu has [\d,.]+ GB: take a smaller [-\w ]+$", told)
    assert Run(tmp_path, 1).info()["status"] == "failed"


def test_progress_counts_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlcli.training.meter._PROGRESS_SECONDS", 0.0)
    records = fit_new(build(digits(epochs=2)), tmp_path)
    progress = [r for r in records if isinstance(r, Progress)]
    assert [p.step for p in progress] == list(range(1, 43))
    assert {p.steps for p in progress} == {42}
    assert all(math.isfinite(p.loss) and p.samples_per_second > 0 for p in progress)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model": "cnn", "data": "iris"},
            "model cnn is for images, but the data is features of 4: choose --data digits, or model mlp",
        ),
        (
            {"model": "rnn", "data": "digits"},
            "model rnn is for texts, their next token or their class, but the data is image of 1x8x8 for multiclass: "
            "choose --data pydocs, or another model",
        ),
        (
            {"model": "mlp", "model_options": {"hiden": 3}},
            "unknown setting model.hiden: did you mean hidden?",
        ),
        (
            {"model": "attention", "model_options": {"width": 30, "heads": 4}},
            "model.heads = 4 must divide model.width = 30",
        ),
        ({"model": "mlp", "loss": "mse"}, "loss = mse does not go with multiclass: use cross-entropy"),
        (
            {"model": "mlp", "monitor": "r2"},
            "monitor = r2 is no metric of multiclass: use loss, accuracy, top5_accuracy, macro_f1, "
            "balanced_accuracy, auc, log_loss, calibration_error",
        ),
        ({"model": "mlp", "precision": "tf32"}, "precision = tf32 needs a CUDA device, not cpu: use fp32 or bf16"),
        ({"model": "mlp", "augment": ("flap",)}, "unknown augment 'flap': did you mean flip?"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused_before_a_run_is_made(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        list(train(TrainConfig(**({"device": "cpu"} | settings)), runs_dir=tmp_path / "runs"))  # type: ignore[arg-type]
    assert str(caught.value) == message
    assert not (tmp_path / "runs").exists()


def test_least_squares_is_reached_on_whatever_rows_a_split_leaves(tmp_path: Path) -> None:
    config = TrainConfig.from_flat(read_file("recipe:linear-make-regression"))
    for changes in ({}, {"val_fraction": 0.1, "test_fraction": None}):
        built = build(config.replace(**changes))
        fit_new(built, tmp_path)
        whole = full(built.dataset.train)
        x, y = whole.x.double().numpy(), whole.y.double().numpy()
        (w, b), *_ = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)
        assert built.model.linear.weight.item() == pytest.approx(w, rel=1e-3)  # type: ignore[union-attr, operator]
        assert built.model.linear.bias.item() == pytest.approx(b, rel=1e-3)  # type: ignore[union-attr, operator]
        if not changes:
            assert (w, b) == pytest.approx((47.13324, 2.33023), rel=1e-5)


def test_a_config_written_by_hand_equals_the_record(tmp_path: Path) -> None:
    """A config with the content of config.json gives the same run again."""
    run, _ = finished(digits(model="cnn"), tmp_path)
    again, _ = finished(run.config(), tmp_path)
    assert without_times(run) == without_times(again)
    first, second = (json.loads((r.path / "config.json").read_text()) for r in (run, again))
    assert first == second


def test_the_average_of_the_weights_is_what_is_measured_and_saved(tmp_path: Path) -> None:
    """It does not change the training itself."""
    plain, averaged = (finished(digits(ema=ema, epochs=1), tmp_path)[0] for ema in (0.0, 0.9))
    raw = checkpoint.load(plain.checkpoints, "last").weights
    saved = checkpoint.load(averaged.checkpoints, "last", with_training=True)
    assert saved.training is not None
    assert all(torch.equal(saved.training[f"model.{name}"], raw[name]) for name in raw)
    assert not any(torch.equal(saved.weights[name], raw[name]) for name in raw)
    built = build(digits())
    built.model.load_state_dict(saved.weights)
    val = built.dataset.val
    assert val is not None
    held_out = full(val)
    with torch.no_grad():
        loss = F.cross_entropy(built.model(held_out.x), held_out.y).item()
    assert averaged.metrics()[-1]["val/loss"] == pytest.approx(loss, rel=1e-6)
    assert plain.metrics()[-1]["val/loss"] != pytest.approx(loss, rel=1e-3)


def test_the_validation_split_follows_the_seed_and_the_test_split_does_not() -> None:
    first, again, other = (build(digits(seed=seed)).dataset for seed in (0, 0, 1))
    assert torch.equal(first.val.index, again.val.index)  # type: ignore[union-attr, arg-type]
    assert not torch.equal(first.val.index, other.val.index)  # type: ignore[union-attr, arg-type]
    assert torch.equal(first.test.index, other.test.index)  # type: ignore[union-attr, arg-type]
