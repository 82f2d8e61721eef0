"""Android phones whose graphics processor speaks Vulkan 1.1, by ExecuTorch's Vulkan backend.

Embeddings are looked up on the CPU; everything else is one piece on the graphics processor.
"""

from __future__ import annotations

from functools import partial

from edge_targets import _executorch, _executorch_inspect
from edge_targets._machine import phone
from edge_targets._target import Budget, Device, Target

# The same phone as android_arm64: a Snapdragon 7s Gen 3, 25.6 GB/s (AnandTech, 20 August 2024), of which one model reads
# 57 % sustained; its graphics processor, an Adreno 810, shares that memory. No figure of that one's arithmetic was found,
# so it is taken for no faster than the phone's cores.
_DEVICE = Device(machine="aarch64", cores=4, memory_mb=4096, bandwidth_gb_s=14.6, int8_gops=102.0)

TARGET = Target(
    name="android_vulkan",
    title="Android, Vulkan (mid-range phone)",
    device=_DEVICE,
    budget=Budget(max_tpot_percent=75.0),
    runtime="executorch",
    extra="phone",
    quantizations=_executorch.VULKAN,
    ties=False,
    package=partial(_executorch.package, target="android_vulkan", backend="vulkan"),
    suits=phone("android"),
    runtime_modules=("torch", "executorch"),
    cannot_run_here="ExecuTorch's wheel has no Vulkan runtime; the program runs in an Android app that links it",
    inspect=partial(
        _executorch_inspect.inspect, backend="VulkanBackend", beside=("quantized_decomposed::embedding_byte",)
    ),
)
