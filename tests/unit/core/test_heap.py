import platform
import subprocess
import sys

import pytest

from distgen.core.heap import give_back_freed_memory, keep_freed_memory

GLIBC = platform.libc_ver()[0] == "glibc"

FAULTS = """
import resource, sys
import torch
from distgen.core.heap import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(2):
    sum([torch.ones(4 << 20) for _ in range(4)])
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    sum([torch.ones(4 << 20) for _ in range(4)])
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    result = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True)
    return int(result.stdout)


def test_it_says_whether_this_c_library_can_be_told():
    assert keep_freed_memory() is GLIBC


def test_freed_memory_is_not_fetched_from_the_kernel_again():
    if GLIBC:
        assert page_faults("keep") < 0.5 * page_faults("default")
    else:
        assert not keep_freed_memory()


LEFT = """
import gc, sys, time
import psutil
from distgen.core import heap

def resident():
    return psutil.Process().memory_info().rss

before = resident()
blocks = [bytes(50_000) for _ in range(4_000)]
last = bytes(50_000)  # above all others: what is below it stays where it is
if sys.argv[2] == "cycle":
    blocks.append(blocks)
    gc.collect()  # that has survived it, and is looked for among the oldest from now on
del blocks
freed = resident() - before
if sys.argv[1] == "once":
    heap.give_back_freed_memory()
if sys.argv[1] == "again and again":
    heap.give_back_every(0.05)
    until = time.monotonic() + 30
    while resident() - before > freed / 2 and time.monotonic() < until:
        time.sleep(0.05)
print(freed, resident() - before)
"""


@pytest.mark.skipif(not GLIBC, reason="only glibc keeps so much")
@pytest.mark.parametrize(
    ("how", "held_by"),
    [("not at all", ""), ("once", ""), ("again and again", ""), ("again and again", "cycle")],
)
def test_freed_memory_that_glibc_keeps_is_given_back(how: str, held_by: str):
    command = [sys.executable, "-c", LEFT, how, held_by]
    result = subprocess.run(command, capture_output=True, text=True)
    freed, left = map(int, result.stdout.split())
    assert freed > 150e6, "glibc has kept it"
    assert (left < 0.2 * freed) == (how != "not at all")


def test_it_says_whether_this_c_library_gives_back():
    assert give_back_freed_memory() is GLIBC
