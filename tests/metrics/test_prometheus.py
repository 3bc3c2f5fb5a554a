"""A real Prometheus scrapes a running farm."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import ray
import yaml

from farm.metrics import catalogue
from farm.metrics.catalogue import Metric, Type
from farm.model.job import State
from tests.metrics.test_alerts import QUERIES
from tests.support.farm_jobs import finish, open_farm, picture_bytes, submission, wait_for
from tests.support.ports import free_ports
from tests.support.programs import running

TENANT = "measured"  # other tests' farms are in the same scrape


class Prometheus:
    """A server that scrapes every node of the cluster each second."""

    def __init__(self, http: httpx2.Client) -> None:
        self._http = http

    def answers(self) -> bool:
        with suppress(httpx2.TransportError):
            return self._http.get("/-/ready").status_code == 200
        return False

    def series(self, query: str) -> list[dict[str, Any]]:
        answer = self._http.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", (query, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def value(self, query: str) -> float | None:
        """The value of a query for one number; None if there is no such series yet."""
        found = self.series(query)
        return float(found[0]["value"][1]) if found else None


@pytest.fixture
def prometheus(tmp_path: Path, ray_cluster: None) -> Iterator[Prometheus]:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is not installed: apt-get install prometheus")
    nodes = [f"{n['NodeManagerAddress']}:{n['MetricsExportPort']}" for n in ray.nodes()]
    scrape = {"job_name": "ray", "static_configs": [{"targets": nodes}]}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]}
    file = tmp_path / "prometheus.yaml"
    file.write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    options = [f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'series'}"]
    options += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    url = f"http://127.0.0.1:{port}"
    with running([program, *options], {}), httpx2.Client(base_url=url, timeout=10) as http:
        server = Prometheus(http)
        wait_for(server.answers)
        yield server


def series_of(metric: Metric) -> str:
    return metric.exported + ("_count" if metric.type is Type.HISTOGRAM else "")


def test_a_farm_is_scraped(prometheus: Prometheus, tiny: Path, tmp_path: Path) -> None:
    farm = open_farm(tmp_path / "store")
    asked = [submission(tiny, tenant=TENANT, seed=seed) for seed in (900, 900)]
    jobs = [finish(farm, farm.submit(each, picture_bytes()).job.id) for each in asked]
    (first,), (second,) = (list(views.values()) for views in jobs)
    assert first.job.state is second.job.state is State.COMPLETED

    completed = f'sum(ray_farm_jobs_total{{tenant="{TENANT}", state="completed"}})'
    wait_for(lambda: prometheus.value(completed) == 2)
    charged = prometheus.value(f'sum(ray_farm_gpu_seconds_total{{tenant="{TENANT}"}})')
    assert charged == pytest.approx(first.job.gpu_seconds)
    for source in ("rendered", "reused"):
        clips = f'sum(ray_farm_clips_total{{tenant="{TENANT}", source="{source}"}})'
        assert prometheus.value(clips) == 1
    # Five steps, in segments of two.
    denoised = f'ray_farm_task_seconds_count{{stage="denoise", model="{tiny}"}}'
    assert (prometheus.value(denoised) or 0) >= 3
    there = (
        *(catalogue.JOBS, catalogue.WORKERS, catalogue.BUSY_SECONDS, catalogue.TASKS),
        *(catalogue.TASK_SECONDS, catalogue.STORE_SECONDS, catalogue.STORE_WRITABLE),
        catalogue.QUARANTINED,
    )
    for metric in there:
        wait_for(partial(prometheus.series, series_of(metric)))
        (labels, *_) = (found["metric"] for found in prometheus.series(series_of(metric)))
        assert set(metric.labels) <= set(labels)
    # Workers report the store's calls, too: they write checkpoints and clips.
    processes = 'count(count by (WorkerId) (ray_farm_store_seconds_count{operation="put"}))'
    wait_for(lambda: (prometheus.value(processes) or 0) >= 2)
    for query in QUERIES.values():  # of alerts and dashboard
        prometheus.series(query.replace("$__rate_interval", "1m"))
