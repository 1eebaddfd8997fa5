"""From pictures and videos of any kind to shard sets, and an index for tars of others."""

from distgen.data.building.build import Built, build
from distgen.data.building.pack import SetWriter

__all__ = ["Built", "SetWriter", "build"]
