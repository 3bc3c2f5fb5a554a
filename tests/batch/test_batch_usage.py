"""What is wrong with a batch is reported before a farm is started."""

from pathlib import Path

import pytest

from farm.batch import __main__ as batch
from farm.client.farm import Farm
from farm.settings import Settings
from tests.conftest import draw_picture


@pytest.fixture
def no_farm(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: Settings, __: bool) -> Farm:
        raise AssertionError("a farm was started")

    monkeypatch.setattr(batch, "_connect", start)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_every_row_that_contradicts_the_command_line_is_named(
    no_farm: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    draw_picture(40, 30).save(tmp_path / "cat.png")
    rows = tmp_path / f"rows.{ending}"
    rows.write_text(
        "picture,name,fps,sigmas,reuse_interval\n"
        'cat.png,fine,9,,\ncat.png,levels,,"9,1,0",\ncat.png,reused,,,10\n'
        if ending == "csv"
        else '{"picture": "cat.png", "name": "fine", "fps": 9}\n'
        '{"picture": "cat.png", "name": "levels", "sigmas": [9, 1, 0]}\n'
        '{"picture": "cat.png", "name": "reused", "reuse_interval": 10}\n'
    )
    with pytest.raises(SystemExit) as caught:
        batch.main([str(rows), "--out", str(tmp_path / "out"), "--tier", "fast"])
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert (
        "levels: its row contradicts the command line: --tier: the tier fast has sigmas" in errors
    )
    assert "reused: its row contradicts the command line: --reuse-interval: must be less" in errors
    assert "fine" not in errors
