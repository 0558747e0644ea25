"""Secrets and personal data are found; what documentation shows in their place is not."""

from __future__ import annotations

import pytest

from generator.privacy import PATTERNS, find_private

# Put together at run time, so that scanners of this repository find nothing.
SECRETS = {
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "an AWS key": "AKIA" + "Q3EGRZ7LSXW2M5VT",
    "a GitHub token": "ghp_" + "a1B2" * 9,
    "a GitLab token": "glpat-" + "x" * 20,
    "a Slack token": "xoxb-" + "123456789012-abcdefghij",
    "a Google key": "AIza" + "x" * 35,
    "a Stripe key": "sk_live_" + "x" * 24,
    "a Hugging Face token": "hf_" + "x" * 34,
    "an OpenAI key": "sk-proj-" + "x" * 40,
    "a JSON Web Token": "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0NTYifQ." + "x" * 20,
    "a password in a URL": "postgres://anna:" + "h7Gq2@db.internal/x",
    "an e-mail address": "anna.keller" + "@posteo.de",
    "an IP address": "93.184.216" + ".34",
}


def test_every_pattern_has_a_finding_here() -> None:
    assert set(SECRETS) == {pattern.kind for pattern in PATTERNS}


@pytest.mark.parametrize("kind", SECRETS)
def test_secrets_are_found_inside_code(kind: str) -> None:
    assert find_private(f'def f(x="{SECRETS[kind]}"):\n    return x\n') == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "someone@example.com, a@b.example, me@mail.test, x@localhost",
        "AKIAIOSFODNN7" + "EXAMPLE",
        "http://user:password@host/, ftp://{name}:{key}@host, redis://u:$PASS@h, https://a:a@b",
        "127.0.0.1 192.168.1.20 10.0.0.1 203.0.113.7 8.8.8.8 1.2.3.4 version 2.0.1.5 999.1.1.1 1.2.3.4.5",
        "matrix @ other, decorated @property\n@cache",
        "sk-learn, hf_transfer, eyJ, ghp_short",
        "-----BEGIN PUBLIC KEY-----",
    ],
)
def test_examples_that_stand_for_nobody_are_let_through(text: str) -> None:
    assert find_private(text) is None


def test_no_pattern_backtracks_on_long_text() -> None:
    """A megabyte of what patterns begin with takes seconds; quadratic time would be hours, past any test's limit."""
    for piece in ("a", "a.", "a@", "a:", "1.", "eyJ", "sk-", "x://", "http://a:"):
        find_private(piece * (1_000_000 // len(piece)))
