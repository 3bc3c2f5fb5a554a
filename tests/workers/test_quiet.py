"""What of Ray's warnings reaches the terminal of a newcomer."""

import logging

import pytest
from ray._private.authentication import authentication_token_setup as setup

from farm.workers.cluster import quiet_ray


def test_that_all_is_well_is_no_warning_and_what_is_not_stays(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("ray"), "propagate", True)
    for _ in range(2):
        quiet_ray()
    with caplog.at_level(logging.WARNING, "ray"):
        setup._warn_token_auth_enabled()
        assert caplog.text == ""
        setup._warn_token_auth_disabled()
        assert "Anyone with network access" in caplog.text
