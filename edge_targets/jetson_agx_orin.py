"""NVIDIA Jetson AGX Orin, 64 GB: JetPack 6.1, TensorRT 10.3."""

from __future__ import annotations

from functools import partial

from edge_targets import _tensorrt
from edge_targets._machine import jetson
from edge_targets._target import Budget, Device, Target

# 64 GB of LPDDR5 at 204.8 GB/s (NVIDIA's data sheet). 70 % of it sustained and seven eighths of the memory free are
# estimates. Products are float16: 170 of the 275 TOPS of sparse INT8 are the GPU's, a quarter of that is 42 TFLOPS or
# 21,000 * 10^9 multiply-adds, dense and in float16; a third sustained is an estimate too.
_DEVICE = Device(machine="aarch64", cores=12, memory_mb=57344, bandwidth_gb_s=143.0, int8_gops=7000.0)

TARGET = Target(
    name="jetson_agx_orin",
    title="NVIDIA Jetson AGX Orin 64 GB",
    device=_DEVICE,
    budget=Budget(max_tpot_percent=85.0),
    runtime="onnxruntime",
    extra="jetson",
    quantizations=_tensorrt.QUANTIZATIONS,
    cached_value_bytes=_tensorrt.CACHED_VALUE_BYTES,
    half_floats=True,
    package=partial(_tensorrt.package, target="jetson_agx_orin", tensorrt=_tensorrt.Versions("10.3")),
    family="jetson_orin",
    suits=jetson("AGX Orin", (36, 4)),
    measured_on="TensorRT",
    runtime_modules=("numpy", "onnxruntime", "tokenizers"),
)
