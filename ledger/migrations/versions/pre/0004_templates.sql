-- Stored templates of mails, their versions, and default values of variables.
CREATE TABLE IF NOT EXISTS relais.templates (
    tenant TEXT DEFAULT 'default' NOT NULL,
    name TEXT NOT NULL,
    latest INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    created_by TEXT NOT NULL,
    changed_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    archived_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_templates PRIMARY KEY (tenant, name),
    CONSTRAINT ck_templates_name CHECK (name ~ '^[A-Za-z0-9_.-]{1,64}$')
);

CREATE TABLE IF NOT EXISTS relais.template_versions (
    tenant TEXT DEFAULT 'default' NOT NULL,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    subject TEXT NOT NULL,
    html TEXT,
    mjml TEXT,
    compiled TEXT,
    text TEXT,
    is_text_derived BOOLEAN NOT NULL,
    inlines_css BOOLEAN NOT NULL,
    variables JSONB NOT NULL,
    mentions TEXT[] NOT NULL,
    sha256 BYTEA NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    created_by TEXT NOT NULL,
    used_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_template_versions PRIMARY KEY (tenant, name, version),
    CONSTRAINT fk_template_versions_tenant_name FOREIGN KEY(tenant, name)
        REFERENCES relais.templates (tenant, name),
    CONSTRAINT ck_template_versions_version CHECK (version > 0),
    CONSTRAINT ck_template_versions_one_source CHECK (html IS NULL OR mjml IS NULL)
);

CREATE TABLE IF NOT EXISTS relais.template_defaults (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    tenant TEXT,
    template TEXT DEFAULT '' NOT NULL,
    variable TEXT NOT NULL,
    value JSONB NOT NULL,
    used BIGINT DEFAULT 0 NOT NULL,
    changed_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    changed_by TEXT NOT NULL,
    CONSTRAINT pk_template_defaults PRIMARY KEY (id)
);
CREATE UNIQUE INDEX IF NOT EXISTS uq_template_defaults_place
    ON relais.template_defaults (tenant, template, variable) NULLS NOT DISTINCT;

-- A mail that was sent says by its version what it was made from, so a version never changes.
CREATE OR REPLACE FUNCTION relais.refuse_changed_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF to_jsonb(OLD) - 'used_at' <> to_jsonb(NEW) - 'used_at' OR OLD.used_at IS NOT NULL THEN
        RAISE EXCEPTION 'version % of the template % cannot be changed', OLD.version, OLD.name
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER version_changed BEFORE UPDATE ON relais.template_versions
    FOR EACH ROW EXECUTE FUNCTION relais.refuse_changed_version();

-- Which version a job's mail was made from, and with which default values: noted by its first
-- attempt, kept to by every other.
ALTER TABLE relais.job_bodies ADD COLUMN IF NOT EXISTS template JSONB
