import torch

from distgen.training.process import suit_process


def test_what_is_fp32_on_a_gpu_is_not_rounded_to_tf32():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = True
        suit_process(torch.device("cuda"))
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (False, False)
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
