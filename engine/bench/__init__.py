"""`python -m engine bench`: the engine's own figures, each fast path beside the plain one in the same run."""

from .run import SECTIONS, BenchSettings, run_bench

__all__ = ["SECTIONS", "BenchSettings", "run_bench"]
