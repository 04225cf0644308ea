"""Characters of a text as tokens, for next-token prediction.

The text is cut into rows of `length` + 1 characters that overlap by one: the model sees the first
`length` of a row and predicts the last `length`, so that every character but the first is predicted once.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

from dlcli.data.dataset import Source
from dlcli.errors import ConfigError, DataError
from dlcli.files import read_bytes
from dlcli.spec import DataSpec

_MOST_BYTES = 1_000_000_000


def pydocs(data_dir: Path, *, length: int = 128) -> Source:
    """Python's own help topics: what `help("for")` prints.

    Many topics repeat passages of others, which would stand in the training and in the held-out part alike:
    each paragraph is kept once. Topics come in a fixed order that has nothing to do with their names, so that
    the held-out part is not all of one kind.
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
    """`tinyshakespeare/input.txt` of the data folder."""
    path = data_dir / "tinyshakespeare" / "input.txt"
    if not path.is_file():
        raise DataError(f"tinyshakespeare is not in the data folder: put it at {path}, or choose --data-dir")
    return from_text(_read(path), length=length)


def text_file(data_dir: Path, *, path: str, length: int = 128) -> Source:
    """A UTF-8 text file."""
    file = Path(path)
    if not file.is_file():
        raise DataError(f"text file {path} does not exist or is no file")
    return from_text(_read(file), length=length)


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
    small = np.uint8 if len(characters) <= 256 else np.int32
    stream = torch.from_numpy(tokens.astype(small))
    return Source(
        DataSpec("next-token", "tokens", (length,), len(characters), vocabulary=len(characters)),
        stream.unfold(0, length + 1, length),  # (N, length + 1), a view: the text is held once
        None,
        alphabet="".join(map(chr, characters)),
        ordered=True,
    )


def _read(path: Path) -> str:
    try:
        text = read_bytes(path, most=_MOST_BYTES, follow=True).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if "\0" in text:
        raise DataError(f"{path} is not text: it holds NUL characters")
    return text.replace("\r\n", "\n").replace("\r", "\n")
