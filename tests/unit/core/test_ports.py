from __future__ import annotations

import socket

import pytest

from distgen.core.ports import free_port, is_free, is_loopback, is_own, url_of


def test_a_port_that_is_listened_on_is_not_free():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert not is_free("127.0.0.1", server.getsockname()[1])
    assert is_free("127.0.0.1", free_port())


def test_an_address_of_another_machine_is_an_error():
    with pytest.raises(OSError, match="assign"):
        is_free("192.0.2.77", 8000)
    assert not is_own("192.0.2.77")
    assert is_own("127.0.0.1")


def test_loopback_is_what_other_machines_cannot_reach():
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.9")))
    assert not any(map(is_loopback, ("10.0.0.7", "0.0.0.0", "::", "a.example", "")))


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("10.0.0.7", "http://10.0.0.7:80"),
    ],
)
def test_urls_that_this_machine_reaches(host, url):
    assert url_of(host, 80) == url
