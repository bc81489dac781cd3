from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from moth_eval.errors import RoundError
from moth_eval.loading import rounds
from moth_eval.loading.ground_truth import ROUND_1_ERRATA
from moth_eval.loading.rounds import Round, RoundModel, read_round
from moth_eval.records import Truth
from tests.support.round_folders import (
    round_1_model,
    round_2_model,
    round_3_model,
    round_4_model,
    round_11_model,
    write_config,
    write_ground_truth,
    write_image,
    write_metadata,
    write_model,
    write_named_examples,
)


def only(found: Round) -> RoundModel:
    assert len(found.models) == 1
    return found.models[0]


def test_rounds_0_and_1_are_whole_images_without_config(tmp_path: Path) -> None:
    round_1_model(tmp_path, 1, poisoned=True)
    round_1_model(tmp_path, 0, poisoned=False)
    found = read_round(tmp_path)
    assert found.layout == "trojai-0-1"
    assert [model.name for model in found.models] == ["id-00000000", "id-00000001"]
    assert found.models[0].examples == tmp_path / "id-00000000" / "example_data"
    assert found.models[0].file == tmp_path / "id-00000000" / "model.pt"
    assert found.models[0].crop is None
    assert found.truth == {
        "id-00000000": Truth(poisoned=False),
        "id-00000001": Truth(poisoned=True),
    }


def test_rounds_0_and_1_take_architecture_and_classes_from_metadata(tmp_path: Path) -> None:
    round_1_model(tmp_path, 0, poisoned=True)
    write_metadata(
        tmp_path,
        {
            "model_name": "id-00000000",
            "ground_truth": "TRUE",
            "img_size": 224,
            "number_classes": 5,
            "model_architecture": "inceptionv3",
            "triggered_classes": "[0 1 2 3 4]",
            "trigger_color": "[99 169 73]",
            "trigger_target_class": 2,
        },
    )
    found = read_round(tmp_path)
    assert (only(found).architecture, only(found).num_classes) == ("inceptionv3", 5)
    assert found.truth["id-00000000"] == Truth(poisoned=True, trigger_type="polygon", targets=(2,))
    assert found.notes == ()


def test_round_2_is_cropped_to_224_and_states_its_trigger(tmp_path: Path) -> None:
    round_2_model(tmp_path / "models", 0, poisoned=True)
    found = read_round(tmp_path)
    model = only(found)
    assert (model.layout, model.crop, model.num_classes) == ("trojai-2", 224, 6)
    assert model.architecture == "resnet18"
    assert found.truth[model.name] == Truth(
        poisoned=True, trigger_type="polygon", targets=(4,), sources=(0, 3)
    )


def test_round_2_on_the_server_is_known_by_the_size_of_its_images(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "id-00000003"
    write_model(folder)
    write_named_examples(folder / "example_data", side=256)
    write_ground_truth(tmp_path / "groundtruth" / "id-00000003", True)
    found = read_round(tmp_path)
    assert (only(found).layout, only(found).crop) == ("trojai-2", 224)
    assert found.truth == {"id-00000003": Truth(poisoned=True)}


def test_small_generated_rounds_are_cropped_as_their_config_says(tmp_path: Path) -> None:
    folder = round_2_model(tmp_path, 0, poisoned=False)
    shutil.rmtree(folder / "example_data")
    write_named_examples(folder / "example_data", side=72)
    config = json.loads((folder / "config.json").read_text())
    for cnn_side, crop in ((64, 64), (72, None), (224, None)):
        write_config(folder, config | {"IMG_SIZE_PIXELS": 72, "CNN_IMG_SIZE_PIXELS": cnn_side})
        assert only(read_round(tmp_path)).crop == crop


def test_round_3_reads_the_clean_folder_not_the_poisoned_one(tmp_path: Path) -> None:
    round_3_model(tmp_path, 0, poisoned=True)
    found = read_round(tmp_path)
    model = only(found)
    assert (model.layout, model.crop, model.architecture) == ("trojai-3", 224, "densenet121")
    assert model.examples == tmp_path / "id-00000000" / "clean_example_data"
    assert found.truth[model.name] == Truth(
        poisoned=True, trigger_type="instagram", targets=(5,), sources=(1, 2)
    )


def test_round_4_states_two_triggers(tmp_path: Path) -> None:
    round_4_model(tmp_path, 0)
    found = read_round(tmp_path)
    assert (only(found).layout, only(found).crop) == ("trojai-4", 224)
    assert found.truth["id-00000000"] == Truth(
        poisoned=True, trigger_type="polygon", targets=(8, 2), sources=(3, 11)
    )


def test_round_11_is_not_cropped_and_loses_its_task_prefix(tmp_path: Path) -> None:
    round_11_model(tmp_path / "models", 0, poisoned=True)
    round_11_model(tmp_path / "models", 1, poisoned=False)
    found = read_round(tmp_path)
    assert [model.layout for model in found.models] == ["trojai-11"] * 2
    assert {(m.architecture, m.num_classes, m.crop) for m in found.models} == {
        ("mobilenet_v2", 118, None)
    }
    assert [found.truth[model.name].poisoned for model in found.models] == [True, False]


def test_the_real_round_11_folder_is_read_completely(shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "id-00000002"
    shutil.copytree(shared / "trojai" / "round11-id-00000002", folder)
    folder.chmod(0o755)
    write_model(folder)
    found = read_round(tmp_path)
    model = only(found)
    assert (model.layout, model.architecture) == ("trojai-11", "mobilenet_v2")
    assert (model.num_classes, model.crop, model.problems) == (118, None, ())
    assert model.examples == folder / "clean-example-data"
    assert model.metadata["source_dataset"] == "cityscapes"
    assert found.truth == {"id-00000002": Truth(poisoned=False)}
    assert found.notes == ()


def test_mitigation_rounds_are_told_apart_from_round_11(tmp_path: Path) -> None:
    folder = round_11_model(tmp_path, 0, poisoned=True)
    write_image(folder / "test-example-data" / "1.png")
    assert only(read_round(tmp_path)).layout == "trojai-mitigation"
    assert only(read_round(tmp_path)).examples == folder / "clean-example-data"


def test_a_single_model_folder_and_its_model_file_are_the_same_round(tmp_path: Path) -> None:
    folder = round_2_model(tmp_path / "models", 0, poisoned=True)
    round_2_model(tmp_path / "models", 1, poisoned=False)
    by_folder, by_file = read_round(folder), read_round(folder / "model.pt")
    assert by_folder.models == by_file.models
    assert only(by_folder).name == "id-00000000"
    assert by_folder.truth == by_file.truth


def test_no_fact_that_gives_the_answer_away_travels_with_a_model(tmp_path: Path) -> None:
    round_2_model(tmp_path, 0, poisoned=True)
    round_4_model(tmp_path, 1)
    round_11_model(tmp_path, 2, poisoned=True)
    write_metadata(
        tmp_path,
        *(
            {"model_name": f"id-0000000{n}", "poisoned": True, "final_triggered_val_acc": 99.7}
            for n in range(3)
        ),
    )
    for model in read_round(tmp_path).models:
        told = " ".join([*model.metadata, *model.problems]).lower()
        assert not [w for w in ("poison", "trigger", "target", "truth", "final") if w in told]


def test_a_contradiction_is_noted_and_ground_truth_csv_counts(tmp_path: Path) -> None:
    folder = round_2_model(tmp_path, 0, poisoned=True)
    write_ground_truth(folder, False)
    found = read_round(tmp_path)
    assert found.truth["id-00000000"] == Truth(poisoned=False)
    assert found.notes == (
        "id-00000000 is clean by id-00000000/ground_truth.csv, poisoned by config.json: the first "
        "counts",
    )


def test_named_ground_truth_counts_more_than_what_lies_with_the_models(tmp_path: Path) -> None:
    round_1_model(tmp_path / "round", 0, poisoned=False)
    write_ground_truth(tmp_path / "truth" / "id-00000000", True)
    listing = write_metadata(tmp_path, {"model_name": "id-00000000", "poisoned": 1}, name="t.csv")
    for named in (tmp_path / "truth", listing):
        found = read_round(tmp_path / "round", ground_truth=named)
        assert found.truth == {"id-00000000": Truth(poisoned=True)}
        assert len(found.notes) == 1


def test_named_ground_truth_without_these_models_is_an_error(tmp_path: Path) -> None:
    round_1_model(tmp_path / "round", 0, poisoned=False)
    (tmp_path / "truth").mkdir()
    with pytest.raises(RoundError, match="truth names none of the models in"):
        read_round(tmp_path / "round", ground_truth=tmp_path / "truth")


@pytest.mark.parametrize("option", ["examples", "ground_truth"])
def test_named_places_that_do_not_exist_are_an_error(tmp_path: Path, option: str) -> None:
    round_1_model(tmp_path, 0, poisoned=False)
    places = {option: tmp_path / "nowhere"}
    with pytest.raises(RoundError, match=f"nowhere does not exist.*--{option.replace('_', '-')}"):
        read_round(tmp_path, **places)


def test_unreadable_ground_truth_is_left_open_with_a_note(tmp_path: Path) -> None:
    folder = round_1_model(tmp_path, 0, poisoned=False)
    (folder / "ground_truth.csv").write_text("perhaps")
    found = read_round(tmp_path)
    assert found.truth == {}
    assert found.notes[0].startswith("truth of id-00000000 left open: ")
    assert "says 'perhaps'; expected 1 (poisoned) or 0 (clean)" in found.notes[0]


def test_partly_known_truth_and_absent_models_are_noted(tmp_path: Path) -> None:
    for number in range(2):
        (round_1_model(tmp_path, number, poisoned=False) / "ground_truth.csv").unlink()
    names = [f"id-{number:08d}" for number in (0, 5, 6, 7, 8)]
    write_metadata(tmp_path, *({"model_name": name, "poisoned": 0} for name in names))
    assert read_round(tmp_path).notes == (
        "ground truth is known for 1 of 2 models",
        "METADATA.csv lists 4 models that are not here: id-00000005, id-00000006, id-00000007, ...",
    )


def test_a_model_without_file_or_examples_is_kept_with_its_problems(tmp_path: Path) -> None:
    round_1_model(tmp_path, 0, poisoned=False)
    (tmp_path / "id-00000001" / "example_data").mkdir(parents=True)
    (tmp_path / "id-00000002").mkdir()
    (tmp_path / "README.txt").write_text("extra files do no harm")
    good, empty, bare = read_round(tmp_path).models
    assert (good.problems, good.usable) == ((), True)
    assert empty.problems[0] == "no model.pt"
    assert empty.problems[1].startswith("no image in example_data; give clean examples with")
    assert "looked for clean-example-data, clean_example_data, example_data" in bare.problems[1]
    assert not empty.usable
    assert not bare.usable


def test_broken_folders_neither_vanish_nor_decide_on_the_layout(tmp_path: Path) -> None:
    round_2_model(tmp_path, 0, poisoned=False)
    (tmp_path / "id-00000001").symlink_to(tmp_path / "nowhere")
    (tmp_path / "id-00000002" / "model.pt").mkdir(parents=True)
    found = read_round(tmp_path)
    assert found.layout == "trojai-2"
    _, dangling, no_file = found.models
    assert dangling.problems[0].endswith("id-00000001 cannot be read: No such file or directory")
    assert no_file.problems[0] == "model.pt is not a regular file"
    assert found.notes == ("ground truth is known for 1 of 3 models",)


def test_another_model_file_stands_in_for_model_pt_if_it_is_the_only_one(tmp_path: Path) -> None:
    folder = round_1_model(tmp_path, 0, poisoned=False)
    (folder / "model.pt").rename(folder / "weights.safetensors")
    assert only(read_round(tmp_path)).file == folder / "weights.safetensors"
    write_model(folder, "other.pth")
    assert only(read_round(tmp_path)).problems == ("no model.pt",)


def test_a_config_that_is_no_json_is_a_problem_but_the_model_stays_usable(tmp_path: Path) -> None:
    folder = round_2_model(tmp_path, 0, poisoned=True)
    (folder / "config.json").write_text("{")
    model = only(read_round(tmp_path))
    assert model.usable
    assert "config.json is not JSON" in model.problems[0]


def test_an_unbelievable_number_of_classes_counts_as_not_stated(tmp_path: Path) -> None:
    folder = round_2_model(tmp_path, 0, poisoned=False)
    for stated in (999_999_999, 0, -3, "many", None):
        write_config(folder, {"NUMBER_CLASSES": stated})
        assert only(read_round(tmp_path)).num_classes is None


def test_an_object_detector_is_not_usable(tmp_path: Path) -> None:
    folder = round_11_model(tmp_path, 0, poisoned=False)
    write_config(folder, {"model_architecture": "object_detection:ssd", "source_dataset": "coco"})
    model = only(read_round(tmp_path))
    assert not model.usable
    assert model.problems == (
        "its task is object_detection; only image classifiers can be scanned",
    )


@pytest.mark.parametrize("name", ["model.arch.json", "arch.json"])
def test_a_side_car_elsewhere_does_not_decide_on_a_network(name: str, tmp_path: Path) -> None:
    inside = round_2_model(tmp_path / "round", 0, poisoned=False)
    (tmp_path / "elsewhere.json").write_text('{"architecture": "resnet18"}')
    (inside / name).symlink_to(tmp_path / "elsewhere.json")
    model = only(read_round(tmp_path / "round"))
    assert model.problems == (
        f"{name} is a link that leads out of {(tmp_path / 'round').resolve()}; copy the file",
    )
    assert not model.usable


@pytest.mark.parametrize("linked", ["folder", "model.pt", "example_data", "config.json"])
def test_a_link_out_of_the_round_is_a_problem(tmp_path: Path, linked: str) -> None:
    inside = round_2_model(tmp_path / "round", 0, poisoned=False)
    outside = round_2_model(tmp_path / "elsewhere", 0, poisoned=False)
    place = inside if linked == "folder" else inside / linked
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.symlink_to(outside if linked == "folder" else outside / linked)
    model = only(read_round(tmp_path / "round"))
    assert "is a link that leads out of" in model.problems[0]
    assert model.usable == (linked == "config.json")


def test_a_link_within_the_round_is_followed(tmp_path: Path) -> None:
    folder = round_2_model(tmp_path, 0, poisoned=False)
    (folder / "model.pt").rename(tmp_path / "shared.bin")
    (folder / "model.pt").symlink_to(tmp_path / "shared.bin")
    assert only(read_round(tmp_path)).problems == ()


def test_metadata_behind_a_link_out_of_the_round_are_an_error(tmp_path: Path) -> None:
    round_1_model(tmp_path / "round", 0, poisoned=False)
    target = write_metadata(tmp_path, {"model_name": "id-00000000", "poisoned": 1})
    (tmp_path / "round" / "METADATA.csv").symlink_to(target)
    with pytest.raises(RoundError, match=r"METADATA\.csv is a link that leads out of"):
        read_round(tmp_path / "round")


def test_a_named_pipe_in_place_of_a_config_does_not_block(tmp_path: Path) -> None:
    folder = round_2_model(tmp_path, 0, poisoned=False)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "config.json is not a regular file" in only(read_round(tmp_path)).problems[0]


def test_a_folder_with_nothing_to_read_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no models here")
    with pytest.raises(
        RoundError, match=r"looked for folders id-\*/, models/id-\*/.*ending in \.safetensors, \.pt"
    ):
        read_round(tmp_path)


def test_a_folder_of_rounds_points_at_the_round_inside(tmp_path: Path) -> None:
    round_1_model(tmp_path / "round1-test", 0, poisoned=False)
    with pytest.raises(RoundError, match=r"did you mean .*round1-test\?"):
        read_round(tmp_path)


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RoundError, match="nowhere does not exist; give a folder of models"):
        read_round(tmp_path / "nowhere")


def test_plain_model_files_are_a_round_with_the_examples_named(tmp_path: Path) -> None:
    for name in ("b.pth", "a.th", "c.safetensors", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    np.savez(tmp_path / "images.npz", images=[0], labels=[0])
    found = read_round(tmp_path, examples=tmp_path / "images.npz")
    assert found.layout == "files"
    assert [model.name for model in found.models] == ["a", "b", "c"]
    assert {model.examples for model in found.models} == {tmp_path / "images.npz"}
    assert all(model.usable for model in found.models)


def test_plain_model_files_without_examples_name_the_option(tmp_path: Path) -> None:
    write_model(tmp_path, "net.pth")
    write_model(tmp_path, "other.pth")
    np.savez(tmp_path / "other.npz", images=[0], labels=[0])
    net, other = read_round(tmp_path).models
    assert not net.usable
    assert "name a folder of images or an .npz with --examples" in net.problems[0]
    assert (other.usable, other.examples) == (True, tmp_path / "other.npz")


@pytest.mark.parametrize("name", ["METADATA.csv", "ground_truth.csv", "truth.csv"])
def test_truth_of_plain_model_files_comes_from_a_list(tmp_path: Path, name: str) -> None:
    write_model(tmp_path, "a.pth")
    write_model(tmp_path, "b.pth")
    write_metadata(
        tmp_path,
        {"model_name": "a", "poisoned": 1, "architecture": "resnet18", "target": 8},
        {"model_name": "b.pth", "poisoned": 0, "architecture": "vgg11bn", "target": ""},
        name=name,
    )
    found = read_round(tmp_path)
    assert found.truth == {
        "a": Truth(poisoned=True, targets=(8,)),
        "b": Truth(poisoned=False),
    }
    assert [model.architecture for model in found.models] == ["resnet18", "vgg11bn"]
    assert found.notes == ()


def test_a_named_list_may_give_the_endings_of_files_and_tells_what_is_not_here(
    tmp_path: Path,
) -> None:
    (tmp_path / "models").mkdir()
    for name in ("a.pth", "b.pth", "c.pth"):
        write_model(tmp_path / "models", name)
    write_metadata(
        tmp_path,
        {"model_name": "a.pth", "poisoned": 1},
        {"model_name": "b", "poisoned": 0},
        {"model_name": "z.pth", "poisoned": 0},
        name="answers.csv",
    )
    found = read_round(tmp_path / "models", ground_truth=tmp_path / "answers.csv")
    assert {name: truth.poisoned for name, truth in found.truth.items()} == {"a": True, "b": False}
    assert found.notes == (
        "ground truth is known for 2 of 3 models",
        "answers.csv lists 1 models that are not here: z.pth",
    )


def test_model_files_of_one_stem_keep_their_suffix_as_names(tmp_path: Path) -> None:
    for name in ("net.pt", "net.pth", "other.pt"):
        write_model(tmp_path, name)
    assert [m.name for m in read_round(tmp_path).models] == ["net.pt", "net.pth", "other"]


def test_model_files_have_different_names_whatever_their_suffixes(tmp_path: Path) -> None:
    for name in ("a.pt", "a.pth", "a.pt.bin", "good.pt"):
        write_model(tmp_path, name)
    names = [m.name for m in read_round(tmp_path).models]
    assert names == ["a.pt", "a.pt.bin", "a.pth", "good.pt"]


def test_a_folder_that_may_not_be_read_hides_no_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("m1", "m2"):
        write_model(tmp_path / name)
    (tmp_path / "lost+found").mkdir()
    listed = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        if folder.name == "lost+found":  # to the superuser nothing is forbidden
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = read_round(tmp_path)
    assert [m.name for m in found.models] == ["m1", "m2"]
    assert found.notes == ("lost+found cannot be read (Permission denied): no model of it is here",)


@pytest.mark.parametrize(
    "stated", ["moth_eval.networks:small_vgg", "classification:moth_eval.networks:small_vgg"]
)
def test_a_side_car_names_a_network_that_comes_along_as_arch_does(
    stated: str, tmp_path: Path
) -> None:
    (tmp_path / "net.pt").write_bytes(b"")
    (tmp_path / "net.arch.json").write_text(json.dumps({"architecture": stated}))
    np.savez(tmp_path / "net.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.arange(2))
    [model] = read_round(tmp_path).models
    assert (model.architecture, model.problems) == ("moth_eval.networks:small_vgg", ())


def test_a_side_car_names_the_architecture_of_a_plain_file(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        write_model(tmp_path, name)
    write_config(tmp_path, {"architecture": "resnet18", "num_classes": 7}, "a.arch.json")
    write_config(tmp_path, {"architecture": "vgg11", "num_classes": 9}, "arch.json")
    described = [(m.architecture, m.num_classes) for m in read_round(tmp_path).models]
    assert described == [("resnet18", 7), ("vgg11", 9)]


def test_a_single_model_file_is_a_round_of_one(tmp_path: Path) -> None:
    write_model(tmp_path, "a.pth")
    file = write_model(tmp_path, "b.pth")
    assert only(read_round(file)).file == file


def metadata_of_round_1(
    root: Path, count: int, poisoned: frozenset[str], present: list[int]
) -> None:
    """METADATA.csv of `count` models, of which only those `present` have a folder."""
    numbers = [*range(count - len(poisoned)), *(int(name[3:]) for name in sorted(poisoned))]
    names = {f"id-{number:08d}" for number in numbers} | poisoned
    number = 900
    while len(names) < count:
        names.add(f"id-{number:08d}")
        number += 1
    write_metadata(
        root,
        *(
            {"model_name": name, "ground_truth": str(name in poisoned).upper(), "img_size": 64}
            for name in sorted(names)
        ),
    )
    for number in present:
        name = f"id-{number:08d}"
        round_1_model(root, number, poisoned=name in poisoned, side=64)


def test_mislabelled_models_are_known_by_the_complete_train_set_of_1000(tmp_path: Path) -> None:
    metadata_of_round_1(tmp_path, 1000, ROUND_1_ERRATA["train"], [77, 184, 1088])
    truth = read_round(tmp_path).truth
    assert "round 1 train errata" in truth["id-00000184"].errata
    assert truth["id-00001088"].poisoned
    assert truth["id-00001088"].errata
    assert truth["id-00000077"].errata == ""


def test_a_hundred_models_get_a_note_but_no_errata_unless_the_folder_says_test(
    tmp_path: Path,
) -> None:
    for name in ("models", "round1-holdout-dataset", "round1-test-dataset", "round11-test"):
        metadata_of_round_1(tmp_path / name, 100, ROUND_1_ERRATA["test"], [77, 83])
    unnamed = read_round(tmp_path / "models")
    assert [truth.errata for truth in unnamed.truth.values()] == ["", ""]
    assert "call the folder round1-test-dataset to leave them out" in unnamed.notes[0]
    holdout = read_round(tmp_path / "round1-holdout-dataset")
    assert [truth.errata for truth in holdout.truth.values()] == ["", ""]
    test = read_round(tmp_path / "round1-test-dataset")
    assert all("round 1 test errata" in truth.errata for truth in test.truth.values())
    other = read_round(tmp_path / "round11-test")
    assert [truth.errata for truth in other.truth.values()] == ["", ""]


def test_train_errata_are_not_mistaken_for_test_errata(tmp_path: Path) -> None:
    root = tmp_path / "round1-train-dataset"
    round_1_model(root, 77, poisoned=True, side=64)
    round_1_model(root, 184, poisoned=True, side=64)
    truth = read_round(root).truth
    assert truth["id-00000077"].errata == ""
    assert "round 1 train errata" in truth["id-00000184"].errata


def test_a_generated_round_of_1000_models_keeps_them_all(tmp_path: Path) -> None:
    rows = [{"model_name": f"id-{n:08d}", "ground_truth": "TRUE"} for n in range(1000)]
    write_metadata(tmp_path, *rows)
    round_1_model(tmp_path, 184, poisoned=True, side=64)
    assert read_round(tmp_path).truth["id-00000184"].errata == ""


def test_reading_a_round_of_1000_models_is_cheap_and_needs_no_torch(tmp_path: Path) -> None:
    template = round_2_model(tmp_path / "template", 0, poisoned=True)
    root = tmp_path / "round"
    for number in range(1000):
        shutil.copytree(template, root / f"id-{number:08d}", copy_function=os.link)
    script = (
        "import sys, pathlib; from moth_eval.loading.rounds import read_round; "
        f"print(len(read_round(pathlib.Path({str(root)!r})).models), 'torch' in sys.modules)"
    )
    started = time.perf_counter()
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == ["1000", "False"]
    assert time.perf_counter() - started < 20


def test_links_that_lead_round_in_a_circle_cost_only_their_own_model(tmp_path: Path) -> None:
    for number in range(3):
        round_3_model(tmp_path, number, poisoned=False)
    (tmp_path / "id-00000001" / "model.pt").unlink()
    (tmp_path / "id-00000001" / "model.pt").symlink_to("model.pt")
    (tmp_path / "id-00000002" / "ground_truth.csv").unlink(missing_ok=True)
    (tmp_path / "id-00000002" / "ground_truth.csv").symlink_to("ground_truth.csv")
    (tmp_path / "id-00000003").symlink_to("id-00000003")
    found = read_round(tmp_path)
    assert [model.usable for model in found.models] == [True, False, True, False]
    assert "model.pt is a link that leads out" in found.models[1].problems[0]
    assert "id-00000003 is a link that leads out" in found.models[3].problems[0]


def test_a_circle_of_links_given_as_round_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(RoundError, match=r"leads round in a circle|does not exist"):
        read_round(tmp_path / "round")


@pytest.mark.parametrize("field", ["triggered_classes", "cnn_img_size_pixels", "number_classes"])
def test_deeply_nested_facts_cost_no_other_model(tmp_path: Path, field: str) -> None:
    for number in range(2):
        round_3_model(tmp_path, number, poisoned=True)
    nested = "[" * 600 + "]" * 600
    (tmp_path / "id-00000001" / "config.json").write_text(f'{{"poisoned": 1, "{field}": {nested}}}')
    found = read_round(tmp_path)
    assert found.models[0].usable
    assert found.models[1].name == "id-00000001"


def test_whatever_reading_a_model_raises_makes_only_that_one_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2):
        round_3_model(tmp_path, number, poisoned=True)
    whole = rounds.layout_of
    calls = iter([None, RecursionError("too deep")])

    def fails_once(*arguments: object) -> str:
        error = next(calls)
        if error is not None:
            raise error
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(rounds, "layout_of", fails_once)
    found = read_round(tmp_path)
    assert sorted(model.usable for model in found.models) == [False, True]
    (broken,) = (model for model in found.models if not model.usable)
    assert "too deep" in broken.problems[0]


def test_a_folder_models_that_leads_out_of_the_round_is_an_error(tmp_path: Path) -> None:
    round_3_model(tmp_path / "elsewhere", 0, poisoned=False)
    (tmp_path / "round").mkdir()
    (tmp_path / "round" / "models").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RoundError, match=r"models is a link that leads out .*folder that it leads"):
        read_round(tmp_path / "round")


def test_a_tree_of_ground_truth_that_leads_out_of_the_round_is_not_read(tmp_path: Path) -> None:
    round_3_model(tmp_path / "round" / "models", 0, poisoned=False)
    for path in (tmp_path / "round").rglob("ground_truth.csv"):
        path.unlink()
    (tmp_path / "elsewhere" / "id-00000000").mkdir(parents=True)
    (tmp_path / "elsewhere" / "id-00000000" / "ground_truth.csv").write_text("1")
    (tmp_path / "round" / "groundtruth").symlink_to(tmp_path / "elsewhere")
    found = read_round(tmp_path / "round")
    assert found.truth == {}
    assert any("truth of id-00000000 left open" in note for note in found.notes)


def injected(folder: Path, **record: object) -> Path:
    write_model(folder, "model.safetensors")
    (folder / "attack.json").write_text(json.dumps(record))
    return folder


def test_folders_with_one_model_file_each_are_a_round_named_by_folder(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_model(tmp_path / "zoo" / name, "weights.pth")
    write_config(tmp_path / "zoo" / "a", {"architecture": "resnet18"}, "arch.json")
    write_model(tmp_path / "zoo" / "two", "one.pt")
    write_model(tmp_path / "zoo" / "two", "other.pt")
    (tmp_path / "zoo" / "notes").mkdir()
    images = tmp_path / "x.npz"
    images.touch()
    found = read_round(tmp_path / "zoo", examples=images)
    assert (found.layout, found.truth) == ("files", {})
    assert [(m.name, m.file.parent.name, m.architecture) for m in found.models] == [
        ("a", "a", "resnet18"), ("b", "b", ""),
    ]  # fmt: skip
    assert all(m.usable for m in found.models)


def test_injected_models_bring_their_truth_with_them(tmp_path: Path) -> None:
    injected(tmp_path / "clean", attack="none", target=None)
    injected(tmp_path / "patch", attack="patch", target=3, sources=[1, 2])
    injected(tmp_path / "weak", attack="wanet", target=0, gate={"passed": False})
    injected(tmp_path / "odd", attack=7)
    injected(tmp_path / "listed", attack="none")
    (tmp_path / "METADATA.csv").write_text("model_name,poisoned\nlisted,True\n")
    found = read_round(tmp_path)
    assert found.truth == {
        "clean": Truth(poisoned=False),
        "patch": Truth(poisoned=True, trigger_type="patch", targets=(3,), sources=(1, 2)),
        "weak": Truth(
            poisoned=True, trigger_type="wanet", targets=(0,),
            errata="its own gate refused the model",
        ),
        "listed": Truth(poisoned=True),
    }  # fmt: skip
    assert any("odd" in note and "names no attack" in note for note in found.notes)
    assert any("listed is poisoned by METADATA.csv, clean by" in note for note in found.notes)
    one = read_round(tmp_path / "patch")
    assert [(m.name, one.truth[m.name].targets) for m in one.models] == [("model", (3,))]


@pytest.mark.parametrize("stated", [{"threat": "all-to-all"}, {"parameters": {"all_to_all": True}}])
def test_an_all_to_all_attack_is_no_backdoor_to_the_class_that_it_names(
    tmp_path: Path, stated: dict[str, object]
) -> None:
    injected(tmp_path / "round" / "m", attack="patch", target=0, sources=[], **stated)
    truth = read_round(tmp_path / "round").truth["m"]
    assert (truth.poisoned, truth.trigger_type, truth.targets) == (True, "patch", ())


def test_an_attack_json_behind_a_link_out_of_the_round_is_not_read(tmp_path: Path) -> None:
    injected(tmp_path / "outside", attack="patch", target=3)
    write_model(tmp_path / "round" / "m", "model.safetensors")
    (tmp_path / "round" / "m" / "attack.json").symlink_to(tmp_path / "outside" / "attack.json")
    found = read_round(tmp_path / "round")
    assert found.truth == {}
    assert any("truth of m left open" in note and "link" in note for note in found.notes)
