"""Credentials in places where they do not belong: found, refused, and never repeated."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

_SHIELD = "***"
# Beside plain userinfo, options by which signed links and clumsy tools carry keys.
_USERINFO = re.compile(r"(?<=://)[^/?#\s'\"@]*@")
_OPTION = re.compile(
    r"(?i)([?&][\w.-]*(?:secret|token|password|passwd|signature|credential|access_key|api_?key)"
    r"[\w.-]*=)[^&#\s'\"]+"
)
_ANONYMOUS = "anonymous@"  # how pyarrow is told to use no credentials at all
_REFUSAL = (
    "credentials do not belong into a URL, which is kept in files, logs and lists of processes; "
    "put them into the environment of those who use it"
)


def shielded(text: str) -> str:
    """The text with what looks like credentials in its URLs replaced by stars."""
    text = _USERINFO.sub(_unless_anonymous, text)
    return _OPTION.sub(lambda m: f"{m[1]}{_SHIELD}", text)


def without_user(url: str) -> str:
    """The URL, which has no user and password before its host.

    Raises:
        ValueError: It has; the text does not repeat them.
    """
    if _USERINFO.sub(_unless_anonymous, url) != url:
        raise ValueError(_REFUSAL)
    return url


def without_credentials(url: str) -> str:
    """The URL, which holds no credentials at all, signed links included.

    Raises:
        ValueError: It does; the text does not repeat them.
    """
    if shielded(url) != url:
        raise ValueError(_REFUSAL)
    return url


def _unless_anonymous(found: re.Match[str]) -> str:
    return found[0] if found[0] == _ANONYMOUS else f"{_SHIELD}@"


Place = Annotated[str, AfterValidator(without_credentials)]
"""A path or URL in a job file, which is copied to clusters and runs."""
