"""What is sent with a job is what was meant, and said, and no more."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from distgen.core.errors import UsageError
from distgen.launch import upload
from distgen.launch.upload import choose, in_words, pack, require_small


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with what lies around in checkouts."""
    for name in (
        "distgen/models/mine.py", "README.md", "build/out.o", "notes/secret.txt", "notes/keep.txt",
        ".git/objects/aa", "runs/big/model", "shards/a.tar", "deep/runs/kept.py", ".env", "my.pem",
        "python/pyvenv.cfg", "python/lib/x.py", ".venv/lib/x.py", ".aws/credentials",
        "distgen/__pycache__/x.pyc",
    ):  # fmt: skip
        file = tmp_path / "work" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "work" / ".gitignore").write_text("build/\n# a comment\n\n")
    (tmp_path / "work" / "notes" / ".distgenignore").write_text("*.txt\n!keep.txt\n")
    return tmp_path / "work"


OURS = {
    ".gitignore", "README.md", "deep/runs/kept.py", "distgen/models/mine.py",
    "notes/.distgenignore", "notes/keep.txt",
}  # fmt: skip


def test_files_are_chosen_as_git_would_and_without_runs_and_secrets(folder: Path) -> None:
    chosen = choose(folder)
    assert set(chosen.files) == OURS
    assert chosen.bytes == sum((folder / name).stat().st_size for name in OURS)


def test_patterns_of_the_command_line_are_the_last_word(folder: Path) -> None:
    assert set(choose(folder, ["*.md", "/deep/"]).files) == OURS - {
        "README.md",
        "deep/runs/kept.py",
    }
    assert "build/out.o" in choose(folder, ["!build/"]).files


def test_links_stay_here_wherever_they_lead(folder: Path) -> None:
    (folder / "passwords").symlink_to("/etc/passwd")
    (folder / "all").symlink_to("/")
    (folder / "again").symlink_to(folder / "README.md")
    os.mkfifo(folder / "pipe")
    chosen = choose(folder)
    assert set(chosen.files) == OURS
    assert chosen.links == ["again", "all", "passwords", "pipe"]


def test_a_file_that_became_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    chosen = choose(folder)
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="changed while it was sent"):
        pack(chosen, {}, tmp_path / "sent.zip")


def test_the_archive_holds_the_files_and_the_job_and_is_the_same_each_time(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "README.md").chmod(0o755)
    size = pack(choose(folder), {"job.yaml": "kind: train"}, tmp_path / "a.zip")
    os.utime(folder / "README.md", (1, 2))
    pack(choose(folder), {"job.yaml": "kind: train"}, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        assert set(packed.namelist()) == OURS | {"job.yaml"}
        assert packed.read("README.md") == b"README.md"
        assert packed.read("job.yaml") == b"kind: train"
        assert packed.getinfo("README.md").external_attr >> 16 & 0o777 == 0o755
    assert size == (tmp_path / "a.zip").stat().st_size


def test_the_job_file_is_the_submitted_one_whatever_lies_in_the_folder(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "job.yaml").write_text("another")
    pack(choose(folder), {"job.yaml": "kind: train"}, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as packed:
        assert packed.read("job.yaml") == b"kind: train"


def test_too_much_is_refused_with_the_largest_and_the_remedy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_small(choose(folder))
    monkeypatch.setattr(upload, "MAX_BYTES", 4096)
    (folder / "movie.bin").write_bytes(bytes(9000))
    with pytest.raises(UsageError) as caught:
        require_small(choose(folder))
    assert "at most 4.0 KiB" in caught.value.what
    assert "movie.bin (8.8 KiB)" in str(caught.value.cause)
    assert "--exclude 'movie.bin'" in str(caught.value.remedy)


def test_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        choose(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (3 << 29, "1.5 GiB")],
)
def test_sizes_are_told_in_words(size: int, text: str) -> None:
    assert in_words(size) == text
