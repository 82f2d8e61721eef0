"""Memory of the GPU and its name, by the CUDA driver's own library: JetPack ships that, and no Python package for it."""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from .facts import PackageError

_LIBRARY = "libcuda.so.1"
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76
"""CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, and COMPUTE_CAPABILITY_MAJOR and _MINOR."""
_NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the stream does not wait for the default one."""


class CudaError(PackageError):
    """The driver is not there, or refused; the message says what it was asked for."""


@dataclass(frozen=True)
class Gpu:
    """What an engine is tied to. Every Orin has one name and one compute capability: its size tells it from the others."""

    name: str
    compute_capability: str
    multiprocessors: int
    memory_gb: int
    """As it is sold, a power of two: what a Jetson's system leaves of it may differ from one start to the next."""


class Cuda:
    """The first GPU, its primary context and one stream. `peak_bytes` is the most that was allocated here at once."""

    def __init__(self) -> None:
        self.peak_bytes = self._held_bytes = 0
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise CudaError(f"{_LIBRARY} cannot be loaded ({error}); it comes with the driver") from error
        self._call("cuInit", 0)
        self._device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        self.gpu = self._describe()

    def open(self) -> None:
        """Take the context and make the stream; what follows needs both."""
        self._context, stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self.use()
        self._call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        self.stream = int(stream.value or 0)

    def use(self) -> None:
        """Make the context the calling thread's; a runner may be asked from another one than it was loaded in."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> Buffer:
        """At least one byte, since an address is wanted of an empty tensor too."""
        address, size = ctypes.c_uint64(), max(1, size)
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        self._held_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._held_bytes)
        return Buffer(self, int(address.value), size)

    def free(self, address: int, size: int) -> None:
        self._library.cuMemFree_v2(ctypes.c_uint64(address))
        self._held_bytes -= size

    def write(self, address: int, values: NDArray[Any]) -> None:
        """In the stream's order; `values` must stay as they are until the stream is waited for."""
        size = ctypes.c_size_t(values.nbytes)
        source = ctypes.c_void_p(values.ctypes.data)
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), source, size, ctypes.c_void_p(self.stream))

    def read(self, values: NDArray[Any], address: int) -> None:
        """In the stream's order; `values` are there once it has been waited for."""
        size = ctypes.c_size_t(values.nbytes)
        to = ctypes.c_void_p(values.ctypes.data)
        self._call("cuMemcpyDtoHAsync_v2", to, ctypes.c_uint64(address), size, ctypes.c_void_p(self.stream))

    def copy(self, to: int, source: int, size: int) -> None:
        """From one place of the GPU to another, in the stream's order."""
        addresses = ctypes.c_uint64(to), ctypes.c_uint64(source)
        self._call("cuMemcpyDtoDAsync_v2", *addresses, ctypes.c_size_t(size), ctypes.c_void_p(self.stream))

    def wait(self) -> None:
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _describe(self) -> Gpu:
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), self._device)
        multiprocessors, major, minor = map(self._attribute, (_MULTIPROCESSORS, _MAJOR, _MINOR))
        memory = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(memory), self._device)
        memory_gb = 1 << max(0, (memory.value - 1).bit_length() - 30)
        return Gpu(name.value.decode(), f"{major}.{minor}", multiprocessors, memory_gb)

    def _attribute(self, attribute: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        result = getattr(self._library, function)(*arguments)
        if result != 0:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(result, ctypes.byref(text))
            said = (text.value or b"no description").decode()
            raise CudaError(f"{function} failed with {result}: {said}")


class Buffer:
    """Memory of the GPU, given back when nobody holds it any more."""

    def __init__(self, cuda: Cuda, address: int, size: int) -> None:
        self.address = address
        weakref.finalize(self, cuda.free, address, size)
