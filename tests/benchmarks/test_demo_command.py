from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from moth_eval.cli import main


def test_a_demo_that_was_begun_otherwise_is_refused_with_a_way_out(tmp_path: Path) -> None:
    """As after an update: the folder is always the same, so another name is no advice."""
    out = tmp_path / "demo"
    (out / "round").mkdir(parents=True)
    (out / "round" / "generation.json").write_text(json.dumps({"models": 3}))
    result = CliRunner().invoke(main, ["demo", "--out", str(out), "--device", "cpu"])
    assert result.exit_code == 2
    assert result.output.rstrip().endswith(f"; or remove {out}, where a demo was begun otherwise")
