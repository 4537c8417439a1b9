from __future__ import annotations

import pytest

from tests.parity.recording import OFFICIAL, OWN, WHY, Recording, models_in, recording


@pytest.fixture(scope="session", params=[*models_in(OWN), *models_in(OFFICIAL)], ids=lambda folder: folder.name)
def recorded(request: pytest.FixtureRequest) -> Recording:
    """Every recorded model in turn, of our own set too; anchors that tests share are made once."""
    return recording(request.param)


@pytest.fixture(
    scope="session", params=models_in(OFFICIAL) or [None], ids=lambda folder: getattr(folder, "name", "none")
)
def official(request: pytest.FixtureRequest) -> Recording:
    """Every model of the official set in turn: for what only published code has computed."""
    if request.param is None:
        pytest.skip(WHY)
    return recording(request.param)
