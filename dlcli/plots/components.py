"""The first two principal components."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def components(x: "Tensor") -> tuple["Tensor", tuple[float, float]]:
    """(N, D) -> (N, 2) float64, the projection of the centred rows onto the two directions of the largest variance, and
    the share of the variance that lies along each (Pearson 1901).

    Computed by an exact singular value decomposition in float64 on one thread, so that it is the same every time. A
    direction points to where its largest coordinate is positive. What there is no variance for is 0.
    """
    import torch

    from dlcli.compute.threads import computing

    with computing(1):
        centred = x.double() - x.double().mean(0)
        _, lengths, directions = torch.linalg.svd(centred, full_matrices=False)
        largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
        projected = centred @ (directions * largest.sign()).T
    found = torch.zeros(len(x), 2, dtype=torch.float64)
    found[:, : min(2, projected.shape[1])] = projected[:, :2]
    variances = lengths.square()
    total = float(variances.sum())
    shares = [float(each) / total if total > 0 else 0.0 for each in variances[:2]] + [0.0, 0.0]
    return found, (shares[0], shares[1])
