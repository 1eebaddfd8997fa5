from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distgen.core import peers
from distgen.core.peers import Exchange
from distgen.core.ports import free_port

DELAYS = st.floats(0, 2)


@given(st.floats(-1e4, 1e4), st.lists(st.tuples(DELAYS, DELAYS), min_size=1, max_size=7))
def test_skew_is_within_the_doubt_whatever_the_network_does(
    skew: float, delays: list[tuple[float, float]]
) -> None:
    asked, exchanges = 1.7e9, []
    for there, back in delays:
        exchanges.append(Exchange(asked, asked + there + skew, asked + there + back))
        asked += 10
    found, doubt = peers.clock_skew(exchanges)
    rounding = 1e-5
    assert abs(found - skew) <= doubt + rounding
    assert doubt <= min(there + back for there, back in delays) / 2 + rounding


@pytest.mark.parametrize(
    ("skew", "verdict", "said"),
    [
        (0.0, "ok", "give or take"),
        (0.9, "ok", "900.0 ms ahead"),
        (3.0, "warning", "3.0 s ahead"),
        (-3.0, "warning", "3.0 s behind"),
        (900.0, "problem", "900.0 s ahead"),
    ],
)
def test_clocks_that_are_apart_are_told_by_how_much(skew: float, verdict: str, said: str) -> None:
    found = peers.clock([Exchange(0.0, 0.01 + skew, 0.02)])
    assert (found.verdict, said in found.text) == (verdict, True), found
    assert ("chrony" in found.remedy) == (verdict != "ok")


def test_slow_network_is_not_taken_for_a_wrong_clock() -> None:
    assert peers.clock([Exchange(0.0, 6.0, 10.0)]).verdict == "ok"


def test_port_that_nobody_listens_on_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        open_port, closed = server.getsockname()[1], free_port()
        targets = [("the door", "127.0.0.1", open_port), ("the wall", "127.0.0.1", closed)]
        (missing,) = peers.unreachable(targets)
    assert missing.startswith(f"the wall at 127.0.0.1:{closed} (")


def test_what_is_sent_arrives() -> None:
    word = b"0123456789abcdef"
    listener = peers.Listener("127.0.0.1", word)
    with socket.create_connection(("127.0.0.1", listener.port)) as stranger:
        stranger.sendall(b"x" * 16)
        assert stranger.recv(1) == b"", "who does not know the word is sent away"
    rate = peers.send_for("127.0.0.1", listener.port, word, seconds=0.05)
    assert rate > 0
    with pytest.raises(OSError, match=r"refused|reset|did not arrive"):
        peers.send_for("127.0.0.1", listener.port, word)


@pytest.mark.parametrize(
    ("rate", "verdict", "said"),
    [(1.2e9, "ok", "1.2 GB/s"), (1.1e8, "ok", "110 MB/s"), (2.5e6, "warning", "2.5 MB/s")],
)
def test_network_that_steps_would_wait_for_is_told(rate: float, verdict: str, said: str) -> None:
    found = peers.bandwidth("b", rate)
    assert (found.verdict, said in found.text) == (verdict, True)
