"""What was found when something was looked at: a verdict, in words, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at on one machine."""

    subject: str
    """What was looked at, in a word or two: `storage`, `open files`."""
    verdict: Verdict
    """`problem`: a run would fail or lose something; `warning`: it would be slower, less safe, or
    harder to explain; `ok`: neither."""
    text: str
    """What was seen, as the end of a sentence."""
    remedy: str = ""
    """What to type or change; empty where all is well."""


def ok(subject: str, text: str) -> Finding:
    """All is well with this."""
    return Finding(subject, "ok", text)


def warning(subject: str, text: str, remedy: str) -> Finding:
    """A run works with this, but not as well as it could."""
    return Finding(subject, "warning", text, remedy)


def problem(subject: str, text: str, remedy: str) -> Finding:
    """A run would fail with this."""
    return Finding(subject, "problem", text, remedy)


def count(findings: Iterable[Finding], verdict: Verdict) -> int:
    """How many findings have this verdict."""
    return sum(finding.verdict == verdict for finding in findings)


def gib(size: float) -> str:
    """A number of bytes in GiB, or MiB where that is more telling."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
