from collections.abc import Iterator

import httpx2
import openai
import pytest

from tests.support.video_client import openai_client


@pytest.fixture
def sdk(http: httpx2.Client) -> Iterator[openai.OpenAI]:
    """OpenAI's client of a module's server."""
    with openai_client(http) as client:
        yield client
