"""Prior extraction: lip expert, sync discriminator, style encoder, FuseNet. What needs espeak-ng or pocketsphinx is skipped where it is absent."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.avatars import talking_avatar
from support.face_data import make_face_data

from ua3dtalk.engine.audio import Sound, read_sound
from ua3dtalk.engine.avatar import load_avatar, save_avatar
from ua3dtalk.engine.avatar.tensors import load_tensors, save_tensors
from ua3dtalk.engine.cli import main
from ua3dtalk.engine.dataset import read_data
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.priors.corpus import as_sound, make_clips
from ua3dtalk.engine.priors.espeak import Espeak, Manner
from ua3dtalk.engine.priors.judging import mouth_lead, probe, sync_accuracy
from ua3dtalk.engine.priors.lessons import Lesson, lesson_of_clip, lesson_of_data, lessons_of_clips
from ua3dtalk.engine.priors.lip_training import LipSettings, Pool, lip_loss, moved_formants, plain_loss, train_lips
from ua3dtalk.engine.priors.mouths import EXPRESSION, OPENINGS, TABLE, landmark_expression, mouth_tracks
from ua3dtalk.engine.priors.networks import MouthNet
from ua3dtalk.engine.priors.recogniser import (
    PLAIN, align, coarticulated_opening, decode, judge, opening_correlation, plain_opening, pronounce,
)  # fmt: skip
from ua3dtalk.engine.priors.run import CLEAR, PriorSettings, train_priors
from ua3dtalk.engine.priors.speech_file import SHIPPED, SpeechPriors, load_speech, save_speech, with_speech
from ua3dtalk.engine.priors.tone_training import Rows, ToneSettings, reconstruction_error, tone_rows, train_tone
from ua3dtalk.engine.priors.visemes import ARPABET, articulate, segments
from ua3dtalk.engine.views import analysis as analysis_module
from ua3dtalk.engine.views import build_providers
from ua3dtalk.engine.views.content import MBP, SIL, VISEMES
from ua3dtalk.engine.views.lips import EMBEDDING, LipNet
from ua3dtalk.engine.views.tone import voice_features

QUICK = LipSettings(steps=120, batch=8, average=0.9)
OPENING = 60  # of f_exp


@pytest.fixture(scope="session")
def espeak() -> Espeak:
    try:
        return Espeak()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def lessons(espeak: Espeak) -> tuple[list[Lesson], list[Lesson]]:
    """To learn from, and of voices that are not among them."""
    learned = lessons_of_clips(make_clips(36, 1, others=0.0, spoilt=0.3, noises=0.0, variants=("+f1", "+m3", "+Denis", "+anika", "")))
    return learned, lessons_of_clips(make_clips(8, 2, others=0.0, spoilt=0.0, noises=0.0, variants=("+f4", "+m6")))


@pytest.fixture(scope="module")
def trained(lessons: tuple[list[Lesson], list[Lesson]]) -> tuple[LipNet, MouthNet, list[float]]:
    torch.set_num_threads(1)
    losses: list[float] = []
    lips, mouth = train_lips(lessons[0], [], QUICK, lambda done, total, text: losses.append(float(text.split("opening ")[1].split(",")[0])))
    return lips, mouth, losses


@pytest.fixture(scope="module")
def shipped() -> SpeechPriors:
    return load_speech(SHIPPED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of a head that speaks."""
    return make_face_data(tmp_path_factory.mktemp("face") / "data", frames=100, size=32)


def spoken(espeak: Espeak, text: str, voice: str = "en-us+f4") -> tuple[Sound, list]:
    """A sentence by a voice that the shipped priors never heard, and its phones."""
    from scipy.signal import resample_poly

    said = espeak.speak(text, Manner(voice))
    return as_sound(resample_poly(said.samples, 16000 // 50, said.rate // 50)), said.phones


def outputs(lips: LipNet, lesson: Lesson) -> np.ndarray:
    with torch.inference_mode():
        return lips(torch.from_numpy(lesson.inputs)[None])[0].T.numpy()


def test_the_lip_expert_learns_what_holds_for_unheard_voices(lessons, trained) -> None:  # type: ignore[no-untyped-def]
    lips, mouth, losses = trained
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:10])
    said, meant, right, number = [], [], [], []
    for lesson in lessons[1]:
        found = outputs(lips, lesson)
        said.append(1 / (1 + np.exp(-found[:, 40])))
        meant.append(lesson.opening)
        right.append(found[:, :20].argmax(1) == lesson.viseme)
        number.append(lesson.viseme)
    said, meant, right, number = map(np.concatenate, (said, meant, right, number))
    assert np.mean((said - meant) ** 2) < 0.6 * meant.var()  # better than the mean opening
    assert right.mean() > 1.5 * np.bincount(number).max() / len(number)  # and than the commonest viseme
    assert np.corrcoef(said, meant)[0, 1] > 0.65


def test_the_sync_discriminator_finds_when_it_was(lessons, trained) -> None:  # type: ignore[no-untyped-def]
    lips, mouth, _ = trained
    found = sync_accuracy(lips, mouth, lessons[1])
    assert found["windows"] > 10 and found["within 40 ms"] > 0.6 > 3 * found["chance"]
    untrained = sync_accuracy(LipNet().eval(), MouthNet().eval(), lessons[1])
    assert untrained["within 40 ms"] < 0.45


def test_what_is_not_known_counts_nowhere(lessons, trained) -> None:  # type: ignore[no-untyped-def]
    lips, mouth, _ = trained
    lesson = lessons[0][0]
    rows = slice(0, 160)

    def parts(**change: np.ndarray) -> dict[str, float]:
        given = {"viseme": lesson.viseme, "articulation": lesson.articulation, "opening": lesson.opening, "tracks": lesson.mouth} | change
        arrays = {name: torch.from_numpy(np.stack([value[rows]] * 2)) for name, value in given.items()}
        inputs = torch.from_numpy(np.stack([lesson.inputs[:, rows]] * 2))
        loss, found = lip_loss(lips, mouth, inputs, **arrays, random=np.random.default_rng(0), settings=QUICK)
        assert torch.isfinite(loss)
        return found

    nothing = np.full_like(lesson.articulation, np.nan)
    assert set(parts()) == {"viseme", "plain", "articulation", "opening", "correlation", "sync"}
    assert set(parts(articulation=nothing, opening=nothing[:, 0], tracks=nothing[:, :3])) == {"viseme", "plain"}
    half = lesson.opening.copy()
    half[80:] = np.nan
    assert parts(opening=half)["opening"] != parts()["opening"]
    other = np.where(np.isnan(half), np.nan, half)
    assert parts(opening=other)["opening"] == parts(opening=half)["opening"]


def test_formants_move() -> None:
    """A tone's band goes where the mel bank of the analysis puts the tone's frequency divided by the factor."""
    bank, time = analysis_module.mel_bank(40), np.arange(800) / 16000
    bands = lambda hertz: bank(torch.from_numpy(np.sin(2 * np.pi * hertz * time).astype(np.float32)))[:, 0]  # noqa: E731
    mel = torch.stack([bands(hertz) for hertz in (700, 1500, 3000)])[..., None].repeat(1, 1, 4)
    torch.testing.assert_close(moved_formants(mel, np.ones(3)), mel)
    for factor in (0.8, 1.2):
        moved = moved_formants(mel, np.full(3, factor))
        wanted = [int(bands(hertz / factor).argmax()) for hertz in (700, 1500, 3000)]
        assert np.abs(moved[..., 0].argmax(1).numpy() - wanted).max() <= 1 and moved[..., 0].argmax(1).tolist() != mel[..., 0].argmax(1).tolist()


def test_examples_of_another_tempo_stay_whole(lessons) -> None:  # type: ignore[no-untyped-def]
    pool = Pool.of(lessons[0])
    pool.inputs = np.broadcast_to(np.arange(pool.inputs.shape[1], dtype=np.float32), pool.inputs.shape)
    inputs, viseme, *_ = pool.draw(np.random.default_rng(0), 200, tempo=0.3)
    rows = inputs[:, 0].astype(int)
    np.testing.assert_array_equal(pool.viseme[rows], viseme)
    clip = np.searchsorted(pool.starts, rows, "right")
    assert (clip == clip[:, :1]).all() and (np.diff(rows, axis=1) >= 0).all()  # of one lesson, in order
    spans = rows[:, -1] - rows[:, 0]
    assert spans.min() < 130 and spans.max() > 200
    assert (np.diff(pool.draw(np.random.default_rng(0), 20)[0][:, 0], axis=1) == 1).all()


def test_f_tone_gives_fusenet_what_f_exp_has_not() -> None:
    """Eq. 4 where voices move the same content by different amounts, on rows that were not learned from."""
    random, count = np.random.default_rng(0), 4000
    voice, exp = random.integers(0, 4, count), random.normal(size=(count, 64)).astype(np.float32)
    tone = random.normal(size=(4, 83))[voice] + 0.3 * random.normal(size=(count, 83))
    gains = np.array([0.3, 0.8, 1.5, 2.2])[voice, None]
    expression = gains * (exp[:, :6] @ random.normal(size=(6, 3))) + gains
    expression[:40, 1] = np.nan  # not known
    rows = Rows(
        exp, tone.astype(np.float32), np.ones(count, np.float32), expression.astype(np.float32), voice, np.full((count, 4), np.nan, np.float32),
        np.zeros(count, np.int64), np.arange(count), ("a", "b", "c"), ("1", "2", "3", "4"),
    )  # fmt: skip
    half = count // 2
    arrays = ("exp", "tone", "share", "expression", "voice", "manner", "viseme", "lesson")
    learned, judged = (replace(rows, **{name: getattr(rows, name)[part] for name in arrays}) for part in (slice(half), slice(half, None)))
    settings = ToneSettings(steps=400, batch=256)
    style, fused = train_tone(learned, settings)
    _, alone = train_tone(learned, replace(settings, tone=False))
    with_tone, without = reconstruction_error(style, fused, judged), reconstruction_error(None, alone, judged)
    assert with_tone < 0.5 * without and without < 1
    assert reconstruction_error(None, fused, judged) > with_tone  # it is f_tone that does it
    assert probe(tone_rows(style, rows), voice, np.arange(count) < half) > 0.95
    assert np.abs(tone_rows(style, replace(rows, share=np.zeros(count, np.float32)))).max() == 0


def test_shipped_style_tells_speakers_apart_and_not_what_they_say(shipped: SpeechPriors, espeak: Espeak) -> None:
    """Linear probes on voices that it never heard."""
    lips, tone = (provider.net for provider in shipped.providers())
    clips = make_clips(24, 77, others=0.0, spoilt=0.0, noises=0.0, variants=("+f4", "+m6", "+Gene"))
    rows = Rows.of(lips, lessons_of_clips(clips))
    some = (rows.share > 0.5) & (rows.viseme > 0)
    style, first = tone_rows(tone, rows)[some], (rows.lesson % 2 == 0)[some]
    speaker, viseme = rows.voice[some], rows.viseme[some]
    assert probe(style, speaker, first) > 0.65 > probe(rows.exp[some], speaker, first)
    assert probe(style, viseme, first) < 0.2 < 0.4 < probe(rows.exp[some], viseme, first)


def test_a_film_out_of_time_is_found_out(shipped: SpeechPriors, espeak: Espeak) -> None:
    clip = make_clips(1, 5, others=0.0, spoilt=0.0, noises=0.0, variants=("+Annie",))[0]
    lesson = lesson_of_clip(clip)
    net, mouth = shipped.providers()[0].net, shipped.mouth()
    for frames in (-12, 0, 8):
        moved = replace(lesson, mouth=np.roll(lesson.mouth, frames, 0))
        lead, clear = mouth_lead(net, mouth, moved)
        assert lead == pytest.approx(-frames / 100, abs=0.021) and clear > CLEAR
    still = replace(lesson, mouth=np.full_like(lesson.mouth, np.nan))
    assert mouth_lead(net, mouth, still) == (0.0, 0.0)


def test_shipped_lips_close_on_p_b_m_of_an_unheard_voice(shipped: SpeechPriors, espeak: Espeak) -> None:
    sound, phones = spoken(espeak, "My mother bought a big brown map of Bombay, maybe Peter put the pepper pot back.")
    features = shipped.providers()[0].track(sound).features
    parts = segments(phones)
    wanted = articulate(parts, len(features)) @ OPENINGS
    assert np.corrcoef(features[:, OPENING], wanted)[0, 1] > 0.8
    middle = lambda name: [round(50 * (a + b)) for a, b, viseme in parts if viseme == name]  # noqa: E731
    assert features[middle("mbp"), OPENING].mean() < 0.15 < 0.4 < features[middle("aa") + middle("ae") + middle("ao"), OPENING].mean()


def test_shipped_lips_on_real_speech(shipped: SpeechPriors, shared_data: Path) -> None:
    """The first sentences of LJ Speech; the lip expert learned from others of this speaker (docs/priors.md)."""
    pytest.importorskip("pocketsphinx")
    folder = shared_data / "speech" / "read_aloud"
    clips = {}
    for line in (folder / "transcripts_first_8.txt").read_text("utf-8").splitlines()[:6]:
        name, text = line.split("|", 1)
        sound = read_sound(folder / f"{name}.flac")
        clips[name] = sound, align(sound, text)
    tracks = {sound: shipped.providers()[0].track(sound) for sound, _ in clips.values()}
    opening = lambda sound, times: tracks[sound].at(times)[:, 0, OPENING]  # noqa: E731
    found = judge(clips, opening)
    assert found["pairs"] > 30 and found["order"] > 0.9 and found["p b m"] < 0.17 and found["vowels"] > 0.4
    assert opening_correlation(clips, opening) > 0.68
    plain = lambda sound, times: tracks[sound].at(times)[:, 0, :20] @ PLAIN  # noqa: E731
    found = judge(clips, plain)
    assert found["order"] > 0.9 and found["p b m"] < 0.2 and found["vowels"] > 0.5
    assert opening_correlation(clips, plain, plain_opening) > 0.78


def test_the_recognisers_own_phones_are_judged_beside(shared_data: Path) -> None:
    pytest.importorskip("pocketsphinx")
    sound = read_sound(shared_data / "speech" / "read_aloud" / "LJ001-0004.flac")
    clips, phones = {"clip": (sound, align(sound, "produced the block books, which were the immediate predecessors of the true printed book,"))}, decode(sound)
    assert phones[0][0] < 0.05 and abs(phones[-1][1] - sound.duration) < 0.1 and all(b > a and name in ARPABET for a, b, name in phones)
    curve = plain_opening(phones, 1000)
    heard = lambda late: opening_correlation(clips, lambda sound, times: np.interp(times - late, np.arange(1000) / 100, curve), plain_opening)  # noqa: E731
    assert heard(0.0) > 0.6 > 2 * heard(0.3)


def test_the_judge_knows_a_perfect_mouth_from_a_wrong_one() -> None:
    sound = as_sound(np.zeros(48000))
    phones = [(0.0, 0.4, "SIL"), (0.4, 0.6, "M"), (0.6, 0.9, "AA"), (0.9, 1.1, "B"), (1.1, 1.5, "IY"), (1.5, 1.7, "S"), (1.7, 2.2, "SIL")]
    clips = {"made": (sound, phones)}
    truth = articulate(segments(phones, ARPABET), 301) @ OPENINGS
    perfect = lambda sound, times: np.interp(times, np.arange(301) / 100, truth)  # noqa: E731
    found = opening_correlation(clips, perfect)
    assert found > 0.999
    assert judge(clips, perfect)["order"] == 1 and judge(clips, lambda sound, times: -perfect(sound, times))["order"] == 0
    assert opening_correlation(clips, lambda sound, times: perfect(sound, times - 0.2)) < 0.6
    plain = lambda sound, times: np.interp(times, np.arange(301) / 100, plain_opening(phones, 301))  # noqa: E731
    assert opening_correlation(clips, plain, plain_opening) > 0.999 and judge(clips, plain)["order"] == 1
    np.testing.assert_array_equal(coarticulated_opening(phones, 301), truth)
    np.testing.assert_allclose(plain_opening(phones, 301)[[20, 50, 75, 100, 130, 160]], [0, 0, 0.9, 0, 0.6, 0.15], atol=1e-9)


def test_the_plain_loss_asks_for_the_opening_and_not_for_the_viseme() -> None:
    viseme = torch.full((1, 40), VISEMES.index("th"))
    says = lambda name: 50.0 * torch.nn.functional.one_hot(torch.full((1, 40), VISEMES.index(name)), 20).transpose(1, 2).float()  # noqa: E731
    assert plain_loss(says("th"), viseme) < 1e-6 and plain_loss(says("lntd"), viseme) < 1e-6  # th and t open alike
    assert plain_loss(says("aa"), viseme) == pytest.approx(0.49, abs=1e-3)
    half = viseme.clone()
    half[:, 20:] = -1
    wrong = torch.cat([says("th")[..., :20], says("aa")[..., 20:]], 2)
    assert plain_loss(wrong, viseme) > 0.2 and plain_loss(wrong, half) < 0.05  # what is not known does not count


def test_words_of_other_languages_have_english_phones(espeak: Espeak) -> None:
    assert pronounce("Lappen", espeak, "de").split()[0] == "L" and "P" in pronounce("Lappen", espeak, "de").split()
    assert set(pronounce("schwarze Tüten", espeak, "de").split()) <= set(ARPABET)


@pytest.mark.parametrize("piece", [100, 256])
def test_pieces_and_silence(shipped: SpeechPriors, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    time = np.arange(5 * 16000) / 16000
    buzz = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20)) * np.clip(np.sin(2 * np.pi * 3 * time), 0, 1)
    sound = Sound((0.1 * buzz + 1e-4 * np.random.default_rng(0).normal(size=len(time))).astype(np.float32), 16000, 5.0, "", 16000, 1)
    whole = [provider.track(sound) for provider in shipped.providers()]
    zero = as_sound(np.zeros(32000))
    for provider, track in zip(shipped.providers(), whole):
        assert track.at(np.array([1.0])).shape == (1, 1, 64) and np.isfinite(track.features).all()
        np.testing.assert_allclose(provider.track(zero).at(np.array([0.7]))[0, 0], track.silence, atol=1e-5)
    monkeypatch.setattr(analysis_module, "PIECE", piece)
    for provider, track in zip(shipped.providers(), whole):
        again = provider.track(replace(sound))
        np.testing.assert_allclose(again.features, track.features, atol=3e-4, err_msg=provider.name)


def test_voice_features_are_the_speakers_and_not_the_volumes(espeak: Espeak) -> None:
    def features(voice: str, text: str) -> np.ndarray:
        return voice_features(spoken(espeak, text, voice)[0])

    one, two = "The judge had charged the church for damage.", "Please bring me the blue book from the table."
    own = np.abs(features("en+f4", one) - features("en+f4", two)).mean()
    assert own < 0.75 * np.abs(features("en+f4", one) - features("en+m6", one)).mean()
    sound = spoken(espeak, one, "en+f4")[0]  # said once: the synthesiser says nothing twice alike
    np.testing.assert_allclose(voice_features(as_sound(0.3 * sound.samples)), voice_features(sound), atol=0.02)


def test_priors_travel_in_an_avatar(shipped: SpeechPriors, tmp_path: Path) -> None:
    save_avatar(with_speech(talking_avatar(), shipped), tmp_path / "a.safetensors")
    avatar = load_avatar(tmp_path / "a.safetensors")
    assert (avatar.meta.views["exp"].provider, avatar.meta.views["style"].provider) == ("lips", "tone")
    views = {name: vars(view) for name, view in avatar.meta.views.items()}
    found = build_providers(views, avatar.tensors)
    sound = as_sound(0.1 * np.random.default_rng(0).normal(size=24000) * np.sin(np.arange(24000) / 900))
    for provider in shipped.providers():
        other = found[provider.view]
        assert other.weights == provider.weights
        np.testing.assert_array_equal(other.track(sound).features, provider.track(sound).features)
    short = {name: value for name, value in avatar.tensors.items() if not name.startswith("provider.style.last")}
    with pytest.raises(UserError, match="`tone`.*weights"):
        build_providers(views, short)
    with pytest.raises(UserError, match="`lips`.*weights"):
        build_providers(views, {name: value for name, value in short.items() if not name.startswith("provider.exp.sync")})


def test_the_shipped_file_says_what_it_is(shipped: SpeechPriors) -> None:
    assert SHIPPED.stat().st_size < 2_000_000
    assert "espeak-ng" in shipped.about["trained_on"] and "24 recordings" in shipped.about["trained_on"]
    figures = shipped.about["figures"]
    assert figures["unheard_voices"]["sync"]["within 40 ms"] > 0.9
    assert figures["unheard_sentences"]["eq4"] < figures["unheard_sentences"]["eq4_without_tone"]
    assert set(shipped.fused().names) == set(EXPRESSION)
    silent = shipped.providers()[0].track(as_sound(np.zeros(16000))).features
    np.testing.assert_allclose(silent[:, OPENING], 0, atol=1e-6)
    assert not silent[:, EMBEDDING].any() and (silent[:, 20 + SIL] > 0.999).all()


class TestDataSets:
    """A user's own folders."""

    def test_a_split_says_what_its_pictures_show(self, folder: Path) -> None:
        data = read_data(folder)
        train, val = lesson_of_data(data), lesson_of_data(data, "val")
        known, held = np.isfinite(train.opening), np.isfinite(val.opening)
        assert known.mean() > 0.6 and held.any() and not (known & held)[::4].any()
        assert train.names == tuple(str(name) for name in data.labels.expression_names)
        rows = [frame.number for frame in data.splits["train"] if np.isfinite(train.expression[frame.number]).all()]
        assert len(rows) > 60
        np.testing.assert_allclose(train.expression[rows], data.labels.expression[rows], atol=1e-3)
        jaw = data.labels.expression[:, train.names.index("jawOpen")]
        assert np.corrcoef(train.opening[::4][rows], jaw[rows])[0, 1] > 0.95  # seen on the landmarks
        assert (train.viseme[~known] == -1).all()

    def test_a_lead_moves_the_mouth_against_the_sound(self, folder: Path) -> None:
        data = read_data(folder)
        plain, late = lesson_of_data(data), lesson_of_data(data, lead=0.08)
        both = np.isfinite(plain.opening[:-8]) & np.isfinite(late.opening[8:])
        assert both.sum() > 100
        np.testing.assert_allclose(late.opening[8:][both], plain.opening[:-8][both], atol=1e-3)
        np.testing.assert_array_equal(plain.inputs, late.inputs)

    def test_landmarks_alone_are_enough(self, folder: Path, tmp_path: Path) -> None:
        shutil.copytree(folder, tmp_path / "plain")
        (tmp_path / "plain" / "labels.npz").unlink()
        lesson = lesson_of_data(read_data(tmp_path / "plain"))
        assert "opening" in lesson.names and (lesson.viseme == -1).all() and np.isfinite(lesson.mouth).any()

    def test_command(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        out = tmp_path / "p.safetensors"
        assert main(["train", "priors", str(folder), "--clips", "0", "--steps", "12", "--out", str(out), "--json"]) == 0
        told = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert told["out"] == str(out) and "Test head" in told["trained_on"] and "eq4" in told["figures"]["data"]["val"]
        assert load_speech(out).about["kind"] == "speech"


class TestRefusals:
    """One line each, and nothing written."""

    @pytest.mark.parametrize(
        "given,words",
        [
            (["--clips", "0"], "nothing to learn"),
            (["--clips", "-3"], "--clips"),
            (["nowhere", "--clips", "0"], "nowhere"),
            (["--clips", "0", "--recordings", "x.wav", "--texts", "missing.csv"], "missing.csv"),
        ],
    )
    def test_wishes(self, given: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
        monkeypatch.chdir(tmp_path)
        assert main(["train", "priors", *given, "--out", "p.safetensors"]) == 1
        said = capsys.readouterr().err.strip().splitlines()
        assert words in said[-1] and said[-1].startswith("error:") and not (tmp_path / "p.safetensors").exists()

    def test_a_table_without_texts(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("only a name\n")
        with pytest.raises(UserError, match="t.csv.*no text"):
            train_priors([], tmp_path / "p.safetensors", PriorSettings(clips=0), [tmp_path / "x.wav"], tmp_path / "t.csv")

    def test_files(self, shipped: SpeechPriors, tmp_path: Path) -> None:
        path = tmp_path / "p.safetensors"
        save_speech(shipped, path)
        tensors, metadata = load_tensors(path)
        (tmp_path / "cut").write_bytes(path.read_bytes()[:-50])
        save_tensors(tmp_path / "other", {"a": np.zeros(3)}, {})
        save_tensors(tmp_path / "kind", tensors, {name: text.replace('"speech"', '"emotion"') for name, text in metadata.items()})
        save_tensors(tmp_path / "nan", tensors | {"fuse.mean": np.full(14, np.nan, np.float32)}, metadata)
        save_tensors(tmp_path / "names", tensors | {"fuse.mean": np.zeros(3, np.float32)}, metadata)
        save_tensors(tmp_path / "less", {n: t for n, t in tensors.items() if not n.startswith("sync.")}, metadata)
        for name in ("missing", "cut", "other", "kind", "nan", "names", "less"):
            with pytest.raises(UserError) as caught:
                load_speech(tmp_path / name)
            assert caught.value.remedy and "\n" not in str(caught.value), name


def test_tables_are_the_face_models(shared_data: Path) -> None:
    """Opening, width and thickness of the lips as the face model's own landmarks show them."""
    from character.face_model import load
    from character.weights import VISEMES as COEFFICIENTS

    model = load(shared_data / "face_model" / "ict_facekit.npz")
    found = []
    for name in VISEMES:
        points = model.pose({k: v for k, v in COEFFICIENTS[name].items() if not k.startswith("tongue")})[model.landmarks]
        gap = (points[[61, 62, 63], 1] - points[[67, 66, 65], 1]).mean()
        height = (points[[50, 51, 52], 1] - points[[58, 57, 56], 1]).mean()
        found.append((gap, np.linalg.norm(points[54] - points[48]), height - gap))
    seen = np.array(found)
    seen /= np.linalg.norm(np.diff(model.rest[model.landmarks[[48, 54]]], axis=0))
    told = mouth_tracks(TABLE)
    np.testing.assert_allclose(told[:, 0], np.maximum(seen[:, 0], 0), atol=0.02)
    for track in range(3):
        assert np.corrcoef(told[:, track], seen[:, track])[0, 1] > 0.97
    assert OPENINGS[MBP] == 0 and OPENINGS[VISEMES.index("aa")] == 1


def test_landmarks_are_read_upright_and_at_any_size() -> None:
    random = np.random.default_rng(0)
    face = random.normal(0, 20, (6, 68, 2)).astype(np.float32)
    face[:, 36:42] += [-60, -40]
    face[:, 42:48] += [60, -40]
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]], np.float32)
    np.testing.assert_allclose(landmark_expression(face @ turn.T * 1.7 + 30), landmark_expression(face), atol=2e-3)
    lower = face.copy()
    lower[:, [67, 66, 65], 1] += 12  # px down: opens
    change = landmark_expression(lower) - landmark_expression(face)
    assert (change[:, 0] > 0.05).all() and np.abs(change[:, [1, 4, 5, 6, 7]]).max() < 1e-4
