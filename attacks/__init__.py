"""Attacks: triggers, the injector that implants them, and the generator of rounds."""

from __future__ import annotations

from collections.abc import Mapping

ATTACKS: Mapping[str, str] = {
    "patch": "attacks.patch:Patch",
    "polygon": "attacks.polygon:Polygon",
    "blended": "attacks.blended:Blended",
    "sig": "attacks.sig:Sig",
    "instagram": "attacks.instagram:Instagram",
    "wanet": "attacks.wanet:WaNet",
    "tact": "attacks.tact:TaCT",
    "adaptive-blend": "attacks.adaptive_blend:AdaptiveBlend",
    "adaptive-patch": "attacks.adaptive_patch:AdaptivePatch",
    "label-consistent": "attacks.label_consistent:LabelConsistent",
    "reflection": "attacks.reflection:Reflection",
    "composite": "attacks.composite:Composite",
    "trojan-nn": "attacks.trojan_nn:TrojanNN",
    "input-aware": "attacks.input_aware:InputAware",
}
"""Name -> `"module:Class"` of every trigger, loaded when it is asked for."""

GROUP = "moth_eval.attacks"
"""Entry point group under which other distributions add triggers."""
