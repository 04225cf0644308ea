"""The learning rate as a pure function of the step."""

import math


def learning_rate(
    step: int,
    *,
    lr: float,
    schedule: str,
    steps: int,
    warmup_steps: int = 0,
    steps_per_drop: int = 0,
    gamma: float = 0.1,
) -> float:
    """The learning rate of `step` (counted from 0) in a training of `steps` steps.

    constant, cosine (to 0) and step (multiplied by `gamma` every `steps_per_drop` steps) have a linear warm-up from 0
    over `warmup_steps`. one-cycle (Smith 2018, arXiv:1803.09820) is linear from lr / 10 to lr over `warmup_steps`, then
    linear to lr / 1000.
    """
    if step < warmup_steps:
        rise = (step + 1) / warmup_steps
        return lr * (0.1 + 0.9 * rise) if schedule == "one-cycle" else lr * rise
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    if schedule == "cosine":
        return lr * 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "one-cycle":
        return lr * (1 - 0.999 * done)
    if schedule == "step":
        return float(lr * gamma ** (step // steps_per_drop))
    return lr
