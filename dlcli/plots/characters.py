"""A picture in a terminal: a character for each line, also without colours."""

from collections.abc import Sequence

from dlcli.plots.axis import Axis, label
from dlcli.plots.picture import Bars, Contributions, Grid, Line, Panel, Picture, Sheet, Tree, counted

_SIGNS, _ASCII = "●▲◆■×○△◇□+", "o^#*x.-=@+"
_SHADES, _ASCII_SHADES = " ░▒▓█", " .:*#"
_LINES, _MARGIN = 16, 10


def to_characters(picture: Picture, *, width: int = 80, ascii_only: bool = False) -> str:
    """Lines of at most `width` characters, at least 40."""
    width = max(width, 40)
    drawn = []
    for panel in picture.panels:
        if isinstance(panel, Grid):
            drawn.append(_grid(panel, width, _ASCII_SHADES if ascii_only else _SHADES))
        elif isinstance(panel, Bars):
            drawn.append(_bars(panel, width, sign="#" if ascii_only else "█"))
        elif isinstance(panel, Tree):
            lines = [f"{'  ' * depth}{'  '.join(cells)}" for depth, cells in panel.items]
            drawn.append([line[:width] for line in (panel.title, *lines)])
        elif isinstance(panel, Contributions):
            drawn.append(_contributions(panel, width, signs="#-" if ascii_only else "█░"))
        elif isinstance(panel, Sheet):
            drawn.append(_sheet(panel, width, _ASCII_SHADES if ascii_only else _SHADES))
        else:
            drawn.append(
                _panel(panel, width, signs=_ASCII, band=":")
                if ascii_only
                else _panel(panel, width, signs=_SIGNS, band="·")
            )
    return "\n".join("\n".join(line.rstrip() for line in lines) + "\n" for lines in drawn)


def _panel(panel: Panel, width: int, *, signs: str, band: str) -> list[str]:
    across = Axis.around(x for line in panel.lines for x, y in line.points if y is not None)
    up = Axis.around(panel.heights(), log=panel.log)
    wide = width - _MARGIN - 2
    canvas = [[" "] * wide for _ in range(_LINES)]
    legend = []
    for line in panel.lines:
        for x, *ends in line.band:
            low, high = (round((1 - up.place(max(end, up.low))) * (_LINES - 1)) for end in ends)
            for row in range(high, low + 1):
                canvas[row][round(across.place(x) * (wide - 1))] = band
    for number, line in enumerate(panel.lines):
        sign = signs[number % len(signs)]
        for column, row in _cells(line, across, up, wide):
            canvas[row][column] = sign
        legend.append(f"{' ' * _MARGIN}{sign} {line.name} {line.part}"[:width])
    labels = {round((1 - up.place(tick)) * (_LINES - 1)): label(tick) for tick in up.ticks(4)}
    rows = [f"{labels.get(k, ''):>{_MARGIN}} |{''.join(cells)}" for k, cells in enumerate(canvas)]
    left, right = label(across.low), label(across.high)
    foot = left + f"{panel.x:^{max(0, wide - len(left) - len(right))}}" + right
    return [panel.title[:width], *rows, f"{' ' * _MARGIN} +{'-' * wide}", f"{' ' * _MARGIN}  {foot}"[:width], *legend]


def _cells(line: Line, across: Axis, up: Axis, wide: int) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    before: tuple[int, float] | None = None
    for x, y in line.points:
        if y is None or (up.log and y <= 0):
            before = None
            continue
        column, row = round(across.place(x) * (wide - 1)), (1 - up.place(y)) * (_LINES - 1)
        found.add((column, round(row)))
        if before is not None and line.joined:
            for between in range(before[0] + 1, column):
                share = (between - before[0]) / (column - before[0])
                found.add((between, round(before[1] + (row - before[1]) * share)))
        before = column, row
    return found


def _grid(grid: Grid, width: int, shades: str) -> list[str]:
    """Counts beside shades where they fit, else shades; a grid that is still too wide is cut, and says so."""
    names = [name[:12] for name in grid.names]
    margin = max(map(len, names), default=0) + 1
    digits = max((len(counted(count)) for row in grid.counts for count in row), default=1)
    size = digits + 2 if margin + (digits + 2) * len(names) <= width else 1
    shown = (width - margin) // size
    lines = [grid.title[:width], f"rows: {grid.y}; columns: {grid.x}, in the same order"[:width]]
    for name, counts in zip(names, grid.counts, strict=True):
        cells = "".join(_cell(count, sum(counts), size, shades) for count in counts[:shown])
        lines.append(f"{name:>{margin - 1}} {cells}")
    return lines + [f"{len(names) - shown} columns are not shown"] * (shown < len(names))


def _bars(bars: Bars, width: int, *, sign: str) -> list[str]:
    names, most = [name[:26] for name in bars.names], max(bars.counts, default=0) or 1
    margin, digits = max(map(len, names), default=0), len(f"{most:,}")
    room = width - margin - digits - 3
    drawn = [
        f"{name:>{margin}} {sign * max(round(room * count / most), bool(count))} {count:,}"
        for name, count in zip(names, bars.counts, strict=True)
    ]
    return [bars.title[:width], *drawn]


def _sheet(sheet: Sheet, width: int, shades: str) -> list[str]:
    """The captions, and maps as shades: a character is about twice as high as it is wide."""
    lines = [sheet.title[:width]]
    for tile in sheet.tiles:
        if tile.caption:
            lines.append("  ".join(tile.caption)[:width])
        for row in tile.shades:
            lines.append("".join(_shade(value, shades) * 2 for value in row)[:width])
    return lines


def _shade(value: float, shades: str) -> str:
    """value: from 0 to 1."""
    return shades[min(len(shades) - 1, int(value * len(shades)))]


def _contributions(panel: Contributions, width: int, *, signs: str) -> list[str]:
    """A full sign adds, the other takes."""
    names = [name[:26] for name in panel.names]
    margin, most = max(map(len, names), default=0), max(map(abs, panel.values), default=0.0) or 1.0
    room = width - margin - 14
    drawn = [
        f"{name:>{margin}} {value:+11.4g} {signs[value < 0] * round(room * abs(value) / most)}"
        for name, value in zip(names, panel.values, strict=True)
    ]
    return [panel.title[:width], *drawn]


def _cell(count: float, total: float, size: int, shades: Sequence[str]) -> str:
    share = count / total if total else 0.0
    shade = shades[min(len(shades) - 1, -int(-share * (len(shades) - 1) // 1))]
    return shade if size == 1 else f"{counted(count):>{size - 1}}{shade}"
