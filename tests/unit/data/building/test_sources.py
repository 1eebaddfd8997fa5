"""Where pictures come from: folders, IDX files, built-in sets."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distgen.core.errors import DataError, DistgenError, UsageError
from distgen.data.building.sources import open_source, split_of
from distgen.data.building.sources.builtin import (
    FASHION_CLASSES,
    FASHION_FOLDER,
    DigitsSource,
    fashion_mnist,
)
from distgen.data.building.sources.folder import FolderSource
from distgen.data.building.sources.idx import IdxSource, read_idx

PARTS = (("train", 12), ("t10k", 5))


def picture(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), value).save(path)
    return path


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def idx_folder(folder: Path, suffix: str = ".gz", separator: str = "-") -> dict[str, str]:
    """Four IDX files of random pictures; returns the digests of what is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    digests = {}
    for prefix, count in PARTS:
        for kind, array in (
            ("images{}idx3", random.integers(0, 256, (count, 6, 5), dtype=np.uint8)),
            ("labels{}idx1", (np.arange(count) % 3).astype(np.uint8)),
        ):
            name = f"{prefix}-{kind.format(separator)}-ubyte"
            data = idx(array)
            digests[name] = hashlib.sha256(data).hexdigest()
            (folder / (name + suffix)).write_bytes(gzip.compress(data) if suffix else data)
    return digests


def test_a_class_is_a_first_level_subfolder_however_deep_its_pictures_lie(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "a.png")
    picture(tmp_path / "cat" / "kittens" / "2024" / "b.png")
    picture(tmp_path / "dog" / "c.png")
    source = FolderSource(tmp_path)
    assert source.classes == ("cat", "dog")
    labels = {Path(item.origin).name: item.label for item in source.items(None)}
    assert labels == {"a.png": 0, "b.png": 0, "c.png": 1}


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    source = FolderSource(tmp_path)
    assert source.classes == ()
    assert {item.label for item in source.items(None)} == {-1}


def test_class_names_are_sorted_as_people_count(tmp_path: Path) -> None:
    for name in ("10", "2", "1", "b2", "B10"):
        picture(tmp_path / name / "a.png")
    assert FolderSource(tmp_path).classes == ("1", "2", "10", "b2", "B10")


def test_hidden_files_are_left_alone_and_links_are_followed_once(tmp_path: Path) -> None:
    picture(tmp_path / "data" / "cat" / "a.png")
    picture(tmp_path / "data" / ".cache" / "x.png")
    picture(tmp_path / "data" / "cat" / ".hidden.png")
    picture(tmp_path / "elsewhere" / "d.png")
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "cat" / "loop").symlink_to(tmp_path / "data")
    source = FolderSource(tmp_path / "data")
    assert source.classes == ("cat", "dog")
    names = sorted(Path(item.origin).name for item in source.items(None))
    assert names == ["a.png", "d.png"]


def test_subfolders_named_like_splits_are_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        picture(tmp_path / split / "cat" / f"{split}.png")
    picture(tmp_path / "train" / "dog" / "d.png")
    source = FolderSource(tmp_path)
    assert source.splits == ("train", "test")
    assert source.classes == ("cat", "dog")
    assert [item.label for item in source.items("test")] == [0]
    picture(tmp_path / "owl" / "o.png")
    assert FolderSource(tmp_path).splits == ()


def test_keys_are_safe_unique_and_do_not_depend_on_other_files(tmp_path: Path) -> None:
    names = ["a.png", "a.jpg", "a b.png", "a_b.png", "ä.png", "x" * 120 + ".png", "v1.2.png"]
    for name in names:
        picture(tmp_path / "cat" / name)
    before = {item.origin: item.key for item in FolderSource(tmp_path).items(None)}
    assert len(set(before.values())) == len(names)
    for key in before.values():
        assert key.isascii()
        assert "." not in key
        assert len(key) <= 90
    picture(tmp_path / "ant" / "new.png")
    after = {item.origin: item.key for item in FolderSource(tmp_path).items(None)}
    assert before.items() <= after.items()


def test_order_mixes_classes_and_a_new_picture_moves_no_other(tmp_path: Path) -> None:
    for number in range(40):
        picture(tmp_path / ("cat" if number < 20 else "dog") / f"{number}.png")
    before = [item.key for item in FolderSource(tmp_path).items(None)]
    labels = [item.label for item in FolderSource(tmp_path).items(None)]
    assert 0 < sum(labels[:20]) < 20
    picture(tmp_path / "cat" / "new.png")
    after = [item.key for item in FolderSource(tmp_path).items(None)]
    assert [key for key in after if key in set(before)] == before


def test_the_split_is_a_stable_hash_of_the_key(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number}.png").touch()
    items = FolderSource(tmp_path).items(None)
    test = {item.key for item in items if split_of(item, 0.2) == "test"}
    assert 35 <= len(test) <= 85
    larger = {item.key for item in items if split_of(item, 0.4) == "test"}
    assert test < larger


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("separator", ["-", "."])
def test_idx_files_are_found_under_their_usual_names(
    tmp_path: Path, suffix: str, separator: str
) -> None:
    idx_folder(tmp_path, suffix, separator)
    source = open_source(str(tmp_path))
    assert isinstance(source, IdxSource)
    assert source.splits == ("train", "test")
    assert source.classes == ("0", "1", "2")
    assert [len(source.items(split)) for split in source.splits] == [12, 5]
    item = next(item for item in source.items("train") if item.key == "train-000004")
    assert item.label == 1
    pixels = item.load()
    assert isinstance(pixels, np.ndarray)
    assert pixels.shape == (6, 5)


@pytest.mark.parametrize("data", [b"", b"\x00\x00\x08", b"GIF89a", b"\x00\x00\x0d\x01" + bytes(8)])
def test_what_is_not_idx_is_named(data: bytes) -> None:
    with pytest.raises(DataError, match="not an IDX file"):
        read_idx(data, "x")


def test_a_cut_idx_file_is_named() -> None:
    with pytest.raises(DataError, match="cut short") as error:
        read_idx(idx(np.zeros((3, 4, 5), np.uint8))[:-1], "some-file")
    assert error.value.where == "some-file"


def test_idx_pictures_and_labels_have_to_match(tmp_path: Path) -> None:
    idx_folder(tmp_path, "")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(11, np.uint8)))
    with pytest.raises(DataError, match="do not belong together"):
        open_source(str(tmp_path))


def test_broken_gzip_is_named(tmp_path: Path) -> None:
    idx_folder(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not sound gzip"):
        open_source(str(tmp_path))


def test_digits_are_scaled_to_the_full_range() -> None:
    items = DigitsSource().items(None)
    assert len(items) == 1797
    assert {item.label for item in items} == set(range(10))
    values = np.stack([item.load() for item in items])  # type: ignore[arg-type]
    assert (values.min(), values.max()) == (0, 255)
    test = [item for item in items if split_of(item, DigitsSource.default_split) == "test"]
    assert 0.1 < len(test) / len(items) < 0.2
    assert {item.label for item in test} == set(range(10))


@pytest.mark.skipif(not FASHION_FOLDER.is_dir(), reason="needs dataset-fashion-mnist")
def test_fashion_mnist_comes_from_the_system_package() -> None:
    source = fashion_mnist()
    assert source.name == "fashion-mnist"
    assert source.classes == FASHION_CLASSES
    assert [len(source.items(split)) for split in source.splits] == [60_000, 10_000]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, dict[str, str], Path]]:
    """A web server with four small IDX files: its URL, their digests, their folder."""
    folder = tmp_path / "published"
    digests = idx_folder(folder)
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", digests, folder
        httpd.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_download_is_checked_and_kept(
    server: tuple[str, dict[str, str], Path], tmp_path: Path
) -> None:
    url, digests, published = server
    cache = tmp_path / "cache"
    source = fashion_mnist(tmp_path / "none", cache, url, digests)
    assert [len(source.items(split)) for split in source.splits] == [12, 5]
    for path in published.iterdir():
        path.unlink()
    again = fashion_mnist(tmp_path / "none", cache, url, digests)
    assert len(again.items("train")) == 12


def test_a_download_that_is_not_the_published_file_is_refused(
    server: tuple[str, dict[str, str], Path], tmp_path: Path
) -> None:
    url, digests, published = server
    forged = idx(np.zeros((12, 6, 5), np.uint8))
    (published / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(forged))
    with pytest.raises(DataError, match="not the published file") as error:
        fashion_mnist(tmp_path / "none", tmp_path / "cache", url, digests)
    assert "train-images" in str(error.value)
    assert "rm " in str(error.value.remedy)


def test_without_a_network_the_error_says_how_to_get_the_files(tmp_path: Path) -> None:
    with pytest.raises(DistgenError) as error:
        fashion_mnist(tmp_path / "none", tmp_path / "cache", "http://127.0.0.1:9")
    assert "apt-get install dataset-fashion-mnist" in str(error.value)
    assert "http://127.0.0.1:9/" in str(error.value)
    assert not list(tmp_path.rglob("*.gz"))


def test_sources_that_do_not_exist_are_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist") as error:
        open_source("fashion-mnits")
    assert "did you mean 'fashion-mnist'?" in str(error.value.remedy)
    file = tmp_path / "file.png"
    picture(file)
    with pytest.raises(UsageError, match="is a file"):
        open_source(str(file))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no file"):
        open_source(str(tmp_path / "empty"))
