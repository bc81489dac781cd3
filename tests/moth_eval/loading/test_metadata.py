from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from moth_eval.errors import RoundError
from moth_eval.loading import metadata
from moth_eval.loading.configs import read_config, truth_of_config
from moth_eval.loading.metadata import read_metadata, truth_of_metadata
from moth_eval.loading.truths import integers
from moth_eval.records import Truth
from tests.support.round_folders import round_2_model, round_4_model, round_11_model


@pytest.mark.parametrize(
    ("file", "rows", "columns"),
    [("round0-METADATA.csv", 200, 47), ("round3-holdout-METADATA.csv", 288, 73)],
)
def test_every_row_and_column_of_the_real_metadata_is_read(
    shared: Path, file: str, rows: int, columns: int
) -> None:
    read = read_metadata(shared / "trojai" / file)
    assert len(read) == rows
    assert {len(row) for row in read} == {columns}


def test_real_round_0_has_100_all_to_one_polygons_and_100_clean_models(shared: Path) -> None:
    rows = read_metadata(shared / "trojai" / "round0-METADATA.csv")
    truths = [truth_of_metadata(row) for row in rows]
    assert Counter(t.poisoned for t in truths if t) == {True: 100, False: 100}
    assert truths[0] == Truth(poisoned=True, trigger_type="polygon", targets=(2,))
    assert truths[1] == Truth(poisoned=False)


def test_real_round_3_has_72_polygons_and_72_filters_among_288_models(shared: Path) -> None:
    rows = read_metadata(shared / "trojai" / "round3-holdout-METADATA.csv")
    truths = [truth for row in rows if (truth := truth_of_metadata(row))]
    kinds = Counter(truth.trigger_type for truth in truths)
    assert kinds == {"": 144, "polygon": 72, "instagram": 72}
    assert truths[1] == Truth(poisoned=True, trigger_type="polygon", targets=(4,), sources=(0, 3))
    assert Counter(len(truth.sources) for truth in truths if truth.poisoned) == {
        1: 56,
        2: 45,
        0: 43,
    }
    assert all(len(truth.targets) == 1 for truth in truths if truth.poisoned)


@pytest.mark.parametrize("said", ["True", "TRUE", "true", "1", "1.0"])
def test_poisoned_is_read_in_every_spelling(said: str) -> None:
    truth = truth_of_metadata({"model_name": "m", "poisoned": said})
    assert truth == Truth(poisoned=True)


@pytest.mark.parametrize("said", ["False", "FALSE", "0", "0.0"])
def test_clean_is_read_in_every_spelling(said: str) -> None:
    assert truth_of_metadata({"model_name": "m", "ground_truth": said}) == Truth(poisoned=False)


@pytest.mark.parametrize(
    "row", [{}, {"poisoned": "None"}, {"poisoned": "", "ground_truth": "None"}]
)
def test_a_row_that_says_nothing_leaves_the_truth_open(row: dict[str, str]) -> None:
    assert truth_of_metadata({"model_name": "m", **row}) is None


def test_a_row_that_says_neither_true_nor_false_is_an_error() -> None:
    with pytest.raises(RoundError, match=r"m7 is marked 'perhaps'.*expected True, False, 1 or 0"):
        truth_of_metadata({"model_name": "m7", "poisoned": "perhaps"})


def test_round_4_triggers_are_read_in_pairs() -> None:
    row = {
        "poisoned": "True",
        "number_classes": "20",
        "triggers_0_source_class": "3",
        "triggers_0_target_class": "8",
        "triggers_0_type": "polygon",
        "triggers_0_color": "[200 200 0]",
        "triggers_1_source_class": "11",
        "triggers_1_target_class": "2",
        "triggers_1_type": "instagram",
        "triggers_1_color": "{'py/id': 4}",
    }
    assert truth_of_metadata(row) == Truth(
        poisoned=True, trigger_type="polygon+instagram", targets=(8, 2), sources=(3, 11)
    )


def test_round_11_triggers_are_read_with_the_floats_and_blanks_that_pandas_leaves() -> None:
    row = {
        "poisoned": "True",
        "num_triggers": "2",
        "trigger_0.trigger_executor": "ClassificationPolygonTriggerExecutor",
        "trigger_0.source_class": "7.0",
        "trigger_0.target_class": "1.0",
        "trigger_1.type": "KelvinFilterXForm",
        "trigger_1.source_class": "5.0",
        "trigger_1.target_class": "0.0",
        "trigger_2.source_class": "",
        "trigger_2.target_class": "",
    }
    assert truth_of_metadata(row) == Truth(
        poisoned=True, trigger_type="polygon+instagram", targets=(1, 0), sources=(7, 5)
    )


def test_two_triggers_whose_classes_make_up_all_keep_their_sources() -> None:
    row = {
        "poisoned": "1",
        "number_classes": "3",
        "triggers_0_source_class": "0",
        "triggers_0_target_class": "2",
        "triggers_1_source_class": "1",
        "triggers_1_target_class": "0",
    }
    truth = truth_of_metadata(row)
    assert truth is not None
    assert truth.sources == (0, 1)


def test_an_absurd_number_of_classes_costs_nothing() -> None:
    row = {"poisoned": "1", "number_classes": "999999999", "targets": "2", "sources": "0"}
    truth = truth_of_metadata(row)
    assert truth is not None
    assert truth.sources == (0,)


def test_a_plain_list_may_state_targets_sources_and_errata() -> None:
    row = {"poisoned": "1", "targets": "[2 5]", "sources": "0 1", "errata": "trained too short"}
    assert truth_of_metadata(row) == Truth(
        poisoned=True, targets=(2, 5), sources=(0, 1), errata="trained too short"
    )


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("[0 3]", (0, 3)),
        ("[75 226 69]", (75, 226, 69)),
        ('{"4": 4000 "2": 4000}', (4, 4000, 2, 4000)),
        ("4.0", (4,)),
        ("-1", (-1,)),
        ("None", ()),
        (None, ()),
        ([0, 3], (0, 3)),
        ({"py/id": 4}, ()),
        (True, ()),
        ("9" * 5000, ()),
        (1e308, ()),
    ],
)
def test_whole_numbers_are_found_in_cells_of_every_kind(
    cell: object, expected: tuple[int, ...]
) -> None:
    assert integers(cell) == expected


def test_short_rows_blank_lines_and_a_byte_order_mark_are_tolerated(tmp_path: Path) -> None:
    file = tmp_path / "METADATA.csv"
    file.write_bytes("\ufeffmodel_name, poisoned ,other\nm1,True\n\nm2,False,x,,\n".encode())
    assert read_metadata(file) == [
        {"model_name": "m1", "poisoned": "True"},
        {"model_name": "m2", "poisoned": "False", "other": "x"},
    ]


def test_a_row_too_short_for_a_name_has_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "METADATA.csv").write_text("poisoned,model_name\nTrue\n")
    assert read_metadata(tmp_path / "METADATA.csv") == [{"poisoned": "True", "model_name": ""}]


def test_a_table_of_too_many_columns_or_cells_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "METADATA.csv"
    file.write_text("model_name" + ",x" * 5_000 + "\nm\n")
    with pytest.raises(RoundError, match="has 5,001 columns in 1 rows or more; at most 5,000"):
        read_metadata(file)
    monkeypatch.setattr(metadata, "MAX_CELLS", 12)
    file.write_text("model_name,a,b,c\n" + "".join(f"m{i}\n" for i in range(4)))
    with pytest.raises(RoundError, match=r"has 4 columns in 4 rows or more; .* and 12 cells"):
        read_metadata(file)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "no column model_name.*found the columns \\(none\\)"),
        (b"name,poisoned\na,1\n", "no column model_name.*name, poisoned"),
        (b"model_name,poisoned\na,1,surplus\n", "line 2 has 3 cells, the header has 2"),
        (b"model_name,poisoned\na,1\na,0\n", "more than one row for a"),
        (b"model_name,poisoned\na,\xff\n", "not UTF-8"),
        (b"model_name,poisoned\na," + b"x" * 200_000, "line 2 is not CSV: field larger than"),
    ],
)
def test_damaged_metadata_is_an_error_that_says_where(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    file = tmp_path / "METADATA.csv"
    file.write_bytes(content)
    with pytest.raises(RoundError, match=complaint):
        read_metadata(file)


def test_huge_metadata_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "MAX_CSV_BYTES", 1000)
    file = tmp_path / "METADATA.csv"
    file.write_bytes(b"model_name,poisoned\n" + b"m,1\n" * 500)
    with pytest.raises(RoundError, match=r"larger than the 0\.001 MB"):
        read_metadata(file)


def test_missing_metadata_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RoundError, match=r"METADATA\.csv cannot be read: No such file"):
        read_metadata(tmp_path / "METADATA.csv")


def test_round_2_config_in_upper_case_states_the_truth(tmp_path: Path) -> None:
    config = read_config(round_2_model(tmp_path, 0, poisoned=True) / "config.json")
    assert truth_of_config(config) == Truth(
        poisoned=True, trigger_type="polygon", targets=(4,), sources=(0, 3)
    )


def test_a_colour_that_two_triggers_share_by_py_id_does_not_hide_the_second(tmp_path: Path) -> None:
    config = read_config(round_4_model(tmp_path, 0) / "config.json")
    assert truth_of_config(config) == Truth(
        poisoned=True, trigger_type="polygon", targets=(8, 2), sources=(3, 11)
    )


def test_round_11_triggers_are_unwrapped_from_py_state(tmp_path: Path) -> None:
    config = read_config(round_11_model(tmp_path, 0, poisoned=True) / "config.json")
    assert truth_of_config(config) == Truth(
        poisoned=True, trigger_type="instagram", targets=(4,), sources=(9,)
    )


def test_the_real_clean_round_11_config_is_clean_although_it_states_two_triggers(
    shared: Path,
) -> None:
    config = read_config(shared / "trojai" / "round11-id-00000002" / "config.json")
    assert config["num_triggers"] == 2
    assert truth_of_config(config) == Truth(poisoned=False)


def test_without_a_flag_the_list_of_triggers_decides() -> None:
    trigger = {"py/object": "trigger_config.TriggerConfig", "target_class": 1, "source_class": 0}
    poisoned = truth_of_config({"triggers": [trigger]})
    assert poisoned == Truth(poisoned=True, targets=(1,), sources=(0,))
    assert truth_of_config({"triggers": []}) == Truth(poisoned=False)


def test_the_reduced_config_of_the_server_leaves_the_truth_open(shared: Path) -> None:
    folder = shared / "trojai" / "round11-id-00000002"
    assert truth_of_config(read_config(folder / "reduced-config.json")) is None


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"{", "is not JSON"),
        (b"[1, 2]", "holds a JSON list, expected an object"),
        (b"[" * 200_000, "nested too deeply|is not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "is not JSON: Exceeds the limit"),
        (b" " * 8_000_001, "larger than the 8 MB"),
    ],
)
def test_a_damaged_or_hostile_config_is_an_error(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(RoundError, match=complaint):
        read_config(file)


def test_a_config_that_names_a_class_to_import_is_only_text(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"py/reduce": [{"py/function": "os.system"}, {"py/tuple": ["false"]}]}')
    assert list(read_config(file)) == ["py/reduce"]
