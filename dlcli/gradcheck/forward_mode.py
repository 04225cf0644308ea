"""Compares forward-mode derivatives (Jacobian-vector products) with numeric ones, in a random direction per tensor."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from dlcli.core.errors import DlcliError
from dlcli.core.seeds import derive
from dlcli.gradcheck.probing import Probe, floors_of, results, row
from dlcli.gradcheck.report import Finding, Row
from dlcli.gradcheck.subject import Gradients, Subject, Variable, first_line


def check(subject: Subject, *, seed: int) -> tuple[list[Row], list[Finding]]:
    """One row per parameter and input. Attention uses the math kernel, since the fused ones have no forward mode."""
    rows: list[Row] = []
    with sdpa_kernel(SDPBackend.MATH):
        centre = subject.value()
        roundoff = subject.roundoff(centre)
        reverse = subject.gradients(taps=False)
        variables = {v.name: v for v in reverse.variables}
        for name, leaf in subject.leaves.items():
            generator = torch.Generator().manual_seed(derive(seed, f"forward mode of {name}"))
            direction = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
            direction /= direction.norm()
            try:
                tangents = _tangents(subject, name, direction)
            except DlcliError:
                raise
            except Exception as error:
                text = f"in {subject.mode} mode there is no forward-mode derivative by {name}: {first_line(error)}"
                return rows, [Finding("undecided", text)]
            variable = Variable(name, "forward mode", "", tuple(leaf.shape))
            # In place of the gradient: the multiple of the direction whose dot product with it is the tangent.
            of = tuple({variable: None if t is None else t * direction} for t in tangents)
            gradients = Gradients(centre, (variable,), of, {})
            floors = floors_of(reverse, variables[name])
            probes = [Probe(None, direction)]
            found = list(results(subject, gradients, variable, probes, floors=floors, roundoff=roundoff))
            first, second = (row(subject, gradients, variable, found, j, floors=floors) for j in range(2))
            rows.append(first.merged(second))
    return rows, []


def _tangents(subject: Subject, name: str, direction: Tensor) -> list[Tensor | None]:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(subject.leaves[name].detach(), direction)  # type: ignore[no-untyped-call]

        def moved(*args: Any) -> Any:
            replaced = {n: dual if n == name else p.detach() for n, p in subject.parameters.items()}
            return functional_call(subject.module, replaced, args)

        inputs: list[Tensor] = []
        of_input = {id(x): n for n, x in subject.inputs.items()}
        for x in subject.args:
            inputs.append(dual if of_input.get(id(x)) == name else x.detach())
        objectives = subject.objectives(subject.run(module=moved, inputs=inputs))
        return [forward_ad.unpack_dual(o).tangent for o in objectives]  # type: ignore[no-untyped-call]
