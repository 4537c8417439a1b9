"""The bench on a tiny model: what is kept, what is shared, what is done again."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from errata import Corpus, Decoder, Store
from errata.bench import Bench, Dataset, Grid
from errata.bench import running as bench_running
from errata.bench.record import FAILED
from errata.editors import anchors
from errata.errors import ErrataError, SolveError, StoreError, UnknownName
from errata.evaluate import Case, retokenised
from errata.record.run import RECORD
from tests.editing import RECIPE, decoder_of
from tests.models import tiny_corpus, tiny_facts

FACTS = tiny_facts()
CASES = [
    Case(
        fact,
        str(i),
        target_true="Norland",
        paraphrases=(f"Know that {fact.text}",),
        neighbourhood=("Quill is a city in",),
    )
    for i, fact in enumerate(FACTS)
]
WEIGHT = "solvers.least_squares.weight"


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return decoder_of("llama")


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_running, "recipe_for", lambda decoder, wanted: RECIPE)


@pytest.fixture
def optimised(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(layer, facts) of every optimisation that had anything to do."""
    seen: list[tuple[int, int]] = []
    real = anchors.optimise_anchors

    def counted(
        decoder: Decoder, site: Any, layer: int, settings: Any, facts: Sequence[int], **options: Any
    ) -> Iterator[Any]:
        if facts:
            seen.append((layer, len(facts)))
        return real(decoder, site, layer, settings, facts, **options)

    monkeypatch.setattr(anchors, "optimise_anchors", counted)
    return seen


def bench_of(decoder: Decoder, out: Path, store: Store | None = None, **wanted: Any) -> Bench:
    defaults: dict[str, Any] = {"models": "tiny", "datasets": "tiny", "methods": "memit", "edits": 3}
    grid = Grid(**(defaults | {"probes": ("belief", "specificity")} | wanted))
    data = Dataset(lambda n, seed: CASES[seed : seed + n])
    corpus = Corpus.of(tiny_corpus())
    return Bench(grid, out, lambda _: decoder, lambda _: data, lambda _: corpus, store=store or Store.nowhere())


def fail_in(monkeypatch: pytest.MonkeyPatch, error: BaseException, when: int) -> None:
    """Raise at the `when`-th evaluation, counted from 1."""
    real, calls = bench_running.evaluate, [0]

    def evaluate(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == when:
            raise error
        return real(*arguments)

    monkeypatch.setattr(bench_running, "evaluate", evaluate)


def test_methods_that_seek_the_same_state_share_its_anchors(
    decoder: Decoder, tmp_path: Path, optimised: list[tuple[int, int]]
) -> None:
    methods = ("memit", "onelayer", "rect", "prune", "alphaedit")
    sweep = {"solvers.null_space.threshold": (0.3,)}
    results = bench_of(decoder, tmp_path, methods=methods, sweep=sweep).run()
    assert not results.failures
    assert optimised == [(3, 3)]


def test_sweeping_the_preservation_weight_optimises_nothing_again(
    decoder: Decoder, tmp_path: Path, optimised: list[tuple[int, int]]
) -> None:
    sweep = {WEIGHT: (0.5, 1.0, 2.0)}
    bench = bench_of(decoder, tmp_path, methods=("memit", "memit+fe"), sweep=sweep)
    assert len(bench.run().records) == 1 + 6
    assert optimised == [(3, 3), (1, 3)]
    scores = {r.scores["specificity_kl"].value for r in bench.results.records if r.method == "memit"}
    assert len(scores) == 3


def test_statistics_are_gathered_once(decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from errata.editors import supplies

    real, calls = supplies.gather, []
    monkeypatch.setattr(supplies, "gather", lambda *args: calls.append(args[2]) or real(*args))
    bench_of(decoder, tmp_path, methods=("memit", "memit+fe", "onelayer"), sweep={WEIGHT: (1, 2)}, seeds=(0, 1)).run()
    assert calls == [[1, 2, 3]]


def test_the_unedited_model_is_scored_once_per_set_of_cases_and_comes_first(decoder: Decoder, tmp_path: Path) -> None:
    results = bench_of(decoder, tmp_path, methods=("memit", "onelayer"), seeds=(0, 1)).run()
    assert [(r.method, r.seed) for r in results.records] == [
        *(("unedited", 0), ("memit", 0), ("onelayer", 0)),
        *(("unedited", 1), ("memit", 1), ("onelayer", 1)),
    ]
    assert results.records[0].scores["specificity_kl"].value == 0


def test_finished_cells_are_not_computed_again(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench_of(decoder, tmp_path, methods=("memit", "onelayer")).run()
    fail_in(monkeypatch, AssertionError("computed again"), 1)
    again = bench_of(decoder, tmp_path, methods=("memit", "onelayer")).run()
    assert (again.computed, again.found, again.failures) == (0, 2, [])
    assert again.records == first.records


@pytest.mark.parametrize("when", [2, 3], ids=["inside the first cell", "inside the second"])
def test_a_killed_grid_goes_on_where_it_was(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    store = Store.nowhere()
    with monkeypatch.context() as broken:
        fail_in(broken, KeyboardInterrupt(), when)
        with pytest.raises(KeyboardInterrupt):
            bench_of(decoder, tmp_path, store, methods=("memit", "onelayer")).run()
    assert decoder.change is None
    assert len(list(tmp_path.glob(f"*/{RECORD}"))) == when - 1
    assert not list(tmp_path.glob(f"*/{FAILED}"))
    results = bench_of(decoder, tmp_path, store, methods=("memit", "onelayer")).run()
    assert (results.found, results.computed) == (when - 2, 4 - when)
    assert not list(tmp_path.glob(".*"))


def test_a_record_cut_short_is_computed_again(decoder: Decoder, tmp_path: Path) -> None:
    bench_of(decoder, tmp_path).run()
    record = next(tmp_path.glob(f"*memit*/{RECORD}"))
    record.write_bytes(record.read_bytes()[:1000])
    results = bench_of(decoder, tmp_path).run()
    assert (results.found, results.computed) == (0, 1)
    json.loads(record.read_text())


def test_a_failed_cell_is_kept_with_its_error_and_tried_again(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.nowhere()
    with monkeypatch.context() as broken:
        fail_in(broken, RuntimeError("out of luck"), 2)
        results = bench_of(decoder, tmp_path, store, methods=("memit", "onelayer")).run()
    (failure,) = results.failures
    assert failure.error == "RuntimeError: out of luck"
    assert [r.method for r in results.records] == ["unedited", "onelayer"]
    assert failure.folder is not None
    assert json.loads((failure.folder / FAILED).read_text())["error"] == failure.error
    assert bench_of(decoder, tmp_path, store, methods=("memit", "onelayer")).reckon().failed == 1
    told = bench_of(decoder, tmp_path, store, methods=("memit", "onelayer")).run(lambda plan: False)
    assert (told.computed, told.found, told.failures) == (0, 1, [failure])
    results = bench_of(decoder, tmp_path, store, methods=("memit", "onelayer")).run()
    assert (results.found, results.computed, results.failures) == (1, 1, [])
    assert not (failure.folder / FAILED).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process forget its peak")
def test_peak_memory_is_that_of_the_cell(decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, grown = bench_running.evaluate, iter((0, 400, 0))

    def evaluate(*arguments: Any) -> Any:
        torch.ones(next(grown) << 18)  # MiB of float32
        return real(*arguments)

    monkeypatch.setattr(bench_running, "evaluate", evaluate)
    _, first, second = bench_of(decoder, tmp_path, methods=("memit", "onelayer")).run().records
    assert first.memory["process"] > second.memory["process"] + 300


def test_the_model_is_bit_for_bit_itself_between_cells(decoder: Decoder, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in decoder.model.state_dict().items()}
    bench_of(decoder, tmp_path, methods=("memit", "blue")).run()
    assert all(torch.equal(before[name], value) for name, value in decoder.model.state_dict().items())


def test_a_cell_explains_itself(decoder: Decoder, tmp_path: Path) -> None:
    bench_of(decoder, tmp_path, sweep={WEIGHT: (2.5,)}).run()
    (folder,) = tmp_path.glob("tiny.tiny.memit.n3.s0.weight=2.5-*")
    record = json.loads((folder / RECORD).read_text())
    assert record["settings"]["recipe"]["solvers"]["least_squares"]["weight"] == 2.5
    assert record["settings"]["records"] == ["0", "1", "2"]
    assert record["settings"]["retokenised"] == retokenised(decoder, CASES[:3])
    assert record["settings"]["cell"]["seed"] == 0
    assert {"anchors", "solve", "scores", "total"} <= set(record["seconds"])
    assert record["memory"]["process"] > 10
    assert list(record["scores"]) == ["unedited", "memit"]
    assert "| memit |" in (folder / "README.md").read_text()


def test_seeds_of_a_file_choose_the_contexts(decoder: Decoder, tmp_path: Path) -> None:
    bench = bench_of(decoder, tmp_path, seeds=(0, 1))
    bench.datasets = {"tiny": Dataset(lambda n, seed: CASES[:n], "contexts")}
    assert [r.method for r in bench.run().records] == ["unedited", "memit", "memit"]
    seeds = {
        json.loads(p.read_text())["settings"]["recipe"]["context_seed"] for p in tmp_path.glob(f"*memit*/{RECORD}")
    }
    assert seeds == {0, 1}


def test_a_dry_run_counts_and_computes_nothing(
    decoder: Decoder, tmp_path: Path, optimised: list[tuple[int, int]]
) -> None:
    wanted: dict[str, Any] = {"methods": ("memit", "rect", "memit+fe", "blue"), "sweep": {WEIGHT: (1.0, 2.0)}}
    found = bench_of(decoder, tmp_path, **wanted).reckon()
    assert (found.cells, found.done, found.unedited) == (8, 0, 1)
    assert not list(tmp_path.iterdir())
    assert not optimised
    bench_of(decoder, tmp_path, **wanted).run()
    counts = {where: len(names) for where, names in found.anchors.items()}
    assert counts == {"layer 1": 3, "layer 3": 3, "layer 3, on edited models": 6}
    assert sorted(optimised) == [(1, 3), (3, 3), (3, 3), (3, 3)]  # blue's second anchor anew for either weight
    again = bench_of(decoder, tmp_path, **wanted).reckon()
    assert (again.done, again.unedited, again.anchors) == (8, 0, {})


def test_facts_can_be_edited_in_batches(decoder: Decoder, tmp_path: Path, optimised: list[tuple[int, int]]) -> None:
    bench = bench_of(decoder, tmp_path, edits=4, sweep={"schedule.batch": (2, 4, None)})
    counts = {where: len(names) for where, names in bench.reckon().anchors.items()}
    assert counts == {"layer 3": 4, "layer 3, on edited models": 2}
    assert not bench.run().failures
    assert optimised == [(3, 2), (3, 2), (3, 2)]
    halves, *wholes = (json.loads(p.read_text()) for p in sorted(tmp_path.glob(f"*memit*/{RECORD}")))
    assert {row["batch"] for row in halves["ledgers"]["memit"]["rows"]} == {0, 1}
    first, second = ([score["value"] for score in whole["scores"]["memit"]] for whole in wholes)
    assert first == second


@pytest.mark.parametrize(
    ("sweep", "error", "told"),
    [
        ({"solvers.least_squares.wieght": (1,)}, UnknownName, "solvers.least_squares.weight"),
        ({"solvers.null_space.threshold": (0.1,)}, UnknownName, "null_space"),
        ({"anchor.step": (10,)}, UnknownName, "anchor.steps"),
        ({"anchor.steps": ("many",)}, ErrataError, "anchor.steps"),
        ({WEIGHT: (-1,)}, SolveError, "weight"),
        ({"window": ("3~7",)}, ErrataError, "3-7"),
        ({"schedule.batch": (0,)}, ErrataError, "schedule.batch"),
        ({"schedule.targets": ("past",)}, ErrataError, "schedule.targets"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(
    decoder: Decoder, tmp_path: Path, sweep: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        bench_of(decoder, tmp_path / "out", sweep=sweep)
    assert not (tmp_path / "out").exists()


def test_a_window_outside_the_model_is_refused_before_anything_runs(decoder: Decoder, tmp_path: Path) -> None:
    with pytest.raises(ErrataError, match="between 0 and 4"):
        bench_of(decoder, tmp_path, sweep={"window": ("1-2", "3-7")}).run()
    assert not list(tmp_path.iterdir())


def test_a_model_that_cannot_be_opened_does_not_stop_the_others(decoder: Decoder, tmp_path: Path) -> None:
    bench = bench_of(decoder, tmp_path, models=("absent", "tiny"))

    def opened(name: str) -> Decoder:
        if name == "absent":
            raise ErrataError("no such model")
        return decoder

    bench.open_decoder = opened
    results = bench.run()
    assert [f.error for f in results.failures] == ["ErrataError: no such model"]
    assert results.computed == 1


def test_a_disk_without_room_ends_the_bench_in_one_line(
    decoder: Decoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(decoder, tmp_path)
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StoreError, match=r"could not be written \(No space left on device\)"):
        bench.run()
    assert not decoder.is_edited
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
