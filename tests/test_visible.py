"""Text from strangers is shown as it is: no terminal obeys it, no Markdown renders it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.visible import code, markdown, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("a\rb\x08c", "a\\rb\\x08c"),
        ("user\u202egpj.exe", "user\\u202egpj.exe"),
        ("\ud800", "\\ud800"),
        ("Zoë Ångström 東京 👩\u200d🔬 שלום\n\ttab", "Zoë Ångström 東京 👩\u200d🔬 שלום\n\ttab"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out_and_all_other_text_stays(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_no_control_character_is_left_and_a_second_time_changes_nothing(text: str) -> None:
    shown = visible(text)
    assert all(c in "\n\t" or (ord(c) >= 32 and not 127 <= ord(c) < 160) for c in shown)
    assert visible(shown) == shown


@given(st.text())
def test_markdown_stays_one_line_without_markup(text: str) -> None:
    for line in (markdown(text), code(text)):
        assert "\n" not in line
        assert "|" not in line.replace("\\|", "")
    assert "<" not in markdown(text)
    assert "](" not in markdown(text)
    assert code(text).count("`") == 2
