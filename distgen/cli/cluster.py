"""`distgen cluster`: a Ray cluster of separate node processes on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from distgen.cli.console import console, err_console, print_json, strong

if TYPE_CHECKING:
    from distgen.launch.nodes import ClusterStatus

app = typer.Typer(
    help="Start, look at and end a Ray cluster on this machine.", no_args_is_help=True
)

_JSON = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, help="Node processes, the head included.")] = 2,
    cpus: Annotated[
        int | None,
        typer.Option(min=1, help="CPUs of each node; by default the cores, shared equally."),
    ] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each node.")] = 0,
    host: Annotated[
        str | None,
        typer.Option(
            help="This machine's address at which others may join; by default none may, and every "
            "port is on loopback."
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of the head; by default 6379 or a free one."),
    ] = None,
    dashboard_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Of the dashboard; by default 8265 or a free one."),
    ] = None,
    as_json: _JSON = False,
) -> None:
    """Start a cluster: everyone needs its token, and only this machine reaches it.

    With --host other machines can join (cluster/local/join.sh HEAD:PORT); the dashboard stays on
    loopback, and Ray's metrics ports answer anyone who reaches that address.

    It stays until `distgen cluster down`.
    """
    from distgen.launch import cluster

    with err_console.status("starting the cluster ...") as shown:
        state = cluster.up(
            nodes,
            cpus_per_node=cpus,
            gpus_per_node=gpus,
            host=host,
            port=port,
            dashboard_port=dashboard_port,
            on_progress=lambda text: shown.update(f"starting the cluster: {text} ..."),
        )
    if as_json:
        print_json(_as_dict(cluster.status()))
        return
    each = f"{state.cpus_per_node} CPUs" + (f", {gpus} GPUs" if gpus else "")
    console.print(strong("Cluster is up", f": {nodes} nodes with {each} each."))
    console.print(f"  dashboard   {state.dashboard_url}")
    console.print(f"  address     {state.address}")
    console.print(f"  submit      distgen submit JOB --address {state.dashboard_url} --follow")
    console.print("  train       distgen train JOB scaling.workers=2 --address auto")
    console.print("  end it      distgen cluster down")


@app.command()
def status(as_json: _JSON = False) -> None:
    """Say what runs of the cluster; exit code 1 where it is not whole, or there is none."""
    from distgen.launch import cluster

    found = cluster.status()
    if as_json:
        print_json(_as_dict(found))
    elif found.state is None:
        console.print("No cluster of yours runs on this machine.  (distgen cluster up --nodes 2)")
    else:
        word = ("healthy", "green") if found.healthy else ("not whole", "red")
        console.print(Text.assemble("Cluster is ", word, f": {_count_nodes(found)}."))
        console.print(f"  CPUs        {found.cpus:g}")
        console.print(f"  GPUs        {found.gpus:g}")
        console.print(f"  dashboard   {found.state.dashboard_url}")
        console.print(f"  address     {found.state.address}")
        console.print(f"  logs        {found.state.temp_dir}")
        if not found.healthy:
            console.print("  mend it     distgen cluster down, then up again; runs resume")
    if not found.healthy:
        raise typer.Exit(1)


@app.command()
def down(as_json: _JSON = False) -> None:
    """End the cluster that `up` started, and nothing else."""
    from distgen.launch import cluster

    with err_console.status("ending the cluster ...") as shown:
        ended = cluster.down(lambda text: shown.update(f"ending the cluster: {text} ..."))
    if as_json:
        print_json({"processes_ended": ended})
    elif ended:
        console.print(f"Cluster is down ({ended} processes ended).")
    else:
        console.print("No cluster of yours ran on this machine.")


def _count_nodes(found: ClusterStatus) -> str:
    wanted = len(found.state.nodes) if found.state else 0
    joined = max(0, found.nodes_registered - wanted)
    more = f", and {joined} from other machines" if joined else ""
    return f"{found.nodes_registered - joined} of {wanted} nodes answer{more}"


def _as_dict(found: ClusterStatus) -> dict[str, object]:
    state = found.state
    return {
        "up": state is not None,
        "healthy": found.healthy,
        "nodes": len(state.nodes) if state else 0,
        "nodes_registered": found.nodes_registered,
        "cpus": found.cpus,
        "gpus": found.gpus,
        "address": state.address if state else None,
        "dashboard_url": state.dashboard_url if state else None,
    }
