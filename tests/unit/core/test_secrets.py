from __future__ import annotations

import pytest

from distgen.core.errors import UsageError
from distgen.core.secrets import shielded, without_credentials
from distgen.core.storage import locate


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://KEY:SECRET@bucket/x", "s3://***@bucket/x"),
        ("read https://me@host/x, then", "read https://***@host/x, then"),
        ("redis://:word@head:6379", "redis://***@head:6379"),
        ("https://h/x?a=1&X-Amz-Signature=ab12&b=2", "https://h/x?a=1&X-Amz-Signature=***&b=2"),
        ("https://h/x?token=ab", "https://h/x?token=***"),
        ("https://h/x?api_key=ab#part", "https://h/x?api_key=***#part"),
    ],
)
def test_credentials_are_starred_out_and_nothing_else_is(text: str, shown: str) -> None:
    assert shielded(text) == shown
    with pytest.raises(ValueError, match="environment"):
        without_credentials(text)


@pytest.mark.parametrize(
    "url",
    [
        "runs",
        "/a/b@c/d",
        "s3://bucket/a@b",
        "s3://bucket/x?endpoint_override=127.0.0.1:9000&region=us-east-1",
        "gs://anonymous@public/x",
        "https://host/x?signed=no",
    ],
)
def test_places_without_credentials_are_taken_as_they_are(url: str) -> None:
    assert shielded(url) == url
    assert without_credentials(url) == url


@pytest.mark.parametrize("url", ["s3://K:hidden@b/x", "https://me:hidden@h/x", "gs://me:hidden@b"])
def test_no_store_is_reached_with_a_password_in_its_url(url: str) -> None:
    with pytest.raises(UsageError, match="environment") as caught:
        locate(url)
    assert "hidden" not in str(caught.value)
