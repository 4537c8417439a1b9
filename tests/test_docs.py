"""The examples of the documentation run as they are written, and what they define works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from errata import WeightEdit
from errata.evaluate import Case, evaluate
from errata.methods import METHODS
from tests.editing import decoder_of, editor_of
from tests.models import tiny_facts

ROOT = Path(__file__).parents[1]


def run_examples(page: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    for code in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(code, page, "exec", dont_inherit=True), names)
    return names


@pytest.mark.parametrize(
    ("page", "method"), [("docs/adding-a-solver.md", "ridge+fe"), ("docs/adding-a-construction.md", "firstlayer")]
)
def test_a_method_added_as_documented_edits(page: str, method: str) -> None:
    try:
        run_examples(page)
        outcome = editor_of(decoder_of("llama"), method).edit(tiny_facts()[:3])
        assert outcome.ledger.rows[-1].remaining[outcome.ledger.rows[-1].read] < 1
    finally:
        METHODS.pop(method, None)


def test_the_readmes_session_changes_a_fact_and_undoes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_examples("README.md")
    said, divergence = capsys.readouterr().out.splitlines()
    assert said == "The mother tongue of Voltaire is | French. | Russian."
    assert 0 < float(divergence) < 0.01
    decoder = names["editor"].decoder
    ids = [decoder.token_ids(names["facts"][0].text)]
    assert decoder.decode(decoder.generate(ids, 1)[0]).strip() == "French"
    WeightEdit.load(tmp_path / "runs" / "voltaire").put_on(decoder)
    assert decoder.decode(decoder.generate(ids, 1)[0]).strip() == "Russian"


def test_a_probe_added_as_documented_scores() -> None:
    probe = run_examples("docs/adding-a-probe.md")["Forgotten"]()
    cases = [Case(fact, str(i), target_true="Quill") for i, fact in enumerate(tiny_facts()[:2])]
    assert 0 <= evaluate(decoder_of("llama"), cases, [probe])["forgotten"].value <= 1


def test_the_layout_shown_is_the_one_shipped() -> None:
    shown = re.search(r"```yaml\n(.*?)```", (ROOT / "docs/adding-a-model.md").read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    shipped = yaml.safe_load((ROOT / "src/errata/decoder/layouts/llama.yaml").read_text(encoding="utf-8"))
    assert yaml.safe_load(shown[1]).items() <= shipped.items()


def test_a_recipe_written_as_documented_is_read() -> None:
    recipe = run_examples("docs/adding-a-model.md")["recipe"]
    assert (recipe.window, recipe.anchor.learning_rate) == ((3, 4, 5), 0.5)
