"""Processes that are forked from one in which networks have run."""

from __future__ import annotations

import os
from functools import cache

import torch


@cache
def survive_forks() -> None:
    """From now on let forked processes compute on one thread, which is the only one that they have.

    The threads of OpenMP stay behind in the process that forks; a child that counts on them waits for ever (gunicorn
    with ``--preload``, multiprocessing's fork). Systems without a fork need nothing.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_compute_alone)


def _compute_alone() -> None:
    torch.set_num_threads(1)
