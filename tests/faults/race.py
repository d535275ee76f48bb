"""One racer of disk.race_for_a_dead_lock: `python -m tests.faults.race FOLDER DEAD ROUNDS NUMBER RACERS`; prints [won, ...] as JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    from .__main__ import STAGE

    sys.path.insert(0, str(STAGE))

import numpy as np  # noqa: E402
from ua3dtalk.engine.avatar import Gaussians  # noqa: E402
from ua3dtalk.engine.cache import LOCK_FILE, CacheHeader, CacheWriter  # noqa: E402
from ua3dtalk.engine.errors import UserError  # noqa: E402

HEADER = CacheHeader("Racer", "a" * 64, "", "sorted", 25.0, "", 0, 0, "0", "cpu")
STILL = Gaussians(*(np.zeros((1, n), np.float32) for n in (3, 4, 3)), np.zeros(1, np.float32), np.zeros((1, 1, 3), np.float32))


def main(folder: Path, dead: str, rounds: int, number: int, racers: int) -> list[bool]:
    """In each round all wait for each other; racer 0 lays the dead lock; each tries to write, and holds the folder until all have tried."""
    won = []

    def meet(what: str) -> None:
        (folder.with_name(f"{folder.name}-{what}-{number}")).touch()
        while not all(folder.with_name(f"{folder.name}-{what}-{other}").exists() for other in range(racers)):
            time.sleep(0)

    for turn in range(rounds):
        meet(f"{turn}-end")
        if number == 0:
            lock = folder / LOCK_FILE
            lock.with_suffix(".new").write_text(dead)
            os.replace(lock.with_suffix(".new"), lock)
        meet(f"{turn}-go")
        try:
            writer = CacheWriter(folder, HEADER, STILL, np.zeros(1, np.uint8), np.zeros(0, np.int32))
        except UserError:
            writer = None
        won.append(writer is not None)
        meet(f"{turn}-tried")
        if writer is not None:
            writer.close()
    return won


if __name__ == "__main__":
    place, text, *numbers = sys.argv[1:]
    print(json.dumps(main(Path(place), text, *map(int, numbers))))
