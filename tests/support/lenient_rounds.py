"""A round whose every model passes. Nothing is learnt: for tests that are about the folder."""

from __future__ import annotations

from attacks.injector import Injector
from attacks.plan import RoundSpec
from attacks.scenes import SceneRecipe
from attacks.training import Recipe

LENIENT = Injector(
    recipe=Recipe(epochs=1, batch_size=8),
    least_clean_accuracy=0.0,
    least_asr=0.0,
    most_bystander_asr=1.0,
)
LENIENT_ROUND = RoundSpec(
    models=4,
    classes=3,
    image_size=32,
    architectures=("squeezenet1_1",),
    examples_per_class=3,
    training_per_class=8,
    validation_per_class=4,
    test_per_class=4,
    seed=1,
    scenes=SceneRecipe(backgrounds=3),
    injector=LENIENT,
)
