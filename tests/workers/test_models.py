"""Reading model facts starts few processes, and none for models that do not exist."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from farm.background import Background
from farm.errors import RequestError
from farm.model.request import Model, ModelFacts
from farm.workers import cluster
from farm.workers.cluster import Models
from svd_engine.params import RenderDefaults
from svd_engine.variants import NANO, variants_of

DEFAULTS = RenderDefaults(width=64, height=48, num_frames=2, max_guidance_scale=3.0)
FACTS = ModelFacts(digest="0" * 64, defaults=DEFAULTS)


class Looks:
    """The processes that would be started, in order; those of `gone` find no model."""

    def __init__(self) -> None:
        self.models: list[Model] = []
        self.end = asyncio.Event()
        self.end.set()

    async def look(self, model: Model, _limit_s: float) -> ModelFacts:
        self.models.append(model)
        if model.name.startswith("slow"):
            await self.end.wait()
        if model.name.endswith("gone"):
            raise RequestError(f"no model {model.name!r}")
        return FACTS


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(test: Callable[[Models, Looks], Awaitable[None]]) -> None:
        async def all_of_it() -> None:
            looks = Looks()
            monkeypatch.setattr(cluster, "describe_model", looks.look)
            await test(Models(Background(2), 60.0), looks)

        asyncio.run(asyncio.wait_for(all_of_it(), 60))

    return run


def test_invented_variants_start_no_process(run: Callable[..., None]) -> None:
    async def test(models: Models, looks: Looks) -> None:
        for name, has in (("nano", "it has: none"), ("tiny", "it has: none")):
            asked = [Model(name=name, variant=f"v{n}") for n in range(24)]
            results = await asyncio.gather(
                *(models.facts(model, "one") for model in asked), return_exceptions=True
            )
            assert all(isinstance(each, RequestError) and has in str(each) for each in results)
        assert looks.models == []
        assert await models.facts(Model(name="nano"), "another") == FACTS

    run(test)


def test_a_variant_that_is_there_is_taken(tmp_path: Path, run: Callable[..., None]) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/diffusion_pytorch_model.fp16.safetensors").touch()

    async def test(models: Models, looks: Looks) -> None:
        model = Model(name=str(tmp_path), variant="fp16")
        assert await models.facts(model, "one") == FACTS
        with pytest.raises(RequestError, match="no weights of the variant 'bf16'; it has: fp16"):
            await models.facts(Model(name=str(tmp_path), variant="bf16"), "one")

    run(test)


def test_every_dtype_is_one_look(run: Callable[..., None]) -> None:
    async def test(models: Models, looks: Looks) -> None:
        kinds = [Model(name="nano", dtype=kind) for kind in ("float32", "float16", "bfloat16")]
        assert await asyncio.gather(*(models.facts(kind, "one") for kind in kinds)) == [FACTS] * 3
        assert len(looks.models) == 1

    run(test)


def test_what_is_not_there_is_remembered(run: Callable[..., None]) -> None:
    async def test(models: Models, looks: Looks) -> None:
        for _ in range(5):
            with pytest.raises(RequestError, match="no model 'a/gone'"):
                await models.facts(Model(name="a/gone"), "one")
        assert len(looks.models) == 1
        for n in range(2 * cluster.REFUSED_KEPT):  # and others are forgotten for them
            with pytest.raises(RequestError):
                await models.facts(Model(name=f"{n} gone"), "one")
        assert len(models._refused) == cluster.REFUSED_KEPT
        assert models._known == models._asked_at == {}

    run(test)


def test_what_one_tenant_invents_delays_no_other(run: Callable[..., None]) -> None:
    async def test(models: Models, looks: Looks) -> None:
        looks.end.clear()
        inventions = [
            asyncio.create_task(models.facts(Model(name=f"slow {n} gone"), "one"))
            for n in range(24)
        ]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(models.facts(Model(name="tiny"), "another"), 5) == FACTS
        assert len([model for model in looks.models if model.name != "tiny"]) == 1
        looks.end.set()
        results = await asyncio.gather(*inventions, return_exceptions=True)
        assert all(isinstance(each, RequestError) for each in results)

    run(test)


def test_names_of_files_tell_the_variants(tmp_path: Path) -> None:
    unet = tmp_path / "unet"
    unet.mkdir()
    stem = "diffusion_pytorch_model"
    for name in (
        f"{stem}.safetensors",
        f"{stem}.fp16.safetensors",
        f"{stem}.safetensors.index.bf16.json",
        f"{stem}-00001-of-00002.int8.safetensors",  # a shard without an index
        f"{stem}.old.bin",
        "config.json",
    ):
        (unet / name).touch()
    assert variants_of(str(tmp_path)) == {None, "fp16", "bf16"}
    assert variants_of(str(NANO)) == variants_of("nano") == variants_of("tiny") == {None}
    assert variants_of("no such model") is None
    assert variants_of("../nowhere/else") is None
