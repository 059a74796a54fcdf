"""One core/v1 Event for each transition of a condition, counted up when the same happens again."""

import hashlib
import logging
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Any

from ams_common import labels
from ams_common.names import API_VERSION, KIND
from ams_common.resource.spec import ModelDeployment
from ams_kube.client import Client
from ams_kube.errors import KubeError, NotFound
from ams_kube.objects import EVENTS

from ams_operator.decide.observed import Transition

log = logging.getLogger(__name__)
_REMEMBERED = 4096
_LONGEST = 1000  # characters; the API server takes 1,024 bytes of a note


class EventPoster:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._counts: OrderedDict[str, tuple[int, str]] = OrderedDict()  # name → count, first time

    async def post(self, resource: ModelDeployment, transition: Transition, now: float) -> None:
        """Never raises for what the API server answers: an event is not worth a failed reconcile."""
        name = event_name(resource, transition)
        at = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        count, first = self._counts.pop(name, (0, at))
        self._counts[name] = (count + 1, first)
        if len(self._counts) > _REMEMBERED:
            self._counts.popitem(last=False)
        body = event_object(resource, transition, name, count + 1, first, at)
        try:
            await self._client.apply(EVENTS, resource.metadata.namespace, name, body, manager=labels.MANAGER)
        except NotFound:
            pass  # the namespace goes away
        except KubeError as error:
            log.info("event %s was not posted: %s", name, error)


def event_name(resource: ModelDeployment, transition: Transition) -> str:
    """The same for the same news about the same object."""
    identity = "\0".join((resource.metadata.uid, transition.reason, transition.message))
    return f"{resource.metadata.name}.{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def event_object(
    resource: ModelDeployment, transition: Transition, name: str, count: int, first: str, last: str
) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": resource.metadata.namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "name": resource.metadata.name,
            "namespace": resource.metadata.namespace,
            "uid": resource.metadata.uid,
        },
        "type": transition.type,
        "reason": transition.reason,
        "message": transition.message[:_LONGEST],
        "count": count,
        "firstTimestamp": first,
        "lastTimestamp": last,
        "source": {"component": labels.MANAGER},
        "reportingComponent": labels.MANAGER,
        "reportingInstance": labels.MANAGER,
    }
