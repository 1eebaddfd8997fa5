"""The payloads of these tests do harm where nothing is done against them: else they prove nothing.

Bundles and their archives have more such tests in tests/unit/registry (test_bundle, test_archive,
test_weights), tars in tests/unit/data/building (test_damaged_tars, test_scan_fuzz), pictures in
test_picture_fuzz and arrays in tests/unit/data/formats/test_npy.
"""

from __future__ import annotations

import pickle
import subprocess

import yaml

from tests.unit.security.conftest import Attack


def test_unpickled_the_payload_makes_its_canary(attack: Attack) -> None:
    pickle.loads(attack.pickled)
    attack.canary.rmdir()


def test_a_loader_that_obeys_tags_makes_the_canary(attack: Attack) -> None:
    yaml.unsafe_load(f"a: {attack.yaml_call}")
    attack.canary.rmdir()


def test_a_shell_makes_the_canary(attack: Attack) -> None:
    subprocess.run(attack.shell, shell=True, check=True)
    attack.canary.rmdir()
