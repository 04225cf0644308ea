"""Distillation: the loss against torch's own divergence, the teacher fitted to its student, and what is recorded."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from dlcli import DataSpec, Source, TrainConfig, resume, train
from dlcli.checkpoints import checkpoint
from dlcli.cli.main import app
from dlcli.core.errors import RunError
from dlcli.data import batches
from dlcli.experiment.build import build
from dlcli.experiment.objective import Teaching, choose_objective
from dlcli.experiment.restore import restore
from dlcli.runs.run import Run
from dlcli.tasks.distillation import teaching_loss
from tests.test_resume import assert_same, stopping_at


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shape", [(7, 5), (3, 4, 6)])
def test_the_loss_and_its_gradient_are_those_of_torch_in_double(temperature: float, shape: Any) -> None:
    torch.manual_seed(0)
    teacher = 3 * torch.randn(shape, dtype=torch.float64)
    ours, theirs = (3 * torch.randn(shape, dtype=torch.float64) for _ in range(2))
    theirs = ours.clone().requires_grad_()
    ours.requires_grad_()
    found = teaching_loss(ours, teacher, temperature=temperature)
    flat, target = theirs.flatten(0, -2), teacher.flatten(0, -2)
    wanted = temperature**2 * F.kl_div(
        (flat / temperature).log_softmax(1), (target / temperature).softmax(1), reduction="batchmean"
    )
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)
    found.backward()  # type: ignore[no-untyped-call]
    wanted.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-11, atol=1e-14)


def test_of_two_classes_it_is_the_divergence_of_their_probabilities() -> None:
    """One logit z is the logits 0 and z: p log(p / q) + (1 - p) log((1 - p) / (1 - q))."""
    student, teacher = torch.tensor([[0.3], [-2.0]]).double(), torch.tensor([[1.5], [4.0]]).double()
    p, q = torch.sigmoid(teacher / 2), torch.sigmoid(student / 2)
    wanted = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(teaching_loss(student, teacher, temperature=2.0), wanted)


def images(data_dir: Path, *, names: str = "abc", offset: float = 0.0, sharp: float = 1.0) -> Source:
    """Noise whose class is its brightest third; `names` gives the order of the classes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 200, (300, 1, 6, 6), generator=generator).float() * sharp + offset
    brightest = x.view(300, 3, 12).sum(2).argmax(1)
    order = torch.tensor(["abc".index(name) for name in names])
    y = (brightest[:, None] == order).int().argmax(1)
    spec = DataSpec("multiclass", "image", (1, 6, 6), 3)
    return Source(spec, x.clamp(0, 255).to(torch.uint8), y, class_names=tuple(names))


def two(data_dir: Path, *, names: str = "ab") -> Source:
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(2))
    y = (x.sum(1) > 0).long()
    return Source(DataSpec("binary", "features", (4,), 1), x, y if names == "ab" else 1 - y, class_names=tuple(names))


def numbers(data_dir: Path) -> Source:
    x = torch.randn(60, 4)
    return Source(DataSpec("regression", "features", (4,), 1), x, x.sum(1))


def config(**settings: Any) -> TrainConfig:
    given = {"model": "mlp", "data": "tests.test_distillation:images", "device": "cpu", "epochs": 3, "batch_size": 50}
    return TrainConfig(**(given | {"model_options": {"hidden": (8,)}} | settings))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A teacher."""
    root = tmp_path_factory.mktemp("teachers")
    list(train(config(lr=0.1, epochs=8), runs_dir=root))
    return Run(root, 1)


def copied(run: Run, root: Path) -> Run:
    shutil.copytree(run.path, root / "1")
    return Run(root, 1)


def test_the_objective_is_the_weighted_sum_and_the_teacher_gets_no_gradient(taught: Run) -> None:
    built = build(config(teacher=str(taught.path), temperature=3.0, distill_weight=0.7))
    assert built.teacher is not None
    batch = next(batches.endless(built.dataset.train, 50, seed=0, epoch=1))
    own = restore(taught).model
    output = built.model(batch.x)
    soft = F.kl_div((output / 3).log_softmax(1), (own(batch.x) / 3).softmax(1), reduction="batchmean")
    wanted = 0.3 * F.cross_entropy(output, batch.y) + 0.7 * 9 * soft
    found = built.objective(built.model, batch)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    found.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in built.teacher.model.parameters())
    assert not built.teacher.model.training


def test_cached_answers_are_those_that_the_teacher_gives_to_each_batch(taught: Run, tmp_path: Path) -> None:
    """Also on the split of a data set whose rows are drawn, and once for each sample."""
    built = build(config(teacher=str(taught.path)))
    assert built.teacher is not None
    calls = []
    built.teacher.model.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    objective = built.objective
    assert sum(calls) == len(built.dataset.train)
    twin = choose_objective(built.task, (), Teaching(built.teacher, 4.0, 0.9, None))
    for batch, _ in zip(batches.endless(built.dataset.train, 50, seed=0, epoch=1), range(9), strict=False):
        calls.clear()
        found = objective(built.model, batch)
        assert not calls
        torch.testing.assert_close(found, twin(built.model, batch), rtol=1e-5, atol=1e-6)


def test_augmented_batches_are_shown_to_the_teacher_as_they_are(taught: Run) -> None:
    built = build(config(teacher=str(taught.path), augment=("flip", "mixup=0.5"), distill_weight=1.0))
    assert built.teacher is not None
    seen: list[Tensor] = []
    for model in (built.model, built.teacher.model):
        model.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
    batch = next(
        batches.endless(built.dataset.train, 50, seed=0, epoch=1, augmentations=built.augmentations, blank=None)
    )
    built.objective(built.model, batch)
    torch.testing.assert_close(seen[0], seen[1])
    assert not torch.equal(seen[0], batch.x)  # mixed


@pytest.mark.parametrize(
    "changes",
    [
        {"data_options": {"names": "cab"}},
        {"normalize": False},
        {"val_fraction": 0.6, "seed": 5},
        {"data_options": {"names": "bca"}, "val_fraction": 0.3, "normalize": False},
    ],
    ids=["order", "not-normalised", "other-mean", "all"],
)
def test_other_orders_of_classes_and_other_normalisations_are_translated(changes: Any, taught: Run) -> None:
    """The teacher gives to the student's inputs what it gives to the raw images, by the names of the classes."""
    built = build(config(**({"teacher": str(taught.path)} | changes)))
    assert built.teacher is not None
    own = restore(taught)
    raw = images(Path()).x[:20]
    found = built.teacher.answer(built.dataset.preprocessing.apply(raw))
    names = built.dataset.preprocessing.class_names
    wanted = own.answer(raw)[:, [own.preprocessing.class_names.index(name) for name in names]]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_two_classes_in_the_other_order_turn_the_logit(tmp_path: Path) -> None:
    made = config(data="tests.test_distillation:two", lr=0.1)
    list(train(made, runs_dir=tmp_path))
    other = build(made.replace(teacher=str(tmp_path / "1"), data_options={"names": "ba"}))
    same = build(made.replace(teacher=str(tmp_path / "1")))
    assert other.teacher is not None and same.teacher is not None
    x = torch.randn(5, 4)
    torch.testing.assert_close(other.teacher.answer(x), -same.teacher.answer(x))


def refusal(root: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["train", "mlp", "--device", "cpu", *words, "--runs-dir", str(root / "none")])
    assert not (root / "none").exists()
    return done.exit_code, done.stderr.strip().splitlines()[-1]


def test_a_teacher_of_something_else_is_refused_before_there_is_a_run(taught: Run, tmp_path: Path) -> None:
    module = "tests.test_distillation"
    teacher = ("--teacher", str(taught.path))
    about = f"error: teacher {taught.path} was trained on {module}:images, and data"
    assert refusal(tmp_path, *teacher, "--data", "digits") == (
        4,
        f"{about} digits differs: its inputs: image of 1x6x6 -> image of 1x8x8; take a teacher of the same kind of "
        "data",
    )
    assert refusal(tmp_path, *teacher, "--data", f"{module}:images", "--set", "data.names=abd")[0] in (2, 3)
    assert refusal(tmp_path, *teacher, "--data", f"{module}:numbers") == (
        2, f"error: teacher = {taught.path} is for classes or tokens, but data {module}:numbers is for regression",
    )  # fmt: skip
    assert refusal(tmp_path, "--teacher", str(tmp_path / "9")) == (
        4, f"error: there is no run {tmp_path / '9'} in {tmp_path}: see `dlcli runs`",
    )  # fmt: skip
    assert refusal(tmp_path, "--temperature", "2") == (
        2, "error: temperature and distill_weight need a teacher: teacher = RUN",
    )  # fmt: skip


def test_a_teacher_with_other_classes_is_refused(taught: Run) -> None:
    from dlcli.experiment.teacher import read_teacher

    other = dataclasses.replace(restore(taught).preprocessing, class_names=("a", "b", "d"))
    with pytest.raises(RunError) as caught:
        read_teacher(taught.path, other, data_name="mine", device=torch.device("cpu"))
    assert str(caught.value).endswith(
        "data mine differs: its classes: a, b, c -> a, b, d; take a teacher of the same classes"
    )


def test_run_json_the_opening_lines_and_config_json_tell_the_teacher(taught: Run, tmp_path: Path) -> None:
    shutil.copytree(taught.path, tmp_path / "1")
    done = CliRunner().invoke(
        app, ["train", "mlp", "--data", "tests.test_distillation:images", "--teacher", "latest", "--epochs", "1",
              "--device", "cpu", "--runs-dir", str(tmp_path)],
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    saved = checkpoint.load(tmp_path / "1" / "checkpoints", "best").path
    manifest = json.loads((saved / "MANIFEST.json").read_text())
    about = json.loads((tmp_path / "2" / "run.json").read_text())["teacher"]
    assert about["run"] == str(tmp_path / "1") and about["checkpoint"] == saved.name
    assert about["sha256"] in json.dumps(manifest)
    assert f"taught by {tmp_path / '1'} ({saved.name}), weight 0.9" in done.stderr
    settings = json.loads((tmp_path / "2" / "config.json").read_text())
    assert (settings["teacher"], settings["temperature"], settings["distill_weight"]) == (about["run"], 4.0, 0.9)


@pytest.mark.parametrize("settings", [{}, {"augment": ("noise=0.1", "mixup=0.3")}], ids=["cached", "augmented"])
def test_a_resume_is_exact_while_the_teacher_is_the_same(settings: dict[str, Any], taught: Run, tmp_path: Path) -> None:
    made = config(
        teacher=str(taught.path), optimizer="adam", model_options={"hidden": (8,), "dropout": 0.2}, **settings
    )
    list(train(made, runs_dir=tmp_path))
    list(train(made, runs_dir=tmp_path, stop=stopping_at(6)))
    list(resume(Run(tmp_path, 2), exact=True))
    assert_same(Run(tmp_path, 1), Run(tmp_path, 2))


def test_a_resume_is_refused_when_the_teacher_is_gone_or_has_changed(taught: Run, tmp_path: Path) -> None:
    teacher = copied(taught, tmp_path / "teachers")
    made = config(teacher=str(teacher.path))
    list(train(made, runs_dir=tmp_path / "runs", stop=stopping_at(6)))
    run = Run(tmp_path / "runs", 1)
    before = run.info()["teacher"]["checkpoint"]
    list(resume(teacher, epochs=20))
    with pytest.raises(RunError) as caught:
        list(resume(run))
    after = checkpoint.load(teacher.checkpoints, "best").path.name
    assert str(caught.value) == (
        f"teacher {teacher.path} has changed: its best checkpoint is {after}, and the run was trained with '{before}'; "
        f"give --teacher {teacher.path} to go on with it as it is"
    )
    with pytest.raises(RunError, match="teacher changed"):
        list(resume(run, teacher=str(teacher.path), exact=True))
    shutil.rmtree(teacher.path)
    with pytest.raises(RunError, match="there is no run"):
        list(resume(run))
    assert run.info()["status"] == "interrupted"
    list(resume(run, teacher="none"))
    assert run.info()["status"] == "finished" and run.info()["teacher"] is None


def test_a_student_is_measured_applied_and_exported_without_its_teacher(taught: Run, tmp_path: Path) -> None:
    teacher = copied(taught, tmp_path / "teachers")
    list(train(config(teacher=str(teacher.path)), runs_dir=tmp_path / "runs"))
    shutil.rmtree(teacher.path)
    for words in (["eval", "1"], ["export", "1", "--format", "safetensors"]):
        done = CliRunner().invoke(app, [*words, "--runs-dir", str(tmp_path / "runs")])
        assert done.exit_code == 0, done.stderr


def test_tokens_are_taught_at_every_step(tmp_path: Path) -> None:
    made = TrainConfig(
        model="rnn", data=f"text:{__file__}", model_options={"hidden": 8}, data_options={"length": 16}, steps=3,
        device="cpu",
    )  # fmt: skip
    list(train(made, runs_dir=tmp_path))
    built = build(made.replace(teacher=str(tmp_path / "1"), seed=0))
    batch = next(batches.endless(built.dataset.train, 8, seed=0, epoch=1))
    output, teacher = built.model(batch.x), restore(Run(tmp_path, 1)).model(batch.x)
    soft = F.kl_div(
        (output / 4).log_softmax(-1).flatten(0, 1), (teacher / 4).softmax(-1).flatten(0, 1), reduction="batchmean"
    )
    wanted = 0.1 * built.task.loss(output, batch.y) + 0.9 * 16 * soft
    torch.testing.assert_close(built.objective(built.model, batch), wanted, rtol=1e-4, atol=1e-6)
