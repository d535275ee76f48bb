"""Both ends of the worker's channel, given messages as if the other end had gone mad. No process is started, no port is open."""

from __future__ import annotations

import queue
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from ua3dtalk.engine.worker.client import Job, WorkerClient, _Peer
from ua3dtalk.engine.worker.protocol import Decoder
from ua3dtalk.engine.worker.server import Server


def _client(folder: Path) -> WorkerClient:
    return WorkerClient(Path(sys.executable), folder, 1, "cpu", folder / "log")


class MadWorker:
    """A client that takes what a worker may send once it has proved itself."""

    def __init__(self, folder: Path) -> None:
        self.client = _client(folder)
        self.client.state = "ready"

    def take(self, message: dict[str, Any]) -> None:
        """One message."""
        self.client._jobs = {1: Job(1, self.client)}
        self.client._handle(message)


class MadClient:
    """A worker that takes what its client may send; it only queues it."""

    def __init__(self) -> None:
        self.server = Server.__new__(Server)  # without its connection
        self.server._jobs = queue.Queue()
        self.server._cancelled, self.server._generations, self.server._ended = set(), {}, threading.Event()

    def take(self, message: dict[str, Any]) -> None:
        """One message; what was queued is asked whether it is still wanted, as before it is served."""
        self.server._cancelled.clear()
        self.server._generations.clear()
        self.server._take(message)
        while not self.server._jobs.empty():
            self.server._stopped(self.server._jobs.get())


def stranger(folder: Path, message: dict[str, Any]) -> None:
    """Somebody who connected, before a client that waits for its worker. Getting in is a failure."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        client = _client(folder)
        client.state, client._token = "starting", "0" * 64
        peer = _Peer(ours, Decoder(), "1" * 32)
        client._peers = [peer]
        client._handshake(peer, message)
        client._handshake(peer, {"type": "hello", "nonce": "x"})
        client._handshake(peer, message)
        if client.state != "starting":
            raise AssertionError("a stranger got in")
