"""The log format of every process: one JSON object a line, in ASCII, to standard error."""

import logging
import sys
import traceback

import structlog

from pipeline.output.plain_text import plain_json


class JsonFormatter(logging.Formatter):
    """Formats what libraries log, with tracebacks, as our own lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one JSON object."""
        line = {"event": record.getMessage(), "logger": record.name, "level": record.levelname.lower()}
        if record.exc_info:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info)).removesuffix("\n")
        return plain_json(line)


def log_in_json() -> None:
    """Configure structlog and the standard library's logging for this process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(plain_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
