"""Attacks: triggers, the injector that implants them, and the generator of rounds."""
