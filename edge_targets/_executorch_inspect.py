"""What can be verified of an ExecuTorch program on a machine without its backend: what is in it, and what it says of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from edge_targets._device import facts
from edge_targets._target import PackageError


def inspect(folder: Path, *, backend: str, beside: Collection[str]) -> dict[str, Any]:
    """Delegates, operators left to the CPU, and constant methods of the package's program, as JSON values.

    Raises PackageError unless all of the decoder is one piece of `backend`, nothing runs on the CPU but `beside`, and the
    program says of itself what `package.json` says.
    """
    from executorch.exir._serialize._program import deserialize_pte_binary
    from executorch.runtime import Runtime

    known = facts.read(folder)
    file = folder / known["model_files"][0]
    try:
        plans = {plan.name: plan for plan in deserialize_pte_binary(file.read_bytes()).program.execution_plan}
        program = Runtime.get().load_program(file)
        said = {name: program.load_method(name).execute(()) for name in plans.keys() - {"forward"}}
    except Exception as error:  # the reader raises whatever the bytes lead it to
        raise PackageError(f"ExecuTorch cannot read {file}: {error}; pull the package again") from error
    if "forward" not in plans:
        raise PackageError(f"{file} has no method `forward`; it has {', '.join(sorted(plans)) or 'none'}")
    delegates = Counter(delegate.id for delegate in plans["forward"].delegates)
    if delegates != {backend: 1}:
        raise PackageError(f"{file} holds {dict(delegates)}; wanted one piece of {backend}")
    outside = sorted({operator.name for operator in plans["forward"].operators})
    stray = [name for name in outside if name not in beside]
    if stray:
        raise PackageError(
            f"{file} leaves {', '.join(stray)} to the CPU; wanted no more than {', '.join(sorted(beside))}"
        )
    wanted = {
        "get_max_context_len": [known["context_length"]],
        "get_vocab_size": [known["vocab_size"]],
        "get_eos_ids": known["eos_token_ids"],
    }
    for name, values in wanted.items():
        if list(said.get(name, ())) != values:
            raise PackageError(f"{name} of {file} answers {said.get(name)}, package.json says {values}")
    return {
        "delegates": dict(delegates),
        "operators_on_cpu": outside,
        "methods": {name: list(values) for name, values in sorted(said.items())},
    }
