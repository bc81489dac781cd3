from __future__ import annotations

from pathlib import Path

import pytest

from moth_eval import machine

GIB = 1 << 30


@pytest.mark.parametrize(
    ("limit", "used", "details", "name"),
    [
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat",
            "total_inactive_file",
        ),
    ],
)  # fmt: skip
def test_memory_that_holds_files_is_free_in_a_container(
    limit: str, used: str, details: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing a large round fills what the container may have with the files that were read."""
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text(f"{16 * GIB}\n")
    (tmp_path / used).write_text(f"{16 * GIB - 20}\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_free_bytes", lambda: 64 * GIB)
    assert machine.available_bytes() == 20
    (tmp_path / details).write_text(f"anon {GIB}\n{name} {14 * GIB}\nactive_file 5\n")
    assert machine.available_bytes() == 14 * GIB + 20
