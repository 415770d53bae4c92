"""Addresses without what is secret in them, for messages, logs and reports."""

from __future__ import annotations

import re

# A password may hold an unescaped @, and even a slash; a port followed by a path is none.
_PASSWORD = re.compile(r"(://[^/@:\s]*):(?:[^/\s]*@|(?!\d{1,5}[/?])\S*@)")
_PARAMETER = re.compile(r"([?&](?:pass(?:word|wd)?|pwd|token|secret|key|auth)=)[^&#\s]*", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """`text` with `***` for the passwords of all addresses in it, and for query parameters that are called so."""
    return _PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))
