"""What a replica tells: its metrics to Ray's agent, its requests to a log beside Serve's.

DISTGEN_ACCESS_LOG=1 distgen serve MODEL      # logs/serve/access_REPLICA.jsonl of Ray's session
"""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from distgen.launch.monitoring import tell_often
from distgen.serving.http.metrics import TALLY
from distgen.serving.http.observed import ACCESS_LOG, Terms, wants_access_log

_LOG_BYTES, _OLDER_LOGS = 100 * 2**20, 2


def report(replica: str) -> Terms:
    """Begin to tell of this process.

    Args:
        replica: Tells replicas of one model apart.

    Returns:
        The terms for an application behind Ray Serve, which names requests.
    """
    TALLY.replica = replica
    tell_often(TALLY.samples)
    logs = wants_access_log()
    if logs:
        from ray._private.worker import global_worker

        keep_access_log(Path(global_worker.node.get_logs_dir_path()) / "serve", replica)
    return Terms(access_log=logs, server_names_requests=True)


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
