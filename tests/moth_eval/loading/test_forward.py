from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from moth_eval.errors import RefusedFile
from moth_eval.loading.files import load_network
from moth_eval.loading.forward import Measured, check_forward, measure_forward


def classifier(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers).eval()


def test_number_of_logits_is_found() -> None:
    network = classifier(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6))
    assert check_forward(network, (3, 8, 8)) == 6


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Conv2d(1, 4, 3)], "cannot be run on images of shape"),
        ([nn.Conv2d(3, 4, 3)], r"expected logits \(2, K\), got \(2, 4, 6, 6\)"),
        ([nn.Flatten(0), nn.Unflatten(0, (4, 96))], r"got \(4, 96\)"),
        ([nn.Flatten(), nn.Threshold(2.0, float("nan"))], "infinite or undefined"),
        ([nn.Upsample(scale_factor=1e5)], r"Upsample .* would put out"),
        ([nn.AdaptiveAvgPool2d(10**6)], r"AdaptiveAvgPool2d .* would put out"),
        ([nn.ZeroPad2d(10**6)], r"ZeroPad2d .* would put out"),
    ],
)
def test_network_that_is_no_classifier_is_refused(layers: list[nn.Module], message: str) -> None:
    with pytest.raises(RefusedFile, match=message):
        check_forward(classifier(*layers), (3, 8, 8))


def test_memory_bomb_in_a_file_is_refused_before_it_is_run(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Upsample(scale_factor=1e6), nn.Flatten())
    torch.save(network, tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt")
    with pytest.raises(RefusedFile, match="no classifier does"):
        check_forward(loaded.module, (3, 32, 32))


class Inspects(nn.Module):
    """Looks at values, which a run on shapes alone cannot."""

    def forward(self, images: Tensor) -> Tensor:
        if float(images.sum()) < -1:
            raise AssertionError("images in [0, 1] are never negative")
        return images.flatten(1)


def test_network_that_looks_at_values_is_still_checked() -> None:
    assert check_forward(Inspects(), (3, 4, 4)) == 48


class PlainScale(nn.Module):
    """Holds a tensor that is neither a parameter nor a buffer, like pickled networks may."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(1, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale


class Splits(nn.Module):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return images, images.repeat(1, 1, 9000, 9000)


class TakesFirst(nn.Module):
    def forward(self, parts: tuple[Tensor, Tensor]) -> Tensor:
        return parts[0]


@pytest.mark.parametrize(
    "first", [[PlainScale()], [Inspects(), nn.Unflatten(1, (3, 8, 8))]], ids=["attribute", "values"]
)
def test_memory_is_bounded_for_a_network_that_shapes_alone_cannot_run(
    first: list[nn.Module],
) -> None:
    ending = [nn.Upsample(scale_factor=4000.0), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    with pytest.raises(RefusedFile, match=r"Upsample .* would put out"):
        check_forward(classifier(*first, *ending), (3, 8, 8))
    assert check_forward(classifier(*first, nn.Flatten()), (3, 8, 8)) == 192


def test_memory_is_bounded_for_a_layer_that_gives_several_tensors() -> None:
    with pytest.raises(RefusedFile, match="a Splits in the network would put out 15,552,000,000"):
        check_forward(classifier(Splits(), TakesFirst(), nn.Flatten()), (3, 8, 8))


def test_large_layers_are_measured_and_make_small_batches() -> None:
    network = classifier(nn.Conv2d(3, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    measured = measure_forward(network, (3, 8, 8))
    assert measured == Measured(num_classes=10, peak=640)
    assert measured.batch_size == 64
    assert Measured(num_classes=2, peak=1 << 25).batch_size == 8
    assert Measured(num_classes=2, peak=1 << 30).batch_size == 1


class Changes(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.what = what

    def forward(self, images: Tensor) -> Tensor:
        if self.what == "training":
            self.train()
        else:
            self.seen += 1
        return images.flatten(1)


HEAVY = {
    "many layers, each of them small": (
        [nn.Upsample(size=(1024, 1024)), *[nn.Sigmoid()] * 4000],
        "more than 8,589,934,592 numbers",
    ),
    "one wide product": (
        [nn.Upsample(size=(512, 512)), nn.Conv2d(3, 400, 129, padding=64, bias=False)],
        "more than 2,199,023,255,552 additions and products",
    ),
    "a large window": (
        [nn.Upsample(size=(4096, 4096)), nn.AvgPool2d(1024, stride=1)],
        "more than 2,199,023,255,552 additions and products",
    ),
    "a window that is told once": (
        [nn.Upsample(size=(4096, 4096)), nn.MaxPool2d(1024, stride=1)],
        "more than 2,199,023,255,552 additions and products",
    ),
    "one layer without end": (
        [*[nn.LocalResponseNorm(2)] * 6000, nn.Flatten()],
        "more than 50,000 operations",
    ),
}


@pytest.mark.parametrize("layers", HEAVY)
def test_a_small_file_that_would_run_for_days_is_refused(layers: str, tmp_path: Path) -> None:
    parts, message = HEAVY[layers]
    tail = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if "Flatten" not in str(parts) else []
    torch.save(nn.Sequential(*parts, *tail), tmp_path / "model.pt")
    network = load_network(tmp_path / "model.pt").module
    with pytest.raises(RefusedFile, match=message):
        check_forward(network, (3, 32, 32))


class Endless(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        with suppress(RefusedFile):  # of the first time
            time.sleep(60)
        time.sleep(60)
        return images


def test_a_first_run_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moth_eval.loading.deadline.OPENING_SECONDS", 0.2)
    monkeypatch.setattr("moth_eval.loading.deadline._AGAIN_SECONDS", 0.1)
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(RefusedFile, match=r"the first run .* took more than 0\.2 s"):
        check_forward(Endless(), (3, 8, 8))
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_file_that_is_read_without_end_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "model.pt")
    monkeypatch.setattr("moth_eval.loading.deadline.OPENING_SECONDS", 2.0)
    monkeypatch.setattr("moth_eval.loading.files.find_weights", lambda _: time.sleep(60))
    started = time.monotonic()
    with pytest.raises(RefusedFile, match=r"model\.pt: refused: reading it took more than 2 s"):
        load_network(tmp_path / "model.pt")
    assert time.monotonic() - started < 20


def test_files_are_read_in_any_thread(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), tmp_path / "model.pt")
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(load_network, tmp_path / "model.pt").result()
    assert check_forward(found.module, (3, 2, 2)) == 3


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_classes_are_no_classifier(count: int) -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d((1, count)), nn.Flatten()).eval()
    with pytest.raises(RefusedFile, match=f"gives {count} logits per image, expected one for each"):
        check_forward(network, (1, 8, 8))


@pytest.mark.parametrize("what", ["training", "seen"])
def test_network_that_changes_itself_when_run_is_refused(what: str) -> None:
    with pytest.raises(RefusedFile, match=rf"changes itself when it is run .*{what}"):
        check_forward(Changes(what).eval(), (3, 4, 4))


def test_check_leaves_network_and_random_state_alone() -> None:
    network = classifier(nn.Flatten(), nn.Linear(48, 2))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    check_forward(network, (3, 4, 4))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(value.device.type == "cpu" for value in network.state_dict().values())
    assert not any(part._forward_hooks for part in network.modules())
    assert torch.equal(torch.random.get_rng_state(), state)
