"""Blender's end of the worker: start it, ask it, hear of progress, survive its death. Standard library alone."""

from __future__ import annotations

import os
import secrets
import select
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import Cancelled, UserError
from .protocol import PROTOCOL_VERSION, Decoder, Message, ProtocolError, encode, is_nonce, is_number, proof, proves

START_TIMEOUT = 120.0
MOST_PEERS = 16
SILENCE_TIMEOUT = 60.0
"""Seconds without a sign of life after which a worker counts as hung."""


@dataclass
class Job:
    """One request on its way.

    Attributes:
        state: `running`, `done`, `failed` or `cancelled`.
        done, total, text: progress.
        frames: scene frames that have become readable, in that order; whoever shows them may take them out.
        result: what came back, when done.
        error: what went wrong, when failed.
    """

    id: int
    client: WorkerClient
    state: str = "running"
    done: int = 0
    total: int = 0
    text: str = ""
    frames: list[int] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    error: UserError | None = None

    def cancel(self) -> None:
        """Ask for it to end after the frame it is at; `state` follows."""
        self.client.send({"type": "cancel", "id": self.id})

    def wait(self, timeout: float | None = None) -> dict[str, Any]:
        """Block until it has ended.

        Raises:
            UserError: it failed, or `timeout` seconds passed. Cancelled: it was cancelled.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while self.state == "running":
            self.client.pump(0.05)
            if end is not None and time.monotonic() > end:
                raise UserError("The engine did not answer in time.", "See the engine's log.")
        if self.state == "cancelled":
            raise Cancelled()
        if self.error is not None:
            raise self.error
        return self.result


@dataclass
class _Peer:
    """Somebody who connected and has not proved to be our worker yet."""

    socket: socket.socket
    decoder: Decoder
    own_nonce: str
    nonce: str = ""


class WorkerClient:
    """One worker process.

    Args:
        python: the engine environment's Python.
        root: folder that holds the `engine` package.
        threads: of the worker; None: its own choice (below the core count).
        device: `auto`, `cpu` or `cuda`.
        log: file for what the worker prints.
    """

    def __init__(self, python: Path, root: Path, threads: int | None, device: str, log: Path) -> None:
        self.python, self.root, self.threads, self.device, self.log = Path(python), Path(root), threads, device, Path(log)
        self.state = "stopped"
        self.error: UserError | None = None
        self.info: dict[str, Any] = {}
        self._jobs: dict[int, Job] = {}
        self._next = 1
        self._queue: list[Message] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: socket.socket | None = None
        self._socket: socket.socket | None = None
        self._peers: list[_Peer] = []
        self._decoder = Decoder()
        self._token = ""
        self._last_heard = self._started = 0.0

    @property
    def pid(self) -> int | None:
        """The worker's process number, while there is one."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start the process; returns at once, `state` goes from `starting` to `ready` as `pump` is called.

        Raises:
            UserError: the Python cannot be started at all.
        """
        if self.state in ("starting", "ready"):
            return
        self._close()
        self.error = None
        self._token = secrets.token_hex(32)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4)
        self._listener.setblocking(False)
        port = self._listener.getsockname()[1]
        command = [str(self.python), "-m", "engine", "worker", "--connect", str(port), "--device", self.device]
        if self.threads:
            command += ["--threads", str(self.threads)]
        # Blender sets variables for its own Python; the engine's is another one.
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONPATH")}
        environment["PYTHONDONTWRITEBYTECODE"] = "1"  # an extension's folder is not to be written to
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log, "wb") as log:
                self._process = subprocess.Popen(
                    command,
                    cwd=self.root,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Windows; elsewhere the worker itself steps back behind what the user does.
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0) | getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0),
                )
            assert self._process.stdin is not None
            self._process.stdin.write(self._token.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            self._close()
            self.state = "failed"
            self.error = UserError(
                f"The engine's Python cannot be started: {self.python} ({error.strerror or error}).",
                "Set up the engine's environment in the extension's preferences.",
            )
            raise self.error from error
        self.state = "starting"
        self._started = self._last_heard = time.monotonic()

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Block until it is ready. Raises UserError if it does not get there."""
        end = time.monotonic() + timeout
        while self.state == "starting":
            self.pump(0.05)
            if time.monotonic() > end:
                self._fail("The engine did not start in time.")
        if self.state != "ready":
            raise self.error or UserError("The engine is not running.", "Start it.")

    def request(self, method: str, params: dict[str, Any], generation: tuple[str, int] | None = None) -> Job:
        """Ask for something; sent as soon as the worker is ready."""
        job = Job(self._next, self)
        self._next += 1
        if self.state not in ("starting", "ready"):
            job.state, job.error = "failed", self.error or UserError("The engine is not running.", "Start it.")
            return job
        self._jobs[job.id] = job
        self.send({"type": "request", "id": job.id, "method": method, "params": params, "generation": generation})
        return job

    def send(self, message: Message) -> None:
        """Send a message, or keep it until the worker is ready."""
        if self.state == "starting":
            self._queue.append(message)
        elif self.state == "ready":
            self._send(message)

    def pump(self, wait: float = 0.0) -> None:
        """Handle what has arrived; waits for something at most `wait` seconds. Never raises."""
        if self.state not in ("starting", "ready"):
            return
        if self.state == "starting":
            self._hear_peers(wait)
        elif self._socket is not None and select.select([self._socket], [], [], wait)[0]:
            self._receive()
        if self.state in ("starting", "ready"):
            self._check_alive()

    def _hear_peers(self, wait: float) -> None:
        """Anybody on this machine can connect: each peer gets its own handshake, and none keeps the worker out."""
        assert self._listener is not None
        sockets = [self._listener, *(peer.socket for peer in self._peers)]
        readable = select.select(sockets, [], [], wait)[0]
        for peer in [peer for peer in self._peers if peer.socket in readable]:
            try:
                data = peer.socket.recv(1 << 16)
                messages = peer.decoder.feed(data)
            except (OSError, ProtocolError):
                data, messages = b"", []
            if not data or not all(self._handshake(peer, message) for message in messages if self.state == "starting"):
                self._drop(peer)
            if self.state != "starting":
                return
        if self._listener in readable:
            try:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:
                return
            connection.settimeout(5.0)
            self._peers.append(_Peer(connection, Decoder(), secrets.token_hex(16)))
            if len(self._peers) > MOST_PEERS:
                self._drop(self._peers[0])

    def _drop(self, peer: _Peer) -> None:
        if peer in self._peers:
            self._peers.remove(peer)
            peer.socket.close()

    def _handshake(self, peer: _Peer, message: Message) -> bool:
        """One step of a peer's handshake; False where it is none of ours."""
        if message["type"] == "hello" and is_nonce(message.get("nonce")) and not peer.nonce:
            peer.nonce = message["nonce"]
            answer = proof(self._token, "client", peer.nonce, peer.own_nonce)
            try:
                peer.socket.sendall(encode({"type": "challenge", "nonce": peer.own_nonce, "proof": answer}))
            except OSError:
                return False
            return True
        if message["type"] != "proof" or not peer.nonce:
            return False
        if not proves(self._token, "worker", peer.own_nonce, peer.nonce, message.get("proof")):
            return False
        info = message.get("info")
        self.info = info if isinstance(info, dict) else {}
        if self.info.get("protocol") != PROTOCOL_VERSION or self.info.get("engine") != __version__:
            self._fail(
                f"The engine is version {self.info.get('engine')} (protocol {self.info.get('protocol')}), "
                f"the extension {__version__} (protocol {PROTOCOL_VERSION})."
            )
            return True
        self._peers.remove(peer)
        self._socket, self._decoder = peer.socket, peer.decoder
        self._close_listener()
        self.state = "ready"
        self._last_heard = time.monotonic()
        queue, self._queue = self._queue, []
        for waiting in queue:
            self._send(waiting)
        return True

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 18)
            messages = self._decoder.feed(data) if data else []
        except (OSError, ProtocolError):
            data, messages = b"", []
        for message in messages:
            self._last_heard = time.monotonic()
            self._handle(message)
        if not data:
            self._fail("The engine closed the connection.")

    def _handle(self, message: Message) -> None:
        number = message.get("id")
        job = self._jobs.get(number) if is_number(number) else None
        kind = message["type"]
        if job is None:
            return
        if kind == "progress":
            done, total, frames = message.get("done"), message.get("total"), message.get("frames")
            job.done, job.total = done if is_number(done) else job.done, total if is_number(total) else job.total
            job.text = str(message.get("text", job.text))
            job.frames += [frame for frame in frames if is_number(frame)] if isinstance(frames, list) else []
            return
        if kind == "result":
            result = message.get("result")
            job.state, job.result = "done", result if isinstance(result, dict) else {}
        elif kind == "error":
            job.state = "cancelled" if message.get("cancelled") else "failed"
            job.error = UserError(str(message.get("message", "The engine failed.")), str(message.get("remedy", "")))
        else:
            return
        del self._jobs[job.id]

    def _check_alive(self) -> None:
        code = self._process.poll() if self._process is not None else 0
        if code is not None:
            self._fail(f"The engine ended (exit code {code}).{self._last_words()}")
        elif self.state == "starting" and time.monotonic() - self._started > START_TIMEOUT:
            self._fail(f"The engine did not start within {START_TIMEOUT:.0f} s.{self._last_words()}")
        elif self.state == "ready" and time.monotonic() - self._last_heard > SILENCE_TIMEOUT:
            self._fail(f"The engine gave no sign of life for {SILENCE_TIMEOUT:.0f} s.")

    def _last_words(self) -> str:
        try:
            lines = self.log.read_text("utf-8", "replace").strip().splitlines()
        except OSError:
            lines = []
        return f" It said: {lines[-1]}" if lines else ""

    def _send(self, message: Message) -> None:
        try:
            if self._socket is not None:
                self._socket.sendall(encode(message))
        except OSError:
            self._fail("The engine does not take messages any more.")

    def _fail(self, why: str) -> None:
        self.error = UserError(why, f"Start it again; a bake goes on where it stopped. Log: {self.log}")
        self._close()
        self.state = "failed"
        for job in self._jobs.values():
            job.state, job.error = "failed", self.error
        self._jobs = {}

    def stop(self) -> None:
        """End the process; running jobs are cancelled."""
        self._close()
        self.state = "stopped"
        for job in self._jobs.values():
            job.state = "cancelled"
        self._jobs = {}

    def _close(self) -> None:
        self._queue = []
        self._close_listener()
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            try:
                process.stdin.close()
            except OSError:
                pass
        try:
            process.wait(3.0)  # a closed connection tells it to end; a hung one is killed
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _close_listener(self) -> None:
        for peer in list(self._peers):
            self._drop(peer)
        if self._listener is not None:
            self._listener.close()
        self._listener = None
