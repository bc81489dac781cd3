"""A mitigated model is written whatever the method that was asked for comes to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from benchmarks.detector_settings import Metaparameters
from benchmarks.mitigation import Mitigated, mitigate
from moth_eval.hardeners.channel_lipschitz_pruning import ChannelLipschitzPruning
from moth_eval.hardeners.fine_tuning import FineTuning
from moth_eval.loading.architectures import ArchitectureSource
from moth_eval.loading.files import load_network
from moth_eval.weights import are_finite
from tests.support.subjects import prototype_subject

ARCH = "tests.support.subjects:prototype_network"


def out_of_memory(*_: object, **__: object) -> None:
    raise MemoryError("no more")


def mitigated(tmp_path: Path, method: str) -> Mitigated:
    subject = prototype_subject(per_class=2)
    save_file(subject.module.state_dict(), tmp_path / "model.safetensors")
    images = (subject.examples.images * 255).byte().permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "data.npz", images=images, labels=subject.examples.labels.numpy())
    return mitigate(
        tmp_path / "model.safetensors", tmp_path / "data.npz", tmp_path / "out",
        Metaparameters(mitigate_method=method), name="mitigated.pt",
        architecture=ARCH, device="cpu",
    )  # fmt: skip


def test_a_method_that_diverges_leaves_no_model(tmp_path: Path) -> None:
    found = mitigated(tmp_path, "fine-tuning:epochs=2,recipe.learning_rate=1e30")
    assert found.method == "clp"
    assert "the training diverged, weights are not finite" in found.notes[0]
    assert found.notes[0].endswith(": clp takes its place")
    assert are_finite(load_network(found.path, architecture=ArchitectureSource.parse(ARCH)).module)


def test_a_method_that_memory_is_too_small_for_leaves_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FineTuning, "harden", out_of_memory)
    assert mitigated(tmp_path, "fine-tuning").method == "clp"
    monkeypatch.setattr(ChannelLipschitzPruning, "harden", out_of_memory)
    found = mitigated(tmp_path, "fine-tuning")
    assert (found.method, found.path.exists()) == ("", True)
    assert "clp leaves no model (model: no more): the model is written as it was" in found.notes[1]
