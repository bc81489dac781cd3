"""One way to run a scanner or a hardener: checked, seeded, timed, leaving all as it was."""

from __future__ import annotations

import logging
import random
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from .errors import InputError, MothError, OutOfMemory, ScanError
from .hardening import SILENT, Hardener, Hardening, HardeningStatus, Journal, LogEntry
from .log import figures
from .machine import lack_of_memory
from .scan import Scan, Scanner, Status
from .seeds import generator_for
from .subject import Examples, Subject
from .weights import DIVERGED, are_finite

LOG = logging.getLogger(__name__)


def run_scan(scanner: Scanner, subject: Subject, *, name: str, seed: int) -> Scan:
    """The scan of one subject by one scanner, whatever happens.

    Randomness comes from a generator that depends on `seed`, the model (its file's hash, else its
    name) and the scanner's name alone. The subject's network and the global random states are the
    same afterwards. An exception becomes a scan of status `FAILED`.

    Args:
        scanner: what scans.
        subject: what is scanned.
        name: the scanner's name in tables.
        seed: the run's seed.

    Raises:
        OutOfMemory: memory ran out, which says nothing about the model.
    """
    started = time.perf_counter()
    try:
        _check(subject)
        with untouched(subject.module):
            generator = generator_for(seed, subject.sha256 or subject.name, name)
            scan = scanner.scan(subject, generator=generator)
    except OutOfMemory:
        raise
    except MothError as error:
        scan = Scan(status=Status.FAILED, reason=str(error))
    except Exception as error:  # any failure of a third party's scanner is a result, not our end
        _pass_on_lack_of_memory(error, subject)
        scan = Scan(status=Status.FAILED, reason=f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - started
    cost = replace(scan.cost, seconds=seconds, peak_memory_bytes=_peak(subject))
    return replace(scan, cost=cost)


def run_hardening(
    hardener: Hardener,
    subject: Subject,
    data: Examples,
    *,
    name: str,
    seed: int,
    journal: Journal = SILENT,
) -> Hardening:
    """The hardening of one subject, whatever happens.

    Randomness depends on `seed`, the model and the hardener's name, as in `run_scan`; the subject
    and the global random states are the same afterwards. An exception becomes a hardening of status
    `FAILED`, as does a network whose weights are not finite; a `KeyboardInterrupt` passes through.

    Args:
        hardener: what hardens.
        subject: whose network is copied and changed.
        data: clean training images, on the subject's device.
        name: the hardener's name in tables.
        seed: the run's seed.
        journal: keeps the log, and the state between sittings.

    Raises:
        OutOfMemory: memory ran out, which says nothing about the model.
    """
    started = time.perf_counter()
    try:
        _check(subject)
        with untouched(subject.module):
            generator = generator_for(seed, subject.sha256 or subject.name, name)
            done = hardener.harden(subject, data, generator=generator, journal=_Telling(journal))
    except OutOfMemory:
        raise
    except MothError as error:
        done = Hardening(status=HardeningStatus.FAILED, reason=str(error))
    except Exception as error:  # any failure of a third party's hardener is a result
        _pass_on_lack_of_memory(error, subject)
        done = Hardening(status=HardeningStatus.FAILED, reason=f"{type(error).__name__}: {error}")
    if done.module is not None and not are_finite(done.module):
        done = replace(done, status=HardeningStatus.FAILED, module=None, reason=DIVERGED)
    seconds = done.log[-1].seconds if done.log else time.perf_counter() - started
    cost = replace(done.cost, seconds=seconds, peak_memory_bytes=_peak(subject))
    return replace(done, cost=cost)


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Put back the module's modes and gradient flags and all global random states on leaving."""
    training = {name: part.training for name, part in module.named_modules()}
    flags = {name: p.requires_grad for name, p in module.named_parameters()}
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        for name, part in module.named_modules():
            part.training = training[name]
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(flags[name])


def resolve_device(text: str) -> torch.device:
    """The device behind `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        InputError: no such device here.
    """
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
        torch.zeros(1, device=device)
    except Exception as error:  # each backend has its own exception for being absent
        raise InputError(
            f"device {text!r} cannot be used here ({error}): expected auto, cpu, cuda or cuda:N"
        ) from error
    return device


class _Telling:
    """A journal whose lines are told as well, whichever hardener writes them."""

    def __init__(self, journal: Journal) -> None:
        self.resumed = journal.resumed
        self.wants_save = journal.wants_save
        self.save = journal.save
        self._note = journal.note

    def note(self, entry: LogEntry) -> None:
        LOG.debug(
            "hardening",
            extra=figures(
                phase=entry.phase,
                round=entry.round,
                loss=entry.loss,
                accuracy=entry.accuracy,
                distance=entry.distance,
            ),
        )
        self._note(entry)


def _pass_on_lack_of_memory(error: Exception, subject: Subject) -> None:
    what = lack_of_memory(error)
    if what is not None:
        raise OutOfMemory(f"{subject.name}: {what}") from error


def _check(subject: Subject) -> None:
    if not len(subject.examples):
        raise ScanError(f"{subject.name}: expected clean example images, got none")
    if subject.module.training:
        raise ScanError(f"{subject.name}: the network is in training mode; call eval() first")


def _peak(subject: Subject) -> int:
    device = subject.examples.images.device
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
