"""NVIDIA Jetson Orin NX, 16 GB: JetPack 6.1, TensorRT 10.3."""

from __future__ import annotations

from functools import partial

from edge_targets import _tensorrt
from edge_targets._machine import jetson
from edge_targets._target import Budget, Device, Target

# 16 GB of LPDDR5 at 102.4 GB/s (NVIDIA's data sheet). Of both, 70 % sustained and three quarters free beside JetPack's
# desktop are estimates. Products are float16: 60 of the 100 TOPS of sparse INT8 are the GPU's, a quarter of that is 15
# TFLOPS or 7,500 * 10^9 multiply-adds, dense and in float16; a third sustained is an estimate too.
_DEVICE = Device(machine="aarch64", cores=8, memory_mb=12288, bandwidth_gb_s=72.0, int8_gops=2500.0)

TARGET = Target(
    name="jetson_orin_nx",
    title="NVIDIA Jetson Orin NX 16 GB",
    device=_DEVICE,
    budget=Budget(max_tpot_percent=75.0),
    runtime="onnxruntime",
    extra="jetson",
    quantizations=_tensorrt.QUANTIZATIONS,
    cached_value_bytes=_tensorrt.CACHED_VALUE_BYTES,
    half_floats=True,
    package=partial(_tensorrt.package, target="jetson_orin_nx", tensorrt=_tensorrt.Versions("10.3")),
    family="jetson_orin",
    suits=jetson("Orin NX", (36, 4)),
    measured_on="TensorRT",
    runtime_modules=("numpy", "onnxruntime", "tokenizers"),
)
