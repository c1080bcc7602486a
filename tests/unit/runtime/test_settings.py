"""A function's environment: defaults, every variable, and one precise error per mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from shoal.core import limits
from shoal.core.errors import UsageError
from shoal.runtime.settings import Settings


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.listen_fd) == ("127.0.0.1", 8080, None)
    assert settings.queue_max == limits.CONCURRENCY_DEFAULT * limits.QUEUE_FACTOR


def test_every_variable_is_read() -> None:
    settings = Settings.from_env(
        {
            "HOST": "::1",
            "PORT": "9000",
            "SHOAL_LISTEN_FD": "7",
            "K_SERVICE": "filetype",
            "K_REVISION": "filetype-00002",
            "K_CONFIGURATION": "filetype-config",
            "SHOAL_SOURCE": "/code",
            "SHOAL_HANDLER": "main.py",
            "SHOAL_MODELS": '{"magika": "magika--3f2a9c1d22e0"}',
            "SHOAL_POOL": "10.0.0.1:8000, [::1]:8000",
            "SHOAL_CONCURRENCY": "3",
            "SHOAL_TIMEOUT_SECONDS": "1.5",
            "SHOAL_THREADS": "2",
            "SHOAL_LOG_LEVEL": "WARNING",
            "SHOAL_BODY_BYTES_MAX": "1024",
        }
    )
    assert settings == Settings(
        host="::1",
        port=9000,
        listen_fd=7,
        service="filetype",
        revision="filetype-00002",
        configuration="filetype-config",
        source=Path("/code"),
        handler="main.py",
        models={"magika": "magika--3f2a9c1d22e0"},
        pool=("10.0.0.1:8000", "[::1]:8000"),
        concurrency=3,
        timeout_s=1.5,
        threads=2,
        log_level="warning",
        body_bytes_max=1024,
    )


def test_in_a_cluster_it_listens_on_all_addresses_unless_told() -> None:
    assert Settings.from_env({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}).host == "0.0.0.0"
    assert Settings.from_env({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "HOST": "127.0.0.2"}).host == "127.0.0.2"


def test_the_source_of_functions_framework_is_taken_when_ours_is_absent() -> None:
    settings = Settings.from_env({"FUNCTION_SOURCE": "/app/main.py"})
    assert (settings.source, settings.handler) == (Path("/app"), "main.py")
    assert Settings.from_env({"FUNCTION_SOURCE": "/app/main.py", "SHOAL_SOURCE": "/code"}).source == Path("/code")


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("PORT", "http", "a whole number from 0 to 65535"),
        ("PORT", "65536", "a whole number from 0 to 65535"),
        ("PORT", "-1", "a whole number from 0 to 65535"),
        ("PORT", "²", "a whole number"),
        ("SHOAL_LISTEN_FD", "1", "a whole number from 3"),
        ("SHOAL_CONCURRENCY", "0", "a whole number from 1 to 1000"),
        ("SHOAL_CONCURRENCY", "9" * 5000, "a whole number from 1 to 1000"),
        ("SHOAL_TIMEOUT_SECONDS", "nan", "above 0, at most 600"),
        ("SHOAL_TIMEOUT_SECONDS", "0", "above 0, at most 600"),
        ("SHOAL_TIMEOUT_SECONDS", "1m", "above 0, at most 600"),
        ("SHOAL_THREADS", "0", "a whole number from 1 to 256"),
        ("SHOAL_LOG_LEVEL", "loud", "one of debug, info, warning, error"),
        ("SHOAL_BODY_BYTES_MAX", "1k", "a whole number"),
        ("SHOAL_MODELS", "[1]", "a JSON object"),
        ("SHOAL_MODELS", '{"m": 1}', "a JSON object"),
        ("SHOAL_MODELS", "{", "a JSON object"),
        ("SHOAL_POOL", "localhost", "host:port"),
        ("SHOAL_POOL", "localhost:0", "host:port"),
        ("SHOAL_HANDLER", "../handler.py", "a file name without a folder"),
    ],
)
def test_a_mistake_names_the_variable_its_value_and_the_rule(name: str, value: str, rule: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings.from_env({name: value})
    assert name in caught.value.message
    assert repr(value) in caught.value.message
    assert rule in caught.value.message


def test_more_models_than_a_function_may_have_are_refused() -> None:
    models = ",".join(f'"m{i}": "m--{i}"' for i in range(limits.MODELS_PER_FUNCTION_MAX + 1))
    with pytest.raises(UsageError, match="16 models at most"):
        Settings.from_env({"SHOAL_MODELS": f"{{{models}}}"})
