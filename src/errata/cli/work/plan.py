"""What an edit would do, told before anything is done: doctor's findings and the plan of a dry run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from errata.decoder.decoder import Decoder
from errata.decoder.memory import Peak, free_memory
from errata.decoder.site import Site
from errata.editor import Editor
from errata.editors.locate_then_edit import LocateThenEdit
from errata.errors import UnsupportedModel
from errata.fact import Fact, check_facts
from errata.recipe import Recipe


def told_layers(layers: Sequence[int]) -> str:
    """3, 4, 5 as '3-5'; with gaps as '3, 5'."""
    if len(layers) > 1 and list(layers) == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))


def findings(decoder: Decoder, recipe: Recipe) -> list[tuple[str, object]]:
    """The structure of a model, and the window proposed for it."""
    layout = decoder.layout
    how = "discovered by structure, not known: check it" if layout.guessed else "known family"
    source = "proposed: no recipe lists this model" if recipe.proposed else f"recipe {recipe.name!r}"
    transposed = "Conv1D, transposed" if type(decoder.down_projection(0)).__name__ == "Conv1D" else "Linear"
    return [
        ("model", f"{decoder.name} ({decoder.model.config.model_type}, {how})"),
        *([("weights", f"{decoder.origin['format']} from {decoder.origin['types']}")] if decoder.origin else []),
        ("blocks", f"{decoder.depth} at {layout.blocks}"),
        ("down-projection", f"{layout.down_projection} ({transposed}), {decoder.inner(0)} -> {decoder.width}"),
        ("MLP output", _reaching(decoder, recipe.window)),
        ("final norm, head", f"{layout.final_norm}, {layout.head}"),
        ("dtype, device", f"{str(decoder.dtype).removeprefix('torch.')}, {decoder.device}"),
        ("tokenizer", f"{type(decoder.tokenizer).__name__}, {_leading(decoder)}"),
        ("fingerprint", decoder.fingerprint),
        ("window", f"{told_layers(recipe.window)} ({source})"),
        *([("note", layout.note)] if layout.note else []),
    ]


def _reaching(decoder: Decoder, layers: Sequence[int]) -> str:
    """How the outputs of the layers to be edited reach the stream, measured."""
    try:
        told = {layer: str(reach) for layer, reach in decoder.reach(layers).items()}
    except UnsupportedModel as error:
        return str(error)
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return "; ".join(f"layer {layer}: {text}" for layer, text in told.items())


def _leading(decoder: Decoder) -> str:
    count = len(decoder.token_ids("a")) - len(decoder.tokenizer("a", add_special_tokens=False)["input_ids"])
    return f"puts {count} special token in front" if count else "puts no BOS in front"


def costs(editor: Editor, facts: int) -> list[tuple[str, object]]:
    """Memory that the edit needs in addition to the model, and whether statistics or practice cases are at hand."""
    decoder, pipeline = editor.decoder, editor.pipeline
    told = memory(decoder, pipeline.memory(decoder, facts))
    if "statistics" in pipeline.needs:
        layers = sorted(set(pipeline.edited))
        source = editor.supplies.source(layers)
        stored = list(editor.supplies.stored_statistics(layers)) == layers
        told.append(
            (
                "statistics",
                f"stored for layers {told_layers(layers)}, of {source}" if stored else f"to be gathered from {source}",
            )
        )
        if source.note:
            told.append(("note", source.note))
    if "practice" in pipeline.needs:
        told.append(("practice", "cases to train on: give them with --practice"))
    return told


def memory(decoder: Decoder, peaks: Mapping[str, Peak]) -> list[tuple[str, object]]:
    """The peak memory of each stage in addition to the model, and whether that fits."""
    device, main = decoder.device, torch.device("cpu")
    weights = sum(p.numel() * p.element_size() for p in decoder.model.parameters())
    told: list[tuple[str, object]] = [("memory", f"{size_of(weights)} for the model; in addition, at most")]
    told += [(f"  {stage}", _places(peak, device)) for stage, peak in peaks.items()]
    tight = [stage for stage, peak in peaks.items() if not peak.fits(device)]
    free = f"{size_of(free_memory(device))} on {device}"
    if device != main:
        free += f", {size_of(free_memory(main))} in main memory"
    verdict = f"no: {', '.join(tight)} would not fit" if tight else "yes: the stages run one after another"
    return [*told, ("free memory", free), ("fits", verdict)]


def _places(peak: Peak, device: torch.device) -> str:
    if device.type == "cpu":
        return size_of(peak.device + peak.host)
    return f"{size_of(peak.device)} on {device}" + f", {size_of(peak.host)} in main memory" * bool(peak.host)


def plan(editor: Editor, facts: Sequence[Fact]) -> list[tuple[str, object]]:
    """What editing these facts would do. Raises UnusableFacts and UnsupportedModel as the edit itself would."""
    check_facts(facts)
    pipeline = editor.pipeline
    told: list[tuple[str, object]] = [("method", f"{editor.method}, changes layers {told_layers(pipeline.edited)}")]
    if isinstance(pipeline, LocateThenEdit):
        site = editor.decoder.tokens.site(facts, editor.supplies.contexts)
        pipeline.reach(editor.decoder)
        told += [
            ("facts", f"{len(facts)}, all located; {len(site.at_start)} with the decisive token at position 0"),
            *_peculiar(site),
            ("anchors", f"at {told_layers(pipeline.construction.anchored(pipeline.window))}, on the unedited model"),
        ]
        for i, s in enumerate(pipeline.steps, 1):
            anew = ", anchor anew" if s.anew else ""
            told.append((f"step {i}", f"layer {s.edit}: {s.share:.2f} of the residual at {s.read}{anew}"))
    else:
        told += [("facts", len(facts)), ("settings", pipeline)]
    return [*told, *costs(editor, len(facts))]


def _peculiar(site: Site) -> list[tuple[str, object]]:
    """Facts that share a key, and those whose subject ends within a token."""
    told: list[tuple[str, object]] = []
    for stem in site.stems:
        if len(stem) > 1:
            texts = ", ".join(f"{i} {site.facts[i].text!r}" for i in stem)
            told.append(("one key", f"facts {texts}: all alike up to the subject's end, so they get one joint anchor"))
    for i in site.spanning:
        what = "the token with the subject's last character also holds what follows, and is taken for its last"
        told.append(("note", f"fact {i} {site.facts[i].text!r}: {what}"))
    return told


def size_of(n_bytes: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} GiB"
