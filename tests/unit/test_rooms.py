"""The house keeps its walls: every room imports alone, and only four of them know Ray."""

import subprocess
import sys

import pytest

WITHOUT_RAY = (
    "core", "data", "models", "objectives", "metrics", "registry", "training", "cli",
)  # fmt: skip

PROGRAM = """
import importlib, pkgutil, sys
for name in {forbidden!r}:
    sys.modules[name] = None
package = importlib.import_module("distgen.{room}")
count = 0
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
    count += 1
print(count)
"""


@pytest.mark.parametrize("room", WITHOUT_RAY)
def test_every_module_of_a_room_without_ray_imports_where_ray_is_not_installed(room):
    program = PROGRAM.format(room=room, forbidden=["ray"])
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 0


def test_the_command_line_starts_without_loading_torch_or_ray():
    program = PROGRAM.format(room="cli", forbidden=["ray", "torch"])
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
