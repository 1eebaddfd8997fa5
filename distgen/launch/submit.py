"""Job files on a remote cluster, through Ray Jobs: submit, list, follow, stop.

What travels is the job file, and a folder where one is given: distgen is installed on the cluster,
and the data are where the job file says. Credentials do not travel; those of the cluster's nodes
are used. The entrypoint is the command that a person on the head node would type.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distgen.core.errors import (
    EXIT_FAILED,
    EXIT_PREEMPTED,
    DistgenError,
    UsageError,
    did_you_mean,
)
from distgen.core.secrets import shielded
from distgen.launch import auth
from distgen.launch.cluster import dial
from distgen.launch.environment import prepare_environment
from distgen.launch.nodes import JOB_STOP_WAIT_S
from distgen.launch.state import read_state
from distgen.launch.upload import Upload, pack

JOB_FILE = "distgen-job.yaml"
POLL_S = 0.5
_OURS = "distgen"  # metadata key that tells our jobs from other people's
_STORAGE = "storage"
_ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


@dataclass(frozen=True)
class JobInfo:
    """A job on a cluster, as `jobs ls` and `jobs status` show it."""

    id: str
    name: str
    """The job file's."""
    kind: str
    """`train`, `tune`, ...; empty for a job that distgen did not submit."""
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    started: float | None
    """Seconds since the epoch."""
    ended: float | None
    exit_code: int | None
    message: str
    storage: str = ""
    """Where the run is kept: the same name there is the same run."""

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")

    @property
    def outcome(self) -> int:
        """The exit code that `--follow` ends with: the job's own.

        A stopped job has had time for its checkpoint and can be submitted again, so its code is
        that of a preempted run.
        """
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return EXIT_PREEMPTED
        return self.exit_code or EXIT_FAILED


def dashboard_url(address: str | None) -> str:
    """The URL of the cluster's dashboard, which takes job files.

    Args:
        address: The URL; None for `RAY_API_SERVER_ADDRESS` or, where that is not set, the cluster
            that `distgen cluster up` started on this machine.

    Raises:
        UsageError: No address is given or known, or it is not a URL of a dashboard.
    """
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if address in (None, "auto"):
        state = read_state()
        if state is None:
            raise UsageError(
                "There is no cluster to talk to.",
                cause="no --address is given, and none of yours runs on this machine",
                remedy="--address http://HEAD:8265, or distgen cluster up --nodes 2",
            )
        return state.dashboard_url
    try:
        parts = urlsplit(str(address))
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        cause = None
    except ValueError as error:  # brackets without an IPv6 address, a port beyond 65535
        sound, cause = False, str(error)
    if not sound:
        raise UsageError(
            f"{address!r} is not the URL of a cluster's dashboard.",
            cause=cause,
            remedy="write http://HEAD:8265; `distgen cluster status` shows the one on this machine",
        )
    return str(address).rstrip("/")


def is_on_this_machine(url: str) -> bool:
    """Whether a dashboard's host is this one, so that paths here are paths there."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_alone(jobs: Sequence[JobInfo], name: str, storage: str) -> None:
    """Refuse a job whose run another one is writing.

    Raises:
        UsageError: Names the other one.
    """
    for job in jobs:
        if storage and not job.over and (job.name, job.storage) == (name, shielded(storage)):
            raise UsageError(
                f"The run {name!r} is a job of this cluster already.",
                where=f"{job.id}, {job.status}",
                cause="two jobs would write into the same run",
                remedy=f"distgen jobs logs {job.id} --follow, or distgen jobs stop {job.id} first; "
                "or another name",
            )


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str | None = None) -> None:
        """Reach the cluster.

        Raises:
            UsageError: Nothing answers there, or it refuses the token.
        """
        self.url = dashboard_url(address)
        self._client = _client(self.url)

    def submit(
        self,
        text: str,
        *,
        name: str,
        kind: str,
        storage: str = "",
        upload: Upload | None = None,
        cpus: float = 0,
        gpus: float = 0,
        on_packed: Callable[[int], None] = lambda _: None,
    ) -> str:
        """Run a job file on the cluster.

        Args:
            text: The job file, its paths absolute.
            name: The job's name, the beginning of its id.
            kind: The command that runs it: `train`, `tune` or `serve`.
            storage: Where the run is kept.
            upload: Files that are sent along; the job runs in their folder.
            cpus: Cores for the job's own process, where it does the work itself.
            gpus: GPUs for it.
            on_packed: Told the number of bytes that are sent, before they are.

        Returns:
            The job's id.

        Raises:
            UsageError: A job of this name and storage has not ended.
        """
        require_alone(self.list(), name, storage)
        # A search that is sent again is one to go on with, as a run is without being told.
        flags = " --resume" if kind == "tune" else ""
        stem = re.sub(r"[^A-Za-z0-9_-]", "-", name)
        job_id = f"{stem}-{secrets.token_hex(3)}"
        with tempfile.TemporaryDirectory(prefix="distgen-submit-") as folder:
            archive = Path(folder) / "job.zip"
            on_packed(pack(upload, {JOB_FILE: text}, archive))
            with _explained(self.url):
                self._client.submit_job(
                    # `exec`: the signal of a stop is for distgen and not for a shell before it.
                    entrypoint=f"exec python -m distgen {kind} {JOB_FILE}{flags}",
                    submission_id=job_id,
                    runtime_env={
                        "working_dir": str(archive),
                        # Seconds from SIGTERM to SIGKILL; Ray's own are too few for a checkpoint.
                        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(JOB_STOP_WAIT_S)},
                    },
                    metadata={_OURS: kind, "name": name, _STORAGE: shielded(storage)},
                    # A process that trains by itself waits for a place; one that has workers is
                    # light, and they wait (see `launch.turns`).
                    entrypoint_num_cpus=cpus or None,
                    entrypoint_num_gpus=gpus or None,
                )
        return job_id

    def list(self) -> list[JobInfo]:
        """All jobs that were submitted to the cluster, newest first."""
        with _explained(self.url):
            found = [job for job in self._client.list_jobs() if job.submission_id]
        return sorted(map(_info, found), key=lambda job: job.started or 0, reverse=True)

    def info(self, job_id: str) -> JobInfo:
        """One job.

        Raises:
            UsageError: There is no such job; names the nearest.
        """
        for job in (jobs := self.list()):
            if job.id == job_id:
                return job
        raise UsageError(
            f"There is no job {job_id!r} on this cluster.",
            where=self.url,
            remedy=did_you_mean(job_id, [job.id for job in jobs]),
        )

    def logs(self, job_id: str) -> str:
        """All that a job has printed."""
        self.info(job_id)
        with _explained(self.url):
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, write: Callable[[str], None]) -> JobInfo:
        """Hand on what a job prints until it ends.

        Returns:
            The job as it ended.
        """
        self.info(job_id)
        while True:
            with _explained(self.url):
                asyncio.run(self._tail(job_id, write))
            info = self.info(job_id)
            if info.over:
                return info
            # The stream ends a moment before the status says so, and early while a job waits.
            time.sleep(POLL_S)

    def stop(self, job_id: str) -> bool:
        """Ask a job to end: SIGTERM, and two minutes for its checkpoint.

        Returns:
            False where it had ended already.
        """
        if self.info(job_id).over:
            return False
        with _explained(self.url):
            return bool(self._client.stop_job(job_id))

    def wait(self, job_id: str) -> JobInfo:
        """Wait until a job has ended."""
        while not (info := self.info(job_id)).over:
            time.sleep(POLL_S)
        return info

    async def _tail(self, job_id: str, write: Callable[[str], None]) -> None:
        async for lines in self._client.tail_job_logs(job_id):
            write(lines)


def _client(url: str) -> Any:
    prepare_environment()
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    dial(f"{parts.hostname}:{port}", url)
    auth.ensure_token()
    auth.present_token()
    from ray.job_submission import JobSubmissionClient

    # What is sent is told by who sends it; a closed stream of lines is no news.
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with _explained(url), _explicit_address(url):
        return JobSubmissionClient(url)


@contextmanager
def _explicit_address(url: str) -> Iterator[None]:
    """Ray lets its environment variables overrule the address that it is given; not here."""
    kept = {name: os.environ.pop(name) for name in _ADDRESS_VARIABLES if name in os.environ}
    if is_on_this_machine(url):
        # The token must not pass through a proxy on its way to loopback.
        known = os.environ.get("NO_PROXY", os.environ.get("no_proxy", ""))
        os.environ["NO_PROXY"] = ",".join(filter(None, [known, "127.0.0.1", "localhost"]))
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Ray's and requests' errors in our words."""
    import ray
    import requests

    try:
        yield
    except ray.exceptions.AuthenticationError as error:
        raise UsageError(
            "The cluster refuses the token.",
            where=url,
            cause=f"the token in {auth.token_file()} is not the cluster's",
            remedy="copy ~/.ray/auth_token from the cluster's head node, mode 0600",
        ) from error
    except (ConnectionError, requests.RequestException, RuntimeError, ValueError) as error:
        cause = shielded(" ".join(str(error).split())[:400])
        raise DistgenError(
            "The cluster's job server failed.",
            where=url,
            cause=cause,
            remedy="where the cluster is lost, bring one up again: the same `distgen submit` goes "
            "on from the last checkpoint",
        ) from error


def _info(job: Any) -> JobInfo:
    metadata = job.metadata or {}
    return JobInfo(
        id=job.submission_id,
        name=metadata.get("name", job.submission_id),
        kind=metadata.get(_OURS, ""),
        status=str(job.status),
        started=job.start_time / 1000 if job.start_time else None,
        ended=job.end_time / 1000 if job.end_time else None,
        exit_code=job.driver_exit_code,
        message=shielded(job.message or ""),
        storage=metadata.get(_STORAGE, ""),
    )
