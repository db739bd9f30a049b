"""Pictures small enough to be written into a page."""

from __future__ import annotations

import base64
import io
from typing import Final

from PIL import Image

from fieldmark.data.pictures import open_picture
from fieldmark.errors import PictureError

SIDE_PX: Final = 176
_QUALITY: Final = 78


def data_url(path: str) -> str | None:
    """A picture as `data:image/...`, at most 176 px wide and high; None where it cannot be read.
    Tiny ones stay as they are: a browser enlarges them without blurring."""
    try:
        picture = open_picture(path, 3, SIDE_PX)
    except PictureError:
        return None
    stream = io.BytesIO()
    if max(picture.size) <= SIDE_PX // 2:
        picture.save(stream, "PNG", optimize=True)
        kind = "png"
    else:
        picture.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
        picture.save(stream, "JPEG", quality=_QUALITY)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
