"""The objective of a step, compared with one written by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlcli.core.spec import DataSpec
from dlcli.data import augment
from dlcli.data.batches import Batch
from dlcli.experiment.objective import choose_objective
from dlcli.tasks.choose import choose_task

SPEC = DataSpec("multiclass", "features", (4,), 3)
X, Y = torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])


def test_without_mixup_it_is_the_tasks_loss() -> None:
    model = nn.Linear(4, 3)
    objective = choose_objective(choose_task(SPEC), augment.parse(("noise=0.1",), SPEC))
    assert torch.equal(objective(model, Batch(X, Y)), F.cross_entropy(model(X), Y))


@pytest.mark.parametrize("seed", [0, 1, 2**62])
def test_mixup_is_the_loss_of_the_mixed_batch(seed: int) -> None:
    """Zhang et al. 2017: inputs and losses are mixed with the same weight, drawn from Beta(alpha, alpha)."""
    model = nn.Linear(4, 3)
    weight = float(np.random.default_rng(seed).beta(0.4, 0.4))
    output = model(weight * X + (1 - weight) * X.flip(0))
    expected = weight * F.cross_entropy(output, Y) + (1 - weight) * F.cross_entropy(output, Y.flip(0))
    objective = choose_objective(choose_task(SPEC), augment.parse(("mixup=0.4", "noise=0.1"), SPEC))
    torch.testing.assert_close(objective(model, Batch(X, Y, seed=seed)), expected)


@pytest.mark.parametrize("names", [("cutmix=0.7",), ("mixup=0.4", "cutmix")])
def test_cutmix_is_the_loss_of_the_mixed_batch_and_takes_turns_with_mixup(names: tuple[str, ...]) -> None:
    spec = DataSpec("multiclass", "image", (1, 6, 5), 3)
    x, model = torch.randn(6, 1, 6, 5), nn.Sequential(nn.Flatten(), nn.Linear(30, 3))
    ways = augment.parse(names, spec)
    objective, used = choose_objective(choose_task(spec), ways), set()
    for seed in range(20):
        found = objective(model, Batch(x, Y, seed=seed))
        for way in ways:
            mixed, weight = getattr(augment, way.name)(x, x.flip(0), way.strength, seed)
            output = model(mixed)
            loss = weight * F.cross_entropy(output, Y) + (1 - weight) * F.cross_entropy(output, Y.flip(0))
            if torch.allclose(found, loss):
                used.add(way.name)
                break
        else:
            raise AssertionError
    assert used == {way.name for way in ways}


def test_mixup_of_two_batches_differs() -> None:
    model = nn.Linear(4, 3)
    objective = choose_objective(choose_task(SPEC), augment.parse(("mixup=0.4",), SPEC))
    assert not torch.equal(objective(model, Batch(X, Y, seed=1)), objective(model, Batch(X, Y, seed=2)))
