"""Which Knative is too old."""

from __future__ import annotations

import pytest

from shoal.platform.knative import components
from shoal.platform.knative.objects import Object


def deployment(version: str) -> Object:
    return {"metadata": {"name": "controller", "labels": {"app.kubernetes.io/version": version}}}


@pytest.mark.parametrize("version", ["1.23.0", "v1.16.2", "0.50.0", "devel", "", "1.100.0"])
def test_what_is_new_enough_or_does_not_say(version: str) -> None:
    assert components.check_version([deployment(version)]) == ""


@pytest.mark.parametrize("version", ["1.15.9", "v1.9.0", "0.42.0"])
def test_what_is_too_old_is_told_with_both_versions(version: str) -> None:
    assert components.check_version([deployment(version)]) == f"Knative {version} is older than 1.16"
