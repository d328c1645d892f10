"""A program that builds again and again, each time killed by itself at another file operation.

    python -c "from tests.killed_builds import main; main()" FOLDER SEED POINTS WORDS...

Everything is imported once; each build is a fork, which counts what it does to files below its
store (open, rename, link, remove, ...) and sends itself SIGKILL before one of them. POINTS of them
are spread at random over all that a whole build does, and three more are where it publishes. Each
killed store is then finished by an uninterrupted build. A JSON line for each tells at which
operation it was killed, and on which file.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

from tests.toy_tokenizer import ToyTokenizer
from tokenstore.build import ray, run
from tokenstore.cli.build import command
from tokenstore.tokenizers import load_tokenizer

EVENTS = {"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}


def build(place: Path, words: list[str], die_at: int | None, log: Path) -> int:
    """Build in a fork; gives what `waitpid` says of it."""
    child = os.fork()
    if not child:
        code = 1
        try:
            watch(place, die_at, log)
            command.main([*words, "-o", str(place)], standalone_mode=False)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def watch(place: Path, die_at: int | None, log: Path) -> None:
    """Write each operation to the log, and die before number `die_at`."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    seen = 0

    def hook(event: str, words: tuple[object, ...]) -> None:
        nonlocal seen
        paths = [str(word) for word in words[:2] if str(word).startswith(str(place))]
        if event not in EVENTS or not paths:
            return
        line = f"{event} {paths[-1].removeprefix(str(place))}\n"
        os.write(descriptor, line.encode())
        if seen == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    sys.addaudithook(hook)


def main() -> None:
    """Not run as a module, which every worker process of the builds would import again."""
    assert ToyTokenizer and ray and run and load_tokenizer("toy")
    folder, (seed, points), words = Path(sys.argv[1]), map(int, sys.argv[2:4]), sys.argv[4:]
    log = folder / "log"
    told, nowhere = os.fdopen(os.dup(1), "w"), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    assert build(folder / "whole", words, None, log) == 0
    operations = log.read_text().splitlines()
    for number, at in enumerate(moments(operations, points, random.Random(seed))):
        place = folder / f"killed-{number:03d}"
        killed = build(place, words, at, log)
        last = log.read_text().splitlines()[-1] if killed else "none"
        again = build(place, words, None, log)
        told.write(json.dumps({"killed": killed, "at": at, "last": last, "again": again}) + "\n")
    told.close()


def moments(operations: list[str], points: int, rng: random.Random) -> list[int]:
    """Random ones of a run of operations, spread over it, and three that publish its manifest."""
    count = len(operations)
    spread = [
        rng.randrange(number * count // points, (number + 1) * count // points)
        for number in range(points)
    ]
    publishing = [place for place, line in enumerate(operations) if "/manifest" in line]
    return [*spread, *rng.sample(publishing, 3)]
