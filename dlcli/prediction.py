"""New inputs -> answers, by a trained run: images, rows of numbers, texts; and text that goes on by itself."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dlcli.data.dataset import Preprocessing
from dlcli.errors import ConfigError, DataError, RunError
from dlcli.experiment import Restored
from dlcli.files import files_below, read_bytes
from dlcli.spec import DataSpec
from dlcli.training.devices import autocast

_IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_MOST_PIXELS = 64_000_000
_MOST_BYTES = 1_000_000_000
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
    for path in _files(inputs, restored.preprocessing.spec):
        if restored.preprocessing.spec.task == "next-token":
            yield Prediction(str(path), _score_text(restored, _read_text(path)))
        elif restored.preprocessing.spec.kind == "image" and path.suffix.lower() != ".csv":
            image = _read_image(path, restored.preprocessing)
            yield from _answers(restored, [str(path)], image[None])
        else:
            names, rows = _read_rows(path, restored.preprocessing)
            yield from _answers(restored, names, rows)


@torch.inference_mode()
def generate(
    restored: Restored, prompt: str, *, length: int, temperature: float = 1.0, top_k: int = 0, seed: int = 0
) -> Iterator[str]:
    """`length` characters that go on from `prompt`, one by one.

    temperature: 0 takes the likeliest character always. top_k: draw from the k likeliest only; 0 from all.
    Raises ConfigError when the run is no language model, DataError when the prompt has a character that it
    never saw.
    """
    spec, alphabet = restored.preprocessing.spec, restored.preprocessing.alphabet
    if spec.task != "next-token" or not alphabet:
        raise ConfigError(f"{restored.run} is no language model: train one with `dlcli train rnn`")
    if temperature < 0 or top_k < 0 or length < 1:
        raise ConfigError("temperature and top-k must be at least 0, and length at least 1")
    tokens = _encode(prompt or "\n", alphabet, "--prompt") if prompt or "\n" in alphabet else [0]
    generator = torch.Generator().manual_seed(seed)
    context = torch.tensor([tokens], device=restored.device)
    run, state = getattr(restored.model, "run", None), None
    with autocast(restored.config.precision, restored.device):
        for _ in range(length):
            if run is not None:  # a recurrent model carries its state and needs the new character only
                output, state = run(context, state)
            else:
                output = restored.model(context[:, -spec.input_shape[0] :])
            token = _draw(_checked(output[0, -1], restored).float().cpu(), temperature, top_k, generator)
            yield alphabet[token]
            new = torch.tensor([[token]], device=restored.device)
            context = new if run is not None else torch.cat([context, new], 1)


@torch.inference_mode()
def _answers(restored: Restored, names: list[str], raw: Tensor) -> Iterator[Prediction]:
    """Predictions of raw (N, ...) inputs."""
    spec, about = restored.preprocessing.spec, restored.preprocessing
    x = about.apply(raw.to(restored.device))
    x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
    size = restored.config.eval_batch_size
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
def _score_text(restored: Restored, text: str) -> dict[str, Any]:
    """Bits per character of a text, cut into rows as in training, and its likeliest next character."""
    alphabet, steps = restored.preprocessing.alphabet, restored.preprocessing.spec.input_shape[0]
    tokens = torch.tensor(_encode(text, alphabet, "the text"), device=restored.device)
    if len(tokens) < 2:
        raise DataError("a text must have at least 2 characters")
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


def _draw(logits: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    if 0 < top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -math.inf)
    return int(torch.multinomial(torch.softmax(logits / temperature, 0), 1, generator=generator))


def _files(inputs: Sequence[str], spec: DataSpec) -> Iterator[Path]:
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            if spec.kind != "image":
                raise DataError(f"{path} is a folder: name the files")
            found = [p for p in files_below(path, most=_MOST_FILES) if p.suffix.lower() in _IMAGE_SUFFIXES]
            if not found:
                raise DataError(f"{path} holds no images ({', '.join(_IMAGE_SUFFIXES)})")
            yield from found
        elif path.is_file():
            yield path
        else:
            raise DataError(f"{path} {'is no regular file' if path.exists() else 'does not exist'}")


def _read_text(path: Path) -> str:
    try:
        text = read_bytes(path, most=_MOST_BYTES, follow=True).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_image(path: Path, about: Preprocessing) -> Tensor:
    """An image file as raw (C, H, W) values of the model's data: grey or colour, resized, 0 to its white."""
    import warnings

    from PIL import Image

    channels, height, width = about.spec.input_shape
    if channels not in (1, 3):
        raise ConfigError(f"the model takes images of {channels} channels, which no image file has")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if path.stat().st_size > _MOST_BYTES:
                raise DataError(f"{path} has more than {_MOST_BYTES:,} bytes")
            with Image.open(path, formats=_IMAGE_FORMATS) as image:
                if image.width * image.height > _MOST_PIXELS:
                    raise DataError(f"{path} has {image.width}x{image.height} pixels, more than {_MOST_PIXELS:,}")
                picture = image.convert("L" if channels == 1 else "RGB").resize((width, height))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path} is no readable image: {' '.join(str(error).split())}") from None
    pixels = torch.from_numpy(np.array(picture, dtype=np.float32)).view(height, width, channels)
    return pixels.permute(2, 0, 1) * (about.pixel_max / 255)


def _read_rows(path: Path, about: Preprocessing) -> tuple[list[str], Tensor]:
    """A CSV file as names (file:line) and raw (N, ...) values. A header is used to order the columns."""
    spec = about.spec
    width = math.prod(spec.input_shape)
    text = _read_text(path)
    try:
        lines = [(number, cells) for number, cells in enumerate(csv.reader(text.splitlines()), 1) if cells]
    except csv.Error as error:
        raise DataError(f"{path} is no table: {error}") from None
    if not lines:
        raise DataError(f"{path} is empty")
    order = list(range(width))
    if not _are_numbers(lines[0][1]):
        header = [cell.strip() for cell in lines.pop(0)[1]]
        expected = list(about.feature_names) or [f"x{i}" for i in range(width)]
        missing = [name for name in expected if name not in header]
        if missing:
            raise DataError(f"{path} has no column {missing[0]!r}: it needs {_named(expected)}")
        order = [header.index(name) for name in expected]
        width = len(header)
    if not lines:
        raise DataError(f"{path} has a header but no rows")
    names, rows = [], []
    for number, cells in lines:
        if len(cells) != width:
            raise DataError(f"{path}:{number} has {len(cells)} values, but {width} are needed")
        try:
            row = [float(cells[i]) for i in order]
        except ValueError:
            raise DataError(f"{path}:{number} has a value that is no number") from None
        if not all(math.isfinite(v) for v in row):
            raise DataError(f"{path}:{number} has a value that is not finite")
        if spec.kind == "tokens" and not all(v.is_integer() and 0 <= v < spec.vocabulary for v in row):
            raise DataError(f"{path}:{number}: tokens must be whole numbers from 0 to {spec.vocabulary - 1}")
        names.append(f"{path}:{number}")
        rows.append(row)
    values = torch.tensor(rows, dtype=torch.int64 if spec.kind == "tokens" else torch.float32)
    return names, values.view(len(rows), *spec.input_shape)


def _named(columns: Sequence[str]) -> str:
    """All of a few columns, the first of many."""
    return ", ".join(columns) if len(columns) <= 12 else f"{len(columns)} columns, {', '.join(columns[:3])} and so on"


def _are_numbers(cells: Sequence[str]) -> bool:
    try:
        return bool([float(cell) for cell in cells])
    except ValueError:
        return False
