"""Studies: what is run on which models, and how runs survive."""
