#!/usr/bin/env python3
"""Everything that is done with this project, in one file:

    python3 build.py demo       make a talking head from the bundled avatar and speech: .blend, frames, EXR, film
    python3 build.py test       pass the tests, in the engine's environment and in every Blender at hand
    python3 build.py package    write and validate dist/ua3dtalk-<version>.zip and its repository's index.json
    python3 build.py window     an animator's day by mouse and keys in the window of the real Blender (Linux, see tests/window)
    python3 build.py system-packages    name the system packages that are missing (Debian's names)

Environments are made in .venv/ when they are needed, from pinned versions, and used again. Python 3.11 or later.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAGE = ROOT / "build" / "stage" / "ua3dtalk"
DIST = ROOT / "dist"
OUT = ROOT / "out" / "demo"
WINDOW_OUT = ROOT / "out" / "window"

STAGED = ("LICENSE", "blender_manifest.toml", "addon", "engine")
NOT_STAGED = re.compile(r"(^|/)(__pycache__|tests|\.[^/]*)(/|$)|\.py[co]$|~$")
ROOT_MODULE = '''"""UA-3DTalk for Blender: the parts are in addon/ (Blender's side) and engine/ (the worker's side)."""


def register() -> None:
    """Called by Blender when the extension is switched on."""
    from . import addon

    addon.register()


def unregister() -> None:
    """Called by Blender when the extension is switched off."""
    from . import addon

    addon.unregister()
'''

# The libraries that Blender as a module needs and does not bring (Linux; soname -> Debian's package), and the programs
# that the tests and the demo call.
SYSTEM_LIBRARIES = {
    "libEGL.so.1": "libegl1", "libEGL_mesa.so.0": "libegl-mesa0", "libGL.so.1": "libgl1", "libGLX_mesa.so.0": "libglx-mesa0",
    "libICE.so.6": "libice6", "libSM.so.6": "libsm6", "libX11.so.6": "libx11-6", "libXext.so.6": "libxext6",
    "libXfixes.so.3": "libxfixes3", "libXi.so.6": "libxi6", "libXrender.so.1": "libxrender1", "libXxf86vm.so.1": "libxxf86vm1",
    "libgomp.so.1": "libgomp1", "libxkbcommon.so.0": "libxkbcommon0",
}  # fmt: skip
SYSTEM_PROGRAMS = {"espeak-ng": "espeak-ng", "ffmpeg": "ffmpeg"}


class BuildError(Exception):
    """One line that says what is wrong and what to do about it."""


def say(text: str) -> None:
    """Tell the user what is going on."""
    print(f"-- {text}", flush=True)


def clean_environment(**extra: str) -> dict[str, str]:
    """The process environment without what would mix other Pythons' packages in, or keep byte code from being kept."""
    left_out = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    kept = {k: v for k, v in os.environ.items() if k not in left_out}
    return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1", **extra}


def call(command: Sequence[str | Path], what: str, **env: str) -> None:
    """Run a command with its output shown.

    Raises:
        BuildError: it failed.
    """
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env=clean_environment(**env))
    if done.returncode:
        raise BuildError(f"{what} failed (exit status {done.returncode}); its own words are above.")


@dataclass(frozen=True)
class Environment:
    """A virtual environment under .venv/: which Pythons it may be made with, and its pinned packages."""

    name: str
    pythons: tuple[tuple[int, int], ...]
    pins: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return VENV / self.name

    @property
    def python(self) -> Path:
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def stamp(self) -> Path:
        """Says which pins the folder is known to hold: a JSON object {"hash", "pins"}."""
        return self.folder / "build-pins.json"

    @property
    def hash(self) -> str:
        return hashlib.sha256("\n".join(sorted(self.pins)).encode()).hexdigest()


def pins_of(*files: str) -> tuple[str, ...]:
    """The pinned requirements of pip's requirement files, comments left out.

    Of pip's markers `; platform_system == "..."` is understood: another system's pin is left out.
    """
    lines = [line.split("#")[0] for f in files for line in (ROOT / f).read_text(encoding="utf-8").splitlines()]
    parts = [[part.strip() for part in line.partition(";")] for line in lines]
    return tuple(pin for pin, _, marker in parts if pin and marker in ("", f'platform_system == "{platform.system()}"'))


ENGINE = Environment(
    # 3.11 first: torch has a build without CUDA for it in more places than for the others.
    "engine", ((3, 11), (3, 12), (3, 13), (3, 14)), pins_of("engine/requirements.txt", "tests/requirements.txt")
)
# Blender as a Python module, one version for one Python. The first whose Python is here is "the" Blender.
_PYTEST = next(pin for pin in ENGINE.pins if pin.startswith("pytest=="))
BLENDERS = (
    Environment("blender", ((3, 11),), ("bpy==5.0.1", "numpy==1.26.4", _PYTEST)),
    Environment("blender-4.5", ((3, 11),), ("bpy==4.5.15", "numpy==1.26.4", _PYTEST)),
    Environment("blender-5.2", ((3, 13),), ("bpy==5.2.3", "numpy==2.5.5", _PYTEST)),
)


def candidate_pythons(version: tuple[int, int]) -> Iterator[Path]:
    """Where a Python of this version may be: this one, on PATH, pyenv's, the Windows launcher's."""
    dotted = f"{version[0]}.{version[1]}"
    if sys.version_info[:2] == version:
        yield Path(sys.executable)
    for name in (f"python{dotted}", "python3", "python"):
        if found := shutil.which(name):
            yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for folder in sorted(pyenv.glob(f"{dotted}.*"), reverse=True):
        yield folder / "bin" / "python3"
    if os.name == "nt" and shutil.which("py"):
        asked = subprocess.run(
            ["py", f"-{dotted}", "-c", "import sys; print(sys.executable)"], capture_output=True, text=True
        )
        if asked.returncode == 0:
            yield Path(asked.stdout.strip())


def find_python(version: tuple[int, int]) -> Path | None:
    """A Python of exactly this version that can make virtual environments, or None."""
    probe = "import sys, venv, ensurepip; print('%d %d' % sys.version_info[:2])"
    for python in candidate_pythons(version):
        try:
            asked = subprocess.run(
                [str(python), "-c", probe], capture_output=True, text=True, timeout=60, env=clean_environment()
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        # A shim or a link that answers with another version, or a Debian Python without its venv package, is passed over.
        if asked.returncode == 0 and asked.stdout.split() == [str(v) for v in version]:
            return python
    return None


def available_blenders() -> list[Environment]:
    """The Blenders whose environment exists already or whose Python is here, best first."""
    return [e for e in BLENDERS if e.python.exists() or find_python(e.pythons[0])]


def satisfied(pins: Sequence[str], frozen: str) -> bool:
    """Whether `pip freeze` output holds every pin (a local version such as 2.13.0+cpu fits 2.13.0)."""
    held = {re.sub(r"[-_.]+", "-", line).lower() for line in (re.sub(r"\+.*", "", x).strip() for x in frozen.splitlines())}
    return all(re.sub(r"[-_.]+", "-", pin).lower() in held for pin in pins)


def ensure(environment: Environment) -> Environment:
    """Make the environment where it is missing or differs from its pins; otherwise do nothing.

    Raises:
        BuildError: no Python for it, or the installation failed.
    """
    e = environment
    try:
        if e.python.exists() and json.loads(e.stamp.read_text(encoding="utf-8"))["hash"] == e.hash:
            return e
    except (OSError, ValueError, KeyError):
        pass
    usable = _usable(e)
    if not (usable and satisfied(e.pins, _freeze(e))):
        if not usable:
            python = next((p for v in e.pythons if (p := find_python(v))), None)
            if python is None:
                wanted = " or ".join(f"{a}.{b}" for a, b in e.pythons)
                raise BuildError(
                    f"{e.folder.relative_to(ROOT)} needs Python {wanted} with its venv module, and there is none; "
                    f"install it (Debian: apt-get install python{wanted[:4]}-venv) and run this again."
                )
            say(f"making {e.folder.relative_to(ROOT)} with {python}")
            call([python, "-m", "venv", "--clear", e.folder], "making the environment")
        say(f"installing {', '.join(e.pins)} (a few minutes the first time)")
        started = time.monotonic()
        call([e.python, "-m", "pip", "install", *e.pins], f"installing into {e.folder.relative_to(ROOT)}")
        say(f"{e.folder.relative_to(ROOT)} is ready after {time.monotonic() - started:.0f} s")
    if any(pin.startswith("bpy==") for pin in e.pins):
        check_blender_imports(e)
    e.stamp.write_text(json.dumps({"hash": e.hash, "pins": sorted(e.pins)}, indent=1), encoding="utf-8")
    return e


def _usable(e: Environment) -> bool:
    """Whether the folder holds a Python of a fitting version with its pip (not the remains of an interrupted making)."""
    probe = [str(e.python), "-c", "import sys, pip; print('%d %d' % sys.version_info[:2])"]
    try:
        asked = subprocess.run(probe, capture_output=True, text=True, env=clean_environment())
    except OSError:
        return False
    return asked.returncode == 0 and asked.stdout.split() in [[str(a), str(b)] for a, b in e.pythons]


def _freeze(e: Environment) -> str:
    return subprocess.run([str(e.python), "-m", "pip", "freeze"], capture_output=True, text=True, env=clean_environment()).stdout


def missing_system_packages() -> dict[str, str]:
    """What Blender needs from the system and does not find: {library or program: Debian's package}. Empty off Linux."""
    if not sys.platform.startswith("linux"):
        return {}
    missing = {}
    for soname, package in SYSTEM_LIBRARIES.items():
        try:
            ctypes.CDLL(soname)
        except OSError:
            missing[soname] = package
    # Software OpenGL has no library of a fixed name; its drivers have a fixed folder.
    if not any(p for base in ("/usr/lib", "/usr/lib64") for p in Path(base).glob("**/dri/*_dri.so")):
        missing["OpenGL drivers"] = "libgl1-mesa-dri"
    return missing


def missing_programs() -> dict[str, str]:
    """Programs that are not on PATH: {program: Debian's package}."""
    return {name: package for name, package in SYSTEM_PROGRAMS.items() if shutil.which(name) is None}


def missing_library_line(import_error: str) -> str | None:
    """The one line for an ImportError that names a shared library, or None if it names none."""
    named = re.search(r"([\w.+-]+\.so[.\d]*): cannot open shared object file", import_error)
    if named is None:
        return None
    package = SYSTEM_LIBRARIES.get(named[1])
    brings = f"install it with: apt-get install {package}" if package else f"find its package with: apt-file search {named[1]}"
    return f"Blender cannot start: the system library {named[1]} is missing; {brings}"


def check_system_libraries() -> None:
    """Raises:
    BuildError: libraries are missing; names them and their packages.
    """
    missing = missing_system_packages()
    if missing:
        raise BuildError(
            f"system libraries that Blender needs are missing ({', '.join(missing)}); "
            f"install them with: apt-get install {' '.join(dict.fromkeys(missing.values()))}"
        )


def check_blender_imports(e: Environment) -> None:
    """Start Blender as a module once.

    Raises:
        BuildError: it does not start; says why.
    """
    check_system_libraries()
    code = "import bpy, os; print(bpy.app.version_string, flush=True); os._exit(0)"
    asked = subprocess.run([str(e.python), "-c", code], capture_output=True, text=True, env=clean_environment())
    if asked.returncode:
        last = (asked.stderr.strip().splitlines() or [f"exit status {asked.returncode}"])[-1]
        raise BuildError(missing_library_line(asked.stderr) or f"Blender in {e.folder.relative_to(ROOT)} does not start: {last}")


def blender_environment() -> Environment:
    """The Blender for packaging and the demo, made if need be."""
    found = available_blenders()
    if not found:
        raise BuildError("no Python that a Blender module fits is here; install Python 3.11 or 3.13, or give --blender PATH.")
    check_system_libraries()
    return ensure(found[0])


def version() -> str:
    """The version, from engine/__init__.py; the manifest must say the same.

    Raises:
        BuildError: they differ.
    """
    engine = re.search(r'^__version__ = "(.+)"$', (ROOT / "engine/__init__.py").read_text(encoding="utf-8"), re.M)
    manifest = re.search(r'^version = "(.+)"$', (ROOT / "blender_manifest.toml").read_text(encoding="utf-8"), re.M)
    if engine is None or manifest is None or engine[1] != manifest[1]:
        raise BuildError("engine/__init__.py and blender_manifest.toml do not name the same version; make them equal.")
    return engine[1]


def staged_files() -> dict[str, Path]:
    """What ships: {path in the package: file}, without tests, caches and hidden files."""
    found: dict[str, Path] = {}
    for name in STAGED:
        top = ROOT / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            relative = path.relative_to(ROOT).as_posix()
            if path.is_file() and not NOT_STAGED.search(relative):
                found[relative] = path
    return found


def stage(folder: Path = STAGE) -> Path:
    """Bring `folder` to what ships: only changed files are copied, and what does not belong there goes."""
    folder.mkdir(parents=True, exist_ok=True)
    files = staged_files()
    for relative, source in files.items():
        target = folder / relative
        a = source.stat()
        if target.is_file() and (b := target.stat()).st_size == a.st_size and b.st_mtime_ns == a.st_mtime_ns:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        # Replaced in one step: other processes may be importing from here.
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        shutil.copy2(source, part)
        os.replace(part, target)
    root_module = folder / "__init__.py"
    if not root_module.is_file() or root_module.read_text(encoding="utf-8") != ROOT_MODULE:
        root_module.write_text(ROOT_MODULE, encoding="utf-8")
    for path in sorted(folder.rglob("*"), reverse=True):
        relative = path.relative_to(folder).as_posix()
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif relative not in files and path != root_module and "__pycache__" not in relative and path.suffix != ".part":
            path.unlink()
    return folder


def normalise_zip(built: Path, target: Path) -> None:
    """Copy a zip with its entries sorted and their dates and modes fixed: the same tree gives the same bytes."""
    with zipfile.ZipFile(built) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for name in sorted(source.namelist()):
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            entry.compress_type = source.getinfo(name).compress_type
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            out.writestr(entry, source.read(name))


def blender_cli(blender: Path | None) -> list[str]:
    """The command of Blender's extension tool: a program's own, or the script that the bpy wheel carries."""
    if blender is not None:
        return [str(blender), "--command", "extension"]
    e = blender_environment()
    scripts = sorted(e.folder.glob("[Ll]ib/**/site-packages/bpy/*/scripts/addons_core/bl_pkg/cli/blender_ext.py"))
    if not scripts:
        raise BuildError(f"{e.folder.relative_to(ROOT)} holds no extension builder; remove the folder and run this again.")
    return [str(e.python), str(scripts[-1])]


def package(dist: Path = DIST, blender: Path | None = None) -> Path:
    """Build and validate the extension and its repository index with Blender's own tool.

    Args:
        dist: the folder that receives ua3dtalk-<version>.zip and index.json.
        blender: a Blender program to use instead of the bpy wheel.
    Returns:
        The zip.
    """
    cli = blender_cli(blender)
    folder = stage()
    dist.mkdir(parents=True, exist_ok=True)
    final = dist / f"ua3dtalk-{version()}.zip"
    raw, part = (dist / f".{final.stem}-{os.getpid()}{suffix}.zip" for suffix in ("-raw", ""))
    try:
        call([*cli, "build", "--source-dir", folder, "--output-filepath", raw], "Blender's extension builder")
        normalise_zip(raw, part)
        call([*cli, "validate", part], "Blender's extension validator")
        os.replace(part, final)
    finally:
        raw.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    call([*cli, "server-generate", "--repo-dir", dist], "Blender's repository generator")
    say(f"{final.relative_to(ROOT) if final.is_relative_to(ROOT) else final}, {final.stat().st_size / 1e6:.1f} MB")
    return final


def counts(report: Path) -> tuple[int, int, int]:
    """(passed, failed, skipped) of pytest's JUnit report; a run that left none (it crashed) counts as one failure."""
    try:
        suites = ElementTree.parse(report).getroot().iter("testsuite")
    except (OSError, ElementTree.ParseError):
        return 0, 1, 0
    passed = failed = skipped = 0
    for suite in suites:
        total, bad, left = (int(suite.get(k, 0)) for k in ("tests", "failures", "skipped"))
        bad += int(suite.get("errors", 0))
        passed, failed, skipped = passed + total - bad - left, failed + bad, skipped + left
    return passed, failed, skipped


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """pytest's arguments as (options, paths for the engine's Python, paths for Blender's). No path: everything."""
    options, engine, blender = [], [], []
    for argument in arguments:
        path = (ROOT / argument.split("::")[0]).resolve()
        if argument.startswith("-") or not path.exists():
            options.append(argument)
        elif path.is_relative_to(ROOT / "tests" / "blender"):
            blender.append(argument)
        else:
            engine.append(argument)
    if not engine and not blender:
        return options, ["tests"], ["tests/blender"]
    return options, engine, blender


def test(arguments: Sequence[str]) -> int:
    """Run the engine's tests, then Blender's in every Blender at hand. Returns the exit status."""
    options, engine_paths, blender_paths = split_arguments(arguments)
    ensure(ENGINE)
    blenders = available_blenders()
    for e in blenders:
        check_system_libraries()
        ensure(e)
    if not blenders:
        say("no Python that a Blender module fits is here (3.11 or 3.13): Blender's tests are left out")
    env = {"UA3DTALK_PYTHON": str(ENGINE.python)}
    if blenders:
        env["UA3DTALK_ZIP"] = str(package())
    runs = [("engine", ENGINE, engine_paths)] if engine_paths else []
    runs += [(e.name, e, blender_paths) for e in blenders if blender_paths]
    reports = ROOT / "build" / "reports"
    reports.mkdir(parents=True, exist_ok=True)

    def one(run: tuple[str, Environment, list[str]]) -> tuple[list[int], str]:
        name, e, paths = run
        report = reports / f"{name}.xml"
        report.unlink(missing_ok=True)
        say(f"tests in .venv/{name}")
        started = time.monotonic()
        command = [str(e.python), "-m", "pytest", *options, *paths, f"--junitxml={report}"]
        status = stream(command, f"{name}: " if len(runs) > 1 else "", clean_environment(**env))
        result = list(counts(report))
        if status not in (0, 5) and result[1] == 0:  # 5: nothing collected, as with -k. Otherwise no failure goes unseen.
            result[1] = 1
        took = time.monotonic() - started
        return result, f"{name}: {result[0]} passed, {result[1]} failed, {result[2]} skipped, exit status {status}, {took:.0f} s"

    # Two at a time: each is one busy thread most of the while.
    with ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        results = list(pool.map(one, runs))
    for _, line in results:
        say(line)
    passed, failed, skipped = (sum(column) for column in zip(*(result for result, _ in results)))
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
    return 1 if failed else 0


def stream(command: Sequence[str], prefix: str, env: dict[str, str]) -> int:
    """Run a command and show its lines, each behind `prefix`; returns the exit status. No prefix: it has the terminal."""
    if not prefix:
        return subprocess.run(command, cwd=ROOT, env=env).returncode
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    ) as process:
        for line in process.stdout or ():
            print(f"{prefix}{line}", end="", flush=True)
    return process.returncode


def demo(audio: Path | None, avatar: Path | None, out: Path, blender: Path | None) -> None:
    """Make the demo shot in Blender (addon/scripts/demo.py), with a user folder of its own.

    Args:
        audio: speech; None takes the bundled one.
        avatar: avatar file; None takes the bundled one.
        out: the folder that receives everything.
        blender: a Blender program to use instead of the bpy wheel.
    """
    for path in (p for p in (audio, avatar, blender) if p is not None and not p.exists()):
        raise BuildError(f"{path} does not exist; give the path of a file.")
    ensure(ENGINE)
    zip_path = package(blender=blender)
    script = ROOT / "addon" / "scripts" / "demo.py"
    user = ROOT / "build" / "demo-user"
    user.mkdir(parents=True, exist_ok=True)
    command: list[str | Path] = ["--zip", zip_path, "--out", out.resolve()]
    for option, path in (("--audio", audio), ("--avatar", avatar)):
        command += [option, path.resolve()] if path is not None else []
    if blender is not None:
        start: list[str | Path] = [blender, "-b", "--factory-startup", "--python-exit-code", "1", "--python", script, "--"]
    else:
        start = [blender_environment().python, script]
    call([*start, *command], "the demo", BLENDER_USER_RESOURCES=str(user), UA3DTALK_PYTHON=str(ENGINE.python))


def window(root: Path | None, out: Path) -> int:
    """Make the walk through Blender's window (tests/window/walk.py) and say what each step found. Returns the exit status.

    Args:
        root: folder of tests/window/make_root.py; None takes what UA3DTALK_WINDOW_ROOT names.
        out: the folder that receives result.json, log.txt and pictures/.
    """
    sys.path.insert(0, str(ROOT / "tests"))
    from window import sandbox

    ensure(ENGINE)
    root = root.absolute() if root is not None else sandbox.named_root()
    reason = sandbox.reason_against(root, ENGINE.python)
    if reason is not None:
        raise BuildError(reason)
    assets = ROOT / "addon" / "assets"
    result = sandbox.walk(root, out, package(), ENGINE.python, assets / "demo_avatar.safetensors", assets / "demo_speech.flac")
    for step in result["steps"]:
        say(f"{step['name']}, {step['seconds']:g} s: {', '.join(f'{k} {v}' for k, v in step['facts'].items())}")
    say(f"{out}: result.json, log.txt, pictures; {result['seconds']:g} s")
    if result["error"]:
        raise BuildError(f"the walk ended at {result['failed']}: {result['error'].strip().splitlines()[-1]}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="build.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    d = commands.add_parser("demo", help="make a film of a talking head")
    d.add_argument("--audio", type=Path, help="your own speech")
    d.add_argument("--avatar", type=Path, help="your own avatar file")
    d.add_argument("--out", type=Path, default=OUT, help="the folder that receives everything (default: out/demo)")
    d.add_argument("--blender", type=Path, help="a Blender program, instead of the bpy wheel")
    commands.add_parser("test", help="pass the tests; what follows goes to pytest", add_help=False, prefix_chars="\0")
    commands.add_parser("package", help="build and validate the extension")
    w = commands.add_parser("window", help="walk through the window of the real Blender")
    w.add_argument("--root", type=Path, help="folder of tests/window/make_root.py (default: what UA3DTALK_WINDOW_ROOT names)")
    w.add_argument("--out", type=Path, default=WINDOW_OUT, help="the folder that receives everything (default: out/window)")
    commands.add_parser("system-packages", help="name the Debian packages that are missing")
    chosen, rest = parser.parse_known_args(arguments)
    if rest and chosen.command != "test":
        parser.error(f"what is {' '.join(rest)}?")
    try:
        if chosen.command == "test":
            return test(rest)
        if chosen.command == "demo":
            demo(chosen.audio, chosen.avatar, chosen.out, chosen.blender)
        elif chosen.command == "package":
            package()
        elif chosen.command == "window":
            return window(chosen.root, chosen.out)
        elif chosen.command == "system-packages":
            print(*dict.fromkeys({**missing_system_packages(), **missing_programs()}.values()))
    except BuildError as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("build.py: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    if sys.version_info < (3, 11):
        sys.exit("build.py: Python 3.11 or later is needed; call it with one, such as python3.11 build.py")
    sys.exit(main())
