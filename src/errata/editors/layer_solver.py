"""LayerSolver: a method's solver at work on the layers of a model, with their statistics and earlier keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from errata.decoder.decoder import Decoder
from errata.decoder.frontier import Frontier
from errata.decoder.memory import place_for
from errata.decoder.reach import PLAIN, Reach
from errata.decoder.site import Contexts, Site
from errata.errors import NotFinite, SolveError
from errata.fleet import Fleet
from errata.solvers import LinearSystem, Prepared, Solution, Solver
from errata.statistics import KeyStatistics
from errata.targets import UpdateNorm


class LayerSolver:
    """`keys`: layer -> keys of the facts edited so far that are to be preserved too (method 1.8).

    `again`: whether a layer is solved for more than once. `reach`: layer -> how its output reaches the stream, where
    residuals are of the stream; a layer that is not named takes residuals as they are.
    """

    def __init__(
        self,
        solver: Solver,
        decoder: Decoder,
        statistics: Mapping[int, KeyStatistics],
        fleet: Fleet,
        *,
        remember: bool,
        again: bool,
        reach: Mapping[int, Reach] | None = None,
    ) -> None:
        self.solver, self.decoder, self.statistics, self.fleet = solver, decoder, statistics, fleet
        self.remember, self.again, self.reach = remember, again, reach or {}
        self.keys: dict[int, Float[Tensor, "fact inner"]] = {}
        self._known: dict[int, Prepared] = {}

    def solve(self, system: LinearSystem) -> Solution:
        """Of the leading rank, on every rank: so weights agree to the last bit whatever hardware ranks run on, and
        statistics and factors, which may be larger than the model, are held once. Raises SolveError, NotFinite."""

        def solve() -> dict[str, Tensor]:
            solution = self.solver.solve(system, self.prepared(system.layer, len(system.keys)))
            numbers = [solution.residual, -1 if solution.rank is None else solution.rank]
            change = solution.change.to(self.decoder.precision)
            check_change(change, system)
            return {
                "change": change,
                "numbers": torch.tensor(numbers, dtype=torch.float64),
            }

        solved = self.fleet.lead(solve)
        residual, rank = solved["numbers"].tolist()
        return Solution(solved["change"], residual, None if rank < 0 else int(rank))

    def keep(self, layer: int, keys: Float[Tensor, "fact inner"]) -> None:
        """Add the keys of facts that have just been solved for."""
        fresh = keys.to("cpu", self.decoder.precision)
        self.keys[layer] = torch.cat([self.keys[layer], fresh]) if layer in self.keys else fresh

    def prepared(self, layer: int, facts: int) -> Prepared:
        """What the solver makes of a layer's statistics: beside its weight if there is room, else in main memory.

        In batches, what does not depend on earlier facts is made once: a null space costs more than all the rest.
        """
        weight = self.decoder.weight(layer)
        needed = self.solver.memory(weight.shape[1], weight.shape[0], facts)
        moment = self.statistics[layer].moment.to(place_for(needed, weight.device))
        solver, past = self.solver, self._past(layer)
        used_again = solver.uses_known or not self.remember
        if not self.again or not used_again:
            return solver.prepare(moment, past, layer=layer)
        if layer not in self._known:
            self._known[layer] = {n: t.cpu() for n, t in solver.prepare(moment, layer=layer).items()}
        known = {name: tensor.to(moment.device) for name, tensor in self._known[layer].items()}
        return solver.prepare(moment, past, layer=layer, known=known)

    def _past(self, layer: int) -> Float[Tensor, "inner inner"] | None:
        """B: the sum of k k^T over facts edited before this batch."""
        if not self.remember or layer not in self.keys:
            return None
        keys = self.keys[layer].double()
        return keys.T @ keys

    def update_norm(self, site: Site, mine: Sequence[int]) -> UpdateNorm:
        """|dW| / |W| that residuals would bring at a layer of the model as it is; keys and factor are made once.

        It is asked for with the residuals of this rank's facts, and answers for all of them.
        """
        prompts = [prompt.stem for place in site for prompt in place.prompts]
        once = [stem[0] for stem in site.stems]

        @cache
        def at_layer(layer: int) -> tuple[Tensor, Tensor, Tensor, Prepared]:
            every = self.decoder.keys(prompts, [layer])[layer]
            weight = self.decoder.weight(layer).to(self.decoder.device, self.decoder.precision)
            prepared = self.prepared(layer, len(site))
            return averaged(every, site.contexts), bare_of(every, site.contexts), weight, prepared

        @cache
        def outputs(layer: int) -> Tensor:
            return Frontier(self.decoder, site.bare).states([layer], space="mlp")[layer]

        def norm(layer: int, residuals: Tensor) -> float:
            keys, bare_keys, weight, prepared = at_layer(layer)
            reach = self.reach.get(layer, PLAIN)
            residuals = reach.asked(residuals, None if reach.norm is None else outputs(layer))
            system = LinearSystem(keys[once], residuals[once], weight, layer, bare_keys[once])
            change = self.solver.solve(system, prepared).change
            return float(torch.linalg.matrix_norm(change)) / float(torch.linalg.matrix_norm(weight))

        def of_all(layer: int, residuals: Tensor) -> float:
            every = self.fleet.rows(mine, {layer: residuals})[layer]
            return float(self.fleet.tell(lambda: norm(layer, every)))

        return of_all


def averaged(keys: Float[Tensor, "prompt inner"], contexts: Contexts) -> Float[Tensor, "fact inner"]:
    """Keys of all prompts, context by context within each fact, to one key per fact: a two-level mean (method 1.4)."""
    weights = torch.tensor(contexts.weights, dtype=keys.dtype, device=keys.device)
    by_fact = keys.unflatten(0, (len(keys) // len(weights), len(weights)))
    return torch.einsum("c,fci->fi", weights, by_fact)


def bare_of(keys: Float[Tensor, "prompt inner"], contexts: Contexts) -> Float[Tensor, "fact inner"]:
    """Of all prompts' keys those of the bare prompts, which come first in each fact."""
    return keys[:: len(contexts.templates)]


def check_change(change: Float[Tensor, "model inner"], system: LinearSystem) -> None:
    """Raises NotFinite or SolveError for a solution that would ruin the layer, or do nothing to reach its targets."""
    if not torch.isfinite(change).all():
        raise NotFinite(
            f"layer {system.layer}: the solution holds values beyond {change.dtype}; nothing was changed. Check the "
            "solver's settings in the recipe: a weight or ridge near 0 leaves some directions without any limit."
        )
    if not change.any() and system.residuals.any():
        raise SolveError(
            f"layer {system.layer}: the solution is 0 everywhere, though its facts are not at their targets; nothing "
            "was changed. The weight that preserves other knowledge is too large: lower it in the recipe's solver."
        )
