from __future__ import annotations

import io
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from benchmarks.progress import ProgressReporter
from benchmarks.speed.__main__ import bench
from benchmarks.speed.harness import pool, timed
from benchmarks.speed.inversion import compare
from benchmarks.speed.reference import ReferenceLoop, Trace
from tests.support.subjects import prototype_subject, write_prototype_round


def test_a_trace_keeps_what_shrank_and_tells_when_a_size_was_reached() -> None:
    trace = Trace()
    for seconds, size in ((1.0, 9.0), (2.0, 11.0), (3.0, 5.0)):
        trace.note(seconds, size)
    assert (trace.seconds, trace.sizes) == ([1.0, 3.0], [9.0, 5.0])
    assert (trace.seconds_to(9.0), trace.seconds_to(6.0), trace.seconds_to(1.0)) == (1.0, 3.0, None)


def test_the_reference_loop_finds_the_planted_trigger() -> None:
    subject = prototype_subject(target=2)
    images = subject.examples.images[subject.examples.labels == 0]
    planted, other = (
        ReferenceLoop(passes=150).invert(subject.module, images, target, seed=0).sizes[-1]
        for target in (2, 1)
    )
    assert planted < other


def test_both_work_on_the_same_pairs_and_the_common_size_is_reached_by_both() -> None:
    [result] = compare(prototype_subject(target=2), [(0, 2)], samples=8, passes=120, seed=0)
    assert (result.source, result.target) == (0, 2)
    assert set(result.engine) == {"float32", "bfloat16"}
    for precision, trace in result.engine.items():
        size = result.common_size(precision)
        assert size == max(result.reference.sizes[-1], trace.sizes[-1])
        assert result.seconds(precision) == (
            result.reference.seconds_to(size), trace.seconds_to(size),
        )  # fmt: skip


def test_the_command_prints_a_ratio(tmp_path: Path) -> None:
    write_prototype_round(tmp_path, models=1)
    result = CliRunner().invoke(
        bench,
        ["--model", str(tmp_path / "model-0.safetensors"), "--examples",
         str(tmp_path / "model-0.npz"), "--arch", "tests.support.subjects:prototype_network",
         "--samples", "8", "--passes", "150"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "ratio" in result.output.splitlines()[-1]


def test_a_pair_that_is_no_pair_is_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(bench, ["--pairs", "0to1"])
    assert result.exit_code == 2
    assert "expected SOURCE-TARGET" in result.output


def test_progress_is_a_plain_line_per_task_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with ProgressReporter(Console(file=stream, width=40), "scanning", 3, done=1) as reporter:
        reporter.advance("id-00000001 [nc] scored")
        reporter.advance("id-00000002 [nc] refused: " + "long " * 20)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("2/3  id-00000001 [nc] scored  [")
    assert lines[1].startswith("3/3  id-00000002 [nc] refused")


def test_dry_tasks_are_timed_from_the_first_answer_on() -> None:
    timing = timed("two at a time", 6, pool(2).run(iter(range(6))))
    assert timing.tasks == 6
    assert 0 < timing.per_task < timing.seconds < 60


def test_a_dry_task_without_an_answer_is_no_timing() -> None:
    with pytest.raises(RuntimeError, match="one: not every task was answered"):
        timed("one", 2, pool(1).run(iter([0])))
