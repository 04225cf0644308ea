"""The widths of the columns of a table, and their layout on a terminal that is too narrow."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Protocol

_GAP = 2  # spaces between two columns
_SHORTEST = 16  # smallest width to which a text is folded
_LONGEST_WORD = 40  # a longer word exceeds the width of its column


class Shape(Protocol):
    """How a column is laid out: see `output.Column`."""

    @property
    def right(self) -> bool: ...
    @property
    def fixed(self) -> bool: ...
    @property
    def cut(self) -> int: ...
    @property
    def drop(self) -> int: ...


def fit(columns: Sequence[Shape], cells: Sequence[Sequence[str]], *, width: int) -> dict[int, int]:
    """Index -> width of the columns that are shown, such that a line has at most `width` characters.

    cells: the cells of each column, its heading first. A column is left out if it does not fit beside the columns with
    a lower `drop` at their smallest widths. Words are not broken, even if a line then exceeds `width`.
    """
    natural = [max(map(_width, column)) for column in cells]
    least = [_least(c, column, n) for c, column, n in zip(columns, cells, natural, strict=True)]
    spare = width + _GAP
    shown = []
    for i in sorted(range(len(columns)), key=lambda i: columns[i].drop):
        if not columns[i].drop or least[i] + _GAP <= spare:
            shown.append(i)
            spare -= least[i] + _GAP
    widths = {i: least[i] for i in sorted(shown)}
    growing = sorted(shown, key=lambda i: natural[i] - least[i])
    for place, i in enumerate(growing):  # distribute the remaining width equally
        more = max(0, min(natural[i] - widths[i], spare // (len(growing) - place)))
        widths[i] += more
        spare -= more
    return widths


def compose(columns: Sequence[Shape], cells: Sequence[Sequence[str]], widths: Mapping[int, int]) -> Iterator[str]:
    """The lines of the table with the columns in `widths`."""
    looks = [(i, width, columns[i].right, columns[i].cut > 0) for i, width in widths.items()]
    for row in zip(*cells, strict=True):
        folded = [_arrange(row[i], width=width, cut=cut) for i, width, _, cut in looks]
        for line in zip_longest(*folded, fillvalue=""):
            padded = [_pad(cell, width, right=right) for cell, (_, width, right, _) in zip(line, looks, strict=True)]
            yield (" " * _GAP).join(padded).rstrip()


def _least(column: Shape, cells: Sequence[str], natural: int) -> int:
    if column.right or column.fixed:
        return natural
    if column.cut:
        return min(natural, max(_width(cells[0]), column.cut))
    word = max(_width(word) for cell in cells for word in cell.split(" "))
    return max(min(word, _LONGEST_WORD), min(natural, _SHORTEST))


def _arrange(cell: str, *, width: int, cut: bool) -> list[str]:
    """The lines of a cell: a single line that ends in an ellipsis if `cut`, otherwise folded between words."""
    if _width(cell) <= width:
        return [cell]
    if cut:
        start = cell[: width - 3]
        while _width(start) > width - 3:
            start = start[:-1]
        return [f"{start.rpartition(' ')[0] or start}..."]
    return fold(cell, width=width)


def fold(text: str, *, width: int) -> list[str]:
    """Lines of at most `width` characters, broken only between words; a longer word gets its own line."""
    lines: list[str] = []
    for word in text.split(" "):
        if lines and _width(lines[-1]) + 1 + _width(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _pad(cell: str, width: int, *, right: bool) -> str:
    if cell.isascii():
        return cell.rjust(width) if right else cell.ljust(width)
    space = " " * (width - _width(cell))
    return space + cell if right else cell + space


def _width(text: str) -> int:
    """Width on a terminal: two for a wide (such as a Chinese) character, zero for a combining accent."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )
