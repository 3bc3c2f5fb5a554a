"""Pictures as the contact sheet shows them beside their clips."""

from io import BytesIO

from svd_engine.picture_files import open_picture

SIDE = 512  # pixels of the longer side: twice what the page shows, for screens of twice the density


def small_jpeg(data: bytes) -> bytes:
    """A picture's file as a small JPEG. Raises ValueError if it is no picture."""
    picture = open_picture(data).convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    out = BytesIO()
    picture.save(out, "JPEG", quality=85)
    return out.getvalue()
