"""What errata reads, family by family: whole inputs, how they are broken, and the doors through which they come in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch

from errata import Contexts, Corpus, Decoder, Editor, Store, load_edit, read_facts
from errata.dataset import named_cases
from errata.decoder.corpus import gather
from errata.editors.side_memory import Side, SideMemory
from errata.fact import check_facts
from errata.recipe import Recipe, recipe_for
from tests.dataset.test_formats import (
    EASYEDIT,
    FE,
    FE_ZSRE,
    KNOWEDIT,
    MEND,
    MEND_HOP,
    ROME,
    WIKIBIGEDIT_OWN,
    WIKIBIO,
)
from tests.fuzz.damage import TEXTS, damage_file, damage_folder
from tests.fuzz.judge import Bench, Contradiction, Refused
from tests.models import TINY_GROUPS, tiny_corpus, tiny_facts, tiny_model, tokenizer_of
from tests.report.records import write_bench, write_demo, write_study

CONTEXTS = Contexts(TINY_GROUPS)
RECIPE = """\
name: tiny
window: [0, 1]
anchor: {steps: 2, learning_rate: 0.3}
solvers: {least_squares: {weight: 1.0, ridge: 0.01}}
statistics: {tokens: 300, max_length: 20}
context_seed: 1
source: {window: made up}
"""

Door = Callable[[Bench, Path], object]


@dataclass(frozen=True)
class Family:
    """A kind of input. `whole` writes samples of it into a folder; `damage` breaks a copy of one in place."""

    name: str
    whole: Callable[[Bench, Path], None]
    damage: Callable[[Path, Random], str]
    doors: tuple[Door, ...]
    places_named: bool = False
    """Whether an input says itself where to write."""


def small_model() -> Decoder:
    """A model of two blocks, in float32, with a tokenizer."""
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 40}
    model = tiny_model("llama", dtype=torch.float32, num_hidden_layers=2, max_position_embeddings=96, **sizes)
    return Decoder(model, tokenizer_of("llama"))


def bench_in(root: Path) -> Bench:
    """The model, a recipe and a corpus in a folder; every place of work is inside of it."""
    decoder = small_model()
    decoder.model.save_pretrained(root / "model")
    decoder.tokenizer.save_pretrained(root / "model")
    (root / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (root / "corpus.txt").write_text("\n".join(tiny_corpus()), encoding="utf-8")
    write_facts(root / "facts.jsonl")
    for name in ("out", "store", "home", "tmp", "input", "work"):
        (root / name).mkdir()
    return Bench(root, Decoder.from_pretrained(root / "model"))


def write_facts(path: Path, first: int = 0) -> None:
    rows = [asdict(fact) for fact in tiny_facts()[first : first + 3]]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def editor(bench: Bench, recipe: Recipe | None = None) -> Editor:
    """An editor of the model in memory."""
    chosen = recipe or recipe_for(bench.decoder, bench.root / "recipe.yaml")
    return Editor(
        bench.decoder,
        recipe=chosen,
        contexts=CONTEXTS,
        corpus=Corpus.of(tiny_corpus()),
        store=Store(bench.store),
    )


ANY = ("--require", "0")
"""An edit is whole whether its facts hold or not: the tiny model knows nothing."""


def ran(bench: Bench, written: Path, *words: object) -> None:
    """Run a verb. What it was to write must be there if it says that all is well, and not be there if it does not."""
    try:
        said = bench.call(*words)
    except Refused:
        if written.exists():
            raise Contradiction(f"{written.name} was written, and the exit code says failure") from None
        raise
    if not written.exists():
        raise Contradiction(f"the exit code says done, and {written.name} was not written: {said[-300:]}")


# -- records ---------------------------------------------------------------------------------------------------


def whole_records(bench: Bench, folder: Path) -> None:
    """Every format as JSON lines; plain facts also as a JSON list and as CSV."""
    write_facts(folder / "facts.jsonl")
    facts = [{name: value for name, value in asdict(fact).items() if value is not None} for fact in tiny_facts()[:3]]
    (folder / "facts.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    lines = [",".join(facts[0]), *(",".join(f'"{value}"' for value in fact.values()) for fact in facts)]
    (folder / "facts.csv").write_text("\n".join(lines), encoding="utf-8")
    for number, rows in enumerate(LAYOUT_ROWS):
        (folder / f"format{number}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def facts_by_python(bench: Bench, path: Path) -> None:
    facts = read_facts(path)
    check_facts(facts)
    editor(bench).edit(facts).restore()


def cases_by_python(bench: Bench, path: Path) -> None:
    cases = named_cases(str(path))
    editor(bench).evaluate(cases)


def facts_by_command(bench: Bench, path: Path) -> None:
    ran(bench, bench.out / "edit", "edit", bench.model, path, "-o", bench.out / "edit", *bench.options, *ANY)


def cases_by_command(bench: Bench, path: Path) -> None:
    ran(bench, bench.out / "scores.json", "evaluate", bench.model, path, "-o", bench.out / "scores.json")


# -- corpora ---------------------------------------------------------------------------------------------------


def whole_corpora(bench: Bench, folder: Path) -> None:
    texts = tiny_corpus()[:12]
    (folder / "corpus.txt").write_text("\n".join(texts), encoding="utf-8")
    (folder / "corpus.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts), encoding="utf-8")
    (folder / "corpus.json").write_text(json.dumps([{"text": text} for text in texts]), encoding="utf-8")


def corpus_by_python(bench: Bench, path: Path) -> None:
    gather(bench.decoder, Corpus.named(path), [0, 1], 200)


def corpus_by_command(bench: Bench, path: Path) -> None:
    recipe = ("--recipe", bench.root / "recipe.yaml", "--export", bench.out / "statistics")
    ran(bench, bench.out / "statistics", "statistics", bench.model, "--corpus", path, *recipe)


# -- recipes ---------------------------------------------------------------------------------------------------


def whole_recipes(bench: Bench, folder: Path) -> None:
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    settings = asdict(recipe_for(bench.decoder, bench.root / "recipe.yaml").anchor)
    (folder / "all.yaml").write_text(f"{RECIPE}\nanchor: {json.dumps(settings | {'steps': 2})}\n", encoding="utf-8")


def recipe_by_python(bench: Bench, path: Path) -> None:
    editor(bench, recipe_for(bench.decoder, path)).edit(tiny_facts()[:2]).restore()


def recipe_by_command(bench: Bench, path: Path) -> None:
    words = ("edit", bench.model, bench.root / "facts.jsonl", "-o", bench.out / "edit", "--recipe", path)
    ran(bench, bench.out / "edit", *words, "--corpus", bench.root / "corpus.txt", *ANY)


# -- saved edits -----------------------------------------------------------------------------------------------


def whole_edits(bench: Bench, folder: Path) -> None:
    outcome = editor(bench).edit(tiny_facts()[:3])
    outcome.edit.save(folder / "weights")
    outcome.restore()
    decoder, draw = bench.decoder, torch.Generator().manual_seed(0)
    sides = tuple(Side(torch.randn(24, 40, generator=draw), threshold) for threshold in (0.5, 2.0))
    SideMemory(decoder.fingerprint, 1, "silu", sides, dict(outcome.edit.manifest)).save(folder / "memory")


def edit_by_python(bench: Bench, path: Path) -> None:
    edit = load_edit(path)
    edit.put_on(bench.decoder)
    bench.decoder.generate([bench.decoder.token_ids("Velm is a city in")], 3)
    edit.take_off(bench.decoder)


def edit_by_command(bench: Bench, path: Path) -> None:
    words = ("evaluate", bench.model, bench.root / "facts.jsonl", "--edit", path, "--probes", "belief")
    ran(bench, bench.out / "scores.json", *words, "-o", bench.out / "scores.json")


def past_by_command(bench: Bench, path: Path) -> None:
    write_facts(bench.out / "later.jsonl", first=4)
    words = ("edit", bench.model, bench.out / "later.jsonl", "--past", path, "-o", bench.out / "edit")
    ran(bench, bench.out / "edit", *words, *bench.options, *ANY)


# -- run folders -----------------------------------------------------------------------------------------------


def whole_runs(bench: Bench, folder: Path) -> None:
    write_demo(folder / "demo")
    write_bench(folder / "bench")
    write_study(folder / "study")


def runs_by_command(bench: Bench, path: Path) -> None:
    ran(bench, bench.out / "page.html", "report", path, "-o", bench.out / "page.html")


# -- model folders ---------------------------------------------------------------------------------------------


def whole_models(bench: Bench, folder: Path) -> None:
    shutil.copytree(bench.model, folder / "model")
    bench.decoder.model.save_pretrained(folder / "shards", max_shard_size="12KB")
    bench.decoder.tokenizer.save_pretrained(folder / "shards")
    gpt2 = tiny_model("gpt2", dtype=torch.float32, n_embd=24, n_layer=2, n_head=2, n_inner=40, n_positions=96)
    gpt2.save_pretrained(folder / "gpt2")
    tokenizer_of("gpt2").save_pretrained(folder / "gpt2")


def model_by_python(bench: Bench, path: Path) -> None:
    decoder = Decoder.from_pretrained(path)
    decoder.check_finite()
    decoder.generate([decoder.token_ids("Velm is a city in")], 3)


def model_by_command(bench: Bench, path: Path) -> None:
    words = ("edit", path, bench.root / "facts.jsonl", "-o", bench.out / "edit")
    ran(bench, bench.out / "edit", *words, *bench.options, *ANY)


# -- arguments -------------------------------------------------------------------------------------------------


def whole_arguments(bench: Bench, folder: Path) -> None:
    """Command lines as JSON lists, one in each file."""
    root = bench.root
    model, facts, edit = str(bench.model), str(root / "facts.jsonl"), str(bench.out / "edit")
    write_demo(root / "record")
    common = [*bench.options, "--window", "0-1", "--device", "cpu", "--dtype", "float32"]
    editing = ["--method", "memit", "--batch", "2", "--limit", "2", "--targets", "current", "--format", "errata"]
    lines = {
        "edit": ["edit", model, facts, "-o", edit, *common, *editing, *ANY],
        "dry": ["edit", model, facts, "--dry-run", "--no-guard", *common],
        "evaluate": ["evaluate", model, facts, "--limit", "2", "--probes", "belief", "-o", f"{bench.out}/scores.json"],
        "statistics": ["statistics", model, *common, "--tokens", "200", "--export", f"{bench.out}/statistics"],
        "doctor": ["doctor", model, *common],
        "methods": ["methods"],
        "study": ["study", model, "residuals", facts, "--facts", "2", *common, "-o", f"{bench.out}/study"],
        "bench": [
            *("bench", model, "--dataset", facts, "--edits", "2", "--seeds", "0", "--methods", "memit", *common[:4]),
            *("--sweep", "solvers.least_squares.weight=1,2", "--probes", "belief", "-o", f"{bench.out}/bench"),
        ],
        "store": ["store", "list", "--store", str(bench.store), "--kind", "statistics", "--each"],
        "prune": [
            "store",
            "prune",
            "--store",
            str(bench.store),
            "--older-than",
            "30d",
            "--max-size",
            "1GB",
            "--dry-run",
        ],
        "report": ["report", str(root / "record"), "-o", f"{bench.out}/page.html", "--title", "A title"],
    }
    for name, line in lines.items():
        (folder / f"{name}.json").write_text(json.dumps(line), encoding="utf-8")


ODD_WORDS = (
    *(text for text in TEXTS if "\x00" not in text and not text.startswith("/")),
    *(
        "-1",
        "0",
        "999999999999",
        "0-999999999999",
        "5-2",
        "1,,2",
        "1-",
        "nan",
        "1e999",
        "all",
        "None",
        "true",
        "-",
        "--",
    ),
    *(
        "..",
        ".",
        "absent",
        "absent.json",
        "cuda:7",
        "meta",
        "mps",
        "auto",
        "int8",
        "complex64",
        "float8_e4m3fn",
        "tiny",
    ),
    *("pocket:x", "a:b:c", "--help", "--absent", "-o", "memit+", "+fe", "memit+fe+fe", "alphaedit,memit", "30", "1PB"),
)


def damage_words(path: Path, rng: Random) -> str:
    """A word replaced, removed, repeated, cut, added or moved."""
    words = json.loads(path.read_text(encoding="utf-8"))
    place = rng.randrange(len(words))
    way = rng.choice(("replaced", "replaced", "replaced", "removed", "repeated", "cut", "added", "moved"))
    word = words[place]
    if way in ("replaced", "added"):
        words[place : place + (way == "replaced")] = [rng.choice(ODD_WORDS)]
    elif way == "removed":
        del words[place]
    elif way == "repeated":
        words.insert(place, word)
    elif way == "cut":
        words[place] = word[: rng.randrange(len(word) + 1)]
    else:
        words.insert(rng.randrange(len(words)), words.pop(place))
    path.write_text(json.dumps(words), encoding="utf-8")
    return f"{path.name}: {word[-30:]!r} {way}"


def words_by_command(bench: Bench, path: Path) -> None:
    bench.call(*json.loads(path.read_text(encoding="utf-8")))


LAYOUT_ROWS = [[row] for row in (ROME, MEND, MEND_HOP, FE, FE_ZSRE, EASYEDIT, WIKIBIGEDIT_OWN, KNOWEDIT, WIKIBIO)]

FAMILIES = {
    family.name: family
    for family in (
        Family(
            "records",
            whole_records,
            damage_file,
            (facts_by_python, cases_by_python, facts_by_command, cases_by_command),
        ),
        Family("corpora", whole_corpora, damage_file, (corpus_by_python, corpus_by_command)),
        Family("recipes", whole_recipes, damage_file, (recipe_by_python, recipe_by_command)),
        Family("edits", whole_edits, damage_folder, (edit_by_python, edit_by_command, past_by_command)),
        Family("runs", whole_runs, damage_folder, (runs_by_command,)),
        Family("models", whole_models, damage_folder, (model_by_python, model_by_command)),
        Family("arguments", whole_arguments, damage_words, (words_by_command,), places_named=True),
    )
}
