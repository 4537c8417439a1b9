"""Collisions: where edits that are to be put together contradict or are likely to disturb each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from errata.errors import WrongEdit
from errata.fact import Asking, Fact

NEAR = 0.9
"""Cosine of two facts' keys from which on what one edit writes for its fact is read by the other's too."""

Keys = Mapping[int, Tensor]
"""Layer -> keys [fact, inner]."""


class CollidingEdits(UserWarning):
    """Facts of edits that were put together have nearly equal keys."""


def check_together(facts: Sequence[Sequence[Fact]]) -> None:
    """Raises WrongEdit if a prompt with its subject is taught by two of the edits that these are the facts of."""
    taught: dict[Asking, Fact] = {}
    for edit in facts:
        for fact in edit:
            if other := taught.get(fact.asked):
                what = "both hold" if fact.agrees(other) else "contradict each other on"
                raise WrongEdit(
                    f"the edits {what} {fact.text!r} -> {other.target_new!r}, {fact.target_new!r}. Nothing was "
                    "combined. Leave it out of one of them, or edit the later facts with the earlier edit as `past`."
                )
        taught |= {fact.asked: fact for fact in edit}


def collision(one: Keys, other: Keys, facts: tuple[Sequence[Fact], Sequence[Fact]]) -> str | None:
    """At the layer where keys are most alike: how many pairs of facts are near, and the nearest. None if none is."""
    cosines = max(_cosines(one, other), key=lambda near: float(near.max()), default=None)
    if cosines is None or float(cosines.max()) < NEAR:
        return None
    places = divmod(int(cosines.argmax()), cosines.shape[1])
    nearest = [texts[place].text for texts, place in zip(facts, places, strict=True) if place < len(texts)]
    return (
        f"{int((cosines >= NEAR).sum())} pairs of facts of the combined edits have nearly the same key (cosine up to "
        f"{float(cosines.max()):.2f}{': ' * bool(nearest)}{' and '.join(map(repr, nearest))}), so each edit disturbs "
        "the other's facts. Evaluate before use, or edit the later facts with the earlier edit as `past`."
    )


def _cosines(one: Keys, other: Keys) -> Iterator[Tensor]:
    for layer in sorted(one.keys() & other.keys()):
        ours, theirs = one[layer].float(), other[layer].float()
        if len(ours) and len(theirs) and ours.shape[1] == theirs.shape[1]:
            yield normalize(ours, dim=1) @ normalize(theirs, dim=1).T


def joined_keys(every: Sequence[Keys]) -> dict[int, Tensor]:
    """Of all facts, at the layers for which every edit has its keys: elsewhere rows would be of other facts."""
    layers = set.intersection(*(set(keys) for keys in every))
    return {layer: torch.cat([keys[layer] for keys in every]) for layer in sorted(layers)}


def joined_manifest(parts: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> dict[str, Any]:
    """What all edits say alike, the facts of all, and the whole manifest of each."""
    alike = {key: value for key, value in parts[0].items() if all(part.get(key) == value for part in parts)}
    facts = [fact for part in parts for fact in part.get("facts", [])]
    method = " + ".join(str(part.get("method")) for part in parts)
    return alike | {"method": method, "facts": facts, "notes": list(notes), "combined": [dict(part) for part in parts]}
