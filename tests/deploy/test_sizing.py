"""The sizing table of deploy/README.md is what the engine's memory plan says."""

import pytest

from tests.sizing import rows
from tests.support.pages import ROOT


@pytest.mark.slow
def test_the_table_is_the_plans() -> None:
    readme = (ROOT / "deploy/README.md").read_text()
    assert "\n".join(rows()) in readme
