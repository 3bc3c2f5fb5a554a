"""Draws and stores previews of the clip that a worker denoises, while its next step runs."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from farm.model.request import RenderRequest
from farm.model.task_order import Step
from farm.store import Store
from farm.store.keys import picture_key, preview_key
from svd_engine.picture_files import open_picture
from svd_engine.preview import Palette, draw_preview, fit_palette

log = logging.getLogger("farm")

PREVIEWS = 6  # of each clip, or one fewer


@dataclass(frozen=True)
class Sketch:
    """What a preview is drawn from, on the CPU."""

    latents: Tensor  # (F, C, h, w): the clip without noise, as estimated at the current step
    image_latent: Tensor  # (1, C, h, w), unscaled
    scaling_factor: float  # of the VAE


class Previewer:
    """Draws one preview at a time, and skips those that become due meanwhile."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1)
        self._drawing: Future[None] | None = None
        self._drawn = "", 0  # the clip and step of the stored preview
        self._palette: tuple[str, Palette] | None = None  # the clip, and what was fitted to it

    def step(self, request: RenderRequest, done: int, sketch: Callable[[], Sketch]) -> Step:
        """After a step of a clip, begin a preview if one is due. Returns how far the clip is."""
        every, last = max(1, request.params.steps // PREVIEWS), request.params.steps
        idle = self._drawing is None or self._drawing.done()
        if done % every == 0 and done < last and idle:
            self._drawing = self._thread.submit(self._draw, request, done, sketch())
        clip, step = self._drawn
        return Step(done, step if clip == request.digest else 0)

    def _draw(self, request: RenderRequest, done: int, sketch: Sketch) -> None:
        try:
            palette = self._palette_of(request, sketch.image_latent)
            if palette is None:
                return
            fps = request.params.fps
            data = draw_preview(sketch.latents, palette, sketch.scaling_factor, fps)
            self._store.put(preview_key(request.digest), data)
            self._drawn = request.digest, done
        except Exception:  # a failed preview must not fail its clip
            log.warning("no preview of step %d", done, exc_info=True)

    def _palette_of(self, request: RenderRequest, image_latent: Tensor) -> Palette | None:
        if self._palette is None or self._palette[0] != request.digest:
            stored = self._store.get(picture_key(request.picture))
            if stored is None:
                return None
            fitted = fit_palette(open_picture(stored.data), image_latent, request.params)
            self._palette = request.digest, fitted
        return self._palette[1]
