"""Tags and the note of a run: `dlcli runs tag 7 +good`, `dlcli runs note 7 "too high a rate"`.

They are in files of their own, runs/42/tags.txt (one per line, sorted) and runs/42/note.txt, so that the records of a
training never change.
"""

import contextlib
import os
import re
from collections.abc import Collection, Iterator

from dlcli.core.errors import ConfigError, ResourceError, RunError
from dlcli.core.files import held, write_bytes
from dlcli.core.reading import read_bytes
from dlcli.runs.run import Run

_TAG = re.compile("[a-z][a-z0-9_.-]{0,63}", re.I)
_MOST_TAGS = 100
_MOST_NOTE = 10_000  # bytes

_TAGS_FILE, _NOTE_FILE = "tags.txt", "note.txt"


def tags_of(run: Run) -> list[str]:
    """Sorted. Lines of tags.txt that are no tag are left out, and so is a file that cannot be read."""
    try:
        content = read_bytes(os.path.join(run.root, str(run.number), _TAGS_FILE), most=_MOST_TAGS * 66).decode()
    except (OSError, ValueError):
        return []
    return sorted({line for line in content.split("\n") if _TAG.fullmatch(line)})


def note_of(run: Run) -> str | None:
    """None if there is none, or it cannot be read."""
    try:
        return read_bytes(os.path.join(run.root, str(run.number), _NOTE_FILE), most=_MOST_NOTE).decode().strip() or None
    except (OSError, ValueError):
        return None


def change_tags(run: Run, *, add: Collection[str], remove: Collection[str]) -> list[str]:
    """The tags that the run has afterwards. ConfigError (exit 2) for text that is no tag, or too many."""
    for tag in (*add, *remove):
        if not _TAG.fullmatch(tag):
            raise ConfigError(
                f"{tag!r} cannot be a tag: use a letter, then up to 63 letters, digits, dots, dashes and underscores"
            )
    with _alone_in(run):
        tags = sorted(({*tags_of(run)} | {*add}) - {*remove})
        if len(tags) > _MOST_TAGS:
            raise ConfigError(f"{run} would have {len(tags)} tags: at most {_MOST_TAGS} are possible")
        _write(run, _TAGS_FILE, "".join(f"{tag}\n" for tag in tags))
    return tags


def write_note(run: Run, text: str) -> None:
    """Replace the note; an empty one removes it. ConfigError (exit 2) if it is too long or cannot be printed."""
    if len(text.encode(errors="replace")) >= _MOST_NOTE:
        raise ConfigError(f"a note has at most {_MOST_NOTE:,} bytes: write a shorter one")
    if not all(letter.isprintable() or letter == "\n" for letter in text):
        raise ConfigError("a note is plain text, without control characters: write it without them")
    with _alone_in(run):
        _write(run, _NOTE_FILE, f"{text.strip()}\n" if text.strip() else "")


def _write(run: Run, name: str, content: str) -> None:
    if content:
        write_bytes(run.path / name, content.encode())
        return
    try:
        (run.path / name).unlink(missing_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot remove {run.path / name}: {error.strerror}") from None


@contextlib.contextmanager
def _alone_in(run: Run) -> Iterator[None]:
    """Inside the block, no other process changes tags or note of the run, which may be in training."""
    try:
        descriptor = os.open(run.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise RunError(f"there is no run {run} any more: it was moved or deleted") from None
    except OSError as error:
        raise ResourceError(f"{run} cannot be opened: {error.strerror}") from None
    with held(descriptor):
        yield
