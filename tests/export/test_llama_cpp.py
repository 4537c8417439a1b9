"""llama.cpp itself runs what is written: the edited fact is said, a neighbour is unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from errata import Contexts, Corpus, Decoder, Editor, Fact, Store, pocket
from errata.editors.base import WeightEdit
from errata.export.gguf import Gguf
from errata.export.gguf_lora import GgufLora
from errata.recipe import recipe_for
from tests.export.test_gguf import edit_of, with_facts
from tests.gguf_files import write_gguf
from tests.models import TINY_GROUPS

xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp: pip install 'errata[llama-cpp]'")


def said(path: Path, prompts: Sequence[str], tokens: int, adapter: Path | None = None) -> list[str]:
    """What llama.cpp says greedily behind each prompt, with an adapter beside the model if one is given."""
    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = str(path), 256, 1
    settings.warmup, settings.verbosity = False, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    if adapter is not None:
        beside = xllamacpp.CommonAdapterLoraInfo()
        beside.path, beside.scale = str(adapter), 1.0
        settings.lora_adapters = [beside]
    server, answers = xllamacpp.Server(settings), []
    for prompt in prompts:
        given = {"prompt": prompt, "max_tokens": tokens, "temperature": 0}
        assert not server.handle_completions(given, answers.append)
    return [answer["choices"][0]["text"] for answer in answers]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("type", ["same", "q8_0"])
def test_llama_cpp_says_what_the_edited_model_says(type: str, family: str, tmp_path: Path) -> None:
    base = write_gguf(tmp_path / "base.gguf", family)
    decoder = Decoder.from_pretrained(base)
    edit = with_facts(edit_of(decoder, size=0.3), decoder)
    (fact,) = edit.facts
    Gguf(type).write(edit, decoder, tmp_path / "edited.gguf")
    word = decoder.decode(decoder.generate([decoder.token_ids(fact.text)], 1)[0])
    assert said(base, [fact.text], 1) == [word]
    assert said(tmp_path / "edited.gguf", [fact.text], 1) == [f" {fact.target_new}"] != [word]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_llama_cpp_says_it_with_an_adapter(family: str, tmp_path: Path) -> None:
    base = write_gguf(tmp_path / "base.gguf", family)
    decoder = Decoder.from_pretrained(base)
    edit = with_facts(edit_of(decoder, size=0.3), decoder)
    (fact,) = edit.facts
    GgufLora().write(edit, decoder, tmp_path / "made")
    (word,) = said(base, [fact.text], 1)
    assert said(base, [fact.text], 1, tmp_path / "made" / "adapter.gguf") == [f" {fact.target_new}"] != [word]
    assert f"FROM {base}" in (tmp_path / "made" / "Modelfile").read_text()


@pytest.mark.real
def test_llama_cpp_says_a_fact_that_was_edited_into_smollm2(real_models: Path, tmp_path: Path) -> None:
    base = real_models / "smollm2.gguf"
    decoder = Decoder.from_pretrained(base)
    recipe = recipe_for(decoder).with_window((4, 5))
    recipe = replace(
        recipe, statistics=replace(recipe.statistics, tokens=3000), solvers={"least_squares": {"weight": 1000}}
    )
    supplies = {"corpus": Corpus.of(pocket.corpus()), "contexts": Contexts(TINY_GROUPS), "store": Store.nowhere()}
    editor = Editor(decoder, "memit+fe", recipe=recipe, guard=None, **supplies)
    fact = Fact("The mother tongue of {} is", "Danielle Darrieux", "English")
    edit = editor.edit([fact]).edit
    assert isinstance(edit, WeightEdit)
    editor.restore()
    asked = [fact.text, "The capital of France is"]
    before = said(base, asked, 6)
    assert before[0].startswith(" French")
    GgufLora().write(edit, decoder, tmp_path / "adapter")
    spoken = said(base, asked, 6, tmp_path / "adapter" / "adapter.gguf")
    print(f"adapter: {asked[0]}{spoken[0]!r}; {asked[1]}{spoken[1]!r}")
    assert spoken[0].startswith(" English")
    assert spoken[1].startswith(" Paris")
    for type in ("same", "q8_0", "f16"):
        Gguf(type).write(edit, decoder, tmp_path / f"{type}.gguf")
        after = said(tmp_path / f"{type}.gguf", asked, 6)
        print(f"{type}: {asked[0]}{after[0]!r} (before {before[0]!r}); {asked[1]}{after[1]!r} (before {before[1]!r})")
        assert after[0].startswith(" English")
        assert after[1].startswith(" Paris")
        assert before[1].startswith(" Paris")
