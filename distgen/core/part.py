"""What outlives a process."""

from __future__ import annotations

from typing import Any, Protocol


class Part(Protocol):
    """Something that must survive a restart."""

    def state_dict(self) -> dict[str, Any]:
        """Everything to keep: tensors, numbers, strings, lists and dicts of them."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Become what `state_dict` said."""
