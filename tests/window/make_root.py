#!/usr/bin/env python3
"""Makes the root folder in which the walk through Blender's window runs: Debian unstable's Blender with a screen in memory.

    sudo python3 tests/window/make_root.py FOLDER

About 1.1 GB; from the mirror that this machine's own apt sources name. A folder that is whole already is left alone.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

SUITE = "sid"
PACKAGES = (
    "blender", "python3-numpy", "python3-cattr", "python3-requests",
    "xvfb", "xauth", "libgl1", "libegl1", "libgl1-mesa-dri", "imagemagick",
)  # fmt: skip
PROGRAMS = ("blender", "Xvfb", "import", "convert")
"""What the walk calls in the root folder."""


def is_whole(root: Path) -> bool:
    """Whether the folder holds every program that the walk needs."""
    return all(os.path.lexists(root / "usr" / "bin" / name) for name in PROGRAMS)


def debian_mirrors(texts: Iterable[str]) -> list[str]:
    """Addresses of Debian's main archive in apt source files (one-line and deb822), in order, each once.

    The archives of security fixes, ports and other vendors hold no unstable suite and are left out: only an address whose
    path ends in `/debian` counts.
    """
    found: dict[str, None] = {}
    for text in texts:
        for line in text.splitlines():
            line = line.split("#")[0].strip()
            one_line = re.match(r"deb\s+(?:\[[^]]*\]\s*)?(\S+)", line)
            addresses = [one_line[1]] if one_line else line.split()[1:] if line.lower().startswith("uris:") else []
            found |= {a: None for a in addresses if a.rstrip("/").endswith("/debian")}
    return list(found)


def apt_sources(etc: Path = Path("/etc/apt")) -> list[str]:
    """The texts of this machine's apt source files."""
    files = [etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list")), *sorted(etc.glob("sources.list.d/*.sources"))]
    return [file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()]


def missing() -> list[str]:
    """What this machine lacks to make a root folder, one line each."""
    lines = []
    if not sys.platform.startswith("linux"):
        return ["A root folder can be made on Linux only."]
    for program, package in (("mmdebstrap", "mmdebstrap"), ("bwrap", "bubblewrap")):
        if shutil.which(program) is None:
            lines.append(f"The program {program} is missing; install it with: apt-get install {package}")
    if os.geteuid() != 0:
        lines.append("Root rights are missing; run this with sudo.")
    if not debian_mirrors(apt_sources()):
        lines.append("No apt source of this machine names a Debian mirror (an address that ends in /debian); give one with --mirror.")
    return lines


def make(root: Path, mirror: str) -> None:
    """Make the folder; it appears under its name only when it is whole.

    Raises:
        subprocess.CalledProcessError: mmdebstrap failed.
    """
    part = root.with_name(f"{root.name}.part")
    if part.exists():
        subprocess.run(["rm", "-rf", "--one-file-system", str(part)], check=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    # Mirrors may be snapshots: their dates are not to be held against this machine's clock.
    options = ["Acquire::Check-Valid-Until", "Acquire::Check-Date", "Apt::Install-Recommends"]
    command = ["mmdebstrap", "--variant=apt", *(f'--aptopt={name} "false"' for name in options)]
    subprocess.run([*command, f"--include={','.join(PACKAGES)}", SUITE, str(part), mirror], check=True)
    if not is_whole(part):
        raise FileNotFoundError(f"{part} holds not all of {', '.join(PROGRAMS)}")
    part.rename(root)


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder to make; name it in UA3DTALK_WINDOW_ROOT afterwards")
    parser.add_argument("--mirror", help="a Debian mirror, instead of the one in this machine's apt sources")
    options = parser.parse_args()
    root = options.folder.absolute()
    if is_whole(root):
        print(f"{root} is there already")
        return 0
    if root.exists():
        print(f"make_root.py: {root} exists and is no such root folder; remove it or name another", file=sys.stderr)
        return 2
    lines = [line for line in missing() if not (options.mirror and "--mirror" in line)]
    if lines:
        print(*(f"make_root.py: {line}" for line in lines), sep="\n", file=sys.stderr)
        return 2
    try:
        make(root, options.mirror or debian_mirrors(apt_sources())[0])
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"make_root.py: the folder could not be made: {error}; mmdebstrap's own words are above", file=sys.stderr)
        return 1
    print(f"{root} is ready; use it with: UA3DTALK_WINDOW_ROOT={root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
