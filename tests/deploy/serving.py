"""Serve configurations, checked by Serve's schema and against the application that they name."""

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any, cast

import yaml
from pydantic import ValidationError
from ray import serve
from ray.serve.schema import ServeDeploySchema

from farm.ingress import serve_app
from farm.ingress.app import make_app
from farm.model.farm_api import FarmApi
from farm.settings import load_settings
from tests.support.pages import ROOT


def serve_faults(given: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a Serve configuration of the farm."""
    try:
        config = ServeDeploySchema.model_validate(given)
    except ValidationError as error:
        yield f"Serve: {error}"
        return
    read = config.model_dump(mode="json", exclude_unset=True)
    if read != given:  # Serve ignores unknown fields
        yield f"Serve: of {given} it reads only {read}"
    for application in config.applications:
        module, _, name = application.import_path.partition(":")
        try:
            getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            yield f"Serve: {application.import_path}: {error}"
        for deployment in application.deployments:
            if deployment.name != _deployment().name:
                yield f"Serve: the application has no deployment {deployment.name}"
            if deployment.num_replicas != serve_app.REPLICAS:
                yield f"Serve: rates of keys are shared by {serve_app.REPLICAS} replicas"


@cache
def _deployment() -> Any:
    return serve_app._deployment(serve.ingress(serve_app._build)())


def serve_config() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "deploy/serve.yaml").read_text())
    return found


@cache
def routes() -> set[str]:
    """The paths of the farm's HTTP API."""
    return set(make_app(cast("FarmApi", None), load_settings()).openapi()["paths"])
