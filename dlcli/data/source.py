"""Source: what a loader returns, before splitting and normalising, and the check of it; Unfitted: what becomes one."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dlcli.core.spec import DataSpec
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.tables.encoding import Encoding
from dlcli.data.texts.pieces import Pieces
from dlcli.data.texts.tokens import Tokens


class Pending(Protocol):
    """Images that are decoded when they are asked for."""

    @property
    def moments(self) -> Tensor:
        """int64 (N, 2, C), the sums of the pixels of each image, and of their squares."""

    def __len__(self) -> int: ...

    def prefetch(self, indices: Tensor) -> None:
        """Begin with these images, which will be asked for together."""

    def take(self, indices: Tensor) -> Tensor:
        """uint8 (B, C, H, W) in channels-last memory."""


@dataclass(frozen=True)
class Source:
    """Data as read, before splitting and normalising.

    x: uint8 (N, C, H, W) images, float32 (N, F) features, or integer (N, T) tokens. For next-token data
        each row has T + 1 tokens and there is no y.
    y: int64 (N,) classes from 0 to K - 1, or float32 (N,) targets.
    test_x, test_y: the official test set, if the data has one; val_x, val_y: the official validation set.
    pixel_max: the value of a white pixel.
    ordered: the order of the rows matters (a text), so splits are contiguous instead of drawn at random.
    crop: how image files were fitted to the shape of `x`: see data/readers/pictures.py; empty if they were not files.
    digest: what identifies the content, such as a sha256 over all files; empty if the values are to be hashed.
    mapped: whether the inputs lie in a memory-mapped file, from which only the rows of a batch are read. The tensors
        are then uint8 images in channels-last memory, or float32 features.
    stored_size: height and width of the images in `x` if they are larger than those of the spec, to which they are cut;
        else 0.
    interpolation: how image files were resized, `bilinear` or `bicubic`.
    encoded: the images of x, val_x and test_x if they are decoded when they are asked for; the tensors are then on the
        device `meta`.
    resolved: options that were left to the loader, with the values that it chose.
    encoding: how x was made of the columns of a table. tokens: how it was made of texts.
    pieces: how it was made of the text of a language model, if not of its characters. unknown: name of a split -> a
        sentence about what is in its text that the training text does not have.
    notes: sentences about how the data was read, for the user.
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
    val_x: Tensor | None = None
    val_y: Tensor | None = None
    crop: str = ""
    digest: str = ""
    mapped: bool = False
    stored_size: int = 0
    interpolation: str = "bilinear"
    encoded: Mapping[str, Pending] = field(default_factory=dict)
    resolved: Mapping[str, Any] = field(default_factory=dict)
    encoding: Encoding | None = None
    tokens: Tokens | None = None
    pieces: Pieces | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return len(self.x)

    @property
    def held_out(self) -> float:
        """See `Unfitted`."""
        return 0.1 if self.ordered else 0.2

    @property
    def fingerprint(self) -> str:
        """The digest of the source, else the sha256 of all its values, in the order in which they were read."""
        if self.digest:
            return self.digest
        digest = hashlib.sha256()
        own_val = () if self.val_x is None else (self.val_x, self.val_y)
        for tensor in (self.x, self.y, self.test_x, self.test_y, *own_val):
            if tensor is None:
                digest.update(b"none")
            else:
                digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().numpy().data)
        digest.update(self.alphabet.encode("utf-8", "surrogatepass"))  # the meaning of the tokens
        return digest.hexdigest()

    @property
    def has_val(self) -> bool:
        return self.val_x is not None

    @property
    def has_test(self) -> bool:
        return self.test_x is not None


class Unfitted(Protocol):
    """Data that becomes a Source when its training rows are known, because its encoding is learned from them."""

    @property
    def rows(self) -> int:
        """Without those of an official test set."""

    @property
    def has_val(self) -> bool:
        """Whether there is an official validation set."""

    @property
    def has_test(self) -> bool:
        """Whether there is an official test set."""

    @property
    def fingerprint(self) -> str:
        """sha256 of the data as read."""

    @property
    def ordered(self) -> bool:
        """Whether the splits are cut from the end instead of drawn at random."""

    @property
    def held_out(self) -> float:
        """The fraction that is held out for testing unless it is said."""

    @property
    def classes(self) -> Tensor | None:
        """int64 (rows,), the class of each row, if all splits are to have them in the same proportions."""

    @property
    def parts(self) -> Tensor | None:
        """int64 (rows,), TRAIN, VAL or TEST of splits.py, if the data says it of each row."""

    @property
    def order(self) -> Tensor | None:
        """int64 (rows,), the rows in the order of time, if later ones are to be held out."""

    @property
    def groups(self) -> Tensor | None:
        """int64 (rows,), the group of each row, if no group may be in two splits."""

    def fit(self, train: Tensor, about: Preprocessing | None) -> Source:
        """Encoded with what the rows in `train` show, or, for a trained model, as its Preprocessing says."""


_PAIRS = (("x", "y"), ("val_x", "val_y"), ("test_x", "test_y"))

# Data types of a tensor of numbers.
_NUMBERS = {
    torch.float16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.bool,
}  # fmt: skip


def sound(source: object) -> Source:
    """What a loader returned, on the CPU and without gradients, with (N, 1) targets of a regression as (N,).

    Raises ValueError, which says what is wrong and where, unless all values are as the spec says.
    """
    if not isinstance(source, Source):
        raise ValueError(f"it is a {type(source).__name__}, but a Source is expected")
    try:
        DataSpec.from_dict(source.spec.as_dict())
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"spec: {error}") from None
    try:
        described = Preprocessing(
            source.spec, class_names=source.class_names, feature_names=source.feature_names, alphabet=source.alphabet,
            pixel_max=source.pixel_max, crop=source.crop, stored_size=source.stored_size,
            interpolation=source.interpolation,
        )  # fmt: skip
        Preprocessing.from_dict(described.as_dict())
    except TypeError as error:
        raise ValueError(f"its names are not lists of texts: {error}") from None
    plain = dataclasses.replace(source, **{name: _plain(getattr(source, name)) for pair in _PAIRS for name in pair})
    targets: dict[str, Any] = {}
    for x, y in _PAIRS:
        if x == "x" or getattr(plain, x) is not None or getattr(plain, y) is not None:
            _check_input(plain, x)
            targets[y] = _checked_targets(plain, y, of=x)
    return dataclasses.replace(plain, **targets)


def _plain(value: Any) -> Any:
    """A tensor on the CPU and without gradients; anything else as it is."""
    return value.detach().cpu() if isinstance(value, Tensor) and not value.is_meta else value


def _check_input(source: Source, name: str) -> None:
    spec, x = source.spec, getattr(source, name)
    row = (spec.input_shape[0] + 1,) if spec.task == "next-token" else spec.input_shape
    if source.stored_size:
        row = (spec.input_shape[0], source.stored_size, source.stored_size)
    if not _is_numbers(x) or x.shape[1:] != row:
        raise ValueError(f"{name} is {_described(x)}, but (N, {', '.join(map(str, row))}) is expected of {spec}")
    if not len(x):
        raise ValueError(f"{name} has no rows")
    if spec.kind == "tokens":
        _check_whole(name, x, most=spec.vocabulary - 1, what="tokens")
    else:
        _check_finite(name, x, columns=source.feature_names)


def _checked_targets(source: Source, name: str, *, of: str) -> Tensor | None:
    """of: the name of the input that the targets belong to."""
    spec, y, count = source.spec, getattr(source, name), len(getattr(source, of))
    if spec.task == "next-token":
        if y is not None:
            raise ValueError(f"{name} is {_described(y)}, but the targets are in {of}: leave {name} out")
        return None
    if _is_numbers(y) and spec.task == "regression" and y.shape == (count, 1):
        y = y[:, 0]
    if not _is_numbers(y) or y.shape != (count,):
        raise ValueError(f"{name} is {_described(y)}, but ({count},) is expected, one target per row of {of}")
    assert isinstance(y, Tensor)
    if spec.task == "regression":
        _check_finite(name, y)
    else:
        _check_whole(name, y, most=(2 if spec.task == "binary" else spec.outputs) - 1, what="classes")
    return y


def _check_finite(name: str, values: Tensor, *, columns: Sequence[str] = ()) -> None:
    """As float32, in which they are used: 1e39 is infinite there."""
    if values.is_floating_point():
        rule = "values must be finite as float32: replace it, or leave the row out"
        _refuse(name, values, ~torch.isfinite(values.float()), rule, columns=columns)


def _check_whole(name: str, values: Tensor, *, most: int, what: str) -> None:
    """ValueError unless they are whole numbers from 0 to `most`, stored as whole numbers."""
    wrong = (values < 0) | (values > most)
    if values.is_floating_point():
        wrong |= ~(values.frac() == 0)  # of NaN too
    _refuse(name, values, wrong, f"{what} are whole numbers from 0 to {most}")
    if values.is_floating_point():
        raise ValueError(f"{name} is of {values.dtype}, but {what} are whole numbers: return {name}.long()")


def _refuse(name: str, values: Tensor, wrong: Tensor, rule: str, *, columns: Sequence[str] = ()) -> None:
    """ValueError with the place of the first value that is `wrong`, and their number. columns: names of the columns."""
    count = int(wrong.sum())
    if not count:
        return
    place = wrong.nonzero()[0].tolist()
    column = f" ({columns[place[1]]})" if columns and len(place) == 2 else ""
    rows = f" in {int(wrong.flatten(1).any(1).sum()):,} rows" if wrong.dim() > 1 else ""
    more = f"; there are {count:,} such values{rows}" if count > 1 else ""
    found = f"{name}[{', '.join(map(str, place))}]{column} is {values[tuple(place)].item()}"
    raise ValueError(f"{found}, but {rule}{more}")


def _is_numbers(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype in _NUMBERS


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)}" + ("" if value.dtype in _NUMBERS else f" of {value.dtype}")
    text = next((item for item in np.asarray(value, dtype=object).flat if isinstance(item, str)), None)
    return ("None" if value is None else f"a {type(value).__name__}") + (f" with the text {text!r}" if text else "")
