"""The kill test: a whole pipeline killed again and again must end with what an uninterrupted one makes.

    python benchmarks/chaos.py [--kills 50] [--seed 0] [--processes 1 2] [--out DIR] [--json FILE]

For each number of processes a small run of every stage goes through once, while every file operation of
each of its processes is noted. Then it is done again in rounds. The seed draws where each round is killed:
a stage, an operation on a file as counted from the process's start (so: not by the clock), before it or,
for files being written, after half of the first write; and whom SIGKILL hits: the process itself, one
rank, all ranks, the process that started the ranks, the supervisor, everything. After each kill the same
command is typed again and nothing else is done. A round ends when the command ends well; places that were
not reached by then (training has fewer saves left the further it is) are given up, and rounds go on until
there were enough kills. From the second round on a killed rank of several is started again once by itself
(MAX_RESTARTS=1).

At the end of each round every file of every stage must have the bytes of the uninterrupted run's (all but
the ledger and timings), MLflow must show each run, metric, step, image and file exactly as for the
uninterrupted run, and no process may be left. Exit code 1, with a list of what differs, otherwise.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from chaos_checks import differences
from chaos_runs import MOMENTS, Command, Order, draw_orders, read_events

ENOUGH = 40
"""Rounds after which something is wrong with the draws."""


@dataclass
class Tally:
    """What happened.

    Attributes:
        seed: Of the draws.
        file: Where to write it down after each round; None: nowhere.
        kills: Every kill, with how long its attempt lived.
        rounds: Of each: processes, attempts, places not reached, seconds.
        problems: What must not be.
    """

    seed: int = 0
    file: Path | None = None
    kills: list[dict[str, Any]] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def write(self) -> None:
        """Write down what happened so far."""
        if self.file:
            self.file.write_text(json.dumps(asdict(self) | {"file": str(self.file)}, indent=1))


def main() -> int:
    """Kill, compare, print; write the numbers if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the runs, kept (default: a temporary one, kept if something differs)",
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    started_s = time.monotonic()
    tally = Tally(arguments.seed, arguments.json)
    out = arguments.out or Path(mkdtemp(prefix="triptych-chaos-"))
    torment(out, arguments.kills, arguments.processes, tally)
    print(f"\n{where_table(tally.kills)}\n")
    print(f"{len(tally.kills)} kills in {len(tally.rounds)} rounds, {time.monotonic() - started_s:.0f} s")
    for problem in tally.problems:
        print(f"DIFFERS: {problem}")
    if tally.problems:
        print(f"the runs are in {out}")
        return 1
    print("every result and every MLflow entry equals the uninterrupted run's")
    if not arguments.out:
        rmtree(out)
    return 0


def torment(out: Path, kills: int, processes: Sequence[int], tally: Tally) -> None:
    """Reference runs, then rounds of kills, in turn for each number of processes."""
    out.mkdir(parents=True, exist_ok=True)
    random = Random(tally.seed)
    whole = {count: Command(out / f"whole-{count}", count) for count in processes}
    events = {}
    for count, command in whole.items():
        _say(f"uninterrupted, {count} process(es)")
        command.trace()
        events[count] = read_events(command.hooks)
        _say(f"took {command.seconds:.0f} s; {sum(events[count].values())} file operations in its stages")
    for number in range(ENOUGH):
        left = kills - len(tally.kills)
        if left <= 0:
            break
        count = processes[number % len(processes)]
        share = min(left, max(6, -(-kills // len(processes))))
        orders = draw_orders(events[count], share, random, count)
        again = Command(out / f"round-{number:02d}", count, max_restarts=int(number >= len(processes)))
        one_round(again, orders, tally)
        found = differences(whole[count].root, again.root)
        tally.problems += [f"round {number} ({count} process(es)): {line}" for line in found]
        tally.write()


def one_round(command: Command, orders: Sequence[Order], tally: Tally) -> None:
    """Start the command until it ends well."""
    command.give(orders)
    attempts, before = 0, time.monotonic()
    killed: list[dict[str, Any]] = []
    while True:
        attempts += 1
        code = command.attempt()
        fired = command.fired()[len(killed) :]
        for order in fired:
            killed.append(order | {"attempt": attempts, "seconds": round(command.seconds, 1)})
            _say(f"{command.root.parent.name}: attempt {attempts}: {_told(order)}")
        if code == 0 and command.is_uploaded():
            break
        if code and not fired:
            tally.problems.append(f"{command.describe(code)} although nothing was killed")
            break
    if left := command.left_over():
        tally.problems.append(f"processes left over: {left}")
    tally.kills += [kill | {"processes": command.processes} for kill in killed]
    seconds = round(time.monotonic() - before)
    missed = len(orders) - len(killed)
    tally.rounds.append({
        "processes": command.processes,
        "attempts": attempts,
        "missed": missed,
        "s": seconds,
    })
    _say(f"{command.root.parent.name}: {len(killed)} kills, {missed} places not reached, {seconds} s")


def where_table(kills: Sequence[dict[str, Any]]) -> str:
    """How often each stage was killed in which way, and by what operation."""
    ways = ["before", "torn", *sorted({kill["victim"] for kill in kills})]
    places = Counter((kill["stage"], way) for kill in kills for way in (kill["how"], kill["victim"]))
    saves = Counter(kill["stage"] for kill in kills if "checkpoints" in kill["path"])
    lines = [f"{'':12}{'all':>5}{'saves':>7}" + "".join(f"{way:>12}" for way in ways)]
    for stage in [*MOMENTS, "all"]:
        chosen = [stage] if stage != "all" else list(MOMENTS)
        total = sum(kill["stage"] in chosen for kill in kills)
        row = [sum(places[name, way] for name in chosen) for way in ways]
        line = f"{stage:12}{total:5}{sum(saves[name] for name in chosen):7}"
        lines.append(line + "".join(f"{value:12}" for value in row))
    return "\n".join(lines)


def _told(order: dict[str, Any]) -> str:
    how = "half-way through" if order["how"] == "torn" else "before"
    what = f"{order['operation']} {order['path']} no. {order['count']}"
    return f"{order['stage']}, {order['role']}, {how} {what}: killed {order['victim']}"


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
