"""A picture as a file, complete or not there."""

from pathlib import Path

from dlcli.core.errors import ConfigError
from dlcli.core.files import write_bytes

KINDS = (".svg", ".html", ".csv")


def check_file(file: Path, *, force: bool) -> None:
    """ConfigError (exit 2) if the file exists, unless `force`, or has another ending than .svg, .html or .csv."""
    if file.suffix not in KINDS:
        raise ConfigError(f"--output {file} must end in {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    if file.is_dir():
        raise ConfigError(f"--output {file} is a folder: name a file in it")
    if file.exists() and not force:
        raise ConfigError(f"--output {file} exists: add --force to replace it, or choose another file")


def write_picture(content: str, file: Path, *, force: bool) -> None:
    """As `check_file`; ResourceError (exit 6) if it cannot be written."""
    check_file(file, force=force)
    write_bytes(file, content.encode(errors="replace"))
