"""x86 processors with AVX2 and no AVX-512: mini PCs, industrial boxes, thin clients, laptops since Haswell.

Run under QEMU's Haswell (AVX2, no AVX-512): SmolLM2-135M agreed with float as it does with VNNI; no speed was measured
on such a processor.
"""

from __future__ import annotations

from functools import partial

from edge_targets import _onnx
from edge_targets._machine import processor
from edge_targets._target import Budget, Device, Target

# An Intel N100 mini PC: 4 Gracemont cores, one channel of DDR4-3200 is 25.6 GB/s (Intel ARK), of which 70 % sustained.
# Multiply-adds are an estimate, not a measurement: 16 a cycle and core through vpmaddubsw on three 128-bit ports,
# 2.9 GHz with all cores busy, a third of that peak sustained (the AVX-512 kernels were seen to reach 37 % of theirs).
_DEVICE = Device(machine="x86_64", cores=4, memory_mb=8192, bandwidth_gb_s=18.0, int8_gops=62.0)

TARGET = Target(
    name="x86_avx2",
    title="x86-64 with AVX2 (Intel N100 mini PC)",
    device=_DEVICE,
    budget=Budget(max_tpot_percent=75.0),
    runtime="onnxruntime",
    extra="x86",
    quantizations=_onnx.QUANTIZATIONS,
    package=partial(_onnx.package, target="x86_avx2"),
    family="x86",
    suits=processor("x86_64", "avx2", "fma"),
    runtime_modules=("numpy", "onnxruntime", "tokenizers"),
)
