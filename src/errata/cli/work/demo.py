"""The parts of errata demo: editing by each method in turn, scoring, and showing it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from errata.cli.console import fleet, say, show
from errata.cli.work.opening import corpus_of, practice_of
from errata.decoder.decoder import Decoder
from errata.editor import Editor
from errata.editors.supplies import Progress
from errata.evaluate import Case, SpokenAndStopped, evaluate, probes
from errata.evaluate.generation import said
from errata.methods import method as row_of
from errata.recipe import Recipe
from errata.record.run import Run, versions
from errata.record.tables import answer_table, residual_table, score_table, seconds_table
from errata.store import Store

UNEDITED_SCORES = "scores of the unedited model"


@dataclass(frozen=True)
class Demo:
    """Facts edited into the built-in model by several methods, one after another, each undone before the next."""

    decoder: Decoder
    recipe: Recipe
    cases: Sequence[Case]
    store: Store
    progress: Progress

    def run(self, methods: Sequence[str], edits: Path, seed: int, command: str) -> Run:
        """The record of all methods; each edit is saved in a folder of its own in `edits`."""
        started = perf_counter()
        facts = len(self.cases)
        settings = {"model": "pocket", "facts": facts, "seed": seed, "recipe": self.recipe.to_json()}
        run = Run(f"{facts} facts edited into the pocket model", command, settings, versions())
        run.answers = [{"prompt": case.fact.text, "to say": case.fact.target_new} for case in self.cases]
        run.seconds[UNEDITED_SCORES] = self._score(run, "unedited")
        self._note_answers(run, "before")
        for method in methods:
            self._one_method(run, method, edits / method)
        self._note_answers(run, "undone")
        run.seconds["total"] = perf_counter() - started
        return run

    def _one_method(self, run: Run, method: str, folder: Path) -> None:
        practice = practice_of("pocket", None) if "practice" in row_of(method).needs else ()
        given: Any = {"recipe": self.recipe, "corpus": corpus_of("pocket", None), "practice": practice}
        editor = Editor(self.decoder, method, **given, store=self.store, progress=self.progress, fleet=fleet())
        outcome = editor.edit([case.fact for case in self.cases])
        run.ledgers[method] = outcome.ledger.to_json()
        run.ledgers[method]["seconds"]["scores"] = self._score(run, method)
        self._note_answers(run, method)
        if fleet().leads:
            outcome.edit.save(folder)
        outcome.restore()

    def _score(self, run: Run, state: str) -> float:
        """Score the model as it is now; the seconds it took."""
        started = perf_counter()
        asked = (*probes("belief", "specificity"), SpokenAndStopped("efficacy"))
        run.scores[state] = evaluate(self.decoder, self.cases, asked, self.progress, fleet()).to_json()
        return perf_counter() - started

    def _note_answers(self, run: Run, state: str) -> None:
        for row, text in zip(run.answers, said(self.decoder, [case.fact for case in self.cases]), strict=True):
            row[state] = text


def announce(decoder: Decoder, recipe: Recipe, facts: int) -> None:
    """Print what is about to happen."""
    parameters = sum(p.numel() for p in decoder.model.parameters()) / 1e6
    say(
        f"{facts} facts will be edited into a language model (Llama architecture) of "
        f"{parameters:.1f} M parameters; layers {list(recipe.window)}."
    )


def show_demo(run: Run, facts: int, output: Path) -> None:
    """Print answers, scores, residuals and seconds."""
    show(answer_table(run.answers[:6]), "\nWhat the model says")
    show(score_table(run.scores).turned(), f"\nScores over {facts} facts (share, or nats for D_KL)")
    say(
        "Eff.: the prompt that was edited. Gen.: paraphrases of it that the model was not trained on.\n"
        "Novel: wordings that no fact was trained in. Free gen.: says the new object, then stops.\n"
        "D_KL, Top-k: change of the next-token distribution on neighbours (other subjects with the\n"
        "same relation and object). Far: the same on prompts of other relations.",
        "dim",
    )
    show(residual_table(run.ledgers), "\nShare of the residual left at the window's last layer")
    show(seconds_table(run.ledgers), "\nSeconds")
    say(
        f"and {run.seconds[UNEDITED_SCORES]:.1f} s to score the unedited model; {run.seconds['total']:.1f} s in all; "
        f"everything is in {output}"
    )
