"""Orchestration: the only folder that knows the whole pipeline."""
