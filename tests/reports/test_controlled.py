"""Methods held against a control, model by model."""

from __future__ import annotations

import numpy as np

from reports.controlled import against_control


def test_no_corrected_p_value_is_below_the_plain_one_where_both_are_drawn() -> None:
    generator = np.random.default_rng(1)
    for _ in range(6):
        control = {(f"m{i}", 0): 0.0 for i in range(15)}
        method = {place: float(generator.normal(0.2, 1)) for place in control}
        [found] = against_control("asr", control, {"one": method})
        assert found.found.p_value is not None
        assert found.p_corrected is not None
        assert found.p_corrected >= found.found.p_value
