"""Names for downloaded files that every operating system accepts. Pure."""

import mimetypes
import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator

MAX_STEM = 80  # characters; a seed and a suffix follow
_ODD = re.compile(r'[<>:"/\\|?*%]')  # these have a meaning to some system or program


def stem_of(name: str) -> str:
    """A picture's name without folders and suffix, fit for a new file; empty if nothing is left."""
    last = name.replace("\\", "/").rpartition("/")[2]
    if (mimetypes.guess_type(last)[0] or "").startswith("image/"):
        last = last.rpartition(".")[0]
    stem = unicodedata.normalize("NFC", last)
    # Without control, format and surrogate characters: bidirectional ones can hide a suffix.
    shown = "".join(c for c in stem if unicodedata.category(c)[0] != "C")
    return _ODD.sub("_", shown).strip(" .")[:MAX_STEM].rstrip(" .")


PictureName = Annotated[str, AfterValidator(stem_of)]
