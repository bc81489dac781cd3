"""Trigger inversion: many problems at once against one frozen classifier."""
