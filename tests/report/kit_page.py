"""Reads the page with the standard library's parser, strict about what it closes."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input"}


@dataclass
class Page(HTMLParser):
    """What a page holds.

    Attributes:
        tables: Rows of cell texts by caption.
        scripts: Content of script elements by id (or position).
        prose: All text outside scripts and styles.
        tags: Every start tag with its attributes.
        heads: Texts of h1 and h2 in order.
        titles: Texts of h3 in order.
        levels: Levels of all headings in order.
    """

    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)
    prose: str = ""
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.caption = self.text = self.script = ""

    @classmethod
    def read(cls, html: str) -> Page:
        page = cls()
        page.feed(html)
        page.close()
        assert page.open == [], f"never closed: {page.open}"
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag == "script":
            self.script = dict(attrs).get("id") or f"script-{len(self.scripts)}"
            self.scripts[self.script] = ""
        if tag in ("h1", "h2", "h3"):
            self.levels.append(int(tag[1]))
        if tag in ("th", "td", "caption", "h1", "h2", "h3"):
            self.text = ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()
        if tag in ("th", "td"):
            self.rows[-1].append(self.text.strip())
        elif tag == "caption":
            self.caption = self.text.strip()
        elif tag == "table":
            self.tables[self.caption] = self.rows
        elif tag in ("h1", "h2", "h3"):
            (self.titles if tag == "h3" else self.heads).append(self.text.strip())

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[self.script] += data
        elif "style" not in self.open:
            self.prose += data
            self.text += data

    def table(self, caption: str) -> dict[str, dict[str, str]]:
        """Return a table as cells by name of the row and head of the column."""
        head, *rows = self.tables[caption]
        return {row[0]: dict(zip(head, row)) for row in rows}
