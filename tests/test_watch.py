"""A training that diverges is stopped, and the error names the place; the last checkpoint stays finite."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlcli import TrainConfig, train
from dlcli.checkpoints import checkpoint
from dlcli.core.errors import DivergedError
from dlcli.data import batches
from dlcli.experiment.build import build
from dlcli.runs.run import Run


class PoisonedLinear(nn.Module):
    """A linear model whose loss, or only its gradient, is not finite from the given forward pass on."""

    def __init__(self, spec: Any, *, at: int = 0, gradient_only: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(spec.input_shape[0], spec.outputs)
        self.at, self.gradient_only, self.calls = at, gradient_only, 0

    def forward(self, x: Tensor) -> Tensor:
        output = self.linear(x)
        self.calls += self.training and len(x) > 2  # not in the trial before the run exists
        if self.training and self.calls >= self.at:
            # The square root at 0 is finite, its derivative is not.
            return output + (output - output.detach()).abs().sqrt() if self.gradient_only else output * float("nan")
        return output


def poisoned(**settings: Any) -> TrainConfig:
    return TrainConfig(
        model=f"{__name__}:PoisonedLinear", data="diabetes", batch_size=32, lr=0.01, device="cpu", **settings
    )


def diverge(config: TrainConfig, root: Path) -> tuple[Run, str]:
    with pytest.raises(DivergedError) as caught:
        list(train(config, runs_dir=root))
    run = Run(root, 1)
    assert run.info()["status"] == "diverged"
    assert run.info()["reason"] == str(caught.value)
    return run, str(caught.value)


def test_a_loss_that_is_not_finite_is_told_with_its_batch(tmp_path: Path) -> None:
    config = poisoned(epochs=3, model_options={"at": 16})
    run, message = diverge(config, tmp_path)
    data = build(config).dataset
    samples = batches.epoch_order(data.train, seed=0, epoch=2)[5 * 32 : 6 * 32].tolist()
    found = run.info()["diverged"]
    assert -(-len(data.train) // 32) == 10  # so the 16th batch is number 5 of the second epoch
    place = {name: found[name] for name in ("what", "epoch", "batch", "step", "lr")}
    assert place == {"what": "loss", "epoch": 2, "batch": 5, "step": 16, "lr": 0.01}
    assert found["samples"] == samples
    assert found["gradient_norm_step"] == 15
    told = ", ".join(map(str, samples[:8]))
    assert message == (
        f"the loss became nan at step 16 (epoch 2, lr 0.01, gradient norm {found['gradient_norm']:.4g} at step 15; "
        f"batch 5 with samples {told} and 24 more): lower lr or set clip_norm"
    )


def test_the_gradient_norm_is_that_of_all_gradients_together(tmp_path: Path) -> None:
    run, _ = diverge(poisoned(epochs=1, model_options={"at": 2}), tmp_path)
    built = build(poisoned(epochs=1, model_options={"at": 2}))
    batch = next(batches.shuffled(built.dataset.train, 32, seed=0, epoch=1))
    built.task.loss(built.model(batch.x), batch.y).backward()
    gradients = torch.cat([p.grad.flatten() for p in built.model.parameters() if p.grad is not None])
    assert run.info()["diverged"]["gradient_norm"] == pytest.approx(float(gradients.norm()), rel=1e-6)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_gradient_that_is_not_finite_is_seen_though_the_loss_is(clip: float | None, tmp_path: Path) -> None:
    config = poisoned(epochs=2, model_options={"at": 3, "gradient_only": True}, clip_norm=clip)
    run, message = diverge(config, tmp_path)
    assert message.startswith("the gradient became nan at step 3 (epoch 1, lr 0.01, gradient norm ")
    assert run.info()["diverged"]["batch"] == 2
    assert run.metrics() == []


def test_the_first_bad_step_is_named_though_no_one_looked_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlcli.training.watch._EARLY_STEPS", 0)
    monkeypatch.setattr("dlcli.training.meter._PROGRESS_SECONDS", 1e9)
    run, message = diverge(poisoned(epochs=3, model_options={"at": 4}, accumulate=2), tmp_path)
    # Two batches per step: the fourth batch is the second of step 2; it is detected at the end of the epoch.
    assert message.startswith("the loss became nan at step 2 (epoch 1, lr 0.01, gradient norm unknown; batch 3 with ")
    assert run.info()["diverged"]["batch"] == 3


def test_the_last_finite_checkpoint_stays_the_last(tmp_path: Path) -> None:
    run, _ = diverge(poisoned(epochs=3, model_options={"at": 18}, checkpoint_every="5steps"), tmp_path)
    saved = checkpoint.load(run.checkpoints, "last", with_training=True)
    assert saved.state["step"] == 15
    assert saved.training is not None
    assert all(torch.isfinite(t).all() for t in (*saved.weights.values(), *saved.training.values()))
    json.dumps(run.info(), allow_nan=False)


def test_weights_that_no_loss_depends_on_are_not_saved_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = poisoned(epochs=1, model_options={"at": 99}, checkpoint_every="2steps")
    built = build(config)
    built.model.register_buffer("unused", torch.tensor([float("inf")]))
    monkeypatch.setattr("dlcli.training.train.build", lambda config, **_: built)
    with pytest.raises(DivergedError) as caught:
        list(train(config, runs_dir=tmp_path))
    assert str(caught.value) == "the weights are no longer finite at step 2: lower lr or set clip_norm"
    assert list(Run(tmp_path, 1).checkpoints.iterdir()) == []
