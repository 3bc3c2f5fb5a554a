import socket
from collections.abc import Iterator

import pytest

from tests.support.web_host import Host, Names, a_host


@pytest.fixture
def host() -> Iterator[Host]:
    with a_host() as host:
        yield host


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    return names
