"""The worker as a real process: it proves itself, bakes, reports, stops when asked, dies alone and never takes us along."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support import STAGE
from support.avatars import talking_avatar

from ua3dtalk.engine import __version__
from ua3dtalk.engine.audio import read_sound
from ua3dtalk.engine.avatar import load_avatar, save_avatar
from ua3dtalk.engine.cache import CacheReader
from ua3dtalk.engine.errors import Cancelled, UserError
from ua3dtalk.engine.shot import EmotionCurves, compose_shot, save_shot
from ua3dtalk.engine.views.emotion import Arousal
from ua3dtalk.engine.worker.client import WorkerClient
from ua3dtalk.engine.worker.protocol import MAX_MESSAGE, PROTOCOL_VERSION, Decoder, ProtocolError, encode, proof, proves

ROOT = STAGE / "ua3dtalk"


@pytest.fixture(scope="module")
def shot_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of an avatar with enough Gaussians that a bake takes seconds."""
    folder = tmp_path_factory.mktemp("worker")
    save_avatar(talking_avatar(1500, 100, members=4), folder / "head.safetensors")
    random = np.random.default_rng(0)
    soundfile.write(folder / "s.flac", 0.2 * random.normal(size=60 * 16000).clip(-1, 1), 16000)
    avatar = load_avatar(folder / "head.safetensors")
    shot = compose_shot(folder / "head.safetensors", avatar.hash, folder / "s.flac", 60, EmotionCurves(), 25)
    save_shot(shot, folder / "shot")
    return folder / "shot"


def new_client(folder: Path) -> WorkerClient:
    return WorkerClient(Path(sys.executable), ROOT, 1, "cpu", folder / "worker.log")


@pytest.fixture
def client(tmp_path: Path) -> Iterator[WorkerClient]:
    client = new_client(tmp_path)
    client.start()
    yield client
    client.stop()


def until(client: WorkerClient, true, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, (client.state, client.error)
        client.pump(0.05)


def gone(pid: int, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] if Path("/proc").exists() else "?"
            os.kill(pid, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


def test_a_whole_day(client: WorkerClient, shot_file: Path, tmp_path: Path) -> None:
    """Start, ask, bake, cancel, a newer generation, an error, an unknown method: all in one process."""
    job = client.request("info", {"avatar": str(shot_file.parent / "head.safetensors")})  # sent once it is ready
    assert job.wait(90)["gaussians"]["face"] == 1500
    assert client.state == "ready" and client.info["device"] == "cpu"
    pid = client.pid
    assert client.request("doctor", {}).wait(60)["ok"]

    asked = {"avatar": str(shot_file.parent / "head.safetensors"), "sound": str(shot_file.parent / "s.flac")}
    said = client.request("emotion", asked | {"times": [0, 1.5, 30.02, None, 99]}).wait(60)
    track = Arousal().track(read_sound(shot_file.parent / "s.flac"))
    times = np.array([0, 1.5, 30.02, np.nan, 99])
    np.testing.assert_allclose(said["weights"], track.at(times), atol=1e-6)
    np.testing.assert_allclose(said["confidence"], track.confidence_at(times).reshape(-1), atol=1e-6)
    assert said["weights"][3] == said["weights"][4] == [1, 0, 0, 0, 0, 0, 0, 0] and said["confidence"][3:] == [0, 0]
    assert said["confidence"][2] > 0 and len(said["confidence"]) == 5
    for times in ("0", [[1]], ["1"], 3, None):
        with pytest.raises(UserError, match="list of seconds"):
            client.request("emotion", asked | {"times": times}).wait(60)
    with pytest.raises(UserError, match="gone.flac"):
        client.request("emotion", asked | {"times": [0], "sound": str(tmp_path / "gone.flac")}).wait(60)

    bake = client.request("bake", {"shot": str(shot_file), "out": str(tmp_path / "c"), "order": [700]})
    until(client, lambda: bake.done > 8)
    bake.cancel()
    with pytest.raises(Cancelled):
        bake.wait(60)
    frames = CacheReader(tmp_path / "c").frames()
    assert 700 in frames and 8 <= len(frames) < 1500

    older = client.request("bake", {"shot": str(shot_file), "out": str(tmp_path / "c")}, ("live", 1))
    until(client, lambda: older.total > 0)
    newer = client.request("doctor", {}, ("live", 2))
    newer.wait(60)
    assert older.state == "cancelled"

    # Live editing: the frame that is wanted comes first, and is named as it becomes readable; a newer request takes over.
    edits = []
    for generation, frame in enumerate((1200, 30, 611), start=3):
        edits.append(client.request("bake", {"shot": str(shot_file), "out": str(tmp_path / "live"), "order": [frame]}, ("live", generation)))
        until(client, lambda: edits[-1].frames)  # noqa: B023
        assert edits[-1].frames[0] == frame and frame in CacheReader(tmp_path / "live").frames()
    edits[-1].cancel()
    with pytest.raises(Cancelled):
        edits[-1].wait(60)
    assert [job.state for job in edits] == ["cancelled"] * 3
    readable = [frame for job in edits for frame in job.frames]
    assert sorted(readable) == list(CacheReader(tmp_path / "live").frames())

    with pytest.raises(UserError, match="nowhere"):
        client.request("bake", {"shot": str(tmp_path / "nowhere"), "out": str(tmp_path)}).wait(60)
    with pytest.raises(UserError, match="no method"):
        client.request("dance", {}).wait(60)
    assert client.pid == pid and client.state == "ready"
    client.stop()
    assert gone(pid)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_killed_in_the_middle_of_a_bake(client: WorkerClient, shot_file: Path, tmp_path: Path) -> None:
    job = client.request("bake", {"shot": str(shot_file), "out": str(tmp_path / "c")})
    until(client, lambda: job.done >= 16)
    os.kill(client.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="Start it again"):
        job.wait(30)
    assert client.state == "failed"
    reader = CacheReader(tmp_path / "c")
    kept = {int(frame): reader.at(int(frame)).means for frame in reader.frames()}
    assert len(kept) >= 16

    client.start()
    job = client.request("bake", {"shot": str(shot_file), "out": str(tmp_path / "c")})
    until(client, lambda: job.done > len(kept) + 8)  # goes on where it stopped
    job.cancel()
    reader.refresh()
    for frame, means in kept.items():
        np.testing.assert_array_equal(reader.at(frame).means, means)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_the_worker_ends_when_its_parent_is_killed(shot_file: Path, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from ua3dtalk.engine.worker.client import WorkerClient\n"
        "c = WorkerClient(Path(sys.executable), Path(sys.argv[1]) / 'ua3dtalk', 1, 'cpu', Path(sys.argv[2]))\n"
        "c.start(); c.wait_ready(); job = c.request('bake', {'shot': sys.argv[3], 'out': sys.argv[4]})\n"
        "while job.done < 8: c.pump(0.1)\n"
        "print(c.pid, flush=True); time.sleep(600)\n"
    )
    arguments = [str(STAGE), str(tmp_path / "log"), str(shot_file), str(tmp_path / "c")]
    parent = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        assert gone(pid)
    finally:
        parent.kill()


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_hung_worker_is_noticed_and_can_be_replaced(client: WorkerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.wait_ready()
    pid = client.pid
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(sys.modules[WorkerClient.__module__], "SILENCE_TIMEOUT", 3.0)
    until(client, lambda: client.state == "failed", 30)
    assert client.error is not None and "sign of life" in client.error.message
    assert gone(pid)


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    client = WorkerClient(tmp_path / "python", ROOT, None, "auto", tmp_path / "log")
    with pytest.raises(UserError, match="cannot be started"):
        client.start()
    job = client.request("doctor", {})
    assert job.state == "failed" and job.error is not None
    client.stop()


def test_a_worker_that_dies_at_once_says_why(tmp_path: Path) -> None:
    client = WorkerClient(Path(sys.executable), tmp_path, None, "auto", tmp_path / "log")
    client.start()
    until(client, lambda: client.state == "failed")
    assert client.error is not None and "No module named" in client.error.message


def sleeping_client(folder: Path) -> WorkerClient:
    """Its child waits for its parent's end instead of connecting, so that the port stays open for intruders."""
    script = folder / "sleeper"
    script.write_text(f"#!{sys.executable}\nimport sys\nsys.stdin.read()\n")
    script.chmod(0o755)
    return WorkerClient(script, ROOT, 1, "cpu", folder / "log")


def connect(client: WorkerClient) -> socket.socket:
    peer = socket.create_connection(client._listener.getsockname())
    peer.settimeout(20)
    return peer


def talk(client: WorkerClient, peer: socket.socket, *messages: dict) -> list[dict]:
    """Send messages as a foreign peer, and hear what the client answers until it hangs up or falls silent."""
    decoder, heard = Decoder(), []
    for message in messages:
        peer.sendall(encode(message))
        until_quiet = time.monotonic() + 1.0
        while time.monotonic() < until_quiet:
            client.pump(0.01)
            peer.settimeout(0.01)
            try:
                data = peer.recv(1 << 16)
            except TimeoutError:
                continue
            except ConnectionError:
                return heard
            if not data:
                return heard
            heard += decoder.feed(data)
    return heard


@pytest.mark.skipif(os.name == "nt", reason="needs a script as a program")
def test_foreign_peers_are_dropped_and_the_own_worker_still_comes(tmp_path: Path) -> None:
    """Wrong tokens, replayed proofs, garbage: none gets in, none keeps the real worker out."""
    client = sleeping_client(tmp_path)
    hello = {"type": "hello", "nonce": "ab" * 16}
    try:
        client.start()
        for third in (
            {"type": "proof", "proof": "00" * 32},
            {"type": "proof", "proof": None},
            {"type": "proof", "proof": proof("wrong token", "worker", "x", "y")},
            {"type": "request", "id": 1},
        ):
            peer = connect(client)
            heard = talk(client, peer, hello, third)
            assert [message["type"] for message in heard] == ["challenge"]
            assert client.state == "starting"
            peer.close()
        # A proof seen in one handshake, replayed in another, and the client's own proof sent back to it.
        peer = connect(client)
        (challenge,) = talk(client, peer, hello)
        good = proof(client._token, "worker", challenge["nonce"], hello["nonce"])
        peer.close()
        for shown in (good, challenge["proof"]):
            peer = connect(client)
            talk(client, peer, hello, {"type": "proof", "proof": shown})
            assert client.state == "starting"
            peer.close()
        garbage = connect(client)
        garbage.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(100))
        silent = [connect(client) for _ in range(3)]  # these stay open and say nothing
        # Who holds the token gets in all the same.
        peer = connect(client)
        (challenge,) = talk(client, peer, hello)
        shown = proof(client._token, "worker", challenge["nonce"], hello["nonce"])
        talk(client, peer, {"type": "proof", "proof": shown, "info": {"protocol": PROTOCOL_VERSION, "engine": __version__}})
        assert client.state == "ready"
        for peer in (garbage, *silent):
            peer.close()
    finally:
        client.stop()


@pytest.mark.skipif(os.name == "nt", reason="needs a script as a program")
def test_a_worker_of_another_version_is_refused(tmp_path: Path) -> None:
    client = sleeping_client(tmp_path)
    client.start()
    peer = connect(client)
    (challenge,) = talk(client, peer, {"type": "hello", "nonce": "x"})
    shown = proof(client._token, "worker", challenge["nonce"], "x")
    talk(client, peer, {"type": "proof", "proof": shown, "info": {"protocol": 99, "engine": "9.9"}})
    assert client.state == "failed" and client.error is not None and "9.9" in client.error.message


def test_messages_come_whole_from_any_pieces() -> None:
    messages = [{"type": "x", "text": "ä" * n, "n": n} for n in (0, 1, 1000)]
    data = b"".join(map(encode, messages))
    for step in (1, 3, 7, len(data)):
        decoder, got = Decoder(), []
        for at in range(0, len(data), step):
            got += decoder.feed(data[at : at + step])
        assert got == messages


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        (MAX_MESSAGE + 1).to_bytes(4, "big"),
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\x00\x02{}",
        b"\x00\x00\x00\x01{",
        b"\x00\x00\x00\x0a" + json.dumps({"type": 1}).encode(),
        b"\x00\x01\x00\x00" + b"[" * 65536,
    ],
)
def test_foreign_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Decoder().feed(data)


def test_proofs_are_bound_to_role_token_and_nonces() -> None:
    shown = proof("token", "worker", "peer", "own")
    assert proves("token", "worker", "peer", "own", shown)
    for other in (("token", "client", "peer", "own"), ("other", "worker", "peer", "own"), ("token", "worker", "own", "peer")):
        assert not proves(*other, shown)
    assert not proves("token", "worker", "peer", "own", None)
