"""The worker process: one connection, one job at a time, cancel also within a frame; it ends with its parent."""

from __future__ import annotations

import errno
import os
import queue
import secrets
import socket
import sys
import threading
import traceback
from typing import Any, Callable, Sequence

from .. import __version__
from ..errors import Cancelled, UserError
from .protocol import ALIVE_EVERY, PROTOCOL_VERSION, Decoder, Message, ProtocolError, encode, is_nonce, is_number, proof, proves

Progress = Callable[[int, int, str, Sequence[int]], None]
"""(done, total, text, frames that have become readable since the last call); frames may be left out."""
Method = Callable[[dict[str, Any], Progress, Callable[[], bool]], dict[str, Any]]
"""(params, progress, stopped) -> result."""


class Server:
    """Serves `methods` to the parent listening on the loopback `port`, which holds the same `token`."""

    def __init__(self, port: int, token: str, methods: dict[str, Method], info: dict[str, Any]) -> None:
        self._token, self._methods, self._info = token, methods, info
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # small messages are not to wait for each other: 40 ms
        self._decoder = Decoder()
        self._sending = threading.Lock()
        self._jobs: queue.Queue[Message] = queue.Queue()
        self._ended = threading.Event()
        self._cancelled: set[int] = set()
        self._generations: dict[str, int] = {}

    def run(self) -> None:
        """Serve until the parent hangs up, behind what the user does with other programs.

        Raises:
            UserError: the parent did not prove itself.
        """
        if hasattr(os, "nice"):
            os.nice(5)
        self._handshake()
        reader = threading.Thread(target=self._read, name="reader", daemon=True)
        pulse = threading.Thread(target=self._pulse, name="pulse", daemon=True)
        reader.start()
        pulse.start()
        while not self._ended.is_set():
            try:
                request = self._jobs.get(timeout=0.2)
            except queue.Empty:
                continue
            self._serve(request)

    def _handshake(self) -> None:
        nonce = secrets.token_hex(16)
        self._send({"type": "hello", "nonce": nonce})
        messages: list[Message] = []
        while not messages:
            data = self._socket.recv(1 << 16)
            if not data:
                raise UserError("Blender hung up.")
            messages = self._decoder.feed(data)
        challenge = messages[0]
        peer = challenge.get("nonce")
        if not is_nonce(peer) or not proves(self._token, "client", nonce, peer, challenge.get("proof")):
            raise UserError("The other side does not hold the token of this worker.")
        info = self._info | {"protocol": PROTOCOL_VERSION, "engine": __version__}
        self._send({"type": "proof", "proof": proof(self._token, "worker", peer, nonce), "info": info})

    def _read(self) -> None:
        try:
            while data := self._socket.recv(1 << 18):
                for message in self._decoder.feed(data):
                    self._take(message)
        except (OSError, ProtocolError):
            pass
        self._ended.set()
        # The parent is gone or hung up. A frame in work may be finished; nobody waits longer than that.
        threading.Timer(2.0, os._exit, args=(0,)).start()

    def _take(self, message: Message) -> None:
        number = message.get("id")
        if message["type"] == "cancel" and is_number(number):
            self._cancelled.add(number)
        elif message["type"] == "request" and is_number(number):
            generation = message.get("generation")
            if generation is not None:
                match generation:
                    case [str(name), int(value)]:
                        self._generations[name] = max(value, self._generations.get(name, value))
                    case _:
                        raise ProtocolError("a generation is not [name, number]")
            self._jobs.put(message)

    def _pulse(self) -> None:
        while not self._ended.wait(ALIVE_EVERY):
            self._send({"type": "alive"})

    def _stopped(self, request: Message) -> bool:
        generation = request.get("generation")
        outdated = bool(generation) and self._generations[generation[0]] > generation[1]
        return outdated or request["id"] in self._cancelled or self._ended.is_set()

    def _serve(self, request: Message) -> None:
        number = request["id"]

        def progress(done: int, total: int, text: str, frames: Sequence[int] = ()) -> None:
            self._send({"type": "progress", "id": number, "done": done, "total": total, "text": text, "frames": list(frames)})

        answer: Message = {"type": "error", "id": number, "message": "", "remedy": "", "cancelled": False}
        try:
            method = self._methods.get(request.get("method", ""))
            params = request.get("params")
            if method is None or not isinstance(params, dict):
                raise UserError(f"The engine knows no method {request.get('method')!r}.", "Update the extension.")
            if self._stopped(request):
                raise Cancelled()
            answer = {"type": "result", "id": number, "result": method(params, progress, lambda: self._stopped(request))}
        except Cancelled:
            answer["cancelled"] = True
        except UserError as error:
            answer |= {"message": error.message, "remedy": error.remedy}
        except Exception as error:  # the worker outlives a failed job; the log has the whole story
            traceback.print_exc()
            if _is_want_of_memory(error):
                answer |= {"message": "The engine ran out of memory.", "remedy": "Close other programs, or use a smaller avatar."}
            else:
                said = " ".join(str(error).split())[:300]
                answer |= {"message": f"The engine failed: {type(error).__name__}: {said}", "remedy": "See the engine's log."}
        self._cancelled.discard(number)
        sys.stdout.flush()
        self._send(answer)

    def _send(self, message: Message) -> None:
        try:
            with self._sending:
                self._socket.sendall(encode(message))
        except OSError:
            self._ended.set()


def _is_want_of_memory(error: BaseException | None) -> bool:
    """What Python, the system and torch each say where there is no memory left."""
    if error is None:
        return False
    ours = isinstance(error, MemoryError) or isinstance(error, OSError) and error.errno == errno.ENOMEM
    words = ("can't allocate memory", "not enough memory", "out of memory", "can't start new thread")
    return ours or isinstance(error, RuntimeError) and any(text in str(error) for text in words) or _is_want_of_memory(error.__cause__)
