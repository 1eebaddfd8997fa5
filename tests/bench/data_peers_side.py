"""One loader in one fresh process: makes its data, or measures it; see data_peers.py.

Runs under two interpreters: the peers' has no distgen, ours has no peers, so every side imports
what it needs itself. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import base64
import functools
import importlib.machinery
import io
import itertools
import json
import os
import pickle
import sys
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 64
SKIP = 20  # batches before the clock starts
TAIL = 8  # batches left when it stops, so that the pipeline is as full then as at the start
BARE_S = 3.0
BARE_THREADS = 2
SHUFFLED_SHARD = 1000  # as `distgen bench shuffle` has them
SHUFFLED_WINDOW = 16_384


def decode_pillow(data: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1)


def decode_simplejpeg(data: bytes) -> np.ndarray:
    import simplejpeg

    return np.asarray(simplejpeg.decode_jpeg(data, colorspace="RGB"))


DECODERS = {"pillow": decode_pillow, "simplejpeg": decode_simplejpeg}


class Side:
    """Batches of one epoch as lists of sample numbers, and what it takes to go on later."""

    def __init__(
        self, batches: Iterator[list[int]], state: Callable[[], Any] | None = None
    ) -> None:
        self.batches = batches
        self.state = state


# ---------------------------------------------------------------- the sides


def open_distgen(root: Path, args: argparse.Namespace, state: Any) -> Side:
    from distgen.core.world import World
    from distgen.data import Stream, open_shard_set

    shard_set = open_shard_set(str(root / "shards"))
    world = World(args.rank, args.ranks)
    if args.torch_workers is None:
        stream = Stream(
            shard_set,
            batch_size=BATCH * args.ranks,
            world=world,
            seed=1,
            epochs=1,
            epoch_end="pad" if args.what == "exact" else "carry",
            decode_threads=2,
            cache="none",
        )
        if state:
            stream.load_state_dict(state)
        wanted = ((batch.indices_n, batch.weights_n) for batch in stream)
        return Side((i[w > 0].tolist() for i, w in wanted), stream.state_dict)
    from torch.utils.data import DataLoader

    from distgen.data.torch_dataset import StreamDataset

    dataset = StreamDataset(
        shard_set, batch_size=BATCH * args.ranks, world=world, seed=1, epochs=1, epoch_end="pad"
    )
    loader = DataLoader(dataset, batch_size=None, num_workers=args.torch_workers)
    return Side(batch.indices[batch.weights > 0].tolist() for batch in loader)


def open_webdataset(root: Path, args: argparse.Namespace, state: Any) -> Side:
    import webdataset as wds

    decode = DECODERS[args.decoder]
    field = "jpg" if args.data != "png" else "png"
    dataset = (
        wds.WebDataset(
            sorted(map(str, (root / "shards").glob("*.tar"))),
            shardshuffle=100,
            detshuffle=True,
            seed=1,
            nodesplitter=wds.split_by_node,
            empty_check=False,
        )
        .shuffle(1000)
        .map(functools.partial(_wds_sample, decode, field))
        .batched(BATCH)
    )
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=args.workers)
    return Side(_ids(loader, 1), None)


def _wds_sample(decode: Callable[[bytes], np.ndarray], field: str, sample: Any) -> Any:
    return decode(sample[field]), int(sample["__key__"].rsplit("-", 1)[-1])


def open_streaming(root: Path, args: argparse.Namespace, state: Any) -> Side:
    _without_torchvision()
    from streaming import StreamingDataLoader, StreamingDataset

    decode = DECODERS[args.decoder]

    class Pictures(StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            sample = super().__getitem__(at)
            return decode(sample["image"]), sample["id"]

    dataset = Pictures(
        local=str(root / "mds"),
        shuffle=True,
        shuffle_seed=1,
        batch_size=BATCH,
        num_canonical_nodes=1,
    )
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=args.workers)
    if state:
        loader.load_state_dict(state)
    return Side(_ids(loader, 1), loader.state_dict)


def open_litdata(root: Path, args: argparse.Namespace, state: Any) -> Side:
    import litdata

    if args.ranks > 1:  # it asks torch for its rank, not the environment
        import torch.distributed

        torch.distributed.init_process_group("gloo")
    decode = DECODERS[args.decoder]

    class Pictures(litdata.StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            sample = super().__getitem__(at)
            return decode(sample["image"]), sample["id"]

    dataset = Pictures(str(root / "litdata"), shuffle=True, seed=1)
    loader = litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=args.workers)
    if state:
        loader.load_state_dict(state)
    return Side(_ids(loader, 1), loader.state_dict)


def open_folder(root: Path, args: argparse.Namespace, state: Any) -> Side:
    import torch
    from torch.utils.data import DataLoader, Dataset, DistributedSampler
    from torchdata.stateful_dataloader import StatefulDataLoader

    decode = DECODERS[args.decoder]
    files = sorted((root / "files").iterdir())

    class Pictures(Dataset):  # type: ignore[misc,type-arg]
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, at: int) -> Any:
            return decode(files[at].read_bytes()), at

    sampler = None
    if args.ranks > 1:
        sampler = DistributedSampler(Pictures(), args.ranks, args.rank, seed=1)
    generator = torch.Generator().manual_seed(1)
    # Only torchdata's loader can be resumed; the plain one is what is fast.
    loader_class = StatefulDataLoader if args.what in ("save", "resume") else DataLoader
    loader = loader_class(
        Pictures(),
        batch_size=BATCH,
        shuffle=sampler is None,
        sampler=sampler,
        generator=generator,
        num_workers=args.workers,
    )
    if state:
        loader.load_state_dict(state)
    return Side(_ids(loader, 1), getattr(loader, "state_dict", None))


def _ids(loader: Any, field: int) -> Iterator[list[int]]:
    for batch in loader:
        yield [int(number) for number in batch[field]]


def _without_torchvision() -> None:
    """`streaming` imports torchvision for classes that are not used here.

    It has no build beside the CPU build of torch.
    """
    names = ("torchvision", "torchvision.datasets", "torchvision.transforms")
    for name in (*names, "torchvision.transforms.functional"):
        module = sys.modules[name] = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules["torchvision.datasets"].VisionDataset = object  # type: ignore[attr-defined]
    sys.modules["torchvision.transforms.functional"].to_tensor = None  # type: ignore[attr-defined]


SIDES: dict[str, Callable[[Path, argparse.Namespace, Any], Side]] = {
    "distgen": open_distgen,
    "webdataset": open_webdataset,
    "streaming": open_streaming,
    "litdata": open_litdata,
    "folder": open_folder,
}


# ---------------------------------------------------------------- what is done with them


def measure_speed(root: Path, args: argparse.Namespace) -> dict[str, float]:
    """Seconds to the first batch, and images/s while the pipeline is full."""
    begin = time.perf_counter()
    side = SIDES[args.side](root, args, None)
    batches = side.batches
    next(batches)
    first = time.perf_counter() - begin
    total = args.samples // BATCH
    list(itertools.islice(batches, SKIP - 1))
    start = time.perf_counter()
    images = sum(len(batch) for batch in itertools.islice(batches, total - SKIP - TAIL))
    elapsed = time.perf_counter() - start
    if args.hold:  # memory is measured: an epoch to its end
        list(batches)
    return {"first_batch_s": first, "images_per_s": images / elapsed}


def measure_bare(root: Path, args: argparse.Namespace) -> dict[str, float]:
    """Threads that decode bytes in RAM, each into one batch's array of its own."""
    from distgen.data.formats.decode import decode_into

    pictures = [path.read_bytes() for path in sorted((root / "files").iterdir())]
    shape = DECODERS["pillow"](pictures[0]).shape
    outputs = [np.zeros((BATCH, *shape), np.uint8) for _ in range(BARE_THREADS)]

    def work(part: int, stop: float) -> int:
        count = 0
        for start in itertools.cycle(range(part * BATCH, len(pictures), BARE_THREADS * BATCH)):
            batch = pictures[start : start + BATCH]
            for data, out_hwc in zip(batch, outputs[part], strict=False):
                decode_into(data, out_hwc)
            count += len(batch)
            if time.perf_counter() >= stop:
                return count
        return count

    with ThreadPoolExecutor(BARE_THREADS) as pool:
        begin = time.perf_counter()
        parts = [pool.submit(work, part, begin + BARE_S) for part in range(BARE_THREADS)]
        images = sum(part.result() for part in parts)
        return {"images_per_s": images / (time.perf_counter() - begin)}


def measure_exact(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The samples of every batch of one epoch on one rank."""
    side = SIDES[args.side](root, args, None)
    return {"batches": list(side.batches)}


def save_state(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Go on to 90 % of an epoch, keep the state, and tell which batches come next."""
    side = SIDES[args.side](root, args, None)
    taken = args.samples // BATCH * 9 // 10
    list(itertools.islice(side.batches, taken))
    state = side.state() if side.state else None
    kept = None if state is None else base64.b64encode(pickle.dumps(state)).decode()
    return {"taken": taken, "state": kept, "next": list(itertools.islice(side.batches, 3))}


def measure_resume(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds from nothing to the first batch after the one where the state was kept."""
    saved = json.loads(Path(args.state).read_text())
    begin = time.perf_counter()
    kept = saved["state"]
    state = None if kept is None else pickle.loads(base64.b64decode(kept))
    side = SIDES[args.side](root, args, state)
    if saved["state"] is None:  # no state: all that came before comes again
        list(itertools.islice(side.batches, saved["taken"]))
    first = next(side.batches)
    elapsed = time.perf_counter() - begin
    following = [first, *itertools.islice(side.batches, 2)]
    return {"resume_s": elapsed, "same_batches": following == saved["next"]}


def make_peers_data(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The same encoded pictures as MDS shards or as litdata's chunks."""
    files = sorted((root / "files").iterdir())
    if args.side == "streaming":
        _without_torchvision()
        from streaming import MDSWriter

        columns = {"id": "int", "image": "bytes"}
        folder = str(root / "mds")
        with MDSWriter(out=folder, columns=columns, size_limit=args.chunk_bytes) as writer:
            for number, path in enumerate(files):
                writer.write({"id": number, "image": path.read_bytes()})
    else:
        import litdata

        litdata.optimize(
            fn=_litdata_sample,
            inputs=list(enumerate(map(str, files))),
            output_dir=str(root / "litdata"),
            chunk_bytes=args.chunk_bytes,
            num_workers=1,
            verbose=False,
        )
    return {"pictures": len(files)}


def _litdata_sample(numbered: tuple[int, str]) -> dict[str, Any]:
    return {"id": numbered[0], "image": Path(numbered[1]).read_bytes()}


def shuffled_order(root: Path, args: argparse.Namespace) -> dict[str, Any]:
    """An epoch of `streaming`'s default shuffle, as an array in `root`.

    Its block is what our window and webdataset's buffer are: the samples to shuffle among.
    """
    _without_torchvision()
    from streaming.base.shuffle import get_shuffle

    shards = np.full(args.samples // SHUFFLED_SHARD, SHUFFLED_SHARD, np.int64)
    order = get_shuffle("py1e", shards, 1, 0, args.epoch, SHUFFLED_WINDOW)
    np.save(root / f"order-{args.epoch}.npy", np.asarray(order, np.int64))
    return {"samples": len(order)}


TASKS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "speed": measure_speed,
    "bare": measure_bare,
    "exact": measure_exact,
    "save": save_state,
    "resume": measure_resume,
    "make": make_peers_data,
    "order": shuffled_order,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=TASKS)
    parser.add_argument("root", type=Path)
    parser.add_argument("--side", default="", choices=["", "bare", *SIDES])
    parser.add_argument("--data", default="jpeg")
    parser.add_argument("--decoder", default="simplejpeg", choices=DECODERS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--torch-workers", type=int)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--samples", type=int, default=0)
    parser.add_argument("--chunk-bytes", type=int, default=1 << 24)
    parser.add_argument("--state")
    parser.add_argument("--epoch", type=int, default=0)
    parser.add_argument("--hold", action="store_true")
    args = parser.parse_args()
    result = TASKS[args.what](args.root, args)
    # Libraries print, too: the result is what follows the mark. Some leave threads behind.
    sys.stdout.write("\n@@" + json.dumps(result, default=int) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
