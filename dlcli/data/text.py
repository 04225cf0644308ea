"""Characters of a text as tokens, for next-token prediction.

The text is cut into rows of `length` + 1 characters that overlap by one. The model sees the first `length` characters
of a row and predicts the last `length`, so that every character of the text but the first is predicted once.
"""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch

from dlcli.core.errors import ConfigError, DataError
from dlcli.core.files import sha256_of
from dlcli.core.spec import DataSpec
from dlcli.data.download import fetch
from dlcli.data.published import TINYSHAKESPEARE
from dlcli.data.readers.text import read_text
from dlcli.data.source import Source
from dlcli.data.texts.folder import listed, text_files


def pydocs(data_dir: Path, *, length: int = 128) -> Source:
    """Python's own help topics: what `help("for")` prints.

    Many topics repeat passages of others, which would then be in both the training and the held-out text: each
    paragraph is kept once. The topics are in a fixed pseudo-random order, so that related ones are not all held out.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    paragraphs = []
    for name in sorted(topics, key=lambda name: hashlib.sha256(name.encode()).digest()):
        for paragraph in topics[name].split("\n\n"):
            if paragraph.strip("\n") not in seen:
                seen.add(paragraph.strip("\n"))
                paragraphs.append(paragraph)
    return from_text("\n\n".join(paragraphs), length=length)


def tinyshakespeare(data_dir: Path, *, length: int = 128) -> Source:
    """`tinyshakespeare/input.txt` in the data folder, downloaded if it is missing."""
    folder = data_dir / "tinyshakespeare"
    fetch("tinyshakespeare", TINYSHAKESPEARE, folder)
    (file,) = TINYSHAKESPEARE[0].files
    path = folder / file.name
    text = read_text(path)
    if sha256_of(path) != file.sha256:
        raise DataError(
            f"{path} is not tinyshakespeare, or damaged: its sha256 is not {file.sha256}; delete it to download it "
            f"again, or train on it as --data text:{path}"
        )
    return from_text(text, length=length)


def text_file(data_dir: Path, *, path: str, length: int = 128) -> Source:
    """A UTF-8 text file, or all .txt files below a folder, in the order of their names."""
    place = Path(path)
    return from_text(_joined(place) if place.is_dir() else read_text(place), length=length)


def _joined(folder: Path) -> str:
    """The texts in a folder, each of which ends with a line end. DataError if there are none, or too many."""
    files, skipped = text_files(folder)
    if not files:
        told = f" ({listed(skipped)})" if skipped else ""
        raise DataError(f"{folder} holds no .txt files{told}: name another folder, or a file")
    texts = (read_text(path) for path in files)
    return "".join(text if text.endswith("\n") else f"{text}\n" for text in texts)


def from_text(text: str, *, length: int) -> Source:
    """`text` as rows of tokens; a token is the position of its character in the sorted alphabet."""
    if length < 1:
        raise ConfigError(f"data.length = {length} must be at least 1")
    if len(text) < 10 * length + 1:
        raise DataError(
            f"a text of {len(text)} characters is too short: rows of {length} need at least {10 * length + 1}; "
            "take a longer text or a smaller data.length"
        )
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    characters, tokens = np.unique(codes, return_inverse=True)
    if len(characters) < 2:
        raise DataError(f"a text of nothing but {text[0]!r} has nothing to predict: take another one")
    small = np.uint8 if len(characters) <= 256 else np.int32
    stream = torch.from_numpy(tokens.astype(small))
    return Source(
        DataSpec("next-token", "tokens", (length,), len(characters), vocabulary=len(characters)),
        stream.unfold(0, length + 1, length),  # (N, length + 1), a view
        None,
        alphabet="".join(map(chr, characters)),
        ordered=True,
    )


def respelt(source: Source, alphabet: str) -> Source:
    """The same text, encoded with another `alphabet`; DataError if the text has a character that is not in it."""
    table = torch.tensor(encode(source.alphabet, alphabet, "the text"), dtype=torch.int32)
    spec = dataclasses.replace(source.spec, outputs=len(alphabet), vocabulary=len(alphabet))
    return dataclasses.replace(source, spec=spec, x=table[source.x.int()], alphabet=alphabet)


def encode(text: str, alphabet: str, what: str) -> list[int]:
    """The token of each character: its index in `alphabet`. DataError if one is missing. what: names the text in it."""
    token = {character: i for i, character in enumerate(alphabet)}
    unknown = sorted(set(text) - token.keys())
    if unknown:
        raise DataError(f"{what} has characters that the model never saw: {' '.join(map(repr, unknown[:8]))}")
    return [token[character] for character in text]
