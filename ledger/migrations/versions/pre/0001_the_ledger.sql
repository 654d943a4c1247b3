-- The first schema. ledger/models says the same in Python; a test holds both together.

CREATE TYPE relais.job_state AS ENUM (
    'blocked', 'scheduled', 'ready', 'running', 'succeeded', 'failed', 'cancelled', 'unknown'
);

CREATE TYPE relais.message_state AS ENUM (
    'pending', 'sending', 'dot_sent', 'sent', 'deferred', 'failed', 'suppressed', 'unknown'
);

CREATE TABLE relais.job_events (
    seq BIGINT GENERATED ALWAYS AS IDENTITY,
    job_id UUID NOT NULL,
    tenant TEXT NOT NULL,
    from_state relais.job_state,
    to_state relais.job_state NOT NULL,
    attempt INTEGER NOT NULL,
    worker TEXT,
    colour TEXT,
    version TEXT,
    reason TEXT,
    error JSONB,
    duration_ms DOUBLE PRECISION,
    at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_job_events PRIMARY KEY (seq)
);

CREATE INDEX ix_job_events_at ON relais.job_events USING brin (at);

CREATE INDEX ix_job_events_job ON relais.job_events (job_id, seq);

CREATE TABLE relais.jobs (
    id UUID NOT NULL,
    tenant TEXT DEFAULT 'default' NOT NULL,
    kind TEXT NOT NULL,
    queue TEXT NOT NULL,
    state relais.job_state NOT NULL,
    priority SMALLINT DEFAULT 5 NOT NULL,
    payload JSONB NOT NULL,
    run_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    attempt INTEGER DEFAULT 0 NOT NULL,
    uncounted INTEGER DEFAULT 0 NOT NULL,
    max_attempts SMALLINT NOT NULL,
    timeout_s DOUBLE PRECISION NOT NULL,
    backoff JSONB,
    owner UUID,
    lease_until TIMESTAMP WITH TIME ZONE,
    worker TEXT,
    colour TEXT,
    version TEXT,
    alone BOOLEAN DEFAULT false NOT NULL,
    deaths SMALLINT DEFAULT 0 NOT NULL,
    reason TEXT,
    error JSONB,
    result JSONB,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE,
    finished_at TIMESTAMP WITH TIME ZONE,
    cancel_requested_at TIMESTAMP WITH TIME ZONE,
    has_children BOOLEAN DEFAULT false NOT NULL,
    on_parent_failure TEXT DEFAULT 'fail' NOT NULL,
    idempotency_key TEXT,
    request_hash BYTEA,
    callback_url TEXT,
    workflow_id TEXT,
    tags TEXT[] DEFAULT '{}' NOT NULL,
    traceparent TEXT,
    trace_id TEXT,
    accepted_by TEXT,
    CONSTRAINT pk_jobs PRIMARY KEY (id),
    CONSTRAINT ck_jobs_finished_at CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded','failed','cancelled','unknown'))),
    CONSTRAINT ck_jobs_running_owned CHECK ((state = 'running') = (owner IS NOT NULL AND lease_until IS NOT NULL)),
    CONSTRAINT ck_jobs_owner_lease CHECK ((owner IS NULL) = (lease_until IS NULL)),
    CONSTRAINT ck_jobs_priority CHECK (priority BETWEEN 0 AND 9),
    CONSTRAINT ck_jobs_attempts CHECK (attempt >= uncounted AND uncounted >= 0),
    CONSTRAINT ck_jobs_limits CHECK (max_attempts >= 1 AND timeout_s > 0),
    CONSTRAINT ck_jobs_on_parent_failure CHECK (on_parent_failure IN ('fail','release')),
    CONSTRAINT ck_jobs_idempotency CHECK ((idempotency_key IS NULL) = (request_hash IS NULL))
);

CREATE INDEX ix_jobs_claim ON relais.jobs (queue, priority DESC, run_at, id) WHERE state = 'ready';

CREATE INDEX ix_jobs_due ON relais.jobs (queue, run_at) WHERE state = 'scheduled';

CREATE INDEX ix_jobs_finished ON relais.jobs (finished_at) WHERE finished_at IS NOT NULL;

CREATE INDEX ix_jobs_owner ON relais.jobs (owner) WHERE state = 'running';

CREATE INDEX ix_jobs_put_right ON relais.jobs (tenant, state, id DESC) WHERE state IN ('failed','unknown','cancelled','blocked');

CREATE INDEX ix_jobs_tags ON relais.jobs USING gin (tags) WITH (fastupdate = on) WHERE tags <> '{}';

CREATE INDEX ix_jobs_tenant_id ON relais.jobs (tenant, id DESC);

CREATE INDEX ix_jobs_workflow ON relais.jobs (tenant, workflow_id, id DESC) WHERE workflow_id IS NOT NULL;

CREATE UNIQUE INDEX uq_jobs_idempotency ON relais.jobs (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;

CREATE TABLE relais.messages (
    id UUID NOT NULL,
    tenant TEXT DEFAULT 'default' NOT NULL,
    job_id UUID NOT NULL,
    position INTEGER NOT NULL,
    recipient TEXT NOT NULL,
    role TEXT NOT NULL,
    message_id TEXT NOT NULL,
    relay TEXT NOT NULL,
    state relais.message_state NOT NULL,
    attempt INTEGER NOT NULL,
    tries SMALLINT DEFAULT 0 NOT NULL,
    reply_code SMALLINT,
    enhanced_code TEXT,
    reply TEXT,
    reason TEXT,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    dot_sent_at TIMESTAMP WITH TIME ZONE,
    sent_at TIMESTAMP WITH TIME ZONE,
    changed_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_messages PRIMARY KEY (id),
    CONSTRAINT ck_messages_role CHECK (role IN ('to','cc','bcc')),
    CONSTRAINT ck_messages_sent_at CHECK ((state = 'sent') = (sent_at IS NOT NULL))
);

CREATE INDEX ix_messages_message_id ON relais.messages (message_id);

CREATE INDEX ix_messages_tenant_recipient ON relais.messages (tenant, recipient);

CREATE UNIQUE INDEX uq_messages_job_position ON relais.messages (job_id, position);

CREATE TABLE relais.queues (
    name TEXT NOT NULL,
    paused_at TIMESTAMP WITH TIME ZONE,
    paused_by TEXT,
    canary_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_queues PRIMARY KEY (name)
);

CREATE TABLE relais.relay_states (
    tenant TEXT DEFAULT 'default' NOT NULL,
    name TEXT NOT NULL,
    stopped_at TIMESTAMP WITH TIME ZONE,
    stopped_login TEXT,
    backoff_until TIMESTAMP WITH TIME ZONE,
    backoff_step SMALLINT DEFAULT 0 NOT NULL,
    reason TEXT,
    changed_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_relay_states PRIMARY KEY (tenant, name)
);

CREATE TABLE relais.schedules (
    id UUID NOT NULL,
    tenant TEXT DEFAULT 'default' NOT NULL,
    name TEXT NOT NULL,
    cron TEXT NOT NULL,
    timezone TEXT NOT NULL,
    job JSONB NOT NULL,
    enabled BOOLEAN DEFAULT true NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    changed_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    fired_until TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT pk_schedules PRIMARY KEY (id)
);

CREATE UNIQUE INDEX uq_schedules_tenant_name ON relais.schedules (tenant, name);

CREATE TABLE relais.suppressions (
    tenant TEXT DEFAULT 'default' NOT NULL,
    address TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_suppressions PRIMARY KEY (tenant, address)
);

CREATE TABLE relais.tenants (
    name TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_tenants PRIMARY KEY (name)
);

CREATE TABLE relais.workers (
    id UUID NOT NULL,
    name TEXT NOT NULL,
    queue TEXT NOT NULL,
    colour TEXT NOT NULL,
    version TEXT NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    lock_key BIGINT NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    seen_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_workers PRIMARY KEY (id)
);

CREATE TABLE relais.api_keys (
    id UUID NOT NULL,
    tenant TEXT DEFAULT 'default' NOT NULL,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    sha256 BYTEA NOT NULL,
    role TEXT NOT NULL,
    rate_per_s DOUBLE PRECISION,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    revoked_at TIMESTAMP WITH TIME ZONE,
    last_used_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_api_keys PRIMARY KEY (id),
    CONSTRAINT ck_api_keys_role CHECK (role IN ('producer','viewer','operator','admin')),
    CONSTRAINT fk_api_keys_tenant FOREIGN KEY(tenant) REFERENCES relais.tenants (name)
);

CREATE UNIQUE INDEX uq_api_keys_prefix ON relais.api_keys (prefix);

CREATE UNIQUE INDEX uq_api_keys_sha256 ON relais.api_keys (sha256);

CREATE TABLE relais.job_parents (
    child_id UUID NOT NULL,
    parent_id UUID NOT NULL,
    CONSTRAINT pk_job_parents PRIMARY KEY (child_id, parent_id),
    CONSTRAINT fk_job_parents_child_id FOREIGN KEY(child_id) REFERENCES relais.jobs (id) ON DELETE CASCADE
);

CREATE INDEX ix_job_parents_parent ON relais.job_parents (parent_id);

CREATE TABLE relais.schedule_ticks (
    schedule TEXT NOT NULL,
    nominal_at TIMESTAMP WITH TIME ZONE NOT NULL,
    tenant TEXT DEFAULT 'default' NOT NULL,
    job_id UUID NOT NULL,
    fired_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_schedule_ticks PRIMARY KEY (schedule, nominal_at),
    CONSTRAINT fk_schedule_ticks_tenant FOREIGN KEY(tenant) REFERENCES relais.tenants (name)
);

INSERT INTO relais.tenants (name) VALUES ('default');

-- History that code cannot forget: one statement-level trigger per kind of change, so that a
-- batch of 500 jobs costs one INSERT ... SELECT.
CREATE FUNCTION relais.record_accepted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO relais.job_events
        (job_id, tenant, from_state, to_state, attempt, worker, colour, version, reason, error)
    SELECT id, tenant, NULL, state, attempt, worker, colour, version, reason, error FROM changed;
    RETURN NULL;
END $$;

-- Its plan is cached when it first runs, perhaps for one row: a nested loop would then be
-- quadratic for a batch.
CREATE FUNCTION relais.record_changed() RETURNS trigger LANGUAGE plpgsql
SET enable_nestloop = off AS $$
BEGIN
    INSERT INTO relais.job_events
        (job_id, tenant, from_state, to_state, attempt, worker, colour, version, reason, error,
         duration_ms)
    SELECT n.id, n.tenant, o.state, n.state, n.attempt, n.worker, n.colour, n.version, n.reason,
           n.error,
           CASE WHEN o.state = 'running'
                THEN 1000 * extract(epoch FROM clock_timestamp() - o.started_at) END
    FROM changed AS n JOIN before AS o ON o.id = n.id
    WHERE n.state <> o.state;
    RETURN NULL;
END $$;

CREATE TRIGGER jobs_accepted AFTER INSERT ON relais.jobs
    REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION relais.record_accepted();

CREATE TRIGGER jobs_changed AFTER UPDATE ON relais.jobs
    REFERENCING OLD TABLE AS before NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION relais.record_changed();

-- The claim index loses a row per claim: vacuum often and cheaply, not after 20 % of a large table.
ALTER TABLE relais.jobs SET (
    autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 1
);
