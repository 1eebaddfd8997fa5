"""On CUDA the optimiser itself reads whether it may step, and nothing waits for the device."""

import pytest
import torch
from torch import nn

from distgen.objectives.base import Phase
from distgen.training import gate
from distgen.training.job import TrainingConfig
from distgen.training.optim import build_optimizers

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_a_step_that_is_not_finite_is_skipped_without_asking_the_device():
    network = nn.Linear(4, 1).cuda()
    phase = Phase("model", ("model",))
    optimizer = build_optimizers([phase], {"model": network}, TrainingConfig(images=1))["model"]

    def step(inputs):
        optimizer.zero_grad(set_to_none=True)
        gate.backward(network(inputs).square().mean())
        allowed = gate.may_step(optimizer, guarded=True)
        gate.step_if(optimizer, allowed)
        return allowed

    good = torch.ones(2, 4, device="cuda")
    step(good)
    torch.cuda.synchronize()
    state = [v.clone() for s in optimizer.state_dict()["state"].values() for v in s.values()]
    before = [weight.clone() for weight in network.parameters()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        refused = step(good * float("nan"))
        kept = [weight.clone() for weight in network.parameters()]
        left = [v.clone() for s in optimizer.state_dict()["state"].values() for v in s.values()]
        allowed = step(good)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not refused
    assert allowed
    assert all(map(torch.equal, kept, before))
    assert all(map(torch.equal, left, state)), "moments and step counts, too"
    assert any(not torch.equal(*pair) for pair in zip(network.parameters(), before, strict=True))
