"""An HTML page as a test sees it: its tables, sections, texts and attributes."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

_EMPTY = ("meta", "img")


@dataclass
class Page(HTMLParser):
    """tables: by caption, rows of texts, the heading first. sections: id -> all text in it. tags: each with its
    attributes. text: all of the page, without styles and scripts. unclosed: tags that are still open at the end."""

    content: str
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[tuple[str, str]] = []
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(self.content)
        self.close()
        self.unclosed = [tag for tag, _ in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")
        if tag not in _EMPTY:
            self._open.append((tag, dict(attrs).get("id") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        opened, _ = self._open.pop()
        assert opened == tag, f"</{tag}> ends <{opened}>"
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        names = [tag for tag, _ in self._open]
        if "script" in names:
            self.scripts.append(data)
            return
        if "style" in names:
            self.styles.append(data)
            return
        self.text += data
        for tag, name in self._open:
            if tag == "section":
                self.sections[name] = self.sections.get(name, "") + data
        if "caption" in names:
            self._caption += data
        elif names and names[-1] in ("th", "td", "a") and ("th" in names or "td" in names):
            self._rows[-1][-1] += data
