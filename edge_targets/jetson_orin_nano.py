"""NVIDIA Jetson Orin Nano, 8 GB: JetPack 6.1, TensorRT 10.3."""

from __future__ import annotations

from functools import partial

from edge_targets import _tensorrt
from edge_targets._machine import jetson
from edge_targets._target import Budget, Device, Target

# 8 GB of LPDDR5 at 68 GB/s, 102 GB/s in Super mode (NVIDIA's data sheet of the module): the figures are for the mode that
# needs no more power. Of both, 70 % sustained and three quarters free beside JetPack's desktop are estimates. Products are
# float16: 40 TOPS of sparse INT8 are a quarter of that, 10 TFLOPS or 5,000 * 10^9 multiply-adds, dense and in float16; a
# third sustained is an estimate too.
_DEVICE = Device(machine="aarch64", cores=6, memory_mb=6144, bandwidth_gb_s=48.0, int8_gops=1700.0)

TARGET = Target(
    name="jetson_orin_nano",
    title="NVIDIA Jetson Orin Nano 8 GB",
    device=_DEVICE,
    budget=Budget(max_tpot_percent=75.0),
    runtime="onnxruntime",
    extra="jetson",
    quantizations=_tensorrt.QUANTIZATIONS,
    cached_value_bytes=_tensorrt.CACHED_VALUE_BYTES,
    half_floats=True,
    package=partial(_tensorrt.package, target="jetson_orin_nano", tensorrt=_tensorrt.Versions("10.3")),
    family="jetson_orin",
    suits=jetson("Orin Nano", (36, 4)),
    measured_on="TensorRT",
    runtime_modules=("numpy", "onnxruntime", "tokenizers"),
)
