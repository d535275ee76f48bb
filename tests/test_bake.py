"""From files to cache through the command line and the baker, with small random networks and real sound files."""

from __future__ import annotations

import itertools
import json
import gc
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support import STAGE
from support.avatars import static_avatar, talking_avatar

from ua3dtalk.engine.avatar import EMOTIONS, Avatar, load_avatar, regions, save_avatar
from ua3dtalk.engine.bake import Baker, Session
from ua3dtalk.engine.cache import SHARES, CacheReader, CacheWriter
from ua3dtalk.engine.cache.layout import ENTRY, FRAME_FILES
from ua3dtalk.engine.errors import Cancelled, UserError
from ua3dtalk.engine.files import file_hash
from ua3dtalk.engine.shot import EmotionCurves, Shot, compose_shot, save_shot
from ua3dtalk.engine.shot.emotion import parse_emotion


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bake")
    save_avatar(talking_avatar(), folder / "head.safetensors")
    random = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * np.cumsum(150 + 60 * np.sin(np.arange(32000) / 2500)) / 16000)
    soundfile.write(folder / "s.wav", 0.3 * tone * (1 + np.sin(np.arange(32000) / 800)) + 0.01 * random.normal(size=32000), 16000)
    return folder


def shot_of(files: Path, keys: list | None = None, **options) -> Shot:
    avatar = load_avatar(files / "head.safetensors")
    emotion = EmotionCurves(blink_seed=None) if keys is None else parse_emotion({"keys": keys, "blink": {"automatic": False}}, "keys")
    return compose_shot(files / "head.safetensors", avatar.hash, files / "s.wav", 2.0, emotion, 25.0, **options)


def test_a_bake_moves_what_moves_and_repeats_exactly(files: Path, tmp_path: Path) -> None:
    shot = shot_of(files)
    result = Baker(Session("cpu", 1), shot).bake(tmp_path / "a")
    assert (result.computed, result.moved, result.up_to_date) == (50, 0, 0)
    reader = CacheReader(tmp_path / "a")
    assert list(reader.frames()) == list(range(50))
    avatar = load_avatar(files / "head.safetensors")
    assert list(reader.moving) == list(avatar.moving_rows()) and len(reader.static) == 80
    first, later = reader.at(3), reader.at(30)
    moved = np.abs(first.means - later.means).max(axis=1) > 1e-7
    assert moved[reader.moving].mean() > 0.9
    still = np.setdiff1d(np.arange(80), reader.moving)
    assert not moved[still].any()
    assert (later.epistemic[reader.moving] > 0).all() and (later.aleatoric[reader.moving] > 0).all()

    again = Baker(Session("cpu", 1), shot).bake(tmp_path / "a")
    assert (again.computed, again.up_to_date) == (0, 50)
    Baker(Session("cpu", 1), shot).bake(tmp_path / "b")
    for name in FRAME_FILES:
        one, two = (next((tmp_path / x).glob("store-*")) / name for x in "ab")
        assert one.read_bytes() == two.read_bytes()


def test_a_frame_is_the_deformation_of_its_views(files: Path, tmp_path: Path) -> None:
    """What lies in the cache is what the plain reference gives for the same views, turned to Blender's frame."""
    from ua3dtalk.engine.deform import reference

    shot = shot_of(files, [{"frame": 0, "emotion": "happy"}])
    baker = Baker(Session("cpu", 1), shot)
    baker.bake(tmp_path)
    reader, avatar = CacheReader(tmp_path), load_avatar(files / "head.safetensors")
    views = {name: value[0] for name, value in baker.views(np.array([20])).items()}
    rows = avatar.moving("face")
    plain = plain_motion(reference, avatar, "face", views)
    means = (np.asarray(avatar.tensors["face.means"], np.float64)[rows] + plain) @ avatar.rotation_to_blender().T
    got = reader.at(20).means[rows]
    assert np.abs(got - means).max() < 2e-5 * np.abs(means).max()


def test_an_emotion_brings_its_action_units(files: Path, tmp_path: Path) -> None:
    avatar = load_avatar(files / "head.safetensors")
    brought = np.random.default_rng(0).uniform(0, 0.8, (len(avatar.meta.emotions), 6)).astype(np.float32)
    brought[0] = 0
    save_avatar(Avatar(avatar.meta, avatar.tensors | {"emotion.action_units": brought}), tmp_path / "brings.safetensors")
    shot = shot_of(files, [{"frame": 0, "emotion": "happy", "intensity": 0.5, "brow_raise": 0.75}, {"frame": 40, "emotion": "neutral"}])
    rows = np.array([10, 49])
    plain = Baker(Session("cpu", 1), shot).views(rows)
    path = tmp_path / "brings.safetensors"
    views = Baker(Session("cpu", 1), replace(shot, avatar=path, avatar_hash=file_hash(path))).views(rows)
    np.testing.assert_allclose(plain["au"], shot.au[rows])
    np.testing.assert_allclose(views["au"][0], np.minimum(shot.au[10] + 0.5 * brought[EMOTIONS.index("happy")], 1), atol=1e-6)
    np.testing.assert_allclose(views["au"][1], shot.au[49], err_msg="neutral brings none")
    assert all(np.array_equal(views[name], plain[name]) for name in plain if name != "au")
    with pytest.raises(UserError, match="emotion.action_units"):
        save_avatar(Avatar(avatar.meta, avatar.tensors | {"emotion.action_units": brought[:3]}), tmp_path / "wrong.safetensors")


def plain_motion(reference, avatar, branch: str, views: dict) -> np.ndarray:
    from ua3dtalk.engine.deform.parameters import branch_tensors

    means = np.asarray(avatar.tensors[f"{branch}.means"], np.float64)[avatar.moving(branch)]
    return reference.deform(branch, means, branch_tensors(avatar.tensors, branch), views, avatar.meta.logvar_bound).d_means


def test_only_what_changed_is_computed(files: Path, tmp_path: Path) -> None:
    session = Session("cpu", 1)
    Baker(session, shot_of(files, [{"frame": 0, "emotion": "neutral"}])).bake(tmp_path)
    changed = shot_of(files, [{"frame": 0, "emotion": "neutral"}, {"frame": 40, "emotion": "angry", "blend": 0.2}])
    result = Baker(session, changed).bake(tmp_path)
    assert result.computed == 14 and result.up_to_date == 36  # frames 36 to 49; at 35 the blend begins from zero


def test_a_moved_sound_is_not_computed_again(files: Path, tmp_path: Path) -> None:
    session = Session("cpu", 1)
    Baker(session, shot_of(files)).bake(tmp_path)
    before = [CacheReader(tmp_path).at(frame).means for frame in range(50)]
    result = Baker(session, shot_of(files, frames=(0, 49), offset=4 / 25)).bake(tmp_path)
    assert result.computed == 1 and result.moved == 49  # one frame of silence, shared by the first four
    reader = CacheReader(tmp_path)
    for frame in range(4, 50):
        np.testing.assert_array_equal(reader.at(frame).means, before[frame - 4])


def test_order_and_cancel_leave_a_usable_cache(files: Path, tmp_path: Path) -> None:
    shot = shot_of(files)
    seen: list[int] = []
    baker = Baker(Session("cpu", 1), shot)
    with pytest.raises(Cancelled):
        baker.bake(tmp_path, first=[40, 39], progress=lambda done, total, text, frames: seen.append(done), stopped=lambda: bool(seen) and seen[-1] >= 16)
    frames = CacheReader(tmp_path).frames()
    assert len(frames) == 16 and {39, 40} <= set(frames)
    result = baker.bake(tmp_path)
    assert result.up_to_date == 16 and result.computed == 34


def test_the_first_frame_comes_alone_and_progress_names_what_is_readable(files: Path, tmp_path: Path) -> None:
    told: list[tuple[int, list[int]]] = []

    def progress(done: int, total: int, text: str, frames: Sequence[int]) -> None:
        readable = CacheReader(tmp_path).keys()
        assert total == 50 and set(frames) <= set(readable)
        told.append((done, list(frames)))

    Baker(Session("cpu", 1), shot_of(files)).bake(tmp_path, first=[33, 7, 33, 1000], progress=progress)
    assert told[0] == (1, [33]) and told[1][1][0] == 7 and told[-1][0] == 50
    assert [len(frames) for _, frames in told[:5]] == [1, 1, 2, 4, 8]
    assert sorted(frame for _, frames in told for frame in frames) == list(range(50))
    again: list[list[int]] = []
    Baker(Session("cpu", 1), shot_of(files)).bake(tmp_path, progress=lambda done, total, text, frames: again.append(list(frames)))
    assert not any(again)  # all were readable before


def test_a_bake_stops_within_a_frame(files: Path, tmp_path: Path) -> None:
    baker = Baker(Session("cpu", 1), shot_of(files))
    asked = itertools.count()
    with pytest.raises(Cancelled):
        baker.bake(tmp_path, stopped=lambda: next(asked) == 2)  # before the frame, then before each of its branches' chunks
    assert len(CacheReader(tmp_path).frames()) == 0
    assert not (tmp_path / "writing.lock").exists()
    assert baker.bake(tmp_path).computed == 50


def test_errors_of_all_threads_come_through_and_none_stays(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    baker, before = Baker(Session("cpu", 1), shot_of(files)), set(threading.enumerate())

    def broken(count: int) -> Callable[..., None]:
        calls = itertools.count()
        return lambda self, original, *arguments: original(self, *arguments) if next(calls) < count else (_ for _ in ()).throw(UserError("broken"))

    for owner, name in ((Baker, "views"), (CacheWriter, "put"), (type(baker.deformer), "motion")):
        original, wrapper = getattr(owner, name), broken(3)
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, lambda self, *arguments, o=original, w=wrapper: w(self, o, *arguments))  # noqa: B023
            with pytest.raises(UserError, match="broken"):
                baker.bake(tmp_path / name)
        assert set(threading.enumerate()) == before
        result = baker.bake(tmp_path / name)
        assert result.up_to_date >= 2 and result.up_to_date + result.computed == 50


def test_frames_lie_in_the_cache_as_they_were_computed(files: Path, tmp_path: Path) -> None:
    """Whatever the batches: the first frame alone, the others together."""
    shot = shot_of(files)
    session = Session("cpu", 1)
    Baker(session, shot).bake(tmp_path / "a")
    Baker(session, shot).bake(tmp_path / "b", first=[49, 20, 3])
    a, b = (CacheReader(tmp_path / name) for name in "ab")
    for frame in range(50):
        np.testing.assert_array_equal(a.at(frame).means, b.at(frame).means)
        np.testing.assert_array_equal(a.at(frame).uncertainty, b.at(frame).uncertainty)


def test_a_session_goes_on_in_a_folder_that_others_changed(files: Path, tmp_path: Path) -> None:
    """The writer that a session keeps knows when the folder is not as it left it."""
    session, other = Session("cpu", 1), Session("cpu", 1)
    shot, happy = shot_of(files), shot_of(files, [{"frame": 0, "emotion": "happy"}])
    assert Baker(session, shot).bake(tmp_path / "c").computed == 50
    assert Baker(session, shot).bake(tmp_path / "c").up_to_date == 50
    assert Baker(other, happy).bake(tmp_path / "c").computed == 50
    assert Baker(session, happy).bake(tmp_path / "c").up_to_date == 50
    shutil.rmtree(tmp_path / "c")
    assert Baker(session, shot).bake(tmp_path / "c").computed == 50
    assert list(CacheReader(tmp_path / "c").frames()) == list(range(50))
    # Live editing for a long time: slots of replaced frames are used again, and the index does not grow for ever.
    for turn in range(30):
        assert Baker(session, (happy, shot)[turn % 2]).bake(tmp_path / "c").computed == 50
    store = next((tmp_path / "c").glob("store-*"))
    reader = CacheReader(tmp_path / "c")
    assert (store / "motion.bin").stat().st_size <= 2 * 50 * 20 * reader.header.moving
    assert (store / "index.bin").stat().st_size <= (4 * 50 + 64 + 50) * ENTRY.itemsize


def test_what_a_sound_says_is_kept_on_disk_for_other_processes(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UA3DTALK_CACHE", str(tmp_path / "kept"))
    shot = shot_of(files)
    Baker(Session("cpu", 1), shot).bake(tmp_path / "a")
    kept = list((tmp_path / "kept").rglob("*.safetensors"))
    assert len(kept) == 4
    code = (
        "import sys; from pathlib import Path; from ua3dtalk.engine.bake import Baker, Session\n"
        "from ua3dtalk.engine.shot import load_shot; from ua3dtalk.engine.views import analysis\n"
        "Baker(Session('cpu', 1), load_shot(Path(sys.argv[1]))).bake(Path(sys.argv[2])); print(len(analysis._known))\n"
    )
    save_shot(shot, tmp_path / "shot")
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "shot", tmp_path / "b"], cwd=STAGE, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "0"  # nothing was analysed
    one, two = (next((tmp_path / x).glob("store-*")) / "motion.bin" for x in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_without_sound_emotion_still_moves_the_face(files: Path, tmp_path: Path) -> None:
    avatar = load_avatar(files / "head.safetensors")
    emotion = parse_emotion({"keys": [{"frame": 0, "emotion": "happy"}, {"frame": 20, "emotion": "sad"}]}, "keys")
    shot = compose_shot(files / "head.safetensors", avatar.hash, None, 0, emotion, 25, (0, 24))
    assert Baker(Session("cpu", 1), shot).bake(tmp_path).computed < 25  # held poses are computed once
    reader = CacheReader(tmp_path)
    assert np.abs(reader.at(0).means - reader.at(24).means).max() > 1e-6


def test_a_static_avatar_bakes_to_itself(tmp_path: Path) -> None:
    save_avatar(static_avatar(), tmp_path / "still.safetensors")
    avatar = load_avatar(tmp_path / "still.safetensors")
    shot = compose_shot(tmp_path / "still.safetensors", avatar.hash, None, 0, EmotionCurves(), 25, (0, 3))
    Baker(Session("cpu", 1), shot).bake(tmp_path / "c")
    reader = CacheReader(tmp_path / "c")
    np.testing.assert_array_equal(reader.at(2).means, reader.static.means)


def test_files_that_changed_since_are_refused(files: Path, tmp_path: Path) -> None:
    shot = shot_of(files)
    with pytest.raises(UserError, match="head.safetensors has changed"):
        Baker(Session("cpu", 1), replace(shot, avatar_hash="0" * 64))
    with pytest.raises(UserError, match="s.wav has changed"):
        Baker(Session("cpu", 1), replace(shot, sound_hash="0" * 64))
    with pytest.raises(UserError, match="gone.wav"):
        Baker(Session("cpu", 1), replace(shot, sound=tmp_path / "gone.wav"))


def test_an_avatar_written_over_during_a_bake_spoils_nothing(files: Path, tmp_path: Path) -> None:
    for name in ("head.safetensors", "s.wav"):
        shutil.copy(files / name, tmp_path)
    shot = shot_of(tmp_path)
    Baker(Session("cpu", 1), shot).bake(tmp_path / "whole")
    baker = Baker(Session("cpu", 1), shot)
    with open(tmp_path / "head.safetensors", "r+b") as file:  # the same file, as `cp` writes over one
        file.seek(4096)
        file.write(b"\xa5" * (tmp_path / "head.safetensors").stat().st_size)
    baker.bake(tmp_path / "c")
    for frame in range(50):
        np.testing.assert_array_equal(CacheReader(tmp_path / "c").at(frame).means, CacheReader(tmp_path / "whole").at(frame).means)
    with pytest.raises(UserError):
        Baker(Session("cpu", 1), shot)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_a_session_lets_the_avatar_file_go(files: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(files / "head.safetensors", tmp_path / "own.safetensors"))  # errors of other tests may still hold theirs
    head = Session("cpu", 1).head(path)
    gc.collect()
    assert head.deformer is not None and str(path) not in Path("/proc/self/maps").read_text()


def test_an_avatar_refuses_a_provider_it_was_not_trained_with(files: Path, tmp_path: Path) -> None:
    avatar = talking_avatar()
    avatar.meta.views["audio"].version = 99
    save_avatar(avatar, tmp_path / "head.safetensors")
    shutil.copy(files / "s.wav", tmp_path)
    with pytest.raises(UserError, match="version 99"):
        Baker(Session("cpu", 1), shot_of(tmp_path))


def engine(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "engine", *map(str, arguments)], cwd=STAGE / "ua3dtalk", capture_output=True, text=True)


def test_the_command_line_bakes(files: Path, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text('{"fps": 25, "keys": [{"frame": 0, "emotion": "happy", "intensity": 1.0}]}')
    arguments = ("--avatar", files / "head.safetensors", "--audio", files / "s.wav", "--emotion", tmp_path / "e.json", "--threads", 1)
    done = engine("bake", *arguments, "--fps", 25, "--out", tmp_path / "c", "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1]["computed"] + lines[-1]["moved"] == 50
    assert any(line.get("progress") == 50 for line in lines)
    assert len(CacheReader(tmp_path / "c").frames()) == 50

    info = json.loads(engine("info", files / "head.safetensors", "--json").stdout)
    assert info["gaussians"] == {"face": 60, "mouth": 20} and info["moving"] == {"face": 30, "mouth": 20}


def test_the_command_line_refuses_in_one_line(files: Path, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    common = ("bake", "--avatar", files / "head.safetensors", "--out", tmp_path / "c")
    for extra, words in (
        (("--audio", tmp_path / "text.wav"), "text.wav"),
        (("--audio", files / "s.wav", "--fps", 0), "frames a second"),
        (("--frames", "a:b"), "--frames"),
        ((), "Give a sound"),
    ):
        done = engine(*common, *extra)
        assert done.returncode == 1 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "c").exists()


def test_the_command_line_imports_and_deforms_the_reference_case(shared_data: Path, tmp_path: Path) -> None:
    """A checkpoint in the authors' layout gives the motion that the authors' networks give, and refuses our providers."""
    case, head = shared_data / "reference_case", tmp_path / "head.safetensors"
    assert engine("import", case / "chkpnt_fuse_latest.pth", "--out", head).returncode == 0
    done = engine("deform", "--avatar", head, "--features", case / "expected.npz", "--out", tmp_path / "motion.npz")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "motion.npz") as got, np.load(case / "expected.npz") as expected:
        assert set(got) == {"face_d_xyz", "face_d_rot", "face_d_scale", "mouth_d_xyz"}
        for name in got:
            assert np.abs(got[name] - expected[name]).max() <= 1e-5 * np.abs(expected[name]).max()
    done = engine("bake", "--avatar", head, "--frames", "0:9", "--out", tmp_path / "c")
    assert done.returncode == 1 and "authors/deepspeech" in done.stderr


def test_shares_in_the_cache_are_those_of_the_plain_formulation(files: Path, tmp_path: Path) -> None:
    from ua3dtalk.engine.deform import reference
    from ua3dtalk.engine.deform.parameters import VIEWS, branch_tensors

    avatar = talking_avatar()
    # Fresh networks are equally sure of everything, everywhere.
    for name in [name for name in avatar.tensors if name.startswith("face.net.field.") and "aabb" not in name]:
        avatar.tensors[name] = avatar.tensors[name] * 10
    for number, view in enumerate(SHARES):
        avatar.tensors[f"face.net.fuse.{view}.logvar.weight"] *= 20
        avatar.tensors[f"face.net.fuse.{view}.logvar.bias"] += 0.5 * number
    save_avatar(avatar, tmp_path / "head.safetensors")
    shutil.copy(files / "s.wav", tmp_path)
    baker = Baker(Session("cpu", 1), shot_of(tmp_path, [{"frame": 0, "emotion": "happy"}]))
    baker.bake(tmp_path / "c")
    reader, avatar = CacheReader(tmp_path / "c"), load_avatar(tmp_path / "head.safetensors")
    np.testing.assert_array_equal(reader.region, regions(avatar))
    views = {name: value[0] for name, value in baker.views(np.array([20])).items()}
    start = 0
    for branch in ("face", "mouth"):
        rows = avatar.moving(branch)
        means = np.asarray(avatar.tensors[f"{branch}.means"], np.float64)[rows]
        plain = reference.deform(branch, means, branch_tensors(avatar.tensors, branch), views, avatar.meta.logvar_bound).shares
        found = reader.at(20).shares[start + rows]
        for number, view in enumerate(SHARES):
            wanted = plain[:, VIEWS[branch].index(view)] if view in VIEWS[branch] else np.zeros(len(rows))
            assert np.abs(found[:, number] - wanted).max() < 1.001 / 255, (branch, view)
        start += avatar.count(branch)
    face = reader.at(20).shares[avatar.moving("face")]
    assert face.min() > 0 and np.ptp(face, axis=0).min() > 0.01


def test_an_older_bake_is_replaced_when_the_new_one_is_whole(files: Path, tmp_path: Path) -> None:
    """Frames are not said to be readable before they are."""
    Baker(Session("cpu", 1), shot_of(files)).bake(tmp_path)
    text = json.loads((tmp_path / "header.json").read_text())
    next(tmp_path.glob("store-*")).rename(tmp_path / "store-old")
    (tmp_path / "header.json").write_text(json.dumps(text | {"format_version": 1, "store": "store-old"}))
    told: list[list[int]] = []
    with pytest.raises(Cancelled):
        Baker(Session("cpu", 1), shot_of(files)).bake(
            tmp_path, progress=lambda done, total, text, frames: told.append(list(frames)), stopped=lambda: len(told) > 3
        )
    assert not any(told) and json.loads((tmp_path / "header.json").read_text())["store"] == "store-old"
    result = Baker(Session("cpu", 1), shot_of(files)).bake(tmp_path, progress=lambda done, total, text, frames: told.append(list(frames)))
    assert result.up_to_date > 0 and told[-1] == list(range(50)) and not any(told[:-1])
    assert list(CacheReader(tmp_path).frames()) == list(range(50)) and not (tmp_path / "store-old").exists()
