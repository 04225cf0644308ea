"""A report as one HTML page, which loads nothing: its style sheet and script are in it, and no others are allowed."""

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from dlcli.plots.picture import Tile
from dlcli.plots.svg import STYLE, text, to_svg
from dlcli.report.blocks import (
    Block,
    Chapter,
    Code,
    Drawing,
    Fold,
    Images,
    Report,
    Section,
    Table,
    Text,
    one_line,
    shown,
    sorted_by,
)

_FILES = Path(__file__).parent
_LONGEST = 2000  # characters of a text; of a cell:
_LONGEST_CELL = 1000
_WIDE = 40  # a column with longer texts gets more room


def to_html(report: Report) -> str:
    """All names and texts are escaped: those of data and runs are untrusted."""
    style, script = _read("page.css") + STYLE, _read("page.js")
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    single = len(report.chapters) == 1 and not report.sections
    parts = [*(_section(section, level=2, anchor=_anchor(section)) for section in report.sections)]
    for chapter in report.chapters:
        parts.append("".join(_chapter(chapter, single=single)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{text(report.title, most=200)}</title><style>{style}</style></head>\n<body>\n"
        '<a class="skip" href="#content">Skip to the content</a>\n'
        f"<header><h1><bdi>{text(report.title, most=300)}</bdi></h1>\n"
        + "".join(f'<p class="lead">{text(line, most=_LONGEST)}</p>\n' for line in report.lead)
        + f'</header>\n{_contents(report, single=single)}<main id="content">\n'
        + "\n".join(parts)
        + f"</main>\n<script>{script}</script></body></html>\n"
    )


def _read(name: str) -> str:
    return (_FILES / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _contents(report: Report, *, single: bool) -> str:
    """Links to all sections; of several runs, to each run."""
    links = [(_anchor(section), section.title) for section in report.sections]
    for chapter in report.chapters:
        if single:
            links += [(_anchor(section, chapter), section.title) for section in chapter.sections]
        else:
            links.append((chapter.anchor, chapter.title))
    items = "".join(f'<li><a href="#{anchor}"><bdi>{text(title)}</bdi></a></li>' for anchor, title in links)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>\n'


def _anchor(section: Section, chapter: Chapter | None = None) -> str:
    own = section.title.lower().replace(" ", "-")
    return f"{chapter.anchor}-{own}" if chapter else own


def _chapter(chapter: Chapter, *, single: bool) -> Iterator[str]:
    if not single:
        yield f'<section id="{chapter.anchor}"><h2><bdi>{text(chapter.title, most=120)}</bdi></h2>\n'
    for section in chapter.sections:
        yield _section(section, level=2 if single else 3, anchor=_anchor(section, chapter))
    if not single:
        yield "</section>\n"


def _section(section: Section, *, level: int, anchor: str) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    return f'<section id="{anchor}"><h{level}>{text(section.title)}</h{level}>\n{blocks}</section>\n'


def _block(block: Block) -> str:
    match block:
        case Text(told):
            return f"<p>{text(one_line(told), most=_LONGEST)}</p>"
        case Code(title, lines):
            return f'<figure><figcaption class="lead">{text(title)}</figcaption><pre>{_code(lines)}</pre></figure>'
        case Table():
            return _table(block)
        case Drawing(picture):
            named = text(picture.title)
            drawn = to_svg(picture, styled=False, values=True)
            return f'<div class="wide" role="group" tabindex="0" aria-label="{named}">{drawn}</div>'
        case Images(caption, tiles):
            drawn = "".join(map(_tile, tiles))
            return f'<p class="lead">{text(caption, most=200)}</p><ul class="tiles">{drawn}</ul>'
        case Fold(title, blocks):
            inner = "\n".join(map(_block, blocks))
            return f"<details><summary>{text(title)}</summary>\n{inner}</details>"


def _code(lines: str) -> str:
    """All of it: a command that is cut would be another one."""
    return "\n".join(text(line, most=len(line) + 1) for line in lines.split("\n"))


def _table(table: Table) -> str:
    columns = [*zip(*table.rows, strict=True)] if table.rows else [() for _ in table.header]
    numeric = [table.sortable and any(sorted_by(v) is not None for v in column) for column in columns]
    wide = [any(len(shown(v)) > _WIDE for v in column) for column in columns]
    classes = ["n" if n else "long" if w else "" for n, w in zip(numeric, wide, strict=True)]
    marks = [f' class="{name}"' if name else "" for name in classes]
    heading = "".join(
        f'<th scope="col"{mark}>{text(name)}</th>' for name, mark in zip(table.header, marks, strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(_cell(v, mark, first=not k) for k, (v, mark) in enumerate(zip(row, marks, strict=True)))
        + "</tr>\n"
        for row in table.rows
    )
    kind = ' class="pairs"' if not table.sortable else ' class="sortable"' if len(table.rows) > 1 else ""
    caption = text(table.caption, most=300)
    return (
        f'<div class="wide" role="group" tabindex="0" aria-label="{caption}">'
        f"<table{kind}><caption>{caption}</caption>"
        f"<thead><tr>{heading}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )


def _cell(value: Any, mark: str, *, first: bool) -> str:
    number = sorted_by(value)
    sorts = "" if number is None else f' data-n="{number:.12g}"'
    told = text(shown(value), most=_LONGEST_CELL)
    if link := getattr(value, "link", ""):
        told = f'<a href="#{escape(link)}">{told}</a>'
    return f'<th scope="row"{mark}{sorts}>{told}</th>' if first else f"<td{mark}{sorts}>{told}</td>"


def _tile(tile: Tile) -> str:
    told = "".join(f"<span>{text(line, most=200)}</span>" for line in tile.caption)
    if tile.png is None:
        return f"<li>{told}</li>"
    about = text(", ".join(tile.caption), most=200)
    return f'<li><img alt="{about}" src="data:image/png;base64,{base64.b64encode(tile.png).decode()}">{told}</li>'
