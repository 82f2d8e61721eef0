"""iPhones, by ExecuTorch with XNNPACK: every iPhone that ExecuTorch runs on (iOS 17 and later).

XNNPACK runs on any arm64 processor and on x86-64, so the artifact is run here too.
"""

from __future__ import annotations

from functools import partial

from edge_targets import _executorch
from edge_targets._machine import phone
from edge_targets._target import Budget, Device, Target

# An iPhone 13: two Avalanche cores at 3.23 GHz (the four small ones are left to iOS) and LPDDR4X-4266, 34.1 GB/s (askgeek's
# and cpu-monkey's pages of the A15). Sustained is 57 % of that, as for android_arm64. Multiply-adds are an estimate, not
# a measurement: 64 a cycle and core through SDOT on four 128-bit pipes, a third of that peak sustained. Memory is an
# estimate too: Apple names no limit of an app's; half of the phone's 4 GB.
_DEVICE = Device(machine="aarch64", cores=2, memory_mb=2048, bandwidth_gb_s=19.4, int8_gops=138.0)

TARGET = Target(
    name="iphone_arm64",
    title="iPhone, arm64 (iPhone 13)",
    device=_DEVICE,
    budget=Budget(max_tpot_percent=75.0),
    runtime="executorch",
    extra="phone",
    quantizations=_executorch.QUANTIZATIONS,
    ties=False,
    package=partial(_executorch.package, target="iphone_arm64"),
    family="xnnpack",
    suits=phone("ios"),
    runtime_modules=("torch", "executorch"),
)
