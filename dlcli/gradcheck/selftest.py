"""A test of the gradient check itself: it must detect bugs that are planted into models, and name the right module."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from dlcli.core.seeds import derive
from dlcli.core.spec import DataSpec
from dlcli.gradcheck.check import Settings, check_case
from dlcli.gradcheck.inputs import Input
from dlcli.gradcheck.mutations import MUTATIONS, Mutation
from dlcli.gradcheck.probing import Effort
from dlcli.gradcheck.subject import MODEL, Case, Subject, build, quiet_double
from dlcli.gradcheck.targets import built_in_cases
from dlcli.models.mlp import MLP

# Fewer probes than in a real check: a bug found with these is found with more.
EFFORT = Effort(
    directions=1, coordinates=2, whole=2, boundary_directions=1, boundary_coordinates=0, boundary_whole=0
)  # fmt: skip
# The number of models that each kind of bug is planted into, if that many can have it.
MODELS_A_KIND = 3
# A change that alters no gradient by more than this part of the model's largest gradient is not a bug. For example, the
# gradient of the bias of attention's keys is zero already, so zeroing it changes nothing.
_EQUIVALENT = 1e-9


@dataclass(frozen=True)
class Planted:
    """One planted bug. module: where it was planted. blamed: the module that the report named, if any."""

    mutation: str
    model: str
    module: str
    detected: bool
    blamed: str | None

    @property
    def localised(self) -> bool:
        return self.detected and self.blamed == self.module

    def as_dict(self) -> dict[str, Any]:
        return {
            "mutation": self.mutation,
            "model": self.model,
            "module": self.module,
            "detected": self.detected,
            "blamed": self.blamed,
            "localised": self.localised,
        }


@dataclass(frozen=True)
class SelfTest:
    """passed: all bugs were detected, at least 95 % attributed to the right module, and no correct model failed."""

    seed: int
    planted: tuple[Planted, ...]
    false_alarms: tuple[str, ...]

    @property
    def detected(self) -> int:
        return sum(p.detected for p in self.planted)

    @property
    def localised(self) -> int:
        return sum(p.localised for p in self.planted)

    @property
    def passed(self) -> bool:
        enough = bool(self.planted) and self.localised >= 0.95 * len(self.planted)
        return self.detected == len(self.planted) and enough and not self.false_alarms

    def as_dict(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "seed": self.seed,
            "kinds": len({p.mutation for p in self.planted}),
            "models": len({p.model for p in self.planted}),
            "planted": len(self.planted),
            "detected": self.detected,
            "localised": self.localised,
            "false_alarms": list(self.false_alarms),
            "bugs": [p.as_dict() for p in self.planted],
        }


def self_test(*, seed: int = 0) -> SelfTest:
    """Plant every kind of bug, one at a time, into models that can have it, and check the model each time."""
    cases = subjects()
    settings = Settings(seed=seed, effort=EFFORT, second_opinion=False)
    false_alarms = [case.name for case in cases if check_case(case, settings=settings).verdict == "fail"]
    return SelfTest(seed, tuple(plant_all(cases, MUTATIONS, seed=seed)), tuple(false_alarms))


def plant_all(cases: Sequence[Case], mutations: Sequence[Mutation], *, seed: int) -> Iterator[Planted]:
    """Plant each mutation into a random module of up to MODELS_A_KIND random cases that have a module for it."""
    settings = Settings(seed=seed, effort=EFFORT, second_opinion=False)
    for mutation in mutations:
        drawn = random.Random(derive(seed, f"models for {mutation.name}")).sample(cases, len(cases))
        planted = 0
        for case in drawn:
            place = _place(case, mutation, seed=seed) if planted < MODELS_A_KIND else None
            if place is None:
                continue
            planted += 1
            name, broken = place
            report = check_case(broken, settings=settings)
            blamed = report.blame.module if report.blame else None
            yield Planted(mutation.name, case.name, name or MODEL, report.verdict == "fail", blamed)


def subjects() -> list[Case]:
    """The models to plant bugs into: built-in ones, one with a layer used twice, and a residual block (batch norm)."""
    cases = [case for name in ("mlp", "cnn", "simple-cnn", "rnn", "attention") for case in built_in_cases(name)]
    text = next(case for case in cases if case.name == "attention (next token)")
    spec = DataSpec("multiclass", "features", (5,), 3)
    tanh = Case(
        "mlp (tanh)", lambda: MLP(spec, hidden=(5, 5), activation="tanh"), (Input("float", (3, 5)),)
    )  # fmt: skip
    classes = next(case for case in cases if case.name == "attention (classes)")
    tied = replace(classes, name="attention (tied layers)", build=lambda: _tied(classes.build()))
    block = Case("residual block", _residual_block, (Input("float", (4, 3, 4, 4)),))
    return [*[case for case in cases if case is not text], text, tanh, tied, block]


def _tied(model: nn.Module) -> nn.Module:
    """Make the first attention layer also the second."""
    model.layers[1] = model.layers[0]  # type: ignore[index, operator]
    for module in model.layers[0].modules():  # type: ignore[index, union-attr]
        module.used_twice = True
    return model


def _residual_block() -> nn.Module:
    from torchvision.models.resnet import BasicBlock

    return BasicBlock(3, 3)


def _place(case: Case, mutation: Mutation, *, seed: int) -> tuple[str, Case] | None:
    """The name of a random module in which the mutation changes a gradient, and the case with the bug; or None."""
    with quiet_double():
        names = [name for name, module in build(case, seed).named_modules() if mutation.fits(module)]
        random.Random(derive(seed, f"{mutation.name} in {case.name}")).shuffle(names)
        for name in names:
            broken = replace(case, build=_planting(case.build, mutation, name))
            if not _equivalent(case, broken, seed=seed):
                return name, broken
    return None


def _planting(build: Callable[[], nn.Module], mutation: Mutation, name: str) -> Callable[[], nn.Module]:
    def planted() -> nn.Module:
        model = build()
        mutation.plant(model.get_submodule(name))
        return model

    return planted


def _equivalent(case: Case, broken: Case, *, seed: int) -> bool:
    for training in (True, False):
        both = []
        for one in (case, broken):
            subject = Subject(one, seed=seed, point=0, training=training)
            both.append(subject.gradients(taps=False))
        for right, wrong in zip(both[0].of, both[1].of, strict=True):
            largest = max((float(g.abs().max()) for g in right.values() if g is not None), default=0.0)
            for a, b in zip(right.values(), wrong.values(), strict=True):
                gap = (
                    torch.zeros(()) if a is None and b is None else ((0 if a is None else a) - (0 if b is None else b))
                )
                if not float(torch.as_tensor(gap).abs().max()) <= _EQUIVALENT * largest:
                    return False
    return True
