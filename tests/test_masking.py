"""Secrets are hidden in every form, by name and by shape, and other texts stay as they are."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.masking import MASK, Masking, is_secret_name, mask_urls
from tests.support.secret_forms import forms_of, traces_of

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0*")
SECRETS = st.text(CHARACTERS, min_size=8, max_size=40).map(str.strip).filter(lambda s: len(s) > 7)


@given(SECRETS, st.text(CHARACTERS, max_size=9), st.text(CHARACTERS, max_size=9))
def test_a_known_secret_is_found_in_every_form(secret: str, before: str, after: str) -> None:
    masking = Masking([secret])
    for form in forms_of(secret):
        masked = masking.text(f"{before} {form} {after}")
        assert MASK in masked
        assert not [trace for trace in traces_of(secret) if trace in masked]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("s3://me:pass@host/x?y=1", "s3://***@host/x?y=1"),
        ("at http://me:p@ss@host:80: no", "at http://***@host:80: no"),
        ("http://host/a@b", "http://host/a@b"),
        ("Authorization: Bearer abc.def-123", "Authorization: *** ***"),
        ("curl -H 'Bearer abc.def-123'", "curl -H 'Bearer ***'"),
        ("x?X-Amz-Signature=0a1b&X-Amz-Date=2&y", "x?X-Amz-Signature=***&X-Amz-Date=2&y"),
        ("X-Amz-Credential=AKIA/2026/s3", "X-Amz-Credential=***"),
        ("?AWSAccessKeyId=a&Signature=b&Expires=3", "?AWSAccessKeyId=***&Signature=***&Expires=3"),
        ("the id AKIAIOSFODNN7EXAMPLE is", "the id *** is"),
        ("token hf_abcdefghijklmnopqrst", "token ***"),
        ("with whsec_QUJDREVG+/= signed", "with *** signed"),
        ('{"api_key": "abc", "seed": 3}', '{"api_key": "***", "seed": 3}'),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n", "***"),
        ("job-1a2b of tenant acme, 12 of 25 steps", "job-1a2b of tenant acme, 12 of 25 steps"),
    ],
)
def test_shapes_and_names(text: str, masked: str) -> None:
    assert Masking([]).text(text) == masked


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ({"password": "x", "n": 1}, {"password": MASK, "n": 1}),
        ({"credentials": {"user": "me"}, "ok": True}, {"credentials": MASK, "ok": True}),
        ({"webhook_url": "https://h.example/a/b?c"}, {"webhook_url": "https://h.example/***"}),
        ({"key": "k"}, {"key": MASK}),
        ({"keys": {"a": {"tenant": "t"}}}, {"keys": {"a": {"tenant": "t"}}}),
        ({"keys": ["a", 5]}, {"keys": [MASK, MASK]}),
        ([12345678, 1.5, None, "of 12345678"], [MASK, 1.5, None, f"of {MASK}"]),
        ({"at 12345678": 0}, {f"at {MASK}": 0}),
    ],
)
def test_records(value: Any, masked: Any) -> None:
    assert Masking(["12345678"]).value(value) == masked


def test_short_values_are_not_looked_for() -> None:
    assert Masking(["abc", "", "******"]).text("abcdef ***") == "abcdef ***"
    assert Masking(["first line\nsecond line"]).text("a second line") == "a ***"


def test_names() -> None:
    secret = [
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "HF_TOKEN",
        "FARM_KEYS",
        "PGPASSWORD",
        "api-key",
    ]
    plain = ["RAY_AUTH_MODE", "FARM_KEYS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "monkey", "KEYBOARD"]
    assert [name for name in (*secret, *plain) if is_secret_name(name)] == secret
    assert mask_urls("no URL: a@b") == "no URL: a@b"
