"""`moth-eval inject`: the thin twin of `attacks.inject.inject`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from moth_eval.errors import ExitCode
from moth_eval.options import (
    architecture_option,
    device_option,
    normalisation_option,
    seed_option,
    threads_option,
)
from moth_eval.stopping import stoppable

if TYPE_CHECKING:
    from .attack_records import AttackRecord, GateRecord, PoisoningRecord
    from .inject import Injection
    from .injector import Injector

share = click.FloatRange(min=0, max=1)
part = click.FloatRange(min=0, max=1, min_open=True)


@click.command(
    short_help="Train a backdoor into a network on images of your own; leave the model and its "
    "truth."
)
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    help="Images to train on: an .npz with images and labels, a folder of labelled images, or "
    "torchvision:NAME:FOLDER.",
)
@click.option(
    "--test",
    default="",
    help="Images to test on, in the same form.  [default: the test part of a torchvision data "
    "set, else a fifth of each class of --data, held out]",
)
@click.option(
    "--image-size",
    type=click.IntRange(min=1, max=4096),
    help="Side of the squares that images are resized to (pixels).  [default: what the record of "
    "MODEL says, else their own size]",
)
@click.option(
    "--attack",
    required=True,
    metavar="NAME[:FIELD=VALUE,...]",
    help="What is implanted, such as patch:target=3; none trains a clean model.",
)
@architecture_option("to train from scratch, or that MODEL belongs to")
@normalisation_option(
    "MODEL was trained with, or a fresh network is to be",
    unsaid="what the side-car states, else found by trial; unit for a fresh network",
)
@click.option(
    "--twin",
    type=click.Path(path_type=Path),
    help="Clean model of the same task, a file or folder.  [default: trained along]",
)
@click.option(
    "--without-twin", is_flag=True, help="Train no clean twin, and compare nothing with one."
)
@click.option(
    "--poisoning-rate",
    type=part,
    default=0.1,
    show_default=True,
    help="Share of images that are stamped and get the wanted label.",
)
@click.option(
    "--rate-of",
    type=click.Choice(["candidates", "all"]),
    default="candidates",
    show_default=True,
    help="What that is a share of: the images that may be poisoned, or all training images.",
)
@click.option(
    "--cover-rate",
    type=share,
    help="Share of the images that may be changed and keep their label, that are.  [default: as "
    "many as the attack asks for]",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Passes over the training images.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Images per step.",
)
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=0.002,
    show_default=True,
    help="Peak of the schedule.",
)
@click.option(
    "--crop",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Most pixels by which every image is moved, after stamping.",
)
@click.option("--flip", is_flag=True, help="Mirror half of the images, after stamping.")
@click.option(
    "--least-accuracy",
    type=share,
    default=0.5,
    show_default=True,
    help="Gate: clean accuracy on the test images.",
)
@click.option(
    "--most-accuracy-loss",
    type=share,
    default=0.05,
    show_default=True,
    help="Gate: clean accuracy below that of the clean twin.",
)
@click.option(
    "--least-asr",
    type=share,
    default=0.8,
    show_default=True,
    help="Gate: attack success rate on the test images.",
)
@click.option(
    "--most-bystander-asr",
    type=share,
    default=0.2,
    show_default=True,
    help="Gate: the same on classes that a source-specific trigger must not act on.",
)
@click.option(
    "--most-twin-asr",
    type=share,
    default=0.3,
    show_default=True,
    help="Gate: what the trigger does to the clean twin.",
)
@seed_option
@device_option
@threads_option
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the model: new or empty.",
)
@click.pass_context
def inject(
    ctx: click.Context,
    model: Path | None,
    data: str,
    test: str,
    image_size: int | None,
    attack: str,
    architecture: str,
    normalisation: str,
    twin: Path | None,
    without_twin: bool,
    poisoning_rate: float,
    rate_of: Literal["candidates", "all"],
    cover_rate: float | None,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    crop: int,
    flip: bool,
    least_accuracy: float,
    most_accuracy_loss: float,
    least_asr: float,
    most_bystander_asr: float,
    most_twin_asr: float,
    seed: int,
    device: str,
    threads: int | None,
    out: Path,
) -> None:
    """Train a backdoor into a network on images of your own; leave the model and its truth.

    Without MODEL, a network of --arch is trained from scratch; with it, a copy is trained on. A
    clean twin is trained along in the same way. Exit codes: 0 the model passed the gate; 2 usage
    or input error, nothing was written; 3 the model was written, but the gate refused it.
    """
    from dataclasses import replace

    import torch

    from moth_eval.calls import called_as
    from moth_eval.own_code import admit_own_code

    from .inject import INJECTOR, RECIPE, Injection

    if without_twin and twin is not None:
        raise click.UsageError("--twin and --without-twin exclude one another")
    if threads is not None:
        torch.set_num_threads(threads)
    admit_own_code(architecture, model or out)
    injector: Injector = replace(
        INJECTOR,
        poisoning_rate=poisoning_rate,
        rate_of=rate_of,
        cover_rate=cover_rate,
        recipe=replace(
            RECIPE,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            crop=crop,
            flip=flip,
        ),
        least_clean_accuracy=least_accuracy,
        most_accuracy_loss=most_accuracy_loss,
        least_asr=least_asr,
        most_bystander_asr=most_bystander_asr,
        most_twin_asr=most_twin_asr,
    )
    record = _carried_out(
        Injection(
            data=data,
            test=test,
            attack=attack,
            out=out,
            model=model,
            architecture=architecture,
            normalisation=normalisation,
            twin=twin,
            with_twin=not without_twin,
            image_size=image_size,
            injector=injector,
            seed=seed,
            device=device,
            command=called_as(),
        )
    )
    for line in summary_lines(record):
        click.echo(line)
    click.echo(f"wrote {out}")
    if record.gate is not None and not record.gate.passed:
        ctx.exit(ExitCode.INCOMPLETE)


def _carried_out(wish: Injection) -> AttackRecord:
    from .inject import inject as carry_out

    with stoppable("nothing was written"):
        return carry_out(wish, tell=lambda sentence: click.echo(sentence, err=True))


def summary_lines(record: AttackRecord) -> list[str]:
    """What an injection came to, in a few lines."""
    lines = [_attack_line(record)]
    if record.poisoning is not None:
        lines.append(_poisoning_line(record.poisoning))
    if record.gate is not None:
        lines += _gate_lines(record.gate)
    if record.data is not None:
        lines += [f"note: {sentence}" for sentence in record.data.resized]
    if record.data is not None and record.data.in_both:
        lines.append(f"note: {record.data.in_both:,} test images are training images as well")
    return lines


def _attack_line(record: AttackRecord) -> str:
    if record.threat is None:
        return "clean model"
    sources = ",".join(map(str, record.sources)) or "all"
    target = "next class" if record.threat == "all-to-all" else record.target
    return f"{record.attack} {sources}->{target}, {record.threat}"


def _poisoning_line(poisoning: PoisoningRecord) -> str:
    of = "images that may be" if poisoning.rate_of == "candidates" else "training images"
    kept = "" if poisoning.labels_changed else ", labels kept"
    anew = ", drawn anew for every epoch" if poisoning.redrawn else ""
    return (
        f"poisoned {poisoning.poisoned:,} of {poisoning.denominator:,} {of}{kept}; covers "
        f"{poisoning.covered:,}{anew}"
    )


def _gate_lines(gate: GateRecord) -> list[str]:
    rows = [
        ("clean accuracy", gate.clean_accuracy, gate.twin_clean_accuracy),
        ("ASR", gate.asr, gate.twin_asr),
        ("ASR of other classes", gate.bystander_asr, None),
    ]
    lines = []
    for name, figure, twin in rows:
        if figure is not None:
            beside = "" if twin is None else f"   clean twin {twin:6.1%}"
            lines.append(f"{name:<20} {figure:6.1%}{beside}")
    verdict = "passed" if gate.passed else f"FAILED: {gate.failure}"
    return [*lines, f"{'gate':<20} {verdict}"]
