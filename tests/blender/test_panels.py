"""The panels: each draws what it should in every state. A recorder stands in for Blender's layout (there is no window here) and
holds each property, operator and icon against what Blender really has."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import bpy
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from addon_cases import api, avatars, engine, number_cache, write_sound  # noqa: E402, F401

Shipped = Callable[[str], ModuleType]
ICONS = {item.identifier for item in bpy.types.UILayout.bl_rna.functions["prop"].parameters["icon"].enum_items}


class Recorder:
    """A layout that writes down its texts and checks what it is asked for."""

    def __init__(self, texts: list[str]) -> None:
        self.__dict__["texts"] = texts

    def _below(self, **options: Any) -> Recorder:
        return Recorder(self.texts)

    row = column = box = split = _below

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in bpy.types.UILayout.bl_rna.properties, name

    def label(self, text: str = "", icon: str = "NONE") -> None:
        assert icon in ICONS, icon
        self.texts.append(text)

    def prop(self, owner: Any, name: str, text: str | None = None, icon: str = "NONE", expand: bool = False) -> None:
        assert icon in ICONS and name in owner.bl_rna.properties, name
        assert owner.bl_rna.properties[name].description, f"{name} has no tooltip"
        self.texts.append(f"[{name}]")

    def operator(self, name: str, text: str | None = None, icon: str = "NONE") -> Any:
        assert icon in ICONS, icon
        module, _, function = name.partition(".")
        kind = getattr(getattr(bpy.ops, module), function).get_rna_type()
        assert kind.description
        self.texts.append(f"({name})")

        class Properties:
            def __setattr__(self, key: str, value: Any) -> None:
                assert key in kind.properties, key
                items = getattr(kind.properties[key], "enum_items", None)
                assert not items or value in items, value

        return Properties()

    def operator_menu_enum(self, name: str, prop: str, text: str = "") -> None:
        self.operator(name)
        assert prop in getattr(bpy.ops.ua3dtalk, name.partition(".")[2]).get_rna_type().properties

    def progress(self, factor: float = 0.0, text: str = "") -> None:
        assert 0 <= factor <= 1
        self.texts.append(text)

    def template_icon(self, icon_value: int = 0, scale: float = 1.0) -> None:
        assert icon_value > 0
        self.texts.append("<picture>")


@pytest.fixture
def drawn(api: ModuleType, shipped: Shipped) -> Callable[..., str]:
    """drawn(): the text of all panels of the sidebar that show for the active object; drawn("bake"): of one."""
    panels = shipped("addon.panels")

    def draw(name: str = "") -> str:
        texts: list[str] = []
        for cls in panels.CLASSES:
            if cls.bl_space_type == "VIEW_3D" and cls.__name__.endswith(name) and cls.poll(bpy.context):
                assert cls.is_registered
                cls.draw(type("Self", (), {"layout": Recorder(texts)})(), bpy.context)
        return " ".join(texts)

    return draw


@pytest.fixture
def head(api: ModuleType, avatars: Path, tmp_path: Path) -> bpy.types.Object:
    obj = api.import_avatar(avatars / "head.safetensors")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    return obj


def test_without_an_avatar_it_says_what_to_do(drawn: Callable[..., str], head: bpy.types.Object) -> None:
    bpy.context.view_layer.objects.active = None
    assert "Select an avatar" in drawn() and "(ua3dtalk.import_avatar)" in drawn()
    bpy.data.objects.remove(head)
    assert "no avatar" in drawn()


def test_everything_is_there(drawn: Callable[..., str], head: bpy.types.Object, shipped: Shipped) -> None:
    text = drawn()
    for wanted in ("Test head", "260 Gaussians", "(face 200, mouth 60)", "From: random numbers", "Consent: nobody", "Not baked yet"):
        assert wanted in text, wanted
    for channel in shipped("addon.core.channels").CHANNELS:
        assert f"[{channel.name}]" in text
    for name in ("key_performance", "copy_performance", "key_blink"):
        assert f"(ua3dtalk.{name})" in text
    assert "[smoothing]" in text and "[sound_lead]" in text and "nothing to judge" in text and "no voice to listen to" in text
    for name in ("bake", "key_emotion", "attach_audio", "attach_strip", "start_engine", "stop_engine", "check", "clear_cache"):
        assert f"(ua3dtalk.{name})" in text


def test_all_that_an_avatar_says_of_itself(head: bpy.types.Object, shipped: Shipped) -> None:
    assert bpy.ops.ua3dtalk.about() == {"FINISHED"}
    assert shipped("addon.avatar").about(head) == "Test head\n\nFrom: random numbers\n\nConsent: nobody"


def test_the_picture_is_upright(drawn: Callable[..., str], head: bpy.types.Object, shipped: Shipped) -> None:
    """Without a window Blender gives icons no number, but it keeps their pixels."""
    drawn("_avatar")
    pixels = shipped("addon.avatar").load(shipped("addon.avatar").file_of(head)).thumbnail
    picture = shipped("addon.panels.character")._previews[head.ua3dtalk.avatar_hash]
    assert tuple(picture.image_size) == (32, 24)
    shown = np.array(picture.image_pixels_float[:]).reshape(24, 32, 4)
    assert np.allclose(shown[::-1], pixels / 255, atol=1 / 250)


def test_both_places_draw_the_same(head: bpy.types.Object, shipped: Shipped) -> None:
    classes = shipped("addon.panels").CLASSES
    side = {cls.bl_label for cls in classes if cls.bl_space_type == "VIEW_3D"}
    data = {cls.bl_label for cls in classes if cls.bl_space_type == "PROPERTIES"}
    assert side == data
    for cls in classes:
        if cls.bl_space_type == "PROPERTIES" and cls.poll(bpy.context):
            cls.draw(type("Self", (), {"layout": Recorder([])})(), bpy.context)


def test_sound(drawn: Callable[..., str], head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, tmp_path: Path) -> None:
    assert "mouth stays closed" in drawn("sound")
    strip = api.attach_audio(head, write_sound(tmp_path / "a.wav", seconds=2), frame=5)
    assert "Heard from frame 5 to 54" in drawn("sound") and strip.name in drawn("sound")
    api.compat.strips(scene).remove(strip)
    assert "is gone" in drawn("sound")
    api.attach_audio(head, tmp_path / "a.wav", as_strip=False)
    (tmp_path / "a.wav").unlink()
    assert "a.wav" in drawn("sound")


def test_bake_and_what_is_out_of_date(drawn: Callable[..., str], head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped, avatars: Path) -> None:
    number_cache(shipped, head, range(1, 4))
    scene.frame_set(2)
    bpy.ops.ua3dtalk.check()
    text = drawn("bake")
    assert "Not baked: 4-20 (17 of 20)" in text and "Out of date: 1-3 (3 of 20)" in text and "at rest" not in text
    scene.frame_set(9)
    assert "Shown at rest: Frame 9 is not baked" in drawn("bake")
    head.ua3dtalk.avatar_path = str(avatars / "gone.safetensors")
    with pytest.raises(RuntimeError):
        bpy.ops.ua3dtalk.check()
    for name in ("bake", "_avatar"):
        assert "gone.safetensors" in drawn(name).replace(" ", ""), "a long path is broken, not cut"


def test_progress(drawn: Callable[..., str], head: bpy.types.Object, engine: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    run = shipped("addon.baking").BakeRun(head, scene)
    assert "of 20" in drawn("bake") and "(ua3dtalk.cancel_bake)" in drawn("bake") and "(ua3dtalk.bake)" not in drawn("bake")
    run.wait()
    assert "(ua3dtalk.bake)" in drawn("bake")
    assert "Engine: ready" in drawn("engine") and "Device" in drawn("engine")
    engine.stop()
    assert "Engine: stopped" in drawn("engine")


def test_performance(drawn: Callable[..., str], head: bpy.types.Object) -> None:
    assert "[usual_timing]" in drawn("performance") and "[key_onset]" not in drawn("performance")
    assert "Onset 4, apex 12, release 12 frames" in drawn("performance"), "a surprise at 25 frames a second"
    head.ua3dtalk.usual_timing = False
    assert all(f"[key_{name}]" in drawn("performance") for name in ("onset", "apex", "release", "decay"))


def test_the_voice(drawn: Callable[..., str], head: bpy.types.Object, api: ModuleType, engine: ModuleType, tmp_path: Path) -> None:
    api.attach_audio(head, write_sound(tmp_path / "a.wav", seconds=1), frame=1)
    text = drawn("voice")
    assert "(ua3dtalk.read_voice)" in text and "Not used" in text and "Confidence" not in text
    head.ua3dtalk.mix = 0.5
    bpy.ops.ua3dtalk.read_voice()
    text = drawn("voice")
    assert "Not used" not in text and "Confidence here: " in text and "Heard here: neutral 1.00" in text
    (tmp_path / "a.wav").unlink()
    assert "a.wav" in drawn("voice")


def test_where_to_trust_it(drawn: Callable[..., str], head: bpy.types.Object, engine: ModuleType, api: ModuleType, scene: bpy.types.Scene) -> None:
    api.bake(head, (1, 6))
    trust = api.trust(head)
    scene.frame_set(3)
    text = drawn("trust")
    for wanted in ("Region x Snd Exp Tone Emo", "(ua3dtalk.jump_to_worst)", "[quantity]", "[region]", "[graph]", "Brows 1.0"):
        assert wanted in text, wanted
    lips = trust.shares[2, trust.regions.index("lips")]
    assert f"Lips 1.0 {' '.join(f'{100 * share:.0f}%' for share in lips)}" in text
    assert "Nothing stands out" in text, "without sound all frames are the same"
    assert "±%" not in text, "an avatar that does not know the size of its errors"
    scene.frame_set(9)
    assert "Frame 9 is not baked" in drawn("trust")


def test_errors_that_an_avatar_expects(
    drawn: Callable[..., str], avatars: Path, engine: ModuleType, api: ModuleType, scene: bpy.types.Scene
) -> None:
    head = api.import_avatar(avatars / "other.safetensors")
    api.bake(head, (1, 3))
    trust = api.trust(head)
    lips = trust.regions.index("lips")
    errors = trust.expected_errors("epistemic")
    np.testing.assert_allclose(errors, np.sqrt(trust.epistemic))
    scene.ua3dtalk_display.quantity = "EPISTEMIC"
    text = drawn("trust")
    assert "Region x ±% Snd Exp Tone Emo" in text and f"Lips 1.0 {100 * errors[0, lips]:.1f} " in text


def test_display(drawn: Callable[..., str], head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    assert "[display]" in drawn("display") and "[low]" not in drawn("display")
    scene.ua3dtalk_display.display, scene.ua3dtalk_display.high = "EPISTEMIC", 0.25
    assert "[low]" in drawn("display")
    shown = shipped("addon.draw.source").look_in(scene)
    assert (shown.display, shown.value_range) == ("epistemic", (0.0, 0.25))
    known = set(shipped("addon.draw.image").Display.__args__)
    assert {item.identifier.lower() for item in scene.ua3dtalk_display.bl_rna.properties["display"].enum_items} == known


def test_the_ramp_fits_what_is_shown(
    drawn: Callable[..., str], head: bpy.types.Object, engine: ModuleType, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped
) -> None:
    settings = scene.ua3dtalk_display
    settings.display = "UNCERTAINTY"
    assert (settings.low, settings.high) == (0, 1), "nothing is baked: the ramp stays"
    with pytest.raises(RuntimeError, match="Bake it first"):
        bpy.ops.ua3dtalk.fit_ramp()
    api.bake(head, (1, 4))
    scene.frame_set(3)
    assert bpy.ops.ua3dtalk.fit_ramp() == {"FINISHED"} and "(ua3dtalk.fit_ramp)" in drawn("display")
    now = shipped("addon.frames").shown(head, 3)
    for kind, found in (("UNCERTAINTY", now.uncertainty.sum(1)), ("EPISTEMIC", now.uncertainty[:, 1])):
        settings.display = kind  # which fits by itself
        inside = (found >= settings.low) & (found <= settings.high)
        seen = (found > 0) & (now.opacities > 0.1)
        assert settings.low < settings.high and 0.97 < inside[seen].mean() <= 0.99 and found[seen].min() < settings.low
    settings.display, scene.camera = "DEPTH", None
    with pytest.raises(RuntimeError, match="camera"):
        bpy.ops.ua3dtalk.fit_ramp()
    scene.camera = bpy.data.objects.new("eye", bpy.data.cameras.new("eye"))
    scene.collection.objects.link(scene.camera)
    scene.camera.location, scene.camera.rotation_euler = head.matrix_world.translation, (np.pi / 2, 0, 0)
    scene.camera.location.y -= 3
    bpy.context.view_layer.update()
    bpy.ops.ua3dtalk.fit_ramp()
    assert 2.5 < settings.low < settings.high < 3.5, "metres from the camera"
    settings.display = "SHARE_EXP"
    assert "[low]" not in drawn("display")


def test_preferences(head: bpy.types.Object, shipped: Shipped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UA3DTALK_PYTHON", raising=False)
    preferences = shipped("addon.session").preferences()
    draw = shipped("addon.preferences").Preferences.draw
    texts: list[str] = []

    class Shown:
        layout = Recorder(texts)

        def __getattr__(self, name: str) -> Any:
            return getattr(preferences, name)

    draw(Shown(), bpy.context)
    assert "(ua3dtalk.set_up_environment)" in texts and any("no Python environment" in text for text in texts)
    preferences.environment = "EXISTING"
    try:
        texts.clear()
        draw(Shown(), bpy.context)
        assert "[python_path]" in texts and "(ua3dtalk.set_up_environment)" not in texts
    finally:
        preferences.environment = "MANAGED"


def test_every_operator_and_property_has_a_tooltip(head: bpy.types.Object) -> None:
    for name in dir(bpy.ops.ua3dtalk):
        kind = getattr(bpy.ops.ua3dtalk, name).get_rna_type()
        assert kind.description and kind.name, name
    for prop in head.ua3dtalk.bl_rna.properties:
        if prop.identifier not in ("rna_type", "name"):
            assert prop.description, prop.identifier
    animatable = {p.identifier for p in head.ua3dtalk.bl_rna.properties if p.is_animatable}
    assert {"happy", "intensity", "mix", "blink"} <= animatable
    assert not animatable & {"avatar_path", "cache_path", "bake_range", "auto_blinks", "blink_seed", "key_blend", "sound_start"}


def test_the_render_panel_follows_the_scene(drawn: Callable[..., str], head: bpy.types.Object, api: ModuleType) -> None:
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    for wanted in ("use_render_engine", "add_compositing", "add_proxy"):
        assert f"(ua3dtalk.{wanted})" in drawn("_render")
    assert "remove_" not in drawn("_render")
    api.add_proxy(head)
    api.add_compositing(scene, shadows=True)
    assert "(ua3dtalk.remove_compositing)" in drawn("_render") and "(ua3dtalk.remove_proxy)" in drawn("_render")
    scene.render.engine = "UA3DTALK"
    assert "renders splats alone" in drawn("_render") and "add_compositing" not in drawn("_render")
