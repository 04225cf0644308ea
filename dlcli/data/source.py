"""Source: what a loader returns, before splitting and normalising, and the check of it."""

from dataclasses import dataclass

from torch import Tensor

from dlcli.core.spec import DataSpec


@dataclass(frozen=True)
class Source:
    """Data as read, before splitting and normalising.

    x: uint8 (N, C, H, W) images, float32 (N, F) features, or integer (N, T) tokens. For next-token data
        each row has T + 1 tokens and there is no y.
    y: int64 (N,) classes, or float32 (N,) targets.
    test_x, test_y: the official test set, if the data has one.
    pixel_max: the value of a white pixel.
    ordered: the order of the rows matters (a text), so splits are contiguous instead of drawn at random.
    """

    spec: DataSpec
    x: Tensor
    y: Tensor | None
    test_x: Tensor | None = None
    test_y: Tensor | None = None
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    alphabet: str = ""
    pixel_max: float = 255.0
    ordered: bool = False


def fault(source: object) -> str | None:
    """The first error in the types and shapes of a loader's result, as a phrase; None if there is none."""
    if not isinstance(source, Source):
        return f"it is a {type(source).__name__}, but a Source is expected"
    try:
        DataSpec.from_dict(source.spec.as_dict())
    except (ValueError, TypeError, AttributeError) as error:
        return f"spec: {error}"
    shape, targets = source.spec.input_shape, source.spec.task != "next-token"
    row = shape if targets else (shape[0] + 1,)
    for part in ("", "test_"):
        x, y = getattr(source, f"{part}x"), getattr(source, f"{part}y")
        if x is None and y is None and part:
            continue
        if not isinstance(x, Tensor) or x.shape[1:] != row:
            return f"{part}x is {_shape(x)}, but (N, {', '.join(map(str, row))}) is expected of {source.spec}"
        if targets and (not isinstance(y, Tensor) or y.shape != x.shape[:1]):
            return f"{part}y is {_shape(y)}, but ({len(x)},) is expected, one target per row of {part}x"
    return None


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"
