"""How a process that computes is set up, and what it has taken."""

import ctypes
import os
import resource
import sys
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def set_up(threads: int) -> None:
    """Fix the number of CPU threads, on which the order of sums depends, and keep freed memory for the next tensor.

    Products on a GPU are in TF32, as in the papers' code.

    By default glibc returns every large block to the kernel when it is freed, and the next activation of the same size
    faults its pages in anew: half the time of training a small ConvNet on a CPU. Other C libraries are left alone.
    """
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def peak_memory_bytes() -> int:
    """The most memory that was resident in this process so far.

    Linux hands a process the peak of the one that started it in `getrusage`, hence its own status file where it is.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_bytes(device: torch.device) -> int:
    """The memory of a GPU, or what this process's machine or container may use."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limit = Path("/sys/fs/cgroup/memory.max")
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        limits.append(int(text))
    return min(limits)
