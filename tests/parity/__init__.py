"""Parity with the reference implementations, case by case from a directory of goldens."""
