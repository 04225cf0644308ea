"""Trials from a CSV file: a column for each setting, a row for each trial."""

import csv
import io
from pathlib import Path
from typing import Any

from dlcli.core.errors import ConfigError
from dlcli.core.reading import read_bytes
from dlcli.sweeps.space import axis

_MOST = 10_000_000

# Columns of `--print-trials` that are no settings.
_ASIDE = ("trial",)


def read_trials(path: str) -> list[dict[str, Any]]:
    """The settings of each row, without those of empty cells. ConfigError (exit 2) with the line that is wrong."""
    try:
        text = read_bytes(Path(path), most=_MOST, follow=True).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"--trials-from {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--trials-from {path} cannot be read: it is not UTF-8 text") from None
    rows = list(csv.reader(io.StringIO(text)))
    if len(rows) < 2:
        raise ConfigError(f"--trials-from {path} holds no trials: a header of settings, then a row for each is needed")
    names = [name.strip().replace("-", "_") for name in rows[0]]
    if len(set(names)) < len(names):
        raise ConfigError(f"--trials-from {path} has a column twice: {', '.join(names)}")
    found = []
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(names):
            raise ConfigError(f"--trials-from {path}, line {number}: {len(row)} cells instead of {len(names)}")
        cells = {name: cell.strip() for name, cell in zip(names, row, strict=True) if name not in _ASIDE}
        found.append({name: _value(path, number, name, cell) for name, cell in cells.items() if cell})
    return found


def _value(path: str, line: int, name: str, cell: str) -> Any:
    try:
        return axis(name, f'"{cell}"' if "," in cell else cell).values[0]
    except (ConfigError, IndexError) as error:
        raise ConfigError(f"--trials-from {path}, line {line}: {error}") from None
