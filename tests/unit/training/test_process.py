import platform
import subprocess
import sys

import torch

from distgen.training.process import keep_freed_memory, suit_process

FAULTS = """
import resource, sys
import torch
from distgen.training.process import keep_freed_memory
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
    assert keep_freed_memory() is (platform.libc_ver()[0] == "glibc")


def test_freed_memory_is_not_fetched_from_the_kernel_again():
    if platform.libc_ver()[0] == "glibc":
        assert page_faults("keep") < 0.5 * page_faults("default")
    else:
        assert not keep_freed_memory()


def test_what_is_fp32_on_a_gpu_is_not_rounded_to_tf32():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = True
        suit_process(torch.device("cuda"))
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (False, False)
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
