"""A function's log lines: read from its pods through the API server, merged by time.

Kubernetes keeps them as long as the pod: what fell to zero long ago has none.
"""

from __future__ import annotations

import heapq
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from shoal.core import limits
from shoal.core.errors import ShoalError
from shoal.platform.knative import objects
from shoal.platform.knative.client import Cluster
from shoal.platform.knative.objects import Object, name_of

Pods = Callable[[], list[Object]]


def read(cluster: Cluster, pods: Pods, lines: int) -> list[str]:
    """Give the newest ``lines`` of all pods together, oldest first."""
    if lines <= 0:
        return []
    stamped = [list(_lines(cluster, pod, {"tailLines": lines}, limits.CLUSTER_CALL_SECONDS_MAX)) for pod in pods()]
    merged = list(heapq.merge(*stamped, key=_time))
    return [line.partition(" ")[2] for line in merged[-lines:]]


def follow(cluster: Cluster, pods: Pods, since: str) -> Iterator[str]:
    """Yield lines written after ``since`` (RFC 3339) as they come, of pods that start later too; without end."""
    arrived: queue.Queue[str] = queue.Queue(limits.CLUSTER_LOG_QUEUE_MAX)
    over = threading.Event()
    followed: set[str] = set()
    try:
        while True:
            for pod in pods():
                if name_of(pod) not in followed and len(followed) < limits.CLUSTER_FOLLOWED_PODS_MAX:
                    followed.add(name_of(pod))
                    threading.Thread(target=_pump, args=(cluster, pod, since, arrived, over), daemon=True).start()
            yield from _for_a_while(arrived)
    finally:
        over.set()


def _for_a_while(arrived: queue.Queue[str]) -> Iterator[str]:
    """Yield what comes until it is time to look for new pods."""
    end = time.monotonic() + limits.CLUSTER_RESYNC_SECONDS
    with suppress(queue.Empty):
        while (left := end - time.monotonic()) > 0:
            yield arrived.get(timeout=left).partition(" ")[2]


def _pump(cluster: Cluster, pod: Object, since: str, arrived: queue.Queue[str], over: threading.Event) -> None:
    for line in _lines(cluster, pod, {"follow": "true", "sinceTime": since}, None):
        while not over.is_set():
            with suppress(queue.Full):
                arrived.put(line, timeout=limits.CLUSTER_RESYNC_SECONDS)
                break
        if over.is_set():
            return


def _lines(cluster: Cluster, pod: Object, parameters: dict[str, object], seconds: float | None) -> Iterator[str]:
    path = f"{objects.POD.path(str(objects.metadata(pod)['namespace']), name_of(pod))}/log"
    asked = {"container": objects.USER_CONTAINER, "timestamps": "true", **parameters}
    with suppress(ShoalError):  # a pod that is gone, or whose container has not begun, has no lines
        for raw in cluster.lines(path, asked, seconds):
            yield raw.decode("utf-8", "replace")


def _time(line: str) -> str:
    return line.partition(" ")[0]
