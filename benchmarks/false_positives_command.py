"""`moth-eval false-positives`: scan models, harden those that are flagged, scan them again."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moth_eval.errors import InputError
from moth_eval.text import visible

from .image_sources import training_images
from .options import budget_options, require_sandbox
from .sittings import INCOMPLETE, sitting

if TYPE_CHECKING:
    from moth_eval.hardening_cells import CellState
    from moth_eval.loading.sources import ImageSource
    from moth_eval.records import ScanRecord

    from .budget import Budget
    from .cells import Cell
    from .false_positives import FalsePositivesPlan, FalsePositivesStudy

PUBLISHED = "published"


@click.command("false-positives")
@click.option(
    "--models",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of a TrojAI round, folder of model files, or one model file.",
)
@click.option(
    "--scanner",
    default="nc",
    show_default=True,
    metavar="NAME[:FIELD=VALUE,...]",
    help="Scanner to run, before and after.",
)
@click.option(
    "--threshold",
    default=PUBLISHED,
    show_default=True,
    metavar="NUMBER|published",
    help="A score above it flags a model; published: the cut that the scanner states.",
)
@click.option(
    "--harden",
    "method",
    default="moth",
    show_default=True,
    metavar="NAME[:FIELD=VALUE,...]",
    help="Hardener for the flagged models.",
)
@click.option(
    "--data",
    type=training_images,
    help="Clean images for all models, to scan and to train with: a folder, an .npz with "
    "images and labels, or torchvision:NAME:FOLDER.  [default: each model's own clean examples]",
)
@click.option(
    "--share",
    type=click.FloatRange(min=0, max=1, min_open=True),
    default=0.05,
    show_default=True,
    help="Fraction of each class that is trained on, of what is not held out.",
)
@click.option(
    "--distance-pairs",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Pairs of classes whose distance is measured before and after; 0: none.",
)
@click.option(
    "--arch",
    "architecture",
    default="",
    help="Network of files that hold only weights: a torchvision name, "
    "package.module:factory or package.module (your own, trusted code).",
)
@require_sandbox
@click.option(
    "--ground-truth",
    type=click.Path(path_type=Path),
    help="The answers, if they do not lie with the models: a tree of ground_truth.csv "
    "or a CSV with model_name and poisoned.",
)
@click.option("--seed", default=0, show_default=True, help="Decides everything random.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@budget_options("task", jobs="one per processor as memory allows; one per GPU")
@click.option(
    "--retry-failed",
    "retry",
    is_flag=True,
    help="Do scans and hardenings again that failed or timed out.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Run folder.  [default: runs/false-positives-NAME-OF-MODELS-FOLDER]",
)
@click.pass_context
def false_positives(
    ctx: click.Context,
    models: Path,
    scanner: str,
    threshold: str,
    method: str,
    data: ImageSource | None,
    share: float,
    distance_pairs: int,
    architecture: str,
    require_sandbox: bool,
    ground_truth: Path | None,
    seed: int,
    device: str,
    budget: Budget,
    retry: bool,
    out: Path | None,
) -> None:
    """Scan models, harden those that are flagged, and scan them again.

    The same command again continues a run that was stopped. Exit codes: 0 every model has an
    answer; 2 usage or input error; 3 run incomplete, or models without an answer.
    """
    from moth_eval.calls import called_as

    from .false_positives import FalsePositivesStudy
    from .trojai_command import admit_own_code

    admit_own_code(architecture, models)
    study = FalsePositivesStudy(
        models=models,
        run=out or Path("runs") / f"false-positives-{models.resolve().name}",
        scanner=scanner,
        threshold=_threshold(threshold),
        method=method,
        data=data,
        share=share,
        distance_pairs=distance_pairs,
        architecture=architecture,
        require_sandbox=require_sandbox,
        ground_truth=ground_truth,
        seed=seed,
        device=device,
        budget=budget,
        retry=retry,
        command=called_as(),
    )
    ctx.exit(run_study(ctx, study))


def run_study(ctx: click.Context, study: FalsePositivesStudy) -> int:
    """Plan, carry out and report a study; the exit code."""
    from .false_positives import plan
    from .trojai_command import write_reports

    with sitting(study.run, kept="was done"):
        planned = plan(study)
        for note in planned.scan.round.notes:
            click.echo(f"note: {visible(note)}", err=True)
        complete = _carry_out(planned, study)
    write_reports(ctx, study.run)
    return 0 if complete else INCOMPLETE


def _threshold(text: str) -> float | None:
    if text == PUBLISHED:
        return None
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--threshold: expected a number or {PUBLISHED!r}, got {text!r}") from None


def _carry_out(planned: FalsePositivesPlan, study: FalsePositivesStudy) -> bool:
    from .false_positives import Listeners, carry_out

    with Stages() as stages:
        listen = Listeners(
            begin=stages.begin,
            scanned=stages.scanned,
            tell=stages.tell,
            hardened=stages.hardened,
        )
        return carry_out(planned, study, listen)


class Stages:
    """Shows the stages of the study one after the other; a context manager."""

    def __init__(self) -> None:
        from rich.console import Console

        from .progress import ProgressReporter
        from .study_progress import CellProgress, cell_line

        self._console, self._stack = Console(stderr=True), ExitStack()
        self._scans = ProgressReporter(self._console, "", 0)
        self._cells = CellProgress(self._console, 0, 0, line=cell_line)

    def __enter__(self) -> Stages:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def begin(self, stage: str, total: int, done: int) -> None:
        """A stage begins, in which `done` of `total` parts are done."""
        from .progress import ProgressReporter
        from .study_progress import CellProgress, cell_line

        self._stack.close()
        click.echo(f"{stage}: {done} of {total} done", err=True)
        if stage == "hardening":
            cells = CellProgress(self._console, total, done, line=cell_line)
            self._cells = self._stack.enter_context(cells)
        else:
            reporter = ProgressReporter(self._console, stage, total, done)
            self._scans = self._stack.enter_context(reporter)

    def scanned(self, record: ScanRecord) -> None:
        """One more scan is over."""
        result = record.status if record.score is None else f"score {record.score:.2f}"
        line = f"{record.model}  {record.scanner}  {result} {record.reason}".rstrip()
        self._scans.advance(visible(f"{line}  ({record.seconds:.0f} s)"))

    def tell(self, cell: Cell, stage: str, share: float | None, line: str) -> None:
        """How far the present hardening is."""
        self._cells.tell(cell, stage, share, line)

    def hardened(self, state: CellState) -> None:
        """One more hardening is over."""
        self._cells.advance(state)
