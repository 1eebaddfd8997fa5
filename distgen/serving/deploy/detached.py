"""Endpoints that outlive the command that started them: one process each, known by a state file."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psutil
from pydantic import ValidationError

from distgen.core.birth import find, started_at
from distgen.core.config import Config
from distgen.core.errors import DistgenError, UsageError

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 90.0
_LOG_TAIL_CHARS = 2_000


class Detached(Config):
    """An endpoint's process, and how to know it from a later one with the same number."""

    pid: int
    started: float
    """When the process began (`core.birth`)."""
    model: str
    """What was asked to be served."""
    url: str
    log: str
    """Where its output goes."""

    def process(self) -> psutil.Process | None:
        """The process, if it still runs."""
        return find(self.pid, self.started)

    def is_ready(self) -> bool:
        """Whether the endpoint answers requests."""
        try:
            # Its own address, to which no proxy is on the way.
            answer = httpx.get(f"{self.url}/readyz", timeout=5.0, trust_env=False)
            return answer.status_code == 200
        except httpx.HTTPError:
            return False


def state_folder() -> Path:
    """Where state files and logs are: `$XDG_STATE_HOME/distgen/endpoints`, by default below
    `~/.local/state`.
    """
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "distgen" / "endpoints"


def find_all() -> list[Detached]:
    """Endpoints that still run, in the order of their names; state of others is removed."""
    found = []
    for file in sorted(state_folder().glob("*.json")):
        with contextlib.suppress(OSError, ValidationError):
            endpoint = Detached.model_validate_json(file.read_bytes())
            if endpoint.process() is not None:
                found.append(endpoint)
                continue
        file.unlink(missing_ok=True)
    return found


def start(arguments: Sequence[str], *, model: str, url: str) -> Detached:
    """Run `distgen serve` with these arguments in a process of its own, and wait until it answers.

    Raises:
        UsageError: It ended because the request was wrong.
        DistgenError: It ended, or did not answer in time; the end of its log says why.
    """
    folder = state_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = folder / f"{_file_name(url)}.log"
    with log.open("wb") as output:
        child = subprocess.Popen(  # noqa: S603  (this interpreter, our own module)
            [sys.executable, "-m", "distgen", "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = started_at(child.pid)
    endpoint = Detached(pid=child.pid, started=started, model=model, url=url, log=str(log))
    state = folder / f"{_file_name(url)}.json"
    state.write_text(endpoint.model_dump_json(indent=2) + "\n")
    deadline = time.monotonic() + START_TIMEOUT_S
    try:
        while not endpoint.is_ready():
            if child.poll() is not None or time.monotonic() > deadline:
                raise _failure(child.poll(), log)
            time.sleep(0.2)
    except BaseException:
        stop(endpoint)
        raise
    return endpoint


def stop(endpoint: Detached) -> None:
    """End the endpoint's process, as Ctrl-C would, and forget it.

    Raises:
        DistgenError: It does not end.
    """
    process = endpoint.process()
    if process is not None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except psutil.TimeoutExpired as error:
            raise DistgenError(
                f"The endpoint at {endpoint.url} does not end.",
                where=endpoint.log,
                remedy=f"kill -9 {endpoint.pid}",
            ) from error
    for file in state_folder().glob("*.json"):
        with contextlib.suppress(OSError, ValidationError):
            if Detached.model_validate_json(file.read_bytes()) == endpoint:
                file.unlink()


def _file_name(url: str) -> str:
    """Host and port, each of which may be another endpoint's too."""
    return re.sub(r"[^\w.]+", "-", url.partition("://")[2]).strip("-.")


def _failure(code: int | None, log: Path) -> DistgenError:
    tail = log.read_text(errors="replace")[-_LOG_TAIL_CHARS:].strip()
    kind = UsageError if code == UsageError.exit_code else DistgenError
    ended = "does not answer" if code is None else f"ended with exit code {code}"
    return kind(f"The endpoint {ended}.", where=str(log), cause=tail or None)
