"""`distgen models`: what is kept, what is served by which name, and how that changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from distgen.cli.console import console, print_json, print_table

if TYPE_CHECKING:
    from distgen.metrics.card import Card
    from distgen.registry import BundleInfo, ModelStore

app = typer.Typer(help="Keep models as versions and choose which is served.", no_args_is_help=True)

_MODEL = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A run, a bundle, name, name@alias or name:version."),
]
_NAME = Annotated[str, typer.Argument(metavar="NAME", help="Name of a model in the store.")]
_ROOT = Annotated[str, typer.Option(help="Path of the model store.")]
_ALIAS = Annotated[str, typer.Option(help="The alias to move.")]
_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("ls")
def list_models(root: _ROOT = "models", as_json: _JSON = False) -> None:
    """List the versions of all models, and where aliases point."""
    from rich.table import Table
    from rich.text import Text

    from distgen.registry import ModelStore

    store = ModelStore(root)
    rows = [row for name in store.names() for row in _rows(store, name)]
    if as_json:
        print_json(rows)
        return
    if not rows:
        console.print(f"No models in {store.root}; keep one with: distgen models promote RUN")
        return
    table = Table(
        "model", "version", "aliases", "family", "quality", "images seen", "digest", box=None
    )
    for row in rows:
        table.add_row(
            row["name"],
            str(row["version"]),
            ", ".join(row["aliases"]),
            row.get("family") or Text("damaged", style="red"),
            _headline(row),
            f"{row['images_seen']:,}" if "images_seen" in row else row.get("damage", ""),
            row.get("digest", "")[:12],
        )
    print_table(table)


@app.command()
def show(model: _MODEL, root: _ROOT = "models", as_json: _JSON = False) -> None:
    """Show one model: what it makes, how good it is, what it weighs."""
    from distgen.registry import inspect_bundle, resolve_model

    info = inspect_bundle(resolve_model(model, root))
    if as_json:
        card = info.card.model_dump(mode="json") if info.card else None
        print_json({**_summary(info), "config": info.config.model_dump(mode="json"), "card": card})
        return
    spec = info.spec
    for key, value in (
        ("model", info.name),
        ("family", info.config.model.family),
        ("pictures", f"{spec.width}x{spec.height} {spec.mode}"),
        ("classes", ", ".join(spec.classes) or "none"),
        ("images seen", f"{info.config.images_seen:,}"),
        ("size", f"{info.bytes:,} bytes"),
        ("digest", info.digest),
        ("bundle", str(info.location)),
    ):
        console.print(f"{key:12} {value}")
    if info.card is None:
        console.print(f"\nNot measured yet: distgen evaluate {model}")
        return
    console.print()
    print_card(info.card)


@app.command()
def promote(
    model: _MODEL,
    name: Annotated[
        str | None, typer.Option(help="Name to keep it under; by default the bundle's own.")
    ] = None,
    alias: _ALIAS = "champion",
    canary: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Try it on this share of the model's requests, such as 0.1; the champion stays.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Promote a model that is worse or not comparable.")
    ] = False,
    root: _ROOT = "models",
    as_json: _JSON = False,
) -> None:
    """Keep a model as a version and point an alias to it, if it is no worse than what is there.

    Endpoints that serve NAME follow within seconds and drop no request.
    """
    from distgen.core.errors import UsageError
    from distgen.registry import ModelStore, inspect_bundle, resolve_model
    from distgen.registry.resolve import is_store_name
    from distgen.registry.store import CANARY, CHAMPION

    if canary is not None and alias not in (CHAMPION, CANARY):
        raise UsageError("--canary and --alias name different aliases.", remedy="leave one out")
    store = ModelStore(root)
    bundle = resolve_model(model, root)
    if name is None and is_store_name(model, root):
        name = store.parse(model)[0]  # it may be kept under another name than its maker's
    kept = name or inspect_bundle(bundle).name
    alias = alias if canary is None else CANARY
    before = store.aliases(kept).get(alias)
    version = store.promote(bundle, name, alias, share=canary, force=force)
    if as_json:
        share = {} if canary is None else {"share": canary}
        print_json({"name": kept, "version": version, "alias": alias, "before": before, **share})
        return
    was = f" (was {kept}:{before})" if before not in (None, version) else ""
    on = f" on {canary:.3g} of the requests" if canary is not None else ""
    console.print(f"{kept}@{alias} is {kept}:{version}{on}{was}")
    if canary is not None:
        console.print(f"  keep it  distgen models promote {kept}:{version}")
        console.print(f"  end it   distgen models rollback {kept} --alias {CANARY}")
        return
    console.print(f"  next     distgen serve {kept}@{alias}")


@app.command()
def rollback(
    name: _NAME, alias: _ALIAS = "champion", root: _ROOT = "models", as_json: _JSON = False
) -> None:
    """Point an alias back to the version from before its last promotion; end a trial."""
    from distgen.registry import ModelStore
    from distgen.registry.store import CANARY

    store = ModelStore(root)
    before = store.aliases(name).get(alias)
    version = store.rollback(name, alias)
    if alias == CANARY:
        if as_json:
            print_json({"name": name, "version": None, "alias": alias, "before": before})
        else:
            console.print(f"{name}:{version} is on trial no longer")
        return
    if as_json:
        print_json({"name": name, "version": version, "alias": alias, "before": before})
        return
    console.print(f"{name}@{alias} is {name}:{version} again (was {name}:{before})")


@app.command("export")
def export_model(
    model: _MODEL,
    out: Annotated[str, typer.Argument(metavar="FILE.tar", help="The file to write.")],
    root: _ROOT = "models",
    as_json: _JSON = False,
) -> None:
    """Write a model as one file, to be imported elsewhere."""
    from pathlib import Path

    from distgen.registry import ModelStore, resolve_model

    path = Path(out)
    digest = ModelStore(root).export_archive(resolve_model(model, root), path)
    if as_json:
        print_json({"file": str(path), "bytes": path.stat().st_size, "digest": digest})
        return
    console.print(f"{path}  {path.stat().st_size:,} bytes  {digest[:12]}")


@app.command("import")
def import_model(
    file: Annotated[str, typer.Argument(metavar="FILE.tar", help="A file made by export.")],
    name: Annotated[
        str | None, typer.Option(help="Name to keep it under; by default the bundle's own.")
    ] = None,
    root: _ROOT = "models",
    as_json: _JSON = False,
) -> None:
    """Keep an exported model as a version, after every byte was checked. No alias moves."""
    from pathlib import Path

    from distgen.registry import ModelStore

    kept, version = ModelStore(root).import_archive(Path(file), name)
    if as_json:
        print_json({"name": kept, "version": version})
        return
    console.print(f"kept as {kept}:{version}")
    console.print(f"  next     distgen models promote {kept}:{version}")


def print_card(card: Card) -> None:
    """Print a quality card: its figures beside those of real pictures, and how they were made."""
    from rich.table import Table

    from distgen.registry.model_card import conditions, quality_rows

    table = Table(box=None, pad_edge=False)
    table.add_column("figure")
    table.add_column("better")
    table.add_column("this model", justify="right", style="bold")
    table.add_column("real pictures", justify="right")
    for row in quality_rows(card):
        table.add_row(row.figure, row.better, row.value, row.floor)
    print_table(table)
    for sentence in conditions(card):
        console.print(f"  {sentence}", style="dim")


def _rows(store: ModelStore, name: str) -> list[dict[str, Any]]:
    from distgen.core.errors import DataError
    from distgen.registry import inspect_bundle

    pointers = store.aliases(name)
    rows = []
    for version in store.versions(name):
        aliases = [alias for alias, number in pointers.items() if number == version]
        row: dict[str, Any] = {"name": name, "version": version, "aliases": aliases}
        try:
            row |= {**_summary(inspect_bundle(store.bundle(name, version))), "name": name}
        except DataError as error:
            row["damage"] = error.what
        rows.append(row)
    return rows


def _summary(info: BundleInfo) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": info.name,
        "family": info.config.model.family,
        "images_seen": info.config.images_seen,
        "bytes": info.bytes,
        "digest": info.digest,
        "location": str(info.location),
    }
    if info.card is not None:
        row |= {
            "headline_name": info.card.headline_name,
            "headline": info.card.headline,
            "samples": info.card.samples,
        }
    return row


def _headline(row: dict[str, Any]) -> str:
    if "headline" not in row:
        return ""
    return f"{row['headline_name']} {row['headline']:.4g} (n {row['samples']:,})"
