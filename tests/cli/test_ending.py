"""How commands end: the exit code tells the truth, and every error is one line."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

import errata.cli.methods
from errata.cli import app as cli
from errata.cli import ending
from errata.cli.console import Terminal
from errata.errors import StoreError

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the command line with a verb that raises; gives its exit code and what it said."""

    def call(error: BaseException, *words: str) -> tuple[int, str]:
        app = typer.Typer()

        @app.callback()
        def options() -> None: ...

        @app.command()
        def verb() -> None:
            raise error

        monkeypatch.setattr(cli, "app", app)
        monkeypatch.setattr("sys.argv", ["errata", "verb", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        streams = capsys.readouterr()
        return int(left.value.code or 0), streams.out + streams.err

    return call


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (StoreError("no room"), 1, "StoreError: no room"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "a.json"), 1, "Permission denied: 'a.json'"),
        (MemoryError(), 1, "Try --batch with fewer facts"),
        (KeyError("layer"), 70, "errata made a mistake: KeyError: 'layer' (test_ending.py, line"),
        (ValueError("a\nb" * 5000), 70, "errata made a mistake: ValueError: a b"),
        (KeyboardInterrupt(), 130, "Interrupted. The checkpoint is unchanged"),
        (BrokenPipeError(), 141, ""),
        (typer.Exit(3), 3, ""),
    ],
)
def test_every_error_is_one_line_with_its_code(raising: Call, error: BaseException, code: int, told: str) -> None:
    ended, said = raising(error)
    assert ended == code
    assert told in said
    assert len(said) < 600
    assert said.count("\n") <= 1
    assert "Traceback" not in said


def test_a_mistake_shows_where_it_is_when_asked_to(raising: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ending.TRACEBACK, "1")
    code, said = raising(KeyError("\x1b[2J"))
    assert code == 70
    assert "Traceback (most recent call last)" in said
    assert "\x1b[2J" not in said


def test_whoever_stops_reading_gets_no_traceback() -> None:
    code = "import sys; sys.argv = ['errata', 'methods']\nfrom errata.cli.app import main\nmain()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        said = child.stderr.read()
        assert child.wait() == ending.PIPE_CLOSED
    assert said == ""


def test_the_page_of_exit_codes_and_the_help_say_what_the_code_does() -> None:
    page = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\d+) \| (.*?) \|", page, flags=re.MULTILINE))
    assert rows == {str(code): meaning for code, meaning in ending.CODES.items()}
    for code, meaning in ending.CODES.items():
        assert f"{code} {meaning}" in ending.epilogue()


def test_nothing_is_printed_but_through_the_console() -> None:
    folder = Path(errata.cli.methods.__file__).parent
    for file in folder.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if file.name != "console.py":
            assert not re.search(r"\b(print|echo|secho)\(", text.replace('typer.echo(", ".join', "")), file
            assert "rich" not in text.replace("enrich", ""), file


ATTACK = "\x1b]0;owned\x07\x1b[31mred\x9b2J\u202egnp [bold]x[/bold] :smile: [link=file:///etc]y[/link]"


def test_a_terminal_obeys_nothing_of_what_it_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from errata.cli.console import fail, lines, progress, report, say, show, warn, write_out
    from errata.record.tables import Table

    for speak in (say, warn, fail, report, write_out):
        speak(ATTACK)
    lines([(ATTACK, ATTACK)])
    show(Table.plain([ATTACK, ATTACK], [[ATTACK, ATTACK]]), ATTACK)
    with progress() as tell:
        tell(ATTACK, 1, 2)
    streams = capsys.readouterr()
    said = streams.out + streams.err
    assert not set(said) & set("\x1b\x07\x9b\u202e")
    assert "\\x1b]0;owned\\x07" in said
    assert "[bold]x[/bold] :smile: [link=file:///etc]y[/link]" in said


def test_what_rich_itself_renders_is_made_visible_too(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().print({"a": "\x9b2J"}, "\x1b[2J")
    assert not set(capsys.readouterr().out) & set("\x1b\x9b")


def test_a_limit_of_a_fleet_that_is_no_number_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("ERRATA_FLEET_LIMIT", "soon")
    monkeypatch.setattr("sys.argv", ["errata", "methods"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1
    assert "expected a number of seconds" in capsys.readouterr().err
    assert os.environ["WORLD_SIZE"] == "1"
