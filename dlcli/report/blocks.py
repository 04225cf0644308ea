"""What a report consists of, as plain data: the same for HTML and Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlcli.core.wording import number, setting
from dlcli.plots.picture import Picture, Tile


@dataclass(frozen=True)
class Cell:
    """A value that is not shown as it is sorted. link: the anchor of a section, or none."""

    shown: str
    value: Any = None
    link: str = ""


@dataclass(frozen=True)
class Text:
    """A sentence or more."""

    text: str


@dataclass(frozen=True)
class Code:
    """Lines as they are typed, or as they stand in a file. title: what they are."""

    title: str
    text: str


@dataclass(frozen=True)
class Table:
    """rows: a text, a number, yes or no, a list, None or a Cell for each heading; the first names the row. sortable:
    whether the values of a column can be compared."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    sortable: bool = True


@dataclass(frozen=True)
class Drawing:
    picture: Picture


@dataclass(frozen=True)
class Images:
    """Images with captions, or captions alone."""

    caption: str
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Fold:
    """Blocks that are shown when they are asked for; a model card does without them."""

    title: str
    blocks: "Sequence[Block]"


Block = Text | Code | Table | Drawing | Images | Fold


@dataclass(frozen=True)
class Section:
    """title: names it among the sections of one run, or of all. A section without blocks is not shown. in_card: whether
    it is for a model card, too, which may be published."""

    title: str
    blocks: Sequence[Block]
    in_card: bool = True


@dataclass(frozen=True)
class Chapter:
    """All about one run. anchor: unique in the report."""

    title: str
    anchor: str
    sections: Sequence[Section]


@dataclass(frozen=True)
class Report:
    """lead: sentences below the title. sections: about all runs. chapters: about single ones."""

    title: str
    lead: Sequence[str]
    sections: Sequence[Section]
    chapters: Sequence[Chapter]


def pairs(caption: str, values: dict[str, Any]) -> list[Table]:
    """A table of names and values, of which the undefined ones are left out; no table without a value."""
    rows = [(name, value) for name, value in values.items() if value is not None]
    return [Table(caption, ("what", "value"), rows, sortable=False)] if rows else []


def shown(value: Any) -> str:
    """The text of a value in a table: one line."""
    if isinstance(value, Cell):
        return value.shown
    if isinstance(value, str):
        return one_line(value)
    if value is None:
        return "-"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return setting(value)


def one_line(text: str) -> str:
    return " ".join(text.split())


def chosen(value: Any) -> Cell:
    """A setting, as an option takes it: 0.125 and not 0.1250."""
    told = one_line(value) if isinstance(value, str) else value
    return Cell("-" if told is None else setting(told), value)


def sorted_by(value: Any) -> float | None:
    """The number by which a value is sorted; None for a text and for what is undefined."""
    inner = value.value if isinstance(value, Cell) else value
    return float(inner) if isinstance(inner, int | float) and abs(inner) < float("inf") else None
