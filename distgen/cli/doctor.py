"""`distgen doctor`: whether a run would find what it needs, and what to do where not."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from distgen.cli.console import console, err_console, print_json, print_table, strong

if TYPE_CHECKING:
    from distgen.core.finding import Finding
    from distgen.launch.doctor import Report, Wishes

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


def doctor(
    address: Annotated[
        str | None,
        typer.Option(
            help="host:port of a cluster's head, or auto; without it the cluster that `distgen "
            "cluster up` started or, where there is none, this machine alone."
        ),
    ] = None,
    storage: Annotated[
        str, typer.Option(help="Path or URL of the folder that holds runs; tried from every node.")
    ] = "runs",
    shards: Annotated[
        str | None, typer.Option(help="Path or URL of a shard set; read from every node.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what is not ok.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Look at every node of a cluster, or at this machine, before a run is lost to it.

    Versions, devices, network interfaces and ports, the token, clocks, storage, shards, disks,
    /dev/shm, limits, bandwidth between nodes and the time of a sum over all of them; each with a
    verdict, and what to do about it. Exit code 1 where there is a problem.
    """
    from distgen.core.finding import count
    from distgen.core.storage import locate
    from distgen.launch.doctor import Wishes

    wishes = Wishes(locate(storage).url, locate(shards).url if shards else None)
    with err_console.status("looking ...") as shown:
        reports = _examine(address, wishes, lambda text: shown.update(f"{text} ..."))
    findings = [finding for report in reports for finding in report.findings]
    problems, warnings = count(findings, "problem"), count(findings, "warning")
    if as_json:
        print_json(
            {"problems": problems, "warnings": warnings, "machines": list(map(_as_dict, reports))}
        )
    else:
        for report in reports:
            _print(report, quiet=quiet)
        console.print(_summary(problems, warnings))
    if problems:
        raise typer.Exit(1)


def _examine(address: str | None, wishes: Wishes, on_progress: Any) -> list[Report]:
    from distgen.core.errors import UsageError
    from distgen.core.finding import problem
    from distgen.launch import auth, cluster
    from distgen.launch.doctor import examine_cluster, examine_machine

    token = auth.look_at_token()
    address = address or os.environ.get("RAY_ADDRESS") or _own_cluster()
    if address is None:
        return [examine_machine(wishes)]
    try:
        connection = cluster.connect(address)
    except UsageError as error:
        report = examine_machine(wishes)
        said = [error.what.rstrip("."), error.where, error.cause]
        text = ": ".join(part for part in said if part)
        report.findings.append(problem("cluster", text, error.remedy or "check the address"))
        return [report]
    with connection:
        return examine_cluster(connection, wishes, token, on_progress)


def _own_cluster() -> str | None:
    """How to name the cluster that `distgen cluster up` started; None where there is none."""
    from distgen.launch.state import read_state

    return "auto" if read_state() else None


def _print(report: Report, *, quiet: bool) -> None:
    shown = [each for each in report.findings if not quiet or each.verdict != "ok"]
    if not shown:
        return
    console.print(strong(report.name))
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=9)
    table.add_column(no_wrap=True, min_width=12)
    table.add_column(overflow="fold")
    for finding in shown:
        table.add_row(*_row(finding))
    print_table(table)
    console.print()


def _row(finding: Finding) -> tuple[Text, str, Text]:
    verdict = Text(f"  {finding.verdict}", style=_STYLES[finding.verdict])
    remedy = f"\ntry: {finding.remedy}" if finding.remedy else ""
    return verdict, finding.subject, Text.assemble(finding.text, (remedy, "bold"))


def _summary(problems: int, warnings: int) -> Text:
    def some(number: int, what: str) -> str:
        return f"{number} {what}" + ("" if number == 1 else "s")

    if problems:
        return strong(some(problems, "problem"), f", {some(warnings, 'warning')}.", "red")
    if warnings:
        return strong("No problem", f", {some(warnings, 'warning')}.", "yellow")
    return strong("All is well.", style="green")


def _as_dict(report: Report) -> dict[str, object]:
    node = report.node
    return {
        "name": report.name,
        "node": node.id if node else None,
        "address": node.address if node else None,
        "host": node.host if node else None,
        "findings": [asdict(finding) for finding in report.findings],
    }
