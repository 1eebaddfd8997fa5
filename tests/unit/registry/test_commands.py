"""`distgen models` and `distgen evaluate` as they are typed: what they print and how they end."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image

from distgen.cli.main import main
from distgen.core.storage import locate
from distgen.data import open_shard_set
from distgen.metrics import card as cards
from distgen.metrics import modes
from distgen.metrics.card import Card, evaluate_card
from distgen.models import VAEConfig, build_networks
from distgen.registry import load_bundle, write_bundle

JOB = """
kind: train
name: small-vae
storage: {storage}
data: {{shards: {shards}}}
model: {{family: vae, latent_dim: 4, width: 8}}
training: {{images: 128, batch_size: 32, seed: 5}}
evaluation: {{samples: 64, extractors: [pixel-pca64], importance_samples: 2, likelihood_images: 8}}
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def distgen(monkeypatch, capsys, tmp_path):
    """Runs a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["distgen", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        written = capsys.readouterr()
        return Ended(int(ended.value.code or 0), written.out, written.err)

    return run


@pytest.fixture
def run_folder(tmp_path, digits) -> Path:
    """A run that has a bundle and no card yet."""
    folder = tmp_path / "runs" / "small-vae"
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(JOB.format(storage=tmp_path / "runs", shards=digits))
    config = VAEConfig(latent_dim=4, width=8)
    spec = open_shard_set(digits, "train").spec
    torch.manual_seed(0)
    write_bundle(
        locate(folder / "bundle"),
        model_config=config,
        spec=spec,
        state=build_networks(config, spec)["model"].state_dict(),
        card=None,
        samples_png=None,
        name="small-vae",
        images_seen=128,
    )
    return folder


def test_a_model_from_promotion_to_rollback(distgen, make_bundle):
    assert "No models" in distgen("models", "ls").out
    first, second = make_bundle("a", 20.0, seed=1), make_bundle("b", 10.0, seed=2)
    assert "digits-gan@champion is digits-gan:1" in distgen("models", "promote", first.path).out
    said = distgen("models", "promote", second.path)
    assert "digits-gan@champion is digits-gan:2 (was digits-gan:1)" in said.out
    refused = distgen("models", "promote", first.path)
    assert refused.code == 2
    assert "worse than digits-gan:2 (champion) by 10 (100%)" in refused.err
    assert "--force" in refused.err
    rows = json.loads(distgen("models", "ls", "--json").out)
    assert [(row["version"], row["aliases"], row["headline"]) for row in rows] == [
        (1, [], 20.0),
        (2, ["champion"], 10.0),
    ]
    listed = distgen("models", "ls").out
    assert "champion" in listed
    assert "FD 10 (n 1,000)" in listed
    back = json.loads(distgen("models", "rollback", "digits-gan", "--json").out)
    assert back == {"name": "digits-gan", "version": 1, "alias": "champion", "before": 2}
    forced = distgen("models", "promote", "digits-gan:2", "--force", "--json")
    assert json.loads(forced.out)["version"] == 2


def test_a_trial_from_the_command_line(distgen, make_bundle):
    for folder, distance, seed in (("a", 20.0, 1), ("b", 10.0, 2)):
        distgen("models", "promote", make_bundle(folder, distance, seed=seed).path)
    distgen("models", "rollback", "digits-gan")
    said = distgen("models", "promote", "digits-gan:2", "--canary", "0.1")
    assert "digits-gan@canary is digits-gan:2 on 0.1 of the requests" in said.out
    assert "distgen models rollback digits-gan --alias canary" in said.out
    assert "digits-gan:2 is on trial no longer" in (
        distgen("models", "rollback", "digits-gan", "--alias", "canary").out
    )
    for share in ("0", "1.5", "nan"):
        refused = distgen("models", "promote", "digits-gan:2", "--canary", share)
        assert refused.code == 2
        assert "makes no sense" in refused.err
    mixed = distgen("models", "promote", "digits-gan:2", "--canary", "0.1", "--alias", "other")
    assert (mixed.code, "leave one out" in mixed.err) == (2, True)


def test_a_version_is_promoted_under_the_name_it_is_kept_under(distgen, make_bundle):
    place = make_bundle("a", 20.0)
    assert distgen("models", "promote", place.path, "--name", "copy", "--alias", "old").code == 0
    assert "copy@champion is copy:1" in distgen("models", "promote", "copy:1").out
    assert "digits-gan" not in distgen("models", "ls").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nothing",), "There is no model 'nothing'"),
        (("digits-gan", "digits-gun"), "did you mean 'digits-gan'"),
        (("a", "b=digits-gan:7"), "has no version '7'"),
        (("digits-gan", "digits-gan=a"), "Two models would be called 'digits-gan'"),
        (("digits-gan", "--memory", "2 gulps"), "is not a size"),
        (("digits-gan", "--memory", "-1"), "is not a size"),
        ((), "MODEL"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_starts(
    distgen, make_bundle, arguments, says
):
    distgen("models", "promote", make_bundle("a", 20.0).path)
    refused = distgen("serve", *arguments)
    assert refused.code == 2
    assert says in refused.err


def test_show_tells_quality_with_its_floor(distgen, make_bundle):
    text = distgen("models", "show", make_bundle("a", 20.0).path).out
    for wanted in ("digits-gan", "zero, one, two", "Fréchet distance", "real pictures", "1,280"):
        assert wanted in text
    shown = json.loads(distgen("models", "show", make_bundle("a", 20.0).path, "--json").out)
    assert shown["config"]["model"]["family"] == "gan"
    assert shown["card"]["samples"] == 1000


def test_export_and_import_through_a_file(distgen, make_bundle, tmp_path):
    place = make_bundle("a", 20.0)
    assert distgen("models", "export", place.path, "model.tar").code == 0
    said = distgen("models", "import", "model.tar", "--name", "copy")
    assert "kept as copy:1" in said.out
    digest = load_bundle(place).digest
    assert load_bundle(locate(tmp_path / "models" / "copy" / "1")).digest == digest


def test_a_flipped_byte_ends_with_two_and_names_file_and_remedy(distgen, make_bundle):
    place = make_bundle("a", 20.0)
    path = Path(place.path, "model.safetensors")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    for command in (
        ("models", "promote", place.path),
        ("models", "export", place.path, "model.tar"),
        ("evaluate", place.path, "--shards", "nowhere"),
    ):
        ended = distgen(*command)
        assert ended.code == 2, command
        assert "model.safetensors is damaged" in ended.err
        assert str(path) in ended.err
        assert "try:" in ended.err


def test_a_damaged_version_does_not_hide_the_others(distgen, make_bundle, tmp_path):
    distgen("models", "promote", make_bundle("a", 20.0, seed=1).path)
    distgen("models", "promote", make_bundle("b", 10.0, seed=2).path)
    config = tmp_path / "models" / "digits-gan" / "1" / "config.json"
    config.chmod(0o644)
    config.write_text(config.read_text().replace("1280", "1281"))
    rows = json.loads(distgen("models", "ls", "--json").out)
    assert "config.json is damaged" in rows[0]["damage"]
    assert rows[1]["headline"] == 10.0
    assert distgen("models", "ls").code == 0


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("models", "show", "nothing"), "There is no model 'nothing'"),
        (("models", "rollback", "nothing"), "There is no model 'nothing'"),
        (("models", "import", "nothing.tar"), "There is no file 'nothing.tar'"),
        (("models", "ls", "--root", "s3://bucket/models"), "cannot be kept"),
        (("evaluate", "nothing"), "There is no model 'nothing'"),
        (("evaluate", "nothing", "--samples", "1"), "--samples"),
    ],
)
def test_what_is_wrong_is_named_and_ends_with_two(arguments, wanted, distgen):
    ended = distgen(*arguments)
    assert ended.code == 2
    assert wanted in ended.err


def test_evaluate_measures_a_run_and_saves_the_card_in_it(distgen, run_folder):
    before = load_bundle(locate(run_folder / "bundle")).digest
    ended = distgen("evaluate", str(run_folder))
    assert ended.code == 0, ended.err
    for wanted in ("Fréchet distance, pixel-pca64", "-log p(x) at most, nats", "real pictures"):
        assert wanted in ended.out
    assert "generated pictures 64/64" in ended.err
    card = Card.model_validate_json((run_folder / "card.json").read_text())
    assert (card.samples, card.seed, card.images_seen) == (64, 5, 128)
    assert load_bundle(locate(run_folder / "bundle")).digest == before


def test_evaluate_computes_as_the_run_did(distgen, run_folder, monkeypatch):
    """On a GPU without TF32; here, on a CPU, without denormals."""
    products = []

    def measured(*given, **named):
        products.append(float(torch.tensor(2.0**-100).mul(2.0**-40)))
        return evaluate_card(*given, **named)

    monkeypatch.setattr(cards, "evaluate_card", measured)
    assert distgen("evaluate", str(run_folder)).code == 0
    assert products == [0.0]


def test_evaluate_full_measures_all_that_fits(distgen, run_folder, monkeypatch):
    monkeypatch.setattr(modes, "LESSON_IMAGES", 300)
    job = run_folder / "job.yaml"
    job.write_text(job.read_text().replace("{samples: 64,", "{samples: 64, modes: {samples: 80},"))
    ended = distgen("evaluate", str(run_folder), "--full")
    assert ended.code == 0, ended.err
    for wanted in ("kernel distance (KID)", "modes", "copies of training pictures", "closest 1 %"):
        assert wanted in ended.out
    card = Card.model_validate_json((run_folder / "card.json").read_text())
    assert card.modes.samples == 80
    assert card.memorisation.train_pictures == 1533
    assert card.classification is None  # the model has no classes
    Image.open(run_folder / "card.nearest.png").verify()
    assert "card.nearest.png" in ended.out.replace("\n", "")


def test_evaluate_with_inception_weights_that_are_not_there_is_refused(distgen, run_folder):
    ended = distgen("evaluate", str(run_folder), "--inception-weights", "none.pth")
    assert ended.code == 2
    assert "none.pth" in ended.err


def test_evaluate_can_write_the_card_into_the_bundle(distgen, run_folder):
    ended = distgen("evaluate", str(run_folder), "--samples", "50", "--into-bundle", "--json")
    assert ended.code == 0, ended.err
    card = load_bundle(locate(run_folder / "bundle")).card
    assert card == Card.model_validate_json(ended.out)
    assert card.samples == 50


def test_evaluate_a_version_beside_it_and_never_into_it(distgen, run_folder, tmp_path, digits):
    distgen("models", "promote", str(run_folder))
    missing = distgen("evaluate", "small-vae")
    assert missing.code == 2
    assert "distgen evaluate small-vae --shards PATH" in missing.err
    few = ("--shards", digits, "--samples", "32", "--likelihood-images", "4")
    refused = distgen("evaluate", "small-vae", *few, "--into-bundle")
    assert refused.code == 2
    assert "never changes" in refused.err
    ended = distgen(
        "evaluate", "small-vae", *few, "--importance-samples", "2", "--out", "here.json"
    )
    assert ended.code == 0, ended.err
    assert Card.model_validate_json((tmp_path / "here.json").read_text()).samples == 32


def test_evaluate_refuses_pictures_of_another_size(distgen, make_bundle, digits, tmp_path):
    from distgen.data.building import build

    build("digits", str(tmp_path / "large"), size=32)
    ended = distgen("evaluate", make_bundle("a").path, "--shards", str(tmp_path / "large"))
    assert ended.code == 2
    assert "16x16" in ended.err
    assert "32x32" in ended.err
    ended = distgen("evaluate", make_bundle("a").path, "--shards", digits)
    assert ended.code == 2
    assert "classes" in ended.err
