"""What a model is: weights, configuration, tokenizer, layout. Whatever differs in one of them is another model."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizer, PreTrainedTokenizerFast

from errata import Decoder, Editor, Store, WeightEdit
from errata.decoder.identity import NOT_COMPUTED, Identity, RoundedBase, configuration_of, tokenizer_hash, writes
from errata.editors import anchors
from errata.errors import StoreError, WrongModel
from tests.editing import BOTH, CONTEXTS, decoder_of, editor_of
from tests.models import FAMILIES, RELATIVES, tiny_facts, tiny_tokenizer, tokenizer_of

FACTS = tiny_facts()[:3]
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "rope_theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    "rope scaling": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}),
    "norm epsilon": ("llama", {"rms_norm_eps": 1e-3}),
    "activation": ("llama", {"hidden_act": "gelu"}),
    "head counts": ("phi", {"num_attention_heads": 6, "num_key_value_heads": 6}),
    "attention scale": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "soft cap": ("gemma2", {"final_logit_softcapping": 9.0}),
    "sliding window": ("mistral", {"sliding_window": 3}),
    "order of a block": ("gpt_neox", {"use_parallel_residual": False}),
    "logit scale": ("cohere", {"logit_scale": 0.25}),
    "residual multiplier": ("granite", {"residual_multiplier": 0.25}),
}


def configured(family: str, **settings: Any) -> PreTrainedModel:
    """The family's weights under another configuration."""
    model = (FAMILIES | RELATIVES)[family]()
    config = type(model.config).from_dict(model.config.to_dict() | settings)
    other = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    other.load_state_dict(model.state_dict())
    return other


def decoder_with(family: str, **settings: Any) -> Decoder:
    return Decoder(configured(family, **settings), tokenizer_of(family))


@pytest.mark.parametrize("what", OTHERS)
def test_the_same_weights_under_another_configuration_are_another_model(what: str) -> None:
    family, settings = OTHERS[what]
    one, other = decoder_with(family).identity, decoder_with(family, **settings).identity
    assert one.weights == other.weights
    assert one.key["configuration"] != other.key["configuration"]
    assert one.base != other.base


@pytest.mark.parametrize("family", BOTH)
def test_names_paths_caches_and_dropout_make_no_other_model(family: str) -> None:
    plain = decoder_with(family).identity
    same = {"use_cache": False, "name_or_path": "elsewhere", "attention_dropout": 0.5, "resid_pdrop": 0.9}
    same |= {"initializer_range": 0.9, "transformers_version": "9.9", "architectures": ["X"], "eos_token_id": 3}
    assert decoder_with(family, **same).identity == plain


def test_a_setting_nobody_knows_counts_unless_it_is_off() -> None:
    config = FAMILIES["llama"]().config
    plain = configuration_of(config)
    config.invented = None
    assert configuration_of(config) == plain
    config.invented = 3
    assert configuration_of(config) == plain | {"invented": 3}
    assert not NOT_COMPUTED & {"rope_parameters", "rope_theta", "rms_norm_eps", "hidden_act", "sliding_window"}


def test_statistics_of_another_configuration_are_not_taken_over(tmp_path: Path) -> None:
    store, moments = Store(tmp_path), []
    for settings in ({}, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}):
        moments.append(editor_of(decoder_with("llama", **settings), "memit", store=store).statistics()[2].moment)
    assert not moments[0].allclose(moments[1])
    assert len(list(tmp_path.glob("*/statistics/*"))) == 2 * 3


def test_an_edit_is_refused_by_another_configuration_and_the_setting_is_named(tmp_path: Path) -> None:
    editor_of(decoder_with("llama"), "memit").edit(FACTS).edit.save(tmp_path / "edit")
    other = decoder_with("llama", rope_parameters={"rope_type": "default", "rope_theta": 500.0}, rms_norm_eps=1e-3)
    before = deepcopy(other.model.state_dict())
    edit = WeightEdit.load(tmp_path / "edit")
    with pytest.raises(WrongModel, match=r"rms_norm_eps is 0.001, .*rope_theta is 500.0, expected 10000.0.* Nothing"):
        edit.put_on(other)
    with pytest.raises(WrongModel, match=r"rope_theta is 500.0, expected 10000.0"):
        editor_of(other, "memit").edit(FACTS, past=edit)
    with pytest.raises(WrongModel, match="the same weights in another configuration"):
        other.put_on(edit.delta)
    assert all(torch.equal(before[name], value) for name, value in other.model.state_dict().items())


def test_a_tokenizer_that_reads_other_ids_has_another_hash_and_padding_none() -> None:
    plain = tiny_tokenizer(bos=False)
    assert tokenizer_hash(tiny_tokenizer(bos=True)) != tokenizer_hash(plain)
    padded = deepcopy(tiny_tokenizer(bos=False, pad=True))
    unpadded = tokenizer_hash(padded)
    padded(["a b c", "a"], truncation=True, max_length=2, padding=True)
    assert tokenizer_hash(padded) == unpadded
    grown = deepcopy(plain)
    grown.add_tokens(["Velmish"])
    assert tokenizer_hash(grown) != tokenizer_hash(plain)


class Words(PreTrainedTokenizer):
    """A tokenizer without a backend: its vocabulary is a list of words."""

    def __init__(self, words: str, lower: bool = False, **options: Any) -> None:
        self.ids = {word: i for i, word in enumerate(words.split())}
        super().__init__(lower=lower, **options)

    @property
    def vocab_size(self) -> int:
        return len(self.ids)

    def get_vocab(self) -> dict[str, int]:
        return self.ids | self.added_tokens_encoder

    def _tokenize(self, text: str) -> list[str]:
        return text.split()

    def _convert_token_to_id(self, token: str) -> int:
        return self.ids[token]


def test_a_tokenizer_without_a_backend_is_told_by_vocabulary_class_settings_and_specials() -> None:
    class Others(Words):
        pass

    plain = Words("one two")
    others = [Words("two one"), Words("one two", lower=True), Words("one two", bos_token="one"), Others("one two")]
    assert tokenizer_hash(Words("one two")) == tokenizer_hash(plain)
    assert len({tokenizer_hash(each) for each in (plain, *others)}) == 5


def swapped(tokenizer: Any) -> Any:
    """The same vocabulary with the ids of two frequent words exchanged."""
    text = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = text["model"]["vocab"]
    one, other = "Ġis", "Ġof"
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(text)), bos_token=tokenizer.bos_token, eos_token="<|endoftext|>"
    )


def test_statistics_and_anchors_of_another_tokenizer_are_not_taken_over(tmp_path: Path) -> None:
    store, ledgers = Store(tmp_path), []
    for tokenizer in (tokenizer_of("llama"), swapped(tokenizer_of("llama")), tokenizer_of("llama")):
        outcome = editor_of(Decoder(FAMILIES["llama"](), tokenizer), "memit", store=store).edit(FACTS)
        ledgers.append(outcome.ledger)
    assert [ledger.anchors[3]["stored"] for ledger in ledgers] == [0, 0, 3]
    assert len(list(tmp_path.glob("*/statistics/*"))) == 2 * 3


def test_an_anchor_is_named_by_the_tokens_of_its_fact() -> None:
    site = decoder_of("llama").tokens.site(FACTS, CONTEXTS)
    place = site.places[0]
    others = [replace(place, target=(*place.target, 1)), replace(place, essence=place.prompts[0])]
    others.append(replace(place, prompts=place.prompts[::-1]))
    names = {anchors.place_name(FACTS[0], p) for p in (place, *others)} | {anchors.place_name(FACTS[1], place)}
    assert len(names) == 5


def trained(editor: Editor) -> None:
    """One step of an optimiser on a matrix that no edit touches."""
    parameter = editor.decoder.model.get_parameter(editor.decoder.parameter_name(0))
    with torch.no_grad():
        parameter.add_(0.05 * torch.randn_like(parameter))


def trained_unseen(editor: Editor) -> None:
    editor.decoder.model.get_parameter(editor.decoder.parameter_name(0)).data.mul_(1.1)


@pytest.mark.parametrize("train", [trained, trained_unseen])
def test_a_model_trained_on_between_two_edits_is_another_base(train: Any, tmp_path: Path) -> None:
    editor = editor_of(decoder_of("llama"), "memit", store=Store(tmp_path))
    first = editor.edit(FACTS)
    first.restore()
    train(editor)
    second = editor.edit(FACTS)
    assert [o.ledger.anchors[3]["stored"] for o in (first, second)] == [0, 0]
    assert first.edit.manifest["identity"]["weights"] != second.edit.manifest["identity"]["weights"]
    second.restore()
    with pytest.raises(WrongModel, match="made for weights"):
        first.edit.put_on(editor.decoder)
    second.edit.put_on(editor.decoder)


def test_an_edit_of_ours_is_no_training() -> None:
    decoder = decoder_of("llama")
    before, stamp = decoder.identity, writes(decoder.model)
    outcome = editor_of(decoder, "memit").edit(FACTS)
    assert (writes(decoder.model), decoder.identify()) == (stamp, before)
    outcome.restore()
    assert (writes(decoder.model), decoder.identify()) == (stamp, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_an_edit_is_put_on_its_base_in_another_precision_and_the_rounding_is_told(dtype: torch.dtype) -> None:
    wide = FAMILIES["llama"]().float()
    narrow = deepcopy(wide).to(dtype)
    edits = []
    for model in (wide, narrow):
        outcome = editor_of(Decoder(deepcopy(model), tokenizer_of("llama")), "memit").edit(FACTS)
        outcome.restore()
        edits.append(outcome.edit)
    for edit, model in zip(edits, (narrow, wide), strict=True):
        decoder = Decoder(deepcopy(model), tokenizer_of("llama"))
        before = decoder.weight(2).clone()
        with pytest.warns(RoundedBase, match=f"is loaded in {str(model.dtype).removeprefix('torch.')}.* but for round"):
            edit.put_on(decoder)
        assert not torch.equal(decoder.weight(2), before)
        edit.take_off(decoder)
        assert torch.equal(decoder.weight(2), before)
    other = Decoder(deepcopy(narrow), tokenizer_of("llama"))
    other.down_projection(0).weight.data.add_(0.1)
    with pytest.raises(WrongModel, match=r"was made in float32, the model is loaded in .*: load it in the same"):
        edits[0].put_on(other)


def test_a_description_of_a_base_survives_json_and_a_broken_one_is_refused() -> None:
    identity = decoder_of("llama").described()
    assert Identity.from_json(json.loads(json.dumps(identity.to_json()))) == identity
    assert set(identity.rounded) == {"bfloat16", "float16"}
    with pytest.raises(StoreError, match="weights is missing"):
        Identity.from_json({"configuration": {}})
