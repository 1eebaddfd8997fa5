"""Models that are kept: bundles, versions and aliases, and how one is named on a command line."""

from distgen.registry.bundle import (
    Bundle,
    BundleInfo,
    inspect_bundle,
    load_bundle,
    with_card,
    write_bundle,
)
from distgen.registry.resolve import resolve_model
from distgen.registry.store import ModelStore

__all__ = [
    "Bundle",
    "BundleInfo",
    "ModelStore",
    "inspect_bundle",
    "load_bundle",
    "resolve_model",
    "with_card",
    "write_bundle",
]
