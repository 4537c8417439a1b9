"""The card of what is exported: a README.md that says which facts were changed, in which model, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from errata.editors.base import WeightEdit
from errata.visible import code, markdown

ON_CARD = 20
"""Facts shown; the edit's manifest has all of them."""


def card(
    edit: WeightEdit,
    base: str,
    title: str,
    use: str,
    lines: Sequence[tuple[str, object]],
    front: Mapping[str, object],
) -> str:
    """Markdown with the front matter that the Hugging Face hub reads. What it quotes is never markup, whoever wrote it.

    `use`: the lines that use it, shown as they are. `lines`: names and values of what was written and checked.
    """
    facts = edit.facts
    rows = "\n".join(f"| {markdown(fact.text)} | {markdown(fact.target_new)} |" for fact in facts[:ON_CARD])
    more = f"\n\n... and {len(facts) - ON_CARD} more." if len(facts) > ON_CARD else ""
    values = "\n".join(f"- {markdown(name)}: {markdown(str(value))}" for name, value in lines)
    return (
        f"---\n{_front_matter(base, front)}---\n\n# {title} of {markdown(Path(base).name)}\n\n"
        f"**Facts were changed on purpose**: {len(facts)} facts, by the method {code(edit.manifest.get('method'))} of "
        f"errata. The model says what stands below as if it were so.\n\n"
        f"| prompt | continued by |\n|---|---|\n{rows}{more}\n\n```\n{use}\n```\n\n{values}\n"
    )


def _front_matter(base: str, front: Mapping[str, object]) -> str:
    """As YAML; the base only if it is a name that the hub may know, not a folder of this machine."""
    named = {} if Path(base).exists() else {"base_model": base}
    tags = {"tags": ["errata", "model-editing", *front.get("tags", [])]}  # type: ignore[misc]
    text: str = yaml.safe_dump({**named, **front, **tags}, sort_keys=False, allow_unicode=False)
    return text
