"""Alert rules and dashboard: real promtool, and every metric and label that they name."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from farm.metrics.catalogue import METRICS, PREFIX, Metric, Type
from farm.metrics.dashboard import dashboard
from farm.model.job import State
from farm.model.plan import Kind, Stage
from farm.scheduling.state import Fault

MONITORING = Path(__file__).parents[2] / "deploy/monitoring"
UNIT_TESTS = Path(__file__).parent / "alerts_test.yaml"
RULES = [
    rule
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
QUERIES = {rule["alert"]: rule["expr"] for rule in RULES} | {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in dashboard()["panels"]
    for target in panel.get("targets", ())
}
# The values that labels can have.
VALUES: dict[str, set[str]] = {
    "state": {*State, "idle", "busy", "starting", "draining"},
    "kind": set(Kind),
    "stage": set(Stage),
    "reason": set(Fault),
    "outcome": {"done", *Fault, "delivered", "failed", "given_up"},
    "source": {"rendered", "reused"},
    "operation": {"put", "get", "head", "list", "delete"},
}


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def faults_of(query: str) -> Iterator[str]:
    """What a query names that does not exist."""
    for name, matchers in re.findall(rf"({PREFIX}farm_\w+)(?:\{{([^}}]*)\}})?", query):
        metric = metric_of(name)
        if metric is None:
            yield f"no metric {name}"
            continue
        for label, value in re.findall(r'(\w+)\s*[=!]~?"([^"]*)"', matchers):
            if label not in metric.labels:
                yield f"{name} has no label {label}"
            elif label in VALUES and not set(value.split("|")) <= VALUES[label]:
                yield f"{label} is never {value}"
        compared = re.search(rf"(rate|increase)\({name}", query) or "offset" in query
        if metric.type is Type.COUNTER and not compared:
            yield f"{name} is a counter: its value alone says nothing"
    labels = {label for metric in METRICS for label in metric.labels} | {"le"}
    grouped = ", ".join(re.findall(r"by \(([^)]*)\)", query))
    yield from (f"no label {label}" for label in re.findall(r"\w+", grouped) if label not in labels)


def metric_of(series: str) -> Metric | None:
    """The metric of a series, of which a histogram has three."""
    for metric in METRICS:
        suffixes = ("_bucket", "_sum", "_count") if metric.type is Type.HISTOGRAM else ("",)
        if series in {metric.exported + suffix for suffix in suffixes}:
            return metric
    return None


@pytest.mark.parametrize("name", QUERIES)
def test_what_queries_name_exists(name: str) -> None:
    assert list(faults_of(QUERIES[name])) == []


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("ray_farm_open_job", "no metric ray_farm_open_job"),
        ("ray_farm_store_seconds", "no metric ray_farm_store_seconds"),
        ("rate(ray_farm_jobs_total_bucket[5m])", "no metric ray_farm_jobs_total_bucket"),
        ('ray_farm_open_jobs{status="queued"}', "ray_farm_open_jobs has no label status"),
        ('ray_farm_open_jobs{state="waiting"}', "state is never waiting"),
        ("sum by (job) (ray_farm_open_jobs)", "no label job"),
        ("ray_farm_jobs_total > 3", "ray_farm_jobs_total is a counter: its value alone"),
    ],
)
def test_a_wrong_query_is_found(query: str, fault: str) -> None:
    assert any(found.startswith(fault) for found in faults_of(query))


def test_promtool_parses_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"query_{n}", "expr": query.replace("$__rate_interval", "5m")}
        for n, query in enumerate(QUERIES.values())
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(QUERIES)} rules found" in done.stdout


def test_alerts_fire_when_they_should_and_only_then() -> None:
    done = promtool("test", "rules", UNIT_TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("query", ["vector(1) > 2", "vector(1) > 0"])
def test_an_alert_that_never_or_always_fires_is_noticed(query: str, tmp_path: Path) -> None:
    rules = [rule | {"expr": query} for rule in RULES]
    file = tmp_path / "alerts.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    changed = yaml.safe_load(UNIT_TESTS.read_text()) | {"rule_files": [str(file)]}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(changed))
    done = promtool("test", "rules", tmp_path / "tests.yaml")
    wrong = set(re.findall(r"alertname: ?(\w+)", done.stdout + done.stderr))
    assert wrong == {rule["alert"] for rule in RULES}


def test_each_alert_has_its_lines_in_the_runbook() -> None:
    headings = re.findall(r"^### (\w+)$", (MONITORING / "README.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(rule["alert"] for rule in RULES)


def test_the_dashboard_is_the_one_that_is_made() -> None:
    stored = json.loads((MONITORING / "dashboard.json").read_text())
    assert stored == dashboard(), (
        "python -m farm.metrics.dashboard > deploy/monitoring/dashboard.json"
    )


def test_no_panel_lies_over_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_promtool_takes_the_configuration(tmp_path: Path) -> None:
    for file in ("prometheus.yaml", "alerts.yaml"):
        shutil.copy(MONITORING / file, tmp_path)
    done = promtool("check", "config", tmp_path / "prometheus.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_names_and_labels_follow_prometheus_rules() -> None:
    """https://prometheus.io/docs/practices/naming/"""
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"farm(_[a-z]+)+", metric.name)
        assert (metric.type is Type.COUNTER) == metric.name.endswith("_total")
        assert (metric.type is Type.HISTOGRAM) == bool(metric.buckets)
        assert sorted(metric.buckets) == list(metric.buckets)
        assert not {"job", "clip", "worker", "id", "instance"} & set(metric.labels)
        assert metric.help.endswith(".")
