"""A step as a line over its images, from each source that it may come from."""

from __future__ import annotations

import pytest

from distgen.bench.profile import EXCHANGE, OTHER
from distgen.bench.scale.compute import (
    Point,
    from_flops,
    from_points,
    from_report,
    from_times,
    line,
)
from distgen.bench.scale.devices import DEVICES, device_named, peak_of
from distgen.core.errors import UsageError

PHASES = ("discriminator", "generator")


def test_two_measurements_tell_the_cost_of_a_step_from_that_of_an_image():
    assert line([8, 64], [0.018, 0.074]) == (pytest.approx(0.010), pytest.approx(0.001))


def test_one_measurement_belongs_to_its_images():
    assert line([64], [0.064]) == (0.0, pytest.approx(0.001))


def test_noise_in_measurements_makes_no_cost_negative():
    assert line([8, 64], [0.02, 0.01]) == (pytest.approx(0.015), 0.0)
    at_zero, slope = line([10, 20], [0.010, 0.030])
    assert at_zero == 0.0
    assert slope == pytest.approx(0.020 / 15)


def test_a_profile_tells_backward_and_random_numbers():
    parts = {"random numbers": 0.1, "generator: backward": 0.5, OTHER: 0.4}
    points = [Point(8, 0.018, 0.036), Point(64, 0.074, 0.148)]
    compute = from_points(points, parts, batch=64, overlaps=False, source="")
    assert compute.backward == {"generator": pytest.approx(0.5)}
    assert compute.noise_s == pytest.approx(0.1 * 0.074 / 64)
    assert compute.cpu_s(64) == pytest.approx(2 * compute.rank_s(64))


def test_times_that_a_user_gives():
    compute = from_times(["64:74", "8:18"], 64, PHASES, share=0.5, threads=2)
    assert compute.rank_s(32) == pytest.approx(0.042)
    assert compute.cpu_s(32) == pytest.approx(0.084)
    assert compute.backward == {"discriminator": 0.25, "generator": 0.25}
    assert not compute.overlaps
    gpu = from_times(["74"], 64, PHASES, share=0.5, threads=0)
    assert gpu.rank_s(64) == pytest.approx(0.074)
    assert gpu.cpu_s(64) == 0
    assert gpu.overlaps


@pytest.mark.parametrize("text", ["fast", "0", "-3", "x:3", "0:3", "3:", "nan", "inf"])
def test_what_is_no_time_is_refused_with_examples(text):
    with pytest.raises(UsageError, match="no time of a step") as caught:
        from_times([text], 64, PHASES, share=0.5, threads=1)
    assert "64:12.3" in str(caught.value)


def test_a_profile_report_counts_without_the_wait_for_others():
    profile = {
        "family": "gan",
        "workers": 2,
        "device": "cpu",
        "batch_size": 64,
        "parts": {"generator: backward": 20.0, EXCHANGE: 5.0, OTHER: 12.0},
    }
    compute = from_report({"profiles": [profile]}, "gan", PHASES, 0.5)
    assert compute.rank_s(32) == pytest.approx(0.032)
    assert compute.backward == {"generator": pytest.approx(20 / 32)}


def test_a_plain_report_is_of_the_job_or_of_each_family():
    plain = {"family": "vae", "workers": 2, "batch_size": 64, "distgen_images_per_s": 640.0}
    for report in (plain, {"ratio": 0.9, "gan": {**plain, "family": "gan"}, "vae": plain}):
        compute = from_report(report, "vae", ("model",), 0.5)
        assert compute.rank_s(32) == pytest.approx(0.1)
        assert "sums of its workers included" in compute.source
        assert compute.backward == {"model": 0.5}


@pytest.mark.parametrize(
    "report", [{}, {"profiles": []}, {"family": "vae"}, {"family": "gan", "workers": 2}]
)
def test_what_is_no_report_is_refused(report):
    with pytest.raises(UsageError, match="no report of this job's speed"):
        from_report(report, "gan", PHASES, 0.5)


def test_operations_over_a_share_of_the_peak():
    compute = from_flops(
        0.989e12, device_named("h200"), ("model",), mfu=0.5, overhead_s=0.01, share=0.5
    )
    assert compute.rank_s(1) == pytest.approx(0.01 + 0.002)


def test_devices_are_found_by_any_spelling_and_by_their_full_names():
    assert device_named("H100 PCIe") == device_named("h100-pcie") == DEVICES["h100-pcie"]
    assert peak_of("NVIDIA H100 PCIe") == 756
    assert peak_of("NVIDIA H100 80GB HBM3") == 989
    assert peak_of("NVIDIA L40S") == 362
    assert peak_of("NVIDIA A100-SXM4-80GB") == 312
    assert peak_of("something else") is None
    with pytest.raises(UsageError, match="'h20'") as caught:
        device_named("h20")
    assert "h200" in str(caught.value)
