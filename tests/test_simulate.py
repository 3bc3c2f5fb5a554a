"""The simulated farm: all jobs end, none starves, and chance is the seed's."""

from pathlib import Path

import pytest

from farm.simulate import PRIORITIES, Simulation, decision_rate, main


def test_all_jobs_end_and_none_starves() -> None:
    report = Simulation(gpus=60, jobs=1_500, seed=1).run()
    assert report.done + report.failed == 1_500
    assert report.failed < 5
    assert sum(map(len, report.waits.values())) == 1_500
    assert 0.9 < report.utilisation <= 1
    waits = {p: report.of_priority(p) for p in PRIORITIES}
    assert waits[90][-1] < waits[10][-1] < report.simulated_s
    small = [w for (tenant, _), each in report.waits.items() if tenant == "small" for w in each]
    large = [w for (tenant, _), each in report.waits.items() if tenant == "large" for w in each]
    assert sum(small) / len(small) < sum(large) / len(large)  # its share is not eaten up


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (list(Simulation(30, 300, seed=7).run().lines()) for _ in range(2))
    assert first[2:] == second[2:]  # the second line tells of real seconds
    assert first[2:] != list(Simulation(30, 300, seed=8).run().lines())[2:]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plot.png"
    assert main(["--gpus", "20", "--jobs", "100", "--out", str(out)]) == 0
    assert "100 jobs: 100 done" in capsys.readouterr().out
    assert out.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(SystemExit, match="2"):
        main(["--gpus", "0"])


def test_decision_rate() -> None:
    assert decision_rate(tasks=800) > 0
