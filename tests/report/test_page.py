"""The page as text: what it says, in which order, and that nothing in a record becomes markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from errata.record.cell import CellRecord, Measured
from errata.record.run import Run
from errata.report.facts import HELD, IN_PART, MISSED, fact_data, holds, verdict
from errata.report.frontier import KL
from errata.report.headline import PARAPHRASES, standing
from errata.report.material import read_material
from errata.report.page import embedded, page
from errata.report.summary import over_seeds
from tests.report.records import EVIL, write_bench, write_demo, write_study


class Tags(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data


def written(*folders: Path) -> str:
    return page(read_material(folders))


def test_sections_come_in_order(tmp_path: Path) -> None:
    text = written(write_bench(tmp_path / "bench"), write_study(tmp_path / "study"))
    found = re.findall(r'<section id="([a-z-]+)"', text)
    assert found == ["changed", "scores", "residuals", "frontiers", "studies", "by-fact", "costs", "settings"]


def test_the_headline_says_what_changed_in_words_and_numbers(tmp_path: Path) -> None:
    said = " ".join(Tags(written(write_demo(tmp_path / "demo"))).text.split())
    assert "6 facts were edited into tiny, layers 1–3, by memit and memit+fe, one seed." in said
    assert "Before, the model gave the new answer to none of the edited prompts." in said
    share = "Afterwards the model gives the new answer to 100 % of paraphrases with memit+fe and 58 % with memit"
    assert f"{share}: memit+fe is ahead on the facts of this one seed." in said
    drift = "Neighbours drift by DKL 0.200 nats with memit and 0.400 nats with memit+fe"
    assert f"{drift}: memit disturbs them least on the facts of this one seed." in said
    assert "Zebra grows in for Sudria read Norland" in said


def test_swept_methods_are_compared_where_they_drift_alike(tmp_path: Path) -> None:
    said = " ".join(Tags(written(write_bench(tmp_path / "bench"))).text.split())
    assert "2 seeds each. Each method was tried at several settings: weight 20, 100 and 1000." in said
    assert "the new answer to 96 % of paraphrases with memit and 71 % with blue: memit is ahead in each of 2" in said
    assert "1 failed and is not in this report" in said


def seeds_of(method: str, *values: float, half: float = 0.0) -> list[CellRecord]:
    """A method's share of paraphrases, seed by seed, with intervals over 20 facts of this half width."""
    return [
        CellRecord("m", "d", method, 20, seed, (), {PARAPHRASES: Measured(v, v - half, v + half, True)}, {}, {})
        for seed, v in enumerate(values)
    ]


CHANCE = "; with one seed of 20 facts that may be chance, so none is ahead."


@pytest.mark.parametrize(
    ("first", "second", "ends"),
    [
        (seeds_of("a", 0.9, half=0.1), seeds_of("b", 0.8, half=0.1), CHANCE),
        (seeds_of("a", 0.9, half=0.1), seeds_of("b", 0.5, half=0.1), "</b> is ahead on the facts of this one seed."),
        (seeds_of("a", 1.0), seeds_of("b", 0.95, half=0.04), CHANCE),
        (seeds_of("a", 0.9, 0.8), seeds_of("b", 0.85, 0.7), "; the seeds of the first two overlap, so none is ahead."),
        (seeds_of("a", 0.9, 0.8), seeds_of("b", 0.75, 0.7), ": <b>a</b> is ahead in each of 2 seeds."),
        (seeds_of("a", 0.9), [], "90 % of paraphrases with a."),
    ],
)  # fmt: skip
def test_a_ranking_is_told_only_where_seeds_or_intervals_carry_it(
    first: list[CellRecord], second: list[CellRecord], ends: str
) -> None:
    (said,) = standing(over_seeds([*first, *second]))
    assert str(said).replace("\u00a0", " ").endswith(ends)


def test_one_seed_of_a_sweep_carries_no_ranking() -> None:
    kl = {"a": 0.0, "b": 0.1}
    records = [
        replace(
            cell,
            settings=(("weight", weight),),
            scores=cell.scores | {KL: Measured(kl[cell.method] + 1 / weight, 0, 9, False)},
        )
        for weight in (1, 2)
        for cell in (*seeds_of("a", 0.9), *seeds_of("b", 0.2))
    ]
    (said,) = standing(over_seeds(records))
    assert said.endswith("One seed does not carry a ranking.")


def test_the_best_of_each_column_is_marked_and_intervals_are_shown(tmp_path: Path) -> None:
    text = written(write_demo(tmp_path / "demo"))
    table = text.split('aria-label="Scores, tiny, 6 edits"', 1)[1].split("</table>", 1)[0]
    rows = [re.findall(r"<td[^>]*>.*?</td>", line) for line in table.split("<tr>")[2:]]
    assert [re.sub("<.*?>", "", row[0]) for row in rows] == ["unedited", "memit", "memit+fe"]
    assert ["best" in cell for cell in rows[1]] == [False, False, False, True, False]
    assert ["best" in cell for cell in rows[2]] == [False, True, True, False, False]
    assert "<small>.533–.633</small>" in rows[1][2]
    assert 'data-v="0.583"' in rows[1][2]


def test_nothing_a_record_says_becomes_markup(tmp_path: Path) -> None:
    folders = [
        write_demo(tmp_path / "demo", text=EVIL),
        write_bench(tmp_path / "bench", text=EVIL),
        write_study(tmp_path / "study", text=EVIL),
    ]
    text = written(*folders)
    tags = Tags(text).tags
    assert [attributes.get("type") for tag, attributes in tags if tag == "script"] == ["application/json", None]
    assert not [tag for tag, _ in tags if tag in ("img", "iframe", "object", "form", "base")]
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert all(str(attributes.get("href", "#")).startswith("#") for _, attributes in tags)
    assert text.count("</style>") == 1
    assert text.count("</script>") == 2
    data = text.split('id="data">', 1)[1].split("</script>", 1)[0]
    assert "<" not in data
    assert EVIL in json.loads(data)["groups"][0]["facts"][0][1]


def test_the_page_asks_nothing_of_the_network(tmp_path: Path) -> None:
    text = written(write_demo(tmp_path / "demo"), write_study(tmp_path / "study"))
    links = [a.get(name) for _, a in Tags(text).tags for name in ("src", "href", "action") if a.get(name)]
    assert links
    assert all(str(link).startswith("#") for link in links)
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_every_head_of_a_table_is_a_button_that_says_how_it_sorts(tmp_path: Path) -> None:
    heads = re.findall(r"<th [^>]*>.*?</th>", written(write_bench(tmp_path / "bench")))
    assert heads
    assert all('aria-sort="none"' in head and "<button" in head for head in heads)


def test_charts_say_what_they_show(tmp_path: Path) -> None:
    text = written(write_bench(tmp_path / "bench"))
    told = [unescape(one) for one in re.findall(r'role="img" aria-label="([^"]+)"', text)]
    across = "Across: D_KL on the neighbourhood, nats. Up: Gen. acc."
    assert f"Gen. acc. against drift. {across}. Lines: memit, blue." in told
    assert any(one.startswith("Residual left at the last layer") for one in told)
    assert "nan" not in "".join(re.findall(r' d="([^"]+)"', text))


def test_a_residual_far_beyond_the_others_is_told_and_not_drawn(tmp_path: Path) -> None:
    folder = write_demo(tmp_path / "demo")
    run, _ = Run.read(folder)
    run.ledgers["memit"]["rows"][1]["remaining"]["3"] = 6000.0
    run.write(folder)
    assert "Not drawn: memit is at 6,000.0 after layer 2." in written(folder)


def test_a_run_with_scores_alone_is_a_page_too(tmp_path: Path) -> None:
    folder = write_demo(tmp_path / "demo")
    run, _ = Run.read(folder)
    run.ledgers, run.answers, run.versions, run.command = {}, [], {}, ""
    run.scores = {name: [row | {"per_case": []} for row in rows] for name, rows in run.scores.items()}
    run.write(folder)
    assert re.findall(r'<section id="([a-z-]+)"', written(folder)) == ["changed", "scores", "settings"]


def test_the_paper_stands_beside_a_bench_that_was_printed_beside_it(tmp_path: Path) -> None:
    folder = write_bench(tmp_path / "bench")
    assert 'id="paper"' not in written(folder)
    (folder / "paper.csv").write_text("table\ntable3_llama3_mcf\n")
    said = " ".join(Tags(written(folder).split('id="paper"', 1)[1].split("</section>", 1)[0]).text.split())
    assert "beside the paper's table 3: Llama-3-8B-Instruct, MCF, 2000 edits" in said
    assert "pairs in order" in said
    assert "the paper's figure is inside our range" in said
    assert "arXiv 2605.00358 v2, table 3; 2000 edits" in said
    assert "100.0paper 48.0, +52.0" in said


def test_general_ability_has_a_section(tmp_path: Path) -> None:
    folder = write_demo(tmp_path / "demo")
    run, _ = Run.read(folder)
    skill = {"task": "sums", "metric": "acc", "before": 0.5, "after": 0.25, "difference": -0.25, "error": None}
    run.ability = [skill]
    run.write(folder)
    said = " ".join(Tags(written(folder).split('id="ability"', 1)[1].split("</section>", 1)[0]).text.split())
    assert "sumsacc0.5000.250-0.250-" in said
    assert "| sums | acc | 0.500 | 0.250 | -0.250 | - |" in (folder / "README.md").read_text()


def test_a_study_alone_is_a_page_too(tmp_path: Path) -> None:
    assert re.findall(r'<section id="([a-z-]+)"', written(write_study(tmp_path / "study"))) == ["studies", "settings"]


@pytest.mark.parametrize(
    ("prompt", "wordings", "found"),
    [(0.0, 1.0, MISSED), (1.0, 0.5, IN_PART), (1.0, 1.0, HELD), (1.0, None, HELD), (None, 1.0, None)],
)
def test_a_fact_is_missed_in_part_or_held(prompt: float | None, wordings: float | None, found: int | None) -> None:
    assert verdict({"efficacy_accuracy": prompt, "generalisation_accuracy": wordings}) == found


def test_an_answer_holds_if_it_begins_with_what_was_wanted() -> None:
    assert holds(" norland, of course", "Norland")
    assert not holds("Sudria", "Norland")
    assert not holds("Sudria", "")


def test_facts_of_all_seeds_stand_in_one_table(tmp_path: Path) -> None:
    (group,) = fact_data(read_material([write_bench(tmp_path / "bench")]))["groups"]
    assert [fact[:2] for fact in group["facts"]] == [[seed, f"fact {seed}{i}"] for seed in (0, 1) for i in range(4)]
    view = next(view for view in group["views"] if view["name"] == "blue, weight=1000")
    assert view["verdict"] == [HELD, HELD, MISSED, MISSED] * 2


def test_embedded_json_is_read_back_as_it_was() -> None:
    assert json.loads(embedded({"a": f"{EVIL}\u2028"})) == {"a": f"{EVIL}\u2028"}


def test_text_stands_out_from_its_ground_in_both_themes() -> None:
    text = (Path(__file__).parents[2] / "src/errata/report/templates/page.css").read_text(encoding="utf-8")
    themes = [dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block)) for block in text.split("}")[:2]]
    assert all(themes)
    for colours in themes:
        for ink in ("ink", "soft", "accent", "good", "mid", "bad"):
            assert contrast(colours[ink], colours["card"]) >= 4.5, ink
            assert contrast(colours[ink], colours["paper"]) >= 4.5, ink
        assert contrast(colours["best-ink"], colours["best"]) >= 4.5
        assert all(contrast(colours[f"c{i}"], colours["paper"]) >= 3 for i in range(1, 9))
    dark = (
        text.split('[data-theme="dark"] {', 1)[1].split("}", 1)[0],
        text.split('not([data-theme="light"]) {', 1)[1].split("}", 1)[0],
    )
    assert all(a.split() == b.split() for a, b in pairwise(dark))


def contrast(a: str, b: str) -> float:
    """Contrast ratio as WCAG 2 defines it."""
    bright, dim = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
