"""Imported once by the process that all workers are forked from; its imports are all it does."""

import torch
import torchvision

import moth_eval.inversion.engine
import moth_eval.loading.subjects

__all__ = ["moth_eval", "torch", "torchvision"]
