"""What a replica tells: its metrics to Ray's agent, its requests to a log beside Serve's, and what
became of its models to another.

DISTGEN_ACCESS_LOG=1 distgen serve MODEL      # logs/serve/access_REPLICA.jsonl of Ray's session
                                              # logs/serve/events_REPLICA.jsonl, always
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from logging.handlers import RotatingFileHandler
from pathlib import Path

from distgen.launch.monitoring import tell_often
from distgen.serving.http.metrics import TALLY
from distgen.serving.http.observed import ACCESS_LOG, Terms, wants_access_log
from distgen.serving.making.shelf import Shelf
from distgen.serving.making.spot import Change

_LOG_BYTES, _OLDER_LOGS = 100 * 2**20, 2


def report(replica: str) -> Terms:
    """Begin to tell of this process.

    Args:
        replica: Tells replicas of one model apart.

    Returns:
        The terms for an application behind Ray Serve, which names requests.
    """
    TALLY.replica = replica
    tell_often(TALLY.everything)
    logs = wants_access_log()
    if logs:
        keep_access_log(_logs(), replica)
    return Terms(access_log=logs, server_names_requests=True)


def report_changes(shelf: Shelf, replica: str) -> None:
    """Write what becomes of a shelf's models to `events_REPLICA.jsonl`."""
    shelf.listeners.append(partial(keep_event, _logs() / f"events_{replica}.jsonl"))


def keep_event(file: Path, change: Change) -> None:
    """Append a line of JSON: when, which model, what became of it, and the digest served now."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as log:
        log.write(json.dumps({"time": now, **asdict(change)}) + "\n")


def _logs() -> Path:
    from ray._private.worker import global_worker

    return Path(global_worker.node.get_logs_dir_path()) / "serve"


def keep_access_log(folder: Path, replica: str) -> Path:
    """Write what requests are logged with from now on to `access_REPLICA.jsonl`, and return it.

    The newest 300 MB stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"access_{replica}.jsonl"
    handler = RotatingFileHandler(file, maxBytes=_LOG_BYTES, backupCount=_OLDER_LOGS)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger(ACCESS_LOG)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False  # Ray shows everything else in the terminal of `distgen serve`
    return file
