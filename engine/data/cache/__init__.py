"""Decode once: every image of a data set as one file of uint8 pixels, kept between runs.

An entry is a folder: `images.u8` [N, S, S] and `images.jsonl`, one line an image, with a checksum
of the stored pixels. It is named by the preprocessing, the images' names and the state of their
files (size, times, inode): where that has changed, files are hashed again, and an image is only
decoded when no entry holds its content. An entry is filled in a `.partial` folder, which a later
start continues, and gets its name when it is complete; with unreadable images it stays partial,
and they are tried again. Every start verifies the checksums and decodes what is damaged again.
"""

from engine.data.cache.entry import Opened, open_cache
from engine.data.cache.fill import Progress
from engine.data.cache.index import Scan
from engine.data.cache.pixels import CachedImages

__all__ = ["CachedImages", "Opened", "Progress", "Scan", "open_cache"]
