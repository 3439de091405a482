"""Photographs that judge: in no training and no validation, known by their content."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

LIST = Path(__file__).parent / 'judge_photographs.txt'
"""A line each: SHA-256 of the file, and where it was."""


@functools.cache
def hashes() -> frozenset[str]:
    """SHA-256 of every photograph of the judge."""
    return frozenset(line.split()[0] for line in LIST.read_text().splitlines() if line)


def without_judges(paths: list[Path]) -> list[Path]:
    """The files whose content is none of the judge's."""
    return [path for path in paths if digest(path) not in hashes()]


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
