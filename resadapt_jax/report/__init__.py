"""Pictures of results: what an allocation looks like."""
