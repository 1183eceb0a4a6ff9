"""Detectors alone, on losses that are made up: false alarms, and delays."""
