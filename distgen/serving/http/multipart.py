"""Forms with files (RFC 7578), read out of a body that is in memory already.

File names, content types and encodings of parts are not believed, and mostly not read.
"""

from __future__ import annotations

import re

from distgen.serving.http.errors import RequestError, shorten

MAX_UPLOAD_BYTES = 8 * 2**20
"""Of a whole body."""
MAX_PARTS = 32
_MAX_HEADER_BYTES = 4096
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;"]*)')
_REMEDY = "Send multipart/form-data, as `curl -F` and the OpenAI clients do."


def read_form(content_type: str | None, body: bytes) -> dict[str, bytes]:
    """The parts of a form by name, in order.

    Args:
        content_type: The request's header.
        body: All of it.

    Raises:
        RequestError: It is no such form, is cut, has too many parts, or two of one name.
    """
    kind, _, rest = (content_type or "").partition(";")
    if kind.strip().lower() != "multipart/form-data":
        raise _malformed(f"The body is {shorten(kind.strip()) or 'of no type'!r}, not a form")
    boundary = _parameters(";" + rest).get("boundary", "")
    if not 1 <= len(boundary) <= 70 or not boundary.isascii():
        raise _malformed("The form's content type names no boundary of 1 to 70 characters")
    return _parts(b"\r\n" + body, b"\r\n--" + boundary.encode("ascii"))


def _parts(body: bytes, delimiter: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    at = body.find(delimiter)
    while at >= 0:
        at += len(delimiter)
        if body.startswith(b"--", at):
            return found
        line_end = body.find(b"\r\n", at)
        end = body.find(delimiter, at)
        if line_end < 0 or end < 0 or body[at:line_end].strip(b" \t"):
            break
        if len(found) == MAX_PARTS:
            raise _malformed(f"The form has more than {MAX_PARTS} parts")
        # A part without headers begins with an empty line, which is the delimiter's own end.
        head_end = body.find(b"\r\n\r\n", line_end, min(end, line_end + _MAX_HEADER_BYTES))
        if head_end < 0:
            raise _malformed("A part of the form has no end of its headers, or too many")
        name = _name(body[line_end:head_end])
        if name in found:
            raise RequestError(
                f"The form has two parts called {shorten(name)!r}. Send one of each.", param=name
            )
        found[name] = body[head_end + 4 : end]
        at = end
    raise _malformed("The form has no end: it was cut, or its boundary is not the announced one")


def _name(head: bytes) -> str:
    try:
        lines = head.decode("utf-8").split("\r\n")
    except UnicodeDecodeError as error:
        raise _malformed("A part's headers are not UTF-8 text") from error
    for line in lines:
        field, _, value = line.partition(":")
        if field.strip().lower() == "content-disposition":
            kind, _, rest = value.partition(";")
            name = _parameters(";" + rest).get("name", "")
            if kind.strip().lower() == "form-data" and name:
                return name
    raise _malformed("A part of the form has no name")


def _parameters(text: str) -> dict[str, str]:
    """What follows a header's value, as in `; name="image"; filename="a.png"`."""
    found: dict[str, str] = {}
    for name, value in _PARAMETER.findall(text):
        plain = value.strip()
        if plain.startswith('"'):
            plain = re.sub(r"\\(.)", r"\1", plain[1:-1])
        found.setdefault(name.lower(), plain)
    return found


def _malformed(what: str) -> RequestError:
    return RequestError(f"{what}. {_REMEDY}", code="invalid_form")
