"""Single pictures from distgen's endpoint, from a plain Ray Serve deployment, and from LitServe.

    python -m venv peers && peers/bin/pip install -c infra/constraints.txt -e . litserve
    .venv/bin/python tests/bench/serve_peers.py --peers peers/bin/python

The three run the same network with one replica and stand beside one another; bursts of 32
connections go to one after the other, and medians of the rounds are compared. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from distgen.bench.serve import _load, _write_bundle
from distgen.core.ports import free_port
from distgen.core.storage import locate
from distgen.launch.cluster import connect
from distgen.serving.deploy.endpoint import running

SIDES = {"plain": "serve_peers_side.py", "litserve": "serve_peers_lit.py"}


@contextmanager
def beside(python: str, kind: str, bundle: str, log: Path) -> Iterator[str]:
    """A peer's server, which answers."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, str(Path(__file__).with_name(SIDES[kind])), str(port), bundle],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                if not _load(url, requests=1, seconds=20, n=1).failed:
                    break
            except subprocess.CalledProcessError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(log.read_text()[-2000:]) from error
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait()
        # LitServe's other processes outlive the first, and would take a third of a core.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="Python that has litserve.")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bundle = locate(folder) / "bundle"
        _write_bundle(bundle)
        stack.enter_context(connect())
        urls = {"distgen": stack.enter_context(running(bundle, port=0))}
        for kind, python in (("plain", sys.executable), ("litserve", options.peers)):
            log = folder / f"{kind}.log"
            urls[kind] = stack.enter_context(beside(python, kind, bundle.url, log))
        for url in urls.values():
            _load(url, requests=300, seconds=20, n=1)
        speeds: dict[str, list[float]] = {kind: [] for kind in urls}
        for _ in range(options.rounds):
            for kind, url in urls.items():
                load = _load(url, requests=options.requests, seconds=20, n=1)
                assert not load.failed, (kind, load)
                speeds[kind].append(load.images_per_s)
    medians = {kind: statistics.median(found) for kind, found in speeds.items()}
    ours = medians["distgen"]
    ratios = {f"over_{kind}": ours / medians[kind] for kind in medians if kind != "distgen"}
    print(json.dumps({"images_per_s": medians, **ratios}, indent=2))


if __name__ == "__main__":
    main()
