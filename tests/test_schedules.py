"""The learning rate of each step, compared with torch's schedulers and with values by hand."""

import pytest
import torch
from torch.optim import lr_scheduler

from dlcli.compute.schedules import learning_rate


def ours(steps: int, **settings) -> list[float]:
    return [learning_rate(step, lr=0.1, steps=steps, **settings) for step in range(steps)]


def torchs(steps: int, make) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_constant() -> None:
    assert ours(7, schedule="constant") == [0.1] * 7


@pytest.mark.parametrize("steps", [1, 2, 25])
def test_cosine_is_torchs(steps: int) -> None:
    expected = torchs(steps, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=steps))
    assert ours(steps, schedule="cosine") == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("every", "gamma"), [(1, 0.5), (4, 0.1), (30, 0.1)])
def test_step_is_torchs(every: int, gamma: float) -> None:
    expected = torchs(20, lambda o: lr_scheduler.StepLR(o, every, gamma))
    assert ours(20, schedule="step", steps_per_drop=every, gamma=gamma) == pytest.approx(expected, rel=1e-12)


def test_warm_up_rises_in_equal_steps_to_the_rate_of_the_schedule() -> None:
    assert ours(6, schedule="constant", warmup_steps=4) == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    assert ours(6, schedule="cosine", warmup_steps=2) == pytest.approx(
        [0.05, 0.1, *torchs(4, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=4))], rel=1e-9
    )
    rates = ours(6, schedule="step", steps_per_drop=3, gamma=0.5, warmup_steps=2)
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.05, 0.05, 0.05])


def test_one_cycle_rises_from_a_tenth_and_falls_to_a_thousandth() -> None:
    rates = ours(8, schedule="one-cycle", warmup_steps=3)
    assert rates == pytest.approx(
        [0.1 * (0.1 + 0.3), 0.1 * (0.1 + 0.6), 0.1]  # linear from lr / 10, at lr in the last step of the warm-up
        + [0.1 * (1 - 0.999 * k / 5) for k in range(5)]  # linear to lr / 1000 after the last step
    )
    assert learning_rate(8, lr=0.1, schedule="one-cycle", steps=8, warmup_steps=3) == pytest.approx(0.0001)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one-cycle", "step"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (5, 5), (9, 4)])
def test_every_rate_lies_above_zero_and_at_most_at_the_peak(schedule: str, steps: int, warmup: int) -> None:
    for rate in ours(steps, schedule=schedule, warmup_steps=warmup, steps_per_drop=2):
        assert 0 < rate <= 0.1
