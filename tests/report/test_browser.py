"""The page in a real browser: it opens without a complaint, sorts, searches, turns dark, fits a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from errata.report.material import read_material
from errata.report.page import page
from tests.report.chromium import Page, browser
from tests.report.records import EVIL, write_bench, write_demo, write_study

pytestmark = pytest.mark.skipif(browser() is None, reason="no Chromium on the path, nor in $CHROMIUM")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with Page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("pages")
    pages = {
        "demo": [write_demo(room / "run")],
        "evil": [write_demo(room / "evil", text=EVIL), write_study(room / "study", text=EVIL)],
        "bench": [write_bench(room / "bench")],
    }
    for name, folders in pages.items():
        (room / f"{name}.html").write_text(page(read_material(folders)), encoding="utf-8")
    return room


def column(chromium: Page, table: str, index: int) -> list[str]:
    cells = f"[...document.querySelectorAll('{table} tbody tr')].map(r => r.cells[{index}])"
    return list(chromium.run(f"{cells}.map(c => (c.querySelector('.num') || c).innerText.trim())"))


@pytest.mark.parametrize("name", ["demo", "evil", "bench"])
def test_it_opens_without_a_complaint_and_fits_every_width(chromium: Page, room: Path, name: str) -> None:
    for width, phone in ((1280, False), (390, True)):
        chromium.size(width, 800, phone)
        chromium.open(room / f"{name}.html")
        assert chromium.complaints == []
        assert chromium.run("document.documentElement.scrollWidth") <= width
    assert chromium.run("window.pwned") is None
    assert chromium.run("document.querySelectorAll('#facts tbody tr').length") > 0


def test_failures_come_first(chromium: Page, room: Path) -> None:
    chromium.open(room / "demo.html")
    assert [text.split()[0] for text in column(chromium, "#facts", 0)][:3] == ["Mango", "Linden", "Apple"]
    assert column(chromium, "#facts", 3)[0] == "Sudria missed"


def test_a_press_on_a_head_sorts_the_facts_and_says_so(chromium: Page, room: Path) -> None:
    chromium.open(room / "demo.html")
    head = "#facts th:first-child"
    chromium.press(f"{head} button")
    names = [text.split()[0] for text in column(chromium, "#facts", 0)]
    assert names == sorted(names)
    assert chromium.run(f"document.querySelector('{head}').ariaSort") == "ascending"
    chromium.press(f"{head} button")
    assert [text.split()[0] for text in column(chromium, "#facts", 0)] == names[::-1]
    assert chromium.run(f"document.querySelector('{head}').ariaSort") == "descending"


def test_a_press_on_a_head_sorts_the_scores_by_their_numbers(chromium: Page, room: Path) -> None:
    chromium.size(1280, 800)
    chromium.open(room / "bench.html")
    for _ in range(2):
        chromium.press("#scores > .scroll th:nth-child(5) button")
    values = [float(text.split()[0]) for text in column(chromium, "#scores > .scroll", 4)]
    assert len(values) == 7
    assert values == sorted(values, reverse=True)
    assert chromium.complaints == []


def test_search_finds_facts_and_answers(chromium: Page, room: Path) -> None:
    chromium.open(room / "demo.html")
    chromium.type("#find", "grows CEDAR")
    assert column(chromium, "#facts", 0) == ["Cedar grows in"]
    assert chromium.run("document.getElementById('count').value") == "1 of 6"
    chromium.type("#find", "nowhere")
    assert column(chromium, "#facts", 0) == []
    chromium.type("#find", "sudria")
    assert len(column(chromium, "#facts", 0)) == 6


def test_one_method_is_chosen_and_its_failures_alone(chromium: Page, room: Path) -> None:
    chromium.open(room / "demo.html")
    for field, value in (("view", "0/0"), ("only", "0")):
        chromium.run(f"(f => {{ f.value = '{value}'; f.dispatchEvent(new Event('change')) }})({field})")
    heads = chromium.run("[...document.querySelectorAll('#facts th')].map(h => h.innerText)")
    assert heads[:6] == ["Fact", "To say", "Before", "After", "Verdict", "Eff. acc."]
    assert column(chromium, "#facts", 3) == ["Sudria", "Sudria"]
    assert chromium.complaints == []


def test_markup_in_a_fact_is_shown_as_text(chromium: Page, room: Path) -> None:
    chromium.open(room / "evil.html")
    assert EVIL in column(chromium, "#facts", 0)[0]
    assert chromium.run("window.pwned") is None


def test_colours_follow_the_system_and_the_button(chromium: Page, room: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    chromium.open(room / "demo.html")
    found = {}
    for scheme in ("light", "dark"):
        chromium.scheme(scheme)
        found[scheme] = chromium.run(ground)
    assert found["light"] != found["dark"]
    for expected in (found["light"], found["dark"]):
        chromium.press("#theme")
        assert chromium.run(ground) == expected
    chromium.run("localStorage.clear()")
    chromium.scheme("light")
