"""Which figures of a device are taken for a published version's own."""

from __future__ import annotations

import pytest

import edge_targets
from edge_targets._device.machine import Machine
from flows import measured
from flows.measured import MeasurementError

PHONES = {"iphone_arm64": "ios", "iphone_coreml": "ios", "android_arm64": "android", "android_vulkan": "android"}


@pytest.mark.parametrize("target", PHONES)
@pytest.mark.parametrize("system", ["linux", "android", "ios", "darwin", "win32"])
def test_a_phone_s_figures_are_a_phone_s_and_no_mac_s_of_the_same_processor(target: str, system: str) -> None:
    phone = edge_targets.load(target)
    if system == PHONES[target]:
        measured._check_device(phone, Machine(system, "aarch64"))
    else:
        with pytest.raises(
            MeasurementError, match=f"of another device than {target}: it is for {PHONES[target]} on aarch64"
        ):
            measured._check_device(phone, Machine(system, "aarch64"))


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_a_system_that_does_not_name_its_processor_s_instructions_is_believed_of_an_x86(system: str) -> None:
    measured._check_device(edge_targets.load("x86_avx512"), Machine(system, "x86_64"))
    with pytest.raises(MeasurementError, match="it is for x86_64, this is aarch64"):
        measured._check_device(edge_targets.load("x86_avx512"), Machine(system, "aarch64"))
    with pytest.raises(MeasurementError, match="it is for a Jetson Thor, this is no Jetson"):
        measured._check_device(edge_targets.load("jetson_thor"), Machine(system, "aarch64"))
