"""Android phones and tablets with 64-bit Arm processors, by ExecuTorch with XNNPACK.

XNNPACK runs on any arm64 processor and on x86-64, so the artifact is run here too.
"""

from __future__ import annotations

from functools import partial

from edge_targets import _executorch
from edge_targets._machine import phone
from edge_targets._target import Budget, Device, Target

# A phone with a Snapdragon 7s Gen 3: four Cortex-A720 at 2.4 GHz and two 16-bit channels of LPDDR5-3200, 25.6 GB/s
# (AnandTech, 20 August 2024). Sustained is 57 % of that, as where ExecuTorch reports 8.15 tokens a second of Llama 2 7B
# in 4 bits (3.6 GB) on a Galaxy S22 (51.2 GB/s). Multiply-adds are an estimate, not a measurement: 32 a cycle and core
# through SDOT on two 128-bit pipes, a third of that peak sustained. Memory: what an app may hold of 8 GB.
_DEVICE = Device(machine="aarch64", cores=4, memory_mb=4096, bandwidth_gb_s=14.6, int8_gops=102.0)

TARGET = Target(
    name="android_arm64",
    title="Android, arm64 (mid-range phone)",
    device=_DEVICE,
    budget=Budget(max_tpot_percent=75.0),
    runtime="executorch",
    extra="phone",
    quantizations=_executorch.QUANTIZATIONS,
    ties=False,
    package=partial(_executorch.package, target="android_arm64"),
    family="xnnpack",
    suits=phone("android"),
    runtime_modules=("torch", "executorch"),
)
