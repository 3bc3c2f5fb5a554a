"""Steps that reuse the features of an earlier step, as an approximation; see `tiers`.

Ma, Fang and Wang 2023, "DeepCache": the UNet's deep features change little from one step to the
next. They are computed only at every Nth step. At the other steps only the layer nearest to the
output runs, on these features and on the step's own first features.
"""

from torch import Tensor

from svd_engine.layers import Constants
from svd_engine.tiers import is_whole
from svd_engine.unet import UNet


class Reuse:
    """Runs the UNet's steps of one denoising. The first call is a whole step.

    The only state is the features (B, F, h, w, C) of the last whole step. Denoising that is resumed
    at a whole step therefore computes the same bits as one that was never interrupted.
    """

    def __init__(self, interval: int) -> None:
        """interval: the distance between whole steps; 1 makes every step whole."""
        self._interval = interval
        self._step = 0  # since this object's first call
        self._features: Tensor | None = None

    def predict(self, unet: UNet, sample: Tensor, constants: Constants) -> Tensor:
        """`UNet.predict` for the next step."""
        x = unet.enter(sample)
        if self._features is None or is_whole(self._step, self._interval):
            self._features = unet.deep(x, constants)
        self._step += 1
        return unet.shallow(x, self._features, constants)
