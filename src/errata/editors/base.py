"""Edit, Ledger, Outcome: what every editor returns."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar, Self

from torch import Tensor

from errata.decoder.decoder import Decoder
from errata.decoder.identity import Identity, check_base
from errata.decoder.memory import Peak
from errata.delta import WeightDelta, write_tensors
from errata.description import description
from errata.editors.collisions import CollidingEdits, check_together, collision, joined_keys, joined_manifest
from errata.editors.folder import (
    ANCHORS,
    CARD,
    DELTA,
    KEYS,
    anchors_at,
    card,
    check_widths,
    edit_folder,
    facts_in,
    matrices_by_layer,
    read_manifest,
)
from errata.editors.guard import Health
from errata.editors.schedule import AT_ONCE, Schedule
from errata.editors.supplies import Supplies
from errata.errors import StoreError, WrongEdit
from errata.fact import Fact
from errata.files import write_text
from errata.record.path import EditPath, path_of
from errata.record.verdict import Verdict
from errata.targets import Targets


@dataclass(frozen=True)
class LedgerRow:
    """One step of a sweep. Residuals are means over facts of |z - h| now over |z - h| at first (method 6.2)."""

    batch: int
    edit: int
    read: int
    share: float
    remaining: dict[int, float]
    """Layer -> what is left of the way to its target after this step, for every layer that has a target."""
    update_norm: float
    weight_norm: float
    solve_residual: float
    rank: int | None
    seconds: float
    rounding: float = 0.0
    """What rounding the weights to the model's precision changes of the keys' outputs, in norms of what dW changes."""
    swallowed: float | None = None
    """What a norm behind the down-projection keeps back of the residual, in norms of it (method 1.9)."""


@dataclass
class Ledger:
    """What an edit did and what it cost: a row per step, seconds per stage, things worth knowing."""

    rows: list[LedgerRow] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    """Of editors that train: the mean loss of each epoch, or of each fact where facts are learnt one by one."""
    health: list[Health] = field(default_factory=list)
    """Of runs in batches under a guard: the model after each batch."""
    anchor_nll: dict[int, list[float]] = field(default_factory=dict)
    """Layer -> of each fact the NLL of its target at which the search for its anchor there ended, in nats."""
    anchors: dict[int, dict[str, float]] = field(default_factory=dict)
    """Layer -> mean loss, NLL, KL, evaluations of the anchors optimised there, and how many were already stored."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds spent inside to a stage."""
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + perf_counter() - start

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Ledger:
        """The inverse of `to_json`, also of what JSON made of it."""

        def by_layer(values: Mapping[Any, Any]) -> dict[int, Any]:
            return {int(layer): value for layer, value in values.items()}

        rows = [LedgerRow(**{**one, "remaining": by_layer(one["remaining"])}) for one in row["rows"]]
        anchors = {name: by_layer(row.get(name, {})) for name in ("anchors", "anchor_nll")}
        health = [Health(**{**one, "growth": by_layer(one["growth"])}) for one in row["health"]]
        return cls(**{**row, "rows": rows, "health": health, **anchors})


class Edit(ABC):
    """A change of belief as a value: it can be put on a decoder, taken off, saved and loaded."""

    manifest: dict[str, Any]
    """What made it: model, method, settings, facts, versions."""

    @property
    def facts(self) -> list[Fact]:
        return facts_in(self.manifest)

    @abstractmethod
    def fitted_to(self, decoder: Decoder) -> Self:
        """The same edit, naming the decoder as its base. Raises WrongModel, saying what differs, if it is not."""

    def base_on(self, decoder: Decoder, fingerprint: str) -> str:
        """The fingerprint of the decoder if this edit was made for it, or for it in another precision; else its own."""
        here = decoder.identify()
        if fingerprint == here.base or "identity" not in self.manifest:
            return fingerprint
        made_for = Identity.from_json(self.manifest["identity"])
        check_base(made_for, decoder.described(), decoder.name)
        return here.base if made_for.base == fingerprint else fingerprint

    @abstractmethod
    def put_on(self, decoder: Decoder) -> None:
        """Edit the decoder, which keeps the edits that are on it. Raises, before anything changes, WrongModel if it is
        not the edit's base, AlreadyEdited if the edit is on it or does not go together with what is.
        """

    @abstractmethod
    def take_off(self, decoder: Decoder) -> None:
        """Leave the decoder with its other edits; after the last one exactly as it was loaded. Raises NotPutOn."""

    @abstractmethod
    def save(self, folder: str | Path, ledgers: Mapping[str, Any] | None = None) -> None:
        """Write the edit to a folder, in full or not at all. Raises StoreError.

        `ledgers`: by method, what `Ledger.to_json` gives, written to `ledger.json` with it.
        """


@dataclass(frozen=True)
class WeightEdit(Edit):
    """An edit that is a change of weights, with a manifest of what made it."""

    delta: WeightDelta
    manifest: dict[str, Any] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    """Layer -> keys [fact, inner] of all facts edited so far: what a later edit needs in order to go on from here."""
    anchors: dict[str, Tensor] = field(default_factory=dict)
    """The anchors it was made with: what is needed to make it again without some of its facts."""

    def fitted_to(self, decoder: Decoder) -> WeightEdit:
        base = self.base_on(decoder, self.delta.fingerprint)
        return self if base == self.delta.fingerprint else replace(self, delta=WeightDelta(base, self.delta.changes))

    def __add__(self, other: Edit) -> WeightEdit:
        return combine(self, other)

    def put_on(self, decoder: Decoder) -> None:
        decoder.put_on(self.fitted_to(decoder).delta)

    def take_off(self, decoder: Decoder) -> None:
        decoder.take_off(self.delta)

    def save(self, folder: str | Path, ledgers: Mapping[str, Any] | None = None) -> None:
        """`edit.safetensors` (float32), keys and anchors, `manifest.json` and a readable `README.md`."""
        with edit_folder(folder, self.manifest, ledgers) as made:
            self.delta.save(made / DELTA)
            write_tensors(made / KEYS, {str(layer): keys for layer, keys in self.keys.items()}, {"kind": "errata.keys"})
            if self.anchors:
                write_tensors(made / ANCHORS, self.anchors, {"kind": "errata.anchors"})
            write_text(made / CARD, card(self.manifest, self.facts, self.delta.fingerprint))

    @classmethod
    def load(cls, folder: str | Path) -> WeightEdit:
        """Read what `save` wrote. Raises StoreError."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        facts = facts_in(manifest, folder)
        keys = matrices_by_layer(folder / KEYS, rows=len(facts))
        delta, anchors = WeightDelta.load(folder / DELTA), anchors_at(folder / ANCHORS)
        try:
            check_widths(delta.changes, keys, anchors)
        except StoreError as error:
            raise StoreError(f"{folder}: the edit is damaged: {error}") from None
        return cls(delta, manifest, keys, anchors)


def combine(first: Edit, *others: Edit) -> WeightEdit:
    """All the edits as one, which can be put on, saved and gone on from: the sum of their changes.

    That is not what editing all facts together gives: none of the edits knew of the others' facts. Where a key of one
    is nearly a key of another, a CollidingEdits warning and a note in the manifest say so.

    Raises WrongEdit for a side memory or a fact that two of them hold, WrongModel for edits of different bases.
    """
    every = [edit for edit in (first, *others) if isinstance(edit, WeightEdit)]
    if len(every) <= len(others):
        raise WrongEdit("a side memory stands alone and cannot be combined; only changes of weights can.")
    check_together([edit.facts for edit in every])
    pairs = [(one, other) for i, other in enumerate(every) for one in every[:i]]
    seen = [collision(one.keys, other.keys, (one.facts, other.facts)) for one, other in pairs]
    notes = [note for note in seen if note]
    for note in notes:
        warnings.warn(note, CollidingEdits, stacklevel=2)
    total = every[0].delta
    for edit in every[1:]:
        total += edit.delta
    manifest = joined_manifest([edit.manifest for edit in every], notes)
    return WeightEdit(total, manifest, joined_keys([edit.keys for edit in every]))


@dataclass(frozen=True)
class Outcome:
    """An edit that is on its decoder now, and the ledger of how it came about."""

    edit: Edit
    ledger: Ledger
    decoder: Decoder
    facts: Sequence[Fact]
    targets: Targets = field(default_factory=dict)
    """Of locate-then-edit, layer -> the states [fact, model] that the facts were to reach, as the sweep used them."""
    judge: Callable[..., Verdict] | None = field(default=None, repr=False, compare=False)
    """Who asks the edited model whether the edit is good; an Editor's outcomes have one."""

    def verdict(self, cases: Sequence[Any] = (), neighbours: Sequence[str] = (), wanted: int = 0) -> Verdict:
        """Whether the edit, which is on its model, is good: in numbers, and as `str()` in one line.

        `cases`: whose paraphrases and neighbourhood prompts are asked. `neighbours`: other prompts whose answers should
        not change, in place of the cases'. Without any, prompts that errata writes. `wanted`: see Verdict.
        """
        if self.judge is None:
            raise WrongEdit("the outcome of a pipeline alone has nobody to judge it; edit with an Editor")
        return self.judge(self, cases, neighbours, wanted)

    @property
    def path(self) -> EditPath | None:
        """The points between which this edit was chosen; None if it was made at given settings."""
        return path_of(self.edit.manifest)

    def restore(self) -> None:
        """Take this edit off; if no other is on, the model is bit for bit as it was loaded. Raises NotPutOn."""
        self.edit.take_off(self.decoder)

    def answers(
        self, facts: Sequence[Fact] | None = None, n_tokens: int = 8, spaces: bool = False
    ) -> list[tuple[Fact, str, str]]:
        """(fact, what the unedited model says, what the edited one says), greedily up to where it stops, for each fact.

        `spaces`: with outer white space, as the texts continue the prompt.
        """
        chosen = list(self.facts if facts is None else facts)
        rows = [self.decoder.token_ids(fact.text, fact.form) for fact in chosen]
        after = self.decoder.generate(rows, n_tokens, self.decoder.ends)
        with self.decoder.unedited():
            before = self.decoder.generate(rows, n_tokens, self.decoder.ends)
        texts = [[self.decoder.decode(ids) for ids in said] for said in (before, after)]
        told = texts if spaces else [[text.strip() for text in one] for one in texts]
        return list(zip(chosen, *told, strict=True))


class Pipeline(ABC):
    """A way to make a model believe facts, with all its settings. A frozen dataclass."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Which supplies it asks for: "contexts", "statistics", "practice"."""

    shared: ClassVar[bool] = False
    """Whether the ranks of a fleet share its work. If not, the leading one does it and the others take its edit."""

    @property
    @abstractmethod
    def edited(self) -> list[int]:
        """The layers that change."""

    @abstractmethod
    def edit(
        self, facts: Sequence[Fact], supplies: Supplies, schedule: Schedule = AT_ONCE, past: Edit | None = None
    ) -> Outcome:
        """Edit the model that the supplies are for, going on from `past` if given.

        On any failure or interrupt it is left as it was. The outcome's edit has no manifest yet. A run that was
        killed goes on from what the store keeps of it, to the very same weights.
        """

    @abstractmethod
    def memory(self, decoder: Decoder, facts: int, free: int | None = None) -> dict[str, Peak]:
        """Stage -> what it holds at most beside the model when so many facts are edited at once.

        Stages come one after another, so the largest counts, not the sum. Passes are made as large as the memory
        allows: `free` is what the model's device has left, None to ask the device.
        """

    def describe(self) -> dict[str, Any]:
        """All settings, in words or JSON types."""
        return {"editor": description(self), "window": self.edited}


def weights_of(past: Edit | None, who: str) -> WeightEdit | None:
    """The edit to go on from, as a change of weights. Raises WrongEdit if it is another kind."""
    if past is not None and not isinstance(past, WeightEdit):
        raise WrongEdit(
            f"{who} goes on from changes of weights only; the earlier edit is a {type(past).__name__}. "
            "Nothing was changed. Edit all facts in one run, or start from the unedited model."
        )
    return past
