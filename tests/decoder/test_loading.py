"""Models and tokenizers as users give them: honoured, unwrapped, or refused in one line before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from errata import Decoder, Editor, Fact
from errata.decoder import loading
from errata.delta import WeightDelta
from errata.errors import ErrataError, ModelError, RowTooLong, UnknownName, UnsupportedModel
from tests.editing import decoder_of, editor_of
from tests.models import FAMILIES, HYBRIDS, RELATIVES, WITH_IMAGES, tiny_facts, tokenizer_of

FACTS = tiny_facts()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    FAMILIES["llama"](dtype=torch.float32).save_pretrained(tmp_path / "model", max_shard_size="60KB")
    tokenizer_of("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model fails the test."""

    def load(*args: object, **options: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", load)


# -- options -------------------------------------------------------------------------------------------


def test_a_tokenizer_given_with_a_path_is_the_one_that_is_used(folder: Path) -> None:
    mine = tokenizer_of("gpt2")
    assert Decoder.from_pretrained(folder, tokenizer=mine).tokenizer is mine
    assert Editor.from_pretrained(folder, "memit", tokenizer=mine).decoder.tokenizer is mine


def test_loading_options_reach_transformers(folder: Path) -> None:
    options: dict[str, Any] = {"attn_implementation": "eager", "revision": "main", "local_files_only": True}
    decoder = Editor.from_pretrained(folder, "memit", **options).decoder
    assert decoder.model.config._attn_implementation == "eager"
    moved = folder.parent / "outer"
    moved.mkdir()
    folder.rename(moved / "inner")
    assert Decoder.from_pretrained(moved, subfolder="inner").depth == 5


@pytest.mark.parametrize("face", [Decoder.from_pretrained, Editor.from_pretrained])
def test_an_unknown_option_is_refused_before_the_model_is_loaded(face: Any, folder: Path, unloaded: None) -> None:
    with pytest.raises(UnknownName, match=r"unknown loading option 'revison'. Did you mean 'revision'"):
        face(folder, revison="main")
    with pytest.raises(UnknownName, match="unknown loading option 'output_loading_info'"):
        face(folder, output_loading_info=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"device": "cuda"}, "this machine has 0 CUDA devices"),
        ({"device": "cuda:7"}, "this machine has 0 CUDA devices"),
        ({"device": "gpu"}, "device 'gpu'.*Expected cpu, cuda"),
        ({"dtype": "float"}, None),
        ({"dtype": "int8"}, "dtype 'int8': expected float32, bfloat16"),
        ({"dtype": "half-precision"}, "expected float32, bfloat16"),
    ],
)
def test_a_device_or_dtype_that_is_not_there_is_refused_before_loading(
    options: dict[str, str], words: str | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    if words is None:
        assert Decoder.from_pretrained(folder, **options).dtype == torch.float32  # type: ignore[arg-type]
        return
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", lambda *a, **o: pytest.fail("loaded"))
    with pytest.raises(ModelError, match=words):
        Decoder.from_pretrained(folder, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtype": "bfloat16"}, "the model in memory is in float64. Leave it out"),
        ({"device_map": "auto"}, "device_map: options of loading, but the model is in memory already"),
        ({"revision": "main"}, "the model is in memory already"),
    ],
)
def test_what_contradicts_a_model_in_memory_is_refused(options: dict[str, Any], words: str) -> None:
    decoder = decoder_of("llama")
    with pytest.raises(ModelError, match=words):
        Editor.from_pretrained(decoder.model, tokenizer=decoder.tokenizer, **options)
    Editor.from_pretrained(decoder.model, tokenizer=decoder.tokenizer, dtype="float64", device="cpu")


@pytest.mark.parametrize(
    ("key", "kernel"),
    [
        ("attn_implementation", "stranger/attention"),
        ("attn_implementation", "stranger/attention:fast"),
        ("attn_implementation", {"": "stranger/attention"}),
        ("_attn_implementation", "stranger/attention"),
    ],
)
def test_a_checkpoint_may_not_choose_code_from_the_hub(key: str, kernel: Any, folder: Path, unloaded: None) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: kernel}))
    with pytest.raises(ErrataError, match=r"stranger/attention.*code from the hub. Nothing was loaded"):
        Decoder.from_pretrained(folder)


def test_nor_may_an_option_without_consent(folder: Path, unloaded: None) -> None:
    with pytest.raises(ModelError, match="trust_remote_code=True if you trust it"):
        Decoder.from_pretrained(folder, attn_implementation="stranger/attention")


# -- models in memory ----------------------------------------------------------------------------------


class Adapted(nn.Module):
    """As PEFT wraps a model: the base inside, adapters described by `peft_config`."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_model, self.peft_config = base, {"default": object()}


def test_a_compiled_model_is_edited_as_the_model_inside() -> None:
    decoder = decoder_of("llama")
    wrapped = torch.compile(decoder.model, backend="eager")
    outcome = editor_of(Decoder(wrapped, decoder.tokenizer), "memit").edit(FACTS[:2])  # type: ignore[arg-type]
    assert decoder.is_edited
    outcome.restore()
    assert not decoder.is_edited


def test_a_model_compiled_in_place_is_run_as_it_is_written_and_stays_compiled() -> None:
    decoder, plain = decoder_of("llama"), decoder_of("llama")
    decoder.model.compile(backend="eager")
    compiled = decoder.model._compiled_call_impl
    outcome = editor_of(decoder, "memit").edit(FACTS[:2])
    assert outcome.answers() == editor_of(plain, "memit").edit(FACTS[:2]).answers()
    assert decoder.model._compiled_call_impl is compiled


def test_nothing_is_grafted_on_a_compiled_model_whose_own_calls_may_not_see_it() -> None:
    outside, inplace = decoder_of("llama"), decoder_of("llama")
    inplace.model.compile(backend="eager")
    wrapped = Decoder(torch.compile(outside.model, backend="eager"), outside.tokenizer)  # type: ignore[arg-type]
    for decoder in (wrapped, inplace):
        with pytest.raises(UnsupportedModel, match="its own calls may not see"):
            editor_of(decoder, "wise").edit(FACTS[:1])
        assert not decoder.is_edited


def test_wrappers_for_several_devices_are_looked_through() -> None:
    decoder = decoder_of("llama")
    assert Decoder(nn.DataParallel(decoder.model), decoder.tokenizer).model is decoder.model


@pytest.mark.parametrize("adapted", [Adapted, lambda model: (setattr(model, "peft_config", {}), model)[1]])
def test_adapters_are_refused_in_one_sentence(adapted: Callable[[nn.Module], nn.Module]) -> None:
    decoder = decoder_of("llama")
    with pytest.raises(UnsupportedModel, match=r"Call merge_and_unload\(\) first") as error:
        Editor.from_pretrained(adapted(decoder.model), tokenizer=decoder.tokenizer)
    assert len(str(error.value)) < 300


def test_what_is_no_language_model_is_refused_without_printing_it() -> None:
    with pytest.raises(UnsupportedModel, match="found a Linear; expected a causal language model") as error:
        Editor.from_pretrained(nn.Linear(3, 4), tokenizer=tokenizer_of("llama"))
    assert len(str(error.value)) < 200


def test_a_model_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(ModelError, match=r"no tokenizer was given; pass tokenizer=AutoTokenizer"):
        Editor.from_pretrained(decoder_of("llama").model)


# -- folders -------------------------------------------------------------------------------------------


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without_a_tensor(folder: Path) -> None:
    """A shard and the index that agree with each other, and lack a weight of the model."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name = "model.layers.1.mlp.up_proj.weight"
    shard = folder / index["weight_map"].pop(name)
    with safe_open(shard, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if key != name}  # noqa: SIM118
    save_file(tensors, shard, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def prefixed(folder: Path) -> None:
    """Of this tokenizer's reader, which is written in Rust, it is known that it panics."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["continuing_subword_prefix"] = "  "
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no weights": lambda f: [path.unlink() for path in [*shards(f), f / "model.safetensors.index.json"]],
    "a shard is missing": lambda f: shards(f)[1].unlink(),
    "a shard is cut short": lambda f: cut(shards(f)[1]),
    "a shard is empty": lambda f: shards(f)[0].write_bytes(b""),
    "a shard is of other bytes": lambda f: shards(f)[0].write_bytes(b"<html>not found</html>" * 20),
    "the index is cut short": lambda f: cut(f / "model.safetensors.index.json"),
    "the index is a list": lambda f: (f / "model.safetensors.index.json").write_text("[]"),
    "the index names nothing": lambda f: (f / "model.safetensors.index.json").write_text("{}"),
    "a weight is missing": without_a_tensor,
    "no configuration": lambda f: (f / "config.json").unlink(),
    "the configuration is cut short": lambda f: cut(f / "config.json"),
    "the configuration is a list": lambda f: (f / "config.json").write_text("[1, 2]"),
    "the configuration names another size": lambda f: changed(f / "config.json", intermediate_size=88),
    "the configuration holds words for numbers": lambda f: changed(f / "config.json", hidden_size="many"),
    "the configuration is of no model": lambda f: changed(f / "config.json", model_type="perceptron-1957"),
    "the heads do not divide the width": lambda f: changed(f / "config.json", num_attention_heads=0),
    "the tokenizer is cut short": lambda f: cut(f / "tokenizer.json"),
    "the tokenizer is a list": lambda f: (f / "tokenizer.json").write_text("[]"),
    "the tokenizer's longest text is a list": lambda f: changed(f / "tokenizer_config.json", model_max_length=[1]),
    "the tokenizer's vocabulary does not fit": prefixed,
    "the tokenizer's settings are cut short": lambda f: cut(f / "tokenizer_config.json"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_refused_in_one_line(name: str, folder: Path) -> None:
    assert len(shards(folder)) > 2
    DAMAGE[name](folder)
    with pytest.raises(ErrataError) as error:
        Decoder.from_pretrained(folder)
    assert len(str(error.value)) < 700
    assert "\n" not in str(error.value)


# -- texts that are too long ---------------------------------------------------------------------------


def test_a_text_with_more_tokens_than_positions_is_refused_before_it_is_run() -> None:
    decoder = decoder_of("gpt2")
    row = decoder.token_ids("Velm is a city. " * 40)
    for ask in (
        lambda: next(decoder.logits([row], [[len(row) - 1]])),
        lambda: decoder.generate([row], 1),
        lambda: decoder.generate([row[:90]], 20),
    ):
        with pytest.raises(RowTooLong, match=r"a text of \d+ tokens .* positions for at most 96"):
            ask()


@pytest.mark.parametrize("method", ["memit+fe", "ft-m", "wise"])
def test_a_fact_whose_prompt_is_too_long_is_named_with_its_tokens(method: str) -> None:
    decoder = decoder_of("llama")
    long = Fact("Velm is a city. " * 30 + "{} was born in", "Una", "Oster")
    before = {name: value.clone() for name, value in decoder.model.state_dict().items()}
    with pytest.raises(ErrataError, match=r"\d+ tokens.*positions for at most 96") as error:
        editor_of(decoder, method).edit([FACTS[0], long])
    assert "Una" in str(error.value) or "fact 1" in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in decoder.model.state_dict().items())


OTHERWISE_NAMED = {"gemma3", "mistral3"}  # transformers renames their parameters as it reads and writes them


@pytest.mark.parametrize("family", WITH_IMAGES)
def test_a_checkpoint_with_images_stays_one_and_only_the_edited_matrix_changes(family: str, tmp_path: Path) -> None:
    published = (HYBRIDS | RELATIVES)[family](dtype=torch.float32)
    published.save_pretrained(tmp_path / "published")
    tokenizer_of(family).save_pretrained(tmp_path / "published")
    decoder = Decoder.from_pretrained(tmp_path / "published")
    assert type(decoder.model) is type(published)
    name = decoder.parameter_name(1)
    change = torch.ones(decoder.width, decoder.inner(1))
    decoder.put_on(WeightDelta(decoder.fingerprint, {name: change}))
    decoder.save(tmp_path / "edited")
    before, after = (load_file(tmp_path / folder / "model.safetensors") for folder in ("published", "edited"))
    assert before.keys() == after.keys()
    (changed,) = (key for key in before if not torch.equal(before[key], after[key]))
    assert changed.endswith("language_model" + name.partition("language_model")[2]) or family in OTHERWISE_NAMED
    assert changed.endswith(name[name.index("layers") :])
    again = Decoder.from_pretrained(tmp_path / "edited")
    assert type(again.model) is type(published)
    assert torch.equal(again.weight(1), decoder.weight(1))


def test_a_token_that_the_model_has_no_embedding_of_is_refused() -> None:
    decoder = decoder_of("llama")
    known = decoder.model.get_input_embeddings().weight.shape[0]
    for read in (lambda row: list(decoder.logits([row], [[1]])), lambda row: decoder.generate([row], 2)):
        with pytest.raises(
            ModelError, match=rf"gives the token {known}, and the model has embeddings .* to {known - 1}"
        ):
            read([1, known])


def test_an_end_token_that_no_model_can_say_ends_nothing() -> None:
    decoder = decoder_of("llama")
    decoder.model.generation_config.eos_token_id = [2, 2**70]
    assert decoder.ends <= set(range(decoder.vocabulary))
