"""distgen's stream beside other loaders, on the same pictures, each run in a fresh process.

Peers live in an environment of their own, because their requirements contradict ours:

    python3 -m venv /tmp/peers/venv
    /tmp/peers/venv/bin/pip install torch==2.13.0 webdataset==1.0.2 torchdata simplejpeg psutil \
        "transformers<5" lightning-utilities obstore tifffile tqdm xxhash python-snappy Brotli \
        zstd catalogue boto3 matplotlib paramiko
    /tmp/peers/venv/bin/pip install --no-deps "numpy<2.2" mosaicml-streaming==0.13.0 litdata==0.2.76

    apt-get download plasma-workspace-wallpapers && dpkg-deb -x plasma-workspace-*.deb photos
    python tests/bench/data_peers.py --peers-python /tmp/peers/venv/bin/python --photos photos

8,000 random crops of the photographs, 256x256 JPEG, and as many of 28x28 grey PNG, the latter as
`distgen data build` writes them, which is what its own decoder of PNGs is for. Peers get two
DataLoader workers, distgen two threads, all the same number of cores. Every peer runs with
simplejpeg and with Pillow, which is what it uses by itself. Rounds of all sides alternate; figures
are medians. What was measured stays in --results, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import simplejpeg
from PIL import Image

from distgen.core.spec import ImageSpec
from distgen.core.storage import locate
from distgen.data.building import SetWriter
from distgen.data.formats.png import encode_plain
from distgen.data.quality import adjacent_correlation, chi_squared_of_positions

SIDE = Path(__file__).with_name("data_peers_side.py")
PEERS = ("webdataset", "streaming", "litdata", "folder")
EXACT_SAMPLES = 2_003
EXACT_SHARDS = (700, 3, 520, 64, 300, 399, 17)
RANKS = 2
WORKERS = (0, 1, 3)
JPEG_QUALITY = 90
SHUFFLED = 500_000
SHUFFLED_EPOCHS = 3
SHARD_SAMPLES = 1_000

Results = dict[str, Any]


# ---------------------------------------------------------------- pictures


def crops(photos: Path, count: int, side: int, mode: str) -> Iterator[np.ndarray]:
    """Random crops of photographs, of 1 to 4 times `side`, made `side` pixels wide."""
    random = np.random.default_rng(side)
    large = [path for path in sorted(photos.rglob("*.*")) if _is_photograph(path)]
    if not large:
        raise SystemExit(f"there is no photograph of 100 KB or more below {photos}")
    for number, path in enumerate(large):
        with Image.open(path) as image:
            image.draft("RGB", (2560, 1600))
            whole = image.convert("RGB")
        for _ in range(number, count, len(large)):
            size = int(min(side * random.uniform(1, 4) * max(1, 112 / side), *whole.size))
            left, top = (int(random.integers(0, extent - size + 1)) for extent in whole.size)
            part = whole.crop((left, top, left + size, top + size))
            yield np.asarray(part.resize((side, side)).convert(mode)).reshape(side, side, -1)


def _is_photograph(path: Path) -> bool:
    photo = path.suffix.lower() in (".jpg", ".jpeg", ".png")
    return photo and path.stat().st_size > 100_000


def make_data(root: Path, photos: Path, data: str, shards: tuple[int, ...]) -> None:
    """The pictures as a shard set in `shards`, and the same bytes one by one in `files`."""
    side, mode, suffix = (28, "L", "png") if data == "png" else (256, "RGB", "jpg")
    (root / "files").mkdir(parents=True, exist_ok=True)
    pictures = crops(photos, sum(shards), side, mode)
    image = ImageSpec(height=side, width=side, mode=mode)  # type: ignore[arg-type]
    with SetWriter(locate(root / "shards"), name=data, image=image, fields=(suffix,)) as writer:
        number = 0
        for count in shards:
            for pixels in itertools.islice(pictures, count):
                encoded = _encode(pixels, suffix)
                writer.add(f"sample-{number:06d}", {suffix: encoded})
                (root / "files" / f"{number:06d}.{suffix}").write_bytes(encoded)
                number += 1
            writer.next_shard()
        writer.commit()


def _encode(pixels_hwc: np.ndarray, suffix: str) -> bytes:
    if suffix == "jpg":
        pixels_hwc = np.ascontiguousarray(pixels_hwc)
        return bytes(simplejpeg.encode_jpeg(pixels_hwc, JPEG_QUALITY, colorsubsampling="420"))
    return encode_plain(pixels_hwc)


# ---------------------------------------------------------------- processes


def start(python: str, what: str, root: Path, rank: int = 0, ranks: int = 1, **options: Any) -> Any:
    """Begin one process of `data_peers_side.py`."""
    words = [python, str(SIDE), what, str(root), "--rank", str(rank), "--ranks", str(ranks)]
    for name, value in options.items():
        if value is not None and value is not False:
            words.append(f"--{name.replace('_', '-')}")
            words += [] if value is True else [str(value)]
    world = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    threads = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1"}
    settings = {name: str(value) for name, value in world.items()} | address | threads
    return subprocess.Popen(
        words,
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: Any) -> dict[str, Any]:
    """What it found out; where it failed, the last line of its error."""
    try:
        out, error = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        for child in [*psutil.Process(process.pid).children(recursive=True), process]:
            child.kill()
        process.communicate()
        return {"error": "no end after 180 s"}
    _, mark, text = out.rpartition("\n@@")
    if mark:
        return dict(json.loads(text))
    return {"error": (error.strip().splitlines() or ["no output"])[-1][:200]}


def peak_memory(process: Any, stop: threading.Event) -> float:
    """Most memory in MiB that the process and its children had at a time, shared pages once."""
    peak = 0.0
    while not stop.wait(0.1):
        total = 0
        try:
            tree = [psutil.Process(process.pid)]
            tree += tree[0].children(recursive=True)
        except psutil.Error:
            continue
        for member in tree:
            try:
                total += member.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, total / 2**20)
    return peak


class Bench:
    """Measurements by name; each is done once and kept."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.path: Path = args.results
        self.results: Results = json.loads(self.path.read_text()) if self.path.exists() else {}

    def once(self, name: str, measure: Any, *words: Any, **options: Any) -> None:
        """Measure, unless that was done before."""
        if name in self.results:
            return
        self.results[name] = found = measure(*words, **options)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.results, indent=1) + "\n")
        print(f"{name}: {found}", file=sys.stderr, flush=True)

    def run(self, what: str, root: Path, side: str, **options: Any) -> dict[str, Any]:
        """One process from its begin to its end."""
        return finish(self.start(what, root, side, **options))

    def start(self, what: str, root: Path, side: str, **options: Any) -> Any:
        """Begin one process."""
        python = self.args.peers_python if side in PEERS else sys.executable
        return start(python, what, root, side=side, **options)

    def memory(self, root: Path, side: str, **options: Any) -> dict[str, float]:
        """Peak memory over an epoch; not timed, because looking costs time."""
        process = self.start("speed", root, side, hold=True, **options)
        stop, peaks = threading.Event(), [0.0]
        watch = threading.Thread(target=lambda: peaks.append(peak_memory(process, stop)))
        watch.start()
        found = finish(process)
        stop.set()
        watch.join()
        return {"error": found["error"]} if "error" in found else {"peak_mib": max(peaks)}  # type: ignore[dict-item]

    def resume(self, root: Path, side: str, **options: Any) -> dict[str, Any]:
        """Seconds to go on from 90 % of an epoch, and whether the same batches come."""
        saved = self.run("save", root, side, **options)
        if "error" in saved:
            return saved
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(saved, file)
            file.flush()
            return self.run("resume", root, side, state=file.name, **options)

    def shuffle(self, root: Path) -> dict[str, Any]:
        """How well `streaming` mixes, in the figures of `distgen bench shuffle`: means."""
        found: list[dict[str, float]] = []
        for epoch in range(SHUFFLED_EPOCHS):
            made = self.run("order", root, "streaming", samples=SHUFFLED, epoch=epoch)
            if "error" in made:
                return made
            order = np.load(root / f"order-{epoch}.npy")
            found.append(
                {
                    "adjacent_correlation": adjacent_correlation(order),
                    "chi_squared": chi_squared_of_positions(order, SHUFFLED),
                }
            )
        return {name: statistics.mean(each[name] for each in found) for name in found[0]}

    def exact(self, root: Path, side: str, **options: Any) -> dict[str, Any]:
        """Samples missing and repeated in an epoch of two ranks."""
        both = [
            self.start("exact", root, side, rank=rank, ranks=RANKS, **options)
            for rank in range(RANKS)
        ]
        found = [finish(process) for process in both]
        for part in found:
            if "error" in part:
                return part
        seen = Counter(n for part in found for batch in part["batches"] for n in batch)
        return {
            "missing": EXACT_SAMPLES - len(seen),
            "repeated": sum(seen.values()) - len(seen),
            "batches": [len(part["batches"]) for part in found],
        }


def measure(bench: Bench) -> None:
    """All measurements that are not there yet."""
    args = bench.args
    folders = {name: args.work / f"{name}-{args.samples}" for name in ("jpeg", "png")}
    even = (SHARD_SAMPLES,) * (args.samples // SHARD_SAMPLES)
    for name, root in {**folders, "exact": args.work / "exact"}.items():
        if not (root / "done").exists():
            print(f"making {root}", file=sys.stderr)
            uneven = name == "exact"
            make_data(
                root, args.photos, "png" if uneven else name, EXACT_SHARDS if uneven else even
            )
            chunk = {"jpeg": 1 << 24, "png": 1 << 19, "exact": 100_000}[name]
            for side in ("streaming", "litdata"):
                made = bench.run("make", root, side, chunk_bytes=chunk)
                if "error" in made:
                    raise SystemExit(f"data for {side} could not be made: {made['error']}")
            (root / "done").touch()
    for data, root in folders.items():
        same = {"data": data, "samples": args.samples}
        decoders = ("simplejpeg", "pillow") if data == "jpeg" else ("pillow",)
        for number in range(args.rounds):
            bench.once(f"{data} bare {number}", bench.run, "bare", root, "bare", **same)
            bench.once(f"{data} distgen {number}", bench.run, "speed", root, "distgen", **same)
            for peer, decoder in itertools.product(PEERS, decoders):
                name = f"{data} {peer} {decoder} {number}"
                bench.once(name, bench.run, "speed", root, peer, decoder=decoder, **same)
    bench.once("shuffle streaming", bench.shuffle, args.work)
    root, same = folders["jpeg"], {"data": "jpeg", "samples": args.samples}
    for side in ("distgen", *PEERS):
        bench.once(f"memory {side}", bench.memory, root, side, **same)
        bench.once(f"resume {side}", bench.resume, root, side, **same)
    same = {"data": "png", "samples": EXACT_SAMPLES, "decoder": "pillow"}
    root = args.work / "exact"
    bench.once("exact distgen threads", bench.exact, root, "distgen", **same)
    for workers, side in itertools.product(WORKERS, ("distgen", *PEERS)):
        options = {"torch_workers" if side == "distgen" else "workers": workers}
        bench.once(f"exact {side} {workers}", bench.exact, root, side, **options, **same)


# ---------------------------------------------------------------- what comes out


def summary(results: Results, rounds: int) -> dict[str, Any]:
    """Medians over the rounds, and the two ratios of each kind of picture."""
    table: dict[str, Any] = {}
    for data in ("jpeg", "png"):
        speeds: dict[str, float] = {}
        firsts: dict[str, float] = {}
        sides = {name.rsplit(" ", 1)[0] for name in results if name.startswith(f"{data} ")}
        for side in sorted(sides):
            runs = [results.get(f"{side} {number}", {}) for number in range(rounds)]
            good = [run for run in runs if "images_per_s" in run]
            if good:
                speeds[side] = statistics.median(run["images_per_s"] for run in good)
                waits = [run["first_batch_s"] for run in good if "first_batch_s" in run]
                firsts[side] = statistics.median(waits) if waits else 0.0
        peers = {side: speed for side, speed in speeds.items() if side.split()[1] in PEERS}
        ours = speeds[f"{data} distgen"]
        best = max(peers, key=lambda side: peers[side])
        table[data] = {
            "images_per_s": speeds,
            "first_batch_s": firsts,
            "ratio_to_bare": ours / speeds[f"{data} bare"],
            "ratio_to_best_peer": ours / peers[best],
            "best_peer": best,
        }
    return {"ratio": table["jpeg"]["ratio_to_bare"], **table}


def show(results: Results, found: dict[str, Any]) -> None:
    """A table for people."""
    for data in ("jpeg", "png"):
        print(f"\n{data:34}{'images/s':>10}{'first batch':>14}")
        for side, speed in found[data]["images_per_s"].items():
            wait = found[data]["first_batch_s"][side]
            print(
                f"  {side.partition(' ')[2]:32}{speed:10,.0f}{f'{wait:.2f} s' if wait else '':>14}"
            )
        print(f"  {found[data]['ratio_to_bare']:.3f} of the bare loop", end=", ")
        print(f"{found[data]['ratio_to_best_peer']:.2f} times {found[data]['best_peer']}")
    print(f"\n{'':16}{'memory':>10}{'resume':>12}  missing + repeated with {WORKERS} workers")
    for side in ("distgen", *PEERS):
        memory = results.get(f"memory {side}", {}).get("peak_mib", float("nan"))
        resume = results.get(f"resume {side}", {})
        took = f"{resume['resume_s']:.2f} s" if "resume_s" in resume else "failed"
        took += "" if resume.get("same_batches") else " *"
        counts = [results.get(f"exact {side} {workers}", {}) for workers in WORKERS]
        words = [
            f"{c['missing']} + {c['repeated']}" if "missing" in c else "failed" for c in counts
        ]
        print(f"  {side:14}{memory:6,.0f} MiB{took:>12}  {', '.join(words)}")
    print("  * other batches than without the stop")
    mixed = results.get("shuffle streaming", {})
    if "chi_squared" in mixed:
        print(
            f"\nstreaming's shuffle (ours and webdataset's: distgen bench shuffle): correlation of "
            f"neighbours {mixed['adjacent_correlation']:.4f}, "
            f"chi-squared of positions {mixed['chi_squared']:.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peers-python", required=True)
    parser.add_argument("--photos", type=Path, required=True, help="folder of large photographs")
    parser.add_argument("--work", type=Path, default=Path("/tmp/peers/work"))
    here = Path(__file__).parent
    parser.add_argument("--results", type=Path, default=here / "results" / "data_peers_raw.json")
    parser.add_argument("--samples", type=int, default=8_000, help="a multiple of 1,000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    began = time.monotonic()
    bench = Bench(args)
    measure(bench)
    found = summary(bench.results, args.rounds)
    extra = {
        name: value
        for name, value in bench.results.items()
        if name.startswith(("memory", "resume", "exact", "shuffle"))
    }
    out = args.results.with_name("data_peers.json")
    out.write_text(json.dumps({**found, **extra}, indent=1, sort_keys=True) + "\n")
    if args.json:
        print(json.dumps({**found, **extra}))
    else:
        show(bench.results, found)
        print(f"\n{time.monotonic() - began:.0f} s; {out}")


if __name__ == "__main__":
    main()
