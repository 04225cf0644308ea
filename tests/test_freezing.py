"""Frozen parameters: which they are, that nothing of them moves, and that they are trained once they are released."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from dlcli import TrainConfig, train
from dlcli.checkpoints import checkpoint
from dlcli.cli.main import app
from dlcli.core.errors import ConfigError
from dlcli.experiment.build import build
from dlcli.experiment.estimate import memory_of
from dlcli.models.freezing import frozen_names, training_mode
from dlcli.models.parts import head, inside, stages
from dlcli.runs.run import Run
from dlcli.training.state import TrainingState


def normalised() -> nn.Module:
    """A convolutional net with batch normalization and dropout in the frozen part and in the head."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 4, 3)),
        nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 8), nn.BatchNorm1d(8),
        nn.Linear(8, 3),
    )  # fmt: skip


def cnn(**settings: Any) -> TrainConfig:
    return TrainConfig(**({"model": "cnn", "epochs": 2, "device": "cpu", "batch_size": 200} | settings))


# Parts


def torchvisions(name: str) -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.get_model(name)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "last", "first_stages", "count"),
    [
        ("resnet18", ("fc",), ("conv1", "bn1", "layer1"), 7),
        ("mobilenet_v2", ("classifier.1",), ("features.0", "features.1"), 20),
    ],
)
def test_the_parts_of_a_torchvision_model(name: str, last: tuple[str, ...], first_stages: Any, count: int) -> None:
    model = torchvisions(name)
    assert head(model) == last
    assert stages(model)[: len(first_stages)] == first_stages and len(stages(model)) == count


def test_the_parts_of_our_models_and_of_one_that_says_them() -> None:
    found = {name: build(TrainConfig(model=name, device="cpu")).model for name in ("mlp", "cnn", "lenet", "linear")}
    assert {name: head(model) for name, model in found.items()} == {
        "mlp": ("layers.5",), "cnn": ("output",), "lenet": ("fc3",), "linear": ("linear",),
    }  # fmt: skip
    assert stages(found["mlp"]) == ("layers.1", "layers.3", "layers.5")
    assert stages(found["cnn"]) == ("convolutions", "hidden", "output")
    model = found["cnn"]
    model.head, model.stages = ("hidden", "output"), ("convolutions.0", "convolutions.1", "hidden", "output")
    assert head(model) == ("hidden", "output")
    assert frozen_names(model, "backbone", model_name="cnn") == frozen_names(model, "2", model_name="cnn")
    assert len(frozen_names(model, "backbone", model_name="cnn")) == 4
    assert inside("layer1.weight", ("layer1",)) and not inside("layer10.weight", ("layer1",))


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        ("none", []),
        ("backbone", ["convolutions.0", "convolutions.1", "hidden"]),
        ("1", ["convolutions.0", "convolutions.1"]),
        ("2", ["convolutions.0", "convolutions.1", "hidden"]),
        ("convolutions.1", ["convolutions.1"]),
        ("*.0.*, hidden", ["convolutions.0", "hidden"]),
        ("conv*", ["convolutions.0", "convolutions.1"]),
    ],
)
def test_what_is_frozen(freeze: str, frozen: list[str]) -> None:
    wanted = tuple(f"{module}.{name}" for module in frozen for name in ("weight", "bias"))
    assert build(cnn(freeze=freeze)).frozen == wanted


@pytest.mark.parametrize(
    ("model", "freeze", "message"),
    [
        ("cnn", "hiden", "freeze = hiden matches no parameter of model cnn: did you mean hidden or hidden.bias?"),
        (
            "cnn", "conv*,outptu.bia",
            "freeze = outptu.bia matches no parameter of model cnn: did you mean output.bias or output or "
            "output.weight?",
        ),
        (
            "linear", "zzz",
            "freeze = zzz matches no parameter of model linear: its parameters are linear.weight, linear.bias",
        ),
        ("cnn", "*", "freeze = * leaves nothing to train in model cnn: leave out its head, output"),
        (
            "cnn", "3",
            "freeze = 3 must be at least 1 and less than 3, the number of stages of model cnn (convolutions, hidden, "
            "output)",
        ),
        ("linear", "backbone", "freeze = backbone, but model linear has none: all its parameters are in its head"),
    ],
)  # fmt: skip
def test_what_cannot_be_frozen_is_refused_before_there_is_a_run(
    model: str, freeze: str, message: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["train", model, "--freeze", freeze, "--runs-dir", str(tmp_path / "runs")])
    assert (done.exit_code, done.stderr.strip().splitlines()[-1]) == (2, f"error: {message}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unfreeze_at": 2}, "unfreeze_at = 2 needs something that is frozen: freeze = backbone"),
        ({"unfreeze_at": 3, "freeze": "1"}, "unfreeze_at = 3 is never reached: epochs = 2"),
        ({"unfreeze_at": 1, "freeze": "1"}, "unfreeze_at = 1 is out of range: it must be >= 2"),
    ],
)
def test_an_epoch_to_unfreeze_at_that_means_nothing_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cnn(**settings)
    assert str(caught.value) == message


# While it is frozen


def test_what_is_frozen_is_in_evaluation_mode_and_the_rest_is_not() -> None:
    model = normalised()
    training_mode(model, frozen_names(model, "0.*", model_name="it"))
    modes = {name: module.training for name, module in model.named_modules()}
    assert [name for name, training in modes.items() if not training] == ["0", *(f"0.{i}" for i in range(5)), "1"]
    training_mode(model, ())
    assert all(module.training for module in model.modules())


def test_the_statistics_of_frozen_batch_normalization_do_not_move() -> None:
    torch.manual_seed(0)
    model = normalised()
    before = copy.deepcopy(model.state_dict())
    training_mode(model, frozen_names(model, "0.*", model_name="it"))
    for _ in range(3):
        model(3 + torch.randn(5, 1, 8, 8))
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert moved == ["5.running_mean", "5.running_var", "5.num_batches_tracked"]


class WithNorm(nn.Module):
    """(B, 1, 8, 8) -> (B, outputs), with batch normalization in the backbone."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5))
        self.middle = nn.Linear(144, 16)
        self.output = nn.Linear(16, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.middle(self.backbone(x)).relu())  # type: ignore[no-any-return]


def with_norm(**settings: Any) -> TrainConfig:
    return cnn(**({"model": "tests.test_freezing:WithNorm", "freeze": "1"} | settings))


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_training_moves_nothing_that_is_frozen_also_after_an_evaluation(ema: float, tmp_path: Path) -> None:
    """With momentum, decay and an average, which would move what has no gradient, too."""
    made = with_norm(weight_decay=0.1, decay_all=True, l1=0.1, ema=ema, eval_every=1, batch_size=100)
    start = build(made).model.state_dict()
    list(train(made, runs_dir=tmp_path))
    saved = checkpoint.load(Run(tmp_path, 1).checkpoints, "last", with_training=True)
    moved = {name for name, value in saved.weights.items() if not torch.equal(value, start[name])}
    assert moved == {"middle.weight", "middle.bias", "output.weight", "output.bias"}
    assert saved.training is not None
    momenta = [name for name in saved.training if name.startswith("optimizer.")]
    assert len(momenta) == 4
    assert saved.state["training"]["optimizer_names"] == [
        "middle.weight", "middle.bias", "output.weight", "output.bias",
    ]  # fmt: skip
    assert not any(f"model.{name}" in saved.training for name in build(made).frozen)


def test_what_is_frozen_has_no_gradient_no_state_and_no_copy() -> None:
    built = build(with_norm(ema=0.9, optimizer="adam"))
    state = TrainingState(built)
    loss = built.objective(built.model, next(iter_of(built)))
    state.backward(loss)
    named, frozen = dict(built.model.named_parameters()), set(built.frozen)
    assert {name for name, p in named.items() if p.grad is None} == frozen
    assert {id(p) for p in state.optimizer.parameters} == {id(p) for name, p in named.items() if name not in frozen}
    assert all(len(tensors) == 4 for tensors in state.optimizer.state.values())
    assert state.average is not None
    shared = {name for name, p in state.average.model.named_parameters() if p is named[name]}
    assert shared == frozen


def iter_of(built: Any) -> Any:
    from dlcli.data import batches

    return batches.in_order(built.dataset.train, 50)


def test_below_the_first_trained_layer_there_is_no_graph() -> None:
    """What autograd keeps for the backward pass is a small part of what it keeps without freezing."""

    def kept(freeze: str) -> int:
        built = build(cnn(freeze=freeze))
        TrainingState(built).training_mode()
        total = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            built.objective(built.model, next(iter_of(built)))
        return total

    assert kept("backbone") < kept("none") / 10


def test_memory_counts_gradients_and_state_of_what_is_trained_only() -> None:
    whole, part = (build(cnn(freeze=freeze, optimizer="adam")) for freeze in ("none", "backbone"))
    assert memory_of(whole).weights == 4 * 53_002 * 4
    assert memory_of(part).weights == 4 * (53_002 + 3 * 1_290)
    later = build(cnn(freeze="backbone", optimizer="adam", unfreeze_at=2))
    assert memory_of(later).weights == memory_of(whole).weights


def test_the_opening_line_and_run_json_tell_what_is_trained(tmp_path: Path) -> None:
    def opening(*words: str) -> str:
        words = ("train", "cnn", "--steps", "1", "--device", "cpu", *words, "--runs-dir", str(tmp_path))
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, done.stderr
        return done.stderr.splitlines()[1].partition(" on ")[0]

    assert opening() == "cnn (53,002 parameters)"
    assert opening("--freeze", "backbone") == "cnn (53,002 parameters: 1,290 trained, 51,712 frozen)"
    assert (
        opening("--freeze", "backbone", "--unfreeze-at", "4")
        == "cnn (53,002 parameters: 1,290 trained, 51,712 frozen until epoch 4)"
    )
    trained = [json.loads((tmp_path / n / "run.json").read_text())["trained_parameters"] for n in "123"]
    assert trained == [53_002, 1_290, 53_002]


# Once it is released


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_from_the_epoch_on_all_parameters_are_trained_as_by_torch_with_a_group_that_is_added(
    optimizer: str, tmp_path: Path
) -> None:
    """torch's own optimizer: add_param_group with state, and counts of steps, that begin at zero."""
    from dlcli.data.batches import epoch_order

    made = cnn(freeze="backbone", unfreeze_at=2, optimizer=optimizer, lr=0.01)
    theirs = build(made)
    model, data = theirs.model, theirs.dataset
    named = dict(model.named_parameters())
    first = [p for name, p in named.items() if name not in theirs.frozen]
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    how: dict[str, Any] = {"momentum": 0.9} if optimizer == "sgd" else {}
    how |= {"weight_decay": 0.0} if optimizer == "adamw" else {}
    reference = kind(first, lr=0.01, **how)  # type: ignore[arg-type]
    for epoch in (1, 2):
        if epoch == 2:
            reference.add_param_group({"params": [named[name] for name in theirs.frozen]})
        order = epoch_order(data.train, seed=0, epoch=epoch)
        for start in range(0, len(order), 200):
            x, y = data.train.rows.take(order[start : start + 200])
            assert y is not None
            reference.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            reference.step()
            if epoch == 1:
                model.zero_grad()
    list(train(made, runs_dir=tmp_path))
    found = checkpoint.load(Run(tmp_path, 1).checkpoints, "last").weights
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_an_average_of_what_was_frozen_begins_when_it_is_trained(tmp_path: Path) -> None:
    """As a loop over the weights of each step says."""
    made = with_norm(unfreeze_at=2, epochs=2, ema=0.9, batch_size=200)
    built = build(made)
    state = TrainingState(built)
    state.training_mode()
    average = {name: p.detach().clone() for name, p in built.model.named_parameters()}
    for step in range(1, 13):
        if step == 7:
            state.begin_epoch()
            assert state.frozen == () and all(p.requires_grad for p in built.model.parameters())
        state.optimizer.zero_grad()
        state.backward(built.objective(built.model, next(iter_of(built))))
        state.update(lr=0.1, clip_norm=None)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, p in built.model.named_parameters():
            average[name].lerp_(p.detach(), 1 - decay)
    assert state.average is not None
    for name, p in state.average.model.named_parameters():
        torch.testing.assert_close(p.detach(), average[name], msg=name)
    assert not {id(p) for p in state.average.model.parameters()} & {id(p) for p in built.model.parameters()}


def test_a_resume_with_something_else_frozen_keeps_the_state_of_the_optimizer_by_name(tmp_path: Path) -> None:
    made = cnn(freeze="convolutions", optimizer="adam", epochs=1)
    list(train(made, runs_dir=tmp_path))
    run = Run(tmp_path, 1)
    before = checkpoint.load(run.checkpoints, "last", with_training=True)
    built = build(made.replace(freeze="convolutions.0", epochs=2), weights=before.weights)
    state = TrainingState(built)
    state.restore(before, regrouped=True)
    assert before.training is not None and before.state["training"]["optimizer_names"][0] == "hidden.weight"
    assert state.trained[0] == "convolutions.1.weight"
    for slot in ("mean", "square"):
        values = dict(zip(state.trained, state.optimizer.state[slot], strict=True))
        assert not values["convolutions.1.weight"].any()
        for number, name in enumerate(before.state["training"]["optimizer_names"]):
            assert torch.equal(values[name], before.training[f"optimizer.{slot}.{number}"])
    assert state.optimizer.since == [7, 7, 0, 0, 0, 0]
    done = CliRunner().invoke(
        app, ["resume", "1", "--freeze", "none", "--epochs", "2", "--runs-dir", str(tmp_path), "--quiet"]
    )
    assert done.exit_code == 0, done.stderr
    after = checkpoint.load(run.checkpoints, "last", with_training=True)
    assert len(after.state["training"]["optimizer_names"]) == 8
    refused = CliRunner().invoke(
        app, ["resume", "1", "--freeze", "1", "--epochs", "3", "--runs-dir", str(tmp_path), "--exact"]
    )
    assert refused.exit_code == 4 and "freeze none -> 1" in refused.stderr
