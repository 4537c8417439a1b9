"""The walls of the house: who may import whom, read from the imports themselves."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import errata

ROOT = Path(errata.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FLOORS = {
    0: {
        "errors",
        "description",
        "fact",
        "form",
        "rows",
        "dataset",
        "delta",
        "statistics",
        "store",
        "upkeep",
        "fleet",
        "record",
        "paper",
        "files",
        "visible",
        "shards",
        "factors",
        "difference",
    },
    1: {"decoder", "solvers"},
    2: {"targets", "evaluate"},
    3: {"editors", "method", "methods", "plugins", "recipe", "path", "verdict", "editor"},
    4: {"pocket", "cli", "bench", "study", "export", "__main__"},
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms} | {"report": 1}


def module_name(file: Path) -> str:
    return ".".join(("errata", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "errata" and len(parts) > 1 else None


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_room_stands_on_a_floor() -> None:
    assert {room(module_name(file)) for file in FILES} - {None} <= set(FLOOR)


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_point_downwards(file: Path) -> None:
    mine = room(module_name(file))
    others = {room(name) for name in imports(file)} - {None, mine}
    if mine is None:
        return
    up = {other for other in others if FLOOR[str(other)] > FLOOR[mine]}
    assert not up, f"{mine} imports {up} from a floor above"
    if FLOOR[mine] in (1, 2):
        beside = {other for other in others if FLOOR[str(other)] == FLOOR[mine]}
        assert not beside, f"{mine} imports {beside} beside it"
    assert not others & ({"pocket", "cli"} - {"cli": {"pocket"}, "__main__": {"cli"}}.get(mine, set()))


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports for type checkers and within functions count too: what needs each other is one thing, or badly cut."""
    modules = {module_name(file): file for file in FILES}
    graph = {
        name: {other if other in modules else other.rpartition(".")[0] for other in imports(file)} & set(modules)
        for name, file in modules.items()
    }
    try:
        TopologicalSorter({name: needed - {name} for name, needed in graph.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("room_name", "forbidden"),
    [
        ("solvers", {"transformers", "errata.decoder"}),
        ("report", {"torch", "transformers", "errata.decoder", "errata.editors"}),
        ("targets", {"errata.solvers", "errata.editors"}),
        ("evaluate", {"errata.solvers", "errata.editors", "errata.targets"}),
        ("editors", {"errata.evaluate", "errata.report", "errata.cli"}),
        *((name, {"errata.dataset"}) for name in ("decoder", "solvers", "targets", "editors", "methods", "recipe")),
        ("study", {"errata.bench", "errata.cli", "errata.pocket", "errata.report"}),
        ("bench", {"errata.study", "errata.report"}),
    ],
)
def test_rooms_do_not_know_what_they_must_not(room_name: str, forbidden: set[str]) -> None:
    for file in FILES:
        if room(module_name(file)) == room_name:
            known = {name for name in imports(file) if any(f"{name}.".startswith(f"{bad}.") for bad in forbidden)}
            assert not known, f"{file} imports {known}"


def test_hooks_are_registered_in_one_file() -> None:
    for file in FILES:
        if file.name != "hooks.py":
            text = file.read_text(encoding="utf-8")
            assert "register_forward" not in text, file
            assert ".forward =" not in text, file


def test_one_file_knows_of_other_processes() -> None:
    for file in FILES:
        if file.name != "fleet.py":
            known = {name for name in imports(file) if f"{name}.".startswith(("accelerate.", "torch.distributed."))}
            assert not known, f"{file} imports {known}"


def test_no_file_is_a_drawer_for_everything() -> None:
    assert not [file for file in FILES if file.stem in {"utils", "helpers", "common", "misc", "util", "helper"}]


def test_nothing_is_unpickled() -> None:
    for file in FILES:
        assert not {"pickle", "dill", "joblib"} & {name.split(".")[0] for name in imports(file)}, file
        text = file.read_text(encoding="utf-8")
        assert text.count("torch.load(") == text.count("weights_only=True"), file


def test_importing_errata_pulls_in_no_optional_extra() -> None:
    code = "import sys, errata; print([m for m in ('datasets', 'pytest', 'beartype') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_front_door_exports_what_it_names_and_nothing_else() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (shown,) = (node for node in tree.body if isinstance(node, ast.If))  # if TYPE_CHECKING
    for_checkers = {alias.name: node.module for node in shown.body for alias in node.names}  # type: ignore[attr-defined]
    assert sorted(for_checkers) == sorted(errata.__all__)
    for name, module in for_checkers.items():
        assert getattr(errata, name) is getattr(importlib.import_module(str(module)), name)
    rooms = {room(module_name(file)) for file in FILES}
    public = {name for name in vars(errata) if not name.startswith("_")} - {"TYPE_CHECKING", "Any", "annotations"}
    assert public - rooms - {"import_module"} == set(errata.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Editro'"):
        _ = errata.Editro
