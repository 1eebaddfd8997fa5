"""Streaming from a store with latency against streaming from the disk, both in one run.

The store is a process on loopback that answers S3's GET and HEAD for files in a folder, each after
a pause: what is measured is distgen's reading ahead, not a server's speed. Every round opens each
side anew, so that nothing has been fetched before.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import statistics
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

from distgen.bench.data import make, photographs
from distgen.bench.ranks import end_with_parent
from distgen.data import ShardSet, Stream, open_shard_set

BATCH_SIZE = 64


def bench_store(
    *, pictures: int = 8192, latency_s: float = 0.05, threads: int = 2, rounds: int = 5
) -> dict[str, Any]:
    """The ratio of a stream from a store to the same stream from the disk.

    Args:
        pictures: Synthetic photographs to make, JPEGs of 256x256.
        latency_s: Pause before each of the store's answers.
        threads: Threads that decode.
        rounds: Measurements of each side, in turn.

    Returns:
        `ratio`, the median over the rounds' pairs; medians of both sides' images per second, and
        of the seconds to the first batch.
    """
    with tempfile.TemporaryDirectory(prefix="distgen-bench-") as folder:
        local = make(photographs(pictures), Path(folder, "bucket", "set"), "jpg")
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        server = context.Process(target=_serve, args=(folder, latency_s, theirs), daemon=True)
        server.start()
        keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
        try:
            options = f"endpoint_override=127.0.0.1:{ours.recv()}&scheme=http&region=us-east-1"
            with patch.dict(os.environ, keys):
                remote = open_shard_set(f"s3://bucket/set?{options}")
                pairs = [(_run(remote, threads), _run(local, threads)) for _ in range(rounds)]
        finally:
            server.kill()
            server.join()
    return {
        "ratio": statistics.median(store[0] / disk[0] for store, disk in pairs),
        "store_images_per_s": statistics.median(store[0] for store, _ in pairs),
        "disk_images_per_s": statistics.median(disk[0] for _, disk in pairs),
        "store_first_batch_s": statistics.median(store[1] for store, _ in pairs),
        "disk_first_batch_s": statistics.median(disk[1] for _, disk in pairs),
        "latency_s": latency_s,
        "pictures": pictures,
        "rounds": rounds,
    }


def _run(shard_set: ShardSet, threads: int) -> tuple[float, float]:
    """Images per second of the first epoch, and seconds to its first batch."""
    begin = time.perf_counter()
    with Stream(
        shard_set,
        batch_size=BATCH_SIZE,
        epochs=1,
        shuffle_window=2048,
        decode_threads=threads,
        cache="none",
    ) as stream:
        next(stream)
        first_s = time.perf_counter() - begin
        # What was made ready during the wait for the first batch must not count.
        for _ in range(stream.ahead):
            next(stream)
        begin = time.perf_counter()
        images = sum(len(batch) for batch in stream)
        return images / (time.perf_counter() - begin), first_s


def _serve(folder: str, latency_s: float, ready: Connection) -> None:
    """Answer for the files in a folder, until this process is ended."""
    end_with_parent()
    files = {
        "/" + path.relative_to(folder).as_posix(): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            time.sleep(latency_s)
            data = files.get(self.path.partition("?")[0])
            if data is None:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            first, last = map(int, asked.groups()) if asked else (0, len(data) - 1)
            part = memoryview(data)[first : last + 1]
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(part)))
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.send_header("ETag", '"0"')
            self.end_headers()
            if with_body:
                self.wfile.write(part)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    ready.send(server.server_address[1])
    server.serve_forever()
