"""Videos that are damaged, cut short or none at all are listed with the reason."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distgen.data.building import build, frames
from distgen.data.building.convert import RejectedError
from distgen.data.building.frames.containers import BrokenError, last_block, missing_bytes

from .test_clips import rejected
from .test_videos import KINDS, moving, write

CONTAINERS = ["mp4", "mov", "mkv", "webm", "avi"]


def plain(path: Path, count: int = 40) -> Path:
    codec = ("libvpx-vp9", "yuv420p") if path.suffix == ".webm" else ("libx264", "yuv420p")
    fast = {"deadline": "good", "cpu-used": "5"} if path.suffix == ".webm" else {}
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


EBML, SEGMENT, CLUSTER = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
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


def flipped(content: bytes, place: int) -> bytes:
    """A video of which a byte in every 40 is another from a place on, five of them."""
    damaged = bytearray(content)
    for byte in range(place, min(place + 200, len(content)), 40):
        damaged[byte] ^= 0x55
    return bytes(damaged)


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_damage_inside_a_video_is_listed(tmp_path: Path, kind: str) -> None:
    content = plain(tmp_path / "v" / f"good.{kind}", 60).read_bytes()
    place = content.index(b"mdat") + 2000 if kind == "mp4" else content.index(CLUSTER) + 1
    (tmp_path / "v" / f"bad.{kind}").write_bytes(flipped(content, place))
    build(str(tmp_path / "v"), tmp_path / "set", frames=10)
    (reason,) = rejected(tmp_path / "set").values()
    assert "is damaged" in reason or "cannot be decoded" in reason


@pytest.mark.parametrize("kind", ["mkv", "webm"])
def test_damaged_blocks_are_not_left_out_without_a_word(tmp_path: Path, kind: str) -> None:
    content = plain(tmp_path / f"good.{kind}", 60).read_bytes()
    listed = 0
    for place in range(content.index(CLUSTER), len(content) - 200, 37):
        (tmp_path / f"bad.{kind}").write_bytes(flipped(content, place))
        try:
            found = frames.survey(tmp_path / f"bad.{kind}", 60)
        except RejectedError:
            listed += 1
        else:
            # A decoder may take what a byte spoils for something that is not shown.
            assert found.frames >= 60 - 5, place
    assert listed


def live(content: bytes) -> bytes:
    """A Matroska file whose segment and clusters say that their lengths are unknown."""
    for name in (SEGMENT, CLUSTER):
        place = content.find(name)
        while place >= 0:
            width = 9 - content[place + 4].bit_length()
            unknown = bytes([(1 << (9 - width)) - 1]) + b"\xff" * (width - 1)
            content = content[: place + 4] + unknown + content[place + 4 + width :]
            place = content.find(name, place + 4)
    return content


def test_a_live_recording_says_no_lengths_and_may_break_off(tmp_path: Path) -> None:
    content = live(plain(tmp_path / "good.mkv", 60).read_bytes())
    empty_cluster = CLUSTER + b"\xff"
    content = content.replace(CLUSTER, empty_cluster + CLUSTER)
    (tmp_path / "live.mkv").write_bytes(content)
    last = last_block(tmp_path / "live.mkv")
    for length in range(len(content) - 800, len(content)):
        (tmp_path / "cut.mkv").write_bytes(content[:length])
        assert content.rindex(CLUSTER) < last_block(tmp_path / "cut.mkv") <= last
    # After the time, 0; a checksum before it may hold any byte.
    block = content.index(b"\xe7\x81\0\xa3", content.rindex(CLUSTER)) + 3
    (tmp_path / "live.mkv").write_bytes(flipped(content, block))
    with pytest.raises(BrokenError, match=str(block)):
        last_block(tmp_path / "live.mkv")


def test_a_live_recording_may_break_off_within_a_length(tmp_path: Path) -> None:
    tracks = b"\x16\x54\xae\x6b\x85" + b"\xae\x83" + b"\xd7\x81\x01"
    block = b"\xa3\x40\x80\x81" + bytes(127)
    before = EBML + b"\x80" + SEGMENT + b"\xff" + tracks + CLUSTER + b"\xff\xe7\x81\0"
    content = before + block + block
    first = len(before) + 3
    for length in range(len(before) + len(block), len(content)):
        (tmp_path / "cut.mkv").write_bytes(content[:length])
        assert last_block(tmp_path / "cut.mkv") in (first, first + len(block))


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
