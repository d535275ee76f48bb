"""The synthetic person as a data set. What needs espeak-ng, the face model or Blender is skipped where it is absent."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from character import face_model, synthetic
from character.look import Look
from character.motion import Actor
from character.synthetic import Settings, landmarks, look_of, make, make_plan
from character.synthetic_aus import action_units
from character.synthetic_passes import CLASSES, pieces, read_exr
from character.synthetic_script import FPS, HELD_FROM, SAMPLES, TRAINED_TO, Script, head_motion, manner, write_script
from engine.avatar import EMOTIONS
from engine.dataset import PARSING, read_data
from engine.errors import UserError
from engine.priors.espeak import Espeak
from engine.views.content import MBP, SIL, VISEMES
from support import ROOT, shared_data


@pytest.fixture(scope="module")
def espeak() -> Espeak:
    try:
        return Espeak()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def script(espeak: Espeak) -> Script:
    return write_script(60, 3, 5, "en-us+m3", "angry", espeak)


@pytest.fixture(scope="module")
def packed() -> Path:
    return shared_data("face_model", "ict_facekit.npz")


@pytest.fixture(scope="module")
def blender() -> Path:
    python = ROOT / ".venv" / "blender" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        pytest.skip("Blender's environment .venv/blender is absent")
    return python


# --- what is said and done --------------------------------------------------------------------------------------------------------


def test_script_comes_back_and_another_seed_gives_another(script, espeak, tmp_path):
    script.save(tmp_path / "script.npz")
    again = Script.load(tmp_path / "script.npz")
    assert again.takes == script.takes
    for name in ("samples", "take", "phoneme", "viseme"):
        np.testing.assert_array_equal(getattr(again, name), getattr(script, name))
    np.testing.assert_array_equal(again.performance.au, script.performance.au)
    (tmp_path / "script.npz").write_bytes((tmp_path / "script.npz").read_bytes()[:-50])
    with pytest.raises(UserError, match="script.npz"):
        Script.load(tmp_path / "script.npz")
    assert write_script(10, 3, 6, "en-us+m3", "angry", espeak).takes[:3] != script.takes[:3]


def test_tracks_are_as_long_as_the_sound_and_fit_together(script):
    frames = len(script.take)
    assert len(script.samples) == frames * SAMPLES and 60 * FPS <= frames < 70 * FPS and np.abs(script.samples).max() <= 0.82
    p = script.performance
    for track in (p.articulation, p.strength, p.emotion, p.au, script.phoneme, script.viseme):
        assert len(track) == frames
    np.testing.assert_allclose(p.articulation.sum(1), 1, atol=1e-5)
    assert p.emotion.min() >= 0 and p.emotion.max() <= 1 and (p.emotion > 0).sum(1).max() == 1
    # In a pause nothing is pronounced and nothing is heard; between takes the face is at rest.
    loud = np.sqrt((script.samples.reshape(frames, SAMPLES) ** 2).mean(1))
    assert np.median(loud[script.viseme == SIL]) < 0.02 * np.median(loud[script.viseme != SIL])
    closed, silent = script.viseme == MBP, script.phoneme == ""
    assert set(script.phoneme[closed & ~silent]) <= set("mbp") | {"m̩", "pʰ"}
    assert closed[np.flatnonzero(closed & silent) - 1].all()  # lips stay shut a moment after a p at a sentence's end
    first = np.flatnonzero(np.diff(script.take, prepend=-1))
    assert p.emotion[first].max() < 0.1 and p.articulation[first, SIL].min() > 0.9


def test_splits_share_no_sentence_and_hold_one_strength_out(script):
    splits = script.splits()
    texts = {name: {script.takes[script.take[f]].text for f in frames} for name, frames in splits.items()}
    assert all(splits.values()) and sum(len(t) for t in texts.values()) == len(set().union(*texts.values())) == len(script.takes)
    angry = EMOTIONS.index("angry")
    trained = script.performance.emotion[splits["train"] + splits["val"]]
    assert trained[:, angry].max() <= TRAINED_TO and script.performance.emotion[splits["val_intensity"], angry].min() >= HELD_FROM
    assert len(splits["train"]) > 2.5 * len(splits["val"]) > 0
    # Every emotion is trained on, in any strength from little to full.
    for e in range(1, len(EMOTIONS)):
        seen = trained[trained[:, e] > 0, e]
        assert seen.max() > (0.6 if e == angry else 0.9) and np.histogram(seen, 5, (0, 0.6))[0].min() > 0
    assert {take.camera for take in script.takes if take.split == "train"} == {0, 1, 2}


def test_a_voice_carries_its_emotion(espeak):
    text = "Please bring me the blue book from the table."
    said = {name: espeak.speak(text, manner("en-us+m3", name, 1.0)) for name in EMOTIONS}
    level = {name: float(np.sqrt((s.samples**2).mean())) for name, s in said.items()}
    length = {name: len(s.samples) for name, s in said.items()}
    assert level["angry"] > 1.2 * level["neutral"] > 1.4 * level["sad"]
    assert length["sad"] > 1.15 * length["neutral"] > 1.25 * length["fear"]
    half = manner("en-us+m3", "sad", 0.5)
    assert manner("en-us+m3", "sad", 1.0).rate < half.rate < manner("en-us+m3", "sad", 0.0).rate == manner("en-us+m3", "neutral", 1.0).rate


def test_wrong_wishes_are_refused(espeak):
    with pytest.raises(UserError, match="grumpy"):
        write_script(3, 1, 0, "en-us", "grumpy", espeak)
    with pytest.raises(UserError, match="no-such-voice"):
        write_script(3, 1, 0, "no-such-voice", "angry", espeak)
    with pytest.raises(UserError, match="9 cameras"):
        Settings(cameras=9)
    with pytest.raises(UserError, match="positive"):
        Settings(seconds=0.0)


def test_head_moves_little_and_slowly():
    motion = head_motion(500, 3)
    np.testing.assert_allclose(motion[:, :3, :3] @ motion[:, :3, :3].transpose(0, 2, 1), np.tile(np.eye(3), (500, 1, 1)), atol=1e-12)
    points = np.array([[0, 0, 0.1, 1], [0.08, 0.05, 0, 1], [0, 0.14, 0, 1]]) @ motion.transpose(0, 2, 1)
    moved = np.linalg.norm(points - [[0, 0, 0.1, 1], [0.08, 0.05, 0, 1], [0, 0.14, 0, 1]], axis=2)
    assert 0.01 < moved.max() < 0.045 and np.linalg.norm(np.diff(points, axis=0), axis=2).max() < 0.008
    np.testing.assert_array_equal(motion, head_motion(500, 3))
    assert np.abs(motion - head_motion(500, 4)).max() > 0.01


def test_held_out_camera_shows_trained_moments(script):
    settings = Settings(cameras=3, held_frames=60)
    plan = make_plan(settings, script)
    held = plan.splits["val_camera"]
    assert len(held) == 60 and set(plan.row[held]) <= set(plan.splits["train"]) and set(plan.camera[held]) == {3}
    every = [number for ids in plan.splits.values() for number in ids]
    assert len(every) == len(set(every)) and max(plan.camera[[n for n in every if n not in held]]) == 2
    # The same moment from two cameras: the same head, turned by the angle between them.
    number = held[7]
    turn = plan.viewmats[number][:3, :3] @ plan.viewmats[plan.row[number]][:3, :3].T
    base = [settings.view(c).viewmat[:3, :3].astype(float) for c in (3, plan.camera[plan.row[number]])]
    np.testing.assert_allclose(turn, base[0] @ base[1].T, atol=1e-6)
    assert make_plan(Settings(cameras=3, held_frames=0), script).splits.keys() == {"train", "val", "val_intensity"}


# --- the face ----------------------------------------------------------------------------------------------------------------------


def test_action_units_are_openfaces():
    names = [f"{stem}_{side}" for stem in (
        "browInnerUp", "browOuterUp", "browDown", "eyeWide", "cheekRaiser", "eyeSquint", "noseSneer", "mouthUpperUp", "mouthSmile", "mouthDimple",
        "mouthFrown", "mouthStretch", "mouthPress", "eyeBlink") for side in "LR"]  # fmt: skip
    names += ["mouthShrugLower", "mouthRollUpper", "mouthRollLower", "jawOpen"]
    rows = np.zeros((5, len(names)), np.float32)
    rows[1, [names.index("eyeBlink_L"), names.index("eyeBlink_R")]] = 1
    rows[2, names.index("browInnerUp_L")] = 1
    rows[3, [names.index("browDown_L"), names.index("browDown_R")]] = 1.6
    rows[4, [names.index("mouthSmile_L"), names.index("mouthSmile_R")]] = -1
    units = action_units(rows, names, np.array([-0.001, 0, 0.006, 0.1, 0], np.float32))
    np.testing.assert_allclose(units["AU45"], [0, 2, 0, 0, 0])
    np.testing.assert_allclose(units["AU01"], [0, 0, 2.5, 0, 0])
    np.testing.assert_allclose(units["AU04"], [0, 0, 0, 5, 0])
    np.testing.assert_allclose(units["AU25"], [0, 0, 2, 5, 0], atol=1e-6)
    assert units["AU12"].max() == 0 and len(units) == 17


def test_lips_close_on_p_b_m_and_open_on_open_vowels_in_every_emotion(script, packed):
    actor = Actor(face_model.load(packed))
    gap = actor.gap(actor.coefficients(script.performance))
    middle = np.flatnonzero((script.viseme == MBP) & (script.performance.articulation[:, MBP] > 0.85))
    vowels = np.isin(script.viseme, [VISEMES.index(v) for v in ("aa", "ae", "ao")])
    assert len(middle) > 40 and gap[middle].max() < 0.0005 and np.median(gap[vowels]) > 0.005
    au = action_units(actor.coefficients(script.performance), actor.names, gap)
    shut = script.performance.au[:, 5]
    assert shut.max() == 1 and au["AU45"][shut == 1].min() == 2
    happy = script.performance.emotion[:, EMOTIONS.index("happy")]
    assert au["AU12"][happy > 0.8].mean() > 3 and au["AU12"][happy > 0.8].mean() > au["AU12"][happy == 0].mean() + 2


def test_identities_have_colours_of_their_own():
    looks = [look_of(seed) for seed in (2, 6, 10, 11)]
    assert looks[1] == Look() and len({look.skin for look in looks}) == 4 and look_of(10) == looks[2]
    for look in looks:
        colours = np.array([look.skin, look.blush, look.lips, look.hair, look.brows, look.iris, look.iris_inner, look.sweater])
        assert colours.min() > 0 and colours.max() < 0.8 and look.skin[0] > look.skin[1] > look.skin[2] and look.hair < look.skin


# --- passes ------------------------------------------------------------------------------------------------------------------------


def exr(channels: dict[str, np.ndarray], compression: int = 0) -> bytes:
    """A file of float scan lines, written by the format's description."""
    height, width = next(iter(channels.values())).shape
    names = sorted(channels)
    listed = b"".join(n.encode() + b"\0" + struct.pack("<IIii", 2, 0, 1, 1) for n in names) + b"\0"
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    fields = {"channels": ("chlist", listed), "compression": ("compression", bytes([compression])), "dataWindow": ("box2i", window)}
    head = struct.pack("<II", 20000630, 2)
    head += b"".join(n.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<I", len(v)) + v for n, (kind, v) in fields.items()) + b"\0"
    head += bytes(8 * height)
    lines = [struct.pack("<ii", y, 4 * width * len(names)) + b"".join(channels[n][y].astype("<f4").tobytes() for n in names) for y in range(height)]
    return head + b"".join(lines)


def test_exr_comes_back_and_others_are_named(tmp_path):
    channels = {name: np.random.default_rng(i).normal(size=(5, 7)).astype(np.float32) for i, name in enumerate(("L.Depth.Z", "L.A.X"))}
    path = tmp_path / "a.exr"
    path.write_bytes(exr(channels))
    found = read_exr(path)
    assert set(found) == set(channels)
    for name, values in channels.items():
        np.testing.assert_array_equal(found[name], values)
    whole = path.read_bytes()
    for bad in (b"", b"no", whole[:-3], whole[:60], exr(channels, compression=3), b"x" + whole[1:]):
        path.write_bytes(bad)
        with pytest.raises(UserError, match="a.exr"):
            read_exr(path)


def test_classes_become_parsing_teeth_and_torso():
    index = np.repeat(np.repeat(np.arange(len(CLASSES))[None], 4, 0), 4, 1)
    rgba = np.zeros((*index.shape, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 200, 255 * (index > 0)
    torso = np.zeros_like(rgba)
    torso[..., 1], torso[..., 3] = 90, 255
    made = pieces(rgba, torso, index.astype(np.float32) + 1e-4, np.where(index > 0, 13.0, 1e10), np.full((*index.shape, 3), 50, np.uint8))
    colours = np.array(list(PARSING.values()))[made.parsing]
    expected = {"background": "background", "face": "face", "hair": "hair", "mouth": "mouth", "teeth": "face", "neck": "neck", "torso": "torso"}
    for k, name in enumerate(CLASSES):
        assert (colours[index == k] == PARSING[expected[name]]).all()
        assert made.teeth[index == k].all() == (name == "teeth") and made.teeth[index == k].any() == (name == "teeth")
    assert (made.picture[index == 0] == 50).all() and (made.picture[index == 1] == [200, 0, 0]).all()
    np.testing.assert_allclose(made.depth[index > 0], 1.3, rtol=1e-6)
    assert made.depth[index == 0].max() == 0
    # Inside neck and torso the picture itself, at their edges the other render.
    inside = made.torso[..., 0] == 200
    assert inside[:, -7:].all() and not inside[:, :21].any() and (made.torso[~inside] == [0, 90, 0, 255]).all()


def test_the_neck_goes_on_behind_the_chin():
    index = np.repeat(np.array([1, 1, 1, 1, 5, 5, 5, 6, 6])[:, None], 8, 1)
    index[:, 7] = 0
    rgba = np.full((*index.shape, 4), 255, np.uint8)
    rgba[..., 0] = 10 * np.arange(9)[:, None] + np.arange(8)
    torso = np.full((*index.shape, 4), 255, np.uint8)
    torso[..., 0] = 7
    torso[:2, ..., 3] = 0
    made = pieces(rgba, torso, index.astype(np.float32), np.ones(index.shape), np.full((*index.shape, 3), 50, np.uint8)).torso
    assert (made[2:5, :6, 0] == 50 + np.arange(6)).all()  # row 5 is the first whose neighbours are all neck or sweater
    assert (made[5:, :6, 0] == rgba[5:, :6, 0]).all()
    assert (made[2:5, 6, 0] == 55).all()  # its column has no neck inside: the nearest that has
    assert (made[:2, :, 3] == 0).all() and (made[:, 7, 0] == 7).all()  # nothing where the torso is not; before the background as it was


# --- with Blender --------------------------------------------------------------------------------------------------------------------

SMALL = Settings(seconds=0.1, cameras=1, held_frames=3, size=64, samples=2)


def test_renders_survive_kill_and_agree_with_what_is_known_of_them(packed, blender, espeak, tmp_path):
    """Killed in the middle of the second picture, gone on with: what was whole stays as it was; masks, landmarks and depth agree."""
    out = tmp_path / "set"
    command = [sys.executable, "-m", "character.synthetic", "--face-model", str(packed), "--out", str(out), "--blender-python", str(blender)]
    for name in ("seconds", "cameras", "held_frames", "size", "samples"):
        command += ["--" + name.replace("_", "-"), str(getattr(SMALL, name))]
    first = out / "gt_imgs" / "0.jpg"
    with subprocess.Popen([*command, "--most", "5"], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while not first.exists() and process.poll() is None:
            time.sleep(0.05)
        process.kill()
    assert first.exists()
    before = {p: p.stat().st_mtime_ns for p in (out / "gt_imgs").glob("[0-9]*.jpg")}
    assert not (out / "transforms_train.json").exists()
    with pytest.raises(UserError, match="lacks"):
        read_data(out)
    time.sleep(1.0)  # the orphan finds nobody to talk to, and ends
    assert make(packed, out, SMALL, blender, most=2, progress=lambda _: None) is False
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in before.items()) and len(list((out / "gt_imgs").glob("*.jpg"))) >= len(before) + 2
    with pytest.raises(UserError, match="other settings"):
        make(packed, out, Settings(seconds=0.1, size=32), blender, progress=lambda _: None)
    _pictures_agree(packed, out)


def _pictures_agree(packed: Path, out: Path) -> None:
    model = face_model.load(packed)
    script = Script.load(out / ".work" / "script.npz")
    plan, actor = make_plan(SMALL, script), Actor(model)
    coefficients = actor.coefficients(script.performance)
    for number in (0, 1):
        parsing = np.asarray(Image.open(out / "parsing" / f"{number}.png"))
        share = {name: float((parsing == colour).all(-1).mean()) for name, colour in PARSING.items()}
        least = {"face": 0.1, "hair": 0.03, "neck": 0.005, "torso": 0.1, "background": 0.3}
        assert sum(share.values()) == pytest.approx(1) and all(share[name] > value for name, value in least.items())
        points = np.loadtxt(out / "ori_imgs" / f"{number}.lms")
        posed = model.pose({name: float(v) for name, v in zip(actor.names, coefficients[number]) if v})
        np.testing.assert_allclose(points, landmarks(model, posed, plan.viewmats[number], SMALL.view(0)), atol=1e-3)
        # Brows, nose and eyes lie on the face; at the tip of the nose the depth is that of its vertex.
        x, y = np.floor(points[17:48]).astype(int).T
        assert (parsing[y, x] == PARSING["face"]).all()
        tip = plan.viewmats[number] @ [*posed[model.landmarks[30]], 1.0]
        depth = np.load(out / "depth" / f"{number}.npy").astype(float)
        x, y = np.floor(points[30]).astype(int)
        assert depth[y, x] == pytest.approx(tip[2], abs=0.004)
        assert (depth[(parsing == PARSING["background"]).all(-1)] == 0).all()
        picture = np.asarray(Image.open(out / "gt_imgs" / f"{number}.jpg"), float)
        corner = (parsing == PARSING["background"]).all(-1)
        assert np.abs(picture[:6, :6].mean((0, 1)) - synthetic.BACKGROUND).max() < 3 and corner.any()
        torso = np.asarray(Image.open(out / "torso_imgs" / f"{number}.png"))
        assert torso[:12, :, 3].max() == 0 and torso[-3:, 20:44, 3].min() == 255
