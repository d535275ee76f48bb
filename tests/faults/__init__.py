"""Faults on purpose: processes killed, disks full, clocks that jump; see docs/faults.md."""
