"""espeak-ng through its C library: speech with the times of its phonemes."""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass

import numpy as np

from ..errors import UserError

_SYNCHRONOUS = 2
_PHONEME_EVENTS, _IPA = 1, 2
_UTF8 = 1
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_END, _PHONEME = 0, 7


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Manner:
    """How a sentence is said: espeak-ng voice (`en-us`, `de`, with variant `en+f3`), words a minute, volume 0..200,
    pitch 0..99, range of intonation 0..99."""

    voice: str = "en-us"
    rate: int = 165
    volume: int = 100
    pitch: int = 50
    range: int = 50


@dataclass
class Utterance:
    """samples [n] float32 at `rate` Hz; `phones`: (start second, end second, IPA; "" is a pause), in order, without gaps."""

    samples: np.ndarray
    rate: int
    phones: list[tuple[float, float, str]]


class Espeak:
    """The library, opened once. Not for several threads.

    Raises:
        UserError: the library is not there.
    """

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng")
        if not name:
            raise UserError("libespeak-ng is missing.", "Install it, for example: apt install espeak-ng")
        self._library = ctypes.CDLL(name)
        self.rate = self._library.espeak_Initialize(_SYNCHRONOUS, 200, None, _PHONEME_EVENTS | _IPA)
        if self.rate <= 0:
            raise UserError("espeak-ng does not start: its data is missing.", "Install it, for example: apt install espeak-ng-data")
        self._pieces: list[np.ndarray] = []
        self._events: list[tuple[float, str]] = []
        self._callback = _Callback(self._receive)  # kept: the library holds only the address

    def _receive(self, wave, count, events) -> int:  # type: ignore[no-untyped-def]
        if wave and count > 0:
            self._pieces.append(np.ctypeslib.as_array(wave, (count,)).astype(np.float32) / 32768)
        i = 0
        while events[i].type != _END:
            if events[i].type == _PHONEME:
                self._events.append((events[i].audio_position / 1000, events[i].id.string.decode("utf-8", "ignore")))
            i += 1
        return 0

    def speak(self, text: str, manner: Manner = Manner()) -> Utterance:
        """Say a text.

        Raises:
            UserError: espeak-ng has no such voice.
        """
        self._pieces, self._events = [], []
        self._library.espeak_SetSynthCallback(self._callback)  # one for the whole process, and another object may have set its own
        if self._library.espeak_SetVoiceByName(manner.voice.encode()) != 0:
            raise UserError(f"espeak-ng has no voice {manner.voice!r}.", "`espeak-ng --voices` lists them.")
        for parameter, value in (
            (_RATE, manner.rate), (_VOLUME, manner.volume), (_PITCH, manner.pitch), (_RANGE, manner.range)
        ):  # fmt: skip
            self._library.espeak_SetParameter(parameter, value, 0)
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, 1, 0, _UTF8, None, None)
        samples = np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.float32)
        end = len(samples) / self.rate
        starts = [start for start, _ in self._events] + [end]
        phones = [(start, max(start, stop), ipa) for (start, ipa), stop in zip(self._events, starts[1:])]
        if phones and phones[0][0] > 0:
            phones.insert(0, (0.0, phones[0][0], ""))
        return Utterance(samples, self.rate, phones)
