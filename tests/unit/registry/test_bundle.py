"""A bundle comes back to the bit, or is refused by the name of the file that is wrong."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from pyarrow import fs as pafs

from distgen.core.errors import DataError
from distgen.core.spec import ImageSpec
from distgen.core.storage import Location, locate
from distgen.models import (
    FAMILIES,
    ClipRVAEConfig,
    GANConfig,
    HVAEConfig,
    RVAEConfig,
    VAEConfig,
)
from distgen.registry import inspect_bundle, load_bundle, with_card, write_bundle
from distgen.registry.layout import MANIFEST, OPTIONAL, REQUIRED, WEIGHTS, BundleConfig
from distgen.registry.model_card import render_readme
from tests.unit.registry.small_bundles import GAN, SPEC, card, refused, reseal, state_of

FILES = (MANIFEST, *REQUIRED, *OPTIONAL)
CONFIGS = {
    "gan": GANConfig(latent_dim=4, width=8),
    "conditional gan": GAN,
    "vae": VAEConfig(latent_dim=4, width=8),
    "gaussian vae": VAEConfig(latent_dim=4, width=8, likelihood="gaussian"),
    "hvae": HVAEConfig(latent_dim=4, width=8, hidden=8, likelihood="logistic-mixture"),
    "rvae": RVAEConfig(latent_dim=4, width=8),
    "rvae sequence": RVAEConfig(latents="sequence", latent_dim=2, width=8, channels=8),
    "clip rvae": ClipRVAEConfig(latent_dim=2, width=8, state=8),
}


def edit(place: Location, name: str, /, **changes: object) -> None:
    (place / name).write_json({**(place / name).read_json(), **changes})


def test_the_families_of_this_test_are_all_there_are():
    assert {config.family for config in CONFIGS.values()} == set(FAMILIES)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_weights_come_back_bit_for_bit(config, tmp_path):
    spec = SPEC.model_copy(update={"frames": 3 if FAMILIES[config.family].clips else None})
    state = state_of(config, spec)
    place = locate(tmp_path / "bundle")
    digest = write_bundle(
        place,
        model_config=config,
        spec=spec,
        state=state,
        card=card(20.0),
        samples_png=None,
        name="m",
        images_seen=5,
    )
    bundle = load_bundle(place)
    assert bundle.digest == digest == hashlib.sha256((place / MANIFEST).read_bytes()).hexdigest()
    assert (bundle.name, bundle.spec, bundle.config.model) == ("m", spec, config)
    assert bundle.card == card(20.0)
    loaded = bundle.model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert not bundle.model.training
    assert not any(p.requires_grad or p.is_meta for p in bundle.model.parameters())
    labels = torch.zeros(2, dtype=torch.int64) if bundle.model.num_classes else None
    samples = bundle.model.sample(torch.zeros(2, bundle.model.latent_dim), labels)
    assert samples.shape == (2, *([3] if spec.frames else []), 1, 16, 16)


def test_loading_leaves_the_random_numbers_alone(make_bundle):
    place = make_bundle("bundle")
    before = torch.get_rng_state()
    load_bundle(place)
    assert torch.equal(torch.get_rng_state(), before)


def test_equal_models_have_equal_digests_and_others_do_not(make_bundle):
    digest = inspect_bundle(make_bundle("a")).digest
    assert inspect_bundle(make_bundle("b")).digest == digest
    assert inspect_bundle(make_bundle("c", seed=1)).digest != digest


def test_a_bundle_lives_in_any_filesystem(make_bundle, tmp_path):
    # Through a filesystem that is not the local one, as an object store is not.
    store = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    (tmp_path / "bucket").mkdir()
    place = Location(store, "bucket/bundle", "memory://bucket/bundle")
    assert place.local is None
    place.make_dir()
    source = make_bundle("bundle")
    written = write_bundle(
        place,
        model_config=GAN,
        spec=SPEC,
        state=state_of(GAN, SPEC),
        card=card(20.0),
        samples_png=b"\x89PNG not looked at",
        name="digits-gan",
        images_seen=1280,
    )
    assert load_bundle(place).digest == written == load_bundle(source).digest


def test_a_bundle_holds_no_path_to_code(make_bundle):
    text = (make_bundle("bundle") / "config.json").read_text()
    assert not any(word in text for word in ("distgen.", "import", "torch", "__", "class_path"))


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_refused_wherever_it_is(name, make_bundle):
    place = make_bundle("bundle")
    whole = (place / name).read_bytes()
    for position in {0, len(whole) // 3, len(whole) // 2, len(whole) - 2}:
        broken = bytearray(whole)
        broken[position] ^= 0x01
        (place / name).write_bytes(bytes(broken))
        if name == MANIFEST:
            # White space may change without harm, but then it is another bundle.
            try:
                assert load_bundle(place).digest != hashlib.sha256(whole).hexdigest()
            except DataError:
                continue
        else:
            refused(place, name)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name, make_bundle):
    place = make_bundle("bundle")
    (place / name).remove()
    refused(place, name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("length", [0, 11])
def test_a_file_cut_short_is_named(name, length, make_bundle):
    place = make_bundle("bundle")
    (place / name).write_bytes((place / name).read_bytes()[:length])
    refused(place, name)


@pytest.mark.parametrize("name", FILES)
def test_a_link_is_refused_even_to_the_right_bytes(name, make_bundle, tmp_path):
    place = make_bundle("bundle")
    elsewhere = tmp_path / "elsewhere"
    Path(place.path, name).rename(elsewhere)
    Path(place.path, name).symlink_to(elsewhere)
    refused(place, name, "link")


def test_a_file_that_is_not_listed_is_refused_and_what_desktops_leave_is_not(make_bundle):
    place = make_bundle("bundle")
    (place / ".DS_Store").write_text("x")
    load_bundle(place)
    (place / "notes.txt").write_text("x")
    refused(place, "notes.txt", "move the file out")


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "a/b", "code.py", "manifest.json", ""]
)
def test_the_manifest_lists_only_names_that_bundles_have(name, make_bundle):
    place = make_bundle("bundle")
    manifest = (place / MANIFEST).read_json()
    manifest["files"][name] = manifest["files"]["config.json"]
    (place / MANIFEST).write_json(manifest)
    refused(place, MANIFEST, repr(name))


@pytest.mark.parametrize(
    ("name", "key"),
    [(MANIFEST, "schema_version"), ("config.json", "schema_version"), ("card.json", "version")],
)
def test_a_version_from_the_future_asks_for_an_upgrade(name, key, make_bundle):
    place = make_bundle("bundle")
    edit(place, name, **{key: 2})
    if name != MANIFEST:
        reseal(place)
    refused(place, name, "version 2", "newer distgen", "pip install --upgrade")


def test_an_unknown_family_is_named_with_the_nearest(make_bundle):
    place = make_bundle("bundle")
    edit(place, "config.json", model={"family": "gann"})
    reseal(place)
    refused(place, "config.json", "'gann'", "did you mean 'gan'?")


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"family": "gan", "width": "wide"}},
        {"model": {"family": "gan", "code": "os.system"}},
        {"model": "gan"},
        {"model": {"family": ["gan"]}},
        {"model": {"family": "rvae"}, "image": {"height": 16, "width": 10**18, "mode": "L"}},
        {"model": None},
        {"name": "../up"},
        {"extra": 1},
        {"preprocessing": {"scale": "x"}},
    ],
)
def test_a_config_that_is_not_one_is_refused(changes, make_bundle):
    place = make_bundle("bundle")
    edit(place, "config.json", **changes)
    reseal(place)
    refused(place, "config.json")


@pytest.mark.parametrize("value", [float("nan"), -float("inf"), "better", None])
def test_a_headline_that_is_no_number_is_refused(value, make_bundle):
    place = make_bundle("bundle")
    text = (place / "card.json").read_text()
    (place / "card.json").write_text(text.replace("20.0", json.dumps(value)))
    reseal(place)
    refused(place, "card.json", "frechet_distance")


def test_a_config_that_no_family_can_build_is_refused(make_bundle):
    place = make_bundle("bundle")
    edit(place, "config.json", image=ImageSpec(height=16, width=16, mode="L").model_dump())
    reseal(place)
    refused(place, "cannot be built", "classes")


def test_a_folder_that_is_no_bundle_is_told_apart(tmp_path, digits):
    refused(locate(tmp_path), MANIFEST)
    refused(locate(digits) / "train", "not a bundle")


def test_the_manifest_is_written_last_and_removed_first(make_bundle, monkeypatch):
    place = make_bundle("bundle")
    order: list[str] = []
    write, remove = Location.write_bytes, Location.remove
    monkeypatch.setattr(
        Location, "write_bytes", lambda s, d: (order.append(f"write {s.name}"), write(s, d))[1]
    )
    monkeypatch.setattr(
        Location, "remove", lambda s: (order.append(f"remove {s.name}"), remove(s))[1]
    )
    make_bundle("bundle", seed=1)
    assert order[0] == f"remove {MANIFEST}"
    assert order[-1] == f"write {MANIFEST}"
    load_bundle(place)


def test_a_bundle_written_over_another_leaves_nothing_of_it(make_bundle):
    make_bundle("bundle")
    place = make_bundle("bundle", None, seed=1)
    assert load_bundle(place).card is None


def test_a_state_of_another_network_is_refused_when_written(tmp_path):
    with pytest.raises(ValueError, match="does not fit gan"):
        write_bundle(
            locate(tmp_path / "bundle"),
            model_config=GAN,
            spec=SPEC,
            state={"weight": torch.zeros(2)},
            card=None,
            samples_png=None,
            name="m",
            images_seen=1,
        )
    assert not (tmp_path / "bundle").exists()


def test_a_new_card_changes_the_digest_and_not_the_weights(make_bundle):
    place = make_bundle("bundle")
    before = load_bundle(place)
    digest = with_card(place, card(12.5))
    after = load_bundle(place)
    assert after.digest == digest != before.digest
    assert after.card == card(12.5)
    assert after.manifest.files[WEIGHTS] == before.manifest.files[WEIGHTS]
    assert "12.5" in (place / "README.md").read_text()


def test_the_readme_tells_what_a_person_asks(make_bundle):
    text = (make_bundle("bundle") / "README.md").read_text()
    for wanted in (
        "# digits-gan",
        "![pictures that it made](samples.png)",
        "class-conditional generative adversarial network",
        "16x16",
        "zero, one, two",
        "1,280 images",
        "| Fréchet distance, efficientnet-lite0 | lower | 20 | 1 |",
        "1,000 generated pictures against 1,000 training pictures of digits",
        "distgen serve .",
        "distgen query zero",
    ):
        assert wanted in text


def test_a_class_that_is_a_shell_command_is_quoted_in_the_readme():
    spec = SPEC.model_copy(update={"classes": ("$(reboot)", "it's", "x")})
    config = BundleConfig(name="m", model=GAN, image=spec, images_seen=1, distgen_version="1")
    assert "distgen query '$(reboot)' -n" in render_readme(config, None, has_samples=False)


def test_the_python_in_the_readme_runs(make_bundle, monkeypatch):
    place = make_bundle("bundle")
    text = (place / "README.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(place.path)
    names: dict[str, object] = {}
    exec(code, names)
    assert names["images_nchw"].shape == (16, 1, 16, 16)
