"""The folder of an edit: what it replaces, what it refuses to, and a card that is never more than text."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path

import pytest
import torch

from errata import Fact, WeightDelta, WeightEdit, load_edit
from errata.editors.folder import CARD, DELTA, KEYS, LEDGER, MANIFEST, check_replaceable
from errata.errors import StoreError
from errata.files import OLD

FACT = Fact("{} is in", "Quill", "Norland")


def edit_of(size: float = 1.0, **manifest: object) -> WeightEdit:
    return WeightEdit(WeightDelta("f", {"w": torch.full((2, 2), size)}), {"facts": [vars_of(FACT)], **manifest})


def vars_of(fact: Fact) -> dict[str, str]:
    return {"prompt": fact.prompt, "subject": fact.subject, "target_new": fact.target_new}


def test_an_edit_replaces_an_edit(tmp_path: Path) -> None:
    edit_of(1.0).save(tmp_path / "edit")
    edit_of(2.0).save(tmp_path / "edit")
    loaded = load_edit(tmp_path / "edit")
    assert isinstance(loaded, WeightEdit)
    assert loaded.delta.changes["w"].tolist() == [[2.0, 2.0]] * 2
    assert loaded.manifest == edit_of().manifest


def test_a_ledger_is_in_its_edit_from_the_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_of(1.0).save(tmp_path / "edit", {"memit": {"rows": 1}})
    moved: list[list[str]] = []
    replace = os.rename
    monkeypatch.setattr(
        os, "rename", lambda a, b: moved.append(sorted(p.name for p in Path(a).iterdir())) or replace(a, b)
    )
    edit_of(2.0).save(tmp_path / "edit", {"memit": {"rows": 2}})
    assert json.loads((tmp_path / "edit" / LEDGER).read_text()) == {"memit": {"rows": 2}}
    assert all(LEDGER in names for names in moved)
    assert len(moved) >= 2


def test_a_web_project_with_a_manifest_is_not_an_edit(tmp_path: Path) -> None:
    project = tmp_path / "site"
    (project / "src").mkdir(parents=True)
    (project / "src" / "index.js").write_text("x")
    (project / MANIFEST).write_text('{"name": "site", "icons": []}')
    with pytest.raises(StoreError, match="is not an edit; nothing was written"):
        edit_of().save(project)
    assert (project / "src" / "index.js").read_text() == "x"


@pytest.mark.parametrize("name", ["notes.txt", ".git", "model.safetensors"])
def test_an_edit_that_holds_something_else_too_is_not_replaced(tmp_path: Path, name: str) -> None:
    edit_of(1.0).save(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(StoreError, match=f"also holds '{name}'"):
        edit_of(2.0).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CARD, DELTA, KEYS, MANIFEST, name])


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "other"}', "[" * 100_000, "\udc80"])
def test_a_manifest_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    edit_of().save(tmp_path)
    (tmp_path / MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StoreError, match="not a saved edit") as caught:
        load_edit(tmp_path)
    assert len(str(caught.value)) < 400
    with pytest.raises(StoreError, match="is not an edit"):
        check_replaceable(tmp_path)


def test_an_edit_moved_aside_by_a_killed_process_is_found_again(tmp_path: Path) -> None:
    edit_of().save(tmp_path / "edit")
    (tmp_path / "edit").rename(tmp_path / f"{OLD}{'0' * 12}.edit")
    assert load_edit(tmp_path / "edit").facts == [FACT]


HOSTILE = (
    'x")\nimport os; os.system("touch /tmp/owned")  #',
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "![](https://tracker.example/p.png)",
    "a | b\n| c | d |",
    "```\n# heading\n```python\n",
    "`rm -rf`",
    "\x1b[2J",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_card_quotes_names_and_facts_and_obeys_none_of_them(tmp_path: Path, text: str) -> None:
    fact = Fact("{} " + text, "Quill", text)
    WeightEdit(
        WeightDelta(text), {"model": text, "method": text, "window": text, "versions": text, "facts": [vars_of(fact)]}
    ).save(tmp_path / "edit")
    card = (tmp_path / "edit" / CARD).read_text(encoding="utf-8")
    fences = [i for i, line in enumerate(card.splitlines()) if line.lstrip().startswith("```")]
    assert len(fences) == 2
    snippet = "\n".join(card.splitlines()[fences[0] + 1 : fences[1]])
    tree = ast.parse(snippet)
    assert len(tree.body) == 4  # import, decoder, edit, put_on: nothing was added
    (model,) = tree.body[1].value.args  # type: ignore[attr-defined]
    assert ast.literal_eval(model) == text
    rest = "\n".join(card.splitlines()[: fences[0]] + card.splitlines()[fences[1] + 1 :])
    rest = re.sub(r"(?<!\\)`[^`\n]*`", "", rest)  # code is shown as it is
    assert "<" not in rest
    assert "](" not in rest.replace("\\](", "")
    assert "\x1b" not in card
    assert len([line for line in rest.splitlines() if line.startswith("|")]) == 3
    assert len([line for line in rest.splitlines() if line.startswith("#")]) == 1


def test_the_manifest_says_what_it_is(tmp_path: Path) -> None:
    edit_of().save(tmp_path / "edit")
    assert json.loads((tmp_path / "edit" / MANIFEST).read_text())["kind"] == "errata.edit"
