"""iPhones, by ExecuTorch with XNNPACK: every iPhone that ExecuTorch runs on (iOS 17 and later)."""

from __future__ import annotations

from functools import partial

from edge_targets import _executorch
from edge_targets._target import Budget, Device, Target

# An iPhone 13: two performance cores (Avalanche, 3.23 GHz; the four efficiency cores are left to iOS) and LPDDR4X-4266
# on 64 bits, 34.1 GB/s (AnandTech's and TechInsights' descriptions of the A15). Sustained is 57 % of that, as for
# android_arm64. Multiply-adds are an estimate, not a measurement: 64 a cycle and core through SDOT on four 128-bit
# pipes, a third of that peak sustained. Memory: iOS ends an app at about half of the phone's 4 GB.
_DEVICE = Device(machine="aarch64", cores=2, memory_mb=2048, bandwidth_gb_s=19.4, int8_gops=138.0)

TARGET = Target(
    name="iphone_arm64",
    title="iPhone, arm64 (iPhone 13)",
    device=_DEVICE,
    budget=Budget(max_tpot_percent=75.0),
    runtime="executorch",
    extra="phone",
    quantizations=_executorch.QUANTIZATIONS,
    package=partial(_executorch.package, target="iphone_arm64"),
    runtime_modules=("torch", "executorch"),
    notes={"kernels": "XNNPACK runs on any arm64 processor and on x86-64, so the artifact is run here too."},
)
