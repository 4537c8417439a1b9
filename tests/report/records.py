"""Run records of hand-made numbers, some with text that would be markup if it were let."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from errata.record.run import Run
from errata.study.cosines import Cosines, StepCosines
from errata.study.finding import PerFact
from errata.study.folder import Made, write
from errata.study.steering import Dense, Direction, LayerSteering, Steering

EVIL = (
    "<script>window.pwned=1</script></style></script><img src=x onerror='window.pwned=2'>"
    '"><a href="javascript:window.pwned=3">{{ 7 * 7 }}</a>&amp;'
)
VERSIONS = {"errata": "0.1.0", "python": "3.11"}
WORDS = ("Zebra", "Apple", "Mango", "Birch", "Cedar", "Linden")


def score(name: str, values: Sequence[float], higher: bool | None = True) -> dict[str, Any]:
    mean = fmean(values)
    return {
        "name": name,
        "protocol": "by hand",
        "value": mean,
        "interval": [mean - 0.05, mean + 0.05],
        "count": len(values),
        "unit": "nat" if name.endswith("_kl") else "share",
        "higher_is_better": higher,
        "per_case": list(values),
        "weights": [],
    }


def scores(prompts: Sequence[float], wordings: Sequence[float], kl: float) -> list[dict[str, Any]]:
    return [
        score("efficacy_accuracy", prompts),
        score("generalisation_accuracy", wordings),
        score("specificity_kl", [kl] * len(prompts), False),
        score("specificity_top1", [0.9] * len(prompts)),
    ]


def ledger(left: Mapping[int, float], notes: Sequence[str] = ()) -> dict[str, Any]:
    """One step per layer; what is left is to the last layer's target."""
    last = str(max(left))
    steps = [
        {"batch": 0, "edit": layer, "read": max(left), "remaining": {last: share}, "update_norm": 2.0 * layer}
        for layer, share in left.items()
    ]
    return {"rows": steps, "seconds": {"anchors": 1.5, "solve": 0.2}, "notes": list(notes)}


def write_demo(folder: Path, weight: float = 3.0, text: str = "") -> Path:
    """A run of two methods over six facts, as `errata demo` writes it; `text` is put wherever text can stand.

    Of the six, `memit` misses two on the prompt and one more on its paraphrases.
    """
    count = len(WORDS)
    run = Run(
        f"Six facts{text}",
        f"errata demo {text}",
        {"facts": count, "seed": 0, "recipe": {"name": "tiny", "solvers": {"least_squares": {"weight": weight}}}},
        VERSIONS | ({"of": text} if text else {}),
    )
    run.settings["recipe"]["source"] = {"window": text}
    run.scores = {
        "unedited": scores([0] * count, [0] * count, 0.0),
        "memit": scores([1, 1, 0, 1, 1, 0], [1, 0.5, 0, 1, 1, 0], 0.2),
        "memit+fe": scores([1] * count, [1] * count, 0.4),
    }
    run.ledgers = {
        "memit": ledger({1: 0.8, 2: 0.4, 3: 0.1}, [f"a note {text}"]),
        "memit+fe": ledger({1: 0.3, 2: 0.2, 3: 0.05}),
    }
    run.answers = [
        {"prompt": f"{word} grows in{text}", "to say": f"Norland{text}", "before": f"Sudria{text}"}
        | {"memit": f"Norland{text}" if run.scores["memit"][0]["per_case"][i] else f"Sudria{text}"}
        | {"memit+fe": f"Norland{text}", "undone": f"Sudria{text}"}
        for i, word in enumerate(WORDS)
    ]
    run.write(folder)
    return folder


def write_bench(folder: Path, text: str = "") -> Path:
    """Two methods at three weights each and two seeds, on four facts; one cell that failed."""
    for seed in (0, 1):
        cells: list[tuple[str, dict[str, Any], float, float]] = [("unedited", {}, 0.0, 0.0)]
        for weight, reached, kl in ((100, 1.0, 0.5), (1000, 0.75, 0.2), (20, 1.0, 0.9)):
            path = {"solvers.least_squares.weight": weight}
            cells += [("memit", path, reached, kl), ("blue", path, reached - 0.25, kl)]
        for order, (method, settings, reached, kl) in enumerate(cells):
            cell = {"model": "tiny", "dataset": "data", "method": method, "edits": 4, "seed": seed}
            known = {"cell": cell | {"settings": settings}, "identity": {"cases": "a"}}
            known["records"] = [f"fact {seed}{i}{text}" for i in range(4)]
            run = Run(f"{method}{text}", f"errata bench {text}", known, VERSIONS)
            run.started = f"2026-01-0{seed + 1}T00:00:{order:02}+00:00"
            part = [1.0] * round(4 * reached) + [0.0] * (4 - round(4 * reached))
            run.scores = {method: scores(part, part, kl)}
            run.seconds = {"solve": 1.0, "total": 2.0}
            if method != "unedited":
                run.ledgers = {method: ledger({1: 0.5, 2: 0.25})}
            run.write(folder / f"{method}-{settings.get('solvers.least_squares.weight', 0)}-{seed}")
    broken = folder / "memit-5-0"
    broken.mkdir()
    (broken / "failed.json").write_text(json.dumps({"error": f"SingularSystem: layer 3{text}"}))
    return folder


def write_study(folder: Path, text: str = "") -> Path:
    """Cosines over layers and one spectrum of made-up numbers, written as `errata study` writes them."""
    some = PerFact((0.4, 0.6))
    steps = tuple(StepCosines(layer, *[some] * 5) for layer in (1, 2, 3))
    shift = Direction(*[some] * 6)
    dense = Dense(0, -1.0, 2.0, 1, 1e-6, (-1.0, 0.5, 2.0))
    layer = LayerSteering(1, *[some] * 7, directions={"intended": shift, "achieved": shift}, dense=(dense,))
    counts = {"iterations": 8, "starts": 1, "probes": 2, "dense": 1, "seed": 0}
    made = Made(f"errata study {text}", {"facts": 2, "of": text}, VERSIONS, ({"subject": text},))
    for finding in (
        Cosines({f"memit{text}": steps}),
        Steering(3, 3, counts, f"central differences{text}", {"memit": (layer,)}),
    ):
        write(finding, folder, made, 1.0)
    (folder / "other.json").write_text("[1, 2]")
    return folder
