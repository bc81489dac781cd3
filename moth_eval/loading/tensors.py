"""From records of tensors to tensors, within the bytes that the file really holds."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from ..errors import RefusedFile
from .inert_tree import LARGEST_EXTENT, StorageRecord, TensorRecord

#: A file may view the same bytes as several tensors (tied weights), but not as many.
MOST_REUSE = 4
SPARE_BYTES = 1 << 20


class StorageBytes(Protocol):
    """Where the bytes of storages are."""

    def read(self, record: StorageRecord) -> bytearray:
        """The bytes of one storage, exactly as many as its record says."""
        ...


class TensorReader:
    """Makes tensors from records; a record that stands in two places becomes one tensor."""

    def __init__(self, storages: StorageBytes, file_size: int) -> None:
        self._storages = storages
        self._raw: dict[str, bytearray] = {}
        self._made: dict[int, tuple[TensorRecord, Tensor]] = {}
        self._bytes_left = MOST_REUSE * file_size + SPARE_BYTES

    def read(self, record: TensorRecord) -> Tensor:
        """The tensor of `record`, the same object for the same record.

        Raises:
            RefusedFile: its bytes are missing, or the tensors together are far larger than the
                file.
        """
        if id(record) not in self._made:
            self._made[id(record)] = (record, self._make(record))
        return self._made[id(record)][1]

    def _make(self, record: TensorRecord) -> Tensor:
        dtype: torch.dtype = getattr(torch, record.dtype)
        self._bytes_left -= record.numel * dtype.itemsize
        if self._bytes_left < 0:
            raise RefusedFile("the tensors in the file are many times larger than the file itself")
        if record.numel == 0:
            if math.prod(max(n, 1) for n in record.size) > LARGEST_EXTENT:
                raise RefusedFile("a tensor without numbers in the file has an impossible shape")
            return torch.empty(record.size, dtype=dtype)
        key = record.storage.key
        first = key not in self._raw
        if first:
            self._raw[key] = self._storages.read(record.storage)
        raw = self._raw[key]
        flat = torch.frombuffer(raw, dtype=dtype, count=len(raw) // dtype.itemsize)
        view = torch.as_strided(flat, record.size, record.stride, record.offset)
        # Only a tensor that has the bytes to itself may keep them: writing to overlapping views
        # would change one weight through another.
        return (
            view if first and view.is_contiguous() and view.numel() == len(flat) else view.clone()
        )
