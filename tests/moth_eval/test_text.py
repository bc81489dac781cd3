from __future__ import annotations

from moth_eval.text import file_name


def test_names_become_safe_file_names_that_stay_distinct() -> None:
    assert file_name("id-00000001") == "id-00000001"
    names = [
        file_name(n) for n in ("../../etc/passwd", "..\\..\\etc\\passwd", ".hidden", "a" * 300)
    ]
    assert len(set(names)) == 4
    assert all("/" not in n and not n.startswith(".") and len(n) < 120 for n in names)
