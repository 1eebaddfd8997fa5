"""What Ray Serve reads from the environment so that HAProxy stands in front, on loopback only."""

from __future__ import annotations

import shlex
import stat
import sys
from pathlib import Path

from distgen.core.ports import free_port

_DRAIN_S = "0.5"

# Ray's template binds the two ports of its own on every interface and has no setting for it. The
# configuration is written anew before each start of HAProxy, so each start mends it first. What Ray
# Serve says of itself below /-/ needs no key, and is nobody's business but for its health. HAProxy
# must also not outlive the process that started it, however that one ends.
_HAPROXY_ON_LOOPBACK = """\
import ctypes, os, re, signal, sys
config = sys.argv[sys.argv.index("-f") + 1]
with open(config) as file:
    text = file.read()
text = re.sub(r"(?m)^(\\s*bind )\\*?:({ports})$", r"\\g<1>127.0.0.1:\\2", text)
hide = "http-request return status 404 if {{ path,url_dec -m beg -i /-/ }} !{{ path /-/healthz }}"
text = re.sub(r"(?m)^( *)acl routes path -i /-/routes$", rf"\\1{{hide}}\\n\\g<0>", text)
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
    starter = folder / "haproxy"
    program = _HAPROXY_ON_LOOPBACK.format(ports="|".join(map(str, ports)), haproxy=haproxy)
    # The shell, since the kernel takes no interpreter with a space or a long path.
    command = shlex.join([sys.executable, "-IS", "-c", program])
    starter.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    starter.chmod(stat.S_IRWXU)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(starter),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports[0]),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports[1]),
        # A line of log per request, parsed in Python, would cost more than HAProxy itself.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
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
