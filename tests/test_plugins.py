"""Methods that are not in the table: objects, files of the user's own, installed packages."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from errata.bench import Grid, read_grid
from errata.bench.grid import BadGrid
from errata.cli import app as cli
from errata.description import description
from errata.errors import BadPlugin, UnknownMethod, UnknownName
from errata.method import Pair
from errata.methods import METHODS, method
from errata.plugins import read_plugin
from errata.solvers import LeastSquares
from errata.targets import ForwardReplay
from tests.bench.test_running import bench_of
from tests.editing import RECIPE, decoder_of, editor_of
from tests.models import FAMILIES, tiny_corpus, tiny_facts, tokenizer_of
from tests.study.conftest import trial_of

FACTS = tiny_facts()[:3]
EDITED = (0, 3)
"""Exit codes of an edit that was made; 3 if the tiny model does not say all facts."""
MINE = Pair(ForwardReplay(), LeastSquares())
PLUGIN = """
from dataclasses import dataclass

from errata.method import Pair
from errata.solvers import LeastSquares
from errata.targets import Step, TargetConstruction


@dataclass(frozen=True)
class FirstLayer(TargetConstruction):
    def steps(self, window):
        return [Step(window[0], window[0], 1.0)]

    def anchored(self, window):
        return [window[0]]


METHODS = {"first": Pair(FirstLayer(), LeastSquares())}
"""


def plugin_at(folder: Path, text: str = PLUGIN, name: str = "mine.py") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_nothing_changes_the_table() -> None:
    with pytest.raises(TypeError):
        METHODS["mine"] = MINE  # type: ignore[index]
    with pytest.raises(TypeError):
        del METHODS["memit"]  # type: ignore[attr-defined]


def test_a_method_object_edits_as_the_row_that_equals_it() -> None:
    weights = []
    for which in ("memit+fe", MINE):
        editor = editor_of(decoder_of("llama"), which)
        editor.edit(FACTS)
        weights.append(editor.decoder.weight(2).clone())
    assert torch.equal(*weights)
    assert editor.method == MINE.title == "ForwardReplay:LeastSquares"


def test_a_name_of_ones_own_table_is_edited_by_and_can_be_put_together_with_others() -> None:
    table = {**METHODS, "mine": MINE}
    outcome = editor_of(decoder_of("llama"), "mine", methods=table).edit(FACTS)
    assert outcome.edit.manifest["method"] == "mine"
    assert method("mine:emmet", table) == replace(method("emmet+fe"), paper=method("mine:emmet", table).paper)  # type: ignore[type-var]
    with pytest.raises(UnknownMethod, match="Did you mean 'mine'"):
        method("mines", table)


def test_settings_of_a_solver_of_ones_own_stand_in_a_recipe(tmp_path: Path) -> None:
    text = PLUGIN.replace(
        "class FirstLayer",
        "class Loud(LeastSquares):\n    gain: float = 1.0\n\n\n@dataclass(frozen=True)\nclass FirstLayer",
    )
    table = {**METHODS, **read_plugin(plugin_at(tmp_path, text.replace("LeastSquares())}", "Loud())}")), METHODS)}
    recipe = replace(RECIPE, solvers={"loud": {"gain": 2.0}})
    assert editor_of(decoder_of("llama"), "first", methods=table, recipe=recipe).pipeline.solver.gain == 2.0  # type: ignore[attr-defined]
    assert editor_of(decoder_of("llama"), "memit", methods=table, recipe=recipe)
    with pytest.raises(UnknownName, match="solver in the recipe 'tiny'"):
        editor_of(decoder_of("llama"), "memit", recipe=recipe)


def test_a_file_of_ones_own_brings_methods_to_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> int:
        monkeypatch.setattr("sys.argv", ["errata", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0)

    monkeypatch.setenv("ERRATA_STORE", str(tmp_path / "store"))
    FAMILIES["llama"]().float().save_pretrained(tmp_path / "base")
    tokenizer_of("llama").save_pretrained(tmp_path / "base")
    (tmp_path / "corpus.txt").write_text("\n".join(tiny_corpus()), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(
        "name: tiny\nwindow: [1, 2]\nanchor: {steps: 3}\nsolvers: {least_squares: {weight: 1, ridge: 0.01}}\n"
    )
    rows = [{"prompt": f.prompt, "subject": f.subject, "target_new": f.target_new} for f in FACTS]
    (tmp_path / "facts.json").write_text(json.dumps(rows))
    plugin = plugin_at(tmp_path)
    given = ("--plugin", plugin, "--recipe", tmp_path / "recipe.yaml", "--corpus", tmp_path / "corpus.txt")
    edit = ("edit", tmp_path / "base", tmp_path / "facts.json", "-m", "first")
    assert run(*edit, *given, "-o", tmp_path / "edit") in EDITED
    made = json.loads((tmp_path / "edit" / "manifest.json").read_text())
    assert made["method"] == "first"
    assert made["construction"].startswith("FirstLayer(")
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    assert run("methods", "--plugin", plugin) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "FirstLayer" in shown
    assert "https://arxiv.org/abs/2605.00358" in shown
    assert run(*edit, *given[2:]) not in EDITED, "a file that is not named is not run"


def test_a_study_and_a_grid_take_methods_that_no_table_has(tmp_path: Path) -> None:
    trial = trial_of("llama")
    assert trial.edit(MINE).delta.changes.keys() == trial.edit("memit+fe").delta.changes.keys()
    table = {**METHODS, "mine": MINE}
    assert (
        Grid("tiny", "tiny", "mine,mine:emmet", sweep={"solvers.least_squares.weight": (1, 2)}, table=table).check()
        is None
    )
    path = tmp_path / "grid.yaml"
    path.write_text("models: m\ndatasets: d\nmethods: memit\ntable: {a: b}\n")
    with pytest.raises(BadGrid, match="unknown key 'table'"):
        read_grid(path, {})


def test_a_cell_of_the_bench_knows_the_code_of_a_method_that_is_not_erratas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from errata.bench import running

    monkeypatch.setattr(running, "recipe_for", lambda decoder, wanted: RECIPE)
    decoder, computed = decoder_of("llama"), []
    for text in (PLUGIN, PLUGIN, PLUGIN.replace("window[0], 1.0", "window[0], 0.5")):
        table = {**METHODS, **read_plugin(plugin_at(tmp_path, text), METHODS)}
        computed.append(bench_of(decoder, tmp_path / "out", methods="first", table=table).run().computed)
    assert computed == [1, 0, 1]


def test_a_description_of_erratas_own_parts_is_their_repr_and_of_others_has_their_code() -> None:
    assert description(MINE) == repr(MINE)

    class Own(LeastSquares):
        pass

    assert description(replace(MINE, solver=Own())).startswith(repr(replace(MINE, solver=Own())))
    assert "Own " in description(replace(MINE, solver=Own())).partition(" # ")[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", r"could not be run: ZeroDivisionError"),
        ("x = 1", r"defines no method. Write METHODS = "),
        ("METHODS = {'mine': 3}", r"METHODS\['mine'\] is a int, expected a Method"),
        ("from errata.methods import METHODS as M\nMETHODS = {'memit': M['emmet']}", r"has a method 'memit' already"),
        ("from errata.methods import METHODS as M\nMETHODS = {'a:b': M['emmet']}", r"the name 'a:b' holds a ':'"),
    ],
)
def test_a_file_that_brings_no_method_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadPlugin, match=message):
        read_plugin(plugin_at(tmp_path, text), METHODS)


def test_what_is_not_a_python_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadPlugin, match=r"ends in .py"):
        read_plugin(plugin_at(tmp_path, name="mine.txt"), METHODS)
    with pytest.raises(BadPlugin, match="could not be run: FileNotFoundError"):
        read_plugin(tmp_path / "nothing.py", METHODS)


def test_a_file_may_add_to_the_table_or_name_its_methods_by_variables(tmp_path: Path) -> None:
    head = "from errata.method import Pair\nfrom errata.methods import METHODS\n"
    mine = "Pair(METHODS['memit'].construction, METHODS['emmet'].solver)"
    assert list(read_plugin(plugin_at(tmp_path, f"{head}METHODS = METHODS | {{'a': {mine}}}"), METHODS)) == ["a"]
    assert list(read_plugin(plugin_at(tmp_path, f"{head}b = {mine}"), METHODS)) == ["b"]


def test_an_installed_package_brings_methods_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin_at(tmp_path, PLUGIN + "\nFIRST = METHODS['first']\nBROKEN = 3\n", name="installed_methods_of_a_test.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [
        EntryPoint(name, f"installed_methods_of_a_test:{value}", "errata.methods")
        for name, value in (("first", "FIRST"), ("broken", "BROKEN"), ("gone", "NOTHING"))
    ]
    monkeypatch.setattr("errata.plugins.entry_points", lambda group: points)
    row = method("first:emmet")
    assert isinstance(row, Pair)
    assert type(row.construction).__name__ == "FirstLayer"
    with pytest.raises(BadPlugin, match=r"'broken' .* expected a Method, found a int"):
        method("broken")
    with pytest.raises(BadPlugin, match=r"'gone' .* AttributeError"):
        method("gone")
    with pytest.raises(UnknownMethod, match="Did you mean 'first'"):
        method("frist")
    sys.modules.pop("installed_methods_of_a_test", None)
