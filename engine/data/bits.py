"""How many bits the 16-bit images of a data set use: one white for all, from a sample of them.

A detector of 12 to 15 bits is stored in 16, and rarely says so. Divided by 65535 its images are
nearly black; divided by each one's own maximum, two images of one detector differ by one pixel.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from engine.data.archive import Reader, UnreadableFile
from engine.data.decoded import Depth
from engine.data.grey import bits_for

SAMPLE = 64  # images
MOST = 0.9  # of the sample fit: a few that are saturated, or of another detector, do not decide
HEAD = 132  # bytes of a file that say what it is
NOTICED = 0.001  # share of clipped pixels from which an image is counted in the warning


def bits_in_use(
    reader: Reader,
    names: Sequence[str],
    depth_of: Callable[[str], Depth | None],
    progress: Callable[[], None] = lambda: None,
) -> int | None:
    """One of 8, 10, 12, 13, 14, 15, 16; None where no image needs it.

    `depth_of` decodes one image: None where it is unreadable or needs no such decision. `progress`
    is called before each. The same files give the same answer.
    """
    candidates = [name for name in names if _may_need_it(reader, name)]
    step = max(1, len(candidates) / SAMPLE)
    highs = []
    for number in range(min(SAMPLE, len(candidates))):
        progress()
        depth = depth_of(candidates[int(number * step)])
        if depth is not None:
            highs.append(depth.high)
    if not highs:
        return None
    return bits_for(sorted(highs)[math.ceil(MOST * (len(highs) - 1))])


def common_bits(bits: Sequence[int | None]) -> int | None:
    """What most images were scaled by; None where every file decides for itself."""
    used = Counter(number for number in bits if number is not None)
    return used.most_common(1)[0][0] if used else None


def bits_warning(
    names: Sequence[str], bits: Sequence[int | None], clipped: Sequence[float]
) -> tuple[str, str] | None:
    """What to say of images that do not fit the white of the others; all arguments are [N].

    `bits` is what each image was scaled by, None where the file decides.
    """
    common = common_bits(bits)
    other = [
        name
        for name, number, share in zip(names, bits, clipped, strict=True)
        if number is not None and (number != common or share > NOTICED)
    ]
    if not other:
        return None
    return (
        "bits_exceeded",
        f"{len(other)} images have values above the {common} bits that the 16-bit images of this "
        f"data set use ({other[0]}, ...): they are clipped, or scaled by more bits; are they of "
        "another detector?",
    )


def _may_need_it(reader: Reader, name: str) -> bool:
    """By the first bytes: a PNG of 16 bits, or a kind that can have them."""
    try:
        head = reader.head(name, HEAD)
    except UnreadableFile:
        return False
    if head.startswith(b"\x89PNG"):
        return head[24:25] == b"\x10"
    return head.startswith((b"II*\0", b"MM\0*")) or head[128:] == b"DICM"
