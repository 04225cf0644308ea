"""The loss of a student against its teacher: Hinton, Vinyals, Dean 2015, arXiv:1503.02531."""

import torch
from torch import Tensor


def teaching_loss(output: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """T^2 KL(p || q), the mean over all but the last axis, a scalar; p and q are the distributions of the teacher and
    of the student at temperature T. T^2 keeps the size of its gradient when T changes.

    output, teacher: (..., K) logits of K classes or tokens, or (..., 1) logits of the second of two classes.
    """
    student = torch.log_softmax(
        _of_all_classes(output.float() if output.dtype.itemsize < 4 else output) / temperature, -1
    )
    target = torch.log_softmax(_of_all_classes(teacher.to(student.dtype)) / temperature, -1)
    return temperature**2 * (target.exp() * (target - student)).sum(-1).mean()


def _of_all_classes(logits: Tensor) -> Tensor:
    """One logit, z, is that of the second of two classes: the same as 0 and z."""
    return torch.cat((torch.zeros_like(logits), logits), -1) if logits.shape[-1] == 1 else logits
