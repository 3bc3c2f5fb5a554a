"""Steps that reuse features of an earlier one: an approximation, see `tiers`.

Ma, Fang and Wang 2023, "DeepCache": from one step to the next the UNet's deep features change
little. So they are computed at every Nth step, and between these the layer nearest to the output
runs over them and over the step's own first features.
"""

from torch import Tensor

from svd_engine.layers import Constants
from svd_engine.tiers import is_whole
from svd_engine.unet import UNet


class Reuse:
    """Runs the UNet for one denoising, whose first call is a whole step.

    It holds the features of the last whole step, (B, F, h, w, C), and nothing else: whoever starts
    at a whole step computes the same bits as whoever came there.
    """

    def __init__(self, interval: int) -> None:
        """interval: of whole steps; 1 makes every step whole."""
        self._interval = interval
        self._step = 0  # from this run's first
        self._features: Tensor | None = None

    def predict(self, unet: UNet, sample: Tensor, constants: Constants) -> Tensor:
        """As `UNet.predict`, of the next step."""
        x = unet.enter(sample)
        if self._features is None or is_whole(self._step, self._interval):
            self._features = unet.deep(x, constants)
        self._step += 1
        return unet.shallow(x, self._features, constants)
