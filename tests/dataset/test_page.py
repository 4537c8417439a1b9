"""docs/facts.md: what it shows is read as it says."""

from __future__ import annotations

import re
from pathlib import Path

from errata.dataset import read_facts

PAGE = (Path(__file__).parents[2] / "docs" / "facts.md").read_text(encoding="utf-8")


def test_every_fact_that_the_page_shows_is_read(tmp_path: Path) -> None:
    counts: dict[str, list[int]] = {"csv": [], "jsonl": []}
    for kind, text in re.findall(r"^```(csv|jsonl)\n(.*?)^```", PAGE, flags=re.M | re.S):
        given = tmp_path / f"facts.{kind}"
        given.write_text(text, encoding="utf-8")
        counts[kind].append(len(read_facts(given)))
    assert counts == {"csv": [3], "jsonl": [3, 2, 2]}


def test_the_pages_python_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    exec(code, {})
