"""GPUs by name, as their makers' data sheets describe them."""

from __future__ import annotations

from dataclasses import dataclass

from distgen.core.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Device:
    """A GPU."""

    name: str
    tflops: float
    """Dense bf16 operations per second (fp16 where there is no bf16), in 10^12."""
    inside_bytes_per_s: float
    """To the other GPUs of a host, in each direction: NVLink where it has it, or else PCIe."""


DEVICES = {
    device.name.lower().replace(" ", "-"): device
    for device in (
        Device("B200", 2250.0, 900e9),
        Device("H200", 989.0, 450e9),
        # Before the H100, whose name is a part of its own.
        Device("H100 PCIe", 756.0, 64e9),
        Device("H100", 989.0, 450e9),
        Device("A100", 312.0, 300e9),
        Device("L40S", 362.0, 32e9),
        Device("L4", 121.0, 32e9),
        Device("A10", 125.0, 32e9),
        Device("RTX 4090", 165.0, 32e9),
        Device("RTX 3090", 71.0, 32e9),
        Device("V100", 125.0, 150e9),
        Device("T4", 65.0, 16e9),
    )
}
"""By the name that a command line takes."""


def device_named(name: str) -> Device:
    """The GPU of this name, in any case.

    Raises:
        UsageError: It is not in the table.
    """
    found = DEVICES.get(name.lower().replace(" ", "-"))
    if found is None:
        raise UsageError(
            f"No figures are known of the device {name!r}.",
            where="--device",
            remedy=did_you_mean(name.lower(), DEVICES)
            + "; or measure there, and give --measured FILE or --step-ms",
        )
    return found


def peak_of(name: str) -> float | None:
    """Dense bf16 peak in 10^12 per second of the GPU that CUDA calls `name`, if it is known."""
    known = [device.tflops for device in DEVICES.values() if device.name in name]
    return known[0] if known else None
