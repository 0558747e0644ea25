"""Secrets and personal data in text: what must neither be shown to a model nor learnt by one.

Patterns are those of the issuers of keys; each is a literal row. Examples that stand for nobody (example.com, addresses
reserved for documentation, `user:password`) are let through, since documentation is full of them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pattern:
    """One kind of thing. `is_real` tells a finding from an example; None takes every match."""

    kind: str
    regex: re.Pattern[str]
    is_real: Callable[[str], bool] | None = None


def _is_real_address(text: str) -> bool:
    domain = text.rpartition("@")[2].casefold()
    return not re.search(r"(?:^|\.)(?:example|test|invalid|localhost)(?:$|\.)|^(?:domain|email|mail|host)\.", domain)


def _is_real_login(text: str) -> bool:
    login = text.partition("://")[2].rstrip("@").casefold()
    name, _, password = login.partition(":")
    return password not in {"pass", "password", "passwd", "pwd", "secret", name} and not re.search(
        r"[<{$*%]|xxx", login
    )


def _is_real_host(text: str) -> bool:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    # Well-known resolvers and counting-up examples name nobody; 0 in front is a version number.
    return address.is_global and text not in {"1.1.1.1", "1.2.3.4", "8.8.8.8", "8.8.4.4"} and int(address) >> 24 > 9


PATTERNS: tuple[Pattern, ...] = (
    Pattern("a private key", re.compile(r"-----BEGIN (?:[A-Z]{2,10} )?PRIVATE KEY(?: BLOCK)?-----")),
    Pattern("an AWS key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), lambda text: not text.endswith("EXAMPLE")),
    Pattern("a GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})\b")),
    Pattern("a GitLab token", re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}")),
    Pattern("a Slack token", re.compile(r"\bxox[abeprs]-[A-Za-z0-9-]{20,}")),
    Pattern("a Google key", re.compile(r"\bAIza[A-Za-z0-9_-]{35}")),
    Pattern("a Stripe key", re.compile(r"\b[rs]k_live_[A-Za-z0-9]{20,}")),
    Pattern("a Hugging Face token", re.compile(r"\bhf_[A-Za-z]{34}\b")),
    Pattern("an OpenAI key", re.compile(r"\bsk-(?:proj-)?[A-Za-z0-9_-]{32,}")),
    Pattern("a JSON Web Token", re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}")),
    Pattern(
        "a password in a URL",
        re.compile(r"\b[a-z][a-z0-9+.]{1,15}://[^\s/:@'\"]{1,64}:[^\s/:@'\"]{1,64}@"),
        _is_real_login,
    ),
    Pattern(
        "an e-mail address",
        re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})*\.[A-Za-z]{2,24}\b"),
        _is_real_address,
    ),
    Pattern("an IP address", re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])"), _is_real_host),
)


def find_private(text: str) -> str | None:
    """Say what kind of secret or personal data the text holds, or None; never what it is."""
    for pattern in PATTERNS:
        for match in pattern.regex.finditer(text):
            if pattern.is_real is None or pattern.is_real(match[0]):
                return pattern.kind
    return None
