"""The tiny study that tests of this room read."""

from __future__ import annotations

import pytest
from kit_tiny import Tiny, shared


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A study that is searched and finetuned; only to be read."""
    return shared(tmp_path_factory.getbasetemp())
