"""New texts for a trained model: those of the command line, .txt files, folders of them, tables, lines of a stream."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from dlcli.core.errors import ConfigError, DataError, did_you_mean
from dlcli.core.reading import files_below
from dlcli.data.readers.csv import Samples
from dlcli.data.readers.tables import read_table
from dlcli.data.readers.text import STDIN, is_stream, read_any_text
from dlcli.data.texts.tokens import NAMES, Tokens

_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".gz")
_MOST_FILES = 1_000_000
_AT_ONCE = 1024  # texts that are tokens at a time

# name, text, kept columns
_Named = tuple[str, str, dict[str, str]]


def text_samples(
    inputs: Sequence[str], tokens: Tokens, *, keep: Sequence[str] = (), tell: Callable[[str], None]
) -> Iterator[Samples]:
    """The texts of `inputs`, in order, as tokens. A folder stands for its .txt files, `-` for the lines of standard
    input, and what is no file and does not look like one for itself.

    keep: columns of a table whose cells are returned with each text. tell: called with a sentence about files that are
    skipped, rows without a text, and, at the end, what the training texts did not have. DataError for a missing file.
    """
    unknown: Counter[str] = Counter()
    cut = 0
    waiting: list[_Named] = []
    for each in _texts(inputs, tokens, keep, tell):
        waiting.append(each)
        if len(waiting) == _AT_ONCE:
            samples, more = _encoded(waiting, tokens, unknown)
            cut, waiting = cut + more, []
            yield samples
    if waiting:
        samples, more = _encoded(waiting, tokens, unknown)
        cut += more
        yield samples
    if cut:
        tell(f"{cut:,} texts are cut off: the model reads {tokens.length:,} {NAMES[tokens.unit]}")
    if unknown:
        what = "words" if tokens.unit == "words" else "characters"
        frequent = ", ".join(f"{text[:20]!r} ({count:,})" for text, count in unknown.most_common(8))
        tell(f"unknown {what}, which the training texts had once or never: {unknown.total():,}, such as {frequent}")


def _encoded(texts: list[_Named], tokens: Tokens, unknown: Counter[str]) -> tuple[Samples, int]:
    """And how many are cut; what is unknown is added to `unknown`."""
    found = tokens.encode([text for _, text, _ in texts])
    unknown.update(found.unknown)
    raw = torch.from_numpy(found.rows).long()
    return Samples([name for name, _, _ in texts], raw, [kept for _, _, kept in texts]), found.cut


def _texts(inputs: Sequence[str], tokens: Tokens, keep: Sequence[str], tell: Callable[[str], None]) -> Iterator[_Named]:
    for given in inputs:
        if not given:
            raise ConfigError("an input is empty: give a text, a file or a folder")
        path = STDIN if given == "-" else Path(given)
        try:
            is_folder, is_file = path.is_dir(), path.is_file()
        except (OSError, ValueError):  # too long for a name, or a NUL in it: a text
            is_folder = is_file = False
        if is_file and path.suffix.lower() in _TABLES:
            yield from _rows(path, tokens, keep, tell)
            continue
        if keep:
            raise ConfigError(f"--keep {keep[0]} is for columns of .csv files, and {given[:40]} is none")
        if is_folder:
            yield from _in_folder(path, tell)
        elif is_stream(path):
            lines = enumerate(_read(path, tell).split("\n"), 1)
            yield from ((f"{path}:{number}", line.strip(), {}) for number, line in lines if line.strip())
        elif is_file:
            yield str(path), _read(path, tell).strip(), {}
        elif path.suffix.lower() in (*_TABLES, ".txt") and not any(map(str.isspace, given)):
            raise DataError(f"{path} does not exist")
        else:
            yield given, given.strip(), {}


def _in_folder(folder: Path, tell: Callable[[str], None]) -> Iterator[_Named]:
    files = files_below(folder, most=_MOST_FILES)
    found = [path for path in files if path.suffix.lower() == ".txt" and not path.name.startswith(".")]
    if not found:
        raise DataError(f"{folder} holds no .txt files")
    if len(found) < len(files):
        tell(f"files skipped in {folder}: {len(files) - len(found):,} not .txt")
    for path in found:
        yield str(path), _read(path, tell).strip(), {}


def _read(path: Path, tell: Callable[[str], None]) -> str:
    text, is_known = read_any_text(path, streams=True)
    if not is_known:
        tell(f"{path} is read as latin-1, since it is not UTF-8")
    return text


def _rows(path: Path, tokens: Tokens, keep: Sequence[str], tell: Callable[[str], None]) -> Iterator[_Named]:
    """The rows of a table, whose columns may be in any order. A row without a text is an empty one."""
    table = read_table(path)
    column = tokens.column or "text"
    for name, option in [(column, "with the text"), *((name, "for --keep") for name in keep)]:
        if name not in table.columns:
            raise DataError(f"{path} has no column {name!r} {option}: {did_you_mean(name, table.columns)}")
    for note in table.notes:
        tell(note)
    cells = table.columns[column]
    if empty := int((cells.codes < 0).sum()):
        tell(f"{empty:,} of {len(table):,} rows of {path} have no {column}")
    for row in range(len(table)):
        yield table.where(row), cells.text(row), {name: table.columns[name].text(row) for name in keep}
