"""A search on Ray Tune: points out, trainings in parallel, the worse ended early, the best kept."""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from distgen.core.errors import PreemptedError, TrainingError
from distgen.launch.cluster import Room, connect, slots
from distgen.launch.preflight import require_room
from distgen.training.local import stop_on_signals
from distgen.training.run import open_pictures
from distgen.training.scaling import ScalingConfig
from distgen.tune.folder import SearchFolder, Trial, name_of, rank
from distgen.tune.job import TuneJob, with_absolute_paths
from distgen.tune.optuna import build_searcher
from distgen.tune.report import write_results
from distgen.tune.space import Point, points
from distgen.tune.trial import CLOCK, TrialRun

REFRESH_S = 1.0

_logger = logging.getLogger(__name__)

OnTrials = Callable[[list[Trial]], None]
"""Told about all trials, about once a second."""


@dataclass(frozen=True)
class SearchOutcome:
    """What a search leaves."""

    folder: str
    """Path or URL."""
    best: Trial
    best_job: str
    """The best trial's job file, ready to train."""
    trials: list[Trial]


def run(
    job: TuneJob,
    *,
    address: str | None = None,
    resume: bool = False,
    on_trials: OnTrials = lambda _: None,
    on_message: Callable[[str], None] = _logger.warning,
) -> SearchOutcome:
    """Search; on a finished search of this name, only read its results.

    Args:
        job: What is varied and how.
        address: A Ray cluster as `cluster.connect` takes it; None starts a private one.
        resume: Go on with a search that was started before.
        on_trials: Told about the trials while they run.
        on_message: Told in words what the trials do not say.

    Raises:
        UsageError: The search exists already, or its trials can never fit into the cluster.
        PreemptedError: A signal came; trials have written their checkpoints.
        TrainingError: Not one trial reached a quality card.
    """
    job = with_absolute_paths(job)
    open_pictures(job.train)
    folder = SearchFolder(job)
    folder.prepare(resume=resume)
    if not folder.is_finished:
        batch_work = not job.train.scaling.gpus_per_worker
        with connect(address, batch_work=batch_work) as connection:
            _Search(folder, connection.room(), on_trials, on_message).run()
    return conclude(folder)


def conclude(folder: SearchFolder) -> SearchOutcome:
    """Write the results of a search that has ended.

    Raises:
        TrainingError: Not one trial reached a quality card.
    """
    trials = folder.trials()
    ranked = rank(trials, folder.job.mode)
    if not ranked:
        causes = [trial.cause for trial in trials if trial.cause]
        raise TrainingError(
            "Not one trial of the search reached a quality card.",
            where=str(folder.location),
            cause=causes[0] if causes else None,
            remedy=f"train one by itself: distgen train {trials[0].run}/job.yaml"
            if trials
            else None,
        )
    write_results(folder, trials)
    return SearchOutcome(str(folder.location), ranked[0], str(folder.best), trials)


def concurrency(scaling: ScalingConfig, room: Room, limit: int | None) -> int:
    """How many trials run at a time so that none waits inside for another one's workers.

    Tune counts only its own small actors; workers that Train cannot place would hold the others'
    places and wait for ever.
    """
    need = scaling.per_worker
    fitting = max(1, slots(room.nodes, need) // scaling.most)
    return min(fitting, limit or fitting)


class _Search:
    """One start of a search, from the first trial to the last."""

    def __init__(
        self,
        folder: SearchFolder,
        room: Room,
        on_trials: OnTrials,
        on_message: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._job = folder.job
        scaling = self._job.train.scaling
        self._scaling = scaling.model_copy(update={"workers": scaling.most})
        require_room(self._scaling, room)
        self._concurrent = concurrency(self._scaling, room, self._job.search.max_concurrent)
        self._on_trials = on_trials
        self._on_message = on_message

    def run(self) -> None:
        _quiet()
        # A search is finished when it has its best job: one that goes on has none until its end.
        self._folder.best.remove()
        storage = (self._folder.location / "ray" / uuid.uuid4().hex[:8]).make_dir()
        tuner = self._tuner(storage.path, storage.filesystem)
        failure: list[BaseException] = []

        def fit() -> None:
            try:
                tuner.fit()
            except BaseException as error:  # raised again where the search was asked for
                failure.append(error)

        thread = threading.Thread(target=fit, name="search", daemon=True)
        try:
            with stop_on_signals() as stop:
                # In a thread Tune leaves the signals to us.
                thread.start()
                self._wait(thread, stop)
        finally:
            storage.parent.remove()
        if failure:
            raise failure[0]
        if stop.is_set():
            raise PreemptedError(
                "The search was stopped; its trials have written their checkpoints.",
                where=str(self._folder.location),
                remedy="the same command with --resume goes on",
            )

    def _wait(self, thread: threading.Thread, stop: threading.Event) -> None:
        asked = False
        while thread.is_alive():
            thread.join(REFRESH_S)
            self._on_trials(self._folder.trials())
            if stop.is_set() and not asked:
                asked = True
                _stop_requested.set()
                self._on_message("Stopping the trials after a checkpoint; Ctrl-C again ends now.")

    def _tuner(self, storage: str, filesystem: Any) -> tune.Tuner:
        search = self._job.search
        if search.algorithm == "optuna":
            known = self._folder.known_points()
            source = {"search_alg": build_searcher(self._job, known, self._configure)}
            space, samples = {}, search.trials
        else:
            chosen = [self._configure(n, point) for n, point in enumerate(points(search))]
            source, space, samples = {}, {"trial": tune.grid_search(chosen)}, 1
        # Trials themselves only wait for their workers. They take a sliver of the head node's own
        # resource, for any CPU that they took would be missing where workers must fit exactly.
        place = tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
        _stop_requested.clear()
        return tune.Tuner(
            tune.with_resources(TrialRun, place),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=self._job.metric,
                mode=self._job.mode,
                num_samples=samples,
                max_concurrent_trials=self._concurrent,
                scheduler=self._scheduler(),
                trial_name_creator=_name,
                trial_dirname_creator=_name,
                **source,
            ),
            run_config=tune.RunConfig(
                name=self._job.name,
                storage_path=storage,
                storage_filesystem=filesystem,
                stop=_StopOnRequest(),
                callbacks=[Watch(self._folder)],
                # A trial's checkpoints are its run's; Tune has none to keep.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        )

    def _configure(self, number: int, point: Point) -> dict[str, Any]:
        self._folder.note(number, point, "waiting")
        trial = self._folder.trial_job(number, point)
        return {"number": number, "point": point, "job": trial.model_dump(mode="json")}

    def _scheduler(self) -> TrialScheduler:
        search, training = self._job.search, self._job.train.training
        if search.scheduler == "none":
            return FIFOScheduler()
        grace = search.grace_images or min(training.evaluate_every, training.images)
        return ASHAScheduler(
            time_attr=CLOCK,
            max_t=training.images,
            grace_period=grace,
            reduction_factor=search.reduction,
        )


class Watch(tune.Callback):  # type: ignore[misc]
    """Writes down how each trial stands."""

    def __init__(self, folder: SearchFolder) -> None:
        self._folder = folder

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        """A trial's actor runs."""
        self._note(trial, "running")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        """A trial has ended, at its length or before."""
        reached = int((trial.last_result or {}).get(CLOCK, 0))
        length = trial.config["trial"]["job"]["training"]["images"]
        self._note(trial, "finished" if reached >= length else "stopped")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        """A trial has failed."""
        lines = str(trial.get_error() or "").strip().splitlines()
        # Below the last traceback stands what our own error says, its first line first.
        own = [place for place, line in enumerate(lines) if line.startswith("RuntimeError:")]
        text = " ".join(lines[own[-1] :] if own else lines[-1:])
        self._note(trial, "failed", text.removeprefix("RuntimeError:").strip())

    def _note(self, trial: Any, status: str, cause: str = "") -> None:
        config = trial.config["trial"]
        self._folder.note(config["number"], config["point"], status, cause)


# Tune keeps copies of what it is configured with, on disk too, and an event has no copies.
_stop_requested = threading.Event()


class _StopOnRequest(tune.Stopper):  # type: ignore[misc]
    """Ends all trials when the driver was asked to stop."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        return False

    def stop_all(self) -> bool:
        return _stop_requested.is_set()


def _name(trial: Any) -> str:
    return name_of(trial.config["trial"]["number"])


def _quiet() -> None:
    # Tune's newer output prints results and errors even when told to be silent.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
