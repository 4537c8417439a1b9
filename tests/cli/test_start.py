"""Starting: help and `import errata` come at once, because nothing heavy is imported for them."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import errata
import errata.cli.study
from errata.cli.app import app
from errata.study import STUDIES

VERBS = ["demo", "edit", "take", "apply", "undo", "export", "combine", "show", "diff", "evaluate", "bench", "study"]
VERBS += ["report", "statistics", "doctor", "methods", "store"]
HEAVY = "torch", "transformers", "accelerate", "matplotlib", "datasets", "numpy"

NAMED_SHELL = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
"""Completion is shown for the shell that is named; the one above this process is not looked for: there may be none."""

CODE = """
import contextlib, io, sys
import errata
from errata.cli.app import main
for words in {lines!r}:
    sys.argv = ["errata", *words]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main()
    assert len(said.getvalue()) > 20, words
print(sorted(set({heavy!r}) & set(sys.modules)))
"""


def test_help_and_versions_import_neither_torch_nor_transformers() -> None:
    lines = [["--help"], ["--version"], ["--show-completion", "bash"], *([verb, "--help"] for verb in VERBS)]
    code = CODE.format(lines=lines, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=NAMED_SHELL)
    assert done.stdout.strip() == "[]"


def test_help_names_every_verb_with_its_purpose() -> None:
    said = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    for verb in VERBS:
        assert verb in said
    assert "Edit facts into a model" in said


def test_versions_are_told_of_what_numbers_depend_on() -> None:
    said = CliRunner().invoke(app, ["--version"])
    assert said.exit_code == 0
    assert said.output.split()[::2] == ["errata", "torch", "transformers"]


def test_every_name_of_the_front_door_is_the_one_of_its_home() -> None:
    for name in errata.__all__:
        value = getattr(errata, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__module__ == errata._HOME[name]
    assert set(errata._HOME) == set(errata.__all__)
    assert set(errata.__all__) <= set(dir(errata))
    with pytest.raises(AttributeError, match="no attribute 'Editr'"):
        errata.Editr  # noqa: B018


def test_the_help_of_study_names_the_studies_there_are() -> None:
    assert tuple(STUDIES) == errata.cli.study.STUDIES


def test_verbs_are_light_and_their_work_is_in_a_room_of_its_own() -> None:
    folder = Path(errata.cli.__file__).parent
    for file in folder.glob("*.py"):
        heavy = [
            line
            for line in file.read_text(encoding="utf-8").splitlines()
            if line.startswith(("from errata.", "import errata."))
            and not line.startswith(("from errata.cli", "from errata.errors", "from errata.visible"))
        ]
        assert not heavy, file
