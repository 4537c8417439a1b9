"""Decoder: a causal language model, its tokenizer and its layout. All that the rest of errata asks of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace as replace_fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.func import functional_call
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from errata.decoder import hooks
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
from errata.decoder.layout import DecoderLayout, blocks_of, layout_of, linear_shape
from errata.decoder.memory import CPU_PASS, tokens_at_once
from errata.decoder.offload import fetched, is_away, names_once, replace, running_device
from errata.decoder.rows import at_places, grouped, in_batches, pad
from errata.decoder.site import Prompt, Tokens
from errata.delta import WeightDelta
from errata.errors import AlreadyEdited, ModelError, NotFinite, StoreError, UnsupportedModel, WindowOutside, WrongModel
from errata.files import refuse_to_replace, whole_folder

KEPT_LOGITS = 1 << 29
UNITS_AT_ONCE = 1024


class Decoder:
    """Model + tokenizer + layout. Holds the original of every matrix it edits, so that it can put it back."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, layout: DecoderLayout | None = None, name: str = ""
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        for module in model.modules():
            if type(module).__name__ == "Linear4bit":  # bitsandbytes' fast path on CPUs passes no gradient back
                module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
        self.tokenizer = tokenizer
        self.layout = layout_of(model, layout)
        self.name = name or model.config.name_or_path or model.config.model_type
        self.tokens = Tokens(tokenizer)
        self.blocks = blocks_of(model, self.layout)
        self.change: WeightDelta | None = None
        self._originals: dict[str, Tensor] = {}
        self._known: dict[tuple[int, ...], Tensor] = {}
        self._known_of: object = None
        self._identity: tuple[object, Identity] | None = None
        self.grafted: Graft | None = None
        self._wires, self._carriers = ExitStack(), ExitStack()
        self._prompts: Sequence[int] | None = None
        self._names = {id(module): name for name, module in model.named_modules()}

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        device_map: str | Mapping[str, Any] | None = None,
        layout: DecoderLayout | None = None,
        trust_remote_code: bool = False,
    ) -> Decoder:
        """Load a checkpoint folder or hub name; `dtype` None keeps the checkpoint's own.

        `device_map`: how to spread a model over devices that one of them cannot hold, "auto" for as it fits; what
        does not fit on any stays in main memory or on disk between passes. `layout`: where the model's parts are, if
        it is of no known family (`DecoderLayout.read`).

        Raises ModelError if transformers cannot load it.
        """
        name = str(name)
        try:
            config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
            model = AutoModelForCausalLM.from_pretrained(
                name, config=config, dtype=dtype or "auto", device_map=device_map, trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError, ImportError) as error:
            raise ModelError(f"{name}: not loaded as a causal language model: {error}") from error
        if device is not None:
            torch.nn.Module.to(model, device)
        return cls(model, tokenizer, layout, name)

    # -- what it is ------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """Size of the residual stream."""
        return linear_shape(self.down_projection(0))[0]

    def inner(self, layer: int) -> int:
        """Input width of the down-projection of a block."""
        return linear_shape(self.down_projection(layer))[1]

    @property
    def dtype(self) -> torch.dtype:
        """What states are computed in; of a quantised model, the dtype of the parts that are not."""
        stored: torch.dtype = self.down_projection(0).weight.dtype  # type: ignore[assignment]
        return stored if stored.is_floating_point else self.model.get_input_embeddings().weight.dtype

    @property
    def precision(self) -> torch.dtype:
        """What losses, targets and changes are kept in: float32, or float64 for a float64 model."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def device(self) -> torch.device:
        """Where tokens enter, and where states, targets and changes are kept."""
        return running_device(self.model.get_input_embeddings())

    @property
    def identity(self) -> Identity:
        """What this model is without its edit, computed anew once a parameter was written to; see `identify`."""
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
        return replace_fields(self.identity, rounded=self._identity_now(NARROW).rounded)

    def _identity_now(self, rounded_to: Sequence[torch.dtype] = ()) -> Identity:
        edited, config = self._originals, self.model.config
        weights = ((name, edited[name] if name in edited else self._values(name)) for name in names_once(self.model))
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

    @cached_property
    def returns_tuple(self) -> bool:
        """Whether blocks of this family return a tuple; learnt by asking one."""
        outputs: list[Any] = []
        block = self.blocks[0]
        with hooks.watch(block, outputs.append), torch.no_grad():
            self.run(torch.zeros(1, 2, dtype=torch.long, device=self.device), leave=0)
        hooks.state(outputs[0])
        return isinstance(outputs[0], tuple)

    def check_window(self, layers: Iterable[int]) -> None:
        """Raises WindowOutside if a layer is not one of this model's."""
        layers = list(layers)
        outside = [layer for layer in layers if not 0 <= layer < self.depth]
        if outside or not layers or layers != sorted(set(layers)):
            raise WindowOutside(
                f"window {layers}: expected ascending layers between 0 and {self.depth - 1} of {self.name}"
            )

    def check_finite(self) -> None:
        """Raises NotFinite naming the first parameter that holds NaN or infinity."""
        for name, parameter in names_once(self.model).items():
            if parameter.is_floating_point() and not torch.isfinite(self._values(name)).all():
                raise NotFinite(f"{self.name}: {name} holds NaN or infinite values; the checkpoint is damaged")

    # -- text ------------------------------------------------------------------------------------------

    def token_ids(self, text: str) -> list[int]:
        """Ids of a prompt: the tokenizer's leading specials once, nothing behind."""
        return self.tokens.prompt(text)

    def answer_ids(self, answer: str) -> list[int]:
        """Ids of one space and the answer."""
        return self.tokens.answer(answer)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    # -- weights ---------------------------------------------------------------------------------------

    def down_projection(self, layer: int) -> nn.Module:
        """The edited module of a block."""
        return self.blocks[layer].get_submodule(self.layout.down_projection)

    def parameter_name(self, layer: int) -> str:
        """Full name of the edited matrix of a block."""
        return f"{self._names[id(self.down_projection(layer))]}.weight"

    def is_dense(self, name: str) -> bool:
        """Whether a matrix can be overwritten exactly. One stored in 8 or 4 bits cannot: its change is carried beside.

        What it gives is then its own output plus change @ input, so nothing is quantised a second time.
        """
        stored = self._parameter(name).data
        return type(stored) is Tensor and stored.is_floating_point()

    def check_dense(self, names: Iterable[str]) -> None:
        """Raises UnsupportedModel for a matrix that is stored in fewer bits, which nothing can be trained through, or
        kept off the device between passes.
        """
        names = list(names)
        if away := [name for name in names if is_away(self._parameter(name))]:
            raise UnsupportedModel(
                f"{away[0]} of {self.name} is kept off the device between passes and cannot be trained. Nothing was "
                "changed. Use a locate-then-edit method, or give the model more devices."
            )
        if packed := [name for name in names if not self.is_dense(name)]:
            raise UnsupportedModel(
                f"{packed[0]} of {self.name} is stored in fewer bits and cannot be trained. Nothing was changed. Use a "
                "locate-then-edit method, or load the model in bfloat16."
            )

    def weight(self, layer: int) -> Float[Tensor, "model inner"]:
        """The edited matrix of a block as it is now, in the orientation of the mathematics."""
        if not self.is_dense(name := self.parameter_name(layer)):
            change = self.change.changes.get(name) if self.change else None
            return self.original(layer) if change is None else self.original(layer) + change.to(self.device)
        weight = self._values(name)
        return weight.T if self._is_transposed(name) else weight

    def original(self, layer: int) -> Float[Tensor, "model inner"]:
        """The edited matrix of a block as it was loaded; de-quantised if it is stored in fewer bits."""
        name = self.parameter_name(layer)
        if not self.is_dense(name):
            return self._dequantised(self.down_projection(layer))
        weight = self._originals[name] if name in self._originals else self._values(name)
        return weight.T if self._is_transposed(name) else weight

    @torch.no_grad()
    def _dequantised(self, module: nn.Module) -> Float[Tensor, "model inner"]:
        """The matrix that a linear module multiplies by, read off the unit vectors; `forward` knows no hooks."""
        model, inner = linear_shape(module)
        bias = getattr(module, "bias", None)
        found = torch.empty(model, inner, dtype=self.precision, device=self.device)
        for start in range(0, inner, UNITS_AT_ONCE):
            units = torch.eye(inner, dtype=self.dtype, device=self.device)[start : start + UNITS_AT_ONCE]
            given = module.forward(units).to(self.precision)
            found[:, start : start + UNITS_AT_ONCE] = (given if bias is None else given - bias).T
        return found

    def put_on(self, delta: WeightDelta) -> None:
        """Make the weights original + delta, in place of any change they carried.

        The sum is formed in float32 at least and rounded once, so that repeated edits of a low-precision model
        do not pile up rounding. Raises WrongModel, before anything is written, if the delta is for other
        weights, and NotFinite if it holds NaN.
        """
        self.check_fits(delta)
        self._ungraft()
        self._carriers.close()
        for name in [name for name in self._originals if name not in delta.changes]:
            self._overwrite(name, self._originals.pop(name))
        for name, change in delta.changes.items():
            if not self.is_dense(name):
                continue
            if name not in self._originals:
                self._originals[name] = self._values(name).clone()
            original = self._originals[name]
            oriented = change.T if self._is_transposed(name) else change
            exact = torch.promote_types(original.dtype, torch.promote_types(change.dtype, torch.float32))
            self._overwrite(name, original.to(exact) + oriented.to(original.device, exact))
        self.change = delta if delta.changes else None
        self._carry()

    def _carry(self) -> None:
        """Let modules that are not dense give their changes' share too."""
        for name, change in self.change.changes.items() if self.change else ():
            if not self.is_dense(name):
                module = self.model.get_submodule(name.rpartition(".")[0])
                self._carriers.enter_context(hooks.stand_in(module, _beside(change.to(self.device, self.precision))))

    def check_fits(self, delta: WeightDelta) -> None:
        """Raises WrongModel or NotFinite if `delta` cannot be put on; changes nothing."""
        if delta.fingerprint != self.fingerprint:
            same = delta.fingerprint.partition("-")[0] == self.identity.weights
            raise WrongModel(
                f"this edit was made for weights {delta.fingerprint}, the model at hand ({self.name}) is "
                f"{self.fingerprint}{': the same weights in another configuration' * same}. Nothing was changed. "
                "Load the model that the edit names."
            )
        known = dict(self.model.named_parameters())
        for name, change in delta.changes.items():
            if name not in known:
                raise WrongModel(f"this edit changes {name!r}, which {self.name} does not have")
            module = self.model.get_submodule(name.rpartition(".")[0])
            linear = isinstance(module, nn.Linear | Conv1D)
            shape = linear_shape(module) if linear else tuple(known[name].shape)
            if tuple(change.shape) != shape:
                raise WrongModel(f"{name}: the change has shape {tuple(change.shape)}, expected {shape}")
            if not torch.isfinite(change).all():
                raise NotFinite(f"{name}: the change holds NaN or infinite values; nothing was changed")

    def graft(self, graft: Graft) -> None:
        """Let `graft` decide what its down-projection gives, until `restore`. Raises AlreadyEdited."""
        self.check_unedited()
        self.grafted = graft
        self._wire(graft)

    def _wire(self, graft: Graft) -> None:
        def begin(real: Tensor) -> None:
            if self._prompts is not None:
                length = torch.tensor(self._prompts, device=real.device)
                real = torch.arange(real.shape[1], device=real.device) < length[:, None]
            graft.begin(real)

        self._wires.enter_context(hooks.announce(self.model, begin))
        self._wires.enter_context(hooks.stand_in(self.down_projection(graft.layer), graft.give))

    def _ungraft(self) -> None:
        self._wires.close()
        self.grafted = None

    def restore(self) -> None:
        """Put every original back, bit for bit."""
        self._ungraft()
        self._carriers.close()
        for name, original in self._originals.items():
            self._overwrite(name, original)
        self._originals.clear()
        self.change = None

    @contextmanager
    def unedited(self) -> Iterator[None]:
        """Inside, the model is exactly as loaded, without a graft; afterwards edited again."""
        graft = self.grafted
        self._ungraft()
        self._carriers.close()
        swapped = {name: self._values(name).clone() for name in self._originals}
        try:
            for name, original in self._originals.items():
                self._overwrite(name, original)
            yield
        finally:
            for name, edited in swapped.items():
                self._overwrite(name, edited)
            self._carry()
            if graft is not None:
                self.graft(graft)

    def save(self, folder: str | Path) -> None:
        """Write model, as it is now, and tokenizer as a checkpoint that plain transformers loads.

        Written under another name and moved into place. Raises StoreError if it cannot be, or `folder` exists.
        """
        folder = Path(folder)
        refuse_to_replace(folder)
        if self.grafted is not None:
            raise StoreError(f"{self.name} carries a graft, which a checkpoint cannot hold; save the edit instead.")
        if self.change and not all(map(self.is_dense, self.change.changes)):
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

    @property
    def is_edited(self) -> bool:
        """Whether anything is changed or grafted."""
        return self.change is not None or self.grafted is not None

    def check_unedited(self) -> None:
        """Raises AlreadyEdited if the model carries a change."""
        if self.grafted is not None:
            raise AlreadyEdited(f"{self.name} carries a graft at block {self.grafted.layer}; restore() it first.")
        if self.change is not None:
            raise AlreadyEdited(
                f"{self.name} carries an edit of {len(self.change.changes)} matrices. Pass that edit as `past` "
                "to go on from it, or restore() the model first."
            )

    def _parameter(self, name: str) -> Tensor:
        return self.model.get_parameter(name)

    def _values(self, name: str) -> Tensor:
        """A parameter's values, wherever they lie; not to be written to."""
        parameter = self._parameter(name)
        module, _, own = name.rpartition(".")
        return (fetched(self.model.get_submodule(module), own) if is_away(parameter) else parameter).detach()

    def _overwrite(self, name: str, values: Tensor) -> None:
        """Make these the parameter's values, rounded to its dtype."""
        parameter = self._parameter(name)
        if not is_away(parameter):
            parameter.data.copy_(values)
            return
        module, _, own = name.rpartition(".")
        replace(self.model.get_submodule(module), own, values.to(parameter.dtype))

    def _is_transposed(self, name: str) -> bool:
        return isinstance(self.model.get_submodule(name.rpartition(".")[0]), Conv1D)

    @cached_property
    def room(self) -> int:
        """Tokens that fit in memory in a pass without gradients."""
        return tokens_at_once(self)

    @cached_property
    def budget(self) -> int:
        """Tokens of a pass without gradients; fixed once, so that passes to be compared are batched alike."""
        return min(self.room, CPU_PASS) if self.device.type == "cpu" else self.room

    @property
    def vocabulary(self) -> int:
        """Rows of the head."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    # -- forward passes --------------------------------------------------------------------------------

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

    @torch.no_grad()
    def logits(
        self, rows: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, "n vocabulary"]]]:
        """Next-token logits of token rows at chosen positions, batch by batch.

        Yields (row, index into positions[row], logits), packed, in float32 (float64 for a float64 model). Rows
        are batched by length; nothing behind the last wanted position is run; the head runs where it is wanted.
        """
        cut = [list(row[: max(at, default=-1) + 1]) for row, at in zip(rows, positions, strict=True)]
        wanted = [i for i, at in enumerate(positions) if len(at)]
        for batch in self._batches([len(cut[i]) for i in wanted]):
            members = [wanted[i] for i in batch]
            at = [(k, p) for k, i in enumerate(members) for p in positions[i]]
            places = torch.tensor(at, device=self.device).T
            ids = pad([cut[i] for i in members], self.device)
            logits = self.run(ids, head=at_places(places), prompts=[min(positions[i]) + 1 for i in members])
            owner = torch.tensor([i for i in members for _ in positions[i]])
            slot = torch.tensor([j for i in members for j in range(len(positions[i]))])
            assert logits is not None
            yield owner, slot, logits[0].to(self.precision)

    def run(
        self,
        ids: Int[Tensor, "batch token"],
        *,
        enter: tuple[int, Tensor] | None = None,
        leave: int | None = None,
        head: hooks.Change | None = None,
        extra: Iterable[Any] = (),
        weights: Mapping[str, Tensor] | None = None,
        prompts: Sequence[int] | None = None,
        **inputs: Any,
    ) -> Tensor | None:
        """One forward pass of the model's own modules, shortened at either end.

        `enter` = (layer, hidden): skip the blocks up to `layer`, which gives `hidden`. `leave`: stop after that
        block (returns None). `head`: selects what the output embedding is applied to. `extra`: hooks to hold.
        `weights`: parameter name -> [out, in], used in place of the model's own; they may carry gradients.
        `prompts`: how many tokens of each row a graft may read to decide; None: all.
        """
        with ExitStack() as stack:
            if leave is not None:
                stack.enter_context(hooks.leave_after(self.blocks[leave]))
            for hook in extra:
                stack.enter_context(hook)
            if enter is not None and enter[0] >= 0:
                stack.enter_context(hooks.enter_after(self.blocks, *enter, as_tuple=self.returns_tuple))
            if head is not None:
                stack.enter_context(hooks.narrow(self.model.get_output_embeddings(), head))
            stack.enter_context(self._reading(prompts))
            inputs = {"input_ids": ids, "use_cache": False} | inputs
            if not weights:
                output: Tensor = self.model(**inputs).logits
                return output
            swapped = {name: self._as_stored(name, weight) for name, weight in weights.items()}
            output = functional_call(self.model, swapped, (), inputs).logits
            return output
        return None

    @contextmanager
    def _reading(self, prompts: Sequence[int] | None) -> Iterator[None]:
        self._prompts = prompts
        try:
            yield
        finally:
            self._prompts = None

    def _as_stored(self, name: str, weight: Tensor) -> Tensor:
        return (weight.T if self._is_transposed(name) else weight).to(self._parameter(name).dtype)

    def lens(self, hidden: Float[Tensor, "... model"]) -> Float[Tensor, "... vocabulary"]:
        """Logits if a hidden state of any block were the last block's (method 5.30): final norm, head, and whatever
        scale or cap the model puts on its logits, all run by the model itself.
        """
        rows = hidden.reshape(-1, 1, hidden.shape[-1])
        ids = torch.zeros(rows.shape[:2], dtype=torch.long, device=self.device)
        logits = self.run(ids, enter=(self.depth - 1, rows))
        assert logits is not None
        return logits.reshape(*hidden.shape[:-1], -1)

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

    def key_batches(
        self, rows: Iterable[Sequence[int]], layers: Sequence[int]
    ) -> Iterator[dict[int, Float[Tensor, "token inner"]]]:
        """Down-projection inputs at every token of the rows, all layers in one pass that stops after the last."""
        for batch in grouped(rows, self.budget):
            ids = pad(batch, self.device)
            real = torch.arange(ids.shape[1])[None] < torch.tensor([len(row) for row in batch])[:, None]
            projections = {str(layer): self.down_projection(layer) for layer in layers}
            with torch.no_grad(), hooks.capture(projections, inputs=True) as seen:
                self.run(ids, leave=max(layers), prompts=[len(row) for row in batch])
            yield {layer: seen.pop(str(layer)).reshape(*ids.shape, -1)[real] for layer in layers}

    @torch.no_grad()
    def generate(
        self, rows: Sequence[Sequence[int]], n_tokens: int, stop: Sequence[int] | None = None
    ) -> list[list[int]]:
        """Greedy continuation of each row: the new ids only, ended before the first of `stop` (not included).

        Rows of equal length run together, so that no padding enters.
        """
        made: list[list[int]] = [[] for _ in rows]
        by_length: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(i)
        at_once = max(1, self.room // 8)
        for length, members in by_length.items():
            size = max(1, at_once // (length + n_tokens))
            for start in range(0, len(members), size):
                group = members[start : start + size]
                ids = torch.tensor([list(rows[i]) for i in group], device=self.device)
                for i, new in zip(group, self._greedy(ids, n_tokens, stop), strict=True):
                    made[i] = new
        return made

    def _greedy(self, ids: Tensor, n_tokens: int, stop: Sequence[int] | None) -> list[list[int]]:
        ends = set(stop or ())
        new: list[list[int]] = [[] for _ in ids]
        alive = [True] * len(new)
        cache = None
        for _ in range(n_tokens):
            out = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            ids = out.logits[:, -1].argmax(-1, keepdim=True)
            for k, token in enumerate(ids[:, 0].tolist()):
                alive[k] = alive[k] and token not in ends
                if alive[k]:
                    new[k].append(token)
            if not any(alive):
                break
        return new

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices in batches of like length whose padded size fits in memory."""
        yield from in_batches(lengths, self.budget)


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _beside(change: Float[Tensor, "model inner"]) -> Callable[[Tensor, Tensor], Tensor]:
    """What a module gives once its matrix has changed: its own output plus change @ input."""
    return lambda inputs, output: (output + inputs.to(change.dtype) @ change.T).to(output.dtype)
