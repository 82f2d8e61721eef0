"""OpenVINO: optimum-intel's export with 4-bit weights, timed in OpenVINO's GenAI pipeline."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GROUP_SIZE = 64
"""Divides SmolLM2's widths; its default of 128 does not, and leaves those layers in 8 bits."""


def build(checkpoint: Path, out: Path, variant: str, data: Path | None) -> None:
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "openvino", "--model", str(checkpoint)]
    command += ["--task", "text-generation-with-past", "--weight-format", variant, "--group-size", str(_GROUP_SIZE)]
    subprocess.run([*command, "--ratio", "1.0", str(out)], check=True)
    given = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    made = (out / "openvino_model.bin").stat().st_size
    if made > given / 2:  # `main_export` with a quantization config exports floats and says nothing
        raise RuntimeError(f"{variant} was asked for, and {given} bytes of weights became {made}")


def load(built: Path, variant: str, threads: int, *, quality: bool) -> Reading | Writing:
    import openvino

    if quality:
        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": threads}
        return Reading(core.compile_model(built / "openvino_model.xml", "CPU", settings).create_infer_request())
    import openvino_genai

    return Writing(openvino_genai, openvino_genai.LLMPipeline(built, "CPU", INFERENCE_NUM_THREADS=threads))


class Reading:
    """The exported model itself, which answers logits."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        self._request.reset_state()
        length = len(tokens)
        given = {
            "input_ids": np.array([tokens], np.int64),
            "attention_mask": np.ones((1, length), np.int64),
            "position_ids": np.arange(length)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        return np.array(self._request.infer(given)["logits"][0], np.float32)

    def generate(self, tokens: Sequence[int], new_tokens: int) -> Iterator[int]:
        raise NotImplementedError("loaded for its quality; load it with quality=False to be timed")


class Writing:
    """The pipeline that a user runs; it calls back with every token."""

    def __init__(self, library: Any, pipeline: Any) -> None:
        self._library, self._pipeline = library, pipeline

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        raise NotImplementedError("loaded to be timed; load it with quality=True for its logits")

    def generate(self, tokens: Sequence[int], new_tokens: int) -> Iterator[int]:
        import queue
        import threading

        import openvino

        library = self._library
        written: queue.SimpleQueue[Any] = queue.SimpleQueue()

        class Streamer(library.StreamerBase):  # type: ignore[misc, name-defined]
            def write(self, token: Any) -> Any:
                for one in token if isinstance(token, list) else [token]:
                    written.put(one)
                return library.StreamingStatus.RUNNING

            def end(self) -> None:
                pass

        settings = library.GenerationConfig(max_new_tokens=new_tokens, ignore_eos=True, do_sample=False)
        given = library.TokenizedInputs(
            openvino.Tensor(np.array([tokens], np.int64)), openvino.Tensor(np.ones((1, len(tokens)), np.int64))
        )

        def run() -> None:
            try:
                self._pipeline.generate(given, settings, Streamer())
            except Exception as error:  # raised where the tokens are awaited
                written.put(error)

        running = threading.Thread(target=run)
        running.start()
        for _ in range(new_tokens):
            one = written.get()
            if isinstance(one, Exception):
                raise one
            yield int(one)
        running.join()
