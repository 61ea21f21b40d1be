"""``mnagent run``: reads the configuration and becomes the daemon."""

from __future__ import annotations

import argparse
import dataclasses

from mnagent.config import Configuration, LogLevel, load
from mnagent.runtime import plain_asyncio, process
from mnagent.runtime.key_files import load_key_sets


def main(arguments: argparse.Namespace) -> int:
    """Run until stopped; the exit status is that of `mnagent.runtime.service.run`."""

    def read() -> Configuration:
        return with_log_level(load(arguments.config), arguments.log_level)

    process.postpone_collection()
    try:
        configuration = read()
        if configuration.mobile_node is not None:  # Home agents are quicker with large pages.
            process.use_small_pages()
        key_sets = load_key_sets(configuration)  # before the daemon: mistakes come without a log
        plain_asyncio.load()
        from mnagent.runtime import service

        return service.run(configuration, reread=read, key_sets=key_sets)
    finally:
        process.resume_collection()


def with_log_level(configuration: Configuration, level: str | None) -> Configuration:
    """The configuration with the level of the command line, if there is one."""
    if level is None:
        return configuration
    host = dataclasses.replace(configuration.host, log_level=LogLevel(level))
    return dataclasses.replace(configuration, host=host)
