from __future__ import annotations

import pytest

from tests.parity.recording import MODELS, Recording, recording


@pytest.fixture(scope="session", params=MODELS)
def recorded(request: pytest.FixtureRequest) -> Recording:
    """Every recorded model in turn; anchors that tests share are made once."""
    return recording(request.param)
