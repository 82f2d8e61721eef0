"""The elastic method: torch in, torch out. No orchestrator and no store is imported here."""
