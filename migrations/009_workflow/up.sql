-- Phase 009: workflows. A template is a graph; emitting it makes one workflow and its jobs, and edges between them decide
-- which job is free to run. MOT draws graphs, it runs nothing: every step belongs to an executor.

create table mot_template (
  template_key text not null
    constraint mot_template_key_check check (template_key ~ '^[a-z][a-z0-9_.-]{0,79}$'),
  version int not null constraint mot_template_version_check check (version >= 1),
  description text not null default '',
  params jsonb not null default '{"type": "object"}',
  nodes jsonb not null,
  edges jsonb not null default '[]',
  actor text not null,
  written_by name not null default session_user,
  created_at timestamptz not null default clock_timestamp(),
  used_at timestamptz,
  primary key (template_key, version)
);
comment on table mot_template is 'Graphs of jobs, by version; one that was used is never changed.';
comment on column mot_template.params is 'JSON schema of the parameters: type, properties, required, additionalProperties, items, enum, minimum, maximum, minLength, maxLength, pattern, minItems, maxItems.';
comment on column mot_template.nodes is 'Array of nodes, each after those that it needs: key, type (job, approval, event, graph) and what that asks for.';
comment on column mot_template.edges is 'Array of {from, to, on: success | failure | always, otherwise: fail | skip | continue, each}.';
comment on column mot_template.used_at is 'When the first workflow was made from it.';

-- Which job needs which. Written once; its state says what the needed job''s end meant.
create table job_dependency (
  job_id uuid not null,
  needs_job_id uuid not null,
  on_outcome text not null default 'success'
    constraint job_dependency_on_check check (on_outcome in ('success', 'failure', 'always')),
  otherwise text not null default 'fail'
    constraint job_dependency_otherwise_check check (otherwise in ('fail', 'skip', 'continue')),
  state text constraint job_dependency_state_check check (state in ('met', 'skipped', 'failed')),
  primary key (needs_job_id, job_id)
) with (fillfactor = 80);
create index job_dependency_job_idx on job_dependency (job_id);
comment on table job_dependency is 'Edges between the jobs of a workflow.';
comment on column job_dependency.state is 'null: the needed job has not ended. met: no hindrance. skipped: the job does not run. failed: the job waits until the needed one is retried.';

-- Who has decided about what: append-only.
create table job_approval (
  approval_id bigint generated always as identity primary key,
  job_id uuid not null,
  workflow_id uuid,
  decision text not null constraint job_approval_decision_check check (decision in ('approved', 'rejected')),
  effect_hash text,
  actor text not null,
  reason text,
  decided_by name not null default session_user,
  decided_at timestamptz not null default clock_timestamp(),
  expires_at timestamptz
);
create index job_approval_job_idx on job_approval (job_id);
create index job_approval_workflow_idx on job_approval (workflow_id);
comment on table job_approval is 'Approvals and rejections, with who and why.';

-- What has ended, oldest first: what may go, and what nobody has decided about. A workflow stands in one of them.
create index job_workflow_over_idx on job_workflow (finished_at) where status in ('succeeded', 'cancelled');
create index job_workflow_failed_idx on job_workflow (finished_at) where status in ('failed', 'partially_failed');
-- The steps of a workflow that have left. Months made later have it, too.
create index job_archive_workflow_idx on job_archive (workflow_id) where workflow_id is not null;
