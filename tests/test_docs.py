"""The pages: cited sections exist, links lead somewhere, and printed figures are those that reports compare with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from errata.cli.app import app
from errata.recipe import known_recipes, parse_window

ROOT = Path(__file__).parents[1]
PAGES = {name: ROOT / "docs" / f"{name}.md" for name in ("method", "evaluation")}
FOLDERS = ("src", "tests", "tools", "docs", "benchmarks")
CITING = [*ROOT.glob("*.md"), *(p for d in FOLDERS for p in (ROOT / d).rglob("*.*"))]
TEXTS = [p for p in CITING if p.suffix in (".py", ".md", ".yaml") and p != Path(__file__)]
LINKING = [p for p in TEXTS if p.suffix == ".md"]

NUMBER = r"\d+(?:\.\d+)*"
AND = r"(?:,|,? and|;)[\s#]+"
CITATION = re.compile(rf"\b({'|'.join(PAGES)})[\s#]+({NUMBER}(?:{AND}{NUMBER})*)\b(?!\.md)")
WITHIN = re.compile(r"\((?:see )?(\d+\.\d+(?:, \d+\.\d+)*)\)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./*-]+)`")
DATED = ("log.md", "CHANGELOG.md")
"""Pages that tell of the repository as it was."""


def citations(text: str) -> Iterator[tuple[str, str]]:
    """(page, section) of "method 1.3, 1.4" and the like, also where a line breaks in between."""
    for page, numbers in CITATION.findall(text):
        yield from ((page, number) for number in re.findall(NUMBER, numbers))


def headings(page: str) -> list[str]:
    """The titles of a page, in order; what stands in a code block is none."""
    return re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page, flags=re.M | re.S), flags=re.M)


def sections(page: str) -> list[str]:
    """The numbers that its titles begin with, in order."""
    return [found[1] for title in headings(page) if (found := re.match(rf"({NUMBER}) ", title))]


def unknown(text: str, known: Mapping[str, list[str]]) -> list[str]:
    """The citations in a text of sections that their page does not have."""
    return [f"{page} {number}" for page, number in citations(text) if number not in known[page]]


def anchors(page: str) -> set[str]:
    """What a link may name behind `#`: titles in lower case, spaces as hyphens, other signs dropped."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings(page)}


def broken(text: str, where: Path) -> list[str]:
    """The links of a page to files that are not there, or to titles that they do not have."""
    lost = []
    for link in LINK.findall(text):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = (where.parent / name) if name else where
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            lost.append(link)
    return lost


@pytest.fixture(scope="module")
def known() -> dict[str, list[str]]:
    return {name: sections(page.read_text(encoding="utf-8")) for name, page in PAGES.items()}


def test_every_cited_section_exists(known: Mapping[str, list[str]]) -> None:
    lost = {str(p.relative_to(ROOT)): unknown(p.read_text(encoding="utf-8"), known) for p in TEXTS}
    assert not {file: cited for file, cited in lost.items() if cited}


def test_citations_are_really_collected() -> None:
    cited = [pair for file in TEXTS for pair in citations(file.read_text(encoding="utf-8"))]
    assert len(cited) > 250
    assert {page for page, _ in cited} == set(PAGES)


def test_a_citation_of_a_section_that_is_missing_is_named() -> None:
    known = {"method": ["1", "1.3", "5.12"], "evaluation": ["1.4"]}
    assert unknown("(method 1.3, 5.12, evaluation 1.4)", known) == []
    assert unknown("(method 1.3, 1.4; evaluation 1.4)", known) == ["method 1.4"]
    assert unknown("as in method\n    # 9.9 and 5.13, evaluation 2", known) == [
        "method 9.9",
        "method 5.13",
        "evaluation 2",
    ]
    assert unknown("a method 3 times", known) == ["method 3"]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_refers_to_sections_that_it_has(name: str, known: Mapping[str, list[str]]) -> None:
    text = PAGES[name].read_text(encoding="utf-8")
    meant = {number for numbers in WITHIN.findall(text) for number in numbers.split(", ")}
    assert len(meant) > 5
    assert meant <= set(known[name])


@pytest.mark.parametrize("name", PAGES)
def test_sections_stand_in_order(name: str, known: Mapping[str, list[str]]) -> None:
    numbers = [tuple(map(int, number.split("."))) for number in known[name]]
    assert len(numbers) > 20
    assert all(one < other for one, other in pairwise(numbers))


def test_every_link_leads_somewhere() -> None:
    lost = {str(p.relative_to(ROOT)): broken(p.read_text(encoding="utf-8"), p) for p in LINKING}
    assert not {file: links for file, links in lost.items() if links}


def test_a_link_to_a_missing_file_or_title_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# It's a *title*: two\n\n```\n# not one\n```\n", encoding="utf-8")
    good = "[a](page.md) [b](page.md#its-a-title-two) [c](https://example.org/x#y)"
    assert broken(good, tmp_path / "here.md") == []
    bad = "[a](none.md) [b](page.md#not-one) [c](page.md#a-title)"
    assert broken(bad, tmp_path / "here.md") == ["none.md", "page.md#not-one", "page.md#a-title"]


def commands(text: str) -> Iterator[tuple[str, str]]:
    """(verb, the rest of the line) of every `errata VERB ...` that a page shows, in a block or within a sentence."""
    blocks = re.findall(r"^(?:    |```\n).*?(?=\n\n|^```|\Z)", text.replace("\\\n", " "), flags=re.M | re.S)
    for code in [*blocks, *re.findall(r"`([^`\n]+)`", text)]:
        yield from re.findall(r"^ *(?:[\w .-]+ -m )?errata (\w+)([^#\n]*)", code.removeprefix("```\n"), flags=re.M)


def wrong_options(text: str) -> list[str]:
    """The verbs and options in a page's commands that the command line does not have."""
    verbs = get_command(app).commands
    lost = []
    for verb, rest in commands(text):
        if verb not in verbs:
            lost.append(verb)
            continue
        within = getattr(verbs[verb], "commands", {"": verbs[verb]})
        known = {
            option for command in within.values() for p in command.params for option in (*p.opts, *p.secondary_opts)
        }
        lost += [f"{verb} {o}" for o in re.findall(r"(?<= )--?[a-zA-Z][\w-]*", rest) if o not in known | {"--help"}]
    return lost


def test_every_command_that_a_page_shows_exists() -> None:
    texts = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in LINKING if p.name != "CHANGELOG.md"}
    assert sum(len(list(commands(text))) for text in texts.values()) > 30
    lost = {file: wrong_options(text) for file, text in texts.items()}
    assert not {file: options for file, options in lost.items() if options}


def test_a_command_that_does_not_exist_is_named() -> None:
    block = "Run:\n\n    errata edit pocket FILE --batch 2 \\\n      --nonsense 1\n"
    shown = f"{block}\nor `errata frobnicate` or `errata store prune --stale`."
    assert wrong_options(shown) == ["edit --nonsense", "frobnicate"]


def test_every_path_that_a_page_names_exists() -> None:
    pages = {p: p.read_text(encoding="utf-8") for p in LINKING if p.name not in DATED}
    lost = {
        str(p.relative_to(ROOT)): [n for n in NAMED.findall(text) if not any(ROOT.glob(n))] for p, text in pages.items()
    }
    assert not {file: names for file, names in lost.items() if names}


def test_the_session_of_the_readme_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.S)
    (promised,) = re.findall(r"# (.* \| .*)", code)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    said, divergence = capsys.readouterr().out.splitlines()
    assert said == promised
    assert 0 < float(divergence) < 1
    assert (tmp_path / "runs" / "voltaire" / "edit.safetensors").is_file()
    assert not names["editor"].decoder.is_edited


def test_printed_tables_are_the_shipped_ones() -> None:
    page = PAGES["evaluation"].read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    printed = [
        (name, [float(value) for value in values]) for name, *values in rows if len(values) == 8 and _numeric(values)
    ]
    files = sorted((ROOT / "src").rglob("table*.yaml"))
    tables = [yaml.safe_load(file.read_text(encoding="utf-8"))["rows"] for file in files]
    shipped = [(name, row["values"]) for table in tables for name, row in table.items()]
    assert len(shipped) > 50
    assert printed == shipped


def test_recipes_have_the_numbers_of_the_table_that_they_are_from() -> None:
    page = PAGES["method"].read_text(encoding="utf-8")
    table = page[page.index("### 4.1 ") : page.index("### 4.2 ")]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    printed = {
        re.sub(r" \(.*|-v0.1", "", model): (parse_window(window), *map(float, numbers[:4]))
        for model, window, *numbers in rows
    }
    recipes = [r for r in known_recipes().values() if r.name.removesuffix("-instruct") in printed]
    assert len(recipes) == 10
    for recipe in recipes:
        anchor = recipe.anchor
        shipped = recipe.window, anchor.learning_rate, anchor.steps, anchor.clamp, anchor.weight_decay
        assert printed[recipe.name.removesuffix("-instruct")] == shipped, recipe.name


def _numeric(values: list[str]) -> bool:
    return all(re.fullmatch(r"[\d.]+", value) for value in values)
