"""A real cluster for tests: skipped with the reason where there is none, a namespace of its own for each user."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from helpers_functions import until
from shoal.core.errors import ShoalError
from shoal.platform.knative import objects
from shoal.platform.knative.adapter import KnativePlatform
from shoal.platform.knative.client import KubernetesCluster
from shoal.platform.knative.objects import Kind, condition
from shoal.platform.knative.settings import Settings, load

NAMESPACE = Kind("v1", "namespaces", "Namespace")
EVERYWHERE = "*"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
MANAGER = "shoal-tests"


def settings(namespace: str = "") -> Settings:
    """Read where the cluster is; the test is skipped, with the reason, where none is set or none answers."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("no cluster: KUBECONFIG is not set")
    found = load(target="cluster", namespace=namespace)
    if found.registry and not found.plain_http:
        found = replace(found, plain_http=found.registry.partition("/")[0])
    return found


def cluster(namespace: str = "") -> KubernetesCluster:
    """Give a client of the cluster, which is known to answer and to have Knative."""
    found = settings(namespace)
    client = KubernetesCluster(found.context, found.namespace)
    try:
        client.list(objects.SERVICE, labels="shoal.dev/none=none")
    except ShoalError as error:
        pytest.skip(f"no cluster: {error.message}")
    return client


@contextmanager
def namespace(part: str, *, restricted: bool = True) -> Iterator[str]:
    """Make a namespace nobody else uses, held to the restricted profile; it goes without being waited for."""
    client, name = cluster(), f"{part}-{uuid.uuid4().hex[:8]}"
    item = {"metadata": {"name": name, "labels": RESTRICTED if restricted else {}}}
    client.apply(NAMESPACE, item, MANAGER, EVERYWHERE)
    try:
        yield name
    finally:
        client.delete(NAMESPACE, name, EVERYWHERE)


@contextmanager
def platform(part: str) -> Iterator[KnativePlatform]:
    """Give a platform on a namespace of its own, with a broker ``default``."""
    with namespace(part) as name:
        found = KnativePlatform(settings(name))
        make_broker(found)
        yield found


def make_broker(found: KnativePlatform) -> None:
    """Make the broker ``default`` and wait until it takes events."""
    client = found.cluster
    broker = {
        "metadata": {
            "name": "default",
            "annotations": {"eventing.knative.dev/broker.class": "MTChannelBasedBroker"},
        }
    }
    client.apply(objects.BROKER, broker, MANAGER)
    until(lambda: condition(client.get(objects.BROKER, "default")).true, "the broker")
