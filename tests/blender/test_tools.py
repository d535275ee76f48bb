"""Performances, copies, the voice's emotion as keys, strengths, lead, trust: as operators and for scripts, baked by a real engine."""

from __future__ import annotations

import sys
import wave
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import bpy
import gpu
import numpy as np
import pytest
from mathutils import Matrix

sys.path.insert(0, str(Path(__file__).parent))
import splat_cases  # noqa: E402
from addon_cases import api, avatars, engine  # noqa: E402, F401

Shipped = Callable[[str], ModuleType]
RATE = 16000
EMOTIONS = ("neutral", "happy", "sad", "angry", "fear", "disgusted", "surprised", "contempt")


@pytest.fixture
def head(api: ModuleType, avatars: Path) -> bpy.types.Object:
    return api.import_avatar(avatars / "head.safetensors")


def write_moods(path: Path, seconds: float = 2.0) -> Path:
    """A voice that speaks low and softly, then high and loudly: the emotion that it carries changes."""
    time = np.arange(int(seconds * RATE)) / RATE
    lively = time >= seconds / 2
    phase = np.cumsum(np.where(lively, 230.0, 110.0)) / RATE
    samples = sum(np.sin(2 * np.pi * n * phase) / n for n in range(1, 20)) * (1 + 0.8 * np.sin(time * 30)) * np.where(lively, 0.2, 0.02)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((samples * 30000).clip(-32000, 32000).astype("<i2").tobytes())
    return path


@pytest.fixture
def talking(head: bpy.types.Object, api: ModuleType, engine: ModuleType, tmp_path: Path) -> bpy.types.Object:
    """The head with two seconds of speech from frame 1 on, in a saved file."""
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    api.attach_audio(head, write_moods(tmp_path / "speech.wav"), frame=1)
    head.ua3dtalk.auto_blinks = False
    return head


def keys(api: ModuleType, obj: bpy.types.Object, name: str) -> dict[float, float]:
    curve = api.compat.fcurve(obj, f"ua3dtalk.{name}")
    return {} if curve is None else {round(p.co.x, 2): round(p.co.y, 3) for p in curve.keyframe_points}


def sampled(shipped: Shipped, obj: bpy.types.Object, scene: bpy.types.Scene, frames: np.ndarray) -> dict[str, np.ndarray]:
    return shipped("addon.curves").sample(obj, scene, frames)


# ---------------------------------------------------------------------------------------------------------- performances


def test_a_performance(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    scene.frame_set(40)
    done = bpy.ops.ua3dtalk.key_performance(emotion="HAPPY", intensity=1.2, onset=10, apex=20, release=30, decay="LINGER")
    assert done == {"FINISHED"}
    assert keys(api, head, "happy") == {30: 0, 40: 1, 60: 1, 90: 0} and keys(api, head, "intensity") == {30: 1, 40: 1.2, 60: 1.2, 90: 1}
    assert keys(api, head, "neutral") == {30: 1, 40: 0, 60: 0, 90: 1}
    assert head.ua3dtalk.happy == pytest.approx(1) and scene.frame_current == 40
    happy = sampled(shipped, head, scene, np.arange(25, 96))["happy"]
    assert np.all(np.diff(happy[:16]) >= 0) and np.allclose(happy[15:36], 1) and np.all(np.diff(happy[35:]) <= 1e-6)
    assert happy[50] < 0.2, "half the release is over: lingering means that most of it has gone"
    api.key_performance(head, "happy", frame=140, onset=10, apex=20, release=30, decay="LINEAR")
    assert sampled(shipped, head, scene, np.array([175]))["happy"][0] == pytest.approx(0.5, abs=1e-3)


def test_inside_another_performance(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    """A surprise in the middle of joy: before and after it the joy is as it was."""
    api.key_performance(head, "happy", frame=50, onset=20, apex=100, release=40)
    frames = np.arange(1, 220)
    before = sampled(shipped, head, scene, frames)
    api.key_performance(head, "SHOCKED", frame=90, intensity=1.0, onset=4, apex=10, release=12)
    after = sampled(shipped, head, scene, frames)
    outside = (frames <= 86) | (frames >= 112)
    for name in EMOTIONS:
        assert np.allclose(after[name][outside], before[name][outside], atol=1e-4), name
    assert after["surprised"][89] == pytest.approx(0.8) and after["happy"][89] == pytest.approx(0, abs=1e-6)


def test_usual_timing_follows_the_frame_rate(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene) -> None:
    head.ua3dtalk.performance = "SURPRISED"
    scene.frame_set(100)
    bpy.ops.ua3dtalk.key_performance()
    slow = sorted(keys(api, head, "surprised"))
    scene.render.fps = 50
    scene.frame_set(400)
    bpy.ops.ua3dtalk.key_performance()
    fast = sorted(keys(api, head, "surprised"))[4:]
    assert fast[3] - fast[0] == pytest.approx(2 * (slow[3] - slow[0]), abs=3)
    head.ua3dtalk.usual_timing, head.ua3dtalk.key_onset, head.ua3dtalk.key_apex, head.ua3dtalk.key_release = False, 7, 8, 9
    scene.frame_set(700)
    bpy.ops.ua3dtalk.key_performance(emotion="SAD")
    assert sorted(keys(api, head, "sad"))[-4:] == [693, 700, 708, 717]


def test_a_blink(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    scene.frame_set(30)
    assert bpy.ops.ua3dtalk.key_blink(length=0.4) == {"FINISHED"}
    assert keys(api, head, "blink") == {27: 0, 30: 1, 31.5: 1, 37: 0}
    bpy.ops.ua3dtalk.key_blink(frame=60, amount=0.5)
    assert keys(api, head, "blink")[60] == 0.5
    assert sampled(shipped, head, scene, np.array([45]))["blink"][0] == 0
    with pytest.raises(api.UserError, match="cannot be keyed"):
        api.key_blink(head, length=0)


def test_wrong_arguments(head: bpy.types.Object, api: ModuleType) -> None:
    for arguments, message in (
        ({"emotion": "joy"}, "joy"), ({"emotion": "happy", "intensity": 3}, "Intensity"), ({"emotion": "happy", "onset": -1}, "onset"),
        ({"emotion": "happy", "decay": "never"}, "decay"),
    ):  # fmt: skip
        with pytest.raises(api.UserError, match=message):
            api.key_performance(head, **arguments)
    assert not api.compat.fcurves(head), "nothing was keyed"
    head.driver_add("ua3dtalk.sad").driver.expression = "0.5"
    with pytest.raises(api.UserError, match="sad of .* is driven"):
        api.key_performance(head, "sad")


def test_a_performance_can_be_undone(head: bpy.types.Object, api: ModuleType) -> None:
    name = head.name
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.ua3dtalk.key_performance(emotion="SAD", frame=10)
    bpy.ops.ed.undo_push(message="keyed")
    bpy.ops.ed.undo()
    assert not api.compat.fcurves(bpy.data.objects[name])


# ---------------------------------------------------------------------------------------------------------------- copies


@pytest.fixture
def other(head: bpy.types.Object, api: ModuleType, avatars: Path) -> bpy.types.Object:
    return api.import_avatar(avatars / "other.safetensors")


def perform(api: ModuleType, obj: bpy.types.Object) -> None:
    api.key_performance(obj, "happy", frame=20, onset=8, apex=10, release=20, decay="LINGER")
    point = api.compat.fcurve(obj, "ua3dtalk.happy").keyframe_points[1]
    point.handle_right_type = "FREE"
    point.handle_right = (24, 0.4)
    api.key_blink(obj, 33)
    obj.ua3dtalk.mix, obj.ua3dtalk.lip_strength = 0.6, 1.5


def test_copy_to_another_avatar(
    head: bpy.types.Object, other: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped
) -> None:
    perform(api, head)
    api.key_emotion(other, "angry", frame=5)
    other.ua3dtalk.lip_strength = 0.7
    head.select_set(True)
    bpy.context.view_layer.objects.active = head
    assert bpy.ops.ua3dtalk.copy_performance(offset=12.5) == {"FINISHED"}
    frames = np.arange(-10, 90)
    mine, theirs = sampled(shipped, head, scene, frames), sampled(shipped, other, scene, frames + 12.5)
    for name in (*EMOTIONS, "intensity", "mix"):
        assert np.allclose(mine[name], theirs[name], atol=1e-5), name
    assert theirs["mix"][0] == pytest.approx(0.6) and theirs["angry"].max() == 0, "its own keys are gone"
    assert other.ua3dtalk.lip_strength == pytest.approx(0.7) and not keys(api, other, "blink"), "not asked for"
    api.copy_performance(head, other, channels={"FACE", "STRENGTH"})
    assert keys(api, other, "blink") == keys(api, head, "blink") and other.ua3dtalk.lip_strength == pytest.approx(1.5)
    assert other.animation_data.action != head.animation_data.action


def test_copy_to_a_new_take(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    perform(api, head)
    first = head.animation_data.action
    frames = np.arange(1, 80)
    before = sampled(shipped, head, scene, frames)
    assert bpy.ops.ua3dtalk.copy_performance(new_take=True, take="Later", offset=30) == {"FINISHED"}
    assert head.animation_data.action.name == "Later" and first.use_fake_user and first.users >= 1
    later = sampled(shipped, head, scene, frames + 30)
    assert np.allclose(later["happy"], before["happy"], atol=1e-5) and not keys(api, head, "blink")
    head.animation_data.action = first
    if hasattr(head.animation_data, "action_slot"):
        head.animation_data.action_slot = first.slots[0]
    assert np.allclose(sampled(shipped, head, scene, frames)["happy"], before["happy"]), "the old take is whole"


def test_copies_of_what_is_more_than_keys(
    head: bpy.types.Object, other: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped
) -> None:
    """Modifiers and drivers are followed by keys, over the scene's frames."""
    scene.frame_start, scene.frame_end = 1, 100
    perform(api, head)
    api.compat.fcurve(head, "ua3dtalk.happy").modifiers.new("CYCLES")
    frames = np.arange(1, 101)
    before = sampled(shipped, head, scene, frames)
    api.copy_performance(head, other, offset=7)
    after = sampled(shipped, other, scene, frames + 7)
    assert before["happy"][80:].max() > 0.1 and np.allclose(after["happy"], before["happy"], atol=0.003)
    assert len(keys(api, other, "happy")) < 90
    driver = head.driver_add("ua3dtalk.fear").driver
    driver.type, driver.expression = "SCRIPTED", "frame / 100"
    api.copy_performance(head, other)
    assert np.allclose(sampled(shipped, other, scene, frames)["fear"], frames / 100, atol=0.003)


def test_copies_that_cannot_be(head: bpy.types.Object, other: bpy.types.Object, api: ModuleType) -> None:
    perform(api, head)
    bpy.ops.object.select_all(action="DESELECT")
    bpy.context.view_layer.objects.active = head
    head.select_set(True)
    with pytest.raises(RuntimeError, match="No other avatar is selected"):
        bpy.ops.ua3dtalk.copy_performance()
    with pytest.raises(RuntimeError, match="no avatar object 'Nobody'"):
        bpy.ops.ua3dtalk.copy_performance(to="Nobody")
    other.driver_add("ua3dtalk.happy").driver.expression = "0.5"
    with pytest.raises(api.UserError, match="driven"):
        api.copy_performance(head, other)
    assert not api.compat.fcurves(other), "nothing was copied"
    other.driver_remove("ua3dtalk.happy")
    data = other.animation_data_create()
    data.action = head.animation_data.action
    if hasattr(data, "action_slot"):
        data.action_slot = data.action.slots[0]
    with pytest.raises(api.UserError, match="share one action"):
        api.copy_performance(head, other)
    assert api.copy_performance(head, other, take="") > 0 and data.action != head.animation_data.action


# -------------------------------------------------------------------------------------------------- the voice's emotion


def test_automatic_emotion_becomes_keys(talking: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    """The bake of the keys is the bake of the voice's own emotion, as near as the tolerance says."""
    settings = talking.ua3dtalk
    settings.mix, settings.bake_range = 0.0, "AUDIO"
    shot_of, place = shipped("addon.shots").shot_of, shipped("addon.audio").placement(talking, scene)
    listening = shipped("addon.automatic").Listening(talking, scene)
    voice = listening.wait()
    assert voice.weights.shape == (50, 8) and np.allclose(voice.weights.sum(1), 1, atol=1e-3) and 0 < voice.confidence.max() <= 0.5
    done = api.automatic_to_keys(talking, tolerance=0.02)
    assert settings.mix == 1 and done.frames == 52 and 2 < done.keys < 40
    assert done.confidence[0] <= done.confidence[1] <= done.confidence[2] and "confidence" in str(done)
    made = shot_of(talking, scene, listening.frames)
    expected, _ = voice.at(listening.times)
    assert np.abs(made.keyed - expected).max() <= 0.0201 and expected[:, 1:].max() > 0.03
    assert np.allclose(made.keyed[[0, -1]], np.eye(8)[0], atol=1e-6), "silence is neutral"
    assert place.frames() == (1, 50)


def test_what_was_keyed_is_kept_if_asked(talking: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    settings = talking.ua3dtalk
    settings.neutral, settings.sad = 0.2, 0.8
    settings.mix = 0.5
    settings.bake_range = "AUDIO"
    voice = shipped("addon.automatic").Listening(talking, scene)
    weights, _ = voice.wait().at(voice.times)
    assert bpy.ops.ua3dtalk.automatic_to_keys(keep=True, tolerance=0.01) == {"FINISHED"}
    found = sampled(shipped, talking, scene, voice.frames)
    assert np.abs(found["sad"] - (0.4 + 0.5 * weights[:, 2])).max() < 0.0101 and (found["mix"] == 1).all()


def test_a_part_of_the_voice(talking: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    """Only the frames asked for are keyed; the others stay as they were."""
    talking.ua3dtalk.mix = 0.0
    assert bpy.ops.ua3dtalk.automatic_to_keys(first=10, last=20) == {"FINISHED"}
    mix = sampled(shipped, talking, scene, np.arange(1, 40))["mix"]
    assert (mix[8:20] == 1).all() and (mix[:7] == 0).all() and (mix[22:] == 0).all()
    with pytest.raises(RuntimeError, match="both"):
        bpy.ops.ua3dtalk.automatic_to_keys(first=10)
    with pytest.raises(api.UserError, match="No sound is heard"):
        api.automatic_to_keys(talking, frame_range=(90, 95))
    talking.ua3dtalk.sound_source = "NONE"
    with pytest.raises(api.UserError, match="has no sound"):
        api.automatic_to_keys(talking)


def test_confidence_at_the_frame(talking: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    talking.ua3dtalk.bake_range = "AUDIO"
    automatic = shipped("addon.automatic")
    automatic.forget_all()
    assert automatic.heard(talking, scene, 20) is None
    assert bpy.ops.ua3dtalk.read_voice() == {"FINISHED"}
    confidences = [automatic.heard(talking, scene, frame)[1] for frame in range(1, 51)]
    assert max(confidences) > 0 and automatic.heard(talking, scene, 70)[1] == 0
    talking.ua3dtalk.sound_lead = 80
    assert automatic.heard(talking, scene, 18)[1] == pytest.approx(confidences[19], abs=1e-6), "two frames earlier"


# --------------------------------------------------------------------------------------------- strengths, lead, smoothing


def test_settings_that_make_a_bake_out_of_date(talking: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene) -> None:
    api.bake(talking)
    for name, value, reason in (
        ("upper_strength", 0.0, "the upper face's strength"), ("lip_strength", 1.5, "the lips' strength"),
        ("smoothing", 0.1, "smoothing"), ("sound_lead", 40.0, "the sound's place"),
    ):  # fmt: skip
        before = getattr(talking.ua3dtalk, name)
        setattr(talking.ua3dtalk, name, value)
        report = api.stale(talking)
        assert len(report.outdated) == 20 and report.reasons == (reason,), name
        setattr(talking.ua3dtalk, name, before)
        assert api.stale(talking).fresh


def test_a_still_face(talking: bpy.types.Object, api: ModuleType, shipped: Shipped) -> None:
    """Strength 0 leaves the upper face where it is at rest, and moves the rest as before."""
    pool, folder = shipped("addon.frames").pool, shipped("addon.places").folder_of(talking)
    means = []
    for strength in (1.0, 0.0):
        talking.ua3dtalk.upper_strength = strength
        api.bake(talking, (1, 6))
        reader = pool.reader(folder)
        means.append(np.stack([pool.frame(folder, frame)[1].means - reader.static.means for frame in range(1, 7)]))
    moved, still = (np.abs(one).max(axis=(0, 2)) for one in means)
    brows = reader.region == shipped("engine.avatar").REGIONS.index("brows")
    assert brows.any() and moved[brows].max() > 1e-4 and still[brows].mean() < 0.2 * moved[brows].mean()
    mouth = reader.branch == 1
    assert np.allclose(moved[mouth], still[mouth], atol=1e-5)


def test_a_keyed_strength_reaches_its_frames_alone(talking: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene) -> None:
    api.bake(talking)
    for frame, value in ((10, 1.0), (15, 0.2)):
        talking.ua3dtalk.lower_strength = value
        talking.keyframe_insert("ua3dtalk.lower_strength", frame=frame)
    assert api.stale(talking).outdated == tuple(range(11, 21))


# ---------------------------------------------------------------------------------------------------------------- trust


def test_trust_of_a_bake(talking: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    with pytest.raises(api.UserError, match="no bake"):
        api.trust(talking)
    with pytest.raises(RuntimeError, match="no bake"):
        bpy.ops.ua3dtalk.jump_to_worst()
    api.bake(talking)
    found = api.trust(talking)
    assert found.frames.tolist() == list(range(1, 21)) and found.aleatoric.min() >= 0 and found.epistemic.max() > 0
    moves = found.shares.any(axis=(0, 2))
    assert np.allclose(found.shares[:, moves].sum(axis=2), 1, atol=0.02)
    pool, folder = shipped("addon.frames").pool, shipped("addon.places").folder_of(talking)
    reader, frame = pool.frame(folder, 7)
    lips = (reader.region == found.regions.index("lips")) & np.isin(np.arange(len(reader.region)), reader.moving)
    assert found.epistemic[6, found.regions.index("lips")] == pytest.approx(frame.epistemic[lips].mean(), rel=1e-3)
    worst = api.worst_frames(talking, "epistemic", "lips")
    assert worst and int(found.frames[found.score("epistemic", "lips").argmax()]) in worst
    with pytest.raises(api.UserError, match="Known are total"):
        api.worst_frames(talking, "doubt")


def test_jumping_to_the_worst(talking: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene) -> None:
    api.bake(talking)
    score = api.trust(talking).score("aleatoric", "lips")
    assert bpy.ops.ua3dtalk.jump_to_worst(quantity="ALEATORIC", region="LIPS") == {"FINISHED"}
    assert scene.frame_current == 1 + int(score.argmax())
    seen = set()
    for _ in range(20):
        bpy.ops.ua3dtalk.jump_to_worst(step="NEXT", quantity="ALEATORIC", region="LIPS")
        seen.add(scene.frame_current)
    assert sorted(seen) == api.worst_frames(talking, "aleatoric", "lips")
    scene.ua3dtalk_display.quantity, scene.ua3dtalk_display.region = "EPISTEMIC", "JAW"
    bpy.ops.ua3dtalk.jump_to_worst()
    assert scene.frame_current == 1 + int(api.trust(talking).score("epistemic", "jaw").argmax()), "what the panel says, by default"


def test_trust_is_read_in_slices_and_follows_new_bakes(
    talking: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped, monkeypatch: pytest.MonkeyPatch
) -> None:
    uncertainty = shipped("addon.uncertainty")
    api.bake(talking)
    monkeypatch.setattr(uncertainty, "SLICE", 0.0)
    scene.frame_set(12)
    part, whole = uncertainty.shown(talking, scene)
    rounds = 0
    while uncertainty.read_on() is not None:
        rounds += 1
        assert rounds < 100
    every, whole_now = uncertainty.shown(talking, scene)
    assert not whole and len(part) < 20 and whole_now and len(every) == 20
    assert uncertainty.shown(talking, scene)[0] is every, "nothing new: the same object"
    talking.ua3dtalk.intensity, talking.ua3dtalk.sad = 2.0, 1.0
    api.bake(talking, (5, 6))
    fresh = api.trust(talking)
    same = (fresh.aleatoric == every.aleatoric).all(axis=1)
    assert len(fresh) == 20 and not same[[4, 5]].any() and same[[3, 6]].all()


def test_what_the_bundled_avatar_is_unsure_of(
    api: ModuleType, engine: ModuleType, scene: bpy.types.Scene, shipped: Shipped, tmp_path: Path
) -> None:
    """A full surprise is more than it was trained on: the brows say so, and that the emotion is behind it."""
    obj = api.import_avatar(shipped("addon.session").ROOT / "addon" / "assets" / "demo_avatar.safetensors")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    obj.ua3dtalk.auto_blinks, scene.frame_end = False, 12
    api.key_emotion(obj, "surprised", frame=11, blend=1)
    api.bake(obj)
    assert bpy.ops.ua3dtalk.jump_to_worst(region="BROWS") == {"FINISHED"} and scene.frame_current in (11, 12)
    found = api.trust(obj)
    assert found.times_usual("epistemic")[10, 0] > 1.5 and found.regions[0] == "brows"
    assert any(line.startswith("Brows: epistemic") and "from emotion" in line for line in found.lines(11)), found.lines(11)
    assert found.lines(5) == []


def test_the_graph(talking: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    """Drawn off screen: columns stand at their frames, as high as they say."""
    graph, uncertainty = shipped("addon.draw.graph"), shipped("addon.uncertainty")
    api.bake(talking, (5, 14))
    assert uncertainty.graph_shown() is None, "off by default"
    scene.ua3dtalk_display.graph = True
    scene.ua3dtalk_display.quantity, scene.ua3dtalk_display.region = "ALEATORIC", "LIPS"
    while uncertainty.shown(talking, scene)[1] is False:
        pass
    shown = uncertainty.graph_shown()
    assert (shown.quantity, shown.region, len(shown.trust)) == ("aleatoric", "lips", 10)
    places, colors, top = graph.quads(shown)
    score = shown.trust.score("aleatoric", "lips")
    assert places.shape == (50, 4) and colors.shape == (50, 4) and top == max(2.0, score.max())
    scene.camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(scene.camera)
    splat_cases.gpu_context()
    width, height = 240, 120
    target = gpu.types.GPUOffScreen(width, height, format="RGBA32F")
    with target.bind():
        gpu.state.active_framebuffer_get().clear(color=(0.0, 0.0, 0.0, 1.0))
        with gpu.matrix.push_pop(), gpu.matrix.push_pop_projection():
            gpu.matrix.load_identity()
            gpu.matrix.load_projection_matrix(Matrix(((2 / width, 0, 0, -1), (0, 2 / height, 0, -1), (0, 0, -1, 0), (0, 0, 0, 1))))
            assert graph.draw_band(shown, 0.0, 20.0, width, height) == top
        buffer = gpu.state.active_framebuffer_get().read_color(0, 0, width, height, 4, 0, "FLOAT")
    target.free()
    buffer.dimensions = width * height * 4
    picture = np.frombuffer(buffer, np.float32).reshape(height, width, 4)
    foot = int(graph.SHARE_PART * height)
    above = picture[foot + 2 :]
    for frame in range(1, 20):
        column = above[:, frame * 12, 0]
        if 5 <= frame <= 14:
            expected = graph.BAR_PART * score[frame - 5] / top * height
            # The line at the usual is dark, and counts as of the column where it crosses it.
            assert abs((column > 0.2).sum() - expected) <= 4, frame
            assert picture[: foot - 4, frame * 12, :3].max(axis=1).min() > 0.2, "shares fill the lower part"
        else:
            assert column.max() < 0.2 and picture[: foot - 4, frame * 12, :3].max() < 0.2, frame
    texts = [text for text, _ in graph.labels(shown, top)]
    assert texts[0].startswith("Lips: aleatoric") and all("%" in text for text in texts[1:]) and len(texts) > 1
    graph.remove()
