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
from av.stream import Disposition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from distgen.core.errors import UsageError
from distgen.data import build, clips, frames, open_shard_set
from distgen.data.convert import RejectedError, Target
from distgen.data.frames import videos
from distgen.data.frames.containers import missing_bytes

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


CONTAINERS = ["mp4", "mov", "mkv", "webm", "avi"]


def plain(path: Path, count: int = 40) -> Path:
    codec = ("libvpx-vp9", "yuv420p") if path.suffix == ".webm" else ("libx264", "yuv420p")
    fast = {"deadline": "realtime", "cpu-used": "8"} if path.suffix == ".webm" else {}
    codec = ("mpeg4", "yuv420p") if path.suffix == ".avi" else codec
    return write(path, moving(count), codec, fast)


@pytest.mark.parametrize("kind", CONTAINERS)
def test_videos_cut_short_are_listed_wherever_they_end(tmp_path: Path, kind: str) -> None:
    whole = plain(tmp_path / "v" / f"good.{kind}").read_bytes()
    assert missing_bytes(tmp_path / "v" / f"good.{kind}") == 0
    for length in (*range(16, len(whole), len(whole) // 12), len(whole) - 2):
        (tmp_path / "v" / f"cut{length}.{kind}").write_bytes(whole[:length])
    built = build(str(tmp_path / "v"), tmp_path / "set", frames=10)
    reasons = rejected(tmp_path / "set")
    assert built.num_samples == 4
    assert len(reasons) == 13
    assert sum("bytes are missing at its end" in reason for reason in reasons.values()) >= 11


EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
FTYP = b"\0\0\0\x0cftypisom"


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        (b"", 0),
        (b"RIFF" + (20).to_bytes(4, "little") + b"AVI " + bytes(12), 4),
        (b"RIFF" + bytes(4) + b"AVI " + bytes(12), 0),
        (b"RIFF\xff\xff\xff\xffAVI " + bytes(12), 0),
        (EBML + b"\x82xx" + SEGMENT + b"\x84" + bytes(3), 1),
        (EBML + b"\x40\x02xx" + SEGMENT + b"\x10\0\0\x09" + bytes(4), 5),
        (EBML + b"\x82xx" + SEGMENT + b"\xff" + bytes(3), 0),
        (EBML + b"\x82xx" + SEGMENT + b"\x01" + b"\xff" * 7, 0),
        (EBML + b"\x82xx" + SEGMENT, 0),
        (EBML + b"\x01" + b"\x7f" * 7 + SEGMENT + b"\x84", 0),
        (EBML + b"\0" + SEGMENT + b"\x84", 0),
        (FTYP + b"\0\0\0\x10mdat" + bytes(6), 2),
        (FTYP + b"\0\0\0\x01mdat" + (20).to_bytes(8, "big") + bytes(1), 3),
        (FTYP + b"\0\0\0\0mdat" + bytes(6), 0),
        (FTYP + b"\x10\0\0\0text after the end", 0),
        (FTYP + b"\0\0\0\x03free", 0),
        (FTYP, 0),
    ],
)
def test_a_container_that_says_its_length_says_what_is_missing(
    tmp_path: Path, content: bytes, missing: int
) -> None:
    (tmp_path / "a").write_bytes(content)
    assert missing_bytes(tmp_path / "a") == missing


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_damage_inside_a_video_is_listed(tmp_path: Path, kind: str) -> None:
    content = bytearray(plain(tmp_path / "v" / f"good.{kind}", 60).read_bytes())
    middle = content.index(b"mdat") + 2000 if kind == "mp4" else len(content) // 2
    for place in range(middle, middle + 200, 40):
        content[place] ^= 0x55
    (tmp_path / "v" / f"bad.{kind}").write_bytes(content)
    build(str(tmp_path / "v"), tmp_path / "set", frames=10)
    (reason,) = rejected(tmp_path / "set").values()
    assert "is damaged" in reason or "cannot be decoded" in reason


def test_a_recording_that_begins_between_key_frames_is_listed(tmp_path: Path) -> None:
    whole = write(tmp_path / "v" / "good.ts", moving(40), KINDS[4][1], {"g": "999"}).read_bytes()
    packets = len(whole) // 188
    (tmp_path / "v" / "late.ts").write_bytes(whole[packets // 2 * 188 :])
    build(str(tmp_path / "v"), tmp_path / "set", frames=8)
    (reason,) = rejected(tmp_path / "set").values()
    assert "its frame 0 cannot be decoded" in reason


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small video in each container."""
    folder = tmp_path_factory.mktemp("sound")
    for kind in CONTAINERS:
        plain(folder / f"a.{kind}", 6)
    return folder


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_is_a_reason_and_no_crash(
    sound: Path, tmp_path: Path, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(CONTAINERS))
    content = bytearray((sound / f"a.{kind}").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        # Headers at the beginning and the end lie most dangerously.
        near = data.draw(st.integers(0, 600)) * data.draw(st.sampled_from([1, -1]))
        place = data.draw(st.sampled_from([near, data.draw(st.integers(0, len(content)))]))
        content[place : place + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=6))
    path = tmp_path / f"a.{kind}"
    path.write_bytes(content)
    assert missing_bytes(path) >= 0
    try:
        found = frames.survey(path, 2)
    except RejectedError as error:
        assert str(error)  # noqa: PT017 - the reason is all there is
        return
    count = sum(1 for _ in frames.frames_from(path, frames.Mark(0)))
    assert count == found.frames


def test_files_without_frames_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    plain(folder / "good.mp4", 8)
    write(folder / "short.mkv", moving(3))
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("frames " * 100)
    (folder / "zeros.mkv").write_bytes(bytes(4096))
    os.mkfifo(folder / "pipe.mp4")
    (folder / "link.mp4").symlink_to(folder / "nowhere")
    with av.open(str(folder / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    build(str(folder), tmp_path / "set", frames=4)
    reasons = rejected(tmp_path / "set")
    for name, words in {
        "short.mkv": "it has 3 frames; a clip takes 4",
        "empty.mp4": "the file is empty",
        "text.mp4": "no frames in a known format",
        "zeros.mkv": "no frames in a known format",
        "pipe.mp4": "not a regular file",
        "link.mp4": "cannot be read: No such file",
        "sound.mkv": "no video stream",
    }.items():
        assert words in reasons.pop(name), name
    assert not reasons


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile secret.mkv\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mkv\n#EXT-X-ENDLIST\n",
    ],
)
def test_a_video_cannot_name_other_files(tmp_path: Path, text: str) -> None:
    write(tmp_path / "v" / ".hidden" / "secret.mkv", moving(4))
    plain(tmp_path / "v" / "good.mp4", 4)
    shutil.move(tmp_path / "v" / ".hidden" / "secret.mkv", tmp_path / "v" / "secret.mkv")
    (tmp_path / "v" / "list.mp4").write_text(text)
    built = build(str(tmp_path / "v"), tmp_path / "set", frames=4)
    assert built.num_samples == 2
    assert "no frames in a known format" in rejected(tmp_path / "set")["list.mp4"]


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
from distgen.data import build

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


def test_the_cover_of_a_recording_is_no_video(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    plain(folder / "good.mp4", 4)
    with av.open(str(folder / "song.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("mjpeg", rate=25)
        cover.height, cover.width, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        picture = np.zeros((16, 16, 3), np.uint8)
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    build(str(folder), tmp_path / "set", frames=1)
    assert rejected(tmp_path / "set") == {"song.mp4": "it has no video stream"}


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
