"""Double backward: compares the derivative of <gradient, u>, for a random u, with its numeric differences."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dlcli.core.errors import DlcliError
from dlcli.core.seeds import derive
from dlcli.gradcheck.probing import Effort, choose, floors_of, results, row
from dlcli.gradcheck.report import Finding, Row
from dlcli.gradcheck.subject import Gradients, Subject, Variable, backward, first_line


def check(subject: Subject, effort: Effort, *, seed: int) -> tuple[list[Row], list[Finding]]:
    """One row per parameter and input. Attention uses the math kernel, since the fused ones have no double backward."""
    leaves = subject.leaves
    if not effort.exhaustive:  # a probe costs eight backward passes
        effort = replace(effort, coordinates=4, whole=4)
    generator = torch.Generator().manual_seed(derive(seed, "gradcheck second order"))
    weights = [torch.randn(leaf.shape, generator=generator, dtype=torch.float64) for leaf in leaves.values()]
    tensors = list(leaves.values())

    def projections(*, graph: bool) -> list[Tensor]:
        return [
            _weighted(
                torch.autograd.grad(o, tensors, create_graph=graph, retain_graph=True, allow_unused=True), weights
            )
            if o.requires_grad
            else torch.zeros(())
            for o in subject.objectives(subject.run())
        ]

    def evaluate() -> Sequence[float]:
        return [p.item() for p in projections(graph=False)]

    with sdpa_kernel(SDPBackend.MATH):
        try:
            gradients = _gradients(subject, projections(graph=True))
        except DlcliError:
            raise
        except Exception as error:
            text = f"in {subject.mode} mode there is no double backward: {first_line(error)}"
            return [], [Finding("undecided", text)]
        sizes = [max(abs(c), 1.0) for c in gradients.centre]
        roundoff = subject.magnified(evaluate, gradients.centre, sizes)
        rows = []
        for variable in gradients.variables:
            floors = floors_of(gradients, variable)
            probes = choose(variable, gradients, effort, seed=seed)
            found = list(
                results(subject, gradients, variable, probes, floors=floors, roundoff=roundoff, evaluate=evaluate)
            )
            first, second = (row(subject, gradients, variable, found, j, floors=floors) for j in range(2))
            rows.append(first.merged(second))
    return rows, []


def _gradients(subject: Subject, projections: list[Tensor]) -> Gradients:
    variables = [Variable(name, "second order", "", tuple(leaf.shape)) for name, leaf in subject.leaves.items()]
    leaves = list(subject.leaves.values())
    of: list[dict[Variable, Tensor | None]] = []
    for projection in projections:
        # Not torch.autograd.grad, which skips a node that would raise and reports that there is no gradient.
        found = backward(projection, leaves)
        of.append(dict(zip(variables, found, strict=True)))
    return Gradients(tuple(p.item() for p in projections), tuple(variables), tuple(of), {})


def _weighted(gradients: Sequence[Tensor | None], weights: Sequence[Tensor]) -> Tensor:
    terms = [(g.to_dense() * w).sum() for g, w in zip(gradients, weights, strict=True) if g is not None]
    return torch.stack(terms).sum() if terms else torch.zeros(())
