"""Many processes give what one gives, and nobody waits for the dead.

Ranks are forked from a server that has imported everything once; what they find they leave as JSON for the test.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from errata import Corpus, Decoder, Store, WeightEdit
from errata.decoder.corpus import gather
from errata.delta import WeightDelta
from errata.editors import anchors
from errata.editors.guard import Guard
from errata.errors import FleetError
from errata.evaluate import Case, evaluate, probes
from errata.fleet import Fleet
from tests.editing import decoder_of, editor_of
from tests.models import FAMILIES, tiny_corpus, tiny_facts, tokenizer_of
from tests.processes import CONTEXT

SECONDS = 90.0
"""In which every crew must have ended: none of them hangs."""
Launch = Callable[..., list[int | None]]


@pytest.fixture(scope="module")
def launch(shelf: str) -> Launch:
    """Run `work(folder, rank)` in so many ranks; their exit codes."""

    def run(size: int, work: Callable[[Path, int], None], folder: Path) -> list[int | None]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        crew = [CONTEXT.Process(target=_rank, args=(work, folder, rank, size, port)) for rank in range(size)]
        for process in crew:
            process.start()
        until = time.monotonic() + SECONDS
        for process in crew:
            process.join(max(0.0, until - time.monotonic()))
        codes = [process.exitcode for process in crew]
        for process in crew:
            process.kill()
        return codes

    return run


def _rank(work: Callable[[Path, int], None], folder: Path, rank: int, size: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    work(folder, rank)


def told(folder: Path, size: int) -> list[Any]:
    """What every rank left."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(size)]


def tell(folder: Path, rank: int, value: Any) -> None:
    (folder / f"{rank}.json").write_text(json.dumps(value))


# -- what one process gives --------------------------------------------------------------------------------

EDITS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "uneven shards": ("memit+fe", 8, {}),
    "more ranks than facts": ("memit", 2, {}),
    "an anchor anew": ("blue", 4, {}),
    "in batches": ("memit", 4, {"batch": 3}),
    "a norm over all facts": ("memit+gr", 4, {}),
    "one rank trains": ("ft-m", 2, {}),
}
"""What it shows -> method, number of facts, options of the edit."""


def edits(folder: Path, fleet: Fleet) -> dict[str, WeightDelta]:
    """The change that each of EDITS makes, of a fresh decoder."""
    found = {}
    for what, (method, n, options) in EDITS.items():
        guard = Guard(tiny_corpus()[:3], None, 1e6, 1e6) if "batch" in options else None
        editor = editor_of(decoder_of("llama"), method, store=Store(folder / "store"), fleet=fleet, guard=guard)
        outcome = editor.edit(tiny_facts()[:n], **options)
        assert isinstance(outcome.edit, WeightEdit)
        found[what] = outcome.edit.delta
        assert editor.decoder.change is not None
        assert editor.decoder.change.digest == found[what].digest
    return found


def cases() -> list[Case]:
    return [
        Case(fact, str(i), "Norland", (f"Know that {fact.text}",), ("Quill is a city in", "Brask is a city in"))
        for i, fact in enumerate(tiny_facts()[:4])
    ]


def scores(decoder: Decoder, fleet: Fleet) -> list[Any]:
    edit = WeightDelta(decoder.fingerprint, {decoder.parameter_name(2): 0.3 * decoder.original(2).flip(0)})
    decoder.put_on(edit)
    return evaluate(decoder, cases(), probes("belief", "specificity"), None, fleet).to_json()


def moment(decoder: Decoder, fleet: Fleet) -> list[Any]:
    found = gather(decoder, Corpus.of(tiny_corpus()), [1], 250, None, None, fleet)
    return [found[1].moment.tolist(), found[1].count, len(found[1].halves or ())] if found else []


# -- what many give ----------------------------------------------------------------------------------------


def together(folder: Path, rank: int) -> None:
    with Fleet.here(limit=20.0, beat=0.2) as fleet:
        made = edits(folder, fleet)
        for number, (_, delta) in enumerate(made.items()):
            if rank == 0:
                delta.save(folder / f"{number}.safetensors")
        found = {
            "digests": [delta.digest for delta in made.values()],
            "scores": scores(decoder_of("llama"), fleet),
            "moment": moment(decoder_of("llama"), fleet),
            "parts": fleet.part(4),
            "owners": fleet.owners([0] if rank == 2 else [], 4),
        }
        troubles = []
        for trouble in (one_fails, one_strays):
            try:
                trouble(fleet)
            except (FleetError, ValueError) as error:
                troubles.append(f"{type(error).__name__}: {error}")
                fleet.regroup(error)
        tell(folder, rank, found | {"troubles": troubles, "on": fleet.tell(lambda: "all is well")})


def one_fails(fleet: Fleet) -> None:
    if fleet.rank == 1:
        raise ValueError("of its own")
    if fleet.rank == 2:
        time.sleep(60)
    fleet.sum(torch.ones(1))


def one_strays(fleet: Fleet) -> None:
    if fleet.rank == 1:
        fleet.sum(torch.ones(1))
    fleet.tell(lambda: 0)


def test_three_processes_give_what_one_gives(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    assert launch(3, together, tmp_path) == [0, 0, 0]
    first, *others = crew = told(tmp_path, 3)
    assert [row["parts"] for row in crew] == [[0, 3], [1], [2]]
    assert all(row["owners"] == [[2, 0, 1, 2], [1, 2, 3]] for row in crew)

    alone = edits(tmp_path / "alone", Fleet.solo())
    for number, (what, delta) in enumerate(alone.items()):
        many = WeightDelta.load(tmp_path / f"{number}.safetensors")
        for name, change in delta.changes.items():
            assert torch.linalg.norm(many.changes[name] - change) < 1e-6 * torch.linalg.norm(change), what
    assert all(row["digests"] == first["digests"] for row in others)

    expected = scores(decoder_of("llama"), Fleet.solo())
    for row in crew:
        for one, other in zip(row["scores"], expected, strict=True):
            assert one["per_case"] == pytest.approx(other["per_case"], rel=1e-9), one["name"]

    square, count, halves = moment(decoder_of("llama"), Fleet.solo())
    assert first["moment"][1:] == [count, halves]
    assert torch.allclose(torch.tensor(first["moment"][0]), torch.tensor(square), rtol=1e-9)
    assert all(row["moment"] == [] for row in others)

    assert crew[1]["troubles"][0] == "ValueError: of its own"
    assert all(crew[rank]["troubles"][0] == "FleetError: rank 1 failed: ValueError: of its own" for rank in (0, 2))
    assert any("no longer run the same program" in row["troubles"][1] for row in crew)
    assert [row["on"] for row in crew] == ["all is well"] * 3


# -- a rank that dies --------------------------------------------------------------------------------------


def killed(folder: Path, rank: int) -> None:
    anchors.FLUSH_SECONDS = 0.0

    def progress(stage: str, done: int, total: int) -> None:
        if rank == 1 and stage.startswith("anchors") and done >= 4:
            os.kill(os.getpid(), signal.SIGKILL)

    began = time.monotonic()
    decoder = decoder_of("llama")
    try:
        with Fleet.here(limit=2.0, beat=0.2) as fleet:
            editor_of(decoder, "memit", store=Store(folder / "store"), fleet=fleet, progress=progress).edit(
                tiny_facts()
            )
    except FleetError as error:
        tell(folder, rank, [str(error), time.monotonic() - began, decoder.is_edited])
        sys.exit(3)


def again(folder: Path, rank: int) -> None:
    with Fleet.here(limit=20.0, beat=0.2) as fleet:
        outcome = editor_of(decoder_of("llama"), "memit", store=Store(folder / "store"), fleet=fleet).edit(tiny_facts())
        assert isinstance(outcome.edit, WeightEdit)
        tell(folder, rank, [outcome.edit.delta.digest, outcome.ledger.anchors[3]["stored"]])


def test_when_a_rank_is_killed_the_others_say_so_and_the_next_run_goes_on(launch: Launch, tmp_path: Path) -> None:
    assert launch(2, killed, tmp_path) == [3, -signal.SIGKILL]
    message, seconds, edited = json.loads((tmp_path / "0.json").read_text())
    assert "rank 1 has been silent" in message
    assert seconds < 30
    assert not edited
    assert launch(2, again, tmp_path) == [0, 0]
    first, second = told(tmp_path, 2)
    assert first == second
    assert first[1] >= 6, "its own four facts, and the other's first two"


# -- the command line --------------------------------------------------------------------------------------


def command(folder: Path, rank: int) -> None:
    from errata.cli import app

    model, shared = str(folder / "model"), ["--corpus", str(folder / "corpus.txt")]
    recipe = ["--recipe", str(folder / "recipe.yaml"), *shared]
    grid = ["--methods", "memit,alphaedit", "--edits", "3", "--probes", "belief", *recipe]
    os.environ |= {"ERRATA_STORE": str(folder / "store"), "COLUMNS": "200"}
    sys.stdout = sys.stderr = (folder / f"{rank}.out").open("w")
    codes = []
    for words in (
        ["edit", model, str(folder / "cases.jsonl"), "-o", str(folder / "edit"), "--require", "0", *recipe],
        ["evaluate", model, str(folder / "cases.jsonl"), "--edit", str(folder / "edit"), "-o", str(folder / "s.json")],
        ["statistics", model, "--export", str(folder / "moments"), *recipe],
        ["bench", model, "--dataset", str(folder / "cases.jsonl"), "-o", str(folder / "bench"), *grid],
        ["edit", model, str(folder / "nothing.jsonl")],
    ):
        sys.argv = ["errata", *words]
        try:
            app.main()
        except SystemExit as left:
            codes.append(left.code)
    sys.stdout.flush()
    tell(folder, rank, codes)


def test_the_command_line_runs_under_a_launcher(launch: Launch, tmp_path: Path) -> None:
    FAMILIES["llama"]().save_pretrained(tmp_path / "model")
    tokenizer_of("llama").save_pretrained(tmp_path / "model")
    (tmp_path / "corpus.txt").write_text("\n".join(tiny_corpus()))
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(case.to_json()) + "\n" for case in cases()[:3]))
    recipe = "name: tiny\nwindow: [1, 2]\nanchor: {steps: 4}\nsolvers: {least_squares: {weight: 1, ridge: 0.01}}\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert launch(2, command, tmp_path) == [0, 0]
    codes = told(tmp_path, 2)
    said = [(tmp_path / f"{rank}.out").read_text() for rank in range(2)]
    assert codes[0] == [0, 0, 0, 3, 1], said[0]  # alphaedit finds no null space here, and memit's cell is whole
    assert "edit saved to" in said[0]
    assert "edit saved to" not in said[1]
    assert "1 cells computed" in said[0]
    assert "EmptyNullSpace" in said[0]
    assert (tmp_path / "moments" / "layer-1.safetensors").exists()
    assert "rank 1" in said[1]
    decoder = Decoder.from_pretrained(tmp_path / "model")
    WeightEdit.load(tmp_path / "edit").put_on(decoder)


def test_a_fleet_of_one_needs_no_launcher() -> None:
    with Fleet.here() as fleet:
        assert (fleet.rank, fleet.size, fleet.leads, fleet.part(3)) == (0, 1, True, [0, 1, 2])
        rows = {"x": torch.ones(3, 2)}
        assert fleet.rows(fleet.part(3), rows)["x"] is rows["x"]
        assert fleet.tell(lambda: {"a": 1}) == {"a": 1}
        assert fleet.owners([1], 3) == ([0, 0, 0], [0, 2])
        assert fleet.gather({1: "b", 0: "a"}) == ["a", "b"]
