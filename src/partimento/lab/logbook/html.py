"""A page of the log as one HTML file that works offline: pictures inside, nothing loaded from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from markupsafe import Markup, escape

import partimento
from partimento.lab import page as pages
from partimento.lab.logbook.blocks import without_marks

TYPES = {
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
}
MOST_BYTES = 8_000_000  # of one picture


def html(text: str, folder: Path, eyebrow: str, home: str | None = None) -> str:
    """`text` (Markdown with marks) of a page that lies in `folder`. HTML in it is shown as text, never run; a picture
    that is not a file below `folder` is named and not fetched. `home`: where the index is."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")

    def image(tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
        source, title = str(tokens[index].attrGet("src") or ""), tokens[index].content
        data = _inside(folder, source)
        if data is None:
            return f'<span class="missing">The picture {escape(source)} is not in this page.</span>'
        return f'<img src="{data}" alt="{escape(title)}">'

    def link(tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
        target = str(tokens[index].attrGet("href") or "")
        if "://" not in target and target.endswith(".md"):
            target = f"{target[:-3]}.html"  # the same page in this form
        return f'<a href="{escape(target)}" rel="noreferrer">'

    rules: dict[str, Any] = parser.renderer.rules  # type: ignore[attr-defined]  # RendererHTML has them
    rules["image"] = image
    rules["link_open"] = link
    rules["table_open"] = lambda *_: '<div class="scroll"><table>\n'
    rules["table_close"] = lambda *_: "</table></div>\n"
    text = without_marks(text).lstrip("\ufeff")
    title = next((line[2:].strip() for line in text.splitlines() if line.startswith("# ")), eyebrow)
    return (
        pages.environment()
        .get_template("logbook.html")
        .render(
            style=Markup(pages.asset("report.css") + pages.asset("logbook.css")),
            title=title.replace("\\", ""),
            eyebrow=eyebrow,
            home=home,
            body=Markup(parser.render(text)),
            version=partimento.__version__,
        )
    )


def _inside(folder: Path, source: str) -> str | None:
    """The picture as a data: address; None if it is none of ours, or too large to be put into a page."""
    path = (folder / unquote(source)).resolve()
    kind = TYPES.get(path.suffix.lower())
    if "://" in source or kind is None or not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    if path.stat().st_size > MOST_BYTES:
        return None
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
