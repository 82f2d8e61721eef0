"""iPhones with iOS 18 and later, by ExecuTorch's Core ML backend: Neural Engine, graphics processor or CPU.

iOS 18 and later: 4-bit groups are not in Core ML before. Caches are written on the CPU.
"""

from __future__ import annotations

from functools import partial

from edge_targets import _executorch, _executorch_inspect
from edge_targets._machine import phone
from edge_targets._target import Budget, Device, Target

# An iPhone 13, as iphone_arm64: 34.1 GB/s of memory, of which one model reads 57 % sustained. Its Neural Engine is said
# to do 15.8 * 10^12 operations a second (Apple, 14 September 2021), 7,900 * 10^9 multiply-adds; a tenth of that
# sustained is an estimate, not a measurement.
_DEVICE = Device(machine="aarch64", cores=2, memory_mb=2048, bandwidth_gb_s=19.4, int8_gops=790.0)

TARGET = Target(
    name="iphone_coreml",
    title="iPhone, Core ML (iPhone 13)",
    device=_DEVICE,
    budget=Budget(max_tpot_percent=75.0),
    runtime="executorch",
    extra="phone",
    quantizations=_executorch.COREML,
    cached_value_bytes=2,
    half_floats=True,
    package=partial(_executorch.package, target="iphone_coreml", backend="coreml"),
    suits=phone("ios"),
    runtime_modules=("torch", "executorch", "coremltools"),
    cannot_run_here="Core ML is part of iOS and macOS; the program runs in an iPhone app that links ExecuTorch's Core ML",
    inspect=partial(
        _executorch_inspect.inspect,
        backend="CoreMLBackend",
        beside=("llama::update_cache_with_indices", "aten::full_like", "aten::cumsum", "aten::add", "aten::sub"),
    ),
)
