"""Upload: the body of a prediction request, in each of its three forms, as encoded images and options."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic_core import from_json
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from service.errors import FormatError, InvalidError, MalformedError, TooLargeError
from service.problems import check_count, faults_of
from service.schemas import OPTION_FIELDS, JsonBody, Options

__all__ = ["REQUEST_BODY", "Upload", "has_options", "read_upload"]

FILE_FIELDS = ("file", "image")
MAX_FORM_FIELDS = 32
CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"latin-1", b"latin1")
"""Of the text in a form. Python knows a hundred more, some of which give text that no answer can hold, and remembers
every name that it does not know."""

BINARY = {"type": "string", "format": "binary"}
REQUEST_BODY = {
    "required": True,
    "content": {
        "image/*": {"schema": BINARY},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {
                        "type": "array",
                        "items": BINARY,
                        "minItems": 1,
                        "description": "An encoded image, or several: the answer is then a list in the same order. "
                        "The name `image` is taken as well.",
                    },
                    **OPTION_FIELDS,
                },
            }
        },
        "application/json": {
            "schema": JsonBody.model_json_schema(),
            "example": {"image": "/9j/4AAQSkZJRg==", "deadline_ms": 50, "top_k": 3},
        },
    },
}
"""The forms of the body for the API's documentation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Encoded images, each under the name that an error calls it by, and the options that came with them."""

    images: dict[str, bytes]
    options: Options | None = None
    """None where none came."""
    is_list: bool = False
    """Whether the answer is a list."""


def has_options(request: Request) -> bool:
    """Whether the body is of a form that can hold options, by its Content-Type."""
    return not _kind(request).startswith("image/")


async def read_upload(
    request: Request, *, max_bytes: int, max_images: int, take: Callable[[int], None] = lambda _: None
) -> Upload:
    """Read and take apart the body; `take` hears of all bytes that come, and may refuse them.

    Raises:
        FormatError: a Content-Type that is none of the three, or a form's charset that is not read.
        MalformedError: a body that is not what its Content-Type says, or none.
        TooLargeError: more than `max_bytes`.
        InvalidError: unknown or invalid fields, no image or more than `max_images`.
        ClientDisconnect: the client went away before its end.
    """
    receive = _limited(request, max_bytes, take)
    kind = _kind(request)
    if kind.startswith("image/"):
        if not (data := await _whole(receive)):
            raise MalformedError("the body is empty; send the bytes of an image")
        return Upload(images={"image": data})
    if kind == "multipart/form-data":
        _, parameters = parse_options_header(request.headers["content-type"])
        if (charset := parameters.get(b"charset", b"utf-8")).lower() not in CHARSETS:
            raise FormatError(f"a form in the charset {charset[:40].decode('latin-1')} is not read; send it in UTF-8")
        try:
            return await _from_form(Request(request.scope, receive), max_images)
        except MultiPartException as error:
            if error.message.startswith("Too many files"):
                raise InvalidError({"body.file": f"more than {max_images} images"}) from error
            raise MalformedError(f"the form cannot be read: {error.message}") from error
    if kind == "application/json":
        return _from_json(await _whole(receive), max_images)
    raise FormatError(
        f"Content-Type {kind or '(none)'} is not served; send image/*, multipart/form-data or application/json"
    )


class _InMemory(MultiPartParser):
    """Starlette's without temporary files: a whole form is no larger than any other body may be."""

    spool_max_size = sys.maxsize


async def _from_form(request: Request, max_images: int) -> Upload:
    async with aclosing(request.stream()) as stream:
        parser = _InMemory(request.headers, stream, max_files=max_images, max_fields=MAX_FORM_FIELDS)
        form = await parser.parse()
    try:
        images: dict[str, bytes] = {}
        fields: dict[str, str] = {}
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                if name in FILE_FIELDS:
                    raise InvalidError({f"body.{name}": "is text; send it as a file, with a filename"})
                if name in fields:
                    raise InvalidError({f"body.{name}": "is given twice"})
                fields[name] = value
            elif name in FILE_FIELDS:
                images[f"body.{name}.{len(images)}"] = await value.read()
            else:
                raise InvalidError({f"body.{name}": f"is no field for a file; valid: {', '.join(FILE_FIELDS)}"})
    finally:
        await form.close()
    try:
        options = Options.model_validate(fields) if fields else None
    except ValidationError as error:
        raise InvalidError(faults_of(error, "body")) from error
    if not images:
        raise InvalidError({"body.file": "is missing"})
    return Upload(images=images, options=options, is_list=len(images) > 1)


def _from_json(data: bytes, max_images: int) -> Upload:
    try:
        given = from_json(data)
    except ValueError as error:
        raise MalformedError(f"the body is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise InvalidError({"body": "is no JSON object"})
    # Before the faults are gathered, of which each takes a hundred times as much as what is at fault.
    check_count(given, JsonBody, "body")
    if not isinstance(images := given.get("images", []), list | None):
        raise InvalidError({"body.images": "is no list"})
    if images is not None and len(images) > max_images:
        raise InvalidError({"body.images": f"{len(images)} images; at most {max_images} are allowed"})
    try:
        body = JsonBody.model_validate(given)
    except ValidationError as error:
        raise InvalidError(faults_of(error, "body", JsonBody)) from error
    if (body.image is None) == (body.images is None):
        raise InvalidError({"body.image": "give either image or images"})
    if body.image is not None:
        return Upload(images={"body.image": body.image}, options=body)
    numbered = {f"body.images.{number}": image for number, image in enumerate(body.images or ())}
    return Upload(images=numbered, options=body, is_list=True)


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _whole(receive: Receive) -> bytes:
    """A body to its end, for a third of what `Request.body` takes."""
    parts, more = [], True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _limited(request: Request, max_bytes: int, take: Callable[[int], None]) -> Receive:
    """Receives a request's body, which may not have more than `max_bytes`: refused by its head where that tells."""
    too_large = TooLargeError(f"the body has more than the {max_bytes} bytes allowed")
    length = request.headers.get("content-length", "").lstrip("0")  # of zeros there may be more than `int` reads
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        count = len(message.get("body", b""))
        received += count
        if received > max_bytes:
            raise too_large
        take(count)
        return message

    return receive
