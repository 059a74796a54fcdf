"""Log records as JSON, one object a line: the form that the components of a cluster share."""

import logging
from datetime import UTC, datetime

import msgspec


class JsonLines(logging.Formatter):
    """`{"time", "level", "logger", "message"}`, and `trace` where there is an exception."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": f"{at:%Y-%m-%dT%H:%M:%S}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()
