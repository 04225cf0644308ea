"""Source: what a loader read. Dataset: its train, val and test splits as tensors on a device, normalised.

Shape letters: N samples, C channels, H height, W width, F features, T steps.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlcli.documents import NUMBER, TABLE, TEXT, Kind, check, list_of
from dlcli.errors import ConfigError, DataError, did_you_mean
from dlcli.spec import DataSpec

# The part that is held out for testing, where there is no official test set, does not follow the run's
# seed: all runs on one data set are measured on the same samples.
_TEST_SEED = 20240229


@dataclass(frozen=True)
class Source:
    """Data as read, before splitting and normalising.

    x: uint8 (N, C, H, W) images, float32 (N, F) features, or integer (N, T) tokens. For next-token data
        each row has T + 1 tokens and there is no y.
    y: int64 (N,) classes, or float32 (N,) targets.
    test_x, test_y: the official test set, if the data has one.
    pixel_max: the value of a white pixel.
    ordered: rows follow each other (a text), so parts are cut off in order rather than drawn at random.
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


@dataclass(frozen=True)
class Preprocessing:
    """What turns raw input into model input, and model output into an answer: all that `predict` needs.

    mean, std: one value a channel or feature, over the training part; empty when not normalised.
    target_mean, target_std: of a regression's target, in its own units; 0 and 1 when not normalised.
    alphabet: character of each token of a text.
    """

    spec: DataSpec
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    target_mean: float = 0.0
    target_std: float = 1.0
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    alphabet: str = ""
    pixel_max: float = 255.0

    def apply(self, x: Tensor) -> Tensor:
        """Raw (N, ...) values as model input: float32, normalised; tokens are returned as they are."""
        if self.spec.kind == "tokens":
            return x
        out = x.to(torch.float32, copy=True)
        if not self.mean:
            return out
        return out.sub_(self._a_channel(self.mean, out)).mul_(1 / self._a_channel(self.std, out))

    def blank(self, x: Tensor) -> Tensor:
        """The model input of a raw value of 0 (a black pixel), shaped to broadcast over `x`."""
        if not self.mean:
            return torch.zeros((), device=x.device)
        return -self._a_channel(self.mean, x) / self._a_channel(self.std, x)

    def _a_channel(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        shape = (-1, 1, 1) if self.spec.kind == "image" else (-1,)
        return torch.tensor(values, dtype=torch.float32, device=like.device).view(shape)

    def as_dict(self) -> dict[str, Any]:
        return {
            "spec": self.spec.as_dict(),
            "mean": list(self.mean),
            "std": list(self.std),
            "target_mean": self.target_mean,
            "target_std": self.target_std,
            "class_names": list(self.class_names),
            "feature_names": list(self.feature_names),
            "alphabet": self.alphabet,
            "pixel_max": self.pixel_max,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The inverse of `as_dict`; ValueError when the values do not go with each other."""
        check(values, _FIELDS, needed=True)
        spec = DataSpec.from_dict(values["spec"])
        # What has a value a channel, a class, a feature or a token has all of them, or none.
        classes = 2 if spec.task == "binary" else spec.outputs
        sizes = {"mean": spec.input_shape[0], "std": spec.input_shape[0], "class_names": classes}
        sizes |= {"feature_names": math.prod(spec.input_shape), "alphabet": spec.vocabulary}
        for name, size in sizes.items():
            if len(values[name]) not in (0, size):
                raise ValueError(f"{name} has {len(values[name])} values, but the data is {spec} for {spec.task}")
        if len(values["mean"]) != len(values["std"]):
            raise ValueError("mean and std are not of the same length")
        return cls(
            spec=spec,
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
            target_mean=values["target_mean"],
            target_std=values["target_std"],
            class_names=tuple(values["class_names"]),
            feature_names=tuple(values["feature_names"]),
            alphabet=values["alphabet"],
            pixel_max=values["pixel_max"],
        )


_POSITIVE = Kind("a number above 0", lambda v: NUMBER.holds(v) and v > 0)
_FIELDS = {
    "spec": TABLE, "mean": list_of(NUMBER), "std": list_of(_POSITIVE), "target_mean": NUMBER, "target_std": _POSITIVE,
    "class_names": list_of(TEXT), "feature_names": list_of(TEXT), "alphabet": TEXT, "pixel_max": _POSITIVE,
}  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Some of the rows of `x` and `y`; `index` is None when it is all of them. Nothing is copied.

    x: float32 (N, C, H, W) in channels-last memory, float32 (N, F), or tokens (N, T) or (N, T + 1).
    """

    x: Tensor
    y: Tensor | None
    index: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x) if self.index is None else len(self.index)


@dataclass(frozen=True)
class Dataset:
    """The splits of one data set. `val` and `test` are None when nothing is held out for them."""

    preprocessing: Preprocessing
    train: Split
    val: Split | None
    test: Split | None
    fingerprint: str

    @property
    def spec(self) -> DataSpec:
        return self.preprocessing.spec

    def split(self, name: str) -> Split:
        """The split of that name; ConfigError when there is none."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        if name not in splits:
            raise ConfigError(f"unknown split {name!r}: {did_you_mean(name, splits)}")
        found = splits[name]
        if found is None:
            raise ConfigError(f"there is no {name} split: {name}_fraction is 0 in this run")
        return found


def prepare(
    source: Source,
    *,
    val_fraction: float,
    test_fraction: float | None,
    normalize: bool,
    seed: int,
    device: torch.device | str = "cpu",
    preprocessing: Preprocessing | None = None,
) -> Dataset:
    """Split `source`, normalise it by its training part, and put it on `device`.

    An official test set stays the test set, and `test_fraction` must then be None; else that part
    (default 0.2, of a text 0.1) is held out, the same one for every seed. The validation part is drawn from the
    training part by `seed`. An `ordered` source is cut rather than drawn from: train, then val, then test.
    `preprocessing` replaces the one that would be computed: for other data of the same shape.
    """
    n = len(source.x)
    fingerprint = _fingerprint(source)
    if source.test_x is not None and test_fraction is not None:
        raise ConfigError(f"test_fraction = {test_fraction} does not go with data that has a test set of its own")
    if test_fraction is None:
        test_fraction = 0.0 if source.test_x is not None else 0.1 if source.ordered else 0.2
    test_size = round(n * test_fraction)
    val_size = round((n - test_size) * val_fraction)
    if val_fraction and not val_size:
        val_size = 1
    if n - test_size - val_size < 1:
        raise DataError(f"{n} samples are too few for a training, a validation and a test part")
    rest, test_index = _hold_out(torch.arange(n), test_size, seed=None if source.ordered else _TEST_SEED)
    train_index, val_index = _hold_out(rest, val_size, seed=None if source.ordered else seed)

    if preprocessing is None:
        preprocessing = _fit(source, train_index, normalize)

    def on_device(x: Tensor) -> Tensor:
        x = preprocessing.apply(x.to(device))
        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    def targets(y: Tensor | None) -> Tensor | None:
        if y is None:
            return None
        if preprocessing.spec.task == "regression":
            y = (y - preprocessing.target_mean) / preprocessing.target_std
        return y.to(device)

    x, y = on_device(source.x), targets(source.y)
    if test_size or val_size:
        train = Split(x, y, train_index.to(device))
    else:
        train = Split(x, y)
    val = Split(x, y, val_index.to(device)) if val_size else None
    test: Split | None
    if source.test_x is not None:
        test = Split(on_device(source.test_x), targets(source.test_y))
    else:
        test = Split(x, y, test_index.to(device)) if test_size else None
    return Dataset(preprocessing, train, val, test, fingerprint)


def _hold_out(index: Tensor, size: int, *, seed: int | None) -> tuple[Tensor, Tensor]:
    """`index` without, and only, `size` of its entries: the last ones, or with a seed random ones. Sorted."""
    if not size:
        return index, index[:0]
    if seed is None:
        return index[:-size], index[-size:]
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))
    return index[order[size:].sort().values], index[order[:size].sort().values]


def _fit(source: Source, train_index: Tensor, normalize: bool) -> Preprocessing:
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    target_mean, target_std = 0.0, 1.0
    if normalize and source.spec.kind != "tokens":
        mean, std = _mean_and_std(source.x, train_index)
        if source.spec.task == "regression" and source.y is not None:
            y = source.y[train_index].double()
            target_mean, target_std = y.mean().item(), y.std(correction=0).item() or 1.0
    return Preprocessing(
        spec=source.spec,
        mean=mean,
        std=std,
        target_mean=target_mean,
        target_std=target_std,
        class_names=source.class_names,
        feature_names=source.feature_names,
        alphabet=source.alphabet,
        pixel_max=source.pixel_max,
    )


def _mean_and_std(x: Tensor, index: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Over the rows of `index`: a value a channel (axis 1). A constant channel gets a deviation of 1."""
    if x.dtype == torch.uint8:
        # Exact, and without a float copy of the images: count how often each of 256 values occurs.
        values = torch.arange(256, dtype=torch.float64)
        rows = x if len(index) == len(x) else x[index]
        counts = torch.stack([rows[:, c].flatten().bincount(minlength=256) for c in range(x.shape[1])]).double()
        total = counts.sum(1)
        mean = counts @ values / total
        std = (counts @ values.square() / total - mean.square()).clamp_min(0).sqrt()
    else:
        rows = x[index].double()
        others = [d for d in range(x.dim()) if d != 1]
        mean, std = rows.mean(others), rows.std(others, correction=0)
    std = torch.where(std < 1e-12, torch.ones_like(std), std)
    return tuple(mean.tolist()), tuple(std.tolist())


def _fingerprint(source: Source) -> str:
    """sha256 over every value of the source, in the order in which it was read."""
    digest = hashlib.sha256()
    for tensor in (source.x, source.y, source.test_x, source.test_y):
        if tensor is None:
            digest.update(b"none")
        else:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
    digest.update(source.alphabet.encode("utf-8", "surrogatepass"))  # what the tokens of a text stand for
    return digest.hexdigest()
