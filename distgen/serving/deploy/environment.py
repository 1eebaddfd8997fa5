"""What Ray Serve reads from the environment so that HAProxy stands in front, on loopback only."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from distgen.core.ports import free_port
from distgen.serving.deploy.scaling import MOST_ONGOING
from distgen.serving.http.errors import RequestError
from distgen.serving.http.observed import ACCESS_LOG_VARIABLE
from distgen.serving.http.visit import ID_PATTERN

_DRAIN_S = "0.5"
_HEADERS_S = 10
"""For a request's line and headers to arrive. Its body has a limit of the application's."""
_SLOW_READER_S = 60
"""For a client to take some more of its answer, or to send some more."""

_COMES_BACK_S = 1
"""After which a request that no replica took may be sent again."""

# Ray's template binds the two ports of its own on every interface and sets no time for headers, and
# has no setting for it. The configuration is written anew before each start of HAProxy, so each
# start mends it first. What Ray Serve says of itself below /-/ needs no key, and is nobody's
# business but for its health. Replicas hear by themselves that a client hangs up: that Serve
# listens for it, too, would take it two tasks and a queue for each request, and to name it is
# quicker here. Deadlines count from when a request came here. Where a replica has just ended, or
# none takes a connection, the answer would be a bare 500. More requests than a replica reads in
# time are refused here, at a small part of what it would cost there; probes and metrics wait for
# their turn, since a busy endpoint is a ready one. HAProxy must also not outlive its parent,
# however that one ends.
_MENDED_HAPROXY = """\
import ctypes, os, re, signal, sys
config = sys.argv[sys.argv.index("-f") + 1]
with open(config) as file:
    text = file.read()
text = re.sub(r"(?m)^(\\s*bind )\\*?:({ports})$", r"\\g<1>127.0.0.1:\\2", text)
if "timeout http-request" not in text:
    text = re.sub(r"(?m)^defaults\\b.*$", r"\\g<0>\\n    timeout http-request {headers_s}s", text)
hide = "http-request return status 404 if {{ path,url_dec -m beg -i /-/ }} !{{ path /-/healthz }}"
alone = "http-request set-header x-request-disconnect-disabled ?1"
known = "req.hdr(x-request-id) -m reg {id_pattern}"
named = f"http-request set-header x-request-id %[uuid()] unless {{{{ {{known}} }}}}"
timed = "http-request set-header x-request-start t=%[date(0,ms)]"
own = rf"\\1{{hide}}\\n\\1{{alone}}\\n\\1{{named}}\\n\\1{{timed}}\\n\\g<0>"
text = re.sub(r"(?m)^( *)acl routes path -i /-/routes$", own, text)
text = re.sub(r"(?m)^( *errorfile 50[234]) .*$", r"\\g<1> " + {unavailable!r}, text)
text = re.sub(r"(?m)^( *server \\S+ \\S+:\\d+ check)\\b", r"\\1 maxconn {most}", text)
full = "http-request return status 429 content-type application/json file " + {full!r}
full += " hdr retry-after {comes_back_s} if METH_POST {{ nbsrv gt 0 }} {{ be_conn_free eq 0 }}"
text = re.sub(r"(?m)^( *)http-reuse always$", rf"\\g<0>\\n\\1{{full}}", text)
with open(config, "w") as file:
    file.write(text)
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
os.execv({haproxy!r}, [{haproxy!r}, *sys.argv[1:]])
"""


def serve_environment(folder: Path, haproxy: str) -> dict[str, str]:
    """Settings under which Ray Serve must start, all of whose files go to `folder`.

    HAProxy with Serve's throughput options answers several times as many requests per second as
    Serve's own proxy. It is on by environment variables alone, which Serve's processes inherit.

    Args:
        folder: A private folder on the machine that runs HAProxy; made ready here.
        haproxy: Path of the HAProxy binary.
    """
    ports = [free_port(), free_port()]
    fallback = free_port()
    starter = folder / "haproxy"
    unavailable, full = folder / "unavailable.http", folder / "full.json"
    unavailable.write_bytes(_unavailable())
    full.write_text(json.dumps(_full().body()))
    program = _MENDED_HAPROXY.format(
        ports="|".join(map(str, ports)),
        headers_s=_HEADERS_S,
        haproxy=haproxy,
        unavailable=str(unavailable),
        full=str(full),
        most=MOST_ONGOING,
        comes_back_s=_COMES_BACK_S,
        id_pattern=f"^{ID_PATTERN}$",
    )
    # The shell, since the kernel takes no interpreter with a space or a long path.
    command = shlex.join([sys.executable, "-IS", "-c", program])
    starter.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    starter.chmod(stat.S_IRWXU)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Four by default, which on few cores take turns with what they wait for.
        "RAY_SERVE_HAPROXY_NBTHREAD": str(max(1, min(4, (os.cpu_count() or 1) // 4))),
        # Metrics are read every few seconds; by default they are told ten times in one.
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(starter),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports[0]),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports[1]),
        # Where HAProxy turns while no replica of this endpoint takes requests. By default it is the
        # same on all clusters, and another endpoint of this machine would answer with its models.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        # A line of log per request, parsed in Python, would cost more than HAProxy itself.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(_SLOW_READER_S),
        # The default folder is shared by all users of the machine, admin socket included.
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        # Nothing stands in front of this HAProxy that would have to notice first: 30 s by default.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": _DRAIN_S,
        "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": _DRAIN_S,
    }


def _full() -> RequestError:
    """Where each replica has as many requests as it may."""
    return RequestError(
        f"Each replica has {MOST_ONGOING} requests. Try again in {_COMES_BACK_S} s, or serve more "
        "replicas.",
        status=HTTPStatus.TOO_MANY_REQUESTS,
        code="queue_full",
    )


def _unavailable() -> bytes:
    """The whole answer where no replica gives one; clients may send the request again."""
    error = RequestError(
        "No replica answered: one has just ended, or all are busy. "
        f"Try again in {_COMES_BACK_S} s.",
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        code="unavailable",
    )
    body = json.dumps(error.body())
    head = (
        "HTTP/1.1 503 Service Unavailable",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"retry-after: {_COMES_BACK_S}",
    )
    return "\r\n".join((*head, "", body)).encode()


def passed_on(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What of the environment of `distgen serve` is meant for the endpoint's processes."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith("OTEL_") or name == ACCESS_LOG_VARIABLE
    }
