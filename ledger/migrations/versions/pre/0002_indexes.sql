-- Built while others write. One statement a paragraph, each outside of a transaction.

-- The claim: within a lane and kind the most urgent first, then the longest ready.
CREATE INDEX CONCURRENTLY ix_jobs_ready ON relais.jobs (queue, lane, kind, priority, ready_at, id) WHERE state = 'ready';

-- What comes due, by the same lanes.
CREATE INDEX CONCURRENTLY ix_jobs_scheduled ON relais.jobs (queue, lane, kind, priority, run_at) WHERE state = 'scheduled';

-- What a worker holds.
CREATE INDEX CONCURRENTLY ix_jobs_held ON relais.jobs (owner, started_at) WHERE state = 'running';

-- What waits for parents.
CREATE INDEX CONCURRENTLY ix_jobs_blocked ON relais.jobs (id) WHERE state = 'blocked';

-- Jobs that ended badly, in the order in which they did: their messages are looked after.
CREATE INDEX CONCURRENTLY ix_jobs_ended_badly ON relais.jobs (finished_at, id) WHERE state IN ('failed', 'cancelled', 'unknown');

-- Children that wait for a parent.
CREATE INDEX CONCURRENTLY ix_job_parents_open ON relais.job_parents (parent_id) WHERE is_open;
