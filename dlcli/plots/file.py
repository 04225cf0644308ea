"""What was drawn or reported, as a file: complete or not there."""

from collections.abc import Sequence
from pathlib import Path

from dlcli.core.errors import ConfigError
from dlcli.core.files import write_bytes

KINDS = (".svg", ".png", ".html", ".csv")


def check_file(file: Path, *, force: bool, kinds: Sequence[str] = KINDS) -> None:
    """ConfigError (exit 2) if the file exists, unless `force`, or has an ending that is not in `kinds`."""
    if file.suffix not in kinds:
        raise ConfigError(f"--output {file} must end in {', '.join(kinds[:-1])} or {kinds[-1]}")
    if file.is_dir():
        raise ConfigError(f"--output {file} is a folder: name a file in it")
    if file.exists() and not force:
        raise ConfigError(f"--output {file} exists: add --force to replace it, or choose another file")


def write(content: str | bytes, file: Path, *, force: bool, kinds: Sequence[str] = KINDS) -> None:
    """As `check_file`; ResourceError (exit 6) if it cannot be written."""
    check_file(file, force=force, kinds=kinds)
    write_bytes(file, content if isinstance(content, bytes) else content.encode(errors="replace"))
