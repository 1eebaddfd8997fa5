"""Whatever a store does, the outcome is the same samples or an error that names the place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from distgen.core.errors import DataError
from distgen.data import Stream, open_shard_set
from distgen.data.streaming import pages
from tests.stores.proxy import Fault, FaultProxy, Request
from tests.stores.server import BUCKET, Store
from tests.unit.data.conftest import Made

pytestmark = pytest.mark.usefixtures("impatient")

Upload = Callable[[str], tuple[Made, str]]


def epoch(url: str) -> tuple[np.ndarray, np.ndarray]:
    """All samples of one epoch over a set, in the order of the set."""
    shard_set = open_shard_set(url)
    with Stream(shard_set, batch_size=10, epochs=1, cache="none") as stream:
        batches = list(stream)
    indices = np.concatenate([batch.indices_n for batch in batches])
    images = np.concatenate([batch.images_nhwc for batch in batches])
    assert sorted(indices.tolist()) == list(range(shard_set.num_samples))
    place = np.argsort(indices)
    return images[place], np.concatenate([batch.labels_n for batch in batches])[place]


def twice(fault: Fault) -> Callable[[Request], Fault | None]:
    """The fault for the first two answers to each GET, and none after."""
    return lambda request: fault if request.method == "GET" and request.number < 2 else None


def test_set_in_a_store_is_the_set_on_the_disk(uploaded: Upload) -> None:
    made, url = uploaded("plain")
    images, labels = epoch(url)
    assert np.array_equal(images, made.images_nhwc)
    assert np.array_equal(labels, made.labels_n)
    assert open_shard_set(url).fingerprint == made.shard_set.fingerprint


@pytest.mark.parametrize("fault", [Fault(), Fault(status=503), Fault(cut_after=0.5)])
def test_set_behind_a_web_server_is_the_set_on_the_disk(
    fault: Fault, uploaded: Upload, proxy: FaultProxy
) -> None:
    made, _ = uploaded("web")
    proxy.misbehaviour = lambda r: fault if r.number == 0 else None
    images, _ = epoch(f"http://127.0.0.1:{proxy.port}/{BUCKET}/web")
    assert np.array_equal(images, made.images_nhwc)


def test_web_server_without_ranges_is_refused(
    uploaded: Upload, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE_BYTES", 1000)
    uploaded("whole")
    proxy.misbehaviour = lambda _: Fault(whole=True)
    with pytest.raises(DataError, match="whole files where a part was asked for"):
        epoch(f"http://127.0.0.1:{proxy.port}/{BUCKET}/whole")


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=503, code="SlowDown"),
        Fault(cut_after=0.5),
        Fault(stall_s=0.8),
        Fault(trickle_s=0.01),
        Fault(delay_s=0.05),
    ],
    ids=["error 500", "error 503", "cut", "stall", "trickle", "latency"],
)
def test_fault_that_passes_changes_nothing(
    fault: Fault, uploaded: Upload, proxy: FaultProxy
) -> None:
    made, url = uploaded("passing")
    proxy.misbehaviour = twice(fault)
    images, labels = epoch(url)
    assert np.array_equal(images, made.images_nhwc)
    assert np.array_equal(labels, made.labels_n)
    assert any(request.number for request in proxy.requests), "nothing had to be asked for twice"


@pytest.mark.parametrize("fault", [Fault(flip=True), Fault(shorter=7)], ids=["flip", "short"])
def test_bytes_spoilt_on_the_way_are_fetched_again(
    fault: Fault, uploaded: Upload, proxy: FaultProxy
) -> None:
    made, url = uploaded("spoilt")
    proxy.misbehaviour = lambda r: fault if ".tar" in r.path and r.number == 0 else None
    images, _ = epoch(url)
    assert np.array_equal(images, made.images_nhwc)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(status=500), "INTERNAL_FAILURE"),
        (Fault(cut_after=0.5), "NETWORK_CONNECTION"),
        (Fault(stall_s=1.5), "no answer within"),
        (Fault(status=400, code="ExpiredToken"), "HTTP status 400"),
        (Fault(status=403, code="AccessDenied"), "ACCESS_DENIED"),
    ],
    ids=["error 500", "cut", "stall", "expired", "denied"],
)
def test_fault_that_stays_is_named_with_its_place(
    fault: Fault,
    said: str,
    uploaded: Upload,
    proxy: FaultProxy,
    out_of_patience: Callable[[], None],
) -> None:
    _, url = uploaded("staying")
    proxy.misbehaviour = lambda r: fault if ".tar" in r.path and r.method == "GET" else None
    with Stream(open_shard_set(url), batch_size=10, epochs=1, cache="none") as stream:
        out_of_patience()  # what was opened before had time enough
        with pytest.raises(DataError) as raised:
            list(stream)
    text = str(raised.value)
    assert said in text
    assert "s3://pictures/staying/shard-00000" in text
    assert ", bytes " in text
    assert "credentials: the environment (AWS_ACCESS_KEY_ID)" in text
    assert "secret" not in text


def test_refusal_is_not_tried_again(uploaded: Upload, proxy: FaultProxy) -> None:
    _, url = uploaded("refused")
    refusal = Fault(status=403, code="AccessDenied")
    proxy.misbehaviour = lambda r: refusal if ".tar" in r.path and r.method == "GET" else None
    with pytest.raises(DataError):
        epoch(url)
    assert not any(r.number for r in proxy.requests if ".tar" in r.path and r.method == "GET")


def test_shard_that_was_replaced_is_noticed(
    uploaded: Upload, store: Store, proxy: FaultProxy
) -> None:
    made, url = uploaded("stale")
    shard_set = open_shard_set(url)
    shard = made.folder / "shard-000002.tar"
    shard.write_bytes(bytes(reversed(shard.read_bytes())))
    store.upload(made.folder, "stale")
    with (
        Stream(shard_set, batch_size=10, epochs=1) as stream,
        pytest.raises(DataError, match=r"s3://pictures/stale/shard-000002\.tar"),
    ):
        list(stream)
