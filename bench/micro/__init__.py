"""Micro-benchmarks: encode, apply, fan-out, without sockets; see `python3 dev.py bench micro`."""
