"""`python -m engine`."""

import os
import sys
from pathlib import Path


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home()))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))


# numba keeps compiled code beside the sources unless told otherwise; an extension's folder is not to be written to.
os.environ.setdefault("NUMBA_CACHE_DIR", str(_user_cache() / "ua3dtalk" / "numba"))

if __name__ == "__main__":
    from .cli import main

    sys.exit(main())
