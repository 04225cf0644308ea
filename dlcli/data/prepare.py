"""A Source -> a Dataset: split, on a device, and normalised with the statistics of the training split."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dlcli.core.errors import ConfigError, DataError
from dlcli.data.dataset import Dataset, Split
from dlcli.data.mapped import forget
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.rows import Decoded, Mapped, Normalised, Rows, Tensors
from dlcli.data.source import Source, Unfitted
from dlcli.data.splits import TEST, divide
from dlcli.data.texts.corpus import Corpus

# Images whose pixels are counted at a time: all of them may be more than the memory holds.
_AT_ONCE = 1024

# Rows of numbers of which more are taken in parts, since float64 needs twice their memory.
_MANY = 65_536

# Below it, 1 / std loses digits in float32, or is infinite.
_SMALLEST_STD = 1e-37


def prepare(
    source: Source | Unfitted,
    *,
    val_fraction: float | None,
    test_fraction: float | None,
    normalize: bool,
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
    seed: int,
    device: torch.device | str = "cpu",
    preprocessing: Preprocessing | None = None,
) -> Dataset:
    """Split `source`, store it on `device`, and normalise each batch with the statistics of the training split.

    An official test set is the test split, and `test_fraction` must then be None. Otherwise that fraction (default 0.2,
    for a text 0.1) is held out, the same samples for every seed. The validation split is drawn with `seed` from the
    rest. An `ordered` source is cut instead: train, then val, then test. An official validation set is the validation
    split, and `val_fraction` must then be None. What is `Unfitted` is then fitted to the training split, or encoded as
    `preprocessing` says; a Corpus is also cut into rows.
    statistics: mean and standard deviation of images by which they are normalised instead, in fractions of white: one
    value for each channel, or three of colour images for grey ones, which take their mean.
    preprocessing: used instead of a computed one, to prepare other data of the same shape.
    ConfigError if a fraction is given with an official set; DataError if there are too few samples.
    """
    fingerprint = source.fingerprint
    train_index, val_index, test_index = _divided(source, val_fraction, test_fraction, seed)
    if isinstance(source, Corpus):
        source, (train_index, val_index, test_index) = source.cut(train_index, val_index, test_index, preprocessing)
    elif not isinstance(source, Source):
        source = source.fit(train_index, preprocessing)
    if preprocessing is None:
        preprocessing = _fit(source, train_index, normalize, statistics)

    def stored(name: str, x: Tensor, y: Tensor | None) -> Rows:
        if name in source.encoded:
            assert y is not None
            return Normalised(Decoded(source.encoded[name], y.to(device), torch.device(device)), preprocessing)
        x = x.float() if x.is_floating_point() else x
        x = x if source.mapped else x.to(device)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        if y is not None and preprocessing.spec.task == "regression":
            y = ((y - preprocessing.target_mean) / preprocessing.target_std).float()
        elif y is not None:
            y = y.long()
        y = None if y is None else y.to(device)
        return Normalised(Mapped(x, y, torch.device(device)) if source.mapped else Tensors(x, y), preprocessing)

    rows = stored("x", source.x, source.y)
    train = Split(rows, train_index.to(device) if len(test_index) or len(val_index) else None)

    def held_out(name: str, x: Tensor | None, y: Tensor | None, index: Tensor) -> Split | None:
        if x is not None:
            return Split(stored(name, x, y))
        return Split(rows, index.to(device)) if len(index) else None

    return Dataset(
        preprocessing,
        train,
        held_out("val_x", source.val_x, source.val_y, val_index),
        held_out("test_x", source.test_x, source.test_y, test_index),
        fingerprint,
        _typical(source, train_index, preprocessing),
        resolved=source.resolved,
        unknown=source.unknown,
        notes=source.notes,
    )


def _divided(
    source: Source | Unfitted, val_fraction: float | None, test_fraction: float | None, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The row numbers of the training, validation and test split; the last is empty with an official test set."""
    rows = source.rows
    classes, parts, order, groups = None, None, None, None
    if source.has_val and val_fraction is not None:
        raise ConfigError(
            f"val_fraction = {val_fraction} cannot be used with data that has a validation set of its own"
        )
    if not isinstance(source, Source):
        classes, parts, order, groups = source.classes, source.parts, source.order, source.groups
    official = source.has_test or (parts is not None and bool((parts == TEST).any()))
    if official and test_fraction is not None:
        raise ConfigError(f"test_fraction = {test_fraction} cannot be used with data that has a test set of its own")
    if test_fraction is None:
        test_fraction = 0.0 if official else source.held_out
    found = divide(
        rows, test_fraction=test_fraction, val_fraction=val_fraction or 0.0, seed=seed, ordered=source.ordered,
        classes=classes, parts=parts, order=order, groups=groups,
    )  # fmt: skip
    if not len(found[0]):
        raise DataError(f"{rows} samples are too few for a training, a validation and a test split")
    return found


def _given(
    source: Source, statistics: tuple[Sequence[float], Sequence[float]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in the units of the images."""
    channels = source.spec.input_shape[0]
    if source.spec.kind != "image":
        raise ConfigError(
            f"mean and std, which pretrained sets too, are for images, but the data is {source.spec}: leave them out"
        )
    mean, std = (tuple(values) for values in statistics)
    if channels == 1 and len(mean) == 3:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    if len(mean) != channels:
        raise ConfigError(f"mean has {len(mean)} values, but the images have {channels} channels: give one for each")
    return tuple(m * source.pixel_max for m in mean), tuple(s * source.pixel_max for s in std)


def _fit(
    source: Source,
    train_index: Tensor,
    normalize: bool,
    statistics: tuple[Sequence[float], Sequence[float]] | None,
) -> Preprocessing:
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    target_mean, target_std = 0.0, 1.0
    if normalize and statistics is not None:
        mean, std = _given(source, statistics)
    elif normalize and source.spec.kind != "tokens":
        x = source.x if source.x.dtype == torch.uint8 else source.x.float()  # the values that are normalised
        if "x" in source.encoded:
            mean, std = _of_moments(source.encoded["x"].moments[train_index], x.shape[2] * x.shape[3])
        else:
            mean, std = _mean_and_std(x, train_index)
        if source.encoding is not None:  # features that are 0 or 1, or scaled already, stay so
            scaled = source.encoding.standardised
            mean = tuple(m if s else 0.0 for m, s in zip(mean, scaled, strict=True))
            std = tuple(d if s else 1.0 for d, s in zip(std, scaled, strict=True))
        _refuse_tiny(std, source.feature_names)
    if normalize and source.spec.kind != "tokens" and source.spec.task == "regression" and source.y is not None:
        y = source.y[train_index].double()
        target_mean = y.mean().item()
        constant = bool(_is_constant(y.min(), y.max(), y.mean(), source.y.dtype))
        target_std = 1.0 if constant else y.std(correction=0).item()
    counts: tuple[int, ...] = ()
    if source.y is not None and source.spec.task != "regression":
        classes = 2 if source.spec.task == "binary" else source.spec.outputs
        counts = tuple(source.y[train_index].long().bincount(minlength=classes).tolist())
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
        crop=source.crop,
        stored_size=source.stored_size,
        interpolation=source.interpolation,
        encoding=source.encoding,
        class_counts=counts,
        tokens=source.tokens,
        pieces=source.pieces,
    )


def _typical(source: Source, train_index: Tensor, about: Preprocessing) -> Tensor:
    """See Dataset."""
    if source.y is None:
        return source.x[train_index][:, 1:].flatten().bincount(minlength=about.spec.outputs)
    y = source.y[train_index]
    if about.spec.task == "regression":
        return ((y.double().mean() - about.target_mean) / about.target_std).float().view(1)
    return y.long().bincount(minlength=2 if about.spec.task == "binary" else about.spec.outputs)


def _mean_and_std(x: Tensor, index: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation over the rows in `index`, one value per channel (axis 1). The standard deviation of
    a constant channel is set to 1."""
    if x.dtype == torch.uint8:
        # Counting how often each of the 256 values occurs is exact and needs no float copy of the images.
        values = torch.arange(256, dtype=torch.float64)
        counts = torch.zeros(x.shape[1], 256, dtype=torch.int64)
        for part in torch.split(index, _AT_ONCE):
            rows = x[part]
            counts += torch.stack([rows[:, c].flatten().bincount(minlength=256) for c in range(x.shape[1])])
        counts = counts.double()
        total = counts.sum(1)
        mean = counts @ values / total
        std = (counts @ values.square() / total - mean.square()).clamp_min(0).sqrt()
        constant = (counts > 0).sum(1) == 1
    elif x.dim() == 2 and len(index) > _MANY:
        mean, std, constant = _in_parts(x, index)
    else:
        rows = x[index].double()
        others = [d for d in range(x.dim()) if d != 1]
        mean, std = rows.mean(others), rows.std(others, correction=0)
        constant = _is_constant(rows.amin(others), rows.amax(others), mean, x.dtype)
    std = torch.where(constant, torch.ones_like(std), std)
    return tuple(mean.tolist()), tuple(std.tolist())


def _of_moments(moments: Tensor, pixels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """As `_mean_and_std`, with the same bits, of the sums over each image. pixels: of an image."""
    sums, squares = moments.sum(0)  # (2, C)
    total = len(moments) * pixels
    mean = sums.double() / total
    std = (squares.double() / total - mean.square()).clamp_min(0).sqrt()
    constant = [int(s) ** 2 == total * int(q) for s, q in zip(sums, squares, strict=True)]
    std = torch.where(torch.tensor(constant), torch.ones_like(std), std)
    return tuple(mean.tolist()), tuple(std.tolist())


def _in_parts(x: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation of each column over many rows, and whether it is constant; without a copy of all."""
    mean = _of_parts(x, index, lambda some: some.double().sum(0), torch.float64).sum(0) / len(index)
    squares = _of_parts(x, index, lambda some: (some.double() - mean).square().sum(0), torch.float64).sum(0)
    least = _of_parts(x, index, lambda some: some.amin(0), x.dtype).amin(0).double()
    most = _of_parts(x, index, lambda some: some.amax(0), x.dtype).amax(0).double()
    return mean, (squares / len(index)).sqrt(), _is_constant(least, most, mean, x.dtype)


def _of_parts(x: Tensor, index: Tensor, of: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Tensor:
    """(parts, columns): what `of` makes of some rows at a time."""
    parts = torch.split(index, _MANY)
    found = torch.empty(len(parts), x.shape[1], dtype=dtype)  # small results between large ones fragment the memory
    for place, part in enumerate(parts):
        found[place] = of(x[part])
        forget(x)
    return found


def _is_constant(least: Tensor, most: Tensor, mean: Tensor, dtype: torch.dtype) -> Tensor:
    """Whether values of this type differ by no more than the rounding of their mean, which is subtracted from them."""
    eps = torch.finfo(dtype).eps if dtype.is_floating_point else 0.0
    return most - least <= mean.abs() * eps


def _refuse_tiny(std: Sequence[float], names: Sequence[str]) -> None:
    """DataError for a feature whose deviation has no reciprocal in float32, by which it would be multiplied."""
    for number, value in enumerate(std):
        if value < _SMALLEST_STD:
            name = f"{number} ({names[number]})" if names else f"{number}"
            raise DataError(f"feature {name} varies by only {value:.3g}, too little for float32: multiply it")
