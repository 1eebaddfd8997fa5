"""`distgen query`: pictures from an endpoint, in files and in the terminal."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli.console import console, print_json

if TYPE_CHECKING:
    from distgen.core.storage import Location
    from distgen.metrics.animation import AnimationFormat
    from distgen.serving.client import Answer
    from distgen.serving.making.encode import UInt8Images
    from distgen.serving.saved import Record

_KINDS = (".png", ".gif", ".webp")
_PICTURES_PER_SECOND = 2


def query(
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="[PROMPT]", help="A class name, class:7, or random for a class each."
        ),
    ] = "random",
    count: Annotated[
        int | None, typer.Option("-n", "--count", help="Number of pictures, 16 by default.")
    ] = None,
    out: Annotated[
        str,
        typer.Option(
            help="Where the grid of pictures goes, as PNG; of clips a sheet, or as *.gif or *.webp "
            "the grid in which they play, and pictures one after the other."
        ),
    ] = "grid.png",
    each: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="Save also each by itself, as <class>-<seed>.png; clips as GIF."
        ),
    ] = None,
    show: Annotated[
        str,
        typer.Option(
            help="How to show them in this terminal: `auto`, `kitty`, `iterm`, `sixel`, `blocks` "
            "or `none`."
        ),
    ] = "auto",
    url: Annotated[
        str, typer.Option(help="The endpoint.", envvar="DISTGEN_URL")
    ] = "http://127.0.0.1:8000",
    model: Annotated[
        str | None,
        typer.Option(help="name, name@alias or name:version; by default the endpoint's first."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same pictures; without it one is drawn.")
    ] = None,
    truncation: Annotated[
        float | None, typer.Option(help="Lower is more typical and less varied, such as 0.7.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Scale of the latents, from 0 to 2.")
    ] = None,
    latents: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Latents as .npy or .json: a vector for each picture."),
    ] = None,
    interpolate: Annotated[
        str | None,
        typer.Option(
            metavar="SEEDS", help="The way from --seed to another seed, or to several: 7,8,9."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Of --interpolate: one clip with so many frames from seed to seed."),
    ] = None,
    vary: Annotated[
        str | None, typer.Option(metavar="PICTURE", help="Make variations of a picture.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="Of --vary: from 0, little, to 1, another picture.")
    ] = None,
    edit: Annotated[
        str | None,
        typer.Option(metavar="PICTURE", help="Make anew what is transparent in a picture."),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(metavar="PICTURE", help="Of --edit: transparent where to make it anew."),
    ] = None,
    verify: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Ask again for what a saved file shows, and compare the bytes."
        ),
    ] = None,
    key_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A file with the endpoint's key; else it is read from DISTGEN_API_KEY.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask an endpoint for pictures, show them where the terminal can, and save them.

    What is saved says which request made it: a PNG in itself, another file in NAME.json beside it.
    """
    from distgen.cli.keys import key_to_send
    from distgen.cli.query_request import Options, request_of, uploads_of
    from distgen.cli.query_verify import verify as verify_saved
    from distgen.serving.client import Client

    options = Options(
        prompt=prompt,
        count=count,
        model=model,
        seed=seed,
        truncation=truncation,
        temperature=temperature,
        latents=latents,
        interpolate=interpolate,
        steps=steps,
        vary=vary,
        strength=strength,
        edit=edit,
        mask=mask,
    )
    key = key_to_send(key_file)
    if verify is not None:
        verify_saved(url, verify, uploads_of(options), key=key, as_json=as_json)
        return
    place, folder = _places(out, each, show)
    request = request_of(options)
    answer = Client(url, key=key).ask(request.path, request.fields, request.uploads)
    _save(place, _shown(answer.images_nhwc, place.name), answer.record())
    files = _save_each(folder, answer) if folder else []
    if as_json:
        print_json(_described(answer, place, files))
        return
    _show(answer, place.name, show)
    classes = sorted(set(answer.labels))
    of_what = f" of {classes[0]}" if len(classes) == 1 else ""
    made = "picture" if answer.images_nhwc.ndim == 4 else "clip"
    plural = made if len(answer.seeds) == 1 else f"{made}s"
    console.print(
        f"{len(answer.seeds)} {plural}{of_what} by {answer.model} ({answer.digest[:12]}), "
        f"seed {answer.seeds[0]}: {place}",
    )
    if folder:
        console.print(f"each by itself: {folder}")


def _places(out: str, each: str | None, show: str) -> tuple[Location, Location | None]:
    """Where files go; what cannot work is refused before anything is asked for."""
    from distgen.cli.terminal.detect import GRAPHICS
    from distgen.core.errors import UsageError, did_you_mean
    from distgen.core.storage import locate

    choices = ("auto", *GRAPHICS)
    if show not in choices:
        raise UsageError(
            f"Pictures cannot be shown as {show!r}.",
            where="--show",
            remedy=did_you_mean(show, choices),
        )
    place = locate(out)
    if place.is_dir():
        raise UsageError(f"{str(place)!r} is a folder.", remedy=f"--out {place / 'grid.png'}")
    ending = os.path.splitext(place.name)[1].lower()  # noqa: PTH122 - may be a URL
    if ending and ending not in _KINDS:
        raise UsageError(
            f"Pictures are not saved as {ending!r}.",
            where=str(place),
            remedy="--out with a name that ends in .png, .gif or .webp",
        )
    folder = locate(each) if each else None
    if folder is not None and folder.is_file():
        raise UsageError(f"{str(folder)!r} is a file.", remedy="--each with a folder")
    return place, folder


def _save(place: Location, data: bytes, record: Record) -> None:
    from distgen.core.errors import UsageError
    from distgen.serving.saved import save

    try:
        save(place, data, record)
    except OSError as error:
        raise UsageError(
            "The pictures cannot be saved.",
            where=str(place),
            cause=str(error),
            remedy="--out and --each with places that can be written",
        ) from error


def _save_each(folder: Location, answer: Answer) -> list[Location]:
    """One file for each picture, from whose name the same one can be asked for again."""
    clips = answer.images_nhwc.ndim == 5
    places = []
    for number, (file, seed) in enumerate(zip(answer.files, answer.seeds, strict=True)):
        # A class may be called anything; the file keeps what every system takes.
        label = answer.labels[number] if answer.labels else answer.model
        plain = re.sub(r"[^\w.-]+", "-", label).strip("-.") or "picture"
        # On the way between pictures all have the seed at which it begins.
        further = f"-{number}" if len(set(answer.seeds)) < len(answer.seeds) else ""
        place = folder / f"{plain}-{seed}{further}.{'gif' if clips else 'png'}"
        _save(place, file, answer.record(number))
        places.append(place)
    return places


def _show(answer: Answer, name: str, show: str) -> None:
    """Print the pictures on a terminal that can show them."""
    from distgen.cli.terminal.detect import detect, screen_of
    from distgen.cli.terminal.show import encode, send

    out = sys.stdout
    # Who names a way means it; but bytes for terminals go into no file and no pipe.
    how: Any = detect(out) if show == "auto" else show if out.isatty() else "none"
    if how == "none":
        return
    true_colour = os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit")
    png = _shown(answer.images_nhwc, "still.png")
    send(encode(png, name, how, screen_of(out), true_colour=true_colour), out)


def _described(answer: Answer, place: Location, files: list[Location]) -> dict[str, object]:
    return {
        "out": place.url,
        **answer.record().model_dump(mode="json", exclude={"index", "file"}),
        "seeds": list(answer.seeds),
        "classes": list(answer.labels),
        "files": [file.url for file in files],
    }


def _shown(images_nhwc: UInt8Images, name: str) -> bytes:
    """Pictures or clips as the one file that a name asks for."""
    from distgen.metrics.animation import animate, moving_grid, sheet_png
    from distgen.metrics.grid import grid_png

    clips = images_nhwc.ndim == 5
    ending = name.lower().rpartition(".")[2]
    if ending not in ("gif", "webp"):
        return sheet_png(images_nhwc) if clips else grid_png(images_nhwc)
    container: AnimationFormat = "gif" if ending == "gif" else "webp"
    if clips:
        return animate(moving_grid(images_nhwc), container)
    return animate(moving_grid(images_nhwc[None]), container, _PICTURES_PER_SECOND)
