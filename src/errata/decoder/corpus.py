"""Text to key statistics: all layers of a window in one pass that stops after the last of them (method 1.6)."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errata.decoder.decoder import Decoder
from errata.decoder.memory import gathering_peak, place_for
from errata.errors import BadRecord, StatisticsError, printable
from errata.fleet import SOLO, Fleet
from errata.rows import SUFFIXES, check_characters, read_rows, read_text
from errata.statistics import Accumulator, KeyStatistics

TOKENS_PER_DIMENSION = 10
"""Default sample: this many tokens for each entry of a key (evaluation 8.3)."""


@dataclass(frozen=True)
class Corpus:
    """Texts, and a name that says which: the name is part of the key under which statistics are stored."""

    name: str
    texts: Callable[[], Iterator[str]]

    @property
    def at_hand(self) -> bool:
        """Whether the texts are in memory; if not, reading them may download a dataset."""
        return self.name.startswith("texts:")

    @classmethod
    def of(cls, texts: Iterable[str]) -> Corpus:
        """From texts in memory; named by a hash of them. Raises StatisticsError for what is no text."""
        kept = [_text(f"text {i}", text) for i, text in enumerate(texts)]
        digest = hashlib.blake2b(digest_size=12)
        for text in kept:
            digest.update(text.encode() + b"\0")
        return cls(f"texts:{digest.hexdigest()}", lambda: iter(kept))

    @classmethod
    def from_file(cls, path: str | Path) -> Corpus:
        """From a text file (a text per line), or the field `text` of JSON, JSON lines, CSV or TSV.

        A JSON list may hold the texts themselves. Raises StatisticsError naming the file and the record.
        """
        path = Path(path)
        try:
            if path.suffix.lower() in SUFFIXES:
                return cls.of(_field(where, row, "text") for where, row in read_rows(path))
            lines = read_text(path).split("\n")  # not splitlines: U+2028 may stand in a text
        except BadRecord as error:
            raise StatisticsError(f"corpus {error}") from None
        return cls.of(line for line in lines if line.strip())

    @classmethod
    def from_hub(cls, name: str, config: str | None = None, split: str = "train", field: str = "text") -> Corpus:
        """Streamed from a Hugging Face dataset, by hub name or local folder. Needs the extra `hub`."""

        def stream() -> Iterator[str]:
            try:
                from datasets import load_dataset
            except ImportError as error:
                raise StatisticsError("datasets is not installed: pip install 'errata[hub]'") from error
            try:
                rows = load_dataset(name, config, split=split, streaming=True)
                for i, row in enumerate(rows):
                    yield _field(f"{name} {split}[{i}]", row, field)
            except (OSError, ValueError) as error:
                raise StatisticsError(f"dataset {name} ({config}, {split}): {str(error)[:300]}") from error

        return cls(f"hub:{name}:{config}:{split}:{field}", stream)

    @classmethod
    def at(cls, source: Corpus | str | Path | Iterable[str] | None) -> Corpus | None:
        """A corpus as it may be given: itself, a file or dataset name, texts in memory, or none at all."""
        if source is None or isinstance(source, Corpus):
            return source
        return cls.named(source) if isinstance(source, str | Path) else cls.of(source)

    @classmethod
    def named(cls, source: str | Path) -> Corpus:
        """A file if there is one of that name, else the dataset `name` or `name:config` of the hub."""
        is_file = os.path.exists(source) or Path(source).suffix.lower() in (*SUFFIXES, ".txt")
        if is_file and not os.path.isdir(source):
            return cls.from_file(source)
        name, _, config = str(source).partition(":")
        return cls.from_hub(name, config or None)


def _field(where: str, row: Any, name: str) -> str:
    if isinstance(row, Mapping) and name not in row:
        fields = ", ".join(map(printable, list(row)[:12])) or "none"
        raise StatisticsError(f"corpus {where}: no field {name!r}; its fields are {fields}")
    return _text(where, row[name] if isinstance(row, Mapping) else row)


def _text(where: str, text: Any) -> str:
    if not isinstance(text, str):
        raise StatisticsError(f"corpus {where}: expected a text, found {printable(text)}")
    try:
        check_characters(where, text)
    except BadRecord as error:
        raise StatisticsError(f"corpus {error}") from None
    return text


def gather(
    decoder: Decoder,
    corpus: Corpus,
    layers: Sequence[int],
    tokens: int | None = None,
    max_length: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    fleet: Fleet = SOLO,
) -> dict[int, KeyStatistics]:
    """The second moment of keys at every layer, over the first `tokens` tokens of the corpus.

    `tokens` None: 10 per key dimension; 0: the whole corpus. Texts are cut at `max_length` tokens (default:
    the model's positions, at most 4096) and enter with the tokenizer's specials, which count. `progress` is
    called with (tokens so far, tokens wanted). Raises StatisticsError if the corpus holds no text.

    The ranks of a `fleet` take the sample's texts in turn, so it is the same sample on any number of them. Each
    reads and tokenises all of it; the leading one is given the statistics, the others nothing.
    """
    decoder.check_window(layers)
    if (tokens is not None and tokens < 0) or (max_length is not None and max_length < 1):
        raise StatisticsError(f"{tokens} tokens, {max_length} of each text; expected 0 (all) or more, and at least 1")
    inner = max(decoder.inner(layer) for layer in layers)
    wanted = TOKENS_PER_DIMENSION * inner if tokens is None else tokens
    limit = max_length or longest(decoder)
    device = place_for(gathering_peak(decoder, layers, wanted), decoder.device)
    sums = {layer: Accumulator(decoder.inner(layer), device=device) for layer in layers}
    rows = itertools.islice(_rows(decoder, corpus.texts(), limit, wanted), fleet.rank, None, fleet.size)
    for keys in decoder.key_batches(rows, layers):
        for layer in layers:
            sums[layer].add(keys.pop(layer))
        if progress:
            progress(fleet.size * sums[layers[0]].count, wanted)
    for layer in layers:
        sums[layer].over(fleet.sum)
    if not sums[layers[0]].count:
        raise StatisticsError(f"corpus {corpus.name}: no text in it")
    return {layer: sums.pop(layer).result() for layer in layers} if fleet.leads else {}


def longest(decoder: Decoder) -> int:
    """Tokens per text unless told otherwise: the model's positions, at most 4096."""
    config = decoder.model.config.get_text_config(decoder=True)
    return min(4096, getattr(config, "max_position_embeddings", None) or 4096)


def _rows(decoder: Decoder, texts: Iterator[str], limit: int, wanted: int) -> Iterator[list[int]]:
    """Token rows until `wanted` tokens are reached (0: all), the last one cut to fit."""
    seen = 0
    while chunk := list(itertools.islice(texts, 64)):
        for ids in decoder.tokens.prompts(chunk):
            row = ids[: min(limit, wanted - seen) if wanted else limit]
            seen += len(row)
            yield row
            if wanted and seen >= wanted:
                return
