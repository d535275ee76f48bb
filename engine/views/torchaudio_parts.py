"""torchaudio's transforms, also where its compiled parts cannot load (a CUDA build beside a CPU torch)."""

from __future__ import annotations

import sys
import types


def transforms() -> types.ModuleType:
    """`torchaudio.transforms`. Needs none of torchaudio's compiled parts."""
    try:
        import torchaudio
    except (OSError, RuntimeError, ImportError):  # the CUDA build's libraries are missing: stand in for the module that loads them
        for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        stub = types.ModuleType("torchaudio._extension")
        stub._IS_TORCHAUDIO_EXT_AVAILABLE = False
        stub._IS_ALIGN_AVAILABLE = False
        stub.fail_if_no_align = lambda function: function
        sys.modules["torchaudio._extension"] = stub
        import torchaudio
    return torchaudio.transforms
