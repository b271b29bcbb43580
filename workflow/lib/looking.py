"""How often Snakemake's scheduler looks for jobs that can start."""

import time
from typing import Any


def look_when_needed(scheduler: Any) -> None:
    """Have the scheduler look for jobs when one has ended, and again where its rate limit held any.

    Snakemake 9 starts 100 jobs a second at most, and looks again a second after each look for the
    sake of that limit. Each such look plans the next, and each job that ends adds a look, so that
    after some hundred jobs of a workflow they take a whole core.

    Args:
        scheduler: Snakemake's ``JobScheduler``, before its first look.
    """
    limiter = getattr(scheduler, "job_rate_limiter", None)
    look_later = getattr(scheduler, "_schedule_reevalutation", None)
    if limiter is None or look_later is None:
        return
    due = 0.0

    def look_later_if_held(delay: float) -> None:
        nonlocal due
        if limiter.get_free_jobs() == 0 and time.monotonic() >= due:
            due = time.monotonic() + delay
            look_later(delay)

    scheduler._schedule_reevalutation = look_later_if_held
