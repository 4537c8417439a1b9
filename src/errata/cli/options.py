"""Arguments and options that several verbs have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Conflict(StrEnum):
    """What becomes of records that repeat or contradict each other (`errata.dataset.conflicts`)."""

    refuse = "refuse"
    first = "first"
    last = "last"


Model = Annotated[
    str,
    typer.Argument(
        help="A checkpoint folder, a GGUF file, a Hugging Face hub name, or `pocket` for the model that ships with "
        "errata."
    ),
]
Method = Annotated[str, typer.Option("--method", "-m", help="How to edit; `errata methods` lists all methods.")]
Plugin = Annotated[
    Path | None,
    typer.Option(
        "--plugin",
        help="A Python file that defines METHODS, methods of your own. It runs with all the rights of your account, "
        "so name only a file that you trust.",
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Settings for the model: a shipped recipe's name or a YAML file. Default: the one that lists the model.",
    ),
]
Window = Annotated[
    str | None, typer.Option("--window", help="Layers to edit, such as 3-7 or 1,3,5. Default: the recipe's.")
]
CorpusName = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        help="Ordinary text from which key statistics are gathered: a file, or a dataset's name. Default: the "
        "recipe's; without one, statistics in the store, or text that the model writes itself.",
    ),
]
Practice = Annotated[
    str | None,
    typer.Option(
        "--practice",
        help="Cases on which a method that must be trained first (rledit) is trained. Do not edit or score them.",
    ),
]
Layout = Annotated[
    Path | None,
    typer.Option(
        "--layout", help="A YAML file that says where the model has its parts, for a family that errata does not know."
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="How the file's records are written, such as rome or mquake. Default: recognised by their fields.",
    ),
]
OnConflict = Annotated[
    Conflict,
    typer.Option(
        "--on-conflict",
        help="Records that repeat or contradict each other: refuse the file, or keep the first or the last of them.",
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first N records of the file.")]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="Number format to run in, such as float32 or bfloat16. Default: the checkpoint's."),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="Where to run, such as cpu or cuda:1; auto spreads the model over all devices."),
]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Allow code that comes with the checkpoint to run on this machine.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of lines and tables.")]
InChat = Annotated[
    bool,
    typer.Option("--chat", help="Put each prompt as the user's turn, through the model's own chat template."),
]
System = Annotated[
    str | None, typer.Option("--system", help="With --chat: the system's turn before it. Default: the template's own.")
]
EndTurn = Annotated[
    bool,
    typer.Option(
        "--end-turn", help="The answer is to end there: the token that ends a turn (or a text) belongs to the target."
    ),
]
