"""Times the artifact and the trained model on the same batch, alternately."""

import statistics
import time
from collections.abc import Callable
from typing import Any

_FEWEST, _MOST = 5, 30
_SECONDS = 1.0


def paired(artifact: Callable[[], float], eager: Callable[[], Any]) -> dict[str, float]:
    """Median times in seconds, and the median of eager / artifact over all pairs.

    artifact: runs once and returns its seconds. eager: runs the trained model once. The two alternate, so that other
    work on the machine slows both.
    """
    for _ in range(2):
        artifact()
        eager()
    pairs: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(pairs) < _FEWEST or (len(pairs) < _MOST and time.perf_counter() - began < _SECONDS):
        start = time.perf_counter()
        eager()
        pairs.append((time.perf_counter() - start, artifact()))
    return {
        "eager": statistics.median(e for e, _ in pairs),
        "exported": statistics.median(a for _, a in pairs),
        "speedup": statistics.median(e / a for e, a in pairs),
        "pairs": len(pairs),
    }
