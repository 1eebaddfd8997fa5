"""Clips of videos: the frames that a decoder gives, however they are reached."""

from __future__ import annotations

import importlib.util
import io
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from distgen.core.errors import UsageError
from distgen.data import open_shard_set
from distgen.data.building import build, clips, frames
from distgen.data.building.convert import Target
from distgen.data.building.frames import videos

from .test_clips import by_key, rejected

LOSSLESS = ("ffv1", "bgr0")


def moving(count: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Frames [count, height, width, 3] of slowly moving colours, which codecs like."""
    y, x, t = np.mgrid[:height, :width, :count].transpose(0, 3, 1, 2)
    return np.stack([3 * x + 5 * t, 4 * y + 3 * t, 2 * (x + y) + 7 * t], -1).astype(np.uint8)


def write(
    path: Path,
    pixels: Sequence[np.ndarray] | np.ndarray,
    codec: tuple[str, str] = LOSSLESS,
    options: Mapping[str, str] | None = None,
    *,
    turn: int = 0,
    aspect_ratio: Fraction | None = None,
    times: Sequence[int] | None = None,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec[0], rate=25)
        stream.height, stream.width = pixels[0].shape[:2]
        stream.pix_fmt = codec[1]
        stream.options = dict(options or {})
        if aspect_ratio is not None:
            stream.codec_context.sample_aspect_ratio = aspect_ratio
        if turn:
            stream.set_display_rotation(turn)
        for number, each in enumerate(pixels):
            layout = "gray" if each.ndim == 2 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(each), format=layout)
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def as_decoded(path: Path) -> list[np.ndarray]:
    """All frames by one pass of the decoder, without any code of ours."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mkv", LOSSLESS), ("a.avi", ("rawvideo", "bgr24")), ("a.mov", ("png", "rgb24"))],
)
def test_every_pixel_of_a_lossless_video_is_in_its_clips(
    tmp_path: Path, name: str, codec: tuple[str, str]
) -> None:
    pixels = moving(23)
    write(tmp_path / "v" / name, pixels, codec)
    built = build(str(tmp_path / "v"), tmp_path / "set", frames=3, stride=2)
    found = by_key(tmp_path / "set")
    taken = pixels[::2]
    assert found.keys() == {f"a-c{number:05d}" for number in range(4)}
    for number in range(4):
        assert np.array_equal(found[f"a-c{number:05d}"], taken[3 * number : 3 * number + 3])
    assert built.left_out == 0


KINDS = [
    ("a.mp4", ("libx264", "yuv420p"), {"g": "12", "bf": "3"}),
    ("open.mp4", ("libx264", "yuv420p"), {"x264-params": "keyint=12:open-gop=1:bframes=3"}),
    ("refresh.mp4", ("libx264", "yuv420p"), {"x264-params": "keyint=12:intra-refresh=1"}),
    ("one.mkv", ("libx264", "yuv420p"), {"g": "999"}),
    ("a.ts", ("libx264", "yuv420p"), {"g": "12", "bf": "2"}),
    ("a.avi", ("mpeg4", "yuv420p"), {"g": "12", "bf": "2"}),
    ("a.webm", ("libvpx-vp9", "yuv420p"), {"g": "12", "deadline": "realtime", "cpu-used": "8"}),
    ("a.mov", ("mjpeg", "yuvj420p"), {}),
    ("a.mpg", ("mpeg2video", "yuv420p"), {"g": "12", "bf": "2"}),
]


@pytest.mark.parametrize(("name", "codec", "options"), KINDS, ids=[kind[0] for kind in KINDS])
def test_frames_reached_by_time_are_those_of_a_whole_pass(
    tmp_path: Path,
    name: str,
    codec: tuple[str, str],
    options: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path / "v" / name, moving(50), codec, options)
    expected = as_decoded(path)
    monkeypatch.setattr(clips, "RUN_FRAMES", 10)
    build(str(tmp_path / "v"), tmp_path / "set", frames=5, workers=2)
    found = by_key(tmp_path / "set")
    stem = name.partition(".")[0]
    assert found.keys() == {f"{stem}-c{number:05d}" for number in range(len(expected) // 5)}
    assert len(expected) >= 49
    for number in range(len(expected) // 5):
        clip_thwc = found[f"{stem}-c{number:05d}"]
        assert np.array_equal(clip_thwc, expected[5 * number : 5 * number + 5]), number


def test_a_run_is_reached_without_decoding_what_lies_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.mp4", moving(60), ("libx264", "yuv420p"), {"g": "10", "bf": "0"})
    mark = frames.survey(path, 20).marks[2]
    assert mark.frame == 40
    made = []
    plain = videos._Video.decoded

    def counting(video: videos._Video) -> object:
        for frame in plain(video):
            made.append(frame.pts)
            yield frame

    monkeypatch.setattr(videos._Video, "decoded", counting)
    first = np.asarray(next(frames.frames_from(path, mark))())
    assert np.array_equal(first, as_decoded(path)[40])
    assert made == [mark.pts]


def test_a_mark_that_leads_elsewhere_is_found_by_counting(tmp_path: Path) -> None:
    pixels = moving(30)
    path = write(tmp_path / "a.mkv", pixels)
    mark = frames.survey(path, 10).marks[1]
    assert mark.pts == 400
    for pts in (401, 480, 10_000, None):  # no frame's, another frame's, after the end, unknown
        wrong = mark._replace(pts=pts)
        found = [np.asarray(frame()) for frame in frames.frames_from(path, wrong)]
        assert np.array_equal(found, pixels[10:])


def test_uneven_times_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = moving(20)
    times = np.cumsum([1, 7, 2, 30, 1] * 4).tolist()
    write(tmp_path / "v" / "a.mkv", pixels, times=times)
    monkeypatch.setattr(clips, "RUN_FRAMES", 1)
    build(str(tmp_path / "v"), tmp_path / "set", frames=4)
    found = by_key(tmp_path / "set")
    assert np.array_equal([found[f"a-c{n:05d}"] for n in range(5)], pixels.reshape(5, 4, 24, 32, 3))


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_frames_are_turned_as_the_recorder_held_them(tmp_path: Path, turn: int) -> None:
    pixels = moving(4)
    write(tmp_path / "v" / "a.mov", pixels, ("png", "rgb24"), turn=turn)
    with av.open(str(tmp_path / "v" / "a.mov")) as container:
        degrees = next(container.decode(video=0)).rotation  # counter-clockwise
    assert degrees % 180 == turn % 180
    build(str(tmp_path / "v"), tmp_path / "set", frames=4)
    expected = np.rot90(pixels, degrees // 90, axes=(1, 2))
    assert open_shard_set(str(tmp_path / "set")).spec.shape == expected.shape
    assert np.array_equal(by_key(tmp_path / "set")["a-c00000"], expected)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((-1, 0, 0, 1), lambda frame: frame[:, ::-1]),
        ((1, 0, 0, -1), lambda frame: frame[::-1]),
        ((0, 1, 1, 0), lambda frame: frame.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda frame: frame[::-1, ::-1].transpose(1, 0, 2)),
        ((0, 1, -1, 0), lambda frame: np.rot90(frame, -1)),
        ((1, 1, -1, 1), lambda frame: frame),
    ],
)
def test_mirrored_frames_are_mirrored_back(
    tmp_path: Path, matrix: tuple[int, ...], expected: object
) -> None:
    pixels = moving(2)
    path = write(tmp_path / "v" / "a.mov", pixels, ("png", "rgb24"))
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    for slot, value in zip((0, 1, 3, 4), matrix, strict=True):
        begin = place + 4 * slot
        content[begin : begin + 4] = (value << 16).to_bytes(4, "big", signed=True)
    path.write_bytes(content)
    found = np.asarray(next(frames.frames_from(path, frames.Mark(0)))())
    assert np.array_equal(found, expected(pixels[0]))  # type: ignore[operator]


def test_pixels_become_square(tmp_path: Path) -> None:
    pixels = moving(3)
    path = tmp_path / "v" / "a.mp4"
    write(path, pixels, ("libx264rgb", "rgb24"), {"qp": "0"}, aspect_ratio=Fraction(3, 2))
    build(str(tmp_path / "v"), tmp_path / "set", frames=3)
    assert open_shard_set(str(tmp_path / "set")).spec.shape == (3, 24, 48, 3)
    wide = by_key(tmp_path / "set")["a-c00000"].astype(int)
    smooth = np.asarray(Image.fromarray(pixels[0]).resize((48, 24), Image.Resampling.BICUBIC))
    assert np.median(np.abs(wide[0] - smooth)) <= 2


def test_grey_videos_are_grey(tmp_path: Path) -> None:
    pixels = moving(4)[..., 0]
    write(tmp_path / "v" / "a.mkv", pixels, ("ffv1", "gray"))
    build(str(tmp_path / "v"), tmp_path / "set", frames=4)
    assert open_shard_set(str(tmp_path / "set")).spec.mode == "L"
    assert np.array_equal(by_key(tmp_path / "set")["a-c00000"][..., 0], pixels)


def test_transparent_videos_lie_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((12, 16, 4), np.uint8)
    pixels[:, 8:] = (10, 20, 30, 255)
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.height, stream.width, stream.pix_fmt = 12, 16, "rgba"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        container.mux(stream.encode())
    (tmp_path / "v").mkdir()
    shutil.move(tmp_path / "a.mov", tmp_path / "v")
    build(str(tmp_path / "v"), tmp_path / "set", frames=2)
    clip_thwc = by_key(tmp_path / "set")["a-c00000"]
    assert (clip_thwc[:, :, :8] == 255).all()
    assert (clip_thwc[:, :, 8:] == (10, 20, 30)).all()


def test_odd_names_are_files_and_no_protocols(tmp_path: Path, monkeypatch: object) -> None:
    folder = tmp_path / "v" / "http:"
    pixels = moving(2)
    path = write(folder / "a.mkv", pixels)
    for name in (b"sp ace?#%41.mkv", b"concat:a.mkv", "ü.mkv".encode(), b"b\xffd.mkv"):
        shutil.copy(path, Path(folder, os.fsdecode(name)))
    built = build(str(tmp_path / "v"), tmp_path / "set", frames=2)
    assert (built.num_samples, built.rejected, built.duplicates) == (5, 0, 4)


def test_the_work_can_be_given_to_other_processes(tmp_path: Path) -> None:
    pixels = moving(20)
    write(tmp_path / "v" / "a.mkv", pixels)
    looked = clips.look_at(tmp_path / "v" / "a.mkv", clips.Cut(5))
    target = Target(24, 32, "RGB", frames=5)
    for number in range(looked.clips):
        clip = pickle.loads(pickle.dumps(clips.Clip(looked, number)))
        found = np.load(io.BytesIO(clip.encoded(target).data))
        assert np.array_equal(found, pixels[5 * number : 5 * number + 5])


BUILD = """
import sys
from distgen.data.building import build

build(sys.argv[1], sys.argv[2], frames=4, size=8, workers=1)
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "mkv", "gif"])
def test_of_a_video_only_the_clips_in_work_are_held(tmp_path: Path, kind: str) -> None:
    few, many = moving(40, 192, 256), np.tile(moving(50, 192, 256), (10, 1, 1, 1))
    peaks_kib = []
    for pixels in (few, many):
        path = tmp_path / str(len(pixels)) / f"a.{kind}"
        path.parent.mkdir()
        if kind == "npy":
            np.save(path, pixels)
        elif kind == "mkv":
            write(path, pixels, ("mpeg4", "yuv420p"))
        else:
            images = [Image.fromarray(frame[..., 0]) for frame in pixels]
            images[0].save(path, save_all=True, append_images=images[1:])
        arguments = [sys.executable, "-c", BUILD, str(path.parent), f"{path.parent}-set"]
        ran = subprocess.run(arguments, check=True, capture_output=True, text=True)
        peaks_kib.append(int(ran.stdout))
    # The frames would be 70 MiB, grey ones 23.
    assert peaks_kib[1] - peaks_kib[0] < 12 << 10


def test_without_the_extra_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "v"
    np.save(write(folder / "a.mkv", moving(2)).with_name("b.npy"), moving(2))
    plain = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "av" else plain(name)
    )
    with pytest.raises(UsageError, match=r"a\.mkv(.|\n)*pip install 'distgen\[video\]'"):
        build(str(folder), tmp_path / "set", frames=2)
    assert not list((tmp_path / "set").glob("*"))
    (folder / "a.mkv").unlink()
    (folder / "c.npy").write_text("not known without it")
    built = build(str(folder), tmp_path / "set", frames=2)
    assert (built.num_samples, built.rejected) == (1, 1)


def test_absurdly_large_frames_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "v" / "large.mkv", moving(2, 64, 64))
    write(tmp_path / "v" / "small.mkv", moving(2, 16, 16))
    monkeypatch.setattr(videos, "MAX_PIXELS", 64 * 64 - 1)
    decoded = []
    picture = videos._Video.picture

    def watched(video: videos._Video, frame: av.VideoFrame) -> Image.Image:
        decoded.append(frame.height)
        return picture(video, frame)

    monkeypatch.setattr(videos._Video, "picture", watched)
    build(str(tmp_path / "v"), tmp_path / "set", frames=2)
    assert rejected(tmp_path / "set").keys() == {"large.mkv"}
    assert set(decoded) == {16}
