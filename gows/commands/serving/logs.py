"""Logs: what `gows serve` logs, and where. Its own loggers only; how an application logs is the application's."""

from __future__ import annotations

import configparser
import json
import logging
import logging.config
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gows.commands.screen import end_output
from gows.commands.serving.options import OptionError, ServeOptions

FAULTS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ImportError,
    RuntimeError,
    configparser.Error,
)
"""What logging.config raises for a file that is wrong."""

LINE = "%(asctime)s %(levelname)s %(message)s"


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[Any]
else:  # which Python 3.10 cannot subscript
    _StreamHandler = logging.StreamHandler


class OutputHandler(_StreamHandler):
    """Writes to standard output. A server goes on if nobody reads that."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def handleError(self, record: logging.LogRecord) -> None:
        """Write no more to a pipe that nobody reads."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            end_output()
        else:
            super().handleError(record)


def configure(options: ServeOptions) -> None:
    """Have errors and news on standard error, answers on standard output; or all as --log-config says. Raises
    OptionError for a file that cannot be used."""
    log, access = logging.getLogger("gows"), logging.getLogger("gows.access")
    if options.log_config is None:
        for logger, handler in ((log, logging.StreamHandler()), (access, OutputHandler())):
            handler.setFormatter(logging.Formatter(LINE))
            logger.handlers = [handler]
            logger.propagate = False
        log.setLevel("INFO")
    else:
        _configure_from(options.log_config)
    if options.log_level is not None:
        log.setLevel(options.log_level.upper())
    if not options.access_log:
        access.setLevel("WARNING")  # the lines are INFO, and are not even made


def _configure_from(path: str) -> None:
    try:
        text = Path(path).read_text("utf-8")
        if path.endswith(".json"):
            logging.config.dictConfig(json.loads(text))
        elif path.endswith((".yaml", ".yml")):
            logging.config.dictConfig(_yaml(text))
        else:
            parser = configparser.ConfigParser()
            parser.read_string(text, path)
            logging.config.fileConfig(parser, disable_existing_loggers=False)
    except FAULTS as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise OptionError(f"--log-config: {path} cannot be used: {why}") from None


def _yaml(text: str) -> Any:
    try:
        import yaml
    except ImportError:
        raise ImportError('YAML needs PyYAML: pip install "gows[serve]"') from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
