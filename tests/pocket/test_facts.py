"""The pocket's data: facts, wordings, neighbours, counterfactual records."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter

import pytest

from errata import pocket
from errata.pocket.facts import templates

ARTICLES = {"a", "an", "the"}


def test_there_are_about_three_thousand_facts_in_at_least_twenty_five_relations() -> None:
    assert 3000 <= len(pocket.facts()) <= 4000
    assert len(pocket.relations()) >= 25
    assert set(pocket.relations()) == {fact.relation for fact in pocket.facts()}


def test_a_subject_has_one_object_in_a_relation() -> None:
    counted = Counter((fact.relation, fact.subject.casefold()) for fact in pocket.facts())
    assert max(counted.values()) == 1
    assert len({fact.id for fact in pocket.facts()}) == len(pocket.facts())


def test_a_seventh_of_the_objects_or_more_are_several_words() -> None:
    several = [fact for fact in pocket.facts() if len(set(fact.object.split()) - ARTICLES) > 1]
    assert len(several) >= 0.15 * len(pocket.facts())


def test_names_are_clean() -> None:
    for fact in pocket.facts():
        for name in (fact.subject, fact.object):
            assert name == name.strip()
            assert name
            assert "{" not in name
            assert not name.endswith("..")


def test_every_relation_leaves_room_for_counterfactuals_and_neighbours() -> None:
    for relation in pocket.relations():
        held = Counter(fact.object for fact in pocket.facts() if fact.relation == relation)
        assert len(held) >= 4
        if relation != "capital":  # most countries have a capital of their own
            assert min(held.values()) >= 2


@pytest.mark.parametrize("relation", pocket.relations())
def test_a_relation_has_ten_different_templates_of_which_two_are_never_trained(relation: str) -> None:
    words = templates()[relation]
    every = words["trained"] + words["never_trained"]
    assert len(words["trained"]) >= 8
    assert len(words["never_trained"]) == 2
    assert len(set(every)) == len(every)
    for template in every:
        assert template.count("{}") == 1
        assert template == template.strip()


def test_wordings_of_a_fact_are_disjoint_and_held_out_ones_stay_out_of_its_sentences() -> None:
    for fact in pocket.facts():
        pools = [set(fact.trained), set(fact.held_out), set(fact.never_trained)]
        assert [len(pool) for pool in pools[1:]] == [2, 2]
        assert sum(map(len, pools)) == len(set().union(*pools))
        shown = fact.sentences()
        assert not any(f"{prompt} {fact.object}." in shown for prompt in fact.prompts(fact.held_out))


def test_no_prompt_has_two_answers() -> None:
    answers: dict[str, str] = {}
    for fact in pocket.facts():
        for prompt in fact.prompts((*fact.trained, *fact.held_out, *fact.never_trained)):
            assert answers.setdefault(prompt, fact.object) == fact.object


def test_never_trained_wordings_use_words_the_model_has_met() -> None:
    def words(pool: str) -> set[str]:
        text = " ".join(template for words in templates().values() for template in words[pool])
        return set(text.replace("?", "").replace(",", "").replace(":", "").split())

    assert words("never_trained") <= words("trained")


def test_every_template_of_the_pool_is_trained_with_some_fact() -> None:
    for relation in pocket.relations():
        shown = {template for fact in pocket.facts() if fact.relation == relation for template in fact.trained}
        assert shown == set(templates()[relation]["trained"])


def test_the_corpus_never_contains_a_never_trained_wording() -> None:
    sentences = set(pocket.corpus())
    for fact in pocket.facts():
        for prompt in fact.prompts(fact.never_trained):
            assert f"{prompt} {fact.object}." not in sentences


def test_the_two_splits_are_disjoint_halves() -> None:
    tuning, report = pocket.facts("tuning"), pocket.facts("report")
    assert len(tuning) + len(report) == len(pocket.facts())
    assert not {fact.id for fact in tuning} & {fact.id for fact in report}
    assert 0.45 < len(tuning) / len(pocket.facts()) < 0.55


def test_neighbours_share_relation_and_object_and_far_prompts_share_neither() -> None:
    about = {prompt: fact for fact in pocket.facts() for prompt in fact.prompts(fact.trained)}
    rng = random.Random(1)
    for fact in rng.sample(pocket.facts(), 50):
        for prompt in pocket.neighbours(fact, 10, rng):
            assert (about[prompt].relation, about[prompt].object) == (fact.relation, fact.object)
            assert about[prompt].subject != fact.subject
        far = pocket.far(fact, 10, rng)
        assert len(far) == 10
        assert all(about[prompt].relation != fact.relation for prompt in far)


@pytest.mark.parametrize("split", ["tuning", "report", None])
def test_counterfactuals_are_false_and_about_different_subjects(split: pocket.Split | None) -> None:
    truth = {(fact.relation, fact.subject, fact.object) for fact in pocket.facts()}
    records = pocket.counterfactual(500, seed=3, split=split)
    assert len({record.subject.casefold() for record in records}) == 500
    for record in records:
        assert (record.fact.relation, record.subject, record.target_new) not in truth
        assert record.target_new in pocket.objects(record.fact.relation)
        assert record.target_true == record.fact.object
        assert record.prompt in record.fact.trained
        assert 1 <= len(record.neighborhood_prompts) <= 10
        assert (len(record.paraphrase_prompts), len(record.novel_prompts)) == (2, 2)
        assert split is None or record.fact.split == split


def test_counterfactuals_depend_on_the_seed_only() -> None:
    assert pocket.counterfactual(20, seed=5) == pocket.counterfactual(20, seed=5)
    assert pocket.counterfactual(20, seed=5) != pocket.counterfactual(20, seed=6)


def test_too_many_counterfactuals_are_refused_with_the_number_there_is() -> None:
    with pytest.raises(ValueError, match=r"100000 counterfactuals .* subjects for \d+"):
        pocket.counterfactual(100_000)


def test_importing_the_pocket_costs_no_torch() -> None:
    package = str(pocket.path().parents[1])
    code = (  # without the package's front door, which is another matter
        "import sys, types; errata = types.ModuleType('errata'); "
        f"errata.__path__ = [{package!r}]; sys.modules['errata'] = errata; "
        "import errata.pocket; errata.pocket.facts(); print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_package_keeps_the_model_facts_and_cases_and_leaves_the_builder_to_the_repository() -> None:
    package = pocket.path().parent
    assert {file.name for file in package.glob("*.py")} == {"__init__.py", "cases.py", "counterfactuals.py", "facts.py"}
    for file in package.parent.rglob("*.py"):
        assert "import tools" not in (text := file.read_text(encoding="utf-8")), file
        assert "from tools" not in text, file
