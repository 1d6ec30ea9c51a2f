"""Images: from the bytes of an upload to the network's input; all but the smallest in a pool beside the event loop, big
ones one at a time.

    decoder = Decoder(preprocessing, (3, 32, 32), max_pixels=..., threads=..., max_waiting=...)
    x = await decoder.decode(data)        # (3, H, W) float32, normalised

The result is what the model saw in evaluation: upright RGB, resized until it covers what the package says, then
torchvision's CenterCrop, ToTensor and Normalize, without torchvision. An image that fits is not resampled. One thing is
done that evaluation does not do: a JPEG far larger than the network's input is decoded at a smaller scale, which costs
a fraction of the time and changes pixels slightly.

Pillow decodes everything but the plainest: a JPEG of the input's own size goes straight to libjpeg-turbo, which Pillow
uses too. The pixels are the same, and where images are small, Pillow's reading of the head takes ten times as long.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from math import inf

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from simplejpeg import decode_jpeg, decode_jpeg_header

from model_core.package import Preprocessing
from model_core.preprocessing import fit, resized, upright
from service.errors import FormatError, InvalidError, TooLargeError
from service.lane import Lane
from service.request import Priority

__all__ = ["FORMATS", "Decoder"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""The formats that are read. Pillow knows many more, each a parser that an upload could attack."""

DRAFT_FACTOR = 2
"""A big JPEG is decoded at the smallest scale that leaves this many pixels per pixel of the resized image."""

SMALL_BYTES, SMALL_PIXELS = 16_384, 128 * 128
"""A JPEG or PNG of no more, and of few and plain parts, is decoded on the event loop: in a fraction of a millisecond,
less than it takes a thread to take over and hand back."""

MOST_PARTS = 128
PNG_START = b"\x89PNG\r\n\x1a\n"
PLAIN_CHUNKS = frozenset(b"IHDR PLTE tRNS IDAT IEND gAMA cHRM sRGB pHYs sBIT bKGD tIME tEXt".split())
"""Those of a PNG that are read at once. Sixteen kilobytes of others can unpack to megabytes."""

JPEG_START = b"\xff\xd8\xff"
EXIF_OR_XMP = b"\xff\xe1"
"""The marker APP1. In image data a 255 is followed by 0, so that it is not found there."""
SEVERAL_IMAGES = b"MPF\0"
"""The head of an index of further images, which takes as long to read as EXIF."""
PLAIN_COLOURS = ("YCbCr", "Gray")

BIG_PIXELS, BIG_JPEG_PIXELS = 2**22, 2**24
"""Images of more are decoded one at a time. On the way a pixel of a WebP takes 16 bytes, of other formats 8 at most: of
a JPEG, which is decoded at a smaller scale, the 6 or 8 of its coefficients where it is progressive."""


class Decoder:
    """Decodes and normalises images on a fixed number of threads, and the big ones on one more, one at a time."""

    def __init__(
        self,
        preprocessing: Preprocessing,
        input_shape: tuple[int, int, int],
        *,
        max_pixels: int,
        threads: int,
        max_waiting: int,
    ) -> None:
        _, self._height, self._width = input_shape
        self._cover = preprocessing.resize_to_cover
        self._max_pixels = max_pixels
        size = self._width, self._height
        self._plain_size = (self._height, self._width) if resized(size, self._cover) == size else None
        self._small = self._height * self._width <= SMALL_PIXELS
        Image.init()  # Pillow would load its parsers while the first request waits
        if Image.MAX_IMAGE_PIXELS is not None:  # its own limit, the process's, is not to be met before this one
            Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)
        self._lane = Lane(threads=threads, max_waiting=max_waiting, name="decode")
        self._big_lane = Lane(threads=1, max_waiting=max_waiting, name="decode-big")
        levels = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)  # (256, 1)
        mean, std = (np.asarray(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
        self._normalised = ((levels - mean) / std).T.copy()  # (3, 256): the 256 possible values of each channel

    @property
    def waiting(self) -> int:
        """Images that wait for a thread."""
        return self._lane.waiting + self._big_lane.waiting

    async def decode(
        self,
        data: bytes,
        name: str = "image",
        *,
        priority: Priority = Priority.NORMAL,
        deadline: float = inf,
        at_once: bool = True,
    ) -> NDArray[np.float32]:
        """The network's input (3, H, W) for an encoded image; `name` is what an error calls it.

        Who waits for a thread is taken up by priority and deadline. Without `at_once`, so is a small image: it is one
        of many, which together would hold up the event loop.

        Raises:
            QueueFullError: too many images wait to be decoded.
            FormatError, TooLargeError, InvalidError: as `read`.
        """
        if at_once and len(data) <= SMALL_BYTES and _is_quick(data):
            if self._small and (pixels := self._plain(data)) is not None:
                return self._normalise(pixels)
            with self._opened(data, name) as image:
                if self._pixels(image) <= SMALL_PIXELS:
                    return self._input(image, name)
        work = partial(self._read_unless_big, data, name)
        if (found := await self._lane.run(work, priority=priority, deadline=deadline)) is not None:
            return found
        return await self._big_lane.run(partial(self.read, data, name), priority=priority, deadline=deadline)

    def read(self, data: bytes, name: str = "image") -> NDArray[np.float32]:
        """The same on the calling thread.

        Raises:
            FormatError: none of `FORMATS`.
            TooLargeError: more pixels than allowed, known from the head before anything is decoded.
            InvalidError: truncated or corrupt.
        """
        if (pixels := self._plain(data)) is not None:
            return self._normalise(pixels)
        with self._opened(data, name) as image:
            return self._input(image, name)

    def close(self) -> None:
        """Stop the threads; images that still wait are dropped."""
        self._lane.close()
        self._big_lane.close()

    def _read_unless_big(self, data: bytes, name: str) -> NDArray[np.float32] | None:
        if (pixels := self._plain(data)) is not None:
            return self._normalise(pixels)
        with self._opened(data, name) as image:
            most = BIG_JPEG_PIXELS if isinstance(image, JpegImageFile) else BIG_PIXELS
            return self._input(image, name) if self._pixels(image) <= most else None

    def _pixels(self, image: Image.Image) -> int:
        """Those of the image, or once it is resized if these are more: a thin strip grows."""
        sizes = image.size, resized(image.size, self._cover)
        return max(width * height for width, height in sizes)

    def _input(self, image: Image.Image, name: str) -> NDArray[np.float32]:
        side = max(self._cover) * DRAFT_FACTOR  # a square, since it may be turned afterwards
        image.draft(None, (side, side))
        return self._normalise(np.asarray(self._fit(upright(image), name)))

    def _plain(self, data: bytes) -> NDArray[np.uint8] | None:
        """The pixels (H, W, 3) of a JPEG that needs nothing but decoding; None where Pillow is to have a look.

        That is wherever the size is not the input's, the colours are not the usual ones, or there are EXIF or XMP data,
        which may turn the image; and where anything is wrong with it, so that Pillow's word is the last.
        """
        if not data.startswith(JPEG_START) or EXIF_OR_XMP in data:
            return None
        try:
            height, width, colours, _ = decode_jpeg_header(data)
            if (height, width) != self._plain_size or colours not in PLAIN_COLOURS:
                return None
            pixels: NDArray[np.uint8] = decode_jpeg(data)
        except ValueError:
            return None
        return pixels

    def _normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixels (H, W, 3) as the network's input (3, H, W)."""
        channels = np.empty((3, *pixels.shape[:2]), np.float32)
        for index, table in enumerate(self._normalised):
            np.take(table, pixels[..., index], out=channels[index], mode="clip")  # "raise" would buffer
        return channels

    @contextmanager
    def _opened(self, data: bytes, name: str) -> Iterator[Image.Image]:
        """The image, of which the head alone has been read. Raises in the block too what `read` does."""
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                self._check_size(image.size, name)
                yield image
        except UnidentifiedImageError as error:
            if _has_known_start(data):
                raise InvalidError({name: "cannot be decoded: the head of the image is broken"}) from error
            raise FormatError(f"{name}: not an image that this service reads ({', '.join(FORMATS)})") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise TooLargeError(f"{name}: more than the {self._max_pixels} pixels allowed") from error
        except TooLargeError:
            raise
        except Exception as error:  # parsers of hostile bytes raise nearly everything, from struct.error to KeyError
            raise InvalidError({name: f"cannot be decoded: {error}"}) from error

    def _fit(self, image: Image.Image, name: str) -> Image.Image:
        # A thin strip would grow without bound.
        self._check_size(resized(image.size, self._cover), f"{name}, a thin strip, resized to cover the input")
        return fit(image, cover=self._cover, height=self._height, width=self._width)

    def _check_size(self, size: tuple[int, int], what: str) -> None:
        width, height = size
        if width * height > self._max_pixels:
            raise TooLargeError(f"{what}: {width} x {height} pixels; at most {self._max_pixels} are allowed")


def _is_quick(data: bytes) -> bool:
    """Whether pixels are all that takes time in a small file, by what is seen without reading it.

    Descriptions can have thousands of parts, each read in Python, and a progressive JPEG as many scans of the whole
    image. Every part of a JPEG begins with a 255, of which its image data hold few.
    """
    if data.startswith(JPEG_START):
        return data.count(0xFF) <= MOST_PARTS and EXIF_OR_XMP not in data and SEVERAL_IMAGES not in data
    kinds = list(islice(_chunks(data), MOST_PARTS + 1)) if data.startswith(PNG_START) else []
    return 0 < len(kinds) <= MOST_PARTS and PLAIN_CHUNKS.issuperset(kinds)


def _chunks(png: bytes) -> Iterator[bytes]:
    """The kinds of a PNG's chunks."""
    at = len(PNG_START)
    while at < len(png):
        yield png[at + 4 : at + 8]
        at += 12 + int.from_bytes(png[at : at + 4])


def _has_known_start(data: bytes) -> bool:
    """Whether one of our formats claims the data by its first bytes."""
    return any(accept is not None and accept(data[:16]) is True for _, accept in map(Image.OPEN.__getitem__, FORMATS))
