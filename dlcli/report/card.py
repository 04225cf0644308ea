"""A report as a model card in Markdown: the same facts, without pictures and without what is folded."""

import re
from collections.abc import Iterator, Sequence

from dlcli.core.wording import plain
from dlcli.plots.picture import Grid, Picture
from dlcli.report.blocks import Block, Code, Drawing, Fold, Images, Report, Section, Table, Text, one_line, shown

_LONGEST_CELL = 300  # characters
_MOST_CLASSES = 12  # of a confusion matrix

# CommonMark: any ASCII punctuation may be escaped. These would begin something, also a link of a bare address.
_SPECIAL = re.compile(r"[\\`*_\[\]<>|~&#!$@]|(?<=\w):(?=//)|(?<=www)\.", re.I)


def to_markdown(report: Report) -> str:
    """No text of data or runs is markup in it."""
    parts = [f"# {_text(report.title)}", *map(_text, report.lead)]
    for section in report.sections:
        parts += _section(section, level=2)
    for chapter in report.chapters:
        single = len(report.chapters) == 1 and not report.sections
        parts += [] if single else [f"## {_text(chapter.title)}"]
        for section in chapter.sections:
            parts += _section(section, level=2 if single else 3)
    return "\n\n".join(parts) + "\n"


def _section(section: Section, *, level: int) -> list[str]:
    blocks = [told for block in section.blocks for told in _block(block)] if section.in_card else []
    return [f"{'#' * level} {_text(section.title)}", *blocks] if blocks else []


def _block(block: Block) -> Iterator[str]:
    match block:
        case Text(told):
            yield _text(told)
        case Code(title, lines):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", lines)), default=0))
            yield f"{_text(title)}:\n\n{fence}\n" + "\n".join(map(plain, lines.split("\n"))) + f"\n{fence}"
        case Table(caption, header, rows):
            yield _table(caption, header, [[shown(value) for value in row] for row in rows])
        case Drawing(picture):
            yield from _picture(picture)
        case Images(caption, tiles):
            yield _text(caption) + ":\n\n" + "\n".join(f"- {_text(', '.join(tile.caption))}" for tile in tiles)
        case Fold():
            return


def _picture(picture: Picture) -> Iterator[str]:
    """A small confusion matrix; other pictures have no place in a card."""
    for panel in picture.panels:
        if isinstance(panel, Grid) and len(panel.names) <= _MOST_CLASSES:
            rows = [[name, *map(str, counts)] for name, counts in zip(panel.names, panel.counts, strict=True)]
            yield _table(panel.title, [f"{panel.y} \\ {panel.x}", *panel.names], rows)


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(header)
    lines = [map(_text, header), rule, *(map(_text, row) for row in rows)]
    return f"{_text(caption)}:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: str) -> str:
    """One line, in which nothing is markup."""
    value = plain(one_line(value))
    value = value if len(value) <= _LONGEST_CELL else f"{value[: _LONGEST_CELL - 1]}…"
    return _SPECIAL.sub(r"\\\g<0>", value)
