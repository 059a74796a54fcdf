"""Leader election on a Lease: who holds it may write; who can't renew it in time must end."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from ams_kube.client import Client
from ams_kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from ams_kube.objects import LEASES, Lease, LeaseSpec

log = logging.getLogger(__name__)


class LeadershipLost(Exception):
    """The Lease could not be renewed in time, or another operator holds it: nothing may be written any more."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Times in seconds. `deadline` is shorter than `duration`: a leader ends before another one begins."""

    duration: float
    deadline: float

    @property
    def retry(self) -> float:
        return self.deadline / 5


class Election:
    """Take part with `run`; `leads` is whether this process may write now.

    With `pod_uid` the pod that leads owns the Lease: when all operators are gone the cluster collects it.
    """

    def __init__(
        self, client: Client, namespace: str, name: str, identity: str, terms: Terms, *, pod_uid: str = ""
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._terms = terms
        self._owners = [{"apiVersion": "v1", "kind": "Pod", "name": identity, "uid": pod_uid}] if pod_uid else []
        self._valid_until = 0.0  # monotonic
        self._seen: tuple[str | None, str | None] = (None, None)  # holder and renew time as last seen
        self._seen_at = 0.0
        self._held: Lease | None = None

    @property
    def leads(self) -> bool:
        return time.monotonic() < self._valid_until

    @property
    def seconds_left(self) -> float:
        """For how long writes are allowed."""
        return max(0.0, self._valid_until - time.monotonic())

    async def run(self, elected: Callable[[], None]) -> None:
        """Wait for the Lease, call `elected`, and renew it until cancelled. LeadershipLost ends it."""
        while True:
            if await self._try_once():
                break
            await asyncio.sleep(self._terms.retry)
        log.info("%s leads", self._identity)
        elected()
        while True:
            await asyncio.sleep(self._terms.retry)
            if not await self._try_once() and not self.leads:
                raise LeadershipLost(f"the Lease {self._name} could not be renewed for {self._terms.deadline:g} s")

    async def release(self) -> None:
        """Let the next one begin at once."""
        held, self._valid_until = self._held, 0.0
        if held is None:
            return
        self._held = None
        spec = LeaseSpec(
            holder_identity="",
            lease_duration_seconds=1,
            renew_time=_timestamp(),
            lease_transitions=held.spec.lease_transitions,
        )
        try:
            async with asyncio.timeout(1.0):
                await self._replace(held, spec)
        except (KubeError, TimeoutError) as error:
            log.info("the Lease %s was not released: %s", self._name, error)

    async def _try_once(self) -> bool:
        """Take or renew it; False if another one has it or the API server can't be asked."""
        began = time.monotonic()
        try:
            # Half of what is left until the deadline, so that a silent server leaves time for another try.
            async with asyncio.timeout(max(1.0, self.seconds_left / 2) if self._held else self._terms.deadline / 2):
                return await self._take(began)
        except Conflict:
            self._held = None  # somebody changed it: look first
            return False
        except NotFound:
            return await self._make_anew()
        except (KubeError, TimeoutError) as error:
            log.warning("the Lease %s can't be renewed: %s", self._name, str(error) or "no answer in time")
            return False

    async def _make_anew(self) -> bool:
        """The Lease was deleted: it is still ours if nobody was faster, and until that is known nothing is written."""
        self._held, self._valid_until = None, 0.0
        try:
            async with asyncio.timeout(self._terms.deadline / 2):
                return await self._create(time.monotonic())
        except (KubeError, TimeoutError) as error:
            log.warning("the Lease %s can't be made: %s", self._name, str(error) or "no answer in time")
            return False

    async def _take(self, began: float) -> bool:
        lease = self._held
        if lease is None:
            try:
                lease = await self._client.get(LEASES, self._namespace, self._name)
            except NotFound:
                return await self._create(began)
            if not self._may_take(lease):
                if self.leads:
                    self._valid_until = 0.0
                    raise LeadershipLost(f"the Lease {self._name} was taken by {lease.spec.holder_identity}")
                return False
        mine = lease.spec.holder_identity == self._identity
        spec = LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=max(1, round(self._terms.duration)),
            acquire_time=lease.spec.acquire_time if mine else _timestamp(),
            renew_time=_timestamp(),
            lease_transitions=(lease.spec.lease_transitions or 0) + (not mine),
        )
        self._held = await self._replace(lease, spec)
        self._valid_until = began + self._terms.deadline
        return True

    async def _create(self, began: float) -> bool:
        spec = LeaseSpec(
            holder_identity=self._identity,
            lease_duration_seconds=max(1, round(self._terms.duration)),
            acquire_time=_timestamp(),
            renew_time=_timestamp(),
            lease_transitions=0,
        )
        try:
            metadata = {"name": self._name, "namespace": self._namespace, "ownerReferences": self._owners}
            body = {"metadata": metadata, "spec": spec}
            self._held = await self._client.create(LEASES, self._namespace, body)
        except AlreadyExists:
            return False
        self._valid_until = began + self._terms.deadline
        return True

    def _may_take(self, lease: Lease) -> bool:
        """It is ours (of this name's last run), was released, or was not renewed for as long as it lasts.

        Clocks of other machines are not trusted: what counts is for how long it was seen unchanged here.
        """
        spec, now = lease.spec, time.monotonic()
        if (spec.holder_identity, spec.renew_time) != self._seen:
            self._seen, self._seen_at = (spec.holder_identity, spec.renew_time), now
        if not spec.holder_identity or spec.holder_identity == self._identity:
            return True
        return now - self._seen_at >= (spec.lease_duration_seconds or self._terms.duration)

    async def _replace(self, lease: Lease, spec: LeaseSpec) -> Lease:
        metadata = {
            "name": self._name,
            "namespace": self._namespace,
            "resourceVersion": lease.metadata.resource_version,
            "uid": lease.metadata.uid,
            "ownerReferences": self._owners,
        }
        return await self._client.replace(LEASES, self._namespace, self._name, {"metadata": metadata, "spec": spec})


def _timestamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
