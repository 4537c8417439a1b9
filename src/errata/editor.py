"""Editor: the face. A model, a method, and what the method needs, ready to edit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from errata.decoder.corpus import Corpus
from errata.decoder.decoder import Decoder
from errata.decoder.joints import joints
from errata.decoder.layout import DecoderLayout
from errata.decoder.loading import bare_model, check_in_memory, check_options
from errata.decoder.site import Contexts
from errata.editors.base import Edit, Ledger, Outcome, WeightEdit
from errata.editors.guard import USUAL, Guard
from errata.editors.lesson import Practice
from errata.editors.revision import Revision, Run, check_new, check_same_settings
from errata.editors.saved import load_edit
from errata.editors.schedule import Schedule
from errata.editors.supplies import Progress, Supplies
from errata.errors import Collapsed, NoPath, StatisticsError, UnusableFacts, WrongEdit
from errata.evaluate import Case, Scores, probes
from errata.evaluate import evaluate as score
from errata.fact import Fact, Problem, check_facts
from errata.fleet import SOLO, Fleet
from errata.method import Method
from errata.methods import METHODS, check_names
from errata.methods import method as row_of
from errata.path import Walker, added, at_point, knob_of, obstacle
from errata.recipe import Recipe, recipe_for, validated
from errata.record.path import EditPath, Goal, Point, path_of
from errata.record.run import versions
from errata.record.verdict import Verdict
from errata.statistics import KeyStatistics
from errata.store import Store
from errata.verdict import verdict

AIM = 0.95
"""Share of the facts that shall hold where nobody asks for another, and no recipe gives the settings."""

BESIDE = (
    "this edit stands beside the model's weights: the model's own save_pretrained is refused while it is on, and its "
    "state_dict() holds nothing of it; save the edit itself"
)


class Editor:
    """Edits a decoder by one method. Statistics, contexts and anchors come from the store where it has them."""

    def __init__(
        self,
        decoder: Decoder,
        method: str | Method = "memit+fe",
        *,
        methods: Mapping[str, Method] = METHODS,
        recipe: str | Path | Recipe | None = None,
        corpus: Corpus | str | Path | Iterable[str] | None = None,
        statistics: Mapping[int, KeyStatistics] | None = None,
        contexts: Contexts | None = None,
        practice: Sequence[Case] = (),
        guard: Guard | None = USUAL,
        store: Store | None = None,
        progress: Progress | None = None,
        fleet: Fleet = SOLO,
        supplies: Supplies | None = None,
    ) -> None:
        """`method`: a Method, or its name in the table `methods`. `corpus`: where key statistics are gathered if
        neither given nor stored: texts, a file, or a dataset name. `contexts` None: sampled from the unedited model
        with the recipe's seed. `practice`: cases from which a method that has to learn how to edit does so; none of
        them may be evaluated. `guard`: limits at which an edit is taken back, and one in batches stops; without texts
        of its own it is given some; None: no limits. `store` None: the default. `fleet`: the processes that share the
        work; every one of them calls the same things in the same order. `supplies`: all of this as it is at hand
        already, in place of the rest.

        Raises UnknownMethod, UnknownName, BadRecipe, WindowOutside.
        """
        row = row_of(method, methods)
        chosen = supplies.recipe if supplies else recipe_for(decoder, recipe)
        check_names(chosen, [*methods.values(), row])
        self.decoder, self.recipe, self.cases = decoder, chosen, practice
        self.method = method if isinstance(method, str) else method.title
        self.supplies = supplies or Supplies(
            decoder,
            chosen,
            corpus=corpus,
            statistics=statistics,
            contexts=contexts,
            practice=[practice_of(case) for case in practice],
            guard=guard,
            store=store or Store.default(),
            progress=progress,
            fleet=fleet,
        )
        self._row = row
        self.pipeline = row.pipeline(chosen, decoder.depth)
        decoder.check_window(self.pipeline.edited)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | nn.Module,
        method: str | Method = "memit+fe",
        *,
        tokenizer: Any = None,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        layout: DecoderLayout | None = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Editor:
        """From a checkpoint folder or hub name, or from a model already in memory with its tokenizer.

        `tokenizer`: in place of the checkpoint's. `options`: those of Editor, and those of loading, which are for
        transformers (`device_map`, `revision`, `attn_implementation`, ...; see `Decoder.from_pretrained`).

        Raises UnknownName for an option that neither knows, before anything is loaded; ModelError if the model cannot
        be loaded, or is in memory already and a loading option contradicts it.
        """
        own = {name: options.pop(name) for name in signature(cls).parameters if name in options}
        check_options(options, own=signature(cls).parameters)
        if isinstance(model, nn.Module):
            check_in_memory(bare_model(model, tokenizer), dtype, device, options)
            return cls(Decoder(model, tokenizer, layout), method, **own)
        where: dict[str, Any] = {"dtype": dtype, "device": device, "layout": layout}
        where |= {"tokenizer": tokenizer, "trust_remote_code": trust_remote_code}
        return cls(Decoder.from_pretrained(model, **where, **options), method, **own)

    def statistics(self) -> dict[int, KeyStatistics]:
        """Key statistics of the layers to be edited; see Supplies."""
        return self.supplies.statistics(self.pipeline.edited)

    @torch.inference_mode(False)  # anchors and training need gradients, whatever mode the caller is in
    def edit(
        self,
        facts: Sequence[Fact] = (),
        *,
        batch: int | None = None,
        targets: Literal["current", "original"] = "current",
        remember: bool = True,
        past: Edit | None = None,
        drop: Sequence[Fact | int] = (),
        aim: float | None = None,
        budget: float | None = None,
        skip_unusable: bool = False,
    ) -> Outcome:
        """Make the model believe the facts. The model is edited when this returns.

        All at once, or `batch` at a time (see Schedule), or as the method's row says. `past`: an edit to go on
        from; the outcome's edit then holds both. A fact of it that is given with another object is replaced, and
        those in `drop` (facts of it, or their numbers from 0) are taken out: the earlier edit is then made again
        without them, from the unedited model, with the anchors it was saved with.

        `aim`: the share of the facts that shall hold, and `budget`: by how many nats of D_KL neighbours may move. With
        either, the facts are solved for along a path of settings from gentle to strong, and the best point is taken;
        with neither, at the recipe's numbers.

        `skip_unusable`: facts that cannot be used are left out, and the ledger's notes say which and why, in place of
        an error.

        Raises UnusableFacts, AlreadyEdited, WrongEdit, StatisticsError, SolveError, Collapsed, NoPath; the model is
        then as before.
        """
        if skip_unusable and facts:
            facts, problems = self.usable(facts)
            if problems and not facts:
                raise UnusableFacts(problems)
            how: dict[str, Any] = {"batch": batch, "targets": targets, "remember": remember, "past": past, "drop": drop}
            outcome = self.edit(facts, **how, aim=aim, budget=budget)
            outcome.ledger.notes[:0] = [f"left out: {problem}" for problem in problems]
            return outcome
        check_new(facts, drop, past)
        self.decoder.identify()
        if past is None:
            self.decoder.check_unedited()
        else:
            past = past.fitted_to(self.decoder)
        self.supplies.earlier = past.manifest.get("statistics") if past else None
        schedule = Schedule(self._row.batch if batch is None else batch, targets, remember)
        if aim is not None or budget is not None:
            return self._on_path(facts, Goal(aim, budget), schedule, past)
        if past is not None and (revision := Revision.of(past, facts, drop)):
            return self._revised(past, revision, facts, schedule)
        return self._run(facts, schedule, past, [*(past.manifest.get("runs", []) if past else [])])

    def usable(self, facts: Sequence[Fact]) -> tuple[list[Fact], list[Problem]]:
        """The facts that can be edited, and for each of the others why it cannot.

        Facts that repeat or contradict each other are all left in: which of them is meant is not for errata to say.
        """
        problems = [
            Problem(i, f"cannot be used: {reason}") for i, fact in enumerate(facts) for reason in fact.problems()
        ]
        whole = [i for i, fact in enumerate(facts) if not fact.problems()]
        if "contexts" in self.pipeline.needs and whole:
            located = [facts[i] for i in whole]
            found = self.decoder.tokens.problems(located, self.supplies.contexts)
            problems += [Problem(whole[problem.fact], problem.reason) for problem in found]
        problems.sort(key=lambda problem: problem.fact)
        left_out = {problem.fact for problem in problems}
        return [fact for i, fact in enumerate(facts) if i not in left_out], problems

    def _run(
        self, facts: Sequence[Fact], schedule: Schedule, past: Edit | None, earlier_runs: Sequence[Mapping[str, Any]]
    ) -> Outcome:
        """One run of the pipeline, whose edit then says what made it."""
        shared = self.pipeline.shared or self.supplies.fleet.size == 1
        edit = self.pipeline.edit if shared else self._led
        outcome = edit(facts, self.supplies, schedule, past)
        outcome.ledger.notes[:0] = joints(self.decoder.tokens, facts)
        if not self.decoder.weights.are_all:
            outcome.ledger.notes.append(BESIDE)
        known = [*(past.facts if past else []), *outcome.facts]
        runs = [*earlier_runs, Run(tuple(outcome.facts), schedule).to_json()]
        manifest = self._manifest(known, schedule) | {"runs": runs}
        if past is not None and "taken_back" in past.manifest:
            manifest["taken_back"] = past.manifest["taken_back"]
        made = replace(outcome.edit, manifest=manifest)  # type: ignore[type-var]
        return replace(outcome, edit=made, judge=self._judge)

    def usual_aim(self, batch: int | None = None, past: Edit | None = None) -> float | None:
        """The share of facts to aim for where nobody says: none where the recipe gives the setting itself."""
        knob = knob_of(self.pipeline)
        given = knob is not None and knob.set_by(self.recipe)
        return None if given or self.recipe.share != 1.0 or self.obstacle(batch, past) else AIM

    def _judge(self, outcome: Outcome, cases: Sequence[Case], neighbours: Sequence[str], wanted: int) -> Verdict:
        return verdict(outcome, self.supplies, cases, neighbours, wanted)

    @torch.inference_mode(False)
    def path(
        self,
        facts: Sequence[Fact],
        aim: float | None = 0.95,
        budget: float | None = None,
        neighbours: Sequence[str] = (),
    ) -> EditPath:
        """The facts solved for from gentle to strong, each point scored; the model is unedited afterwards.

        Points are scored on the facts themselves, and on `neighbours`: prompts about other things; None: some that
        errata writes. `aim`, `budget`: see `edit`. Raises NoPath if the method has none.
        """
        check_facts(facts)
        self.decoder.identify()
        self.decoder.check_unedited()
        return self._walked(facts, Goal(aim, budget), Schedule(self._row.batch), None, neighbours)[0]

    def obstacle(self, batch: int | None = None, past: Edit | None = None) -> str | None:
        """Why an edit by this method cannot choose its settings from a path; None if it can."""
        return obstacle(self.pipeline, Schedule(batch or self._row.batch), past is not None)

    def _walked(
        self,
        facts: Sequence[Fact],
        goal: Goal,
        schedule: Schedule,
        past: Edit | None,
        neighbours: Sequence[str] = (),
    ) -> tuple[EditPath, Walker]:
        """The path, and who walked it: the anchors that all points share, and the seconds they took."""
        if reason := obstacle(self.pipeline, schedule, past is not None):
            raise NoPath(f"no path of settings can be tried: {reason}. Leave out the aim and the budget.")
        near = list(neighbours) or self.supplies.neighbours(facts)[::2]
        walker = Walker(self._row, self.recipe, self.supplies, facts, near)
        return walker.path(goal), walker

    def _on_path(self, facts: Sequence[Fact], goal: Goal, schedule: Schedule, past: Edit | None) -> Outcome:
        """Edited at the best point of the path, as an editor with its recipe would."""
        path, walker = self._walked(facts, goal, schedule, past)
        outcome = self._at(path.point, walker.anchors)._run(facts, schedule, None, [])
        outcome.ledger.seconds = added(walker.seconds, outcome.ledger.seconds)
        return with_path(outcome, path)

    def _at(self, point: Point, anchors: Mapping[str, torch.Tensor]) -> Editor:
        """The same editor with the settings of a point, and anchors at hand."""
        recipe = at_point(self.recipe, knob_of(self.pipeline), point.value, point.share)
        supplies = self.supplies.under(recipe).with_anchors(anchors)
        editor = Editor(self.decoder, self._row, supplies=supplies)
        editor.method = self.method
        return editor

    def _revised(self, past: Edit, revision: Revision, facts: Sequence[Fact], schedule: Schedule) -> Outcome:
        """The earlier edit made again without what is taken back, from the unedited model, then the new facts."""
        decoder, supplies = self.decoder, self.supplies
        check_same_settings(past.manifest, self._settings())
        on = isinstance(past, WeightEdit) and decoder.change is not None and decoder.change.digest == past.delta.digest
        if not on:
            decoder.check_unedited()
        decoder.restore()
        runs = [*revision.runs, *([Run(tuple(facts), schedule)] if facts else [])]
        outcome, edit = None, None
        try:
            self.supplies = supplies.with_anchors(past.anchors if isinstance(past, WeightEdit) else {})
            for run in runs:
                outcome = self._run(run.facts, run.schedule, edit, [] if edit is None else edit.manifest["runs"])
                edit = outcome.edit
                if run is not runs[-1] and len(outcome.facts) < len(run.facts):
                    raise Collapsed(f"making the earlier edit again was {outcome.ledger.notes[-1]}. Nothing was kept.")
        except BaseException:
            decoder.restore()
            if on:
                past.put_on(decoder)
            raise
        finally:
            self.supplies = supplies
        assert outcome is not None
        assert edit is not None
        outcome.ledger.notes[:0] = revision.notes
        taken_back = [*past.manifest.get("taken_back", []), *revision.to_json()]
        manifest = edit.manifest | {"taken_back": taken_back}
        shown = outcome.facts if facts else tuple(edit.facts)
        return replace(outcome, edit=replace(edit, manifest=manifest), facts=shown)  # type: ignore[type-var]

    def evaluate(self, cases: Sequence[Case], *families: str) -> Scores:
        """Scores of the model as it is now, edited or not, by families of probes (all without any named)."""
        return score(self.decoder, cases, probes(*families), self.supplies.progress, self.supplies.fleet)

    def restore(self) -> None:
        """Take any edit off, bit for bit."""
        self.decoder.restore()

    def _led(self, facts: Sequence[Fact], supplies: Supplies, schedule: Schedule, past: Edit | None) -> Outcome:
        """`pipeline.edit` on the leading rank alone; the others put the edit on that it made."""
        decoder, fleet = self.decoder, supplies.fleet
        if "contexts" in self.pipeline.needs:
            _ = supplies.contexts
        if "statistics" in self.pipeline.needs:
            supplies.statistics(self.pipeline.edited)
        _ = supplies.guard
        outcomes: list[Outcome] = []

        def work() -> dict[str, torch.Tensor]:
            outcomes.append(self.pipeline.edit(facts, supplies.alone(), schedule, past))
            with tempfile.TemporaryDirectory() as folder:
                made = Path(folder) / "edit"
                outcomes[0].edit.save(made)
                return {file.name: torch.from_numpy(np.fromfile(file, dtype=np.uint8)) for file in made.iterdir()}

        files = fleet.lead(work)
        edited = fleet.tell(lambda: len(outcomes[0].facts))
        if fleet.leads:
            return outcomes[0]
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content.numpy().tobytes())
            edit = load_edit(folder)
            decoder.restore()
            edit.put_on(decoder)
            return Outcome(edit, Ledger(), decoder, tuple(facts[:edited]))

    def _settings(self) -> dict[str, Any]:
        """What an edit of the same facts follows from."""
        made = self.pipeline.describe()
        if "contexts" in self.pipeline.needs:
            made["contexts"] = self.supplies.contexts.groups
        if "practice" in self.pipeline.needs:
            made["practice"] = [case.id for case in self.cases]
        return made

    def _manifest(self, facts: Sequence[Fact], schedule: Schedule) -> dict[str, Any]:
        made: dict[str, Any] = {
            "model": self.decoder.name,
            **({"origin": self.decoder.origin} if self.decoder.origin else {}),
            "identity": self.decoder.described().to_json(),
            "dtype": str(self.decoder.dtype).removeprefix("torch."),
            "method": self.method,
            **self._settings(),
            "schedule": asdict(schedule),
            "recipe": self.recipe.to_json(),
        }
        if "statistics" in self.pipeline.needs:
            layers = sorted(set(self.pipeline.edited))
            made["statistics"] = self.supplies.origin(layers) | {"shrinkage": self.supplies.shrinkage(layers)}
        return made | {"versions": versions(), "facts": [asdict(fact) for fact in facts]}


def with_path(outcome: Outcome, path: EditPath) -> Outcome:
    """The outcome of an edit that was made at the point that a path takes."""
    manifest = outcome.edit.manifest | {"path": path.to_json()}
    return replace(outcome, edit=replace(outcome.edit, manifest=manifest))  # type: ignore[type-var]


@torch.inference_mode(False)
def take(
    decoder: Decoder,
    edit: Edit,
    number: int,
    *,
    methods: Mapping[str, Method] = METHODS,
    corpus: Corpus | str | Path | Iterable[str] | None = None,
    guard: Guard | None = USUAL,
    store: Store | None = None,
    progress: Progress | None = None,
    fleet: Fleet = SOLO,
) -> Outcome:
    """Another point of the path that an edit was taken from, solved for with the anchors that the edit was saved with.

    The decoder shall be unedited. Statistics come from the store, or, if they are no longer there, from `corpus`.
    Raises WrongEdit if the edit has no path, UnknownName for a number that is not on it.
    """
    path = path_of(edit.manifest)
    if path is None or not isinstance(edit, WeightEdit):
        raise WrongEdit("this edit was made at given settings, so there is no path with other points to take")
    made = edit.fitted_to(decoder).manifest
    recipe = validated(made["recipe"], "the recipe of the edit")
    origin = made["statistics"]["corpus"]
    given = Corpus.at(corpus) or OnlyNamed(origin, partial(_gone, origin))
    options: dict[str, Any] = {
        "corpus": given,
        "contexts": Contexts(tuple(map(tuple, made["contexts"]))),
        "methods": methods,
    }
    options |= {"guard": guard, "store": store, "progress": progress, "fleet": fleet}
    editor = Editor(decoder, made["method"], recipe=recipe, **options)
    other = replace(path, taken=path.numbered(number).number)
    return with_path(editor._at(other.point, edit.anchors).edit(edit.facts), other)


class OnlyNamed(Corpus):
    """A corpus of which the store may hold statistics; its texts are not at hand."""

    at_hand = False


def _gone(corpus: str) -> Iterator[str]:
    raise StatisticsError(
        f"the key statistics from {corpus} are no longer in the store; give the corpus: --corpus FILE"
    )


def practice_of(case: Case) -> Practice:
    """A case as an editor may learn from it."""
    answers = case.neighbourhood_answers or (case.target_true,) * len(case.neighbourhood)
    near = tuple((prompt, answer) for prompt, answer in zip(case.neighbourhood, answers, strict=True) if answer)
    return Practice(case.fact, case.paraphrases, near)
