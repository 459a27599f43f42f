"""Model libraries write bars and warnings of their own, between ours; here they are told not to."""

from __future__ import annotations

import warnings
from importlib import import_module


def quiet(*libraries: str) -> None:
    """Show only the errors of these model libraries ("transformers", "diffusers").

    What selma does about a warning is its own business: truncated prompts, for one, are counted.
    """
    for library in libraries:
        logging = import_module(f"{library}.utils.logging")
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        # What moves within a library is not for whoever runs a command.
        warnings.filterwarnings("ignore", category=FutureWarning, module=rf"{library}\.")
