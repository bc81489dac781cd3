"""Speed benchmarks: ratios in one run, never absolute promises."""
