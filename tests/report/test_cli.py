"""errata report on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from errata.cli.console import in_fleet
from errata.cli.report import report
from errata.errors import StoreError
from errata.fleet import Fleet
from errata.report.material import NothingToReport
from tests.report.records import write_bench, write_demo

app = typer.Typer()
app.command()(report)


def test_the_page_is_put_into_the_first_folder(tmp_path: Path) -> None:
    folder = write_demo(tmp_path / "demo")
    done = CliRunner().invoke(app, [str(folder)], catch_exceptions=False)
    assert done.exit_code == 0
    assert str(folder / "report.html") in done.stdout
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_bench_is_reported_where_it_is_told_with_what_failed(tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    folder = write_bench(tmp_path / "bench")
    done = CliRunner().invoke(app, [str(folder), "-o", str(out), "--title", "Ours"], catch_exceptions=False)
    assert "14 runs" in done.stdout
    assert "SingularSystem" in done.output
    assert "<h1>Ours</h1>" in out.read_text(encoding="utf-8")


def test_the_page_of_a_file_stands_beside_it(tmp_path: Path) -> None:
    file = (write_demo(tmp_path / "demo") / "run.json").rename(tmp_path / "scores.json")
    assert CliRunner().invoke(app, [str(file)], catch_exceptions=False).exit_code == 0
    assert (tmp_path / "scores.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_one_rank_of_a_fleet_writes_the_page(tmp_path: Path) -> None:
    folder = write_demo(tmp_path / "demo")
    with in_fleet(Fleet(1, 2)):
        assert CliRunner().invoke(app, [str(folder)], catch_exceptions=False).exit_code == 0
    assert not (folder / "report.html").exists()


def test_nothing_is_written_where_nothing_was_found(tmp_path: Path) -> None:
    with pytest.raises(NothingToReport):
        CliRunner().invoke(app, [str(tmp_path)], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_demo(tmp_path / "demo")
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match=r"report\.html: could not be written \(No space left on device\)"):
        CliRunner().invoke(app, [str(folder)], catch_exceptions=False)
    assert not (folder / "report.html").exists()
