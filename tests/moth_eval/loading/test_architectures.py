from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from torch import nn

from moth_eval.errors import ArchitectureError
from moth_eval.loading.architectures import (
    ArchitectureSource,
    final_layer,
    on_meta,
    torchvision_architecture,
)
from moth_eval.loading.import_guard import folder_of, require_outside

#: Every way in which TrojAI's files and documents spell a network -> torchvision's class.
TROJAI_NAMES = {
    "resnet18": "ResNet",
    "inceptionv3": "Inception3",
    "inceptionv1(googlenet)": "GoogLeNet",
    "densenet121": "DenseNet",
    "squeezenetv1_0": "SqueezeNet",
    "squeezenetv1_1": "SqueezeNet",
    "wideresnet50": "ResNet",
    "wide_resnet50": "ResNet",
    "wideresnet101": "ResNet",
    "mobilenetv2": "MobileNetV2",
    "shufflenet1_0": "ShuffleNetV2",
    "shufflenet1_5": "ShuffleNetV2",
    "shufflenet2_0": "ShuffleNetV2",
    "vgg11bn": "VGG",
    "vgg11_bn": "VGG",
    "vgg19bn": "VGG",
    "classification:resnet50": "ResNet",
    "classification:mobilenet_v2": "MobileNetV2",
}

NETWORKS = """
from torch import nn

def tiny(num_classes=2) -> nn.Module:
    return nn.Linear(3, num_classes)

def fixed():
    return nn.Linear(3, 5)

def broken():
    raise ValueError("no luck")

def not_a_network():
    return 3

class Net(nn.Linear):
    def __init__(self, num_classes):
        super().__init__(3, num_classes)

def _hidden():
    return nn.Identity()
"""


@pytest.fixture
def own_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "own_networks_for_a_test"
    (tmp_path / f"{name}.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


@pytest.mark.parametrize(("name", "kind"), TROJAI_NAMES.items())
def test_every_spelling_of_trojai_is_a_torchvision_network(name: str, kind: str) -> None:
    factory = torchvision_architecture(name)
    assert factory is not None
    network = on_meta(lambda: factory(num_classes=9))
    assert type(network).__name__ == kind
    layer = final_layer(network)
    assert layer is not None
    assert layer[1] == 9


@pytest.mark.parametrize("name", ["", "resnet19", "os", "fasterrcnn_resnet50_fpn", "lraspp"])
def test_other_names_are_no_torchvision_classifier(name: str) -> None:
    assert torchvision_architecture(name) is None


def test_factory_gets_the_number_of_classes_only_if_it_takes_one(own_networks: str) -> None:
    tiny = ArchitectureSource.parse(f"{own_networks}:tiny").build(name=None, num_classes=7)
    fixed = ArchitectureSource.parse(f"{own_networks}:fixed").build(name=None, num_classes=7)
    assert (tiny.out_features, fixed.out_features) == (7, 5)


@pytest.mark.parametrize("name", ["tiny", "TINY", "classification:tiny"])
def test_module_of_factories_is_searched_by_the_models_architecture(
    name: str, own_networks: str
) -> None:
    network = ArchitectureSource.parse(own_networks).build(name=name, num_classes=4)
    assert isinstance(network, nn.Linear)


def test_a_models_metadata_call_nothing_but_what_says_that_it_gives_a_network(
    own_networks: str,
) -> None:
    source = ArchitectureSource.parse(own_networks)
    with pytest.raises(ArchitectureError, match=r"annotate it with `-> nn\.Module`"):
        source.build(name="fixed", num_classes=4)
    with pytest.raises(ArchitectureError, match=r"name the function not_a_network"):
        source.build(name="not_a_network", num_classes=4)
    assert isinstance(source.build(name="net", num_classes=4), nn.Linear)
    listed = Path(vars(sys.modules[own_networks])["__file__"])
    listed.write_text(f"__all__ = ['fixed']\n{NETWORKS}")
    del sys.modules[own_networks]
    assert isinstance(source.build(name="fixed", num_classes=4), nn.Linear)


@pytest.mark.parametrize("name", [None, "resnet18", "_hidden", "nn"])
def test_missing_factory_lists_those_that_exist(name: str | None, own_networks: str) -> None:
    source = ArchitectureSource.parse(own_networks)
    with pytest.raises(ArchitectureError, match="one of: Net, broken, fixed, not_a_network, tiny"):
        source.build(name=name, num_classes=4)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("broken", r"its factory failed: ValueError\('no luck'\)"),
        ("not_a_network", r"expected a factory that returns an nn\.Module, got int"),
    ],
)
def test_failing_factory_is_named(factory: str, message: str, own_networks: str) -> None:
    source = ArchitectureSource.parse(f"{own_networks}:{factory}")
    with pytest.raises(ArchitectureError, match=message):
        source.build(name=None, num_classes=None)


def test_factory_that_needs_a_number_of_classes_says_so(own_networks: str) -> None:
    source = ArchitectureSource.parse(f"{own_networks}:Net")
    with pytest.raises(ArchitectureError, match="num_classes"):
        source.build(name=None, num_classes=None)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet19", "did you mean resnet1"),
        ("no.such.module:make", "nor an importable module"),
        ("moth_eval.networks:nothing", r"it has: .*cifar_resnet20"),
        ("moth_eval.errors:", "no such factory"),
        ("moth_eval.seeds.inner", "moth_eval.seeds"),
        ("..sneaky", "--arch"),
        ("", "--arch"),
    ],
)
def test_source_that_names_nothing_is_refused_at_once(spec: str, message: str) -> None:
    with pytest.raises(ArchitectureError, match=message):
        ArchitectureSource.parse(spec)


def test_code_in_the_models_folder_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "models" / "sneaky_package"
    package.mkdir(parents=True)
    marker = tmp_path / "ran"
    (package / "__init__.py").write_text(f"open({str(marker)!r}, 'w')\n")
    (package / "nets.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path / "models")
    with pytest.raises(ArchitectureError, match="lies in the untrusted folder"):
        ArchitectureSource.parse("sneaky_package.nets:tiny", forbidden=tmp_path / "models")
    assert not marker.exists()


def test_code_beside_the_models_folder_is_run(own_networks: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    source = ArchitectureSource.parse(f"{own_networks}:tiny", forbidden=tmp_path / "models")
    assert isinstance(source.build(name=None, num_classes=2), nn.Linear)


IMPORTS = {
    "at once": "import beside_the_models\ndef tiny(): return __import__('torch').nn.Identity()",
    "quietly": """
try:
    import beside_the_models
except ImportError:
    pass
def tiny(): return __import__('torch').nn.Identity()
""",
    "when built": "def tiny():\n    import beside_the_models\n    return None",
    "in a function": "import json\ndef tiny(num_classes):\n    from beside_the_models import x",
}


@pytest.mark.parametrize("code", IMPORTS.values(), ids=IMPORTS)
def test_code_beside_the_models_is_not_run_by_way_of_trusted_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    models, own, marker = tmp_path / "models", tmp_path / "own", tmp_path / "it-ran"
    models.mkdir()
    own.mkdir()
    (models / "beside_the_models.py").write_text(f"open({str(marker)!r}, 'w').close()")
    (own / "trusted_for_a_test.py").write_text(code)
    monkeypatch.syspath_prepend(models)
    monkeypatch.syspath_prepend(own)
    monkeypatch.delitem(sys.modules, "trusted_for_a_test", raising=False)
    finders = list(sys.meta_path)
    with pytest.raises(ArchitectureError, match=r"beside_the_models.* in the untrusted folder"):
        ArchitectureSource.parse("trusted_for_a_test:tiny", forbidden=models).build(
            name=None, num_classes=3
        )
    assert not marker.exists()
    assert sys.meta_path == finders
    assert "beside_the_models" not in sys.modules


def test_what_lies_beside_a_model_that_is_named_as_a_file_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.pt").touch()
    (tmp_path / "beside_a_file.py").write_text("open('ran', 'w').close()\ndef net(): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ArchitectureError, match="beside_a_file"):
        ArchitectureSource.parse("beside_a_file:net", forbidden=tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()
    assert folder_of(tmp_path / "model.pt") == folder_of(tmp_path) == tmp_path.resolve()


def test_guarded_factories_still_say_what_they_take(own_networks: str, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name in ("tiny", "Net"):
        source = ArchitectureSource.parse(f"{own_networks}:{name}", forbidden=tmp_path / "models")
        assert final_layer(source.build(name=None, num_classes=7)) == ("", 7)


def test_frozen_modules_do_not_lie_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = ModuleSpec("zipimport", None, origin="frozen")
    require_outside(spec, tmp_path)
    located = spec_from_file_location("frozen", tmp_path / "frozen.py")
    assert located is not None
    with pytest.raises(ArchitectureError, match=r"frozen\.py lies in the untrusted folder"):
        require_outside(located, tmp_path)


def test_installed_packages_may_lie_in_the_folder_of_the_models() -> None:
    spec = find_spec("numpy")
    assert spec is not None and spec.origin is not None
    require_outside(spec, Path(spec.origin).parents[3])
    with pytest.raises(ArchitectureError, match=r"numpy.*lies in the untrusted folder"):
        require_outside(spec, Path(spec.origin).parent)


def test_exploding_module_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exploding_for_a_test.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ArchitectureError, match="exploding_for_a_test failed: ZeroDivisionError"):
        ArchitectureSource.parse("exploding_for_a_test:make")


def test_last_layer_may_be_a_convolution() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 9, 3))
    assert final_layer(network) == ("1", 8)
    assert final_layer(nn.ReLU()) is None


def test_network_that_computes_while_it_is_built_has_no_outline() -> None:
    assert on_meta(lambda: nn.Linear(int(torch.ones(1).item()), 2)) is None
