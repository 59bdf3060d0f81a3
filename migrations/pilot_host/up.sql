-- The pilot host's tables: staging records, their payloads, and what CUT makes of them.
-- A small, faithful stand-in for the database that Reveille is installed beside; see README.md.
-- Needs Reveille's migrations first: it registers event types and job handlers as any host would.

create schema iu_core;
comment on schema iu_core is 'Pilot host: staging area and the pieces cut from it';

-- Host gates live apart from Reveille's dot_config, and begin closed.
create table tac_birth_gate_config (
  config_key text primary key,
  config_value text not null,
  updated_at timestamptz not null default clock_timestamp()
);
comment on table tac_birth_gate_config is 'Pilot host: gates and settings of the staging area; a missing key is a closed gate';
insert into tac_birth_gate_config (config_key, config_value) values
  ('iu_core.staging_writes_enabled', 'false'),
  ('iu_core.retention_enabled', 'false'),
  ('iu_core.staging_retention_days', '15'),
  ('iu_core.no_vector_staging_excluded', 'true');

create table iu_core.iu_staging_record (
  staging_record_id uuid primary key default gen_random_uuid(),
  staging_kind text not null,
  lifecycle_status text not null,
  owner_actor text not null,
  source_ref text not null,
  source_kind text not null,
  source_hash text not null,
  source_bytes bigint not null,
  piece_count integer not null,
  manifest_digest text not null,
  vector_excluded boolean not null default true,
  idempotency_key text not null unique,
  workflow_ref text,
  approved_at timestamptz,
  approval_doc_id text,
  approved_by text,
  rejected_at timestamptz,
  consumed_at timestamptz,
  expires_at timestamptz not null default clock_timestamp() + interval '15 days',
  cleaned_at timestamptz,
  archived_at timestamptz,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp(),
  constraint iu_staging_record_kind_check
    check (staging_kind in ('mark_manifest', 'sql_snapshot', 'nosql_payload', 'source_copy')),
  constraint iu_staging_record_lifecycle_check
    check (lifecycle_status in
      ('pending', 'pending_review', 'approved', 'consumed', 'rejected', 'expired', 'cleaned')),
  constraint iu_staging_record_vector_check check (vector_excluded),
  constraint iu_staging_record_approval_check
    check (lifecycle_status not in ('approved', 'consumed')
      or (approved_at is not null and approval_doc_id is not null)),
  constraint iu_staging_record_dates_check
    check ((lifecycle_status <> 'consumed' or consumed_at is not null)
      and (lifecycle_status <> 'rejected' or rejected_at is not null)
      and (lifecycle_status = 'cleaned') = (cleaned_at is not null))
);
comment on table iu_core.iu_staging_record is
  'Pilot host: one document on its way from MARK to clean-up; seven states, moved only along legal edges';
comment on column iu_core.iu_staging_record.manifest_digest is
  'md5 of source hash, source size and pieces: what was approved is what is cut';
comment on column iu_core.iu_staging_record.vector_excluded is
  'always true: nothing staged is ever turned into a vector';
create index iu_staging_record_waiting_idx
  on iu_core.iu_staging_record (lifecycle_status, expires_at) where lifecycle_status <> 'cleaned';

create table iu_core.iu_staging_payload (
  staging_payload_id uuid primary key default gen_random_uuid(),
  staging_record_id uuid not null
    references iu_core.iu_staging_record on delete cascade,
  part_name text not null,
  part_no integer not null default 1,
  payload_kind text not null,
  payload_json jsonb,
  payload_text text,
  blob_ref text,
  byte_len bigint not null,
  content_hash text not null,
  metadata jsonb not null default '{}',
  created_at timestamptz not null default clock_timestamp(),
  constraint iu_staging_payload_kind_check check (payload_kind in ('json', 'text', 'blob_ref')),
  constraint iu_staging_payload_one_body_check check (
    (payload_json is not null) = (payload_kind = 'json')
    and (payload_text is not null) = (payload_kind = 'text')
    and (blob_ref is not null) = (payload_kind = 'blob_ref')),
  constraint iu_staging_payload_cap_check check (byte_len between 0 and 10 * 1024 * 1024),
  constraint iu_staging_payload_part_check check (part_no >= 1),
  unique (staging_record_id, part_name, part_no)
);
comment on table iu_core.iu_staging_payload is
  'Pilot host: the bodies of staged documents, at most 10 MiB each; the only place beside the pieces that holds text';

create table iu_core.iu_source (
  source_ref text primary key,
  body text not null
);
comment on table iu_core.iu_source is 'Pilot host: documents as their authors keep them';
create table iu_core.iu_source_copy (
  workflow_ref text primary key,
  source_ref text not null,
  body text not null,
  copied_at timestamptz not null default clock_timestamp()
);
comment on table iu_core.iu_source_copy is 'Pilot host: a document as it was when its workflow began';

create table iu_core.iu_cut_run (
  run_id uuid primary key default gen_random_uuid(),
  staging_record_id uuid not null unique
    references iu_core.iu_staging_record on delete restrict,
  manifest_digest text not null,
  source_hash text not null,
  piece_count integer not null,
  byte_count bigint not null,
  open_composer boolean not null default false,
  actor text not null,
  cut_at timestamptz not null default clock_timestamp(),
  verdict text check (verdict in ('verified', 'failed')),
  verdict_axes jsonb,
  verified_at timestamptz,
  verified_by text,
  check ((verdict is null) = (verified_at is null))
);
comment on table iu_core.iu_cut_run is 'Pilot host: one CUT of one staging record, and the verdict on it';

create table iu_core.iu_piece (
  run_id uuid not null references iu_core.iu_cut_run on delete cascade,
  piece_no integer not null check (piece_no >= 1),
  staging_record_id uuid not null,
  heading_path text[] not null default '{}',
  byte_start bigint not null check (byte_start >= 0),
  byte_len bigint not null check (byte_len > 0),
  content_hash text not null,
  body text not null,
  created_at timestamptz not null default clock_timestamp(),
  primary key (run_id, piece_no)
);
comment on table iu_core.iu_piece is
  'Pilot host: contiguous pieces of a document; in order they are the document, byte for byte';
comment on column iu_core.iu_piece.heading_path is 'the headings above the piece, outermost first';

-- Collections: templates, and the instances that are composed of them.
create table iu_core.iu_collection (
  collection_id uuid primary key default gen_random_uuid(),
  collection_key text not null unique,
  title text not null,
  is_template boolean not null default false,
  note text,
  created_by text not null,
  created_at timestamptz not null default clock_timestamp()
);
comment on table iu_core.iu_collection is 'Pilot host: collections of pieces; a template is one that is marked as such';

create table iu_core.iu_collection_item (
  collection_id uuid not null references iu_core.iu_collection on delete cascade,
  item_no integer not null check (item_no >= 1),
  piece_ref text not null,
  primary key (collection_id, item_no)
);
comment on table iu_core.iu_collection_item is 'Pilot host: what a collection holds, in order; references only';

create table iu_auto_instantiate_event_log (
  instance_collection_id uuid primary key references iu_core.iu_collection on delete cascade,
  template_collection_id uuid not null,
  event_id uuid not null,
  event_type text not null,
  idempotency_key text not null unique,
  emit_mode text not null check (emit_mode in ('dry_run', 'live')),
  triggered_by text not null,
  created_at timestamptz not null default clock_timestamp()
);
comment on table iu_auto_instantiate_event_log is 'Pilot host: which event made which instance; the key is md5 over event, template and suffix';

-- These two gates of the host live in dot_config, and begin closed.
insert into dot_config (key, value)
select k, 'false' from unnest(array['iu_core.auto_instantiate_enabled', 'iu_core.composer_enabled']) k
 where not exists (select from dot_config c where c.key = k);

create table entity_species (
  species_code text primary key,
  display_name text not null,
  management_mode text not null default 'managed',
  created_at timestamptz not null default clock_timestamp()
);
comment on table entity_species is 'Pilot host: species of entities; a route can make birth_registry.entity_born of each insert (docs/trigger-in.md)';

-- Registered before anything emits them: one birth, four updates, all on the delayed lane.
insert into event_type_registry
  (event_domain, event_type, event_stream, delivery_lane, default_severity, description, active)
values
  ('staging', 'record_created', 'birth', 'delayed', 'info', 'A document was marked and awaits review', true),
  ('staging', 'record_approved', 'update', 'delayed', 'info', 'A marked document was approved for CUT', true),
  ('staging', 'record_rejected', 'update', 'delayed', 'info', 'A marked document was rejected', true),
  ('staging', 'record_consumed', 'update', 'delayed', 'info', 'A staged document was cut into pieces', true),
  ('staging', 'record_cleaned', 'update', 'delayed', 'info', 'The bodies of a staged document were removed', true),
  ('iu', 'template.instance_auto_composed', 'update', 'delayed', 'info', 'An instance of a template shall be composed', true),
  ('birth_registry', 'entity_born', 'birth', 'delayed', 'info', 'An entity was born', true)
on conflict (event_domain, event_type) do nothing;
