"""What the soak of the command line runs: verbs, what each of them writes, and how whole that is."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.anchors import Shape, decoder_for, made_up_facts
from errata import load_edit
from errata.errors import ErrataError
from errata.files import recover

SIZES = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
TINY = Shape("llama", "num_hidden_layers", True, SIZES | {"vocab_size": 4000, "max_position_embeddings": 128})
FACTS, BATCH = 16, 2
RECIPE = """\
name: soak
window: [1, 2, 3]
anchor: {steps: 5, learning_rate: 0.3}
solvers: {least_squares: {weight: 1.0, ridge: 0.01}}
statistics: {tokens: 2000}
"""
ABSENT = "absent"

Value = str | dict[str, Tensor]
"""What a verb wrote, as tensors or as text; that it is absent, or what is wrong with it."""
State = dict[str, Value]


# -- what verbs write ------------------------------------------------------------------------------------------


def edit_at(folder: Path) -> Value:
    """The changes of a saved edit; it must be whole."""
    recover(folder)
    if not folder.exists():
        return ABSENT
    try:
        load_edit(folder)
        return load_file(folder / "edit.safetensors")
    except ErrataError as error:
        return f"{type(error).__name__}: {error}"


def changes_at(folder: Path) -> Value:
    """What a checkpoint's weights differ by from the model's; it must be complete."""
    recover(folder)
    if not folder.exists():
        return ABSENT
    base, edited = (load_file(place / "model.safetensors") for place in (folder.parent / "model", folder))
    files = [sorted(path.name for path in place.iterdir()) for place in (folder.parent / "model", folder)]
    if files[0] != files[1] or base.keys() != edited.keys():
        return f"incomplete: {files[1]}"
    return {name: edited[name] - base[name] for name in base}


def scores_at(path: Path) -> Value:
    try:
        return json.dumps(json.loads(path.read_text())["scores"]) if path.exists() else ABSENT
    except (ValueError, KeyError) as error:
        return repr(error)


def page_at(path: Path) -> Value:
    if not path.exists():
        return ABSENT
    return "a whole page" if path.read_text().rstrip().endswith("</html>") else "part of a page"


def away(value: Value, expected: Value) -> float:
    """Relative difference of tensors, the largest of all; 0 or infinity for what is no tensors."""
    if isinstance(value, str) or isinstance(expected, str) or value.keys() != expected.keys():
        return 0.0 if isinstance(value, str) and value == expected else inf
    pairs = [(value[name], expected[name]) for name in value if not torch.equal(value[name], expected[name])]
    return max((float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs), default=0.0)


# -- verbs -----------------------------------------------------------------------------------------------------


OPTIONS = ("--no-guard", "--require", "0", "--recipe", "recipe.yaml", "--corpus", "corpus.txt")


def edit(facts: str, output: str, *more: str) -> tuple[str, ...]:
    return ("edit", "model", f"{facts}.jsonl", "-o", output, "--batch", str(BATCH), *OPTIONS, *more)


@dataclass(frozen=True)
class Verb:
    """A command to kill. `before`: commands that have been run when it starts. `writes`: what may change, and how.

    `then`: run in peace afterwards, where the command itself writes nothing that can be compared.
    """

    words: Sequence[str]
    writes: dict[str, Callable[[Path], Value]]
    before: Sequence[Sequence[str]] = ()
    then: Sequence[str] = ()

    @property
    def resumes(self) -> bool:
        return self.words[0] == "edit"


EVALUATE = ("evaluate", "model", "facts.jsonl", "--edit", "edit", "--probes", "belief", "-o", "scores.json")
VERBS = {
    "save": Verb(edit("facts", "edit"), {"edit": edit_at}),
    "checkpoint": Verb(edit("facts", "edit", "--checkpoint", "whole"), {"edit": edit_at, "whole": changes_at}),
    "replace": Verb(edit("facts", "edit"), {"edit": edit_at}, [edit("others", "edit")]),
    "past": Verb(
        edit("facts", "edit", "--past", "first"),
        {"edit": edit_at, "first": edit_at},
        [edit("others", "first")],
    ),
    "drop": Verb(
        ("edit", "model", "-o", "edit", "--past", "first", "--drop", "0,3", *OPTIONS),
        {"edit": edit_at, "first": edit_at},
        [edit("others", "first")],
    ),
    "evaluate": Verb(EVALUATE, {"scores.json": scores_at, "edit": edit_at}, [edit("facts", "edit")]),
    "report": Verb(
        ("report", "scores.json", "-o", "page.html"),
        {"page.html": page_at, "scores.json": scores_at},
        [edit("facts", "edit"), EVALUATE],
    ),
    "prune": Verb(
        ("store", "prune", "--store", "store", "--max-size", "1KB", "--yes"),
        {"edit": edit_at},
        [edit("facts", "edit")],
        edit("facts", "edit"),
    ),
}


def new_place(root: Path) -> None:
    """A model, facts, a recipe and a corpus: what is never written."""
    facts = made_up_facts(2 * FACTS)
    decoder = decoder_for(TINY, 5, facts, torch.float32)
    decoder.model.save_pretrained(root / "model")
    decoder.tokenizer.save_pretrained(root / "model")
    for name, some in {"facts": facts[:FACTS], "others": facts[FACTS:]}.items():
        lines = [json.dumps({"prompt": f.prompt, "subject": f.subject, "target_new": f.target_new}) for f in some]
        (root / f"{name}.jsonl").write_text("\n".join(lines))
    (root / "recipe.yaml").write_text(RECIPE)
    (root / "corpus.txt").write_text("\n".join(f"{fact.text} {fact.target_new}." for fact in facts))


def state_of(verb: Verb, root: Path) -> State:
    return {name: look(root / name) for name, look in verb.writes.items()}
