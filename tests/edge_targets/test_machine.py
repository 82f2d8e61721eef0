"""What each kind of device asks of a machine, on machines as their systems describe themselves."""

from __future__ import annotations

import json
import os
import platform

import pytest

import edge_targets
from edge_targets.__main__ import _parser
from edge_targets._device import machine as its_machine
from edge_targets._device.bench import host
from edge_targets._device.machine import Machine, here, usable_cores

AVX2 = frozenset({"sse4_2", "avx2", "fma"})
MACHINES = {
    "an old server": Machine("linux", "x86_64", frozenset({"sse4_2"}), 16_000),
    "a laptop": Machine("linux", "x86_64", AVX2, 16_000),
    "a server": Machine("linux", "x86_64", AVX2 | {"avx512f", "avx512_vnni"}, 64_000),
    "an Orin Nano": Machine(
        "linux", "aarch64", frozenset({"asimd"}), 7_600, "NVIDIA Jetson Orin Nano Developer Kit", (36, 4)
    ),
    "an Orin Nano of a later JetPack 6": Machine(
        "linux", "aarch64", frozenset(), 7_600, "NVIDIA Jetson Orin Nano Developer Kit", (36, 5)
    ),
    "an Orin Nano of JetPack 6.0": Machine(
        "linux", "aarch64", frozenset(), 7_600, "NVIDIA Jetson Orin Nano Developer Kit", (36, 3)
    ),
    "an Orin Nano of JetPack 5": Machine(
        "linux", "aarch64", frozenset(), 7_600, "NVIDIA Jetson Orin Nano Developer Kit", (35, 4)
    ),
    "a Thor": Machine("linux", "aarch64", frozenset(), 128_000, "NVIDIA Jetson AGX Thor Developer Kit", (38, 2)),
    "an Android phone": Machine("android", "aarch64", frozenset(), 8_000),
    "an iPhone": Machine("ios", "aarch64"),
    "a Raspberry Pi": Machine("linux", "aarch64", frozenset({"asimd"}), 8_000, "Raspberry Pi 5 Model B Rev 1.0"),
}
SUITED = {
    "a laptop": {"x86_avx2"},
    "a server": {"x86_avx2", "x86_avx512"},
    "an Orin Nano": {"jetson_orin_nano"},
    "an Orin Nano of a later JetPack 6": {"jetson_orin_nano"},
    "a Thor": {"jetson_thor"},
    "an Android phone": {"android_arm64", "android_vulkan"},
    "an iPhone": {"iphone_arm64", "iphone_coreml"},
}


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_gets_the_packages_of_its_own_kind_and_a_reason_for_every_other(machine: str) -> None:
    said = {name: edge_targets.load(name).suits(MACHINES[machine]) for name in edge_targets.names()}
    assert {name for name, why in said.items() if why is None} == SUITED.get(machine, set())
    assert all(said[name] for name in said.keys() - SUITED.get(machine, set()))


def test_the_reason_names_what_is_missing() -> None:
    suits = edge_targets.load("x86_avx512").suits
    assert suits(MACHINES["a laptop"]) == "this processor lacks avx512f, avx512_vnni"
    assert suits(MACHINES["a Thor"]) == "it is for x86_64, this is aarch64"
    assert "does not say" in (suits(Machine("darwin", "x86_64")) or "")
    suits, wanted = edge_targets.load("jetson_orin_nano").suits, "it is for L4T 36.4 and newer, below 37 (JetPack 6.1)"
    assert suits(MACHINES["an Orin Nano of JetPack 6.0"]) == f"{wanted}, here is 36.3"
    assert suits(MACHINES["an Orin Nano of JetPack 5"]) == f"{wanted}, here is 35.4"
    unsaid = Machine("linux", "aarch64", board="NVIDIA Jetson Orin Nano Developer Kit")
    assert suits(unsaid) == f"{wanted}, here is an unknown one"


def test_this_machine_is_read_from_its_system() -> None:
    found = here()
    assert found.machine == {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    assert found.memory_mb > 500
    if found.system == "linux" and found.machine == "x86_64":
        assert "sse2" in found.flags


@pytest.mark.parametrize(
    ("said", "release"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n# KERNEL_VARIANT: oot\n", (36, 4)),
        ("# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic\n", (38, 2)),
        ("something else\n", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_the_release_of_linux_for_tegra_is_read_with_its_revision(
    said: str, release: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(its_machine, "_text", lambda path: said if path == "/etc/nv_tegra_release" else "")
    assert here().l4t == release


def test_a_jetson_is_known_by_its_board_since_all_orins_call_their_processor_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = {
        "/proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\n",
        "/proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    }
    monkeypatch.setattr(its_machine, "_text", lambda path: said.get(path, ""))
    assert its_machine.processor() == "NVIDIA Jetson AGX Orin Developer Kit"
    del said["/proc/device-tree/model"]
    assert its_machine.processor() == "ARMv8 Processor rev 1 (v8l)"


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_is_the_same_after_its_way_through_json(machine: str) -> None:
    assert Machine.from_json(json.loads(json.dumps(MACHINES[machine].to_json()))) == MACHINES[machine]


@pytest.mark.parametrize(
    ("group", "limits", "megabytes"),
    [
        ("", {}, 1000),
        ("", {"": "500000000\n"}, 500),
        ("0::/\n", {"": "500000000\n"}, 500),
        ("0::/service/one\n", {"/service/one": "max\n"}, 1000),
        ("0::/service/one\n", {"/service/one": "300000000\n", "/service": "max\n"}, 300),
        ("0::/service/one\n", {"/service/one": "300000000\n", "/service": "200000000\n"}, 200),
        ("0::/service/one\n", {"/service/two": "300000000\n"}, 1000),
        ("4:memory:/old\n0::/service\n", {"/service": "5000000000\n"}, 1000),
    ],
)
def test_memory_is_the_least_that_the_process_s_own_control_group_or_one_above_it_may_use(
    group: str, limits: dict[str, str], megabytes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"/proc/self/cgroup": group, **{f"/sys/fs/cgroup{name}/memory.max": one for name, one in limits.items()}}
    monkeypatch.setattr(its_machine, "_text", lambda path: said.get(path, ""))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1000, "SC_PHYS_PAGES": 1_000_000}.__getitem__, raising=False)
    assert here().memory_mb == megabytes


V2, V1_QUOTA, V1_PERIOD = (
    f"/sys/fs/cgroup/{one}" for one in ("cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")
)


@pytest.mark.parametrize(
    ("said", "cores"),
    [
        ({}, 16),
        ({V2: "max 100000\n"}, 16),
        ({V2: "400000 100000\n"}, 4),
        ({V2: "150000 100000\n"}, 2),
        ({V2: "10000 100000\n"}, 1),
        ({V2: "3200000 100000\n"}, 16),
        ({V1_QUOTA: "-1\n", V1_PERIOD: "100000\n"}, 16),
        ({V1_QUOTA: "250000\n", V1_PERIOD: "100000\n"}, 3),
        ({V1_QUOTA: "250000\n"}, 16),
        ({V1_QUOTA: "250000\n", V1_PERIOD: "0\n"}, 16),
    ],
)
def test_no_more_cores_are_used_than_a_container_s_quota_is_worth(
    said: dict[str, str], cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.setattr(its_machine, "_text", lambda path: said.get(path, ""))
    assert usable_cores() == cores
    assert host()["cores"] == cores


def test_no_more_cores_are_used_than_a_process_may_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(its_machine, "_text", lambda path: "")
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    assert usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # as on Windows and macOS
    assert usable_cores() == 16
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_a_measurement_uses_no_more_threads_than_there_are_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    asked = ("measure", "x86_avx2", "--package", "p", "--evaluation", "e", "--out", "o")
    assert _parser().parse_args(asked).threads == 1
