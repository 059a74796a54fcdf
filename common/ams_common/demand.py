"""The load of the models as a gateway reports it, and the operator scales by it: `GET /internal/demand`."""

import msgspec


class ModelDemand(msgspec.Struct, frozen=True, gc=False):
    """Requests of one model, running and held.

    `idle_seconds` is the time since one last began or ended, or since the gateway started; None where no gateway
    reports the model.
    """

    in_flight: int = 0
    held: int = 0
    idle_seconds: float | None = None


class DemandReport(msgspec.Struct, frozen=True):
    """The report of one gateway; models by `namespace/name`.

    `version` differs from the last report's as soon as a request has to wait for a model.
    """

    version: int = 0
    models: dict[str, ModelDemand] = {}
