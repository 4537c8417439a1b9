"""Form: a way to write an edit for other programs. What the table of forms is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from errata.dataset import Case
from errata.decoder.decoder import Decoder
from errata.decoder.identity import Identity, differences
from errata.delta import WeightDelta
from errata.editors.base import Edit, WeightEdit
from errata.errors import WrongEdit
from errata.evaluate import Accuracy, evaluate
from errata.fact import Fact


@dataclass(frozen=True)
class Written:
    """What was written: names and values to show, notes, and whether it keeps all that was asked for."""

    lines: Sequence[tuple[str, object]]
    notes: Sequence[str] = ()
    complete: bool = True


class Form(ABC):
    """A form of an edit. A frozen dataclass: its fields are the options of `errata export` that it takes."""

    summary: ClassVar[str]
    """What it is and who reads it, in one line."""

    @abstractmethod
    def check(self, base: str, output: Path) -> None:
        """Raises, before a model is loaded, what is known to be wrong already.

        `base`: the model's name or file; `output`: the file or folder to be written.
        """

    @abstractmethod
    def write(self, edit: WeightEdit, decoder: Decoder, output: Path) -> Written:
        """Write it, in full or not at all. The decoder is the unedited base, and is so again afterwards.

        Raises WrongModel if the edit was made for another base, StoreError if it cannot be written.
        """


def change_of_weights(edit: Edit, form: str) -> WeightEdit:
    """The edit as a change of weights. Raises WrongEdit for one that is none, such as WISE's side memory."""
    if isinstance(edit, WeightEdit):
        return edit
    raise WrongEdit(
        f"this edit is a {type(edit).__name__}: it decides for each prompt which of two matrices to use, which "
        f"{form!r} cannot hold. Nothing was written. Use it from Python, or edit with a method that changes weights."
    )


def base_of(edit: Edit, named: str | None) -> str:
    """The base that was named, or the one in the edit's manifest. Raises WrongEdit if there is neither."""
    model = named or edit.manifest.get("model")
    if not isinstance(model, str) or not model:
        raise WrongEdit("this edit does not say which model it was made for; name it with --base MODEL.")
    return model


def fitted(edit: WeightEdit, decoder: Decoder) -> tuple[WeightEdit, list[str]]:
    """The edit for this base, and what else differs where the weights are the same. Raises WrongModel, NotFinite."""
    here, notes = decoder.identify(), []
    if "identity" in edit.manifest:
        made_for = Identity.from_json(edit.manifest["identity"])
        if made_for.tokenizer != here.tokenizer:
            notes.append("the edit was made with another tokenizer than the base has here")
        if made_for.weights == here.weights:
            if other := list(differences(made_for.configuration, here.configuration)):
                notes.append(f"the edit was made for these weights in another configuration: {'; '.join(other)}")
            edit = replace(edit, delta=WeightDelta(here.base, edit.delta.changes))
    edit = edit.fitted_to(decoder)
    decoder.check_fits(edit.delta)
    return edit, notes


@contextmanager
def changed(decoder: Decoder, delta: WeightDelta) -> Iterator[None]:
    """Inside, the decoder carries a change."""
    decoder.put_on(delta)
    try:
        yield
    finally:
        decoder.take_off(delta)


def held_by(decoder: Decoder, facts: Sequence[Fact]) -> frozenset[Fact]:
    """The facts that the model says as it is now: every token of the target is its first choice (evaluation 1.1)."""
    if not facts:
        return frozenset()
    cases = [Case(fact, str(number)) for number, fact in enumerate(facts)]
    score = evaluate(decoder, cases, (Accuracy("efficacy"),))["efficacy_accuracy"]
    return frozenset(fact for fact, share in zip(facts, score.per_case, strict=True) if share == 1)


def residual(edit: WeightEdit, decoder: Decoder, errors: Mapping[str, Tensor]) -> float | None:
    """|E K| / |dW K| (Frobenius) over the edit's keys K; None without keys. `errors`: parameter -> E [model, inner]."""
    layers = {decoder.parameter_name(layer): keys.double().cpu() for layer, keys in edit.keys.items()}
    known = [name for name in errors if name in layers]
    lost = sum(float((layers[name] @ errors[name].double().cpu().T).square().sum()) for name in known)
    moved = sum(float((layers[name] @ edit.delta.changes[name].double().cpu().T).square().sum()) for name in known)
    return (lost / moved) ** 0.5 if moved else None
