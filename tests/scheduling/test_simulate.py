"""The simulated farm: all jobs end, none starves, and the seed fixes the result."""

from pathlib import Path

import pytest

import farm.simulate.__main__
from farm.model.plan import Kind
from farm.scheduling.state import AGING_S
from farm.simulate.__main__ import main
from farm.simulate.report import PRIORITIES, TENANTS
from farm.simulate.simulation import Simulation, decision_rate


def test_all_jobs_end_and_none_starves() -> None:
    report = Simulation(gpus=60, jobs=1_500, seed=1).run()
    assert report.done + report.failed == 1_500
    assert report.failed < 5
    assert sum(map(len, report.waits.values())) == 1_500
    assert 0.9 < report.utilisation <= 1
    assert all(0 < report.busy_s[kind] <= report.there_s[kind] for kind in Kind)
    waits = {priority: report.waits_of(priority) for priority in PRIORITIES}
    assert waits[90][-1] < waits[10][-1] < report.simulated_s
    small, large = (report.waits_of(tenant) for tenant in ("small", "large"))
    assert sum(small) / len(small) < sum(large) / len(large)  # its share is not eaten up
    for tenant, share in TENANTS.items():
        done = report.worked_s[tenant] / sum(report.worked_s.values())
        assert done == pytest.approx(share, abs=0.05)


def test_aging_bounds_how_long_a_job_gives_way() -> None:
    """In a run of hours; without it, jobs of priority 10 would let all others go first."""
    report = Simulation(gpus=9, jobs=6_000, seed=0).run()
    assert report.simulated_s > 3 * 80 * AGING_S
    for priority in PRIORITIES:
        assert report.gave_way_s[priority] <= (90 - priority) * AGING_S
    assert report.gave_way_s[10] > 0.8 * 80 * AGING_S


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (list(Simulation(30, 300, seed=7).run().lines()) for _ in range(2))
    assert first[2:] == second[2:]  # the second line tells of real seconds
    assert first[2:] != list(Simulation(30, 300, seed=8).run().lines())[2:]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plot.png"
    assert main(["--gpus", "20", "--jobs", "100", "--out", str(out)]) == 0
    assert "100 jobs: 100 done" in capsys.readouterr().out
    assert out.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "0"], "--gpus: must be a whole number from 1, got '0'"),
        (["--jobs", "many"], "--jobs: must be a whole number from 1, got 'many'"),
        (["--out", "no/such/folder/plot.png"], "there is no folder no/such/folder"),
        (["--colour"], "Unknown option '--colour'"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_the_plot_needs_matplotlib(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(farm.simulate.__main__, "find_spec", lambda _name: None)
    with pytest.raises(SystemExit, match="2"):
        main(["--out", "plot.png"])
    assert "pip install matplotlib" in capsys.readouterr().err


def test_decision_rate() -> None:
    assert decision_rate(tasks=800) > 0
