"""Buckets that everybody may read are read without credentials, where the URL says so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from distgen.core.errors import DataError
from distgen.data import open_shard_set, read_samples
from tests.stores.proxy import Fault, FaultProxy
from tests.unit.data.conftest import Made

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.mark.parametrize("option", ["", "&anonymous=false", "&anonymous=true"])
def test_requests_are_signed_unless_the_url_says_anonymous(
    option: str, uploaded: Callable[[str], tuple[Made, str]], proxy: FaultProxy
) -> None:
    made, url = uploaded("public")
    proxy.requests.clear()
    images, _ = read_samples(open_shard_set(url + option), np.arange(50))
    assert np.array_equal(images, made.images_nhwc)
    assert {request.signed for request in proxy.requests} == {option != "&anonymous=true"}


def test_a_refusal_says_that_nobody_was_named(
    uploaded: Callable[[str], tuple[Made, str]], proxy: FaultProxy
) -> None:
    _, url = uploaded("private")
    refusal = Fault(status=403, code="AccessDenied")
    shard_set = open_shard_set(f"{url}&anonymous=true")
    proxy.misbehaviour = lambda r: None if r.signed or ".tar" not in r.path else refusal
    with pytest.raises(DataError, match=r"credentials: none \(anonymous\)"):
        read_samples(shard_set, np.arange(3))
