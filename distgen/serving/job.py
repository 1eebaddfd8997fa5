"""The job file of `kind: serve`: what an endpoint serves, where, and with how many replicas."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator, model_validator

from distgen.core.config import Config
from distgen.core.sizes import Bytes
from distgen.core.storage import locate
from distgen.registry.layout import Name
from distgen.registry.resolve import bundle_in
from distgen.serving.making.references import split_name

Replicas = PositiveInt | tuple[PositiveInt, PositiveInt]
"""How many, or the fewest and the most between which they follow the load."""

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


class EndpointConfig(Config):
    """What an endpoint's replicas are told; under `args` of a Serve config file, too."""

    models: tuple[str, ...] = ()
    """Each a run or a bundle, as path or URL, or `name`, `name@alias`, `name:version` of the store;
    with `NAME=` before it under another name. Names and aliases are followed."""
    model: str | None = None
    """Short for a single one of `models`."""
    root: str = "models"
    """Path of the model store."""
    memory: Bytes | None = None
    """The most that weights may take in a replica, such as `2GiB`; models beyond it are loaded when
    they are wanted."""
    keys: str | None = None
    """The file of keys, which every node with a replica must be able to read; without one, whoever
    reaches the endpoint may use it."""

    @model_validator(mode="after")
    def _names_models(self) -> EndpointConfig:
        if (self.model is None) == (not self.models):
            raise ValueError("give either `model`, or `models` with at least one")
        return self

    @property
    def all_models(self) -> tuple[str, ...]:
        """What is to be served."""
        return self.models if self.model is None else (self.model,)


class ServeJob(EndpointConfig):
    """An endpoint."""

    kind: Literal["serve"] = "serve"
    name: Name = "endpoint"
    """What the job is called on a cluster."""
    host: str = "127.0.0.1"
    """Address to listen on; by default only the cluster's head reaches it. Another needs `keys`."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    replicas: Replicas = 1
    """Processes that each hold the models and take a CPU; `[1, 4]` follows the load."""
    gpus_per_replica: NonNegativeFloat = 0.0
    """GPUs of each; a fraction shares one."""

    @field_validator("replicas")
    @classmethod
    def _ascend(cls, replicas: Replicas) -> Replicas:
        if isinstance(replicas, tuple) and replicas[0] > replicas[1]:
            raise ValueError(f"{list(replicas)} is empty: the first number must be the smaller one")
        return replicas

    @property
    def storage(self) -> str:
        """What two endpoints on one cluster cannot both have."""
        return f"{self.host}:{self.port}"


def fewest(replicas: Replicas) -> int:
    """The number of replicas that there are at least."""
    return replicas if isinstance(replicas, int) else replicas[0]


def parse_replicas(text: str) -> Replicas:
    """`3`, or `1-4` for as many as the load wants.

    Raises:
        ValueError: It is neither.
    """
    match = _RANGE.fullmatch(text.strip())
    numbers = [int(number) for number in match.groups() if number] if match else []
    if not numbers or numbers != sorted(numbers) or not numbers[0]:
        raise ValueError(f"{text!r} is no number of replicas: write 2, or 1-4")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def with_absolute_paths(job: ServeJob) -> ServeJob:
    """The same job, its relative paths resolved here."""

    def absolute(model: str) -> str:
        name, text = split_name(model)
        if "://" in text or ("/" not in text and bundle_in(locate(text)) is None):
            return model  # a URL; or a name in a store, which may be the cluster's
        return f"{name}={locate(text).url}" if name else locate(text).url

    paths: dict[str, Any] = {} if "://" in job.root else {"root": locate(job.root).url}
    if job.keys is not None:
        paths["keys"] = str(Path(job.keys).expanduser().absolute())
    models = tuple(absolute(model) for model in job.all_models)
    return job.model_copy(update={**paths, "models": models, "model": None})
