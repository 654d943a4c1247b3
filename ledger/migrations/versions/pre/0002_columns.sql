-- Tables and columns of the second schema. Every statement may run again, and none takes long:
-- columns get constant defaults, tables are new.

ALTER TABLE relais.jobs
    ADD COLUMN IF NOT EXISTS lane TEXT COLLATE "C" DEFAULT '' NOT NULL,
    ADD COLUMN IF NOT EXISTS ready_at TIMESTAMP WITH TIME ZONE,
    ADD COLUMN IF NOT EXISTS deadline TIMESTAMP WITH TIME ZONE,
    ADD COLUMN IF NOT EXISTS payload_bytes INTEGER DEFAULT 0 NOT NULL,
    ADD COLUMN IF NOT EXISTS waits_for INTEGER DEFAULT 0 NOT NULL,
    ADD COLUMN IF NOT EXISTS snoozes INTEGER DEFAULT 0 NOT NULL,
    ADD COLUMN IF NOT EXISTS snoozed_since TIMESTAMP WITH TIME ZONE,
    ADD COLUMN IF NOT EXISTS death_attempts INTEGER[] DEFAULT '{}' NOT NULL,
    ALTER COLUMN payload DROP NOT NULL;

-- Room for the versions of a row beside each other: what changes no indexed column stays there.
ALTER TABLE relais.jobs SET (fillfactor = 85);

ALTER TABLE relais.workers
    ADD COLUMN IF NOT EXISTS kinds TEXT[] DEFAULT '{}' NOT NULL,
    ADD COLUMN IF NOT EXISTS lease_until TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL;

-- NULL: written by code that does not know the column; `fill_job_parents` decides.
ALTER TABLE relais.job_parents ADD COLUMN IF NOT EXISTS is_open BOOLEAN;

CREATE TABLE IF NOT EXISTS relais.job_bodies (
    job_id UUID NOT NULL,
    payload JSONB NOT NULL,
    result JSONB,
    key_id TEXT,
    CONSTRAINT pk_job_bodies PRIMARY KEY (job_id)
);

CREATE TABLE IF NOT EXISTS relais.lanes (
    queue TEXT NOT NULL,
    lane TEXT COLLATE "C" NOT NULL,
    kind TEXT NOT NULL,
    priority SMALLINT NOT NULL,
    CONSTRAINT pk_lanes PRIMARY KEY (queue, lane, kind, priority)
);

CREATE TABLE IF NOT EXISTS relais.lane_settings (
    queue TEXT NOT NULL,
    lane TEXT COLLATE "C" NOT NULL,
    paused_at TIMESTAMP WITH TIME ZONE,
    paused_until TIMESTAMP WITH TIME ZONE,
    paused_by TEXT,
    reason TEXT,
    running_max INTEGER,
    weight REAL DEFAULT 1 NOT NULL,
    changed_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    CONSTRAINT pk_lane_settings PRIMARY KEY (queue, lane),
    CONSTRAINT ck_lane_settings_running_max CHECK (running_max > 0),
    CONSTRAINT ck_lane_settings_weight CHECK (weight > 0 AND weight <= 1000),
    CONSTRAINT ck_lane_settings_paused CHECK (paused_until IS NULL OR paused_at IS NOT NULL)
);

CREATE TABLE IF NOT EXISTS relais.job_counts (
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    state relais.job_state NOT NULL,
    jobs BIGINT NOT NULL,
    CONSTRAINT pk_job_counts PRIMARY KEY (tenant, queue, state)
);

CREATE TABLE IF NOT EXISTS relais.job_count_deltas (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    tenant TEXT NOT NULL,
    queue TEXT NOT NULL,
    state relais.job_state NOT NULL,
    jobs INTEGER NOT NULL,
    CONSTRAINT pk_job_count_deltas PRIMARY KEY (id)
);

-- Both lose every row that they get within seconds.
ALTER TABLE relais.job_count_deltas SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000,
    autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE relais.job_bodies SET (
    fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.2
);

-- A message is updated two to four times, none of its indexed columns: 86 % of that stays in place.
ALTER TABLE relais.messages SET (
    fillfactor = 60, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.1
);
