"""Any sound file -> mono float32 at 16 kHz, with the hash of its bytes."""

from .sound import RATE, Sound, read_sound

__all__ = ["RATE", "Sound", "read_sound"]
