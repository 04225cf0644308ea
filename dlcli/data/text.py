"""Texts for next-token prediction: pydocs, tinyshakespeare, and your own files."""

import hashlib
from pathlib import Path

from dlcli.core.errors import DataError
from dlcli.core.files import sha256_of
from dlcli.data.download import fetch
from dlcli.data.published import TINYSHAKESPEARE
from dlcli.data.readers.text import read_text
from dlcli.data.texts.corpus import Corpus
from dlcli.data.texts.documents import Documents, read_documents, remember
from dlcli.data.texts.tokens import Unit


def pydocs(data_dir: Path, *, length: int = 128, tokens: Unit = "characters", vocabulary: int = 0) -> Corpus:
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
    text = "\n\n".join(paragraphs)
    return Corpus.of(Documents((text,)), tokens=tokens, vocabulary=vocabulary, length=length)


def tinyshakespeare(data_dir: Path, *, length: int = 128, tokens: Unit = "characters", vocabulary: int = 0) -> Corpus:
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
    return Corpus.of(Documents((text,)), tokens=tokens, vocabulary=vocabulary, length=length)


def text_file(
    data_dir: Path,
    *,
    path: str,
    length: int = 128,
    tokens: Unit = "characters",
    vocabulary: int = 0,
    val: str | None = None,
    test: str | None = None,
) -> Corpus:
    """Your own text: a file, several with commas between them, or all .txt files below a folder.

    length: tokens of a row. tokens: what one is. vocabulary: how many different ones are kept, 0 for the usual number.
    val, test: files or folders for validation and testing.
    """
    documents = read_documents(path, val=val, test=test)
    found = Corpus.of(documents, tokens=tokens, vocabulary=vocabulary, length=length)
    remember(found.fingerprint, path, documents)
    return found
