"""The policies for a bucket let training and serving do their work, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from distgen.core.ports import free_port
from distgen.core.storage import Location, locate
from tests.stores.server import wait_for_server

STORAGE = Path(__file__).parents[2] / "infra" / "storage"
BUCKET = "distgen"

Place = Callable[[str], Location]


class Guarded:
    """An S3 server that asks who somebody is, and what they may."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.keys = {role: self._user(role) for role in ("train", "serve")}
        store = self.client("s3")
        for bucket in (BUCKET, "of-others"):
            store.create_bucket(Bucket=bucket)
            for folder in ("shards", "runs", "models"):
                store.put_object(Bucket=bucket, Key=f"{folder}/digits/manifest.json", Body=b"{}")
        self.guard(True)

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=f"http://{self.address}",
            region_name="us-east-1",
            aws_access_key_id="root",
            aws_secret_access_key="of-the-tests",
        )

    def guard(self, on: bool) -> None:
        httpx.post(
            f"http://{self.address}/moto-api/reset-auth",
            content="0" if on else "inf",
            trust_env=False,
        ).raise_for_status()

    def _user(self, role: str) -> dict[str, str]:
        iam = self.client("iam")
        iam.create_user(UserName=role)
        # S3 and MinIO call the first of these the second; moto does not.
        policy = (STORAGE / f"{role}-policy.json").read_text()
        policy = policy.replace('"s3:ListBucket"', '"s3:HeadBucket", "s3:ListBucket"')
        iam.put_user_policy(UserName=role, PolicyName=role, PolicyDocument=policy)
        key = iam.create_access_key(UserName=role)["AccessKey"]
        return {
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        }


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_server(f"http://127.0.0.1:{port}/moto-api/", server)
        yield Guarded(port)
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def become(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, out_of_patience: Callable[[], None]
) -> Callable[[str], Place]:
    """Take on a role; what comes back names places in the store as that role sees them."""

    def become(role: str) -> Place:
        for name, value in guarded.keys[role].items():
            monkeypatch.setenv(name, value)
        options = f"endpoint_override={guarded.address}&scheme=http&region=us-east-1"
        return lambda path: locate(f"s3://{path}?{options}")

    out_of_patience()
    return become


def test_training_reads_shards_and_keeps_runs_and_models(become: Callable[[str], Place]) -> None:
    place = become("train")
    assert place("distgen/shards/digits/manifest.json").read_json() == {}
    assert [one.name for one in place("distgen/shards").list()] == ["digits"]
    run = place("distgen/runs/fashion")
    (run / "checkpoints" / "000000001000").make_dir()
    (run / "checkpoints" / "000000001000" / "manifest.json").write_json({"images_seen": 1000})
    (run / "events.jsonl").write_text("{}\n")
    (run / "events.jsonl").write_text("{}\n{}\n")
    assert (run / "checkpoints").is_dir()
    # One by one: of many at once moto asks for the right to delete the bucket itself.
    (run / "checkpoints" / "000000001000" / "manifest.json").remove()
    assert not (run / "checkpoints" / "000000001000" / "manifest.json").is_file()
    assert not (run / "job.yaml").is_file(), "what is not there is missing, and not forbidden"
    place("distgen/models/fashion/1/manifest.json").write_json({})


def test_serving_reads_models(become: Callable[[str], Place]) -> None:
    place = become("serve")
    assert place("distgen/models/digits/manifest.json").read_json() == {}
    assert not place("distgen/models/digits/card.json").is_file()


@pytest.mark.parametrize(
    ("role", "path"),
    [
        ("train", "distgen/shards/digits/manifest.json"),
        ("train", "distgen/elsewhere"),
        ("train", "of-others/runs/digits/manifest.json"),
        ("serve", "distgen/models/digits/manifest.json"),
        ("serve", "distgen/runs/digits/manifest.json"),
    ],
)
def test_nobody_writes_or_deletes_beyond_their_part(
    role: str, path: str, become: Callable[[str], Place], guarded: Guarded
) -> None:
    place = become(role)(path)
    with pytest.raises(OSError, match=r"(?i)access.?denied|403"):
        place.write_bytes(b"theirs")
    with pytest.raises(OSError, match=r"(?i)access.?denied|403"):
        place.filesystem.delete_file(place.path)


@pytest.mark.parametrize(
    ("role", "path"),
    [
        ("serve", "distgen/runs/digits/manifest.json"),
        ("serve", "distgen/shards/digits/manifest.json"),
        ("train", "of-others/shards/digits/manifest.json"),
    ],
)
def test_nobody_reads_beyond_their_part(
    role: str, path: str, become: Callable[[str], Place]
) -> None:
    with pytest.raises(OSError, match=r"(?i)access.?denied|403"):
        become(role)(path).read_bytes()


def test_the_lifecycle_is_one_that_a_store_takes(guarded: Guarded) -> None:
    rules = json.loads((STORAGE / "lifecycle.json").read_text())
    guarded.guard(False)
    try:
        store = guarded.client("s3")
        store.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        store.put_bucket_lifecycle_configuration(Bucket=BUCKET, LifecycleConfiguration=rules)
        kept = store.get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    finally:
        guarded.guard(True)
    assert kept == rules["Rules"]


def test_no_rule_deletes_what_is_current() -> None:
    for rule in json.loads((STORAGE / "lifecycle.json").read_text())["Rules"]:
        assert rule.get("Expiration", {}).keys() <= {"ExpiredObjectDeleteMarker"}
        assert "Transition" not in str(rule), "a checkpoint must be at hand"
