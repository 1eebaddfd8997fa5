"""`torch.compile` for the networks that are differentiated once, with a way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import nn

from distgen.objectives.base import Phase


def _word(value: object) -> object:
    """What YAML makes of a bare `on` or `off`, as it was written."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Compile = Annotated[Literal["auto", "on", "off"], BeforeValidator(_word)]
Tell = Callable[..., None]
"""Takes the kind of an event and its facts."""


def to_compile(
    mode: Compile, device: torch.device, phases: Iterable[Phase], *, unrolled: bool = False
) -> tuple[str, ...]:
    """Names of the networks to compile.

    A compiled network cannot be differentiated twice, as gradient penalties do.

    Args:
        mode: `auto` compiles for CUDA, and no networks that are unrolled.
        device: Where they train.
        phases: The objective's.
        unrolled: As of the family.
    """
    if mode == "off" or (mode == "auto" and (device.type != "cuda" or unrolled)):
        return ()
    phases = tuple(phases)
    twice = {name for phase in phases for name in phase.differentiated_twice}
    trained = {name for phase in phases for name in phase.networks}
    return tuple(sorted(trained - twice))


def compile_calls(
    networks: Mapping[str, nn.Module],
    names: Iterable[str],
    tell: Tell,
    *,
    backend: str = "inductor",
) -> None:
    """Let calls of the named networks run compiled code.

    The modules stay what they are, and so do the names of their weights in checkpoints, averages
    and bundles. A network that cannot be compiled runs as it is from then on, and `tell` hears why.
    """
    for name in names:
        network = networks[name]
        network._compiled_call_impl = _WithAWayBack(name, network, tell, backend)


class _WithAWayBack:
    """A network's call, compiled until that fails."""

    def __init__(self, name: str, network: nn.Module, tell: Tell, backend: str) -> None:
        self._name = name
        self._plain: Callable[..., Any] = network._call_impl
        self._tell = tell
        # Shapes stay the same from step to step; others would be compiled anew.
        self._compiled: Callable[..., Any] | None = torch.compile(
            self._plain, dynamic=False, backend=backend
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._compiled is not None:
            try:
                return self._compiled(*args, **kwargs)
            except Exception as error:  # whatever is wrong, the plain call decides
                result = self._plain(*args, **kwargs)
                self._compiled = None
                cause = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
                self._tell("runs without torch.compile", network=self._name, cause=cause)
                return result
        return self._plain(*args, **kwargs)
