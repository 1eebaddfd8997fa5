"""`distgen query --verify`: whether saved pictures come back as they were."""

from __future__ import annotations

import typer

from distgen.cli.console import console, print_json


def verify(
    url: str, path: str, uploads: dict[str, bytes], *, key: str | None, as_json: bool
) -> None:
    """Ask again for what a file shows, and say whether the same bytes came.

    Args:
        url: The endpoint.
        path: The file, or what `--json` printed.
        uploads: The pictures that the request was made with, by field.
        key: What opens the endpoint, where it wants one.
        as_json: Print one JSON object.

    Raises:
        UsageError: It is not known what made the file, or a picture that was sent is not at hand.
        DistgenError: The endpoint cannot be reached, or refuses.
        typer.Exit: With code 1, where something differs.
    """
    from distgen.core.errors import UsageError
    from distgen.core.storage import locate, sha256_of
    from distgen.serving.client import EDITS, Client
    from distgen.serving.saved import load, verdict

    data, record = load(locate(path))
    if {name: sha256_of(file) for name, file in uploads.items()} != record.uploads:
        options = "--edit PICTURE --mask MASK" if record.path == EDITS else "--vary PICTURE"
        raise UsageError(
            "It was made of other pictures than are given, or of some that are not.",
            where=path,
            remedy=f"--verify {path} {options}, with the same files"
            if record.uploads
            else "--verify alone",
        )
    request = {**record.request, "model": record.model}
    client = Client(url, key=key)
    answer = client.ask(record.path, request, uploads)
    if answer.digest != record.digest:  # while a trial runs, one name stands for two models
        name = client.served_as(record.model, record.digest)
        if name is not None:
            answer = client.ask(record.path, {**request, "model": name}, uploads)
    found = verdict(data, record, answer.digest, answer.files)
    count = len(record.sha256)
    if as_json:
        print_json(
            {
                "file": path,
                "same": not found.problems,
                "problems": list(found.problems),
                "model": record.model,
                "digest": record.digest,
                "served": found.digest,
                "pictures": count,
                "differing": list(found.differing),
            }
        )
    elif not found.problems:
        pictures = "1 picture" if count == 1 else f"{count} pictures"
        console.print(f"{path}: the same {pictures} by {record.model} ({record.digest[:12]})")
    else:
        console.print(f"{path}: {' '.join(found.problems)}")
    if found.problems:
        raise typer.Exit(1)
