"""Faults injected into training runs: what survives under which guard."""
