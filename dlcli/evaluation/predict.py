"""Predictions of a trained run for new inputs: images, rows of numbers, texts."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dlcli.core.errors import ConfigError, DataError
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.readers.csv import Samples
from dlcli.data.readers.samples import read_samples, sample_files
from dlcli.data.readers.text import read_any_text
from dlcli.data.texts.characters import refuse_lost
from dlcli.data.texts.samples import text_samples
from dlcli.data.texts.spelling import told
from dlcli.data.texts.tokens import NAMES
from dlcli.evaluation.pixels import Pixels
from dlcli.experiment.restore import Restored
from dlcli.tasks.classes import likeliest

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """input: file, or file:line. values: name -> predicted value: class and probability, value, or the bits per
    character of a text and its likeliest next character. kept: column -> text, for the columns to keep."""

    input: str
    values: dict[str, Any]
    kept: dict[str, str] = field(default_factory=dict)


def predict(
    restored: Restored,
    inputs: Sequence[str],
    *,
    top: int = 1,
    probabilities: bool = False,
    keep: Sequence[str] = (),
    invert: bool = False,
    tell: Callable[[str], None] = _log.warning,
) -> Iterator[Prediction]:
    """Predictions for files (folders are searched for images, `-` is standard input), in order.

    An image model expects images, a model of features or token sequences .csv files of rows, a language model text
    files, and a classifier of texts what data/texts/samples.py takes.

    top: number of likeliest classes to return. probabilities: also return the probability of every class.
    keep: columns of .csv files to copy to each prediction. invert: swap black and white of images.
    tell: called with a sentence about skipped files, about categories that the training data did not have, or about
        images that are unlike it.
    Raises ConfigError (exit 2) for an argument that does not fit the model, and DataError (exit 3), which names the
    file and, for rows, the line.
    """
    spec = restored.preprocessing.spec
    classes = 2 if spec.task == "binary" else spec.outputs
    if (top != 1 or probabilities) and spec.task not in ("binary", "multiclass"):
        option = "--probabilities" if probabilities else f"--top {top}"
        raise ConfigError(f"{option} is for classification models, and {restored.run} is for {spec.task}")
    if top != 1 and not 1 <= top <= classes:
        raise ConfigError(f"--top {top} is out of range: {restored.run} has {classes} classes")
    if keep and spec.task == "next-token":
        raise ConfigError(f"--keep {keep[0]} is for columns of .csv files, and {restored.run} expects texts")
    if invert and spec.kind != "image":
        raise ConfigError(f"--invert is for images, and {restored.run} expects {spec.kind}")
    return _predictions(restored, inputs, top=top, probabilities=probabilities, keep=keep, invert=invert, tell=tell)


def _predictions(
    restored: Restored,
    inputs: Sequence[str],
    *,
    top: int,
    probabilities: bool,
    keep: Sequence[str],
    invert: bool,
    tell: Callable[[str], None],
) -> Iterator[Prediction]:
    about, pixels = restored.preprocessing, Pixels(restored.preprocessing)
    if about.spec.task == "next-token":
        for path in sample_files(inputs, about.spec, tell=tell):
            yield Prediction(str(path), _score_text(restored, path, tell))
        return
    for samples in read_inputs(inputs, about, keep=keep, tell=tell):
        if samples.note:
            tell(samples.note)
        if not samples.names:
            continue
        raw = about.pixel_max - samples.raw if invert else samples.raw
        if about.spec.kind == "image":
            pixels.add(raw)
        output = restored.answer(raw).cpu()
        probability = restored.task.probabilities(output)
        if probability is None:
            answers = restored.task.answers(output, about.class_names)
        else:
            scores = restored.task.scores(output)
            answers = likeliest(probability, about.class_names, scores=scores, top=top, every=probabilities)
        for name, values, kept in zip(samples.names, answers, samples.kept, strict=True):
            yield Prediction(name, values, kept)
    if (warning := pixels.warning(inverted=invert)) is not None:
        tell(warning)


def read_inputs(
    inputs: Sequence[str], about: Preprocessing, *, keep: Sequence[str], tell: Callable[[str], None]
) -> Iterator[Samples]:
    """The samples in files, as `predict` takes them, in pieces; not for a language model."""
    if about.tokens is not None:
        yield from text_samples(inputs, about.tokens, keep=keep, tell=tell)
        return
    for path in sample_files(inputs, about.spec, tell=tell):
        yield from read_samples(path, about, keep=keep)


def _score_text(restored: Restored, path: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """The metrics of a text file, cut into rows as in training, and the likeliest next token."""
    spelling, steps = restored.preprocessing.spelling, restored.preprocessing.spec.input_shape[0]
    if spelling is None:
        raise ConfigError(f"{restored.run} has numbers for its tokens, so no text can be scored: evaluate it instead")
    text, is_known = read_any_text(path, streams=True, control=True)
    if not is_known:
        tell(f"{path} is read as latin-1, since it is not UTF-8")
    spelled = spelling.encode(text)
    refuse_lost(spelled, str(path))
    if spelled.unknown:
        tell(f"{path}: {told(spelling.unit, spelled.unknown)}")
    tokens = torch.from_numpy(spelled.tokens).long()[None].to(restored.device)
    length = tokens.shape[1]
    if length < 2:
        raise DataError(f"{path} has {length} {NAMES[spelling.unit]}: at least 2 are needed")
    measures = []
    for start in range(0, length - 1, steps):
        row = tokens[:, start : start + steps + 1]
        measures.append(restored.task.measure(restored.answer(row[:, :-1]), row[:, 1:]))
    found = restored.task.metrics(measures)
    (following,) = restored.task.answers(restored.answer(tokens[:, -steps:]), spelling.names)
    return {
        "characters": len(text),
        "bits_per_char": found["bits_per_char"],
        "perplexity": found["perplexity"],
        **following,
    }
