"""How jobs are listed; tests/ray/test_jobs.py has a cluster that runs some."""

from __future__ import annotations

import io

from rich.console import Console

from distgen.cli.console import print_table
from distgen.cli.jobs import _table
from distgen.launch.submit import JobInfo

JOB = JobInfo("long-name-" * 12 + "a1b2c3", "x", "train", "SUCCEEDED", 1e9, 1e9 + 61, 0, "")


def test_an_id_is_whole_in_a_pipe_and_in_a_narrow_terminal(capsys):
    print_table(_table([JOB]))
    _, line = capsys.readouterr().out.splitlines()
    assert line.split()[:3] == [JOB.id, "train", "SUCCEEDED"]
    assert "0:01:01" in line

    narrow = Console(file=io.StringIO(), width=72, force_terminal=True, color_system=None)
    narrow.print(_table([JOB]))
    shown = narrow.file.getvalue().splitlines()
    assert "".join(row.split(" ")[0] for row in shown[1:]) == JOB.id
