"""Every port on which a cluster's processes listen, and what each says to a stranger."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import grpc
import httpx
import psutil

from distgen.launch.nodes import MARK
from distgen.launch.state import ClusterState

PATHS = (
    "/", "/metrics", "/api/jobs/", "/api/version", "/nodes?view=summary", "/logs", "/logs_json",
    "/api/v0/logs", "/api/v0/actors", "/api/serve/applications/", "/api/job_agent/jobs/",
    "/api/packages/gcs/x.zip", "/api/cluster_status", "/api/gcs_healthz", "/worker/traceback?pid=1",
    "/get_or_create_runtime_env", "/get_runtime_envs_info", "/api/authentication_mode",
)  # fmt: skip
CALLS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.InternalKVGcsService/InternalKVPut",
    "/ray.rpc.ActorInfoGcsService/RegisterActor",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/ShutdownRaylet",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.CoreWorkerService/Exit",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.LogService/ListLogs",
    "/ray.rpc.RayletDriver/ClusterInfo",
    "/ray.rpc.RayletDriver/KVGet",
)


class Port(NamedTuple):
    """A port that is listened on."""

    process: str
    host: str
    number: int


def processes(state: ClusterState) -> dict[int, psutil.Process]:
    """The processes of a cluster: below its nodes, or with its mark.

    Neither is enough: who has lost its parent has the mark, and who has renamed itself has lost it.
    """
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == state.temp_dir:
                found[process.pid] = process
                found |= {child.pid: child for child in process.children(recursive=True)}
        except psutil.Error:
            continue
    return found


def listening(state: ClusterState) -> Iterator[Port]:
    """Every TCP port that a cluster's processes listen on."""
    for process in processes(state).values():
        try:
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN:
                    host = each.laddr.ip.removeprefix("::ffff:")
                    yield Port(process.name(), host, each.laddr.port)
        except psutil.Error:
            continue


def http_answers(port: Port, token: str | None = None) -> dict[str, httpx.Response]:
    """What a port answers over HTTP, by path; nothing where it does not speak it."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answers = {}
    with httpx.Client(trust_env=False, timeout=10.0, headers=headers) as client:
        for path in PATHS:
            try:
                answers[path] = client.get(f"http://{port.host}:{port.number}{path}")
            except httpx.HTTPError:
                continue
    return answers


def grpc_answers(
    port: Port, calls: Sequence[str] = CALLS, token: str | None = None
) -> dict[str, grpc.StatusCode]:
    """With which code each call ends; OK where it was done."""
    metadata = [("authorization", f"Bearer {token}")] if token else None
    codes = {}
    with grpc.insecure_channel(f"{port.host}:{port.number}") as channel:
        for name in calls:
            call = channel.unary_unary(name, _same, _same)
            try:
                call(b"", timeout=10.0, metadata=metadata)
                codes[name] = grpc.StatusCode.OK
            except grpc.RpcError as error:
                codes[name] = error.code()
                if error.code() is grpc.StatusCode.UNAVAILABLE:  # it speaks another language
                    break
    return codes


def raw_answer(port: Port, text: bytes) -> bytes:
    """What a port says to bytes that are no request."""
    try:
        with socket.create_connection((port.host, port.number), timeout=3.0) as connection:
            connection.settimeout(2.0)
            connection.sendall(text)
            return connection.recv(65536)
    except OSError:
        return b""


def _same(data: bytes) -> bytes:
    return data
