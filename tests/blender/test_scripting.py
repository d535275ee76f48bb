"""Blender as farms and scripts use it: the command, shot files, every operator by keywords, the API's hints."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import bpy
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from addon_cases import api, avatars, engine, write_sound  # noqa: E402, F401

from support import STAGE, engine_python  # noqa: E402

Shipped = Callable[[str], ModuleType]


@pytest.fixture
def head(api: ModuleType, engine: ModuleType, avatars: Path, tmp_path: Path) -> bpy.types.Object:
    """A talking avatar with speech and keys, in a saved file; its fps and offsets are no round numbers."""
    scene = bpy.context.scene
    scene.render.fps, scene.render.fps_base = 24, 1.001
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "sc01.blend"))
    obj = api.import_avatar(avatars / "head.safetensors", "Head")
    strip = api.attach_audio(obj, write_sound(tmp_path / "speech.wav", seconds=0.6), frame=4)
    setattr(strip, "content_trim_start" if hasattr(strip, "content_start") else "animation_offset_start", 2)
    api.key_emotion(obj, {"happy": 0.7, "surprised": 0.3}, frame=9, blend=6)
    api.key_blink(obj, frame=6)
    obj.ua3dtalk.auto_brows = True
    obj.ua3dtalk.mix, obj.ua3dtalk.lip_strength, obj.ua3dtalk.smoothing, obj.ua3dtalk.sound_lead = 0.6, 1.3, 0.08, 40.0
    return obj


@pytest.fixture
def command(shipped: Shipped, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[dict[str, Any]], str]]:
    """command(arguments...) -> exit code, its JSON lines, its errors."""

    def run(*arguments: object) -> tuple[int, list[dict[str, Any]], str]:
        capfd.readouterr()
        code = shipped("addon.commands").run([str(one) for one in arguments])
        said = capfd.readouterr()
        return code, [json.loads(line) for line in said.out.splitlines() if line.startswith("{")], said.err

    return run


def engine_bake(*arguments: object) -> tuple[int, dict[str, Any]]:
    """`python -m engine bake` in its own process -> exit code, last JSON line."""
    call = [str(engine_python()), "-m", "engine", "bake", *map(str, arguments), "--json", "--threads", "1", "--device", "cpu"]
    done = subprocess.run(call, cwd=STAGE / "ua3dtalk", capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout.splitlines()[-1])


def test_a_shot_file_and_the_scene_share_one_bake(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped, tmp_path: Path) -> None:
    path = api.write_shot(head, "//sc01.json")
    assert path == tmp_path / "sc01.json"
    document = json.loads(path.read_text("utf-8"))
    assert document["avatar"]["path"].endswith("head.safetensors") and not Path(document["avatar"]["path"]).is_absolute()
    assert document["sound"]["path"] == "speech.wav" and document["output"]["folder"].startswith("ua3dtalk_cache/")
    read, _ = shipped("engine.shot.document").read_document(path)
    shot = shipped("addon.shots").shot_of(head, scene)
    keys = shipped("engine.shot").frame_keys
    assert np.array_equal(keys(read), keys(shot)) and read.fps == shot.fps and len({key.tobytes() for key in keys(read)}) > 10
    assert engine_bake("--shot", path, "--frames", "1:12")[1]["computed"] > 3
    assert api.stale(head).missing == tuple(range(13, 21)), "Blender sees what the engine has baked as its own"
    assert api.bake(head)["up_to_date"] == 12
    code, told = engine_bake("--shot", path)
    assert code == 0 and (told["computed"], told["moved"], told["up_to_date"]) == (0, 0, 20)
    assert engine_bake("--shot", path, "--check")[1]["ok"] and api.stale(head).fresh
    head.ua3dtalk.brow_lower = 0.4
    api.write_shot(head, path)
    code, told = engine_bake("--shot", path, "--dry-run")
    assert code == 0 and told["reasons"] == ["brows and eyes"] and told["compute"]


def test_write_shot_s_arguments(head: bpy.types.Object, api: ModuleType, tmp_path: Path) -> None:
    path = api.write_shot(head, tmp_path / "a" / "x.json", (3, 5), "take 2", tmp_path / "a" / "out")
    document = json.loads(path.read_text("utf-8"))
    assert (document["frames"], document["name"], document["output"]["folder"]) == ({"first": 3, "last": 5}, "take 2", "out")
    head.ua3dtalk.sound_source = "NONE"
    api.write_shot(head, path)
    assert json.loads(path.read_text("utf-8"))["sound"] is None
    with pytest.raises(api.UserError, match="no UA-3DTalk avatar"):
        api.write_shot(None, path)
    (tmp_path / "file").write_text("")
    with pytest.raises(api.UserError, match="Cannot write"):
        api.write_shot(head, tmp_path / "file" / "x.json")


def test_a_packed_sound_is_refused(head: bpy.types.Object, api: ModuleType, tmp_path: Path) -> None:
    api.audio.find_strip(head, bpy.context.scene).sound.pack()
    with pytest.raises(api.UserError, match="packed"):
        api.write_shot(head, tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_an_unsaved_file_names_no_output(api: ModuleType, avatars: Path, tmp_path: Path) -> None:
    obj = api.import_avatar(avatars / "static.safetensors")
    assert "output" not in json.loads(api.write_shot(obj, tmp_path / "x.json").read_text("utf-8"))


def test_the_command_bakes(head: bpy.types.Object, api: ModuleType, command: Callable[..., Any]) -> None:
    code, lines, _ = command("--dry-run", "--json")
    assert code == 0 and [line["event"] for line in lines] == ["start", "result"] and lines[-1]["compute"] and api.stale(head).missing
    assert command("--check", "--json")[0] == 1
    code, lines, _ = command("--json", "--frames", "1:12")
    assert code == 0 and lines[-1]["event"] == "result" and lines[-1]["shot"] == "Head" and lines[-1]["computed"] > 5
    assert sorted(line["frame"] for line in lines if line["event"] == "frame") == list(range(1, 13))
    assert lines[0]["event"] == "start" and (lines[0]["first"], lines[0]["last"], lines[0]["fps"]) == (1, 12, pytest.approx(24 / 1.001))
    assert any(line["event"] == "progress" and line["progress"] == line["total"] for line in lines)
    assert command()[0] == 0 and api.stale(head).fresh
    code, lines, _ = command("--check", "--json")
    assert code == 0 and lines[-1]["whole"] == 20


def test_the_command_s_folder_and_shot_file(head: bpy.types.Object, command: Callable[..., Any], shipped: Shipped, tmp_path: Path, avatars: Path, api: ModuleType) -> None:
    own = shipped("addon.places").folder_of(head)
    code, lines, _ = command("--out", tmp_path / "elsewhere", "--json")
    assert code == 0 and lines[-1]["cache"] == str(tmp_path / "elsewhere") and not own.exists() and not head.ua3dtalk.cache_path
    code, lines, _ = command("--shot-file", tmp_path / "s.json", "--out", tmp_path / "elsewhere", "--json")
    assert code == 0 and lines[-1]["shot_file"] == str(tmp_path / "s.json") and not own.exists()
    assert engine_bake("--shot", tmp_path / "s.json")[1]["up_to_date"] == 20
    head.ua3dtalk.avatar_path = str(avatars / "other.safetensors")
    code, lines, errors = command("--out", tmp_path / "elsewhere", "--json")
    assert code == 1 and lines[-1]["event"] == "error" and "another avatar" in lines[-1]["error"] and lines[-1]["shot"] == "Head"
    assert command("--out", tmp_path / "elsewhere", "--resume")[0] == 0


def test_one_that_fails_does_not_stop_the_others(head: bpy.types.Object, api: ModuleType, avatars: Path, command: Callable[..., Any]) -> None:
    api.import_avatar(avatars / "other.safetensors", "Other")
    head.ua3dtalk.avatar_path = str(avatars / "gone.safetensors")
    code, lines, errors = command("--json", "--frames", "1:3")
    results = {line["shot"]: line["event"] for line in lines if line["event"] in ("result", "error")}
    assert code == 1 and results == {"Head": "error", "Other": "result"} and "gone.safetensors" in errors
    assert command("--object", "Other", "--frames", "1:3")[0] == 0


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["--object", "Nobody"], 1, "'Nobody'"), (["--scene", "Nowhere"], 1, "'Nowhere'"), (["--frames", "5"], 1, "FIRST:LAST"), (["--frames", "5:4"], 1, "before the first"),
    (["--what"], 2, "--what"), (["--check", "--dry-run"], 2, "not allowed"),
])  # fmt: skip
def test_the_command_refuses(head: bpy.types.Object, command: Callable[..., Any], arguments: list[str], code: int, words: str) -> None:
    got, lines, errors = command("--json", *arguments)
    assert got == code and words in errors and all(line["event"] == "error" and line["exit_code"] == code for line in lines)


def test_a_stopped_command_says_so(head: bpy.types.Object, api: ModuleType, command: Callable[..., Any], shipped: Shipped, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C arrives while it waits: the engine is told, 130, and what was finished is there for the next bake."""
    baking = shipped("addon.baking")
    real, calls = baking.BakeRun.step, []

    def step(self: Any, wait: float = 0.0) -> bool:
        going_on = real(self, wait)
        calls.append(self.done)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return going_on

    with monkeypatch.context() as patched:
        patched.setattr(baking.BakeRun, "step", step)
        code, lines, errors = command("--json")
    assert code == 130 and lines[-1]["event"] == "error" and lines[-1]["exit_code"] == 130 and "interrupted" in errors
    assert not baking.running()
    code, _, errors = command()
    assert code == 0 and api.stale(head).fresh, errors


def test_the_command_is_registered_once_and_comes_and_goes(shipped: Shipped, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = shipped("addon.commands")
    there: dict[str, Any] = {}
    real = bpy.utils.register_cli_command, bpy.utils.unregister_cli_command
    assert commands._handle is not None, "registered with the extension"

    def add(name: str, run: Callable[[list[str]], int]) -> object:
        there[name] = run
        return real[0](name, run)

    def remove(handle: object) -> None:
        there.clear()
        real[1](handle)

    monkeypatch.setattr(bpy.utils, "register_cli_command", add)
    monkeypatch.setattr(bpy.utils, "unregister_cli_command", remove)
    commands.unregister()
    commands.unregister()
    commands.register()
    assert there == {"ua3dtalk_bake": commands.run}
    commands.unregister()
    assert not there
    monkeypatch.delattr(bpy.utils, "register_cli_command")
    commands.register()
    commands.unregister()
    monkeypatch.undo()
    commands.register()


def _tried(api: ModuleType, shipped: Shipped, avatars: Path, tmp_path: Path, obj: bpy.types.Object) -> dict[str, Callable[[], object]]:
    """For each operator a call by keywords, in an order in which each can be done."""
    ops, scene = bpy.ops.ua3dtalk, bpy.context.scene
    run: list[Any] = []
    sound = str(tmp_path / "speech.wav")

    def fit_ramp() -> object:
        scene.ua3dtalk_display.display = "EPISTEMIC"
        return ops.fit_ramp()

    def cancel_bake() -> object:
        obj.ua3dtalk.happy = 0.9
        run.append(shipped("addon.baking").BakeRun(obj, scene))
        done = ops.cancel_bake()
        while run[0].step(0.05):
            pass
        return done if run[0].state == "cancelled" else run[0].state

    return {
        "import_avatar": lambda: ops.import_avatar(filepath=str(avatars / "other.safetensors"), name="Second", up="+Y", front="+Z", metres=1.0, pixel_size=0.0),
        "reload_avatar": lambda: ops.reload_avatar(object="Head"),
        "about": lambda: ops.about(object="Head"),
        "attach_audio": lambda: ops.attach_audio(object="Second", filepath=sound, frame=2, as_strip=True),
        "attach_strip": lambda: ops.attach_strip(object="Second", strip="speech"),
        "key_emotion": lambda: ops.key_emotion(object="Head", emotion="SAD", frame=12, intensity=0.5, blend=3),
        "key_preset": lambda: ops.key_preset(object="Head", preset=shipped("addon.core.presets").PRESETS[0].identifier, frame=3, intensity=1.0, blend=1),
        "key_performance": lambda: ops.key_performance(object="Head", emotion="ANGRY", frame=15, intensity=1.0, onset=2, apex=1, release=2, decay="SMOOTH"),
        "key_blink": lambda: ops.key_blink(object="Head", frame=18, length=0.2, amount=0.9),
        "key_emotion_file": lambda: ops.key_emotion_file(object="Head", filepath=str(tmp_path / "e.csv"), first=1, last=20, tolerance=0.05),
        "copy_performance": lambda: ops.copy_performance(object="Head", to="Second", offset=2, channels={"EMOTION"}, new_take=True, take="B"),
        "start_engine": lambda: ops.start_engine(),
        "read_voice": lambda: ops.read_voice(object="Head"),
        "automatic_to_keys": lambda: ops.automatic_to_keys(object="Second", tolerance=0.1, keep=False, first=1, last=9),
        "bake": lambda: ops.bake(object="Head", first=1, last=12),
        "check": lambda: ops.check(object="Head"),
        "export_shot": lambda: ops.export_shot(object="Head", filepath=str(tmp_path / "op.json"), name="op", first=1, last=4),
        "jump_to_worst": lambda: ops.jump_to_worst(object="Head", step="WORST", quantity="EPISTEMIC", region="ALL"),
        "fit_ramp": fit_ramp,
        "cancel_bake": cancel_bake,
        "clear_cache": lambda: ops.clear_cache(object="Head"),
        "stop_engine": lambda: ops.stop_engine(),
        "use_render_engine": lambda: ops.use_render_engine(),
        "add_proxy": lambda: ops.add_proxy(object="Head", size=2.0, opacity=0.3, in_viewport=False),
        "remove_proxy": lambda: ops.remove_proxy(object="Head"),
        "add_compositing": lambda: ops.add_compositing(connect=True, layer="", shadows=False),
        "remove_compositing": lambda: ops.remove_compositing(),
        "check_environment": lambda: ops.check_environment(),
    }


REFUSED_HERE = {
    "set_up_environment": "poll|online",  # goes to the network: never without being allowed to
    "cancel_set_up": "No environment is being set up",
    "open_place": "There is no folder",  # of a bake that was cleared; else a window opens
}


def test_every_operator_takes_keywords_in_background_mode(head: bpy.types.Object, api: ModuleType, shipped: Shipped, avatars: Path, tmp_path: Path) -> None:
    tried = _tried(api, shipped, avatars, tmp_path, head)
    names = {cls.bl_idname.partition(".")[2] for cls in shipped("addon.operators").CLASSES if issubclass(cls, bpy.types.Operator)}
    assert names == set(tried) | set(REFUSED_HERE), "a new operator needs a line here"
    bpy.context.view_layer.objects.active = head
    shipped("addon.session").stop()
    (tmp_path / "e.csv").write_text("frame,happy\n1,0\n20,1\n")
    for name, call in tried.items():
        if name == "add_compositing":
            bpy.context.scene.render.engine = "CYCLES"
        assert call() == {"FINISHED"}, name
        for cls in shipped("addon.operators").CLASSES:
            if cls.__dict__.get("bl_idname") == f"ua3dtalk.{name}":
                assert cls.__doc__ and "\n" not in cls.__doc__.strip()
    assert json.loads((tmp_path / "op.json").read_text("utf-8"))["name"] == "op"
    for name, words in REFUSED_HERE.items():
        options = {"object": "Head", "place": "CACHE"} if name == "open_place" else {}
        with pytest.raises(RuntimeError, match=words):
            getattr(bpy.ops.ua3dtalk, name)(**options)


def test_emotion_files_become_keys(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped, tmp_path: Path) -> None:
    """The sliders follow the file within the tolerance, with few keys; Audio2Face's time codes go with the sound's strip."""
    load, sample = shipped("engine.shot").load_emotion, shipped("addon.curves").sample
    frames, fps = np.arange(1, 21), shipped("addon.audio").fps_of(scene)
    (tmp_path / "e.csv").write_text("frame,happy,angry,intensity,blink,lips\n" + "".join(f"{f},{f / 40},{(f % 7) / 7},1.5,{f / 20},{f / 10}\n" for f in range(21)))
    done = api.key_emotion_file(head, "//e.csv", tolerance=0.02)
    assert done.frames == 20 and 5 < done.keys <= 20 and {"happy", "intensity", "blink", "lip_strength"} < set(done.sliders) and "mix" not in done.sliders
    expected = load(tmp_path / "e.csv", fps).at(frames / fps)
    found = sample(head, scene, frames)
    for slider, values in (("happy", expected["keyed"][:, 1]), ("angry", expected["keyed"][:, 3]), ("intensity", expected["intensity"]), ("lip_strength", expected["lips"])):
        assert np.abs(found[slider] - values).max() <= 0.021, slider
    assert np.abs(found["blink"] - frames / 20).max() <= 0.021, "the automatic blinks are not keyed"
    (tmp_path / "a2f.json").write_text(json.dumps([{"time_code": 0.0, "emotion": {"joy": 0.0}}, {"time_code": 10 / fps, "emotion": {"joy": 1.0, "pain": 0.5}}]))
    done = api.key_emotion_file(head, tmp_path / "a2f.json", (1, 20), 0.01)
    assert "pain" in done.notes[0] and "pain" in str(done)
    start = shipped("addon.audio").placement(head, scene).start
    assert np.abs(sample(head, scene, frames)["happy"] - np.clip((frames - start) / 10, 0, 1)).max() <= 0.011
    head.ua3dtalk.sound_source = "NONE"
    with pytest.raises(api.UserError, match="has none"):
        api.key_emotion_file(head, tmp_path / "a2f.json")
    (tmp_path / "bad.csv").write_text("frame,joyful\n1,1\n")
    with pytest.raises(api.UserError, match="joyful"):
        api.key_emotion_file(head, tmp_path / "bad.csv")
    with pytest.raises(api.UserError, match="tolerance"):
        api.key_emotion_file(head, tmp_path / "e.csv", tolerance=0)


def test_what_an_operator_cannot_do_is_an_exception_with_its_line(head: bpy.types.Object) -> None:
    with pytest.raises(RuntimeError, match="no avatar object 'Nobody'"):
        bpy.ops.ua3dtalk.bake(object="Nobody")
    with pytest.raises(RuntimeError, match="both"):
        bpy.ops.ua3dtalk.export_shot(filepath="x.json", first=1)


def test_the_api_is_typed_and_says_its_units(shipped: Shipped) -> None:
    """Editors and scripts: complete hints without Any, docstrings that name each argument, units where there are numbers."""
    api = shipped("addon.api")
    verbs = {name: getattr(api, name) for name in api.__all__ if inspect.isfunction(getattr(api, name))}
    public = {name for name, value in vars(api).items() if inspect.isfunction(value) and value.__module__ == api.__name__ and name[0] != "_"}
    assert public - set(verbs) == {"convert", "frame_numbers"} and len(verbs) > 15
    units = ("frame", "metre", "second", "0..", "above 0", "deviation")
    for name, verb in verbs.items():
        hints = typing.get_type_hints(verb)
        parameters = inspect.signature(verb).parameters
        assert set(hints) == set(parameters) | {"return"}, name
        assert not any("Any" in str(hint) for hint in hints.values()), name
        text = inspect.getdoc(verb) or ""
        assert text.endswith((".", "}", '"""')) and len(text) > 30, name
        for parameter in set(parameters) - {"obj", "scene", "source"}:
            assert parameter in text, f"{name}: {parameter} is not told"
        numbers = [p for p, hint in hints.items() if p != "return" and {"float", "int"} & set(str(hint).replace("<class '", "").replace("'>", "").replace("|", " ").split())]
        if numbers:
            assert any(unit in text for unit in units), f"{name}: no units for {numbers}"
    report = typing.get_type_hints(api.BakeReport)
    assert set(report) == {"computed", "moved", "up_to_date", "seconds", "cache"}
    for part in ("addon", "engine"):
        assert (Path(shipped(part).__file__).parent / "py.typed").is_file()
