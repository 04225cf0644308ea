"""A picture as SVG, without fonts, scripts or links: readable in grey, by the colour-blind, on light and dark."""

import base64
import re
from collections.abc import Iterator, Sequence
from html import escape

from dlcli.plots.axis import Axis, label
from dlcli.plots.picture import Bars, Contributions, Grid, Line, Panel, Picture, Sheet, Tree, counted
from dlcli.plots.thinning import evenly

_WIDTH, _LEFT, _RIGHT, _TOP, _HEIGHT, _BELOW = 720, 70, 20, 34, 240, 44
_ROW = 18  # of the legend
_MOST_VALUES = 60  # of a line that are told to a pointer

# The colours of Okabe and Ito (2008); black is that of the text. With the markers 35 styles are different.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "currentColor")
_MARKERS = ("M-3 -3h6v6h-6z", "M0 -4L4 3h-8z", "M0 -4.5L4.5 0L0 4.5L-4.5 0z",
            "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z",
            "M-3 -3L3 3M-3 3L3 -3")  # fmt: skip

STYLE = (
    ".dlcli{background:#fff;color:#222;font:13px system-ui,sans-serif}.dlcli text{fill:currentColor}"
    ".dlcli .on{fill:#fff}"
    "@media(prefers-color-scheme:dark){.dlcli{background:#16181c;color:#ddd}}"
)

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def to_svg(picture: Picture, *, styled: bool = True, values: bool = False) -> str:
    """An XML document of one <svg>. Names of runs, classes and columns are escaped and cut.

    styled: with the style sheet STYLE; without it, the page that holds the picture must have it. values: whether a
    pointer over a line is told the nearest values.
    """
    parts, y = [], 0.0
    for panel in picture.panels:
        if isinstance(panel, Panel):
            drawn, height = _panel(panel, values=values)
        elif isinstance(panel, Tree):
            drawn, height = _tree(panel)
        else:
            drawn, height = _of_other_kind(panel)
        parts.append(f'<g transform="translate(0 {y:g})">{drawn}</g>')
        y += height
    for note in picture.notes:
        parts.append(f'<text x="{_LEFT}" y="{y + 14:g}" font-size="11">{text(note, most=110)}</text>')
        y += _ROW
    title = text(f"{picture.title}: " + ", ".join(panel.title for panel in picture.panels))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="dlcli" viewBox="0 0 {_WIDTH} {y + 8:g}" width="{_WIDTH}" '
        f'height="{y + 8:g}" role="img" aria-label="{title}"><title>{title}</title>'
        + (f"<style>{STYLE}</style>" if styled else "")
        + "\n".join(parts)
        + "</svg>\n"
    )


def text(value: str, *, most: int = 60) -> str:
    """A name as XML text, also inside quotes: escaped, without control characters, cut to `most` characters."""
    value = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)
    return escape(value if len(value) <= most else f"{value[: most - 1]}…")


def _of_other_kind(panel: Grid | Bars | Contributions | Sheet) -> tuple[str, float]:
    if isinstance(panel, Grid):
        return _grid(panel)
    if isinstance(panel, Bars):
        return _bars(panel)
    return _contributions(panel) if isinstance(panel, Contributions) else _sheet(panel)


def _panel(panel: Panel, *, values: bool) -> tuple[str, float]:
    """The drawing, and its height."""
    across = Axis.around(x for line in panel.lines for x, y in line.points if y is not None)
    up = Axis.around(panel.heights(), log=panel.log)
    wide = _WIDTH - _LEFT - _RIGHT
    parts = [f'<text x="{_LEFT}" y="20" font-weight="bold">{text(panel.title)}</text>']
    for tick in up.ticks():
        y = _TOP + _HEIGHT * (1 - up.place(tick))
        parts.append(
            f'<path d="M{_LEFT} {y:.1f}h{wide}" stroke="currentColor" stroke-opacity=".15"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label(tick)}</text>'
        )
    for tick in across.ticks(whole=all(x.is_integer() for line in panel.lines for x, _ in line.points)):
        x = _LEFT + wide * across.place(tick)
        parts.append(f'<text x="{x:.1f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">{label(tick)}</text>')
    below = _TOP + _HEIGHT
    parts.append(f'<path d="M{_LEFT} {_TOP}V{below}H{_WIDTH - _RIGHT}" fill="none" stroke="currentColor"/>')
    parts.append(f'<text x="{_LEFT + wide / 2}" y="{below + 36}" text-anchor="middle">{text(panel.x)}</text>')
    for line in panel.lines:
        placed = [
            None if y is None or (panel.log and y <= 0)
            else (_LEFT + wide * across.place(x), _TOP + _HEIGHT * (1 - up.place(y)))
            for x, y in line.points
        ]  # fmt: skip
        edges = [
            (_LEFT + wide * across.place(x), [_TOP + _HEIGHT * (1 - up.place(max(end, up.low))) for end in ends])
            for x, *ends in line.band
        ]
        parts.append("".join(_line(line, placed, edges)))
        if values:
            parts.append("".join(_values(panel, line, placed)))
    legend, height = _legend(panel, top=below + 44)
    return "\n".join([*parts, legend]), below + _BELOW + height


def _line(
    line: Line, placed: Sequence[tuple[float, float] | None], edges: Sequence[tuple[float, list[float]]]
) -> Iterator[str]:
    colour = _COLOURS[(line.style - 1) % len(_COLOURS)]
    yield f'<g stroke="{colour}" fill="none"><title>{text(f"{line.name} {line.part}")}</title>'
    if edges:
        outline = [f"{x:.1f} {ends[0]:.1f}" for x, ends in edges] + [f"{x:.1f} {e[1]:.1f}" for x, e in reversed(edges)]
        yield f'<path d="M{"L".join(outline)}z" fill="{colour}" fill-opacity=".18" stroke="none"/>'
    if line.joined:
        pieces, pen = [], "M"
        for point in placed:
            if point is not None:
                pieces.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
            pen = "M" if point is None else "L"
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        yield f'<path d="{"".join(pieces)}" stroke-width="1.8" stroke-linejoin="round"{dash}/>'
    there = [point for point in placed if point is not None]
    size = "" if line.joined else " scale(.6)"
    for x, y in there[:: len(there) // 8 + 1] if line.joined else there:
        yield f'<path d="{_marker(line)}" transform="translate({x:.1f} {y:.1f}){size}"{_filled(line, colour)}/>'
    yield "</g>"


def _values(panel: Panel, line: Line, placed: Sequence[tuple[float, float] | None]) -> Iterator[str]:
    """An invisible square over some points of a line, with its values as a title."""
    there = [(at, value) for at, value in zip(placed, line.points, strict=True) if at is not None]
    name = f"{line.name} {line.part}".strip()
    for (x, y), (along, value) in evenly(there, most=_MOST_VALUES):
        told = text(f"{name}: {panel.x} {along:.6g}, {panel.y} {value:.6g}", most=150)
        yield (
            f'<path d="M{x - 5:.1f} {y - 5:.1f}h10v10h-10z" fill-opacity="0" pointer-events="all">'
            f"<title>{told}</title></path>"
        )


def _marker(line: Line) -> str:
    return _MARKERS[line.style % len(_MARKERS)]


def _filled(line: Line, colour: str) -> str:
    """Markers of dashed lines are hollow."""
    return "" if line.dashed else f' fill="{colour}"' + (' fill-opacity=".5"' if not line.joined else "")


def _legend(panel: Panel, *, top: float) -> tuple[str, float]:
    parts = []
    for row, line in enumerate(panel.lines):
        y, colour = top + _ROW * row + 8, _COLOURS[(line.style - 1) % len(_COLOURS)]
        dash = ' stroke-dasharray="6 4"' if line.dashed else ""
        stroke = f'<path d="M0 0h32" stroke-width="1.8"{dash}/>' if line.joined else ""
        marker = f'<path d="{_marker(line)}" transform="translate(16 0)"{_filled(line, colour)}/>'
        name = text(f"{line.name} {line.part}".strip(), most=80)
        parts.append(
            f'<g transform="translate({_LEFT} {y:g})"><g stroke="{colour}" fill="none">{stroke}{marker}</g>'
            f'<text x="42" y="4">{name}</text></g>'
        )
    return "\n".join(parts), _ROW * len(panel.lines) + 10


def _grid(grid: Grid) -> tuple[str, float]:
    """Each cell is shaded by its share of the row; its count is written into it where there is room."""
    names = [text(name, most=14) for name in grid.names]
    left, top = 130, 84
    size = max(2.0, min(46.0, (_WIDTH - left - _RIGHT) / max(1, len(names))))
    told, end = size >= 11, top + size * len(names)
    parts = [
        f'<text x="20" y="20" font-weight="bold">{text(grid.title, most=90)}</text>',
        f'<text x="20" y="40">{text(f"rows: {grid.y}; columns: {grid.x}; shade: share of the row", most=100)}</text>',
    ]
    for row, counts in enumerate(grid.counts):
        y, total = top + row * size, sum(counts) or 1
        if told:
            parts.append(f'<text x="{left - 6}" y="{y + size / 2 + 4:.1f}" text-anchor="end">{names[row]}</text>')
            place = f"translate({left + size * (row + 0.5) + 4:.1f} {top - 4}) rotate(-45)"
            parts.append(f'<text transform="{place}" font-size="11">{text(grid.names[row], most=8)}</text>')
        for column, count in enumerate(counts):
            x, share = left + column * size, count / total
            about = text(f"{grid.names[row]}, {grid.names[column]}: {counted(count)}", most=120)
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{size:.1f}" height="{size:.1f}" fill="#0072b2" '
                f'fill-opacity="{share:.3f}" stroke="currentColor" stroke-opacity=".15"><title>{about}</title></rect>'
            )
            if size >= 24 and count:
                white = ' class="on"' if share > 0.5 else ""
                parts.append(
                    f'<text x="{x + size / 2:.1f}" y="{y + size / 2 + 4:.1f}" text-anchor="middle" '
                    f'font-size="11"{white}>{counted(count)}</text>'
                )
    return "\n".join(parts), end + 20


def _bars(bars: Bars) -> tuple[str, float]:
    """One below the other, with their counts."""
    left, right, most = 190, 70, max(bars.counts, default=0) or 1
    parts = [f'<text x="20" y="20" font-weight="bold">{text(bars.title, most=90)}</text>']
    for row, (name, count) in enumerate(zip(bars.names, bars.counts, strict=True)):
        y, wide = 34 + _ROW * row, (_WIDTH - left - right) * count / most
        parts.append(
            f'<text x="{left - 8}" y="{y + 12}" font-size="11" text-anchor="end">{text(name, most=26)}</text>'
            f'<rect x="{left}" y="{y + 2}" width="{wide:.1f}" height="{_ROW - 4}" fill="{_COLOURS[0]}"><title>'
            f"{text(f'{name}: {count:,}', most=120)}</title></rect>"
            f'<text x="{left + wide + 6:.1f}" y="{y + 12}" font-size="11">{count:,}</text>'
        )
    return "\n".join(parts), 34 + _ROW * len(bars.names) + 14


def _tree(tree: Tree) -> tuple[str, float]:
    """Lines from each item to the one that holds it; the other cells in columns at the right."""
    columns, wide, top = len(tree.headings) - 1, 105, 54
    edge = _WIDTH - _RIGHT
    parts = [f'<text x="20" y="20" font-weight="bold">{text(tree.title, most=90)}</text>']
    lines = [(0, tree.headings), *tree.items]
    above: list[float] = []  # the height of the open item of each depth
    for row, (depth, cells) in enumerate(lines):
        y, x = top + _ROW * (row - 1), 20 + 16 * depth
        if row:
            del above[depth:]
            if above:
                parts.append(
                    f'<path d="M{x - 10} {above[-1] + 5:g}V{y - 4:g}h7" fill="none" stroke="currentColor" '
                    f'stroke-opacity=".4"/>'
                )
            above.append(y)
        most = max(8, (edge - columns * wide - x) // 7)
        parts.append(f'<text x="{x}" y="{y}" font-size="12">{text(cells[0], most=most)}</text>')
        for place, cell in enumerate(cells[1:], 1):
            right = edge - (columns - place) * wide
            parts.append(
                f'<text x="{right}" y="{y}" font-size="12" text-anchor="end">{text(cell, most=wide // 7)}</text>'
            )
    return "\n".join(parts), top + _ROW * len(tree.items)


def _contributions(panel: Contributions) -> tuple[str, float]:
    """One below the other, to the right of a line if they add, and to its left if they take."""
    left, wide = 200, 300
    most = max(map(abs, panel.values), default=0.0) or 1.0
    middle = left + wide / 2
    parts = [f'<text x="20" y="20" font-weight="bold">{text(panel.title, most=90)}</text>']
    for row, (name, value) in enumerate(zip(panel.names, panel.values, strict=True)):
        y, long = 34 + _ROW * row, wide / 2 * abs(value) / most
        parts.append(
            f'<text x="{left - 8}" y="{y + 12}" font-size="11" text-anchor="end">{text(name, most=30)}</text>'
            f'<rect x="{middle if value >= 0 else middle - long:.1f}" y="{y + 2}" width="{long:.1f}" '
            f'height="{_ROW - 4}" fill="{_COLOURS[1] if value >= 0 else _COLOURS[0]}"/>'
            f'<text x="{left + wide + 8}" y="{y + 12}" font-size="11">{value:+.4g}</text>'
        )
    end = 34 + _ROW * len(panel.names)
    parts.append(f'<path d="M{middle:g} 34V{end}" stroke="currentColor"/>')
    return "\n".join(parts), end + 14


def _sheet(sheet: Sheet) -> tuple[str, float]:
    """Images in rows, eight of the usual size, with a line below for each line of the longest caption."""
    lines = max((len(tile.caption) for tile in sheet.tiles), default=0)
    size, step = sheet.size, sheet.size + 6
    across, letters = (_WIDTH - 20) // step, 14 * size // 80
    high = 15 * lines + (size + 14 if any(tile.png for tile in sheet.tiles) else 8)
    parts = [f'<text x="20" y="20" font-weight="bold">{text(sheet.title, most=90)}</text>']
    for number, tile in enumerate(sheet.tiles):
        x, y = 20 + number % across * step, 34 + number // across * high
        if tile.png is not None:
            parts.append(
                f'<image x="{x}" y="{y}" width="{size}" height="{size}" image-rendering="pixelated" '
                f'href="data:image/png;base64,{base64.b64encode(tile.png).decode()}"/>'
            )
            y += size
        for row, line in enumerate(tile.caption, 1):
            parts.append(f'<text x="{x}" y="{y + 14 * row}" font-size="11">{text(line, most=letters)}</text>')
    return "\n".join(parts), 34 + -(-len(sheet.tiles) // across) * high + 10
