"""The loop every recipe runs in: resume, step, log, checkpoint. It knows no model."""
