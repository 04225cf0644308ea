"""New inputs -> answers, by a trained run: images, rows of numbers, texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dlcli.core.errors import DataError
from dlcli.data.readers.samples import read_samples, sample_files
from dlcli.data.readers.text import read_text
from dlcli.data.text import encode
from dlcli.experiment.restore import Restored


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
    for path in sample_files(inputs, about.spec):
        if about.spec.task == "next-token":
            yield Prediction(str(path), _score_text(restored, path))
        else:
            names, raw = read_samples(path, about)
            answers = restored.task.answers(restored.answer(raw).cpu(), about.class_names)
            yield from (Prediction(name, values) for name, values in zip(names, answers, strict=True))


def _score_text(restored: Restored, path: Path) -> dict[str, Any]:
    """How well the model predicts a text file, cut into rows as in training, and the likeliest next character."""
    alphabet, steps = restored.preprocessing.alphabet, restored.preprocessing.spec.input_shape[0]
    tokens = torch.tensor([encode(read_text(path), alphabet, str(path))], device=restored.device)
    length = tokens.shape[1]
    if length < 2:
        raise DataError(f"{path} has {length} characters: at least 2 are needed")
    measures = []
    for start in range(0, length - 1, steps):
        row = tokens[:, start : start + steps + 1]
        measures.append(restored.task.measure(restored.answer(row[:, :-1]), row[:, 1:]))
    found = restored.task.metrics(measures)
    (following,) = restored.task.answers(restored.answer(tokens[:, -steps:]), alphabet)
    return {
        "characters": length,
        "bits_per_char": found["bits_per_char"],
        "perplexity": found["perplexity"],
        **following,
    }
