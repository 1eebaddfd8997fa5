"""Compiled calls change no name and no result; what cannot be compiled still trains."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from distgen.models import FAMILIES
from distgen.objectives.adversarial import Adversarial
from distgen.objectives.clip_elbo import ClipELBO
from distgen.objectives.elbo import ELBO
from distgen.training import compiling
from distgen.training.compiling import compile_calls, to_compile
from distgen.training.trainer import train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(inputs)))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Network()


def nothing_to_tell(kind: str, **facts: str) -> None:
    raise AssertionError(f"{kind}: {facts}")


def test_networks_that_are_differentiated_twice_are_never_compiled():
    assert to_compile("on", CPU, Adversarial.phases) == ("generator",)
    assert to_compile("on", CPU, ELBO.phases) == ("model",)


def test_auto_compiles_on_cuda_only():
    assert to_compile("auto", CPU, ELBO.phases) == ()
    assert to_compile("auto", CUDA, ELBO.phases) == ("model",)
    assert to_compile("off", CUDA, ELBO.phases) == ()


def test_what_is_unrolled_is_compiled_only_if_asked_for():
    assert to_compile("auto", CUDA, ClipELBO.phases, unrolled=True) == ()
    assert to_compile("on", CUDA, ClipELBO.phases, unrolled=True) == ("model",)
    assert [name for name, family in FAMILIES.items() if family.unrolled] == ["clip-rvae"]


def test_a_compiled_network_keeps_its_names_results_and_gradients():
    plain, compiled = network(), network()
    compile_calls({"model": compiled}, ["model"], nothing_to_tell, backend="aot_eager")
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    inputs = torch.randn(5, 3)
    for each in (plain, compiled):
        each(inputs).square().sum().backward()
    assert torch.allclose(compiled(inputs), plain(inputs))
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad)
    copied = copy.deepcopy(compiled)
    assert copied.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(copied(inputs), torch.zeros(5, 2)), "a copy calls its own weights"


def test_a_network_that_cannot_be_compiled_runs_as_it_is_and_says_so_once():
    def broken(*_: object) -> None:
        raise RuntimeError("no compiler here")

    told = []
    plain, compiled = network(), network()
    compile_calls(
        {"model": compiled}, ["model"], lambda kind, **facts: told.append(facts), backend=broken
    )
    inputs = torch.randn(5, 3)
    for _ in range(2):
        assert torch.equal(compiled(inputs), plain(inputs))
    assert [facts["network"] for facts in told] == ["model"]
    assert "no compiler here" in told[0]["cause"]


def test_what_is_wrong_with_the_inputs_is_not_blamed_on_the_compiler():
    compiled = network()
    compile_calls({"model": compiled}, ["model"], nothing_to_tell, backend="aot_eager")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        compiled(torch.randn(5, 7))


def test_a_run_whose_networks_do_not_compile_trains_all_the_same(make_job, start, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(compiling.torch, "compile", lambda *_, **__: broken)
    run = start(make_job("vae", compile="on", images=64))
    train(run.job())
    told = [event for event in run.events() if event["event"] == "runs without torch.compile"]
    assert [event["network"] for event in told] == ["model"]
    assert run.is_finished(64)
