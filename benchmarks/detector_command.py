"""`moth-eval detector`: the command that a TrojAI container runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from moth_eval.errors import ExitCode, InputError
from moth_eval.options import architecture_option, device_option, normalisation_option
from moth_eval.own_code import admit_own_code
from moth_eval.text import visible

if TYPE_CHECKING:
    from moth_eval.records import ScanRecord

    from .detector import Detection
    from .detector_settings import Metaparameters

MODES = ("infer", "configure", "mitigate", "test", "metaparameters")

file = click.Path(path_type=Path)


@click.command()
@click.argument("mode", type=click.Choice(MODES), required=False, default="infer")
@click.option("--model_filepath", type=file, help="Model file.")
@click.option("--result_filepath", type=file, help="File for the probability (infer).")
@click.option("--scratch_dirpath", type=file, help="Folder for what is needed on the way.")
@click.option("--examples_dirpath", type=file, help="Folder of clean images (infer).")
@click.option("--metaparameters_filepath", type=file, help="Metaparameters, as JSON.")
@click.option("--schema_filepath", type=file, help="Their schema; not needed.")
@click.option("--learned_parameters_dirpath", type=file, help="Folder of what configure learned.")
@click.option(
    "--configure_models_dirpath", type=file, help="Folder of labelled models (configure)."
)
@click.option("--configure_mode", is_flag=True, help="The same as configure, in older rounds.")
@click.option("--automatic_configuration", is_flag=True, help="Taken; it changes nothing.")
@click.option("--round_training_dataset_dirpath", type=file, help="Taken; not needed.")
@click.option("--source_dataset_dirpath", type=file, help="Taken; not needed.")
@click.option("--features_filepath", type=file, help="CSV file for the score and what led to it.")
@click.option(
    "--dataset_dirpath", "--dataset", "dataset", type=file, help="Images (mitigate, test)."
)
@click.option("--output_dirpath", type=file, help="Folder for what is written.")
@click.option(
    "--model_output_name",
    default="mitigated.pt",
    show_default=True,
    help="Name of the mitigated model.",
)
@click.option("--batch_size", type=click.IntRange(min=1), help="Taken; memory decides.")
@click.option("--num_workers", type=click.IntRange(min=0), help="Taken; not needed.")
@device_option
@architecture_option()
@normalisation_option()
@click.pass_context
def detector(
    ctx: click.Context,
    mode: str,
    model_filepath: Path | None,
    result_filepath: Path | None,
    scratch_dirpath: Path | None,
    examples_dirpath: Path | None,
    metaparameters_filepath: Path | None,
    schema_filepath: Path | None,
    learned_parameters_dirpath: Path | None,
    configure_models_dirpath: Path | None,
    configure_mode: bool,
    automatic_configuration: bool,
    round_training_dataset_dirpath: Path | None,
    source_dataset_dirpath: Path | None,
    features_filepath: Path | None,
    dataset: Path | None,
    output_dirpath: Path | None,
    model_output_name: str,
    batch_size: int | None,
    num_workers: int | None,
    device: str,
    architecture: str,
    normalisation: str,
) -> None:
    """Run a scanner or hardener by the contract of NIST's TrojAI containers.

    Exit codes: 0 the result was written; 2 usage or input error, no result was written; 3 the
    model has no score, and the result is one half.
    """
    from .detector_settings import read_metaparameters, write_defaults

    def wanted(option: str, value: Path | None) -> Path:
        if value is None:
            raise InputError(f"detector {mode}: expected --{option}, got nothing")
        return value

    if mode == "metaparameters":
        for path in write_defaults(wanted("output_dirpath", output_dirpath)):
            click.echo(f"wrote {path}")
        return
    settings = read_metaparameters(metaparameters_filepath)
    if configure_mode or mode == "configure":
        mode = "configure"
        _configure(
            wanted("configure_models_dirpath", configure_models_dirpath),
            wanted("learned_parameters_dirpath", learned_parameters_dirpath),
            wanted("scratch_dirpath", scratch_dirpath),
            settings,
            architecture,
            normalisation,
            device,
        )
        return
    model = wanted("model_filepath", model_filepath)
    admit_own_code(architecture, model.parent)
    if mode == "infer":
        from .detector import Detection

        wish = Detection(
            model=model,
            result=wanted("result_filepath", result_filepath),
            scratch=wanted("scratch_dirpath", scratch_dirpath),
            examples=examples_dirpath,
            settings=settings,
            learned=learned_parameters_dirpath,
            architecture=architecture,
            normalisation=normalisation,
            device=device,
        )
        ctx.exit(_infer(wish, features_filepath))
    images = wanted("dataset_dirpath", dataset)
    out = wanted("output_dirpath", output_dirpath)
    if mode == "mitigate":
        from .mitigation import mitigate

        done = mitigate(
            model,
            images,
            out,
            settings,
            name=model_output_name,
            architecture=architecture,
            normalisation=normalisation,
            device=device,
        )
        click.echo(f"wrote {done.path}: {_made(done.method, settings.mitigate_method)}")
        return
    from .detector import logits_of

    written = logits_of(
        model, images, out, architecture=architecture, normalisation=normalisation, device=device
    )
    click.echo(f"wrote {written}")


def _made(method: str, wanted: str) -> str:
    """What a mitigated model is, in words."""
    if not method:
        return f"the original model, as {wanted} left none"
    return f"hardened with {method}" + ("" if method == wanted else f", as {wanted} left none")


def _configure(
    models: Path,
    learned: Path,
    scratch: Path,
    settings: Metaparameters,
    architecture: str,
    normalisation: str,
    device: str,
) -> None:
    from .detector import configure

    admit_own_code(architecture, models)
    curve, count = configure(
        models,
        learned,
        scratch,
        settings,
        architecture=architecture,
        normalisation=normalisation,
        device=device,
    )
    click.echo(
        f"probability 1 / (1 + exp(-({curve.slope:.4g} x score {curve.intercept:+.4g}))), from "
        f"{count} models"
    )


def _infer(wish: Detection, features: Path | None) -> ExitCode:
    from .detector import INSTEAD, UNDECIDED, infer

    found, record = infer(wish)
    if features is not None:
        score = "" if record.score is None else f"{record.score:.9g}"
        shown = UNDECIDED if found is None else found
        features.parent.mkdir(parents=True, exist_ok=True)
        features.write_text(f"score,probability\n{score},{shown:.6f}\n")
    for told in _remarks(record):
        click.echo(visible(told), err=True)
    if record.score is None:
        click.echo(visible(f"no score ({record.status}): {record.reason}"), err=True)
        return ExitCode.INCOMPLETE
    if found is None:
        click.echo(f"score {record.score:.9g}, and no cut to put one half at: {INSTEAD}", err=True)
        return ExitCode.INCOMPLETE
    click.echo(f"score {record.score:.9g}, probability {found:.6f}", err=True)
    return ExitCode.DONE


def _remarks(record: ScanRecord) -> list[str]:
    """What the result file has no place for: how the model does on its images, and all doubts."""
    from moth_eval.scan_doubts import doubts_of, wrong_examples

    told = [f"doubt: {doubt}" for doubt in [wrong_examples(record), *doubts_of(record)] if doubt]
    if record.clean_accuracy is not None:
        told.insert(
            0, f"{record.clean_accuracy:.1%} of {record.examples} images classified rightly"
        )
    return told
