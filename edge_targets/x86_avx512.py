"""x86 processors with AVX-512 and its integer dot product (VNNI): laptops since Ice Lake, Zen 4, small edge servers.

MatMulNBits multiplies int8 by int8 with VNNI; a processor without it falls back to AVX2.
"""

from __future__ import annotations

from functools import partial

from edge_targets import _onnx
from edge_targets._machine import processor
from edge_targets._target import Budget, Device, Target

# An Intel Core i5-1135G7 laptop: 4 cores, two channels of DDR4-3200 are 51.2 GB/s (Intel ARK), of which 70 % sustained.
# Multiply-adds: SmolLM2-135M's int8 prefill measured with 2 threads of a 2.6 GHz AMD EPYC with VNNI, 1,158 tokens a
# second of 0.106 * 10^9 each, is 61 * 10^9 a core.
_DEVICE = Device(machine="x86_64", cores=4, memory_mb=8192, bandwidth_gb_s=36.0, int8_gops=244.0)

TARGET = Target(
    name="x86_avx512",
    title="x86-64 with AVX-512 VNNI (four-core laptop)",
    device=_DEVICE,
    budget=Budget(max_tpot_percent=75.0),
    runtime="onnxruntime",
    extra="x86",
    quantizations=_onnx.QUANTIZATIONS,
    package=partial(_onnx.package, target="x86_avx512"),
    family="x86",
    suits=processor("x86_64", "avx512f", "avx512_vnni"),
    runtime_modules=("numpy", "onnxruntime", "tokenizers"),
)
