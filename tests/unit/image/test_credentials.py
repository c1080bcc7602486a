"""Credentials come from docker's configuration, and never show in a text."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from shoal.core.errors import UsageError
from shoal.image.credentials import Credentials, find

SECRET = "hunter2-secret"


def config(folder: Path, document: Any) -> dict[str, str]:
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "config.json").write_text(text)
    return {"DOCKER_CONFIG": str(folder), "PATH": str(folder)}


def helper(folder: Path, script: str) -> None:
    path = folder / "docker-credential-test"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert find("r.example", {"DOCKER_CONFIG": str(tmp_path)}) is None


@pytest.mark.parametrize("key", ["r.example", "https://r.example", "https://r.example/v2/"])
def test_a_stored_password_is_found_by_host(tmp_path: Path, key: str) -> None:
    env = config(tmp_path, {"auths": {"other.example": {"auth": "x"}, key: {"auth": encoded(f"pat:{SECRET}:x")}}})
    assert find("r.example", env) == Credentials("pat", f"{SECRET}:x")
    assert find("r.example:5000", env) is None


def test_an_identity_token_is_found(tmp_path: Path) -> None:
    env = config(tmp_path, {"auths": {"r.example": {"identitytoken": SECRET}}})
    assert find("r.example", env) == Credentials(identity_token=SECRET)


def test_a_helper_for_the_host_is_asked(tmp_path: Path) -> None:
    env = config(tmp_path, {"credHelpers": {"r.example": "test"}, "credsStore": "absent"})
    helper(tmp_path, f'read host; echo "{{\\"Username\\": \\"for $host\\", \\"Secret\\": \\"{SECRET}\\"}}"')
    assert find("r.example", env) == Credentials("for r.example", SECRET)


def test_a_helpers_token_and_its_no(tmp_path: Path) -> None:
    env = config(tmp_path, {"credsStore": "test"})
    helper(tmp_path, f'echo \'{{"Username": "<token>", "Secret": "{SECRET}"}}\'')
    assert find("r.example", env) == Credentials(identity_token=SECRET)
    helper(tmp_path, "echo credentials not found in native keychain; exit 1")
    assert find("r.example", env) is None


@pytest.mark.parametrize(
    ("document", "script", "words"),
    [
        ("{broken " + SECRET, "", "is not a JSON object"),
        ("[]", "", "is not a JSON object"),
        ({"auths": {"r.example": {"auth": SECRET}}}, "", "is not user:password in base64"),
        ({"credsStore": "absent"}, "", "docker-credential-absent is not on PATH"),
        ({"credsStore": "../../bin/sh"}, "", "is not on PATH"),
        ({"credsStore": "test"}, f"echo {SECRET}; exit 3", "ended with 3 for r.example"),
        ({"credsStore": "test"}, f"echo {SECRET}", "with no Username and Secret"),
    ],
)
def test_what_is_wrong_is_said_without_the_secret(tmp_path: Path, document: Any, script: str, words: str) -> None:
    env = config(tmp_path, document)
    if script:
        helper(tmp_path, script)
    with pytest.raises(UsageError, match=words) as caught:
        find("r.example", env)
    assert SECRET not in caught.value.message + caught.value.hint


def test_no_text_shows_a_secret() -> None:
    shown = repr([Credentials("pat", SECRET), Credentials(identity_token=SECRET)])
    assert SECRET not in shown
    assert "pat" in shown
