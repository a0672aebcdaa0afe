"""What the tests of the evidence share: jobs, and figures as a job leaves them."""

import json

from evidence_jobs import FULL, Job, fingerprint, jobs, result_path

KNOWN = jobs(FULL)


def make_job(name, **options):
    """A job whose figures are its name."""
    return Job(run=lambda folder: {"made": name}, config=json.dumps(name), minutes=1, **options)


def write_figures(folder, name, record, known=KNOWN):
    made_by = {"fingerprint": fingerprint(known, name), "versions": {"commit": "a"}}
    result_path(folder, name).write_text(json.dumps(made_by | record))
