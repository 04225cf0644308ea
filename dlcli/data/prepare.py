"""A Source -> a Dataset: split, on a device, and normalised with the statistics of the training split."""

import hashlib

import torch
from torch import Tensor

from dlcli.core.errors import ConfigError, DataError
from dlcli.data.dataset import Dataset, Split
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.rows import Normalised, Rows, Tensors
from dlcli.data.source import Source

# If there is no official test set, the test split is drawn with this seed and not with the run's, so that all runs on a
# data set are measured on the same samples.
_TEST_SEED = 20240229


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
    """Split `source`, store it on `device`, and normalise each batch with the statistics of the training split.

    An official test set is the test split, and `test_fraction` must then be None. Otherwise that fraction (default 0.2,
    for a text 0.1) is held out, the same samples for every seed. The validation split is drawn with `seed` from the
    rest. An `ordered` source is cut instead: train, then val, then test.
    preprocessing: used instead of a computed one, to prepare other data of the same shape.
    ConfigError if `test_fraction` is given with an official test set; DataError if there are too few samples.
    """
    n = len(source.x)
    fingerprint = _fingerprint(source)
    if source.test_x is not None and test_fraction is not None:
        raise ConfigError(f"test_fraction = {test_fraction} cannot be used with data that has a test set of its own")
    if test_fraction is None:
        test_fraction = 0.0 if source.test_x is not None else 0.1 if source.ordered else 0.2
    test_size = round(n * test_fraction)
    val_size = round((n - test_size) * val_fraction)
    if val_fraction and not val_size:
        val_size = 1
    if n - test_size - val_size < 1:
        raise DataError(f"{n} samples are too few for a training, a validation and a test split")
    rest, test_index = _hold_out(torch.arange(n), test_size, seed=None if source.ordered else _TEST_SEED)
    train_index, val_index = _hold_out(rest, val_size, seed=None if source.ordered else seed)

    if preprocessing is None:
        preprocessing = _fit(source, train_index, normalize)

    def stored(x: Tensor, y: Tensor | None) -> Rows:
        x = (x.float() if x.is_floating_point() else x).to(device)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        if y is not None and preprocessing.spec.task == "regression":
            y = (y - preprocessing.target_mean) / preprocessing.target_std
        return Normalised(Tensors(x, None if y is None else y.to(device)), preprocessing)

    rows = stored(source.x, source.y)
    train = Split(rows, train_index.to(device) if test_size or val_size else None)
    val = Split(rows, val_index.to(device)) if val_size else None
    test: Split | None
    if source.test_x is not None:
        test = Split(stored(source.test_x, source.test_y))
    else:
        test = Split(rows, test_index.to(device)) if test_size else None
    return Dataset(preprocessing, train, val, test, fingerprint)


def _hold_out(index: Tensor, size: int, *, seed: int | None) -> tuple[Tensor, Tensor]:
    """The entries of `index` that are kept and the `size` entries that are held out: the last ones, or, with a seed,
    random ones. Both keep the order of `index`."""
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
    """Mean and standard deviation over the rows in `index`, one value per channel (axis 1). The standard deviation of
    a constant channel is set to 1."""
    if x.dtype == torch.uint8:
        # Counting how often each of the 256 values occurs is exact and needs no float copy of the images.
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
    """sha256 of all values of the source, in the order in which they were read."""
    digest = hashlib.sha256()
    for tensor in (source.x, source.y, source.test_x, source.test_y):
        if tensor is None:
            digest.update(b"none")
        else:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
    digest.update(source.alphabet.encode("utf-8", "surrogatepass"))  # the meaning of the tokens
    return digest.hexdigest()
