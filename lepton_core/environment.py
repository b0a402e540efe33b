"""Facts about the machine and the installed packages, without importing any of them."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_CGROUP = Path("/sys/fs/cgroup")


def _cgroup_directory() -> Path:
    """Return this process's cgroup v2 directory; inside a container that is the root."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return _CGROUP
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    directory = _CGROUP / own.lstrip("/")
    return directory if directory.is_dir() else _CGROUP


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _numbers(path: Path) -> list[int]:
    """Return the numbers in a file; empty if it is not there or says something else ("max")."""
    parts = (_read(path) or "").split()
    return [int(p) for p in parts] if all(p.lstrip("-").isdecimal() for p in parts) else []


def _ancestors(directory: Path) -> list[Path]:
    """Return *directory* and its parents up to the cgroup root; each may set a limit."""
    chain = [directory, *directory.parents]
    return chain[: chain.index(_CGROUP) + 1] if _CGROUP in chain else [directory]


def cgroup_cpus() -> float | None:
    """Return the CPU quota of this container in cores, or ``None`` without one.

    Reads cgroup v2 ``cpu.max`` and, where that is absent, v1 ``cpu.cfs_quota_us``.
    """
    quotas = []
    for directory in _ancestors(_cgroup_directory()):
        numbers = _numbers(directory / "cpu.max")
        if len(numbers) == 2 and numbers[1] > 0:
            quotas.append(numbers[0] / numbers[1])
    v1 = [*_numbers(_CGROUP / "cpu/cpu.cfs_quota_us"), *_numbers(_CGROUP / "cpu/cpu.cfs_period_us")]
    if not quotas and len(v1) == 2 and min(v1) > 0:
        quotas.append(v1[0] / v1[1])
    return min(quotas, default=None)


def cgroup_memory() -> int | None:
    """Return this container's memory limit in bytes, or ``None`` without one."""
    limits = []
    for directory in _ancestors(_cgroup_directory()):
        limits.extend(_numbers(directory / "memory.max")[:1])
    v1 = _numbers(_CGROUP / "memory/memory.limit_in_bytes")
    if not limits and v1 and v1[0] < 1 << 60:
        limits.append(v1[0])
    return min(limits, default=None)


def available_memory() -> int:
    """Return the bytes that may still be used here: the container's or the machine's."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = cgroup_memory(), _numbers(_cgroup_directory() / "memory.current")
    if limit is None:
        return free
    return max(0, min(free, limit - (used[0] if used else 0)))


def available_cpus() -> int:
    """Return how many CPUs this process may use: affinity and container quota, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = cgroup_cpus()
    if quota is not None:
        count = min(count, max(1, int(quota)))
    return max(1, count)


@cache
def cpu_features() -> tuple[str, ...]:
    """Return the instruction sets that matter to quantized kernels, sorted (Linux only)."""
    wanted = {
        "sse4_1", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16",
        "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve",
    }  # fmt: skip
    text = _read(Path("/proc/cpuinfo")) or ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            return tuple(sorted(wanted & set(value.split())))
    return ()


WIDE_SUMS = ("avx512_vnni", "avx_vnni", "amx_int8")
"""Instruction sets of x86 that add products of uint8 and int8 in 32 bits."""

NARROW = 64
"""Weights of at most this magnitude never saturate 16-bit sums: 2 * 255 * 64 < 2**15."""


def sums_may_saturate(features: Collection[str] | None = None) -> bool:
    """Tell whether this CPU may add two products of uint8 and int8 in 16 bits.

    x86 before VNNI does (``vpmaddubsw``): two products of large values then saturate. Where the
    system does not tell its instruction sets (Windows, macOS on Intel), the answer is yes.

    Args:
        features: Instruction sets of the CPU; those of this one by default.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not set(WIDE_SUMS) & set(cpu_features() if features is None else features)


@cache
def cpu_name() -> str:
    """Return the CPU's marketing name, or the architecture if the system does not tell."""
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def version_of(distribution: str) -> str | None:
    """Return the installed version of a distribution, or ``None``."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def versions_of(*distributions: str) -> dict[str, str]:
    """Return the versions of those of *distributions* that are installed."""
    return {name: found for name in distributions if (found := version_of(name))}


def describe(*distributions: str) -> dict[str, object]:
    """Return the facts that a passport records about where it was made.

    Args:
        distributions: Packages whose versions matter.
    """
    return {
        "os": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cpu_features": list(cpu_features()),
        "cpus_available": available_cpus(),
        "memory_limit_bytes": cgroup_memory(),
        "python": ".".join(map(str, sys.version_info[:3])),
        "packages": versions_of("lepton-core", "lepton-kernels", "numpy", *distributions),
    }


__all__ = [
    "NARROW",
    "WIDE_SUMS",
    "available_cpus",
    "available_memory",
    "cgroup_cpus",
    "cgroup_memory",
    "cpu_features",
    "cpu_name",
    "describe",
    "sums_may_saturate",
    "version_of",
    "versions_of",
]
