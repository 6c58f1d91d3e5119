"""Names of files, as archives, folders and tables have them."""

from __future__ import annotations

import unicodedata

IGNORED = ("__MACOSX", "Thumbs.db", "desktop.ini", "Icon\r")
IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".tif", ".tiff"),
    *(".webp", ".jp2", ".pgm", ".dcm", ".dicom"),
)
LONGEST = 200  # characters of a name in a message
UNSAFE = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, line and paragraph breaks


def shown(text: str) -> str:
    """A name or a cell in quotes for a message: escaped, and cut where it is long."""
    return repr(text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}...")


def is_safe(text: str) -> bool:
    """Whether a terminal, a table or a page can show it: no control characters, valid Unicode."""
    return text.isprintable() or not any(unicodedata.category(sign) in UNSAFE for sign in text)


def is_ignored(name: str) -> bool:
    """Whether it is one of the files that operating systems leave behind."""
    return any(
        part in IGNORED or (part.startswith(".") and part != ".") for part in name.split("/")
    )


def unwrap(names: dict[str, str]) -> dict[str, str]:
    """Drop a single folder around everything, unless its name means something."""
    while names:
        tops = {name.partition("/")[0] for name in names}
        only = next(iter(tops))
        if len(tops) > 1 or only in names or not _is_wrapping(only, names):
            break
        names = {name.partition("/")[2]: where for name, where in names.items()}
    return names


def _is_wrapping(top: str, names: dict[str, str]) -> bool:
    """A folder is a wrapping only if something with a meaning lies in it, deeper than files."""
    inner = {name.partition("/")[2] for name in names}
    return any("/" in name for name in inner) or "metadata.csv" in {n.lower() for n in inner}


def is_image(name: str) -> bool:
    dot = name.rfind(".")
    return dot > name.rfind("/") + 1 and name[dot:].lower() in IMAGE_ENDINGS
