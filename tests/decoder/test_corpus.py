"""Text to key statistics, and sampled contexts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from errata import Corpus, Decoder, Store, generate_contexts
from errata.decoder.contexts import generate_texts
from errata.decoder.corpus import gather
from errata.errors import NotFinite, StatisticsError
from tests.editing import BOTH, decoder_of, editor_of
from tests.models import tiny_corpus, tiny_facts, tiny_tokenizer


def brute_force(decoder: Decoder, texts: list[str], layer: int, limit: int | None = None) -> tuple[torch.Tensor, int]:
    """Sum of k k^T over all tokens, one text and one forward at a time."""
    keys = []
    handle = decoder.down_projection(layer).register_forward_hook(lambda _m, args, _o: keys.append(args[0][0]))
    for text in texts:
        decoder.model(torch.tensor([decoder.token_ids(text)[:limit]]))
    handle.remove()
    every = torch.cat(keys)
    return every.T @ every / len(every), len(every)


@pytest.mark.parametrize("family", BOTH)
def test_moments_of_all_layers_in_one_pass_equal_text_by_text(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, texts = decoder_of(family), tiny_corpus()
    monkeypatch.setitem(decoder.__dict__, "budget", 64)
    found = gather(decoder, Corpus.of(texts), [1, 3], tokens=0)
    for layer, value in found.items():
        moment, count = brute_force(decoder, texts, layer)
        assert value.count == count
        assert torch.allclose(value.moment, moment, rtol=0, atol=1e-10)


def test_texts_are_cut_at_the_length_and_the_sample_at_its_size() -> None:
    decoder, texts = decoder_of("llama"), tiny_corpus()
    short = gather(decoder, Corpus.of(texts), [1], tokens=0, max_length=4)[1]
    moment, count = brute_force(decoder, texts, 1, limit=4)
    assert short.count == count
    assert torch.allclose(short.moment, moment, rtol=0, atol=1e-10)
    assert gather(decoder, Corpus.of(texts), [1], tokens=37)[1].count == 37
    assert gather(decoder, Corpus.of(texts * 50), [1])[1].count == 10 * decoder.inner(1)


def test_the_convergence_figure_falls_with_more_text_and_is_not_a_number_for_too_little() -> None:
    decoder, texts = decoder_of("llama"), tiny_corpus()
    too_few, few, many = (gather(decoder, Corpus.of(texts[:n]), [1], tokens=0)[1].convergence for n in (8, 30, 60))
    assert math.isnan(too_few)
    assert 0 < many < few < 1


def test_gathered_statistics_are_kept_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of("llama")
    first = editor_of(decoder, "memit", store=Store(tmp_path)).statistics()
    monkeypatch.setattr("errata.editors.supplies.gather", lambda *args: pytest.fail("gathered again"))
    again = editor_of(decoder, "memit", store=Store(tmp_path)).statistics()
    assert all(torch.equal(first[layer].moment, again[layer].moment) for layer in first)
    assert [s.convergence for s in first.values()] == [s.convergence for s in again.values()]


def test_statistics_of_other_weights_are_not_taken(tmp_path: Path) -> None:
    editor_of(decoder_of("llama"), "memit", store=Store(tmp_path)).statistics()
    other = decoder_of("llama")
    other.down_projection(0).weight.data.mul_(1.5)  # type: ignore[operator,union-attr]
    assert editor_of(other, "memit", store=Store(tmp_path)).supplies.stored_statistics([1]) == {}


def test_statistics_are_those_of_the_unedited_model() -> None:
    decoder = decoder_of("llama")
    before = editor_of(decoder, "memit").statistics()
    editor_of(decoder, "memit").edit(tiny_facts())
    after = editor_of(decoder, "memit").statistics()
    assert all(torch.equal(before[layer].moment, after[layer].moment) for layer in before)


def test_a_corpus_is_read_from_text_json_lines_and_a_dataset_folder(tmp_path: Path) -> None:
    texts = ["one text", "another text"]
    (tmp_path / "a.txt").write_text("\n\n".join(texts), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts), encoding="utf-8")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text((tmp_path / "a.jsonl").read_text(), encoding="utf-8")
    plain, lines = Corpus.named(tmp_path / "a.txt"), Corpus.named(tmp_path / "a.jsonl")
    assert list(plain.texts()) == list(lines.texts()) == list(Corpus.from_hub(str(tmp_path / "set")).texts()) == texts
    assert plain.name == lines.name == Corpus.of(texts).name


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '["one\u2028text", "another text"]'),
        ("a.json", '[{"text": "one\u2028text"}, {"text": "another text"}]'),
        ("a.jsonl", '{"text": "one\u2028text"}\n\n{"text": "another text", "id": 1}\n'),
        ("a.jsonl", '"one\u2028text"\n"another text"'),
        ("a.csv", "id;Text\n1;one\u2028text\n2;another text\n"),
        ("a.txt", "one\u2028text\r\n\r\nanother text\r\n"),
    ],
)
def test_a_corpus_is_read_in_every_form_and_line_separators_stay_in_their_text(
    name: str, content: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content.encode())
    assert list(Corpus.named(tmp_path / name).texts()) == ["one\u2028text", "another text"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"txt": "no"}', r"corpus a.jsonl:1: no field 'text'; its fields are 'txt'"),
        ("a.jsonl", b'{"text": "yes"}\n{"text": {}}', r"corpus a.jsonl:2: expected a text, found \{\}"),
        ("a.json", b"[[]]", r"expected a text, found \[\]"),
        ("a.json", b"{", "corpus a.json:1: not valid JSON"),
        ("a.json", b"[" * 100_000, "brackets are nested too deeply"),
        ("a.json", b'["\\ud800"]', "holds half a character"),
        ("a.csv", b"a,b\n1\n", "1 of 1 rows do not have the header's 2 cells"),
        ("a.txt", b"\xff", "not UTF-8 text"),
        ("a.txt", b"", "the file is empty"),
        ("absent.txt", None, "no such file"),
        ("absent.jsonl", None, "no such file"),
    ],
)
def test_a_corpus_that_cannot_be_read_is_refused_in_one_short_line(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(StatisticsError, match=message) as error:
        Corpus.named(tmp_path / name)
    assert len(str(error.value)) < 400


def test_texts_that_are_none_are_refused() -> None:
    with pytest.raises(StatisticsError, match="corpus text 1: expected a text, found None"):
        Corpus.of(["a", None])  # type: ignore[list-item]
    with pytest.raises(StatisticsError, match="no text in it"):
        gather(decoder_of("llama"), Corpus.of([]), [1])


@pytest.mark.parametrize("sizes", [{"tokens": -1}, {"max_length": 0}, {"max_length": -3}])
def test_sizes_of_a_sample_that_would_drop_text_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(StatisticsError, match=r"expected 0 \(all\) or more, and at least 1"):
        gather(decoder_of("llama"), Corpus.of(tiny_corpus()), [1], **sizes)


def test_a_dataset_without_the_field_says_which_it_has(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"body": "no"}', encoding="utf-8")
    with pytest.raises(StatisticsError, match=r"train\[0\]: no field 'text'; its fields are 'body'"):
        list(Corpus.from_hub(str(tmp_path)).texts())


@pytest.mark.parametrize("make", [lambda d: generate_contexts(d, 0), lambda d: generate_texts(d, 2, 0)])
def test_nothing_is_sampled_from_a_model_whose_logits_are_not_finite(make: Callable[[Decoder], object]) -> None:
    decoder = decoder_of("llama")
    decoder.model.get_output_embeddings().weight.data[0] = float("nan")
    with pytest.raises(NotFinite, match="logits are not finite"):
        make(decoder)


@pytest.mark.parametrize("family", BOTH)
def test_contexts_follow_the_seed_and_hold_one_slot_and_no_specials(family: str) -> None:
    decoder = decoder_of(family)
    contexts = generate_contexts(decoder, seed=3)
    assert contexts == generate_contexts(decoder, seed=3)
    assert contexts != generate_contexts(decoder, seed=4)
    bare, sampled = contexts.groups
    assert bare == ("{}",)
    assert len(sampled) == 5
    for template in sampled:
        assert template.endswith(". {}")
        assert template.count("{") == template.count("}") == 1
        assert not any(special in template for special in tiny_tokenizer(bos=True).all_special_tokens)
    decoder.tokens.site(tiny_facts(), contexts)
