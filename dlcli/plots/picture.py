"""What a picture shows, as plain data: the same for SVG, HTML, CSV and a terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Point = tuple[float, float | None]  # x, y; y None is a gap in the line


@dataclass(frozen=True)
class Line:
    """name: as in the legend. part: what of it this line is, such as train or val.

    style: a number that gives colour and marker: the number of a run, so that it looks the same everywhere.
    band: (x, low, high) around the line. joined: False for single points.
    """

    name: str
    points: Sequence[Point]
    part: str = ""
    style: int = 1
    dashed: bool = False
    joined: bool = True
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Panel:
    """Lines over one pair of axes. x, y: what is on them. log: whether the y axis is logarithmic."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log: bool = False

    def heights(self) -> Iterator[float]:
        """All that the y axis must hold."""
        for line in self.lines:
            yield from (y for _, y in line.points if y is not None)
            yield from (end for _, *ends in line.band for end in ends)

    def rows(self) -> Iterator[dict[str, Any]]:
        for line in self.lines:
            bands = {x: (low, high) for x, low, high in line.band}
            for x, y in line.points:
                low, high = bands.get(x, (None, None))
                yield {
                    "panel": self.title, "line": line.name, "part": line.part, "x": x, "y": y, "low": low, "high": high,
                }  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Counts, or weights, of pairs: counts[row][column], shaded by their share of the row."""

    title: str
    x: str
    y: str
    names: Sequence[str]
    counts: Sequence[Sequence[float]]

    def rows(self) -> Iterator[dict[str, Any]]:
        for name, counts in zip(self.names, self.counts, strict=True):
            for other, count in zip(self.names, counts, strict=True):
                yield {"panel": self.title, "row": name, "column": other, "count": count}


def counted(value: float) -> str:
    """A count as it is, a weight with two decimals."""
    return str(value) if isinstance(value, int) else f"{value:.2f}"


@dataclass(frozen=True)
class Bars:
    """How often each of some values, or intervals of values, occurs."""

    title: str
    names: Sequence[str]
    counts: Sequence[int]

    def rows(self) -> Iterator[dict[str, Any]]:
        for name, count in zip(self.names, self.counts, strict=True):
            yield {"panel": self.title, "bar": name, "count": count}


@dataclass(frozen=True)
class Contributions:
    """How much each of some parts adds to a number, or takes from it, in the order of the parts."""

    title: str
    names: Sequence[str]
    values: Sequence[float]

    def rows(self) -> Iterator[dict[str, Any]]:
        for name, value in zip(self.names, self.values, strict=True):
            yield {"panel": self.title, "part": name, "contribution": value}


@dataclass(frozen=True)
class Tile:
    """caption: lines of text. png: an image; None where there is only the caption. shades: rows of values from 0 to 1,
    which a terminal shows in the place of the image."""

    caption: Sequence[str]
    png: bytes | None = None
    shades: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class Sheet:
    """Images with captions, or captions alone, one after the other. size: of an image, in units of the picture."""

    title: str
    tiles: Sequence[Tile]
    size: int = 80

    def rows(self) -> Iterator[dict[str, Any]]:
        for number, tile in enumerate(self.tiles, 1):
            yield {"panel": self.title, "tile": number, "caption": ", ".join(tile.caption)}


@dataclass(frozen=True)
class Tree:
    """Items below each other, each under the nearest one above it of a smaller depth. headings: of the cells.

    items: depth, from 0, and cells; the first cell is indented.
    """

    title: str
    headings: Sequence[str]
    items: Sequence[tuple[int, Sequence[str]]]

    def rows(self) -> Iterator[dict[str, Any]]:
        for depth, cells in self.items:
            yield {"panel": self.title, "depth": depth, **dict(zip(self.headings, cells, strict=True))}


@dataclass(frozen=True)
class Picture:
    """notes: sentences about what is left out or changed, for the person who asked."""

    title: str
    panels: Sequence[Panel | Grid | Sheet | Bars | Tree | Contributions]
    notes: Sequence[str] = ()

    def beside(self, other: "Picture") -> "Picture":
        """Both in one."""
        return Picture(self.title, [*self.panels, *other.panels], [*self.notes, *other.notes])

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """The numbers: header and rows."""
        rows = [row for panel in self.panels for row in panel.rows()]
        header = list(dict.fromkeys(name for row in rows for name in row))
        return header, [[row.get(name) for name in header] for row in rows]
