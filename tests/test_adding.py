"""The pages on adding to errata: their code runs as it is written, and what it defines works."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from errata.evaluate import PROBES, Case, evaluate, probes
from errata.methods import METHODS
from errata.record.tables import DETAIL_COLUMNS, NO_COLUMN, SCORE_COLUMNS, score_table
from tests.editing import decoder_of, editor_of
from tests.models import tiny_facts
from tests.solvers.systems import moment, regression, relative, system

DOCS = Path(__file__).parents[1] / "docs"
FACTS = tiny_facts()


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / f"adding-a-{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def defined(page: str) -> dict[str, Any]:
    """What the page's Python defines."""
    names: dict[str, Any] = {"__name__": "example"}
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec", dont_inherit=True), names)
    return names


@pytest.mark.parametrize("page", ["solver", "construction"])
def test_every_method_that_a_page_defines_edits(page: str) -> None:
    methods = defined(page)["METHODS"]
    for name in methods:
        outcome = editor_of(decoder_of("llama"), name, methods=METHODS | methods).edit(FACTS[:3])
        last = outcome.ledger.rows[-1]
        assert last.remaining[last.read] < 1


def test_the_solver_of_the_page_tells_its_true_residual_and_keeps_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    solver, given, past = defined("solver")["Ridge"](0.5), system(), moment(seed=9)
    for earlier, penalty in ((None, 0.5 * torch.eye(12)), (past, 0.5 * torch.eye(12) + past)):
        solution = solver.solve(given, solver.prepare(moment(), earlier))
        assert relative(solution.change, regression(given, penalty.double())) < 1e-12
        assert solution.residual < 1e-12
    real = torch.linalg.solve
    monkeypatch.setattr(torch.linalg, "solve", lambda matrix, wanted: 1.1 * real(matrix, wanted))
    assert solver.solve(given, solver.prepare(moment())).residual == pytest.approx(0.1)


def test_a_batch_by_the_solver_of_the_page_leaves_earlier_facts_alone() -> None:
    table = METHODS | defined("solver")["METHODS"]
    moved = []
    for remember in (True, False):
        editor = editor_of(decoder_of("llama"), "ridge+fe", methods=table)
        first = editor.edit(FACTS[:2])
        keys = first.edit.keys[3]  # type: ignore[attr-defined]
        both = editor.edit(FACTS[2:4], past=first.edit, remember=remember)
        name = editor.decoder.parameter_name(3)
        change = both.edit.delta.changes[name] - first.edit.delta.changes[name]  # type: ignore[attr-defined]
        moved.append(float((keys @ change.T).norm() / change.norm()))
    assert moved[0] < moved[1]


def test_a_probe_added_as_documented_scores_and_has_a_column() -> None:
    probe = defined("probe")["Forgotten"]()
    cases = [Case(fact, str(i), target_true="Quill") for i, fact in enumerate(FACTS[:2])]
    scores = evaluate(decoder_of("llama"), cases, [probe])
    assert 0 <= scores["forgotten"].value <= 1
    assert score_table({"unedited": scores.to_json()}).columns == ["", "forgotten"]


def test_a_column_with_a_title_or_left_out_on_purpose_is_that_of_a_probe() -> None:
    listed = {key for key, _, _ in (*SCORE_COLUMNS, *DETAIL_COLUMNS)}
    assert not listed & NO_COLUMN
    assert listed | NO_COLUMN <= {probe.name for probe in probes(*PROBES)}


def test_the_layout_shown_is_the_one_shipped() -> None:
    shipped = yaml.safe_load((DOCS.parent / "src/errata/decoder/layouts/llama.yaml").read_text(encoding="utf-8"))
    assert yaml.safe_load(blocks("model", "yaml")[0]).items() <= shipped.items()


def test_a_recipe_written_as_documented_is_read() -> None:
    recipe = defined("model")["recipe"]
    assert (recipe.window, recipe.anchor.learning_rate) == ((3, 4, 5), 0.5)


def test_the_entry_point_shown_is_in_the_group_that_is_read() -> None:
    from errata.plugins import GROUP

    (shown,) = blocks("solver", "toml")
    assert list(tomllib.loads(shown)["project"]["entry-points"]) == [GROUP]
