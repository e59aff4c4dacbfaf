"""A chip for passes that ask for one."""

from __future__ import annotations

import pytest

from isthmus.target import Target
from isthmus.targets import x86_64


@pytest.fixture(scope="session", params=x86_64.TARGETS[-1:], ids=lambda target: target.name)
def target(request: pytest.FixtureRequest) -> Target:
    """The most capable chip known; no pass depends on its name."""
    found = request.param
    assert isinstance(found, Target)
    return found
