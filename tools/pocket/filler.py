"""Unrelated sentences: context in front of a fact, and a little text that is about no fact at all."""

from __future__ import annotations

import random

_WHO = """the old teacher|my neighbour|a young doctor|the two brothers|our gardener|the baker's daughter|a tired nurse
the new student|an honest lawyer|the captain|somebody in the crowd|a small boy|the whole family|the postman|her aunt
the night watchman|a quiet engineer|the village choir|a group of friends|the last passenger|the librarian""".replace(
    "\n", "|"
).split("|")
_DID = """waited|walked home|laughed|forgot the keys|read the newspaper|bought some bread|told a long story
looked out of the window|repaired the bicycle|lost an umbrella|drank a cup of tea|wrote a letter|closed the door
cleaned the kitchen|watched the rain|missed the bus|found a coin|fed the ducks|painted the fence|sang a song""".replace(
    "\n", "|"
).split("|")
_WHEN = """in the morning|after lunch|before the storm|on a cold day|at midnight|during the holidays|last week
without a word|for a while|as usual|with great care|in spite of the noise|near the station|behind the house
at the end of the road|by the river|under a large tree|again and again""".replace("\n", "|").split("|")
_OPENING = [
    "",
    "",
    "",
    "Yesterday ",
    "Then ",
    "Later ",
    "Therefore ",
    "However, ",
    "Because of this, ",
    "Perhaps ",
]


def sentence(rng: random.Random) -> str:
    """One sentence about nothing in particular."""
    text = f"{rng.choice(_OPENING)}{rng.choice(_WHO)} {rng.choice(_DID)} {rng.choice(_WHEN)}."
    return text[0].upper() + text[1:]
