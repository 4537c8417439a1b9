"""Facts and cases from files and hub datasets. Formats are a table; data stay where their authors put them."""

from errata.dataset.case import Case, Check
from errata.dataset.conflicts import OnConflict
from errata.dataset.formats import FORMATS, RecordFormat
from errata.dataset.read import RecordWarning, detect_format, named_cases, read_cases, read_facts, read_hub_cases
from errata.dataset.references import read_references

__all__ = [
    "FORMATS",
    "Case",
    "Check",
    "OnConflict",
    "RecordFormat",
    "RecordWarning",
    "detect_format",
    "named_cases",
    "read_cases",
    "read_facts",
    "read_hub_cases",
    "read_references",
]
