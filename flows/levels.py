"""One folder that answers within any latency objective: the supernet's shapes as levels, and a score head for prompts."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from components.progress import progress, say
from components.quiet import quiet_libraries
from flows import tracking
from registry.manifest import MANIFEST_FILE, Manifest


def make_levels(model: str, to: Path) -> Path:
    """Write the levels of an onboarded base's supernet to the folder `to`, with a manifest that `amoeba verify` reads.

    Raises FileExistsError when `to` is there already, and what `onboarded` raises.
    """
    if os.path.lexists(to):
        raise FileExistsError(f"{to} is there already; name a folder that is not, or remove it")
    quiet_libraries()
    import torch

    from components.adaptive import save_adaptive
    from components.data import Data
    from components.levels import save_levels
    from components.prompts import PromptSettings, train_score_head
    from components.supernet import Supernet
    from flows.onboarded import onboarded

    partial = TemporaryDirectory(prefix=f".{to.name}.partial-", dir=to.resolve().parent)
    with onboarded(model) as (base, origin), partial as beside:
        folder = Path(beside) / to.name
        made = Data.load(base.artifacts / "data")
        supernet = Supernet.load(base.artifacts / "supernet", origin.load(torch.float32))
        say("levels: teaching the score head")
        numbers = PromptSettings()
        tokens_WT = torch.from_numpy(made.train_WT).long()
        head = train_score_head(supernet.model, tokens_WT, numbers, progress("levels: what tokens are worth"))
        save_levels(supernet, (supernet.full, *supernet.space.mixed), folder, origin)
        say("levels: measuring every level and share of the prompt")
        # What the points' quality is measured on is not what they will be reported on.
        held_out = made.validation_WT.tolist()
        save_adaptive(folder, head, numbers, held_out, progress("levels: operating points"))
        lineage = tracking.lineage_of(base, origin.licence)
        manifest = Manifest.of(folder, kind="supernet", model=base.name, target=None, facts={}, lineage=lineage)
        (folder / MANIFEST_FILE).write_bytes(manifest.canonical())
        folder.rename(to)
    return to
