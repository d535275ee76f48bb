"""The engine's process: one for all avatars of this Blender, started when it is needed."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import bpy

from ..engine.errors import UserError
from ..engine.worker.client import WorkerClient
from .core.environment import Setup, check_environment, is_ready, setup_steps, venv_python
from .core.paths import temporary_folder
from .feedback import tag_redraw

PACKAGE = (__package__ or "").rpartition(".")[0]
"""The extension's name, as Blender knows it."""
ROOT = Path(__file__).resolve().parents[1]
"""The extension's folder: `python -m engine` runs here."""
REQUIREMENTS = ROOT / "engine" / "requirements.txt"
PYTHON_VARIABLE = "UA3DTALK_PYTHON"
"""Environment variable that names the engine's Python, for scripts and farms; it outranks the preferences."""

_client: WorkerClient | None = None
_client_settings: tuple[object, ...] = ()
_setup: Setup | None = None
_used_at = 0.0


def preferences() -> bpy.types.AddonPreferences | None:
    """The extension's preferences; None where it is not enabled as an extension (as in some tests)."""
    addon = bpy.context.preferences.addons.get(PACKAGE)
    return addon.preferences if addon is not None else None


def user_folder(name: str) -> Path:
    """A folder for what the extension writes by itself; never its own folder."""
    try:
        return Path(bpy.utils.extension_path_user(PACKAGE, path=name, create=True))
    except (ValueError, OSError):  # not installed as an extension, or no home to write to
        return temporary_folder(name)


def managed_folder() -> Path:
    """The folder of the environment that the preferences' button makes."""
    chosen = preferences()
    if chosen is not None and chosen.environment_folder:
        return Path(bpy.path.abspath(chosen.environment_folder))
    return user_folder("environment")


def engine_python() -> Path:
    """The engine's Python.

    Raises:
        UserError: none was set up or named.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        return Path(named)
    chosen = preferences()
    if chosen is not None and chosen.environment == "EXISTING" and chosen.python_path:
        return Path(bpy.path.abspath(chosen.python_path))
    if is_ready(managed_folder(), REQUIREMENTS):
        return venv_python(managed_folder())
    raise UserError(
        "The engine has no Python environment yet.",
        "Set it up in Edit > Preferences > Add-ons > UA-3DTalk, or point there to one that exists.",
    )


def log_file() -> Path:
    """What the worker prints goes here."""
    return user_folder("log") / f"worker-{os.getpid()}.log"


def client() -> WorkerClient:
    """The worker's client, its process started; it may still be starting.

    Raises:
        UserError: there is no environment, or its Python cannot be started.
    """
    global _client, _client_settings, _used_at
    _used_at = time.monotonic()
    chosen = preferences()
    threads = chosen.threads if chosen is not None else 0
    device = chosen.device.lower() if chosen is not None else "auto"
    settings = (engine_python(), threads, device)
    if _client is not None and settings != _client_settings:
        stop()
    if _client is not None:
        _client.pump()  # it may have ended while nobody listened
    if _client is None:
        _client = WorkerClient(settings[0], ROOT, threads or None, device, log_file())
        _client_settings = settings
    if _client.state in ("stopped", "failed"):
        _client.start()
        if not bpy.app.background and not bpy.app.timers.is_registered(_watch_start):
            bpy.app.timers.register(_watch_start, first_interval=0.2)
    return _client


def _watch_start() -> float | None:
    """Keeps the panel true while the worker starts."""
    if _client is None or _client.state != "starting":
        return None
    _client.pump()
    tag_redraw(panels_only=True)
    return 0.2 if _client.state == "starting" else None


def current() -> WorkerClient | None:
    """The client if there is one; handles what has arrived. Never starts anything."""
    if _client is not None:
        _client.pump()
    return _client


def stop() -> None:
    """End the worker."""
    global _client
    stopped, _client = _client, None
    if stopped is not None:
        stopped.stop()


def end_idle(seconds: float) -> None:
    """End the worker where nobody has asked it for anything in the last `seconds`: it frees its memory, the GPU's included.

    The next one who asks starts it again.
    """
    global _client
    if _client is None or _client.state != "ready" or time.monotonic() - _used_at < seconds:
        return
    idle, _client = _client, None
    threading.Thread(target=idle.stop, name="ua3dtalk worker's end", daemon=True).start()  # its end takes half a second


def state() -> str:
    """`stopped`, `starting`, `ready` or `failed`."""
    found = current()
    return "stopped" if found is None else found.state


# ------------------------------------------------------------------------------------------------- the environment


def setup() -> Setup | None:
    """The set-up that runs or ran last."""
    return _setup


def begin_setup() -> Setup:
    """Start making the managed environment.

    Raises:
        UserError: Blender is not allowed online, or a set-up is running.
    """
    global _setup
    if not bpy.app.online_access:
        raise UserError(
            "Blender is not allowed to go online.",
            "Allow it in Edit > Preferences > System > Network, or use an environment that exists.",
        )
    if _setup is not None and _setup.state == "running":
        raise UserError("The environment is being set up already.")
    chosen = preferences()
    base = chosen.base_python if chosen is not None else ""
    index = chosen.package_index.strip() if chosen is not None else ""
    stop()  # on Windows a running worker would hold its files
    _setup = Setup(
        setup_steps(
            Path(bpy.path.abspath(base)) if base else blender_python(),
            managed_folder(),
            REQUIREMENTS,
            ("--index-url", index) if index else (),
        ),
        managed_folder(),
        REQUIREMENTS,
    )
    return _setup


def blender_python() -> Path:
    """Blender's own Python program: new environments are made with it unless the user names another."""
    return Path(sys.executable)


def check() -> dict[str, object]:
    """What the engine's doctor says about the environment in use. Raises UserError where it cannot bake."""
    return check_environment(engine_python(), ROOT)


def shut_down() -> None:
    """As the extension is switched off, or Blender ends."""
    stop()
    if _setup is not None:
        _setup.cancel()
    if not bpy.app.background and bpy.app.timers.is_registered(_watch_start):
        bpy.app.timers.unregister(_watch_start)
