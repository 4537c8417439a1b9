from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from errata import Decoder
from errata.editors.locate_then_edit import LocateThenEdit
from errata.errors import BadRecipe, UnknownName, WindowOutside
from errata.methods import METHODS, check_names, method
from errata.recipe import Recipe, known_recipes, parse_window, read_recipe, recipe_for
from errata.solvers import LeastSquares, RankOne, Sparsified
from errata.targets import BackwardSpreading
from tests.editing import decoder_of, editor_of
from tests.models import tokenizer_of


@pytest.mark.parametrize("name", known_recipes())
def test_every_shipped_recipe_gives_a_source_for_its_window(name: str) -> None:
    recipe = known_recipes()[name]
    assert recipe.window == tuple(sorted(set(recipe.window)))
    assert recipe.source["window"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("anchr: 1", "unknown recipe key 'anchr'. Did you mean 'anchor'"),
        ("anchor: {clmp: 1}", "unknown recipe key 'clmp'. Did you mean 'clamp'"),
        ("anchor: {clamp: big}", "anchor.clamp: .*unable to parse string as a number, found 'big'"),
        ("solvers: [1]", "solvers: "),
    ],
)
def test_unknown_keys_and_bad_values_are_refused(line: str, said: str) -> None:
    with pytest.raises(BadRecipe, match=said):
        read_recipe(f"name: x\nwindow: [1, 2]\n{line}", "x.yaml")


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    recipe = read_recipe("name: x\nwindow: [1]\nanchor: {learning_rate: 5e-1, weight_decay: 1e-3}", "x.yaml")
    assert (recipe.anchor.learning_rate, recipe.anchor.weight_decay) == (0.5, 1e-3)


def test_settings_of_solvers_are_read_as_their_types_ask() -> None:
    text = "name: x\nwindow: [1]\nsolvers: {least_squares: {weight: 5e3}, rank_one: {adjusted: false, ridge: 1e-2}}"
    recipe = read_recipe(text, "x.yaml")
    assert method("rect").pipeline(recipe, depth=3) == LocateThenEdit(
        BackwardSpreading(), Sparsified(LeastSquares(5000.0)), (1,), recipe.anchor
    )
    rome = method("rome").pipeline(recipe, depth=3)
    assert isinstance(rome, LocateThenEdit)
    assert rome.solver == RankOne(adjusted=False, ridge=0.01)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"least_squares": {"weight": "big"}}, "solvers.least_squares.weight: .*as a number, found 'big'"),
        (
            {"sparsified": {"criterion": "size"}},
            "solvers.sparsified.criterion: .*'absolute' or 'relative', found 'size'",
        ),
    ],
)
def test_bad_settings_of_solvers_are_refused_by_their_place(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRecipe, match=said):
        method("rect").pipeline(Recipe("any", (0,), solvers=given), depth=1)


def test_the_solver_inside_a_wrapper_is_no_setting_of_it() -> None:
    with pytest.raises(UnknownName, match="unknown setting of sparsified 'solver'"):
        method("rect").pipeline(Recipe("any", (0,), solvers={"sparsified": {"solver": 1.0}}), depth=1)


def test_a_model_without_a_recipe_gets_a_proposed_one() -> None:
    decoder = decoder_of("llama")
    recipe = recipe_for(decoder)
    assert recipe.proposed
    decoder.check_window(recipe.window)


def test_a_recipe_is_found_by_the_models_name() -> None:
    model = decoder_of("gpt2").model
    assert recipe_for(Decoder(model, tokenizer_of("gpt2"), name="openai-community/gpt2")).name == "gpt2"


def test_an_unknown_recipe_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'gpt2-xl'"):
        recipe_for(decoder_of("gpt2"), "gpt2xl")


def test_a_setting_a_solver_lacks_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"unknown setting of least_squares 'wieght'\. Did you mean 'weight'"):
        method("memit").pipeline(Recipe("any", (0,), solvers={"least_squares": {"wieght": 1.0}}), depth=1)


def test_a_window_outside_the_model_is_refused() -> None:
    decoder = decoder_of("gpt2")
    with pytest.raises(WindowOutside, match=r"window \[3, 9\]: expected ascending layers between 0 and 4"):
        editor_of(decoder, "memit", recipe=recipe_for(decoder).with_window((3, 9)))


def test_an_unknown_method_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownName, match=r"unknown method 'memit-fe'. Did you mean 'memit\+fe'"):
        method("memit-fe")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_where_it_comes_from(name: str) -> None:
    assert METHODS[name].paper.label


@pytest.mark.parametrize("name", known_recipes())
def test_what_a_shipped_recipe_says_of_other_editors_is_complete_and_sourced(name: str) -> None:
    recipe = known_recipes()[name]
    check_names(recipe)
    for editor in recipe.editors:
        assert f"editors.{editor}" in recipe.source
        assert method(editor).pipeline(recipe, depth=12).edited


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Ten lines that stand for half a billion values."""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "text",
        "- a\n- b",
        "1: 2",
        "? [a]\n: b",
        "name: !!python/object/apply:os.system [ls]",
        "name: x\nwindow: 3-7",
        "name: x\nwindow: []",
        "name: x\nwindow: [1.5]",
        "name: x\nwindow: {a: b}",
        "name: x\nwindow: [1]\nanchor: 5",
        "name: x\nwindow: [1]\nanchor: {steps: many}",
        "name: x\nwindow: [1]\nsolvers: {least_squares: {weight: .nan}}",
        "name: x\nwindow: [1]\nsolvers: {least_squares: {weight: [-.inf]}}",
        "name: x\nwindow: [1]\nsolvers: [a]",
        "name: x\nwindow: [" + "9" * 5000 + "]",
        "[" * 100_000,
        "name: &n x\nwindow: *n",
        BOMB,
        "name: '" + "x" * (1 << 21) + "'",
        "\x00",
        "name: x\nwindow: [" + ",".join("a" * 1000) + "]",
    ],
    ids=lambda text: text[:30],
)
def test_whatever_is_no_recipe_is_refused_in_one_short_line(text: str) -> None:
    with pytest.raises(BadRecipe) as caught:
        read_recipe(text, "r.yaml")
    assert max(map(len, str(caught.value).splitlines())) < 350


def test_every_problem_of_a_recipe_has_a_short_line_of_its_own() -> None:
    text = "names: x\nwindow: yes\nanchor: {clamp: '" + "x" * 5000 + "'}\ncontext_seed: 99999999999999999999"
    with pytest.raises(BadRecipe) as caught:
        read_recipe(text, "r.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) < 300
    assert lines[0] == "r.yaml: name is missing"


@pytest.mark.parametrize("value", ["x" * 5000, "\U0001f600" * 200], ids=["letters", "emoji"])
def test_a_bad_setting_of_a_solver_is_shown_in_brief(value: Any) -> None:
    with pytest.raises(BadRecipe, match=r"solvers\.least_squares\.weight: ") as caught:
        method("memit").pipeline(Recipe("any", (0,), solvers={"least_squares": {"weight": value}}), depth=1)
    assert len(str(caught.value)) < 300


def test_a_recipe_that_is_no_text_or_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("name: Zoë".encode("latin-1"))
    (tmp_path / "folder.yaml").mkdir()
    for name, told in (("latin.yaml", "UTF-8"), ("folder.yaml", "no such recipe file"), ("absent.yaml", "no such")):
        with pytest.raises(BadRecipe, match=told):
            recipe_for(decoder_of("llama"), tmp_path / name)


@pytest.mark.parametrize("text", ["a", "9-3", "1-", "-", "", "1-2-3", "1-999999999999", "99999999999", "9" * 5000])
def test_a_window_that_is_none_is_refused_at_once(text: str) -> None:
    with pytest.raises(WindowOutside) as caught:
        parse_window(text)
    assert len(str(caught.value)) < 200
