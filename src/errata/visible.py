"""Text from strangers made safe to look at: in a terminal, and in Markdown."""

from __future__ import annotations

import re

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they change the order in which other characters are shown
_HIDDEN = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_BIDI}\u2028\u2029\ufeff\ud800-\udfff]")
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$])")


def visible(text: str) -> str:
    """The same text with what a terminal would obey, or not show, written out: escape becomes `\\x1b`.

    Control characters but tab and newline, marks that turn the direction of writing, and halves of surrogate pairs.
    """
    return _HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def markdown(text: object) -> str:
    """A text as a piece of one line of Markdown that shows it as it is: no HTML, no links, no emphasis, no cells."""
    line = visible(str(text)).replace("\n", "\\n").replace("\t", " ")
    line = _MARKDOWN.sub(r"\\\1", line)
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("://", ":&#47;&#47;")


def code(text: object) -> str:
    """A text as code within a line of Markdown, such as a method's name or a fingerprint."""
    line = visible(str(text)).replace("\n", "\\n").replace("`", "'").replace("|", "&#124;")
    return f"`{line}`"
