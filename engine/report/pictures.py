"""Images as data: URLs, within the page itself."""

from __future__ import annotations

import base64
import io

from PIL import Image


def data_url(picture: Image.Image, side: int) -> str:
    """A JPEG of at most `side` pixels on each side; `picture` may be reduced in place."""
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
