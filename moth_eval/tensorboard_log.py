"""Figures of log records as curves of TensorBoard."""

from __future__ import annotations

import logging
from collections import Counter

from .errors import InputError


class TensorBoardHandler(logging.Handler):
    """Writes every number among a record's figures as a scalar `TASK/MESSAGE/NAME`.

    The step is the record's `round` where it has one, else how often that scalar was told before.
    """

    def __init__(self, folder: str) -> None:
        """Write event files into a folder, one per process.

        Args:
            folder: where to; made if it is not there.

        Raises:
            InputError: TensorBoard is not installed, or no folder was named.
        """
        super().__init__()
        if not folder:
            raise InputError("--log-to tensorboard:FOLDER: expected a folder, got none")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "--log-to tensorboard: TensorBoard is not installed; install it with "
                "pip install 'moth-eval[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(folder, flush_secs=5)
        self._told: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's numbers."""
        values = dict(getattr(record, "figures", {}))
        above = [str(values.pop("task", record.name)), record.getMessage()]
        step = values.pop("round", None)
        for name, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            tag = "/".join([*above, name])
            at = step if isinstance(step, int) else self._told[tag]
            self._told[tag] += 1
            self._writer.add_scalar(tag, value, at)
        self._writer.flush()

    def close(self) -> None:
        """End the event file."""
        self._writer.close()
        super().close()
