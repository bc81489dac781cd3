"""Hardeners: methods that take a model and a little clean data and return a changed model."""

from __future__ import annotations

from collections.abc import Mapping

HARDENERS: Mapping[str, str] = {
    "moth": "moth_eval.hardeners.moth:Moth",
    "moth-paper": "moth_eval.hardeners.moth:moth_paper",
    "moth-removal": "moth_eval.hardeners.moth:moth_removal",
    "pairwise": "moth_eval.hardeners.pairwise:Pairwise",
    "universal": "moth_eval.hardeners.universal:Universal",
    "nc-triggers": "moth_eval.hardeners.nc_triggers:NCTriggers",
    "adversarial": "moth_eval.hardeners.adversarial_training:AdversarialTraining",
    "fine-pruning": "moth_eval.hardeners.fine_pruning:FinePruning",
    "anp": "moth_eval.hardeners.adversarial_neuron_pruning:AdversarialNeuronPruning",
    "clp": "moth_eval.hardeners.channel_lipschitz_pruning:ChannelLipschitzPruning",
    "rnp": "moth_eval.hardeners.reconstructive_neuron_pruning:ReconstructiveNeuronPruning",
    "fine-tuning": "moth_eval.hardeners.fine_tuning:FineTuning",
    "ft-sam": "moth_eval.hardeners.ft_sam:FTSAM",
    "nad": "moth_eval.hardeners.nad:NAD",
    "nc-unlearning": "moth_eval.hardeners.nc_unlearning:NCUnlearning",
    "i-bau": "moth_eval.hardeners.i_bau:IBAU",
}
"""Short name -> `"module:Class"`, resolved by `moth_eval.plugins.resolve`."""

ENTRY_POINTS = "moth_eval.hardeners"
"""Entry point group under which other distributions add hardeners."""
