"""Schedules for the smallest trigger of a pair of classes, or of all of them to one."""

from __future__ import annotations

from dataclasses import replace

from .objective import MaskAndPattern
from .schedule import Schedule

PAPER = Schedule(
    steps=4000,
    batch_size=32,
    last_batch=4,
    success_rate=0.9,
    acceptance="moving",
    disturbance=0.01,
    initial_cost=1e-3,
    warm_up=False,
    patience=10,
    up=1.5,
    down=1.5**1.5,
    steps_per_move=4,
    smoothing=0.0,
    check_every=4,
    stop_patience=4000,
)
"""1,000 passes over 100 images, one move of the cost per pass.

A pass is three batches of 32 images and one of 4, which weighs as much as the others where the
pass's success rate is taken. A trigger counts by that rate, in which the trigger still moved.

Source: MOTH (Tao et al., IEEE S&P 2022) and its published code.
"""

STICKY = MaskAndPattern(reach=9.0)
"""As published: a pixel that a disturbance sends to 0 or 1 stays there until the next one."""

SHORT = Schedule(
    steps=600,
    batch_size=16,
    success_rate=0.9,
    initial_cost=1e-2,
    warm_up=False,
    patience=3,
    up=1.3,
    down=1.3**1.5,
    smoothing=0.7,
    average=0.9,
    prune=True,
    check_every=40,
    stop_patience=4,
    stop_tolerance=0.01,
)
"""Ours: the cost moves at every step, averages are tried, and their faint rest is pruned."""

UNIVERSAL = replace(SHORT, steps=250, success_rate=0.99, warm_up=True, check_every=25)
"""Ours, for one trigger per target class as Neural Cleanse inverts them: a fraction of the images
finds the same sizes as its published schedule."""

FAST = replace(
    SHORT,
    steps=1600,
    soft_share=0.9,
    disturbance=0.01,
    trim=True,
    initial_cost=1e-3,
    patience=30,
    up=1.5,
    down=1.5**1.5,
    smoothing=0.9,
    stop_patience=15,
)
"""Ours: a quarter of the images that `PAPER` takes, with its slow rise of the cost.

Cross-entropy spends itself on the tenth of the images that need not be flipped; a soft count of
those that are not finds smaller triggers. A cost that rises fast settles sooner, but on larger
ones. Disturbances are as published, and averages, their pruning and the trimming at the end are
ours. A row ends when its trigger has not shrunk by 1 % from one check to the next, 40 steps later,
fifteen times in a row.
"""
