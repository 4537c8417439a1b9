"""Arguments and options that several verbs have."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[str, typer.Argument(help="A checkpoint folder, a hub name, or `pocket` for the built-in model.")]
Method = Annotated[str, typer.Option("--method", "-m", help="See `errata methods`.")]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="A recipe's name or a YAML file.")]
Window = Annotated[str | None, typer.Option("--window", help="Layers to edit, such as 3-7 or 1,3,5.")]
CorpusName = Annotated[str | None, typer.Option("--corpus", help="Text for key statistics: a file, or a dataset name.")]
Practice = Annotated[
    str | None, typer.Option("--practice", help="Cases to learn editing from, for methods that do; not those edited.")
]
Layout = Annotated[str | None, typer.Option("--layout", help="Layout of the file; default: seen from its fields.")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 ...; default: the checkpoint's.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 ...; auto: spread over all there are.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the checkpoint.")]
