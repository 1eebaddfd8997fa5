"""Batches of a few fixed sizes that agree bit for bit.

Kernels for another batch size add in another order: the same inputs come out a few ulp apart, which
now and then turns a pixel by one. So a result is defined as its row in a batch of
`REFERENCE_BUCKET`, and another size is used only if it gave the same bits for every probe on this
machine. Inside one size a row depends neither on its position nor on its neighbours; where that
fails, rows run one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

REFERENCE_BUCKET = 16
BUCKETS = (1, 2, 4, 8, 16, 32, 64)


def agreeing_buckets(run: Callable[[Sequence[int], int], Tensor], count: int) -> tuple[int, ...]:
    """The sizes of `BUCKETS` whose runs give the bits of the reference.

    Args:
        run: The rows of these probes, in order, float32, made in runs of one size.
        count: Probes, numbered from 0; the reference's size at least. Larger sizes are not tried.
    """
    rows = list(range(count))
    reference = run(rows, REFERENCE_BUCKET)
    for shift in (1, REFERENCE_BUCKET // 2 + 1):
        turned = rows[shift:] + rows[:shift]
        if not _gives(run, reference.roll(-shift, 0), turned, REFERENCE_BUCKET):
            return (1,)
    return tuple(
        bucket
        for bucket in BUCKETS
        if bucket <= count and (bucket == REFERENCE_BUCKET or _gives(run, reference, rows, bucket))
    )


def split(count: int, buckets: Sequence[int]) -> Iterator[tuple[slice, int]]:
    """Rows of a batch and the bucket that each run takes.

    A bucket that would stay a quarter empty gives way to the largest that can be filled.

    Args:
        count: Pictures wanted.
        buckets: Sizes that may be used, ascending.
    """
    start = 0
    while start < count:
        left = count - start
        filled = [size for size in buckets if size <= left]
        covering = [size for size in buckets if size >= left]
        wasteful = not covering or left < 0.75 * covering[0]
        bucket = filled[-1] if filled and wasteful else covering[0]
        size = min(bucket, left)
        yield slice(start, start + size), bucket
        start += size


def padded(rows: Tensor, bucket: int, device: str) -> Tensor:
    """Rows and zeros up to a bucket's size, on a device.

    A fresh tensor: kernels may choose their path by alignment, and views are not aligned.
    """
    full = torch.zeros(bucket, *rows.shape[1:], dtype=rows.dtype)
    full[: len(rows)] = rows
    return full.to(device)


def _gives(
    run: Callable[[Sequence[int], int], Tensor],
    expected: Tensor,
    rows: Sequence[int],
    bucket: int,
) -> bool:
    """Whether runs of this size give these bits; ends at the first that does not."""
    return all(
        torch.equal(run(rows[part], bucket).view(torch.int32), expected[part].view(torch.int32))
        for part, _ in split(len(rows), (bucket,))
    )
