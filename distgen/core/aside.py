"""Modules of ours that run in a process of their own: what hangs there, hangs there alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from distgen.core.errors import DistgenError


def run_aside(
    module: str, *arguments: str, timeout_s: float, environment: Mapping[str, str] | None = None
) -> Any:
    """The JSON that `python -m module` prints.

    Args:
        module: Its full name.
        arguments: On its command line.
        timeout_s: After which it is killed.
        environment: In place of this process's.

    Raises:
        DistgenError: It failed, or was not done in time; the message is its last line.
    """
    # A worker of Ray has found its modules in ways that its environment does not tell.
    paths = os.pathsep.join(path for path in sys.path if path)
    try:
        ended = subprocess.run(  # noqa: S603  (our own interpreter and module, no shell)
            [sys.executable, "-m", module, *arguments],
            env={**(os.environ if environment is None else environment), "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DistgenError(f"no answer within {timeout_s:g} s") from error
    if ended.returncode == 0:
        return json.loads(ended.stdout)
    lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
    raise DistgenError(lines[-1][:300] if lines else f"it ended with code {ended.returncode}")
