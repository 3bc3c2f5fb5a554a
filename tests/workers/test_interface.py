"""The interface by which decoders on several nodes reach each other."""

import os
import sys

import pytest

from farm.workers.interface import interface_of, share_by

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it cannot be told")


def test_an_interface_is_found_by_its_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.254") == ""
    assert interface_of("no address") == ""


def test_gloo_listens_there_unless_the_environment_says_where(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")  # and so it is put back at the end
    share_by("no address")
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    share_by("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    share_by("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"
