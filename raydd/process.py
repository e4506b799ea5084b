"""How a process that computes is set up."""

import ctypes
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


def set_up(threads: int) -> None:
    """Fix the number of CPU threads, on which the order of sums depends, and keep freed memory for the next tensor.

    By default glibc returns every large block to the kernel when it is freed, and the next activation of the same size
    faults its pages in anew: half the time of training a small ConvNet on a CPU. Other C libraries are left alone.
    """
    torch.set_num_threads(threads)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
