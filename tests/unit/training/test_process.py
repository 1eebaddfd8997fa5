from threading import Thread

import torch

from distgen.training.process import suited
from distgen.training.trainer import train


def test_what_is_fp32_on_a_gpu_is_not_rounded_to_tf32():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    try:
        cudnn.allow_tf32 = matmul.allow_tf32 = True
        with suited(torch.device("cuda")):
            assert (cudnn.allow_tf32, matmul.allow_tf32) == (False, False)
        assert (cudnn.allow_tf32, matmul.allow_tf32) == (True, True)
    finally:
        cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before


def smallest() -> float:
    """2^-140, or 0 where numbers below the least normal one are."""
    return float(torch.full((64,), 2.0**-100).mul(2.0**-40).max())


def test_a_cpu_trains_without_denormals_in_this_thread_and_in_those_it_starts():
    assert smallest() == 2.0**-140
    with suited(torch.device("cpu")):
        found: list[float] = []
        thread = Thread(target=lambda: found.append(smallest()))
        thread.start()
        thread.join()
        assert [smallest(), *found] == [0.0, 0.0]
        with suited(torch.device("cpu")):
            assert smallest() == 0.0
        assert smallest() == 0.0
    assert smallest() == 2.0**-140


def test_runs_train_without_denormals_and_leave_them_to_their_caller(make_job, start):
    run, found = start(make_job("vae", images=64)), []
    train(run.job(), on_tick=lambda _: found.append(smallest()) or False)
    assert found, "no tick"
    assert set(found) == {0.0}
    assert smallest() == 2.0**-140
