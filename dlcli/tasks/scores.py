"""Metrics of scores and probabilities, over all samples at once. N samples, K classes."""

import torch
from torch import Tensor

_BINS = 15

# Rows of (N, K) scores that are converted to float64 at a time.
_AT_ONCE = 4096

# The smallest threshold, and the smallest distance of one from 1.
_SURE = 1e-12


def area_under_curve(score: Tensor, positive: Tensor) -> float | None:
    """Area under the ROC curve: the probability that a positive scores higher than a negative; ties count half.

    score: (N,) real numbers. positive: (N,) bool. None if a class is absent.
    Computed as the Mann-Whitney statistic from mean ranks (Hanley and McNeil 1982).
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = torch.unique(score.double(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    mean_rank = last - (counts.double() - 1) / 2
    ranks = float(mean_rank[inverse][positive].sum())
    return (ranks - positives * (positives + 1) / 2) / (positives * negatives)


def average_precision(score: Tensor, positive: Tensor) -> float | None:
    """The mean of the precision at each threshold, weighted by the gain in recall; equal scores are one threshold.

    score: (N,) real numbers. positive: (N,) bool. None without a positive.
    """
    positives = int(positive.sum())
    if not positives:
        return None
    ranked, order = score.double().sort(descending=True)
    last = torch.ones(len(ranked), dtype=torch.bool)
    last[:-1] = ranked[1:] != ranked[:-1]  # of each group of equal scores
    hits = positive[order].double().cumsum(0)[last]
    seen = torch.arange(1, len(ranked) + 1)[last]
    return float((hits.diff(prepend=hits.new_zeros(1)) * hits / seen).sum() / positives)


def calibration_error(probability: Tensor, happened: Tensor) -> float:
    """Expected calibration error: the mean difference between the probability of an event and how often it happened,
    over 15 bins of equal width, weighted by their samples (Naeini et al. 2015, Guo et al. 2017).

    probability: (N,) float64. happened: (N,) bool.
    """
    inner = torch.linspace(0, 1, _BINS + 1, dtype=torch.float64)[1:-1]
    place = torch.bucketize(probability, inner)  # a bin contains its upper edge
    gap = torch.zeros(_BINS, dtype=torch.float64).index_add_(0, place, probability - happened.double())
    return float(gap.abs().sum() / len(probability))


def log_sum_exp(scores: Tensor) -> Tensor:
    """Of (N, K) scores: (N,) float64."""
    return torch.cat([part.double().logsumexp(1) for part in torch.split(scores, _AT_ONCE)])


def one_against_rest(scores: Tensor, normaliser: Tensor, target: Tensor) -> float | None:
    """The mean over all classes of the area under the curve of each against the others. None if a class is absent.

    scores: (N, K) logits. normaliser: (N,), their `log_sum_exp`. target: (N,) classes.
    """
    areas = []
    for k in range(scores.shape[1]):
        area = area_under_curve((scores[:, k].double() - normaliser).exp(), target == k)
        if area is None:
            return None
        areas.append(area)
    return sum(areas) / len(areas)


def best_threshold(score: Tensor, positive: Tensor, criterion: str) -> float | None:
    """The threshold between 0 and 1 for the probability of a positive that gives the best f1, accuracy or
    balanced_accuracy; of equal ones that next to 0.5. None if a class is absent.

    score: (N,) logits. positive: (N,) bool. Tried are the middles between two logits, 0.5, and all or none as positive.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    ranked, order = score.double().sort()
    ends = torch.stack([torch.zeros_like(ranked[0]), ranked[0] - 1, ranked[-1] + 1])
    threshold = torch.cat([ends, (ranked[1:] + ranked[:-1]) / 2]).sigmoid().clamp(_SURE, 1 - _SURE)
    below = torch.searchsorted(ranked, threshold.logit(), right=True)  # how many are not above the threshold
    missed = torch.cat([torch.zeros(1), positive[order].double().cumsum(0)])[below]
    hits, right = positives - missed, below - missed
    value = {
        "f1": 2 * hits / (2 * hits + missed + negatives - right),
        "accuracy": (hits + right) / len(positive),
        "balanced_accuracy": (hits / positives + right / negatives) / 2,
    }[criterion]
    best = threshold[value >= value.max() - 1e-12]
    return float(best[(best - 0.5).abs().argmin()])
