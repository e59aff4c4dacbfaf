"""Programs that some tests need and not every machine has."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

REQUIRED = os.environ.get("ISTHMUS_RUNNERS") == "required"


def not_run(why: str) -> NoReturn:
    """Ends the test: as skipped, or as failed with ISTHMUS_RUNNERS=required, as in CI."""
    text = f"not run: {why}"
    if REQUIRED:
        pytest.fail(text)
    pytest.skip(text)


def needed(*names: str) -> str:
    """The path of the first of `names` that is installed.

    Without any the test is `not_run`.
    """
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    not_run(f"needs {' or '.join(names)}")
