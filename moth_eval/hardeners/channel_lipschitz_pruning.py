"""Channel Lipschitz pruning (CLP): channels that can change most go; no image is needed."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..hardening import SILENT, Hardening, HardeningStatus, Journal
from ..subject import Examples, Subject
from .flow import BATCH_NORMS, CONVOLUTIONS, flow_of
from .ranges import require_in


@dataclass(frozen=True, kw_only=True)
class ChannelLipschitzPruning:
    """Silences channels whose bound on change stands out from those of their layer.

    Source: Zheng et al., "Data-free Backdoor Removal based on Channel Lipschitzness", ECCV 2022.

    Differs from the reference: which BatchNorm follows which convolution is found by running the
    network, not by the order of its modules. A BatchNorm that no convolution feeds directly, as
    before the convolutions of a pre-activation network, is left alone.

    Attributes:
        u: standard deviations above the layer's mean from which a bound stands out (published: 3).
    """

    u: float = 3.0

    def __post_init__(self) -> None:
        require_in("[0, inf)", u=self.u)

    def harden(
        self,
        subject: Subject,
        data: Examples,
        *,
        generator: torch.Generator,
        journal: Journal = SILENT,
    ) -> Hardening:
        """A copy of the subject's network with outlying channels silent; no image is looked at."""
        pairs = _pairs(subject)
        if not pairs:
            return Hardening(
                status=HardeningStatus.INAPPLICABLE,
                reason="no convolution feeds a BatchNorm with weights and statistics directly",
            )
        network = deepcopy(subject.module).eval()
        pruned = total = 0
        for convolution, norm in pairs:
            silent = self.outliers(
                channel_bounds(
                    subject.module.get_submodule(convolution), subject.module.get_submodule(norm)
                )
            )
            with torch.no_grad():
                for parameter in network.get_submodule(norm).parameters(recurse=False):
                    parameter[silent.to(parameter.device)] = 0
            pruned, total = pruned + int(silent.sum()), total + len(silent)
        return Hardening(
            status=HardeningStatus.HARDENED,
            module=network,
            reason="" if pruned else "no channel stands out; nothing was pruned",
            figures={"layers": len(pairs), "channels": total, "pruned_channels": pruned},
        )

    def outliers(self, bounds: Tensor) -> Tensor:
        """Bool `(C,)`: which bounds `(C,)` stand out."""
        if len(bounds) < 2:
            return torch.zeros(len(bounds), dtype=torch.bool)
        return bounds > bounds.mean() + self.u * bounds.std()


def channel_bounds(convolution: nn.Module, norm: nn.Module) -> Tensor:
    """Per channel, how far a change of its input can carry, float64 `(C,)` on the CPU.

    The largest singular value of the channel's kernel as a matrix of input channels by places,
    times the factor that BatchNorm puts on it.
    """
    rows = convolution.get_parameter("weight").detach().double().cpu().flatten(2)
    variance = norm.get_buffer("running_var").double().cpu()
    factor = norm.get_parameter("weight").detach().double().cpu().abs()
    eps = float(getattr(norm, "eps", 0.0))
    largest: Tensor = torch.linalg.svdvals(rows)[:, 0]
    return largest * factor / (variance + eps).sqrt()


def _pairs(subject: Subject) -> list[tuple[str, str]]:
    """Names of each convolution and the BatchNorm that its output goes to; each norm once."""
    flow = flow_of(subject)
    found: dict[str, str] = {}
    for layer in flow.layers:
        if not isinstance(layer.module, CONVOLUTIONS):
            continue
        for norm in flow.fed_directly(layer):
            usable = isinstance(norm.module, BATCH_NORMS) and norm.module.affine
            if usable and norm.module.running_var is not None and flow.uses(norm.module) == 1:
                found[norm.name] = layer.name
    return [(convolution, norm) for norm, convolution in found.items()]
