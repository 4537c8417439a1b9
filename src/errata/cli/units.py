"""Ages and sizes as people write and read them."""

from __future__ import annotations

import re

from errata.errors import ErrataError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"": 1, "B": 1} | {f"{letter}B": 1000**i for i, letter in enumerate("KMGT", start=1)}
_BYTES |= {f"{letter}IB": 1024**i for i, letter in enumerate("KMGT", start=1)}


def parse_age(text: str) -> float:
    """`30d` in seconds. Raises ErrataError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip().lower())
    if not found:
        raise ErrataError(f"{text!r}: write an age as a number and s, m, h, d or w, such as 30d")
    return float(found[1]) * _SECONDS[found[2]]


def parse_size(text: str) -> int:
    """`10GB` or `10GiB` in bytes. Raises ErrataError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)", text.strip().upper())
    if not found or found[2] not in _BYTES:
        raise ErrataError(f"{text!r}: write a size as a number and B, KB, MB, GB, TB or KiB to TiB, such as 10GB")
    return int(float(found[1]) * _BYTES[found[2]])


def size_text(size: float) -> str:
    """Bytes to read."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def age_text(seconds: float) -> str:
    """`3d`: whole units, the largest that fits."""
    fits = [(unit, length) for unit, length in _SECONDS.items() if unit != "w" and seconds >= length]
    unit, length = fits[-1] if fits else ("s", 1)
    return f"{max(0.0, seconds) / length:.0f}{unit}"
