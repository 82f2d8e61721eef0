"""The float checkpoints that are packaged: the base itself, and subnets cut from its supernet for shares of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FULL = "full"
PERCENTS = (80, 53)
"""Of the block parameters, as `selection.budgets_percent` in params.yaml has them."""


def checkpoints(
    base: Path | None, subnets: Sequence[str], data: Path | None, work: Path
) -> tuple[dict[str, Path], Path]:
    """Folders by name, and that of the evaluation text: those given, and where no base is given those of the workspace."""
    named = {}
    for text in subnets:
        percent, _, folder = text.partition("=")
        if not percent.isdigit() or not Path(folder, "config.json").is_file():
            raise SystemExit(f"--subnet {text} is no PERCENT=DIR with a checkpoint in it, like 53=./subnet")
        named[percent] = Path(folder)
    if base is not None and data is not None:
        return {FULL: base, **named}, data
    if base is not None or data is not None or named:
        raise SystemExit("--checkpoint and --data go together; without both, everything is the workspace's")
    return _of_workspace(work)


def _of_workspace(work: Path) -> tuple[dict[str, Path], Path]:
    import torch

    from benchmarks._workspace import Workspace
    from components.stages import Stage
    from components.subnet import extract
    from components.supernet import Supernet

    workspace = Workspace.of()
    folders = {FULL: workspace.base.folder, **{str(percent): work / "subnets" / str(percent) for percent in PERCENTS}}
    supernet = Supernet.load(workspace.supernet_folder, workspace.model(torch.float32))
    for percent in PERCENTS:
        shape = supernet.selection.mixed[percent].shape
        card = f"# {workspace.base.name} {shape}\n\nA subnet for a benchmark.\n"
        extract(supernet, shape).save(folders[str(percent)], workspace.base, card)
    return folders, Stage.of(workspace.base.name, workspace.profile).data
