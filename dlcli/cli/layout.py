"""How wide the columns of a table are, and what becomes of them where a terminal is too narrow."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Protocol

_GAP = 2  # spaces between two columns
_SHORTEST = 16  # a text is folded to no fewer characters
_LONGEST_WORD = 40  # a longer one sticks out


class Shape(Protocol):
    """What a column says of its looks: see `output.Column`."""

    @property
    def right(self) -> bool: ...
    @property
    def fixed(self) -> bool: ...
    @property
    def cut(self) -> int: ...
    @property
    def drop(self) -> int: ...


def fit(columns: Sequence[Shape], cells: Sequence[Sequence[str]], *, width: int) -> dict[int, int]:
    """The numbers of the columns that are shown, from 0, each with its width, so that a line takes `width` at most.

    cells: those of each column, its heading first. A column that does not fit beside those of a lower `drop`, texts as
    narrow as they may be, is left out. No word is broken, even where a line takes more than `width`.
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
    for place, i in enumerate(growing):  # what is left over, in equal parts
        more = max(0, min(natural[i] - widths[i], spare // (len(growing) - place)))
        widths[i] += more
        spare -= more
    return widths


def compose(columns: Sequence[Shape], cells: Sequence[Sequence[str]], widths: Mapping[int, int]) -> Iterator[str]:
    """The lines of the table, with the columns of `widths`."""
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
    """The lines of a cell: one that ends in an ellipsis, or as many as it takes, folded between words."""
    if _width(cell) <= width:
        return [cell]
    if cut:
        start = cell[: width - 3]
        while _width(start) > width - 3:
            start = start[:-1]
        words = start.rpartition(" ")[0]
        return [f"{words if len(words) > len(start) / 2 else start}..."]
    return fold(cell, width=width)


def fold(text: str, *, width: int) -> list[str]:
    """Lines of at most `width`, broken between words only."""
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
    """Columns that a terminal takes for it: two for a Chinese character, none for an accent of its own."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )
