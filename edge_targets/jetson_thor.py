"""NVIDIA Jetson Thor T5000, 128 GB: JetPack 7.0, TensorRT 10.13."""

from __future__ import annotations

from functools import partial

from edge_targets import _tensorrt
from edge_targets._machine import jetson
from edge_targets._target import Budget, Device, Target

# 128 GB of LPDDR5X at 273 GB/s (NVIDIA's data sheet). 70 % of it sustained and seven eighths of the memory free are
# estimates. Products are float16: 2,070 TFLOPS of sparse FP4 are an eighth of that, 258 TFLOPS or 129,000 * 10^9
# multiply-adds, dense and in float16; a third sustained is an estimate too.
_DEVICE = Device(machine="aarch64", cores=14, memory_mb=114688, bandwidth_gb_s=191.0, int8_gops=43000.0)

TARGET = Target(
    name="jetson_thor",
    title="NVIDIA Jetson AGX Thor 128 GB",
    device=_DEVICE,
    budget=Budget(max_tpot_percent=85.0),
    runtime="onnxruntime",
    extra="jetson",
    quantizations=_tensorrt.QUANTIZATIONS,
    cached_value_bytes=_tensorrt.CACHED_VALUE_BYTES,
    half_floats=True,
    package=partial(_tensorrt.package, target="jetson_thor", tensorrt=_tensorrt.Versions("10.13")),
    suits=jetson("Thor", (38, 2)),
    measured_on="TensorRT",
    runtime_modules=("numpy", "onnxruntime", "tokenizers"),
)
