import pytest
from pyarrow import fs as pafs

from distgen.core.errors import UsageError
from distgen.core.storage import Location, locate


def test_write_read_list_remove(tmp_path):
    folder = locate(tmp_path) / "a" / "b"
    (folder / "x.json").write_json({"k": [1, "ü"]})
    (folder / "y.txt").write_text("later")
    assert (folder / "x.json").read_json() == {"k": [1, "ü"]}
    assert [place.name for place in folder.list()] == ["x.json", "y.txt"]
    assert (folder / "y.txt").size() == 5
    assert folder.parent.name == "a"
    folder.remove()
    assert not folder.is_dir()
    assert folder.list() == []
    folder.remove()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    target = locate(tmp_path) / "f"
    target.write_text("old")
    with pytest.raises(TypeError):
        target.write_bytes("not bytes")  # type: ignore[arg-type]
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_file_urls_and_paths_are_the_same_place(tmp_path):
    assert locate(f"file://{tmp_path}/x").path == locate(tmp_path / "x").path


def test_unknown_schemes_are_refused_with_what_is_possible():
    with pytest.raises(UsageError) as caught:
        locate("ftp://host/x")
    assert "s3://" in str(caught.value.remedy)


def test_what_is_no_folder_holds_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    assert (locate(tmp_path) / "file").list() == []
    assert (locate(tmp_path) / "file" / "below").list() == []


def test_the_options_of_an_object_store_stay_behind_its_path(tmp_path):
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    place = Location(store, "bucket/runs", "s3://bucket/runs?endpoint_override=host:9000")
    below = place / "name"
    assert (below.path, below.url) == (
        "bucket/runs/name",
        "s3://bucket/runs/name?endpoint_override=host:9000",
    )
    assert below.parent == place
    odd = locate(tmp_path / "what?") / "x"
    assert odd.url == odd.path == f"{tmp_path}/what?/x"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("anonymous=yes", "anonymous is true or false, and not 'yes'"),
        ("anonymus=true", "there are anonymous, endpoint_override, region, scheme"),
    ],
)
def test_options_of_a_store_are_checked(options, said):
    with pytest.raises(UsageError, match=said):
        locate(f"s3://bucket/path?region=us-east-1&{options}")


def test_a_url_without_a_bucket_is_refused():
    with pytest.raises(UsageError, match="s3://"):
        locate("s3://")


def test_missing_file_has_no_size(tmp_path):
    with pytest.raises(FileNotFoundError):
        (locate(tmp_path) / "nothing").size()


def test_find_names_all_files_below(tmp_path):
    for name in ("b/c/x", "b/y", "z"):
        (locate(tmp_path) / name).write_bytes(b"1")
    assert locate(tmp_path).find() == ["b/c/x", "b/y", "z"]
    assert locate(tmp_path / "b").find() == ["c/x", "y"]
    assert locate(tmp_path / "nothing").find() == []


def test_missing_file_has_no_version(tmp_path):
    with pytest.raises(FileNotFoundError):
        (locate(tmp_path) / "nothing").version()
