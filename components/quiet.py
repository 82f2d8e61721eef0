"""Keep other libraries' bars and start-up notices out of the progress lines; their errors still come through."""

from __future__ import annotations

import logging


def quiet_libraries() -> None:
    """Call before loading a model; imports transformers."""
    logging.getLogger("torchao").setLevel(logging.ERROR)
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
