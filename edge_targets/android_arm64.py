"""Android phones and tablets with 64-bit Arm processors, by ExecuTorch with XNNPACK."""

from __future__ import annotations

from functools import partial

from edge_targets import _executorch, _executorch_runner
from edge_targets._target import Budget, Device, Target

# A mid-range phone, Snapdragon 7 Gen 1: LPDDR5-3200 on a 32-bit bus is 25.6 GB/s by the vendor's sheet, of which half is
# taken to be sustained with the screen on. Multiply-adds: an estimate for four Cortex-A710 with int8 dot products.
_DEVICE = Device(cores=4, memory_mb=4096, bandwidth_gb_s=12.8, int8_gops=120.0)

TARGET = Target(
    name="android_arm64",
    title="Android, arm64 (mid-range phone)",
    device=_DEVICE,
    budget=Budget(max_tpot_percent=75.0),
    runtime="executorch",
    extra="phone",
    quantizations=_executorch.QUANTIZATIONS,
    package=partial(_executorch.package, target="android_arm64"),
    load=_executorch_runner.load,
    runtime_modules=("torch", "executorch"),
    notes={"kernels": "XNNPACK runs on any arm64 processor and on x86-64, so the artifact is run here too."},
)
