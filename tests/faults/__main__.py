"""The fault campaign: real processes, real disks, each fault at a moment drawn from the seed.

    python -m tests.faults [--seed S] [--times N] [--only NAME,...] --out DIR

Without --times, each fault happens as often as in docs/faults.md, which is the campaign that is committed. DIR receives results.jsonl
(a line for each fault: its moment, what was checked, findings) and table.md. Exit status 1 where there are findings. Linux; mounts are made in a
name space of the campaign's own (as root, or where users may have one), and what needs them is left out elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from .case import CHECKS, MARK, Case

ROOT = Path(__file__).resolve().parents[2]
STAGE = ROOT / "build" / "faults"
"""A copy of what ships, of its own: tests and builds replace theirs."""
MOUNTS = "UA3DTALK_FAULT_MOUNTS"
"""Environment variable, as plan.MOUNTS: this process may mount, and nobody else sees it."""


def own_mounts(arguments: list[str]) -> None:
    """Go on in a name space of mounts of our own, where the system gives one."""
    if MOUNTS in os.environ or not shutil.which("unshare"):
        return
    for how in (["--mount"], ["--user", "--map-root-user", "--mount"]):
        trial = subprocess.run(["unshare", *how, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
        if trial.returncode == 0:
            os.environ[MOUNTS] = "1"
            os.execvp("unshare", ["unshare", *how, sys.executable, "-m", "tests.faults", *arguments])


def prepare() -> None:
    """Stage what ships, and have it imported from there; before numpy is."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = "1"
    sys.path.insert(0, str(ROOT / "tests"))
    from support import load_build

    load_build().stage(STAGE / "ua3dtalk")
    sys.path.insert(0, str(STAGE))
    os.environ["NUMBA_CACHE_DIR"] = str(ROOT / "build" / "numba-tests")  # its files name the modules they were made in
    import numba  # noqa: F401 - reads the variable; the campaign's processes do without it

    del os.environ["NUMBA_CACHE_DIR"]


def table(lines: list[dict[str, Any]]) -> str:
    """A row for each fault."""
    rows = ["| fault | times | checked | findings |", "|---|---|---|---|"]
    for fault in dict.fromkeys(line["fault"] for line in lines):
        own = [line for line in lines if line["fault"] == fault]
        checked = [name for name in CHECKS if any(name in line["checked"] for line in own)]
        found = sum(bool(line["findings"]) for line in own)
        rows.append(f"| {fault} | {len(own)} | {', '.join(checked)} | {found or 'none'} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--times", type=int, help="how often each fault happens (as often as in docs/faults.md)")
    parser.add_argument("--minutes", type=float, default=600.0, help="begin no fault after so long")
    parser.add_argument("--only", help="names of faults, a comma between them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--warm", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("the campaign looks at processes in /proc; run it on Linux")
    own_mounts(sys.argv[1:])
    prepare()
    from .plan import FAULTS, Campaign, LeftOut

    if given.warm:
        with tempfile.TemporaryDirectory() as place, Campaign(Path(place), "", Path(sys.executable), STAGE / "ua3dtalk") as campaign:
            campaign.desk.warm()
        return 0
    # A process that compiles the kernels rounds the last bit of some numbers otherwise than those that load them: this one only loads.
    subprocess.run([sys.executable, "-m", "tests.faults", "--warm", "--out", str(given.out)], cwd=ROOT, check=True)

    names = list(FAULTS) if given.only is None else given.only.split(",")
    if unknown := set(names) - set(FAULTS):
        parser.error(f"no fault {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ[MARK] = mark = secrets.token_hex(8)
    lines: list[dict[str, Any]] = []
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(prefix="ua3dtalk-faults-", dir=memory if memory.is_dir() else None, ignore_cleanup_errors=True) as place,
        open(given.out / "results.jsonl", "w", encoding="utf-8") as results,
        Campaign(Path(place), mark, Path(sys.executable), STAGE / "ua3dtalk") as campaign,
    ):
        end = time.monotonic() + 60 * given.minutes
        for name, number in in_turn({name: FAULTS[name][0] if given.times is None else given.times for name in names}):
            if time.monotonic() > end:
                print("the time is over", flush=True)
                break
            try:
                line = once(name, number, given.seed, campaign.happen)
            except LeftOut as reason:
                print(f"{name}: left out, {reason}", flush=True)
                continue
            lines.append(line)
            results.write(json.dumps(line) + "\n")
            results.flush()
            for finding in line["findings"]:
                print(f"{name} {number}: {finding}", flush=True)
    (given.out / "table.md").write_text(table(lines), "utf-8")
    print(table(lines))
    return 1 if any(line["findings"] for line in lines) else 0


def in_turn(times: dict[str, int]) -> list[tuple[str, int]]:
    """Faults so that those that happen often are spread among the others: a campaign that is cut short has some of each."""
    return sorted(((name, number) for name in times for number in range(times[name])), key=lambda one: (one[1] + 0.5) / times[one[0]])


def once(name: str, number: int, seed: int, happen: Callable[[Case], None]) -> dict[str, Any]:
    """One fault, as a line of the results. Raises plan.LeftOut where it cannot happen here."""
    from .plan import LeftOut

    case = Case(name, number, Random(f"{name}/{seed}/{number}"))
    begin = time.monotonic()
    try:
        happen(case)
    except LeftOut:
        raise
    except Exception as error:  # whatever it is, it was not to happen
        traceback.print_exc()
        case.findings.append(f"raised: {type(error).__name__}: {error}")
    facts = {"seed": seed, "number": number, "seconds": round(time.monotonic() - begin, 2), "moment": case.moment}
    return {"fault": name, **facts, "checked": sorted(case.checked), "findings": case.findings}


if __name__ == "__main__":
    sys.exit(main())
