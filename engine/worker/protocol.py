"""Messages between Blender and the worker. Standard library alone.

A message is a JSON object behind four bytes of length (big endian). Blender listens on a loopback port for its own child, which
connects and gets the token through its standard input. Both sides then prove that they hold it:

1. worker: hello {nonce}
2. Blender: challenge {nonce, proof = HMAC-SHA256(token, "client" + worker's nonce + own nonce)}
3. worker: proof {proof = HMAC-SHA256(token, "worker" + Blender's nonce + own nonce), info {protocol, engine, ...}}

After it: request {id, method, params, generation: [name, number] or null}, cancel {id}, ping; and from the worker
progress {id, done, total, text, frames}, result {id, result}, error {id, message, remedy, cancelled}, alive.
`frames` are those that have become readable since the last progress. A request of a newer generation cancels the older
ones of that name.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from typing import Any

PROTOCOL_VERSION = 1
MAX_MESSAGE = 16 << 20
ALIVE_EVERY = 2.0
"""Seconds between the worker's signs of life."""

Message = dict[str, Any]


class ProtocolError(Exception):
    """What arrived is no message of this protocol."""


def encode(message: Message) -> bytes:
    """A message as bytes."""
    text = json.dumps(message, separators=(",", ":")).encode()
    if len(text) > MAX_MESSAGE:
        raise ProtocolError(f"a message of {len(text)} bytes is too long")
    return struct.pack(">I", len(text)) + text


class Decoder:
    """Bytes in any pieces -> messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Messages that are whole now.

        Raises:
            ProtocolError: foreign bytes; the connection is of no use any more.
        """
        self._buffer += data
        messages = []
        while len(self._buffer) >= 4:
            (length,) = struct.unpack_from(">I", self._buffer)
            if length > MAX_MESSAGE:
                raise ProtocolError(f"a message of {length} bytes was announced")
            if len(self._buffer) < 4 + length:
                break
            text = bytes(self._buffer[4 : 4 + length])
            del self._buffer[: 4 + length]
            try:
                message = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ProtocolError("a message is no JSON") from error
            if not isinstance(message, dict) or not isinstance(message.get("type"), str):
                raise ProtocolError("a message has no type")
            messages.append(message)
        return messages


def proof(token: str, role: str, peer_nonce: str, own_nonce: str) -> str:
    """What `role` ("client" or "worker") shows to prove that it holds the token."""
    return hmac.new(token.encode(), f"{role}|{peer_nonce}|{own_nonce}".encode(), hashlib.sha256).hexdigest()


def proves(token: str, role: str, own_nonce: str, peer_nonce: str, shown: object) -> bool:
    """True where `shown` is the proof of the peer in `role`."""
    # As bytes: a stranger's text may hold what `compare_digest` refuses.
    return isinstance(shown, str) and hmac.compare_digest(
        proof(token, role, own_nonce, peer_nonce).encode(), shown.encode("utf-8", "surrogatepass")
    )


def is_nonce(value: object) -> bool:
    """Whether a peer's nonce is short plain text: a hash can be made of it."""
    return isinstance(value, str) and 0 < len(value) <= 128 and value.isascii()


def is_number(value: object) -> bool:
    """Whether a message's number is a whole one; True and 1.0 are none."""
    return type(value) is int
