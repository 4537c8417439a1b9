"""Benchmark files as Cases. Their layouts are a table; their data stay where their authors put them."""

from errata.evaluate.benchmarks.layouts import LAYOUTS, RecordLayout
from errata.evaluate.benchmarks.read import detect_layout, named_cases, read_cases, read_hub_cases

__all__ = ["LAYOUTS", "RecordLayout", "detect_layout", "named_cases", "read_cases", "read_hub_cases"]
