"""Preprocessing: what turns raw input into model input, and model output into an answer."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlcli.core.documents import NUMBER, TABLE, TEXT, WHOLE, Kind, check, list_of
from dlcli.core.spec import DataSpec
from dlcli.data.kinds import laid_out
from dlcli.data.tables.encoding import Encoding
from dlcli.data.texts.characters import Characters
from dlcli.data.texts.pieces import Pieces
from dlcli.data.texts.tokens import Tokens


@dataclass(frozen=True)
class Preprocessing:
    """What turns raw input into model input, and model output into an answer: all that `predict` needs.

    mean, std: one value per channel or feature, over the training split; empty if the input is not normalised.
    target_mean, target_std: of the target of a regression, in its own units; 0 and 1 if it is not normalised.
    alphabet: the characters of a text; token i is the i-th.
    pixel_max: the raw value of a white pixel.
    crop: how an image file is fitted to the input: `centre` or `stretch`, see readers/pictures.py; empty if the
        training data were no image files.
    stored_size: the height and width to which an image file is fitted before it is cut to the input; 0 for those of the
        input.
    interpolation: how an image file is resized, `bilinear` or `bicubic`.
    encoding: how the columns of a table become features. tokens: how texts become tokens. pieces: how the text of a
        language model does, if not by its characters.
    class_counts: samples of each class in the training split; empty for other tasks, and in runs of dlcli 0.1.0.
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
    crop: str = ""
    stored_size: int = 0
    interpolation: str = "bilinear"
    encoding: Encoding | None = None
    class_counts: tuple[int, ...] = ()
    tokens: Tokens | None = None
    pieces: Pieces | None = None

    @property
    def spelling(self) -> Characters | Pieces | None:
        """How the text of a language model is spelled; None for other data."""
        if self.pieces is not None:
            return self.pieces
        return Characters(self.alphabet) if self.alphabet and self.spec.task == "next-token" else None

    def apply(self, x: Tensor) -> Tensor:
        """Raw (N, ...) values -> model input: float32, normalised, channels-last images; tokens become int64."""
        return laid_out(self.on(x.device)(x))

    def on(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """The normalisation for many batches on `device`: mean and std are copied there once."""
        if self.spec.kind == "tokens":
            return (lambda x: x.long()) if self.spec.padding else lambda x: x
        if not self.mean:
            return lambda x: x.to(torch.float32)
        mean, scale = self._a_channel(self.mean, device), 1 / self._a_channel(self.std, device)

        def normalised(x: Tensor, mean: Tensor = mean, scale: Tensor = scale) -> Tensor:
            if x.dtype == torch.float32:
                return torch.sub(x, mean).mul_(scale)
            return x.to(torch.float32).sub_(mean).mul_(scale)  # a copy already

        if self.spec.kind != "image" or len(self.mean) == 1 or device.type != "cpu":
            return normalised

        def by_lines(x: Tensor) -> Tensor:
            """The same, with lines of W * C values: the inner loop of a broadcast over 3 values is slow."""
            if not x.is_contiguous(memory_format=torch.channels_last):
                return normalised(x)
            pixels, width = x.permute(0, 2, 3, 1), x.shape[3]
            lines = normalised(pixels.flatten(2), mean.flatten().repeat(width), scale.flatten().repeat(width))
            return lines.view(pixels.shape).permute(0, 3, 1, 2)

        return by_lines

    def blank(self, device: torch.device) -> Tensor:
        """The model input of a raw value of 0 (a black pixel), shaped to broadcast over (N, ...) input."""
        if not self.mean:
            return torch.zeros((), device=device)
        return -self._a_channel(self.mean, device) / self._a_channel(self.std, device)

    def white(self, device: torch.device) -> Tensor:
        """As `blank`, of a raw value of `pixel_max` (a white pixel)."""
        if not self.mean:
            return torch.full((), self.pixel_max, device=device)
        return (self.pixel_max - self._a_channel(self.mean, device)) / self._a_channel(self.std, device)

    def without_normalisation(self) -> "Preprocessing":
        """A copy that leaves input and targets in their own units."""
        return dataclasses.replace(self, mean=(), std=(), target_mean=0.0, target_std=1.0)

    def _a_channel(self, values: tuple[float, ...], device: torch.device) -> Tensor:
        shape = (-1, 1, 1) if self.spec.kind == "image" else (-1,)
        return torch.tensor(values, dtype=torch.float32, device=device).view(shape)

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
            **({"class_counts": list(self.class_counts)} if self.class_counts else {}),
            **({"crop": self.crop} if self.crop else {}),
            **({"stored_size": self.stored_size} if self.stored_size else {}),
            **({"interpolation": self.interpolation} if self.interpolation != "bilinear" else {}),
            **({} if self.encoding is None else {"encoding": self.encoding.as_dict()}),
            **({} if self.tokens is None else {"tokens": self.tokens.as_dict()}),
            **({} if self.pieces is None else {"pieces": self.pieces.as_dict()}),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The inverse of `as_dict`; ValueError if the values are invalid or do not match each other."""
        check(values, _FIELDS, needed=True)
        check(values, _OPTIONAL)
        spec = DataSpec.from_dict(values["spec"])
        # A list with one value per channel, class, feature or token is complete or empty.
        classes = 2 if spec.task == "binary" else spec.outputs
        sizes = {"mean": spec.input_shape[0], "std": spec.input_shape[0], "class_names": classes}
        sizes |= {"feature_names": math.prod(spec.input_shape), "alphabet": spec.vocabulary}
        for name, size in sizes.items():
            if len(values[name]) not in (0, size):
                raise ValueError(f"{name} has {len(values[name])} values, but the data is {spec} for {spec.task}")
        counts = values.get("class_counts", [])
        if len(counts) not in (0, classes) or (counts and not any(counts)):
            raise ValueError(f"class_counts = {counts[:10]} are not those of {classes} classes")
        if len(values["mean"]) != len(values["std"]):
            raise ValueError("mean and std are not of the same length")
        stored = values.get("stored_size", 0)
        if stored and (spec.kind != "image" or stored < max(spec.input_shape[1:])):
            raise ValueError(f"stored_size is {stored}, but the data is {spec}")
        encoding = Encoding.from_dict(values["encoding"]) if "encoding" in values else None
        if encoding is not None and (spec.kind != "features" or len(encoding.feature_names) != spec.input_shape[0]):
            raise ValueError(f"encoding makes {len(encoding.feature_names)} features, but the data is {spec}")
        tokens = Tokens.from_dict(values["tokens"]) if "tokens" in values else None
        if tokens is not None and (spec.vocabulary, spec.input_shape) != (tokens.size, (tokens.length,)):
            raise ValueError(f"tokens makes {tokens.length} of {tokens.size} tokens, but the data is {spec}")
        pieces = Pieces.from_dict(values["pieces"]) if "pieces" in values else None
        if pieces is not None and (spec.task != "next-token" or spec.vocabulary != pieces.size or values["alphabet"]):
            raise ValueError(f"pieces are {pieces.size} tokens, but the data is {spec} for {spec.task}")
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
            crop=values.get("crop", ""),
            stored_size=values.get("stored_size", 0),
            interpolation=values.get("interpolation", "bilinear"),
            encoding=encoding,
            class_counts=tuple(counts),
            tokens=tokens,
            pieces=pieces,
        )


_POSITIVE = Kind("a number above 0", lambda v: NUMBER.holds(v) and v > 0)

_FIELDS = {
    "spec": TABLE, "mean": list_of(NUMBER), "std": list_of(_POSITIVE), "target_mean": NUMBER, "target_std": _POSITIVE,
    "class_names": list_of(TEXT), "feature_names": list_of(TEXT), "alphabet": TEXT, "pixel_max": _POSITIVE,
}  # fmt: skip
_SAMPLES = Kind("a number of samples", lambda v: WHOLE.holds(v) and v < 2**53)
_OPTIONAL = {
    "crop": Kind("centre or stretch", lambda v: v in ("", "centre", "stretch")), "class_counts": list_of(_SAMPLES),
    "interpolation": Kind("bilinear or bicubic", lambda v: v in ("bilinear", "bicubic")),
    "stored_size": Kind("a whole number up to 2048", lambda v: type(v) is int and 0 <= v <= 2048),
}  # fmt: skip
