from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision import datasets

import moth_eval.hardeners
from attacks.patch import Patch
from benchmarks.harden_plan import plan as harden_plan
from benchmarks.reactivation import Reactivation
from benchmarks.removal import (
    RemovalPlan,
    RemovalStudy,
    plan,
    with_control,
    with_truth,
)
from benchmarks.removal_cells import RemovalCell, _Bench, remove
from benchmarks.removal_measure import chosen_by_oracle, removal_test
from benchmarks.removal_models import find_attacked, read_trigger
from benchmarks.supervisor import Place
from moth_eval.errors import InputError
from moth_eval.hardening_cells import CellOutcome
from moth_eval.hardening_records import CARD, HardeningCard, read_record
from moth_eval.loading.sources import TorchvisionSet
from moth_eval.removal_records import (
    BeforeRecord,
    RatesRecord,
    RemovalCard,
    oracle_of,
    without_truth,
)
from moth_eval.subject import Examples, Subject
from tests.support import attacked
from tests.support.attacked import (
    ARCH,
    PATCH_RECORD,
    PER_CLASS,
    TARGET,
    write_attacked,
    write_model,
)
from tests.support.removal_runs import variant
from tests.support.subjects import prototype_subject
from tests.support.torchvision_sets import Squares


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_attacked(tmp_path_factory.mktemp("attacked"))


@pytest.fixture(autouse=True)
def methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """The methods whose effect is known, in the table."""
    table = dict(moth_eval.hardeners.HARDENERS)
    table |= {name: f"tests.support.attacked:{kind.__name__}"
              for name, kind in attacked.METHODS.items()}  # fmt: skip
    monkeypatch.setattr(moth_eval.hardeners, "HARDENERS", table)
    monkeypatch.setattr("benchmarks.harden_plan.HARDENERS", table)


def planned(folder: Path, run: Path, *methods: str, **more: object) -> RemovalPlan:
    study = RemovalStudy(
        models=folder / "models",
        data=folder / "data.npz",
        test=folder / "test.npz",
        run=run,
        methods=methods,
        seeds=(0,),
        clean_share=0.5,
        architecture=ARCH,
        device="cpu",
    )
    return plan(replace(study, **more))  # type: ignore[arg-type]


def cell_of(made: RemovalPlan, method: str, model: str = "bad") -> RemovalCell:
    [cell] = [c for c in made.cells if (c.model, c.method) == (model, method)]
    return cell


def done(cell: RemovalCell) -> RemovalCard:
    """The card that a cell leaves when it is carried out here."""
    outcome = remove(cell, Place(), lambda *told: None)
    assert outcome is None, outcome
    card = cell.state.card
    assert card is not None
    return card


def ended(cell: RemovalCell) -> CellOutcome:
    """How a cell ends that leaves no card."""
    outcome = remove(cell, Place(), lambda *told: None)
    assert outcome is not None
    return outcome


def test_a_repair_is_measured_on_stamped_images_of_other_classes_than_the_target(
    folder: Path, tmp_path: Path
) -> None:
    card = done(cell_of(planned(folder, tmp_path / "run", "wipe"), "wipe"))
    before, [after] = card.before, card.variants
    assert before.tested == 5 * PER_CLASS
    assert before.victims == 4 * PER_CLASS  # the target's images have nowhere to be moved to
    assert before.rates.asr is not None
    assert before.rates.asr > 0.95
    assert after.rates.asr is not None
    assert after.rates.ra is not None
    # With the target's images among them no rate could be below one fifth.
    assert after.rates.asr < 0.1
    assert after.rates.ra > 0.9
    assert after.der == pytest.approx(0.5 + (before.rates.asr - after.rates.asr) / 2, abs=0.02)
    assert card.images_used == 5 * PER_CLASS // 2


def test_accuracy_is_of_all_classes_so_a_forgotten_target_class_shows(
    folder: Path, tmp_path: Path
) -> None:
    card = done(cell_of(planned(folder, tmp_path / "run", "forgetful"), "forgetful"))
    [after] = card.variants
    assert after.rates.asr == 0
    assert after.rates.accuracy == pytest.approx(0.8, abs=0.02)
    assert card.before.rates.accuracy > 0.95


def test_a_clean_model_of_the_same_task_gives_the_floor(folder: Path, tmp_path: Path) -> None:
    card = done(cell_of(planned(folder, tmp_path / "run", "wipe"), "wipe"))
    assert card.before.floor is not None
    assert card.before.floor.model == "clean"
    assert card.before.floor.rates.asr is not None
    assert card.before.floor.rates.asr < 0.1


def test_a_clean_control_has_an_accuracy_and_no_success_rate(folder: Path, tmp_path: Path) -> None:
    card = done(cell_of(planned(folder, tmp_path / "run", "wipe"), "wipe", "clean"))
    [after] = card.variants
    assert (card.before.rates.asr, after.rates.asr, after.rates.ra, after.der) == (None,) * 4
    assert after.rates.accuracy > 0.95


def test_what_is_measured_is_the_file_that_was_saved(folder: Path, tmp_path: Path) -> None:
    # The network that this method returns hides the patch; the weights that it leaves do not.
    card = done(cell_of(planned(folder, tmp_path / "run", "pretend"), "pretend"))
    [after] = card.variants
    assert after.rates.asr == card.before.rates.asr


def test_test_images_among_the_clean_ones_are_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="150 of 150 test images are, pixel by pixel, among"):
        planned(folder, tmp_path / "run", "wipe", test=folder / "data.npz")
    assert not (tmp_path / "run").exists()
    # Each cell looks again at what it reads itself.
    cell = cell_of(planned(folder, tmp_path / "run", "wipe"), "wipe")
    study = replace(cell.study, test=folder / "data.npz")
    outcome = ended(replace(cell, cell=replace(cell.cell, study=study)))
    assert outcome.status == "failed"
    assert "75 of 150 test images are, pixel by pixel, among the clean images" in outcome.reason


def test_a_data_set_of_torchvision_is_taken_as_it_is_although_parts_share_images(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can take an image out of it; CIFAR-10 itself has images twice."""
    monkeypatch.setattr(datasets, "Squares", Squares, raising=False)
    root = tmp_path / "squares"
    root.mkdir()
    shutil.copy(folder / "data.npz", root / "train.npz")
    shutil.copy(folder / "data.npz", root / "test.npz")
    data = TorchvisionSet(name="Squares", folder=root, training=True)
    plan = planned(folder, tmp_path / "run", "wipe", data=data, test=replace(data, training=False))
    card = done(cell_of(plan, "wipe"))
    assert card.before.tested == 150


def test_a_backdoor_that_did_not_take_is_not_scored_and_nothing_is_trained(
    folder: Path, tmp_path: Path
) -> None:
    weak = write_attacked(tmp_path / "weak", names=())
    write_model(weak / "models" / "weak", target=None, record=attacked.PATCH_RECORD)
    cell = cell_of(planned(weak, tmp_path / "run", "spy"), "spy", "weak")
    outcome = ended(cell)
    assert outcome.status == "not-implanted"
    assert outcome.reason.startswith("ASR of the original is ")
    assert outcome.reason.endswith("below 50% there is nothing to remove")
    assert not cell.study.run.exists()


def test_a_model_that_its_own_gate_refused_is_never_opened(folder: Path, tmp_path: Path) -> None:
    from benchmarks.removal import carry_out

    refused = write_attacked(tmp_path / "refused", names=())
    gate = {
        "passed": False, "failure": "ASR too low", "clean_accuracy": 0.9, "asr": 0.2, "tested": 9,
        "victims": 8, "least_clean_accuracy": 0.9, "most_accuracy_loss": 1.0, "least_asr": 0.9,
        "most_bystander_asr": 0.1, "most_twin_asr": 1.0,
    }  # fmt: skip
    record = {**attacked.PATCH_RECORD, "gate": gate}
    write_model(refused / "models" / "weak", target=TARGET, record=record)
    made = planned(refused, tmp_path / "run", "spy")
    study = RemovalStudy(models=refused, data=refused, run=tmp_path / "run")
    states = carry_out(made, study, tell=lambda *told: None, on_end=lambda state: None)
    assert {(s.status, s.reason) for s in states} == {
        ("not-implanted", "its own gate refused the model: ASR too low")
    }


def test_a_method_is_given_no_ground_truth(folder: Path, tmp_path: Path) -> None:
    cell = cell_of(planned(folder, tmp_path / "run", "spy"), "spy")
    assert remove(cell, Place(), lambda *told: None) is None
    assert cell.state.reason == (
        "model 75 ['architecture', 'doubts', 'examples', 'image_shape', 'module', 'name', "
        "'num_classes', 'preprocessing', 'sha256']"
    )
    told = json.dumps([str(value) for value in vars(cell.study).values()])
    assert not [word for word in ("attack.json", "patch", "Patch", "target") if word in told]


def test_all_methods_of_a_seed_are_given_the_same_images(folder: Path, tmp_path: Path) -> None:
    made = planned(folder, tmp_path / "run", "wipe", "forgetful", seeds=(0, 1))
    drawn = {
        (c.method, c.study.seed): done(c).training_sha256
        for c in made.cells
        if c.model == "bad" and c.method != "fine-tuning"
    }
    assert drawn["wipe", 0] == drawn["forgetful", 0] != drawn["wipe", 1]


def test_candidates_are_not_chosen_among_by_what_is_tested(folder: Path, tmp_path: Path) -> None:
    # One of the candidates is free of the backdoor; without an oracle nobody may know which.
    cell = cell_of(planned(folder, tmp_path / "run", "sweep"), "sweep")
    card = done(cell)
    own, teacher = card.variants
    assert (own.name, own.oracle, teacher.name, teacher.oracle) == ("", "", "teacher", "")
    assert own.rates.asr is not None
    assert own.rates.asr > 0.9
    assert teacher.rates.asr is not None
    assert teacher.rates.asr < 0.2
    kept = {path.name for path in (cell.study.run / "variants").iterdir()}
    assert Path(teacher.file).name in kept
    assert len([name for name in kept if name.endswith(".safetensors")]) == 1


def test_an_oracle_chooses_the_lowest_success_rate_that_keeps_accuracy_and_is_labelled(
    folder: Path, tmp_path: Path
) -> None:
    spec = "sweep:selection=oracle"
    made = planned(folder, tmp_path / "run", spec)
    card = done(cell_of(made, spec))
    own, teacher = card.variants
    assert (own.name, own.oracle, own.file) == ("", "selection", "variants/2.safetensors")
    assert own.rates.asr is not None
    assert own.rates.asr < 0.1
    assert own.rates.accuracy > 0.9  # the ruined candidate has an ASR of 0 as well
    assert teacher.oracle == ""
    outcome = ended(cell_of(made, spec, "clean"))
    assert outcome.status == "inapplicable"


def test_an_oracle_without_a_candidate_that_still_classifies_fails(
    folder: Path, tmp_path: Path
) -> None:
    spec = "sweep:selection=oracle,broken=true"
    outcome = ended(cell_of(planned(folder, tmp_path / "run", spec), spec))
    assert outcome.status == "failed"
    assert "none of 1 candidates keeps 90 % of the accuracy" in outcome.reason


def test_the_fall_of_accuracy_that_an_oracle_accepts_is_relative() -> None:
    before = RatesRecord(accuracy=0.8, asr=0.9, ra=0.1)
    rows = [variant(0.73, 0.3, 0.5), variant(0.72, 0.2, 0.5), variant(0.71, 0.1, 0.5)]
    assert chosen_by_oracle(rows, before) == rows[1]
    assert chosen_by_oracle(rows[2:], before) is None


def test_the_true_target_is_filled_in_by_the_study_and_labelled(
    folder: Path, tmp_path: Path
) -> None:
    spec = "sweep:target=truth"
    made = planned(folder, tmp_path / "run", spec)
    card = done(cell_of(made, spec))
    assert card.figures == {"target": TARGET}
    assert [row.oracle for row in card.variants] == ["target", "target"]
    assert made.manifest.methods[spec]["target"] is None
    assert ended(cell_of(made, spec, "clean")).status == "inapplicable"


def test_an_all_to_all_attack_has_no_target_to_be_told_of(folder: Path, tmp_path: Path) -> None:
    models = shutil.copytree(folder, tmp_path / "copy")
    path = models / "models" / "bad" / "attack.json"
    record = json.loads(path.read_text())
    record["parameters"] = {**record["parameters"], "all_to_all": True}
    path.write_text(json.dumps(record))
    spec = "sweep:target=truth"
    made = planned(models, tmp_path / "run", spec)
    [entry] = [one for one in made.manifest.entries if one.name == "bad"]
    assert (entry.threat, entry.target) == ("all-to-all", None)
    cell = cell_of(made, spec)
    before = BeforeRecord(
        sha256="", rates=RatesRecord(accuracy=1, asr=1, ra=0), tested=1, victims=1, floor=None
    )
    bench = _Bench(cell=cell, plan=harden_plan(cell.study), trigger=read_trigger(path.parent))
    assert bench.unscored(before) == (
        "inapplicable", "an all-to-all attack has no single target to be told of",
    )  # fmt: skip


def test_attacks_are_not_stamped_on_images_of_other_channels() -> None:
    grey = Examples(images=torch.rand(6, 1, 12, 12), labels=torch.arange(6) % 3)
    with pytest.raises(InputError, match="images of 3 channels, those of the model have 1"):
        removal_test(grey, Patch(target=0, size=3), 3)
    assert removal_test(grey, None, 3).victims == 0


class TwoOutputs(torch.nn.Module):
    """A network that has a further output while it is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3 * 12 * 12, 5)

    def forward(self, images: torch.Tensor) -> object:
        logits = self.fc(images.flatten(1))
        return (logits, logits) if self.training else logits


def test_the_check_trains_by_the_first_of_several_outputs() -> None:
    images = torch.rand(20, 3, 12, 12)
    subject = Subject(
        name="two", module=TwoOutputs().eval(), num_classes=5, image_shape=(3, 12, 12),
        examples=Examples(images=images, labels=torch.arange(20) % 5),
    )  # fmt: skip
    trigger = Patch(target=TARGET, size=3, row=8, column=8)
    done = Reactivation(epochs=1).attempt(subject, subject.examples, trigger, seed=0)
    assert done.logits(images).shape == (20, 5)


def test_a_backdoor_that_comes_back_with_five_images_shows(folder: Path, tmp_path: Path) -> None:
    check = Reactivation(images=5, epochs=60, learning_rate=0.1)
    made = planned(folder, tmp_path / "run", "wipe:strength=0.9", reactivation=check)
    card = done(cell_of(made, "wipe:strength=0.9"))
    [after] = card.variants
    assert after.reactivated is not None
    assert after.reactivated.asr is not None
    assert after.rates.asr is not None
    assert after.reactivated.asr > after.rates.asr + 0.3
    assert card.before.floor is not None
    assert card.before.floor.reactivated is not None
    assert made.manifest.reactivation.model_dump() == {
        "images": 5, "epochs": 60, "batch_size": 128, "learning_rate": 0.1, "momentum": 0.9,
    }  # fmt: skip


def test_the_check_leaves_the_repaired_model_and_random_numbers_alone() -> None:
    subject = prototype_subject(seed=0)
    before = {k: v.clone() for k, v in subject.module.state_dict().items()}
    state = torch.get_rng_state()
    trigger = Patch(target=TARGET, size=3, row=8, column=8)
    check = Reactivation(epochs=1)
    twice = [check.attempt(subject, subject.examples, trigger, seed=0) for _ in range(2)]
    after = subject.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(state, torch.get_rng_state())
    assert not subject.module.training
    first, second = (one.module.state_dict() for one in twice)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_too_few_images_for_the_check_are_named() -> None:
    subject = prototype_subject(seed=0, per_class=1)
    trigger = Patch(target=TARGET, size=3, row=8, column=8)
    with pytest.raises(InputError, match=r"needs 5 images .* hold 4: use a larger --clean-share"):
        Reactivation().attempt(subject, subject.examples, trigger, seed=0)


def test_a_repair_is_measured_where_there_are_too_few_images_for_the_check(
    folder: Path, tmp_path: Path
) -> None:
    check = Reactivation(images=500, epochs=1)
    card = done(cell_of(planned(folder, tmp_path / "run", "wipe", reactivation=check), "wipe"))
    assert card.variants[0].rates.asr is not None
    assert card.variants[0].reactivated is None
    assert card.before.floor is not None
    assert card.before.floor.reactivated is None
    assert any("re-activation needs 500 images" in note for note in card.notes)


def test_seeds_with_the_same_images_have_floors_of_their_own(folder: Path, tmp_path: Path) -> None:
    check = Reactivation(images=1, epochs=1)
    made = planned(
        folder, tmp_path / "run", "wipe", reactivation=check, seeds=(0, 1), clean_share=1.0
    )
    cells = [c for c in made.cells if (c.model, c.method) == ("bad", "wipe")]
    cards = [done(cell) for cell in cells]
    assert cards[0].training_sha256 == cards[1].training_sha256
    assert len(list((tmp_path / "run" / "originals").glob("*.json"))) == 2


def test_a_cell_that_was_stopped_before_it_was_measured_is_not_trained_again(
    folder: Path, tmp_path: Path
) -> None:
    cell = cell_of(planned(folder, tmp_path / "run", "sweep"), "sweep")
    card = done(cell)
    (cell.study.run / "removal.json").unlink()
    assert cell.state.status == "pending"
    weights = cell.study.run / "model.safetensors"
    written = weights.stat().st_mtime_ns
    # Candidates that nobody needs any more are gone; what is left is measured as before.
    assert done(cell).variants == card.variants
    assert weights.stat().st_mtime_ns == written


def test_a_repaired_model_that_was_altered_is_not_measured(folder: Path, tmp_path: Path) -> None:
    cell = cell_of(planned(folder, tmp_path / "run", "sweep"), "sweep")
    card = done(cell)
    (cell.study.run / "removal.json").unlink()
    (cell.study.run / card.variants[1].file).write_bytes(b"other")
    outcome = ended(cell)
    assert (outcome.status, "was altered since" in outcome.reason) == ("failed", True)


def test_the_control_is_always_compared_once() -> None:
    assert with_control(("nad", "moth")) == (("fine-tuning", "nad", "moth"), "fine-tuning")
    own = "fine-tuning:epochs=3"
    assert with_control(("nad", own, "nad")) == (("nad", own), own)


@pytest.mark.parametrize(
    ("spec", "plain", "told"),
    [
        ("nc:target=truth", "nc", "nc:target=8"),
        ("nc:a=1,target=truth,b=2", "nc:a=1,b=2", "nc:a=1,b=2,target=8"),
        ("nc:target=3", "nc:target=3", "nc:target=3"),
        ("nc", "nc", "nc"),
    ],
)
def test_only_the_study_knows_the_true_target(spec: str, plain: str, told: str) -> None:
    assert without_truth(spec) == plain
    assert with_truth(spec, 8) == told
    assert oracle_of(spec, {}) == ("target" if "truth" in spec else "")


def test_models_are_found_with_their_records_and_twins(folder: Path, tmp_path: Path) -> None:
    many = write_attacked(tmp_path, names=("bad", "clean"))
    write_model(many / "models" / "bad" / "twin", target=None, record={"attack": "none"})
    record = json.loads((many / "models" / "bad" / "attack.json").read_text())
    (many / "models" / "bad" / "attack.json").write_text(json.dumps({**record, "twin": "twin"}))
    (many / "models" / "notes").mkdir()
    found = {one.model.name: one for one in find_attacked(many / "models", examples=many)}
    # The twin is the same file as the other clean model, and is listed once.
    assert list(found) == ["bad", "clean"]
    assert found["bad"].twin is not None
    assert (found["bad"].attack, found["bad"].threat) == ("patch", "universal")
    assert found["clean"].clean
    (many / "models" / "clean" / "model.safetensors").unlink()
    names = [one.model.name for one in find_attacked(many / "models", examples=many)]
    assert names == ["bad", "bad-twin"]
    [alone] = find_attacked(many / "models" / "bad" / "twin", examples=many)
    assert alone.clean


def test_models_are_read_under_the_normalisation_that_they_were_trained_with(
    tmp_path: Path,
) -> None:
    """Clean images may look alike under two, and stamped ones may not."""
    many = write_attacked(tmp_path, names=("bad",))
    training = {
        "architecture": "", "start": "scratch", "normalisation": "minmax", "recipe": {},
        "epochs": 1, "seed": 0, "seconds": 1.0, "device": "cpu", "versions": {},
    }  # fmt: skip
    record = {**PATCH_RECORD, "training": training, "twin": "twin"}
    write_model(many / "models" / "bad", target=TARGET, record=record)
    write_model(many / "models" / "bad" / "twin", target=None)
    found = {one.model.name: one.model for one in find_attacked(many / "models", examples=many)}
    assert {name: model.normalisation for name, model in found.items()} == {
        "bad": "minmax", "bad-twin": "minmax",
    }  # fmt: skip
    made = planned(many, tmp_path / "run", "wipe")
    assert {cell.study.normalisation for cell in made.cells} == {"minmax"}
    done(cell_of(made, "wipe"))
    card = read_record(cell_of(made, "wipe").study.run / CARD, HardeningCard)
    assert card.run.normalisation == "minmax"


def test_a_wrong_record_makes_one_model_unusable_and_no_clean_control(
    folder: Path, tmp_path: Path
) -> None:
    many = write_attacked(tmp_path, names=("bad", "clean"))
    write_model(many / "models" / "odd", target=None, record={"attack": "petch", "target": 1})
    found = {one.model.name: one for one in find_attacked(many / "models", examples=many)}
    assert (found["odd"].attack, found["odd"].clean, found["odd"].model.usable) == (
        "unknown", False, False,
    )  # fmt: skip
    assert "petch" in found["odd"].model.problems[0]


def test_what_its_ground_truth_calls_backdoored_is_no_clean_control(tmp_path: Path) -> None:
    """A generated round holds no records: its backdoored models would harm as controls."""
    for number, poisoned in enumerate((False, True)):
        home = tmp_path / "round" / "models" / f"id-0000000{number}"
        write_model(home, target=TARGET if poisoned else None)
        (home / "model.safetensors").rename(home / "model.pt")
        (home / "attack.json").unlink(missing_ok=True)
        (home / "ground_truth.csv").write_text(f"{int(poisoned)}\n")
    for folder in (tmp_path / "round", tmp_path / "round" / "models"):
        found = find_attacked(folder, examples=tmp_path)
        assert [(one.attack, one.clean, one.model.usable) for one in found] == [
            ("none", True, True), ("unknown", False, False),
        ]  # fmt: skip
        assert "ground truth calls it backdoored, and no attack.json" in found[1].model.problems[0]
    [alone] = find_attacked(tmp_path / "round" / "models" / "id-00000001", examples=tmp_path)
    assert not alone.clean


def test_folders_without_models_and_with_two_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no models in .* expected folders with a model"):
        find_attacked(tmp_path, examples=tmp_path)
    folder = write_attacked(tmp_path / "two", names=("bad",)) / "models" / "bad"
    (folder / "other.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"holds 2 models .*expected one per folder"):
        find_attacked(folder, examples=tmp_path)


def test_two_models_of_one_name_are_refused_as_a_run_tells_models_by_name(tmp_path: Path) -> None:
    folder = write_attacked(tmp_path / "twice", names=("bad",)) / "models"
    weights = (folder / "bad" / "model.safetensors").read_bytes()
    (folder / "bad.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=r"two models have the name bad: .*rename one of them"):
        find_attacked(folder, examples=tmp_path)
