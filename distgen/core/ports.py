"""TCP ports and addresses of this machine."""

from __future__ import annotations

import errno
import ipaddress
import socket


def url_of(host: str, port: int) -> str:
    """Where this machine's own clients reach a server that listens on `host`."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def is_loopback(host: str) -> bool:
    """Whether an address, or the name `localhost`, reaches this machine's own processes only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_own(host: str) -> bool:
    """Whether this machine has the address."""
    try:
        return bool(free_port(host))
    except OSError:
        return False


def free_port(host: str = "127.0.0.1") -> int:
    """A port of `host` that nobody listens on."""
    with socket.socket(_family(host)) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on this port now.

    Raises:
        OSError: The host is not an address of this machine, or the port needs other rights.
    """
    with socket.socket(_family(host)) as probe:
        # Connections that linger after an earlier server do not keep the port busy.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def answers(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether something listens there."""
    try:
        with socket.create_connection((host.strip("[]"), port), timeout_s):
            return True
    except OSError:
        return False


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
