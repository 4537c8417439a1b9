"""errata doctor: whether and how errata can edit a model."""

from __future__ import annotations

from typing import Annotated

import typer

from errata.cli.console import lines, say
from errata.cli.options import CorpusName, Device, Dtype, Layout, Method, Model, RecipeName, Trust, Window


def doctor(
    model: Model,
    method: Method = "memit+fe",
    window: Window = None,
    recipe: RecipeName = None,
    corpus: CorpusName = None,
    facts: Annotated[int, typer.Option(min=1, help="Number of facts for which memory is estimated.")] = 1000,
    dtype: Dtype = None,
    device: Device = None,
    layout: Layout = None,
    trust_remote_code: Trust = False,
) -> None:
    """Show a model's structure, the layers to edit, and the memory and data that an edit needs. Changes nothing."""
    from errata.cli.work.opening import corpus_of, open_decoder, recipe_of
    from errata.cli.work.plan import costs, findings
    from errata.editor import Editor

    decoder = open_decoder(model, dtype, device, trust_remote_code, layout)
    decoder.check_finite()
    decoder.check_causal()
    chosen = recipe_of(decoder, recipe, window)
    editor = Editor(decoder, method, recipe=chosen, corpus=corpus_of(model, corpus))
    say("the model")
    lines(findings(decoder, chosen))
    say(f"an edit of {facts} facts by {method}")
    lines(costs(editor, facts))
