import json
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from distgen.core.errors import DataError
from distgen.core.storage import Location, locate
from distgen.training import checkpoint


def parts(seed: int) -> dict[str, checkpoint.Part]:
    torch.manual_seed(seed)
    network = nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1 + seed)
    network(torch.randn(2, 4)).sum().backward()
    optimizer.step()
    return {"network": network, "optimizer": optimizer}


def refuse(place: Location, error: DataError) -> None:
    raise AssertionError(f"{place} was called damaged: {error}")


def as_bits(parts_: dict[str, checkpoint.Part]) -> str:
    def plain(value):
        if isinstance(value, torch.Tensor):
            return value.tolist()
        if isinstance(value, dict):
            return [[k, plain(v)] for k, v in value.items()]
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    return json.dumps({name: plain(part.state_dict()) for name, part in parts_.items()})


def test_every_part_comes_back_bit_for_bit(tmp_path):
    old, new = parts(0), parts(1)
    checkpoint.save(locate(tmp_path), 512, old)
    assert as_bits(old) != as_bits(new)
    assert checkpoint.load_latest(locate(tmp_path), new, refuse) == 512
    assert as_bits(old) == as_bits(new)


def test_there_is_no_pickle_in_a_checkpoint(tmp_path):
    place = checkpoint.save(locate(tmp_path), 512, parts(0))
    assert {p.name.rpartition(".")[2] for p in place.list()} == {"json", "safetensors"}


def test_a_folder_without_manifest_is_not_a_checkpoint(tmp_path):
    folder = locate(tmp_path)
    checkpoint.save(folder, 512, parts(0))
    (checkpoint.save(folder, 1024, parts(1)) / "manifest.json").remove()
    assert checkpoint.load_latest(folder, parts(2), refuse) == 512


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("network.safetensors", "flip"),
        ("network.safetensors", "cut"),
        ("network.safetensors", "remove"),
        ("optimizer.json", "flip"),
        ("optimizer.json", "remove"),
        ("manifest.json", "flip"),
        ("manifest.json", "cut"),
    ],
)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(tmp_path, file, harm):
    folder = locate(tmp_path)
    old = parts(0)
    checkpoint.save(folder, 512, old)
    place = checkpoint.save(folder, 1024, parts(1)) / file
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 0x10
    if harm == "remove":
        place.remove()
    else:
        place.write_bytes(bytes(data) if harm == "flip" else bytes(data[:-3]))
    damaged = []
    new = parts(2)
    seen = checkpoint.load_latest(folder, new, lambda p, e: damaged.append((p.name, e)))
    assert [name for name, _ in damaged] == ["000000001024"]
    assert seen == 512
    assert as_bits(new) == as_bits(old)


def test_no_flipped_bit_of_a_manifest_gets_through(tmp_path):
    folder = locate(tmp_path)
    manifest = Path((checkpoint.save(folder, 1024, parts(0)) / "manifest.json").path)
    whole = manifest.read_bytes()
    begin = whole.index(b"images_seen")
    clock = range(8 * begin, 8 * (begin + len(b'images_seen": 1024')))
    for bit in (*clock, *range(0, 8 * len(whole), 41)):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(broken)
        # Some bits are white space; all others are found out.
        with suppress(DataError):
            assert checkpoint.load_latest(folder, parts(0), lambda *_: None) == 1024


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again_in_silence(tmp_path):
    folder = locate(tmp_path)
    for seen in (512, 1024):
        (checkpoint.save(folder, seen, parts(0)) / "optimizer.json").write_text("{}")
    damaged = []
    with pytest.raises(DataError, match="No checkpoint") as caught:
        checkpoint.load_latest(folder, parts(0), lambda place, _: damaged.append(place.name))
    assert damaged == ["000000001024", "000000000512"]
    assert "000000001024" in str(caught.value)
    assert "--fresh" in str(caught.value)


def test_a_checkpoint_outlives_damaged_ones_from_beyond_it(tmp_path):
    folder = locate(tmp_path)
    checkpoint.save(folder, 512, parts(0))
    (checkpoint.save(folder, 2048, parts(1)) / "network.json").write_text("damaged")
    assert checkpoint.load_latest(folder, parts(2), lambda *_: None) == 512
    checkpoint.save(folder, 1024, parts(2), passed_over=["000000002048"])
    checkpoint.prune(folder, keep=1)
    assert [place.name for place in folder.list()] == ["000000001024"]
    assert checkpoint.load_latest(folder, parts(2), refuse) == 1024


def test_a_rank_that_was_cut_off_undoes_nothing_of_its_successors(tmp_path):
    folder = locate(tmp_path)
    checkpoint.save(folder, 2048, parts(0))
    checkpoint.save(folder, 512, parts(1))  # by the old one, at last
    checkpoint.prune(folder, keep=1)
    assert checkpoint.load_latest(folder, parts(2), refuse) == 2048


def test_with_nothing_to_load_a_run_starts_at_zero(tmp_path):
    assert checkpoint.load_latest(locate(tmp_path) / "none", parts(0), refuse) == 0


def test_parts_that_do_not_match_stop_the_load_and_are_listed(tmp_path):
    folder = locate(tmp_path)
    checkpoint.save(folder, 512, parts(0))
    other = {"network": parts(1)["network"], "critic": nn.Linear(1, 1)}
    with pytest.raises(DataError) as caught:
        checkpoint.load_latest(folder, other, refuse)
    assert "optimizer" in str(caught.value)
    assert "critic" in str(caught.value)
    wrong_shape = {**parts(1), "network": nn.Linear(5, 3)}
    with pytest.raises(DataError, match="network"):
        checkpoint.load_latest(folder, wrong_shape, refuse)


def test_pruning_keeps_the_newest_and_clears_what_was_left_unfinished(tmp_path):
    folder = locate(tmp_path)
    for seen in (1, 2, 3, 4):
        checkpoint.save(folder, seen, parts(0))
    (folder / "000000000000" / "network.json").write_text("half")
    checkpoint.prune(folder, keep=2)
    assert [place.name for place in folder.list()] == ["000000000003", "000000000004"]
