"""Weights: what one model object carries. The originals of edited matrices, the edits on it, what stands in.

Every Decoder and Editor of a model object shares one Weights, so that none of them takes an edited model for the base.
It knows its model weakly: a model that nobody uses any more is freed, whatever it carries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from errata.decoder import hooks
from errata.decoder.graft import Graft
from errata.decoder.layout import linear_shape
from errata.decoder.offload import fetched, is_away, replace
from errata.decoder.stillness import still
from errata.delta import WeightDelta
from errata.errors import AlreadyEdited, NotFinite, NotPutOn, StoreError, WeightsChanged, WrongModel

Edits = tuple[WeightDelta, ...]


class Weights:
    """The weights of one model object: original + the sum of the edits that are on it, or a graft beside them."""

    def __init__(self, model: nn.Module) -> None:
        self._model = ref(model)
        self.edits: Edits = ()
        self.originals: dict[str, Tensor] = {}
        self.graft: Graft | None = None
        self.prompts: Sequence[int] | None = None
        """How many tokens of each row now running a graft may read to decide; None: all."""
        self._graft_module = ""
        self._terms: dict[str, Sequence[Tensor]] = {}
        self._hooks: list[hooks.Handle] = []
        self._own_saving: Any = None
        self._still = 0

    @classmethod
    def of(cls, model: nn.Module) -> Weights:
        """The one that all who use this model object share."""
        return _SHARED.setdefault(model, cls(model))

    @property
    def model(self) -> Any:
        model = self._model()
        assert model is not None, "a Decoder keeps its model"
        return model

    # -- one matrix ------------------------------------------------------------------------------------

    def module(self, name: str) -> nn.Module:
        """The module that a parameter belongs to."""
        module: nn.Module = self.model.get_submodule(name.rpartition(".")[0])
        return module

    def parameter(self, name: str) -> Tensor:
        parameter: Tensor = self.model.get_parameter(name)
        return parameter

    def values(self, name: str) -> Tensor:
        """A parameter's values as they are now, wherever they lie; not to be written to."""
        parameter = self.parameter(name)
        away = is_away(parameter)
        return (fetched(self.module(name), name.rpartition(".")[2]) if away else parameter).detach()

    def original(self, name: str) -> Tensor:
        """A parameter's values without any edit."""
        return self.originals[name] if name in self.originals else self.values(name)

    def is_dense(self, name: str) -> bool:
        """Whether a matrix can be overwritten exactly. One stored in 8 or 4 bits cannot: its change is carried beside.

        What it gives is then its own output plus change @ input, so nothing is quantised a second time.
        """
        stored = self.parameter(name).data
        return type(stored) is Tensor and stored.is_floating_point()

    def is_transposed(self, name: str) -> bool:
        """Whether a parameter is stored as [inner, model], the other way round than changes are."""
        return isinstance(self.module(name), Conv1D)

    def total(self, name: str) -> Float[Tensor, "model inner"] | None:
        """The sum of all changes of a parameter; None if no edit changes it.

        Formed in the order of the edits' digests: in which order they were put on makes no difference to a bit.
        """
        edits = self.edits if len(self.edits) < 2 else sorted(self.edits, key=lambda edit: edit.digest)
        changes = [edit.changes[name] for edit in edits if name in edit.changes]
        return reduce(torch.add, [change.to(changes[0].device) for change in changes]) if changes else None

    def _overwrite(self, name: str, values: Tensor) -> None:
        parameter = self.parameter(name)
        if is_away(parameter):
            replace(self.module(name), name.rpartition(".")[2], values.to(parameter.dtype))
        else:
            parameter.data.copy_(values)

    # -- edits -----------------------------------------------------------------------------------------

    @property
    def change(self) -> WeightDelta | None:
        """The sum of the edits that are on; None if nothing is changed."""
        if len(self.edits) == 1:
            return self.edits[0] if self.edits[0].changes else None
        names = dict.fromkeys(name for edit in self.edits for name in edit.changes)
        sums = {name: total for name in names if (total := self.total(name)) is not None}
        return WeightDelta(self.edits[0].fingerprint, sums) if sums else None

    def add(self, edit: WeightDelta) -> None:
        """Put an edit on, beside those that are. Raises AlreadyEdited, NotFinite, WeightsChanged."""
        self.check_untouched()
        if self.graft is not None:
            raise AlreadyEdited(f"the model carries {self._graft_in_words}, which stands alone; take it off first.")
        if self._place(edit) is not None:
            raise AlreadyEdited(f"this edit (digest {edit.digest}) is on the model already; nothing was changed.")
        with self.unless_it_fails():
            self.set((*self.edits, edit))

    def remove(self, edit: WeightDelta) -> None:
        """Take one edit off; the last to go leaves the original bits. Raises NotPutOn, WeightsChanged."""
        place = self._place(edit)
        if place is None:
            carried = ", ".join(edit.digest for edit in self.edits) or "none"
            raise NotPutOn(
                f"this edit (digest {edit.digest}) is not on the model; nothing was changed. Edits that are: {carried}."
            )
        self.check_untouched()
        with self.unless_it_fails():
            self.set((*self.edits[:place], *self.edits[place + 1 :]))

    def set(self, edits: Edits, graft: Graft | None = None, module: str = "") -> None:
        """Let the model carry these edits and this graft, and nothing else.

        Sums are formed from the originals in float32 at least and rounded once, so that nothing piles up; all of
        them before any is written. Raises NotFinite if one overflows the dtype that weights are stored in.
        """
        before, self.edits = self.edits, edits
        names = dict.fromkeys(name for edit in edits for name in edit.changes)
        dense = [name for name in names if self.is_dense(name)]
        terms: dict[str, Sequence[Tensor]] = {
            name: [edit.changes[name] for edit in edits if name in edit.changes] for name in dense
        }
        try:
            stale = [name for name in dense if not _same(terms[name], self._terms.get(name, ()))]
            sums = {name: self._sum(name) for name in stale}
        except BaseException:
            self.edits = before
            raise
        self._detach()
        self._terms = {}  # an interrupt from here on leaves nothing that counts as written
        for name in [name for name in self.originals if name not in terms]:
            self._overwrite(name, self.originals[name])
            del self.originals[name]
        for name, values in sums.items():
            if name not in self.originals:
                self.originals[name] = self.values(name).clone()
            self._overwrite(name, values)
        self._terms = terms
        self.graft, self._graft_module = graft, module
        self._attach()

    def _sum(self, name: str) -> Tensor:
        """What a matrix has to be: original + all changes, in its own dtype. Raises NotFinite."""
        original, change = self.original(name), self.total(name)
        if change is None:
            return original
        oriented = change.T if self.is_transposed(name) else change
        exact = torch.promote_types(original.dtype, torch.promote_types(change.dtype, torch.float32))
        summed = (original.to(exact) + oriented.to(original.device, exact)).to(original.dtype)
        if not torch.isfinite(summed).all():
            dtype = str(summed.dtype).removeprefix("torch.")
            raise NotFinite(
                f"{name}: with this change {int((~torch.isfinite(summed)).sum())} values overflow {dtype}, which holds "
                f"at most {torch.finfo(summed.dtype).max:.3g}; nothing was changed. Load the model in bfloat16 or "
                "float32, or preserve more (a larger weight in the recipe's solver)."
            )
        return summed

    def _place(self, edit: WeightDelta) -> int | None:
        return next((i for i, other in enumerate(self.edits) if other.same_changes(edit)), None)

    @contextmanager
    def put_aside(self) -> Iterator[None]:
        """Inside, the model is exactly as loaded; afterwards it carries again what it carried."""
        before, edits = (self.graft, self._graft_module), self.edits
        edited = {name: self.values(name).clone() for name in self.originals}
        self._detach()
        self.edits, self.graft, terms, self._terms = (), None, self._terms, {}
        for name, original in self.originals.items():
            self._overwrite(name, original)
        originals = dict(self.originals)
        try:
            yield
        finally:
            if self.edits or self.graft:
                self.set(())
            for name, values in edited.items():
                self._overwrite(name, values)
            self.originals, self._terms, self.edits = originals, terms, edits
            self.graft, self._graft_module = before
            self._attach()

    @contextmanager
    def unless_it_fails(self) -> Iterator[None]:
        """Whatever is raised inside, the model then carries again what it carried before."""
        before = (self.edits, self.graft, self._graft_module)
        try:
            yield
        except BaseException:
            self.set(*before)
            raise

    def check_unedited(self) -> None:
        """Raises AlreadyEdited if the model carries anything."""
        shared = "Editors and Decoders of one model object share what it carries."
        if self.graft is not None:
            raise AlreadyEdited(f"the model carries {self._graft_in_words}; restore() it first. {shared}")
        if change := self.change:
            raise AlreadyEdited(
                f"the model carries an edit of {len(change.changes)} matrices. Pass that edit as `past` to go on from "
                f"it, or restore() the model first. {shared}"
            )

    def check_shapes(self, delta: WeightDelta) -> None:
        """Raises WrongModel or NotFinite if a change has no matrix to fit on, or is not of numbers."""
        known = dict(self.model.named_parameters())
        for name, change in delta.changes.items():
            if name not in known:
                raise WrongModel(f"this edit changes {name!r}, which the model does not have; nothing was changed")
            module = self.module(name)
            linear = isinstance(module, nn.Linear | Conv1D)
            shape = linear_shape(module) if linear else tuple(known[name].shape)
            if tuple(change.shape) != shape:
                raise WrongModel(f"{name}: the change has shape {tuple(change.shape)}, expected {shape}")
            if not torch.isfinite(change).all():
                raise NotFinite(f"{name}: the change holds NaN or infinite values; nothing was changed")

    def check_untouched(self) -> None:
        """Raises WeightsChanged if an edited matrix is not what errata made of it."""
        for name in self.originals:
            if not torch.equal(self._sum(name).to(self.values(name)), self.values(name)):
                raise WeightsChanged(
                    f"{name} was changed by something else since it was edited (training, load_state_dict, ...); "
                    "nothing was done. `accept_weights()` takes the weights as they are now for the base: edits then "
                    "stay in them. `restore(force=True)` puts the original over what was changed."
                )

    def accept(self) -> None:
        """Take the weights as they are now for the base; no edit is on any more."""
        self._detach()
        self.edits, self.graft, self.originals, self._terms = (), None, {}, {}

    # -- what stands beside the weights ----------------------------------------------------------------

    @property
    def are_all(self) -> bool:
        """Whether the weights hold all that the model carries: no graft, and no change beside a quantised matrix."""
        return not self._hooks

    @property
    def _graft_in_words(self) -> str:
        return f"a graft at block {self.graft.layer}" if self.graft else "no graft"

    def _attach(self) -> None:
        """Let the graft, and modules that are not dense, give their shares too; the model's own saving is refused."""
        for name in dict.fromkeys(name for edit in self.edits for name in edit.changes):
            if not self.is_dense(name) and (change := self.total(name)) is not None:
                self._hooks.append(hooks.keep_stand_in(self.module(name), _adding(change)))
        if self.graft is not None:
            self._hooks.append(hooks.keep_announcing(self.model, self._begin))
            module = self.model.get_submodule(self._graft_module)
            self._hooks.append(hooks.keep_stand_in(module, self.graft.give))
        if self._hooks:
            self._own_saving = self.model.__dict__.get("save_pretrained")
            self.model.save_pretrained = _refuse_to_save

    def _detach(self) -> None:
        if self._hooks:
            del self.model.save_pretrained
            if self._own_saving is not None:
                self.model.save_pretrained = self._own_saving
        while self._hooks:
            self._hooks.pop().remove()

    def _begin(self, real: Tensor) -> None:
        if self.prompts is not None:
            length = torch.tensor(self.prompts, device=real.device)
            real = torch.arange(real.shape[1], device=real.device) < length[:, None]
        assert self.graft is not None
        self.graft.begin(real)

    @contextmanager
    def reading(self, prompts: Sequence[int] | None) -> Iterator[None]:
        """Inside, so many tokens of each row are its prompt."""
        self.prompts = prompts
        try:
            yield
        finally:
            self.prompts = None

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Inside, the model is run, not trained; see `stillness`. May be entered again inside."""
        if self._still:
            yield
            return
        self._still += 1
        try:
            with still(self.model):
                yield
        finally:
            self._still -= 1


_SHARED: WeakKeyDictionary[nn.Module, Weights] = WeakKeyDictionary()


def _same(terms: Iterable[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether the tensors are the very same ones."""
    return [id(term) for term in terms] == [id(other) for other in others]


def _adding(change: Float[Tensor, "model inner"]) -> Callable[[Tensor, Tensor], Tensor]:
    """What a module gives once its matrix has changed: its own output plus change @ input, in float32 at least."""
    here: list[Tensor] = []

    def give(inputs: Tensor, output: Tensor) -> Tensor:
        if not here:
            exact = torch.float64 if output.dtype == torch.float64 else torch.float32
            here.append(change.to(output.device, exact))
        return (output + inputs.to(here[0].dtype) @ here[0].T).to(output.dtype)

    return give


def _refuse_to_save(*_args: Any, **_options: Any) -> None:
    raise StoreError(
        "this model carries an edit beside its weights, and save_pretrained would write it without; nothing was "
        "written. Save the edit instead (outcome.edit.save), or take it off first."
    )
