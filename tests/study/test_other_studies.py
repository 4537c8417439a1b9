"""Stability, causal tracing and contribution."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from markupsafe import escape

from errata import Editor
from errata.evaluate.recall import Recall
from errata.report.figures import write_charts
from errata.report.material import read_material
from errata.report.page import page
from errata.study import STUDIES, Trial, tracing
from errata.study.finding import PerFact, plain
from errata.study.folder import Made, write
from errata.study.tracing import DECISIVE, MLP, STATE, suggested
from tests.study.conftest import trial_of


def test_seeds_move_targets_and_the_first_replayed_target_is_its_anchor(findings: Callable[[str], Any]) -> None:
    found = findings("stability")
    first = found.replayed[0]
    assert first.states.values == pytest.approx([1.0] * 3)
    assert first.difference.values == pytest.approx([0.0] * 3, abs=1e-9)
    optimised, replayed = (found.between[kind]["0/1"] for kind in ("optimised", "replayed"))
    assert optimised[0].states.values == pytest.approx(replayed[0].states.values)
    assert optimised[0].shifts.mean < optimised[0].states.mean < 1


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_the_last_token_of_the_last_layer_brings_all_back(family: str) -> None:
    trial = trial_of(family, 2)
    found = tracing(trial, layers=[3, 4], samples=3)
    whole = [clean - corrupted for clean, corrupted in zip(found.clean.known, found.corrupted.known, strict=True)]
    assert found.effects[STATE]["last token"][-1].rise.values == pytest.approx(whole, abs=1e-6)
    # Behind the last layer there is nothing to sever.
    state = found.effects[STATE][DECISIVE][-1].rise.values
    assert found.severed[MLP][-1].rise.values == pytest.approx(state, abs=1e-9)
    assert not trial.decoder.is_edited


def test_a_token_after_which_nothing_is_read_at_the_last_layer_has_no_effect(
    findings: Callable[[str], Any],
) -> None:
    rises = findings("tracing").effects[STATE][DECISIVE][-1].rise
    assert rises.values == pytest.approx([0.0] * 3, abs=1e-9)


def test_without_noise_nothing_has_an_effect(trial: Trial) -> None:
    found = tracing(trial, layers=[0, 2], samples=1, noise=0.0)
    assert found.corrupted.values == pytest.approx(found.clean.values)
    rows = [row for kind in found.effects.values() for place in kind.values() for row in place]
    rows += [row for kind in found.severed.values() for row in kind]
    assert all(abs(value) < 1e-9 for row in rows for value in row.rise.known)


def test_tracing_is_the_same_in_any_batching(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tracing(trial, layers=[1], samples=2)
    monkeypatch.setitem(vars(trial.decoder), "budget", 1)
    single = tracing(trial, layers=[1], samples=2)
    for kind in (STATE, MLP):
        for place, rows in whole.effects[kind].items():
            assert single.effects[kind][place][0].rise.values == pytest.approx(rows[0].rise.values, abs=1e-6)


def test_the_window_is_where_the_gap_falls_most() -> None:
    assert suggested(range(6), [0.5, 0.5, 0.5, 0.1, 0.0, 0.0], 2) == (3, 4)
    assert suggested(range(6), [0.5, 0.1, 0.1, 0.1, 0.1, 0.1], 1) == (1,)
    assert suggested(range(3), [0.3, 0.2, 0.1], 9) == (0, 1, 2)


def test_a_layer_alone_for_its_own_residual_is_onelayer_there(trial: Trial, findings: Callable[[str], Any]) -> None:
    found = findings("contribution")
    assert [row.layer for row in found.layers] == [1, 2, 3]
    last = found.layers[-1]
    assert last.spread == last.whole == last.own  # at the last layer there is nothing to share out
    outcome = Editor(trial.decoder, "onelayer", supplies=trial.supplies).edit(trial.facts)
    answers = Recall.ask(trial.decoder, [Recall(fact.text, fact.target_new) for fact in trial.facts])
    outcome.restore()
    assert last.own.probability.values == pytest.approx([a.probability for a in answers], rel=1e-5)
    assert found.layers[0].evaluations == found.layers[0].evaluations_after
    assert found.layers[0].own == found.layers[0].after


def test_numbers_leave_out_facts_without_one() -> None:
    found = PerFact.of(torch.tensor([1.0, float("nan"), 3.0, 5.0]), torch.tensor([True, True, True, False]))
    assert found.values == (1.0, None, 3.0, None)
    assert found.mean == 2.0
    assert found.share(above=2) == 0.5


@pytest.mark.parametrize("name", STUDIES)
def test_every_finding_has_tables_and_charts_of_finite_numbers(findings: Callable[[str], Any], name: str) -> None:
    found = findings(name)
    assert all(line.points for chart in found.charts() for line in chart.lines)
    assert "nan" not in " ".join(cell for table in found.tables().values() for row in table.rows for cell in row)
    json.loads(json.dumps(found.to_json()), parse_constant=pytest.fail)


def test_a_folder_explains_itself(findings: Callable[[str], Any], tmp_path: Path) -> None:
    found = findings("cosines")
    made = Made("errata study ...", {"window": [1, 2, 3]}, {"errata": "0"}, ({"subject": "Velm"},))
    write(found, tmp_path, made, 1.0, [tmp_path / "cosines.svg", tmp_path / "cosines.png"])
    record = json.loads((tmp_path / "cosines.json").read_text(), parse_constant=pytest.fail)
    assert record["kind"] == "study"
    assert record["what"] == "cosines"
    assert record["data"]["methods"]["memit"][0]["achieved"]["values"]
    assert record["tables"]["Cosines, memit"]["columns"] == ["at layer", "1", "2", "3"]
    card = (tmp_path / "README.md").read_text()
    assert all(text in card for text in (*found.tables(), "errata study ...", found.note, "(cosines.png)"))
    assert "(cosines.svg)" not in card


@pytest.mark.parametrize("name", STUDIES)
def test_what_a_study_writes_is_what_a_report_reads(findings: Callable[[str], Any], tmp_path: Path, name: str) -> None:
    written = write(findings(name), tmp_path / name, Made("errata study ...", {"window": [1, 2]}, {"errata": "0"}), 1.0)
    material = read_material([tmp_path])
    assert material.failures == []
    (read,) = material.studies
    assert plain(read) == plain(written)
    text = page(material)
    assert all(f'aria-label="{escape(chart.description)}"' in text for chart in read.charts)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_drawn_as_figures_of_a_paper(findings: Callable[[str], Any], tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    made = write_charts(findings(name).charts(), tmp_path, name)
    assert [path.name for path in made] == [f"{name}.svg", f"{name}.png"]
    assert made[1].stat().st_size > 5000
