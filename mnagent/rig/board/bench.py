"""The rig's network around the mobile node of a labgrid environment, and the journey it goes on.

::

    with Bench(environment("qemu-virt"), folder) as bench:
        bench.strategy.transition("roaming")
        result = bench.travel((LINK_B, LINK_A))
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from labgrid import Environment
from labgrid.exceptions import InvalidConfigError

from mnagent.rig.board.drivers import Surroundings
from mnagent.rig.board.portal import Portal
from mnagent.rig.board.strategy import RoamingStrategy
from mnagent.rig.host import boottime
from mnagent.rig.impairment import Impairment
from mnagent.rig.judgement import Journey, Judge
from mnagent.rig.library import Step
from mnagent.rig.namespace import RigError
from mnagent.rig.recorder import Recorder, begin, commit
from mnagent.rig.recording import known, record
from mnagent.rig.report import Result, write_report
from mnagent.rig.roaming import Roaming, RoamingSettings, Traffic
from mnagent.rig.telling import Telling
from mnagent.rig.topology import FOREIGN_PREFIXES

ENVIRONMENTS = Path(__file__).parents[1] / "env"
DELAY = 0.005
"""Seconds, one way, between a foreign link and the core."""
DWELL = 2.0
"""Seconds of traffic on each link after it has resumed."""
INTERVAL_VARIABLE = "MNAGENT_RIG_INTERVAL"
LOGS = ("*.log", "*.hostapd", "*.supplicant", "iw-event.txt")
"""What programs of the rig wrote."""


def names() -> list[str]:
    """The environments that come with the rig."""
    return sorted(path.stem for path in ENVIRONMENTS.glob("*.yaml"))


def environment(target: str) -> Path:
    """The file of a target, by the name of one that comes with the rig, or its own path. Raises
    RigError."""
    path = Path(target) if target.endswith(".yaml") else ENVIRONMENTS / f"{target}.yaml"
    if not path.exists():
        raise RigError(f"no target {target}: name a labgrid file, or one of {', '.join(names())}")
    return path


class Bench:
    """A context: on entry all stands but the node, which is off; on exit it is off, and nothing is
    left behind but what is in ``folder``. Raises
    RigError, and what labgrid raises."""

    def __init__(
        self,
        file: Path,
        folder: Path,
        *,
        image: Path | None = None,
        results: Path | None = None,
    ) -> None:
        """``results``: the library of results that keeps the journey."""
        self.folder = folder
        self.name = file.stem
        try:
            self.environment = Environment(str(file))
        except InvalidConfigError as error:
            raise RigError(str(error)) from error
        if image is not None:
            self.environment.config.data.setdefault("images", {})["card"] = str(image)
        self._ending = contextlib.ExitStack()
        self.strategy: RoamingStrategy
        self.roaming: Roaming
        self.portal: Portal
        self._captures: dict[str, Path] = {}
        self._results = results
        self._recorder: Recorder | None = None

    def __enter__(self) -> Bench:
        with contextlib.ExitStack() as ending:
            self._clear_folder()
            varied = {"delay": f"{DELAY * 1000:g} ms"}
            started = begin(self._results, "journey", self.name, settings=varied)
            self._recorder = ending.enter_context(started)
            self.portal = Portal()
            ending.callback(self.portal.close)
            ending.callback(self.environment.cleanup)
            self.strategy = self._find_strategy()
            ending.enter_context(_variable(INTERVAL_VARIABLE, str(self.strategy.interval)))
            settings = RoamingSettings(impairment=Impairment(delay=DELAY))
            self.roaming = self.strategy.access.network(settings)
            self.portal(self.roaming.__aenter__())
            ending.callback(lambda: self.portal(self.roaming.__aexit__(None, None, None)))
            ending.callback(self._keep_logs)
            ending.callback(self.strategy.leave)
            self.strategy.join(Surroundings(self.portal, self.roaming, self.folder))
            self._captures = self.portal(self.roaming.start_captures(self.folder))
            self.portal(self.roaming.home_agent.start())
            self._ending = ending.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ending.__exit__(kind, error, traceback)

    def _clear_folder(self) -> None:
        """What an earlier run found must not pass for this one's."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for pattern in (*LOGS, "*.pcap", "report.*", "image.json"):
            for old in self.folder.glob(pattern):
                old.unlink()

    def _find_strategy(self) -> RoamingStrategy:
        target = self.environment.get_target("main")
        if target is None:
            raise RigError(f"{self.name}: the environment has no target called main")
        target.await_resources(target.resources)
        strategy: RoamingStrategy = target.get_strategy()
        return strategy

    def _keep_logs(self) -> None:
        for pattern in LOGS:
            for log in self.roaming.directory.glob(pattern):
                if log.stat().st_size:
                    shutil.copy(log, self.folder / log.name)

    @property
    def facts(self) -> dict[str, str]:
        """What was tested."""
        times = ", ".join(f"{name} {span:.0f} s" for name, span in self.strategy.times.items())
        return {
            "target": self.name,
            "commit": commit(),
            **self.strategy.facts,
            "seconds to each state": times,
            "load of this machine": f"{os.getloadavg()[0]:.1f}",
        }

    def travel(self, path: tuple[str, ...]) -> Result:
        """Take the node from link to link with all traffic going on, judge it, report. Needs it to
        be roaming; ends the captures, so that there is one journey for each rig."""
        result = self.portal(self._travel_told(path))
        if self.strategy.is_board:
            (self.folder / "mobile-node.log").write_text(self.strategy.journal())
        write_report(result, self.folder, json_file=None)
        if self._recorder is not None:
            record(result, self.folder, self._recorder, **known(result.facts))
        return result

    async def _travel_told(self, path: tuple[str, ...]) -> Result:
        if self._recorder is None:
            return await self._travel(path)
        async with Telling(self._recorder.tell, self.roaming):
            return await self._travel(path)

    async def _travel(self, path: tuple[str, ...]) -> Result:
        roaming, strategy = self.roaming, self.strategy
        timeout = 20.0 * strategy.patience
        problems: list[str] = []
        traffic = await Traffic.start(roaming)
        await asyncio.sleep(DWELL)
        for link in path:
            if self._recorder is not None:
                self._recorder.tell(Step(at=boottime(), text=f"Moving to {link}"))
            move = await asyncio.to_thread(strategy.move, link)
            try:
                await roaming.settled(move, timeout=timeout)
                await traffic.resumed(move.link_down_at, timeout=timeout)
            except RigError as error:
                problems.append(f"{move.origin} to {link}: {error}")
            await asyncio.sleep(DWELL)
        await traffic.finish()
        records = await roaming.mobile_node.handovers()
        dropped = await roaming.finish_captures()
        stops = {strategy.first_link, *path}
        journey = Journey(
            path=path,
            visited=tuple(link for link in FOREIGN_PREFIXES if link in stops),
            delay=DELAY,
            gap_limit=strategy.gap_limit,
            interval=strategy.interval,
            slack=strategy.slack,
        )
        return Judge(roaming, traffic, journey).judge(
            self._captures, dropped=dropped, problems=problems, records=records, facts=self.facts
        )


@contextlib.contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for the programs started inside."""
    before: Any = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
