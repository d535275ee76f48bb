"""What the worker can be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

from ..doctor import diagnose
from .server import Method, Progress, Server


def serve(port: int, token: str, device: str, threads: int | None) -> None:
    """Serve the parent until it hangs up; loads the networks' libraries before it says that it is ready."""
    from .. import commands
    from ..bake import Session

    session = Session(device, threads)

    def info(params: dict[str, Any], progress: Progress, stopped: Callable[[], bool]) -> dict[str, Any]:
        return commands.info(Path(params["avatar"]))

    def import_file(params: dict[str, Any], progress: Progress, stopped: Callable[[], bool]) -> dict[str, Any]:
        options = {name: params[name] for name in ("name", "up", "front", "metres", "pixel") if name in params}
        return commands.import_file(Path(params["source"]), Path(params["out"]), **options)

    def bake(params: dict[str, Any], progress: Progress, stopped: Callable[[], bool]) -> dict[str, Any]:
        return commands.bake(session, Path(params["shot"]), Path(params["out"]), params.get("order") or (), progress, stopped)

    def emotion(params: dict[str, Any], progress: Progress, stopped: Callable[[], bool]) -> dict[str, Any]:
        return commands.emotion(session, Path(params["avatar"]), Path(params["sound"]), params["times"])

    def doctor(params: dict[str, Any], progress: Progress, stopped: Callable[[], bool]) -> dict[str, Any]:
        return diagnose(device, threads)

    methods: dict[str, Method] = {"info": info, "import": import_file, "bake": bake, "emotion": emotion, "doctor": doctor}
    report = diagnose(device, threads)
    about = {name: report.get(name) for name in ("engine", "python", "device", "gpu", "threads", "packages")}
    Server(port, token, methods, about).run()
