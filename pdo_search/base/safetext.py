"""Text that others wrote, made fit for logs, tables and screens: no secrets, no control characters.

Owns what counts as a secret. Knows nothing of where the text goes; ``screen``, ``log`` and the
trials' messages ask it.
"""

from __future__ import annotations

import os
import re

__all__ = ["SECRET", "one_line", "presentable", "printable", "redact"]

SECRET = "***"
SHORTEST_SECRET = 8
"""A shorter value of a variable is no secret worth the name, and would blot out ordinary words."""

_SECRET_NAME = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_KEY|PRIVATE_KEY)(_ID)?$",
    re.IGNORECASE,
)
_USER_INFO = re.compile(r"(?<=://)(?:[^\s/@:]+:[^\s@]+|[^\s/@:]+)@")
_SIGNED = re.compile(
    r"(?<=[?&;])((?:access_key|secret_key|session_token|password|token|sig|signature"
    r"|X-(?:Amz|Goog)-(?:Signature|Security-Token|Credential))=)[^&\s'\"]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """The text without secrets.

    Secrets are: the values of this process's environment variables whose names end in TOKEN,
    SECRET, PASSWORD, API_KEY, ACCESS_KEY or the like (``RAY_AUTH_TOKEN``,
    ``AWS_SECRET_ACCESS_KEY``), what stands before the ``@`` of a URI, and the signing arguments
    behind its ``?``.
    """
    for value in sorted(_secrets(), key=len, reverse=True):
        text = text.replace(value, SECRET)
    return _SIGNED.sub(rf"\1{SECRET}", _USER_INFO.sub(f"{SECRET}@", text))


def printable(text: str) -> str:
    """The text with everything but line breaks escaped that would steer a terminal."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def one_line(text: str) -> str:
    """The text with everything escaped that would steer a terminal, line breaks included."""
    return printable(text).replace("\n", "\\n")


def presentable(text: str) -> str:
    """The text without secrets and control characters."""
    return printable(redact(text))


def _secrets() -> set[str]:
    return {
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST_SECRET and _SECRET_NAME.search(name)
    }
