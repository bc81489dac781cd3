"""Scanners: one file each. Higher scores are more suspicious."""

from __future__ import annotations

from collections.abc import Mapping

SCANNERS: Mapping[str, str] = {
    "nc": "scanners.neural_cleanse:NeuralCleanse",
    "abs": "scanners.artificial_brain_stimulation:ArtificialBrainStimulation",
    "trodo": "scanners.trodo:Trodo",
    "free-eagle": "scanners.free_eagle:FreeEagle",
    "filters": "scanners.filter_inversion:FilterInversion",
    "pixel": "scanners.pixel:Pixel",
    "k-arm": "scanners.k_arm:KArm",
    "cso": "scanners.class_subspace:ClassSubspace",
    "weights": "scanners.final_layer:FinalLayer",
    "mm-bd": "scanners.maximum_margin:MaximumMargin",
    "feature-re": "scanners.feature_re:FeatureRE",
}
"""Short name -> `"module:Class"`, resolved by `moth_eval.plugins.resolve`."""

ENTRY_POINTS = "moth_eval.scanners"
"""Entry point group under which other distributions add scanners."""
