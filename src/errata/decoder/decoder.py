"""Decoder: a causal language model, its tokenizer and its layout. All that the rest of errata asks of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn

from errata.decoder.fingerprint import fingerprints
from errata.decoder.frontier import Frontier
from errata.decoder.graft import Graft
from errata.decoder.identity import (
    NARROW,
    Identity,
    configuration_of,
    layout_of_states,
    tokenizer_hash,
    writes,
)
from errata.decoder.layout import DecoderLayout, linear_shape
from errata.decoder.loading import bare_model, load
from errata.decoder.offload import is_away, names_once
from errata.decoder.passes import Passes
from errata.decoder.reach import Reach, measured
from errata.decoder.site import Prompt, Tokens
from errata.delta import WeightDelta
from errata.errors import NotFinite, StoreError, UnsupportedModel, WrongModel
from errata.files import whole_folder
from errata.form import AS_WRITTEN, SPACED, Form

KEPT_LOGITS = 1 << 29
UNITS_AT_ONCE = 1024


class Decoder(Passes):
    """Model + tokenizer + layout: it reads text, is run, and carries edits.

    What it carries belongs to the model object: every Decoder and Editor of that object sees the same edits.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, layout: DecoderLayout | None = None, name: str = "") -> None:
        """A model in memory, bare or inside torch.compile's wrapper. Raises UnsupportedModel, ModelError."""
        super().__init__(bare_model(model, tokenizer), layout, name)
        self._wrapped = self.model is not model
        self.tokenizer = tokenizer
        self.tokens = Tokens(tokenizer, self.positions)
        self.origin: dict[str, str] = {}
        """Where weights are from that were stored in another way than as a checkpoint, for the record of an edit."""
        self._known: dict[tuple[int, ...], Tensor] = {}
        self._known_of: object = None
        self._identity: tuple[object, Identity] | None = None
        self._reach: dict[int, Reach] = {}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        tokenizer: Any = None,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        layout: DecoderLayout | None = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Decoder:
        """Load a checkpoint folder, a hub name or a GGUF file, which is de-quantised; `dtype` None keeps the
        checkpoint's own, and float32 for a GGUF file.

        `tokenizer`: in place of the checkpoint's. `layout`: where the model's parts are, if it is of no known family
        (`DecoderLayout.read`). `options`: those of transformers, such as `revision`, `token`,
        `subfolder`, `attn_implementation`, `quantization_config`, or `device_map`: how to spread a model over devices
        that one of them cannot hold, "auto" for as it fits; what does not fit on any stays in main memory or on disk
        between passes.

        Raises UnknownName for an option that is not known, ModelError if transformers cannot load it.
        """
        given = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
        model, tokenizer, origin = load(str(name), tokenizer, **given, options=options)  # type: ignore[arg-type]
        decoder = cls(model, tokenizer, layout, str(name))
        decoder.origin = origin
        return decoder

    @property
    def identity(self) -> Identity:
        """What this model is without its edits, computed anew once a parameter was written to; see `identify`."""
        now = writes(self.model)
        if self._identity is None or self._identity[0] != now:
            self._identity = now, self._identity_now()
        return self._identity[1]

    def identify(self) -> Identity:
        """`identity` as of now, asked wherever an edit begins: a write through `.data` leaves no trace."""
        self._identity = None
        return self.identity

    def described(self) -> Identity:
        """`identity`, with what the weights are when rounded to narrower dtypes, for an edit to name its base by."""
        return replace(self.identity, rounded=self._identity_now(NARROW).rounded)

    def _identity_now(self, rounded_to: Sequence[torch.dtype] = ()) -> Identity:
        config = self.model.config
        weights = ((name, self.weights.original(name)) for name in names_once(self.model))
        own, *rounded = fingerprints(config.model_type, weights, rounded_to)
        return Identity(
            own,
            configuration_of(config),
            tokenizer_hash(self.tokenizer),
            layout_of_states(self.layout),
            _name_of(self.dtype),
            dict(zip(map(_name_of, rounded_to), rounded, strict=True)),
        )

    @property
    def fingerprint(self) -> str:
        """What an edit of this model names as its base: weights and configuration."""
        return self.identity.base

    def check_finite(self) -> None:
        """Raises NotFinite naming the first parameter that holds NaN or infinity."""
        for name, parameter in names_once(self.model).items():
            if parameter.is_floating_point() and not torch.isfinite(self.weights.values(name)).all():
                raise NotFinite(f"{self.name}: {name} holds NaN or infinite values; the checkpoint is damaged")

    # -- text ------------------------------------------------------------------------------------------

    def token_ids(self, text: str, form: Form = AS_WRITTEN) -> list[int]:
        """Ids of a prompt: the tokenizer's leading specials once, nothing behind; in a chat, of the conversation."""
        return self.tokens.prompt(text, form)

    def answer_ids(self, answer: str, prompt: str = "", form: Form = SPACED) -> list[int]:
        """Ids of an answer as it continues a prompt; without one, of a space and the answer."""
        return self.tokens.answer(answer, prompt, form)

    @cached_property
    def ends(self) -> frozenset[int]:
        """Ids at which the model stops to speak: those of its generation settings, the end of a text and of a turn."""
        settings = self.model.generation_config
        own = settings.eos_token_id if settings is not None else None
        every = {*(own if isinstance(own, list) else [own]), self.tokens.end, self.tokens.chat.end}
        return frozenset(token for token in every if token is not None and 0 <= token < self.vocabulary)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    # -- what passes give ------------------------------------------------------------------------------

    def states(
        self,
        prompts: Sequence[Prompt],
        layers: Sequence[int],
        holding: tuple[int, Float[Tensor, "prompt model"]] | None = None,
    ) -> dict[int, Float[Tensor, "prompt model"]]:
        """Block outputs at the decisive tokens. `holding` = (layer, states) overwrites that block's output there."""
        return Frontier(self, prompts).states(layers, holding)

    def keys(self, prompts: Sequence[Prompt], layers: Sequence[int]) -> dict[int, Float[Tensor, "prompt inner"]]:
        """Inputs of the down-projections at the decisive tokens."""
        return Frontier(self, prompts).keys(layers)

    def original_logits(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, "row vocabulary"]:
        """Logits of the model as it was loaded, after the last token of each row.

        Kept for rows that were asked before, up to half a GiB: comparing several edits asks for them each time.
        """
        if self._known_of != (now := writes(self.model)):
            self._known, self._known_of = {}, now
        wanted = list(map(tuple, rows))
        missing = list(dict.fromkeys(row for row in wanted if row not in self._known))
        fresh: dict[tuple[int, ...], Tensor] = {}
        with self.unedited():
            for owner, _, logits in self.logits(missing, [[len(row) - 1] for row in missing]):
                fresh |= {missing[i]: row for i, row in zip(owner.tolist(), logits.cpu(), strict=True)}
        found = torch.stack([self._known[row] if row in self._known else fresh[row] for row in wanted])
        room = KEPT_LOGITS // (self.vocabulary * found.element_size()) - len(self._known)
        self._known |= {row: fresh[row].clone() for row in missing[: max(0, room)]}
        return found

    def reach(self, layers: Iterable[int]) -> dict[int, Reach]:
        """Layer -> how what its down-projection gives reaches the stream; measured once. Raises UnsupportedModel."""
        layers = sorted(set(layers))
        self._reach |= measured(self, [layer for layer in layers if layer not in self._reach])
        return {layer: self._reach[layer] for layer in layers}

    # -- matrices --------------------------------------------------------------------------------------

    def weight(self, layer: int) -> Float[Tensor, "model inner"]:
        """The edited matrix of a block as it is now, in the orientation of the mathematics."""
        name = self.parameter_name(layer)
        if not self.weights.is_dense(name):
            change = self.weights.total(name)
            return self.original(layer) if change is None else self.original(layer) + change.to(self.device)
        weight = self.weights.values(name)
        return weight.T if self.weights.is_transposed(name) else weight

    def original(self, layer: int) -> Float[Tensor, "model inner"]:
        """The edited matrix of a block as it was loaded; de-quantised if it is stored in fewer bits."""
        name = self.parameter_name(layer)
        if not self.weights.is_dense(name):
            return self._dequantised(self.down_projection(layer))
        weight = self.weights.original(name)
        return weight.T if self.weights.is_transposed(name) else weight

    @torch.no_grad()
    def _dequantised(self, module: nn.Module) -> Float[Tensor, "model inner"]:
        """The matrix that a linear module multiplies by, read off the unit vectors; `forward` knows no hooks."""
        model, inner = linear_shape(module)
        bias = getattr(module, "bias", None)
        matrix = torch.empty(model, inner, dtype=self.precision, device=self.device)
        for start in range(0, inner, UNITS_AT_ONCE):
            units = torch.eye(inner, dtype=self.dtype, device=self.device)[start : start + UNITS_AT_ONCE]
            columns = module.forward(units).to(self.precision)
            matrix[:, start : start + UNITS_AT_ONCE] = (columns if bias is None else columns - bias).T
        return matrix

    def check_dense(self, names: Iterable[str]) -> None:
        """Raises UnsupportedModel for a matrix that is stored in fewer bits, which nothing can be trained through, or
        kept off the device between passes.
        """
        names = list(names)
        if away := [name for name in names if is_away(self.weights.parameter(name))]:
            raise UnsupportedModel(
                f"{away[0]} of {self.name} is kept off the device between passes and cannot be trained. Nothing was "
                "changed. Use a locate-then-edit method, or give the model more devices."
            )
        if packed := [name for name in names if not self.weights.is_dense(name)]:
            raise UnsupportedModel(
                f"{packed[0]} of {self.name} is stored in fewer bits and cannot be trained. Nothing was changed. Use a "
                "locate-then-edit method, or load the model in bfloat16."
            )

    # -- edits -----------------------------------------------------------------------------------------

    @property
    def change(self) -> WeightDelta | None:
        """The sum of the edits that the weights carry; None if there are none."""
        return self.weights.change

    @property
    def grafted(self) -> Graft | None:
        """What stands in for a down-projection now, if anything."""
        return self.weights.graft

    @property
    def is_edited(self) -> bool:
        """Whether anything is changed or grafted."""
        return self.change is not None or self.grafted is not None

    def put_on(self, edit: WeightDelta) -> None:
        """Add an edit to those that the weights carry.

        The sum with the originals is formed in float32 at least and rounded once, so that edits of a low-precision
        model do not pile up rounding. Raises, before anything is written: WrongModel if the edit is for other
        weights, NotFinite if it or the sum is not of numbers, AlreadyEdited if it is on already, WeightsChanged.
        """
        self.check_fits(edit)
        self.weights.add(edit)

    def take_off(self, edit: WeightDelta) -> None:
        """Take one edit off; the last to go leaves the bits that were loaded. Raises NotPutOn, WeightsChanged."""
        self.weights.remove(edit)

    def set_change(self, change: WeightDelta) -> None:
        """Make the weights original + change, in place of all that they carry. Raises WrongModel, NotFinite."""
        self.check_fits(change)
        self.weights.set((change,))

    def check_fits(self, delta: WeightDelta) -> None:
        """Raises WrongModel or NotFinite if `delta` cannot be put on; changes nothing."""
        if delta.fingerprint != self.fingerprint:
            same = delta.fingerprint.partition("-")[0] == self.identity.weights
            raise WrongModel(
                f"this edit was made for weights {delta.fingerprint}, the model at hand ({self.name}) is "
                f"{self.fingerprint}{': the same weights in another configuration' * same}. Nothing was changed. "
                "Load the model that the edit names."
            )
        self.weights.check_shapes(delta)

    def graft(self, graft: Graft) -> None:
        """Let `graft` decide what its down-projection gives, until it is taken off.

        Raises AlreadyEdited, UnsupportedModel.
        """
        self.check_graftable()
        self.check_unedited()
        self.weights.set((), graft, self._names[id(self.down_projection(graft.layer))])

    def check_graftable(self) -> None:
        """Raises UnsupportedModel for a compiled model: its own calls may have been compiled without the graft."""
        if self._wrapped or getattr(self.model, "_compiled_call_impl", None) is not None:
            raise UnsupportedModel(
                f"{self.name or self.model.config.model_type} is compiled or wrapped: its own calls may not see what "
                "stands beside its weights. Nothing was changed. Give the plain model, or choose a method that "
                "changes weights."
            )

    def restore(self, force: bool = False) -> None:
        """Take everything off: put every original back, bit for bit.

        Raises WeightsChanged if something else changed an edited matrix meanwhile, whose work would be lost; `force`
        puts the original over it.
        """
        if not force:
            self.weights.check_untouched()
        self.weights.set(())

    def accept_weights(self) -> None:
        """Take the weights as they are now for the base. Edits that are on stay in them and cannot be taken off."""
        self.weights.accept()
        self._known, self._identity, self._reach = {}, None, {}

    @contextmanager
    def unedited(self) -> Iterator[None]:
        """Inside, the model is exactly as loaded, without a graft; afterwards edited again."""
        with self.weights.put_aside():
            yield

    @contextmanager
    def editing(self, past: WeightDelta | Graft | None = None) -> Iterator[None]:
        """Around the making of an edit: the model is run and not trained, and after a failure or interrupt it carries
        again what it carried before.

        Raises AlreadyEdited if it carries anything but `past`, WeightsChanged, or NotFinite for a damaged model.
        """
        self.weights.check_untouched()
        if isinstance(past, WeightDelta):
            same = self.grafted is None and (self.change is None or self.change.digest == past.digest)
        else:
            same = past is not None and self.grafted is past
        if not same:
            self.check_unedited()
        self.check_finite()
        self.check_causal()
        with self.weights.computing(), self.weights.unless_it_fails():
            yield

    def check_unedited(self) -> None:
        """Raises AlreadyEdited if the model carries a change."""
        self.weights.check_unedited()

    def save(self, folder: str | Path) -> None:
        """Write model, as it is now, and tokenizer as a checkpoint that plain transformers loads.

        Written under another name and moved into place. Raises StoreError if it cannot be, or `folder` exists.
        """
        folder = Path(folder)
        if folder.exists():
            raise StoreError(f"{folder} exists; nothing was written. Choose another folder for the checkpoint.")
        if self.grafted is not None:
            raise StoreError(f"{self.name} carries a graft, which a checkpoint cannot hold; save the edit instead.")
        if self.change and not all(map(self.weights.is_dense, self.change.changes)):
            raise StoreError(
                f"{self.name} is stored in fewer bits, and its edit is carried beside it; a checkpoint would have to "
                "quantise it again. Save the edit instead."
            )
        try:
            with whole_folder(folder) as made:
                self.model.save_pretrained(made)
                self.tokenizer.save_pretrained(made)
        except SafetensorError as error:
            raise StoreError(f"{folder}: could not be written ({error}); nothing was left half written") from error


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
