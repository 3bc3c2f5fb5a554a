"""`/v1/models`, the models on offer; and `/v1/farm`, the workers, for operators."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel

from farm.errors import FarmError
from farm.ingress.access.authentication import key_of, operator
from farm.ingress.errors import ApiError, responses
from farm.ingress.openai.videos import TheFarm
from farm.model.job import State
from farm.model.plan import Stage
from farm.model.request import Model
from svd_engine.params import RenderDefaults

models = APIRouter(tags=["models"], dependencies=[Depends(key_of)])
router = APIRouter(prefix="/v1/farm", tags=["operator"], dependencies=[Depends(operator)])
Name = Annotated[str, Path(pattern=r"^[\w.-]{1,80}$", description="a worker's name")]
REFUSED = responses(401, 403, 429, 503)


class ModelItem(BaseModel):
    """A model this farm offers."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "farm"


class DescribedModel(ModelItem):
    """A model, and what it renders where a request leaves it open."""

    defaults: RenderDefaults | None = None  # None if the model cannot be read now


class ModelList(BaseModel):
    """Models, the default first."""

    object: Literal["list"] = "list"
    data: list[ModelItem]


class WorkerView(BaseModel):
    """A worker, and what it is working on."""

    state: str
    node: str
    gpus: float
    place: str | None = None
    clip: str | None = None
    task: str | None = None
    stage: Stage | None = None  # of the task
    span: tuple[int, int] | None = None  # its steps or frames, the last one not included
    job: str | None = None  # one that waits for the clip
    picture: str | None = None  # the name of that job's picture
    history: list[tuple[Stage, float, float]] = []  # begun and ended, so many seconds ago
    why: str | None = None  # the reason, if it is not running


class SetAsideView(BaseModel):
    """An object of the store that could not be read and was moved to `quarantine/`."""

    key: str
    reason: str
    at: float


class FarmView(BaseModel):
    """Workers by name, and each tenant's open jobs counted by state.

    `quarantined` counts the objects of the store that cannot be read; `quarantine` has the reasons
    for the first hundred.
    """

    version: str
    workers: dict[str, WorkerView]
    blocked: str | None = None  # why jobs are waiting for workers
    jobs: dict[str, dict[State, int]]
    trouble: str | None = None  # why the store cannot be written to
    quarantined: int
    quarantine: list[SetAsideView]


@models.get("/v1/models", responses=responses(401, 403, 429, 503))
async def list_models(request: Request) -> ModelList:
    """The models this farm offers."""
    return ModelList(data=[ModelItem(id=name) for name in request.app.state.settings.models])


@models.get("/v1/models/{model:path}", responses=responses(401, 403, 404, 429, 503))
async def retrieve_model(model: str, request: Request, farm: TheFarm) -> DescribedModel:
    """A model this farm offers. The name of a hub's model contains a slash."""
    if model not in request.app.state.settings.models:
        message = f"there is no model {model!r}; there is " + ", ".join(
            request.app.state.settings.models
        )
        raise ApiError(404, message, code="model_not_found", param="model")
    try:
        return DescribedModel(id=model, defaults=(await farm.describe(Model(name=model))).defaults)
    except FarmError:
        return DescribedModel(id=model)


@router.get("", responses=REFUSED)
async def farm_view(farm: TheFarm) -> FarmView:
    """Workers, and open jobs by tenant."""
    return _view(await farm.status())


@router.post("/workers/{name}/drain", responses=REFUSED | responses(400, 404, 409))
async def drain(name: Name, farm: TheFarm) -> FarmView:
    """Give a worker no more tasks; it finishes the one it has."""
    await _find(farm, name)
    return _view(await farm.drain(name, True))


@router.post("/workers/{name}/undrain", responses=REFUSED | responses(400, 404, 409))
async def undrain(name: Name, farm: TheFarm) -> FarmView:
    """Give a worker tasks again."""
    await _find(farm, name)
    return _view(await farm.drain(name, False))


async def _find(farm: TheFarm, worker: str) -> None:
    if worker not in (await farm.status())["workers"]:
        raise ApiError(404, f"there is no worker {worker!r}", code="not_found", param="name")


def _view(status: dict[str, Any]) -> FarmView:
    trouble = status["trouble"]
    return FarmView.model_validate(status | {"trouble": trouble and trouble["why"]})
