"""A train job on Ray: workers started, watched, restarted after faults, and stopped gently."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

import ray.train
from ray.train import FailureConfig, Result, RunConfig
from ray.train import ScalingConfig as RayScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from distgen.core.errors import DistgenError, PreemptedError, TrainingError
from distgen.core.storage import Location, locate
from distgen.data.plan import sharing_advice
from distgen.data.streaming.mixed import Pictures
from distgen.launch.cluster import Connection, connect
from distgen.launch.elastic import Elastic
from distgen.launch.faults import (
    ControllerLostError,
    GiveUp,
    last_line,
    persevere,
    unwrap,
)
from distgen.launch.leaving import Leaving, NodeLeavingError
from distgen.launch.monitoring import RunMetrics
from distgen.launch.network import Ranks
from distgen.launch.preflight import require_fit_nodes, require_room
from distgen.launch.setbacks import Setbacks
from distgen.launch.telemetry import Member, News, Telemetry
from distgen.launch.turns import Turn, shares
from distgen.launch.watchdog import Finding, Look, Silence
from distgen.launch.worker import run_rank
from distgen.training.job import TrainJob
from distgen.training.local import stop_on_signals
from distgen.training.outcome import Outcome, finished_outcome
from distgen.training.run import RunFolder, Tick, open_pictures, prepare
from distgen.training.trainer import OnTick

POLL_S = 0.5
START_ATTEMPTS = 10
"""Times that Ray waits a minute for a place in a busy cluster."""

_logger = logging.getLogger(__name__)


def run(
    job: TrainJob,
    *,
    address: str | None = None,
    on_tick: OnTick = lambda _: False,
    on_message: Callable[[str], None] = _logger.warning,
    stop: threading.Event | None = None,
    fresh: bool = False,
    turn: Turn | None = None,
) -> Outcome:
    """Train `job` on its Ray Train workers; the same call again resumes, or finds it finished.

    The first SIGINT or SIGTERM lets the ranks write a checkpoint and ends with `PreemptedError`;
    the second SIGINT ends at once, which costs the images since the last checkpoint.

    Args:
        job: What is trained, with `scaling.workers` of at least 1.
        address: A Ray cluster as `cluster.connect` takes it; None starts a private one.
        on_tick: Called in this process with each point of the curves and every few seconds
            between; True asks for a stop.
        on_message: Told in words what a tick does not say: a lost worker, a full cluster.
        stop: Another way to ask for a stop, from another thread.
        fresh: Move an existing run of this name aside and start from nothing.
        turn: The run's place in line on a cluster, where it has stood in it already.

    Raises:
        UsageError: The shard set is missing or does not fit the model, the workers can never fit,
            a node lacks what a rank needs, or the run's folder belongs to a different job.
        PreemptedError: The run was asked to stop, and its checkpoint is written.
        TrainingError: The run was given up.
    """
    job = with_absolute_paths(job)
    pictures = open_pictures(job)
    folder = prepare(job, pictures.fingerprint, fresh=fresh)
    if folder.is_finished(job.training.images, job.training.early_stop):
        return finished_outcome(folder)
    if advice := advice_on_reading(job, pictures, folder):
        on_message(advice)
    with connect(address, batch_work=not job.scaling.gpus_per_worker) as connection:
        room = connection.room()
        require_room(job.scaling, room)
        require_fit_nodes(job, pictures, connection, on_message)
        metrics = RunMetrics(job.name)
        metrics.recall(folder.events())
        turn = turn or Turn(job.scaling, on_message)
        with stop_on_signals() as signalled, metrics.told(), turn:
            stops = (signalled, *([stop] if stop else []))
            if shares(connection, room):
                turn.wait(lambda: any(each.is_set() for each in stops))

            def launch(sized: TrainJob, more: threading.Event | None = None) -> Outcome:
                told = _Told(metrics, on_tick, on_message, turn.leave)
                return _Launch(sized, folder, connection, told).run(stops, more)

            if not job.scaling.is_elastic:
                setbacks = Setbacks(folder.checkpoints, job.scaling.max_failures)
                return persevere(lambda: launch(job), setbacks)
            return Elastic(job, folder, connection, launch, on_message).run(stops)


def with_absolute_paths(job: TrainJob) -> TrainJob:
    """The same job, its relative paths resolved here: workers have working folders of their own."""
    mix = tuple(
        entry.model_copy(update={"shards": locate(entry.shards).url}) for entry in job.data.mix
    )
    data = job.data.model_copy(update={"shards": locate(job.data.shards).url, "mix": mix})
    return job.model_copy(update={"storage": locate(job.storage).url, "data": data})


def advice_on_reading(job: TrainJob, pictures: Pictures, folder: RunFolder) -> str | None:
    """What to change in a run that would read much for nothing, while that can be changed."""
    if folder.events():  # lanes are part of the order, and so of the run
        return None
    return sharing_advice(
        pictures,
        ranks=job.scaling.most,
        batch_size=job.training.batch_size,
        lanes=job.data.lanes,
        shuffle_window=job.data.shuffle_window,
    )


@dataclass(frozen=True)
class _Told:
    """Who hears of a launch."""

    metrics: RunMetrics
    on_tick: OnTick
    on_message: Callable[[str], None]
    on_placed: Callable[[], None]
    """Called whenever the workers are seen to have their places."""


class _Launch:
    """One launch of a run: from the first worker to the last message."""

    def __init__(
        self,
        job: TrainJob,
        folder: RunFolder,
        connection: Connection,
        told: _Told,
    ) -> None:
        self._job = job
        self._folder = folder
        self._connection = connection
        self._metrics = told.metrics
        self._on_tick = told.on_tick
        self._on_message = told.on_message
        self._on_placed = told.on_placed
        self._attempts = 0
        self._announced = 0
        self._images_seen = 0
        self._members: list[Member] = []
        self._silence = Silence(job.scaling.patience_s)
        self._look: Look | None = None
        self._leaving = Leaving()

    def run(self, stops: Sequence[threading.Event], more: threading.Event | None = None) -> Outcome:
        """Train to the end, or until one of `stops` is set, or there is room for `more` workers."""
        telemetry = Telemetry.start()
        # Ray restores what it finds under a run's name. Our checkpoints are in the run's folder,
        # and Ray has to know nothing: a new folder each time, and none left behind.
        storage = (self._folder.location / "ray" / uuid.uuid4().hex[:8]).make_dir()
        try:
            fit = _in_thread(self._trainer(telemetry, storage).fit)
            with self._leaving.looked_for():
                leaves = self._watch(fit, telemetry, stops, more)
            return self._conclude(fit, NodeLeavingError if leaves else PreemptedError)
        finally:
            telemetry.close()
            storage.parent.remove()

    def _trainer(self, telemetry: Telemetry, storage: Location) -> DataParallelTrainer:
        scaling = self._job.scaling
        setbacks = Setbacks(self._folder.checkpoints, scaling.max_failures)
        # Plain data: what is typed would make the controller load the whole trainer to read it.
        told = {"job": self._job.model_dump(mode="json"), "telemetry": telemetry}
        return DataParallelTrainer(
            run_rank,
            train_loop_config=told,
            backend_config=Ranks(),
            scaling_config=RayScalingConfig(
                num_workers=scaling.most,
                use_gpu=scaling.gpus_per_worker > 0,
                resources_per_worker={name: n for name, n in scaling.per_worker.items() if n},
            ),
            run_config=RunConfig(
                name=self._job.name,
                storage_path=storage.path,
                storage_filesystem=storage.filesystem,
                # It is for `GiveUp` to say when workers have failed too often.
                failure_config=FailureConfig(
                    max_failures=-1, controller_failure_limit=START_ATTEMPTS
                ),
                callbacks=[GiveUp(telemetry, setbacks, self._where())],
            ),
        )

    def _watch(
        self,
        fit: Future[Result],
        telemetry: Telemetry,
        stops: Sequence[threading.Event],
        more: threading.Event | None,
    ) -> bool:
        """Hand ticks on until the fit ends; pass a wish to stop on once.

        Returns:
            Whether the ranks were stopped because a node leaves, and for nothing else.
        """
        wanted = asked = leaves = False
        while True:
            over = fit.done()  # looked at first, so that the last ticks are taken after the end
            wanted |= self._show(telemetry.take(0.0 if over else POLL_S))
            wanted |= any(stop.is_set() for stop in stops)
            if over:
                return leaves and not wanted
            if self._silence.is_too_long():
                self._silence.forget()
                self._look = Look(self._members)
            findings = self._look.findings() if self._look is not None else None
            if findings is not None:
                self._tell_what_hung(findings)
                self._look = None
            leavers = [] if asked else self._leaving.among(self._members)
            room = more is not None and more.is_set()
            if asked or not (wanted or leavers or room):
                continue
            telemetry.request_stop()
            asked, leaves = True, bool(leavers)
            if wanted:
                self._on_message("Stopping after a checkpoint; Ctrl-C again ends at once.")
            elif leavers:
                self._tell_who_leaves(leavers)
            else:
                self._on_message(
                    "There is room for more workers; starting again with them after a checkpoint."
                )
            if self._attempts == 0:
                raise PreemptedError(
                    "Stopped before the first worker had started.",
                    where=str(self._folder.location),
                    remedy="the same command starts again",
                )

    def _show(self, news: News) -> bool:
        """Pass news to whoever watches; True where they ask for a stop."""
        wanted = False
        self._silence.listen(news)
        self._members = news.members
        for event in news.events:
            self._metrics.event(event)
        for fault in news.faults:
            if self._look is not None:
                self._look.hurry()
            self._tell("workers lost", cause=fault)
            self._on_message(f"Workers lost, {fault}. Restarting from the last checkpoint.")
        self._attempts = news.attempts
        if news.attempts:
            self._on_placed()
        if news.ticks and self._announced < news.attempts:
            # The ranks met before the first tick, so that all of them are known by now.
            self._announced = news.attempts
            ranks = [asdict(member) for member in news.members]
            self._metrics.members(len(ranks))
            self._tell("workers running", ranks=ranks)
        for tick in (Tick(**values) for values in news.ticks):
            self._images_seen = tick.images_seen
            self._metrics.tick(tick)
            wanted |= self._on_tick(tick)
        return wanted

    def _tell_what_hung(self, findings: Sequence[Finding]) -> None:
        """Write down where each rank was when all were ended: none can go on without the others."""
        folder = (self._folder.location / "stacks").make_dir()
        for finding in findings:
            name = f"{self._images_seen:012d}-rank-{finding.rank}.txt"
            (folder / name).write_text(f"{finding.state}\n{finding.stacks}")
        states = {finding.rank: finding.state for finding in findings}
        patience = self._silence.patience_s
        self._tell("stalled", silent_s=patience, states=states)
        said = ", ".join(f"rank {rank} is {state}" for rank, state in states.items())
        self._on_message(
            f"No news from the workers for {patience:g} s ({said}); they are ended. "
            f"Where each thread was: {folder}"
        )

    def _tell_who_leaves(self, leavers: Sequence[Member]) -> None:
        first = leavers[0]
        rest_s = self._leaving.in_seconds(first.node)
        ranks = [member.rank for member in leavers]
        facts = {"node": first.node, "host": first.host, "ranks": ranks}
        self._tell("node leaving", **facts, seconds_left=rest_s and round(rest_s, 1))
        self._on_message(
            f"The node of rank {', '.join(map(str, ranks))} ({first.host}) leaves the cluster; "
            "going on without it after a checkpoint."
        )

    def _tell(self, kind: str, **facts: Any) -> None:
        self._folder.event(kind, self._images_seen, **facts)

    def _conclude(
        self, fit: Future[Result], preempted: type[PreemptedError] = PreemptedError
    ) -> Outcome:
        error = fit.exception()
        if error is not None:
            raise self._explain(error) from error
        value: dict[str, Any] = fit.result().return_value or {}
        if "outcome" in value:
            return Outcome(**value["outcome"])
        if "preempted" in value:
            raise preempted(**value["preempted"])
        raise TrainingError("The workers ended without a result.", where=self._where())

    def _explain(self, error: BaseException) -> BaseException:
        """What the user should hear of an error that came through Ray."""
        known = unwrap(error)
        if known is not None:
            return known
        if isinstance(error, ray.train.ControllerError):
            return self._explain_controller(error.controller_failure)
        if isinstance(error, ray.exceptions.RayActorError):
            return self._lost_controller()
        return error

    def _lost_controller(self) -> ControllerLostError:
        cause = "the process of Ray's controller died (killed, or out of memory)"
        self._tell("workers lost", cause=cause)
        self._on_message(f"Workers lost, {cause}. Restarting from the last checkpoint.")
        return ControllerLostError(
            "Ray's controller of this run died too often; the run is given up.",
            where=self._where(),
            cause=cause,
            remedy=f"the same command resumes; {self._logs()}",
        )

    def _explain_controller(self, error: Exception) -> DistgenError:
        if "Timeout" in type(error).__name__:
            return TrainingError(
                f"The cluster had no place for {self._job.scaling.most} workers "
                f"in {START_ATTEMPTS} minutes.",
                where=self._connection.address,
                cause="other jobs hold its CPUs or GPUs",
                remedy="distgen jobs ls; the same command tries again",
            )
        return TrainingError(
            "Ray could not run the workers.",
            where=self._where(),
            cause=last_line(error),
            remedy=self._logs(),
        )

    def _where(self) -> str:
        return str(self._folder.location)

    def _logs(self) -> str:
        session = self._connection.session_dir
        return f"Ray's logs: {session}/logs" if session else "see the logs in Ray's dashboard"


def _in_thread(work: Callable[[], Result]) -> Future[Result]:
    """Run `work` in a daemon thread: there Ray leaves the signals to us."""
    future: Future[Result] = Future()

    def target() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # whatever it is belongs to the thread that asked
            future.set_exception(error)

    threading.Thread(target=target, name="fit", daemon=True).start()
    return future
