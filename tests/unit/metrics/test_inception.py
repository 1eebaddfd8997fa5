"""The usual FID: refused with a remedy where something is missing, and the library's where not.

torch-fidelity is not installed here: a module with its interface stands in for it. That the figures
are the library's own was compared once by hand, with random weights in the published layout.
"""

from __future__ import annotations

import importlib.util
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from distgen.core.errors import DataError, UsageError
from distgen.metrics import inception
from distgen.metrics.inception import InceptionFeatures, require, weights_file
from distgen.metrics.request import EvaluationConfig


class Network(nn.Module):
    """The library's interface: uint8 RGB in, a tuple with one tensor of features out."""

    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        assert features_list == ["2048"]
        self.weight = nn.Parameter(torch.empty(2048, 3))
        # As the library does it; what comes here must hold no code.
        state = torch.load(feature_extractor_weights_path, weights_only=False)
        if state["weight"].shape != (2048, 3):
            raise RuntimeError("size mismatch for weight\nand more")
        self.weight.data.copy_(state["weight"])
        self.seen = []

    def forward(self, images):
        assert images.dtype == torch.uint8
        assert images.shape[1] == 3
        self.seen.append(len(images))
        return (images.float().mean(dim=(2, 3)) @ self.weight.T,)


@pytest.fixture
def library(monkeypatch):
    package = types.ModuleType("torch_fidelity")
    package.__spec__ = importlib.util.spec_from_loader("torch_fidelity", None)
    package.__path__ = []
    module = types.ModuleType(inception._LIBRARY)
    module.FeatureExtractorInceptionV3 = Network
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, inception._LIBRARY, module)


def save(path, shape=(2048, 3)):
    random = torch.Generator().manual_seed(0)
    marker = {"Mixed_7c.branch_pool.conv.weight": torch.zeros(1)}
    torch.save({**marker, "weight": torch.randn(*shape, generator=random)}, path)
    return path


def test_features_are_the_librarys(library, tmp_path):
    extract = InceptionFeatures(save(tmp_path / "weights.pth"))
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    features = extract(images)
    assert features.shape == (40, extract.dimensions)
    weight = torch.load(tmp_path / "weights.pth", weights_only=True)["weight"].numpy()
    np.testing.assert_allclose(features, images.mean(axis=(1, 2)) @ weight.T, rtol=1e-3, atol=1e-2)
    assert extract._network.seen == [16, 16, 8]
    grey = extract(images[..., :1])
    np.testing.assert_array_equal(grey, extract(images[..., :1].repeat(3, axis=3)))


def test_the_digest_names_the_weights(library, tmp_path):
    first = InceptionFeatures(save(tmp_path / "a.pth"))
    torch.save(
        {**torch.load(tmp_path / "a.pth", weights_only=True), "more": torch.ones(1)},
        tmp_path / "b.pth",
    )
    assert first.digest != InceptionFeatures(tmp_path / "b.pth").digest
    assert not first.is_standard


def test_the_environment_names_the_weights_where_the_job_does_not(tmp_path, monkeypatch):
    monkeypatch.delenv(inception.WEIGHTS_VARIABLE, raising=False)
    with pytest.raises(UsageError, match="needs the weights") as caught:
        weights_file(None)
    assert "evaluation.inception_weights" in str(caught.value)
    path = save(tmp_path / "weights.pth")
    monkeypatch.setenv(inception.WEIGHTS_VARIABLE, str(path))
    assert weights_file(None) == path
    with pytest.raises(UsageError, match="no weights") as caught:
        weights_file(str(tmp_path / "others.pth"))
    assert "others.pth" in str(caught.value)


@pytest.mark.skipif(
    importlib.util.find_spec("torch_fidelity") is not None, reason="torch-fidelity is installed"
)
def test_without_the_library_the_remedy_is_named(tmp_path):
    with pytest.raises(UsageError, match="not installed") as caught:
        require(str(save(tmp_path / "weights.pth")))
    assert "distgen[fid]" in str(caught.value)


def test_a_library_that_cannot_be_imported_is_told(library, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, inception._LIBRARY, None)
    with pytest.raises(UsageError, match="cannot be used here"):
        InceptionFeatures(save(tmp_path / "weights.pth"))


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code in a weights file was run')",))


@pytest.mark.parametrize("content", ["code", "text", "others", "shapes"])
def test_files_that_hold_other_things_are_refused(library, tmp_path, content):
    path = tmp_path / "weights.pth"
    if content == "code":
        torch.save({"Mixed_7c.branch_pool.conv.weight": Evil()}, path)
    elif content == "text":
        path.write_bytes(pickle.dumps("weights")[:-3])
    elif content == "others":
        torch.save({"weight": torch.zeros(2)}, path)
    else:
        save(path, (7, 3))
    with pytest.raises(DataError, match="does not hold the weights") as caught:
        InceptionFeatures(path)
    assert str(path) in str(caught.value)


def test_a_path_is_the_same_on_every_host():
    with pytest.raises(ValueError, match="begins with / or ~"):
        EvaluationConfig(inception_weights="weights.pth")
