"""`python -m farm.metrics.dashboard`: print the Grafana dashboard of `deploy/monitoring`."""

import json
from dataclasses import dataclass
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH, HEIGHT = 8, 7  # of a panel; a row of Grafana's grid is 24 wide
OVER = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """A graph: its title, the unit of its values, and the names of its lines by their queries."""

    title: str
    unit: str
    lines: dict[str, str]


def _quantile(share: float, metric: str, by: str) -> str:
    return f"histogram_quantile({share}, sum by (le, {by}) (rate({metric}_bucket{OVER})))"


PANELS = {
    "Jobs": (
        Panel(
            "Open jobs by state",
            "short",
            {"{{state}}": "sum by (state) (ray_farm_open_jobs)"},
        ),
        Panel(
            "Queued jobs by tenant and priority",
            "short",
            {
                "{{tenant}}, {{priority}}": "sum by (tenant, priority) "
                '(ray_farm_open_jobs{state="queued"})'
            },
        ),
        Panel(
            "Age of the oldest queued job",
            "s",
            {"{{tenant}}, {{priority}}": "max by (tenant, priority) (ray_farm_queue_age_seconds)"},
        ),
        Panel(
            "Jobs that end, by state",
            "cpm",
            {"{{state}}": f"60 * sum by (state) (rate(ray_farm_jobs_total{OVER}))"},
        ),
        Panel(
            "Share of clips that are reused",
            "percentunit",
            {
                "reused": f'sum(rate(ray_farm_clips_total{{source="reused"}}{OVER})) '
                f"/ sum(rate(ray_farm_clips_total{OVER}))"
            },
        ),
        Panel(
            "Worker time charged, by tenant",
            "s",
            {"{{tenant}}": "sum by (tenant) (increase(ray_farm_gpu_seconds_total[1h]))"},
        ),
    ),
    "Workers": (
        Panel(
            "Workers by what they do",
            "short",
            {"{{kind}}, {{state}}": "sum by (kind, state) (ray_farm_workers)"},
        ),
        Panel(
            "Busy share",
            "percentunit",
            {
                "{{kind}}": f"sum by (kind) (rate(ray_farm_worker_busy_seconds_total{OVER})) "
                "/ sum by (kind) (ray_farm_workers)"
            },
        ),
        Panel(
            "Tasks that end, by outcome",
            "cpm",
            {"{{outcome}}": f"60 * sum by (outcome) (rate(ray_farm_tasks_total{OVER}))"},
        ),
        Panel(
            "Time of a task, median by stage",
            "s",
            {"{{stage}}": _quantile(0.5, "ray_farm_task_seconds", "stage")},
        ),
        Panel(
            "Time of a denoising task, 95% by model",
            "s",
            {
                "{{model}}": "histogram_quantile(0.95, sum by (le, model) "
                f'(rate(ray_farm_task_seconds_bucket{{stage="denoise"}}{OVER})))'
            },
        ),
        Panel(
            "Retries by reason",
            "cpm",
            {"{{reason}}": f"60 * sum by (reason) (rate(ray_farm_retries_total{OVER}))"},
        ),
    ),
    "Store": (
        Panel(
            "Time of a call, 99% by operation",
            "s",
            {"{{operation}}": _quantile(0.99, "ray_farm_store_seconds", "operation")},
        ),
        Panel(
            "Calls that fail, by operation",
            "cpm",
            {"{{operation}}": f"60 * sum by (operation) (rate(ray_farm_store_errors_total{OVER}))"},
        ),
        Panel(
            "Writable, and objects in quarantine",
            "short",
            {
                "writable": "min(ray_farm_store_writable)",
                "in quarantine": "max(ray_farm_quarantined_objects)",
            },
        ),
    ),
    "HTTP": (
        Panel(
            "Requests by status",
            "reqps",
            {"{{status}}": f"sum by (status) (rate(ray_farm_http_requests_total{OVER}))"},
        ),
        Panel(
            "Time until an answer begins, 95% by route",
            "s",
            {"{{route}}": _quantile(0.95, "ray_farm_http_seconds", "route")},
        ),
        Panel(
            "Webhooks",
            "cpm",
            {"{{outcome}}": f"60 * sum by (outcome) (rate(ray_farm_webhooks_total{OVER}))"},
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard, in Grafana's format; its data source is chosen on the page."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, members in PANELS.items():
        place = {"x": 0, "y": y, "w": 24, "h": 1}
        panels.append({"type": "row", "title": row, "gridPos": place, "panels": []})
        y += 1
        for number, panel in enumerate(members):
            across, down = number % 3, number // 3
            place = {"x": across * WIDTH, "y": y + down * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_panel(panel, place))
        y += HEIGHT * -(-len(members) // 3)
    source = {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}
    return {
        "title": "SVD render farm",
        "uid": "svd-render-farm",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source]},
        "panels": [{"id": number, **panel} for number, panel in enumerate(panels, start=1)],
    }


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "gridPos": place,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + n), "datasource": SOURCE, "expr": query, "legendFormat": name}
            for n, (name, query) in enumerate(panel.lines.items())
        ],
    }


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=1))
