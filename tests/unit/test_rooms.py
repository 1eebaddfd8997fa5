"""The house keeps its walls: every room imports alone, and only some of them know Ray."""

import subprocess
import sys

WITHOUT_RAY = (
    "core", "data", "models", "objectives", "metrics", "registry", "training", "serving", "bench",
    "cli",
)  # fmt: skip
WITH_RAY = ("distgen.serving.deploy.endpoint", "distgen.serving.deploy.replica")

# Third-party libraries stay loaded between rooms: they are most of the time, and not of the house.
PROGRAM = """
import importlib, pkgutil, sys
for name in {forbidden!r}:
    sys.modules[name] = None
for room in {rooms!r}:
    for name in [name for name in sys.modules if name.partition(".")[0] == "distgen"]:
        del sys.modules[name]
    package = importlib.import_module("distgen." + room)
    modules = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    for name in [name for name in modules if name not in {with_ray!r}]:
        importlib.import_module(name)
    print(room, len(modules))
"""


def import_all(rooms, forbidden):
    program = PROGRAM.format(rooms=rooms, forbidden=forbidden, with_ray=WITH_RAY)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return dict(line.split() for line in result.stdout.splitlines())


def test_every_module_of_a_room_without_ray_imports_without_ray_and_extras():
    counts = import_all(WITHOUT_RAY, ["ray", "av"])
    assert list(counts) == list(WITHOUT_RAY)
    assert all(int(count) > 0 for count in counts.values())


def test_the_command_line_starts_without_loading_torch_or_ray():
    import_all(["cli"], ["ray", "torch"])


def test_a_folder_of_the_same_name_does_not_hide_the_package(tmp_path):
    """Ray's workers look into the working folder first, and a clone is a folder named distgen."""
    (tmp_path / "distgen" / "data").mkdir(parents=True)
    program = "import distgen.core.errors, sys; print(sys.path[0]); print(distgen.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {program}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    first, found = result.stdout.splitlines()
    assert first == str(tmp_path)
    assert found.endswith("__init__.py")
