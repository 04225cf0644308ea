"""New inputs -> answers, by a trained run: images, rows of numbers, texts; and text that goes on by itself."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlcli.compute.devices import autocast
from dlcli.core.errors import DataError, RunError
from dlcli.core.reading import files_below
from dlcli.core.spec import DataSpec
from dlcli.data.readers.csv import read_rows
from dlcli.data.readers.text import read_text
from dlcli.experiment.restore import Restored

_MOST_FILES = 1_000_000


@dataclass(frozen=True)
class Prediction:
    """input: file, or file:line. values: what is predicted, by name: class and probability, value, or the
    bits per character of a text and its likeliest next character."""

    input: str
    values: dict[str, Any]


def predict(restored: Restored, inputs: Sequence[str]) -> Iterator[Prediction]:
    """Predictions for files (folders of images are searched), in order.

    Images for a model of images, .csv files of rows for one of features or of token sequences, text files
    for a language model. Raises DataError (exit 3) with the file and, for rows, the line.
    """
    about = restored.preprocessing
    for path in _files(inputs, about.spec):
        if about.spec.task == "next-token":
            yield Prediction(str(path), _score_text(restored, path))
        elif about.spec.kind == "image" and path.suffix.lower() != ".csv":
            from dlcli.data.readers.images import read_image

            image = read_image(path, about.spec.input_shape, white=about.pixel_max)
            yield from _answers(restored, [str(path)], image[None])
        else:
            names, rows = read_rows(path, about.spec, about.feature_names)
            yield from _answers(restored, names, rows)


@torch.inference_mode()
def _answers(restored: Restored, names: list[str], raw: Tensor) -> Iterator[Prediction]:
    """Predictions of raw (N, ...) inputs."""
    spec, about = restored.preprocessing.spec, restored.preprocessing
    x = about.apply(raw.to(restored.device))
    x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
    size = restored.eval_batch_size
    with autocast(restored.config.precision, restored.device):
        output = torch.cat([restored.model(x[i : i + size]).float() for i in range(0, len(x), size)]).cpu()
    _checked(output, restored)
    if spec.task == "regression":
        values = (output[:, 0].double() * about.target_std + about.target_mean).tolist()
        yield from (Prediction(n, {"value": v}) for n, v in zip(names, values, strict=True))
        return
    if spec.task == "binary":
        positive = torch.sigmoid(output[:, 0].double())
        probability = torch.stack([1 - positive, positive], 1)
    else:
        probability = torch.softmax(output.double(), 1)
    classes = about.class_names or tuple(str(k) for k in range(probability.shape[1]))
    for name, row in zip(names, probability.tolist(), strict=True):
        best = max(range(len(row)), key=row.__getitem__)
        yield Prediction(name, {"class": classes[best], "probability": row[best]})


@torch.inference_mode()
def _score_text(restored: Restored, path: Path) -> dict[str, Any]:
    """Bits per character of a text file, cut into rows as in training, and its likeliest next character."""
    alphabet, steps = restored.preprocessing.alphabet, restored.preprocessing.spec.input_shape[0]
    tokens = torch.tensor(_encode(read_text(path), alphabet, str(path)), device=restored.device)
    if len(tokens) < 2:
        raise DataError(f"{path} has {len(tokens)} characters: at least 2 are needed")
    total = 0.0
    with autocast(restored.config.precision, restored.device):
        for start in range(0, len(tokens) - 1, steps):
            row = tokens[start : start + steps + 1]
            logits = _checked(restored.model(row[None, :-1])[0], restored).float()
            total += F.cross_entropy(logits, row[1:], reduction="sum").item()
        following = restored.model(tokens[None, -steps:])[0, -1].float()
    loss = total / (len(tokens) - 1)
    return {
        "characters": len(tokens),
        "bits_per_char": loss / math.log(2),
        "perplexity": math.exp(loss) if loss < 700 else None,
        "next": alphabet[int(following.argmax())],
    }


def _checked(output: Tensor, restored: Restored) -> Tensor:
    if not bool(torch.isfinite(output).all()):
        raise RunError(f"the model of {restored.run} gives values that are not finite: its weights are of no use")
    return output


def _encode(text: str, alphabet: str, what: str) -> list[int]:
    position = {character: i for i, character in enumerate(alphabet)}
    unknown = sorted(set(text) - position.keys())
    if unknown:
        raise DataError(f"{what} has characters that the model never saw: {' '.join(map(repr, unknown[:8]))}")
    return [position[character] for character in text]


def _files(inputs: Sequence[str], spec: DataSpec) -> Iterator[Path]:
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            if spec.kind != "image":
                raise DataError(f"{path} is a folder: name the files")
            from dlcli.data.readers.images import SUFFIXES

            found = [p for p in files_below(path, most=_MOST_FILES) if p.suffix.lower() in SUFFIXES]
            if not found:
                raise DataError(f"{path} holds no images ({', '.join(SUFFIXES)})")
            yield from found
        elif path.is_file():
            yield path
        else:
            raise DataError(f"{path} {'is no regular file' if path.exists() else 'does not exist'}")
