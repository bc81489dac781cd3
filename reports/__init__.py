"""Reports: tables, figures and pages, made from a run folder alone."""
