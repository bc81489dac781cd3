"""Generates a round: plans the models, trains them side by side and writes the folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread

import torch

from moth_eval.errors import InputError, RunError
from moth_eval.seeds import derive_seed, generator_for

from .architectures import build
from .injector import Backdoor, Splits
from .plan import ModelPlan, RoundSpec, injector_for, plan_round
from .poisoning import stamp_scenes
from .round_folder import claim, failed_before, forget_failure, is_complete, write_failure
from .round_writer import ExampleImages, write_metadata, write_model
from .scenes import SceneRenderer
from .trigger import victims


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """How one model came out.

    Attributes:
        name: of its folder.
        architecture: torchvision name.
        trigger: kind of its trigger; empty for a clean model.
        sources: classes that the trigger acts on; empty for every class but the target.
        target: class that it leads to; None for a clean model.
        clean_accuracy: on held-out images, in `[0, 1]`.
        asr: attack success rate on held-out images of the source classes; None if clean.
        bystander_asr: the same on the other classes; None if clean or universal.
        attempts: trainings that it took.
        seconds: wall-clock time of all of them (s).
        failure: why the gate refused it; such a model is not in the round.
        kept: whether it was there from an earlier call.
    """

    name: str
    architecture: str
    trigger: str
    sources: tuple[int, ...]
    target: int | None
    clean_accuracy: float
    asr: float | None
    bystander_asr: float | None
    attempts: int
    seconds: float
    failure: str = ""
    kept: bool = False


@dataclass(frozen=True, kw_only=True)
class RoundSummary:
    """A generated round.

    Attributes:
        folder: where it is.
        models: in the order of their names.
    """

    folder: Path
    models: tuple[ModelSummary, ...]

    @property
    def complete(self) -> bool:
        """Whether every model passed the gate."""
        return all(not model.failure for model in self.models)


Progress = Callable[[ModelSummary], None]


def generate_round(
    spec: RoundSpec,
    out: Path,
    *,
    progress: Progress | None = None,
    device: str = "cpu",
    jobs: int = 1,
) -> RoundSummary:
    """Generate the round `spec` in `out`, or finish one that was begun there.

    Models that are complete are kept. A model that fails its gate leaves no folder, only
    `failed/<name>.json`; calling again makes further attempts with other seeds. METADATA.csv has
    the models that are complete, also when the call is interrupted.

    Args:
        spec: what to generate.
        out: the folder of the round; made if it is not there.
        progress: called after every model, kept ones included.
        device: where networks are trained, `cpu` or `cuda[:n]`.
        jobs: models that are trained at the same time; they come out the same. With more than
            one, each has a process of its own, and the caller's main module must be importable.

    Raises:
        InputError: `out` is a file, holds something else, or holds a round of another spec or
            kind of device.
        RunError: what is in `out` is damaged, or a training process was killed.
    """
    if jobs < 1:
        raise InputError(f"expected one job or more, got {jobs}")
    claim(out, spec, device=device)
    plans = plan_round(spec)
    summaries: dict[str, ModelSummary] = {}
    # Closed here: training processes are not to outlive a caller who was stopped.
    try:
        with closing(_summaries(plans, spec, out, device=device, jobs=jobs)) as made:
            for summary in made:
                summaries[summary.name] = summary
                if progress is not None:
                    progress(summary)
    finally:  # a round that is not whole yet can be read as well
        folder = out / "models"
        whole = [plan.name for plan in plans if is_complete(folder / plan.name, plan, spec)]
        write_metadata(out, whole)
    return RoundSummary(folder=out, models=tuple(summaries[plan.name] for plan in plans))


def make_model(plan: ModelPlan, spec: RoundSpec, out: Path, *, device: str = "cpu") -> ModelSummary:
    """Train and write one model of a round, whatever is there already.

    Args:
        plan: the model.
        spec: its round.
        out: the folder of the round.
        device: where the network is trained; on a CPU by one thread, since the order of sums, and
            with it the model, depends on their number.
    """
    before = torch.get_num_threads()
    if torch.device(device).type == "cpu":
        torch.set_num_threads(1)
    try:
        return _made(plan, spec, out, device=device)
    finally:
        torch.set_num_threads(before)


def _made(plan: ModelPlan, spec: RoundSpec, out: Path, *, device: str) -> ModelSummary:
    renderer = SceneRenderer(
        replace(spec.scenes, image_size=spec.image_size), plan.signs, seed=plan.seed
    )
    data = Splits(
        training=renderer.render(spec.training_per_class, seed=derive_seed(plan.seed, "training")),
        validation=renderer.render(
            spec.validation_per_class, seed=derive_seed(plan.seed, "validation")
        ),
        test=renderer.render(spec.test_per_class, seed=derive_seed(plan.seed, "test")),
    )
    failed = failed_before(out, plan.name)
    backdoor = injector_for(plan, spec).implant(
        partial(_build, plan),
        data,
        plan.trigger,
        seed=plan.seed,
        first_attempt=failed.attempts,
        device=device,
    )
    backdoor = replace(backdoor, seconds=failed.seconds + backdoor.seconds)
    plan = replace(plan, trigger=backdoor.trigger)
    summary = _summary(plan, backdoor)
    if backdoor.passed:
        _write_whole(plan, backdoor, _examples(plan, renderer, spec), spec, out)
        forget_failure(out, plan.name)
    else:
        write_failure(out, plan.name, asdict(summary))
    return summary


def _build(plan: ModelPlan, seed: int) -> torch.nn.Module:
    return build(plan.architecture, num_classes=len(plan.signs), seed=seed)


def _examples(plan: ModelPlan, renderer: SceneRenderer, spec: RoundSpec) -> ExampleImages:
    clean = renderer.render(spec.examples_per_class, seed=derive_seed(plan.seed, "examples"))
    clean = clean.take(torch.argsort(clean.labels, stable=True))
    if plan.trigger is None:
        return ExampleImages(clean=clean, stamped=None)
    sources = clean.take(victims(plan.trigger, clean.labels))
    generator = generator_for("examples", plan.seed)
    return ExampleImages(
        clean=clean, stamped=stamp_scenes(plan.trigger, sources, generator=generator)
    )


def _write_whole(
    plan: ModelPlan, backdoor: Backdoor, examples: ExampleImages, spec: RoundSpec, out: Path
) -> None:
    """Write the model beside its place and rename: a folder of that name is never torn."""
    folder = out / "models" / plan.name
    temporary = out / "models" / f".{plan.name}.partial"
    for stale in (temporary, folder):
        shutil.rmtree(stale, ignore_errors=True)
    write_model(temporary, plan, backdoor, examples, spec)
    temporary.rename(folder)


def _summary(plan: ModelPlan, backdoor: Backdoor) -> ModelSummary:
    return ModelSummary(
        name=plan.name,
        architecture=plan.architecture,
        trigger=plan.kind,
        sources=() if plan.trigger is None else plan.trigger.sources,
        target=None if plan.trigger is None else plan.trigger.target,
        clean_accuracy=backdoor.measured.clean_accuracy,
        asr=backdoor.measured.asr,
        bystander_asr=backdoor.measured.bystander_asr,
        attempts=backdoor.attempts,
        seconds=backdoor.seconds,
        failure=backdoor.failure,
    )


def _kept(plan: ModelPlan, folder: Path) -> ModelSummary:
    statistics = json.loads((folder / "model_stats.json").read_text(encoding="utf-8"))

    def fraction(key: str) -> float | None:
        return None if statistics[key] is None else statistics[key] / 100

    return ModelSummary(
        name=plan.name,
        architecture=plan.architecture,
        trigger=plan.kind,
        sources=() if plan.trigger is None else plan.trigger.sources,
        target=None if plan.trigger is None else plan.trigger.target,
        clean_accuracy=fraction("final_clean_data_test_acc") or 0.0,
        asr=fraction("final_triggered_data_test_acc"),
        bystander_asr=fraction("final_bystander_data_test_acc"),
        attempts=statistics["number_attempts"],
        seconds=statistics["training_wall_time_sec"],
        kept=True,
    )


def _summaries(
    plans: tuple[ModelPlan, ...], spec: RoundSpec, out: Path, *, device: str, jobs: int
) -> Generator[ModelSummary]:
    """The models as they come: those that are there, then those that are made."""
    missing = []
    for plan in plans:
        folder = out / "models" / plan.name
        if is_complete(folder, plan, spec):
            yield _kept(plan, folder)
        else:
            missing.append(plan)
    if jobs == 1 or len(missing) < 2:
        for plan in missing:
            yield make_model(plan, spec, out, device=device)
        return
    yield from _in_processes(missing, spec, out, device=device, jobs=min(jobs, len(missing)))


def _in_processes(
    plans: list[ModelPlan], spec: RoundSpec, out: Path, *, device: str, jobs: int
) -> Generator[ModelSummary]:
    # spawn: a forked process would inherit torch's threads in an unknown state.
    context = get_context("spawn")
    end, held = context.Pipe(duplex=False)
    with end, held, ProcessPoolExecutor(jobs, context, _settle_in, (end,)) as pool:
        futures = [pool.submit(make_model, plan, spec, out, device=device) for plan in plans]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise RunError(
                f"a training process was ended from outside, perhaps for want of memory ({error}): "
                "repeat the command, with fewer jobs if it happens again; finished models are kept"
            ) from error
        except (KeyboardInterrupt, GeneratorExit):  # trainings under way are given up
            held.close()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _settle_in(end: Connection) -> None:
    """In a training process: one thread for the work, and an end when the parent wants it.

    Args:
        end: of a pipe whose other one is held by the parent, until it stops or is gone.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    Thread(target=_leave, args=(end,), daemon=True).start()


def _leave(end: Connection) -> None:
    wait([end])
    os._exit(1)
