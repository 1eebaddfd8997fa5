"""What Ray finds around it on this machine: its settings and its folder for sessions."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from distgen.core.errors import UsageError

# A session's sockets lie 62 characters below the temporary folder, and the kernel allows 107.
MAX_TEMP_DIR_CHARS = 45

_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # The driver hears of a finished or failed worker group at the controller's next look.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Workers go where the driver is (see `launch.worker`), not into a folder of Ray's.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Drivers look for nodes that leave (`launch.leaving`); Ray's own watch for them would be one
    # process more for each start of the workers.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Timing each event of each of Ray's dozen processes, for its debug logs, costs training 2 %.
    "RAY_event_stats": "0",
}
_PRIVATE = {
    # Nobody collects the metrics of a cluster that ends with its run.
    "RAY_metrics_report_interval_ms": "60000",
}


def prepare_environment(*, private: bool = False) -> None:
    """Settings of Ray that it reads from the environment; what the user has set stays.

    Args:
        private: Also those for a cluster of one node that is there for this process alone.
    """
    for name, value in (_DEFAULTS | (_PRIVATE if private else {})).items():
        os.environ.setdefault(name, value)


def temp_root() -> Path:
    """A short folder of this user's own for Ray's sessions and sockets.

    Raises:
        UsageError: Its name is too long for sockets, or it belongs to someone else.
    """
    base = Path(os.environ.get("RAY_TMPDIR") or "/tmp")  # noqa: S108  (a subfolder with mode 0700)
    root = base / f"distgen-{os.getuid()}"
    if len(str(root)) > MAX_TEMP_DIR_CHARS:
        raise UsageError(
            f"{str(root)!r} is too long for Ray's sockets.",
            cause=f"at most {MAX_TEMP_DIR_CHARS} characters fit",
            remedy="RAY_TMPDIR=/tmp",
        )
    with contextlib.suppress(FileExistsError):
        root.mkdir(mode=0o700, parents=True)
    about = root.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid():
        raise UsageError(
            f"{str(root)!r} is not a folder of this user.",
            cause="someone else made it first",
            remedy="RAY_TMPDIR=$HOME",
        )
    root.chmod(0o700)
    return root
