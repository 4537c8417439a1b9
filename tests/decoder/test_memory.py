"""What an edit is said to hold at most, and where its matrices are put."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from errata import Decoder
from errata.cli.work.plan import memory
from errata.decoder.memory import Peak, free_memory, gathering_peak, place_for
from errata.methods import METHODS
from errata.methods import method as row_of
from errata.recipe import Recipe
from errata.statistics import Accumulator, triangle
from tests.editing import RECIPE, decoder_of, editor_of
from tests.models import tiny_tokenizer

GIB = 2**30
LLAMA_3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


@pytest.fixture(scope="module")
def eight() -> Decoder:
    """Described, not built."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **LLAMA_3_8B), dtype=torch.bfloat16)
    return Decoder(model, tiny_tokenizer(bos=True))


@pytest.mark.parametrize("facts", [1, 100, 2000])
@pytest.mark.parametrize("method", ["memit", "memit+fe", "blue"])
def test_editing_an_8b_model_is_predicted_to_fit_24_gib(eight: Decoder, method: str, facts: int) -> None:
    weights = sum(p.numel() * p.element_size() for p in eight.model.parameters())
    free = 24 * GIB - weights - 600 * 2**20
    pipeline = row_of(method).pipeline(Recipe("8b", (4, 5, 6, 7, 8)), eight.depth)
    peaks = pipeline.memory(eight, facts, free)
    assert max(peak.device for peak in peaks.values()) < free
    assert max(peak.host for peak in peaks.values()) < 12 * GIB


def test_what_does_not_fit_beside_the_model_goes_to_main_memory(eight: Decoder) -> None:
    pipeline = row_of("memit").pipeline(Recipe("8b", (4, 5, 6, 7, 8)), eight.depth)
    tight, roomy = (pipeline.memory(eight, 100, free * GIB)["solve"] for free in (4, 16))
    assert tight.device < 4 * GIB
    assert tight.host - roomy.host > 14336**2 * 8


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_its_stages_hold(name: str) -> None:
    decoder = decoder_of("llama")
    peaks = row_of(name).pipeline(RECIPE, decoder.depth).memory(decoder, 10)
    assert peaks
    assert all(peak.device + peak.host > 0 for peak in peaks.values())


def test_a_model_in_main_memory_has_one_memory_for_both() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("meta")
    peak = Peak(6, 5)
    assert peak.fits(cpu, 11)
    assert not peak.fits(cpu, 10)
    assert peak.fits(gpu, 6)
    assert not peak.fits(gpu, 5)


@pytest.mark.parametrize("device", ["cpu", "mps", "meta"])
def test_float64_matrices_stay_in_main_memory_where_a_device_cannot_hold_them(device: str) -> None:
    assert place_for(1, torch.device(device)) == torch.device("cpu")


def test_the_limit_of_a_container_or_batch_system_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The job's own group has no limit, the one around it has; the cache of files it holds can be had back."""
    free, job = free_memory(torch.device("cpu")), tmp_path / "groups" / "batch" / "job"
    job.mkdir(parents=True)
    for group, limit in ((job, "max"), (job.parent, str(5 * 2**20))):
        for name, text in (("max", limit), ("current", str(3 * 2**20)), ("stat", f"anon 1\ninactive_file {2**20}\n")):
            (group / f"memory.{name}").write_text(text + "\n")
    (tmp_path / "own").write_text("0::/batch/job\n")
    monkeypatch.setattr("errata.decoder.memory.GROUPS", tmp_path / "groups")
    monkeypatch.setattr("errata.decoder.memory.OWN_GROUP", tmp_path / "own")
    assert free_memory(torch.device("cpu")) == 3 * 2**20
    (job.parent / "memory.max").write_text("max\n")
    assert free_memory(torch.device("cpu")) > free // 2


def test_sums_are_reckoned_as_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("errata.statistics._STRIP", 3)
    kept = sum(strip.numel() for strip in Accumulator(10)._strips.values())
    assert kept == triangle(10) == 30 + 21 + 12 + 1
    decoder = decoder_of("llama")
    assert gathering_peak(decoder, [1, 2]) - gathering_peak(decoder, [1]) >= 8 * triangle(decoder.inner(1))


def test_doctor_says_stage_by_stage_what_is_needed_and_whether_it_fits() -> None:
    editor = editor_of(decoder_of("llama"), "memit+fe")
    told = dict(memory(editor.decoder, editor.pipeline.memory(editor.decoder, 10)))
    assert [name.strip() for name in told if name.startswith("  ")] == ["statistics", "anchors", "keys", "solve"]
    assert str(told["fits"]).startswith("yes")
    assert str(dict(memory(editor.decoder, {"solve": Peak(1 << 60)}))["fits"]).startswith("no: solve")
