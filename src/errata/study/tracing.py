"""Causal tracing: at which tokens and layers does a fact pass through? Noise on the subject, states put back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from errata.decoder import hooks
from errata.decoder.decoder import Decoder
from errata.decoder.rows import in_batches, pad
from errata.decoder.site import Prompt
from errata.fact import Fact
from errata.record.chart import Axis, Chart, Line, Point
from errata.record.tables import Table
from errata.study.finding import Finding, PerFact, line
from errata.study.trial import Trial

PLACES = {
    "first subject token": "first",
    "middle subject token": "middle",
    "last subject token": "last",
    "token after the subject": "next",
    "middle of the rest": "rest",
    "last token": "end",
}
"""Kind of place -> its name in a narrow table."""
DECISIVE = "last subject token"
NOISE = 3.0
MLP_WINDOW = 5
STATE, MLP, ATTENTION, SEVERED = "state", "mlp", "attention", "severed "

Key = tuple[str, str, int]
"""What was put back, at which kind of place, at which layer."""
Held = AbstractContextManager[None]


@dataclass(frozen=True)
class TracedPrompt:
    """One prompt: its ids, the subject's tokens, and one position for each kind of place it has."""

    ids: tuple[int, ...]
    subject: range
    places: dict[str, int]


@dataclass(frozen=True)
class Effect:
    """Rise of P(answer) over the corrupted run."""

    layer: int
    rise: PerFact


@dataclass(frozen=True)
class Tracing(Finding):
    """Indirect effects: P(answer) with one thing put back, less P(answer) with the subject noised."""

    layers: tuple[int, ...]
    deviation: float
    """Of the embeddings of all subjects' tokens."""
    noise: float
    """Standard deviation of the noise, in those deviations."""
    samples: int
    mlp_window: int
    clean: PerFact
    """P(answer) of the untouched run; the answer is the token most likely there."""
    corrupted: PerFact
    """P(answer) with noise, mean over samples."""
    effects: dict[str, dict[str, tuple[Effect, ...]]]
    """"state" or "mlp" -> place -> a row per layer; "mlp" puts back down-projections' outputs around the layer."""
    severed: dict[str, tuple[Effect, ...]]
    """"mlp" or "attention" -> a row per layer: the state at the last subject token put back, and modules of that kind
    behind it held at what they gave in the corrupted run."""
    window: tuple[int, ...]
    """The stretch of layers that it suggests editing."""

    name: ClassVar[str] = "tracing"
    title: ClassVar[str] = "Causal tracing"

    @property
    def note(self) -> str:
        return (
            f"{len(self.clean.values)} facts, {self.samples} draws of noise each. Gaussian noise of {self.noise:g} "
            f"standard deviations of the subjects' token embeddings ({self.noise:g} x {self.deviation:.4g}) is added "
            "to all tokens of the subject. The answer is the token that is most likely in the clean run: "
            f"P = {self.clean.text(3)} clean, {self.corrupted.text(3)} corrupted. Shown: the rise of P over the "
            "corrupted run when one token's block output is put back to its clean value, or one token's "
            f"down-projection outputs in the {self.mlp_window} layers around. One token stands for each kind of "
            "place: the subject's first, middle and last, the next one, one amid the rest, the prompt's end. "
            "Severed: the state at the last subject token is put back at a layer, while at that token the MLPs (or "
            "attentions) of all later layers give what they gave in the corrupted run; the gap is what these modules "
            f"add. Suggested window {list(self.window)}: the {len(self.window)} adjacent layers over which that gap "
            "falls most, from the layer before the first to the last. The rule is errata's; ROME and MEMIT chose by "
            "eye."
        )

    @property
    def gaps(self) -> list[float]:
        """What MLPs behind a layer add to the effect of the state put back there, mean over facts, layer by layer."""
        return _gaps(self.effects, self.severed)

    def tables(self) -> dict[str, Table]:
        found = {}
        for kind, text in ((STATE, "states"), (MLP, f"MLP outputs, {self.mlp_window} layers")):
            places = self.effects[kind]
            found[f"Effect of putting back {text}"] = self._by_layer(
                [PLACES[place] for place in places], [[one.rise.text() for one in row] for row in places.values()]
            )
        columns = ["as it is", *(f"{kind} severed" for kind in self.severed), "gap of the MLPs"]
        curves = [self.effects[STATE][DECISIVE], *self.severed.values()]
        cells = [[one.rise.text() for one in row] for row in curves]
        cells.append([f"{gap:z.2f}" for gap in self.gaps])
        found["State at the last subject token put back"] = self._by_layer(columns, cells)
        return found

    def _by_layer(self, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> Table:
        """A row per layer; `cells` are given column by column."""
        rows = [list(row) for row in zip(map(str, self.layers), *cells, strict=True)]
        return Table.plain(["layer", *columns], rows, 0)

    def charts(self) -> list[Chart]:
        layers, rise = Axis.of_layers("layer put back", self.layers), Axis("rise of P(answer)")
        texts = {STATE: "One state put back", MLP: f"MLP outputs of {self.mlp_window} layers put back"}
        charts = [
            Chart(text, layers, rise, [_rises(place, row) for place, row in self.effects[kind].items()])
            for kind, text in texts.items()
        ]
        curves = [_rises("as it is", self.effects[STATE][DECISIVE])]
        curves += [_rises(f"{kind} severed", row) for kind, row in self.severed.items()]
        charts.append(Chart("State at the last subject token put back", layers, rise, curves))
        gap = Line("gap", [Point(layer, gap) for layer, gap in zip(self.layers, self.gaps, strict=True)])
        ends = self.window[0] - 0.5, self.window[-1] + 0.5
        charts.append(Chart("What MLPs behind it add; shaded: the suggested window", layers, rise, [gap], ends))
        return charts


def _rises(name: str, effects: Sequence[Effect]) -> Line:
    return line(name, [(effect.layer, effect.rise) for effect in effects])


def tracing(
    trial: Trial,
    *,
    layers: Sequence[int] | None = None,
    samples: int = 5,
    noise: float = NOISE,
    mlp_window: int = MLP_WINDOW,
    seed: int = 0,
) -> Tracing:
    """Average indirect effects of states and MLP outputs, whole and severed, and the window they suggest.

    Source: ROME (arXiv 2202.05262) for noise and restoration; MEMIT (arXiv 2210.07229) for the severed modules and
    the reading of their gap. `layers` None: all.
    """
    decoder = trial.decoder
    layers = list(range(decoder.depth)) if layers is None else list(layers)
    decoder.check_window(layers)
    asked = [_asked(decoder, fact) for fact in trial.facts]
    deviation = _deviation(decoder, asked)
    generator = torch.Generator().manual_seed(seed)
    found: list[dict[Key, float]] = [{} for _ in asked]
    clean, corrupted = ([0.0] * len(asked) for _ in range(2))
    done = 0
    for members in in_batches([len(one.ids) for one in asked], max(1, decoder.budget // (2 * samples))):
        with torch.no_grad():
            batch = _Batch(decoder, [asked[i] for i in members], noise * deviation, samples, generator)
        for k, (i, rises) in enumerate(zip(members, _traced(batch, layers, mlp_window), strict=True)):
            found[i], clean[i], corrupted[i] = rises, float(batch.clean[k]), float(batch.corrupted[k])
        done += len(members)
        trial.tell("causal tracing", done, len(asked))
    effects = {kind: _together(found, kind, layers) for kind in (STATE, MLP)}
    cut = {kind: _together(found, SEVERED + kind, layers) for kind in (MLP, ATTENTION)}
    severed = {kind: places[DECISIVE] for kind, places in cut.items() if places}
    return Tracing(
        tuple(layers),
        deviation,
        noise,
        samples,
        mlp_window,
        PerFact(tuple(clean)),
        PerFact(tuple(corrupted)),
        effects,
        severed,
        suggested(layers, _gaps(effects, severed), len(trial.window)),
    )


def _asked(decoder: Decoder, fact: Fact) -> TracedPrompt:
    located = decoder.tokens.locate(fact.prompt, fact.subject, form=fact.form)
    first = _first(decoder, fact, located)
    last, end = located.decisive, len(located.ids) - 1
    places = {DECISIVE: last}
    if last > first:
        places["first subject token"] = first
    if last > first + 1:
        places["middle subject token"] = (first + last) // 2
    if end > last + 1:
        places["token after the subject"] = last + 1
    if end > last + 2:
        places["middle of the rest"] = (last + 2 + end) // 2
    if end > last:
        places["last token"] = end
    return TracedPrompt(located.ids, range(first, last + 1), places)


def _first(decoder: Decoder, fact: Fact, located: Prompt) -> int:
    """The position of the subject's first token."""
    if fact.chat is None:
        return min(len(decoder.token_ids(fact.prompt.split("{}")[0])), located.decisive)
    without = decoder.token_ids(fact.prompt.replace("{}", "", 1), fact.form)
    pairs = zip(located.ids[: located.decisive], without, strict=False)
    return next((i for i, (mine, other) in enumerate(pairs) if mine != other), located.decisive)


def _deviation(decoder: Decoder, asked: Sequence[TracedPrompt]) -> float:
    """Standard deviation of the embeddings of all subject tokens."""
    ids = torch.tensor([one.ids[i] for one in asked for i in one.subject], device=decoder.device)
    with torch.no_grad():
        return float(decoder.model.get_input_embeddings()(ids).double().std())


class _Batch:
    """A few prompts: a clean run, a corrupted one in several draws, and what putting things back brings.

    Every prompt stands in `samples` rows. Blocks before the first one that is touched are not run again.
    """

    def __init__(
        self, decoder: Decoder, asked: Sequence[TracedPrompt], sigma: float, samples: int, generator: Generator
    ) -> None:
        self.decoder, self.asked, self.samples = decoder, asked, samples
        parts = {MLP: decoder.layout.down_projection, ATTENTION: decoder.layout.attention}
        self.modules: dict[tuple[str, int], nn.Module] = {(STATE, la): b for la, b in enumerate(decoder.blocks)}
        for kind, path in parts.items():
            if path is not None:
                self.modules |= {(kind, la): b.get_submodule(path) for la, b in enumerate(decoder.blocks)}
        self.ids = pad([one.ids for one in asked], decoder.device).repeat_interleave(samples, 0)
        self.end = torch.tensor([len(one.ids) - 1 for one in asked]).repeat_interleave(samples)
        self.row = torch.arange(len(self.ids))
        self.noise = self._noise(sigma, generator).to(decoder.device)
        self.clean_run, logits = self._seen([], samples)
        self.answer = logits.argmax(-1)
        self.clean = self._mean(logits)
        self.corrupted_run, logits = self._seen([self._noised()], 1)
        self.corrupted = self._mean(logits)

    def _noise(self, sigma: float, generator: Generator) -> Tensor:
        width = self.decoder.model.get_input_embeddings().weight.shape[1]
        noise = torch.zeros(len(self.asked), self.samples, self.ids.shape[1], width)
        for i, one in enumerate(self.asked):
            shape = (self.samples, len(one.subject), width)
            noise[i, :, one.subject.start : one.subject.stop] = sigma * torch.randn(shape, generator=generator)
        return noise.flatten(0, 1)

    def _noised(self) -> Held:
        return hooks.substitute(self.decoder.model.get_input_embeddings(), lambda state: state + self.noise.to(state))

    def _seen(self, held: Sequence[Held], each: int) -> tuple[dict[tuple[str, int], Tensor], Tensor]:
        """All modules' outputs and the logits of one run; of a run without noise one row in `each` is run."""
        found: dict[tuple[str, int], Tensor] = {}

        def keep(key: tuple[str, int], output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            found[key] = first.reshape(len(self.ids) // each, self.ids.shape[1], -1).repeat_interleave(each, 0)

        with ExitStack() as watched:
            for key, module in self.modules.items():
                watched.enter_context(hooks.watch(module, partial(keep, key)))
            logits = self._logits(held, None, each)
        return found, logits.repeat_interleave(each, 0)

    def _logits(self, held: Sequence[Held], enter: tuple[int, Tensor] | None, each: int = 1) -> Tensor:
        row, end = self.row[: len(self.row) // each], self.end[::each]
        ids, head = self.ids[::each], lambda state: state[row, end][None]
        found = self.decoder.run(ids, enter=enter, extra=held, head=head)
        assert found is not None
        return found[0].to(self.decoder.precision)

    def _mean(self, logits: Tensor) -> Tensor:
        """P(answer) of each prompt, over its rows."""
        return logits.softmax(-1).gather(-1, self.answer[:, None]).unflatten(0, (-1, self.samples)).mean((1, 2)).cpu()

    def state(self, layer: int, at: Tensor) -> Tensor:
        """[prompt] P(answer) with the block's output put back at one position of each row."""
        return self._mean(self._logits([], self._restored(layer, at)))

    def outputs(self, layers: Sequence[int], at: Tensor) -> Tensor:
        """[prompt] P(answer) with the down-projections' outputs of these layers put back."""
        held = [self._holding((MLP, layer), self.clean_run, at) for layer in layers]
        if layers[0] == 0:
            return self._mean(self._logits([self._noised(), *held], None))
        before = layers[0] - 1
        return self._mean(self._logits(held, (before, self.corrupted_run[STATE, before])))

    def severed(self, kind: str, layer: int, at: Tensor) -> Tensor:
        """`state`, with that kind of module behind the layer held at its corrupted output at the same position."""
        behind = range(layer + 1, self.decoder.depth)
        held = [self._holding((kind, other), self.corrupted_run, at) for other in behind]
        return self._mean(self._logits(held, self._restored(layer, at)))

    def knows(self, kind: str) -> bool:
        """Whether this family's layout names such a module."""
        return (kind, 0) in self.modules

    def _restored(self, layer: int, at: Tensor) -> tuple[int, Tensor]:
        new = self.corrupted_run[STATE, layer].clone()
        new[self.row, at] = self.clean_run[STATE, layer][self.row, at]
        return layer, new

    def _holding(self, key: tuple[str, int], run: dict[tuple[str, int], Tensor], at: Tensor) -> Held:
        kept, shape = run[key][self.row, at], (*self.ids.shape, -1)

        def overwrite(state: Tensor) -> Tensor:
            new = state.clone()
            new.view(shape)[self.row, at] = kept  # some families flatten prompts and tokens before the MLP
            return new

        if key[0] == MLP:
            return hooks.stand_in(self.modules[key], lambda _input, output: overwrite(output))
        return hooks.substitute(self.modules[key], overwrite)


@torch.no_grad()
def _traced(batch: _Batch, layers: Sequence[int], span: int) -> list[dict[Key, float]]:
    """For each prompt: what was put back, where, at which layer -> rise of P(answer)."""
    found: list[dict[Key, float]] = [{} for _ in batch.asked]
    for place in PLACES:
        holders = [i for i, one in enumerate(batch.asked) if place in one.places]
        if not holders:
            continue
        at = torch.tensor([one.places.get(place, 0) for one in batch.asked]).repeat_interleave(batch.samples)
        for layer in layers:
            around = range(max(0, layer - span // 2), min(batch.decoder.depth, layer - span // 2 + span))
            rises = {(STATE, place, layer): batch.state(layer, at), (MLP, place, layer): batch.outputs(around, at)}
            if place == DECISIVE:
                for kind in filter(batch.knows, (MLP, ATTENTION)):
                    rises[SEVERED + kind, place, layer] = batch.severed(kind, layer, at)
            for key, values in rises.items():
                for i in holders:
                    found[i][key] = float(values[i] - batch.corrupted[i])
    return found


def _together(found: Sequence[dict[Key, float]], kind: str, layers: Sequence[int]) -> dict[str, tuple[Effect, ...]]:
    """Place -> the rise fact by fact, a row per layer, for the places that some fact has."""
    return {
        place: tuple(Effect(layer, PerFact(tuple(one.get((kind, place, layer)) for one in found))) for layer in layers)
        for place in PLACES
        if any((kind, place, layers[0]) in one for one in found)
    }


def _gaps(effects: dict[str, dict[str, tuple[Effect, ...]]], severed: dict[str, tuple[Effect, ...]]) -> list[float]:
    whole = effects[STATE][DECISIVE]
    return [one.rise.mean - cut.rise.mean for one, cut in zip(whole, severed[MLP], strict=True)]


def suggested(layers: Sequence[int], gaps: Sequence[float], size: int) -> tuple[int, ...]:
    """The `size` adjacent layers over which the MLPs' gap falls most; of equal falls the first."""
    size = min(size, len(layers))
    starts = range(len(layers) - size + 1)
    best = max(starts, key=lambda i: (gaps[max(0, i - 1)] - gaps[i + size - 1], -i))
    return tuple(layers[best : best + size])
