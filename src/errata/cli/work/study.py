"""The parts of errata study: which studies, of which facts, and keeping what each finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from errata.cli.console import warn
from errata.dataset import OnConflict, named_cases
from errata.editors.supplies import Progress
from errata.errors import UnknownName
from errata.fact import Fact, check_facts
from errata.pocket.cases import cases as pocket_cases
from errata.record.run import versions
from errata.report.figures import NoFigures, write_charts
from errata.study import STUDIES, Finding, Trial, cosines, residuals, steering, tracing
from errata.study.folder import Made, write

EVERYTHING = "all"
Study = Callable[..., Finding]
BY_METHOD: dict[str, Study] = {"cosines": cosines, "residuals": residuals, "steering": steering}


def studies_of(what: str, methods: Sequence[str] | None, layers: tuple[int, ...] | None, seed: int) -> dict[str, Study]:
    """The studies asked for, by name, with their settings filled in. Raises UnknownName."""
    names = list(STUDIES) if what == EVERYTHING else what.split(",")
    for name in names:
        if name not in STUDIES:
            raise UnknownName("study", name, [*STUDIES, EVERYTHING])
    studies: dict[str, Study] = dict(STUDIES)
    if methods is not None:
        studies |= {name: partial(function, methods=list(methods)) for name, function in BY_METHOD.items()}
    studies["steering"] = partial(studies["steering"], seed=seed)
    studies["tracing"] = partial(tracing, layers=layers, seed=seed)
    return {name: studies[name] for name in names}


def facts_of(name: str | None, format: str | None, count: int, seed: int, on_conflict: OnConflict) -> list[Fact]:
    """The first facts of a file, or facts of the pocket model. Raises FactError."""
    if name is None:
        cases = pocket_cases(count, seed)
    else:
        cases = named_cases(name, format, count, on_conflict=on_conflict, note=warn)
    facts = [case.fact for case in cases[:count]]
    check_facts(facts)
    return facts


@dataclass
class StudyRun:
    """Studies of one model and one set of facts, each kept in a folder of its own."""

    trial: Trial
    facts_file: str | None
    seed: int
    command: str
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        decoder = self.trial.decoder
        if decoder.dtype != decoder.precision:
            name = str(decoder.dtype).removeprefix("torch.")
            self.warnings.append(f"run in {name}: small shifts are lost to rounding; --dtype float32 is more exact")

    def one(self, name: str, study: Study, folder: Path, progress: Progress) -> Finding:
        """Run one study and write what it finds."""
        started = perf_counter()
        self.trial.supplies.progress = progress
        finding = study(self.trial)
        seconds = perf_counter() - started
        try:
            figures = write_charts(finding.charts(), folder, finding.name)
        except NoFigures as error:
            figures = []
            self.warnings.append(str(error))
        write(finding, folder, self._made(), seconds, figures)
        return finding

    def _made(self) -> Made:
        facts = tuple(asdict(fact) for fact in self.trial.facts)
        return Made(self.command, self._settings(), versions(), facts)

    def _settings(self) -> dict[str, Any]:
        decoder = self.trial.decoder
        return {
            "model": decoder.name,
            "identity": decoder.identity.key,
            "dtype": str(decoder.dtype).removeprefix("torch."),
            "device": str(decoder.device),
            "facts": self.facts_file or f"the pocket model's, split report, seed {self.seed}",
            "seed": self.seed,
            "recipe": self.trial.supplies.recipe.to_json(),
        }
