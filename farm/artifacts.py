"""The files made of every clip: their names over HTTP and in the store, and their types. Pure.

To add one, add a row here; a field in `Made`, in the same order, and in `ClipResult`, with a
default for older clips, for which `farm/ingress/content.py` must have an answer; the call in
`farm/workers/clip_files.py` that makes it; and its media type in `farm/ingress/openai/videos.py`.
"""

from dataclasses import dataclass
from typing import Literal

ArtifactName = Literal["video", "thumbnail", "spritesheet"]  # `variant` in OpenAI's API


@dataclass(frozen=True)
class Artifact:
    """A kind of file that is made of a clip."""

    field: str  # of `ClipResult`: the key of the file in the store
    file: str  # the last part of that key
    media_type: str


ARTIFACTS: dict[ArtifactName, Artifact] = {
    "video": Artifact("video", "video.mp4", "video/mp4"),
    "thumbnail": Artifact("thumbnail", "thumbnail.jpg", "image/jpeg"),
    "spritesheet": Artifact("sprite_sheet", "sprites.jpg", "image/jpeg"),
}
