"""How often a run may fail: as often as it likes while it comes further, not often where it stands.

This module is loaded by Ray Train's controller too, and is therefore light.
"""

from __future__ import annotations

from distgen.core.storage import Location, locate


class Setbacks:
    """Failures in a row, with no new checkpoint between them.

    A run of weeks on nodes that come and go meets any number of faults; one that fails again before
    it has anything to keep would do so for ever.

    Args:
        checkpoints: The folder of the run's checkpoints.
        limit: Failures at one point after which the run is given up.
    """

    def __init__(self, checkpoints: Location, limit: int) -> None:
        self.count = 0
        """Failures since the newest checkpoint."""
        self._url = checkpoints.url  # it travels to another process, where a Location cannot go
        self._limit = limit
        self._furthest = self._newest()

    def one_more(self) -> bool:
        """Count a failure; whether the run may be tried again."""
        newest = self._newest()
        self.count = self.count + 1 if newest <= self._furthest else 1
        self._furthest = max(newest, self._furthest)
        return self.count <= self._limit

    def _newest(self) -> int:
        """Images seen at the newest whole checkpoint; 0 without one."""
        folder = locate(self._url)
        if not folder.is_dir():
            return 0
        made = (place for place in folder.list() if place.name.isdigit())
        return max(
            (int(each.name) for each in made if (each / "manifest.json").is_file()), default=0
        )
