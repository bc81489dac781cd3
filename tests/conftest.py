from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from moth_eval.log import ROOMS

REPOSITORY = Path(__file__).resolve().parent.parent


torch.set_num_threads(1)  # several test processes and workers share the machine


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real files beside the repository; tests that need it skip without it."""
    path = REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"real data not present: no folder {path}")
    return path


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    """What a test makes our loggers do ends with it."""
    ours = [logging.getLogger(room) for room in ROOMS]
    before = [(logger, logger.level, list(logger.handlers)) for logger in ours]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
