"""A second opinion on small targets: torch.autograd.gradcheck in its slow mode, and gradgradcheck."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from dlcli.gradcheck.report import Opinion, TargetReport
from dlcli.gradcheck.structure import float_tensors
from dlcli.gradcheck.subject import Subject, first_line

# Largest number of elements of parameters and inputs. Each costs two evaluations, or two double backward passes.
MOST_ELEMENTS = {"gradcheck": 1500, "gradgradcheck": 250}


def ask(subjects: Sequence[Subject], report: TargetReport, *, order: int) -> list[Opinion]:
    """The results of gradcheck in each mode, and with order 2 also of gradgradcheck, with attention's math kernel."""
    opinions = []
    for subject in subjects:
        size = sum(leaf.numel() for leaf in subject.leaves.values())
        if size <= MOST_ELEMENTS["gradcheck"]:
            opinions.append(_ask(subject, report, "gradcheck", torch.autograd.gradcheck))
        if order == 2 and size <= MOST_ELEMENTS["gradgradcheck"]:
            with sdpa_kernel(SDPBackend.MATH):
                opinions.append(_ask(subject, report, "gradgradcheck", torch.autograd.gradgradcheck))
    return opinions


def _ask(subject: Subject, report: TargetReport, name: str, theirs: Callable[..., bool]) -> Opinion:
    count = len(subject.parameters)

    def function(*leaves: Tensor) -> tuple[Tensor, ...]:
        parameters = dict(zip(subject.parameters, leaves[:count], strict=True))
        floats = iter(leaves[count:])
        inputs = [next(floats) if x.is_floating_point() else x for x in subject.args]
        output = subject.run(module=lambda *args: functional_call(subject.module, parameters, args), inputs=inputs)
        return tuple(t for t in float_tensors(output) if t.requires_grad)

    try:
        theirs(function, tuple(leaf.detach().clone().requires_grad_() for leaf in subject.leaves.values()))
        passes, text = True, "passes"
    except Exception as error:
        passes, text = False, first_line(error)
    judged = report.verdict != "fail"
    return Opinion(f"torch.autograd.{name}, {subject.mode}", passes, passes == judged, text)
