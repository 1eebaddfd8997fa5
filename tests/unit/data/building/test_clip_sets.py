"""Sets of clips: inspected, verified, previewed, and made of the tars of others."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distgen.core.errors import DataError, UsageError
from distgen.core.storage import locate
from distgen.data import ShardSet, open_shard_set, read_samples
from distgen.data import inspect as inspecting
from distgen.data.building import build
from distgen.data.building.scan import index
from distgen.data.formats import npy
from distgen.data.formats.foreign import Rules
from distgen.data.formats.tars import TarFile
from distgen.data.inspect import inspect, preview, verify
from distgen.data.streaming.bad import Tolerance
from tests.unit.data.foreign_tars import picture, write_tar
from tests.unit.data.test_data_commands import code_and_text, run

from .test_clips import video


def clip(value: int, shape: tuple[int, ...] = (4, 6, 8, 3)) -> bytes:
    return npy.encode(np.full(shape, value, np.uint8))


@pytest.fixture
def made(tmp_path: Path) -> ShardSet:
    """Three classes of clips, 9 frames each, of 5, 1 and no clips."""
    for name, frames in (("one", 45), ("two", 9), ("three", 8)):
        video(tmp_path / "v" / name / "a.npy", frames, side=16)
    build(str(tmp_path / "v"), tmp_path / "set", frames=9)
    return open_shard_set(str(tmp_path / "set"))


@pytest.mark.parametrize("limit", [1, 64 << 20])
def test_inspect_measures_every_frame(
    made: ShardSet, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspecting, "_MEASURED_BYTES", limit)
    told: list[tuple[int, int]] = []
    summary = inspect(made, on_progress=lambda done, total: told.append((done, total)))
    values = read_samples(made, np.arange(6))[0].reshape(-1, 3)
    assert np.allclose(summary.mean, values.mean(axis=0), atol=1e-3)
    assert np.allclose(summary.std, values.std(axis=0), atol=1e-3)
    assert (summary.frames, summary.height, summary.width) == (9, 16, 18)
    assert summary.classes == {"one": 5, "three": 0, "two": 1}
    assert told[-1] == (6, 6)
    assert len(told) == (6 if limit == 1 else 1)


def test_verify_names_the_clip_whose_byte_was_flipped(made: ShardSet) -> None:
    assert verify(made).ok
    path = made.shard(0).local
    assert path is not None
    content = bytearray(path.read_bytes())
    content[content.index(npy.MAGIC) + 4000] ^= 1
    path.write_bytes(content)
    (problem,) = verify(made).problems
    assert problem.what == "the member .npy does not match its checksum"


def test_a_damaged_clip_gives_way_to_the_next(made: ShardSet) -> None:
    whole, _ = read_samples(made, np.arange(6))
    path = made.shard(0).local
    assert path is not None
    content = bytearray(path.read_bytes())
    content[content.index(npy.MAGIC) + 4000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="does not match its checksum"):
        read_samples(made, np.arange(6))
    found, _ = read_samples(made, np.arange(6), tolerance=Tolerance("substitute", 1))
    assert np.array_equal(found, whole[[1, 1, 2, 3, 4, 5]])


def tiles(png: bytes, left: int = 4) -> np.ndarray:
    """The pictures of a sheet of 18x16 pictures, each enlarged by 4: [rows, columns, H, W, C]."""
    sheet = np.asarray(Image.open(io.BytesIO(png)))
    rows, columns = (sheet.shape[0] - 4) // 68, (sheet.shape[1] - left) // 76
    return np.stack(
        [
            [
                sheet[4 + 68 * row : 68 + 68 * row : 4, left + 76 * column :][:, :72:4]
                for column in range(columns)
            ]
            for row in range(rows)
        ]
    )


@pytest.mark.parametrize(("columns", "shown"), [(3, [0, 4, 8]), (1, [0]), (50, [*range(9)])])
def test_a_preview_has_a_row_of_frames_for_a_clip(
    made: ShardSet, columns: int, shown: list[int]
) -> None:
    clips_nthwc, labels_n = read_samples(made, np.arange(6))
    first = clips_nthwc[labels_n == 0]
    sheet = tiles(preview(made, columns=columns, rows=4, label="one"))
    assert np.array_equal(sheet, first[:4][:, shown])


def test_a_preview_shows_clips_of_every_class(made: ShardSet) -> None:
    clips_nthwc, labels_n = read_samples(made, np.arange(6))
    sheet = np.asarray(Image.open(io.BytesIO(preview(made, columns=9))))
    left = sheet.shape[1] - 9 * 76
    assert left > 4
    rows = tiles(preview(made, columns=9), left)
    # Nine rows for three classes would be three each; there are 5, none and 1.
    assert len(rows) == 5
    assert np.array_equal(rows[:3], clips_nthwc[labels_n == 0][:3])
    assert (rows[3] == 255).all()
    assert np.array_equal(rows[4:], clips_nthwc[labels_n == 2])


def test_a_preview_that_is_too_large_is_refused(made: ShardSet) -> None:
    with pytest.raises(UsageError, match="cannot be made"):
        preview(made, columns=9, rows=1000)


def test_tars_of_arrays_of_one_shape_become_a_set_of_clips(tmp_path: Path) -> None:
    folder = tmp_path / "tars"
    for shard in range(2):
        members = [
            (f"{shard}-{n}.{x}", d)
            for n in range(3)
            for x, d in (
                ("npy", clip(10 * shard + n)),
                ("cls", str(n % 2).encode()),
                ("txt", b"words"),
            )
        ]
        write_tar(folder / f"{shard}.tar", members)  # fmt: skip
    before = {path.name: path.read_bytes() for path in folder.glob("*.tar")}
    indexed = index(folder)
    shard_set = open_shard_set(str(folder))
    assert indexed.manifest.image.shape == shard_set.spec.shape == (4, 6, 8, 3)
    assert shard_set.manifest.fields == ("cls", "npy", "txt")
    clips_nthwc, labels_n = read_samples(shard_set, np.arange(6))
    assert clips_nthwc[:, 0, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert labels_n.tolist() == [0, 1, 0, 0, 1, 0]
    assert before == {path.name: path.read_bytes() for path in folder.glob("*.tar")}
    assert verify(shard_set).ok


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (clip(1, (5, 6, 8, 3)), "a clip of 4 frames of 8x6 RGB"),
        (clip(1, (4, 6, 8, 1)), "8x6 L"),
        (clip(1, (4, 8, 6, 3)), "6x8 RGB"),
    ],
)
def test_clips_of_several_shapes_are_refused(tmp_path: Path, other: bytes, words: str) -> None:
    write_tar(tmp_path / "tars" / "0.tar", [("a.npy", clip(1)), ("b.npy", other)])
    with pytest.raises(DataError, match="differ in size, mode or number of frames") as error:
        index(tmp_path / "tars")
    assert words in str(error.value)


def test_clips_and_pictures_are_not_mixed(tmp_path: Path) -> None:
    write_tar(tmp_path / "tars" / "0.tar", [("a.png", picture(size=(8, 6))), ("b.npy", clip(1))])
    with pytest.raises(DataError, match="number of frames"):
        index(tmp_path / "tars")


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (saved(np.zeros((4, 6, 8, 3))), "'<f8', not uint8"),
        (clip(0, (4, 6, 8)), "its array is 4x6x8"),
        (clip(0, (4, 6, 8, 2)), "its array is 4x6x8x2"),
        (clip(0)[:-1], "575 bytes do not make an array of 4x6x8x3"),
        (clip(0) + b"x", "577 bytes do not make"),
        (clip(0).replace(b"(4, 6", b"(9999999, 6"), "larger than a clip may be"),
        (clip(0).replace(b"(4, 6, 8", b"(60000, 600, 800"), "larger than a clip may be"),
        (b"", "not in NumPy's format"),
    ],
)
def test_arrays_that_are_no_clips_are_refused_with_the_reason(
    tmp_path: Path, member: bytes, words: str
) -> None:
    write_tar(tmp_path / "tars" / "0.tar", [("a.npy", member)])
    with pytest.raises(DataError, match=r"No sample(.|\n)*a\.npy in .*0\.tar is no clip") as error:
        index(tmp_path / "tars")
    assert words in str(error.value)
    with pytest.raises(DataError, match="A clip cannot be streamed as it is") as error:
        index(tmp_path / "tars", picture="npy")
    assert words in str(error.value)


def test_arrays_beside_pictures_stay_what_they_were(tmp_path: Path) -> None:
    features = saved(np.zeros(300_000, np.float32))
    members = [("a.png", picture()), ("a.npy", features), ("b.png", picture()), ("b.npy", clip(1))]
    write_tar(tmp_path / "tars" / "0.tar", [*members, ("c.npy", features)])
    indexed = index(tmp_path / "tars")
    assert indexed.manifest.image.frames is None
    assert indexed.manifest.fields == ("npy", "png")
    assert (indexed.manifest.num_samples, indexed.without_picture) == (2, 1)
    shard_set = open_shard_set(str(tmp_path / "tars"))
    assert read_samples(shard_set, np.arange(2))[0].shape == (2, 4, 6, 3)


def test_only_the_beginning_of_an_array_is_held(tmp_path: Path) -> None:
    content = bytes(9 << 20)
    path = write_tar(tmp_path / "0.tar", [("a.npy", content), ("b.npy", b"short")])
    ranges = locate(path).open_ranges()
    members = TarFile(ranges, path.stat().st_size, "here").members(Rules().wanted, Rules().head)
    assert [(m.size, m.content) for m in members] == [
        (9 << 20, content[: npy.MAX_HEADER_BYTES]),
        (5, b"short"),
    ]


def test_the_clip_is_named_where_samples_have_more(tmp_path: Path) -> None:
    members = [("a.png", picture()), ("a.left.npy", clip(3)), ("a.right.npy", clip(4))]
    write_tar(tmp_path / "tars" / "0.tar", members)
    index(tmp_path / "tars", picture="right.npy")
    shard_set = open_shard_set(str(tmp_path / "tars"))
    assert (read_samples(shard_set, np.arange(1))[0] == 4).all()
    write_tar(tmp_path / "two" / "0.tar", members[1:])
    with pytest.raises(DataError, match=r"2 clips(.|\n)*--picture left\.npy"):
        index(tmp_path / "two")


def test_the_commands_speak_of_clips(made: ShardSet, tmp_path: Path) -> None:
    video(tmp_path / "v" / "two" / "b.npy", 13, side=16)
    result = run("build", tmp_path / "v", tmp_path / "two", "--frames", "4", "--stride", "2")
    assert "8 clips of 4 frames of 18x16 RGB, 3 classes, 1 shards" in result.output
    assert "7 frames at the ends of videos do not fill a clip" in result.output
    text = run("inspect", tmp_path / "two").output
    assert "4 frames of 18x16 RGB" in text
    assert "8 clips, values 0 to 255" in text
    assert run("verify", tmp_path / "two").exit_code == 0
    assert run("preview", tmp_path / "two", "--out", tmp_path / "p.png").exit_code == 0
    Image.open(tmp_path / "p.png").verify()
    for arguments, words in (
        (("--frames", "0"), "--frames is 0"),
        (("--stride", "2"), "--stride 2 is for clips"),
        (("--frames", "4", "--encoding", "png"), "leave out --encoding"),
    ):
        code, text = code_and_text(run("build", tmp_path / "v", tmp_path / "x", *arguments))
        assert code == 2
        assert words in text
