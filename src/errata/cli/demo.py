"""errata demo: change facts in the built-in model, and show what changed, what else moved, and undo it."""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from errata.cli.console import Window, corpus_of, fleet, open_decoder, out, practice_of, progress, recipe_of, show
from errata.editor import Editor
from errata.evaluate import SpokenAndStopped, evaluate, probes
from errata.evaluate.generation import said
from errata.methods import method as row_of
from errata.pocket.cases import cases as pocket_cases
from errata.record.run import Run, versions
from errata.record.tables import answer_table, residual_table, score_table, seconds_table
from errata.store import Store


def demo(
    methods: Annotated[str, typer.Option(help="Methods to compare, see `errata methods`.")] = "memit,memit+fe",
    facts: Annotated[int, typer.Option(help="Number of facts to edit.")] = 100,
    seed: Annotated[int, typer.Option(help="Which facts, and which new objects.")] = 0,
    window: Window = None,
    weight: Annotated[float | None, typer.Option(help="Preservation weight lambda instead of the recipe's.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The run folder.")] = Path("runs/demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Use no stored statistics or anchors.")] = False,
) -> None:
    """Edit facts into the built-in model by several methods, side by side."""
    names = methods.split(",")
    for name in names:
        row_of(name)
    started = perf_counter()
    decoder = open_decoder("pocket")
    recipe = recipe_of(decoder, None, window)
    if weight is not None:
        recipe = recipe.with_solver("least_squares", weight=weight)
    cases = pocket_cases(facts, seed)
    store = Store.nowhere() if fresh else Store.default()
    settings = {"model": "pocket", "facts": facts, "seed": seed, "recipe": recipe.to_json()}
    run = Run(f"{facts} facts edited into the pocket model", " ".join(["errata", *sys.argv[1:]]), settings, versions())
    out.print(
        f"[bold]{facts} facts[/bold] about to change in a real Llama-architecture model of "
        f"{sum(p.numel() for p in decoder.model.parameters()) / 1e6:.1f} M parameters; layers {list(recipe.window)}."
    )
    asked = (*probes("belief", "specificity"), SpokenAndStopped("efficacy"))
    corpus = corpus_of("pocket", None)
    edited = [case.fact for case in cases]
    run.answers = [{"prompt": fact.text, "to say": fact.target_new} for fact in edited]

    def note(state: str) -> None:
        for row, text in zip(run.answers, said(decoder, edited), strict=True):
            row[state] = text

    with progress() as tell:
        clock = perf_counter()
        run.scores["unedited"] = evaluate(decoder, cases, asked, tell, fleet()).to_json()
        run.seconds["scores of the unedited model"] = perf_counter() - clock
        note("before")
        for name in names:
            practice = practice_of("pocket", None) if "practice" in row_of(name).needs else ()
            given = {"recipe": recipe, "corpus": corpus, "practice": practice, "store": store}
            editor = Editor(decoder, name, **given, progress=tell, fleet=fleet())  # type: ignore[arg-type]
            outcome = editor.edit(edited)
            run.ledgers[name] = outcome.ledger.to_json()
            clock = perf_counter()
            run.scores[name] = evaluate(decoder, cases, asked, tell, fleet()).to_json()
            run.ledgers[name]["seconds"]["scores"] = perf_counter() - clock
            note(name)
            if fleet().leads:
                outcome.edit.save(output / "edits" / name)
            outcome.restore()
        note("undone")
    run.seconds["total"] = perf_counter() - started
    if not fleet().leads:
        return
    run.write(output)
    show(answer_table(run.answers[:6]), "\nWhat the model says")
    show(score_table(run.scores).turned(), f"\nScores over {facts} facts (share, or nats for D_KL)")
    out.print(
        "Eff.: the edited prompt. Gen.: paraphrases not trained for this fact.\n"
        "Novel: wordings no fact was trained in. Free gen.: said, then stopped.\n"
        "D_KL, Top-k: shift of the next token on neighbours (other subjects of the\n"
        "same relation and object). Far: prompts of other relations.",
        style="dim",
        highlight=False,
    )
    show(residual_table(run.ledgers), "\nShare of the residual left at the window's last layer")
    show(seconds_table(run.ledgers), "\nSeconds")
    first = run.seconds["scores of the unedited model"]
    out.print(
        f"and {first:.1f} s to score the unedited model; {run.seconds['total']:.1f} s in all; "
        f"everything is in [bold]{output}[/bold]",
        highlight=False,
    )
