"""`moth-eval scan`: judge models of unknown origin, with what a defender knows and no more."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from moth_eval.options import architecture_option, device_option, normalisation_option, seed_option
from moth_eval.own_code import admit_own_code

from .options import (
    budget_options,
    dataset_option,
    examples_option,
    require_sandbox,
    retry_option,
    run_folder_option,
    scanner_option,
)
from .showing import carry_out_shown, planned_aloud
from .sittings import sitting

if TYPE_CHECKING:
    from moth_eval.loading.sources import ImageSource
    from moth_eval.scan_calibration import ScanPolicy

    from .budget import Budget
    from .trojai import TrojaiStudy


@click.command()
@click.argument(
    "models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MODEL..."
)
@scanner_option
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="File that calibrate made of clean models.  [default: the scanners' own cuts]",
)
@click.option(
    "--policy",
    default="0.05",
    show_default=True,
    metavar="FRACTION[,FRACTION]",
    help="Clean models that may be called backdoored, and suspicious or worse (four times as "
    "many unless given).",
)
@dataset_option
@run_folder_option("runs/scan-NAME-OF-FIRST-MODEL")
@architecture_option()
@normalisation_option()
@require_sandbox
@examples_option
@device_option
@budget_options("scan", jobs="one per processor as memory allows; one per GPU")
@seed_option
@retry_option
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON.")
@click.option(
    "--sarif", type=click.Path(path_type=Path, dir_okay=False), help="Write SARIF 2.1.0 there."
)
@click.option(
    "--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write JUnit XML there."
)
@click.pass_context
def scan(
    ctx: click.Context,
    models: tuple[Path, ...],
    scanners: tuple[str, ...],
    calibration: Path | None,
    policy: str,
    dataset: str,
    out: Path | None,
    architecture: str,
    normalisation: str,
    require_sandbox: bool,
    examples: ImageSource | None,
    device: str,
    seed: int,
    retry: bool,
    budget: Budget,
    as_json: bool,
    sarif: Path | None,
    junit: Path | None,
) -> None:
    """Judge models of unknown origin; leave grades, evidence and a report.

    A MODEL is a file, or a folder of models. The same command again continues a scan that was
    stopped. Exit codes: 0 nothing found, 1 something found, 2 usage or input error, 3 a model has
    no answer.
    """
    from moth_eval.calls import called_as
    from moth_eval.cli import load_command
    from moth_eval.late_files import require_writable

    from .trojai import TrojaiStudy

    for path in models:
        admit_own_code(architecture, path)
    study = TrojaiStudy(
        models=models[0],
        more=models[1:],
        answers=False,
        run=out or Path("runs") / f"scan-{models[0].resolve().name}",
        scanners=scanners,
        seed=seed,
        device=device,
        budget=budget,
        architecture=architecture,
        normalisation=normalisation,
        require_sandbox=require_sandbox,
        examples=examples,
        retry=retry,
        command=called_as(),
    )
    judging = _policy_of(policy, dataset, calibration, scanners)
    for option, file in (("--sarif", sarif), ("--junit", junit)):
        if file is not None:
            require_writable(file, option)
    _carry_out(study, judging)
    # By way of the front door: this room does not know that of the reports.
    report = load_command("report")
    ctx.exit(ctx.invoke(report, run=study.run, as_json=as_json, sarif=sarif, junit=junit))


def _policy_of(
    policy: str, dataset: str, calibration: Path | None, scanners: tuple[str, ...]
) -> ScanPolicy:
    from moth_eval.scan_calibration import (
        ScanPolicy,
        check_parameters,
        parse_policy,
        read_calibration,
    )

    from .rules import require_rules
    from .tasks import parse_scanner

    known = None if calibration is None else read_calibration(calibration)
    if known is None:
        require_rules(scanners, instead="calibrate it on clean models and give --calibration")
    else:
        parsed = {spec: parse_scanner(spec) for spec in scanners}
        check_parameters(known, {spec: {"method": m, **p} for spec, (m, p) in parsed.items()})
    return ScanPolicy(
        policy=parse_policy(policy),
        dataset=dataset,
        calibration=known,
        calibration_file="" if calibration is None else str(calibration.resolve()),
        scanners=scanners,
    )


def _carry_out(study: TrojaiStudy, policy: ScanPolicy) -> None:
    from moth_eval.records import write_whole
    from moth_eval.scan_calibration import POLICY, ScanPolicy

    with sitting(study.run):
        planned = planned_aloud(study)
        models = tuple(dict.fromkeys(task.model.name for task in planned.tasks))
        # Validated, unlike a copy: a file's name may be text that UTF-8 cannot hold.
        policy = ScanPolicy.model_validate({**dict(policy), "models": models})
        # Scores stay what they are under another policy, so that one may replace the other.
        write_whole(study.run / POLICY, policy.model_dump_json(indent=2).encode() + b"\n")
        carry_out_shown(planned, study)
