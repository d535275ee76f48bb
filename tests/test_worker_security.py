"""The worker's channel among strangers: what anybody on the machine can send, and what a peer gone mad may say. See SECURITY.md."""

from __future__ import annotations

import ast
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fuzz.peers import MadClient, MadWorker
from test_house import imports, sources
from test_worker import connect, sleeping_client, until

from ua3dtalk.engine import __version__
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.worker.client import WorkerClient
from ua3dtalk.engine.worker.protocol import MAX_MESSAGE, PROTOCOL_VERSION, Decoder, ProtocolError, encode, proof, proves
from ua3dtalk.engine.worker.server import Server

PROJECT = Path(__file__).resolve().parents[1]
HELLO = {"type": "hello", "nonce": "ab" * 16}
posix = pytest.mark.skipif(os.name == "nt", reason="needs a script as a program")


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[WorkerClient]:
    """A client whose worker has not come yet."""
    client = sleeping_client(tmp_path)
    client.start()
    yield client
    client.stop()


def challenged(client: WorkerClient, peer: socket.socket) -> dict[str, Any]:
    """What the client answers to a hello; heard as soon as it is there."""
    peer.sendall(encode(HELLO))
    peer.settimeout(0.001)
    decoder = Decoder()
    for _ in range(20_000):
        client.pump(0.001)
        with suppress(TimeoutError):
            if heard := decoder.feed(peer.recv(1 << 16)):
                return heard[0]
    raise AssertionError("no challenge")


def comes(client: WorkerClient) -> None:
    """Who holds the token gets in."""
    peer = connect(client)
    shown = proof(client._token, "worker", challenged(client, peer)["nonce"], HELLO["nonce"])
    peer.sendall(encode({"type": "proof", "proof": shown, "info": {"protocol": PROTOCOL_VERSION, "engine": __version__}}))
    until(client, lambda: client.state == "ready")


def pumped(client: WorkerClient) -> None:
    for _ in range(20):
        client.pump(0.01)


@posix
def test_it_listens_on_the_loopback_alone_and_never_twice(waiting: WorkerClient) -> None:
    assert waiting._listener.getsockname()[0] == "127.0.0.1"
    address = waiting._listener.getsockname()
    comes(waiting)
    with pytest.raises(OSError):  # one worker: after it nobody is heard any more
        socket.create_connection(address, timeout=5)


@posix
@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", MAX_MESSAGE + 1),
        b"\xff" * 4,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        struct.pack(">I", 40000) + b"[" * 40000,
        encode({"type": "hello", "nonce": "\ud800"}),
        encode({"type": "hello", "nonce": "é"}),
        encode({"type": "hello", "nonce": "a" * 100_000}),
        encode({"type": "hello", "nonce": []}),
        encode(HELLO) + encode(HELLO),
        encode(HELLO) + encode({"type": "proof", "proof": "é"}),
        encode(HELLO) + encode({"type": "proof", "proof": "\ud800"}),
        encode(HELLO) + encode({"type": "proof", "proof": ["0"]}),
    ],
    ids=lambda data: repr(data[:40]),
)
def test_a_strangers_bytes_end_only_his_connection(waiting: WorkerClient, data: bytes) -> None:
    """None of them raises in Blender, gets in, or stays; the worker comes all the same."""
    peer = connect(waiting)
    peer.sendall(data)
    pumped(waiting)
    assert waiting.state == "starting" and not waiting._peers
    peer.close()
    comes(waiting)


@posix
def test_half_open_connections_do_not_keep_the_worker_out(waiting: WorkerClient) -> None:
    """Silent ones, ones in the middle of a length or of a message, ones that hung up, more than are kept."""
    peers = []
    for number in range(20):
        peer = connect(waiting)
        peer.sendall((b"", b"\x00\x00", encode(HELLO)[:9], encode(HELLO))[number % 4])
        peers.append(peer)
        if number % 5 == 0:
            peer.close()
        pumped(waiting)
    comes(waiting)
    for peer in peers:
        peer.close()


@posix
def test_a_whole_recorded_handshake_is_of_no_use_again(waiting: WorkerClient) -> None:
    peer = connect(waiting)
    shown = proof(waiting._token, "worker", challenged(waiting, peer)["nonce"], HELLO["nonce"])
    peer.close()
    recorded = encode(HELLO) + encode({"type": "proof", "proof": shown, "info": {"protocol": PROTOCOL_VERSION, "engine": __version__}})
    again = connect(waiting)
    again.sendall(recorded)
    pumped(waiting)
    assert waiting.state == "starting" and not waiting._peers
    comes(waiting)


NETWORK = {"socket", "ssl", "http", "ftplib", "smtplib", "imaplib", "poplib", "socketserver", "xmlrpc", "requests", "httpx", "aiohttp", "urllib3", "distributed"}


def test_nothing_else_knows_the_network() -> None:
    found = set()
    for path in (path for folder in ("addon", "engine") for path in sources(folder)):
        for name in imports(path):
            if name.split(".")[0] in NETWORK or name.startswith("urllib.request") or name.startswith("torch.hub"):
                found.add(path.relative_to(PROJECT).as_posix())
    assert {"engine/worker/client.py", "engine/worker/server.py"} <= found
    assert {name for name in found if not name.startswith(("engine/worker/", "engine/farm/"))} <= {"engine/cache/lock.py"}
    named = [node for node in ast.walk(ast.parse((PROJECT / "engine/cache/lock.py").read_text("utf-8"))) if isinstance(node, ast.Attribute)]
    assert {node.attr for node in named if ast.unparse(node.value) == "socket"} == {"gethostname"}, "its lock tells machines apart"


@pytest.mark.parametrize("shown", ["00" * 32, "é", "\ud800", None, 3, proof("wrong", "client", "a", "b")])
def test_proofs_of_any_kind_are_refused_without_an_error(shown: object) -> None:
    assert not proves("token", "worker", "a", "b", shown)


@pytest.mark.parametrize("challenge", [{}, {"nonce": "é", "proof": "x"}, {"nonce": "a", "proof": "00" * 32}, {"nonce": "a", "proof": "é"}])
def test_the_worker_serves_nobody_without_the_token(challenge: dict) -> None:
    """Who took the port in Blender's place is refused before anything is asked for or told."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(listener.getsockname()[1], "token", {}, {"secret": 1})
        peer, _ = listener.accept()
        with peer:
            peer.sendall(encode({"type": "challenge"} | challenge))
            with pytest.raises(UserError, match="does not hold the token"):
                server.run()
            server._socket.close()
            peer.settimeout(10)
            heard = b"".join(iter(lambda: peer.recv(4096), b""))
    assert b"hello" in heard and b"secret" not in heard and b"proof" not in heard


@posix
def test_the_token_is_on_no_command_line(waiting: WorkerClient) -> None:
    arguments = waiting._process.args
    assert len(waiting._token) == 64 and not any(waiting._token in argument for argument in arguments)
    assert waiting._token not in os.environ.values()


@pytest.mark.parametrize(
    "message",
    [
        {"type": "progress", "id": [1]},
        {"type": "progress", "id": 1, "frames": 3, "done": "x", "total": None, "text": []},
        {"type": "progress", "id": 1, "frames": [[1], "2", None, True]},
        {"type": "result", "id": 1, "result": [1]},
        {"type": "error", "id": 1, "message": [], "remedy": {}},
    ],
)
def test_a_worker_gone_mad_raises_nothing_in_blender(message: dict, tmp_path: Path) -> None:
    mad = MadWorker(tmp_path)
    mad.take({"type": "progress", "id": 1, "done": 1, "total": 2, "text": "x", "frames": [7]})
    mad.take(message)
    for job in mad.client._jobs.values():
        assert type(job.done) is type(job.total) is int and isinstance(job.text, str) and job.frames == []
    assert mad.client.state == "ready"


@pytest.mark.parametrize("generation", [3, "ab", [], ["x"], [1, 2], ["x", "y"], ["x", 1, 2], [["x"], 1], {"a": 1}])
def test_a_client_gone_mad_ends_the_connection_as_foreign_bytes_do(generation: object) -> None:
    with pytest.raises(ProtocolError):
        MadClient().take({"type": "request", "id": 1, "method": "info", "params": {}, "generation": generation})


@pytest.mark.skipif(sys.platform == "win32", reason="runs the script as it is run by hand")
def test_a_short_fuzz_finds_nothing() -> None:
    """The script itself, a few hundred inputs a reader; docs/fuzz.md has the long runs."""
    from fuzz.__main__ import NAMES, run, stage

    stage()
    for name in ("protocol", "shot", "splat"):
        assert name in NAMES
        result = run(name, 5, 10.0, most=300)
        assert result.findings == {} and result.inputs == 300 and result.accepted and result.refused, (name, result)
