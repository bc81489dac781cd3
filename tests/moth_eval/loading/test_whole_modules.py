from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from moth_eval.errors import ArchitectureError, RefusedFile
from moth_eval.loading.architectures import ArchitectureSource, torchvision_architecture
from moth_eval.loading.files import check_forward, load_network
from tests.support.torch_files import assert_same_network, randomised, rename_classes

SMALL = [
    ("resnet18", 64),
    ("mobilenet_v2", 64),
    ("squeezenet1_0", 64),
    ("shufflenet_v2_x0_5", 64),
    ("googlenet", 64),
    ("mnasnet0_5", 64),
]
HEAVY = [
    ("squeezenet1_1", 64),
    ("shufflenet_v2_x1_0", 64),
    ("densenet121", 64),
    ("inception_v3", 80),
    ("mobilenet_v3_small", 64),
    ("efficientnet_b0", 64),
    ("resnet34", 64),
    ("resnet50", 64),
    ("resnet101", 64),
    ("resnet152", 64),
    ("wide_resnet50_2", 64),
    ("wide_resnet101_2", 64),
    ("resnext50_32x4d", 64),
    ("densenet161", 64),
    ("densenet169", 64),
    ("densenet201", 64),
    ("vgg11_bn", 64),
    ("vgg13", 64),
    ("vgg16_bn", 64),
    ("vgg19_bn", 64),
    ("shufflenet_v2_x1_5", 64),
    ("shufflenet_v2_x2_0", 64),
    ("alexnet", 64),
    ("convnext_tiny", 64),
    ("swin_t", 64),
    ("vit_b_32", 224),
]

Save = Callable[[nn.Module, Path], None]


def save_legacy(network: nn.Module, path: Path) -> None:
    torch.save(network, path, _use_new_zipfile_serialization=False)


def save_legacy_4(network: nn.Module, path: Path) -> None:
    torch.save(network, path, _use_new_zipfile_serialization=False, pickle_protocol=4)


def save_4(network: nn.Module, path: Path) -> None:
    torch.save(network, path, pickle_protocol=4)


def build(name: str, num_classes: int = 7) -> nn.Module:
    factory = torchvision_architecture(name)
    assert factory is not None
    return randomised(factory(num_classes=num_classes))


def check_rebuilt(name: str, size: int, folder: Path) -> None:
    expected = build(name)
    torch.save(expected, folder / "model.pt")
    loaded = load_network(folder / "model.pt", architecture_name=name)
    assert loaded.architecture == name
    assert loaded.num_classes == 7
    assert loaded.format == "whole-module"
    assert loaded.notes == (f"rebuilt as torchvision {name}",)
    assert_same_network(loaded.module, expected, size)
    assert check_forward(loaded.module, (3, size, size)) == 7


@pytest.mark.parametrize(("name", "size"), SMALL)
def test_torchvision_network_is_rebuilt_bit_for_bit(name: str, size: int, tmp_path: Path) -> None:
    check_rebuilt(name, size, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), HEAVY)
def test_larger_torchvision_network_is_rebuilt_bit_for_bit(
    name: str, size: int, tmp_path: Path
) -> None:
    check_rebuilt(name, size, tmp_path)


@pytest.mark.parametrize("save", [save_4, save_legacy, save_legacy_4])
def test_every_container_and_protocol_gives_the_same_network(save: Save, tmp_path: Path) -> None:
    expected = build("shufflenet_v2_x1_0")
    save(expected, tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt")
    assert loaded.architecture == "shufflenet_v2_x1_0"
    assert loaded.format == ("whole-module" if save is save_4 else "whole-module (legacy)")
    assert_same_network(loaded.module, expected, 64)


@pytest.mark.parametrize(
    "kind", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.slow)]
)
def test_training_time_classifiers_are_kept(kind: str, tmp_path: Path) -> None:
    builder = torchvision.models.get_model_builder(kind)
    expected = builder(weights=None, num_classes=5, init_weights=False, transform_input=True)
    expected.eval()
    torch.save(expected, tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt")
    assert loaded.architecture == kind
    assert loaded.module.transform_input is True
    assert_same_network(loaded.module, expected, 80)


def test_frozen_parameters_stay_frozen(tmp_path: Path) -> None:
    expected = build("squeezenet1_1")
    first = next(iter(expected.parameters()))
    first.requires_grad_(False)
    torch.save(expected, tmp_path / "model.pt")
    frozen = [p.requires_grad for p in load_network(tmp_path / "model.pt").module.parameters()]
    assert frozen == [p.requires_grad for p in expected.parameters()]
    assert frozen.count(False) == 1


def test_parallel_wrapper_is_taken_off(tmp_path: Path) -> None:
    expected = build("squeezenet1_1")
    torch.save(nn.DataParallel(expected), tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt")
    assert "taken out of its parallel wrapper" in loaded.notes
    assert_same_network(loaded.module, expected, 64)


def test_network_inside_a_checkpoint_is_found(tmp_path: Path) -> None:
    expected = build("squeezenet1_1")
    torch.save({"epoch": 3, "model": expected}, tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt")
    assert loaded.notes[0] == "weights under 'model'"
    assert_same_network(loaded.module, expected, 64)


def test_loading_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    torch.save(build("squeezenet1_1"), tmp_path / "model.pt")
    before = torch.random.get_rng_state()
    load_network(tmp_path / "model.pt")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_half_precision_network_comes_back_in_float32(tmp_path: Path) -> None:
    expected = build("squeezenet1_1").half()
    torch.save(expected, tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt")
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    assert_same_network(loaded.module, expected.float(), 64)


def small_stem() -> nn.Module:
    network = build("resnet18")
    network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return network.eval()


def sequential_head() -> nn.Module:
    network = build("resnet18")
    network.fc = nn.Sequential(nn.Dropout(0.5), nn.Linear(512, 7))
    return network.eval()


def changed_stride() -> nn.Module:
    network = build("resnet18")
    network.layer4[0].conv1.stride = (1, 1)
    network.layer4[0].downsample[0].stride = (1, 1)
    return network


def changed_padding() -> nn.Module:
    network = build("resnet18")
    network.conv1.padding = (1, 1)
    return network


def changed_epsilon() -> nn.Module:
    network = build("resnet18")
    network.bn1.eps = 1.0
    return network


def other_activation() -> nn.Module:
    network = build("resnet18")
    network.layer2[0].relu = nn.Tanh()
    return network


def other_pooling() -> nn.Module:
    network = build("resnet18")
    network.avgpool = nn.AdaptiveMaxPool2d(1)
    return network


def reordered() -> nn.Module:
    network = build("squeezenet1_1")
    features = list(network.features._modules.items())
    features[4], features[5] = features[5], features[4]
    network.features._modules = dict(features)
    return network


def reordered_block() -> nn.Module:
    network = build("densenet121")
    block = network.features.denseblock1
    block._modules = dict(reversed(block._modules.items()))
    for position, layer in enumerate(block._modules.values()):
        width = 64 + 32 * position
        layer.norm1 = nn.BatchNorm2d(width)
        layer.conv1 = nn.Conv2d(width, 128, 1, bias=False)
    return network.eval()


def hidden_buffer() -> nn.Module:
    network = build("resnet18")
    network.register_buffer("secret", torch.ones(1), persistent=False)
    return network


@pytest.mark.parametrize(
    "make",
    [
        reordered_block,
        hidden_buffer,
        small_stem,
        sequential_head,
        changed_stride,
        changed_padding,
        changed_epsilon,
        other_activation,
        other_pooling,
        reordered,
    ],
)
def test_changed_network_is_never_taken_for_the_original(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    expected = make()
    torch.save(expected, tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt")
    assert not any("rebuilt" in note for note in loaded.notes)
    assert any("made from the layers" in note for note in loaded.notes)
    assert_same_network(loaded.module, expected, 64)


def test_named_architecture_must_be_the_one_in_the_file(tmp_path: Path) -> None:
    torch.save(changed_stride(), tmp_path / "model.pt")
    source = ArchitectureSource.parse("resnet18")
    with pytest.raises(ArchitectureError, match=r"layer4\.0\.conv1 has another stride"):
        load_network(tmp_path / "model.pt", architecture=source)


def test_network_of_plain_layers_is_made_from_its_layers(tmp_path: Path) -> None:
    expected = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ELU(), nn.Flatten(), nn.LazyLinear(4)
    )
    expected(torch.zeros(2, 3, 8, 8))
    torch.save(randomised(expected), tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt")
    assert (loaded.architecture, loaded.num_classes) == ("Sequential", 4)
    assert_same_network(loaded.module, expected, 8)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    torch.save(nn.Sequential(first, second), tmp_path / "model.pt")
    module = load_network(tmp_path / "model.pt").module
    assert module[0].weight is module[1].weight


def test_views_of_one_storage_become_weights_of_their_own(tmp_path: Path) -> None:
    whole = torch.arange(32.0)
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    first.weight = nn.Parameter(whole[:16].view(4, 4))
    second.weight = nn.Parameter(whole[8:24].view(4, 4).t())
    network = nn.Sequential(first, second)
    torch.save(network, tmp_path / "model.pt")
    module = load_network(tmp_path / "model.pt").module
    assert torch.equal(module[1].weight, second.weight)
    with torch.no_grad():
        module[0].weight.zero_()
    assert torch.equal(module[1].weight, second.weight)


def test_mobilenet_of_older_torchvision_is_rebuilt(tmp_path: Path) -> None:
    expected = build("mobilenet_v2")
    torch.save(expected, tmp_path / "model.pt")
    old = "torchvision.models.mobilenet"
    rename_classes(
        tmp_path / "model.pt",
        {
            "torchvision.ops.misc.Conv2dNormActivation": f"{old}.ConvBNReLU",
            "torchvision.models.mobilenetv2.InvertedResidual": f"{old}.InvertedResidual",
            "torchvision.models.mobilenetv2.MobileNetV2": f"{old}.MobileNetV2",
        },
    )
    loaded = load_network(tmp_path / "model.pt")
    assert loaded.architecture == "mobilenet_v2"
    assert_same_network(loaded.module, expected, 64)


@pytest.mark.slow
def test_inception_of_older_torchvision_is_rebuilt(tmp_path: Path) -> None:
    expected, old = build("inception_v3"), build("inception_v3")
    old.load_state_dict(expected.state_dict())
    for name in ("maxpool1", "maxpool2", "avgpool", "dropout"):
        del old._modules[name]
    vars(old).pop("AuxLogits", None)
    torch.save(old, tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt")
    assert loaded.architecture == "inception_v3"
    assert_same_network(loaded.module, expected, 80)


def test_gelu_of_older_torch_computes_exactly(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.GELU(), nn.Linear(8, 2))
    torch.save(network, tmp_path / "new.pt")
    del network[2].approximate
    torch.save(network, tmp_path / "old.pt")
    found = load_network(tmp_path / "old.pt").module
    expected = load_network(tmp_path / "new.pt").module
    assert_same_network(found, expected, 4)


def test_batch_normalisation_without_counters_is_rebuilt(tmp_path: Path) -> None:
    expected = build("resnet18")
    old = build("resnet18")
    old.load_state_dict(expected.state_dict())
    for part in old.modules():
        if isinstance(part, nn.BatchNorm2d):
            del part._buffers["num_batches_tracked"]
    torch.save(old, tmp_path / "model.pt")
    loaded = load_network(tmp_path / "model.pt")
    assert loaded.architecture == "resnet18"
    assert_same_network(loaded.module, expected, 64)


def test_class_of_the_users_own_is_read_into_the_named_architecture(tmp_path: Path) -> None:
    from moth_eval.networks import small_vgg

    expected = randomised(small_vgg(num_classes=4))
    torch.save(expected, tmp_path / "model.pt")
    rename_classes(tmp_path / "model.pt", {"moth_eval.networks.SmallVGG": "__main__.Net"})
    with pytest.raises(RefusedFile, match=r"class __main__\.Net.*--arch"):
        load_network(tmp_path / "model.pt")
    source = ArchitectureSource.parse("moth_eval.networks:small_vgg")
    loaded = load_network(tmp_path / "model.pt", architecture=source)
    assert (loaded.architecture, loaded.num_classes) == (source.spec, 4)
    assert_same_network(loaded.module, expected, 32)
