"""errata study: why one method beats another on this model. Tables, figures, and every number behind them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

from errata.cli.console import (
    CorpusName,
    Device,
    Dtype,
    Model,
    RecipeName,
    Trust,
    Window,
    corpus_of,
    err,
    fleet,
    open_decoder,
    out,
    progress,
    recipe_of,
    show,
)
from errata.errors import ErrataError, UnknownName
from errata.evaluate.benchmarks import named_cases
from errata.fact import check_facts
from errata.pocket.cases import cases as pocket_cases
from errata.recipe import parse_window
from errata.record.run import versions
from errata.store import Store
from errata.study import STUDIES, Finding, Trial, cosines, residuals, steering, tracing
from errata.study.folder import Made, write

EVERYTHING = "all"
BY_METHOD: dict[str, Callable[..., Finding]] = {"cosines": cosines, "residuals": residuals, "steering": steering}


def study(
    model: Model,
    what: Annotated[str, typer.Argument(help=f"One of {', '.join(STUDIES)}, or several with commas, or all.")],
    facts_file: Annotated[
        str | None, typer.Argument(help="Facts or cases in any known layout; `pocket` has its own.")
    ] = None,
    facts: Annotated[int, typer.Option(help="Number of facts.")] = 100,
    seed: Annotated[int, typer.Option(help="Which facts (pocket); noise and start vectors.")] = 0,
    methods: Annotated[
        str | None, typer.Option(help="Of cosines, residuals and steering: methods instead of the usual ones.")
    ] = None,
    window: Window = None,
    layers: Annotated[
        str | None, typer.Option(help="Of tracing: layers to put back, such as 0-11; default: all.")
    ] = None,
    recipe: RecipeName = None,
    corpus: CorpusName = None,
    layout: Annotated[str | None, typer.Option(help="Layout of the file; default: seen from its fields.")] = None,
    dtype: Dtype = None,
    device: Device = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder for each study goes here.")] = Path(
        "runs/study"
    ),
    trust_remote_code: Trust = False,
) -> None:
    """See into locate-then-edit: cosines, residuals, Jacobians, stability, causal tracing, layer contributions."""
    if fleet().size > 1:
        raise ErrataError(f"a study runs in one process, and {fleet().size} were started; leave the launcher out.")
    names = list(STUDIES) if what == EVERYTHING else what.split(",")
    for name in names:
        if name not in STUDIES:
            raise UnknownName("study", name, [*STUDIES, EVERYTHING])
    if facts_file is None and model != "pocket":
        raise typer.BadParameter("give a file of facts; only `pocket` has facts of its own", param_hint="FACTS_FILE")
    if facts_file is None:
        wanted = [case.fact for case in pocket_cases(facts, seed)]
    else:
        wanted = [case.fact for case in named_cases(facts_file, layout=layout, limit=facts)]
    check_facts(wanted)
    decoder = open_decoder(model, dtype, device, trust_remote_code)
    chosen = recipe_of(decoder, recipe, window)
    studies: dict[str, Callable[..., Finding]] = dict(STUDIES)
    if methods is not None:
        studies |= {name: partial(function, methods=methods.split(",")) for name, function in BY_METHOD.items()}
    studies["steering"] = partial(studies["steering"], seed=seed)
    studies["tracing"] = partial(tracing, layers=None if layers is None else parse_window(layers), seed=seed)
    settings = {
        "model": decoder.name,
        "fingerprint": decoder.fingerprint,
        "dtype": str(decoder.dtype).removeprefix("torch."),
        "device": str(decoder.device),
        "facts": f"the pocket model's, split report, seed {seed}" if facts_file is None else facts_file,
        "seed": seed,
        "recipe": chosen.to_json(),
    }
    made = Made(" ".join(["errata", *sys.argv[1:]]), settings, versions(), tuple(asdict(fact) for fact in wanted))
    told: list[str] = []
    if decoder.dtype != decoder.precision:
        told.append(f"run in {settings['dtype']}: small shifts are lost to rounding; --dtype float32 is more exact")
    for name in names:
        started = perf_counter()
        with progress() as tell:
            store = Store.default()
            trial = Trial(decoder, tuple(wanted), chosen, corpus_of(model, corpus), store=store, progress=tell)
            finding = studies[name](trial)
        told += write(finding, output / name, made, perf_counter() - started)
        for title, grid in finding.tables().items():
            show(grid, f"\n{title}")
        out.print(finding.note, style="dim", highlight=False)
    for message in dict.fromkeys(told):
        err.print(f"[yellow]{message}[/yellow]", highlight=False)
    out.print(
        f"\n{len(wanted)} facts, {decoder.name}; numbers, tables and figures are in [bold]{output}[/bold]",
        highlight=False,
    )
