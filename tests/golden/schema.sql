table audit_consumer
  version_id bigint not null generated always as identity
  consumer_key text not null
  event_domain text not null
  consumer jsonb not null
  changed_at timestamp with time zone not null
  seen_at timestamp with time zone not null
  holds_until timestamp with time zone
  replaced_at timestamp with time zone
  audit_consumer_pkey PRIMARY KEY (version_id)
  CREATE INDEX audit_consumer_domain_idx ON audit_consumer USING btree (event_domain, seen_at)
  CREATE UNIQUE INDEX audit_consumer_standing_idx ON audit_consumer USING btree (consumer_key) WHERE (replaced_at IS NULL)
  -- table: What each row of consumer_registry said, and for which events that is known. A row is ended once, when another text is found, and kept.
  -- changed_at: updated_at of the row: the change was committed later.
  -- seen_at: The change had been committed by then: every event created later met this text, or a newer one.
  -- holds_until: Every event created before was dispatched while the row still said this.
  -- replaced_at: When an audit found another text, or none. Null: it stands.

table audit_domain
  event_domain text not null
  place_at timestamp with time zone not null
  place_id uuid not null
  closed_until timestamp with time zone not null
  gap_at timestamp with time zone not null default '-infinity'::timestamp with time zone
  gap_id uuid not null default '00000000-0000-0000-0000-000000000000'::uuid
  events bigint not null default 0
  expected bigint not null default 0
  found bigint not null default 0
  missing bigint not null default 0
  repaired bigint not null default 0
  unproven bigint not null default 0
  audit_domain_pkey PRIMARY KEY (event_domain)
  -- table: How far the audit has come in each domain, and what it has counted since it began.
  -- place_at: With place_id: every event up to there has been looked at.
  -- closed_until: Every event created before had been dispatched when it was last looked at.
  -- gap_at: With gap_id: open gaps of events up to there have been looked at again. The next pass goes on behind it, and behind the last from the beginning.
  -- unproven: Pairs of event and consumer that it cannot judge: the consumer changed about then, or the recipients did, or the keys of that time are forgotten.

table audit_mark
  mark_id bigint not null generated always as identity
  watermark timestamp with time zone not null
  snapshot pg_snapshot not null
  system_identifier bigint not null
  marked_at timestamp with time zone not null default clock_timestamp()
  audit_mark_pkey PRIMARY KEY (mark_id)
  -- table: What the newest sweep had closed, kept for a day, and a snapshot that sees all of it. A domain whose position has read the snapshot is closed up to the watermark.
  -- watermark: Of the newest sweep: no transaction that began before it was open, and every event created before it has an arrival.
  -- system_identifier: The cluster whose transactions the snapshot names.

table consumer_backfill with (fillfactor=50)
  backfill_id uuid not null default fn_uuid_v7()
  consumer_key text not null
  event_domain text not null
  mode text not null
  generation integer
  consumer jsonb not null
  since timestamp with time zone not null
  until timestamp with time zone not null
  event_ids uuid[]
  job_limit bigint
  rate numeric
  priority job_priority not null
  place_at timestamp with time zone not null
  place_id uuid not null default '00000000-0000-0000-0000-000000000000'::uuid
  next_at timestamp with time zone not null default '-infinity'::timestamp with time zone
  estimate bigint not null default 0
  looked bigint not null default 0
  events bigint not null default 0
  expected bigint not null default 0
  made bigint not null default 0
  present bigint not null default 0
  not_matching bigint not null default 0
  without_job bigint not null default 0
  errors bigint not null default 0
  status text not null default 'running'::text
  note text
  actor job_actor not null
  reason text not null
  started_by name not null default SESSION_USER
  started_at timestamp with time zone not null default clock_timestamp()
  updated_at timestamp with time zone not null default clock_timestamp()
  ended_at timestamp with time zone
  consumer_backfill_ended_check CHECK (((status = ANY (ARRAY['finished'::text, 'cancelled'::text])) = (ended_at IS NOT NULL)))
  consumer_backfill_generation_check CHECK (((mode = 'replay'::text) = ((generation IS NOT NULL) AND (generation >= 2))))
  consumer_backfill_limit_check CHECK ((job_limit >= 1))
  consumer_backfill_mode_check CHECK ((mode = ANY (ARRAY['backfill'::text, 'replay'::text])))
  consumer_backfill_pkey PRIMARY KEY (backfill_id)
  consumer_backfill_rate_check CHECK ((rate > (0)::numeric))
  consumer_backfill_status_check CHECK ((status = ANY (ARRAY['running'::text, 'paused'::text, 'finished'::text, 'cancelled'::text, 'failed'::text])))
  CREATE INDEX consumer_backfill_open_idx ON consumer_backfill USING btree (updated_at) WHERE (ended_at IS NULL)
  CREATE UNIQUE INDEX consumer_backfill_generation_idx ON consumer_backfill USING btree (consumer_key, generation) WHERE (generation IS NOT NULL)
  -- table: Backfills and replays: what was asked for, how far each has come, what it made. Kept: the generations of replays are counted from it.
  -- generation: Of a replay: its jobs have the key of the consumer and #g with this number behind it; the job of live dispatch is the first generation.
  -- consumer: The row of consumer_registry when it began; once that reads otherwise, the run pauses.
  -- event_ids: Of a replay of single events: which; null is all of the window.
  -- job_limit: It ends when it has made so many jobs.
  -- rate: Jobs a second; null is as fast as it goes.
  -- place_at: With place_id: every event up to there has been seen to, together with its jobs.
  -- next_at: With a rate: no job is made before, whoever asks.
  -- estimate: How many events of the outbox the window has, as the planner guesses; for progress.
  -- looked: Events of the outbox, of any domain, that it has passed.
  -- events: Of these, those of its domain.
  -- expected: Jobs that the consumer wants of these: made, present and errors.
  -- present: Jobs that were there, made by live dispatch or an earlier run.
  -- without_job: Of a replay: jobs that were never made, and so are not repeated. A backfill makes them.
  -- errors: Jobs that cannot be made of their event; dispatch_error says why.
  -- note: Why it is paused, has failed or has ended.

table consumer_registry
  consumer_key text not null
  event_domain text not null
  event_type text not null default '*'::text
  event_stream text
  filter jsonpath
  job_kind job_kind
  executor executor_kind not null default 'PG_worker'::text
  priority job_priority not null default 100
  max_attempts job_limit
  delay interval not null default '00:00:00'::interval
  source_ref text default '{event_subject_ref}'::text
  target_ref text
  payload_ref text
  ordering_key text
  idempotency_key text not null default '{consumer_key}:{event_id}'::text
  enabled boolean not null default false
  dry_run boolean not null default false
  fan_out text
  starts_at timestamp with time zone not null default clock_timestamp()
  description text
  source text not null default 'sql'::text
  actor job_actor not null default SESSION_USER
  created_at timestamp with time zone not null default clock_timestamp()
  updated_at timestamp with time zone not null default clock_timestamp()
  event_type_like text generated always as (replace(replace(event_type, '_'::text, '\_'::text), '*'::text, '%'::text)) stored
  consumer_registry_delay_check CHECK (((delay >= '00:00:00'::interval) AND (delay <= '100 years'::interval)))
  consumer_registry_event_type_check CHECK ((event_type ~ '^[a-z0-9_.*]{1,200}$'::text))
  consumer_registry_fan_out_check CHECK ((fan_out = 'recipients'::text))
  consumer_registry_key_check CHECK ((consumer_key ~ '^[a-z0-9][a-z0-9_.-]{0,119}$'::text))
  consumer_registry_pkey PRIMARY KEY (consumer_key)
  consumer_registry_source_check CHECK ((source = ANY (ARRAY['sql'::text, 'file'::text])))
  CREATE TRIGGER consumer_registry_announce AFTER INSERT OR DELETE OR UPDATE ON consumer_registry FOR EACH STATEMENT EXECUTE FUNCTION fn_queue_control_announce()
  CREATE TRIGGER consumer_registry_check BEFORE INSERT OR UPDATE ON consumer_registry FOR EACH ROW EXECUTE FUNCTION fn_consumer_registry_check()
  -- table: Consumers: one row turns matching events of a domain into jobs of a kind. Checked when written; read by every pass.
  -- event_type: Exact, or with * for any characters: record_*, *.
  -- filter: A jsonpath predicate over {"event": …, "payload": …}; null lets everything pass, null as its result does not.
  -- job_kind: Null: terminal, the fact is seen and no job is made.
  -- delay: The job is not claimed before this long after dispatch.
  -- source_ref: Template; variables {event_id} {event_type} {event_subject_table} {event_subject_ref} {canonical_address} {correlation_id} {consumer_key} {payload.KEY}.
  -- idempotency_key: Template. A variable without a value makes the event undigestible for this row (dispatch_error); in a ref it gives null.
  -- dry_run: Match and count, enqueue nothing.
  -- fan_out: recipients: one job for each recipient of the event (fn_event_recipients), named {recipient} in templates; none, no job. Null: one job. Fixed when the row is made.
  -- starts_at: Events created before do not flow; the default is now.
  -- source: file: kept by `reveille consumers sync`; sql: written by somebody else and never touched by it.

table dead_letter_authority
  event_domain text not null
  role_name name not null
  may_triage boolean not null default true
  may_replay boolean not null default false
  actor text not null default SESSION_USER
  created_at timestamp with time zone not null default clock_timestamp()
  dead_letter_authority_pkey PRIMARY KEY (event_domain, role_name)
  -- table: Which role may triage and replay dead letters of which domain; * is every domain, and jobs without one.

table dispatch_cursor
  event_domain text not null
  system_identifier bigint not null
  created_at timestamp with time zone not null default clock_timestamp()
  dispatch_cursor_pkey PRIMARY KEY (event_domain)
  -- table: One static row a domain. Its row lock elects the dispatcher of the domain; a pass never updates it.
  -- system_identifier: The cluster whose transaction ids the positions speak of; another one means a restored dump.

table dispatch_error
  event_id uuid not null
  consumer_key text not null
  event_domain text not null
  sqlstate text not null
  message text not null
  tries integer not null default 1
  first_at timestamp with time zone not null default clock_timestamp()
  last_at timestamp with time zone not null default clock_timestamp()
  dispatch_error_pkey PRIMARY KEY (event_id, consumer_key)
  CREATE INDEX dispatch_error_first_at_idx ON dispatch_error USING btree (first_at)
  -- table: Events that one consumer row could not digest. The others were served. fn_consumer_dispatch(event_id) tries again.

table dispatch_gap
  event_id uuid not null
  consumer_key text not null
  event_domain text not null
  event_type text not null
  event_created_at timestamp with time zone not null
  found_at timestamp with time zone not null default clock_timestamp()
  closed_at timestamp with time zone
  outcome text
  dispatch_gap_closed_check CHECK (((closed_at IS NULL) = (outcome IS NULL)))
  dispatch_gap_outcome_check CHECK ((outcome = ANY (ARRAY['repaired'::text, 'decided'::text, 'not_wanted'::text, 'event_gone'::text])))
  dispatch_gap_pkey PRIMARY KEY (event_id, consumer_key)
  CREATE INDEX dispatch_gap_closed_idx ON dispatch_gap USING btree (closed_at) WHERE (closed_at IS NOT NULL)
  CREATE INDEX dispatch_gap_consumer_idx ON dispatch_gap USING btree (event_domain, consumer_key, event_created_at, event_id) WHERE (closed_at IS NULL)
  CREATE INDEX dispatch_gap_open_idx ON dispatch_gap USING btree (event_domain, event_created_at, event_id) WHERE (closed_at IS NULL)
  -- table: Events that had no decision for a consumer that wanted them, as the audit found them.
  -- outcome: repaired: the audit made the job. decided: somebody else did. not_wanted: the consumer does not want the event any more. event_gone: there is no such event any more.

table dispatch_pass with (vacuum_truncate=off)
  pass_id bigint not null generated always as identity
  event_domain text not null
  snapshot_old pg_snapshot not null
  snapshot_new pg_snapshot not null
  place_tx xid8
  place_seq bigint
  events integer not null
  jobs integer not null
  duplicates integer not null
  errors integer not null
  found_by text not null
  finished_at timestamp with time zone not null default clock_timestamp()
  took interval not null default '00:00:00'::interval
  CREATE UNIQUE INDEX dispatch_pass_newest_idx ON dispatch_pass USING btree (event_domain, pass_id)
  -- table: Append-only: every pass that read something, with the position after it. The newest row of a domain is its position.
  -- snapshot_old: What this snapshot saw had been read before the pair was begun.
  -- snapshot_new: What this snapshot sees and the older does not is being read.
  -- place_tx: Place within the pair (with place_seq); null when the pair has been read to its end.
  -- found_by: What made the dispatcher look: notify, poll, look, start, control or tick.

table dispatch_sweep
  sweep_id bigint not null generated always as identity
  swept_at timestamp with time zone not null
  swept_from timestamp with time zone not null
  watermark timestamp with time zone not null
  snapshot pg_snapshot not null
  missing integer not null
  dispatch_sweep_pkey PRIMARY KEY (sweep_id)
  -- table: Append-only: every sweep that moved its watermark far enough or found something.
  -- watermark: No transaction that began before this moment was still open; the next sweep begins here.

table dot_config
  key text not null
  value text
  updated_at timestamp with time zone not null default now()
  dot_config_pkey PRIMARY KEY (key)
  -- table: Gates and settings: text keys, text values. A missing key is a closed gate.

table dot_config_audit
  audit_id bigint not null generated always as identity
  key text not null
  old_value text
  new_value text
  actor text not null
  reason text not null
  changed_by name not null default SESSION_USER
  changed_at timestamp with time zone not null default clock_timestamp()
  dot_config_audit_pkey PRIMARY KEY (audit_id)
  -- table: Append-only: every flip of a gate through fn_gate_set, with who and why.

table event_arrival with (autovacuum_vacuum_insert_scale_factor=0.05, vacuum_truncate=off)
  arrival_seq bigint not null generated always as identity
  tx_id xid8 not null
  event_domain text not null
  event_id uuid not null
  CREATE INDEX event_arrival_order_idx ON event_arrival USING btree (event_domain, tx_id, arrival_seq)
  -- table: Append-only: which transaction wrote which event. The dispatcher reads the outbox through it, in an order that loses nothing.
  -- arrival_seq: Order within one transaction; across transactions it promises nothing.
  -- tx_id: The writing transaction (top level); compared with snapshots, never with clocks.

table event_outbox
  id uuid not null default gen_random_uuid()
  event_domain text not null
  event_type text not null
  event_stream text not null
  delivery_lane text not null
  event_severity text
  event_subject_table text
  event_subject_ref text
  canonical_address text
  actor_ref text
  source_system text
  correlation_id text
  payload_classification text not null default 'safe_metadata'::text
  safe_payload jsonb not null default '{}'::jsonb
  occurred_at timestamp with time zone not null default now()
  created_at timestamp with time zone not null default now()
  event_outbox_delivery_lane_check CHECK ((delivery_lane = ANY (ARRAY['immediate'::text, 'delayed'::text])))
  event_outbox_event_domain_check CHECK ((event_domain = ANY (ARRAY['iu'::text, 'piece'::text, 'staging'::text, 'birth_registry'::text, 'governance'::text, 'tac'::text, 'kg'::text, 'system'::text, 'dot'::text, 'health'::text])))
  event_outbox_event_severity_check CHECK ((event_severity = ANY (ARRAY['info'::text, 'warning'::text, 'critical'::text])))
  event_outbox_event_stream_check CHECK ((event_stream = ANY (ARRAY['comment'::text, 'review'::text, 'update'::text, 'birth'::text, 'task'::text, 'alert'::text, 'health'::text])))
  event_outbox_payload_classification_check CHECK ((payload_classification = ANY (ARRAY['safe_metadata'::text, 'restricted'::text])))
  event_outbox_pkey PRIMARY KEY (id)
  event_outbox_safe_payload_check CHECK (((safe_payload)::text !~* '[{ ]"(body|content|raw|vector|embedding|secret|token|password|ssn|personal_data)": '::text))
  CREATE INDEX event_outbox_created_at_idx ON event_outbox USING btree (created_at)
  CREATE TRIGGER reveille_event_arrival AFTER INSERT ON event_outbox REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION fn_event_arrival_record()
  -- table: Facts, append-only: one row for each thing that happened. Created by Reveille because the host had none.

table event_route
  route_code text not null
  actor text not null
  written_by name not null default SESSION_USER
  created_at timestamp with time zone not null default clock_timestamp()
  updated_at timestamp with time zone not null default clock_timestamp()
  events bigint not null default 0
  dry_run_events bigint not null default 0
  consent_no integer not null default 0
  said_at timestamp with time zone not null default clock_timestamp()
  was_live boolean not null default false
  rows_sql text
  rows_for jsonb
  rows_consent text
  rows_columns text[]
  rows_shape text
  event_route_pkey PRIMARY KEY (route_code)
  -- table: Which rows of iu_sql_event_route are ours, and who wrote them last. Others are the host's, and left alone.
  -- events: Events emitted so far, as far as fn_route_prune has added them up.
  -- dry_run_events: Events that it would have emitted in its dry run, likewise.
  -- consent_no: The number of the consent in its trigger that is valid: the table's owner gives a new one when the route is switched on; switching it off ends it.
  -- said_at: When what it tells, or of which table, changed last.
  -- was_live: It has been live as it is since then.
  -- rows_sql: What fn_route_rows made, for the trigger to run; it makes it anew when the route or the table is another than below.
  -- rows_for: What of the route it was made for.
  -- rows_consent: The trigger's argument that covers that; null when none does.
  -- rows_columns: The columns of the contract and of the primary key.
  -- rows_shape: fn_route_shape of the table when it was made.

table event_route_count
  route_code text not null
  is_dry boolean not null
  events bigint not null
  -- table: Append-only: how many events each statement made, until fn_route_prune adds them to event_route.

table event_route_fault
  fault_id bigint not null generated always as identity
  route_code text not null
  noted_at timestamp with time zone not null default clock_timestamp()
  sqlstate text not null
  message text not null
  changes bigint
  dry_run boolean not null
  written_by name not null default SESSION_USER
  event_route_fault_pkey PRIMARY KEY (fault_id)
  CREATE INDEX event_route_fault_route_idx ON event_route_fault USING btree (route_code, fault_id)
  -- table: Append-only: writes that passed without their events, because the route is not fail_closed or in its dry run.
  -- changes: How many changes got no event; null: all of the statement.

table event_route_key
  route_code text not null
  row_key text not null
  tx_id xid8
  noted_at timestamp with time zone not null default clock_timestamp()
  event_route_key_pkey PRIMARY KEY (route_code, row_key)
  CREATE INDEX event_route_key_noted_at_idx ON event_route_key USING btree (noted_at) WHERE (tx_id IS NOT NULL)
  -- table: What routes with the policy per_row or per_transaction have told already.
  -- row_key: The source, the statement's kind and the primary key as JSON; its SHA-256 when that is long.
  -- tx_id: The transaction, for per_transaction; such rows are removed after a day.

table event_route_sample
  sample_id bigint not null generated always as identity
  route_code text not null
  noted_at timestamp with time zone not null default clock_timestamp()
  statements bigint not null
  changes bigint not null
  events bigint not null
  duplicates bigint not null
  unfit bigint not null
  sample jsonb
  event_route_sample_pkey PRIMARY KEY (sample_id)
  CREATE INDEX event_route_sample_route_idx ON event_route_sample USING btree (route_code, sample_id)
  -- table: Append-only: what each statement would have emitted in a dry run. Old rows are added up into one.
  -- sample: The first events of the statement: subject and payload, nothing beyond the contract. Null in sums.

table event_subscription
  recipient_ref text not null
  event_domain text
  event_type text
  event_stream text
  scope_subject_table text
  scope_filter jsonb
  mute boolean not null default false
  -- table: Who is told of which events: null is any. Created by Reveille because the host had none.
  -- recipient_ref: user:…, agency:…, role:… or agent:….
  -- event_type: Without its domain, exact.
  -- scope_filter: An object: what the payload contains. A text: a jsonpath predicate over {"event": …, "payload": …}, as the filters of consumers.
  -- mute: true: this recipient is not told of these events, whatever its other rows say.

table event_type_registry
  event_domain text not null
  event_type text not null
  event_stream text not null
  delivery_lane text not null
  default_severity text
  description text not null
  active boolean not null default true
  created_at timestamp with time zone not null default now()
  event_type_registry_event_domain_event_type_key UNIQUE (event_domain, event_type)
  -- table: Event types that may be emitted, with their stream, lane and severity.

table host_constraint
  table_name text not null
  constraint_name text not null
  definition text not null
  noted_at timestamp with time zone not null default clock_timestamp()
  host_constraint_pkey PRIMARY KEY (table_name, constraint_name)
  -- table: Constraints of the host that were widened here, as they were; the down step puts them back.

table host_object
  object_name text not null
  created boolean not null
  noted_at timestamp with time zone not null default clock_timestamp()
  host_object_pkey PRIMARY KEY (object_name)
  -- table: Tables shared with the host: created here, or found and adopted as they were.
  -- created: true: created by Reveille and dropped by its down step; false: the host's own, never altered.

table iu_sql_event_route
  route_code text not null
  source_object_kind text not null default 'table'::text
  source_schema text not null
  source_table text not null
  sql_event text not null
  target_event_domain text not null
  target_event_type text not null
  target_event_stream text
  enabled boolean not null default false
  dry_run boolean not null default true
  fail_closed boolean not null default false
  idempotency_policy text not null default 'per_change'::text
  payload_contract jsonb not null default '{}'::jsonb
  created_at timestamp with time zone not null default clock_timestamp()
  updated_at timestamp with time zone not null default clock_timestamp()
  iu_sql_event_route_pkey PRIMARY KEY (route_code)
  iu_sql_event_route_sql_event_check CHECK ((sql_event = ANY (ARRAY['insert'::text, 'update'::text, 'delete'::text])))
  iu_sql_event_route_target_event_domain_check CHECK ((target_event_domain = ANY (ARRAY['iu'::text, 'iu_sql'::text, 'piece'::text, 'staging'::text, 'birth_registry'::text, 'governance'::text, 'tac'::text, 'kg'::text, 'system'::text, 'dot'::text, 'health'::text])))
  -- table: Routes: which insert, update or delete of which table becomes which event. Written by fn_route_put.
  -- target_event_stream: The stream of the type when the route was written; the event gets the registry's.
  -- dry_run: Count and keep samples, emit nothing.
  -- fail_closed: true: a write whose event cannot be emitted is refused. false: it passes, and event_route_fault tells.
  -- idempotency_policy: per_row: once ever for a row; per_transaction: once for a row in a transaction; per_change: each time.
  -- payload_contract: columns that may travel, templates subject_ref, canonical_address and correlation_id, when_changed.

table job_approval
  approval_id bigint not null generated always as identity
  job_id uuid not null
  workflow_id uuid
  decision text not null
  effect_hash text
  actor text not null
  reason text
  decided_by name not null default SESSION_USER
  decided_at timestamp with time zone not null default clock_timestamp()
  expires_at timestamp with time zone
  job_approval_decision_check CHECK ((decision = ANY (ARRAY['approved'::text, 'rejected'::text])))
  job_approval_pkey PRIMARY KEY (approval_id)
  CREATE INDEX job_approval_job_idx ON job_approval USING btree (job_id)
  CREATE INDEX job_approval_workflow_idx ON job_approval USING btree (workflow_id)
  -- table: Approvals and rejections, with who and why.

table job_archive
  job_id uuid not null
  job_kind job_kind not null
  status job_status not null
  executor executor_kind not null
  event_domain text
  source_ref text
  target_ref text
  payload_ref text
  safe_payload signal not null
  priority job_priority not null
  scheduled_at timestamp with time zone not null
  picked_at timestamp with time zone
  started_at timestamp with time zone
  finished_at timestamp with time zone not null
  lease_owner text
  lease_token bigint
  attempts job_count not null
  lease_losses job_count not null
  max_attempts job_limit not null
  policy jsonb
  error_count job_count not null
  last_error text
  idempotency_key job_key not null
  ordering_key text
  actor job_actor not null
  run_id uuid
  workflow_id uuid
  parent_job_id uuid
  blocked_by job_count not null
  causation_event_id uuid
  consumer_key text
  correlation_id text
  traceparent text
  result_ref text
  cancel_requested_at timestamp with time zone
  cancel_reason text
  created_at timestamp with time zone not null
  updated_at timestamp with time zone not null
  history jsonb not null
  archived_at timestamp with time zone not null default clock_timestamp()
  job_archive_pkey PRIMARY KEY (job_id, finished_at)
  CREATE INDEX job_archive_event_idx ON ONLY job_archive USING btree (causation_event_id) WHERE (causation_event_id IS NOT NULL)
  CREATE INDEX job_archive_workflow_idx ON ONLY job_archive USING btree (workflow_id) WHERE (workflow_id IS NOT NULL)
  -- table: Jobs that have left job_queue, by the month (UTC) in which they ended. fn_job_archive makes the partitions; there is no default one.
  -- history: How each lease ended: the rows of job_attempt, oldest first, and the success that stood on the job's own row.

table job_archive_bound
  job_kind text not null
  newest_event timestamp with time zone not null
  job_archive_bound_pkey PRIMARY KEY (job_kind)
  -- table: For each kind of archived jobs, the greatest created_at of the events that they were made from: a newer event has no job there.
  -- newest_event: infinity: a key held the id of something else than its own event, so nothing is known.

table job_archive_forgotten
  is_only boolean not null default true
  until timestamp with time zone not null
  job_archive_forgotten_only_check CHECK (is_only)
  job_archive_forgotten_pkey PRIMARY KEY (is_only)
  -- table: One row: how far the keys of archived jobs went with their months. Whoever asks for the job of an older event would be told that there never was one.
  -- until: Of jobs that ended from then on, every key is known, and so of events created from then on. -infinity: no month has gone.

table job_archive_key
  job_kind text not null
  idempotency_key text not null
  job_id uuid not null
  finished_at timestamp with time zone not null
  job_archive_key_pkey PRIMARY KEY (job_kind, idempotency_key)
  CREATE INDEX job_archive_key_finished_at_idx ON job_archive_key USING brin (finished_at)
  -- table: Which archived job holds an idempotency key, so that a second enqueue still answers the first job.
  -- finished_at: The job's, which says in which partition of job_archive it is.

table job_attempt
  job_id uuid not null
  lease_token bigint not null
  lease_owner text not null
  picked_at timestamp with time zone not null
  started_at timestamp with time zone
  ended_at timestamp with time zone not null default clock_timestamp()
  outcome text not null
  error text
  reported_by name not null default SESSION_USER
  job_attempt_outcome_check CHECK ((outcome = ANY (ARRAY['succeeded'::text, 'transient'::text, 'permanent'::text, 'lease_lost'::text, 'released'::text, 'snoozed'::text, 'cancelled'::text])))
  job_attempt_pkey PRIMARY KEY (job_id, lease_token)
  CREATE TRIGGER job_attempt_append_only BEFORE UPDATE ON job_attempt FOR EACH ROW EXECUTE FUNCTION fn_job_attempt_refuse()
  -- table: How each lease of a job ended; append-only. A success is on the job's row, and comes here when that row is used again.
  -- outcome: lease_lost: nobody reported. released and snoozed cost the job nothing.
  -- reported_by: session_user of whoever ended it; the reaper's for a lost lease.

table job_dead_letter
  dead_letter_id uuid not null default fn_uuid_v7()
  job_id uuid not null
  job_kind job_kind not null
  event_domain text
  executor executor_kind not null
  consumer_key text
  reason_class text not null
  error text
  job jsonb not null
  attempts jsonb not null
  previous_dead_letter_id uuid
  triage_status text not null default 'open'::text
  triage_actor text
  triage_role name
  triage_note text
  triaged_at timestamp with time zone
  replayed_at timestamp with time zone
  replayed_by name
  authorization_source text
  created_at timestamp with time zone not null default clock_timestamp()
  job_dead_letter_pkey PRIMARY KEY (dead_letter_id)
  job_dead_letter_reason_check CHECK ((reason_class = ANY (ARRAY['attempts_exhausted'::text, 'permanent'::text, 'lease_lost'::text])))
  job_dead_letter_triage_check CHECK ((triage_status = ANY (ARRAY['open'::text, 'investigating'::text, 'manual_replay'::text, 'discarded'::text, 'superseded'::text, 'closed'::text])))
  CREATE INDEX job_dead_letter_job_idx ON job_dead_letter USING btree (job_id, created_at)
  CREATE INDEX job_dead_letter_open_idx ON job_dead_letter USING btree (created_at, dead_letter_id) WHERE (triage_status = ANY (ARRAY['open'::text, 'investigating'::text, 'manual_replay'::text]))
  -- table: Jobs that may not be tried again, with all that is known: the job, its attempts, why. Decided about by triage.
  -- reason_class: attempts_exhausted: it failed too often. permanent: trying again cannot help. lease_lost: its workers went away.
  -- job: The whole row of job_queue at that moment.
  -- attempts: The rows of job_attempt at that moment, oldest first.
  -- previous_dead_letter_id: The dead letter that was replayed and failed again.
  -- authorization_source: Where it stands that the replay was allowed: a ticket, a decision, a person.

table job_dependency with (fillfactor=80)
  job_id uuid not null
  needs_job_id uuid not null
  on_outcome text not null default 'success'::text
  otherwise text not null default 'fail'::text
  state text
  job_dependency_on_check CHECK ((on_outcome = ANY (ARRAY['success'::text, 'failure'::text, 'always'::text])))
  job_dependency_otherwise_check CHECK ((otherwise = ANY (ARRAY['fail'::text, 'skip'::text, 'continue'::text])))
  job_dependency_pkey PRIMARY KEY (needs_job_id, job_id)
  job_dependency_state_check CHECK ((state = ANY (ARRAY['met'::text, 'skipped'::text, 'failed'::text])))
  CREATE INDEX job_dependency_job_idx ON job_dependency USING btree (job_id)
  -- table: Edges between the jobs of a workflow.
  -- state: null: the needed job has not ended. met: no hindrance. skipped: the job does not run. failed: the job waits until the needed one is retried.

table job_gate
  job_id uuid not null
  workflow_id uuid not null
  kind text not null
  event_domain text
  event_type text
  filter jsonpath
  correlation_id text
  event_id uuid
  effect_hash text
  expires_at timestamp with time zone
  closed_at timestamp with time zone
  created_at timestamp with time zone not null default clock_timestamp()
  job_gate_event_check CHECK (((kind = 'event'::text) = ((event_domain IS NOT NULL) AND (event_type IS NOT NULL))))
  job_gate_kind_check CHECK ((kind = ANY (ARRAY['approval'::text, 'event'::text])))
  job_gate_pkey PRIMARY KEY (job_id)
  CREATE INDEX job_gate_event_idx ON job_gate USING btree (event_domain, event_type) WHERE ((kind = 'event'::text) AND (event_id IS NULL))
  CREATE INDEX job_gate_expires_idx ON job_gate USING btree (expires_at) WHERE (closed_at IS NULL)
  CREATE INDEX job_gate_workflow_idx ON job_gate USING btree (workflow_id)
  -- table: Nodes that wait for an approval or for an event: jobs that no executor claims.
  -- event_id: The first event since the workflow began that fits.
  -- effect_hash: What was approved: the hash of what the jobs before it have given.
  -- closed_at: When the refresh found it over, with nothing left to expire; the refresh opens it again when its workflow is retried.

table job_handler
  job_kind text not null
  handler text not null
  description text
  created_at timestamp with time zone not null default clock_timestamp()
  updated_at timestamp with time zone not null default clock_timestamp()
  job_handler_pkey PRIMARY KEY (job_kind)
  CREATE TRIGGER job_handler_announce AFTER INSERT OR DELETE OR UPDATE ON job_handler FOR EACH STATEMENT EXECUTE FUNCTION fn_job_handler_announce()
  CREATE TRIGGER job_handler_check BEFORE INSERT OR UPDATE ON job_handler FOR EACH ROW EXECUTE FUNCTION fn_job_handler_check()
  -- table: SQL functions that run jobs: one a kind, signature (p_job jsonb) returns jsonb.
  -- handler: schema.function(jsonb), checked and qualified when written. Text, as pg_upgrade refuses regprocedure columns.

table job_order_pending
  ordering_key text not null
  noted_at timestamp with time zone not null default clock_timestamp()
  -- table: Ordering keys whose next job the next claim has to find; empty but for moments.

table job_queue with (fillfactor=70, autovacuum_vacuum_scale_factor=0.02, autovacuum_vacuum_cost_delay=0, vacuum_truncate=off)
  job_id uuid not null default fn_uuid_v7()
  job_kind job_kind not null
  status job_status not null default 'queued'::text
  executor executor_kind not null default 'PG_worker'::text
  event_domain text
  source_ref text
  target_ref text
  payload_ref text
  safe_payload signal not null default '{}'::jsonb
  priority job_priority not null default 100
  scheduled_at timestamp with time zone not null default clock_timestamp()
  picked_at timestamp with time zone
  started_at timestamp with time zone
  finished_at timestamp with time zone
  lease_owner text
  lease_token bigint
  lease_until timestamp with time zone
  attempts job_count not null default 0
  lease_losses job_count not null default 0
  max_attempts job_limit not null default 5
  policy jsonb
  error_count job_count not null default 0
  last_error text
  idempotency_key job_key not null
  ordering_key text
  ordering_slot smallint
  freed_at timestamp with time zone
  limit_slot integer
  actor job_actor not null
  run_id uuid
  workflow_id uuid
  parent_job_id uuid
  blocked_by job_count not null default 0
  causation_event_id uuid
  consumer_key text
  correlation_id text
  traceparent text
  result_ref text
  cancel_requested_at timestamp with time zone
  cancel_reason text
  created_at timestamp with time zone not null default clock_timestamp()
  updated_at timestamp with time zone not null default clock_timestamp()
  claimable boolean generated always as ((((status)::text = ANY (ARRAY['queued'::text, 'retry_waiting'::text])) AND ((blocked_by)::integer = 0) AND ((ordering_key IS NULL) OR (COALESCE((ordering_slot)::integer, 0) > 0)))) stored
  lane bigint generated always as (hashtextextended((((((job_kind)::text || ''::text) || COALESCE(event_domain, ''::text)) || ''::text) || COALESCE(consumer_key, ''::text)), (0)::bigint)) stored
  job_queue_finished_check CHECK ((((status)::text = ANY (ARRAY['succeeded'::text, 'failed'::text, 'dead_letter'::text, 'cancelled'::text, 'cleaned'::text])) = (finished_at IS NOT NULL)))
  job_queue_idempotency_unique UNIQUE (idempotency_key, job_kind)
  job_queue_lease_check CHECK ((((status)::text = ANY (ARRAY['leased'::text, 'in_progress'::text])) = (lease_until IS NOT NULL)))
  job_queue_pkey PRIMARY KEY (job_id)
  CREATE INDEX job_queue_behind_idx ON job_queue USING btree (ordering_key, COALESCE(freed_at, created_at), job_id) WHERE ((ordering_key IS NOT NULL) AND (COALESCE((ordering_slot)::integer, 0) = 0) AND ((status)::text = ANY (ARRAY['queued'::text, 'retry_waiting'::text])))
  CREATE INDEX job_queue_lease_idx ON job_queue USING btree (lease_until) WHERE (lease_until IS NOT NULL)
  CREATE INDEX job_queue_ready_idx ON job_queue USING btree (executor, lane, priority, scheduled_at, job_id) WHERE claimable
  CREATE INDEX job_queue_unplaced_idx ON job_queue USING btree (created_at, job_id) WHERE ((ordering_key IS NOT NULL) AND (ordering_slot IS NULL) AND ((status)::text = 'queued'::text))
  CREATE UNIQUE INDEX job_queue_limit_idx ON job_queue USING btree (job_kind, limit_slot) WHERE ((limit_slot IS NOT NULL) AND (lease_until IS NOT NULL))
  CREATE UNIQUE INDEX job_queue_turn_idx ON job_queue USING btree (ordering_key, ordering_slot) WHERE ((ordering_slot > 0) AND ((status)::text = ANY (ARRAY['queued'::text, 'leased'::text, 'in_progress'::text, 'retry_waiting'::text, 'dead_letter'::text])))
  CREATE TRIGGER job_queue_begins_queued BEFORE INSERT ON job_queue FOR EACH ROW WHEN (((new.status)::text <> 'queued'::text)) EXECUTE FUNCTION fn_job_move_refuse()
  CREATE TRIGGER job_queue_moves AFTER UPDATE ON job_queue FOR EACH ROW WHEN ((((old.status)::text IS DISTINCT FROM (new.status)::text) AND (NOT fn_job_move_is_legal((old.status)::text, (new.status)::text)))) EXECUTE FUNCTION fn_job_move_refuse()
  CREATE TRIGGER job_queue_order_begins BEFORE INSERT ON job_queue FOR EACH ROW WHEN ((((new.blocked_by)::integer > 0) AND (new.ordering_key IS NOT NULL))) EXECUTE FUNCTION fn_job_order_blocked()
  CREATE TRIGGER job_queue_order_blocked AFTER UPDATE OF blocked_by ON job_queue FOR EACH ROW WHEN (((new.ordering_key IS NOT NULL) AND ((new.status)::text = 'queued'::text) AND (((new.blocked_by)::integer > 0) IS DISTINCT FROM ((old.blocked_by)::integer > 0)))) EXECUTE FUNCTION fn_job_order_blocked()
  -- table: Work: one row a job. Status moves only through fn_job_*; an illegal move is refused by a trigger.
  -- executor: Kind of executor that may run it. MOT is none.
  -- safe_payload: Signal, not data: at most 16 kB of JSON, no denied key at any depth.
  -- priority: 0 is first.
  -- scheduled_at: Not claimed before this moment; also the retry time.
  -- lease_token: Fresh at every claim, and greater than all before it; a call with an older one is refused as lease_lost.
  -- attempts: Failures that count towards max_attempts; a claim is not one.
  -- lease_losses: Leases that ended unreported; counted apart from failures, with a limit of their own.
  -- policy: What this job has of its own instead of its kind's: backoff_strategy, backoff_seconds, backoff_cap_seconds, max_lease_losses, time_limit_seconds. Null: nothing.
  -- idempotency_key: A second enqueue of the same (job_kind, key) answers the first job. Longer keys are stored as prefix and digest.
  -- ordering_key: Jobs of one key run one at a time, in the order in which they were made or, of steps, became free; also across retries.
  -- ordering_slot: Of a job with an ordering key: null not placed yet, -1 blocked and so in no line, 0 behind others, from 1 on its turn.
  -- freed_at: Of a step with an ordering key: when all that it needs had ended; its place in the order is from then.
  -- limit_slot: Of a run of a kind with job.<kind>.concurrency_limit: which of its places it takes.
  -- blocked_by: Unmet dependencies; 0 means free to run.
  -- causation_event_id: The event this job was made from.
  -- cancel_requested_at: Somebody wishes the run to end; the worker learns of it when it renews.
  -- claimable: Derived: waiting, not blocked, and not behind others of its ordering key.
  -- lane: Derived: a hash of job_kind, event_domain and consumer_key; claims share out among lanes.

table job_rate
  rate_key text not null
  claimed_at timestamp with time zone not null
  jobs integer not null
  CREATE INDEX job_rate_key_idx ON job_rate USING btree (rate_key, claimed_at)
  -- table: How many jobs of a kind (or of a kind and ordering key) with a rate limit were claimed when; append-only, pruned by fn_job_rate_prune.

table job_schedule with (fillfactor=80)
  schedule_key text not null
  cron text
  time_zone text
  every interval
  at timestamp with time zone
  job_kind job_kind not null
  executor executor_kind not null default 'PG_worker'::text
  priority job_priority not null default 100
  max_attempts job_limit
  safe_payload signal not null default '{}'::jsonb
  source_ref text
  target_ref text
  payload_ref text
  ordering_key text
  missed text not null default 'once'::text
  missed_window interval
  starts_at timestamp with time zone not null default date_trunc('second'::text, clock_timestamp())
  ends_at timestamp with time zone
  enabled boolean not null default false
  counts_from timestamp with time zone not null default clock_timestamp()
  next_tick_at timestamp with time zone not null default '-infinity'::timestamp with time zone
  last_tick_at timestamp with time zone
  last_job_id uuid
  ticks bigint not null default 0
  ticks_missed bigint not null default 0
  last_missed_at timestamp with time zone
  trouble text
  description text
  actor job_actor not null
  set_by name not null default SESSION_USER
  created_at timestamp with time zone not null default clock_timestamp()
  updated_at timestamp with time zone not null default clock_timestamp()
  job_schedule_at_check CHECK (isfinite(at))
  job_schedule_cron_check CHECK (((length(cron) >= 1) AND (length(cron) <= 200)))
  job_schedule_ends_at_check CHECK ((isfinite(ends_at) AND (ends_at > starts_at)))
  job_schedule_every_check CHECK ((((every >= '00:00:01'::interval) AND (every <= '366 days'::interval)) AND (EXTRACT(year FROM every) = (0)::numeric) AND (EXTRACT(month FROM every) = (0)::numeric) AND (EXTRACT(epoch FROM every) = floor(EXTRACT(epoch FROM every)))))
  job_schedule_key_check CHECK ((schedule_key ~ '^[a-z0-9][a-z0-9_.-]{0,119}$'::text))
  job_schedule_missed_check CHECK ((missed = ANY (ARRAY['skip'::text, 'once'::text, 'all'::text])))
  job_schedule_missed_window_check CHECK (((missed_window >= '00:01:00'::interval) AND (missed_window <= '10 years'::interval)))
  job_schedule_pkey PRIMARY KEY (schedule_key)
  job_schedule_starts_at_check CHECK (isfinite(starts_at))
  job_schedule_time_zone_check CHECK (((length(time_zone) >= 1) AND (length(time_zone) <= 100)))
  job_schedule_times_check CHECK (((num_nonnulls(cron, every, at) = 1) AND ((cron IS NULL) = (time_zone IS NULL))))
  CREATE INDEX job_schedule_due_idx ON job_schedule USING btree (next_tick_at) WHERE enabled
  -- table: Jobs at times: exactly one of cron (with time_zone), every, at. Written by fn_schedule_put, fn_schedule_enable and fn_schedule_remove.
  -- cron: Five fields, or a name such as @daily; read by the sidecar, in time_zone.
  -- every: Whole seconds; counted from starts_at.
  -- at: Once, at this moment.
  -- missed: What becomes of ticks that are more than a minute late: skip, once (one job for all of them), all.
  -- missed_window: Ticks that are later than this are dropped; null: however late.
  -- starts_at: No tick before it.
  -- ends_at: No tick at it or later.
  -- counts_from: Only ticks after this moment count: when it was enabled, or its times were changed.
  -- next_tick_at: -infinity: a sidecar has yet to find it. infinity: there is none any more.
  -- ticks: Ticks that became jobs.
  -- ticks_missed: Ticks that were dropped as missed says; of very many at once a part.
  -- trouble: Why a sidecar could not go on with it; null: nothing.

table job_subscription
  executor_name text not null
  job_kind text not null default '*'::text
  event_domain text not null default '*'::text
  priority_floor integer
  share real not null default 1
  description text
  actor text not null
  set_by name not null default SESSION_USER
  created_at timestamp with time zone not null default clock_timestamp()
  updated_at timestamp with time zone not null default clock_timestamp()
  executor_name_like text generated always as (replace(replace(replace(replace(executor_name, '\'::text, '\\'::text), '_'::text, '\_'::text), '%'::text, '\%'::text), '*'::text, '%'::text)) stored
  job_kind_like text generated always as (replace(replace(replace(replace(job_kind, '\'::text, '\\'::text), '_'::text, '\_'::text), '%'::text, '\%'::text), '*'::text, '%'::text)) stored
  job_subscription_pkey PRIMARY KEY (executor_name, job_kind, event_domain)
  job_subscription_share_check CHECK (((share > (0)::double precision) AND (share <= (1000000)::double precision)))
  -- table: What an executor may claim, nothing beside; an executor without a row may claim everything of its kind.
  -- executor_name: A registered name; * stands for any characters, here and in job_kind.
  -- event_domain: * is every domain, and jobs without one.
  -- priority_floor: The last priority that it may claim; null is all.
  -- share: Weight among lanes that are equally urgent.

table job_workflow with (fillfactor=80)
  workflow_id uuid not null default fn_uuid_v7()
  template_key text not null
  template_version integer not null
  status text not null default 'active'::text
  params signal not null default '{}'::jsonb
  correlation_id text not null
  actor job_actor not null
  causation_event_id uuid
  consumer_key text
  jobs integer not null
  outcome jsonb
  cancel_reason text
  created_at timestamp with time zone not null default clock_timestamp()
  finished_at timestamp with time zone
  updated_at timestamp with time zone not null default clock_timestamp()
  job_workflow_correlation_check CHECK (((length(correlation_id) >= 1) AND (length(correlation_id) <= 512)))
  job_workflow_correlation_unique UNIQUE (template_key, correlation_id)
  job_workflow_finished_check CHECK (((status = 'active'::text) = (finished_at IS NULL)))
  job_workflow_pkey PRIMARY KEY (workflow_id)
  job_workflow_status_check CHECK ((status = ANY (ARRAY['active'::text, 'succeeded'::text, 'failed'::text, 'partially_failed'::text, 'cancelled'::text])))
  CREATE INDEX job_workflow_active_idx ON job_workflow USING btree (updated_at) WHERE (status = 'active'::text)
  CREATE INDEX job_workflow_failed_idx ON job_workflow USING btree (finished_at) WHERE (status = ANY (ARRAY['failed'::text, 'partially_failed'::text]))
  CREATE INDEX job_workflow_held_idx ON job_workflow USING btree (finished_at) WHERE ((status = ANY (ARRAY['failed'::text, 'partially_failed'::text])) AND ((outcome ->> 'blocked'::text) <> '0'::text))
  CREATE INDEX job_workflow_over_idx ON job_workflow USING btree (finished_at) WHERE (status = ANY (ARRAY['succeeded'::text, 'cancelled'::text]))
  -- table: One run of a template; its jobs are the rows of job_queue with its workflow_id.
  -- workflow_id: Its last 32 bits are 0; its jobs are numbered on from it in theirs, so that their own key finds them.
  -- correlation_id: A second emit of the same template with the same one answers the first workflow.
  -- outcome: How many jobs ended how, written when the workflow ends: the jobs themselves leave for the archive.

table mot_template
  template_key text not null
  version integer not null
  description text not null default ''::text
  params jsonb not null default '{"type": "object"}'::jsonb
  nodes jsonb not null
  edges jsonb not null default '[]'::jsonb
  actor text not null
  written_by name not null default SESSION_USER
  created_at timestamp with time zone not null default clock_timestamp()
  used_at timestamp with time zone
  mot_template_key_check CHECK ((template_key ~ '^[a-z][a-z0-9_.-]{0,79}$'::text))
  mot_template_pkey PRIMARY KEY (template_key, version)
  mot_template_version_check CHECK ((version >= 1))
  CREATE TRIGGER mot_template_refuse BEFORE DELETE OR UPDATE ON mot_template FOR EACH ROW EXECUTE FUNCTION fn_mot_template_refuse()
  -- table: Graphs of jobs, by version; one that was used is never changed.
  -- params: JSON schema of the parameters: type, properties, required, additionalProperties, items, enum, minimum, maximum, minLength, maxLength, pattern, minItems, maxItems.
  -- nodes: Array of nodes, each after those that it needs: key, type (job, approval, event, graph) and what that asks for.
  -- edges: Array of {from, to, on: success | failure | always, otherwise: fail | skip | continue, each}.
  -- used_at: When the first workflow was made from it.

table queue_heartbeat with (fillfactor=10)
  executor_name text not null
  executor_kind executor_kind not null
  domain_scope text[] not null default '{}'::text[]
  last_beat_at timestamp with time zone
  last_beat_status text
  beats_total bigint not null default 0
  expected_cadence_seconds integer not null default 60
  stale_threshold_seconds integer not null default 300
  silent_since timestamp with time zone
  instance text
  is_passive boolean not null default false
  wakes_for text[]
  owner_role name not null default SESSION_USER
  current_job_id uuid
  metadata signal not null default '{}'::jsonb
  queue_heartbeat_cadence_check CHECK ((expected_cadence_seconds > 0))
  queue_heartbeat_executor_name_check CHECK (((executor_name ~ '^[^\s].{0,119}$'::text) AND (lower(executor_name) <> 'mot'::text)))
  queue_heartbeat_metadata_check CHECK ((octet_length((metadata)::text) <= 4096))
  queue_heartbeat_pkey PRIMARY KEY (executor_name)
  queue_heartbeat_status_check CHECK ((last_beat_status = ANY (ARRAY['ok'::text, 'warn'::text, 'error'::text])))
  queue_heartbeat_threshold_check CHECK ((stale_threshold_seconds > 0))
  -- table: Executors: who they are, who owns the name, and when they last beat. Also when idle and when gated.
  -- silent_since: Since when a silence lasts that was announced; null while the executor beats.
  -- instance: The process that beats under the name; another one must wait until it is stale, or take over.
  -- is_passive: A worker of the host that does not beat: its own cursor shows when it ran. Nobody may beat for it.
  -- wakes_for: Kinds of jobs of which this executor wants to be told by its name while it is at rest; null: it hears what all are told.
  -- owner_role: Only members of this role may beat or claim under the name.

table queue_pause
  pause_id bigint not null generated always as identity
  scope text not null
  name text not null default ''::text
  actor text not null
  reason text not null
  paused_at timestamp with time zone not null default clock_timestamp()
  paused_by name not null default SESSION_USER
  resumed_at timestamp with time zone
  resumed_by name
  resume_actor text
  resume_reason text
  queue_pause_name_check CHECK (((scope = 'all'::text) = (name = ''::text)))
  queue_pause_pkey PRIMARY KEY (pause_id)
  queue_pause_scope_check CHECK ((scope = ANY (ARRAY['all'::text, 'domain'::text, 'consumer'::text, 'job_kind'::text, 'executor'::text])))
  CREATE UNIQUE INDEX queue_pause_standing_idx ON queue_pause USING btree (scope, name) WHERE (resumed_at IS NULL)
  -- table: What is paused, by whom and why; rows with resumed_at are history.
  -- name: The domain, consumer, job kind, or executor (its name or its kind); empty for all.

table reveille_migration
  number integer not null
  name text not null
  up_checksum text not null
  functions_checksum text not null
  applied_at timestamp with time zone not null default clock_timestamp()
  applied_by text not null default SESSION_USER
  binary_version text not null
  parts jsonb not null default '{}'::jsonb
  indexes jsonb not null default '{}'::jsonb
  reveille_migration_pkey PRIMARY KEY (number)
  -- table: phases of Reveille that this schema has; written by `reveille migrate`
  -- up_checksum: sha-256 of up.sql as it was applied
  -- functions_checksum: sha-256 of functions.sql as it was last run
  -- binary_version: the reveille that ran functions.sql last
  -- parts: checksum and rights of each function, view, trigger and table of the phase, as functions.sql left them
  -- indexes: definition of each index of the phase, as up.sql made it

sequence audit_consumer_version_id_seq as bigint start 1

sequence audit_mark_mark_id_seq as bigint start 1

sequence awake_job_wake_agent as bigint start 1

sequence awake_job_wake_codex as bigint start 1

sequence awake_job_wake_dot as bigint start 1

sequence awake_job_wake_external_worker as bigint start 1

sequence awake_job_wake_future_kestra_adapter as bigint start 1

sequence awake_job_wake_hermes as bigint start 1

sequence awake_job_wake_pg_worker as bigint start 1

sequence awake_queue_wake_birth_registry as bigint start 1

sequence awake_queue_wake_dot as bigint start 1

sequence awake_queue_wake_governance as bigint start 1

sequence awake_queue_wake_health as bigint start 1

sequence awake_queue_wake_iu as bigint start 1

sequence awake_queue_wake_kg as bigint start 1

sequence awake_queue_wake_piece as bigint start 1

sequence awake_queue_wake_staging as bigint start 1

sequence awake_queue_wake_system as bigint start 1

sequence awake_queue_wake_tac as bigint start 1

sequence dispatch_pass_pass_id_seq as bigint start 1

sequence dispatch_sweep_sweep_id_seq as bigint start 1

sequence dot_config_audit_audit_id_seq as bigint start 1

sequence event_arrival_arrival_seq_seq as bigint start 1

sequence event_route_fault_fault_id_seq as bigint start 1

sequence event_route_sample_sample_id_seq as bigint start 1

sequence job_approval_approval_id_seq as bigint start 1

sequence queue_pause_pause_id_seq as bigint start 1

sequence traceparent_ignored as bigint start 1

view v_consumer_backfill
  -- Backfills and replays: bounds, how far each has come, counts, who began it and why.
 SELECT b.backfill_id, b.consumer_key, b.event_domain, b.mode, b.generation, b.status, b.note,
    b.since, b.until, cardinality(b.event_ids) AS event_ids, b.job_limit, b.rate,
    b.priority::integer AS priority, b.place_at, b.looked,
    GREATEST(b.estimate, b.looked) AS estimate,
        CASE
            WHEN b.status = 'finished'::text THEN 1.0
            ELSE round(LEAST(1::numeric, b.looked::numeric / GREATEST(b.estimate, b.looked, 1::bigint)::numeric), 4)
        END AS share,
    b.events, b.expected, b.made, b.present, b.not_matching, b.without_job, b.errors,
    b.actor::text AS actor, b.reason, b.started_by, b.started_at, b.updated_at, b.ended_at,
    round(EXTRACT(epoch FROM clock_timestamp() - b.updated_at), 3) AS quiet_seconds
   FROM consumer_backfill b;

view v_consumer_lag
  -- For each consumer: until when every event that it wanted is known to have a decision.
 SELECT c.consumer_key, c.event_domain, c.enabled, c.dry_run, c.job_kind::text AS job_kind,
    v.seen_at AS proven_from,
        CASE
            WHEN c.enabled AND LEAST(d.place_at, g.first_at) > v.seen_at THEN LEAST(d.place_at, g.first_at)
            ELSE NULL::timestamp with time zone
        END AS complete_until,
        CASE
            WHEN c.enabled AND LEAST(d.place_at, g.first_at) > v.seen_at THEN round(EXTRACT(epoch FROM clock_timestamp() - LEAST(d.place_at, g.first_at)), 3)
            ELSE NULL::numeric
        END AS lag_seconds,
    COALESCE(g.n, 0::bigint) AS open_gaps,
    ( SELECT min(p.scope) AS min
           FROM queue_pause p
          WHERE p.resumed_at IS NULL AND (p.scope = 'all'::text OR p.scope = 'domain'::text AND p.name = c.event_domain)) AS paused_by
   FROM consumer_registry c
     LEFT JOIN audit_consumer v ON v.consumer_key = c.consumer_key AND v.replaced_at IS NULL AND v.changed_at = c.updated_at
     LEFT JOIN audit_domain d ON d.event_domain = c.event_domain
     LEFT JOIN LATERAL ( SELECT count(*) AS n, min(o.event_created_at) AS first_at
           FROM ( SELECT x.event_created_at
                   FROM dispatch_gap x
                  WHERE x.event_domain = c.event_domain AND x.consumer_key = c.consumer_key AND x.closed_at IS NULL
                  ORDER BY x.event_created_at
                 LIMIT 10000) o) g ON true;

view v_dead_letter_all
  -- Dead letters of jobs and, where the host has them, of its older route worker.
 SELECT 'job_queue'::text AS source, d.dead_letter_id::text AS dead_letter_id,
    d.job_kind::text AS job_kind, d.event_domain, d.reason_class, d.error,
    d.triage_status = ANY (ARRAY['open'::text, 'investigating'::text, 'manual_replay'::text]) AS is_open,
    d.triage_status AS resolution, d.created_at
   FROM job_dead_letter d
UNION ALL
 SELECT 'iu_route'::text AS source, l.dead_letter_id, NULL::text AS job_kind,
    NULL::text AS event_domain, l.reason_class, l.error, l.is_open, l.resolution, l.created_at
   FROM fn_dead_letter_legacy() l(dead_letter_id, reason_class, error, is_open, resolution, created_at);

view v_job_queue_backlog
  -- What waits to be claimed: due jobs (counted up to 1000; more says that there are others), and the reason when nobody may claim them.
 SELECT b.executor, b.job_kind, b.event_domain, b.consumer_key, b.priority, b.due, b.more,
    b.oldest_due_at, b.next_due_at, b.reason
   FROM fn_job_backlog() b(executor, job_kind, event_domain, consumer_key, priority, due, more, oldest_due_at, next_due_at, reason);

view v_job_queue_dead_letter_open
  -- Dead letters that nobody has decided about for good.
 SELECT d.dead_letter_id, d.job_id, d.job_kind, d.event_domain, d.executor, d.consumer_key,
    d.reason_class, d.error, d.triage_status, d.triage_actor, d.triage_note, d.triaged_at,
    d.previous_dead_letter_id, d.created_at
   FROM job_dead_letter d
  WHERE d.triage_status = ANY (ARRAY['open'::text, 'investigating'::text, 'manual_replay'::text]);

view v_job_queue_in_progress
  -- Jobs that somebody has leased: who, since when, until when, and whether their end was asked for. time_limit_seconds: null is the worker's own.
 SELECT j.job_id, j.job_kind, j.status, j.executor, j.event_domain, j.consumer_key, j.source_ref,
    j.lease_owner, j.picked_at, j.started_at,
    round(EXTRACT(epoch FROM clock_timestamp() - j.picked_at), 3) AS age_seconds, j.lease_until,
    j.lease_until < clock_timestamp() AS lease_has_ended,
    COALESCE(j.policy ->> 'time_limit_seconds'::text, fn_config(('job.'::text || j.job_kind::text) || '.time_limit_seconds'::text, NULL::text)) AS time_limit_seconds,
    j.cancel_requested_at, j.attempts, j.lease_losses
   FROM job_queue j
  WHERE j.lease_until IS NOT NULL;

view v_job_schedule
  -- Schedules: state (disabled, trouble, ended, new, job_substrate_disabled, paused, overdue, waiting), last tick and its job, next tick.
 SELECT s.schedule_key,
        CASE
            WHEN NOT s.enabled THEN 'disabled'::text
            WHEN s.trouble IS NOT NULL THEN 'trouble'::text
            WHEN s.next_tick_at = 'infinity'::timestamp with time zone THEN 'ended'::text
            WHEN s.next_tick_at = '-infinity'::timestamp with time zone THEN 'new'::text
            WHEN fn_schedule_held(s.job_kind::text) IS NOT NULL THEN fn_schedule_held(s.job_kind::text)
            WHEN s.next_tick_at < (clock_timestamp() - '00:01:00'::interval) THEN 'overdue'::text
            ELSE 'waiting'::text
        END AS state,
    s.cron, s.time_zone, EXTRACT(epoch FROM s.every)::bigint AS every_seconds, s.at, s.job_kind,
    s.executor::text AS executor, s.priority::integer AS priority,
    s.max_attempts::integer AS max_attempts, s.safe_payload::jsonb AS safe_payload, s.source_ref,
    s.target_ref, s.payload_ref, s.ordering_key, s.missed,
    EXTRACT(epoch FROM s.missed_window)::bigint AS missed_window_seconds, s.starts_at, s.ends_at,
    s.enabled, s.counts_from,
        CASE
            WHEN isfinite(s.next_tick_at) THEN s.next_tick_at
            ELSE NULL::timestamp with time zone
        END AS next_tick_at,
        CASE
            WHEN s.enabled AND isfinite(s.next_tick_at) THEN GREATEST(0::numeric, round(EXTRACT(epoch FROM clock_timestamp() - s.next_tick_at), 3))
            ELSE 0::numeric
        END AS overdue_seconds,
    s.last_tick_at, s.last_job_id, j.status AS last_job_status, s.ticks, s.ticks_missed,
    s.last_missed_at, s.trouble, s.description, s.actor::text AS actor, s.set_by, s.created_at,
    s.updated_at
   FROM job_schedule s
     LEFT JOIN LATERAL ( SELECT q.status::text AS status
           FROM job_queue q
          WHERE q.job_id = s.last_job_id
        UNION ALL
         SELECT a.status::text AS status
           FROM job_archive a
          WHERE a.job_id = s.last_job_id
 LIMIT 1) j ON true;

view v_job_workflow_health
  -- Workflows: how many of their jobs stand where, and which gates they wait for.
 SELECT w.workflow_id, (w.template_key || '@'::text) || w.template_version AS template, w.status,
    w.correlation_id, w.actor, w.jobs,
    COALESCE(c.succeeded, (w.outcome ->> 'succeeded'::text)::integer, 0) AS succeeded,
    COALESCE(c.failed, (w.outcome ->> 'failed'::text)::integer, 0) AS failed,
    COALESCE(c.skipped, (w.outcome ->> 'skipped'::text)::integer, 0) AS skipped,
    COALESCE(c.cancelled, (w.outcome ->> 'cancelled'::text)::integer, 0) AS cancelled,
    COALESCE(c.blocked, (w.outcome ->> 'blocked'::text)::integer, 0) AS blocked,
    COALESCE(c.ready, 0) AS ready, COALESCE(c.running, 0) AS running,
    COALESCE(c.waiting_for, '{}'::text[]) AS waiting_for, w.created_at, w.finished_at,
    round(EXTRACT(epoch FROM COALESCE(w.finished_at, clock_timestamp()) - w.created_at), 3) AS age_seconds,
    w.cancel_reason, w.causation_event_id, w.consumer_key
   FROM job_workflow w
     LEFT JOIN LATERAL ( SELECT count(*) FILTER (WHERE j.status::text = ANY (ARRAY['succeeded'::text, 'cleaned'::text]))::integer AS succeeded,
            count(*) FILTER (WHERE j.status::text = ANY (ARRAY['failed'::text, 'dead_letter'::text]))::integer AS failed,
            count(*) FILTER (WHERE j.status::text = 'cancelled'::text AND j.cancel_reason ~~ 'skipped: %'::text)::integer AS skipped,
            count(*) FILTER (WHERE j.status::text = 'cancelled'::text AND COALESCE(j.cancel_reason, ''::text) !~~ 'skipped: %'::text)::integer AS cancelled,
            count(*) FILTER (WHERE j.status::text = 'queued'::text AND j.blocked_by::integer > 0)::integer AS blocked,
            count(*) FILTER (WHERE (j.status::text = ANY (ARRAY['queued'::text, 'retry_waiting'::text])) AND j.blocked_by::integer = 0)::integer AS ready,
            count(*) FILTER (WHERE j.status::text = ANY (ARRAY['leased'::text, 'in_progress'::text]))::integer AS running,
            array_agg((g.kind || ' '::text) || substr(j.idempotency_key::text, 38) ORDER BY j.job_id) FILTER (WHERE g.job_id IS NOT NULL AND j.status::text = 'queued'::text AND j.blocked_by::integer = 1) AS waiting_for
           FROM job_queue j
             LEFT JOIN job_gate g ON g.job_id = j.job_id
          WHERE j.job_id >= w.workflow_id AND j.job_id <= fn_uuid_v7_nth(w.workflow_id, '-1'::integer) AND j.workflow_id = w.workflow_id) c ON w.outcome IS NULL;

view v_ordering_blocked
  -- Jobs that hold up others of their ordering key, why, and how many (counted up to 1000).
 SELECT t.ordering_key, t.job_id AS blocking_job_id, t.job_kind::text AS blocking_job_kind,
    t.status::text AS blocking_status,
        CASE
            WHEN (t.status::text = ANY (ARRAY['leased'::text, 'in_progress'::text])) AND t.lease_until < clock_timestamp() THEN 'its lease has ended: the reaper frees it'::text
            WHEN t.status::text = ANY (ARRAY['leased'::text, 'in_progress'::text]) THEN 'it runs'::text
            WHEN t.status::text = 'dead_letter'::text THEN 'it is a dead letter that nobody has decided about'::text
            WHEN t.status::text = 'retry_waiting'::text AND t.scheduled_at > clock_timestamp() THEN 'it failed and waits to be tried again'::text
            WHEN t.blocked_by::integer > 0 THEN 'it waits for other jobs'::text
            WHEN t.scheduled_at > clock_timestamp() THEN 'it is scheduled for later'::text
            ELSE 'it waits to be claimed'::text
        END AS reason,
        CASE
            WHEN t.lease_until IS NULL AND t.status::text <> 'dead_letter'::text AND t.scheduled_at > clock_timestamp() THEN t.scheduled_at
            ELSE NULL::timestamp with time zone
        END AS until,
    t.last_error, n.job_id AS next_job_id, n.behind, n.oldest AS oldest_created_at
   FROM job_queue t
     CROSS JOIN LATERAL ( SELECT min(b.created_at) AS oldest, count(*)::integer AS behind,
            (array_agg(b.job_id))[1] AS job_id
           FROM ( SELECT j.job_id, j.created_at
                   FROM job_queue j
                  WHERE j.ordering_key = t.ordering_key AND COALESCE(j.ordering_slot::integer, 0) = 0 AND (j.status::text = ANY (ARRAY['queued'::text, 'retry_waiting'::text]))
                  ORDER BY (COALESCE(j.freed_at, j.created_at)), j.job_id
                 LIMIT 1000) b) n
  WHERE t.ordering_slot > 0 AND (t.status::text = ANY (ARRAY['queued'::text, 'leased'::text, 'in_progress'::text, 'retry_waiting'::text, 'dead_letter'::text])) AND n.behind > 0;

view v_queue_health
  -- component, name, status_hint (fresh, warning, stale, never), age_seconds, value, detail: everything that can fall silent, and what is paused.
 SELECT 'executor'::text AS component, h.executor_name AS name,
        CASE
            WHEN h.last_beat_at IS NULL THEN 'never'::text
            WHEN h.last_beat_at < (clock_timestamp() - make_interval(secs => h.stale_threshold_seconds::double precision)) THEN 'stale'::text
            WHEN h.last_beat_at < (clock_timestamp() - make_interval(secs => 2::double precision * h.expected_cadence_seconds::double precision)) OR h.last_beat_status <> 'ok'::text THEN 'warning'::text
            ELSE 'fresh'::text
        END AS status_hint,
    round(EXTRACT(epoch FROM clock_timestamp() - h.last_beat_at), 3) AS age_seconds,
    h.beats_total AS value,
    jsonb_build_object('executor_kind', h.executor_kind, 'last_beat_status', h.last_beat_status, 'owner_role', h.owner_role, 'expected_cadence_seconds', h.expected_cadence_seconds, 'stale_threshold_seconds', h.stale_threshold_seconds, 'silent_since', h.silent_since, 'metadata', h.metadata) AS detail
   FROM queue_heartbeat h
  WHERE NOT h.is_passive
UNION ALL
 SELECT 'legacy_cursor'::text AS component, l.worker_name AS name,
        CASE
            WHEN l.ran_at IS NULL THEN 'never'::text
            WHEN l.ran_at < (clock_timestamp() - make_interval(secs => fn_config_number('queue.heartbeat.stale_threshold_seconds'::text, 300::numeric)::double precision)) THEN 'stale'::text
            ELSE 'fresh'::text
        END AS status_hint,
    round(EXTRACT(epoch FROM clock_timestamp() - l.ran_at), 3) AS age_seconds,
    l.events_seen AS value,
    jsonb_build_object('last_run_at', l.ran_at, 'means', 'a worker of the host, judged by its own cursor; nobody can beat for it') AS detail
   FROM fn_legacy_workers() l(worker_name, ran_at, events_seen)
UNION ALL
 SELECT 'cursor'::text AS component, c.event_domain AS name,
        CASE
            WHEN u.event_id IS NULL THEN 'fresh'::text
            WHEN NOT fn_gate_is_open('queue.job_substrate.enabled'::text) OR (EXISTS ( SELECT
               FROM queue_pause q
              WHERE q.resumed_at IS NULL AND (q.scope = 'all'::text OR q.scope = 'domain'::text AND q.name = c.event_domain))) THEN 'warning'::text
            WHEN e.created_at > (clock_timestamp() - '00:01:00'::interval) THEN 'fresh'::text
            WHEN p.found_by IS NULL THEN 'never'::text
            WHEN e.created_at > (clock_timestamp() - '00:05:00'::interval) THEN 'warning'::text
            ELSE 'stale'::text
        END AS status_hint,
        CASE
            WHEN u.event_id IS NULL THEN 0::numeric
            ELSE round(EXTRACT(epoch FROM clock_timestamp() - e.created_at), 3)
        END AS age_seconds,
    COALESCE(p.pass_id, 0::bigint) AS value,
    jsonb_build_object('oldest_unread_event', u.event_id, 'last_pass_at', p.finished_at, 'last_found_by', p.found_by) AS detail
   FROM dispatch_cursor c
     LEFT JOIN LATERAL ( SELECT d.pass_id, d.finished_at,
            NULLIF(d.found_by, 'start'::text) AS found_by
           FROM dispatch_pass d
          WHERE d.event_domain = c.event_domain
          ORDER BY d.pass_id DESC
         LIMIT 1) p ON true
     CROSS JOIN LATERAL ( SELECT fn_dispatch_unread(c.event_domain) AS event_id) u
     LEFT JOIN event_outbox e ON e.id = u.event_id
UNION ALL
 SELECT 'backlog'::text AS component, x.executor AS name,
        CASE
            WHEN r.due = 0 THEN 'fresh'::text
            WHEN r.oldest < (clock_timestamp() - '00:01:00'::interval) AND NOT (EXISTS ( SELECT
               FROM fn_executors_live(x.executor) fn_executors_live(executor_name))) THEN 'stale'::text
            WHEN r.oldest < (clock_timestamp() - '00:05:00'::interval) THEN 'warning'::text
            ELSE 'fresh'::text
        END AS status_hint,
    COALESCE(round(EXTRACT(epoch FROM clock_timestamp() - r.oldest), 3), 0::numeric) AS age_seconds,
    r.due AS value,
    jsonb_build_object('counted_up_to', 1000, 'in_each', 'job kind, domain, consumer and priority') AS detail
   FROM unnest(ARRAY['DOT'::text, 'Agent'::text, 'Hermes'::text, 'Codex'::text, 'PG_worker'::text, 'external_worker'::text, 'future_Kestra_adapter'::text]) x(executor)
     CROSS JOIN LATERAL fn_job_due(x.executor) r(due, oldest)
UNION ALL
 SELECT 'cursor'::text AS component, d.event_domain AS name, 'never'::text AS status_hint,
    NULL::numeric AS age_seconds, NULL::numeric AS value,
    jsonb_build_object('reason', 'events of a domain that is not dispatched: fn_dispatch_domain_add adds it') AS detail
   FROM ( WITH RECURSIVE domains AS (
                ( SELECT a.event_domain
                   FROM event_arrival a
                  ORDER BY a.event_domain
                 LIMIT 1)
                UNION ALL
                 SELECT ( SELECT a.event_domain
                           FROM event_arrival a
                          WHERE a.event_domain > d_2.event_domain
                          ORDER BY a.event_domain
                         LIMIT 1) AS event_domain
                   FROM domains d_2
                  WHERE d_2.event_domain IS NOT NULL
                )
         SELECT d_1.event_domain
           FROM domains d_1
          WHERE d_1.event_domain IS NOT NULL) d
  WHERE NOT (EXISTS ( SELECT
           FROM dispatch_cursor c
          WHERE c.event_domain = d.event_domain))
UNION ALL
 SELECT 'cursor'::text AS component, 'sweep'::text AS name,
        CASE
            WHEN s.watermark IS NULL THEN 'warning'::text
            WHEN s.watermark < (clock_timestamp() - '01:00:00'::interval) THEN 'stale'::text
            WHEN s.watermark < (clock_timestamp() - '00:15:00'::interval) THEN 'warning'::text
            ELSE 'fresh'::text
        END AS status_hint,
    round(EXTRACT(epoch FROM clock_timestamp() - s.watermark), 3) AS age_seconds,
    s.sweep_id AS value,
    jsonb_build_object('watermark', s.watermark, 'stale_means', 'no sweep ran, or a transaction has been open since then') AS detail
   FROM ( SELECT 1 AS "?column?") one
     LEFT JOIN LATERAL ( SELECT w.sweep_id, w.watermark
           FROM dispatch_sweep w
          ORDER BY w.sweep_id DESC
         LIMIT 1) s ON true
UNION ALL
 SELECT 'lease'::text AS component, 'ended'::text AS name,
        CASE
            WHEN l.n = 0 THEN 'fresh'::text
            WHEN l.oldest < (clock_timestamp() - '00:01:00'::interval) THEN 'stale'::text
            ELSE 'warning'::text
        END AS status_hint,
    COALESCE(round(EXTRACT(epoch FROM clock_timestamp() - l.oldest), 3), 0::numeric) AS age_seconds,
    l.n AS value,
    jsonb_build_object('counted_up_to', 10000, 'means', 'jobs whose executor went away before it finished or released them') AS detail
   FROM ( SELECT count(*) AS n, min(e.lease_until) AS oldest
           FROM ( SELECT j.lease_until
                   FROM job_queue j
                  WHERE j.lease_until < clock_timestamp()
                  ORDER BY j.lease_until
                 LIMIT 10000) e) l
UNION ALL
 SELECT 'dead_letter'::text AS component, 'job_queue'::text AS name,
        CASE
            WHEN d.n = 0 THEN 'fresh'::text
            ELSE 'stale'::text
        END AS status_hint,
    COALESCE(round(EXTRACT(epoch FROM clock_timestamp() - d.oldest), 3), 0::numeric) AS age_seconds,
    d.n AS value,
    jsonb_build_object('counted_up_to', 10000, 'means', 'dead letters that nobody has decided about') AS detail
   FROM ( SELECT count(*) AS n, min(o.created_at) AS oldest
           FROM ( SELECT l.created_at
                   FROM job_dead_letter l
                  WHERE l.triage_status = ANY (ARRAY['open'::text, 'investigating'::text, 'manual_replay'::text])
                  ORDER BY l.created_at
                 LIMIT 10000) o) d
UNION ALL
 SELECT 'dead_letter'::text AS component, 'dispatch_error'::text AS name,
        CASE
            WHEN d.n = 0 THEN 'fresh'::text
            ELSE 'stale'::text
        END AS status_hint,
    COALESCE(round(EXTRACT(epoch FROM clock_timestamp() - d.oldest), 3), 0::numeric) AS age_seconds,
    d.n AS value,
    jsonb_build_object('counted_up_to', 10000, 'means', 'events that a consumer could not digest') AS detail
   FROM ( SELECT count(*) AS n, min(x.first_at) AS oldest
           FROM ( SELECT e.first_at
                   FROM dispatch_error e
                  ORDER BY e.first_at
                 LIMIT 10000) x) d
UNION ALL
 SELECT 'pause'::text AS component, concat_ws(' '::text, q.scope, NULLIF(q.name, ''::text)) AS name,
    'warning'::text AS status_hint,
    round(EXTRACT(epoch FROM clock_timestamp() - q.paused_at), 3) AS age_seconds,
    NULL::numeric AS value,
    jsonb_build_object('scope', q.scope, 'name', q.name, 'actor', q.actor, 'reason', q.reason, 'paused_at', q.paused_at) AS detail
   FROM queue_pause q
  WHERE q.resumed_at IS NULL;

view v_reason_counts
  -- How many waiting jobs (job), and pairs of a late event and a consumer (event), stand under which reason of fn_job_explain and fn_event_explain.
 SELECT r.about, r.reason, r.count, r.more, r.oldest_at
   FROM fn_reason_counts() r(about, reason, count, more, oldest_at);

view v_subscription_gaps
  -- Pairs of domain and stream whose active event types resolve to nobody, or only by a row of all events or within a scope: warnings, nothing is stopped.
 SELECT g.event_domain, g.event_stream, g.caught_by, g.event_types, g.recent_events, g.last_event_at,
    g.hint
   FROM fn_subscription_gaps() g(event_domain, event_stream, caught_by, event_types, recent_events, last_event_at, hint);

-- Half-open stretches (low, high) of (tx_id, arrival_seq) to read between two snapshots, after a place.
CREATE OR REPLACE FUNCTION fn_arrival_ranges(p_old pg_snapshot, p_new pg_snapshot, p_place_tx xid8, p_place_seq bigint)
 RETURNS TABLE(low_tx xid8, low_seq bigint, high_tx xid8, high_seq bigint)
 LANGUAGE sql
 STABLE PARALLEL SAFE ROWS 4
BEGIN ATOMIC
 WITH late AS (
          SELECT x.x AS low_tx,
             (0)::bigint AS low_seq,
             x.x AS high_tx,
             '9223372036854775807'::bigint AS high_seq
            FROM pg_snapshot_xip(fn_arrival_ranges.p_old) x(x)
           WHERE pg_visible_in_snapshot(x.x, fn_arrival_ranges.p_new)
         ), edges AS (
          SELECT pg_snapshot_xmax(fn_arrival_ranges.p_old) AS tx,
             (0)::bigint AS seq
         UNION ALL
          SELECT x.x,
             '9223372036854775807'::bigint
            FROM pg_snapshot_xip(fn_arrival_ranges.p_new) x(x)
           WHERE (x.x >= pg_snapshot_xmax(fn_arrival_ranges.p_old))
         ), gaps AS (
          SELECT e.tx,
             e.seq,
             lead(e.tx, 1, pg_snapshot_xmax(fn_arrival_ranges.p_new)) OVER (ORDER BY e.tx, e.seq) AS high_tx,
             (0)::bigint AS high_seq
            FROM edges e
         ), ranges AS (
          SELECT late.low_tx,
             late.low_seq,
             late.high_tx,
             late.high_seq
            FROM late
         UNION ALL
          SELECT g.tx,
             g.seq,
             g.high_tx,
             g.high_seq
            FROM gaps g
           WHERE (ROW(g.tx, g.seq) < ROW(g.high_tx, g.high_seq))
         )
  SELECT
         CASE
             WHEN ((fn_arrival_ranges.p_place_tx IS NULL) OR (ROW(r.low_tx, r.low_seq) > ROW(fn_arrival_ranges.p_place_tx, fn_arrival_ranges.p_place_seq))) THEN r.low_tx
             ELSE fn_arrival_ranges.p_place_tx
         END AS p_place_tx,
         CASE
             WHEN ((fn_arrival_ranges.p_place_tx IS NULL) OR (ROW(r.low_tx, r.low_seq) > ROW(fn_arrival_ranges.p_place_tx, fn_arrival_ranges.p_place_seq))) THEN r.low_seq
             ELSE fn_arrival_ranges.p_place_seq
         END AS p_place_seq,
     r.high_tx,
     r.high_seq
    FROM ranges r
   WHERE ((fn_arrival_ranges.p_place_tx IS NULL) OR (ROW(r.high_tx, r.high_seq) > ROW(fn_arrival_ranges.p_place_tx, fn_arrival_ranges.p_place_seq)))
   ORDER BY
         CASE
             WHEN ((fn_arrival_ranges.p_place_tx IS NULL) OR (ROW(r.low_tx, r.low_seq) > ROW(fn_arrival_ranges.p_place_tx, fn_arrival_ranges.p_place_seq))) THEN r.low_tx
             ELSE fn_arrival_ranges.p_place_tx
         END,
         CASE
             WHEN ((fn_arrival_ranges.p_place_tx IS NULL) OR (ROW(r.low_tx, r.low_seq) > ROW(fn_arrival_ranges.p_place_tx, fn_arrival_ranges.p_place_seq))) THEN r.low_seq
             ELSE fn_arrival_ranges.p_place_seq
         END;
END

-- Every event of the domain created before this moment has been read by a pass; null when that is not known. Internal.
CREATE OR REPLACE FUNCTION fn_audit_closed_until(p_event_domain text)
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_system bigint := (select s.system_identifier from pg_control_system() s);
  v_watermark timestamptz;
  v_read pg_snapshot;
begin
  if not exists (select from dispatch_cursor c where c.event_domain = p_event_domain and c.system_identifier = v_system)
    or fn_dispatch_position_is_ahead(p_event_domain)
  then
    return null; -- a restored dump: its positions say nothing until fn_dispatch_attach
  end if;
  select s.watermark into v_watermark from dispatch_sweep s order by s.sweep_id desc limit 1;
  if v_watermark is null or fn_dispatch_unread(p_event_domain) is null then
    return v_watermark;
  end if;
  select case when p.place_tx is null then p.snapshot_new else p.snapshot_old end into v_read
  from dispatch_pass p where p.event_domain = p_event_domain order by p.pass_id desc limit 1;
  return (
    select m.watermark from audit_mark m
    where m.system_identifier = v_system
      and pg_snapshot_xmax(m.snapshot) <= pg_snapshot_xmax(v_read)
      and not exists (select from pg_snapshot_xip(v_read) as x (x) where pg_visible_in_snapshot(x.x, m.snapshot))
    order by m.mark_id desc limit 1);
end
$function$

-- Notes changed rows of consumer_registry in audit_consumer; answers how many. Internal.
CREATE OR REPLACE FUNCTION fn_audit_consumers_note(p_now timestamp with time zone)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_changed int;
begin
  update audit_consumer v
  set replaced_at = coalesce(p_now, clock_timestamp()),
      holds_until = coalesce((select d.closed_until from audit_domain d where d.event_domain = v.event_domain), '-infinity')
  where v.replaced_at is null
    and not exists (select from consumer_registry c where c.consumer_key = v.consumer_key and fn_audit_text(c) = v.consumer);
  with noted as ( -- clock_timestamp() after the snapshot of this statement: what it sees was committed before
    insert into audit_consumer (consumer_key, event_domain, consumer, changed_at, seen_at)
    select c.consumer_key, c.event_domain, fn_audit_text(c), c.updated_at, coalesce(p_now, clock_timestamp())
    from consumer_registry c
    where not exists (select from audit_consumer v where v.consumer_key = c.consumer_key and v.replaced_at is null)
    returning 1
  )
  select count(*) into v_changed from noted;
  return v_changed;
end
$function$

-- Why an open gap is over: event_gone, not_wanted, decided; null while the consumer owes its decision. Internal.
CREATE OR REPLACE FUNCTION fn_audit_outcome(p_event_id uuid, p_consumer_key text)
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
begin
  return (
    select case
      when e.id is null then 'event_gone'
      when c.job_kind is null or fn_consumer_verdict(c, e) <> 'match' then 'not_wanted'
      when (fn_job_by_key(c.job_kind, fn_job_key(fn_template_render(c.idempotency_key, c.consumer_key, e)))).job_id is not null
        or exists (select from dispatch_error d where d.event_id = p_event_id and d.consumer_key = p_consumer_key) then 'decided'
      end
    from (select) o
    left join event_outbox e on e.id = p_event_id
    left join consumer_registry c on c.consumer_key = p_consumer_key);
end
$function$

-- Dispatches open gaps, all or those named, the oldest first; answers how many jobs came of it. Internal.
CREATE OR REPLACE FUNCTION fn_audit_repair(p_limit integer, p_event_ids uuid[], p_consumer_keys text[])
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_events uuid[] := p_event_ids;
  v_consumers text[] := p_consumer_keys;
  v_pair record;
  v_counts record;
  v_repaired int := 0;
  v_outcome text;
  v_state text;
  v_message text;
begin
  if not fn_gate_is_open('queue.job_substrate.enabled') then
    return 0;
  end if;
  if v_events is null then -- consumer by consumer, or those that may not have any would stand before the others
    select array_agg(o.event_id), array_agg(o.consumer_key) into v_events, v_consumers
    from (
      select g.event_id, c.consumer_key
      from consumer_registry c
      cross join lateral (
        select x.event_id, x.event_created_at from dispatch_gap x
        where x.event_domain = c.event_domain and x.consumer_key = c.consumer_key and x.closed_at is null
        order by x.event_created_at, x.event_id limit p_limit) g
      where c.enabled and not c.dry_run and fn_domain_pause(c.event_domain) is null
      order by g.event_created_at, g.event_id, c.consumer_key
      limit p_limit) o;
  end if;
  for v_pair in
    select g.event_id, g.consumer_key, g.event_domain
    from unnest(v_events, v_consumers) u (event_id, consumer_key)
    join dispatch_gap g on g.event_id = u.event_id and g.consumer_key = u.consumer_key
    where g.closed_at is null and fn_domain_pause(g.event_domain) is null
    order by g.event_created_at, g.event_id, g.consumer_key
    limit p_limit
    for update of g skip locked -- another audit has it
  loop
    begin
      select d.* into v_counts from fn_dispatch_events(array[v_pair.event_id], v_pair.consumer_key) d;
      v_outcome := case when v_counts.jobs > 0 then 'repaired'
        when v_counts.duplicates > 0 or v_counts.errors > 0 then 'decided'
        else fn_audit_outcome(v_pair.event_id, v_pair.consumer_key) end;
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded or feature_not_supported or raise_exception
        or undefined_object then
        get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
        insert into dispatch_error as d (event_id, consumer_key, event_domain, sqlstate, message)
        values (v_pair.event_id, v_pair.consumer_key, v_pair.event_domain, v_state, v_message)
        on conflict (event_id, consumer_key) do update
        set sqlstate = excluded.sqlstate, message = excluded.message, tries = d.tries + 1, last_at = clock_timestamp();
        v_outcome := 'decided';
        v_counts := null;
    end;
    if v_outcome = 'repaired' then
      v_repaired := v_repaired + 1;
      update audit_domain d set repaired = d.repaired + 1 where d.event_domain = v_pair.event_domain;
      perform fn_job_wake(x.executor, p_jobs => v_counts.jobs) from (select distinct u.executor from unnest(v_counts.executors) u (executor)) x;
      if exists (select from consumer_registry c where c.consumer_key = v_pair.consumer_key and c.job_kind like 'workflow:%') then
        perform fn_mot_start();
      end if;
    end if;
    if exists (select from job_gate j where j.kind = 'event' and j.event_id is null and j.event_domain = v_pair.event_domain) then
      perform fn_job_gate_events(array[v_pair.event_id]); -- if no pass has read the event, they have not seen it either
    end if;
    update dispatch_gap g set closed_at = clock_timestamp(), outcome = v_outcome
    where g.event_id = v_pair.event_id and g.consumer_key = v_pair.consumer_key and v_outcome is not null;
  end loop;
  return v_repaired;
end
$function$

-- Notes gaps of a domain in dispatch_gap and emits system.queue_dispatch_gap for new ones: {new, event_id, untold, alarm_error}. Internal.
CREATE OR REPLACE FUNCTION fn_audit_tell(p_gaps jsonb, p_event_domain text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_new jsonb;
  v_count int;
  v_event uuid;
  v_trouble text;
begin
  with noted as (
    insert into dispatch_gap as g (event_id, consumer_key, event_domain, event_type, event_created_at)
    select x.event_id, x.consumer_key, p_event_domain, x.event_type, x.created_at
    from jsonb_to_recordset(p_gaps) as x (event_id uuid, consumer_key text, event_type text, created_at timestamptz)
    order by x.event_id, x.consumer_key
    on conflict (event_id, consumer_key) do update set found_at = clock_timestamp(), closed_at = null, outcome = null
    where g.closed_at is not null
    returning g.consumer_key
  )
  select coalesce(jsonb_object_agg(n.consumer_key, n.n), '{}'), coalesce(sum(n.n), 0) into v_new, v_count
  from (select n.consumer_key, count(*) as n from noted n group by n.consumer_key order by 2 desc limit 20) n;
  if v_count = 0 then
    return '{"new": 0}';
  end if;
  begin
    select fn_event_emit('system', 'queue_dispatch_gap', 'audit', jsonb_build_object('missing', jsonb_build_object(p_event_domain, v_count), 'consumers', v_new))
    into v_event
    from event_type_registry r
    where r.event_domain = 'system' and r.event_type = 'queue_dispatch_gap' and r.active;
  exception when others then
    v_trouble := sqlerrm; -- an outbox that takes no such row must not undo what was found
  end;
  return jsonb_strip_nulls(jsonb_build_object('new', v_count, 'event_id', v_event, 'alarm_error', v_trouble,
    'untold', case when v_event is null and v_trouble is null then true end));
end
$function$

-- A consumer as audit_consumer keeps it. Internal.
CREATE OR REPLACE FUNCTION fn_audit_text(p_consumer consumer_registry)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET "TimeZone" TO 'UTC'
 SET "IntervalStyle" TO 'postgres'
AS $function$
begin
  return to_jsonb(p_consumer);
end
$function$

-- Compares the next events of a domain with their decisions: {events, expected, present, missing, unproven, gaps}, and the place to go on from. Internal.
CREATE OR REPLACE FUNCTION fn_audit_window(p_event_domain text, p_after_at timestamp with time zone, p_after_id uuid, p_until timestamp with time zone, p_limit integer, OUT events integer, OUT expected integer, OUT present integer, OUT missing integer, OUT unproven integer, OUT gaps jsonb, OUT next_at timestamp with time zone, OUT next_id uuid, OUT more boolean)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
begin
  if not exists (
    select from audit_consumer v
    where v.event_domain = p_event_domain and (v.replaced_at is null or v.replaced_at > p_after_at) and v.changed_at < p_until
      and v.consumer @> '{"enabled": true, "dry_run": false}' and v.consumer ->> 'job_kind' is not null)
  then -- nobody wants anything: nothing to read
    events := 0; expected := 0; present := 0; missing := 0; unproven := 0; gaps := '[]'; more := false;
    next_at := greatest(p_until, p_after_at);
    next_id := case when next_at = p_after_at then p_after_id else '00000000-0000-0000-0000-000000000000' end;
    return;
  end if;
  select o.created_at, o.id into next_at, next_id
  from event_outbox o
  where o.created_at >= p_after_at and o.created_at < p_until and (o.created_at, o.id) > (p_after_at, p_after_id)
  order by o.created_at, o.id
  offset p_limit - 1
  limit 1;
  more := next_at is not null;
  if not more then
    next_at := greatest(p_until, p_after_at);
    next_id := case when next_at = p_after_at then p_after_id else '00000000-0000-0000-0000-000000000000' end;
  end if;
  with versions as materialized (
    select v.version_id, v.changed_at, coalesce(v.replaced_at, 'infinity') as replaced_at,
      -- read together with the keys: of older events nothing is known
      greatest(v.seen_at, (select f.until from job_archive_forgotten f)) as seen_at,
      case when v.replaced_at is not null then v.holds_until
        when fn_audit_text(c) = v.consumer then 'infinity'
        else coalesce(d.closed_until, '-infinity') end as holds_until,
      r.consumer_key, r.event_domain, r.event_type_like, r.event_stream, r.starts_at, r.filter, r.job_kind::text as job_kind,
      r.idempotency_key, r.fan_out
    from audit_consumer v
    cross join lateral jsonb_populate_record(null::consumer_registry, v.consumer) r
    left join consumer_registry c on c.consumer_key = v.consumer_key
    left join audit_domain d on d.event_domain = v.event_domain
    where v.event_domain = p_event_domain and r.enabled and not r.dry_run and r.job_kind is not null
      and (v.replaced_at is null or v.replaced_at > p_after_at) and v.changed_at <= next_at
  ),
  facts as materialized (
    select o as event, o.id, o.created_at, o.event_type::text as event_type
    from event_outbox o
    where o.created_at >= p_after_at and o.created_at <= next_at
      and (o.created_at, o.id) > (p_after_at, p_after_id)
      and (o.created_at, o.id) <= (next_at, next_id)
      and o.event_domain = p_event_domain
  ),
  pairs as materialized (
    select distinct on (f.id, v.consumer_key) f.id, f.created_at, f.event_type, f.event, v.consumer_key, v.job_kind, v.idempotency_key,
      v.fan_out, f.created_at >= v.seen_at and f.created_at < v.holds_until as is_proven
    from facts f
    join versions v on 'match' = fn_event_verdict(f.event, v.event_domain, v.event_type_like, v.event_stream, v.starts_at, v.filter)
      and f.created_at >= least(v.changed_at, v.seen_at) and f.created_at < v.replaced_at
    order by f.id, v.consumer_key, f.created_at >= v.seen_at and f.created_at < v.holds_until desc, v.version_id desc
  ),
  judged as materialized (
    select p.id, p.created_at, p.event_type, p.consumer_key, p.fan_out, p.is_proven,
      (select 1 from job_queue j where j.job_kind = p.job_kind and j.idempotency_key = k.key limit 1) is not null
        or (select 1 from job_archive_key a where a.job_kind = p.job_kind and a.idempotency_key = k.key limit 1) is not null
        or (select 1 from dispatch_error d where d.event_id = p.id and d.consumer_key = p.consumer_key limit 1) is not null
        or (select 1 from dispatch_gap g
          where g.event_id = p.id and g.consumer_key = p.consumer_key and g.outcome = 'not_wanted' limit 1) is not null as is_decided
    from pairs p
    cross join lateral (
      select fn_job_key(fn_template_render(p.idempotency_key, p.consumer_key, p.event)) as key offset 0) k
    where p.fan_out is null
    union all
    select p.id, p.created_at, p.event_type, p.consumer_key, p.fan_out, p.is_proven,
      (select 1 from dispatch_error d where d.event_id = p.id and d.consumer_key = p.consumer_key limit 1) is not null or r.all_there
    from pairs p
    cross join lateral (
      select bool_and(
          (select 1 from job_queue j where j.job_kind = p.job_kind and j.idempotency_key = k.key limit 1) is not null
          or (select 1 from job_archive_key a where a.job_kind = p.job_kind and a.idempotency_key = k.key limit 1) is not null) as all_there
      from (
        select distinct s.recipient_ref from fn_event_recipient_rows(array[p.id]) s where s.muted_by is null) s
      cross join lateral (
        select fn_job_key(fn_recipient_template(p.idempotency_key, p.consumer_key,
          jsonb_set(fn_event_document(p.event), '{event,recipient}', to_jsonb(s.recipient_ref)))) as key offset 0) k) r
    where p.fan_out is not null and r.all_there is not null -- null: it is for nobody
  )
  select
    (select count(*) from facts),
    count(*) filter (where j.is_proven and (j.fan_out is null or j.is_decided)),
    count(*) filter (where j.is_proven and j.is_decided),
    count(*) filter (where j.is_proven and j.fan_out is null and not j.is_decided),
    count(*) filter (where not j.is_decided and (not j.is_proven or j.fan_out is not null)),
    coalesce(jsonb_agg(jsonb_build_object('event_id', j.id, 'consumer_key', j.consumer_key, 'event_type', j.event_type, 'created_at', j.created_at)
      order by j.created_at, j.id, j.consumer_key) filter (where j.is_proven and j.fan_out is null and not j.is_decided), '[]')
  into events, expected, present, missing, unproven, gaps
  from judged j;
end
$function$

-- The value of a key in dot_config, or the default when the key is missing.
CREATE OR REPLACE FUNCTION fn_config(p_key text, p_default text)
 RETURNS text
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return coalesce((select c.value from dot_config c where c.key = p_key), p_default);
end
$function$

-- The first of some keys that is set and well-formed, with its value; no row when none is.
CREATE OR REPLACE FUNCTION fn_config_first(p_keys text[], p_form text)
 RETURNS TABLE(key text, value text)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return query
  select c.key::text, c.value::text
  from dot_config c
  where c.key = any (p_keys) and c.value ~ p_form
  order by array_position(p_keys, c.key::text)
  limit 1;
end
$function$

-- The number under a key in dot_config, or the default when it is missing or no number.
CREATE OR REPLACE FUNCTION fn_config_number(p_key text, p_default numeric)
 RETURNS numeric
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return coalesce((select c.value::numeric from dot_config c where c.key = p_key and c.value ~ '^[0-9]{1,9}(\.[0-9]{1,6})?$'), p_default);
end
$function$

-- Jobs of past events for one consumer, by the keys of live dispatch: {expected, made, present, not_matching, errors, …}. A dry run unless told otherwise.
CREATE OR REPLACE FUNCTION fn_consumer_backfill(p_consumer_key text, p_since timestamp with time zone DEFAULT NULL::timestamp with time zone, p_until timestamp with time zone DEFAULT NULL::timestamp with time zone, p_limit integer DEFAULT NULL::integer, p_dry_run boolean DEFAULT true, p_actor text DEFAULT NULL::text, p_reason text DEFAULT NULL::text, p_rate numeric DEFAULT NULL::numeric, p_priority integer DEFAULT NULL::integer, p_after jsonb DEFAULT NULL::jsonb, p_batch integer DEFAULT 1000, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return fn_rehearse_begin('backfill', p_consumer_key, p_since, p_until, p_limit, p_dry_run, p_actor, p_reason, null, p_rate, p_priority, p_after,
    p_batch, p_now);
end
$function$

-- Findings about backfills and replays: failed, running without a runner for 10 minutes, paused for a day.
CREATE OR REPLACE FUNCTION fn_consumer_backfill_check(p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS TABLE(consumer_key text, severity text, finding text, what text, hint text, age_seconds numeric)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
begin
  return query
  select b.consumer_key, 'warning', b.status,
    format('its %s %s %s: %s made', b.mode, b.backfill_id, case b.status
      when 'failed' then 'has failed (' || coalesce(b.note, 'no reason given') || ')'
      when 'running' then 'has lost its runner'
      else 'is paused (' || coalesce(b.note, 'no reason given') || ')' end, b.made),
    format('reveille consumers %1$s --resume %2$s, or reveille consumers %1$s --cancel %2$s', b.mode, b.backfill_id),
    round(extract(epoch from v_now - b.updated_at)::numeric, 3)
  from consumer_backfill b
  where b.ended_at is null
    and b.updated_at < v_now - case b.status when 'failed' then interval '0' when 'running' then interval '10 minutes' else interval '1 day' end
    and (b.status <> 'running' or b.next_at < v_now - interval '10 minutes')
  order by b.updated_at
  limit 100;
end
$function$

-- Pauses, resumes (running) or cancels a backfill or replay: its row, and what it was; audited in dot_config_audit as consumer.<key>.<mode>.
CREATE OR REPLACE FUNCTION fn_consumer_backfill_move(p_backfill_id uuid, p_status text, p_actor text, p_reason text, p_accept_change boolean DEFAULT false, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_run consumer_backfill;
begin
  if p_status is null or p_status <> all (array['running', 'paused', 'cancelled', 'failed']) or coalesce(btrim(p_actor), '') = ''
    or coalesce(btrim(p_reason), '') = ''
  then
    raise exception 'fn_consumer_backfill_move needs p_status (running, paused, cancelled, failed), an actor and a reason' using errcode = '22023';
  end if;
  select b.* into v_run from consumer_backfill b where b.backfill_id = p_backfill_id for update;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'backfill_id', p_backfill_id);
  elsif v_run.ended_at is not null or (p_status = 'failed' and v_run.status <> 'running') or (p_status = 'paused' and v_run.status = 'failed') then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'backfill_id', p_backfill_id, 'status', v_run.status);
  end if;
  if p_status <> v_run.status or p_accept_change then
    update consumer_backfill b
    set status = p_status, note = case when p_status <> 'running' then p_reason end, updated_at = v_now,
        ended_at = case when p_status = 'cancelled' then v_now end,
        consumer = case when p_accept_change then coalesce((
          select fn_audit_text(c) from consumer_registry c where c.consumer_key = b.consumer_key), b.consumer) else b.consumer end
    where b.backfill_id = p_backfill_id;
    insert into dot_config_audit (key, old_value, new_value, actor, reason)
    values ('consumer.' || v_run.consumer_key || '.' || v_run.mode, p_backfill_id || ' ' || v_run.status, p_backfill_id || ' ' || p_status, p_actor, p_reason);
  end if;
  return jsonb_build_object('refused', false, 'was', v_run.status) || (select to_jsonb(v) from v_consumer_backfill v where v.backfill_id = p_backfill_id);
end
$function$

-- The next batch of a backfill or replay: its row of v_consumer_backfill, busy, wait_seconds or waiting; refused with what stands against it, which also pauses it.
CREATE OR REPLACE FUNCTION fn_consumer_backfill_step(p_backfill_id uuid, p_batch integer DEFAULT 1000, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_run consumer_backfill;
  v_consumer consumer_registry;
  v_found boolean;
  v_obstacle jsonb;
  v_closed timestamptz;
  v_forgotten timestamptz;
  v_until timestamptz;
  v_page record;
  v_done record;
  v_left bigint;
  v_burst bigint;
  v_whole boolean := true;
  v_extra jsonb := '{}';
begin
  if p_batch is null or p_batch not between 1 and 10000 then
    raise exception 'fn_consumer_backfill_step: p_batch must be from 1 to 10000' using errcode = '22023';
  elsif current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fn_consumer_backfill_step needs READ COMMITTED: an older snapshot would miss what another session made' using errcode = '25001';
  end if;
  select b.* into v_run from consumer_backfill b where b.backfill_id = p_backfill_id for update skip locked;
  if not found then
    if exists (select from consumer_backfill b where b.backfill_id = p_backfill_id) then
      return jsonb_build_object('refused', false, 'backfill_id', p_backfill_id, 'status', 'running', 'busy', true);
    end if;
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'backfill_id', p_backfill_id);
  end if;
  if v_run.updated_at > v_now + interval '1 minute' then -- the clock was set back: what it said before is long
    v_run.next_at := '-infinity';
  end if;
  if v_run.status = 'running' and v_run.next_at > v_now then
    v_extra := jsonb_build_object('wait_seconds', round(extract(epoch from v_run.next_at - v_now)::numeric, 3));
  elsif v_run.status = 'running' then
    -- shared: a change of the row waits for this batch, and the next batch sees it
    select c.* into v_consumer from consumer_registry c where c.consumer_key = v_run.consumer_key for share;
    v_found := found;
    v_obstacle := case when v_found then fn_rehearse_obstacle(v_consumer, v_run.consumer) else '{"reason": "consumer_gone"}' end;
    if v_obstacle is null and v_run.mode = 'backfill' then
      perform from job_archive_forgotten f for share; -- no key may go between the look and the batch
      v_forgotten := fn_rehearse_forgotten(v_consumer);
      if v_run.place_at < v_forgotten then
        v_obstacle := jsonb_build_object('reason', 'keys_forgotten', 'forgotten_until', v_forgotten);
      end if;
    end if;
    if v_obstacle is not null then
      update consumer_backfill b
      set status = 'paused', note = concat_ws(' ', v_obstacle ->> 'reason', v_obstacle ->> 'scope', v_obstacle ->> 'columns'), updated_at = clock_timestamp()
      where b.backfill_id = p_backfill_id;
      return jsonb_build_object('refused', true, 'backfill_id', p_backfill_id, 'consumer_key', v_run.consumer_key, 'status', 'paused') || v_obstacle;
    end if;
    v_closed := fn_audit_closed_until(v_run.event_domain);
    v_until := least(v_run.until, coalesce(v_closed, '-infinity'));
    v_left := coalesce(v_run.job_limit - v_run.made, 9223372036854775807);
    v_burst := coalesce(ceil(v_run.rate)::bigint, 9223372036854775807);
    select * into v_page from fn_rehearse_page(v_run.event_domain, v_run.place_at, v_run.place_id, v_until, v_run.event_ids,
      case when v_run.rate is null then p_batch else least(p_batch, greatest(100, least(10000, v_burst * 10)))::int end);
    if v_page.ids is not null then
      select * into v_done from fn_rehearse_run(fn_rehearse_candidate(v_consumer, v_run.priority), v_run.generation, v_page.ids, v_left, v_burst,
        p_backfill_id, false, '{}');
      v_whole := v_done.seen >= cardinality(v_page.ids);
      if not v_whole then -- back to the last event that it came to
        v_page.looked := v_page.nths[v_done.seen];
        v_page.last_at := v_page.ats[v_done.seen];
        v_page.last_id := v_page.ids[v_done.seen];
      end if;
      v_run.events := v_run.events + v_done.seen;
      v_run.expected := v_run.expected + v_done.expected;
      v_run.made := v_run.made + v_done.made;
      v_run.present := v_run.present + v_done.present;
      v_run.not_matching := v_run.not_matching + v_done.not_matching;
      v_run.without_job := v_run.without_job + v_done.without_job;
      v_run.errors := v_run.errors + v_done.errors;
      if v_run.rate is not null and v_done.made > 0 then
        v_run.next_at := greatest(v_run.next_at, v_now) + make_interval(secs => (v_done.made / v_run.rate)::double precision);
      end if;
      if v_done.made > 0 then
        if v_consumer.job_kind like 'workflow:%' then
          perform fn_mot_start();
        end if;
        perform fn_job_wake(v_consumer.executor, array[v_consumer.job_kind::text], v_done.made);
      end if;
    end if;
    if v_page.looked > 0 then
      v_run.looked := v_run.looked + v_page.looked;
      v_run.place_at := v_page.last_at;
      v_run.place_id := v_page.last_id;
    end if;
    if v_run.job_limit is not null and v_run.made >= v_run.job_limit then
      v_run.status := 'finished';
      v_run.note := 'limit';
    elsif v_page.looked = 0 and v_until = v_run.until then
      v_run.status := 'finished';
      v_run.note := null;
      v_run.place_at := v_run.until;
      v_run.place_id := '00000000-0000-0000-0000-000000000000';
    elsif v_page.looked = 0 then
      v_extra := jsonb_build_object('waiting', 'not_closed', 'closed_until', v_closed);
    end if;
    if v_page.looked > 0 or v_run.status <> 'running' or v_run.updated_at < v_now - interval '10 seconds' then
      update consumer_backfill b
      set place_at = v_run.place_at, place_id = v_run.place_id, next_at = v_run.next_at, looked = v_run.looked, events = v_run.events,
          expected = v_run.expected, made = v_run.made, present = v_run.present, not_matching = v_run.not_matching,
          without_job = v_run.without_job, errors = v_run.errors, status = v_run.status, note = v_run.note, updated_at = clock_timestamp(),
          ended_at = case when v_run.status = 'finished' then clock_timestamp() end
      where b.backfill_id = p_backfill_id;
    end if;
  end if;
  return jsonb_build_object('refused', false, 'busy', false) || (select to_jsonb(v) from v_consumer_backfill v where v.backfill_id = p_backfill_id)
    || v_extra;
end
$function$

-- job, disabled, terminal, no_recipient, error, dry_run, or the verdict of a consumer that does not want the event. Internal.
CREATE OR REPLACE FUNCTION fn_consumer_decision(p_consumer consumer_registry, p_event event_outbox, p_has_error boolean, p_has_recipient boolean DEFAULT true)
 RETURNS text
 LANGUAGE sql
 STABLE
RETURN CASE WHEN (NOT (p_consumer).enabled) THEN 'disabled'::text WHEN (fn_consumer_verdict(p_consumer, p_event) <> 'match'::text) THEN fn_consumer_verdict(p_consumer, p_event) WHEN ((p_consumer).job_kind IS NULL) THEN 'terminal'::text WHEN (NOT p_has_recipient) THEN 'no_recipient'::text WHEN p_has_error THEN 'error'::text WHEN (p_consumer).dry_run THEN 'dry_run'::text ELSE 'job'::text END

-- Which of the newest events a changed consumer row would treat otherwise: {events, gain, lose, change, error, same, none, columns, samples}. Reads only.
CREATE OR REPLACE FUNCTION fn_consumer_diff(p_consumer jsonb, p_last integer DEFAULT 1000, p_samples integer DEFAULT 20)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET jit TO 'off'
AS $function$
declare
  v_key text := p_consumer ->> 'consumer_key';
  v_old consumer_registry;
  v_new consumer_registry;
  v_stored boolean;
  v_as_if boolean;
  v_problem text;
  v_ids uuid[];
  v_answer jsonb;
begin
  if v_key is null or p_last is null or p_last not between 1 and 100000 or p_samples is null or p_samples not between 0 and 1000 then
    raise exception 'fn_consumer_diff needs a consumer_key, p_last from 1 to 100000, and p_samples from 0 to 1000' using errcode = '22023';
  end if;
  select c.* into v_old from consumer_registry c where c.consumer_key = v_key;
  v_stored := found;
  if v_stored then
    v_new := jsonb_populate_record(v_old, p_consumer - 'event_type_like');
  else
    v_new := jsonb_populate_record(
      jsonb_populate_record(null::consumer_registry, jsonb_build_object(
        'event_type', '*', 'executor', 'PG_worker', 'priority', 100, 'delay', '0', 'source_ref', '{event_subject_ref}', 'enabled', false,
        'idempotency_key', '{consumer_key}:{event_id}' || case when p_consumer ->> 'fan_out' is null then '' else ':{recipient}' end,
        'dry_run', false, 'starts_at', '-infinity')),
      p_consumer);
  end if;
  v_new.event_type_like := replace(replace(v_new.event_type, '_', '\_'), '*', '%');
  v_problem := fn_consumer_problem(v_new);
  if v_problem is not null then
    raise exception 'consumer %: %', v_key, v_problem using errcode = '23514';
  end if;
  if v_new.starts_at is not distinct from v_old.starts_at then
    v_old.starts_at := '-infinity';
    v_new.starts_at := '-infinity';
  end if;
  v_as_if := not coalesce(v_old.enabled, false) and not coalesce(v_new.enabled, false);
  v_old.enabled := v_old.enabled or v_as_if;
  v_new.enabled := v_new.enabled or v_as_if;
  select array_agg(n.id order by n.created_at desc, n.id desc) into v_ids
  from (
    select o.id, o.created_at
    from (select e.id, e.created_at, e.event_domain from event_outbox e order by e.created_at desc limit greatest(100000, p_last)) o
    where o.event_domain in (v_new.event_domain, v_old.event_domain)
    order by o.created_at desc, o.id desc
    limit p_last) n;
  with sides as materialized (
    select s.side, r.n, r.event_id, r.event_type, r.created_at, coalesce(r.recipient, '') as recipient,
      case
        when not s.enabled then 'disabled'
        when r.reason = 'undigestible' then 'error'
        when r.reason = 'match' and s.dry_run then 'dry_run'
        when r.reason = 'match' then 'job'
        else r.reason
      end as verdict,
      case when r.reason = 'match' then jsonb_build_object('job_kind', s.job_kind, 'executor', s.executor, 'priority', s.priority,
        'max_attempts', s.max_attempts, 'delay', s.delay, 'source_ref', r.source_ref, 'target_ref', r.target_ref, 'payload_ref', r.payload_ref,
        'ordering_key', r.ordering_key, 'idempotency_key', fn_job_key(r.idempotency_key)) end as target
    from (
      select 'before' as side, v_old as c, v_old.enabled, v_old.dry_run, v_old.job_kind, v_old.executor, v_old.priority, v_old.max_attempts, v_old.delay
      where v_stored
      union all
      select 'after', v_new, v_new.enabled, v_new.dry_run, v_new.job_kind, v_new.executor, v_new.priority, v_new.max_attempts, v_new.delay) s
    cross join lateral fn_rehearse_rows(s.c, v_ids) r
  ),
  compared as materialized (
    select coalesce(a.n, b.n) as n, coalesce(a.event_id, b.event_id) as event_id, coalesce(a.event_type, b.event_type) as event_type,
      coalesce(a.created_at, b.created_at) as created_at, nullif(coalesce(a.recipient, b.recipient), '') as recipient,
      b.verdict as was, a.verdict as becomes, b.target as was_target, a.target as becomes_target,
      case
        when b.verdict = 'job' and a.verdict = 'job' then case when a.target = b.target then 'same' else 'change' end
        when a.verdict = 'job' then 'gain'
        when b.verdict = 'job' then 'lose'
        when a.verdict = 'error' and b.verdict is distinct from 'error' then 'error'
        else 'none'
      end as change
    from (select s.* from sides s where s.side = 'after') a
    full join (select s.* from sides s where s.side = 'before') b on b.event_id = a.event_id and b.recipient = a.recipient
  ),
  changed_columns as (
    select k.key, count(*) as n
    from compared c
    cross join lateral jsonb_each(c.becomes_target) k
    where c.change = 'change' and c.was_target -> k.key is distinct from k.value
    group by k.key
  ),
  shown as (
    select * from compared c where c.change in ('gain', 'lose', 'change', 'error')
    order by c.n, c.recipient
    limit p_samples
  )
  select jsonb_build_object('refused', false, 'consumer_key', v_key, 'stored', v_stored, 'as_if_enabled', v_as_if,
    'events', coalesce(cardinality(v_ids), 0),
    'gain', count(*) filter (where c.change = 'gain'),
    'lose', count(*) filter (where c.change = 'lose'),
    'change', count(*) filter (where c.change = 'change'),
    'error', count(*) filter (where c.change = 'error'),
    'same', count(*) filter (where c.change = 'same'),
    'none', count(*) filter (where c.change = 'none'),
    'columns', coalesce((select jsonb_object_agg(x.key, x.n) from changed_columns x), '{}'),
    'samples', coalesce((
      select jsonb_agg(jsonb_build_object('event_id', s.event_id, 'event_type', s.event_type, 'created_at', s.created_at, 'recipient', s.recipient,
        'change', s.change, 'was', s.was, 'becomes', s.becomes, 'before', case when s.was = 'job' then s.was_target end,
        'after', case when s.becomes = 'job' then s.becomes_target end) order by s.n, s.recipient)
      from shown s), '[]'))
  into v_answer
  from compared c;
  return v_answer;
end
$function$

-- Dispatches one event to every consumer that wants it; answers {jobs, duplicates, errors, decisions}.
CREATE OR REPLACE FUNCTION fn_consumer_dispatch(p_event_id uuid)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_started timestamptz := clock_timestamp();
  v_pause text;
  v_counts record;
begin
  if not fn_gate_is_open('queue.job_substrate.enabled') then
    return jsonb_build_object('refused', true, 'reason', 'job_substrate_disabled');
  end if;
  select fn_domain_pause(e.event_domain) into v_pause from event_outbox e where e.id = p_event_id;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'event_id', p_event_id);
  elsif v_pause is not null then
    return jsonb_build_object('refused', true, 'reason', 'paused', 'scope', v_pause, 'event_id', p_event_id);
  end if;
  select * into v_counts from fn_dispatch_events_singly(array[p_event_id]);
  if v_counts.jobs > 0 and exists (select from consumer_registry c where c.enabled and c.job_kind like 'workflow:%') then
    perform fn_mot_start();
  end if;
  -- what did not fail again is mended, or not wanted any more; who is disabled or only counts has made no job of it
  delete from dispatch_error d
  where d.event_id = p_event_id
    and d.last_at < v_started
    and not exists (
      select from consumer_registry c where c.consumer_key = d.consumer_key and (not c.enabled or c.dry_run));
  perform fn_job_wake(x.executor, p_jobs => v_counts.jobs) from (select distinct u.executor from unnest(v_counts.executors) u (executor)) x;
  return jsonb_build_object('refused', false, 'event_id', p_event_id, 'jobs', v_counts.jobs, 'duplicates', v_counts.duplicates,
    'errors', v_counts.errors, 'no_recipient', v_counts.no_recipient, 'decisions', fn_event_decisions(p_event_id));
end
$function$

-- One pass of one domain: {events, jobs, duplicates, dry, errors, no_recipient, more}; busy when another sidecar holds the domain.
CREATE OR REPLACE FUNCTION fn_consumer_dispatch_batch(p_event_domain text, p_limit integer DEFAULT 1000, p_found_by text DEFAULT 'sql'::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_started timestamptz := clock_timestamp();
  v_pass dispatch_pass;
  v_old pg_snapshot;
  v_new pg_snapshot;
  v_place_tx xid8;
  v_place_seq bigint;
  v_range record;
  v_part record;
  v_ids uuid[] := '{}';
  v_txs xid8[] := '{}';
  v_seqs bigint[] := '{}';
  v_consumers int;
  v_executors text[];
  v_kinds text[];
  v_plain boolean;
  v_fans boolean;
  v_fanned record;
  v_jobs int;
  v_duplicates int := 0;
  v_dry int := 0;
  v_errors int := 0;
  v_no_recipient int := 0;
  v_count int;
  v_limit int;
  v_way text;
  v_singly int;
  v_more boolean;
  v_resumed boolean;
  v_executor text;
  v_pause text;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fn_consumer_dispatch_batch needs READ COMMITTED: an older snapshot would miss another sidecar''s last pass'
      using errcode = '25001';
  end if;
  if coalesce((select c.value from dot_config c where c.key = 'queue.job_substrate.enabled'), '') <> 'true' then
    return jsonb_build_object('refused', true, 'reason', 'job_substrate_disabled');
  end if;
  v_pause := fn_domain_pause(p_event_domain);
  if v_pause is not null then
    return jsonb_build_object('refused', true, 'reason', 'paused', 'scope', v_pause); -- the position stays
  end if;
  perform from dispatch_cursor c where c.event_domain = p_event_domain for update skip locked;
  if not found then
    if exists (select from dispatch_cursor c where c.event_domain = p_event_domain) then
      return jsonb_build_object('refused', false, 'busy', true, 'events', 0, 'jobs', 0, 'duplicates', 0, 'errors', 0, 'more', false);
    end if;
    raise exception 'event_domain % is not dispatched here', quote_literal(p_event_domain)
      using errcode = '22023', hint = 'fn_dispatch_domain_add adds a domain.';
  end if;

  -- a statement of its own, after the lock: it sees the pass of whoever held the lock before
  select p.* into v_pass from dispatch_pass p where p.event_domain = p_event_domain order by p.pass_id desc limit 1;
  v_old := v_pass.snapshot_old;
  v_new := v_pass.snapshot_new;
  v_place_tx := v_pass.place_tx;
  v_place_seq := v_pass.place_seq;
  if pg_snapshot_xmax(v_new) > pg_snapshot_xmax(pg_current_snapshot()) then
    raise exception 'the position of % lies in the future of this cluster: a restored dump', p_event_domain
      using errcode = '55000', hint = 'Call fn_dispatch_attach(), or restart the sidecar, which does.';
  end if;
  -- bad rows come in runs: do not try a large batch again and again only to see it fail
  v_limit := case when v_pass.errors > 0 then least(p_limit, 100) else p_limit end;
  loop
    v_resumed := v_place_tx is not null;
    if not v_resumed then
      v_old := v_new;
      v_new := pg_current_snapshot();
      if pg_current_xact_id() < pg_snapshot_xmax(v_new) then -- seldom; see there
        v_new := fn_dispatch_snapshot();
      end if;
    end if;
    for v_range in select * from fn_arrival_ranges(v_old, v_new, v_place_tx, v_place_seq) loop
      select array_agg(s.event_id) as ids, array_agg(s.tx_id) as txs, array_agg(s.arrival_seq) as seqs into v_part
      from (
        select a.event_id, a.tx_id, a.arrival_seq
        from event_arrival a
        where a.event_domain = p_event_domain
          and (a.tx_id, a.arrival_seq) > (v_range.low_tx, v_range.low_seq)
          and (a.tx_id, a.arrival_seq) < (v_range.high_tx, v_range.high_seq)
        order by a.tx_id, a.arrival_seq
        limit v_limit - cardinality(v_ids)) s;
      if v_part.ids is not null then
        v_ids := v_ids || v_part.ids;
        v_txs := v_txs || v_part.txs;
        v_seqs := v_seqs || v_part.seqs;
      end if;
      exit when cardinality(v_ids) >= v_limit;
    end loop;
    exit when cardinality(v_ids) > 0 or not v_resumed;
    v_place_tx := null; -- the resumed pair had nothing left: look at a new one
  end loop;
  v_count := cardinality(v_ids);
  if v_count = 0 then
    return jsonb_build_object('refused', false, 'busy', false, 'events', 0, 'jobs', 0, 'duplicates', 0, 'errors', 0, 'more', false);
  end if;
  v_more := v_count >= v_limit;

  -- Plain: no consumer that only counts, and keys of which no two can be the same; those that fan out are served beside it. Whom to wake is read from the
  -- consumers: at worst somebody looks in vain, or at his next poll.
  select count(*), array_agg(distinct c.executor::text), array_agg(distinct c.job_kind::text), coalesce(bool_and(
    c.fan_out is not null or (
      not c.dry_run and strpos(c.idempotency_key, '{event_id}') > 0 and strpos(c.idempotency_key, '{consumer_key}') > 0)), true),
    coalesce(bool_or(c.fan_out is not null), false)
  into v_consumers, v_executors, v_kinds, v_plain, v_fans
  from consumer_registry c where c.enabled and c.event_domain = p_event_domain and c.job_kind is not null;
  v_way := case when v_plain then 'plain' else 'careful' end;
  -- fewer than 64 savepoints a transaction (trap 19): the rest comes with the next passes
  v_singly := greatest(1, 58 / greatest(1, v_consumers));
  loop
    if v_way = 'singly' then
      select d.jobs, d.duplicates, d.dry, d.errors, d.no_recipient, d.executors
      into v_jobs, v_duplicates, v_dry, v_errors, v_no_recipient, v_executors
      from fn_dispatch_events_singly(v_ids[1:v_count]) d;
      exit;
    end if;
    begin
      if v_way in ('plain', 'asking') then
        v_jobs := fn_dispatch_events_plain(v_ids, p_event_domain, v_way = 'asking');
        if v_fans then
          select * into v_fanned from fn_dispatch_fan_out(v_ids, p_event_domain => p_event_domain);
          v_jobs := v_jobs + v_fanned.jobs;
          v_duplicates := v_fanned.duplicates;
          v_dry := v_fanned.dry;
          v_errors := v_fanned.errors;
          v_no_recipient := v_fanned.no_recipient;
        end if;
      else
        select d.jobs, d.duplicates, d.dry, d.errors, d.no_recipient, d.executors
        into v_jobs, v_duplicates, v_dry, v_errors, v_no_recipient, v_executors
        from fn_dispatch_events(v_ids[1:v_count], p_event_domain => p_event_domain) d;
      end if;
      exit;
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded or feature_not_supported or raise_exception
        or undefined_object then
        if v_way = 'plain' and sqlstate = '23502' then
          v_way := 'asking'; -- old events: their jobs may be archived
        elsif v_way in ('plain', 'asking') then
          v_way := 'careful';
        elsif v_count > v_singly then
          v_count := greatest(v_singly, v_count / 2); -- the bad one is in this half, or its turn comes with a later pass
        else
          v_way := 'singly';
        end if;
    end;
  end loop;
  v_more := v_more or v_count < cardinality(v_ids);
  if exists (select from job_gate g where g.kind = 'event' and g.event_id is null and g.event_domain = p_event_domain) then
    perform fn_job_gate_events(v_ids[1:v_count]);
  end if;
  if v_jobs > 0 and exists (select from unnest(v_kinds) k where k like 'workflow:%') then
    perform fn_mot_start();
  end if;

  insert into dispatch_pass (
    event_domain, snapshot_old, snapshot_new, place_tx, place_seq, events, jobs, duplicates, errors, found_by, took)
  values (
    p_event_domain, v_old, v_new, case when v_more then v_txs[v_count] end, case when v_more then v_seqs[v_count] end,
    v_count, v_jobs, v_duplicates, v_errors, p_found_by, clock_timestamp() - v_started);
  if v_jobs > 0 then
    foreach v_executor in array v_executors loop
      perform fn_job_wake(v_executor, v_kinds, v_jobs);
    end loop;
  end if;
  return jsonb_build_object('refused', false, 'busy', false, 'events', v_count, 'jobs', v_jobs,
    'duplicates', v_duplicates, 'dry', v_dry, 'errors', v_errors, 'no_recipient', v_no_recipient,
    'more', v_more or v_resumed); -- behind the end of a resumed pair lies whatever was committed since it was begun
end
$function$

-- Enabled consumers whose filter lets nothing through, and what the events have where it looks.
CREATE OR REPLACE FUNCTION fn_consumer_filter_check(p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS TABLE(consumer_key text, source text, filter text, seen bigint, has text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_consumer consumer_registry;
  v_events uuid[];
  v_passed bigint;
  v_newest event_outbox;
begin
  for v_consumer in select c.* from consumer_registry c where c.enabled and c.filter is not null order by c.consumer_key limit 200 loop
    select array_agg(d.event_id order by d.created_at desc, d.event_id desc) filter (where d.event_type like v_consumer.event_type_like),
      count(*) filter (where d.reason in ('match', 'terminal', 'undigestible'))
    into v_events, v_passed
    from fn_route_consumer_dry_run(v_consumer.consumer_key, v_now - interval '7 days', 1000) d;
    continue when v_passed > 0 or coalesce(cardinality(v_events), 0) < 10;
    consumer_key := v_consumer.consumer_key;
    source := v_consumer.source;
    filter := v_consumer.filter::text;
    seen := cardinality(v_events);
    select string_agg(format('%s (%s of them)', f.words, f.n), '; ' order by f.n desc, f.words) into has
    from (
      select nullif(fn_filter_found(v_consumer.filter, row(e.*)::event_outbox), '') as words, count(*) as n
      from unnest(v_events[:200]) u (id)
      cross join lateral (select o.* from event_outbox o where o.id = u.id offset 0) e
      group by 1 order by 2 desc, 1 limit 3) f
    where f.words is not null;
    if has like '% is not there%' then
      select o.* into v_newest from event_outbox o where o.id = v_events[1];
      if v_newest.payload_classification is distinct from 'restricted' and jsonb_typeof(v_newest.safe_payload) = 'object' then
        has := has || coalesce((
          select '; the newest payload has ' || string_agg(k, ', ' order by k) from (select k from jsonb_object_keys(v_newest.safe_payload) k order by k limit 20) x), '');
      end if;
    end if;
    has := coalesce(has, 'it names no path');
    return next;
  end loop;
end
$function$

-- Collections by how well they suit a pilot: few events, few failures, much that can be undone; places added, the smallest sum first.
CREATE OR REPLACE FUNCTION fn_consumer_pilot(p_since timestamp with time zone DEFAULT NULL::timestamp with time zone, p_limit integer DEFAULT 20, p_collection_key text DEFAULT NULL::text, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS TABLE(place integer, collection text, grouped_by text, event_domains text[], events bigint, events_per_day numeric, jobs bigint, failed_attempts bigint, dead_letters bigint, dispatch_errors bigint, failures_per_event numeric, reversible numeric, irreversible_kinds text[], volume_place integer, failure_place integer, reversible_place integer, enough boolean)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_since timestamptz := coalesce(p_since, v_now - interval '30 days');
  v_key text := coalesce(p_collection_key, fn_config('queue.pilot.collection_key', 'collection'));
  v_least constant int := 5;
begin
  if p_limit is null or p_limit < 1 then
    raise exception 'fn_consumer_pilot: p_limit must be at least 1, not %', coalesce(p_limit::text, 'null') using errcode = '22023';
  end if;
  return query
  with facts as materialized (
    select o.id, o.event_domain::text as event_domain, o.event_type::text as event_type,
      left(coalesce(nullif(o.safe_payload ->> v_key, ''), a.address, nullif(o.event_subject_table, ''), o.event_domain), 200) as collection,
      case when nullif(o.safe_payload ->> v_key, '') is not null then 'payload' when a.address is not null then 'address'
        when nullif(o.event_subject_table, '') is not null then 'table' else 'domain' end as grouped_by
    from event_outbox o
    cross join lateral (select substring(o.canonical_address from '^[^/:#]+') as address) a
    where o.created_at >= v_since and o.created_at <= v_now
  ),
  work as materialized (
    select f.collection, f.grouped_by, f.event_domain, f.event_type, j.job_id, j.job_kind::text as job_kind, j.error_count
    from facts f
    join (
      select q.job_id, q.job_kind, q.error_count, q.causation_event_id from job_queue q where q.causation_event_id is not null
      union all
      select x.job_id, x.job_kind, x.error_count, x.causation_event_id from job_archive x where x.causation_event_id is not null) j
      on j.causation_event_id = f.id
  ),
  worked as (
    select w.collection, w.grouped_by, count(*) as jobs, sum(w.error_count)::bigint as failed_attempts,
      (select count(*) from job_dead_letter d where d.job_id = any (array_agg(w.job_id))) as dead_letters
    from work w
    group by w.collection, w.grouped_by
  ),
  undigested as (
    select f.collection, f.grouped_by, count(*) as errors
    from dispatch_error d
    join facts f on f.id = d.event_id
    group by f.collection, f.grouped_by
  ),
  types as materialized (
    select f.collection, f.grouped_by, f.event_domain, f.event_type, count(*) as events
    from facts f
    group by f.collection, f.grouped_by, f.event_domain, f.event_type
  ),
  follows as materialized (
    select t.collection, t.grouped_by, t.events, k.job_kind,
      k.job_kind is null or coalesce(fn_gate_is_open('job.' || k.job_kind || '.reversible'), false) as is_reversible
    from types t
    cross join lateral (
      select distinct c.job_kind::text as job_kind
      from consumer_registry c where c.event_domain = t.event_domain and t.event_type like c.event_type_like
      union
      select distinct w.job_kind
      from work w
      where w.collection = t.collection and w.grouped_by = t.grouped_by and w.event_domain = t.event_domain and w.event_type = t.event_type
        and not exists (
          select from consumer_registry c where c.event_domain = t.event_domain and t.event_type like c.event_type_like)) k
  ),
  effects as (
    select l.collection, l.grouped_by, round(sum(l.events) filter (where l.is_reversible) / sum(l.events), 3) as reversible,
      array_agg(distinct l.job_kind order by l.job_kind) filter (where not l.is_reversible) as irreversible_kinds
    from follows l
    group by l.collection, l.grouped_by
  ),
  sums as (
    select t.collection, t.grouped_by, array_agg(distinct t.event_domain order by t.event_domain) as event_domains,
      sum(t.events)::bigint as events
    from types t
    group by t.collection, t.grouped_by
  ),
  measured as (
    select s.collection, s.grouped_by, s.event_domains, s.events,
      round(s.events / greatest(extract(epoch from v_now - v_since) / 86400, 0.0001)::numeric, 2) as events_per_day,
      coalesce(w.jobs, 0) as jobs, coalesce(w.failed_attempts, 0) as failed_attempts, coalesce(w.dead_letters, 0) as dead_letters,
      coalesce(u.errors, 0) as dispatch_errors,
      round((coalesce(w.failed_attempts, 0) + coalesce(w.dead_letters, 0) + coalesce(u.errors, 0))::numeric / s.events, 4) as failures_per_event,
      case when e.collection is not null then coalesce(e.reversible, 0) end as reversible,
      coalesce(e.irreversible_kinds, '{}') as irreversible_kinds, s.events >= v_least as enough
    from sums s
    left join worked w on w.collection = s.collection and w.grouped_by = s.grouped_by
    left join undigested u on u.collection = s.collection and u.grouped_by = s.grouped_by
    left join effects e on e.collection = s.collection and e.grouped_by = s.grouped_by
  ),
  placed as (
    select m.*,
      dense_rank() over (partition by m.enough order by m.events)::int as by_volume,
      dense_rank() over (partition by m.enough order by m.failures_per_event)::int as by_failure,
      dense_rank() over (partition by m.enough order by coalesce(m.reversible, 0) desc)::int as by_reversible
    from measured m
  )
  select
    (row_number() over (order by p.enough desc, p.by_volume + p.by_failure + p.by_reversible, p.failures_per_event, p.by_reversible,
      p.events, p.collection, p.grouped_by))::int,
    p.collection, p.grouped_by, p.event_domains, p.events, p.events_per_day, p.jobs, p.failed_attempts, p.dead_letters, p.dispatch_errors,
    p.failures_per_event, p.reversible, p.irreversible_kinds, p.by_volume, p.by_failure, p.by_reversible, p.enough
  from placed p
  order by 1
  limit p_limit;
end
$function$

-- The first thing wrong with a consumer row, as a sentence; null when it is sound.
CREATE OR REPLACE FUNCTION fn_consumer_problem(p_consumer consumer_registry)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_template record;
  v_variable text;
begin
  if not exists (select from dispatch_cursor c where c.event_domain = (p_consumer).event_domain) then
    return format('event_domain %s is not dispatched here; it is one of %s', quote_literal((p_consumer).event_domain),
      (select string_agg(c.event_domain, ', ' order by c.event_domain) from dispatch_cursor c));
  end if;
  for v_template in
    select t.name, t.template from (values
      ('source_ref', (p_consumer).source_ref), ('target_ref', (p_consumer).target_ref), ('payload_ref', (p_consumer).payload_ref),
      ('ordering_key', (p_consumer).ordering_key), ('idempotency_key', (p_consumer).idempotency_key)) as t (name, template)
    where t.template is not null
  loop
    if regexp_replace(v_template.template, '\{[^{}]*\}', '', 'g') ~ '[{}]' then
      return format('%s has an unmatched brace: %s', v_template.name, quote_literal(v_template.template));
    end if;
    for v_variable in select m[1] from regexp_matches(v_template.template, '\{([^{}]*)\}', 'g') as m loop
      if v_variable not in ('consumer_key', 'event_id', 'event_domain', 'event_type', 'event_stream', 'event_severity', 'event_subject_table',
          'event_subject_ref', 'canonical_address', 'actor_ref', 'source_system', 'correlation_id')
        and v_variable !~ '^payload\..+$' and (v_variable <> 'recipient' or (p_consumer).fan_out is null) then
        if v_variable = 'recipient' then
          return format('%s has {recipient}, which only a consumer with fan_out = recipients has', v_template.name);
        end if;
        return format('%s has an unknown variable {%s}; known are {consumer_key} {event_id} {event_domain} {event_type} {event_stream} '
          '{event_severity} {event_subject_table} {event_subject_ref} {canonical_address} {actor_ref} {source_system} {correlation_id} {payload.KEY}',
          v_template.name, v_variable);
      end if;
    end loop;
  end loop;
  if (p_consumer).event_stream is not null
    and (p_consumer).event_stream <> all (array['comment', 'review', 'update', 'birth', 'task', 'alert', 'health'])
  then
    return format('event_stream %s is none of comment, review, update, birth, task, alert, health', quote_literal((p_consumer).event_stream));
  end if;
  if btrim(coalesce((p_consumer).idempotency_key, '')) = '' then
    return 'idempotency_key is empty; leave it out for the default {consumer_key}:{event_id}';
  end if;
  if (p_consumer).fan_out <> 'recipients' then
    return format('fan_out %s is not known; it is recipients, or left out', quote_literal((p_consumer).fan_out));
  elsif (p_consumer).fan_out is not null and (p_consumer).job_kind is null then
    return 'fan_out makes one job a recipient, and a terminal consumer makes none: name a job_kind or leave fan_out out';
  elsif (p_consumer).fan_out is not null and strpos((p_consumer).idempotency_key, '{recipient}') = 0 then
    return 'idempotency_key lacks {recipient}: two recipients of one event would share one job; '
      'leave it out for the default {consumer_key}:{event_id}:{recipient}';
  elsif (p_consumer).fan_out is not null and not exists (
    select from pg_proc p where p.proname = 'fn_dispatch_fan_out' and p.pronamespace = quote_ident(current_schema())::regnamespace)
  then
    return 'fan_out needs what resolves recipients: run `reveille migrate up` first';
  end if;
  if (p_consumer).filter is not null then
    -- asked of the text, as the sample may never reach it; names stand between double quotes, a quote within escaped
    if regexp_replace((p_consumer).filter::text, '"([^"\\]|\\.)*"', '""', 'g') ~ '\$"' then
      return 'filter has a variable ($name); a filter has none, write the value itself';
    end if;
    begin
      perform jsonb_path_match_tz('{"event": {}, "payload": {}}', (p_consumer).filter, '{}', false);
    exception
      when singleton_sql_json_item_required then
        return 'filter is not a predicate: write a condition such as $.payload.amount > 100, not a path';
      when others then
        null; -- strict paths may fail on the empty sample and work on real events
    end;
  end if;
  return null;
end
$function$

-- Writes a consumer row from its columns: {created}, and warning where no template has the name of its workflow; refused not_owner when the row has another source.
CREATE OR REPLACE FUNCTION fn_consumer_put(p_consumer jsonb, p_actor text, p_source text DEFAULT 'sql'::text, p_set_enabled boolean DEFAULT false)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_key text := p_consumer ->> 'consumer_key';
  v_created boolean := false;
  v_row consumer_registry;
begin
  select c.* into v_row from consumer_registry c where c.consumer_key = v_key for update;
  if not found then
    v_created := true;
    insert into consumer_registry (consumer_key, event_domain, source, actor, job_kind, fan_out)
    values (v_key, p_consumer ->> 'event_domain', p_source, p_actor, p_consumer ->> 'job_kind', p_consumer ->> 'fan_out')
    returning * into v_row;
  elsif v_row.source <> p_source then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'consumer_key', v_key, 'source', v_row.source);
  end if;
  v_row := jsonb_populate_record(v_row, case when v_created or p_set_enabled then p_consumer else p_consumer - 'enabled' end);
  update consumer_registry c
  set event_domain = v_row.event_domain, event_type = v_row.event_type, event_stream = v_row.event_stream, filter = v_row.filter,
      job_kind = v_row.job_kind, executor = v_row.executor, priority = v_row.priority, max_attempts = v_row.max_attempts,
      delay = v_row.delay, source_ref = v_row.source_ref, target_ref = v_row.target_ref, payload_ref = v_row.payload_ref,
      ordering_key = v_row.ordering_key, idempotency_key = v_row.idempotency_key, enabled = v_row.enabled, dry_run = v_row.dry_run,
      fan_out = v_row.fan_out, starts_at = v_row.starts_at, description = v_row.description, actor = p_actor
  where c.consumer_key = v_key;
  return jsonb_build_object('refused', false, 'consumer_key', v_key, 'created', v_created) || fn_consumer_warning(v_row.job_kind);
end
$function$

-- Refuses a bad consumer row when it is written, with the reason.
CREATE OR REPLACE FUNCTION fn_consumer_registry_check()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_problem text;
begin
  if new.fan_out is not null and new.idempotency_key = '{consumer_key}:{event_id}' then
    new.idempotency_key := '{consumer_key}:{event_id}:{recipient}'; -- the default of such a row
  end if;
  v_problem := fn_consumer_problem(new);
  -- a pass reads both sorts of consumers one after the other: a row that changes sides between would be missed, or served twice
  if v_problem is null and tg_op = 'UPDATE' and new.fan_out is distinct from old.fan_out then
    v_problem := 'fan_out is fixed when the row is made: write a consumer of another name, or remove this one first';
  end if;
  if v_problem is not null then
    raise exception 'consumer %: %', new.consumer_key, v_problem using errcode = '23514';
  end if;
  if tg_op = 'UPDATE' then
    new.updated_at := clock_timestamp();
  end if;
  return new;
end
$function$

-- Removes a consumer row; refused not_owner when it has another source.
CREATE OR REPLACE FUNCTION fn_consumer_remove(p_consumer_key text, p_actor text, p_reason text, p_source text DEFAULT 'sql'::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_row consumer_registry;
begin
  select c.* into v_row from consumer_registry c where c.consumer_key = p_consumer_key for update;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'consumer_key', p_consumer_key);
  elsif v_row.source <> p_source then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'consumer_key', p_consumer_key, 'source', v_row.source);
  end if;
  delete from consumer_registry c where c.consumer_key = p_consumer_key;
  insert into dot_config_audit (key, old_value, new_value, actor, reason)
  values ('consumer.' || p_consumer_key || '.enabled', v_row.enabled::text, null, p_actor, p_reason);
  return jsonb_build_object('refused', false, 'consumer_key', p_consumer_key);
end
$function$

-- Jobs of one consumer again, for events that have one, with a new generation of their key: {generation, expected, made, …}. A dry run unless told otherwise.
CREATE OR REPLACE FUNCTION fn_consumer_replay(p_consumer_key text, p_since timestamp with time zone DEFAULT NULL::timestamp with time zone, p_until timestamp with time zone DEFAULT NULL::timestamp with time zone, p_limit integer DEFAULT NULL::integer, p_dry_run boolean DEFAULT true, p_actor text DEFAULT NULL::text, p_reason text DEFAULT NULL::text, p_event_ids uuid[] DEFAULT NULL::uuid[], p_rate numeric DEFAULT NULL::numeric, p_priority integer DEFAULT NULL::integer, p_after jsonb DEFAULT NULL::jsonb, p_batch integer DEFAULT 1000, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return fn_rehearse_begin('replay', p_consumer_key, p_since, p_until, p_limit, p_dry_run, p_actor, p_reason, p_event_ids, p_rate, p_priority, p_after,
    p_batch, p_now);
end
$function$

-- Enables or disables a consumer; the flip is audited in dot_config_audit as consumer.<key>.enabled.
CREATE OR REPLACE FUNCTION fn_consumer_set_enabled(p_consumer_key text, p_enabled boolean, p_actor text, p_reason text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_was boolean;
  v_job_kind text;
begin
  if p_enabled is null or coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_consumer_set_enabled needs p_enabled, an actor and a reason' using errcode = '22023';
  end if;
  select c.enabled, c.job_kind into v_was, v_job_kind from consumer_registry c where c.consumer_key = p_consumer_key for update;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'consumer_key', p_consumer_key);
  end if;
  if v_was <> p_enabled then
    update consumer_registry c set enabled = p_enabled, actor = p_actor where c.consumer_key = p_consumer_key;
    insert into dot_config_audit (key, old_value, new_value, actor, reason)
    values ('consumer.' || p_consumer_key || '.enabled', v_was::text, p_enabled::text, p_actor, p_reason);
  end if;
  return jsonb_build_object('refused', false, 'consumer_key', p_consumer_key, 'enabled', p_enabled, 'was_enabled', v_was)
    || case when p_enabled then fn_consumer_warning(v_job_kind) else '{}' end;
end
$function$

-- The verdict of a consumer row: match, or the first reason why not.
CREATE OR REPLACE FUNCTION fn_consumer_verdict(p_consumer consumer_registry, p_event event_outbox)
 RETURNS text
 LANGUAGE sql
 STABLE
RETURN fn_event_verdict(p_event, (p_consumer).event_domain, (p_consumer).event_type_like, (p_consumer).event_stream, (p_consumer).starts_at, (p_consumer).filter)

-- What stands against the workflows of a consumer: {warning}, or {}. Internal.
CREATE OR REPLACE FUNCTION fn_consumer_warning(p_job_kind text)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if p_job_kind like 'workflow:%'
    and exists (select from pg_proc p where p.proname = 'fn_job_kind_warning' and p.pronamespace = quote_ident(current_schema())::regnamespace)
  then -- phase 009 is there
    return jsonb_strip_nulls(jsonb_build_object('warning', fn_job_kind_warning(p_job_kind)));
  end if;
  return '{}';
end
$function$

-- Whether the session's role may triage or replay dead letters of a domain.
CREATE OR REPLACE FUNCTION fn_dead_letter_authority(p_event_domain text, p_replay boolean)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return exists (
    select from dead_letter_authority a
    join pg_roles r on r.rolname = a.role_name
    where a.event_domain in (p_event_domain, '*')
      and case when p_replay then a.may_replay else a.may_triage end
      and pg_has_role(session_user, r.oid, 'member'));
end
$function$

-- Sets which role may triage and replay dead letters of a domain, audited. Refused not_found when there is no such role.
CREATE OR REPLACE FUNCTION fn_dead_letter_authority_set(p_event_domain text, p_role_name name, p_may_triage boolean, p_may_replay boolean, p_actor text, p_reason text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_was text;
  v_function text;
begin
  if coalesce(btrim(p_event_domain), '') = '' or coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = ''
    or p_may_triage is null or p_may_replay is null
  then
    raise exception 'fn_dead_letter_authority_set needs a domain (or *), a role, both rights, an actor and a reason' using errcode = '22023';
  end if;
  if not exists (select from pg_roles r where r.rolname = p_role_name) then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'role_name', p_role_name);
  end if;
  delete from dead_letter_authority a where a.event_domain = p_event_domain and a.role_name = p_role_name
  returning format('triage %s, replay %s', a.may_triage, a.may_replay) into v_was;
  if p_may_triage or p_may_replay then
    insert into dead_letter_authority (event_domain, role_name, may_triage, may_replay, actor)
    values (p_event_domain, p_role_name, p_may_triage, p_may_replay, p_actor);
    foreach v_function in array array[
      'fn_job_dead_letter_triage(uuid, text, text, text)', 'fn_job_dead_letter_replay(uuid, text, boolean, timestamptz)',
      'fn_job_dead_letter_redrive(jsonb, text, int, numeric, boolean)'] loop
      execute format('grant execute on function %s to %I', v_function::regprocedure, p_role_name);
    end loop;
  end if;
  insert into dot_config_audit (key, old_value, new_value, actor, reason)
  values ('dead_letter_authority.' || p_event_domain || '.' || p_role_name, v_was,
    format('triage %s, replay %s', p_may_triage, p_may_replay), p_actor, p_reason);
  return jsonb_build_object('refused', false, 'event_domain', p_event_domain, 'role_name', p_role_name,
    'may_triage', p_may_triage, 'may_replay', p_may_replay);
end
$function$

-- The dead letters in iu_route_dead_letter, if the host has that table. Called by v_dead_letter_all.
CREATE OR REPLACE FUNCTION fn_dead_letter_legacy(OUT dead_letter_id text, OUT reason_class text, OUT error text, OUT is_open boolean, OUT resolution text, OUT created_at timestamp with time zone)
 RETURNS SETOF record
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if not exists (
    select from pg_class c
    where c.relnamespace = quote_ident(current_schema())::regnamespace and c.relname = 'iu_route_dead_letter' and c.relkind in ('r', 'p'))
  then
    return;
  end if;
  for dead_letter_id, reason_class, error, is_open, resolution, created_at in execute format($q$
    select coalesce(j ->> 'dead_letter_id', j ->> 'id', j ->> 'idempotency_key'), j ->> 'failure_code',
      coalesce(j ->> 'failure_message', j ->> 'last_error', j ->> 'error'), j ->> 'resolved_at' is null, j ->> 'resolution',
      (j ->> 'created_at')::timestamptz
    from (select to_jsonb(l) as j from %I.iu_route_dead_letter l) d $q$, current_schema())
  loop
    return next;
  end loop;
end
$function$

-- Notices a restored dump and makes its positions valid in this cluster; otherwise changes nothing.
CREATE OR REPLACE FUNCTION fn_dispatch_attach()
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_system bigint := (select s.system_identifier from pg_control_system() s);
  v_domains text[];
  v_snapshot pg_snapshot;
begin
  if not exists (
    select from dispatch_cursor c
    where c.system_identifier <> v_system or fn_dispatch_position_is_ahead(c.event_domain))
  then
    return jsonb_build_object('refused', false, 'restored', false);
  end if;
  perform from dispatch_cursor c order by c.event_domain for update;
  select array_agg(c.event_domain order by c.event_domain) into v_domains
  from dispatch_cursor c where c.system_identifier <> v_system or fn_dispatch_position_is_ahead(c.event_domain);
  if v_domains is null then
    return jsonb_build_object('refused', false, 'restored', false); -- another sidecar has done it meanwhile
  end if;
  v_snapshot := fn_dispatch_snapshot();
  update event_arrival set tx_id = pg_current_xact_id() where event_domain = any (v_domains);
  insert into dispatch_pass (event_domain, snapshot_old, snapshot_new, events, jobs, duplicates, errors, found_by)
  select d, v_snapshot, v_snapshot, 0, 0, 0, 0, 'start' from unnest(v_domains) d;
  update dispatch_sweep set snapshot = v_snapshot;
  update dispatch_cursor set system_identifier = v_system where event_domain = any (v_domains);
  return jsonb_build_object('refused', false, 'restored', true, 'domains', to_jsonb(v_domains));
end
$function$

-- Expected, found and missing decisions of the closed part of a window of one domain: {events, expected, found, missing, repaired, unproven, closed_until, forgotten_until, gaps, next}. Changes nothing unless p_repair.
CREATE OR REPLACE FUNCTION fn_dispatch_audit(p_event_domain text, p_since timestamp with time zone DEFAULT NULL::timestamp with time zone, p_until timestamp with time zone DEFAULT NULL::timestamp with time zone, p_repair boolean DEFAULT false, p_limit integer DEFAULT 10000, p_after jsonb DEFAULT NULL::jsonb, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_forgotten timestamptz := (select f.until from job_archive_forgotten f where f.until > '-infinity');
  v_since timestamptz := greatest(coalesce(p_since, v_now - interval '1 day'), v_forgotten);
  v_closed timestamptz;
  v_until timestamptz;
  v_at timestamptz;
  v_id uuid;
  v_window record;
  v_before int;
  v_pause text;
  v_repaired int := 0;
  v_told jsonb := '{}';
begin
  if p_limit is null or p_limit not between 1 and 100000 or p_repair is null then
    raise exception 'fn_dispatch_audit: p_limit must be from 1 to 100000, and p_repair true or false' using errcode = '22023';
  elsif not exists (select from dispatch_cursor c where c.event_domain = p_event_domain) then
    raise exception 'event_domain % is not dispatched here', quote_nullable(p_event_domain)
      using errcode = '22023', hint = 'fn_dispatch_domain_add adds a domain.';
  end if;
  if p_repair then
    if current_setting('transaction_isolation') <> 'read committed' then
      raise exception 'fn_dispatch_audit repairs at READ COMMITTED only: an older snapshot would miss what another session made'
        using errcode = '25001';
    end if;
    v_pause := fn_domain_pause(p_event_domain);
    if not fn_gate_is_open('queue.job_substrate.enabled') then
      return jsonb_build_object('refused', true, 'reason', 'job_substrate_disabled');
    elsif v_pause is not null then
      return jsonb_build_object('refused', true, 'reason', 'paused', 'scope', v_pause);
    end if;
    perform from audit_domain d where d.event_domain = p_event_domain for update; -- before any gap, as the timer's pass does
  end if;
  v_closed := fn_audit_closed_until(p_event_domain);
  v_until := least(coalesce(p_until, 'infinity'), coalesce(v_closed, '-infinity'));
  v_at := coalesce((p_after ->> 'at')::timestamptz, v_since);
  v_id := coalesce((p_after ->> 'id')::uuid, '00000000-0000-0000-0000-000000000000');
  if v_at >= v_until then
    return jsonb_build_object('refused', false, 'event_domain', p_event_domain, 'since', v_since, 'until', case when v_closed is not null then v_until end,
      'closed_until', v_closed, 'events', 0, 'expected', 0, 'found', 0, 'missing', 0, 'repaired', 0, 'unproven', 0, 'gaps', jsonb_build_array(), 'next', null,
      'forgotten_until', v_forgotten);
  end if;
  select * into v_window from fn_audit_window(p_event_domain, v_at, v_id, v_until, p_limit);
  if p_repair and v_window.missing > 50 then
    -- as many whole events as their pairs allow, one at least
    v_before := (
      select count(*) from event_outbox o
      where o.created_at >= v_at and (o.created_at, o.id) > (v_at, v_id)
        and (o.created_at, o.id) < ((v_window.gaps -> 50 ->> 'created_at')::timestamptz, (v_window.gaps -> 50 ->> 'event_id')::uuid));
    select * into v_window from fn_audit_window(p_event_domain, v_at, v_id, v_until, greatest(1, v_before));
  end if;
  if p_repair and v_window.missing > 0 then
    v_told := fn_audit_tell(v_window.gaps, p_event_domain) - 'new';
    v_repaired := fn_audit_repair(v_window.missing,
      array(select (x ->> 'event_id')::uuid from jsonb_array_elements(v_window.gaps) x),
      array(select x ->> 'consumer_key' from jsonb_array_elements(v_window.gaps) x));
  end if;
  return jsonb_build_object('refused', false, 'event_domain', p_event_domain, 'since', v_since, 'until', v_until, 'closed_until', v_closed,
    'events', v_window.events, 'expected', v_window.expected, 'found', v_window.present, 'missing', v_window.missing,
    'repaired', v_repaired, 'unproven', v_window.unproven, 'gaps', v_window.gaps, 'forgotten_until', v_forgotten,
    'next', case when v_window.more then jsonb_build_object('at', v_window.next_at, 'id', v_window.next_id) end) || v_told;
end
$function$

-- Findings about the audit: gap, gap_held, behind.
CREATE OR REPLACE FUNCTION fn_dispatch_audit_check(p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS TABLE(event_domain text, severity text, finding text, what text, hint text, age_seconds numeric)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
begin
  return query
  select s.event_domain, case when s.is_served then 'error' else 'warning' end, case when s.is_served then 'gap' else 'gap_held' end,
    format(case when s.is_served then '%s decisions are missing, the first for event %s and consumer %s'
        else '%s decisions are missing of consumers that are disabled or in their dry run, the first for event %s and consumer %s' end,
      case when s.n < 10000 then s.n::text else '10000+' end, s.event_id, s.consumer_key),
    case when s.is_served then '' else format('once `reveille consumers show %s` says enabled and not dry_run: ', s.consumer_key) end
      || format('reveille events audit --domain %s --since %s --repair', s.event_domain,
        to_char(s.first_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')),
    round(extract(epoch from v_now - s.found_at)::numeric, 3)
  from (
    select c.event_domain, c.enabled and not c.dry_run as is_served, sum(k.n) as n, min(k.found_at) as found_at, min(f.event_created_at) as first_at,
      (array_agg(f.event_id order by f.event_created_at, f.event_id, c.consumer_key))[1] as event_id,
      (array_agg(c.consumer_key order by f.event_created_at, f.event_id, c.consumer_key))[1] as consumer_key
    from consumer_registry c
    cross join lateral (
      select g.event_id, g.event_created_at from dispatch_gap g
      where g.event_domain = c.event_domain and g.consumer_key = c.consumer_key and g.closed_at is null
      order by g.event_created_at, g.event_id limit 1) f
    cross join lateral (
      select count(*) as n, min(o.found_at) as found_at
      from (select g.found_at from dispatch_gap g
        where g.event_domain = c.event_domain and g.consumer_key = c.consumer_key and g.closed_at is null
        order by g.event_created_at, g.event_id limit 10000) o) k
    group by 1, 2) s
  union all
  select d.event_domain, 'warning', 'behind',
    'nothing later than ' || to_char(d.place_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"') || ' has been audited',
    'is `reveille run` up, and is a transaction open for long? docs/audit.md tells what holds an audit back',
    round(extract(epoch from v_now - d.place_at)::numeric, 3)
  from audit_domain d
  where d.place_at < v_now - interval '30 minutes'
    and fn_config('queue.audit.enabled', 'true') <> 'false'
    and fn_gate_is_open('queue.job_substrate.enabled') and fn_domain_pause(d.event_domain) is null
    and exists (select from consumer_registry c where c.event_domain = d.event_domain and c.enabled)
  order by 2, 1;
end
$function$

-- What the audit has counted in each domain, its open gaps (up to 10000) and until when it is complete.
CREATE OR REPLACE FUNCTION fn_dispatch_audit_counts()
 RETURNS TABLE(event_domain text, expected bigint, found bigint, missing bigint, repaired bigint, unproven bigint, open_gaps bigint, complete_until timestamp with time zone)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
begin
  return query
  select d.event_domain, d.expected, d.found, d.missing, d.repaired, d.unproven, g.n, least(d.place_at, g.first_at)
  from audit_domain d
  cross join lateral (
    select count(*) as n, min(o.event_created_at) as first_at
    from (select x.event_created_at from dispatch_gap x
      where x.event_domain = d.event_domain and x.closed_at is null order by x.event_created_at limit 10000) o) g
  order by d.event_domain;
end
$function$

-- The next part of the audit of every domain: {events, expected, found, missing, unproven, repaired, domains, more}; busy when another session audits.
CREATE OR REPLACE FUNCTION fn_dispatch_audit_pass(p_limit integer DEFAULT 10000, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_system bigint := (select s.system_identifier from pg_control_system() s);
  v_domains text[];
  v_closed timestamptz[];
  v_place audit_domain;
  v_window record;
  v_told jsonb;
  v_repaired int := 0;
  v_sum jsonb := '{}';
  v_more boolean := false;
  v_counts bigint[] := '{0,0,0,0,0}';
  v_untold boolean := false;
  v_trouble text;
  v_again record;
begin
  if p_limit is null or p_limit not between 1 and 100000 then
    raise exception 'fn_dispatch_audit_pass: p_limit must be from 1 to 100000' using errcode = '22023';
  elsif current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fn_dispatch_audit_pass needs READ COMMITTED: an older snapshot would miss what another audit noted' using errcode = '25001';
  elsif fn_config('queue.audit.enabled', 'true') = 'false' then
    return jsonb_build_object('refused', true, 'reason', 'audit_disabled');
  elsif not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.fn_dispatch_audit_pass', 0)) then
    return jsonb_build_object('refused', false, 'busy', true, 'events', 0, 'missing', 0, 'repaired', 0, 'more', false);
  end if;
  insert into audit_mark (watermark, snapshot, system_identifier)
  select s.watermark, pg_current_snapshot(), v_system
  from (select n.watermark from dispatch_sweep n order by n.sweep_id desc limit 1) s
  where not exists (select from audit_mark m where m.watermark >= s.watermark and m.system_identifier = v_system);

  select array_agg(d.event_domain order by d.event_domain), array_agg(fn_audit_closed_until(d.event_domain) order by d.event_domain)
  into v_domains, v_closed from dispatch_cursor d;
  perform fn_audit_consumers_note(p_now);
  insert into audit_domain (event_domain, place_at, place_id, closed_until)
  select u.d, u.c, '00000000-0000-0000-0000-000000000000', u.c
  from unnest(v_domains, v_closed) u (d, c)
  where u.c is not null
  on conflict (event_domain) do update
  set closed_until = greatest(audit_domain.closed_until, excluded.closed_until);

  -- what was found before, and is over without us: some of each domain, those of the next events with the next pass
  for v_place in
    select d.* from audit_domain d
    where exists (select from dispatch_gap g where g.event_domain = d.event_domain and g.closed_at is null)
    order by d.event_domain
    for update
  loop
    with again as materialized (
      select g.event_id, g.consumer_key, g.event_created_at
      from dispatch_gap g
      where g.event_domain = v_place.event_domain and g.closed_at is null
        and g.event_created_at >= v_place.gap_at and (g.event_created_at, g.event_id) > (v_place.gap_at, v_place.gap_id)
      order by g.event_created_at, g.event_id
      fetch first 200 rows with ties
    ),
    over as (
      update dispatch_gap g set closed_at = clock_timestamp(), outcome = x.outcome
      from (select a.event_id, a.consumer_key, fn_audit_outcome(a.event_id, a.consumer_key) as outcome from again a offset 0) x
      where g.event_id = x.event_id and g.consumer_key = x.consumer_key and g.closed_at is null and x.outcome is not null
      returning 1
    )
    select (select count(*) from again) as looked, (select count(*) from over) as closed, a.event_created_at as at, a.event_id as id into v_again
    from (select) o left join (select * from again n order by n.event_created_at desc, n.event_id desc limit 1) a on true;
    if v_again.looked < 200 then
      v_again.at := '-infinity';
      v_again.id := '00000000-0000-0000-0000-000000000000';
    end if;
    update audit_domain d set gap_at = v_again.at, gap_id = v_again.id
    where d.event_domain = v_place.event_domain and (d.gap_at, d.gap_id) is distinct from (v_again.at, v_again.id);
    v_more := v_more or (v_again.looked >= 200 and v_again.closed > 0);
  end loop;

  for v_place in
    select d.* from audit_domain d where d.event_domain = any (v_domains) and d.place_at < d.closed_until order by d.event_domain
  loop
    select * into v_window from fn_audit_window(v_place.event_domain, v_place.place_at, v_place.place_id, v_place.closed_until, p_limit);
    update audit_domain d
    set place_at = v_window.next_at, place_id = v_window.next_id, events = d.events + v_window.events,
        expected = d.expected + v_window.expected, found = d.found + v_window.present, missing = d.missing + v_window.missing,
        unproven = d.unproven + v_window.unproven
    where d.event_domain = v_place.event_domain;
    v_more := v_more or v_window.more;
    v_counts := array[v_counts[1] + v_window.events, v_counts[2] + v_window.expected, v_counts[3] + v_window.present,
      v_counts[4] + v_window.missing, v_counts[5] + v_window.unproven];
    if v_window.missing > 0 then
      v_sum := v_sum || jsonb_build_object(v_place.event_domain, v_window.missing);
      v_told := fn_audit_tell(v_window.gaps, v_place.event_domain);
      v_untold := v_untold or v_told ? 'untold';
      v_trouble := coalesce(v_trouble, v_told ->> 'alarm_error');
    end if;
  end loop;
  if fn_gate_is_open('queue.audit.repair_enabled') then
    v_repaired := fn_audit_repair(50, null, null);
  end if;

  delete from audit_mark m where m.marked_at < clock_timestamp() - interval '1 day'
    and m.mark_id < (select max(n.mark_id) - 10 from audit_mark n);
  delete from dispatch_gap g where (g.event_id, g.consumer_key) in (
    select o.event_id, o.consumer_key from dispatch_gap o where o.closed_at < clock_timestamp() - interval '90 days' order by o.closed_at limit 1000);
  return jsonb_strip_nulls(jsonb_build_object('refused', false, 'busy', false, 'events', v_counts[1], 'expected', v_counts[2], 'found', v_counts[3],
    'missing', v_counts[4], 'unproven', v_counts[5], 'repaired', v_repaired, 'domains', v_sum,
    'more', v_more or v_repaired = 50, 'untold', case when v_untold then 'system.queue_dispatch_gap' end, 'alarm_error', v_trouble));
end
$function$

-- Adds a domain to dispatch; history before this moment does not flow.
CREATE OR REPLACE FUNCTION fn_dispatch_domain_add(p_event_domain text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if p_event_domain !~ '^[a-z][a-z0-9_]{0,40}$' then
    raise exception 'event_domain % must be lower case letters, digits and underscores, at most 41', quote_literal(p_event_domain)
      using errcode = '22023';
  end if;
  perform fn_wake_channel_add('queue_wake_' || p_event_domain);
  insert into dispatch_cursor (event_domain, system_identifier)
  select p_event_domain, s.system_identifier from pg_control_system() s
  on conflict do nothing;
  if found then
    insert into dispatch_pass (event_domain, snapshot_old, snapshot_new, events, jobs, duplicates, errors, found_by)
    select p_event_domain, s.now, s.now, 0, 0, 0, 0, 'start' from fn_dispatch_snapshot() as s (now);
  end if;
end
$function$

-- Makes the jobs of some events: jobs, duplicates, dry, errors, no_recipient, executors. Internal.
CREATE OR REPLACE FUNCTION fn_dispatch_events(p_event_ids uuid[], p_consumer_key text DEFAULT NULL::text, p_event_domain text DEFAULT NULL::text, OUT jobs integer, OUT duplicates integer, OUT dry integer, OUT errors integer, OUT no_recipient integer, OUT executors text[])
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_first uuid := fn_uuid_v7();
  v_repeated int;
  v_fanned record;
begin
  no_recipient := 0;
  with wanted as materialized (
    select r.*, coalesce(r.idempotency_key, '') <> '' and (not r.is_ordered or r.ordering_key is not null) as is_sound
    from fn_dispatch_rows(p_event_ids, p_consumer_key, p_event_domain) r
  ),
  made as (
    insert into job_queue (
      job_id, job_kind, executor, event_domain, source_ref, target_ref, payload_ref, safe_payload, priority, scheduled_at,
      max_attempts, idempotency_key, ordering_key, actor, causation_event_id, consumer_key, correlation_id, traceparent)
    select
      fn_uuid_v7_nth(v_first, w.n), w.job_kind, w.executor, w.event_domain, w.source_ref, w.target_ref, w.payload_ref,
      w.safe_payload, w.priority, clock_timestamp() + w.delay, w.max_attempts,
      case when length(w.idempotency_key) <= 512 then w.idempotency_key else fn_job_key(w.idempotency_key) end,
      w.ordering_key, w.actor, w.event_id, w.consumer_key, w.correlation_id, fn_traceparent(w.safe_payload ->> 'traceparent')
    from wanted w
    where not w.dry_run and w.is_sound
    order by w.n
    on conflict (job_kind, idempotency_key) do nothing
    returning executor
  ),
  refused as (
    insert into dispatch_error as d (event_id, consumer_key, event_domain, sqlstate, message)
    select distinct on (w.event_id, w.consumer_key) w.event_id, w.consumer_key, w.event_domain, '22004',
      'the template of ' || case when coalesce(w.idempotency_key, '') = '' then 'idempotency_key' else 'ordering_key' end
        || ' has a variable without a value'
    from wanted w
    where not w.dry_run and not w.is_sound
    on conflict (event_id, consumer_key) do update
    set sqlstate = excluded.sqlstate, message = excluded.message, tries = d.tries + 1, last_at = clock_timestamp()
    returning 1
  )
  select
    (select count(*) from made),
    (select count(*) from wanted w where not w.dry_run and w.is_sound) - (select count(*) from made),
    (select count(*) from wanted w where w.dry_run),
    (select count(*) from refused),
    (select array_agg(distinct m.executor::text) from made m)
  into jobs, duplicates, dry, errors, executors;
  if jobs > 0 then
    v_repeated := fn_job_repeated(fn_uuid_v7_nth(v_first, 0), fn_uuid_v7_nth(v_first, 2147483647));
    jobs := jobs - v_repeated;
    duplicates := duplicates + v_repeated;
  end if;
  if exists (
    select from consumer_registry c
    where c.enabled and c.fan_out is not null and (p_consumer_key is null or c.consumer_key = p_consumer_key)
      and (p_event_domain is null or c.event_domain = p_event_domain))
  then
    select * into v_fanned from fn_dispatch_fan_out(p_event_ids, p_consumer_key, p_event_domain);
    jobs := jobs + v_fanned.jobs;
    duplicates := duplicates + v_fanned.duplicates;
    dry := dry + v_fanned.dry;
    errors := errors + v_fanned.errors;
    no_recipient := v_fanned.no_recipient;
    executors := executors || v_fanned.executors;
  end if;
end
$function$

-- Makes the jobs of some events when nothing is out of the ordinary, else raises. Internal.
CREATE OR REPLACE FUNCTION fn_dispatch_events_plain(p_event_ids uuid[], p_event_domain text, p_ask boolean)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_first uuid := fn_uuid_v7();
  v_has_archive boolean := exists (select from pg_class c where c.relname = 'job_archive_bound' and c.relnamespace = quote_ident(current_schema())::regnamespace);
  v_kinds text[];
  v_bound timestamptz;
  v_ask boolean := false;
  v_jobs int;
begin
  if v_has_archive then
    select array_agg(c.job_kind), max(b.newest_event) into v_kinds, v_bound
    from consumer_registry c
    left join job_archive_bound b on b.job_kind = c.job_kind
    where c.event_domain = p_event_domain and c.fan_out is null;
    v_ask := p_ask or coalesce(v_bound = 'infinity', false);
  end if;
  if v_ask or v_bound is null then
    v_bound := '-infinity';
  end if;
  insert into job_queue (
    job_id, job_kind, executor, event_domain, source_ref, target_ref, payload_ref, safe_payload, priority, scheduled_at,
    max_attempts, idempotency_key, ordering_key, actor, causation_event_id, consumer_key, correlation_id, traceparent)
  select
    fn_uuid_v7_nth(v_first, r.n), r.job_kind, r.executor, r.event_domain, r.source_ref, r.target_ref, r.payload_ref,
    r.safe_payload, r.priority, clock_timestamp() + r.delay, r.max_attempts,
    case when (not r.is_ordered or r.ordering_key is not null) and r.created_at > v_bound then r.idempotency_key end,
    r.ordering_key, r.actor, r.event_id, r.consumer_key, r.correlation_id, fn_traceparent(r.safe_payload ->> 'traceparent')
  from fn_dispatch_rows(p_event_ids, p_event_domain => p_event_domain) r
  where not coalesce(r.dry_run, true); -- coalesce: a strict condition would turn the join, and the order, around
  get diagnostics v_jobs = row_count;
  if v_has_archive and not v_ask then
    v_ask := exists (
      select from job_archive_bound b
      where b.newest_event > v_bound
        and b.job_kind = any (v_kinds || array(
          select c.job_kind::text from consumer_registry c where c.event_domain = p_event_domain and c.fan_out is null)));
  end if;
  if v_ask and v_jobs > 0 and fn_job_repeated(fn_uuid_v7_nth(v_first, 0), fn_uuid_v7_nth(v_first, 2147483647)) > 0 then
    raise exception 'some of these jobs are archived' using errcode = '23505';
  end if;
  return v_jobs;
end
$function$

-- Makes the jobs of some events one by one, when doing it at once failed. Internal.
CREATE OR REPLACE FUNCTION fn_dispatch_events_singly(p_event_ids uuid[], OUT jobs integer, OUT duplicates integer, OUT dry integer, OUT errors integer, OUT no_recipient integer, OUT executors text[])
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_pair record;
  v_one record;
  v_state text;
  v_message text;
begin
  jobs := 0; duplicates := 0; dry := 0; errors := 0; no_recipient := 0; executors := '{}';
  for v_pair in
    select e.id, e.event_domain, c.consumer_key
    from unnest(p_event_ids) with ordinality as u (id, n)
    cross join lateral (select o.id, o.event_domain, o.event_type from event_outbox o where o.id = u.id offset 0) e
    join consumer_registry c on c.enabled and c.event_domain = e.event_domain and e.event_type like c.event_type_like
    order by u.n, c.consumer_key
  loop
    begin
      select * into v_one from fn_dispatch_events(array[v_pair.id], v_pair.consumer_key);
      jobs := jobs + v_one.jobs;
      duplicates := duplicates + v_one.duplicates;
      dry := dry + v_one.dry;
      errors := errors + v_one.errors;
      no_recipient := no_recipient + v_one.no_recipient;
      executors := executors || coalesce(v_one.executors, '{}');
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded or feature_not_supported or raise_exception
        or undefined_object then -- of an event, not of the server: those are not kept, the pass is done again
        get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
        errors := errors + 1;
        insert into dispatch_error as d (event_id, consumer_key, event_domain, sqlstate, message)
        values (v_pair.id, v_pair.consumer_key, v_pair.event_domain, v_state, v_message)
        on conflict (event_id, consumer_key) do update
        set sqlstate = excluded.sqlstate, message = excluded.message, tries = d.tries + 1, last_at = clock_timestamp();
    end;
  end loop;
end
$function$

-- Makes one job for each recipient of some events: jobs, duplicates, dry, errors, no_recipient (pairs of event and consumer), executors. Internal.
CREATE OR REPLACE FUNCTION fn_dispatch_fan_out(p_event_ids uuid[], p_consumer_key text DEFAULT NULL::text, p_event_domain text DEFAULT NULL::text, OUT jobs integer, OUT duplicates integer, OUT dry integer, OUT errors integer, OUT no_recipient integer, OUT executors text[])
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_first uuid := fn_uuid_v7();
  v_repeated int;
begin
  with consumers as materialized (
    select c.*, coalesce(c.max_attempts, fn_job_max_attempts(c.job_kind, c.event_domain)) as attempts
    from consumer_registry c
    where c.enabled
      and c.job_kind is not null
      and c.fan_out is not null
      and (p_consumer_key is null or c.consumer_key = p_consumer_key)
      and (p_event_domain is null or c.event_domain = p_event_domain)
  ),
  pairs as materialized (
    select u.n, e.id as event_id, e.event_domain, e.safe_payload, e.correlation_id::text as correlation_id,
      fn_event_document(row(e.*)::event_outbox) as document, k.consumer_key
    from unnest(p_event_ids) with ordinality as u (id, n)
    cross join lateral (select o.* from event_outbox o where o.id = u.id offset 0) e
    join consumers k on 'match' = fn_event_verdict(
      row(e.*)::event_outbox, k.event_domain, k.event_type_like, k.event_stream, k.starts_at, k.filter)
  ),
  addressed as materialized (
    select distinct r.event_id, r.recipient_ref
    from fn_event_recipient_rows(array(select distinct p.event_id from pairs p)) r
    where r.muted_by is null
  ),
  named as materialized (
    select (row_number() over (order by p.n, p.consumer_key, a.recipient_ref))::int as n, p.event_id, p.event_domain, p.safe_payload,
      p.correlation_id, p.consumer_key, jsonb_set(p.document, '{event,recipient}', to_jsonb(a.recipient_ref)) as document
    from pairs p
    join addressed a on a.event_id = p.event_id
  ),
  wanted as materialized (
    select m.n, m.event_id, m.event_domain, m.safe_payload, m.correlation_id, k.consumer_key, k.job_kind, k.executor, k.priority,
      k.attempts, k.delay, k.dry_run, k.actor,
      fn_recipient_template(k.source_ref, k.consumer_key, m.document) as source_ref,
      fn_recipient_template(k.target_ref, k.consumer_key, m.document) as target_ref,
      fn_recipient_template(k.payload_ref, k.consumer_key, m.document) as payload_ref,
      x.ordering_key,
      x.idempotency_key,
      coalesce(x.idempotency_key, '') <> '' and (k.ordering_key is null or x.ordering_key is not null) as is_sound
    from named m
    join consumers k on k.consumer_key = m.consumer_key
    cross join lateral (select
      fn_recipient_template(k.ordering_key, k.consumer_key, m.document) as ordering_key,
      fn_recipient_template(k.idempotency_key, k.consumer_key, m.document) as idempotency_key) x
  ),
  made as (
    insert into job_queue (
      job_id, job_kind, executor, event_domain, source_ref, target_ref, payload_ref, safe_payload, priority, scheduled_at,
      max_attempts, idempotency_key, ordering_key, actor, causation_event_id, consumer_key, correlation_id, traceparent)
    select
      fn_uuid_v7_nth(v_first, w.n), w.job_kind, w.executor, w.event_domain, w.source_ref, w.target_ref, w.payload_ref,
      w.safe_payload, w.priority, clock_timestamp() + w.delay, w.attempts, fn_job_key(w.idempotency_key), w.ordering_key, w.actor,
      w.event_id, w.consumer_key, w.correlation_id, fn_traceparent(w.safe_payload ->> 'traceparent')
    from wanted w
    where not w.dry_run and w.is_sound
    order by w.n
    on conflict (job_kind, idempotency_key) do nothing
    returning executor
  ),
  refused as (
    insert into dispatch_error as d (event_id, consumer_key, event_domain, sqlstate, message)
    select distinct on (w.event_id, w.consumer_key) w.event_id, w.consumer_key, w.event_domain, '22004',
      'the template of ' || case when coalesce(w.idempotency_key, '') = '' then 'idempotency_key' else 'ordering_key' end
        || ' has a variable without a value'
    from wanted w
    where not w.dry_run and not w.is_sound
    order by w.event_id, w.consumer_key
    on conflict (event_id, consumer_key) do update
    set sqlstate = excluded.sqlstate, message = excluded.message, tries = d.tries + 1, last_at = clock_timestamp()
    returning 1
  )
  select
    (select count(*) from made),
    (select count(*) from wanted w where not w.dry_run and w.is_sound) - (select count(*) from made),
    (select count(*) from wanted w where w.dry_run),
    (select count(*) from refused),
    (select count(*) from pairs p where not exists (select from addressed a where a.event_id = p.event_id)),
    (select array_agg(distinct m.executor::text) from made m)
  into jobs, duplicates, dry, errors, no_recipient, executors;
  if jobs > 0 then
    v_repeated := fn_job_repeated(fn_uuid_v7_nth(v_first, 0), fn_uuid_v7_nth(v_first, 2147483647));
    jobs := jobs - v_repeated;
    duplicates := duplicates + v_repeated;
  end if;
end
$function$

-- Domains with committed events that no pass has read; refused while queue.job_substrate.enabled is closed.
CREATE OR REPLACE FUNCTION fn_dispatch_poll(p_event_domains text[] DEFAULT NULL::text[], p_canary text DEFAULT NULL::text, p_canary_token text DEFAULT ''::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if p_canary is not null then
    perform pg_notify(p_canary, p_canary_token);
  end if;
  if not fn_gate_is_open('queue.job_substrate.enabled') then
    -- closed: positions stay where they are, nothing is lost
    return jsonb_build_object('refused', true, 'reason', 'job_substrate_disabled', 'domains', jsonb_build_array());
  end if;
  return jsonb_build_object('refused', false, 'domains', coalesce((
    select jsonb_agg(c.event_domain)
    from dispatch_cursor c
    where (p_event_domains is null or c.event_domain = any (p_event_domains))
      and fn_dispatch_unread(c.event_domain) is not null), '[]'));
end
$function$

-- Whether the position of a domain lies in the future of this cluster.
CREATE OR REPLACE FUNCTION fn_dispatch_position_is_ahead(p_event_domain text)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return coalesce((
    select pg_snapshot_xmax(p.snapshot_new) > pg_snapshot_xmax(pg_current_snapshot())
    from dispatch_pass p where p.event_domain = p_event_domain order by p.pass_id desc limit 1), false);
end
$function$

-- Deletes read arrivals and old passes in batches; answers how many of each.
CREATE OR REPLACE FUNCTION fn_dispatch_prune(p_keep_passes interval DEFAULT '24:00:00'::interval, p_limit integer DEFAULT 50000)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_arrivals bigint := 0;
  v_passes bigint;
  v_sweeps bigint;
  v_part bigint;
  v_swept_tx xid8;
  r record;
begin
  select pg_snapshot_xmin(s.snapshot) into v_swept_tx
  from dispatch_sweep s
  where s.swept_at < (select max(n.watermark) from dispatch_sweep n)
  order by s.sweep_id desc limit 1;
  for r in
    -- the domains that there are, one index probe each; whoever has no cursor is read by nobody
    with recursive domains (event_domain) as (
      (select a.event_domain from event_arrival a order by a.event_domain limit 1)
      union all
      select (select a.event_domain from event_arrival a where a.event_domain > d.event_domain order by a.event_domain limit 1)
      from domains d
      where d.event_domain is not null
    )
    select d.event_domain, least(v_swept_tx, pg_snapshot_xmin(p.snapshot_old)) as below
    from domains d
    left join lateral (
      select n.snapshot_old from dispatch_pass n where n.event_domain = d.event_domain order by n.pass_id desc limit 1) p on true
    where d.event_domain is not null and v_swept_tx is not null
  loop
    delete from event_arrival a
    where a.ctid = any (array(
      select b.ctid from event_arrival b
      where b.event_domain = r.event_domain and b.tx_id < r.below
      order by b.tx_id, b.arrival_seq
      limit p_limit));
    get diagnostics v_part = row_count;
    v_arrivals := v_arrivals + v_part;
  end loop;

  delete from dispatch_pass p
  where (p.event_domain, p.pass_id) in (
    select c.event_domain, o.pass_id
    from dispatch_cursor c
    cross join lateral ( -- the first that stays: a young one, or the newest
      select coalesce(
        (select d.pass_id from dispatch_pass d
         where d.event_domain = c.event_domain and d.finished_at >= clock_timestamp() - p_keep_passes
         order by d.pass_id limit 1),
        (select max(d.pass_id) from dispatch_pass d where d.event_domain = c.event_domain)) as kept) n
    cross join lateral (
      select d.pass_id from dispatch_pass d
      where d.event_domain = c.event_domain and d.pass_id < n.kept
      order by d.pass_id
      limit p_limit) o);
  get diagnostics v_passes = row_count;

  delete from dispatch_sweep s
  where s.swept_at < clock_timestamp() - greatest(p_keep_passes, interval '1 hour')
    and s.swept_at < (select max(n.watermark) from dispatch_sweep n) - interval '1 hour'
    and s.sweep_id < (select max(n.sweep_id) - 10 from dispatch_sweep n);
  get diagnostics v_sweeps = row_count;
  return jsonb_build_object('refused', false, 'arrivals', v_arrivals, 'passes', v_passes, 'sweeps', v_sweeps,
    'more', v_arrivals >= p_limit or v_passes >= p_limit);
end
$function$

-- The jobs that events call for: every enabled consumer (or the named one, or those of one domain) against these events; those that fan out are read by fn_dispatch_fan_out. Internal.
CREATE OR REPLACE FUNCTION fn_dispatch_rows(p_event_ids uuid[], p_consumer_key text DEFAULT NULL::text, p_event_domain text DEFAULT NULL::text)
 RETURNS TABLE(n integer, event_id uuid, event_domain text, created_at timestamp with time zone, safe_payload jsonb, correlation_id text, consumer_key text, job_kind job_kind, executor executor_kind, priority job_priority, max_attempts job_limit, delay interval, dry_run boolean, actor job_actor, source_ref text, target_ref text, payload_ref text, is_ordered boolean, ordering_key text, idempotency_key text)
 LANGUAGE sql
 STABLE
BEGIN ATOMIC
 WITH consumers AS MATERIALIZED (
          SELECT c.consumer_key,
             c.event_domain,
             c.event_type_like,
             c.event_stream,
             c.starts_at,
             c.filter,
             c.job_kind,
             c.executor,
             c.priority,
             c.delay,
             c.dry_run,
             c.actor,
             c.source_ref,
             c.target_ref,
             c.payload_ref,
             c.ordering_key,
             c.idempotency_key,
             (COALESCE((c.max_attempts)::integer, ( SELECT (GREATEST((1)::numeric, (d.value)::numeric))::integer AS "greatest"
                    FROM dot_config d
                   WHERE ((d.key = ANY (fn_job_policy_keys('max_attempts'::text, (c.job_kind)::text, c.event_domain))) AND (d.value ~ '^[0-9]{1,9}(\.[0-9]{1,6})?$'::text))
                   ORDER BY (array_position(fn_job_policy_keys('max_attempts'::text, (c.job_kind)::text, c.event_domain), d.key))
                  LIMIT 1), 5))::job_limit AS max_attempts,
             row_number() OVER (ORDER BY c.consumer_key) AS n,
             count(*) OVER () AS of
            FROM consumer_registry c
           WHERE (c.enabled AND (c.job_kind IS NOT NULL) AND (c.fan_out IS NULL) AND ((fn_dispatch_rows.p_consumer_key IS NULL) OR (c.consumer_key = fn_dispatch_rows.p_consumer_key)) AND ((fn_dispatch_rows.p_event_domain IS NULL) OR (c.event_domain = fn_dispatch_rows.p_event_domain)))
         )
  SELECT (((u.n * k.of) + k.n))::integer AS int4,
     e.id,
     e.event_domain,
     e.created_at,
     e.safe_payload,
     e.correlation_id,
     k.consumer_key,
     k.job_kind,
     k.executor,
     k.priority,
     k.max_attempts,
     k.delay,
     k.dry_run,
     k.actor,
     fn_template_render(k.source_ref, k.consumer_key, ROW(e.id, e.event_domain, e.event_type, e.event_stream, e.delivery_lane, e.event_severity, e.event_subject_table, e.event_subject_ref, e.canonical_address, e.actor_ref, e.source_system, e.correlation_id, e.payload_classification, e.safe_payload, e.occurred_at, e.created_at)::event_outbox) AS fn_template_render,
     fn_template_render(k.target_ref, k.consumer_key, ROW(e.id, e.event_domain, e.event_type, e.event_stream, e.delivery_lane, e.event_severity, e.event_subject_table, e.event_subject_ref, e.canonical_address, e.actor_ref, e.source_system, e.correlation_id, e.payload_classification, e.safe_payload, e.occurred_at, e.created_at)::event_outbox) AS fn_template_render,
     fn_template_render(k.payload_ref, k.consumer_key, ROW(e.id, e.event_domain, e.event_type, e.event_stream, e.delivery_lane, e.event_severity, e.event_subject_table, e.event_subject_ref, e.canonical_address, e.actor_ref, e.source_system, e.correlation_id, e.payload_classification, e.safe_payload, e.occurred_at, e.created_at)::event_outbox) AS fn_template_render,
     (k.ordering_key IS NOT NULL),
     fn_template_render(k.ordering_key, k.consumer_key, ROW(e.id, e.event_domain, e.event_type, e.event_stream, e.delivery_lane, e.event_severity, e.event_subject_table, e.event_subject_ref, e.canonical_address, e.actor_ref, e.source_system, e.correlation_id, e.payload_classification, e.safe_payload, e.occurred_at, e.created_at)::event_outbox) AS fn_template_render,
     fn_template_render(k.idempotency_key, k.consumer_key, ROW(e.id, e.event_domain, e.event_type, e.event_stream, e.delivery_lane, e.event_severity, e.event_subject_table, e.event_subject_ref, e.canonical_address, e.actor_ref, e.source_system, e.correlation_id, e.payload_classification, e.safe_payload, e.occurred_at, e.created_at)::event_outbox) AS fn_template_render
    FROM ((unnest(fn_dispatch_rows.p_event_ids) WITH ORDINALITY u(id, n)
      CROSS JOIN LATERAL ( SELECT o.id,
             o.event_domain,
             o.event_type,
             o.event_stream,
             o.delivery_lane,
             o.event_severity,
             o.event_subject_table,
             o.event_subject_ref,
             o.canonical_address,
             o.actor_ref,
             o.source_system,
             o.correlation_id,
             o.payload_classification,
             o.safe_payload,
             o.occurred_at,
             o.created_at
            FROM event_outbox o
           WHERE (o.id = u.id)
          OFFSET 0) e)
      LEFT JOIN consumers k ON (('match'::text = fn_event_verdict(ROW(e.id, e.event_domain, e.event_type, e.event_stream, e.delivery_lane, e.event_severity, e.event_subject_table, e.event_subject_ref, e.canonical_address, e.actor_ref, e.source_system, e.correlation_id, e.payload_classification, e.safe_payload, e.occurred_at, e.created_at)::event_outbox, k.event_domain, k.event_type_like, k.event_stream, k.starts_at, k.filter))))
   WHERE (COALESCE(k.consumer_key, ''::text) <> ''::text);
END

-- The current snapshot, with the caller's own transaction among the running ones.
CREATE OR REPLACE FUNCTION fn_dispatch_snapshot()
 RETURNS pg_snapshot
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_own xid8 := pg_current_xact_id();
  v_now pg_snapshot := pg_current_snapshot();
begin
  if v_own >= pg_snapshot_xmax(v_now) then
    return v_now;
  end if;
  return format('%s:%s:%s', least(v_own, pg_snapshot_xmin(v_now)), pg_snapshot_xmax(v_now), (
    select string_agg(x.x::text, ',' order by x.x)
    from (select x from pg_snapshot_xip(v_now) as r (x) union select v_own) x))::pg_snapshot;
end
$function$

-- The event of the first unread arrival of a domain; null when everything committed has been read.
CREATE OR REPLACE FUNCTION fn_dispatch_unread(p_event_domain text)
 RETURNS uuid
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_pass dispatch_pass;
  v_event uuid;
begin
  select p.* into v_pass from dispatch_pass p where p.event_domain = p_event_domain order by p.pass_id desc limit 1;
  select a.event_id into v_event
  from (
    select r.* from fn_arrival_ranges(v_pass.snapshot_old, v_pass.snapshot_new, v_pass.place_tx, v_pass.place_seq) r
    where v_pass.place_tx is not null
    union all
    select r.* from fn_arrival_ranges(v_pass.snapshot_new, pg_current_snapshot(), null, null) r
  ) r
  cross join lateral (
    select a.event_id
    from event_arrival a
    where a.event_domain = p_event_domain
      and (a.tx_id, a.arrival_seq) > (r.low_tx, r.low_seq)
      and (a.tx_id, a.arrival_seq) < (r.high_tx, r.high_seq)
    order by a.tx_id, a.arrival_seq
    limit 1
  ) a
  limit 1;
  return v_event;
end
$function$

-- The scope of the pause that stops a domain: all or domain; null when none does.
CREATE OR REPLACE FUNCTION fn_domain_pause(p_event_domain text)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return (
    select min(p.scope) from queue_pause p -- 'all' < 'domain'
    where p.resumed_at is null and (p.scope = 'all' or (p.scope = 'domain' and p.name = p_event_domain)));
end
$function$

-- Milliseconds since 1970-01-01 UTC.
CREATE OR REPLACE FUNCTION fn_epoch_ms(p_at timestamp with time zone)
 RETURNS bigint
 LANGUAGE sql
 STABLE
RETURN ((EXTRACT(epoch FROM p_at) * (1000)::numeric))::bigint

-- Trigger of event_outbox, once a statement: appends arrivals and wakes the dispatcher.
CREATE OR REPLACE FUNCTION fn_event_arrival_record()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
AS $function$
declare
  v_domain pg_catalog.text;
  v_last pg_catalog.text := '';
  v_seen pg_catalog.text[];
begin
  for v_domain in
    insert into event_arrival (tx_id, event_domain, event_id)
    select pg_catalog.pg_current_xact_id(), i.event_domain, i.id from inserted i
    returning event_domain
  loop
    continue when pg_catalog.texteq(v_domain, v_last) or pg_catalog.array_position(v_seen, v_domain) is not null;
    if pg_catalog.textne(v_last, '') then
      v_seen := pg_catalog.array_append(v_seen, v_last);
    end if;
    v_last := v_domain;
    if pg_catalog.int4le(pg_catalog.octet_length(v_domain), 41) -- no channel has a longer name; the poll finds the others
      and pg_catalog.float8le(
        coalesce(pg_catalog.pg_sequence_last_value(pg_catalog.to_regclass(
          pg_catalog.textcat('', pg_catalog.quote_ident(pg_catalog.textcat('awake_queue_wake_', v_domain))))), 1),
        pg_catalog.float8mul(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()), 1000))
    then
      perform fn_wake(pg_catalog.textcat('queue_wake_', v_domain));
    end if;
  end loop;
  return null;
end
$function$

-- One decision per consumer of an event, one a recipient where it fans out: consumer_key, decision, recipient, job_id, status, error. Internal.
CREATE OR REPLACE FUNCTION fn_event_decisions(p_event_id uuid)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_decisions jsonb;
begin
  select coalesce(jsonb_agg(jsonb_build_object('consumer_key', c.consumer_key, 'decision',
      fn_consumer_decision(c, e, d.event_id is not null), 'job_id', j.job_id, 'status', j.status, 'error', d.message) order by c.consumer_key), '[]')
  into v_decisions
  from event_outbox e
  join consumer_registry c on c.event_domain = e.event_domain
  left join dispatch_error d on d.event_id = e.id and d.consumer_key = c.consumer_key
  left join lateral fn_job_by_key(c.job_kind, fn_job_key(fn_template_render(c.idempotency_key, c.consumer_key, e))) j on true
  where e.id = p_event_id and c.fan_out is null;
  if exists (
    select from event_outbox e join consumer_registry c on c.event_domain = e.event_domain and c.fan_out is not null where e.id = p_event_id)
  then
    v_decisions := v_decisions || fn_fan_out_decisions(p_event_id);
  end if;
  return v_decisions;
end
$function$

-- An event as {"event": …, "payload": …}, the document of consumer filters.
CREATE OR REPLACE FUNCTION fn_event_document(p_event event_outbox)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
RETURN jsonb_build_object('event', jsonb_build_object('id', (p_event).id, 'event_domain', (p_event).event_domain, 'event_type', (p_event).event_type, 'event_stream', (p_event).event_stream, 'delivery_lane', (p_event).delivery_lane, 'event_severity', (p_event).event_severity, 'event_subject_table', (p_event).event_subject_table, 'event_subject_ref', (p_event).event_subject_ref, 'canonical_address', (p_event).canonical_address, 'actor_ref', (p_event).actor_ref, 'source_system', (p_event).source_system, 'correlation_id', (p_event).correlation_id, 'occurred_at', (p_event).occurred_at, 'created_at', (p_event).created_at), 'payload', (p_event).safe_payload)

-- Emits one fact of a registered, active type and answers its id; raises 22023 unknown_event_type otherwise.
CREATE OR REPLACE FUNCTION fn_event_emit(p_event_domain text, p_event_type text, p_event_subject_ref text, p_safe_payload jsonb DEFAULT '{}'::jsonb, p_event_subject_table text DEFAULT NULL::text, p_canonical_address text DEFAULT NULL::text, p_actor_ref text DEFAULT NULL::text, p_correlation_id text DEFAULT NULL::text, p_occurred_at timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS uuid
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_type event_type_registry;
  v_id uuid := fn_uuid_v7();
  v_payload jsonb := coalesce(p_safe_payload, '{}');
  v_trace text := fn_traceparent(nullif(current_setting('reveille.traceparent', true), ''));
begin
  if v_trace is not null and jsonb_typeof(v_payload) = 'object' and not v_payload ? 'traceparent'
    and fn_is_signal(v_payload || jsonb_build_object('traceparent', v_trace))
  then
    v_payload := v_payload || jsonb_build_object('traceparent', v_trace);
  end if;
  select r.* into v_type
  from event_type_registry r
  where r.event_domain = p_event_domain and r.event_type = p_event_type and r.active;
  if not found then
    raise exception 'unknown_event_type: %.% is not registered and active in event_type_registry', p_event_domain, p_event_type
      using errcode = '22023', hint = 'Register the type first: insert it into event_type_registry with active = true.';
  end if;
  insert into event_outbox (
    id, event_domain, event_type, event_stream, delivery_lane, event_severity, event_subject_table, event_subject_ref,
    canonical_address, actor_ref, source_system, correlation_id, payload_classification, safe_payload, occurred_at, created_at)
  select
    e.id, e.event_domain, e.event_type, e.event_stream, e.delivery_lane, e.event_severity, e.event_subject_table, e.event_subject_ref,
    e.canonical_address, e.actor_ref, e.source_system, e.correlation_id, e.payload_classification, e.safe_payload, e.occurred_at, e.created_at
  from jsonb_populate_record(null::event_outbox, jsonb_build_object(
    'id', v_id,
    'event_domain', p_event_domain,
    'event_type', p_event_type,
    'event_stream', v_type.event_stream,
    'delivery_lane', v_type.delivery_lane,
    'event_severity', v_type.default_severity,
    'event_subject_table', p_event_subject_table,
    'event_subject_ref', p_event_subject_ref,
    'canonical_address', p_canonical_address,
    'actor_ref', coalesce(p_actor_ref, session_user::text),
    'source_system', 'reveille',
    'correlation_id', p_correlation_id,
    'payload_classification', 'safe_metadata',
    'safe_payload', v_payload,
    'occurred_at', coalesce(p_occurred_at, clock_timestamp()),
    'created_at', now())) e;
  return v_id;
end
$function$

-- Why an event made which jobs, or none: rows (refused, verdict, reason, consumer_key, what, hint, job_id, …). verdict: dispatched, job, waits, no_job, error.
CREATE OR REPLACE FUNCTION fn_event_explain(p_event_id uuid)
 RETURNS TABLE(refused boolean, verdict text, reason text, consumer_key text, recipient text, what text, hint text, job_id uuid, job_status text, detail jsonb)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_event event_outbox;
  v_consumer consumer_registry;
  v_decisions jsonb;
  v_row record;
  v_one jsonb;
  v_held text;
begin
  if p_event_id is null then
    raise exception 'fn_event_explain needs the id of an event' using errcode = '22023';
  end if;
  select e.* into v_event from event_outbox e where e.id = p_event_id;
  if not found then
    return query select true, null::text, 'not_found', null::text, null::text, 'there is no such event, or its transaction is not committed',
      null::text, null::uuid, null::text, null::jsonb;
    return;
  end if;
  for v_row in select x.* from fn_event_explain_dispatch(v_event) x loop
    v_held := coalesce(v_held, case when v_row.verdict <> 'dispatched' then v_row.reason end);
    return query select false, v_row.verdict, v_row.reason, null::text, null::text, v_row.what, v_row.hint, null::uuid, null::text, v_row.detail;
  end loop;
  v_decisions := fn_event_decisions(p_event_id);
  for v_one in select d.value from jsonb_array_elements(v_decisions) with ordinality as d (value, n)
    order by d.value ->> 'consumer_key', d.n
  loop
    select c.* into v_consumer from consumer_registry c where c.consumer_key = v_one ->> 'consumer_key';
    select x.* into v_row from fn_event_explain_consumer(v_event, v_consumer, v_one, v_held) x;
    return query select false, v_row.verdict, v_row.reason, v_consumer.consumer_key, v_one ->> 'recipient', v_row.what, v_row.hint,
      (v_one ->> 'job_id')::uuid, v_one ->> 'status', v_row.detail;
  end loop;
  if v_decisions = '[]' then
    return query select false, 'no_job', 'other_domain', null::text, null::text, format('no consumer is registered for domain %s', v_event.event_domain),
      'reveille consumers list', null::uuid, null::text, null::jsonb;
  end if;
end
$function$

-- A consumer's decision about an event in words. Internal.
CREATE OR REPLACE FUNCTION fn_event_explain_consumer(p_event event_outbox, p_consumer consumer_registry, p_decision jsonb, p_held text, OUT verdict text, OUT reason text, OUT what text, OUT hint text, OUT detail jsonb)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_key text := (p_consumer).consumer_key;
  v_id uuid := (p_event).id;
  v_job jsonb;
  v_error dispatch_error;
begin
  reason := p_decision ->> 'decision';
  verdict := 'no_job';
  if p_decision ->> 'job_id' is not null then
    select to_jsonb(j.*) into v_job from job_queue j where j.job_id = (p_decision ->> 'job_id')::uuid;
    v_job := coalesce(v_job, fn_job_archived((p_decision ->> 'job_id')::uuid));
    verdict := 'job';
    hint := format('reveille jobs explain %s', p_decision ->> 'job_id');
    if v_job is null or (v_job ->> 'causation_event_id' = v_id::text and v_job ->> 'consumer_key' = v_key) then
      what := format('made job %s (%s), which is %s', p_decision ->> 'job_id', (p_consumer).job_kind, coalesce(p_decision ->> 'status', 'gone from the archive'))
        || case reason when 'job' then '' else format('; now it would be %s', reason) end;
      detail := jsonb_build_object('now', reason);
      reason := 'job';
    else
      what := format('its key was taken: job %s (%s), which is %s, was made before by %s', p_decision ->> 'job_id', (p_consumer).job_kind, p_decision ->> 'status',
        coalesce('event ' || (v_job ->> 'causation_event_id'), v_job ->> 'actor'));
      detail := jsonb_build_object('idempotency_key', v_job -> 'idempotency_key', 'causation_event_id', v_job -> 'causation_event_id', 'now', reason);
      reason := 'duplicate';
    end if;
    return;
  end if;
  if (reason = 'dry_run' or (reason = 'job' and p_held is not null)) and (p_consumer).fan_out is null
    and not fn_event_is_digestible(p_consumer, p_event)
  then
    reason := 'undigestible';
  end if;
  case reason
    when 'undigestible' then
      what := 'it would not digest the event: a key''s template has a variable without a value, or the payload is more than a signal';
      hint := format('reveille consumers preview %s', v_key);
    when 'disabled' then
      what := 'the consumer is disabled';
      hint := format('reveille consumers enable %s --reason TEXT', v_key)
        || case when p_held is null then format(', then reveille events dispatch %s', v_id) else '' end;
    when 'other_type' then
      what := format('it wants type %s, this is %s', (p_consumer).event_type, (p_event).event_type);
    when 'other_stream' then
      what := format('it wants stream %s, this is %s', (p_consumer).event_stream, (p_event).event_stream);
    when 'before_start' then
      what := format('it starts at %s, the event was created at %s', (p_consumer).starts_at, (p_event).created_at);
      detail := jsonb_build_object('starts_at', (p_consumer).starts_at, 'created_at', (p_event).created_at);
      hint := case (p_consumer).source
        when 'file' then format('set starts_at in its file, reveille consumers sync --apply, then reveille events dispatch %s', v_id)
        else format('select fn_consumer_put(%L, %L), then reveille events dispatch %s',
          jsonb_build_object('consumer_key', v_key, 'starts_at', (p_event).created_at), 'user:me', v_id) end;
    when 'filtered' then
      what := format('its filter %s does not hold: %s', (p_consumer).filter, coalesce(nullif(fn_filter_found((p_consumer).filter, p_event), ''), 'it names no path'));
      detail := jsonb_build_object('filter', (p_consumer).filter::text);
      hint := format('if it should: reveille consumers preview %s, mend the filter, then reveille events dispatch %s', v_key, v_id);
    when 'terminal' then
      what := 'it only wants the fact seen: it has no job kind';
    when 'no_recipient' then
      what := 'it makes one job for each recipient, and nobody is subscribed to this event';
      detail := jsonb_build_object('muted', (
        select coalesce(jsonb_agg(distinct r.recipient_ref), '[]') from fn_event_recipient_rows(array[v_id]) r where r.muted_by is not null));
      hint := format('reveille events recipients %s, reveille subscriptions gaps', v_id);
    when 'error' then
      select d.* into v_error from dispatch_error d where d.event_id = v_id and d.consumer_key = v_key;
      verdict := 'error';
      what := format('it could not digest the event: %s', v_error.message);
      detail := jsonb_build_object('sqlstate', v_error.sqlstate, 'message', v_error.message, 'tries', v_error.tries, 'first_at', v_error.first_at, 'last_at', v_error.last_at);
      hint := format('mend the consumer, then reveille events dispatch %s', v_id);
    when 'dry_run' then
      what := format('it only counts (dry_run); it would make a job %s', (p_consumer).job_kind);
      hint := case (p_consumer).source
        when 'file' then 'set dry_run = false in its file, then reveille consumers sync --apply'
        else format('select fn_consumer_put(%L, %L)', jsonb_build_object('consumer_key', v_key, 'dry_run', false), 'user:me') end
        || case when p_held is null then format(', then reveille events dispatch %s', v_id) else '' end;
    else -- job: it is wanted, and not there
      if p_held in ('before_start', 'domain_not_dispatched') then
        reason := p_held;
        what := 'it would want the event, but dispatch does not read it';
        hint := format('reveille events dispatch %s', v_id);
      elsif p_held is not null then
        verdict := 'waits';
        reason := p_held;
        what := format('it will make a job %s once the event is read', (p_consumer).job_kind);
      else
        verdict := 'error';
        reason := 'missing';
        what := format('it wants the event and there is no job %s: it was enabled or changed after the event was read, or the job was deleted', (p_consumer).job_kind);
        hint := format('reveille events dispatch %s', v_id);
      end if;
  end case;
end
$function$

-- Whether dispatch has read an event, or what holds it back: verdict, reason, what, hint, detail. Internal.
CREATE OR REPLACE FUNCTION fn_event_explain_dispatch(p_event event_outbox)
 RETURNS TABLE(verdict text, reason text, what text, hint text, detail jsonb)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_id uuid := (p_event).id;
  v_domain text := (p_event).event_domain;
  v_cursor dispatch_cursor;
  v_pass dispatch_pass;
  v_pause queue_pause;
  v_place record;
  v_sweep dispatch_sweep;
  v_oldest_tx xid8;
  v_is_ahead boolean;
  v_holder record;
begin
  select c.* into v_cursor from dispatch_cursor c where c.event_domain = v_domain;
  if not found then
    return query select 'no_job', 'domain_not_dispatched', format('domain %s is not dispatched here', v_domain),
      format('select fn_dispatch_domain_add(%L): it flows from then on; restart reveille run', v_domain), null::jsonb;
    return;
  end if;
  v_is_ahead := fn_dispatch_position_is_ahead(v_domain);
  select * into v_place from fn_event_place(v_id, v_domain, 1000000) p;
  -- a position in the future calls everything read, also what nobody has seen
  if v_place.ahead is null and v_place.walked < 1000000 and not v_is_ahead then
    -- read, or never recorded: only since the last sweep's watermark is that open
    select w.* into v_sweep from dispatch_sweep w order by w.sweep_id desc limit 1;
    select pg_snapshot_xmin(w.snapshot) into v_oldest_tx
    from dispatch_sweep w where w.swept_at <= v_sweep.watermark order by w.sweep_id desc limit 1;
    if (p_event).created_at < v_cursor.created_at then
      return query select 'no_job', 'before_start', format('it is older than the dispatch of domain %s, which began at %s', v_domain, v_cursor.created_at),
        format('reveille events dispatch %s', v_id), jsonb_build_object('since', v_cursor.created_at);
    elsif (p_event).created_at >= coalesce(v_sweep.watermark, v_cursor.created_at) and not exists (
      select from event_arrival a
      where a.event_domain = v_domain and a.tx_id >= coalesce(v_oldest_tx, '0'::xid8) and a.event_id = v_id)
    then
      return query select 'waits', 'no_arrival', 'its insert left no arrival, the trigger was off or passed by; the sweep of reveille run finds it',
        format('reveille tick; or, for this one: reveille events dispatch %s', v_id), null::jsonb;
    else
      return query select 'dispatched', 'dispatched', 'dispatch has read it', null::text, null::jsonb;
    end if;
    return;
  end if;

  if not fn_gate_is_open('queue.job_substrate.enabled') then
    return query select 'waits', 'job_substrate_disabled', 'the gate queue.job_substrate.enabled is closed; the position of dispatch is kept',
      'reveille gate open queue.job_substrate.enabled --reason TEXT', jsonb_build_object('gate', 'queue.job_substrate.enabled');
  end if;
  if fn_domain_pause(v_domain) is not null then
    for v_pause in
      select p.* from queue_pause p
      where p.resumed_at is null and p.scope = any (array['all', 'domain']) and p.name in ('', v_domain) order by p.pause_id
    loop
      return query select 'waits', 'paused', format('%s is paused since %s by %s: %s', btrim(v_pause.scope || ' ' || v_pause.name), v_pause.paused_at, v_pause.actor, v_pause.reason),
        format('reveille resume %s --reason TEXT', btrim(v_pause.scope || ' ' || v_pause.name)),
        jsonb_build_object('scope', v_pause.scope, 'name', v_pause.name, 'actor', v_pause.actor, 'because', v_pause.reason, 'paused_at', v_pause.paused_at);
    end loop;
  end if;
  if v_is_ahead then
    return query select 'waits', 'position_is_ahead', format('the position of %s lies in the future of this cluster: a restored dump; what is kept of it is read again', v_domain),
      'restart reveille run; or, for once, reveille tick', null::jsonb;
    return;
  end if;
  -- who holds the cursor's row is in its xmax as long as he runs
  select a.pid, a.usename, a.application_name, a.xact_start, a.state into v_holder
  from dispatch_cursor c
  join pg_locks l on l.locktype = 'transactionid' and l.transactionid = c.xmax and l.granted
  join pg_stat_activity a on a.pid = l.pid
  where c.event_domain = v_domain
  limit 1;
  if found then
    return query select 'waits', 'busy', format('session %s (%s, %s) holds the cursor of %s in a transaction that is open since %s', v_holder.pid, v_holder.usename,
        coalesce(nullif(v_holder.application_name, ''), 'no application name'), v_domain, coalesce(v_holder.xact_start::text, 'a moment that only pg_read_all_stats may see')),
      format('if it is no pass of reveille run: end it, select pg_terminate_backend(%s)', v_holder.pid),
      jsonb_build_object('pid', v_holder.pid, 'user', v_holder.usename, 'application_name', v_holder.application_name,
        'since', v_holder.xact_start, 'state', v_holder.state);
  end if;
  -- a prepared transaction has no session, and keeps its locks for as long as nobody finishes it
  select x.gid, x.owner, x.prepared into v_holder
  from dispatch_cursor c
  join pg_prepared_xacts x on x.transaction = c.xmax and x.database = current_database()
  where c.event_domain = v_domain;
  if found then
    return query select 'waits', 'busy', format('prepared transaction %s of %s holds the cursor of %s since %s', v_holder.gid, v_holder.owner, v_domain, v_holder.prepared),
      format('finish it from its program; or, rollback prepared %L', v_holder.gid),
      jsonb_build_object('gid', v_holder.gid, 'user', v_holder.owner, 'since', v_holder.prepared);
  end if;
  select p.* into v_pass from dispatch_pass p where p.event_domain = v_domain order by p.pass_id desc limit 1;
  return query select 'waits', 'not_dispatched', format('no pass has read it: %s of %s before it, and the last pass was at %s',
      coalesce(v_place.ahead::text, 'more than 999999'), v_domain, v_pass.finished_at),
    'reveille tick (it does it now); whether reveille run lives says: reveille health',
    jsonb_build_object('ahead', v_place.ahead, 'last_pass_at', v_pass.finished_at, 'snapshot', v_pass.snapshot_new::text,
      'place_tx', v_pass.place_tx::text, 'place_seq', v_pass.place_seq);
end
$function$

-- Whether a consumer that makes one job can make it of an event. Internal.
CREATE OR REPLACE FUNCTION fn_event_is_digestible(p_consumer consumer_registry, p_event event_outbox)
 RETURNS boolean
 LANGUAGE sql
 STABLE
RETURN ((COALESCE(fn_template_render((p_consumer).idempotency_key, (p_consumer).consumer_key, p_event), ''::text) <> ''::text) AND (((p_consumer).ordering_key IS NULL) OR (fn_template_render((p_consumer).ordering_key, (p_consumer).consumer_key, p_event) IS NOT NULL)) AND fn_is_signal((p_event).safe_payload))

-- How many unread events of the domain come before an event. Internal.
CREATE OR REPLACE FUNCTION fn_event_place(p_event_id uuid, p_event_domain text, p_limit integer, OUT ahead integer, OUT walked integer)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_pass dispatch_pass;
  v_range record;
  v_part record;
begin
  walked := 0;
  select p.* into v_pass from dispatch_pass p where p.event_domain = p_event_domain order by p.pass_id desc limit 1;
  for v_range in -- as fn_dispatch_unread
    select r.* from fn_arrival_ranges(v_pass.snapshot_old, v_pass.snapshot_new, v_pass.place_tx, v_pass.place_seq) r
    where v_pass.place_tx is not null
    union all
    select r.* from fn_arrival_ranges(v_pass.snapshot_new, pg_current_snapshot(), null, null) r
  loop
    select count(*)::int as rows, (min(s.n) filter (where s.event_id = p_event_id))::int as n into v_part
    from (
      select a.event_id, row_number() over (order by a.tx_id, a.arrival_seq) as n
      from event_arrival a
      where a.event_domain = p_event_domain
        and (a.tx_id, a.arrival_seq) > (v_range.low_tx, v_range.low_seq)
        and (a.tx_id, a.arrival_seq) < (v_range.high_tx, v_range.high_seq)
      order by a.tx_id, a.arrival_seq
      limit p_limit - walked) s;
    if v_part.n is not null then
      ahead := walked + v_part.n - 1;
    end if;
    walked := walked + v_part.rows;
    exit when ahead is not null or walked >= p_limit;
  end loop;
end
$function$

-- The decisions about the newest events of each domain, counted. Internal.
CREATE OR REPLACE FUNCTION fn_event_reason_counts(p_limit integer)
 RETURNS TABLE(reason text, count bigint, oldest_at timestamp with time zone)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
begin
  return query
  with newest as materialized (
    select x.event_id, s.snapshot_new is not null and (
        pg_visible_in_snapshot(x.tx_id, s.snapshot_old)
        or (pg_visible_in_snapshot(x.tx_id, s.snapshot_new)
          and (s.place_tx is null or (x.tx_id, x.arrival_seq) <= (s.place_tx, s.place_seq)))) as is_read
    from dispatch_cursor c
    cross join lateral (
      select p.snapshot_old, p.snapshot_new, p.place_tx, p.place_seq from dispatch_pass p where p.event_domain = c.event_domain order by p.pass_id desc limit 1) s
    cross join lateral (
      select a.event_id, a.tx_id, a.arrival_seq from event_arrival a
      where a.event_domain = c.event_domain order by a.tx_id desc, a.arrival_seq desc limit p_limit) x
  ),
  addressed as materialized (
    select distinct r.event_id
    from fn_event_recipient_rows(case when exists (select from consumer_registry c where c.fan_out is not null)
      then array(select n.event_id from newest n) else '{}' end) r
    where r.muted_by is null
  ),
  decided as (
    select v.decision, e.created_at, n.is_read
    from newest n
    cross join lateral (select o.* from event_outbox o where o.id = n.event_id offset 0) e -- by its key, whatever the statistics say
    join consumer_registry c on c.event_domain = e.event_domain
    cross join lateral (
      select fn_consumer_decision(c, row(e.*)::event_outbox, exists (select from dispatch_error d where d.event_id = e.id and d.consumer_key = c.consumer_key),
        c.fan_out is null or exists (select from addressed a where a.event_id = e.id)) as decision) v
  )
  select case when d.decision = 'job' and not d.is_read then 'not_dispatched' else d.decision end, count(*), min(d.created_at)
  from decided d
  group by 1;
end
$function$

-- Whom some events are for, by which subscription, and which mute row says otherwise. Internal.
CREATE OR REPLACE FUNCTION fn_event_recipient_rows(p_event_ids uuid[])
 RETURNS TABLE(event_id uuid, recipient_ref text, subscription jsonb, muted_by jsonb)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET enable_hashjoin TO 'on'
AS $function$
#variable_conflict use_column
begin
  return query
  with subscriptions as materialized (
    select s.* from fn_event_subscriptions() s where s.problem is null
  ),
  events as materialized (
    select o as event, o.id, o.event_domain::text as event_domain, o.event_type::text as event_type, o.event_stream::text as event_stream,
      coalesce(o.event_subject_table, '') as subject_table
    from unnest(p_event_ids) as u (id)
    cross join lateral (select e.* from event_outbox e where e.id = u.id offset 0) o
  ),
  -- events of a pass are of few sorts: each sort is compared with all subscriptions, each event only with those of its sort
  sorts as materialized (
    select t.event_domain, t.event_type, t.event_stream, t.subject_table, s.recipient_ref, s.subscription, s.mute, s.scope_contains, s.scope_path
    from (select distinct v.event_domain, v.event_type, v.event_stream, v.subject_table from events v) t
    join subscriptions s on (s.event_domain is null or s.event_domain = t.event_domain)
      and (s.event_type is null or s.event_type = t.event_type)
      and (s.event_stream is null or s.event_stream = t.event_stream)
      and (s.scope_subject_table is null or s.scope_subject_table = t.subject_table)
  ),
  hits as materialized (
    select v.id, t.recipient_ref, t.subscription, t.mute
    from events v
    join sorts t on t.event_domain = v.event_domain and t.event_type = v.event_type and t.event_stream = v.event_stream
      and t.subject_table = v.subject_table
    where (t.scope_contains is null or (v.event).safe_payload @> t.scope_contains)
      and (t.scope_path is null
        or coalesce(jsonb_path_match_tz(fn_event_document(row((v.event).*)::event_outbox), t.scope_path, '{}', true), false))
  ),
  mutes as (
    select distinct on (h.id, h.recipient_ref) h.id, h.recipient_ref, h.subscription
    from hits h
    where h.mute
    order by h.id, h.recipient_ref, h.subscription
  )
  select h.id, h.recipient_ref, h.subscription, m.subscription
  from hits h
  left join mutes m on m.id = h.id and m.recipient_ref = h.recipient_ref
  where not h.mute
  order by h.id, m.subscription is not null, h.recipient_ref, h.subscription;
end
$function$

-- Whom an event is for: recipient, the row of event_subscription, and the mute row that wins over it, if any.
CREATE OR REPLACE FUNCTION fn_event_recipients(p_event_id uuid)
 RETURNS TABLE(recipient_ref text, subscription jsonb, muted_by jsonb)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if p_event_id is null then
    raise exception 'fn_event_recipients needs the id of an event' using errcode = '22023';
  end if;
  return query select r.recipient_ref, r.subscription, r.muted_by from fn_event_recipient_rows(array[p_event_id]) r;
end
$function$

-- The rows of event_subscription as they are understood, each with what is wrong with it; null is any.
CREATE OR REPLACE FUNCTION fn_event_subscriptions()
 RETURNS TABLE(subscription jsonb, recipient_ref text, event_domain text, event_type text, event_stream text, scope_subject_table text, scope_contains jsonb, scope_path jsonpath, mute boolean, is_broadcast boolean, problem text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if not exists (
    select from pg_class c
    where c.relnamespace = quote_ident(current_schema())::regnamespace and c.relname = 'event_subscription' and c.relkind in ('r', 'p', 'v'))
  then
    return;
  end if;
  for subscription, recipient_ref, event_domain, event_type, event_stream, scope_subject_table, scope_contains, scope_path, mute,
      is_broadcast, problem in execute format($q$
    select d.doc, d.doc ->> 'recipient_ref', d.doc ->> 'event_domain', d.doc ->> 'event_type', d.doc ->> 'event_stream',
      d.doc ->> 'scope_subject_table', f.contains, f.path,
      coalesce(d.doc ->> 'mute' in ('true', 't', '1'), false),
      not d.doc ?| array['event_domain', 'event_type', 'event_stream', 'scope_subject_table'] and f.contains is null and f.path is null,
      case
        when not fn_recipient_is_sound(d.doc ->> 'recipient_ref') then
          format('recipient_ref %%s is not user:…, agency:…, role:… or agent:…', quote_nullable(d.doc ->> 'recipient_ref'))
        when d.doc ->> 'event_stream' <> all (array['comment', 'review', 'update', 'birth', 'task', 'alert', 'health']) then
          format('event_stream %%s is none of comment, review, update, birth, task, alert, health', quote_literal(d.doc ->> 'event_stream'))
        else f.problem
      end
    from (select jsonb_strip_nulls(to_jsonb(s)) as doc from %I.event_subscription s) d
    cross join lateral fn_scope_read(d.doc -> 'scope_filter') f $q$, current_schema())
  loop
    return next;
  end loop;
end
$function$

-- Finds events without an arrival since the last watermark, appends and counts them, and emits system.queue_dispatch_gap if that type is registered.
CREATE OR REPLACE FUNCTION fn_event_sweep(p_margin interval DEFAULT '00:01:00'::interval, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_snapshot pg_snapshot := pg_current_snapshot(); -- before the clock: who began after swept_at is not in it
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_last dispatch_sweep;
  v_from timestamptz;
  v_watermark timestamptz;
  v_oldest_open timestamptz;
  v_oldest_tx xid8;
  v_margin interval := p_margin;
  v_missing jsonb;
  v_count int;
  v_alarm uuid;
  v_trouble text;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'fn_event_sweep needs READ COMMITTED: an older snapshot would miss what another sweep appended'
      using errcode = '25001';
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.fn_event_sweep', 0)) then
    return jsonb_build_object('refused', false, 'busy', true, 'missing', 0);
  end if;
  select s.* into v_last from dispatch_sweep s order by s.sweep_id desc limit 1;
  v_from := coalesce(v_last.watermark, (select min(c.created_at) from dispatch_cursor c));
  -- Who is open before the look below may commit what it does not see: the watermark stays behind them. Sessions
  -- first, then prepared transactions, as a transaction goes from the ones to the others; these hide when they began.
  select min(a.xact_start) into v_oldest_open
  from pg_stat_activity a where a.datname = current_database() and a.backend_type <> 'autovacuum worker';
  if exists (select from pg_prepared_xacts x where x.database = current_database()) then
    v_oldest_open := v_from;
  end if;
  -- who may not see other sessions' transactions cannot know how old they are
  if not pg_has_role(current_user, 'pg_read_all_stats', 'usage') then
    v_margin := greatest(v_margin, interval '1 hour');
  end if;
  v_watermark := greatest(v_from, least(v_now - v_margin, v_oldest_open));

  -- arrivals of events within the window were written by transactions that began after some earlier sweep
  select pg_snapshot_xmin(s.snapshot) into v_oldest_tx
  from dispatch_sweep s where s.swept_at <= v_from order by s.sweep_id desc limit 1;

  with appended as (
    insert into event_arrival (tx_id, event_domain, event_id)
    select pg_current_xact_id(), e.event_domain, e.id
    from event_outbox e
    where e.created_at >= v_from
      and e.created_at <= v_now
      and not exists (
        select from event_arrival a
        where a.event_id = e.id and a.tx_id >= coalesce(v_oldest_tx, '0'::xid8))
    returning event_domain
  )
  select coalesce(jsonb_object_agg(d.event_domain, d.n), '{}'), coalesce(sum(d.n), 0)
  into v_missing, v_count
  from (select a.event_domain, count(*) as n from appended a group by a.event_domain) d;

  if v_count > 0 or v_last.sweep_id is null or v_watermark >= v_last.watermark + least(p_margin / 2, interval '30 seconds') then
    insert into dispatch_sweep (swept_at, swept_from, watermark, snapshot, missing)
    values (v_now, v_from, v_watermark, v_snapshot, v_count);
  end if;
  if v_count > 0 then
    perform fn_wake('queue_wake_' || d) from jsonb_object_keys(v_missing) d;
    begin
      select fn_event_emit('system', 'queue_dispatch_gap', 'sweep', jsonb_build_object('missing', v_missing, 'swept_from', v_from))
      into v_alarm
      from event_type_registry r
      where r.event_domain = 'system' and r.event_type = 'queue_dispatch_gap' and r.active;
      -- while there is no trigger, the alarm itself would be the next sweep's gap, and so on for ever
      insert into event_arrival (tx_id, event_domain, event_id)
      select pg_current_xact_id(), 'system', v_alarm
      where v_alarm is not null
        and not exists (select from event_arrival a where a.event_id = v_alarm and a.tx_id = pg_current_xact_id());
    exception when others then
      v_trouble := sqlerrm; -- an outbox that takes no such row must not undo the repair
    end;
  end if;
  return jsonb_build_object('refused', false, 'busy', false, 'missing', v_count, 'domains', v_missing, 'swept_from', v_from, 'watermark', v_watermark,
    'alarm_error', v_trouble);
end
$function$

-- match, other_domain, other_type, other_stream, before_start or filtered.
CREATE OR REPLACE FUNCTION fn_event_verdict(p_event event_outbox, p_event_domain text, p_event_type_like text, p_event_stream text, p_starts_at timestamp with time zone, p_filter jsonpath)
 RETURNS text
 LANGUAGE sql
 STABLE
RETURN CASE WHEN ((p_event).event_domain IS DISTINCT FROM p_event_domain) THEN 'other_domain'::text WHEN ((p_event).event_type !~~ p_event_type_like) THEN 'other_type'::text WHEN ((p_event_stream IS NOT NULL) AND ((p_event).event_stream IS DISTINCT FROM p_event_stream)) THEN 'other_stream'::text WHEN ((p_event).created_at < p_starts_at) THEN 'before_start'::text WHEN ((p_filter IS NOT NULL) AND (NOT COALESCE(jsonb_path_match_tz(fn_event_document(p_event), p_filter, '{}'::jsonb, true), false))) THEN 'filtered'::text ELSE 'match'::text END

-- Why an executor may not claim (null: it may), its kind, and what its claims have to know. Called by fn_job_claim.
CREATE OR REPLACE FUNCTION fn_executor_admission(p_executor_name text, p_instance text)
 RETURNS TABLE(reason text, executor_kind text, paused text[], is_subscribed boolean, lease_seconds integer, aging_seconds numeric)
 LANGUAGE sql
 STABLE
BEGIN ATOMIC
 SELECT
         CASE
             WHEN (COALESCE(( SELECT c.value
                FROM dot_config c
               WHERE (c.key = 'queue.job_substrate.enabled'::text)), ''::text) <> 'true'::text) THEN 'job_substrate_disabled'::text
             WHEN (COALESCE(( SELECT c.value
                FROM dot_config c
               WHERE (c.key = 'queue.worker.enabled'::text)), ''::text) <> 'true'::text) THEN 'worker_disabled'::text
             WHEN (h.executor_name IS NULL) THEN 'executor_not_registered'::text
             WHEN ((h.owner_role <> SESSION_USER) AND (NOT fn_executor_is_ours(h.owner_role))) THEN 'not_owner'::text
             WHEN (h.instance <> fn_executor_admission.p_instance) THEN 'executor_alive'::text
             WHEN ((h.last_beat_at IS NULL) OR (h.last_beat_at < (clock_timestamp() - make_interval(secs => (h.stale_threshold_seconds)::double precision)))) THEN 'executor_silent'::text
             WHEN (p.paused && ARRAY['all:'::text, ('executor:'::text || h.executor_name), ('executor:'::text || (h.executor_kind)::text)]) THEN 'paused'::text
             ELSE NULL::text
         END AS "case",
     h.executor_kind,
     p.paused,
     (EXISTS ( SELECT
            FROM job_subscription s
           WHERE (fn_executor_admission.p_executor_name ~~ s.executor_name_like))) AS "exists",
     COALESCE(( SELECT (GREATEST((1)::numeric, (c.value)::numeric))::integer AS "greatest"
            FROM dot_config c
           WHERE ((c.key = 'queue.lease.duration_sec'::text) AND (c.value ~ '^[0-9]{1,9}(\.[0-9]{1,6})?$'::text))), 300) AS "coalesce",
     COALESCE(( SELECT (c.value)::numeric AS value
            FROM dot_config c
           WHERE ((c.key = 'queue.priority.aging_seconds'::text) AND (c.value ~ '^[0-9]{1,9}(\.[0-9]{1,6})?$'::text))), (10)::numeric) AS "coalesce"
    FROM (( SELECT array_agg(((q.scope || ':'::text) || q.name)) AS paused
            FROM queue_pause q
           WHERE (q.resumed_at IS NULL)) p
      LEFT JOIN queue_heartbeat h ON ((h.executor_name = fn_executor_admission.p_executor_name)));
END

-- Whether an executor is at rest on a living session. Internal.
CREATE OR REPLACE FUNCTION fn_executor_is_at_rest(p_executor_name text)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_key bigint := fn_executor_rest_key(p_executor_name);
begin
  return case when pg_try_advisory_lock_shared(v_key) then not pg_advisory_unlock_shared(v_key) else true end;
end
$function$

-- Whether the session's role is a member of the owner, or the owner is gone.
CREATE OR REPLACE FUNCTION fn_executor_is_ours(p_owner_role name)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return coalesce((select pg_has_role(session_user, r.oid, 'member') from pg_roles r where r.rolname = p_owner_role), true);
end
$function$

-- Whether nobody may register or beat under a name, because it is a worker of the host.
CREATE OR REPLACE FUNCTION fn_executor_is_passive(p_executor_name text)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return p_executor_name = 'iu_outbound_default'
    or exists (select from queue_heartbeat h where h.executor_name = p_executor_name and h.is_passive)
    or exists (select from fn_legacy_workers() l where l.worker_name = p_executor_name);
end
$function$

-- Whether one of the kinds is within an executor's subscriptions. Internal.
CREATE OR REPLACE FUNCTION fn_executor_is_subscribed(p_executor_name text, p_job_kinds text[])
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return exists (
    select from job_subscription s
    where p_executor_name like s.executor_name_like and exists (select from unnest(p_job_kinds) k where k like s.job_kind_like));
end
$function$

-- Says on the session that listens that the executor is at rest, or no more: whether it is so now.
CREATE OR REPLACE FUNCTION fn_executor_rest(p_executor_name text, p_rests boolean)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_key bigint := fn_executor_rest_key(p_executor_name);
begin
  if not p_rests then
    return pg_advisory_unlock(v_key);
  elsif pg_try_advisory_lock(v_key) then
    return true;
  end if;
  perform pg_terminate_backend(l.pid)
  from pg_locks l
  join pg_stat_activity a on a.pid = l.pid
  where l.locktype = 'advisory' and l.mode = 'ExclusiveLock' and l.granted and l.objsubid = 1 and l.pid <> pg_backend_pid()
    and l.classid::bigint = v_key >> 32 & 4294967295 and l.objid::bigint = v_key & 4294967295
    and l.database = (select d.oid from pg_database d where d.datname = current_database())
    and a.usename = session_user;
  return false;
end
$function$

-- Key of the advisory lock that an executor at rest holds. Internal.
CREATE OR REPLACE FUNCTION fn_executor_rest_key(p_executor_name text)
 RETURNS bigint
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return hashtextextended(format('reveille.rest:%s:%s', current_schema(), p_executor_name), 0);
end
$function$

-- The kinds of jobs of which a process at rest is told by name: {executor_name}. Refused executor_not_registered, or not_owner.
CREATE OR REPLACE FUNCTION fn_executor_wakes_for(p_executor_name text, p_instance text, p_job_kinds text[])
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  update queue_heartbeat h set wakes_for = p_job_kinds
  where h.executor_name = p_executor_name and h.instance = p_instance and fn_executor_is_ours(h.owner_role);
  if not found then
    return jsonb_build_object('refused', true, 'executor_name', p_executor_name, 'reason',
      case when exists (select from queue_heartbeat h where h.executor_name = p_executor_name) then 'not_owner' else 'executor_not_registered' end);
  end if;
  return jsonb_build_object('refused', false, 'executor_name', p_executor_name);
end
$function$

-- Names of the executors of a kind that beat.
CREATE OR REPLACE FUNCTION fn_executors_live(p_executor_kind text)
 RETURNS TABLE(executor_name text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
begin
  return query
  select h.executor_name from queue_heartbeat h
  where h.executor_kind = p_executor_kind and not h.is_passive
    and coalesce(h.metadata ->> 'role', '') not in ('dispatcher', 'sweeper', 'reaper', 'scheduler', 'auditor')
    and h.last_beat_at > clock_timestamp() - make_interval(secs => h.stale_threshold_seconds);
end
$function$

-- The decisions of fn_consumer_dispatch about consumers that fan out, one a recipient. Internal.
CREATE OR REPLACE FUNCTION fn_fan_out_decisions(p_event_id uuid)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return (
    with addressed as materialized (
      select distinct r.recipient_ref from fn_event_recipient_rows(array[p_event_id]) r where r.muted_by is null
    )
    select coalesce(jsonb_agg(jsonb_build_object('consumer_key', c.consumer_key, 'decision',
        fn_consumer_decision(c, e, d.event_id is not null, a.recipient_ref is not null), 'recipient', a.recipient_ref, 'job_id', j.job_id, 'status', j.status, 'error', d.message)
      order by c.consumer_key, a.recipient_ref), '[]')
    from event_outbox e
    join consumer_registry c on c.event_domain = e.event_domain and c.fan_out is not null
    cross join lateral fn_consumer_verdict(c, e) as v (verdict)
    left join addressed a on c.enabled and v.verdict = 'match'
    left join dispatch_error d on d.event_id = e.id and d.consumer_key = c.consumer_key
    left join lateral fn_job_by_key(c.job_kind, fn_job_key(fn_recipient_template(c.idempotency_key, c.consumer_key,
      jsonb_set(fn_event_document(e), '{event,recipient}', to_jsonb(a.recipient_ref))))) j on a.recipient_ref is not null
    where e.id = p_event_id);
end
$function$

-- fn_route_consumer_dry_run for a consumer that fans out. Internal.
CREATE OR REPLACE FUNCTION fn_fan_out_dry_run(p_consumer consumer_registry, p_since timestamp with time zone, p_limit integer)
 RETURNS TABLE(event_id uuid, would_enqueue boolean, reason text, job_kind text, executor text, source_ref text, target_ref text, payload_ref text, ordering_key text, idempotency_key text, event_type text, created_at timestamp with time zone, recipient text)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
begin
  return query
  with judged as materialized (
    select o.id, o.event_type::text as event_type, o.created_at, fn_consumer_verdict(p_consumer, o) as verdict,
      fn_event_document(o) as document, fn_is_signal(o.safe_payload) as is_signal
    from event_outbox o
    where o.event_domain = (p_consumer).event_domain and (p_since is null or o.created_at >= p_since)
    order by o.created_at desc, o.id desc
    limit p_limit
  ),
  addressed as materialized (
    select distinct r.event_id, r.recipient_ref
    from fn_event_recipient_rows(array(select j.id from judged j where j.verdict = 'match')) r
    where r.muted_by is null
  ),
  named as materialized (
    select j.id, j.event_type, j.created_at, a.recipient_ref,
      case when j.verdict = 'match' and a.recipient_ref is null then 'no_recipient' else j.verdict end as verdict,
      j.is_signal,
      case when a.recipient_ref is not null then jsonb_set(j.document, '{event,recipient}', to_jsonb(a.recipient_ref)) end as document
    from judged j
    left join addressed a on a.event_id = j.id
  ),
  filled as (
    select m.*,
      fn_recipient_template((p_consumer).source_ref, (p_consumer).consumer_key, m.document) as source_ref,
      fn_recipient_template((p_consumer).target_ref, (p_consumer).consumer_key, m.document) as target_ref,
      fn_recipient_template((p_consumer).payload_ref, (p_consumer).consumer_key, m.document) as payload_ref,
      fn_recipient_template((p_consumer).ordering_key, (p_consumer).consumer_key, m.document) as ordering_key,
      nullif(fn_recipient_template((p_consumer).idempotency_key, (p_consumer).consumer_key, m.document), '') as idempotency_key
    from named m
  ),
  decided as (
    select f.*, case
        when f.verdict = 'match' and (f.idempotency_key is null or not f.is_signal
          or ((p_consumer).ordering_key is not null and f.ordering_key is null)) then 'undigestible'
        else f.verdict
      end as reason
    from filled f
  )
  select d.id, d.reason = 'match', d.reason, (p_consumer).job_kind::text, (p_consumer).executor::text,
    case when d.reason = 'match' then d.source_ref end,
    case when d.reason = 'match' then d.target_ref end,
    case when d.reason = 'match' then d.payload_ref end,
    case when d.reason = 'match' then d.ordering_key end,
    case when d.reason = 'match' then fn_job_key(d.idempotency_key) end,
    d.event_type, d.created_at, d.recipient_ref
  from decided d
  order by d.created_at, d.id, d.recipient_ref;
end
$function$

-- What an event has where a filter looks. Internal.
CREATE OR REPLACE FUNCTION fn_filter_found(p_filter jsonpath, p_event event_outbox)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_document jsonb := fn_event_document(p_event);
  v_path text;
  v_found jsonb;
  v_all text[] := '{}';
begin
  for v_path in
    select distinct m[1] from regexp_matches(p_filter::text, '(\$(?:\."(?:[^"\\]|\\.)*"|\[(?:[0-9]+|\*)\])+)', 'g') m order by 1
  loop
    v_found := jsonb_path_query_array(v_document, v_path::jsonpath, '{}', true);
    v_all := v_all || (v_path || case
      when v_found = '[]' then ' is not there'
      when v_path like '$."payload"%' and (p_event).payload_classification = 'restricted' then ' is there, and restricted'
      else ' is ' || left(case jsonb_array_length(v_found) when 1 then (v_found -> 0)::text else v_found::text end, 200) end);
  end loop;
  return array_to_string(v_all, ', ');
end
$function$

-- What is wrong with the filter of an event node, as a sentence; null when it is sound. Internal.
CREATE OR REPLACE FUNCTION fn_gate_filter_problem(p_filter jsonpath)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if regexp_replace(p_filter::text, '"([^"\\]|\\.)*"', '""', 'g') ~ '\$"' then
    return 'filter has a variable ($name); a filter has none, write the value itself';
  end if;
  perform jsonb_path_match_tz('{"event": {}, "payload": {}}', p_filter, '{}', false);
  return null;
exception
  when singleton_sql_json_item_required then
    return 'filter is not a predicate: write a condition such as $.payload.amount > 100, not a path';
  when others then
    return null; -- strict paths may fail on the empty sample and work on real events
end
$function$

-- true only when dot_config holds the text 'true' under the key.
CREATE OR REPLACE FUNCTION fn_gate_is_open(p_key text)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return coalesce((select c.value = 'true' from dot_config c where c.key = p_key), false);
end
$function$

-- Every gate, set or not, with its value and what it lets through when it is true (null: nothing), then the other keys of ours in dot_config; and who changed each last, and why.
CREATE OR REPLACE FUNCTION fn_gate_list()
 RETURNS TABLE(key text, value text, updated_at timestamp with time zone, actor text, reason text, is_set boolean, lets_through text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
begin
  return query
  select coalesce(g.key, c.key), coalesce(c.value, g.unset), c.updated_at, a.actor, a.reason, c.key is not null, g.lets_through
  from (values
    (1, 'queue.job_substrate.enabled', 'false', 'new jobs: dispatch and enqueue'),
    (2, 'queue.worker.enabled', 'false', 'claims by executors'),
    (3, 'queue.notify.bridge_enabled', 'false', 'wake-ups by NOTIFY; polling goes on without'),
    (4, 'queue.lease_reaper.enabled', 'false', 'ended leases are reaped, once dry_run_only is closed, too'),
    (5, 'queue.lease_reaper.dry_run_only', 'true', null),
    (6, 'queue.dlq.replay_enabled', 'false', 'replays of dead letters'),
    (7, 'queue.archive.enabled', 'false', 'finished jobs leave for the archive; the archiver only tells without'),
    (8, 'queue.route.enabled', 'false', 'routes: what is written to routed tables becomes events'),
    (9, 'queue.heartbeat.enabled', 'true', 'alarms when an executor falls silent'),
    (10, 'queue.audit.enabled', 'true', 'the audit on its timer'),
    (11, 'queue.audit.repair_enabled', 'false', 'repairs of what that finds missing; it only tells without')) g (place, key, unset, lets_through)
  full join (
    select d.key::text, d.value::text, d.updated_at::timestamptz from dot_config d
    where d.key like 'queue.%' or d.key like 'job.%') c on c.key = g.key
  left join lateral (
    select w.actor, w.reason from dot_config_audit w where w.key = coalesce(g.key, c.key) order by w.audit_id desc limit 1) a on true
  order by g.place, coalesce(g.key, c.key);
end
$function$

-- Sets a key of dot_config, or takes it away when the value is null; audits it and announces it on queue_control. Answers the old and the new value.
CREATE OR REPLACE FUNCTION fn_gate_set(p_key text, p_value text, p_actor text, p_reason text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_old text;
begin
  if coalesce(btrim(p_key), '') = '' or coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_gate_set needs a key, an actor and a reason' using errcode = '22023';
  end if;
  if p_key !~ '^(queue|job)\.' then
    raise exception '% is not a key of Reveille: they begin with queue. or job.', p_key using errcode = '22023';
  end if;
  -- null has no form to check
  if p_key ~ '^queue\.retry\.backoff_strategy\.' or (p_key ~ 'backoff_strategy$' and p_key !~ '^queue\.retry\.[a-z_]+\.[^.]+$') then
    if p_value <> all (array['constant', 'linear', 'exponential']) then
      raise exception '% must be constant, linear or exponential, not %', p_key, quote_literal(p_value) using errcode = '22023';
    end if;
  elsif p_key ~ '([._]enabled|dry_run_only|emit_events|[.]reversible)$' then
    if p_value <> all (array['true', 'false']) then
      raise exception '% must be true or false, not %', p_key, quote_literal(p_value) using errcode = '22023';
    end if;
  elsif p_key ~ '\.(key_)?rate_limit$' then
    if p_value !~ '^[0-9]{1,9}(/[0-9]{1,7})?$' then
      raise exception '% must be a number of jobs, or jobs/seconds, not %', p_key, quote_literal(p_value) using errcode = '22023';
    end if;
  elsif p_key ~ 'concurrency_limit$' then
    if p_value !~ '^[0-9]{1,9}$' then
      raise exception '% must be a number of jobs, not %', p_key, quote_literal(p_value) using errcode = '22023';
    end if;
  elsif p_key ~ '^queue\.retry\.(backoff_seconds|backoff_cap_seconds|max_attempts|max_lease_losses)\.' or p_key ~ '(seconds|_sec|max_attempts|max_lease_losses|max_depth|limit|threshold_rows)$' then
    if p_value !~ '^[0-9]{1,9}(\.[0-9]{1,6})?$' then
      raise exception '% must be a number, not %', p_key, quote_literal(p_value) using errcode = '22023';
    end if;
  end if;
  select c.value into v_old from dot_config c where c.key = p_key for update;
  if p_value is null and not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'key', p_key); -- a slip in the key must not look like success
  elsif p_value is null then
    delete from dot_config where key = p_key;
  elsif found then
    update dot_config set value = p_value, updated_at = clock_timestamp() where key = p_key;
  else
    insert into dot_config (key, value, updated_at) values (p_key, p_value, clock_timestamp());
  end if;
  insert into dot_config_audit (key, old_value, new_value, actor, reason)
  values (p_key, v_old, p_value, p_actor, p_reason);
  perform pg_notify('queue_control', '');
  return jsonb_build_object('refused', false, 'key', p_key, 'old_value', v_old, 'value', p_value, 'removed', p_value is null);
end
$function$

-- Whether a payload is an object of at most 16 kB without a denied key at any depth.
CREATE OR REPLACE FUNCTION fn_is_signal(p_payload jsonb)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE
RETURN ((p_payload = '{}'::jsonb) OR ((jsonb_typeof(p_payload) = 'object'::text) AND (octet_length((p_payload)::text) <= 16384) AND ((p_payload)::text !~* '[{ ]"(body|content|raw|vector|embedding|secret|token|password|ssn|personal_data)": '::text)))

-- Approves a waiting gate: {decision, effect_hash}. Refused not_found, illegal_transition, approval_expired or effect_changed.
CREATE OR REPLACE FUNCTION fn_job_approve(p_job_id uuid, p_effect_hash text, p_actor text, p_expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_job job_queue;
  v_gate job_gate;
  v_hash text;
  v_reason text;
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_effect_hash), '') = '' then
    raise exception 'fn_job_approve needs an actor, and the hash of what is approved (fn_job_effect_hash)' using errcode = '22023';
  end if;
  select j.* into v_job from job_queue j where j.job_id = p_job_id for update;
  select g.* into v_gate from job_gate g where g.job_id = p_job_id and g.kind = 'approval';
  v_hash := fn_job_effect_hash(p_job_id);
  v_reason := case
    when v_job.job_id is null or v_gate.job_id is null then 'not_found'
    when v_job.status <> 'queued' or v_job.blocked_by <> 1 then 'illegal_transition'
    when v_gate.expires_at < clock_timestamp() or p_expires_at < clock_timestamp() then 'approval_expired'
    when v_hash <> p_effect_hash then 'effect_changed' end;
  if v_reason is not null then
    return jsonb_build_object('refused', true, 'reason', v_reason, 'job_id', p_job_id, 'status', v_job.status, 'blocked_by', v_job.blocked_by, 'effect_hash', v_hash);
  end if;
  insert into job_approval (job_id, workflow_id, decision, effect_hash, actor, expires_at)
  values (p_job_id, v_job.workflow_id, 'approved', v_hash, p_actor, p_expires_at);
  update job_gate g set effect_hash = v_hash where g.job_id = p_job_id;
  perform fn_job_gate_pass(p_job_id, 'success', p_actor);
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'workflow_id', v_job.workflow_id, 'decision', 'approved', 'effect_hash', v_hash);
end
$function$

-- Moves finished jobs to job_archive: {dry_run, busy, found, archived, next, again, months}. Refused archive_disabled when told to apply behind a closed gate.
CREATE OR REPLACE FUNCTION fn_job_archive(p_limit integer DEFAULT 1000, p_dry_run boolean DEFAULT true, p_after uuid DEFAULT NULL::uuid, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_nestloop TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_cutoff timestamptz := v_now - make_interval(secs => fn_config_number('queue.archive.after_seconds', 3600)::double precision);
  v_is_open boolean := fn_gate_is_open('queue.archive.enabled');
  v_dry boolean := coalesce(p_dry_run, not v_is_open);
  v_answer jsonb;
  v_seen uuid[];
  v_due uuid[];
  v_dead uuid[];
  v_months timestamptz[];
  v_letters uuid[];
  v_rows tid[];
  v_ids uuid[];
  v_archived int := 0;
begin
  if p_limit is null or p_limit < 1 then
    raise exception 'fn_job_archive: p_limit must be at least 1' using errcode = '22023';
  end if;
  if not v_dry and not v_is_open then
    return jsonb_build_object('refused', true, 'reason', 'archive_disabled');
  end if;
  v_answer := jsonb_build_object('refused', false, 'dry_run', v_dry, 'busy', false, 'found', 0, 'archived', 0, 'next', null,
    'again', fn_uuid_v7_floor(v_cutoff - interval '15 minutes'));
  if not v_dry and not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.fn_job_archive', 0)) then
    return v_answer || '{"busy": true}';
  end if;
  select array_agg(s.job_id), array_agg(s.job_id) filter (where s.is_due),
    array_agg(s.job_id) filter (where s.is_due and s.status = 'dead_letter'),
    array_agg(distinct date_trunc('month', s.finished_at at time zone 'UTC') at time zone 'UTC') filter (where s.is_due)
  into v_seen, v_due, v_dead, v_months
  from (
    select j.job_id, j.status, j.finished_at, j.finished_at <= v_cutoff and (j.status <> 'dead_letter' or not exists (
        select from job_dead_letter d
        where d.job_id = j.job_id and d.replayed_at is null
          and (d.triage_status in ('open', 'investigating', 'manual_replay') or d.triaged_at > v_cutoff)))
        and (j.workflow_id is null or not exists (
        select from job_workflow w where w.workflow_id = j.workflow_id and w.status not in ('succeeded', 'cancelled'))) as is_due
    from job_queue j
    where j.job_id > coalesce(p_after, '00000000-0000-0000-0000-000000000000') and j.job_id < fn_uuid_v7_floor(v_cutoff)
    order by j.job_id
    limit p_limit) s;
  v_answer := v_answer || jsonb_build_object('found', coalesce(cardinality(v_due), 0),
    'next', case when cardinality(v_seen) = p_limit then v_seen[p_limit] end);
  if v_dry then
    return v_answer || case when v_answer -> 'next' = 'null' then jsonb_build_object('months', fn_job_archive_drop(true, p_now => p_now)) else '{}' end;
  end if;
  perform fn_job_archive_month(m) from unnest(array[v_now, v_now + interval '1 month'] || v_months) m;
  if v_due is null then
    return v_answer || case when v_answer -> 'next' = 'null' then jsonb_build_object('months', fn_job_archive_drop(false, p_now => p_now)) else '{}' end;
  end if;

  -- letter, then job, as a replay locks them; and judged anew once locked
  v_letters := array(
    select d.dead_letter_id from job_dead_letter d
    where d.job_id = any (v_dead) and d.replayed_at is null
    order by d.dead_letter_id
    for update skip locked);
  select array_agg(l.ctid), array_agg(l.job_id) into v_rows, v_ids
  from (
    select j.ctid, j.job_id from job_queue j
    where j.job_id = any (v_due) and j.finished_at <= v_cutoff and (j.status <> 'dead_letter' or not exists (
        select from job_dead_letter d
        where d.job_id = j.job_id and d.replayed_at is null and (d.dead_letter_id <> all (v_letters)
          or d.triage_status in ('open', 'investigating', 'manual_replay') or d.triaged_at > v_cutoff)))
      and (j.workflow_id is null or not exists (
        select from job_workflow w where w.workflow_id = j.workflow_id and w.status not in ('succeeded', 'cancelled')))
    order by j.job_id
    for update of j skip locked) l;
  with gone as (
    delete from job_queue j where j.ctid = any (v_rows) returning j.*
  ),
  runs as (
    delete from job_attempt a where a.job_id = any (v_ids) returning a.*
  ),
  histories as (
    select r.job_id, jsonb_agg(to_jsonb(r) - 'job_id' order by r.lease_token) as history, max(r.lease_token) as lease_token
    from runs r
    group by r.job_id
  ),
  kept as (
    insert into job_archive_key (job_kind, idempotency_key, job_id, finished_at)
    select g.job_kind, g.idempotency_key, g.job_id, g.finished_at from gone g
    on conflict (job_kind, idempotency_key) do nothing
  ),
  bounds as (
    insert into job_archive_bound as b (job_kind, newest_event)
    select g.job_kind, max(case
        when replace(g.idempotency_key, coalesce(g.causation_event_id, g.job_id)::text, '') ~ '[0-9a-f]{8}-[0-9a-f]{4}-|~sha256:' then 'infinity'
        when g.causation_event_id is null then '-infinity'
        else coalesce((select e.created_at from event_outbox e where e.id = g.causation_event_id), g.created_at) end)
    from gone g
    group by g.job_kind
    on conflict (job_kind) do update set newest_event = excluded.newest_event where b.newest_event < excluded.newest_event
  ),
  moved as (
    insert into job_archive (
      job_id, job_kind, status, executor, event_domain, source_ref, target_ref, payload_ref, safe_payload, priority, scheduled_at,
      picked_at, started_at, finished_at, lease_owner, lease_token, attempts, lease_losses, max_attempts, policy, error_count, last_error,
      idempotency_key, ordering_key, actor, run_id, workflow_id, parent_job_id, blocked_by, causation_event_id, consumer_key,
      correlation_id, traceparent, result_ref, cancel_requested_at, cancel_reason, created_at, updated_at, history)
    select
      g.job_id, g.job_kind, g.status, g.executor, g.event_domain, g.source_ref, g.target_ref, g.payload_ref, g.safe_payload, g.priority, g.scheduled_at,
      g.picked_at, g.started_at, g.finished_at, g.lease_owner, g.lease_token, g.attempts, g.lease_losses, g.max_attempts, g.policy, g.error_count, g.last_error,
      g.idempotency_key, g.ordering_key, g.actor, g.run_id, g.workflow_id, g.parent_job_id, g.blocked_by, g.causation_event_id, g.consumer_key,
      g.correlation_id, g.traceparent, g.result_ref, g.cancel_requested_at, g.cancel_reason, g.created_at, g.updated_at,
      coalesce(h.history, '[]') || case
        -- a lease without a row of its own ended well
        when g.status in ('succeeded', 'cleaned') and g.lease_token is distinct from h.lease_token and g.lease_token is not null
        then jsonb_build_object('lease_token', g.lease_token, 'lease_owner', g.lease_owner, 'picked_at', g.picked_at,
          'started_at', g.started_at, 'ended_at', g.finished_at, 'outcome', 'succeeded', 'error', null, 'reported_by', null)
        else '[]' end
    from gone g
    left join histories h on h.job_id = g.job_id
    returning 1
  )
  select count(*) into v_archived from moved;
  return v_answer || jsonb_build_object('archived', v_archived)
    || case when v_answer -> 'next' = 'null' then jsonb_build_object('months', fn_job_archive_drop(false, p_now => p_now)) else '{}' end;
end
$function$

-- Drops months of the archive and forgets their keys, as queue.retention.archive_months says: {dry_run, busy, found, dropped, locked, keys, more}. Refused archive_disabled when told to apply behind a closed gate.
CREATE OR REPLACE FUNCTION fn_job_archive_drop(p_dry_run boolean DEFAULT true, p_limit integer DEFAULT 20000, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET lock_timeout TO '200ms'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'on'
 SET "DateStyle" TO 'ISO'
 SET "TimeZone" TO 'UTC'
 SET jit TO 'off'
AS $function$
declare
  v_months int := floor(least(fn_config_number('queue.retention.archive_months', 0), 12000));
  v_is_open boolean := fn_gate_is_open('queue.archive.enabled');
  v_dry boolean := coalesce(p_dry_run, not v_is_open);
  v_answer jsonb;
  v_month record;
  v_keys tid[];
  v_left int := p_limit;
  v_dropped text[] := '{}';
  v_locked text[] := '{}';
  v_more boolean := false;
begin
  if p_limit is null or p_limit < 1 then
    raise exception 'fn_job_archive_drop: p_limit must be at least 1' using errcode = '22023';
  elsif not v_dry and not v_is_open then
    return jsonb_build_object('refused', true, 'reason', 'archive_disabled');
  end if;
  v_answer := jsonb_build_object('refused', false, 'dry_run', v_dry, 'busy', false, 'found', '[]'::jsonb, 'dropped', '[]'::jsonb, 'locked', '[]'::jsonb,
    'keys', 0, 'more', false);
  if v_months < 1 then
    return v_answer;
  elsif not v_dry and not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.fn_job_archive', 0)) then
    return v_answer || '{"busy": true}';
  end if;
  for v_month in
    select x.relname, x.bounds[1]::timestamptz as begins, x.bounds[2]::timestamptz as ends
    from (
      select c.relname, regexp_match(pg_get_expr(c.relpartbound, c.oid), '^FOR VALUES FROM \(''([^'']+)''\) TO \(''([^'']+)''\)$') as bounds
      from pg_inherits i
      join pg_class p on p.oid = i.inhparent and p.relname = 'job_archive' and p.relnamespace = quote_ident(current_schema())::regnamespace
      join pg_class c on c.oid = i.inhrelid and c.relnamespace = p.relnamespace and c.relname ~ '^job_archive_[0-9]{4,}_[0-9]{2}$') x
    where x.bounds[2]::timestamptz <= coalesce(p_now, clock_timestamp()) - make_interval(months => v_months)
    order by 2
  loop
    v_answer := jsonb_set(v_answer, '{found}', v_answer -> 'found' || to_jsonb(v_month.relname));
    -- who reads the whole archive locks each of them, and every other reader waits behind each try
    continue when v_dry or v_more or cardinality(v_locked) = 3;
    begin
      v_keys := array(
        select o.ctid from job_archive_key o where o.finished_at >= v_month.begins and o.finished_at < v_month.ends limit v_left);
      -- before the first of them goes; waits for a batch of a backfill, which holds the row
      if cardinality(v_keys) > 0 and not exists (select from job_archive_forgotten f where f.until >= v_month.ends) then
        insert into job_archive_forgotten as f (until) values (v_month.ends)
        on conflict (is_only) do update set until = greatest(f.until, excluded.until);
      end if;
      delete from job_archive_key k where k.ctid = any (v_keys);
      if cardinality(v_keys) < v_left then
        execute format('drop table %I.%I', current_schema(), v_month.relname);
        v_dropped := v_dropped || v_month.relname::text;
      else
        v_more := true;
      end if;
      v_left := v_left - cardinality(v_keys);
    exception when lock_not_available or dependent_objects_still_exist then
      v_locked := v_locked || v_month.relname::text;
    end;
  end loop;
  return v_answer || jsonb_build_object('dropped', v_dropped, 'locked', v_locked, 'keys', p_limit - v_left, 'more', v_more);
end
$function$

-- Makes the partition of job_archive for the month of a moment, unless it is there. Internal.
CREATE OR REPLACE FUNCTION fn_job_archive_month(p_at timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_from timestamp := date_trunc('month', p_at at time zone 'UTC');
  v_name text := to_char(v_from, '"job_archive_"YYYY_MM');
begin
  if exists (select from pg_class c where c.relname = v_name and c.relnamespace = quote_ident(current_schema())::regnamespace) then
    return;
  end if;
  execute format('create table %I (like job_archive including defaults including indexes)', v_name);
  execute format('comment on table %I is %L', v_name, to_char(v_from, '"Jobs that ended in "YYYY-MM" (UTC)."'));
  execute format('alter table job_archive attach partition %I for values from (%L) to (%L)', v_name,
    to_char(v_from, 'YYYY-MM-DD"+00"'), to_char(v_from + interval '1 month', 'YYYY-MM-DD"+00"'));
end
$function$

-- An archived job; null when there is none with this id. Internal.
CREATE OR REPLACE FUNCTION fn_job_archived(p_job_id uuid)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
  if not exists (select from pg_class c where c.relname = 'job_archive' and c.relnamespace = quote_ident(current_schema())::regnamespace) then
    return null;
  end if;
  return (select to_jsonb(a) from job_archive a where a.job_id = p_job_id);
end
$function$

-- Appends to job_attempt how the lease of this job ended. Internal.
CREATE OR REPLACE FUNCTION fn_job_attempt_end(p_job job_queue, p_outcome text, p_error text)
 RETURNS void
 LANGUAGE sql
 SET search_path TO 'public', 'pg_temp'
AS $function$
  insert into job_attempt (job_id, lease_token, lease_owner, picked_at, started_at, outcome, error)
  values ((p_job).job_id, (p_job).lease_token, (p_job).lease_owner, (p_job).picked_at, (p_job).started_at, p_outcome, left(p_error, 8000))
$function$

-- Refuses changes of job_attempt (23514); also for the table's owner.
CREATE OR REPLACE FUNCTION fn_job_attempt_refuse()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  raise exception 'job_attempt is append-only: what happened cannot be changed' using errcode = '23514';
end
$function$

-- The attempts of a job as rows of fn_job_explain. Internal.
CREATE OR REPLACE FUNCTION fn_job_attempts(p_job job_queue, p_history jsonb)
 RETURNS TABLE(verdict text, reason text, what text, hint text, other_job_id uuid, until timestamp with time zone, detail jsonb)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
  return query
  select 'attempt', a.one ->> 'outcome',
    format('attempt %s by %s: %s%s%s', a.n, a.one ->> 'lease_owner', a.one ->> 'outcome',
      coalesce(' after ' || a.seconds || ' s', ''), coalesce(', ' || (a.one ->> 'error'), '')),
    null::text, null::uuid, (a.one ->> 'ended_at')::timestamptz, a.one - 'outcome' || jsonb_build_object('seconds', a.seconds)
  from (
    select h.one, row_number() over (order by (h.one ->> 'lease_token')::bigint) as n,
      round(extract(epoch from (h.one ->> 'ended_at')::timestamptz - coalesce(h.one ->> 'started_at', h.one ->> 'picked_at')::timestamptz)::numeric, 3) as seconds
    from (
      select e.one from jsonb_array_elements(p_history) e (one)
      union all
      select to_jsonb(x) - 'job_id'
      from (select t.* from job_attempt t where t.job_id = (p_job).job_id and p_history is null order by t.lease_token desc limit 100) x
      union all
      select jsonb_build_object('outcome', 'succeeded', 'lease_token', (p_job).lease_token, 'lease_owner', (p_job).lease_owner,
        'picked_at', (p_job).picked_at, 'started_at', (p_job).started_at, 'ended_at', (p_job).finished_at)
      where p_history is null and (p_job).status = 'succeeded' and (p_job).lease_token is not null) h) a
  order by a.n;
end
$function$

-- What waits to be claimed, by lane and priority. Called by v_job_queue_backlog.
CREATE OR REPLACE FUNCTION fn_job_backlog()
 RETURNS TABLE(executor text, job_kind text, event_domain text, consumer_key text, priority integer, due integer, more boolean, oldest_due_at timestamp with time zone, next_due_at timestamp with time zone, reason text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
begin
  return query
  select x.executor, l.job_kind, l.event_domain, l.consumer_key, l.priority, n.due::int, n.due = 1000,
    case when n.due > 0 then l.scheduled_at end, case when n.due = 0 then l.scheduled_at end,
    case when n.due > 0 then fn_job_lane_verdict(x.executor, l.job_kind, l.event_domain, l.consumer_key, l.priority) end
  from unnest(array['DOT', 'Agent', 'Hermes', 'Codex', 'PG_worker', 'external_worker', 'future_Kestra_adapter']) as x (executor)
  cross join lateral fn_job_lanes(x.executor) l
  cross join lateral (
    select count(*) as due
    from (
      select from job_queue j
      where j.executor = x.executor and j.claimable and j.lane = l.lane and j.priority = l.priority and j.scheduled_at <= clock_timestamp()
      limit 1000) d) n;
end
$function$

-- The delay before the next try, from fn_job_policy.
CREATE OR REPLACE FUNCTION fn_job_backoff(p_job_kind text, p_failures integer, p_event_domain text DEFAULT NULL::text, p_own jsonb DEFAULT NULL::jsonb)
 RETURNS interval
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_policy record;
  v_seconds numeric;
begin
  select * into v_policy from fn_job_policy(p_job_kind, p_event_domain, p_own);
  v_seconds := least(v_policy.cap_seconds, case v_policy.strategy
    when 'constant' then v_policy.backoff_seconds
    when 'linear' then v_policy.backoff_seconds * p_failures
    else v_policy.backoff_seconds * power(2::numeric, least(p_failures - 1, 40))
  end);
  return make_interval(secs => (v_seconds * case v_policy.strategy when 'exponential' then random()::numeric else 1 end)::double precision);
end
$function$

-- Which of these leased jobs are locked by another session; locks the others until the transaction ends.
CREATE OR REPLACE FUNCTION fn_job_busy(p_job_ids uuid[], p_lease_tokens bigint[])
 RETURNS SETOF uuid
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_free uuid[] := array(
    select j.job_id from job_queue j
    where j.job_id = any (p_job_ids) and j.lease_token = any (p_lease_tokens)
    order by j.job_id
    for update skip locked);
begin
  return query
  select j.job_id from job_queue j
  where j.job_id = any (p_job_ids) and j.lease_token = any (p_lease_tokens) and j.job_id <> all (v_free);
end
$function$

-- The job of a kind with this (stored) key, and its status. Internal.
CREATE OR REPLACE FUNCTION fn_job_by_key(p_job_kind text, p_key text, OUT job_id uuid, OUT status text)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
  if not exists (select from pg_class c where c.relname = 'job_archive_key' and c.relnamespace = quote_ident(current_schema())::regnamespace) then
    select j.job_id, j.status into job_id, status from job_queue j where j.job_kind = p_job_kind and j.idempotency_key = p_key;
  else
    select f.job_id, f.status into job_id, status
    from (
      select j.job_id, j.status::text from job_queue j where j.job_kind = p_job_kind and j.idempotency_key = p_key
      union all
      select k.job_id, a.status::text
      from job_archive_key k
      left join job_archive a on a.job_id = k.job_id and a.finished_at = k.finished_at
      where k.job_kind = p_job_kind and k.idempotency_key = p_key) f
    limit 1;
  end if;
end
$function$

-- Cancels waiting work at once, asks running work to end: {status, requested}. Refused not_found or illegal_transition.
CREATE OR REPLACE FUNCTION fn_job_cancel(p_job_id uuid, p_actor text, p_reason text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_job job_queue;
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_job_cancel needs an actor and a reason' using errcode = '22023';
  end if;
  select j.* into v_job from job_queue j where j.job_id = p_job_id for update;
  if not found then
    return fn_job_gone(p_job_id);
  elsif v_job.status = 'cancelled' then
    return jsonb_build_object('refused', false, 'job_id', p_job_id, 'status', 'cancelled');
  elsif v_job.status not in ('queued', 'retry_waiting', 'leased', 'in_progress') then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'job_id', p_job_id, 'status', v_job.status);
  end if;
  v_job.cancel_reason := left(p_actor || ': ' || p_reason, 2000);
  if v_job.lease_until is null then
    return fn_job_end_cancelled(v_job);
  end if;
  update job_queue j
  set cancel_requested_at = coalesce(j.cancel_requested_at, clock_timestamp()), cancel_reason = coalesce(j.cancel_reason, v_job.cancel_reason),
      updated_at = clock_timestamp()
  where j.job_id = p_job_id;
  perform pg_notify('queue_control', '');
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'status', v_job.status, 'requested', true);
end
$function$

-- leased or in_progress → cancelled, after fn_job_cancel. Refused illegal_transition when nobody asked for it.
CREATE OR REPLACE FUNCTION fn_job_cancel_done(p_job_id uuid, p_lease_token bigint)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_job job_queue := fn_job_leased(p_job_id, p_lease_token);
begin
  if v_job.job_id is null then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  elsif v_job.cancel_requested_at is null then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'job_id', p_job_id, 'status', v_job.status);
  end if;
  return fn_job_end_cancelled(v_job);
end
$function$

-- Those of the jobs whose cancellation was asked for.
CREATE OR REPLACE FUNCTION fn_job_cancellations(p_job_ids uuid[])
 RETURNS SETOF uuid
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
  select j.job_id from job_queue j where j.job_id = any (p_job_ids) and j.cancel_requested_at is not null
$function$

-- The rows that a claim leases, with the places of their limits, and whether jobs wait that it may not take. Internal.
CREATE OR REPLACE FUNCTION fn_job_choose(p_executor_name text, p_limit integer, p_job_kinds text[], p_executor_kind text, p_paused text[], p_is_subscribed boolean, p_aging_seconds numeric, OUT reason text, OUT job_rows tid[], OUT limit_slots integer[], OUT others_wait boolean)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := clock_timestamp();
  v_marks job_lane[];
  v_stand boolean := false;
  v_heads job_lane[];
  v_lanes job_lane[];
  v_lane job_lane;
  v_limits jsonb;
  v_left int := p_limit;
  v_first int := 1;
  v_next int;
  v_shares real;
  v_round int;
  v_sum double precision;
  v_quota int;
  v_have jsonb := '{}';
  v_taken record;
  v_begun timestamptz;
  v_cost interval;
  v_walked bigint;
begin
  job_rows := '{}';
  if coalesce(current_setting('reveille.claim_marks', true), '') <> '' then
    select m.marks, m.stand into v_marks, v_stand from fn_job_claim_marks(p_executor_kind, v_now) m;
  end if;
  v_begun := clock_timestamp();
  v_walked := pg_stat_get_xact_tuples_returned('job_queue_ready_idx'::regclass);
  v_heads := array(select l from fn_job_lanes(p_executor_kind, case when v_stand then v_marks end) l);
  v_walked := pg_stat_get_xact_tuples_returned('job_queue_ready_idx'::regclass) - v_walked - cardinality(v_heads);
  v_cost := clock_timestamp() - v_begun;
  v_lanes := array(
    select l from fn_job_lanes_open(v_heads, p_executor_name, p_job_kinds, p_paused, p_is_subscribed, p_aging_seconds, v_now) l);
  if cardinality(v_lanes) > 0 then
    v_limits := (
      select jsonb_object_agg(c.key, c.value)
      from dot_config c
      where c.key = any (array(
        select 'job.' || k.job_kind || n.name
        from unnest(v_lanes) k
        cross join unnest(array['.concurrency_limit', '.rate_limit', '.key_rate_limit']) n (name))));
  elsif p_is_subscribed and p_job_kinds is not null and not fn_executor_is_subscribed(p_executor_name, p_job_kinds) then
    reason := 'not_subscribed';
    return;
  end if;

  -- one rank after the other; within a rank in rounds, until there is no room or nothing left. Of x.y jobs a lane gets x or
  -- x + 1, by a lot that all draw together: the sum fits, and on the average each gets its share, also of one job
  while v_first <= cardinality(v_lanes) and v_left > 0 loop
    v_next := v_first;
    while v_next <= cardinality(v_lanes) and (v_lanes[v_next]).rank = (v_lanes[v_first]).rank loop
      v_next := v_next + 1;
    end loop;
    loop
      v_shares := 0;
      for v_i in v_first .. v_next - 1 loop
        v_shares := v_shares + (v_lanes[v_i]).share;
      end loop;
      exit when v_shares = 0 or v_left = 0;
      v_round := v_left;
      v_sum := random();
      for v_i in v_first .. v_next - 1 loop
        v_lane := v_lanes[v_i];
        continue when v_lane.share = 0; -- it has no more
        exit when v_left = 0;
        v_quota := least(v_left, floor(v_sum + v_round * (v_lane.share / v_shares)) - floor(v_sum));
        v_sum := v_sum + v_round * (v_lane.share / v_shares);
        continue when v_quota = 0;
        if v_limits is not null and v_limits ?| array[
            'job.' || v_lane.job_kind || '.concurrency_limit', 'job.' || v_lane.job_kind || '.rate_limit',
            'job.' || v_lane.job_kind || '.key_rate_limit'] then
          select * into v_taken
          from fn_job_take_limited(p_executor_kind, v_lane, v_quota, v_limits, v_now,
            array(select h::int from jsonb_array_elements_text(v_have -> v_lane.job_kind) h)) t;
          v_have := v_have || jsonb_build_object(v_lane.job_kind, coalesce(v_have -> v_lane.job_kind, '[]') || coalesce(to_jsonb(v_taken.slots), '[]'));
        else
          select array_agg(t.ctid) as rows, null::int[] as slots, count(*)::int as passed, (array_agg(t.scheduled_at))[count(*)] as scheduled_at,
            (array_agg(t.job_id))[count(*)] as job_id
          into v_taken
          from (
            select j.ctid, j.scheduled_at, j.job_id
            from job_queue j
            where j.executor = p_executor_kind and j.claimable and j.lane = v_lane.lane and j.priority = v_lane.priority
              and (j.scheduled_at, j.job_id) > (v_lane.scheduled_at, v_lane.job_id) and j.scheduled_at <= v_now
            order by j.scheduled_at, j.job_id
            limit v_quota
            for update skip locked) t;
        end if;
        if cardinality(v_taken.rows) > 0 then
          job_rows := job_rows || v_taken.rows;
          v_left := v_left - cardinality(v_taken.rows);
          if v_limits is not null then
            limit_slots := limit_slots || coalesce(v_taken.slots, array_fill(null::int, array[cardinality(v_taken.rows)]));
          end if;
        end if;
        if v_taken.passed < v_quota then
          v_lane.share := 0;
        else
          v_lane.scheduled_at := v_taken.scheduled_at;
          v_lane.job_id := v_taken.job_id;
        end if;
        v_lanes[v_i] := v_lane;
      end loop;
    end loop;
    v_first := v_next;
  end loop;

  if v_stand or v_walked > 1000 then
    perform fn_job_claim_mark(p_executor_kind, v_now, v_cost, v_stand, v_marks, v_heads, v_lanes);
  elsif v_marks is not null then
    perform set_config('reveille.claim_marks', '', false);
  end if;
  others_wait := cardinality(v_lanes) < (select count(*) from unnest(v_heads) h where h.scheduled_at <= v_now);
end
$function$

-- Leases jobs to an executor: rows (refused, reason, job columns with lease_token); a refusal is one row, nothing to do is none.
CREATE OR REPLACE FUNCTION fn_job_claim(p_executor_name text, p_limit integer DEFAULT 1, p_lease_seconds integer DEFAULT NULL::integer, p_job_kinds text[] DEFAULT NULL::text[], p_instance text DEFAULT NULL::text)
 RETURNS TABLE(refused boolean, reason text, job_id uuid, job_kind text, lease_token bigint, lease_until timestamp with time zone, status text, executor text, event_domain text, source_ref text, target_ref text, payload_ref text, safe_payload jsonb, priority integer, scheduled_at timestamp with time zone, attempts integer, max_attempts integer, idempotency_key text, ordering_key text, actor text, run_id uuid, workflow_id uuid, causation_event_id uuid, consumer_key text, correlation_id text, traceparent text, created_at timestamp with time zone, policy jsonb, others_wait boolean)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_look record;
  v_rows tid[];
  v_slots int[];
  v_others_wait boolean;
begin
  -- Whatever a claim has to know, in one statement, and no variable more than needed: an expression of plpgsql costs as much
  -- as a look into an index. What is plain, one lane and nothing to be counted, the UPDATE takes by itself.
  select a.*, h.*, clock_timestamp() as now, least(86400, coalesce(p_lease_seconds, a.lease_seconds)) as seconds,
    (date_part('epoch', clock_timestamp()) * 1000000)::bigint * 1024 + (random() * 1023)::bigint as token,
    b.is_unmarked
      and not exists (select from job_queue j where j.ordering_key is not null and j.ordering_slot is null and j.status = 'queued')
      and not exists (select from job_order_pending)
      and pg_stat_get_xact_tuples_returned('job_queue_ready_idx'::regclass)
        + pg_stat_get_xact_tuples_returned('job_queue_unplaced_idx'::regclass) - b.walked <= 1000 -- asked last
      as is_settled,
    coalesce(h.scheduled_at <= clock_timestamp() and (p_job_kinds is null or h.job_kind = any (p_job_kinds)), true)
      and not exists (
        select from job_queue n
        where n.executor = a.executor_kind and n.claimable and (n.lane, n.priority) > (h.lane, h.priority))
      and not exists (
        select from dot_config c
        where c.key = any (array['job.' || h.job_kind || '.concurrency_limit', 'job.' || h.job_kind || '.rate_limit',
          'job.' || h.job_kind || '.key_rate_limit']))
      and coalesce(not a.paused && array['job_kind:' || h.job_kind, 'domain:' || h.event_domain, 'consumer:' || h.consumer_key], true)
      and current_setting('transaction_isolation') = 'read committed' as is_plain
  into v_look
  from (
    select coalesce(current_setting('reveille.claim_marks', true), '') || coalesce(current_setting('reveille.order_mark', true), '') = '' as is_unmarked,
      pg_stat_get_xact_tuples_returned('job_queue_ready_idx'::regclass)
        + pg_stat_get_xact_tuples_returned('job_queue_unplaced_idx'::regclass) as walked
    offset 0) b
  cross join lateral fn_executor_admission(p_executor_name, p_instance) a
  left join lateral (
    select j.lane, j.priority, j.job_kind, j.event_domain, j.consumer_key, j.scheduled_at
    from job_queue j
    where j.executor = a.executor_kind and j.claimable and b.is_unmarked -- and so after b
    order by j.lane, j.priority, j.scheduled_at, j.job_id
    limit 1) h on true;

  if (v_look.reason is null and v_look.is_settled and v_look.is_plain and not v_look.is_subscribed
    and p_limit >= 1 and v_look.seconds >= 1) is not true
  then
    if current_setting('transaction_isolation') <> 'read committed' then
      raise exception 'fn_job_claim needs READ COMMITTED: with an older snapshot limits and orders could not be kept' using errcode = '25001';
    end if;
    if p_limit is null or p_limit < 1 or v_look.seconds < 1 then
      raise exception 'fn_job_claim: p_limit and p_lease_seconds must be at least 1' using errcode = '22023';
    end if;
    if v_look.reason is null then
      if not v_look.is_settled then
        perform fn_job_see_to_order(p_limit, v_look.now);
      end if;
      select c.reason, c.job_rows, c.limit_slots, c.others_wait into v_look.reason, v_rows, v_slots, v_others_wait
      from fn_job_choose(p_executor_name, p_limit, p_job_kinds, v_look.executor_kind, v_look.paused, v_look.is_subscribed, v_look.aging_seconds) c;
    end if;
    if v_look.reason is not null then
      return query select true, v_look.reason, null::uuid, null::text, null::bigint, null::timestamptz, null::text, null::text,
        null::text, null::text, null::text, null::text, null::jsonb, null::int, null::timestamptz, null::int, null::int, null::text,
        null::text, null::text, null::uuid, null::uuid, null::uuid, null::text, null::text, null::text, null::timestamptz, null::jsonb,
        null::boolean;
      return;
    end if;
    if cardinality(v_rows) = 0 then
      return;
    end if;
  end if;

  return query
  update job_queue j
  set status = 'leased',
      lease_owner = p_executor_name,
      lease_token = greatest(v_look.token, j.lease_token + 1),
      lease_until = clock_timestamp() + make_interval(secs => v_look.seconds),
      limit_slot = v_slots[array_position(v_rows, j.ctid)],
      picked_at = clock_timestamp(), -- after this statement's snapshot: what had to end first, ended before
      started_at = null,
      updated_at = clock_timestamp()
  where j.ctid = any (case when v_rows is null then array(
    select q.ctid
    from job_queue q
    where q.executor = v_look.executor_kind and q.claimable and q.lane = v_look.lane and q.priority = v_look.priority
      and q.scheduled_at between v_look.scheduled_at and v_look.now
    order by q.scheduled_at, q.job_id
    limit p_limit
    for update skip locked) else v_rows end)
  returning false, null::text, j.job_id, j.job_kind::text, j.lease_token, j.lease_until, j.status::text, j.executor::text, j.event_domain,
    j.source_ref, j.target_ref, j.payload_ref, j.safe_payload::jsonb, j.priority::int, j.scheduled_at, j.attempts::int, j.max_attempts::int,
    j.idempotency_key::text, j.ordering_key, j.actor::text, j.run_id, j.workflow_id, j.causation_event_id, j.consumer_key, j.correlation_id,
    j.traceparent, j.created_at, j.policy, coalesce(v_others_wait, false);
end
$function$

-- Keeps how far this session's claims came. Internal.
CREATE OR REPLACE FUNCTION fn_job_claim_mark(p_executor text, p_now timestamp with time zone, p_cost interval, p_stand boolean, p_marks job_lane[], p_heads job_lane[], p_lanes job_lane[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  perform set_config('reveille.claim_marks', format('%s;%s;%s', p_executor,
    case when p_stand then split_part(current_setting('reveille.claim_marks', true), ';', 2)
      else fn_epoch_ms(p_now + least(20 * p_cost, interval '10 seconds'))::text end, (
    select string_agg(format('%s,%s,%s,%s;', m.lane, m.priority, (extract(epoch from m.scheduled_at) * 1000000)::bigint, m.job_id), '')
    from (
      select distinct on (c.lane, c.priority) c.*
      from (
        select p.lane, p.priority, least(p.scheduled_at, p_now - interval '100 milliseconds') as scheduled_at,
          case when p.scheduled_at < p_now - interval '100 milliseconds' then p.job_id
            else '00000000-0000-0000-0000-000000000000' end as job_id
        from (
          select l.lane, l.priority, l.scheduled_at, l.job_id from unnest(p_lanes) l
          union all
          select h.lane, h.priority, h.scheduled_at, '00000000-0000-0000-0000-000000000000' from unnest(p_heads) h
          union all
          select k.lane, k.priority, case
              when exists (select from unnest(p_heads) h where h.lane = k.lane and h.priority = k.priority) then k.scheduled_at else p_now end, k.job_id
          from unnest(p_marks) k) p) c
      order by c.lane, c.priority, c.scheduled_at desc, c.job_id desc) m)), false);
end
$function$

-- How far this session's claims came in each lane, and whether the next one goes on from there. Internal.
CREATE OR REPLACE FUNCTION fn_job_claim_marks(p_executor text, p_now timestamp with time zone, OUT marks job_lane[], OUT stand boolean)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_text text := current_setting('reveille.claim_marks', true);
  v_parts text[];
begin
  stand := false;
  if coalesce(v_text, '') !~ '^[A-Za-z_]+;[0-9]{1,15};(-?[0-9]{1,18}[0-9]?,[0-9]{1,5},-?[0-9]{1,17},[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12};)*$' then
    return;
  end if;
  v_parts := string_to_array(rtrim(v_text, ';'), ';');
  if v_parts[1] <> p_executor then
    return;
  end if;
  stand := v_parts[2]::bigint > fn_epoch_ms(p_now);
  marks := array(
    select row(
      split_part(m, ',', 1)::bigint, split_part(m, ',', 2)::int, null, null, null,
      'epoch'::timestamptz + split_part(m, ',', 3)::bigint * interval '1 microsecond', split_part(m, ',', 4)::uuid, null, null)::job_lane
    from unnest(v_parts[3:]) m);
end
$function$

-- Replays the dead letters marked manual_replay that fit a filter: {dry_run, found, replayed, refusals, last_at}. Refused replay_disabled.
CREATE OR REPLACE FUNCTION fn_job_dead_letter_redrive(p_filter jsonb, p_authorization_source text, p_limit integer DEFAULT 100, p_per_second numeric DEFAULT 10, p_dry_run boolean DEFAULT true)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_filter jsonb := coalesce(p_filter, '{}');
  v_unknown text;
  v_letter uuid;
  v_answer jsonb;
  v_found int := 0;
  v_replayed int := 0;
  v_refused jsonb := '{}';
  v_begin timestamptz := clock_timestamp();
begin
  select k into v_unknown from jsonb_object_keys(v_filter) k
  where k <> all (array['event_domain', 'job_kind', 'reason_class', 'consumer_key', 'since', 'until']) limit 1;
  if found then
    raise exception 'fn_job_dead_letter_redrive: % is no filter; they are event_domain, job_kind, reason_class, consumer_key, since, until', v_unknown
      using errcode = '22023';
  end if;
  if coalesce(p_per_second, 0) < 0.001 or coalesce(p_limit, 0) < 1 then
    raise exception 'fn_job_dead_letter_redrive: p_limit must be at least 1, p_per_second at least 0.001' using errcode = '22023';
  end if;
  if not fn_gate_is_open('queue.dlq.replay_enabled') then
    return jsonb_build_object('refused', true, 'reason', 'replay_disabled');
  end if;
  for v_letter in
    select d.dead_letter_id from job_dead_letter d
    where d.triage_status = 'manual_replay'
      and fn_dead_letter_authority(d.event_domain, true)
      and exists (select from job_queue j where j.job_id = d.job_id and j.status = 'dead_letter')
      and (not v_filter ? 'event_domain' or d.event_domain = v_filter ->> 'event_domain')
      and (not v_filter ? 'job_kind' or d.job_kind = v_filter ->> 'job_kind')
      and (not v_filter ? 'reason_class' or d.reason_class = v_filter ->> 'reason_class')
      and (not v_filter ? 'consumer_key' or d.consumer_key = v_filter ->> 'consumer_key')
      and (not v_filter ? 'since' or d.created_at >= (v_filter ->> 'since')::timestamptz)
      and (not v_filter ? 'until' or d.created_at < (v_filter ->> 'until')::timestamptz)
    order by exists ( -- those that are refused come last, and keep no other from its turn
        select from job_queue j join job_workflow w on w.workflow_id = j.workflow_id
        where j.job_id = d.job_id and w.cancel_reason is not null),
      d.created_at, d.dead_letter_id
    limit p_limit
    for update skip locked
  loop
    v_answer := fn_job_dead_letter_replay(v_letter, p_authorization_source, p_dry_run,
      v_begin + make_interval(secs => (v_found / p_per_second)::double precision));
    v_found := v_found + 1;
    if v_answer ->> 'refused' = 'true' then
      v_refused := v_refused || jsonb_build_object(v_answer ->> 'reason', coalesce((v_refused ->> (v_answer ->> 'reason'))::int, 0) + 1);
    else
      v_replayed := v_replayed + 1;
    end if;
  end loop;
  return jsonb_build_object('refused', false, 'dry_run', coalesce(p_dry_run, true), 'found', v_found, 'replayed', v_replayed,
    'refusals', v_refused, 'last_at', v_begin + make_interval(secs => (greatest(v_found - 1, 0) / p_per_second)::double precision));
end
$function$

-- Replays a dead letter as the same job: {dry_run, job_id, job_kind}. Refused replay_disabled, not_found, not_authorized, not_triaged, illegal_transition or workflow_cancelled.
CREATE OR REPLACE FUNCTION fn_job_dead_letter_replay(p_dead_letter_id uuid, p_authorization_source text, p_dry_run boolean DEFAULT true, p_at timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_letter job_dead_letter;
  v_job job_queue;
  v_workflow job_workflow;
  v_reason text;
begin
  if coalesce(btrim(p_authorization_source), '') = '' then
    raise exception 'fn_job_dead_letter_replay needs p_authorization_source: where it stands that this replay is allowed' using errcode = '22023';
  end if;
  select d.* into v_letter from job_dead_letter d where d.dead_letter_id = p_dead_letter_id for update;
  select j.* into v_job from job_queue j where j.job_id = v_letter.job_id for update;
  select w.* into v_workflow from job_workflow w where w.workflow_id = v_job.workflow_id for update; -- after the job, as whoever cancels it does
  v_reason := case
    when not fn_gate_is_open('queue.dlq.replay_enabled') then 'replay_disabled'
    when v_letter.dead_letter_id is null or v_job.job_id is null then 'not_found'
    when not fn_dead_letter_authority(v_letter.event_domain, true) then 'not_authorized'
    when v_letter.triage_status <> 'manual_replay' then 'not_triaged'
    when v_job.status <> 'dead_letter' then 'illegal_transition'
    when v_workflow.status = 'cancelled' or v_workflow.cancel_reason is not null then 'workflow_cancelled'
  end;
  if v_reason is not null then
    return jsonb_build_object('refused', true, 'reason', v_reason, 'dead_letter_id', p_dead_letter_id, 'triage_status', v_letter.triage_status);
  end if;
  if not coalesce(p_dry_run, true) then
    update job_queue j
    set status = 'queued', finished_at = null, attempts = 0, lease_losses = 0, lease_owner = null, picked_at = null, started_at = null,
        cancel_requested_at = null, cancel_reason = null, ordering_slot = nullif(j.ordering_slot, 0), scheduled_at = fn_job_moment(coalesce(p_at, clock_timestamp())),
        updated_at = clock_timestamp()
    where j.job_id = v_job.job_id;
    update job_dead_letter d
    set triage_status = 'closed', replayed_at = clock_timestamp(), replayed_by = session_user, authorization_source = p_authorization_source
    where d.dead_letter_id = p_dead_letter_id;
    perform fn_job_wake(v_job.executor, array[v_job.job_kind]);
    update job_workflow w set status = 'active', finished_at = null, outcome = null, updated_at = clock_timestamp()
    where w.workflow_id = v_job.workflow_id and w.status in ('failed', 'partially_failed');
  end if;
  return jsonb_build_object('refused', false, 'dry_run', coalesce(p_dry_run, true), 'dead_letter_id', p_dead_letter_id, 'job_id', v_job.job_id,
    'job_kind', v_job.job_kind, 'was_attempts', v_job.attempts, 'error_count', v_job.error_count);
end
$function$

-- Decides about a dead letter: open, investigating, manual_replay, discarded, superseded, closed. Refused not_found, not_authorized, or illegal_transition once it was replayed or its job archived.
CREATE OR REPLACE FUNCTION fn_job_dead_letter_triage(p_dead_letter_id uuid, p_triage_status text, p_actor text, p_note text DEFAULT NULL::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_letter job_dead_letter;
begin
  if coalesce(btrim(p_actor), '') = '' then
    raise exception 'fn_job_dead_letter_triage needs an actor' using errcode = '22023';
  end if;
  if p_triage_status is null or p_triage_status <> all (array['open', 'investigating', 'manual_replay', 'discarded', 'superseded', 'closed']) then
    raise exception 'fn_job_dead_letter_triage: % is none of open, investigating, manual_replay, discarded, superseded, closed',
      quote_nullable(p_triage_status) using errcode = '22023';
  end if;
  select d.* into v_letter from job_dead_letter d where d.dead_letter_id = p_dead_letter_id for update;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'dead_letter_id', p_dead_letter_id);
  elsif not fn_dead_letter_authority(v_letter.event_domain, false) then
    return jsonb_build_object('refused', true, 'reason', 'not_authorized', 'dead_letter_id', p_dead_letter_id, 'event_domain', v_letter.event_domain);
  elsif v_letter.replayed_at is not null
    -- what has left for the archive cannot be replayed; the archiver locks the letter before it takes the job
    or (p_triage_status in ('open', 'investigating', 'manual_replay')
      and not exists (select from job_queue j where j.job_id = v_letter.job_id))
  then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'dead_letter_id', p_dead_letter_id, 'triage_status', v_letter.triage_status);
  end if;
  update job_dead_letter d
  set triage_status = p_triage_status, triage_actor = p_actor, triage_role = session_user, triage_note = p_note,
      triaged_at = clock_timestamp()
  where d.dead_letter_id = p_dead_letter_id;
  if p_triage_status in ('discarded', 'superseded', 'closed') then
    update job_queue j set ordering_slot = 0 where j.job_id = v_letter.job_id and j.status = 'dead_letter' and j.ordering_slot > 0;
    if found then
      perform fn_job_make_room((select j.ordering_key from job_queue j where j.job_id = v_letter.job_id), null,
        v_letter.executor, v_letter.job_kind);
    end if;
  end if;
  return jsonb_build_object('refused', false, 'dead_letter_id', p_dead_letter_id, 'triage_status', p_triage_status,
    'was', v_letter.triage_status);
end
$function$

-- failed → dead_letter, with its row in job_dead_letter. Internal.
CREATE OR REPLACE FUNCTION fn_job_die(p_job_id uuid, p_reason_class text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_job job_queue;
begin
  update job_queue j set status = 'dead_letter' where j.job_id = p_job_id returning j.* into v_job;
  insert into job_dead_letter (
    job_id, job_kind, event_domain, executor, consumer_key, reason_class, error, job, attempts, previous_dead_letter_id)
  values (
    v_job.job_id, v_job.job_kind, v_job.event_domain, v_job.executor, v_job.consumer_key, p_reason_class, v_job.last_error,
    to_jsonb(v_job) - array['claimable', 'lane'],
    (select coalesce(jsonb_agg(to_jsonb(n) - 'job_id' order by n.lease_token), '[]')
     from (select a.* from job_attempt a where a.job_id = v_job.job_id order by a.lease_token desc limit 100) n),
    (select d.dead_letter_id from job_dead_letter d where d.job_id = v_job.job_id order by d.created_at desc limit 1));
  perform fn_job_tell(array[p_job_id], 'job_dead_lettered');
end
$function$

-- How many jobs of a kind of executor are due (up to 1000 a lane), and since when. Called by v_queue_health.
CREATE OR REPLACE FUNCTION fn_job_due(p_executor text)
 RETURNS TABLE(due bigint, oldest timestamp with time zone)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
  return query
  select coalesce(sum(n.due), 0)::bigint, min(l.scheduled_at)
  from fn_job_lanes(p_executor) l
  cross join lateral (
    select count(*) as due
    from (
      select from job_queue j
      where j.executor = p_executor and j.claimable and j.lane = l.lane and j.priority = l.priority and j.scheduled_at <= clock_timestamp()
      limit 1000) d) n
  where l.scheduled_at <= clock_timestamp();
end
$function$

-- SHA-256 over the needed jobs: refs, payload, status and result. Called by whoever approves.
CREATE OR REPLACE FUNCTION fn_job_effect_hash(p_job_id uuid)
 RETURNS text
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
  select encode(sha256(convert_to(coalesce(string_agg(concat_ws(E'\x1f', j.idempotency_key, j.status, j.result_ref, j.safe_payload::text, j.source_ref, j.target_ref, j.payload_ref), E'\x1e'
    order by j.idempotency_key), ''), 'UTF8')), 'hex')
  from job_dependency d
  join job_queue j on j.job_id = d.needs_job_id
  where d.job_id = p_job_id
$function$

-- Moves a locked job to cancelled, with its attempt. Internal.
CREATE OR REPLACE FUNCTION fn_job_end_cancelled(p_job job_queue, p_error text DEFAULT NULL::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := clock_timestamp();
begin
  if (p_job).lease_until is not null then
    perform fn_job_attempt_end(p_job, 'cancelled', coalesce(p_error, (p_job).cancel_reason));
  end if;
  update job_queue j
  set status = 'cancelled', finished_at = v_now, lease_until = null, cancel_requested_at = coalesce(j.cancel_requested_at, v_now),
      cancel_reason = (p_job).cancel_reason, last_error = coalesce(left(p_error, 8000), j.last_error), updated_at = v_now
  where j.job_id = (p_job).job_id;
  perform fn_job_make_room(case when (p_job).ordering_slot > 0 then (p_job).ordering_key end,
    case when (p_job).lease_until is not null then (p_job).limit_slot end, (p_job).executor, (p_job).job_kind);
  if (p_job).workflow_id is not null then
    perform fn_job_unblock(array[(p_job).job_id], 'cancelled');
  end if;
  return jsonb_build_object('refused', false, 'job_id', (p_job).job_id, 'status', 'cancelled');
end
$function$

-- Adds a job and answers {job_id, created}, and {changed} when one that waits was changed; refused job_substrate_disabled while the gate is closed, workflow_not_allowed for workflow:* by who may start none.
CREATE OR REPLACE FUNCTION fn_job_enqueue(p_job_kind text, p_actor text, p_safe_payload jsonb DEFAULT '{}'::jsonb, p_source_ref text DEFAULT NULL::text, p_idempotency_key text DEFAULT NULL::text, p_target_ref text DEFAULT NULL::text, p_payload_ref text DEFAULT NULL::text, p_executor text DEFAULT 'PG_worker'::text, p_priority integer DEFAULT 100, p_scheduled_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_run_id uuid DEFAULT NULL::uuid, p_ordering_key text DEFAULT NULL::text, p_max_attempts integer DEFAULT NULL::integer, p_correlation_id text DEFAULT NULL::text, p_on_duplicate text DEFAULT 'keep'::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_job_id uuid := fn_uuid_v7();
  v_key text := fn_job_key(coalesce(p_idempotency_key, v_job_id::text));
  v_due timestamptz := fn_job_moment(coalesce(p_scheduled_at, clock_timestamp()));
  v_existing uuid;
begin
  if coalesce(p_on_duplicate, '') <> all (array['keep', 'replace', 'debounce']) then
    raise exception 'fn_job_enqueue: p_on_duplicate must be keep, replace or debounce, not %', quote_nullable(p_on_duplicate)
      using errcode = '22023';
  end if;
  if not fn_gate_is_open('queue.job_substrate.enabled') then
    return jsonb_build_object('refused', true, 'reason', 'job_substrate_disabled', 'job_id', null);
  elsif p_job_kind like 'workflow:%' and not fn_workflow_may_start() then
    return jsonb_build_object('refused', true, 'reason', 'workflow_not_allowed', 'job_id', null, 'job_kind', p_job_kind);
  end if;
  insert into job_queue (
    job_id, job_kind, actor, safe_payload, source_ref, idempotency_key, target_ref, payload_ref, executor, priority,
    scheduled_at, run_id, ordering_key, max_attempts, correlation_id, traceparent)
  values (
    v_job_id, p_job_kind, p_actor, coalesce(p_safe_payload, '{}'), p_source_ref, v_key, p_target_ref, p_payload_ref,
    coalesce(p_executor, 'PG_worker'), coalesce(p_priority, 100), v_due, p_run_id, p_ordering_key,
    coalesce(p_max_attempts, fn_job_max_attempts(p_job_kind)), p_correlation_id, fn_traceparent_of(p_safe_payload))
  on conflict (job_kind, idempotency_key) do nothing;
  if found and (
    p_idempotency_key is null or not fn_job_may_be_archived(p_job_kind, v_key) or fn_job_repeated(v_job_id, v_job_id) = 0)
  then
    if v_due <= clock_timestamp() then
      perform fn_job_wake(coalesce(p_executor, 'PG_worker'), array[p_job_kind]);
    end if;
    return jsonb_build_object('refused', false, 'job_id', v_job_id, 'created', true);
  end if;
  if p_on_duplicate <> 'keep' then
    update job_queue j
    set safe_payload = coalesce(p_safe_payload, '{}'), source_ref = p_source_ref, target_ref = p_target_ref, payload_ref = p_payload_ref,
        priority = coalesce(p_priority, 100), run_id = p_run_id, correlation_id = p_correlation_id, actor = p_actor,
        traceparent = fn_traceparent_of(p_safe_payload),
        max_attempts = coalesce(p_max_attempts, j.max_attempts),
        scheduled_at = case p_on_duplicate when 'debounce' then v_due else j.scheduled_at end, updated_at = clock_timestamp()
    where j.job_kind = p_job_kind and j.idempotency_key = v_key and j.status in ('queued', 'retry_waiting')
    returning j.job_id into v_existing;
    if found then
      return jsonb_build_object('refused', false, 'job_id', v_existing, 'created', false, 'changed', true);
    end if;
  end if;
  return jsonb_build_object('refused', false, 'job_id', (fn_job_by_key(p_job_kind, v_key)).job_id, 'created', false);
end
$function$

-- Adds many jobs: {created, duplicates, job_ids in the order given}. Refused job_substrate_disabled or workflow_not_allowed.
CREATE OR REPLACE FUNCTION fn_job_enqueue_many(p_jobs jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_known text[] := array['job_kind', 'actor', 'safe_payload', 'source_ref', 'idempotency_key', 'target_ref', 'payload_ref', 'executor',
    'priority', 'scheduled_at', 'run_id', 'ordering_key', 'max_attempts', 'correlation_id'];
  v_first uuid := fn_uuid_v7();
  v_now timestamptz := clock_timestamp();
  v_bad jsonb;
  v_kinds text[];
  v_limits int[];
  v_count int;
  v_created int;
  v_due int;
  v_ids uuid[];
  v_executors text[];
begin
  if jsonb_typeof(p_jobs) is distinct from 'array' then
    raise exception 'fn_job_enqueue_many: p_jobs must be an array of objects, not %', coalesce(jsonb_typeof(p_jobs), 'null')
      using errcode = '22023';
  end if;
  if not fn_gate_is_open('queue.job_substrate.enabled') then
    return jsonb_build_object('refused', true, 'reason', 'job_substrate_disabled');
  end if;
  select e.job into v_bad from jsonb_array_elements(p_jobs) e (job)
  where case when jsonb_typeof(e.job) = 'object' then e.job - v_known <> '{}' else true end
  limit 1;
  if found then
    raise exception 'fn_job_enqueue_many: % is no job; its keys are %', left(v_bad::text, 200), array_to_string(v_known, ', ')
      using errcode = '22023';
  end if;
  v_count := jsonb_array_length(p_jobs);
  select array_agg(k.job_kind), array_agg(fn_job_max_attempts(k.job_kind)) into v_kinds, v_limits
  from (select distinct e.job ->> 'job_kind' as job_kind from jsonb_array_elements(p_jobs) e (job)) k;
  if exists (select from unnest(v_kinds) k where k like 'workflow:%') and not fn_workflow_may_start() then
    return jsonb_build_object('refused', true, 'reason', 'workflow_not_allowed',
      'job_kind', (select min(k) from unnest(v_kinds) k where k like 'workflow:%'));
  end if;
  begin
    insert into job_queue (
      job_id, job_kind, actor, safe_payload, source_ref, idempotency_key, target_ref, payload_ref, executor, priority,
      scheduled_at, run_id, ordering_key, max_attempts, correlation_id, traceparent)
    select
      g.job_id, g.job_kind, g.actor, g.safe_payload, g.source_ref, g.idempotency_key, g.target_ref, g.payload_ref, g.executor, g.priority,
      g.scheduled_at, g.run_id, g.ordering_key, coalesce(g.max_attempts, v_limits[array_position(v_kinds, g.job_kind)]), g.correlation_id,
      fn_traceparent_of(g.safe_payload)
    from fn_job_rows(p_jobs, v_first, v_now) g;
    v_created := v_count;
    v_executors := array(select distinct coalesce(e.job ->> 'executor', 'PG_worker') from jsonb_array_elements(p_jobs) e (job));
  exception when unique_violation then -- some keys are there already
    with made as (
      insert into job_queue (
        job_id, job_kind, actor, safe_payload, source_ref, idempotency_key, target_ref, payload_ref, executor, priority,
        scheduled_at, run_id, ordering_key, max_attempts, correlation_id, traceparent)
      select
        g.job_id, g.job_kind, g.actor, g.safe_payload, g.source_ref, g.idempotency_key, g.target_ref, g.payload_ref, g.executor, g.priority,
        g.scheduled_at, g.run_id, g.ordering_key, coalesce(g.max_attempts, v_limits[array_position(v_kinds, g.job_kind)]), g.correlation_id,
      fn_traceparent_of(g.safe_payload)
      from fn_job_rows(p_jobs, v_first, v_now) g
      order by g.n
      on conflict (job_kind, idempotency_key) do nothing
      returning executor
    )
    select count(*), array_agg(distinct m.executor::text) into v_created, v_executors from made m;
  end;
  if v_created > 0 and p_jobs @? '$[*].idempotency_key ? (@ != null)' then
    v_created := v_created - fn_job_repeated(fn_uuid_v7_nth(v_first, 1), fn_uuid_v7_nth(v_first, v_count));
  end if;
  v_due := v_created;
  if p_jobs @? '$[*].scheduled_at ? (@ != null)' then
    v_due := least(v_due, (
      select count(*) from jsonb_array_elements(p_jobs) e (job) where coalesce((e.job ->> 'scheduled_at')::timestamptz <= v_now, true)));
  end if;
  perform fn_job_wake(e, v_kinds, v_due) from unnest(v_executors) e;
  if v_created = v_count then
    v_ids := array(select fn_uuid_v7_nth(v_first, g) from generate_series(1, v_count) g);
    return jsonb_build_object('refused', false, 'created', v_count, 'duplicates', 0, 'job_ids', to_jsonb(v_ids));
  end if;
  -- a statement of its own: it sees the first job of each key, also one that was committed or archived meanwhile
  select array_agg(case when j.job_id is null then (fn_job_by_key(g.job_kind, fn_job_key(g.idempotency_key))).job_id else j.job_id end order by g.n)
  into v_ids
  from rows from (jsonb_to_recordset(p_jobs) as (job_kind text, idempotency_key text)) with ordinality as g (job_kind, idempotency_key, n)
  left join job_queue j on j.job_kind = g.job_kind
    and j.idempotency_key = coalesce(fn_job_key(g.idempotency_key), fn_uuid_v7_nth(v_first, g.n::int)::text);
  return jsonb_build_object('refused', false, 'created', v_created, 'duplicates', v_count - v_created, 'job_ids', coalesce(to_jsonb(v_ids), '[]'));
end
$function$

-- Why a job does not run, who runs it, or how it ended, then its attempts: rows (refused, verdict, reason, what, hint, …). verdict: waits, ready, runs, ended, attempt.
CREATE OR REPLACE FUNCTION fn_job_explain(p_job_id uuid, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS TABLE(refused boolean, verdict text, reason text, what text, hint text, other_job_id uuid, until timestamp with time zone, detail jsonb)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_job job_queue;
  v_archived jsonb;
begin
  if p_job_id is null then
    raise exception 'fn_job_explain needs the id of a job' using errcode = '22023';
  end if;
  select j.* into v_job from job_queue j where j.job_id = p_job_id;
  if not found then
    v_archived := fn_job_archived(p_job_id);
    if v_archived is null then
      return query select true, null::text, 'not_found', 'there is no such job, or its transaction is not committed', null::text, null::uuid,
        null::timestamptz, null::jsonb;
      return;
    end if;
    v_job := jsonb_populate_record(null::job_queue, v_archived);
  end if;
  if v_job.status in ('leased', 'in_progress') then
    return query select false, x.* from fn_job_explain_lease(v_job, v_now) x;
  elsif v_job.status not in ('queued', 'retry_waiting') then
    return query select false, x.verdict, x.reason,
      x.what || case when v_archived is null then '' else format('; archived at %s', v_archived ->> 'archived_at') end,
      x.hint, x.other_job_id, x.until, x.detail
    from fn_job_explain_end(v_job) x;
  else
    return query select false, x.verdict, x.reason, x.what, x.hint, x.other_job_id, x.until,
      case when v_job.traceparent is null then x.detail else coalesce(x.detail, '{}') || jsonb_build_object('traceparent', v_job.traceparent) end
    from fn_job_explain_waiting(v_job, v_now) x;
  end if;
  return query select false, x.* from fn_job_attempts(v_job, v_archived -> 'history') x;
end
$function$

-- What a blocked step waits for, as rows of fn_job_explain. Internal.
CREATE OR REPLACE FUNCTION fn_job_explain_blocked(p_job job_queue)
 RETURNS TABLE(verdict text, reason text, what text, hint text, other_job_id uuid, until timestamp with time zone, detail jsonb)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_workflow uuid := (p_job).workflow_id;
  v_gate job_gate;
begin
  select g.* into v_gate from job_gate g where g.job_id = (p_job).job_id;
  if found and (p_job).blocked_by = 1 then
    return query select 'waits', v_gate.kind || '_waiting', format('it is a step of workflow %s that waits for %s', v_workflow,
        case v_gate.kind when 'event' then v_gate.event_domain || '.' || v_gate.event_type else 'an approval' end),
      case v_gate.kind
        when 'approval' then format('reveille workflows approve %1$s %2$s, or reveille workflows reject %1$s %2$s --reason TEXT', v_workflow, fn_shell_word(substr((p_job).idempotency_key, 38)))
        else format('reveille events emit %s.%s SUBJECT', v_gate.event_domain, v_gate.event_type) end,
      null::uuid, v_gate.expires_at, jsonb_build_object('workflow_id', v_workflow);
    return;
  end if;
  return query
  select 'waits', case when d.state = 'failed' then 'failed_holding' else 'blocked' end,
    format('it needs %s of step %s of workflow %s, which is %s%s', d.on_outcome, n.step, v_workflow, n.status,
      case when g.kind is not null and n.status = 'queued' then format(' and waits for %s',
        case g.kind when 'event' then g.event_domain || '.' || g.event_type else 'an approval' end) else '' end),
    case
      when d.state = 'failed' then format('reveille workflows retry %1$s --reason TEXT --apply, or reveille workflows cancel %1$s --reason TEXT', v_workflow)
      when g.kind = 'approval' and n.status = 'queued' and n.blocked_by = 1 then format('reveille workflows approve %s %s', v_workflow, fn_shell_word(n.step))
      else format('reveille jobs explain %s', d.needs_job_id) end,
    d.needs_job_id, null::timestamptz,
    jsonb_build_object('workflow_id', v_workflow, 'step', n.step, 'status', n.status, 'on', d.on_outcome, 'gate', g.kind)
  from job_dependency d
  left join job_queue q on q.job_id = d.needs_job_id
  left join job_gate g on g.job_id = d.needs_job_id
  cross join lateral (
    select case when q.job_id is null then fn_job_archived(d.needs_job_id) else to_jsonb(q) end as needed) y
  cross join lateral (
    select substr(y.needed ->> 'idempotency_key', 38) as step, y.needed ->> 'status' as status, (y.needed ->> 'blocked_by')::int as blocked_by) n
  where d.job_id = (p_job).job_id and d.state is distinct from 'met'
  order by d.needs_job_id
  limit 100;
end
$function$

-- How a job ended, as a row of fn_job_explain. Internal.
CREATE OR REPLACE FUNCTION fn_job_explain_end(p_job job_queue)
 RETURNS TABLE(verdict text, reason text, what text, hint text, other_job_id uuid, until timestamp with time zone, detail jsonb)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_letter job_dead_letter;
begin
  verdict := 'ended';
  reason := (p_job).status;
  other_job_id := null;
  until := (p_job).finished_at;
  what := format('it is %s since %s', (p_job).status, (p_job).finished_at);
  if (p_job).status = 'succeeded' then
    what := what || coalesce(', with result ' || (p_job).result_ref, '');
  elsif (p_job).status = 'cancelled' then
    what := what || coalesce(': ' || (p_job).cancel_reason, '');
  elsif (p_job).status in ('failed', 'dead_letter') then
    what := what || format(', after %s of %s failures and %s lost leases: %s', (p_job).attempts, (p_job).max_attempts, (p_job).lease_losses, coalesce((p_job).last_error, 'no error given'));
  end if;
  if (p_job).status = 'dead_letter' then
    select d.* into v_letter from job_dead_letter d where d.job_id = (p_job).job_id order by d.created_at desc limit 1;
    detail := jsonb_build_object('dead_letter_id', v_letter.dead_letter_id, 'triage_status', v_letter.triage_status, 'reason_class', v_letter.reason_class);
    what := what || format(' (%s; triage: %s)', v_letter.reason_class, v_letter.triage_status);
    hint := case v_letter.triage_status when 'manual_replay' then '' else format('reveille dlq triage %s manual_replay --note TEXT, then ', v_letter.dead_letter_id) end
      || format('reveille dlq replay %s --authorization TEXT --apply', v_letter.dead_letter_id)
      || format('; or, if it shall not run again: reveille dlq triage %s discarded --note TEXT', v_letter.dead_letter_id);
  end if;
  if (p_job).traceparent is not null then
    detail := coalesce(detail, '{}') || jsonb_build_object('traceparent', (p_job).traceparent);
  end if;
  return next;
end
$function$

-- Why nobody may claim a job, or what comes before it, as rows of fn_job_explain. Internal.
CREATE OR REPLACE FUNCTION fn_job_explain_lane(p_job job_queue, p_now timestamp with time zone)
 RETURNS TABLE(verdict text, reason text, what text, hint text, other_job_id uuid, until timestamp with time zone, detail jsonb)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_kind text := (p_job).job_kind;
  v_row record;
  v_running jsonb;
  v_rate record;
  v_ahead record;
  v_live text[];
  v_count int := 0;
begin
  for v_row in
    select r.reason as verdict, split_part(r.reason, ':', 1) as word, r.detail
    from fn_job_lane_reasons((p_job).executor, v_kind, (p_job).event_domain, (p_job).consumer_key, (p_job).priority, true) r
  loop
    v_count := v_count + 1;
    verdict := 'waits'; reason := v_row.word; hint := null; other_job_id := null; until := null; detail := v_row.detail;
    if v_row.word in ('job_substrate_disabled', 'worker_disabled') then
      what := format('the gate %s is closed', v_row.detail ->> 'gate');
      hint := format('reveille gate open %s --reason TEXT', v_row.detail ->> 'gate');
    elsif v_row.word = 'paused' and v_row.detail ? 'scope' then
      what := format('%s is paused since %s by %s: %s', btrim((v_row.detail ->> 'scope') || ' ' || (v_row.detail ->> 'name')),
        (v_row.detail ->> 'paused_at')::timestamptz, v_row.detail ->> 'actor', v_row.detail ->> 'because');
      hint := format('reveille resume %s --reason TEXT', btrim(replace(v_row.detail ->> 'scope', '_', '-')
        || ' ' || case v_row.detail ->> 'scope' when 'all' then '' else fn_shell_word(v_row.detail ->> 'name') end));
    elsif v_row.word = 'paused' then
      what := format('every live executor of kind %s is paused by its name', (p_job).executor);
      hint := 'reveille pause says which, reveille resume executor NAME --reason TEXT ends it';
    elsif v_row.word = 'no_live_executor' then
      what := format('no executor of kind %s beats: %s', (p_job).executor, coalesce((
        select string_agg(format('%s was last heard at %s', h.executor_name, coalesce(h.last_beat_at::text, 'no time')), ', ' order by h.executor_name)
        from (
          select q.executor_name, q.last_beat_at from queue_heartbeat q
          where q.executor_kind = (p_job).executor and not q.is_passive
            and coalesce(q.metadata ->> 'role', '') not in ('dispatcher', 'sweeper', 'reaper', 'scheduler', 'auditor')
          order by q.last_beat_at desc nulls last limit 5) h), 'none is registered'));
      hint := format('reveille work --kind %s', (p_job).executor);
    elsif v_row.word = 'not_subscribed' then
      what := format('no live executor of kind %s may claim %s: %s', (p_job).executor, v_kind,
        (select string_agg(l, ', ') from jsonb_array_elements_text(v_row.detail -> 'live') l));
      hint := format('reveille executors subscribe %s --kind %s', fn_shell_word(coalesce(v_row.detail -> 'live' ->> 0, 'NAME')), fn_shell_word(v_kind));
    elsif v_row.word = 'concurrency_limit' then
      select jsonb_agg(r.job_id) into v_running
      from (
        select j.job_id from job_queue j
        where j.job_kind = v_kind and j.limit_slot is not null and j.lease_until is not null order by j.limit_slot limit 10) r;
      what := format('%s of %s: %s', v_row.verdict, v_kind, coalesce((select string_agg(x, ', ') from jsonb_array_elements_text(v_running) x), 'none runs'));
      detail := v_row.detail || jsonb_build_object('running', v_running);
      other_job_id := v_running ->> 0;
      hint := format('select fn_gate_set(%L, %L, %L, %L)', v_row.detail ->> 'key', 'NUMBER', 'user:me', 'TEXT');
    else
      v_rate := fn_rate_parts(v_row.detail ->> 'limit');
      select min(t.claimed_at) + v_rate.span into until from job_rate t where t.rate_key = v_kind and t.claimed_at > p_now - v_rate.span;
      what := format('%s of %s', v_row.verdict, v_kind);
      hint := format('select fn_gate_set(%L, %L, %L, %L)', v_row.detail ->> 'key', 'JOBS/SECONDS', 'user:me', 'TEXT');
    end if;
    return next;
  end loop;
  if v_count > 0 or not (p_job).claimable or (p_job).scheduled_at > p_now then
    return;
  end if;
  other_job_id := null; until := null; detail := null; hint := null;
  verdict := 'ready'; reason := 'ready';
  if v_kind like 'workflow:%' then
    what := 'dispatch or the next refresh of reveille run starts its workflow';
    hint := 'reveille tick';
    return next;
    return;
  end if;
  v_live := array(select e.executor_name from fn_executors_live((p_job).executor) e order by 1 limit 10);
  select * into v_ahead from fn_job_lane_ahead(p_job, 1000, p_now) a;
  detail := jsonb_build_object('priority', (p_job).priority, 'urgent', v_ahead.urgent, 'older', v_ahead.older, 'live', to_jsonb(v_live));
  if v_ahead.urgent + v_ahead.older > 0 then
    verdict := 'waits'; reason := 'priority';
    what := format('it may be claimed, but %s due jobs are more urgent than its priority %s, and %s of its sort are older', v_ahead.urgent || case v_ahead.urgent when 1000 then '+' else '' end,
      (p_job).priority, v_ahead.older || case v_ahead.older when 1000 then '+' else '' end);
    hint := 'reveille jobs backlog; more workers take more: reveille work';
  else
    what := format('it may be claimed now, by %s', array_to_string(v_live, ', '));
    hint := 'reveille jobs list --status in_progress says what they do instead';
  end if;
  return next;
end
$function$

-- Who has a job and until when, as rows of fn_job_explain. Internal.
CREATE OR REPLACE FUNCTION fn_job_explain_lease(p_job job_queue, p_now timestamp with time zone)
 RETURNS TABLE(verdict text, reason text, what text, hint text, other_job_id uuid, until timestamp with time zone, detail jsonb)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_id uuid := (p_job).job_id;
  v_is_reaping boolean := fn_gate_is_open('queue.lease_reaper.enabled') and fn_config('queue.lease_reaper.dry_run_only', 'true') = 'false';
begin
  other_job_id := null;
  until := (p_job).lease_until;
  detail := jsonb_build_object('lease_owner', (p_job).lease_owner, 'lease_token', (p_job).lease_token, 'picked_at', (p_job).picked_at,
    'started_at', (p_job).started_at, 'last_beat_at', (select h.last_beat_at from queue_heartbeat h where h.executor_name = (p_job).lease_owner))
    || case when (p_job).traceparent is null then '{}' else jsonb_build_object('traceparent', (p_job).traceparent) end;
  if (p_job).lease_until <= p_now then
    verdict := 'waits';
    reason := 'lease_lost';
    what := format('the lease of %s ended at %s unreported: %s', (p_job).lease_owner, (p_job).lease_until,
      case when v_is_reaping then 'the reaper frees it' else 'the reaper would free it, but its gates are closed' end);
    hint := case when v_is_reaping then format('reveille jobs release %s --reason TEXT', v_id)
      else 'reveille gate open queue.lease_reaper.enabled --reason TEXT, reveille gate close queue.lease_reaper.dry_run_only --reason TEXT; or for this one '
        || format('reveille jobs release %s --reason TEXT', v_id) end;
  else
    verdict := 'runs';
    reason := (p_job).status;
    what := format('%s has it since %s, leased until %s', (p_job).lease_owner, (p_job).picked_at, (p_job).lease_until);
  end if;
  return next;
  if (p_job).cancel_requested_at is not null then
    verdict := 'runs';
    reason := 'cancel_requested';
    what := format('its cancellation was asked for at %s: %s', (p_job).cancel_requested_at, coalesce((p_job).cancel_reason, 'no reason given'));
    hint := null;
    detail := null;
    return next;
  end if;
end
$function$

-- Behind which jobs of its ordering key a job waits, as rows of fn_job_explain. Internal.
CREATE OR REPLACE FUNCTION fn_job_explain_order(p_job job_queue)
 RETURNS TABLE(verdict text, reason text, what text, hint text, other_job_id uuid, until timestamp with time zone, detail jsonb)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_ahead bigint;
begin
  select count(*) into v_ahead
  from (
    select from job_queue j
    where j.ordering_key = (p_job).ordering_key and coalesce(j.ordering_slot, 0) = 0 and j.status in ('queued', 'retry_waiting')
      and (coalesce(j.freed_at, j.created_at), j.job_id) < (coalesce((p_job).freed_at, (p_job).created_at), (p_job).job_id)
    limit 1000) a;
  return query
  select 'waits', 'ordering_blocked', format('job %s (%s) of its ordering key %s comes first: %s; %s more wait before this one',
      o.blocking_job_id, o.blocking_job_kind, o.ordering_key, o.reason, v_ahead || case v_ahead when 1000 then '+' else '' end),
    format('reveille jobs explain %s', o.blocking_job_id)
      || coalesce((
        select format('; to free the key: reveille dlq triage %s discarded --note TEXT', d.dead_letter_id)
        from job_dead_letter d where d.job_id = o.blocking_job_id and o.blocking_status = 'dead_letter' order by d.created_at desc limit 1), ''),
    o.blocking_job_id, o.until,
    jsonb_build_object('ordering_key', o.ordering_key, 'status', o.blocking_status, 'ahead', v_ahead, 'last_error', o.last_error)
  from v_ordering_blocked o
  where o.ordering_key = (p_job).ordering_key;
  if not found then
    return query select 'waits', 'ordering_blocked', format('its turn in ordering key %s is not given yet; the next claim or sweep does it (%s wait before it)', (p_job).ordering_key, v_ahead),
      'reveille tick'::text, null::uuid, null::timestamptz, jsonb_build_object('ordering_key', (p_job).ordering_key, 'ahead', v_ahead);
  end if;
end
$function$

-- Why a job waits, as rows of fn_job_explain. Internal.
CREATE OR REPLACE FUNCTION fn_job_explain_waiting(p_job job_queue, p_now timestamp with time zone)
 RETURNS TABLE(verdict text, reason text, what text, hint text, other_job_id uuid, until timestamp with time zone, detail jsonb)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_last job_attempt;
  v_rate text;
  v_used bigint;
begin
  select a.* into v_last from job_attempt a where a.job_id = (p_job).job_id order by a.lease_token desc limit 1;
  if (p_job).blocked_by > 0 then
    return query select x.* from fn_job_explain_blocked((p_job)) x;
  elsif (p_job).ordering_key is not null and coalesce((p_job).ordering_slot, 0) <= 0 then
    return query select x.* from fn_job_explain_order((p_job)) x;
  end if;
  if (p_job).scheduled_at > p_now and (p_job).status = 'retry_waiting' then
    return query select 'waits', 'retry_waiting', format('it failed %s of %s times and is tried again at %s; last: %s', (p_job).attempts, (p_job).max_attempts,
        (p_job).scheduled_at, coalesce((p_job).last_error, 'no error given')),
      format('reveille jobs policy %s', fn_shell_word((p_job).job_kind)) || coalesce(' --domain ' || fn_shell_word((p_job).event_domain), ''), null::uuid, (p_job).scheduled_at,
      jsonb_build_object('attempts', (p_job).attempts, 'max_attempts', (p_job).max_attempts, 'last_error', (p_job).last_error);
  elsif (p_job).scheduled_at > p_now then
    return query select 'waits', 'scheduled', format('it is due at %s%s', (p_job).scheduled_at, case v_last.outcome
        when 'snoozed' then format('; %s put it off', v_last.lease_owner)
        when 'lease_lost' then format('; its lease was lost %s times', (p_job).lease_losses) else '' end),
      null::text, null::uuid, (p_job).scheduled_at, jsonb_build_object('scheduled_at', (p_job).scheduled_at);
  end if;
  v_rate := fn_config('job.' || (p_job).job_kind || '.key_rate_limit', null);
  if v_rate is not null and (p_job).ordering_key is not null then
    select coalesce(sum(r.jobs), 0) into v_used from job_rate r
    where r.rate_key = (p_job).job_kind || ' ' || (p_job).ordering_key and r.claimed_at > p_now - (fn_rate_parts(v_rate)).span;
    if v_used >= (fn_rate_parts(v_rate)).jobs then
      return query select 'waits', 'key_rate_limit', format('key_rate_limit: %s begun of %s for ordering key %s', v_used, v_rate, (p_job).ordering_key),
        format('select fn_gate_set(%L, %L, %L, %L)', 'job.' || (p_job).job_kind || '.key_rate_limit', 'JOBS/SECONDS', 'user:me', 'TEXT'), null::uuid,
        (p_job).scheduled_at, jsonb_build_object('limit', v_rate);
    end if;
  end if;
  return query select x.* from fn_job_explain_lane((p_job), p_now) x;
end
$function$

-- The one fail path. p_outcome: transient, permanent, rest or lease_lost. Internal.
CREATE OR REPLACE FUNCTION fn_job_fail(p_job job_queue, p_outcome text, p_error text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := clock_timestamp();
  v_job job_queue;
  v_limit int;
  v_retry_at timestamptz;
begin
  if (p_job).cancel_requested_at is not null then
    return fn_job_end_cancelled(p_job, p_error);
  end if;
  if p_outcome = 'lease_lost' then
    select p.max_lease_losses into v_limit from fn_job_policy((p_job).job_kind, (p_job).event_domain, (p_job).policy) p;
    if (p_job).lease_losses + 1 < v_limit then
      return fn_job_requeue(
        p_job, p_outcome, p_error, v_now + fn_job_backoff((p_job).job_kind, (p_job).lease_losses + 1, (p_job).event_domain, (p_job).policy));
    end if;
  end if;
  perform fn_job_attempt_end(p_job, case p_outcome when 'rest' then 'permanent' else p_outcome end, p_error);
  update job_queue j
  set status = 'failed', finished_at = v_now, lease_until = null, started_at = coalesce(j.started_at, j.picked_at),
      attempts = j.attempts + (p_outcome <> 'lease_lost')::int, error_count = j.error_count + (p_outcome <> 'lease_lost')::int,
      lease_losses = j.lease_losses + (p_outcome = 'lease_lost')::int, last_error = left(p_error, 8000), updated_at = v_now
  where j.job_id = (p_job).job_id
  returning j.* into v_job;
  if p_outcome = 'transient' and v_job.attempts < v_job.max_attempts then
    v_retry_at := v_now + fn_job_backoff(v_job.job_kind, v_job.attempts, v_job.event_domain, v_job.policy);
    update job_queue j set status = 'retry_waiting', finished_at = null, scheduled_at = v_retry_at where j.job_id = v_job.job_id;
    v_job.status := 'retry_waiting';
  elsif p_outcome <> 'rest' then
    perform fn_job_die(v_job.job_id, case p_outcome when 'transient' then 'attempts_exhausted' else p_outcome end);
    v_job.status := 'dead_letter';
  else
    perform fn_job_tell(array[v_job.job_id], 'job_failed');
  end if;
  if v_job.workflow_id is not null and v_job.status <> 'retry_waiting' then
    perform fn_job_unblock(array[v_job.job_id], 'failure');
  end if;
  -- a retry and a dead letter keep their turn: what is behind them waits until somebody has decided
  perform fn_job_make_room(case when p_outcome = 'rest' then v_job.ordering_key end, v_job.limit_slot, v_job.executor, v_job.job_kind);
  return jsonb_build_object('refused', false, 'job_id', v_job.job_id, 'status', v_job.status, 'retry_at', v_retry_at,
    'attempts', v_job.attempts, 'max_attempts', v_job.max_attempts);
end
$function$

-- Counts a failure that will not pass: dead_letter, or failed to rest when p_dead_letter is false.
CREATE OR REPLACE FUNCTION fn_job_fail_permanent(p_job_id uuid, p_lease_token bigint, p_error text DEFAULT NULL::text, p_dead_letter boolean DEFAULT true)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_job job_queue := fn_job_leased(p_job_id, p_lease_token);
begin
  if v_job.job_id is null then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  return fn_job_fail(v_job, case when coalesce(p_dead_letter, true) then 'permanent' else 'rest' end, p_error);
end
$function$

-- Counts a failure that may pass: retry_waiting, or dead_letter after the last attempt.
CREATE OR REPLACE FUNCTION fn_job_fail_transient(p_job_id uuid, p_lease_token bigint, p_error text DEFAULT NULL::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_job job_queue := fn_job_leased(p_job_id, p_lease_token);
begin
  if v_job.job_id is null then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  return fn_job_fail(v_job, 'transient', p_error);
end
$function$

-- Notes the first fitting event of gates that wait for one, and opens them; answers how many. Internal.
CREATE OR REPLACE FUNCTION fn_job_gate_events(p_event_ids uuid[])
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET lock_timeout TO '2s'
AS $function$
declare
  v_found record;
  v_gates uuid[];
begin
  with looked as materialized ( -- the filter last, after all that is cheaper
    select g.job_id, e.id, e.created_at, case when g.filter is null then 'match' else fn_job_gate_verdict(g.filter, row(e.*)::event_outbox) end as verdict
    from event_outbox e
    join job_gate g on g.kind = 'event' and g.event_id is null and g.event_domain = e.event_domain and g.event_type = e.event_type
    join job_workflow w on w.workflow_id = g.workflow_id and w.status = 'active'
    where e.id = any (p_event_ids) and (g.correlation_id is null or g.correlation_id = e.correlation_id)
  ),
  first as (
    select distinct on (l.job_id) l.job_id, l.id, l.verdict
    from looked l
    where l.verdict <> 'filtered'
    order by l.job_id, l.verdict <> 'match', l.created_at, l.id
  )
  select array_agg(f.job_id order by f.job_id) filter (where f.verdict = 'match') as jobs,
    array_agg(f.id order by f.job_id) filter (where f.verdict = 'match') as events,
    array_agg(f.job_id) filter (where f.verdict <> 'match') as unfit, array_agg(f.verdict) filter (where f.verdict <> 'match') as errors
  into v_found from first f;
  if v_found.unfit is not null then
    update job_queue j set last_error = left(u.error, 8000), updated_at = clock_timestamp()
    from unnest(v_found.unfit, v_found.errors) u (job_id, error)
    where j.job_id = u.job_id and j.last_error is distinct from left(u.error, 8000) and j.job_id = any (array(
      select q.job_id from job_queue q where q.job_id = any (v_found.unfit) and q.status = 'queued' for update skip locked));
  end if;
  perform fn_job_gate_lock(v_found.jobs) where v_found.jobs is not null;
  with met as (
    update job_gate g set event_id = f.event_id
    from unnest(v_found.jobs, v_found.events) f (job_id, event_id)
    where g.job_id = f.job_id and g.event_id is null
    returning g.job_id
  )
  select array_agg(m.job_id order by m.job_id) into v_gates from met m;
  begin
    perform fn_job_gate_pass(g, 'success', 'event') from unnest(v_gates) g;
  exception when lock_not_available or deadlock_detected then
    null;
  end;
  return coalesce(cardinality(v_gates), 0);
end
$function$

-- Fails gates whose time is over: {expired, more}. Internal.
CREATE OR REPLACE FUNCTION fn_job_gate_expire(p_limit integer, p_now timestamp with time zone, OUT expired integer, OUT more boolean)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_gates uuid[];
  v_gate record;
begin
  update job_gate g set closed_at = clock_timestamp()
  where g.job_id = any (array(
    select o.job_id from job_gate o
    join job_workflow w on w.workflow_id = o.workflow_id
    left join job_queue j on j.job_id = o.job_id
    where o.expires_at < p_now and o.closed_at is null and (w.status <> 'active' or j.status is distinct from 'queued')
    order by o.expires_at
    limit 10 * p_limit
    for update of o skip locked));
  v_gates := array(
    select g.job_id from job_gate g
    join job_queue j on j.job_id = g.job_id
    where g.expires_at < p_now and g.closed_at is null and j.status = 'queued' and j.blocked_by = 1
    order by g.expires_at
    limit p_limit
    for update of j skip locked);
  expired := 0;
  more := cardinality(v_gates) = p_limit;
  -- a statement of its own: it sees the event of whoever had the job before
  for v_gate in
    select g.job_id, g.kind, g.event_id from job_gate g where g.job_id = any (v_gates) order by g.workflow_id, g.job_id
  loop
    if v_gate.event_id is not null then
      perform fn_job_gate_pass(v_gate.job_id, 'success', 'event');
    else
      expired := expired + fn_job_gate_pass(v_gate.job_id, 'failure', 'refresh', case v_gate.kind
        when 'approval' then 'approval_expired: nobody has decided in time' else 'the event did not come in time' end)::int;
    end if;
  end loop;
end
$function$

-- Locks the jobs of gates, as far as they are free. Internal.
CREATE OR REPLACE FUNCTION fn_job_gate_lock(p_job_ids uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
  perform from job_queue j where j.job_id = any (p_job_ids) order by j.job_id for update;
  update job_queue j set updated_at = clock_timestamp() where j.job_id = any (p_job_ids);
exception when lock_not_available or deadlock_detected then
  update job_queue j set updated_at = clock_timestamp()
  where j.job_id = any (array(select q.job_id from job_queue q where q.job_id = any (p_job_ids) order by q.job_id for update skip locked));
end
$function$

-- Ends the job of an open gate, well or badly; false when it is not open. Internal.
CREATE OR REPLACE FUNCTION fn_job_gate_pass(p_job_id uuid, p_outcome text, p_actor text, p_error text DEFAULT NULL::text)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := clock_timestamp();
  v_job job_queue;
begin
  update job_queue j
  set status = 'leased', blocked_by = 0, lease_owner = p_actor, lease_token = coalesce(j.lease_token, 0) + 1, lease_until = v_now + interval '1 minute',
      picked_at = v_now, started_at = v_now, updated_at = v_now
  where j.job_id = p_job_id and j.status = 'queued' and j.blocked_by = 1 and exists (select from job_gate g where g.job_id = j.job_id)
  returning j.* into v_job;
  if not found then
    return false;
  end if;
  if p_outcome = 'failure' then
    perform fn_job_attempt_end(v_job, 'permanent', p_error);
  end if;
  update job_queue j
  set status = case p_outcome when 'success' then 'succeeded' else 'failed' end, lease_until = null, finished_at = v_now, last_error = p_error
  where j.job_id = p_job_id;
  perform fn_job_unblock(array[p_job_id], p_outcome);
  return true;
end
$function$

-- match, filtered, or the error of the filter. Internal.
CREATE OR REPLACE FUNCTION fn_job_gate_verdict(p_filter jsonpath, p_event event_outbox)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return case when coalesce(jsonb_path_match_tz(fn_event_document(p_event), p_filter, '{}', true), false) then 'match' else 'filtered' end;
exception when others then
  return 'filter: ' || sqlerrm;
end
$function$

-- Steps of active workflows that wait for an approval or an event, and since when. Internal.
CREATE OR REPLACE FUNCTION fn_job_gate_waiting(p_limit integer DEFAULT 10000)
 RETURNS TABLE(workflow_id uuid, template text, job_id uuid, step text, kind text, waits_for text, since timestamp with time zone)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
begin
  return query
  select w.workflow_id, w.template_key || '@' || w.template_version, j.job_id, substr(j.idempotency_key, 38), g.kind,
    case g.kind when 'event' then g.event_domain || '.' || g.event_type else 'an approval' end, greatest(j.created_at, n.ended_at)
  from (select x.* from job_workflow x where x.status = 'active' order by x.updated_at limit p_limit) w
  join job_gate g on g.workflow_id = w.workflow_id and g.event_id is null
  join job_queue j on j.job_id = g.job_id and j.status = 'queued' and j.blocked_by = 1
  cross join lateral (
    select max(q.finished_at) as ended_at from job_dependency d join job_queue q on q.job_id = d.needs_job_id where d.job_id = j.job_id) n;
end
$function$

-- The refusal illegal_transition or not_found for a job that is not in job_queue. Internal.
CREATE OR REPLACE FUNCTION fn_job_gone(p_job_id uuid)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_archived jsonb := fn_job_archived(p_job_id);
begin
  return jsonb_build_object('refused', true, 'job_id', p_job_id) || case
    when v_archived is null then '{"reason": "not_found"}'
    else jsonb_build_object('reason', 'illegal_transition', 'status', v_archived -> 'status') end;
end
$function$

-- Announces a change of job_handler on queue_control, once a statement.
CREATE OR REPLACE FUNCTION fn_job_handler_announce()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  perform pg_notify('queue_control', '');
  return null;
end
$function$

-- Refuses a job_handler row whose function is missing or has another signature.
CREATE OR REPLACE FUNCTION fn_job_handler_check()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_function pg_proc;
begin
  select p.* into v_function from pg_proc p where p.oid = to_regprocedure(new.handler);
  if not found then
    raise exception 'job_handler %: function % does not exist', new.job_kind, new.handler
      using errcode = '42883', hint = 'Create it first, with signature (p_job jsonb) returns jsonb, and name it with its schema.';
  end if;
  if v_function.prorettype <> 'jsonb'::regtype or v_function.pronargs <> 1 or v_function.proargtypes[0] <> 'jsonb'::regtype then
    raise exception 'job_handler %: % must take one jsonb and return jsonb', new.job_kind, new.handler using errcode = '42P13';
  end if;
  select format('%I.%I(jsonb)', n.nspname, v_function.proname) into new.handler
  from pg_namespace n where n.oid = v_function.pronamespace;
  new.updated_at := clock_timestamp();
  return new;
end
$function$

-- A leased job as jsonb, and the SQL function registered for its kind.
CREATE OR REPLACE FUNCTION fn_job_handler_of(p_job_id uuid, p_lease_token bigint)
 RETURNS TABLE(job jsonb, handler text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
  select to_jsonb(j.*) - array['claimable', 'lane'], h.handler
  from job_queue j
  left join job_handler h on h.job_kind = j.job_kind
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress')
    and j.lease_until > clock_timestamp()
$function$

-- Whether the lease with this token ended as succeeded.
CREATE OR REPLACE FUNCTION fn_job_has_succeeded(p_job_id uuid, p_lease_token bigint)
 RETURNS boolean
 LANGUAGE sql
 STABLE
RETURN ((EXISTS (SELECT FROM job_queue j WHERE ((j.job_id = fn_job_has_succeeded.p_job_id) AND (j.lease_token = fn_job_has_succeeded.p_lease_token) AND ((j.status)::text = ANY (ARRAY['succeeded'::text, 'cleaned'::text]))))) OR COALESCE((fn_job_archived(p_job_id) @> jsonb_build_object('lease_token', p_lease_token, 'status', 'succeeded')), false))

-- The stored form of an idempotency key.
CREATE OR REPLACE FUNCTION fn_job_key(p_key text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
RETURN CASE WHEN (length(p_key) <= 512) THEN p_key ELSE (("left"(p_key, 400) || '~sha256:'::text) || encode(sha256(convert_to(p_key, 'UTF8'::name)), 'hex'::text)) END

-- job.<kind>.key_concurrency_limit; 1 if it is not set.
CREATE OR REPLACE FUNCTION fn_job_key_limit(p_job_kind text)
 RETURNS integer
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return greatest(1, least(1000, fn_config_number('job.' || p_job_kind || '.key_concurrency_limit', 1)))::int;
end
$function$

-- Whether some job.<kind>.key_concurrency_limit is set.
CREATE OR REPLACE FUNCTION fn_job_keys_are_limited()
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return exists (select from dot_config c where c.key like 'job.%.key\_concurrency\_limit');
end
$function$

-- Enabled consumers and schedules whose template there is not, or whose kind nobody is known to run.
CREATE OR REPLACE FUNCTION fn_job_kind_check()
 RETURNS TABLE(subject text, job_kind text, what text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
BEGIN ATOMIC
 WITH claimed AS MATERIALIZED (
          SELECT DISTINCT q.job_kind
            FROM ( SELECT j.job_kind,
                     j.lease_token
                    FROM job_queue j
                   ORDER BY j.job_id DESC
                  LIMIT 10000) q
           WHERE (q.lease_token IS NOT NULL)
         )
  SELECT a.subject,
     a.job_kind,
     w.what
    FROM (( SELECT ('consumer '::text || c.consumer_key) AS subject,
             (c.job_kind)::text AS job_kind,
             c.dry_run
            FROM consumer_registry c
           WHERE c.enabled
         UNION ALL
          SELECT ('schedule '::text || s.schedule_key),
             (s.job_kind)::text AS job_kind,
             false
            FROM job_schedule s
           WHERE s.enabled) a
      CROSS JOIN LATERAL ( SELECT fn_job_kind_warning(a.job_kind) AS what
           WHERE (a.job_kind ~~ 'workflow:%'::text)
         UNION ALL
          SELECT format('nobody says that he runs jobs of kind %s: no row of job_handler, no executor and no subscription names it, and nobody has claimed one'::text, a.job_kind) AS format
           WHERE ((NOT a.dry_run) AND (a.job_kind !~~ 'workflow:%'::text) AND (NOT (EXISTS ( SELECT
                    FROM job_handler h
                   WHERE (h.job_kind = a.job_kind)))) AND (NOT (EXISTS ( SELECT
                    FROM job_subscription s
                   WHERE ((a.job_kind ~~ s.job_kind_like) AND (s.job_kind <> '*'::text))))) AND (NOT (EXISTS ( SELECT
                    FROM queue_heartbeat h
                   WHERE (a.job_kind = ANY (h.wakes_for))))) AND (NOT (EXISTS ( SELECT
                    FROM job_archive_bound b
                   WHERE (b.job_kind = a.job_kind)))) AND (NOT (a.job_kind IN ( SELECT k.job_kind
                    FROM claimed k))))) w)
   WHERE (w.what IS NOT NULL)
   ORDER BY a.subject;
END

-- What stands against jobs of a kind: no such template, or nobody who is known to run it; null when nothing does.
CREATE OR REPLACE FUNCTION fn_job_kind_warning(p_job_kind text)
 RETURNS text
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if p_job_kind like 'workflow:%' then
    return (
      select format('there is no template %s: each such job becomes a dead letter until `reveille workflows put FILE` has written it', t.name)
      from (select substr(p_job_kind, 10) as name) t
      where (fn_mot_template_of(t.name)).template_key is null);
  elsif exists (select from job_handler h where h.job_kind = p_job_kind)
    or exists (select from job_subscription s where p_job_kind like s.job_kind_like and s.job_kind <> '*')
    or exists (select from consumer_registry c where c.job_kind = p_job_kind)
    or exists (select from queue_heartbeat h where p_job_kind = any (h.wakes_for))
    or exists (select from job_archive_bound b where b.job_kind = p_job_kind)
    or exists ( -- somebody has claimed one, of the newest jobs
      select from (select j.job_kind, j.lease_token from job_queue j order by j.job_id desc limit 10000) q
      where q.job_kind = p_job_kind and q.lease_token is not null)
  then
    return null;
  end if;
  return format('nobody says that he runs jobs of kind %s: no row of job_handler, no executor and no subscription names it; they wait until somebody claims them',
    p_job_kind);
end
$function$

-- The given kinds and those of job_handler: SQL function and job.<kind>.time_limit_seconds, each null where there is none.
CREATE OR REPLACE FUNCTION fn_job_kinds(p_job_kinds text[] DEFAULT '{}'::text[])
 RETURNS TABLE(job_kind text, handler text, time_limit_seconds text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
  select k.job_kind, h.handler, fn_config('job.' || k.job_kind || '.time_limit_seconds', null)
  from (select unnest(p_job_kinds) union select a.job_kind from job_handler a) as k (job_kind)
  left join job_handler h on h.job_kind = k.job_kind
  order by k.job_kind
$function$

-- How many due jobs come before one: more urgent ones, and older ones of its lane. Internal.
CREATE OR REPLACE FUNCTION fn_job_lane_ahead(p_job job_queue, p_limit integer, p_now timestamp with time zone, OUT urgent bigint, OUT older bigint)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
  select count(*) into urgent
  from (
    select from fn_job_lanes((p_job).executor) l
    cross join lateral (
      select from job_queue j
      where j.executor = (p_job).executor and j.claimable and j.lane = l.lane and j.priority = l.priority and j.scheduled_at <= p_now
      limit p_limit) n
    where l.priority < (p_job).priority and l.scheduled_at <= p_now
      and fn_job_lane_verdict((p_job).executor, l.job_kind, l.event_domain, l.consumer_key, l.priority) is null
    limit p_limit) u;
  select count(*) into older
  from (
    select from job_queue j
    where j.executor = (p_job).executor and j.claimable and j.lane = (p_job).lane and j.priority = (p_job).priority
      and (j.scheduled_at, j.job_id) < ((p_job).scheduled_at, (p_job).job_id)
    limit p_limit) o;
end
$function$

-- Why nobody may claim such a job now, each reason with what it is about; no row: somebody may. Internal.
CREATE OR REPLACE FUNCTION fn_job_lane_reasons(p_executor text, p_job_kind text, p_event_domain text, p_consumer_key text, p_priority integer, p_all boolean)
 RETURNS TABLE(reason text, detail jsonb)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_is_start boolean := p_job_kind like 'workflow:%'; -- dispatch or the next refresh takes it, no executor: fn_mot_start
  v_gate text;
  v_pause queue_pause;
  v_limit text;
  v_used bigint;
begin
  foreach v_gate in array array['queue.job_substrate.enabled', 'queue.worker.enabled'] loop
    if not fn_gate_is_open(v_gate) and (v_gate = 'queue.job_substrate.enabled' or not v_is_start) then
      reason := case v_gate when 'queue.worker.enabled' then 'worker_disabled' else 'job_substrate_disabled' end;
      detail := jsonb_build_object('gate', v_gate);
      return next;
      if not p_all then
        return;
      end if;
    end if;
  end loop;
  for v_pause in
    select p.*
    from queue_pause p
    where p.resumed_at is null and (
      p.scope = 'all' or (p.scope = 'job_kind' and p.name = p_job_kind) or (p.scope = 'domain' and p.name = p_event_domain)
      or (p.scope = 'consumer' and p.name = p_consumer_key) or (not v_is_start and p.scope = 'executor' and p.name = p_executor))
    order by p.pause_id
  loop
    reason := 'paused: ' || case v_pause.scope when 'all' then 'all' else v_pause.scope || ' ' || v_pause.name end;
    detail := jsonb_build_object('scope', v_pause.scope, 'name', v_pause.name, 'actor', v_pause.actor, 'because', v_pause.reason,
      'paused_at', v_pause.paused_at);
    return next;
    if not p_all then
      return;
    end if;
  end loop;
  if v_is_start then
    return;
  end if;
  reason := null;
  if not exists (select from fn_executors_live(p_executor)) then
    reason := 'no_live_executor';
  elsif not exists (
    select from fn_executors_live(p_executor) e
    where not exists (select from job_subscription s where e.executor_name like s.executor_name_like)
      or exists (
        select from job_subscription s
        where e.executor_name like s.executor_name_like and p_job_kind like s.job_kind_like
          and s.event_domain in ('*', p_event_domain) and (s.priority_floor is null or p_priority <= s.priority_floor)))
  then
    reason := 'not_subscribed';
  elsif not exists (
    select from fn_executors_live(p_executor) e
    where not exists (select from queue_pause p where p.resumed_at is null and p.scope = 'executor' and p.name = e.executor_name))
  then
    reason := 'paused: every executor';
  end if;
  if reason is not null then
    detail := case when p_all then jsonb_build_object('executor', p_executor,
      'live', array(select e.executor_name from fn_executors_live(p_executor) e order by 1 limit 10)) end;
    return next;
    if not p_all then
      return;
    end if;
  end if;
  v_limit := fn_config('job.' || p_job_kind || '.concurrency_limit', null);
  if v_limit is not null then
    select count(*) into v_used from job_queue j where j.job_kind = p_job_kind and j.limit_slot is not null and j.lease_until is not null;
    if v_used >= (fn_rate_parts(v_limit)).jobs then
      reason := format('concurrency_limit: %s of %s run', v_used, v_limit);
      detail := jsonb_build_object('key', 'job.' || p_job_kind || '.concurrency_limit', 'limit', v_limit);
      return next;
      if not p_all then
        return;
      end if;
    end if;
  end if;
  v_limit := fn_config('job.' || p_job_kind || '.rate_limit', null);
  if v_limit is not null then
    select coalesce(sum(r.jobs), 0) into v_used from job_rate r
    where r.rate_key = p_job_kind and r.claimed_at > clock_timestamp() - (fn_rate_parts(v_limit)).span;
    if v_used >= (fn_rate_parts(v_limit)).jobs then
      reason := format('rate_limit: %s begun of %s', v_used, v_limit);
      detail := jsonb_build_object('key', 'job.' || p_job_kind || '.rate_limit', 'limit', v_limit);
      return next;
    end if;
  end if;
end
$function$

-- Why nobody may claim such a job now; null: somebody may. Called by v_job_queue_backlog.
CREATE OR REPLACE FUNCTION fn_job_lane_verdict(p_executor text, p_job_kind text, p_event_domain text, p_consumer_key text, p_priority integer)
 RETURNS text
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return (select r.reason from fn_job_lane_reasons(p_executor, p_job_kind, p_event_domain, p_consumer_key, p_priority, false) r limit 1);
end
$function$

-- The first waiting job of each lane and priority of a kind of executor. Internal.
CREATE OR REPLACE FUNCTION fn_job_lanes(p_executor text, p_marks job_lane[] DEFAULT NULL::job_lane[])
 RETURNS SETOF job_lane
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_sort TO 'off'
 SET jit TO 'off'
AS $function$
begin
  if p_marks is null then
    return query
    with recursive heads as (
      (select j.lane, j.priority, j.job_kind, j.event_domain, j.consumer_key, j.scheduled_at, j.job_id
       from job_queue j where j.executor = p_executor and j.claimable
       order by j.lane, j.priority, j.scheduled_at, j.job_id limit 1)
      union all
      select n.*
      from heads h
      cross join lateral (
        select j.lane, j.priority, j.job_kind, j.event_domain, j.consumer_key, j.scheduled_at, j.job_id
        from job_queue j where j.executor = p_executor and j.claimable and (j.lane, j.priority) > (h.lane, h.priority)
        order by j.lane, j.priority, j.scheduled_at, j.job_id limit 1) n
    )
    select h.lane, h.priority::int, h.job_kind::text, h.event_domain, h.consumer_key, h.scheduled_at, h.job_id, null::int, null::real
    from heads h;
    return;
  end if;
  return query
  select n.lane, n.priority::int, n.job_kind::text, n.event_domain, n.consumer_key, n.scheduled_at, n.job_id, null::int, null::real
  from unnest(p_marks) m
  cross join lateral (
    select j.* from job_queue j
    where j.executor = p_executor and j.claimable and j.lane = m.lane and j.priority = m.priority
      and (j.scheduled_at, j.job_id) > (m.scheduled_at, m.job_id)
    order by j.scheduled_at, j.job_id limit 1) n
  union all
  -- single bounds: a scan does not end where the second column of a compared row no longer fits (Postgres 15)
  select n.lane, n.priority::int, n.job_kind::text, n.event_domain, n.consumer_key, n.scheduled_at, n.job_id, null, null
  from (
    select m.lane, m.priority, lead(m.lane, 1, 9223372036854775807) over w as next_lane, lead(m.priority, 1, 2147483647) over w as next_priority
    from (select u.lane, u.priority from unnest(p_marks) u union all select (-9223372036854775808)::bigint, -1) m
    window w as (order by m.lane, m.priority)) g
  cross join lateral (
    (select j.* from job_queue j
    where j.executor = p_executor and j.claimable and j.lane > g.lane and j.lane < g.next_lane
    order by j.lane, j.priority, j.scheduled_at, j.job_id limit 1)
    union all
    (select j.* from job_queue j
    where j.executor = p_executor and j.claimable and j.lane = g.lane and j.priority > g.priority
      and j.priority < case when g.next_lane = g.lane then g.next_priority else 2147483647 end
    order by j.priority, j.scheduled_at, j.job_id limit 1)
    union all
    (select j.* from job_queue j
    where j.executor = p_executor and j.claimable and j.lane = g.next_lane and j.priority < g.next_priority and g.next_lane <> g.lane
    order by j.priority, j.scheduled_at, j.job_id limit 1)) n;
end
$function$

-- Those of the lanes that an executor may claim from now, in the order of its claim. Internal.
CREATE OR REPLACE FUNCTION fn_job_lanes_open(p_heads job_lane[], p_executor_name text, p_job_kinds text[], p_paused text[], p_is_subscribed boolean, p_aging_seconds numeric, p_now timestamp with time zone)
 RETURNS SETOF job_lane
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
  return query
  select l.lane, l.priority, l.job_kind, l.event_domain, l.consumer_key, l.scheduled_at, '00000000-0000-0000-0000-000000000000'::uuid, l.rank,
    (l.share * case when l.priority > l.rank then least(1, coalesce(
      sum(l.share) filter (where l.priority = l.rank) over w / sum(l.share) filter (where l.priority > l.rank) over w, 1)) else 1 end)::real
  from (
    select d.*, greatest(min(d.priority) over (),
      d.priority - case when p_aging_seconds > 0 then least(32767, floor(extract(epoch from p_now - d.scheduled_at) / p_aging_seconds)) else 0 end)::int as rank
    from (
      select h.lane, h.priority, h.job_kind, h.event_domain, h.consumer_key, h.scheduled_at,
        case when p_is_subscribed then (
          select max(s.share) from job_subscription s
          where p_executor_name like s.executor_name_like and h.job_kind like s.job_kind_like
            and s.event_domain in ('*', h.event_domain) and (s.priority_floor is null or h.priority <= s.priority_floor))
        else 1 end as share
      from unnest(p_heads) h
      where h.scheduled_at <= p_now
        and (p_job_kinds is null or h.job_kind = any (p_job_kinds))
        and (p_paused is null
          or not p_paused && array['job_kind:' || h.job_kind, 'domain:' || h.event_domain, 'consumer:' || h.consumer_key])) d
    where d.share is not null) l
  window w as (partition by l.rank)
  order by l.rank, l.lane, l.priority;
end
$function$

-- The refusal lease_lost, not_owner or not_found.
CREATE OR REPLACE FUNCTION fn_job_lease_lost(p_job_id uuid, p_lease_token bigint DEFAULT NULL::bigint)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_job job_queue;
begin
  select j.* into v_job from job_queue j where j.job_id = p_job_id;
  return jsonb_build_object('refused', true, 'job_id', p_job_id, 'reason', case
    when v_job.job_id is null and fn_job_archived(p_job_id) is null then 'not_found'
    when v_job.lease_token = p_lease_token and v_job.lease_until > clock_timestamp() and not fn_lease_is_ours(v_job.lease_owner) then 'not_owner'
    else 'lease_lost' end);
end
$function$

-- Frees jobs whose lease ended unreported: {dry_run, found, dead_lettered, jobs}. Refused reaper_disabled when told to apply behind a closed gate.
CREATE OR REPLACE FUNCTION fn_job_lease_reaper(p_limit integer DEFAULT 100, p_actor text DEFAULT NULL::text, p_dry_run boolean DEFAULT NULL::boolean, p_skip integer DEFAULT 0, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := least(p_now, clock_timestamp()); -- a later moment would end leases that live
  v_limit int := least(p_limit, 60); -- each takes a savepoint (trap 19)
  v_is_open boolean := fn_gate_is_open('queue.lease_reaper.enabled');
  v_dry boolean := fn_config('queue.lease_reaper.dry_run_only', 'true') <> 'false';
  v_job job_queue;
  v_answer jsonb;
  v_jobs jsonb := '[]';
  v_list jsonb[] := '{}';
  v_dead int := 0;
  v_failed int := 0;
begin
  if p_limit is null or p_limit < 1 then
    raise exception 'fn_job_lease_reaper: p_limit must be at least 1' using errcode = '22023';
  end if;
  if p_dry_run = false and (not v_is_open or v_dry) then
    return jsonb_build_object('refused', true, 'reason', 'reaper_disabled');
  end if;
  v_dry := coalesce(p_dry_run, v_dry or not v_is_open);
  if v_dry then
    select coalesce(jsonb_agg(jsonb_build_object('job_id', e.job_id, 'job_kind', e.job_kind, 'lease_owner', e.lease_owner,
        'lease_until', e.lease_until, 'error', null, 'status', case
          when e.cancel_requested_at is not null then 'cancelled'
          when e.lease_losses + 1 < p.max_lease_losses then 'queued' else 'dead_letter' end)), '[]'),
      count(*) filter (where e.cancel_requested_at is null and e.lease_losses + 1 >= p.max_lease_losses)
    into v_jobs, v_dead
    from (select j.* from job_queue j where j.lease_until < v_now order by j.lease_until offset p_skip limit v_limit) e
    cross join lateral fn_job_policy(e.job_kind, e.event_domain, e.policy) p;
  else
    for v_job in
      select j.* from job_queue j where j.lease_until < v_now order by j.lease_until
      offset p_skip limit v_limit for update skip locked
    loop
      begin
        v_answer := fn_job_fail(v_job, 'lease_lost', format('the lease of %s ended at %s unreported', v_job.lease_owner, v_job.lease_until));
      exception when others then
        v_answer := jsonb_build_object('status', v_job.status, 'error', sqlerrm); -- of this job; the others go on
        v_failed := v_failed + 1;
      end;
      v_dead := v_dead + (v_answer ->> 'status' = 'dead_letter')::int;
      v_list := v_list || jsonb_build_object('job_id', v_job.job_id, 'job_kind', v_job.job_kind, 'lease_owner', v_job.lease_owner,
        'lease_until', v_job.lease_until, 'status', v_answer ->> 'status', 'error', v_answer ->> 'error');
    end loop;
    v_jobs := to_jsonb(v_list);
  end if;
  return jsonb_build_object('refused', false, 'dry_run', v_dry, 'found', jsonb_array_length(v_jobs), 'dead_lettered', v_dead,
    'failed', v_failed, 'jobs', v_jobs, 'actor', coalesce(p_actor, session_user::text));
end
$function$

-- The job whose lease is the caller's, locked; null when it is not. Internal.
CREATE OR REPLACE FUNCTION fn_job_leased(p_job_id uuid, p_lease_token bigint)
 RETURNS job_queue
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_job job_queue;
begin
  select j.* into v_job from job_queue j
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress')
    and (j.lease_until > clock_timestamp()) is true -- or it would be looked for by the index of the leases
    and fn_lease_is_ours(j.lease_owner)
  for update;
  return v_job;
end
$function$

-- Those of the locked rows that the rates of their keys let pass. Internal.
CREATE OR REPLACE FUNCTION fn_job_limit_keys(p_rows tid[], p_job_kind text, p_rate text, p_now timestamp with time zone)
 RETURNS tid[]
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_rate record := fn_rate_parts(p_rate);
  v_late tid[];
begin
  with candidate as materialized (
    select u.row, p_job_kind || ' ' || j.ordering_key as rate_key, row_number() over (partition by j.ordering_key order by u.n) as nth
    from unnest(p_rows) with ordinality as u (row, n)
    cross join lateral (select q.ordering_key from job_queue q where q.ctid = u.row and q.ordering_key is not null offset 0) j
  ),
  judged as materialized (
    select c.row, c.rate_key, w.used + c.nth > v_rate.jobs as is_late,
      case when v_rate.jobs = 0 then p_now + interval '1 minute'
        else greatest(p_now + interval '1 millisecond', coalesce(w.oldest, p_now) + v_rate.span) end as at
    from candidate c
    cross join lateral (
      select coalesce(sum(t.jobs), 0) as used, min(t.claimed_at) as oldest
      from job_rate t where t.rate_key = c.rate_key and t.claimed_at > p_now - v_rate.span) w
  ),
  counted as (
    insert into job_rate (rate_key, claimed_at, jobs)
    select g.rate_key, p_now, count(*) from judged g where not g.is_late group by g.rate_key
  ),
  moved as (
    update job_queue j set scheduled_at = g.at from judged g where g.is_late and j.ctid = g.row
    returning g.row
  )
  select array_agg(m.row) into v_late from moved m;
  return case when v_late is null then p_rows else array(
    select u.row from unnest(p_rows) with ordinality as u (row, n) where u.row <> all (v_late) order by u.n) end;
end
$function$

-- Free places of a kind with a concurrency limit, locked. Internal.
CREATE OR REPLACE FUNCTION fn_job_limit_slots(p_job_kind text, p_limit integer, p_wanted integer, p_have integer[])
 RETURNS integer[]
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_class int := hashtext(format('reveille.limit:%s:%s', current_schema(), p_job_kind));
  v_slots int[];
begin
  v_slots := array(
    select f.slot
    from (
      select g as slot from generate_series(1, least(p_limit, 10000)) g
      where g <> all (p_have)
        and not exists (select from job_queue j where j.job_kind = p_job_kind and j.limit_slot = g and j.lease_until is not null)
      offset 0) f
    where pg_try_advisory_xact_lock(v_class, f.slot)
    limit least(p_wanted, 100));
  -- once more, now that they are locked: whoever had them a moment ago may have committed
  return array(
    select u.slot from unnest(v_slots) u (slot)
    where not exists (
      select from job_queue j where j.job_kind = p_job_kind and j.limit_slot = u.slot and j.lease_until is not null));
end
$function$

-- The next of an ordering key, and a wake-up for a limited kind. Internal.
CREATE OR REPLACE FUNCTION fn_job_make_room(p_ordering_key text, p_limit_slot integer, p_executor text, p_job_kind text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if p_ordering_key is not null then
    perform fn_job_promote(array[p_ordering_key]);
  end if;
  if p_limit_slot is not null then
    perform fn_job_wake(p_executor, array[p_job_kind]);
  end if;
end
$function$

-- max_attempts of a kind in a domain from dot_config; 5 if nothing is set.
CREATE OR REPLACE FUNCTION fn_job_max_attempts(p_job_kind text, p_event_domain text DEFAULT NULL::text)
 RETURNS integer
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return coalesce((
    select greatest(1, f.value::numeric)::int
    from fn_config_first(fn_job_policy_keys('max_attempts', p_job_kind, p_event_domain), '^[0-9]{1,9}(\.[0-9]{1,6})?$') f), 5);
end
$function$

-- Whether an archived job holds this (stored) key, or the snapshot is too old to tell. Internal.
CREATE OR REPLACE FUNCTION fn_job_may_be_archived(p_job_kind text, p_key text)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
  if not exists (select from pg_class c where c.relname = 'job_archive_key' and c.relnamespace = quote_ident(current_schema())::regnamespace) then
    return false; -- before phase 008
  end if;
  return current_setting('transaction_isolation') in ('repeatable read', 'serializable')
    or exists (select from job_archive_key k where k.job_kind = p_job_kind and k.idempotency_key = p_key);
end
$function$

-- The moment itself; raises 22008 for infinity.
CREATE OR REPLACE FUNCTION fn_job_moment(p_at timestamp with time zone)
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
begin
  if not isfinite(p_at) then
    raise exception 'scheduled_at is %; name a moment, or leave it out for now', p_at using errcode = '22008';
  end if;
  return p_at;
end
$function$

-- Whether a job may move from one status to another.
CREATE OR REPLACE FUNCTION fn_job_move_is_legal(p_from text, p_to text)
 RETURNS boolean
 LANGUAGE plpgsql
 IMMUTABLE
AS $function$
begin
  return case p_from
    when 'queued' then p_to in ('leased', 'cancelled')
    when 'leased' then p_to in ('in_progress', 'queued', 'succeeded', 'failed', 'cancelled')
    when 'in_progress' then p_to in ('succeeded', 'failed', 'queued', 'cancelled')
    when 'failed' then p_to in ('retry_waiting', 'dead_letter', 'cleaned')
    when 'retry_waiting' then p_to in ('leased', 'cancelled')
    when 'dead_letter' then p_to in ('queued', 'cleaned')
    when 'succeeded' then p_to = 'cleaned'
    when 'cancelled' then p_to = 'cleaned'
    else false
  end;
end
$function$

-- Raises illegal_transition (23514); also for the table's owner.
CREATE OR REPLACE FUNCTION fn_job_move_refuse()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if tg_op = 'INSERT' then
    raise exception 'illegal_transition: a job begins as queued, not as %', new.status using errcode = '23514';
  end if;
  raise exception 'illegal_transition: job % may not move from % to %', old.job_id, old.status, new.status using errcode = '23514';
end
$function$

-- Trigger: keeps steps that are blocked out of the order of their key.
CREATE OR REPLACE FUNCTION fn_job_order_blocked()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
  if tg_op = 'INSERT' then
    new.ordering_slot := -1;
    return new;
  elsif new.blocked_by = 0 then
    -- by way of the keys and not of new jobs: those are looked for by their age, from a mark on that it may be older than
    update job_queue j set ordering_slot = 0, freed_at = clock_timestamp() where j.job_id = new.job_id and j.ordering_slot = -1;
    if found then
      insert into job_order_pending (ordering_key) values (new.ordering_key);
    end if;
  else
    update job_queue j set ordering_slot = -1 where j.job_id = new.job_id;
    if new.ordering_slot > 0 then
      insert into job_order_pending (ordering_key) values (new.ordering_key);
    end if;
  end if;
  return null;
end
$function$

-- Places new jobs that have an ordering key, up to 1000.
CREATE OR REPLACE FUNCTION fn_job_order_sweep()
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  perform fn_job_place(1000, '-infinity');
end
$function$

-- Hands a wake-up on to others when there is something left for them: whether there was. Changes nothing.
CREATE OR REPLACE FUNCTION fn_job_pass_on(p_executor_name text, p_instance text, p_job_kinds text[], p_has_room boolean)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_now timestamptz := clock_timestamp();
  v_admission record;
  v_marks job_lane[];
  v_stand boolean := false;
  v_heads job_lane[];
  v_lanes job_lane[];
  v_others text[];
  v_own int;
begin
  select * into v_admission from fn_executor_admission(p_executor_name, p_instance) a;
  if v_admission.executor_kind is null or v_admission.reason is not null and v_admission.reason <> 'paused'
    or v_admission.paused && array['all:', 'executor:' || v_admission.executor_kind]
  then
    return false;
  end if;
  if coalesce(current_setting('reveille.claim_marks', true), '') <> '' then
    select m.marks, m.stand into v_marks, v_stand from fn_job_claim_marks(v_admission.executor_kind, v_now) m;
  end if;
  v_heads := array(select l from fn_job_lanes(v_admission.executor_kind, case when v_stand then v_marks end) l);
  v_lanes := array(select l from fn_job_lanes_open(v_heads, p_executor_name, null, v_admission.paused, false, 0, v_now) l);
  if cardinality(v_lanes) = 0 then
    return false;
  end if;
  if not p_has_room then
    perform fn_job_wake(v_admission.executor_kind, array(select distinct l.job_kind from unnest(v_lanes) l), 1, p_executor_name);
    return true;
  end if;
  v_others := array(select distinct l.job_kind from unnest(v_lanes) l where l.job_kind <> all (p_job_kinds));
  v_own := (select count(*) from unnest(v_lanes) l where l.job_kind = any (p_job_kinds));
  if v_admission.reason is not null or v_own > (
    select count(*) from fn_job_lanes_open(v_heads, p_executor_name, p_job_kinds, v_admission.paused, v_admission.is_subscribed, 0, v_now))
  then
    perform fn_wake('job_wake_' || lower(v_admission.executor_kind));
    return true;
  end if;
  -- what there is of its own kinds, its own claim could not take: others took it, or a limit holds
  if cardinality(v_others) > 0 then
    perform fn_job_wake(v_admission.executor_kind, v_others, 1, p_executor_name);
  end if;
  return cardinality(v_others) > 0;
end
$function$

-- Places new jobs that have an ordering key behind the others of it. Internal.
CREATE OR REPLACE FUNCTION fn_job_place(p_limit integer, p_from timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_keys text[];
  v_pending text[];
begin
  with placed as (
    update job_queue j set ordering_slot = 0
    where j.job_id = any (array(
      select q.job_id from job_queue q
      where q.ordering_key is not null and q.ordering_slot is null and q.status = 'queued' and q.created_at >= p_from
      order by q.created_at, q.job_id limit p_limit for update skip locked))
    returning j.ordering_key
  )
  select coalesce(array_agg(distinct p.ordering_key), '{}') into v_keys from placed p;
  with seen as (
    delete from job_order_pending p
    where p.ctid = any (array(select o.ctid from job_order_pending o limit 1000 for update skip locked))
    returning p.ordering_key
  )
  select coalesce(array_agg(distinct s.ordering_key), '{}') into v_pending from seen s;
  perform fn_job_promote(array(select distinct k from unnest(v_keys || v_pending) k), false);
end
$function$

-- Retry policy of a kind in a domain, and which key of dot_config each part comes from.
CREATE OR REPLACE FUNCTION fn_job_policy(p_job_kind text, p_event_domain text DEFAULT NULL::text, p_own jsonb DEFAULT NULL::jsonb)
 RETURNS TABLE(strategy text, backoff_seconds numeric, cap_seconds numeric, max_attempts integer, max_lease_losses integer, sources jsonb)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_number text := '^[0-9]{1,9}(\.[0-9]{1,6})?$';
  v_names text[] := array['backoff_strategy', 'backoff_seconds', 'backoff_cap_seconds', 'max_attempts', 'max_lease_losses'];
  v_built_in text[] := array['exponential', '10', '3600', '5', '3'];
  v_values text[] := '{}';
  v_found record;
begin
  sources := '{}';
  for i in 1 .. 5 loop
    if p_own ? v_names[i] then
      select p_own ->> v_names[i] as value, 'job' as key into v_found;
    else
      select f.* into v_found from fn_config_first(
        fn_job_policy_keys(v_names[i], p_job_kind, p_event_domain),
        case i when 1 then '^(constant|linear|exponential)$' else v_number end) f;
    end if;
    v_values := v_values || coalesce(v_found.value, v_built_in[i]);
    sources := sources || jsonb_build_object(v_names[i], v_found.key);
  end loop;
  strategy := v_values[1];
  backoff_seconds := v_values[2]::numeric;
  cap_seconds := v_values[3]::numeric;
  max_attempts := greatest(1, v_values[4]::numeric)::int;
  max_lease_losses := greatest(1, v_values[5]::numeric)::int;
  return next;
end
$function$

-- The keys of dot_config that decide a part of the retry policy, the first that is set.
CREATE OR REPLACE FUNCTION fn_job_policy_keys(p_name text, p_job_kind text, p_event_domain text)
 RETURNS text[]
 LANGUAGE sql
 IMMUTABLE
RETURN ARRAY[((('job.'::text || p_job_kind) || '.'::text) || p_name), ((('queue.retry.'::text || p_name) || '.'::text) || p_job_kind), ((('queue.retry.domain.'::text || p_event_domain) || '.'::text) || p_name), ('queue.retry.default.'::text || p_name)]

-- Gives the next jobs of ordering keys their turn. Internal.
CREATE OR REPLACE FUNCTION fn_job_promote(p_keys text[], p_wake boolean DEFAULT true)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_mine text[];
  v_first uuid[];
  v_free uuid[];
  v_woken record;
  v_is_limited boolean;
begin
  if current_setting('transaction_isolation') = 'read committed' then
    -- 512 locks at most, whatever the number of keys; of two sessions at a key one notes it for later
    v_mine := array(
      select k from unnest(p_keys) k
      where pg_try_advisory_xact_lock(hashtext('reveille.order:' || current_schema()), hashtext(k) & 511));
  end if;
  if cardinality(v_mine) > 0 then
    v_is_limited := fn_job_keys_are_limited();
    -- a statement of its own, after the locks: it sees what others have decided before
    select array_agg(n.job_id) into v_first
    from (select distinct u.key from unnest(v_mine) u (key)) k
    cross join lateral (
      select count(*)::int as used, min(case when v_is_limited then fn_job_key_limit(j.job_kind) else 1 end) as least
      from job_queue j
      where j.ordering_key = k.key and j.ordering_slot > 0
        and j.status in ('queued', 'leased', 'in_progress', 'retry_waiting', 'dead_letter')) t
    cross join lateral (
      select b.job_id
      from (
        select j.job_id, row_number() over (order by j.since, j.job_id) as nth,
          min(case when v_is_limited then fn_job_key_limit(j.job_kind) else 1 end) over (order by j.since, j.job_id) as least
        from (
          select q.job_id, q.job_kind, coalesce(q.freed_at, q.created_at) as since from job_queue q
          where q.ordering_key = k.key and coalesce(q.ordering_slot, 0) = 0 and q.status in ('queued', 'retry_waiting')
          order by coalesce(q.freed_at, q.created_at), q.job_id
          limit case when v_is_limited then 1000 else 1 end) j) b
      where t.used + b.nth <= least(t.least, b.least)) n;
    v_free := array(
      select j.job_id from job_queue j
      where j.job_id = any (v_first) and coalesce(j.ordering_slot, 0) = 0 and j.status in ('queued', 'retry_waiting')
      for update skip locked);
    with turn as materialized (
      select j.job_id, j.ordering_key, j.job_id = any (v_free) as is_free,
        bool_and(j.job_id = any (v_free)) over w as is_next, row_number() over w as nth
      from job_queue j
      where j.job_id = any (v_first)
      window w as (partition by j.ordering_key order by coalesce(j.freed_at, j.created_at), j.job_id)
    ),
    later as (
      insert into job_order_pending (ordering_key)
      select distinct t.ordering_key from turn t where not t.is_next
    ),
    slots as materialized (
      select k.ordering_key, g.slot, row_number() over (partition by k.ordering_key order by g.slot) as nth
      from (
        select t.ordering_key, count(*)::int as wanted,
          array(
            select j.ordering_slot::int from job_queue j
            where j.ordering_key = t.ordering_key and j.ordering_slot > 0
              and j.status in ('queued', 'leased', 'in_progress', 'retry_waiting', 'dead_letter')) as used
        from turn t where t.is_next group by t.ordering_key) k
      cross join lateral generate_series(1, cardinality(k.used) + k.wanted) g (slot)
      where g.slot <> all (k.used)
    ),
    promoted as (
      update job_queue j
      set ordering_slot = s.slot, updated_at = clock_timestamp()
      from turn t join slots s on s.ordering_key = t.ordering_key and s.nth = t.nth
      where t.is_next and j.job_id = t.job_id
      returning j.executor, j.job_kind, j.scheduled_at
    )
    select array_agg(distinct p.executor::text) as executors, array_agg(distinct p.job_kind::text) as kinds, count(*) as jobs into v_woken
    from promoted p
    where p.scheduled_at <= clock_timestamp();
    perform fn_job_wake(e, v_woken.kinds, v_woken.jobs) from unnest(v_woken.executors) e;
  end if;
  if cardinality(v_mine) is distinct from cardinality(p_keys) then
    insert into job_order_pending (ordering_key) select distinct k from unnest(p_keys) k where k <> all (coalesce(v_mine, '{}'));
    if p_wake then -- somebody claims, and looks at them
      perform fn_job_wake(x.executor)
      from (
        select distinct b.executor
        from unnest(p_keys) k
        cross join lateral (
          select j.executor from job_queue j
          where j.ordering_key = k and coalesce(j.ordering_slot, 0) = 0 and j.status in ('queued', 'retry_waiting')
          order by coalesce(j.freed_at, j.created_at), j.job_id limit 1) b) x;
    end if;
  end if;
end
$function$

-- Removes what counts towards no rate limit any more; how many rows.
CREATE OR REPLACE FUNCTION fn_job_rate_prune(p_limit integer DEFAULT 50000)
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_span interval;
  v_count bigint;
begin
  select greatest(interval '1 hour', max((fn_rate_parts(c.value)).span)) into v_span
  from dot_config c where c.key like 'job.%rate\_limit';
  delete from job_rate r
  where r.ctid = any (array(
    select o.ctid from job_rate o where o.claimed_at < clock_timestamp() - v_span limit p_limit for update skip locked));
  get diagnostics v_count = row_count;
  return v_count;
end
$function$

-- Rejects a waiting gate, which fails. Refused not_found or illegal_transition.
CREATE OR REPLACE FUNCTION fn_job_reject(p_job_id uuid, p_actor text, p_reason text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_job job_queue;
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_job_reject needs an actor and a reason' using errcode = '22023';
  end if;
  select j.* into v_job from job_queue j join job_gate g on g.job_id = j.job_id and g.kind = 'approval' where j.job_id = p_job_id for update of j;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'job_id', p_job_id);
  elsif v_job.status <> 'queued' or v_job.blocked_by <> 1 then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'job_id', p_job_id, 'status', v_job.status, 'blocked_by', v_job.blocked_by);
  end if;
  insert into job_approval (job_id, workflow_id, decision, effect_hash, actor, reason)
  values (p_job_id, v_job.workflow_id, 'rejected', fn_job_effect_hash(p_job_id), p_actor, p_reason);
  perform fn_job_gate_pass(p_job_id, 'failure', p_actor, format('rejected by %s: %s', p_actor, p_reason));
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'workflow_id', v_job.workflow_id, 'decision', 'rejected');
end
$function$

-- Puts a leased job back to queued; attempts stay as they are.
CREATE OR REPLACE FUNCTION fn_job_release(p_job_id uuid, p_lease_token bigint)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_job job_queue := fn_job_leased(p_job_id, p_lease_token);
begin
  if v_job.job_id is null then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  return fn_job_requeue(v_job, 'released', null, null);
end
$function$

-- Gives back what an executor leased lately without knowing it: {released}. Refused executor_not_registered, not_owner or executor_alive.
CREATE OR REPLACE FUNCTION fn_job_release_unknown(p_executor_name text, p_within interval, p_known uuid[], p_instance text DEFAULT NULL::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := clock_timestamp();
  v_released bigint;
  v_executor record;
begin
  -- with its lock the name cannot change hands before these jobs are back
  select h.instance, fn_executor_is_ours(h.owner_role) as is_ours into v_executor
  from queue_heartbeat h where h.executor_name = p_executor_name
  for share;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'executor_not_registered', 'executor_name', p_executor_name);
  elsif not v_executor.is_ours then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'executor_name', p_executor_name);
  elsif v_executor.instance <> p_instance then
    return jsonb_build_object('refused', true, 'reason', 'executor_alive', 'executor_name', p_executor_name);
  end if;
  select count(fn_job_requeue(f.job, 'released', 'the answer to its claim never came', null)) into v_released
  from (
    select j as job from job_queue j
    where j.lease_until is not null and j.lease_owner = p_executor_name and j.status = 'leased'
      and j.picked_at >= v_now - p_within and j.job_id <> all (p_known)
    for update skip locked) f;
  return jsonb_build_object('refused', false, 'executor_name', p_executor_name, 'released', v_released);
end
$function$

-- Lets a lease end p_lease_seconds from now (at least 1; null: queue.lease.duration_sec; a day at most), and tells whether cancellation was asked for.
CREATE OR REPLACE FUNCTION fn_job_renew(p_job_id uuid, p_lease_token bigint, p_lease_seconds integer DEFAULT NULL::integer)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := clock_timestamp();
  v_until timestamptz := v_now
    + make_interval(secs => least(86400, coalesce(p_lease_seconds, greatest(1, fn_config_number('queue.lease.duration_sec', 300)::int))));
  v_cancel timestamptz;
begin
  if p_lease_seconds < 1 then
    raise exception 'fn_job_renew: p_lease_seconds must be at least 1, not %', p_lease_seconds using errcode = '22023';
  end if;
  update job_queue j
  set lease_until = v_until, updated_at = v_now
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress') and j.lease_until > v_now
    and fn_lease_is_ours(j.lease_owner)
  returning j.cancel_requested_at into v_cancel;
  if not found then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'lease_until', v_until, 'cancel_requested', v_cancel is not null);
end
$function$

-- Takes back the jobs just made whose keys archived jobs hold; how many. Internal.
CREATE OR REPLACE FUNCTION fn_job_repeated(p_first uuid, p_last uuid)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_mine tid[];
  v_repeated uuid[];
begin
  if not exists (select from pg_class c where c.relname = 'job_archive_key' and c.relnamespace = quote_ident(current_schema())::regnamespace) then
    return 0; -- before phase 008
  elsif current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    with mine as (
      insert into job_archive_key (job_kind, idempotency_key, job_id, finished_at)
      select j.job_kind, j.idempotency_key, j.job_id, 'infinity' from job_queue j where j.job_id between p_first and p_last
      on conflict (job_kind, idempotency_key) do nothing
      returning ctid
    )
    select array_agg(m.ctid) into v_mine from mine m;
    delete from job_archive_key k where k.ctid = any (v_mine);
  elsif not exists (select from job_archive_key) then
    return 0;
  end if;
  -- offset 0: from the new jobs to the keys, not the other way round
  select array_agg(j.job_id) into v_repeated
  from job_queue j
  where j.job_id between p_first and p_last
    and exists (select from job_archive_key k where k.job_kind = j.job_kind and k.idempotency_key = j.idempotency_key offset 0);
  if v_repeated is null then
    return 0;
  end if;
  delete from job_queue j where j.job_id = any (v_repeated);
  return cardinality(v_repeated);
end
$function$

-- Moves a locked job back to queued, with its attempt. Internal.
CREATE OR REPLACE FUNCTION fn_job_requeue(p_job job_queue, p_outcome text, p_error text, p_at timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
  if (p_job).cancel_requested_at is not null then
    return fn_job_end_cancelled(p_job, p_error);
  end if;
  perform fn_job_attempt_end(p_job, p_outcome, p_error);
  update job_queue j
  set status = 'queued', lease_owner = null, lease_until = null, picked_at = null, started_at = null, updated_at = clock_timestamp(),
      scheduled_at = coalesce(p_at, j.scheduled_at), lease_losses = j.lease_losses + (p_outcome = 'lease_lost')::int,
      last_error = coalesce(left(p_error, 8000), j.last_error)
  where j.job_id = (p_job).job_id;
  if p_at is null or p_at <= clock_timestamp() or (p_job).limit_slot is not null then
    perform fn_job_wake((p_job).executor, array[(p_job).job_kind]);
  end if;
  return jsonb_build_object('refused', false, 'job_id', (p_job).job_id, 'status', 'queued', 'scheduled_at', coalesce(p_at, (p_job).scheduled_at));
end
$function$

-- The rows that an array of jobs calls for. Internal.
CREATE OR REPLACE FUNCTION fn_job_rows(p_jobs jsonb, p_first uuid, p_now timestamp with time zone)
 RETURNS TABLE(n integer, job_id uuid, job_kind text, actor text, safe_payload jsonb, source_ref text, idempotency_key text, target_ref text, payload_ref text, executor text, priority integer, scheduled_at timestamp with time zone, run_id uuid, ordering_key text, max_attempts integer, correlation_id text)
 LANGUAGE sql
 STABLE
BEGIN ATOMIC
 SELECT (g.n)::integer AS n,
     fn_uuid_v7_nth(fn_job_rows.p_first, (g.n)::integer) AS fn_uuid_v7_nth,
     g.job_kind,
     g.actor,
     COALESCE(g.safe_payload, '{}'::jsonb) AS "coalesce",
     g.source_ref,
     COALESCE(fn_job_key(g.idempotency_key), (fn_uuid_v7_nth(fn_job_rows.p_first, (g.n)::integer))::text) AS "coalesce",
     g.target_ref,
     g.payload_ref,
     COALESCE(g.executor, 'PG_worker'::text) AS "coalesce",
     COALESCE(g.priority, 100) AS "coalesce",
         CASE
             WHEN (g.scheduled_at IS NULL) THEN fn_job_rows.p_now
             ELSE fn_job_moment(g.scheduled_at)
         END AS fn_job_moment,
     g.run_id,
     g.ordering_key,
     g.max_attempts,
     g.correlation_id
    FROM ROWS FROM(jsonb_to_recordset(fn_job_rows.p_jobs) AS (job_kind text, actor text, safe_payload jsonb, source_ref text, idempotency_key text, target_ref text, payload_ref text, executor text, priority integer, scheduled_at timestamp with time zone, run_id uuid, ordering_key text, max_attempts integer, correlation_id text)) WITH ORDINALITY g(job_kind, actor, safe_payload, source_ref, idempotency_key, target_ref, payload_ref, executor, priority, scheduled_at, run_id, ordering_key, max_attempts, correlation_id, n);
END

-- Runs a leased job by its SQL handler and ends it, in one transaction.
CREATE OR REPLACE FUNCTION fn_job_run(p_job_id uuid, p_lease_token bigint, p_traceparent text DEFAULT NULL::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_path text := current_setting('search_path');
  v_trace text := current_setting('reveille.traceparent', true);
  v_run record;
  v_answer jsonb;
  v_done jsonb;
begin
  select * into v_run from fn_job_handler_of(p_job_id, p_lease_token);
  if not found then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  if v_run.handler is null then
    raise exception 'no handler: job_handler has no row for kind %', v_run.job ->> 'job_kind'
      using errcode = '42883', hint = 'Insert the kind and its function into job_handler.';
  end if;
  if p_traceparent is distinct from v_run.job ->> 'traceparent' and fn_traceparent(p_traceparent) is not null then
    v_run.job := v_run.job || jsonb_build_object('traceparent', p_traceparent);
  end if;
  perform set_config('reveille.traceparent', coalesce(v_run.job ->> 'traceparent', ''), true); -- for what the handler emits
  -- the handler finds its own schema first, then ours; afterwards the path is as it was
  perform set_config('search_path', format('%I, %s', (
    select n.nspname from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where p.oid = v_run.handler::regprocedure), v_path), true);
  execute format('select %s($1)', regexp_replace(v_run.handler, '\(jsonb\)$', '')) into v_answer using v_run.job;
  perform set_config('search_path', v_path, true);
  if v_answer ->> 'refused' = 'true' then
    raise exception 'refused by its handler: %', coalesce(v_answer ->> 'reason', v_answer::text) using errcode = 'RV001';
  end if;
  v_done := fn_job_succeed(p_job_id, p_lease_token, v_answer ->> 'result_ref');
  if v_done ->> 'refused' = 'true' then
    raise exception 'lease_lost: the lease of job % ended while its handler ran; the effect is undone', p_job_id using errcode = 'RV002';
  end if;
  perform set_config('reveille.traceparent', coalesce(v_trace, ''), true);
  return v_done || jsonb_build_object('answer', v_answer);
end
$function$

-- Places jobs of ordering keys, if there are any to be placed. Internal.
CREATE OR REPLACE FUNCTION fn_job_see_to_order(p_limit integer, p_now timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_mark text := current_setting('reveille.order_mark', true);
  v_from timestamptz := '-infinity';
  v_walked bigint := pg_stat_get_xact_tuples_returned('job_queue_unplaced_idx'::regclass);
  v_begun timestamptz;
begin
  if v_mark ~ '^[0-9]{1,15};[0-9]{1,15}$' and split_part(v_mark, ';', 1)::bigint > fn_epoch_ms(p_now) then
    v_from := to_timestamp(split_part(v_mark, ';', 2)::bigint / 1000.0);
  end if;
  if exists (
      select from job_queue j
      where j.ordering_key is not null and j.ordering_slot is null and j.status = 'queued' and j.created_at >= v_from)
    or exists (select from job_order_pending)
  then
    perform fn_job_place(least(1000, 10 + 2 * least(p_limit, 1000)), v_from);
  elsif pg_stat_get_xact_tuples_returned('job_queue_unplaced_idx'::regclass) - v_walked > 1000 then
    v_begun := clock_timestamp();
    perform set_config('reveille.order_mark', format('%s;%s',
      fn_epoch_ms(v_begun + least(20 * (v_begun - p_now), interval '10 seconds')), fn_epoch_ms(p_now - interval '1 second')), false);
  end if;
end
$function$

-- Puts a leased job back to queued, due at p_until; attempts stay as they are.
CREATE OR REPLACE FUNCTION fn_job_snooze(p_job_id uuid, p_lease_token bigint, p_until timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_job job_queue;
begin
  if p_until is null then
    raise exception 'fn_job_snooze: p_until is missing; name the moment at which the job shall be due again' using errcode = '22023';
  end if;
  perform fn_job_moment(p_until);
  v_job := fn_job_leased(p_job_id, p_lease_token);
  if v_job.job_id is null then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  return fn_job_requeue(v_job, 'snoozed', null, p_until);
end
$function$

-- leased → in_progress. Refused lease_lost for an old token, not_owner for another role's.
CREATE OR REPLACE FUNCTION fn_job_start(p_job_id uuid, p_lease_token bigint)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := clock_timestamp();
  v_cancel timestamptz;
begin
  update job_queue j
  set status = 'in_progress', started_at = coalesce(j.started_at, v_now), updated_at = v_now
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress') and j.lease_until > v_now
    and fn_lease_is_ours(j.lease_owner)
  returning j.cancel_requested_at into v_cancel;
  if not found then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'status', 'in_progress', 'cancel_requested', v_cancel is not null);
end
$function$

-- Ends a job well. Refused lease_lost for an old token, and nothing is changed; the same token may ask again.
CREATE OR REPLACE FUNCTION fn_job_succeed(p_job_id uuid, p_lease_token bigint, p_result_ref text DEFAULT NULL::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := clock_timestamp();
  v_job record;
begin
  update job_queue j
  set status = 'succeeded', finished_at = v_now, lease_until = null, started_at = coalesce(j.started_at, j.picked_at),
      result_ref = coalesce(p_result_ref, j.result_ref), updated_at = v_now
  where j.job_id = p_job_id and j.lease_token = p_lease_token and j.status in ('leased', 'in_progress') and j.lease_until > v_now
    and fn_lease_is_ours(j.lease_owner)
  returning j.ordering_key, j.limit_slot, j.executor, j.job_kind, j.workflow_id into v_job;
  if found then
    perform fn_job_tell(array[p_job_id], 'job_succeeded');
    if v_job.workflow_id is not null then
      perform fn_job_unblock(array[p_job_id], 'success');
    end if;
    perform fn_job_make_room(v_job.ordering_key, v_job.limit_slot, v_job.executor, v_job.job_kind);
  elsif not fn_job_has_succeeded(p_job_id, p_lease_token) then
    return fn_job_lease_lost(p_job_id, p_lease_token);
  end if;
  return jsonb_build_object('refused', false, 'job_id', p_job_id, 'status', 'succeeded');
end
$function$

-- Ends many jobs well: {succeeded, lease_lost: [ids]}. Raises 42501 when one is another role's.
CREATE OR REPLACE FUNCTION fn_job_succeed_many(p_job_ids uuid[], p_lease_tokens bigint[], p_result_refs text[] DEFAULT NULL::text[])
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_look record;
  v_number int;
begin
  if p_result_refs is null and p_lease_tokens[1] = all (p_lease_tokens) and cardinality(p_lease_tokens) = cardinality(p_job_ids) then
    select j.lease_owner, j.workflow_id is not null as is_step,
      not exists ( -- as fn_lease_is_ours
        select from queue_heartbeat h
        where h.executor_name = j.lease_owner and h.owner_role <> session_user and not fn_executor_is_ours(h.owner_role))
      and not exists (select from dot_config c where c.key like 'job.%.emit\_events' and c.value = 'true') as is_plain
    into v_look
    from job_queue j where j.job_id = p_job_ids[1];
    if v_look.is_plain then
      update job_queue j
      set status = 'succeeded', finished_at = clock_timestamp(), lease_until = null, started_at = coalesce(j.started_at, j.picked_at),
          updated_at = clock_timestamp()
      where j.job_id = any (p_job_ids)
        and j.lease_token = p_lease_tokens[1] and j.lease_owner = v_look.lease_owner and j.status in ('leased', 'in_progress')
        and (j.lease_until > clock_timestamp()) is true -- or it would be read by the index of the leases
        and j.ordering_key is null and j.limit_slot is null and (j.workflow_id is not null) = v_look.is_step;
      get diagnostics v_number = row_count;
      if v_look.is_step and v_number > 0 then -- to free once more what follows a step that had ended before changes nothing
        perform fn_job_unblock(case when v_number = cardinality(p_job_ids) then p_job_ids else array(
          select j.job_id from job_queue j
          where j.job_id = any (p_job_ids) and j.lease_token = p_lease_tokens[1] and j.status = 'succeeded' and j.workflow_id is not null) end, 'success');
      end if;
      if v_number = cardinality(p_job_ids) then
        return ('{"refused": false, "lease_lost": [], "succeeded": ' || v_number || '}')::jsonb;
      end if;
    end if;
  end if;
  return fn_job_succeed_mixed(p_job_ids, p_lease_tokens, p_result_refs);
end
$function$

-- fn_job_succeed_many for what is not plain. Internal.
CREATE OR REPLACE FUNCTION fn_job_succeed_mixed(p_job_ids uuid[], p_lease_tokens bigint[], p_result_refs text[])
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_nestloop TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_done record;
  v_lost jsonb;
begin
  with done as (
    update job_queue j
    set status = 'succeeded', finished_at = clock_timestamp(), lease_until = null, started_at = coalesce(j.started_at, j.picked_at),
        result_ref = coalesce(u.result_ref, j.result_ref), updated_at = clock_timestamp()
    from unnest(p_job_ids, p_lease_tokens, p_result_refs) as u (job_id, lease_token, result_ref)
    where j.job_id = any (p_job_ids)
      and j.job_id = u.job_id and j.lease_token = u.lease_token and j.status in ('leased', 'in_progress')
      and (j.lease_until > clock_timestamp()) is true -- or it would be read by the index of the leases
    returning j.job_id, j.lease_owner, j.ordering_key, j.workflow_id, case when j.limit_slot is not null then j.executor end as limited
  )
  select d.*,
    exists ( -- as fn_lease_is_ours
      select from queue_heartbeat h
      where h.executor_name = any (d.owners) and h.owner_role <> session_user and not fn_executor_is_ours(h.owner_role)) as is_foreign,
    exists (select from dot_config c where c.key like 'job.%.emit\_events' and c.value = 'true') as is_told
  into v_done
  from (
    select array_agg(d.job_id) as jobs, array_agg(d.lease_owner) as owners, count(*) as number,
      array_agg(d.ordering_key) filter (where d.ordering_key is not null) as keys,
      array_agg(d.job_id) filter (where d.workflow_id is not null) as steps,
      array_agg(d.limited::text) filter (where d.limited is not null) as limited
    from done d) d;
  if cardinality(p_job_ids) is distinct from cardinality(p_lease_tokens)
    or cardinality(p_job_ids) <> cardinality(p_result_refs)
  then
    raise exception 'fn_job_succeed_many: as many tokens (and result refs, if any) as jobs are needed' using errcode = '22023';
  elsif array_position(p_job_ids, null) is not null then
    raise exception 'fn_job_succeed_many: a job''s id is null' using errcode = '22023';
  end if;
  if v_done.is_foreign then
    raise exception 'not_owner: some of these jobs are leased under the name of another role; nothing was changed'
      using errcode = '42501';
  end if;
  if v_done.is_told and v_done.number > 0 then
    perform fn_job_tell(v_done.jobs, 'job_succeeded');
  end if;
  if v_done.steps is not null then
    perform fn_job_unblock(v_done.steps, 'success');
  end if;
  if v_done.keys is not null then
    perform fn_job_promote(v_done.keys);
  end if;
  if v_done.limited is not null then
    perform fn_job_wake(e, p_jobs => v_done.number) from (select distinct l from unnest(v_done.limited) l) u (e);
  end if;
  v_lost := case when v_done.number = cardinality(p_job_ids) then '[]' else (
    select coalesce(jsonb_agg(u.job_id), '[]')
    from unnest(p_job_ids, p_lease_tokens) as u (job_id, lease_token)
    where u.job_id <> all (coalesce(v_done.jobs, '{}')) and not fn_job_has_succeeded(u.job_id, u.lease_token)) end;
  return jsonb_build_object('refused', false, 'succeeded', cardinality(p_job_ids) - jsonb_array_length(v_lost), 'lease_lost', v_lost);
end
$function$

-- leased or in_progress → queued, against the will of its worker. Refused not_found or illegal_transition.
CREATE OR REPLACE FUNCTION fn_job_take_back(p_job_id uuid, p_actor text, p_reason text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_job job_queue;
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_job_take_back needs an actor and a reason' using errcode = '22023';
  end if;
  select j.* into v_job from job_queue j where j.job_id = p_job_id for update;
  if not found then
    return fn_job_gone(p_job_id);
  elsif v_job.status not in ('leased', 'in_progress') then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'job_id', p_job_id, 'status', v_job.status);
  end if;
  return fn_job_requeue(v_job, 'released', format('taken back by %s: %s', p_actor, p_reason), null);
end
$function$

-- Takes jobs of a lane whose kind has limits. Internal.
CREATE OR REPLACE FUNCTION fn_job_take_limited(p_executor text, p_lane job_lane, p_quota integer, p_limits jsonb, p_now timestamp with time zone, p_have integer[], OUT rows tid[], OUT slots integer[], OUT passed integer, OUT scheduled_at timestamp with time zone, OUT job_id uuid)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_concurrency text := p_limits ->> ('job.' || (p_lane).job_kind || '.concurrency_limit');
  v_rate text := p_limits ->> ('job.' || (p_lane).job_kind || '.rate_limit');
  v_key_rate text := p_limits ->> ('job.' || (p_lane).job_kind || '.key_rate_limit');
  v_room int := p_quota;
begin
  passed := 0;
  if coalesce(v_rate, v_key_rate) is not null then
    if not pg_try_advisory_xact_lock(hashtextextended(format('reveille.rate:%s:%s', current_schema(), (p_lane).job_kind), 0)) then
      return;
    end if;
    if v_rate is not null then
      v_room := least(v_room, (fn_rate_parts(v_rate)).jobs - (
        select coalesce(sum(r.jobs), 0) from job_rate r
        where r.rate_key = (p_lane).job_kind and r.claimed_at > p_now - (fn_rate_parts(v_rate)).span));
    end if;
  end if;
  if v_concurrency is not null and v_room > 0 then
    slots := fn_job_limit_slots((p_lane).job_kind, (fn_rate_parts(v_concurrency)).jobs, v_room, p_have);
    v_room := cardinality(slots);
  end if;
  if v_room <= 0 then
    return;
  end if;
  select array_agg(t.ctid), (array_agg(t.scheduled_at))[count(*)], (array_agg(t.job_id))[count(*)], count(*)::int
  into rows, scheduled_at, job_id, passed
  from (
    select j.ctid, j.scheduled_at, j.job_id
    from job_queue j
    where j.executor = p_executor and j.claimable and j.lane = (p_lane).lane and j.priority = (p_lane).priority
      and (j.scheduled_at, j.job_id) > ((p_lane).scheduled_at, (p_lane).job_id) and j.scheduled_at <= p_now
    order by j.scheduled_at, j.job_id
    limit v_room
    for update skip locked) t;
  if v_key_rate is not null and passed > 0 then
    rows := fn_job_limit_keys(rows, (p_lane).job_kind, v_key_rate, p_now);
  end if;
  if v_rate is not null and cardinality(rows) > 0 then
    insert into job_rate (rate_key, claimed_at, jobs) values ((p_lane).job_kind, p_now, cardinality(rows));
  end if;
  slots := slots[1:cardinality(rows)];
end
$function$

-- Emits dot.job_succeeded, dot.job_failed or dot.job_dead_lettered for jobs whose kind asks for it. Internal.
CREATE OR REPLACE FUNCTION fn_job_tell(p_job_ids uuid[], p_event_type text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_max int;
  v_job job_queue;
  v_chain jsonb;
begin
  if not exists (select from dot_config c where c.key like 'job.%.emit\_events' and c.value = 'true')
    or not exists (
      select from event_type_registry r where r.event_domain = 'dot' and r.event_type = p_event_type and r.active)
  then
    return;
  end if;
  v_max := fn_config_number('queue.chain.max_depth', 16)::int;
  begin
    for v_job in
      select j.* from job_queue j
      where j.job_id = any (p_job_ids)
        and exists (select from dot_config c where c.key = 'job.' || j.job_kind || '.emit_events' and c.value = 'true')
      order by j.job_id
    loop
      v_chain := case jsonb_typeof(v_job.safe_payload -> 'chain') when 'array' then v_job.safe_payload -> 'chain' else '[]' end
        || to_jsonb(v_job.job_kind::text);
      if jsonb_array_length(v_chain) > v_max then
        insert into dispatch_error as d (event_id, consumer_key, event_domain, sqlstate, message)
        values (coalesce(v_job.causation_event_id, v_job.job_id), coalesce(v_job.consumer_key, v_job.job_kind), 'dot', 'RV003',
          format('dot.%s was not emitted: the chain is longer than %s jobs and comes back to itself: %s', p_event_type, v_max, v_chain))
        on conflict (event_id, consumer_key) do update
        set message = excluded.message, tries = d.tries + 1, last_at = clock_timestamp();
      else
        perform fn_event_emit('dot', p_event_type, v_job.job_id::text, jsonb_strip_nulls(jsonb_build_object(
            'job_id', v_job.job_id, 'job_kind', v_job.job_kind, 'status', v_job.status, 'source_ref', v_job.source_ref,
            'result_ref', v_job.result_ref, 'attempts', v_job.attempts, 'causation_event_id', v_job.causation_event_id, 'chain', v_chain,
            'traceparent', v_job.traceparent)),
          p_event_subject_table => 'job_queue', p_actor_ref => v_job.lease_owner,
          p_correlation_id => coalesce(v_job.correlation_id, v_job.job_id::text));
      end if;
    end loop;
  exception when others then
    insert into dispatch_error as d (event_id, consumer_key, event_domain, sqlstate, message)
    values (p_job_ids[1], 'job_to_event', 'dot', sqlstate, format('dot.%s was not emitted: %s', p_event_type, sqlerrm))
    on conflict (event_id, consumer_key) do update
    set message = excluded.message, sqlstate = excluded.sqlstate, tries = d.tries + 1, last_at = clock_timestamp();
  end;
end
$function$

-- Frees or skips what needs jobs that have ended. Internal.
CREATE OR REPLACE FUNCTION fn_job_unblock(p_job_ids uuid[], p_outcome text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_ended uuid[] := p_job_ids;
  v_all uuid[] := p_job_ids;
  v_outcome text := p_outcome;
  v_met uuid[];
  v_skipped uuid[];
  v_gates uuid[];
  v_now timestamptz := clock_timestamp(); -- one for all: who becomes free together waits in the order of the template
  v_moving uuid[]; -- workflows that go on, and need not be looked at
  v_turns text[];
  v_free record;
begin
  loop
    with changed as (
      update job_dependency d
      set state = case
        when d.on_outcome in ('always', v_outcome) or d.otherwise = 'continue' then 'met'
        when d.otherwise = 'skip' then 'skipped' else 'failed' end
      where d.needs_job_id = any (v_ended) and d.state is distinct from 'met'
      returning d.job_id, d.state
    )
    select array_agg(c.job_id) filter (where c.state = 'met'), array_agg(distinct c.job_id) filter (where c.state = 'skipped')
    into v_met, v_skipped from changed c;
    if v_skipped is not null then -- what is only freed is taken in this order by the UPDATE itself
      perform from job_queue j where j.job_id = any (v_met || v_skipped) order by j.job_id for update;
    end if;
    if v_met is not null then
      with freed as (
        update job_queue j
        set blocked_by = j.blocked_by - m.met, updated_at = clock_timestamp(),
            scheduled_at = case j.blocked_by when m.met then greatest(j.scheduled_at, v_now) else j.scheduled_at end -- it waits from now on
        from (select u.job_id, count(*)::int as met from unnest(v_met) u (job_id) group by u.job_id order by u.job_id) m
        where j.job_id = m.job_id and j.status = 'queued'
        returning j.job_id, j.executor, j.job_kind, j.blocked_by, j.scheduled_at, j.workflow_id
      )
      select array_agg(f.job_id) filter (where f.blocked_by = 1) as nearly,
        array_agg(f.workflow_id) filter (where f.blocked_by = 0) as moving,
        array_agg(f.executor::text || ' ' || f.job_kind) filter (where f.blocked_by = 0 and f.scheduled_at <= clock_timestamp()) as ready
      into v_free from freed f;
      v_moving := v_moving || v_free.moving;
      if v_free.ready is not null then
        perform fn_job_wake(r.executor, array_agg(r.job_kind), sum(r.n)::int)
        from (select split_part(e, ' ', 1) as executor, split_part(e, ' ', 2) as job_kind, count(*) as n from unnest(v_free.ready) e group by e) r
        group by r.executor;
      end if;
      if v_free.nearly is not null then
        v_gates := v_gates || array(select g.job_id from job_gate g where g.job_id = any (v_free.nearly) and g.event_id is not null);
      end if;
    end if;
    exit when v_skipped is null;
    with ended as (
      update job_queue j
      set status = 'cancelled', finished_at = clock_timestamp(), updated_at = clock_timestamp(),
          cancel_reason = 'skipped: a step that it needs did not end as it wants'
      where j.job_id = any (v_skipped) and j.status in ('queued', 'retry_waiting') and j.workflow_id is not null
      returning j.job_id, case when j.ordering_slot > 0 then j.ordering_key end as turn
    )
    select array_agg(e.job_id), array_agg(distinct e.turn) filter (where e.turn is not null) into v_ended, v_turns from ended e;
    exit when v_ended is null;
    perform fn_job_promote(v_turns) where v_turns is not null;
    v_all := v_all || v_ended;
    v_outcome := 'skipped';
  end loop;
  perform fn_job_gate_pass(g, 'success', 'event') from unnest(v_gates) g;
  perform fn_job_workflow_settle(array(
    select fn_uuid_v7_nth(u, 0) from unnest(v_all) u except select unnest(v_moving) order by 1), p_job_ids);
end
$function$

-- Wakes as many executors as there are jobs to begin. Internal.
CREATE OR REPLACE FUNCTION fn_job_wake(p_executor text, p_job_kinds text[] DEFAULT NULL::text[], p_jobs bigint DEFAULT 1, p_but text DEFAULT NULL::text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_channel text := 'job_wake_' || lower(p_executor);
  v_names text[] := '{}';
begin
  if p_jobs < 1 or fn_wake_mark(v_channel) > fn_epoch_ms(clock_timestamp()) or current_setting('reveille.notify', true) = 'off'
    or coalesce((select c.value from dot_config c where c.key = 'queue.notify.bridge_enabled'), '') <> 'true'
  then
    return; -- nothing to tell, or somebody looks by himself, or fn_wake would not tell it
  end if;
  if p_jobs < 32
    and exists (select from pg_class c where c.relname = 'queue_heartbeat' and c.relnamespace = quote_ident(current_schema())::regnamespace)
  then
    v_names := array(
      select h.executor_name
      from (
        select q.executor_name from queue_heartbeat q
        where q.executor_kind = p_executor and q.wakes_for <> '{}' and (p_job_kinds is null or q.wakes_for && p_job_kinds)
          and q.executor_name is distinct from p_but
          and q.last_beat_at > clock_timestamp() - make_interval(secs => q.stale_threshold_seconds)
        order by random()
        limit 64) h
      where fn_executor_is_at_rest(h.executor_name)
      limit p_jobs);
  end if;
  if cardinality(v_names) < p_jobs then
    if p_but is not null and not exists (
      select from fn_executors_live(p_executor) e
      join queue_heartbeat q on q.executor_name = e.executor_name
      where q.executor_name <> p_but and (q.wakes_for is null or p_job_kinds is null or q.wakes_for && p_job_kinds))
    then
      return;
    end if;
    v_names := array[''];
  end if;
  perform fn_wake(v_channel, n) from unnest(v_names) n;
end
$function$

-- Cancels a workflow: {status, cancelled, requested}. Refused not_found or illegal_transition.
CREATE OR REPLACE FUNCTION fn_job_workflow_cancel(p_workflow_id uuid, p_actor text, p_reason text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_job_workflow_cancel needs an actor and a reason' using errcode = '22023';
  end if;
  return fn_job_workflow_stop(p_workflow_id, left(p_actor || ': ' || p_reason, 2000));
end
$function$

-- Findings about workflows, the oldest of each sort: approval_waiting, event_waiting, failed_holding.
CREATE OR REPLACE FUNCTION fn_job_workflow_check(p_limit integer DEFAULT 20, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS TABLE(workflow_id uuid, severity text, finding text, what text, hint text, age_seconds numeric)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_approval interval := make_interval(secs => fn_config_number('queue.workflow.approval_threshold_seconds', 86400)::float8);
  v_event interval := make_interval(secs => fn_config_number('queue.workflow.event_threshold_seconds', 86400)::float8);
begin
  return query
  select r.workflow_id, 'error', r.finding,
    r.what || case when r.place = p_limit and r.total > p_limit then format(' (and %s more like it)', r.total - p_limit) else '' end,
    r.hint, round(extract(epoch from v_now - r.since)::numeric, 3)
  from (
    select f.*, row_number() over (partition by f.finding order by f.since, f.workflow_id, f.what) as place, count(*) over (partition by f.finding) as total
    from (
      select g.workflow_id, g.kind || '_waiting' as finding, format('its step %s (%s) waits for %s', g.step, g.template, g.waits_for) as what, g.since,
        case g.kind
          when 'approval' then format('reveille workflows approve %1$s %2$s, or reveille workflows reject %1$s %2$s --reason TEXT', g.workflow_id, s.word)
          else format('reveille workflows show %1$s; if the event will not come, reveille workflows cancel %1$s --reason TEXT', g.workflow_id) end as hint
      from fn_job_gate_waiting() g
      cross join lateral (select case when g.step ~ '^[A-Za-z0-9_.:/@~-]+$' then g.step else quote_literal(g.step) end as word) s
      where g.since < v_now - case g.kind when 'approval' then v_approval else v_event end
      union all
      select w.workflow_id, 'failed_holding', format('%s has failed, and %s of its jobs wait for what failed', w.template_key || '@' || w.template_version, b.jobs),
        w.finished_at, format('reveille workflows retry %1$s --reason TEXT --apply, or reveille workflows cancel %1$s --reason TEXT', w.workflow_id)
      from (
        select x.* from job_workflow x
        where x.status in ('failed', 'partially_failed') and x.outcome ->> 'blocked' <> '0' order by x.finished_at limit 10000) w
      cross join lateral (
        select count(*) as jobs from job_queue j where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id and j.status = 'queued' and j.blocked_by > 0) b
      where b.jobs > 0) f) r
  where r.place <= p_limit
  order by r.finding, r.place;
end
$function$

-- Workflows in numbers: {active, failed_holding, gates: {approval, event: {waiting, oldest_seconds}}}.
CREATE OR REPLACE FUNCTION fn_job_workflow_counts(p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
  return (
    select jsonb_build_object(
      'active', (select count(*) from (select from job_workflow w where w.status = 'active' limit 10000) a),
      'failed_holding', (
        select count(*)
        from (
          select from job_workflow w
          where w.status in ('failed', 'partially_failed') and w.outcome ->> 'blocked' <> '0'
            and exists (select from job_queue j where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id and j.status = 'queued' and j.blocked_by > 0)
          limit 10000) f),
      'gates', jsonb_object_agg(k.kind, jsonb_build_object('waiting', coalesce(g.waiting, 0),
        'oldest_seconds', coalesce(greatest(0, round(extract(epoch from coalesce(p_now, clock_timestamp()) - g.since)::numeric, 3)), 0))))
    from unnest(array['approval', 'event']) k (kind)
    left join (select w.kind, count(*) as waiting, min(w.since) as since from fn_job_gate_waiting() w group by 1) g on g.kind = k.kind);
end
$function$

-- Repairs and ends one active workflow: {repaired, finished}. Internal.
CREATE OR REPLACE FUNCTION fn_job_workflow_mend(p_workflow_id uuid)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_repaired int := 0;
  v_count int;
  v_job record;
begin
  update job_gate g set closed_at = null
  where g.workflow_id = p_workflow_id and g.closed_at is not null and exists (
    select from job_queue j where j.job_id = g.job_id and j.status = 'queued');
  for v_job in
    select j.job_id, case when j.status in ('succeeded', 'cleaned') then 'success' when j.status in ('failed', 'dead_letter') then 'failure'
      when j.cancel_reason like 'skipped: %' then 'skipped' else 'cancelled' end as outcome
    from job_queue j
    where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id and j.status in ('succeeded', 'cleaned', 'failed', 'dead_letter', 'cancelled')
      and exists (select from job_dependency d where d.needs_job_id = j.job_id and d.state is null)
  loop
    perform fn_job_unblock(array[v_job.job_id], v_job.outcome);
    v_repaired := v_repaired + 1;
  end loop;
  with counted as (
    select j.job_id, (select count(*) from job_dependency d where d.job_id = j.job_id and d.state is distinct from 'met')
      + (select count(*) from job_gate g where g.job_id = j.job_id) as needs
    from job_queue j
    where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id and j.status = 'queued' and (j.blocked_by > 0
      or exists (select from job_dependency d where d.job_id = j.job_id and d.state is distinct from 'met'))
  )
  update job_queue j
  set blocked_by = c.needs, updated_at = clock_timestamp(),
      scheduled_at = case c.needs when 0 then greatest(j.scheduled_at, clock_timestamp()) else j.scheduled_at end
  from counted c
  where c.job_id = j.job_id and j.status = 'queued' and j.blocked_by <> c.needs;
  get diagnostics v_count = row_count;
  if v_count > 0 then
    v_repaired := v_repaired + v_count;
    perform fn_job_wake(j.executor, array_agg(distinct j.job_kind::text), count(*))
    from job_queue j where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id and j.status = 'queued' and j.blocked_by = 0 and j.scheduled_at <= clock_timestamp()
    group by j.executor;
  end if;
  perform fn_job_gate_pass(g.job_id, 'success', 'event')
  from job_gate g join job_queue j on j.job_id = g.job_id
  where g.workflow_id = p_workflow_id and g.event_id is not null and j.status = 'queued' and j.blocked_by = 1;
  perform fn_job_workflow_settle(array[p_workflow_id]);
  update job_workflow w set updated_at = clock_timestamp() where w.workflow_id = p_workflow_id and w.status = 'active';
  return jsonb_build_object('repaired', v_repaired, 'finished', (not found)::int);
end
$function$

-- Repairs and ends active workflows: {started, checked, repaired, expired, finished, more}; more waits to be started, or is over, when it says so.
CREATE OR REPLACE FUNCTION fn_job_workflow_refresh(p_limit integer DEFAULT 100, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_workflow uuid;
  v_answer jsonb;
  v_start record;
  v_checked int := 0;
  v_repaired int := 0;
  v_gates record;
  v_finished int := 0;
begin
  if p_limit is null or p_limit < 1 then
    raise exception 'fn_job_workflow_refresh: p_limit must be at least 1' using errcode = '22023';
  end if;
  v_start := fn_mot_start();
  v_gates := fn_job_gate_expire(10 * least(p_limit, 1000), coalesce(p_now, clock_timestamp()));
  for v_workflow in -- taken by their age, looked after in the order in which whoever ends jobs of several locks them (trap 17)
    select w.workflow_id
    from (select a.workflow_id from job_workflow a where a.status = 'active' order by a.updated_at limit p_limit) w
    order by w.workflow_id
  loop
    v_answer := fn_job_workflow_mend(v_workflow);
    v_checked := v_checked + 1;
    v_repaired := v_repaired + (v_answer ->> 'repaired')::int;
    v_finished := v_finished + (v_answer ->> 'finished')::int;
  end loop;
  return jsonb_build_object('refused', false, 'started', v_start.started, 'checked', v_checked, 'repaired', v_repaired, 'expired', v_gates.expired, 'finished', v_finished,
    'more', v_gates.more or v_start.more);
end
$function$

-- Removes workflows whose steps have left the archive, cancels those that failed long ago: {dry_run, kept_from, failed, cancelled, found, pruned, edges, more}. Refused archive_disabled.
CREATE OR REPLACE FUNCTION fn_job_workflow_retention(p_limit integer DEFAULT 100, p_dry_run boolean DEFAULT true, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_is_open boolean := fn_gate_is_open('queue.archive.enabled');
  v_dry boolean := coalesce(p_dry_run, not v_is_open);
  v_days numeric := nullif(fn_config_number('queue.retention.failed_workflow_days', null), 0);
  v_before timestamptz := coalesce(p_now, clock_timestamp()) - make_interval(secs => (v_days * 86400)::double precision);
  v_kept_from timestamptz;
  v_failed uuid[];
  v_over uuid[];
  v_edges tid[];
  v_workflow uuid;
  v_cancelled int := 0;
begin
  if p_limit is null or p_limit < 1 then
    raise exception 'fn_job_workflow_retention: p_limit must be at least 1' using errcode = '22023';
  elsif not v_dry and not v_is_open then
    return jsonb_build_object('refused', true, 'reason', 'archive_disabled');
  end if;
  v_failed := array(
    select w.workflow_id from job_workflow w
    where w.status in ('failed', 'partially_failed') and w.finished_at < v_before
    order by w.finished_at
    limit p_limit);
  if not v_dry then
    foreach v_workflow in array v_failed loop -- judged anew once its steps are locked
      v_cancelled := v_cancelled + (fn_job_workflow_stop(v_workflow, format('retention: nobody decided about it within %s days', v_days), v_before)
        ->> 'refused' = 'false')::int;
    end loop;
  end if;
  select to_timestamp(min(right(c.relname, 7)), 'YYYY_MM')::timestamp at time zone 'UTC' into v_kept_from
  from pg_class a
  join pg_inherits i on i.inhparent = a.oid
  join pg_class c on c.oid = i.inhrelid
  where a.relname = 'job_archive' and a.relnamespace = quote_ident(current_schema())::regnamespace and c.relname ~ '^job_archive_\d{4}_\d{2}$';
  if v_dry then
    v_over := array(
      select w.workflow_id from job_workflow w
      where w.status in ('succeeded', 'cancelled') and w.finished_at < v_kept_from
        and not exists (select from job_queue j where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id)
        and not exists (select from job_archive a where a.workflow_id = w.workflow_id)
      order by w.finished_at
      limit p_limit);
    v_edges := array(
      select d.ctid from job_dependency d
      where d.needs_job_id < fn_uuid_v7_floor(v_kept_from)
        and not exists (select from job_queue j where j.job_id in (d.needs_job_id, d.job_id))
        and not exists (select from job_archive a where a.job_id in (d.needs_job_id, d.job_id))
      order by d.needs_job_id, d.job_id
      limit p_limit * 50);
  else
    v_over := array(
      select w.workflow_id from job_workflow w
      where w.status in ('succeeded', 'cancelled') and w.finished_at < v_kept_from
        and not exists (select from job_queue j where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id)
        and not exists (select from job_archive a where a.workflow_id = w.workflow_id)
      order by w.finished_at
      limit p_limit
      for update of w skip locked);
    v_edges := array(
      select d.ctid from job_dependency d
      where d.needs_job_id < fn_uuid_v7_floor(v_kept_from)
        and not exists (select from job_queue j where j.job_id in (d.needs_job_id, d.job_id))
        and not exists (select from job_archive a where a.job_id in (d.needs_job_id, d.job_id))
      order by d.needs_job_id, d.job_id
      limit p_limit * 50
      for update of d skip locked);
    delete from job_dependency d where d.ctid = any (v_edges);
    delete from job_approval a where a.workflow_id = any (v_over);
    delete from job_gate g where g.workflow_id = any (v_over);
    delete from job_workflow w where w.workflow_id = any (v_over);
  end if;
  return jsonb_build_object('refused', false, 'dry_run', v_dry, 'kept_from', v_kept_from, 'failed', cardinality(v_failed), 'cancelled', v_cancelled,
    'found', cardinality(v_over), 'pruned', case when v_dry then 0 else cardinality(v_over) end, 'edges', cardinality(v_edges),
    'more', p_limit in (cardinality(v_failed), cardinality(v_over)) or cardinality(v_edges) = p_limit * 50);
end
$function$

-- Retries a failed workflow from its failed and cancelled steps: {dry_run, retried, were_cancelled, made_anew}. Refused not_found, illegal_transition, and as a replay is.
CREATE OR REPLACE FUNCTION fn_job_workflow_retry(p_workflow_id uuid, p_actor text, p_reason text, p_dry_run boolean DEFAULT true)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_workflow job_workflow;
  v_failed uuid[];
  v_cancelled int; -- of the failed, as a retry takes them
  v_skipped uuid[];
  v_job record;
  v_answer jsonb;
  v_new uuid;
  v_last int; -- the number of the newest job
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_job_workflow_retry needs an actor and a reason' using errcode = '22023';
  end if;
  if not coalesce(p_dry_run, true) then
    -- letters, then jobs, as a replay locks them: whoever retries or cancels it at the same time comes before or after, not between
    perform from job_dead_letter d
    where d.job_id in (select j.job_id from job_queue j where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id) and d.replayed_at is null
    order by d.dead_letter_id
    for update;
    perform from job_queue j where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id order by j.status in ('queued', 'retry_waiting'), j.job_id for update;
  end if;
  select w.* into v_workflow from job_workflow w where w.workflow_id = p_workflow_id;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'workflow_id', p_workflow_id);
  elsif v_workflow.status not in ('failed', 'partially_failed') and not (
    -- a dead letter may hold the ordering key of what is to go on: such a workflow ends by no other way
    v_workflow.status = 'active' and exists (
      select from job_queue j
      where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id and j.status = 'dead_letter'))
  then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'workflow_id', p_workflow_id, 'status', v_workflow.status);
  end if;
  select coalesce(array_agg(j.job_id order by j.job_id), '{}'), count(*) filter (where j.status = 'cancelled') into v_failed, v_cancelled
  from job_queue j
  where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id
    and (j.status in ('failed', 'dead_letter') or j.status = 'cancelled' and coalesce(j.cancel_reason, '') not like 'skipped: %');
  -- skipped because of them, directly or by way of others that were
  with recursive reached as (
    select d.job_id from job_dependency d where d.needs_job_id = any (v_failed) and d.state = 'skipped'
    union
    select d.job_id from reached r join job_dependency d on d.needs_job_id = r.job_id and d.state = 'skipped'
  )
  select coalesce(array_agg(r.job_id order by r.job_id), '{}') into v_skipped
  from reached r join job_queue j on j.job_id = r.job_id where j.status = 'cancelled';
  if coalesce(p_dry_run, true) then
    return jsonb_build_object('refused', false, 'dry_run', true, 'workflow_id', p_workflow_id, 'retried', cardinality(v_failed), 'were_cancelled', v_cancelled,
      'made_anew', cardinality(v_skipped) + (select count(*) from job_queue j where j.job_id = any (v_failed) and j.status <> 'dead_letter'));
  end if;
  for v_job in
    select j.*, d.dead_letter_id, exists (select from job_gate g where g.job_id = j.job_id) as is_gate
    from job_queue j
    left join job_dead_letter d on d.job_id = j.job_id and j.status = 'dead_letter' and d.replayed_at is null
    where j.job_id = any (v_failed)
    order by j.job_id
  loop
    if v_job.status = 'dead_letter' then
      v_answer := fn_job_dead_letter_triage(v_job.dead_letter_id, 'manual_replay', p_actor, p_reason);
      if not (v_answer ->> 'refused')::boolean then
        v_answer := fn_job_dead_letter_replay(v_job.dead_letter_id, format('workflow retry by %s: %s', p_actor, p_reason), false);
      end if;
      if (v_answer ->> 'refused')::boolean then
        raise exception '%', v_answer ->> 'reason' using errcode = 'RV001'; -- all or nothing
      end if;
    else
      v_skipped := v_skipped || v_job.job_id; -- failed rests, and cancelled is an end: a new job in its place
    end if;
  end loop;
  v_last := (
    select max(('x' || right(u.job_id::text, 8))::bit(32)::int)
    from (
      select j.job_id from job_queue j where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1)
      union all
      select a.job_id from job_archive a where a.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1)) u);
  foreach v_new in array v_skipped loop
    declare
      v_old uuid := v_new;
    begin
      v_last := v_last + 1;
      v_new := fn_uuid_v7_nth(p_workflow_id, v_last);
      insert into job_queue (
        job_id, job_kind, actor, executor, event_domain, safe_payload, source_ref, target_ref, payload_ref, idempotency_key, ordering_key, priority,
        max_attempts, policy, workflow_id, parent_job_id, blocked_by, causation_event_id, consumer_key, correlation_id, traceparent)
      select v_new, j.job_kind, p_actor, j.executor, j.event_domain, j.safe_payload, j.source_ref, j.target_ref, j.payload_ref,
        fn_job_key(regexp_replace(j.idempotency_key, '~\d+$', '') || '~' || (coalesce(substring(j.idempotency_key from '~(\d+)$')::int, 1) + 1)),
        j.ordering_key, j.priority, j.max_attempts, j.policy, j.workflow_id, v_old, 1, j.causation_event_id, j.consumer_key, j.correlation_id, j.traceparent
      from job_queue j where j.job_id = v_old;
      update job_queue j set workflow_id = null where j.job_id = v_old; -- its place is taken; parent_job_id leads back to it
      update job_dependency d set job_id = v_new, state = case when d.state = 'met' then d.state end where d.job_id = v_old;
      update job_dependency d set needs_job_id = v_new, state = case when d.state = 'met' then d.state end where d.needs_job_id = v_old;
      update job_gate g set job_id = v_new, expires_at = clock_timestamp() + (g.expires_at - g.created_at), created_at = clock_timestamp() where g.job_id = v_old;
    end;
  end loop;
  update job_workflow w set status = 'active', finished_at = null, outcome = null, updated_at = clock_timestamp() where w.workflow_id = p_workflow_id;
  perform fn_job_workflow_mend(p_workflow_id); -- counts what the new ones wait for, and frees them
  return jsonb_build_object('refused', false, 'dry_run', false, 'workflow_id', p_workflow_id, 'retried', cardinality(v_failed), 'were_cancelled', v_cancelled,
    'made_anew', cardinality(v_skipped));
exception when sqlstate 'RV001' then
  return jsonb_build_object('refused', true, 'reason', sqlerrm, 'workflow_id', p_workflow_id);
end
$function$

-- Ends those of the workflows in which nothing moves any more; answers how many. Internal.
CREATE OR REPLACE FUNCTION fn_job_workflow_settle(p_workflow_ids uuid[], p_ended uuid[] DEFAULT '{}'::uuid[])
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_still uuid[] := case
    when current_setting('transaction_isolation') in ('repeatable read', 'serializable') then p_workflow_ids -- what looks free may have ended since
    else array(
      select w.workflow_id from unnest(p_workflow_ids) w (workflow_id)
      where not exists ( -- free and not begun: it will end later, and settle then
        select from job_queue j where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id and j.blocked_by = 0 and j.status in ('queued', 'retry_waiting'))) end;
  v_left uuid[] := array(select unnest(p_workflow_ids) except select unnest(v_still) order by 1);
  v_late uuid[] := '{}'; -- of those, what was free has been taken meanwhile
  v_over uuid[] := '{}'; -- ended well, and seen
  v_locked uuid[];
  v_ended int := 0;
begin
  -- all that there was has ended well, and is seen: nobody can end anything else of it, so that there is nothing to wait for
  if cardinality(v_still) > 0 then
    with over as (
      update job_workflow w
      set outcome = c.outcome, finished_at = clock_timestamp(), updated_at = clock_timestamp(),
          status = case when w.cancel_reason is null then 'succeeded' else 'cancelled' end
      from unnest(v_still) s (workflow_id)
      cross join lateral (
        select jsonb_build_object('succeeded', count(*) filter (where j.status <> 'cancelled'), 'failed', 0,
          'skipped', count(*) filter (where j.status = 'cancelled'), 'cancelled', 0, 'blocked', 0) as outcome
        from job_queue j
        where j.job_id between s.workflow_id and fn_uuid_v7_nth(s.workflow_id, -1) and j.workflow_id = s.workflow_id
        having bool_and(j.status in ('succeeded', 'cleaned') or j.status = 'cancelled' and coalesce(j.cancel_reason, '') like 'skipped: %')) c
      where w.workflow_id = s.workflow_id and (w.status = 'active') is true -- or it would be read by the index of the active ones
      returning w.workflow_id
    )
    select array_agg(o.workflow_id) into v_over from over o;
    v_over := coalesce(v_over, '{}');
    if cardinality(v_over) = cardinality(p_workflow_ids) then
      return cardinality(v_over);
    elsif cardinality(v_over) > 0 then
      v_still := array(select unnest(v_still) except select unnest(v_over) order by 1);
    end if;
  end if;
  if cardinality(v_left) > 0 then
    -- what is free may be claimed and ended before we have committed, by somebody who does not see our end: he waits for this lock.
    -- Whoever was faster than it is seen now. Jobs that were claimed in the transaction that ends them, or are cancelled without
    -- a claim, look free to another one of that kind: the two must not pass each other
    if exists (
      select from job_queue j
      where j.job_id = any (p_ended) and (j.status = 'cancelled' or j.picked_at is null or j.picked_at >= transaction_timestamp()))
    then
      perform from job_workflow w where w.workflow_id = any (v_left) and w.status = 'active' order by w.workflow_id for update;
    else
      perform from job_workflow w where w.workflow_id = any (v_left) and w.status = 'active' order by w.workflow_id for key share;
    end if;
    v_late := array(
      select w.workflow_id from unnest(v_left) w (workflow_id)
      where not exists (
        select from job_queue j
        where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id
          and j.blocked_by = 0 and j.status in ('queued', 'retry_waiting')));
  end if;
  if cardinality(v_still) + cardinality(v_late) = 0 then
    return cardinality(v_over);
  end if;
  v_locked := array(
    select w.workflow_id from job_workflow w
    where w.workflow_id = any (v_still) and w.status = 'active'
    order by w.workflow_id
    for update);
  -- several that came this way hold the weak lock already, and would wait for each other: this one stands beside it, and only one has it
  v_locked := v_locked || array(
    select w.workflow_id from job_workflow w
    where w.workflow_id = any (v_late) and w.status = 'active'
    order by w.workflow_id
    for no key update);
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    -- whoever left the workflow to us has only locked its row, which leaves no trace. What seems to move is looked at: if it
    -- has changed behind our snapshot, this is 40001. What is locked now ends behind us, and waits for the workflow
    perform from unnest(v_locked) l (workflow_id)
    cross join lateral (
      select from job_queue j
      where j.job_id between l.workflow_id and fn_uuid_v7_nth(l.workflow_id, -1) and j.workflow_id = l.workflow_id
        and (j.status in ('leased', 'in_progress', 'retry_waiting') or j.status = 'queued' and j.blocked_by = 0)
      limit 1
      for share skip locked) m;
  end if;
  -- a statement of its own: it sees what others have ended before they let go of the workflow
  update job_workflow w
  set outcome = c.outcome, finished_at = clock_timestamp(), updated_at = clock_timestamp(), status = case
    when w.cancel_reason is not null then 'cancelled'
    when c.bad = 0 then 'succeeded'
    when exists ( -- an end of the graph was reached
      select from job_queue j
      where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id and j.status = 'succeeded'
        and not exists (select from job_dependency d where d.needs_job_id = j.job_id)) then 'partially_failed'
    else 'failed' end
  from unnest(v_locked) l (workflow_id)
  cross join lateral (
    select
      count(*) filter (where j.status in ('failed', 'dead_letter', 'queued')
        or j.status = 'cancelled' and coalesce(j.cancel_reason, '') not like 'skipped: %') as bad,
      count(*) filter (where j.status in ('leased', 'in_progress', 'retry_waiting') or j.status = 'queued' and (
        j.blocked_by = 0 or j.blocked_by = 1 and exists (select from job_gate g where g.job_id = j.job_id))) as moving,
      jsonb_build_object(
        'succeeded', count(*) filter (where j.status in ('succeeded', 'cleaned')), 'failed', count(*) filter (where j.status in ('failed', 'dead_letter')),
        'skipped', count(*) filter (where j.status = 'cancelled' and j.cancel_reason like 'skipped: %'),
        'cancelled', count(*) filter (where j.status = 'cancelled' and coalesce(j.cancel_reason, '') not like 'skipped: %'),
        'blocked', count(*) filter (where j.status = 'queued')) as outcome
    from job_queue j
    where j.job_id between l.workflow_id and fn_uuid_v7_nth(l.workflow_id, -1) and j.workflow_id = l.workflow_id
    having count(*) > 0) c
  where w.workflow_id = l.workflow_id and c.moving = 0;
  get diagnostics v_ended = row_count;
  if v_ended < cardinality(v_locked) then
    -- a lock that has gone leaves no trace: an older snapshot must run into a change, or its end would be the last and not know it
    update job_workflow w set jobs = w.jobs where w.workflow_id = any (v_locked) and w.status = 'active';
  end if;
  return cardinality(v_over) + v_ended;
end
$function$

-- The steps of a workflow, in the order of its template.
CREATE OR REPLACE FUNCTION fn_job_workflow_steps(p_workflow_id uuid)
 RETURNS TABLE(step text, job_id uuid, job_kind text, executor text, status text, gate text, blocked_by integer, needs jsonb, lease_owner text, attempts integer, scheduled_at timestamp with time zone, started_at timestamp with time zone, finished_at timestamp with time zone, last_error text, cancel_reason text, result_ref text)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
BEGIN ATOMIC
 SELECT substr((j.idempotency_key)::text, 38) AS substr,
     j.job_id,
     j.job_kind,
     j.executor,
     j.status,
     g.kind,
     j.blocked_by,
     COALESCE(( SELECT jsonb_agg(jsonb_build_object('job_id', d.needs_job_id, 'on', d.on_outcome, 'otherwise', d.otherwise, 'state', d.state) ORDER BY d.needs_job_id) AS jsonb_agg
            FROM job_dependency d
           WHERE (d.job_id = j.job_id)), '[]'::jsonb) AS "coalesce",
     j.lease_owner,
     j.attempts,
     j.scheduled_at,
     j.started_at,
     j.finished_at,
     j.last_error,
     j.cancel_reason,
     j.result_ref
    FROM (( SELECT q.idempotency_key,
             q.job_id,
             q.job_kind,
             q.executor,
             q.status,
             q.blocked_by,
             q.lease_owner,
             q.attempts,
             q.scheduled_at,
             q.started_at,
             q.finished_at,
             q.last_error,
             q.cancel_reason,
             q.result_ref
            FROM job_queue q
           WHERE (((q.job_id >= fn_job_workflow_steps.p_workflow_id) AND (q.job_id <= fn_uuid_v7_nth(fn_job_workflow_steps.p_workflow_id, '-1'::integer))) AND (q.workflow_id = fn_job_workflow_steps.p_workflow_id))
         UNION ALL
          SELECT a.idempotency_key,
             a.job_id,
             a.job_kind,
             a.executor,
             a.status,
             a.blocked_by,
             a.lease_owner,
             a.attempts,
             a.scheduled_at,
             a.started_at,
             a.finished_at,
             a.last_error,
             a.cancel_reason,
             a.result_ref
            FROM job_archive a
           WHERE (a.workflow_id = fn_job_workflow_steps.p_workflow_id)) j
      LEFT JOIN job_gate g ON ((g.job_id = j.job_id)))
   ORDER BY j.job_id;
END

-- Cancels a workflow, as fn_job_workflow_cancel says. Internal.
CREATE OR REPLACE FUNCTION fn_job_workflow_stop(p_workflow_id uuid, p_why text, p_if_ended_before timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_workflow job_workflow;
  v_asked int;
  v_ended record;
  v_keys text[];
begin
  -- jobs before the workflow, and those that run before those that wait: the order in which ends of jobs take them. All of them at once:
  -- nobody begins, ends or retries one until this is over. And once more: a retry that was waited for may have made some anew
  for v_round in 1 .. 2 loop
    perform from job_queue j
    where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id
    order by j.status in ('queued', 'retry_waiting'), j.job_id
    for update;
  end loop;
  select w.* into v_workflow from job_workflow w where w.workflow_id = p_workflow_id for update;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'workflow_id', p_workflow_id);
  elsif p_if_ended_before is not null and (v_workflow.status not in ('failed', 'partially_failed') or v_workflow.finished_at >= p_if_ended_before)
    or v_workflow.status = 'succeeded'
  then
    return jsonb_build_object('refused', true, 'reason', 'illegal_transition', 'workflow_id', p_workflow_id, 'status', v_workflow.status);
  elsif v_workflow.status = 'cancelled' then
    return jsonb_build_object('refused', false, 'workflow_id', p_workflow_id, 'status', 'cancelled', 'cancelled', 0, 'requested', 0);
  end if;
  update job_queue j
  set cancel_requested_at = coalesce(j.cancel_requested_at, clock_timestamp()), cancel_reason = coalesce(j.cancel_reason, p_why), updated_at = clock_timestamp()
  where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id and j.status in ('leased', 'in_progress');
  get diagnostics v_asked = row_count;
  with ended as (
    update job_queue j
    set status = 'cancelled', finished_at = clock_timestamp(), cancel_requested_at = clock_timestamp(), cancel_reason = p_why, updated_at = clock_timestamp()
    where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id and j.status in ('queued', 'retry_waiting')
    returning j.ordering_key, j.ordering_slot
  )
  select count(*) as jobs, array_agg(distinct e.ordering_key) filter (where e.ordering_slot > 0) as keys into v_ended from ended e;
  with gone as ( -- its dead letters are not replayed any more: whoever waits behind them goes on
    update job_queue j set ordering_slot = 0
    where j.job_id between p_workflow_id and fn_uuid_v7_nth(p_workflow_id, -1) and j.workflow_id = p_workflow_id
      and j.status = 'dead_letter' and j.ordering_slot > 0
    returning j.ordering_key
  )
  select array_agg(g.ordering_key) into v_keys from gone g;
  v_keys := v_keys || v_ended.keys;
  if v_keys is not null then
    perform fn_job_promote(v_keys);
  end if;
  update job_workflow w
  set cancel_reason = p_why, status = 'active', finished_at = null, outcome = null, updated_at = clock_timestamp()
  where w.workflow_id = p_workflow_id;
  perform fn_job_workflow_settle(array[p_workflow_id]);
  select w.* into v_workflow from job_workflow w where w.workflow_id = p_workflow_id;
  perform pg_notify('queue_control', '') where v_asked > 0;
  return jsonb_build_object('refused', false, 'workflow_id', p_workflow_id, 'status', v_workflow.status, 'cancelled', v_ended.jobs, 'requested', v_asked);
end
$function$

-- What is wrong with a value by a schema; empty when nothing is.
CREATE OR REPLACE FUNCTION fn_json_schema_errors(p_schema jsonb, p_value jsonb, p_at text DEFAULT 'params'::text)
 RETURNS text[]
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_type text := p_schema ->> 'type';
  v_is text := jsonb_typeof(p_value);
  v_errors text[] := '{}';
  v_key text;
  v_item jsonb;
  v_n int := 0;
begin
  if v_type is not null and v_is <> (case v_type when 'integer' then 'number' else v_type end)
    or (case when v_type = 'integer' and v_is = 'number' then (p_value #>> '{}')::numeric % 1 <> 0 end)
  then
    return array[format('%s must be %s, not %s', p_at, v_type, left(p_value::text, 80))];
  end if;
  if p_schema ? 'enum' and not exists (select from jsonb_array_elements(p_schema -> 'enum') e where e = p_value) then
    v_errors := v_errors || format('%s must be one of %s', p_at, p_schema -> 'enum');
  end if;
  if (case when v_is = 'number' then
    (p_value #>> '{}')::numeric < (p_schema ->> 'minimum')::numeric or (p_value #>> '{}')::numeric > (p_schema ->> 'maximum')::numeric end)
  then
    v_errors := v_errors || format('%s must be %s', p_at, concat_ws(' and ', 'at least ' || (p_schema ->> 'minimum'), 'at most ' || (p_schema ->> 'maximum')));
  elsif v_is = 'string' then
    if length(p_value #>> '{}') < (p_schema ->> 'minLength')::int or length(p_value #>> '{}') > (p_schema ->> 'maxLength')::int then
      v_errors := v_errors || format('%s must have %s characters', p_at, concat_ws(' and ', 'at least ' || (p_schema ->> 'minLength'), 'at most ' || (p_schema ->> 'maxLength')));
    end if;
    if p_value #>> '{}' !~ (p_schema ->> 'pattern') then
      v_errors := v_errors || format('%s must match %s', p_at, p_schema ->> 'pattern');
    end if;
  elsif v_is = 'array' then
    if jsonb_array_length(p_value) < (p_schema ->> 'minItems')::int or jsonb_array_length(p_value) > (p_schema ->> 'maxItems')::int then
      v_errors := v_errors || format('%s must have %s items', p_at, concat_ws(' and ', 'at least ' || (p_schema ->> 'minItems'), 'at most ' || (p_schema ->> 'maxItems')));
    end if;
    if p_schema ? 'items' then
      for v_item in select e from jsonb_array_elements(p_value) e loop
        v_errors := v_errors || fn_json_schema_errors(p_schema -> 'items', v_item, format('%s[%s]', p_at, v_n));
        v_n := v_n + 1;
        exit when cardinality(v_errors) >= 20;
      end loop;
    end if;
  elsif v_is = 'object' then
    for v_key in select r from jsonb_array_elements_text(coalesce(p_schema -> 'required', '[]')) r where not p_value ? r loop
      v_errors := v_errors || format('%s.%s is missing', p_at, v_key);
    end loop;
    for v_key, v_item in select e.key, e.value from jsonb_each(p_value) e loop
      if p_schema -> 'properties' ? v_key then
        v_errors := v_errors || fn_json_schema_errors(p_schema -> 'properties' -> v_key, v_item, format('%s.%s', p_at, v_key));
      elsif p_schema -> 'additionalProperties' = 'false' then
        v_errors := v_errors || format('%s.%s is unknown', p_at, v_key);
      end if;
    end loop;
  end if;
  return v_errors;
end
$function$

-- What a schema says that Reveille does not check; empty when nothing.
CREATE OR REPLACE FUNCTION fn_json_schema_unknown(p_schema jsonb, p_at text DEFAULT 'params'::text)
 RETURNS text[]
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_errors text[] := '{}';
  v_key text;
begin
  if jsonb_typeof(p_schema) is distinct from 'object' then
    return array[format('%s must be a schema, an object', p_at)];
  end if;
  select array_agg(format('%s: the keyword %s is not known', p_at, k)) into v_errors
  from jsonb_object_keys(p_schema) k
  where k <> all (array['type', 'properties', 'required', 'additionalProperties', 'items', 'enum', 'minimum', 'maximum', 'minLength',
    'maxLength', 'pattern', 'minItems', 'maxItems', 'description', 'title', 'default', 'examples']);
  v_errors := coalesce(v_errors, '{}');
  if p_schema ? 'type' and not coalesce(p_schema ->> 'type' = any (array['object', 'array', 'string', 'number', 'integer', 'boolean', 'null']), false) then
    v_errors := v_errors || format('%s: type %s is not known', p_at, p_schema -> 'type');
  end if;
  if p_schema ? 'pattern' then
    begin
      perform '' ~ (p_schema ->> 'pattern');
    exception when others then
      v_errors := v_errors || format('%s: pattern: %s', p_at, sqlerrm);
    end;
  end if;
  if jsonb_typeof(p_schema -> 'properties') = 'object' then
    for v_key in select k from jsonb_object_keys(p_schema -> 'properties') k loop
      v_errors := v_errors || fn_json_schema_unknown(p_schema -> 'properties' -> v_key, p_at || '.' || v_key);
    end loop;
  elsif p_schema ? 'properties' then
    v_errors := v_errors || format('%s: properties must be an object', p_at);
  end if;
  if p_schema ? 'items' then
    v_errors := v_errors || fn_json_schema_unknown(p_schema -> 'items', p_at || '[]');
  end if;
  v_errors := v_errors || array(
    select format('%s: %s must be %s, not %s', p_at, k.name, k.must_be, left((p_schema -> k.name)::text, 40))
    from (values
      ('required', 'array', 'an array'), ('enum', 'array', 'an array'), ('additionalProperties', 'boolean', 'true or false'),
      ('minimum', 'number', 'a number'), ('maximum', 'number', 'a number'),
      ('minLength', 'number', 'a whole number'), ('maxLength', 'number', 'a whole number'),
      ('minItems', 'number', 'a whole number'), ('maxItems', 'number', 'a whole number')) k (name, type, must_be)
    where p_schema ? k.name
      and (jsonb_typeof(p_schema -> k.name) <> k.type or k.must_be = 'a whole number' and p_schema ->> k.name !~ '^[0-9]{1,9}$'));
  v_errors := v_errors || array(
    select format('%s: a parameter named %s is denied: send references, not data', p_at, d.name)
    from (
      select k as name from jsonb_object_keys(case jsonb_typeof(p_schema -> 'properties') when 'object' then p_schema -> 'properties' else '{}' end) k
      union
      select r from jsonb_array_elements_text(case jsonb_typeof(p_schema -> 'required') when 'array' then p_schema -> 'required' else '[]' end) r) d
    where not fn_is_signal(jsonb_build_object(d.name, null)));
  return v_errors;
end
$function$

-- Whether the session's role may report for the executor that holds a lease.
CREATE OR REPLACE FUNCTION fn_lease_is_ours(p_lease_owner text)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return coalesce((select fn_executor_is_ours(h.owner_role) from queue_heartbeat h where h.executor_name = p_lease_owner), true);
end
$function$

-- Name, last run and events seen of the workers in iu_route_worker_cursor, if the host has that table. Called by v_queue_health and the stale check.
CREATE OR REPLACE FUNCTION fn_legacy_workers(OUT worker_name text, OUT ran_at timestamp with time zone, OUT events_seen numeric)
 RETURNS SETOF record
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if not exists (
    select from pg_class c
    where c.relnamespace = quote_ident(current_schema())::regnamespace and c.relname = 'iu_route_worker_cursor' and c.relkind in ('r', 'p'))
  then
    return;
  end if;
  for worker_name, ran_at, events_seen in execute format($q$
    select n.name, max(n.ran_at) filter (where isfinite(n.ran_at)), max(n.seen)
    from (
      select coalesce(j ->> 'worker_name', j ->> 'name') as name, (j ->> 'last_run_at')::timestamptz as ran_at,
        case when j ->> 'events_seen' ~ '^[0-9]{1,18}$' then (j ->> 'events_seen')::numeric end as seen
      from (select to_jsonb(c) as j from %I.iu_route_worker_cursor c) d) n
    where n.name ~ '^[^\s].{0,119}$' and lower(n.name) <> 'mot'
    group by n.name $q$, current_schema())
  loop
    return next;
  end loop;
end
$function$

-- Handler: moves finished jobs to the archive, or counts them while queue.archive.enabled is closed.
CREATE OR REPLACE FUNCTION fn_maintenance_archive(p_job jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_answer jsonb;
  v_after uuid;
  v_found int := 0;
begin
  for v_step in 1 .. 20 loop
    v_answer := fn_job_archive(p_limit => 1000, p_dry_run => null, p_after => v_after);
    v_found := v_found + (v_answer ->> 'found')::int;
    v_after := (v_answer ->> 'next')::uuid;
    exit when v_after is null or (v_answer ->> 'archived')::int > 0 or v_answer ->> 'busy' = 'true';
  end loop;
  return v_answer || jsonb_build_object('found', v_found, 'workflows', fn_job_workflow_retention(p_dry_run => null), 'job_id', p_job -> 'job_id');
end
$function$

-- Handler: one pass of the audit, unless queue.audit.enabled says no.
CREATE OR REPLACE FUNCTION fn_maintenance_audit(p_job jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_answer jsonb := fn_dispatch_audit_pass();
begin
  if v_answer ->> 'refused' = 'true' then
    return jsonb_build_object('refused', false, 'skipped', v_answer -> 'reason', 'job_id', p_job -> 'job_id'); -- as the loop does
  end if;
  return v_answer || jsonb_build_object('job_id', p_job -> 'job_id');
end
$function$

-- Handler: places new jobs that have an ordering key, also where nobody claims.
CREATE OR REPLACE FUNCTION fn_maintenance_order_sweep(p_job jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  perform fn_job_order_sweep();
  return jsonb_build_object('refused', false, 'job_id', p_job -> 'job_id');
end
$function$

-- Handler: deletes a batch of read arrivals, old passes, and what counts towards no rate limit any more.
CREATE OR REPLACE FUNCTION fn_maintenance_prune(p_job jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return fn_dispatch_prune() || jsonb_build_object('refused', false, 'rates', fn_job_rate_prune(), 'job_id', p_job -> 'job_id');
end
$function$

-- Handler: frees at most 60 jobs whose lease ended unreported, or counts them, as the reaper's gates say.
CREATE OR REPLACE FUNCTION fn_maintenance_reap(p_job jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return fn_job_lease_reaper(p_limit => 60, p_actor => 'job:' || coalesce(p_job ->> 'job_id', '')) - 'jobs';
end
$function$

-- Handler: starts workflows that jobs ask for, fails gates whose time is over, looks after 100 active workflows.
CREATE OR REPLACE FUNCTION fn_maintenance_refresh(p_job jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return fn_job_workflow_refresh() || jsonb_build_object('job_id', p_job -> 'job_id');
end
$function$

-- Handler: notices and announces silences and their ends, unless queue.heartbeat.enabled says no.
CREATE OR REPLACE FUNCTION fn_maintenance_stale_check(p_job jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_answer jsonb := fn_queue_stale_check();
begin
  if v_answer ->> 'refused' = 'true' then
    return jsonb_build_object('refused', false, 'skipped', v_answer -> 'reason', 'job_id', p_job -> 'job_id'); -- as the loop does
  end if;
  return v_answer;
end
$function$

-- The refusal invalid_params. Internal.
CREATE OR REPLACE FUNCTION fn_mot_emit_refused(p_template mot_template, p_errors text[])
 RETURNS jsonb
 LANGUAGE sql
 IMMUTABLE
RETURN jsonb_build_object('refused', true, 'reason', 'invalid_params', 'template', (((p_template).template_key || '@'::text) || (p_template).version), 'errors', to_jsonb(p_errors))

-- The steps of a graph, what each needs, and the parameters of each graph in it. Internal.
CREATE OR REPLACE FUNCTION fn_mot_expand(p_template mot_template, p_params jsonb, p_context jsonb, p_prefix text, p_depth integer, p_from integer, p_scope integer, p_until timestamp with time zone, OUT steps jsonb[], OUT needs jsonb[], OUT scopes jsonb[], OUT entries integer[], OUT exits integer[], OUT is_open boolean)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_node jsonb;
  v_edge jsonb;
  v_items jsonb;
  v_item jsonb;
  v_context jsonb;
  v_params jsonb;
  v_inner mot_template;
  v_place jsonb := (
    select jsonb_object_agg(n.node ->> 'key', n.nth) from jsonb_array_elements(p_template.nodes) with ordinality n (node, nth));
  v_outs jsonb[] := '{}';  -- by place of the node: the steps that end it, and the item of each
  v_from jsonb;
  v_one jsonb;
  v_through jsonb := '{}'; -- by node that lets something through: which steps
  v_opens text[] := '{}';  -- nodes that let through what the whole graph waits for
  v_before jsonb := (select coalesce(jsonb_object_agg(e.key, e.edges), '{}') from (
    select e ->> 'to' as key, jsonb_agg(e) as edges from jsonb_array_elements(p_template.edges) e group by 1) e);
  v_after jsonb := (select coalesce(jsonb_object_agg(e ->> 'from', true), '{}') from jsonb_array_elements(p_template.edges) e);
  v_in int[];
  v_in_item int[];
  v_out int[];
  v_out_item int[];
  v_part record;
  v_key text;
  v_step text;
  v_number int;
  v_lets_through boolean;
begin
  if p_depth > 8 then
    raise exception 'graphs within graphs are deeper than 8' using errcode = '22023';
  end if;
  steps := '{}';
  needs := '{}';
  scopes := array[p_params];
  entries := '{}';
  for v_node in select n from jsonb_array_elements(p_template.nodes) n loop
    v_key := v_node ->> 'key';
    v_items := case when v_node ? 'for_each' then jsonb_build_object('params', p_params) #> string_to_array(v_node ->> 'for_each', '.') else '[null]' end;
    if jsonb_typeof(v_items) is distinct from 'array' then
      raise exception 'node %: % is no list', v_key, v_node ->> 'for_each' using errcode = '22023';
    end if;
    if v_node ->> 'type' = 'graph' then
      v_inner := fn_mot_template_of(v_node ->> 'template');
    end if;
    v_in := '{}';
    v_in_item := '{}';
    v_out := '{}';
    v_out_item := '{}';
    v_number := 0;
    v_lets_through := jsonb_array_length(v_items) = 0;
    for v_item in select i.value from jsonb_array_elements(v_items) with ordinality i (value, n) order by i.n loop
      v_number := v_number + 1;
      v_context := p_context || jsonb_build_object('node', p_prefix || v_key)
        || case when v_node ? 'for_each' then jsonb_build_object('item', v_item) else '{}' end;
      v_step := p_prefix || v_key || case when v_node ? 'for_each' then format('[%s]', v_number) else '' end;
      if clock_timestamp() > p_until then
        raise exception 'it takes too long to unfold; make several workflows of it' using errcode = '22023';
      elsif v_node ->> 'type' = 'graph' then
        v_params := fn_mot_fill(coalesce(v_node -> 'params', '{}'), v_context, p_params);
        if cardinality(fn_json_schema_errors(v_inner.params, v_params)) > 0 then
          raise exception 'node %: %', v_key, array_to_string(fn_json_schema_errors(v_inner.params, v_params), '; ') using errcode = '22023';
        end if;
        select * into v_part from fn_mot_expand(v_inner, v_params, v_context, v_step || '/', p_depth + 1,
          p_from + cardinality(steps), p_scope + cardinality(scopes), p_until) e;
        -- one by one: an array that is joined with another is copied as a whole
        foreach v_one in array v_part.steps loop
          steps := steps || v_one;
        end loop;
        foreach v_one in array v_part.needs loop
          needs := needs || v_one;
        end loop;
        foreach v_one in array v_part.scopes loop
          scopes := scopes || v_one;
        end loop;
        v_in := v_in || v_part.entries;
        v_in_item := v_in_item || array_fill(v_number, array[cardinality(v_part.entries)]);
        v_out := v_out || v_part.exits;
        v_out_item := v_out_item || array_fill(v_number, array[cardinality(v_part.exits)]);
        v_lets_through := v_lets_through or v_part.is_open;
      else
        steps := steps || (v_node || jsonb_build_object('context', v_context, 'scope', p_scope + 1, 'step', v_step));
        v_in := v_in || (p_from + cardinality(steps));
        v_in_item := v_in_item || v_number;
        v_out := v_out || (p_from + cardinality(steps));
        v_out_item := v_out_item || v_number;
      end if;
      if p_from + cardinality(steps) > 20000 then
        raise exception 'more than 20000 steps' using errcode = '22023';
      end if;
    end loop;
    v_outs := v_outs || jsonb_build_array(v_out, v_out_item);
    if not v_before ? v_key or exists (select from jsonb_array_elements(v_before -> v_key) e where e ->> 'from' = any (v_opens)) then
      entries := entries || v_in;
      if v_lets_through then
        v_opens := v_opens || v_key;
      end if;
    end if;
    for v_edge in select e from jsonb_array_elements(coalesce(v_before -> v_key, '[]')) e loop
      v_from := v_outs[(v_place ->> (v_edge ->> 'from'))::int];
      for v_one in
        select jsonb_build_object('from', f.step, 'to', t.step) || (v_edge - array['from', 'to', 'each']) || f.mark
        from (
          select o.step::int as step, o.item::int as item, jsonb '{}' as mark
          from rows from (jsonb_array_elements_text(v_from -> 0), jsonb_array_elements_text(v_from -> 1)) o (step, item)
          union all
          select h::int, null, '{"through": true}' from jsonb_array_elements_text(v_through -> (v_edge ->> 'from')) h) f
        join unnest(v_in, v_in_item) t (step, item) on (v_edge -> 'each' = 'true' and f.item is not null) is not true or f.item = t.item
      loop
        needs := needs || v_one;
      end loop;
      if cardinality(needs) > 200000 then
        raise exception 'more than 200000 edges between steps' using errcode = '22023';
      end if;
      if v_lets_through then
        v_through := v_through || jsonb_build_object(v_key, coalesce(v_through -> v_key, '[]')
          || (v_from -> 0) || coalesce(v_through -> (v_edge ->> 'from'), '[]'));
      end if;
    end loop;
  end loop;
  exits := array(
    select distinct o::int
    from jsonb_array_elements(p_template.nodes) with ordinality n (node, nth)
    cross join jsonb_array_elements_text((v_outs[n.nth] -> 0) || coalesce(v_through -> (n.node ->> 'key'), '[]')) o
    where not v_after ? (n.node ->> 'key'));
  is_open := exists (select from unnest(v_opens) o where not v_after ? o);
  if p_depth = 0 and exists (select from unnest(needs) d where d ? 'through') then -- an edge of its own counts, or one of them
    needs := array(
      select distinct on ((d ->> 'to')::int, (d ->> 'from')::int) d - 'through'
      from unnest(needs) d order by (d ->> 'to')::int, (d ->> 'from')::int, d ? 'through');
  end if;
end
$function$

-- A value of a template with its placeholders filled. Internal.
CREATE OR REPLACE FUNCTION fn_mot_fill(p_value jsonb, p_context jsonb, p_params jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 IMMUTABLE STRICT
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_placeholder constant text := '\{([a-z_]+(?:\.[A-Za-z0-9_]+)*)\}';
  v_text text := p_value #>> '{}';
  v_names text[];
  v_found jsonb[];
  v_missing text;
begin
  if (v_text ~ v_placeholder) is not true then
    return p_value;
  elsif jsonb_typeof(p_value) = 'object' then
    return (select jsonb_object_agg(e.key, fn_mot_fill(e.value, p_context, p_params)) from jsonb_each(p_value) e);
  elsif jsonb_typeof(p_value) = 'array' then
    return (
      select jsonb_agg(fn_mot_fill(e.value, p_context, p_params) order by e.n)
      from jsonb_array_elements(p_value) with ordinality e (value, n));
  end if;
  v_names := array(select m[1] from regexp_matches(v_text, v_placeholder, 'g') m);
  v_found := array(
    select case split_part(n, '.', 1) when 'params' then p_params #> (string_to_array(n, '.'))[2:] else p_context #> string_to_array(n, '.') end
    from unnest(v_names) n);
  v_missing := (select u.name from unnest(v_names, v_found) u (name, value) where u.value is null limit 1);
  if v_missing is not null then
    raise exception 'the placeholder {%} stands for nothing here', v_missing using errcode = '22023';
  elsif v_text = '{' || v_names[1] || '}' then
    return v_found[1];
  end if;
  return to_jsonb((
    select string_agg(u.between || coalesce(u.value #>> '{}', ''), '' order by u.n)
    from unnest(regexp_split_to_array(v_text, v_placeholder), v_found) with ordinality u (between, value, n)));
end
$function$

-- Makes a workflow and its jobs: {created, workflow_id, status, jobs}. Refused job_substrate_disabled, unknown_template, invalid_params.
CREATE OR REPLACE FUNCTION fn_mot_graph_emit(p_template_id text, p_template_params jsonb DEFAULT '{}'::jsonb, p_correlation_id text DEFAULT NULL::text, p_actor text DEFAULT NULL::text, p_dry_run boolean DEFAULT false, p_causation_event_id uuid DEFAULT NULL::uuid, p_consumer_key text DEFAULT NULL::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET jit TO 'off'
AS $function$
declare
  v_template mot_template := fn_mot_template_of(p_template_id);
  v_params jsonb := coalesce(p_template_params, '{}');
  v_workflow_id uuid := fn_uuid_v7_nth(fn_uuid_v7(), 0); -- its jobs are numbered on from it: they are found by the key
  v_correlation text := coalesce(p_correlation_id, v_workflow_id::text);
  -- what its steps and gates are about: the event's, when an event began it; those that follow the event carry the same
  v_thread text := coalesce((select e.correlation_id::text from event_outbox e where e.id = p_causation_event_id), v_correlation);
  v_trace text := fn_traceparent_of((select e.safe_payload from event_outbox e where e.id = p_causation_event_id)); -- of all its steps
  v_now timestamptz := clock_timestamp();
  v_errors text[];
  v_unused text[]; -- names of which some version was never used
  v_known job_workflow;
  v_parts record;
begin
  if coalesce(btrim(p_actor), '') = '' then
    raise exception 'fn_mot_graph_emit needs an actor: who wants this' using errcode = '22023';
  elsif not fn_gate_is_open('queue.job_substrate.enabled') and not p_dry_run then
    return jsonb_build_object('refused', true, 'reason', 'job_substrate_disabled');
  elsif v_template.template_key is null then
    return jsonb_build_object('refused', true, 'reason', 'unknown_template', 'template', p_template_id);
  end if;
  select w.* into v_known from job_workflow w where w.template_key = v_template.template_key and w.correlation_id = v_correlation;
  if found then
    return jsonb_build_object('refused', false, 'created', false, 'workflow_id', v_known.workflow_id, 'status', v_known.status,
      'jobs', v_known.jobs, 'same_params', v_known.params = v_params, 'dry_run', p_dry_run);
  end if;
  -- whoever changes an unused version of it, or of a graph within it, now ends first, or waits
  if not p_dry_run and (v_template.used_at is null or v_template.nodes @> '[{"type": "graph"}]') then
    v_unused := array(
      select distinct t.template_key from mot_template t
      where t.template_key = any (fn_mot_reached(v_template.nodes) || v_template.template_key) and t.used_at is null order by 1);
    if cardinality(v_unused) > 0 then
      perform pg_advisory_xact_lock_shared(fn_mot_template_lock(k)) from unnest(v_unused) k;
      v_template := fn_mot_template_of(p_template_id);
    end if;
  end if;
  v_errors := fn_json_schema_errors(v_template.params, v_params)
    || case when jsonb_typeof(v_params) <> 'object' then array['params must be an object']
      when not fn_is_signal(v_params) then array['params hold a denied key, or more than 16 kB: send references, not data'] else '{}' end;
  if cardinality(v_errors) > 0 then
    return fn_mot_emit_refused(v_template, v_errors);
  end if;
  begin
    select e.steps, e.needs, e.scopes into v_parts
    from fn_mot_expand(v_template, v_params, jsonb_build_object('workflow_id', v_workflow_id, 'correlation_id', v_correlation), '', 0, 0, 0,
      v_now + interval '10 seconds') e;
    if p_dry_run then
      return jsonb_build_object('refused', false, 'dry_run', true, 'created', false, 'template', v_template.template_key || '@' || v_template.version,
        'jobs', cardinality(v_parts.steps),
        'steps', (
          select coalesce(jsonb_agg(jsonb_build_object('step', s.step ->> 'step', 'job_kind', s.step ->> 'job_kind',
            'executor', coalesce(s.step ->> 'executor', 'PG_worker'), 'type', coalesce(s.step ->> 'type', 'job'),
            'source_ref', fn_mot_fill(s.step -> 'source_ref', s.step -> 'context', g.params),
            'safe_payload', fn_mot_fill(s.step -> 'safe_payload', s.step -> 'context', g.params)::signal, 'policy', fn_mot_policy(s.step),
            'needs', coalesce(d.needs, '[]')) order by s.n), '[]')
          from unnest(v_parts.steps) with ordinality s (step, n)
          join unnest(v_parts.scopes) with ordinality g (params, n) on g.n = (s.step ->> 'scope')::int
          left join (
            select (d ->> 'to')::int as step, jsonb_agg(f.step ->> 'step' order by f.n) as needs
            from unnest(v_parts.needs) d
            join unnest(v_parts.steps) with ordinality f (step, n) on f.n = (d ->> 'from')::int
            group by 1) d on d.step = s.n));
    end if;
    insert into job_workflow (
      workflow_id, template_key, template_version, params, correlation_id, actor, causation_event_id, consumer_key, jobs, status, outcome, finished_at)
    select v_workflow_id, v_template.template_key, v_template.version, v_params, v_correlation, p_actor, p_causation_event_id, p_consumer_key,
      cardinality(v_parts.steps), e.status, e.outcome, e.finished_at
    from (
      select 'active' as status, null::jsonb as outcome, null::timestamptz as finished_at where cardinality(v_parts.steps) > 0
      union all -- all its lists are empty: there is nothing to do, and that is done
      select 'succeeded', '{"succeeded": 0, "failed": 0, "skipped": 0, "cancelled": 0, "blocked": 0}', v_now where cardinality(v_parts.steps) = 0) e
    on conflict (template_key, correlation_id) do nothing;
    if not found then -- somebody was faster, and has committed
      select w.* into v_known from job_workflow w where w.template_key = v_template.template_key and w.correlation_id = v_correlation;
      return jsonb_build_object('refused', false, 'created', false, 'workflow_id', v_known.workflow_id, 'status', v_known.status, 'jobs', v_known.jobs,
        'same_params', v_known.params = v_params, 'dry_run', false);
    end if;
    insert into job_queue (
      job_id, job_kind, actor, executor, event_domain, safe_payload, source_ref, target_ref, payload_ref, idempotency_key, ordering_key, priority,
      scheduled_at, max_attempts, policy, workflow_id, blocked_by, causation_event_id, consumer_key, correlation_id, traceparent)
    select
      fn_uuid_v7_nth(v_workflow_id, s.n::int), coalesce(s.step ->> 'job_kind', 'workflow.' || (s.step ->> 'type')), p_actor,
      coalesce(s.step ->> 'executor', case when coalesce(s.step ->> 'type', 'job') = 'job' then 'PG_worker' else 'external_worker' end),
      s.step ->> 'event_domain', coalesce(fn_mot_fill(s.step -> 'safe_payload', s.step -> 'context', g.params), '{}'),
      fn_mot_fill(s.step -> 'source_ref', s.step -> 'context', g.params) #>> '{}', fn_mot_fill(s.step -> 'target_ref', s.step -> 'context', g.params) #>> '{}',
      fn_mot_fill(s.step -> 'payload_ref', s.step -> 'context', g.params) #>> '{}', fn_job_key(v_workflow_id || '/' || (s.step ->> 'step')),
      fn_mot_fill(s.step -> 'ordering_key', s.step -> 'context', g.params) #>> '{}', coalesce((s.step ->> 'priority')::int, 100),
      v_now + make_interval(secs => coalesce((s.step ->> 'delay_seconds')::double precision, 0)),
      coalesce((s.step ->> 'max_attempts')::int, fn_job_max_attempts(coalesce(s.step ->> 'job_kind', 'workflow'), s.step ->> 'event_domain')),
      fn_mot_policy(s.step), v_workflow_id,
      coalesce(b.needs, 0) + (coalesce(s.step ->> 'type', 'job') <> 'job')::int, p_causation_event_id, p_consumer_key, v_thread, v_trace
    from unnest(v_parts.steps) with ordinality s (step, n)
    join unnest(v_parts.scopes) with ordinality g (params, n) on g.n = (s.step ->> 'scope')::int
    left join (select (d ->> 'to')::int as step, count(*)::int as needs from unnest(v_parts.needs) d group by 1) b on b.step = s.n;
    insert into job_dependency (job_id, needs_job_id, on_outcome, otherwise)
    select fn_uuid_v7_nth(v_workflow_id, (d ->> 'to')::int), fn_uuid_v7_nth(v_workflow_id, (d ->> 'from')::int), coalesce(d ->> 'on', 'success'), coalesce(d ->> 'otherwise', 'fail')
    from unnest(v_parts.needs) d;
    insert into job_gate (job_id, workflow_id, kind, event_domain, event_type, filter, correlation_id, expires_at)
    select fn_uuid_v7_nth(v_workflow_id, s.n::int), v_workflow_id, s.step ->> 'type', s.step ->> 'event_domain', s.step ->> 'event_type', (s.step ->> 'filter')::jsonpath,
      nullif(coalesce(fn_mot_fill(s.step -> 'correlation_id', s.step -> 'context', g.params) #>> '{}', v_thread), '*'), v_now + make_interval(secs => (s.step ->> 'expires_seconds')::double precision)
    from unnest(v_parts.steps) with ordinality s (step, n)
    join unnest(v_parts.scopes) with ordinality g (params, n) on g.n = (s.step ->> 'scope')::int
    where s.step ->> 'type' in ('approval', 'event');
  -- what the parameters make of the template does not fit: a text too long, a date too far, a denied key
  exception when data_exception or check_violation or program_limit_exceeded then
    return fn_mot_emit_refused(v_template, array[sqlerrm]);
  end;
  if cardinality(v_unused) > 0 then
    update mot_template t set used_at = v_now
    where t.used_at is null and t.template_key || '@' || t.version = any (
      fn_mot_reached(v_template.nodes) || (v_template.template_key || '@' || v_template.version));
  end if;
  perform fn_job_wake(w.executor, w.kinds, w.jobs)
  from (
    select j.executor, array_agg(distinct j.job_kind::text) as kinds, count(*) as jobs
    from job_queue j
    where j.job_id between v_workflow_id and fn_uuid_v7_nth(v_workflow_id, -1) and j.workflow_id = v_workflow_id and j.blocked_by = 0 and j.scheduled_at <= clock_timestamp()
    group by 1) w;
  return jsonb_build_object('refused', false, 'created', true, 'workflow_id', v_workflow_id,
    'status', case cardinality(v_parts.steps) when 0 then 'succeeded' else 'active' end, 'jobs', cardinality(v_parts.steps),
    'template', v_template.template_key || '@' || v_template.version, 'dry_run', false);
end
$function$

-- What is wrong with a graph; empty when it may be written.
CREATE OR REPLACE FUNCTION fn_mot_graph_errors(p_template_key text, p_nodes jsonb, p_edges jsonb, p_params jsonb DEFAULT '{"type": "object"}'::jsonb)
 RETURNS text[]
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_errors text[] := fn_json_schema_unknown(p_params);
  v_node jsonb;
  v_at text;
  v_known text[];
  v_lists jsonb; -- by node: what it goes through
  v_sorted text[];
  v_kinds text[] := fn_pause_names('job_kind') || array(select distinct k from queue_heartbeat h cross join unnest(h.wakes_for) k);
  v_inner mot_template;
begin
  if jsonb_typeof(p_nodes) is distinct from 'array' or jsonb_array_length(p_nodes) = 0 then
    return v_errors || 'nodes must be an array with at least one node'::text;
  elsif jsonb_typeof(p_edges) is distinct from 'array' then
    return v_errors || 'edges must be an array'::text;
  elsif jsonb_array_length(p_nodes) > 5000 then
    return v_errors || 'more than 5000 nodes'::text;
  end if;
  for v_node in select n from jsonb_array_elements(p_nodes) n loop
    v_at := format('node %s', coalesce(v_node ->> 'key', left(v_node::text, 60)));
    if jsonb_typeof(v_node) <> 'object' or coalesce(v_node ->> 'key', '') !~ '^[a-z][a-z0-9_]{0,59}$' then
      v_errors := v_errors || format('%s: key must be a letter, then up to 59 letters, digits or _, all small', v_at);
      continue;
    end if;
    v_known := array['key', 'type', 'description'] || case coalesce(v_node ->> 'type', 'job')
      when 'job' then array['job_kind', 'executor', 'event_domain', 'priority', 'max_attempts', 'source_ref', 'target_ref', 'payload_ref', 'ordering_key',
        'safe_payload', 'for_each', 'delay_seconds', 'backoff_strategy', 'backoff_seconds', 'backoff_cap_seconds', 'max_lease_losses',
        'time_limit_seconds']
      when 'approval' then array['expires_seconds']
      when 'event' then array['event_domain', 'event_type', 'filter', 'correlation_id', 'expires_seconds']
      when 'graph' then array['template', 'params', 'for_each'] end;
    if v_known is null then
      v_errors := v_errors || format('%s: type must be job, approval, event or graph', v_at);
      continue;
    end if;
    v_errors := v_errors || array(select format('%s: %s is not known', v_at, k) from jsonb_object_keys(v_node) k where k <> all (v_known));
    if v_node ? 'for_each' and (jsonb_typeof(v_node -> 'for_each') <> 'string' or v_node ->> 'for_each' !~ '^params\.[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$') then
      v_errors := v_errors || format('%s: for_each names a list among the parameters, as params.NAME', v_at);
    end if;
    v_errors := v_errors || array(
      select format('%s: %s is a number of at least %s, not %s', v_at, k.name, k.least, v_node -> k.name)
      from (values ('delay_seconds', 0), ('expires_seconds', 0), ('backoff_seconds', 0), ('backoff_cap_seconds', 0), ('max_lease_losses', 1),
        ('time_limit_seconds', 1)) k (name, least)
      where v_node ? k.name
        and (case jsonb_typeof(v_node -> k.name) when 'number' then (v_node ->> k.name)::numeric between k.least and 999999999 end) is not true)
      || array(
      select format('%s: %s is a text', v_at, k)
      from unnest(array['source_ref', 'target_ref', 'payload_ref', 'ordering_key', 'correlation_id']) k where jsonb_typeof(v_node -> k) <> 'string');
    case coalesce(v_node ->> 'type', 'job')
      when 'job' then
        if upper(v_node ->> 'executor') = 'MOT' then
          v_errors := v_errors || format('%s: MOT draws graphs and runs nothing; name the executor that does', v_at);
        elsif coalesce(v_node ->> 'executor', 'PG_worker') <> all (array['DOT', 'Agent', 'Hermes', 'Codex', 'PG_worker', 'external_worker', 'future_Kestra_adapter']) then
          v_errors := v_errors || format('%s: the executor %s is not known', v_at, v_node ->> 'executor');
        end if;
        if coalesce(v_node ->> 'job_kind', '') !~ '^[A-Za-z][A-Za-z0-9_.:-]*$' then
          v_errors := v_errors || format('%s: job_kind is missing or no name of a kind', v_at);
        elsif v_node ->> 'job_kind' like 'workflow:%' then
          v_errors := v_errors || format('%s: a job of kind %s starts a workflow; a graph within a graph is a node of type graph', v_at, v_node ->> 'job_kind');
        elsif v_node ->> 'job_kind' <> all (v_kinds) then
          v_errors := v_errors || format('%s: nobody knows jobs of kind %s; register a handler (job_handler), a consumer or an executor for it first', v_at, v_node ->> 'job_kind');
        end if;
        if v_node ? 'event_domain' and not exists (select from event_type_registry r where r.event_domain = v_node ->> 'event_domain') then
          v_errors := v_errors || format('%s: the domain %s is not known', v_at, v_node -> 'event_domain');
        end if;
        v_errors := v_errors || array(select format('%s: backoff_strategy is constant, linear or exponential', v_at)
            where v_node ->> 'backoff_strategy' <> all (array['constant', 'linear', 'exponential']));
        begin
          perform (v_node ->> 'priority')::job_priority, (v_node ->> 'max_attempts')::job_limit;
          if v_node ? 'safe_payload' and (jsonb_typeof(v_node -> 'safe_payload') <> 'object' or not fn_is_signal(v_node -> 'safe_payload')) then
            v_errors := v_errors || format('%s: safe_payload must be an object of signals, without denied keys, at most 16 kB', v_at);
          end if;
        exception when others then
          v_errors := v_errors || format('%s: %s', v_at, sqlerrm);
        end;
      when 'event' then
        begin
          if fn_gate_filter_problem((v_node ->> 'filter')::jsonpath) is not null then
            v_errors := v_errors || format('%s: %s', v_at, fn_gate_filter_problem((v_node ->> 'filter')::jsonpath));
          end if;
          if not exists (select from event_type_registry r where r.event_domain = v_node ->> 'event_domain' and r.event_type = v_node ->> 'event_type' and r.active) then
            v_errors := v_errors || format('%s: the event %s.%s is not registered', v_at, v_node ->> 'event_domain', v_node ->> 'event_type');
          end if;
        exception when others then
          v_errors := v_errors || format('%s: filter: %s', v_at, sqlerrm);
        end;
      when 'graph' then
        v_inner := fn_mot_template_of(v_node ->> 'template');
        if v_inner.template_key is null then
          v_errors := v_errors || format('%s: there is no template %s', v_at, coalesce(v_node ->> 'template', '(none named)'));
        end if;
      else
    end case;
  end loop;
  v_errors := v_errors || array(
    select format('node %s stands twice', n ->> 'key') from jsonb_array_elements(p_nodes) n where jsonb_typeof(n) = 'object' group by n ->> 'key' having count(*) > 1);
  v_lists := (
    select coalesce(jsonb_object_agg(n ->> 'key', n -> 'for_each'), '{}') from jsonb_array_elements(p_nodes) n where n ->> 'key' is not null);
  v_errors := v_errors || array(
    select format('edge %s → %s: %s', e ->> 'from', e ->> 'to', w.wrong)
    from jsonb_array_elements(p_edges) e
    cross join lateral (
      select 'an edge has from, to, on, otherwise, each' as wrong
      where jsonb_typeof(e) <> 'object' or e - array['from', 'to', 'on', 'otherwise', 'each'] <> '{}'
      union all
      select format('there is no node %s', coalesce(x, '(none named)')) from unnest(array[e ->> 'from', e ->> 'to']) x where (v_lists ? x) is not true
      union all
      select 'on is success, failure or always, otherwise is fail, skip or continue'
      where coalesce(e ->> 'on', 'success') <> all (array['success', 'failure', 'always'])
        or coalesce(e ->> 'otherwise', 'fail') <> all (array['fail', 'skip', 'continue'])
      union all
      select 'each is true or false' where jsonb_typeof(e -> 'each') <> 'boolean'
      union all
      select 'each joins two nodes with the same for_each, item by item'
      where e -> 'each' = 'true' and (v_lists ->> (e ->> 'from') = v_lists ->> (e ->> 'to')) is not true) w);
  if exists (select from jsonb_array_elements(p_edges) e group by e ->> 'from', e ->> 'to' having count(*) > 1) then
    v_errors := v_errors || 'two edges join the same nodes'::text;
  end if;
  if cardinality(v_errors) = 0 then
    v_sorted := fn_mot_sorted(p_nodes, p_edges);
    if cardinality(v_sorted) < jsonb_array_length(p_nodes) then
      v_errors := v_errors || format('the edges go in a circle among %s', (
        select string_agg(k, ', ') from (
          select n ->> 'key' as k from jsonb_array_elements(p_nodes) n except all select k from unnest(v_sorted) k) u));
    end if;
    if p_template_key = any (fn_mot_reached(p_nodes)) then
      v_errors := v_errors || format('the graph holds itself, %s', p_template_key);
    end if;
  end if;
  return v_errors;
end
$function$

-- The policy of a step's own (job_queue.policy), null when it has none. Internal.
CREATE OR REPLACE FUNCTION fn_mot_policy(p_step jsonb)
 RETURNS jsonb
 LANGUAGE sql
 IMMUTABLE
RETURN CASE WHEN (p_step ?| ARRAY['backoff_strategy'::text, 'backoff_seconds'::text, 'backoff_cap_seconds'::text, 'max_lease_losses'::text, 'time_limit_seconds'::text]) THEN jsonb_strip_nulls(jsonb_build_object('backoff_strategy', (p_step -> 'backoff_strategy'::text), 'backoff_seconds', (p_step -> 'backoff_seconds'::text), 'backoff_cap_seconds', (p_step -> 'backoff_cap_seconds'::text), 'max_lease_losses', (p_step -> 'max_lease_losses'::text), 'time_limit_seconds', (p_step -> 'time_limit_seconds'::text))) ELSE NULL::jsonb END

-- Which templates a graph holds, at any depth. Internal.
CREATE OR REPLACE FUNCTION fn_mot_reached(p_nodes jsonb)
 RETURNS text[]
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_reached text[];
  v_depth int;
begin
  with recursive reached (depth, template_key, version) as (
    select 1, t.template_key, t.version
    from jsonb_array_elements(p_nodes) n
    cross join lateral fn_mot_template_of(n ->> 'template') t
    where n ->> 'type' = 'graph'
    union -- each once at a depth: what holds a template often does not look into it as often
    select r.depth + 1, t.template_key, t.version
    from reached r
    join mot_template o on o.template_key = r.template_key and o.version = r.version
    cross join lateral jsonb_array_elements(o.nodes) n
    cross join lateral fn_mot_template_of(n ->> 'template') t
    where n ->> 'type' = 'graph' and r.depth <= 8
  )
  select max(r.depth), array_agg(distinct r.template_key || '@' || r.version) || array_agg(distinct r.template_key)
  into v_depth, v_reached
  from reached r where r.template_key is not null;
  if v_depth > 8 then
    raise exception 'graphs within graphs are deeper than 8' using errcode = '22023';
  end if;
  return coalesce(v_reached, '{}');
end
$function$

-- The nodes of a graph in an order in which they can run. Internal.
CREATE OR REPLACE FUNCTION fn_mot_sorted(p_nodes jsonb, p_edges jsonb)
 RETURNS text[]
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_keys text[] := array(select n.node ->> 'key' from jsonb_array_elements(p_nodes) with ordinality n (node, nth) order by n.nth);
  v_index jsonb := (select jsonb_object_agg(k, n) from unnest(v_keys) with ordinality u (k, n));
  v_out jsonb := (
    select jsonb_object_agg(f.key, f.follow)
    from (select e ->> 'from' as key, jsonb_agg(v_index -> (e ->> 'to')) as follow from jsonb_array_elements(p_edges) e group by 1) f);
  v_needs int[] := array(
    select coalesce(c.count, 0)::int
    from unnest(v_keys) with ordinality u (k, n)
    left join (select e ->> 'to' as key, count(*) as count from jsonb_array_elements(p_edges) e group by 1) c on c.key = u.k
    order by u.n);
  v_ready int[] := array(select n::int from unnest(v_needs) with ordinality u (needs, n) where u.needs = 0 order by n);
  v_sorted text[] := '{}';
  v_at int := 1;
  v_to int;
begin
  while v_at <= cardinality(v_ready) loop
    v_sorted := v_sorted || v_keys[v_ready[v_at]];
    for v_to in select f::int from jsonb_array_elements_text(coalesce(v_out -> v_keys[v_ready[v_at]], '[]')) f loop
      v_needs[v_to] := v_needs[v_to] - 1;
      if v_needs[v_to] = 0 then
        v_ready := v_ready || v_to;
      end if;
    end loop;
    v_at := v_at + 1;
  end loop;
  return v_sorted;
end
$function$

-- Starts what jobs of kind workflow:TEMPLATE ask for: {started, more}. Internal.
CREATE OR REPLACE FUNCTION fn_mot_start(OUT started integer, OUT more boolean)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_jobs uuid[] := array(
    select j.job_id
    from unnest(array['DOT', 'Agent', 'Hermes', 'Codex', 'PG_worker', 'external_worker', 'future_Kestra_adapter']) x (executor)
    cross join lateral fn_job_lanes(x.executor) l
    join job_queue j on j.executor = x.executor and j.claimable and j.lane = l.lane and j.priority = l.priority
      and j.scheduled_at <= clock_timestamp()
    where l.job_kind like 'workflow:%'
      and not exists (select from queue_pause p where p.resumed_at is null and (p.scope, p.name) in (
        ('all', ''), ('job_kind', l.job_kind), ('domain', l.event_domain), ('consumer', l.consumer_key)))
    limit 1000
    for update of j skip locked);
  v_from int := 1;
  v_to int := cardinality(v_jobs);
  v_at int;
  v_part int;
  v_bad int := 0;
  v_until timestamptz := clock_timestamp() + interval '5 seconds';
begin
  started := 0;
  while v_from <= cardinality(v_jobs) and v_bad < 20 and clock_timestamp() < v_until loop
    begin
      v_at := v_from;
      v_part := 0;
      while v_at <= v_to loop
        v_part := v_part + fn_mot_start_one(v_jobs[v_at])::int;
        v_at := v_at + 1;
        exit when clock_timestamp() > v_until;
      end loop;
      started := started + v_part;
      v_from := v_at;
      v_to := cardinality(v_jobs);
    exception when others then
      if left(sqlstate, 2) in ('25', '40', '53', '57', '58') or sqlstate in ('55P03', 'XX001', 'XX002') then
        raise; -- no fault of the job's: the server's, or somebody else's lock
      elsif v_at > v_from then
        v_to := v_at - 1;
      else
        perform fn_mot_start_refused(v_jobs[v_from], format('not_started: %s (SQLSTATE %s)', sqlerrm, sqlstate));
        v_bad := v_bad + 1;
        v_from := v_from + 1;
        v_to := cardinality(v_jobs);
      end if;
    end;
  end loop;
  more := (v_from <= cardinality(v_jobs) or cardinality(v_jobs) = 1000) and fn_gate_is_open('queue.job_substrate.enabled');
end
$function$

-- Leases a job that asks for a workflow to whoever starts it. Internal.
CREATE OR REPLACE FUNCTION fn_mot_start_lease(p_job_id uuid)
 RETURNS job_queue
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := clock_timestamp();
  v_job job_queue;
begin
  update job_queue j
  set status = 'leased', lease_owner = 'workflow', lease_token = coalesce(j.lease_token, 0) + 1, lease_until = v_now + interval '1 minute',
      picked_at = v_now, started_at = v_now, updated_at = v_now
  where j.job_id = p_job_id
  returning j.* into v_job;
  return v_job;
end
$function$

-- Starts the workflow that a job asks for, and ends the job; whether one began. Internal.
CREATE OR REPLACE FUNCTION fn_mot_start_one(p_job_id uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_job job_queue;
  v_event jsonb;
  v_known jsonb;
  v_template mot_template;
  v_answer jsonb;
begin
  select j.* into v_job from job_queue j where j.job_id = p_job_id;
  v_template := fn_mot_template_of(substr(v_job.job_kind, 10));
  select to_jsonb(e) - 'safe_payload' into v_event from event_outbox e where e.id = v_job.causation_event_id;
  v_known := jsonb_strip_nulls(coalesce(v_event, '{}') || jsonb_build_object('event_id', v_job.causation_event_id)) || v_job.safe_payload
    || jsonb_strip_nulls(jsonb_build_object('source_ref', v_job.source_ref, 'target_ref', v_job.target_ref, 'payload_ref', v_job.payload_ref));
  v_answer := fn_mot_graph_emit(substr(v_job.job_kind, 10), (
      select coalesce(jsonb_object_agg(k.key, k.value), '{}') from jsonb_each(v_known) k where v_template.params -> 'properties' ? k.key),
    v_job.idempotency_key, v_job.actor, false, v_job.causation_event_id, v_job.consumer_key);
  if v_answer ->> 'reason' = 'job_substrate_disabled' then
    return false; -- it waits for the gate
  elsif (v_answer ->> 'refused')::boolean then
    perform fn_mot_start_refused(p_job_id, format('%s: %s', v_answer ->> 'reason', coalesce(v_answer ->> 'errors', v_answer ->> 'template')));
    return false;
  end if;
  perform fn_mot_start_lease(p_job_id);
  update job_queue j
  set status = 'succeeded', lease_until = null, finished_at = clock_timestamp(), result_ref = 'workflow:' || (v_answer ->> 'workflow_id')
  where j.job_id = p_job_id;
  perform fn_job_make_room(v_job.ordering_key, null, v_job.executor, v_job.job_kind);
  return (v_answer ->> 'created')::boolean;
end
$function$

-- Makes a job whose workflow cannot be started a dead letter that says why. Internal.
CREATE OR REPLACE FUNCTION fn_mot_start_refused(p_job_id uuid, p_why text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  perform fn_job_fail(fn_mot_start_lease(p_job_id), 'permanent', p_why);
end
$function$

-- The advisory lock that stands for a template. Internal.
CREATE OR REPLACE FUNCTION fn_mot_template_lock(p_template_key text)
 RETURNS bigint
 LANGUAGE sql
 STABLE
RETURN hashtextextended(((("current_schema"())::text || '.mot_template:'::text) || p_template_key), (0)::bigint)

-- The template of that name, KEY or KEY@VERSION.
CREATE OR REPLACE FUNCTION fn_mot_template_of(p_template_id text)
 RETURNS mot_template
 LANGUAGE sql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
  select t.* from mot_template t
  where t.template_key = split_part(p_template_id, '@', 1)
    and (position('@' in p_template_id) = 0 or t.version::text = split_part(p_template_id, '@', 2))
  order by t.version desc limit 1
$function$

-- Writes a template: {template_key, version, changed}. Refused invalid_template with all errors.
CREATE OR REPLACE FUNCTION fn_mot_template_put(p_template jsonb, p_actor text, p_dry_run boolean DEFAULT false)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_key text := p_template ->> 'template_key';
  v_params jsonb := coalesce(p_template -> 'params', '{"type": "object"}');
  v_nodes jsonb := p_template -> 'nodes';
  v_edges jsonb := coalesce(p_template -> 'edges', '[]');
  v_errors text[];
  v_last mot_template;
  v_version int;
begin
  if jsonb_typeof(p_template) is distinct from 'object' or coalesce(btrim(p_actor), '') = '' then
    raise exception 'fn_mot_template_put needs a template, an object, and an actor' using errcode = '22023';
  end if;
  v_errors := array(
    select format('%s is not known; a template has template_key, description, params, nodes, edges', k)
    from jsonb_object_keys(p_template) k where k <> all (array['template_key', 'description', 'params', 'nodes', 'edges']))
    || case when coalesce(v_key, '') !~ '^[a-z][a-z0-9_.-]{0,79}$'
      then array['template_key must be a small letter, then up to 79 small letters, digits or _ . -'] else '{}' end
    || fn_mot_graph_errors(v_key, v_nodes, v_edges, v_params);
  if cardinality(v_errors) > 0 then
    return jsonb_build_object('refused', true, 'reason', 'invalid_template', 'template_key', v_key, 'errors', to_jsonb(v_errors));
  end if;
  v_nodes := (
    select jsonb_agg(n.node order by s.nth)
    from unnest(fn_mot_sorted(v_nodes, v_edges)) with ordinality s (key, nth)
    join jsonb_array_elements(v_nodes) n (node) on n.node ->> 'key' = s.key);
  -- as whoever emits an unused version does, so that none is changed while its first workflow is made
  perform pg_advisory_xact_lock(fn_mot_template_lock(v_key));
  v_last := fn_mot_template_of(v_key);
  v_version := case when v_last.template_key is null then 1 else v_last.version + (v_last.used_at is not null)::int end;
  if v_last.nodes = v_nodes and v_last.edges = v_edges and v_last.params = v_params
    and v_last.description = coalesce(p_template ->> 'description', '')
  then
    return jsonb_build_object('refused', false, 'template_key', v_key, 'version', v_last.version, 'changed', false, 'dry_run', p_dry_run);
  end if;
  if not p_dry_run then
    insert into mot_template as t (template_key, version, description, params, nodes, edges, actor)
    values (v_key, v_version, coalesce(p_template ->> 'description', ''), v_params, v_nodes, v_edges, p_actor)
    on conflict (template_key, version) do update
    set description = excluded.description, params = excluded.params, nodes = excluded.nodes, edges = excluded.edges,
        actor = excluded.actor, written_by = excluded.written_by, created_at = excluded.created_at;
  end if;
  return jsonb_build_object('refused', false, 'template_key', v_key, 'version', v_version, 'changed', true, 'dry_run', p_dry_run);
end
$function$

-- Trigger: refuses to change a template that was used.
CREATE OR REPLACE FUNCTION fn_mot_template_refuse()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if old.used_at is not null and (tg_op = 'DELETE' or (old.nodes, old.edges, old.params, old.version, old.template_key)
    is distinct from (new.nodes, new.edges, new.params, new.version, new.template_key))
  then
    raise exception 'the template %@% was used and is never changed; write the next version', old.template_key, old.version
      using errcode = '55000';
  end if;
  return case when tg_op = 'DELETE' then old else new end;
end
$function$

-- Stops new work of a scope until fn_resume: {scope, name, known, changed, paused_at}; known is false when there is nothing of that name so far.
CREATE OR REPLACE FUNCTION fn_pause(p_scope text, p_name text, p_actor text, p_reason text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_name text := case when p_scope = 'all' then '' else btrim(coalesce(p_name, '')) end;
  v_known boolean;
  v_pause queue_pause;
begin
  call pr_pause_check('fn_pause', p_scope, v_name, p_actor, p_reason);
  v_known := v_name = any (fn_pause_names(p_scope));
  insert into queue_pause (scope, name, actor, reason) values (p_scope, v_name, p_actor, p_reason)
  on conflict (scope, name) where resumed_at is null do nothing
  returning * into v_pause;
  if not found then
    select p.* into v_pause from queue_pause p where p.scope = p_scope and p.name = v_name and p.resumed_at is null;
    return jsonb_build_object('refused', false, 'scope', p_scope, 'name', v_name, 'known', v_known, 'changed', false,
      'paused_at', v_pause.paused_at, 'actor', v_pause.actor, 'reason', v_pause.reason);
  end if;
  perform pg_notify('queue_control', '');
  return jsonb_build_object('refused', false, 'scope', p_scope, 'name', v_name, 'known', v_known, 'changed', true,
    'paused_at', v_pause.paused_at);
end
$function$

-- The domains, consumers, kinds of jobs or executors that a pause can mean now.
CREATE OR REPLACE FUNCTION fn_pause_names(p_scope text)
 RETURNS text[]
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
  return array(
    select '' where p_scope = 'all'
    union
    select c.event_domain from dispatch_cursor c where p_scope = 'domain'
    union
    select c.consumer_key from consumer_registry c where p_scope = 'consumer'
    union
    select h.executor_name from queue_heartbeat h where p_scope = 'executor' and not h.is_passive
    union
    select x from unnest(array['DOT', 'Agent', 'Hermes', 'Codex', 'PG_worker', 'external_worker', 'future_Kestra_adapter']) x
    where p_scope = 'executor'
    union
    select k.job_kind
    from (
      select h.job_kind from job_handler h
      union
      select c.job_kind from consumer_registry c where c.job_kind is not null
      union
      select s.job_kind from job_subscription s where s.job_kind not like '%*%'
      union
      -- no index leads with the kind: those that wait, a step from lane to lane, and those that were made last
      select l.job_kind
      from unnest(array['DOT', 'Agent', 'Hermes', 'Codex', 'PG_worker', 'external_worker', 'future_Kestra_adapter']) x (executor)
      cross join lateral fn_job_lanes(x.executor) l
      union
      select n.job_kind from (select j.job_kind from job_queue j order by j.job_id desc limit 1000) n) k
    where p_scope = 'job_kind'
    order by 1);
end
$function$

-- Announces on queue_control that consumers changed.
CREATE OR REPLACE FUNCTION fn_queue_control_announce()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  perform pg_notify('queue_control', '');
  return null;
end
$function$

-- Says that this process does not beat under the name any more; the name stays registered.
CREATE OR REPLACE FUNCTION fn_queue_heartbeat_leave(p_executor_name text, p_instance text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  update queue_heartbeat h set instance = null, current_job_id = null, wakes_for = null
  where h.executor_name = p_executor_name and h.instance = p_instance and fn_executor_is_ours(h.owner_role);
  return jsonb_build_object('refused', false, 'executor_name', p_executor_name, 'left', found);
end
$function$

-- Registers an executor under a name, before its first claim. Refused not_owner, or executor_alive while another process beats under it.
CREATE OR REPLACE FUNCTION fn_queue_heartbeat_register(p_executor_name text, p_executor_kind text, p_domain_scope text[] DEFAULT '{}'::text[], p_expected_cadence_seconds integer DEFAULT 60, p_stale_threshold_seconds integer DEFAULT NULL::integer, p_metadata jsonb DEFAULT '{}'::jsonb, p_instance text DEFAULT NULL::text, p_takeover boolean DEFAULT false)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_now timestamptz := clock_timestamp();
  v_is queue_heartbeat;
begin
  if fn_executor_is_passive(p_executor_name) then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'executor_name', p_executor_name, 'is_passive', true);
  end if;
  insert into queue_heartbeat as h (
    executor_name, executor_kind, domain_scope, expected_cadence_seconds, stale_threshold_seconds, metadata,
    last_beat_at, last_beat_status, beats_total, owner_role, instance)
  values (
    p_executor_name, p_executor_kind, coalesce(p_domain_scope, '{}'), p_expected_cadence_seconds,
    coalesce(p_stale_threshold_seconds, greatest(1, fn_config_number('queue.heartbeat.stale_threshold_seconds', 300))::int), coalesce(p_metadata, '{}'),
    v_now, 'ok', 1, session_user, p_instance)
  on conflict (executor_name) do update
  set executor_kind = excluded.executor_kind,
      domain_scope = excluded.domain_scope,
      expected_cadence_seconds = excluded.expected_cadence_seconds,
      stale_threshold_seconds = excluded.stale_threshold_seconds,
      metadata = excluded.metadata,
      last_beat_at = excluded.last_beat_at,
      last_beat_status = 'ok',
      beats_total = h.beats_total + 1,
      -- a takeover that names no process still ends the one before
      instance = coalesce(excluded.instance, case when p_takeover and h.instance is not null then gen_random_uuid()::text end),
      wakes_for = case when h.instance = excluded.instance then h.wakes_for end,
      owner_role = case when exists (select from pg_roles r where r.rolname = h.owner_role) then h.owner_role else session_user end
  where fn_executor_is_ours(h.owner_role)
    and (coalesce(p_takeover, false) or h.instance is null or h.instance = p_instance
      or coalesce(h.last_beat_at, '-infinity') < v_now - make_interval(secs => h.stale_threshold_seconds));
  if not found then
    select h.* into v_is from queue_heartbeat h where h.executor_name = p_executor_name;
    return jsonb_build_object('refused', true, 'executor_name', p_executor_name, 'owner_role', v_is.owner_role,
      'reason', case when fn_executor_is_ours(v_is.owner_role) then 'executor_alive' else 'not_owner' end,
      'stale_at', v_is.last_beat_at + make_interval(secs => v_is.stale_threshold_seconds));
  end if;
  return jsonb_build_object('refused', false, 'executor_name', p_executor_name, 'executor_kind', p_executor_kind);
end
$function$

-- Beats for an executor. Refused executor_not_registered, or not_owner when name, kind, role or process do not fit.
CREATE OR REPLACE FUNCTION fn_queue_heartbeat_tick(p_executor_name text, p_executor_kind text DEFAULT NULL::text, p_status text DEFAULT 'ok'::text, p_current_job_id uuid DEFAULT NULL::uuid, p_lease_owner text DEFAULT NULL::text, p_metadata jsonb DEFAULT NULL::jsonb, p_instance text DEFAULT NULL::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  update queue_heartbeat h
  set last_beat_at = clock_timestamp(),
      last_beat_status = p_status,
      beats_total = h.beats_total + 1,
      current_job_id = p_current_job_id,
      metadata = coalesce(p_metadata, h.metadata)
  where h.executor_name = p_executor_name
    and (p_executor_kind is null or h.executor_kind = p_executor_kind)
    and (p_lease_owner is null or p_lease_owner = p_executor_name)
    and (h.instance is null or h.instance = p_instance)
    and not h.is_passive
    and fn_executor_is_ours(h.owner_role);
  if found then
    return jsonb_build_object('refused', false, 'executor_name', p_executor_name);
  end if;
  return jsonb_build_object('refused', true, 'executor_name', p_executor_name, 'reason',
    case when fn_executor_is_passive(p_executor_name) or exists (select from queue_heartbeat h where h.executor_name = p_executor_name)
      then 'not_owner' else 'executor_not_registered' end);
end
$function$

-- Forgets an executor. Refused executor_not_registered, or not_owner.
CREATE OR REPLACE FUNCTION fn_queue_heartbeat_unregister(p_executor_name text, p_instance text DEFAULT NULL::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  delete from queue_heartbeat h
  where h.executor_name = p_executor_name and not h.is_passive and (p_instance is null or h.instance = p_instance)
    and fn_executor_is_ours(h.owner_role);
  if found then
    return jsonb_build_object('refused', false, 'executor_name', p_executor_name);
  end if;
  return jsonb_build_object('refused', true, 'executor_name', p_executor_name, 'reason',
    case when exists (select from queue_heartbeat h where h.executor_name = p_executor_name) then 'not_owner' else 'executor_not_registered' end);
end
$function$

-- Notices silences and their ends: {stale, silent, recovered, events, missing_types}. Refused heartbeat_disabled.
CREATE OR REPLACE FUNCTION fn_queue_stale_check(p_threshold_seconds integer DEFAULT NULL::integer, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_known text[];
  v_type text;
  v_row queue_heartbeat;
  v_stale jsonb := '[]';
  v_events jsonb := '[]';
  v_silent int := 0;
  v_recovered int := 0;
  v_missing text[] := '{}';
  v_since timestamptz;
  v_trouble text;
begin
  if fn_config('queue.heartbeat.enabled', 'true') <> 'true' then
    return jsonb_build_object('refused', true, 'reason', 'heartbeat_disabled');
  end if;
  if p_threshold_seconds is not null or p_now is not null then
    -- another measure than everybody's own: tells, and announces nothing
    select coalesce(jsonb_agg(jsonb_build_object('executor_name', h.executor_name, 'executor_kind', h.executor_kind,
      'last_beat_at', h.last_beat_at, 'silent_since', h.silent_since, 'is_passive', h.is_passive) order by h.last_beat_at), '[]') into v_stale
    from queue_heartbeat h
    where coalesce(h.last_beat_at, '-infinity') < v_now - make_interval(secs => coalesce(p_threshold_seconds, h.stale_threshold_seconds));
    return jsonb_build_object('refused', false, 'stale', v_stale, 'silent', 0, 'recovered', 0, 'events', v_events,
      'missing_types', v_events, 'emit_error', null);
  end if;
  begin
    insert into queue_heartbeat (executor_name, executor_kind, last_beat_at, stale_threshold_seconds, is_passive, metadata)
    select l.worker_name, 'PG_worker', l.ran_at, greatest(1, fn_config_number('queue.heartbeat.stale_threshold_seconds', 300))::int, true,
      '{"role": "legacy"}'
    from fn_legacy_workers() l
    where not exists (select from queue_heartbeat h where h.executor_name = l.worker_name)
    on conflict (executor_name) do nothing;
    update queue_heartbeat h set last_beat_at = w.ran_at, is_passive = true
    from (
      select f.executor_name, l.ran_at
      from fn_legacy_workers() l
      join lateral (
        select q.executor_name from queue_heartbeat q
        where q.executor_name = l.worker_name and (q.last_beat_at is distinct from l.ran_at or not q.is_passive)
        for update skip locked) f on true) w
    where h.executor_name = w.executor_name;
  exception when others then
    v_trouble := sqlerrm; -- what the host keeps must not stop the rest
  end;

  v_known := array(
    select r.event_type::text from event_type_registry r
    where r.event_domain = 'system' and r.event_type in ('queue_worker_silent', 'queue_worker_recovered') and r.active);
  for v_row in
    select h.* from queue_heartbeat h
    where (h.silent_since is null) = (coalesce(h.last_beat_at, '-infinity')
      < v_now - make_interval(secs => h.stale_threshold_seconds))
    order by h.executor_name
    limit 50 -- each may take a savepoint (trap 19); the rest comes with the next check
    for update skip locked
  loop
    if v_row.silent_since is null then
      v_type := 'queue_worker_silent';
      v_silent := v_silent + 1;
    else
      v_type := 'queue_worker_recovered';
      v_recovered := v_recovered + 1;
    end if;
    v_since := coalesce(v_row.silent_since, v_row.last_beat_at, v_now);
    update queue_heartbeat h set silent_since = case when v_row.silent_since is null then v_since end
    where h.executor_name = v_row.executor_name;
    if v_type = any (v_known) then
      begin
        v_events := v_events || to_jsonb(fn_event_emit('system', v_type, v_row.executor_name, jsonb_build_object(
          'executor_name', v_row.executor_name, 'executor_kind', v_row.executor_kind, 'last_beat_at', v_row.last_beat_at,
          'silent_since', v_since, 'stale_threshold_seconds', v_row.stale_threshold_seconds,
          'is_passive', v_row.is_passive)));
      exception when others then
        v_trouble := sqlerrm; -- an outbox that takes no such row must not undo what was found
      end;
    elsif not v_type = any (v_missing) then
      v_missing := v_missing || v_type;
    end if;
  end loop;
  select coalesce(jsonb_agg(jsonb_build_object('executor_name', h.executor_name, 'executor_kind', h.executor_kind,
    'last_beat_at', h.last_beat_at, 'silent_since', h.silent_since, 'is_passive', h.is_passive) order by h.silent_since), '[]') into v_stale
  from queue_heartbeat h where h.silent_since is not null;
  return jsonb_build_object('refused', false, 'stale', v_stale, 'silent', v_silent, 'recovered', v_recovered, 'events', v_events,
    'missing_types', to_jsonb(v_missing), 'emit_error', v_trouble);
end
$function$

-- A limit `jobs/seconds` as number and interval; 0 jobs when it cannot be read.
CREATE OR REPLACE FUNCTION fn_rate_parts(p_limit text, OUT jobs integer, OUT span interval)
 RETURNS record
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  jobs := case when p_limit ~ '^[0-9]{1,9}(/[0-9]{1,7})?$' then split_part(p_limit, '/', 1)::int else 0 end;
  span := make_interval(secs => case when p_limit ~ '^[0-9]{1,9}/[0-9]{1,7}$' then greatest(1, split_part(p_limit, '/', 2)::int) else 1 end);
end
$function$

-- How many jobs wait for which reason, and what consumers decided about the newest events. Called by v_reason_counts.
CREATE OR REPLACE FUNCTION fn_reason_counts(p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS TABLE(about text, reason text, count bigint, more boolean, oldest_at timestamp with time zone)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
begin
  return query
  select 'job', coalesce(split_part(b.reason, ':', 1), 'ready'), sum(b.due)::bigint, bool_or(b.more), min(b.oldest_due_at)
  from fn_job_backlog() b
  where b.due > 0
  group by 2
  union all
  select 'job', case n.status when 'retry_waiting' then 'retry_waiting' else 'scheduled' end, sum(n.jobs)::bigint, bool_or(n.jobs = 1000), min(n.oldest)
  from unnest(array['DOT', 'Agent', 'Hermes', 'Codex', 'PG_worker', 'external_worker', 'future_Kestra_adapter']) as x (executor)
  cross join lateral fn_job_lanes(x.executor) l
  cross join lateral (
    select d.status, count(*) as jobs, min(d.scheduled_at) as oldest
    from (
      select j.status::text as status, j.scheduled_at from job_queue j
      where j.executor = x.executor and j.claimable and j.lane = l.lane and j.priority = l.priority and j.scheduled_at > v_now
      order by j.scheduled_at, j.job_id
      limit 1000) d
    group by d.status) n
  group by 2
  union all
  select 'job', 'ordering_blocked', count(*), count(*) = 10000, min(o.created_at)
  from (
    select j.created_at from job_queue j
    where j.ordering_key is not null and coalesce(j.ordering_slot, 0) = 0 and j.status in ('queued', 'retry_waiting') limit 10000) o
  having count(*) > 0
  union all
  select 'job', 'lease_lost', count(*), count(*) = 10000, min(l.lease_until)
  from (select j.lease_until from job_queue j where j.lease_until is not null and j.lease_until <= v_now order by j.lease_until limit 10000) l
  having count(*) > 0
  union all
  select 'job', case w.status when 'active' then 'blocked' else 'failed_holding' end, sum(b.jobs)::bigint, count(*) >= 1000, min(b.oldest)
  from (
    (select a.workflow_id, a.status from job_workflow a where a.status = 'active' order by a.updated_at limit 1000)
    union all
    (select f.workflow_id, 'failed' from job_workflow f
     where f.status in ('failed', 'partially_failed') and f.outcome ->> 'blocked' <> '0' order by f.finished_at limit 1000)) w
  cross join lateral (
    select count(*) as jobs, min(j.created_at) as oldest
    from job_queue j
    where j.job_id between w.workflow_id and fn_uuid_v7_nth(w.workflow_id, -1) and j.workflow_id = w.workflow_id and j.status = 'queued'
      and j.blocked_by > 0 and not (j.blocked_by = 1 and exists (select from job_gate g where g.job_id = j.job_id))) b
  where b.jobs > 0
  group by 2
  union all
  select 'job', g.kind || '_waiting', count(*), count(*) = 10000, min(g.since) from fn_job_gate_waiting(10000) g group by g.kind
  union all
  select 'event', e.reason, e.count, false, e.oldest_at from fn_event_reason_counts(100) e;
end
$function$

-- Whether a recipient is user:…, agency:…, role:… or agent:… without spaces and braces.
CREATE OR REPLACE FUNCTION fn_recipient_is_sound(p_recipient_ref text)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE
RETURN COALESCE((p_recipient_ref ~ '^(user|agency|role|agent):[^[:space:]{}]{1,200}$'::text), false)

-- Fills a consumer's template for one recipient of an event; null when a variable has no value.
CREATE OR REPLACE FUNCTION fn_recipient_template(p_template text, p_consumer_key text, p_document jsonb)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
RETURN CASE WHEN (p_template IS NULL) THEN NULL::text WHEN (p_template = '{event_subject_ref}'::text) THEN (p_document #>> '{event,event_subject_ref}'::text[]) WHEN (p_template = '{recipient}'::text) THEN (p_document #>> '{event,recipient}'::text[]) WHEN (p_template = '{consumer_key}:{event_id}:{recipient}'::text) THEN ((((p_consumer_key || ':'::text) || (p_document #>> '{event,id}'::text[])) || ':'::text) || (p_document #>> '{event,recipient}'::text[])) WHEN (strpos(p_template, '{'::text) = 0) THEN p_template ELSE fn_template_expand(p_template, p_consumer_key, p_document) END

-- Counts, and unless dry makes, what a consumer wants of some events and lacks: {seen, expected, made, present, not_matching, without_job, errors, keys}. Internal.
CREATE OR REPLACE FUNCTION fn_rehearse_batch(p_consumer consumer_registry, p_generation integer, p_event_ids uuid[], p_limit bigint, p_burst bigint, p_run_id uuid, p_dry_run boolean, p_known bigint[], OUT seen integer, OUT expected integer, OUT made integer, OUT present integer, OUT not_matching integer, OUT without_job integer, OUT errors integer, OUT keys bigint[])
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_first uuid := fn_uuid_v7();
  v_kind text := (p_consumer).job_kind;
  v_suffix text := coalesce('#g' || p_generation, '');
  v_attempts int := coalesce((p_consumer).max_attempts, fn_job_max_attempts((p_consumer).job_kind, (p_consumer).event_domain));
  v_shared boolean := strpos((p_consumer).idempotency_key, '{event_id}') = 0;
  v_inserted int;
  v_repeated int;
begin
  with judged as materialized (
    select r.*, k.stored, (row_number() over (order by r.n, r.recipient))::int as i,
      case
        when r.reason = 'undigestible' then 'error'
        when r.reason <> 'match' then 'not_matching'
        when p_generation is not null
          and (select 1 from job_queue j where j.job_kind = v_kind and j.idempotency_key = k.base limit 1) is null
          and (select 1 from job_archive_key a where a.job_kind = v_kind and a.idempotency_key = k.base limit 1) is null then 'without_job'
        when (select 1 from job_queue j where j.job_kind = v_kind and j.idempotency_key = k.stored limit 1) is not null
          or (select 1 from job_archive_key a where a.job_kind = v_kind and a.idempotency_key = k.stored limit 1) is not null
          or hashtextextended(k.stored, 0) = any (p_known) then 'present'
        else 'wanted'
      end as state
    from fn_rehearse_rows(p_consumer, p_event_ids) r
    cross join lateral (
      select fn_job_key(r.idempotency_key) as base, fn_job_key(r.idempotency_key || v_suffix) as stored offset 0) k
  ),
  single as materialized ( -- events that share a key share a job
    select j.*, case
        when j.state = 'wanted' and row_number() over (partition by j.state, j.stored order by j.i) > 1 then 'present' else j.state end as fate
    from judged j
  ),
  ranked as materialized (
    select s.*, case when s.fate = 'wanted' then row_number() over (partition by s.fate order by s.i) end as rank from single s
  ),
  bound as materialized (
    select case when count(*) >= p_limit or count(*) > p_burst then max(r.n) filter (where r.rank <= least(p_limit, p_burst)) end as last_n
    from ranked r where r.fate = 'wanted'
  ),
  chosen as materialized (
    select r.* from ranked r cross join bound b
    where r.fate = 'wanted' and r.rank <= p_limit and (b.last_n is null or r.n <= b.last_n)
  ),
  inserted as (
    insert into job_queue (
      job_id, job_kind, executor, event_domain, source_ref, target_ref, payload_ref, safe_payload, priority, scheduled_at,
      max_attempts, idempotency_key, ordering_key, actor, run_id, causation_event_id, consumer_key, correlation_id, traceparent)
    select
      fn_uuid_v7_nth(v_first, c.i), v_kind, (p_consumer).executor, (p_consumer).event_domain, c.source_ref, c.target_ref, c.payload_ref,
      c.safe_payload, (p_consumer).priority, clock_timestamp() + (p_consumer).delay, v_attempts, c.stored, c.ordering_key,
      (p_consumer).actor, p_run_id, c.event_id, (p_consumer).consumer_key, c.correlation_id, fn_traceparent(c.safe_payload ->> 'traceparent')
    from chosen c
    where not p_dry_run
    order by c.i
    on conflict (job_kind, idempotency_key) do nothing
    returning 1
  ),
  refused as (
    insert into dispatch_error as d (event_id, consumer_key, event_domain, sqlstate, message)
    select distinct on (r.event_id) r.event_id, (p_consumer).consumer_key, (p_consumer).event_domain,
      case when fn_is_signal(r.safe_payload) then '22004' else '23514' end,
      case when not fn_is_signal(r.safe_payload) then 'the payload is no signal: a denied key, or too large'
        else 'the template of ' || case when coalesce(r.idempotency_key, '') = '' then 'idempotency_key' else 'ordering_key' end
          || ' has a variable without a value' end
    from ranked r cross join bound b
    where not p_dry_run and r.fate = 'error' and (b.last_n is null or r.n <= b.last_n)
    order by r.event_id
    on conflict (event_id, consumer_key) do update
    set sqlstate = excluded.sqlstate, message = excluded.message, tries = d.tries + 1, last_at = clock_timestamp()
    returning 1
  ),
  mended as ( -- as fn_consumer_dispatch: what did not fail again, or is not wanted any more
    delete from dispatch_error d
    using (
      select r.event_id
      from ranked r cross join bound b
      where not p_dry_run and p_generation is null and (b.last_n is null or r.n <= b.last_n)
      group by r.event_id
      having bool_and(r.fate <> 'error' and (r.fate <> 'wanted' or r.rank <= p_limit))) m
    where d.event_id = m.event_id and d.consumer_key = (p_consumer).consumer_key
    returning 1
  )
  select coalesce((select b.last_n from bound b), cardinality(p_event_ids)),
    (select count(*) from chosen),
    (select count(*) from inserted),
    count(*) filter (where r.fate = 'present'),
    count(*) filter (where r.fate = 'not_matching'),
    count(*) filter (where r.fate = 'without_job'),
    count(*) filter (where r.fate = 'error'),
    case when p_dry_run and v_shared then (select array_agg(hashtextextended(c.stored, 0)) from chosen c) end,
    (select count(*) from refused) -- so that it is done
  into seen, made, v_inserted, present, not_matching, without_job, errors, keys, v_repeated
  from ranked r cross join bound b
  where b.last_n is null or r.n <= b.last_n;
  if not p_dry_run then
    v_repeated := case when v_inserted > 0 then fn_job_repeated(fn_uuid_v7_nth(v_first, 0), fn_uuid_v7_nth(v_first, 2147483647)) else 0 end;
    present := present + made - v_inserted + v_repeated; -- somebody else was quicker
    made := v_inserted - v_repeated;
  end if;
  expected := made + present + errors;
end
$function$

-- Begins a backfill or replay, or counts a page of one. Internal.
CREATE OR REPLACE FUNCTION fn_rehearse_begin(p_mode text, p_consumer_key text, p_since timestamp with time zone, p_until timestamp with time zone, p_limit integer, p_dry_run boolean, p_actor text, p_reason text, p_event_ids uuid[], p_rate numeric, p_priority integer, p_after jsonb, p_batch integer, p_now timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_consumer consumer_registry;
  v_obstacle jsonb;
  v_closed timestamptz;
  v_forgotten timestamptz;
  v_since timestamptz;
  v_until timestamptz;
  v_priority int;
  v_generation int;
  v_page record;
  v_done record;
  v_made bigint := coalesce((p_after ->> 'made')::bigint, 0);
  v_known bigint[];
  v_id uuid;
  v_ended boolean;
begin
  if p_dry_run is null or p_limit < 1 or p_rate < 0.001 or p_rate > 1000000 or p_priority not between 0 and 32767
    or p_batch is null or p_batch not between 1 and 10000
  then
    raise exception 'a %: p_dry_run is true or false, p_limit at least 1, p_rate from 0.001 to 1000000, p_priority from 0 to 32767, p_batch from 1 to 10000', p_mode
      using errcode = '22023';
  elsif cardinality(p_event_ids) not between 1 and 1000 then
    raise exception 'a replay names from 1 to 1000 events, or none and a window' using errcode = '22023';
  elsif p_since >= p_until then
    raise exception 'a %: p_since must be before p_until', p_mode using errcode = '22023';
  elsif p_mode = 'replay' and not p_dry_run and coalesce(btrim(p_reason), '') = '' then
    raise exception 'a replay runs jobs again, and needs p_reason' using errcode = '22023';
  elsif current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'a % needs READ COMMITTED: an older snapshot would miss what another session made', p_mode using errcode = '25001';
  end if;
  if p_dry_run then
    select c.* into v_consumer from consumer_registry c where c.consumer_key = p_consumer_key;
  else -- one at a time: generations are counted
    select c.* into v_consumer from consumer_registry c where c.consumer_key = p_consumer_key for no key update;
  end if;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'consumer_key', p_consumer_key);
  elsif v_consumer.job_kind is null then
    return jsonb_build_object('refused', true, 'reason', 'terminal', 'consumer_key', p_consumer_key);
  end if;
  v_obstacle := fn_rehearse_obstacle(v_consumer, null);
  v_closed := fn_audit_closed_until(v_consumer.event_domain);
  if v_closed is null then
    v_obstacle := coalesce(v_obstacle, '{"reason": "not_closed"}');
  end if;
  v_forgotten := fn_rehearse_forgotten(v_consumer);
  v_since := coalesce(p_since, (p_after ->> 'since')::timestamptz,
    case when p_event_ids is null then greatest((select min(o.created_at) from event_outbox o), v_forgotten)
      else (select min(o.created_at) from event_outbox o where o.id = any (p_event_ids)) end, v_now);
  v_until := coalesce(p_until, (p_after ->> 'until')::timestamptz, greatest(v_now, v_since));
  -- what has a job is not known of older events; a replay repeats only what is known to have one
  if p_mode = 'backfill' and (v_since < v_forgotten or v_until <= v_forgotten) and coalesce(v_obstacle ->> 'reason', 'not_closed') = 'not_closed' then
    v_obstacle := jsonb_build_object('reason', 'keys_forgotten', 'forgotten_until', v_forgotten);
  end if;
  if not p_dry_run and v_obstacle is not null and (v_obstacle ->> 'reason' <> 'not_closed' or not exists (select from dispatch_sweep)) then
    return jsonb_build_object('refused', true, 'consumer_key', p_consumer_key) || v_obstacle;
  end if;
  v_priority := coalesce(p_priority, least(32767, greatest(200, v_consumer.priority + 100)));
  if p_mode = 'replay' then
    v_generation := 1 + coalesce((select max(b.generation) from consumer_backfill b where b.consumer_key = p_consumer_key), 1);
  end if;
  if p_dry_run then
    v_known := array(select jsonb_array_elements_text(p_after -> 'keys')::bigint);
    select * into v_page from fn_rehearse_page(v_consumer.event_domain, coalesce((p_after ->> 'at')::timestamptz, v_since),
      coalesce((p_after ->> 'id')::uuid, '00000000-0000-0000-0000-000000000000'), least(v_until, coalesce(v_closed, '-infinity')), p_event_ids, p_batch);
    select * into v_done from fn_rehearse_run(fn_rehearse_candidate(v_consumer, v_priority), v_generation, v_page.ids,
      coalesce(p_limit - v_made, 9223372036854775807), 9223372036854775807, null, true, v_known);
    if v_done.seen < cardinality(v_page.ids) then
      v_page.looked := v_page.nths[v_done.seen];
      v_page.last_at := v_page.ats[v_done.seen];
      v_page.last_id := v_page.ids[v_done.seen];
    end if;
    v_made := v_made + v_done.made;
    v_ended := v_page.looked = 0 or v_made >= p_limit;
    return jsonb_build_object('refused', false, 'dry_run', true, 'mode', p_mode, 'consumer_key', p_consumer_key, 'generation', v_generation,
      'since', v_since, 'until', v_until, 'closed_until', v_closed, 'priority', v_priority, 'job_kind', v_consumer.job_kind, 'obstacle', v_obstacle,
      'estimate', case when p_event_ids is null then fn_rehearse_estimate(v_since, v_until) else cardinality(p_event_ids) end,
      'looked', v_page.looked, 'events', v_done.seen, 'expected', v_done.expected, 'made', v_done.made, 'present', v_done.present,
      'not_matching', v_done.not_matching, 'without_job', v_done.without_job, 'errors', v_done.errors,
      'next', case when not coalesce(v_ended, false) then jsonb_build_object('at', v_page.last_at, 'id', v_page.last_id, 'since', v_since, 'until', v_until,
        'made', v_made, 'keys', to_jsonb(v_known || v_done.keys)) end);
  end if;
  insert into consumer_backfill (
    consumer_key, event_domain, mode, generation, consumer, since, until, event_ids, job_limit, rate, priority, place_at, estimate, actor, reason)
  values (
    p_consumer_key, v_consumer.event_domain, p_mode, v_generation, fn_audit_text(v_consumer), v_since, v_until, p_event_ids, p_limit, p_rate,
    v_priority, v_since, case when p_event_ids is null then fn_rehearse_estimate(v_since, v_until) else cardinality(p_event_ids) end,
    coalesce(p_actor, session_user), coalesce(p_reason, 'no reason given'))
  returning backfill_id into v_id;
  insert into dot_config_audit (key, old_value, new_value, actor, reason)
  values ('consumer.' || p_consumer_key || '.' || p_mode, null, v_id || ' running', coalesce(p_actor, session_user), coalesce(p_reason, 'no reason given'));
  -- what is not closed yet, the steps wait for
  return fn_consumer_backfill_step(v_id, p_batch, p_now) || jsonb_build_object('dry_run', false, 'closed_until', v_closed);
end
$function$

-- A consumer as if it had always been there, with another priority. Internal.
CREATE OR REPLACE FUNCTION fn_rehearse_candidate(p_consumer consumer_registry, p_priority integer)
 RETURNS consumer_registry
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  p_consumer.starts_at := '-infinity';
  p_consumer.priority := coalesce(p_priority, p_consumer.priority);
  return p_consumer;
end
$function$

-- About how many events the outbox has in a window. Internal.
CREATE OR REPLACE FUNCTION fn_rehearse_estimate(p_since timestamp with time zone, p_until timestamp with time zone)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_plan json;
begin
  execute format('explain (format json) select from event_outbox o where o.created_at >= %L and o.created_at < %L', p_since, p_until) into v_plan;
  return (v_plan -> 0 -> 'Plan' ->> 'Plan Rows')::bigint;
end
$function$

-- Until when the keys of a consumer's jobs may be forgotten; null: none is. Internal.
CREATE OR REPLACE FUNCTION fn_rehearse_forgotten(p_consumer consumer_registry)
 RETURNS timestamp with time zone
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return (
    select f.until from job_archive_forgotten f
    where f.until > '-infinity'
      and (strpos((p_consumer).idempotency_key, '{consumer_key}') = 0
        or f.until > least((p_consumer).created_at, (select min(v.changed_at) from audit_consumer v where v.consumer_key = (p_consumer).consumer_key))));
end
$function$

-- Why a backfill may not make jobs now: {reason, …}, or null. Internal.
CREATE OR REPLACE FUNCTION fn_rehearse_obstacle(p_consumer consumer_registry, p_was jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_beside constant text[] := array['enabled', 'dry_run', 'starts_at', 'priority', 'description', 'source', 'actor', 'created_at', 'updated_at'];
  v_now jsonb := fn_audit_text(p_consumer) - v_beside;
  v_pause text := fn_domain_pause((p_consumer).event_domain);
begin
  if not fn_gate_is_open('queue.job_substrate.enabled') then
    return '{"reason": "job_substrate_disabled"}';
  elsif v_pause is not null then
    return jsonb_build_object('reason', 'paused', 'scope', v_pause);
  elsif exists (select from queue_pause p where p.resumed_at is null and p.scope = 'consumer' and p.name = (p_consumer).consumer_key) then
    return '{"reason": "paused", "scope": "consumer"}';
  elsif not (p_consumer).enabled then
    return '{"reason": "consumer_disabled"}';
  elsif (p_consumer).dry_run then
    return '{"reason": "consumer_dry_run"}';
  elsif p_was is not null and v_now <> p_was - v_beside then
    return jsonb_build_object('reason', 'consumer_changed', 'columns', (
      select jsonb_agg(n.key order by n.key) from jsonb_each(v_now) n where n.value is distinct from p_was -> n.key));
  end if;
  return null;
end
$function$

-- The next events of the outbox behind a place: ids, ats and nths of those of the domain, looked, and the last of all. Internal.
CREATE OR REPLACE FUNCTION fn_rehearse_page(p_event_domain text, p_at timestamp with time zone, p_id uuid, p_until timestamp with time zone, p_event_ids uuid[], p_limit integer, OUT ids uuid[], OUT ats timestamp with time zone[], OUT nths integer[], OUT looked integer, OUT last_at timestamp with time zone, OUT last_id uuid)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
begin
  if p_event_ids is null then
    with page as materialized (
      select o.id, o.created_at, o.event_domain
      from event_outbox o
      where o.created_at >= p_at and o.created_at < p_until and (o.created_at, o.id) > (p_at, p_id)
      order by o.created_at, o.id
      limit p_limit
    ),
    numbered as (select p.*, row_number() over (order by p.created_at, p.id) as n from page p)
    select array_agg(n.id order by n.n) filter (where n.event_domain = p_event_domain),
      array_agg(n.created_at order by n.n) filter (where n.event_domain = p_event_domain),
      array_agg(n.n::int order by n.n) filter (where n.event_domain = p_event_domain), count(*),
      (array_agg(n.created_at order by n.n desc))[1], (array_agg(n.id order by n.n desc))[1]
    into ids, ats, nths, looked, last_at, last_id from numbered n;
  else
    with page as materialized (
      select o.id, o.created_at
      from (select distinct x from unnest(p_event_ids) x) u (id)
      cross join lateral (select e.id, e.created_at, e.event_domain from event_outbox e where e.id = u.id offset 0) o
      where o.event_domain = p_event_domain and o.created_at < p_until and (o.created_at, o.id) > (p_at, p_id)
      order by o.created_at, o.id
      limit p_limit
    ),
    numbered as (select p.*, row_number() over (order by p.created_at, p.id) as n from page p)
    select array_agg(n.id order by n.n), array_agg(n.created_at order by n.n), array_agg(n.n::int order by n.n), count(*),
      (array_agg(n.created_at order by n.n desc))[1], (array_agg(n.id order by n.n desc))[1]
    into ids, ats, nths, looked, last_at, last_id from numbered n;
  end if;
end
$function$

-- What a consumer, stored or not, would make of some events: reason (match, terminal, undigestible, no_recipient, or why it does not want it) and templates. Internal.
CREATE OR REPLACE FUNCTION fn_rehearse_rows(p_consumer consumer_registry, p_event_ids uuid[])
 RETURNS TABLE(n integer, event_id uuid, event_type text, created_at timestamp with time zone, safe_payload jsonb, correlation_id text, reason text, recipient text, source_ref text, target_ref text, payload_ref text, ordering_key text, idempotency_key text)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
begin
  if (p_consumer).fan_out is null then
    return query
    select u.n::int, r.id, r.event_type, r.created_at, r.safe_payload, r.correlation_id, r.reason, null::text,
      fn_template_render((p_consumer).source_ref, (p_consumer).consumer_key, r.e),
      fn_template_render((p_consumer).target_ref, (p_consumer).consumer_key, r.e),
      fn_template_render((p_consumer).payload_ref, (p_consumer).consumer_key, r.e),
      fn_template_render((p_consumer).ordering_key, (p_consumer).consumer_key, r.e),
      fn_template_render((p_consumer).idempotency_key, (p_consumer).consumer_key, r.e)
    from unnest(p_event_ids) with ordinality as u (id, n)
    cross join lateral (
      select o as e, o.id, o.event_type::text as event_type, o.created_at, o.safe_payload, o.correlation_id::text as correlation_id, case
          when fn_consumer_verdict(p_consumer, o) <> 'match' then fn_consumer_verdict(p_consumer, o)
          when (p_consumer).job_kind is null then 'terminal'
          when not fn_event_is_digestible(p_consumer, o) then 'undigestible'
          else 'match'
        end as reason
      from event_outbox o where o.id = u.id offset 0) r
    order by u.n;
    return;
  end if;
  return query
  with judged as materialized (
    select u.n::int as n, r.*
    from unnest(p_event_ids) with ordinality as u (id, n)
    cross join lateral (
      select o.id, o.event_type::text as event_type, o.created_at, o.safe_payload, o.correlation_id::text as correlation_id,
        fn_consumer_verdict(p_consumer, o) as verdict, fn_event_document(o) as document
      from event_outbox o where o.id = u.id offset 0) r
  ),
  addressed as materialized (
    select distinct s.event_id, s.recipient_ref
    from fn_event_recipient_rows(array(select j.id from judged j where j.verdict = 'match')) s
    where s.muted_by is null
  ),
  filled as materialized (
    select j.n, j.id, j.event_type, j.created_at, j.safe_payload, j.correlation_id, j.verdict, a.recipient_ref,
      fn_recipient_template((p_consumer).source_ref, (p_consumer).consumer_key, d.document) as source_ref,
      fn_recipient_template((p_consumer).target_ref, (p_consumer).consumer_key, d.document) as target_ref,
      fn_recipient_template((p_consumer).payload_ref, (p_consumer).consumer_key, d.document) as payload_ref,
      fn_recipient_template((p_consumer).ordering_key, (p_consumer).consumer_key, d.document) as ordering_key,
      nullif(fn_recipient_template((p_consumer).idempotency_key, (p_consumer).consumer_key, d.document), '') as idempotency_key
    from judged j
    left join addressed a on a.event_id = j.id
    cross join lateral (select jsonb_set(j.document, '{event,recipient}', to_jsonb(a.recipient_ref)) as document) d
  )
  select f.n, f.id, f.event_type, f.created_at, f.safe_payload, f.correlation_id, case
      when f.verdict <> 'match' then f.verdict
      when f.recipient_ref is null then 'no_recipient'
      when f.idempotency_key is null or not fn_is_signal(f.safe_payload) or ((p_consumer).ordering_key is not null and f.ordering_key is null)
        then 'undigestible'
      else 'match'
    end,
    f.recipient_ref, f.source_ref, f.target_ref, f.payload_ref, f.ordering_key, f.idempotency_key
  from filled f
  order by f.n, f.recipient_ref;
end
$function$

-- fn_rehearse_batch for events of which some may raise. Internal.
CREATE OR REPLACE FUNCTION fn_rehearse_run(p_consumer consumer_registry, p_generation integer, p_event_ids uuid[], p_limit bigint, p_burst bigint, p_run_id uuid, p_dry_run boolean, p_known bigint[], OUT seen integer, OUT expected integer, OUT made integer, OUT present integer, OUT not_matching integer, OUT without_job integer, OUT errors integer, OUT keys bigint[])
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_count int := coalesce(cardinality(p_event_ids), 0);
  v_done record;
  v_state text;
  v_message text;
begin
  seen := 0; expected := 0; made := 0; present := 0; not_matching := 0; without_job := 0; errors := 0; keys := '{}';
  while seen < v_count and v_count > 20 loop
    begin
      select * into v_done from fn_rehearse_batch(p_consumer, p_generation, p_event_ids[1:v_count], p_limit, p_burst, p_run_id, p_dry_run, p_known);
      seen := v_done.seen; expected := v_done.expected; made := v_done.made; present := v_done.present;
      not_matching := v_done.not_matching; without_job := v_done.without_job; errors := v_done.errors;
      keys := coalesce(v_done.keys, '{}');
      return;
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded or feature_not_supported or raise_exception
        or undefined_object then
        v_count := greatest(20, v_count / 5);
    end;
  end loop;
  while seen < v_count and made < least(p_limit, p_burst) loop
    begin
      select * into v_done from fn_rehearse_batch(p_consumer, p_generation, array[p_event_ids[seen + 1]], p_limit - made, p_burst - made,
        p_run_id, p_dry_run, p_known || keys);
      expected := expected + v_done.expected; made := made + v_done.made; present := present + v_done.present;
      not_matching := not_matching + v_done.not_matching; without_job := without_job + v_done.without_job; errors := errors + v_done.errors;
      keys := keys || coalesce(v_done.keys, '{}');
    exception
      when data_exception or integrity_constraint_violation or program_limit_exceeded or feature_not_supported or raise_exception
        or undefined_object then
        get stacked diagnostics v_state = returned_sqlstate, v_message = message_text;
        expected := expected + 1;
        errors := errors + 1;
        if not p_dry_run then
          insert into dispatch_error as d (event_id, consumer_key, event_domain, sqlstate, message)
          values (p_event_ids[seen + 1], (p_consumer).consumer_key, (p_consumer).event_domain, v_state, v_message)
          on conflict (event_id, consumer_key) do update
          set sqlstate = excluded.sqlstate, message = excluded.message, tries = d.tries + 1, last_at = clock_timestamp();
        end if;
    end;
    seen := seen + 1;
  end loop;
end
$function$

-- Ends a pause: {scope, name}. Refused not_found when nothing is paused there.
CREATE OR REPLACE FUNCTION fn_resume(p_scope text, p_name text, p_actor text, p_reason text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_name text := case when p_scope = 'all' then '' else btrim(coalesce(p_name, '')) end;
begin
  call pr_pause_check('fn_resume', p_scope, v_name, p_actor, p_reason);
  update queue_pause p
  set resumed_at = clock_timestamp(), resumed_by = session_user, resume_actor = p_actor, resume_reason = p_reason
  where p.scope = p_scope and p.name = v_name and p.resumed_at is null;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'scope', p_scope, 'name', v_name);
  end if;
  perform pg_notify('queue_control', '');
  perform fn_wake('job_wake_' || k)
  from unnest(array['dot', 'agent', 'hermes', 'codex', 'pg_worker', 'external_worker', 'future_kestra_adapter']) k;
  perform fn_wake('queue_wake_' || c.event_domain) from dispatch_cursor c
  where p_scope = 'all' or (p_scope = 'domain' and c.event_domain = v_name);
  return jsonb_build_object('refused', false, 'scope', p_scope, 'name', v_name);
end
$function$

-- Makes a route's trigger with its caller's consent: null, table_busy or trigger_name_taken. Internal.
CREATE OR REPLACE FUNCTION fn_route_agree(p_route jsonb, p_dry_run boolean, p_number integer)
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET lock_timeout TO '3s'
AS $function$
declare
  v_code text := p_route ->> 'route_code';
  v_trigger record;
begin
  select t.is_enabled, t.trigger_name into v_trigger from fn_route_triggers(v_code) t where t.is_right order by t.is_enabled, t.trigger_name limit 1;
  execute format('create %s trigger %I after %s on %I.%I referencing %s for each statement execute function %I.fn_route_capture(%L, %L)',
    case when v_trigger.trigger_name is not null then 'or replace' else '' end, coalesce(v_trigger.trigger_name, 'reveille_route_' || v_code),
    p_route ->> 'sql_event', p_route ->> 'source_schema', p_route ->> 'source_table',
    case p_route ->> 'sql_event' when 'insert' then 'new table as route_new' when 'delete' then 'old table as route_old'
      else 'old table as route_old new table as route_new' end,
    current_schema(), v_code, fn_route_consent(p_route, p_dry_run, p_number));
  if not v_trigger.is_enabled then
    execute format('alter table %I.%I enable trigger %I', p_route ->> 'source_schema', p_route ->> 'source_table', v_trigger.trigger_name);
  end if;
  return null;
exception
  when lock_not_available then return 'table_busy';
  when duplicate_object then return 'trigger_name_taken';
end
$function$

-- What a route would do beyond a consent, in words; empty when it stays within. Internal.
CREATE OR REPLACE FUNCTION fn_route_beyond(p_route jsonb, p_consent jsonb, p_number integer)
 RETURNS text[]
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_contract jsonb := p_route -> 'payload_contract';
  v_event text := (p_route ->> 'target_event_domain') || '.' || (p_route ->> 'target_event_type');
  v_policy text := coalesce(p_route ->> 'idempotency_policy', 'per_change');
begin
  if p_consent is null or p_consent -> 'number' is distinct from to_jsonb(p_number) then
    return array['anything'];
  end if;
  return array(
    select 'column ' || quote_ident(c) from jsonb_array_elements_text(v_contract -> 'columns') c where not coalesce(p_consent -> 'columns' ? c, false)
    union all
    select k || coalesce(' ' || quote_literal(v_contract ->> k), ' from the primary key')
    from unnest(array['subject_ref', 'canonical_address', 'correlation_id']) k
    where v_contract ->> k is distinct from p_consent ->> k
      -- without a template the subject is the primary key; the others are nothing
      and (v_contract ->> k is null and k = 'subject_ref' or exists (
        select from regexp_matches(v_contract ->> k, '\{([^{}]+)\}', 'g') as n (m)
        where not coalesce(p_consent -> 'columns' ? n.m[1], false) and not exists (
          select from unnest(array['subject_ref', 'canonical_address', 'correlation_id']) a where strpos(p_consent ->> a, '{' || n.m[1] || '}') > 0)))
    union all
    select 'event ' || v_event where v_event is distinct from p_consent ->> 'event'
    union all
    select 'idempotency_policy ' || v_policy where v_policy is distinct from p_consent ->> 'idempotency_policy'
    union all
    select 'when_changed any' where v_contract ->> 'when_changed' = 'any' and p_consent ->> 'when_changed' is distinct from 'any'
    union all
    select 'fail_closed' where (p_route ->> 'fail_closed')::boolean and p_consent -> 'fail_closed' is distinct from 'true'
    union all
    select 'live' where not coalesce((p_route ->> 'dry_run')::boolean, true) and p_consent -> 'live' is distinct from 'true');
end
$function$

-- Trigger of routed tables, once a statement: emits the events of a route, or counts them in its dry run.
CREATE OR REPLACE FUNCTION fn_route_capture()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET "TimeZone" TO 'UTC'
 SET "DateStyle" TO 'ISO, YMD'
 SET "IntervalStyle" TO 'postgres'
 SET extra_float_digits TO '1'
 SET bytea_output TO 'hex'
AS $function$
declare
  v_batch constant int := 1000;
  v_deepest constant int := 8; -- events that lead to one another within one write, by triggers of the host on the outbox
  v_code text := tg_argv[0];
  v_route jsonb;
  v_is_dry boolean;
  v_closed boolean;
  v_beyond text[];
  v_sql text;
  v_type jsonb;
  v_event jsonb;
  v_events jsonb[] := '{}';
  v_changes bigint := 0;
  v_unfit bigint := 0;
  v_wanted bigint := 0;
  v_emitted bigint := 0;
  v_sample jsonb;
  v_told record;
  v_stack text;
  v_state text;
  v_said text;
  v_detail text;
begin
  if not fn_gate_is_open('queue.route.enabled') then
    return null; -- all routes are off: the write passes, nothing is planned, counted or kept
  end if;
  v_route := (select to_jsonb(r) from iu_sql_event_route r where r.route_code = v_code);
  if v_route is null or not coalesce((v_route ->> 'enabled')::boolean, false) then
    return null; -- switched off by its row alone, which stops it at once and needs no lock on the table
  end if;
  v_is_dry := coalesce((v_route ->> 'dry_run')::boolean, true);
  -- asked of the text: a string in JSON has no such quotes within
  v_closed := not v_is_dry and (v_route ->> 'fail_closed')::boolean and strpos(coalesce(tg_argv[1], ''), '"fail_closed": true') > 0;
  begin
    if pg_trigger_depth() > v_deepest then -- cascades of the host may be as deep as they like; what counts is how often this stands there
      get diagnostics v_stack = pg_context;
      if (select count(*) from regexp_matches(v_stack, 'fn_route_capture\(\)', 'g')) > v_deepest then
        raise exception 'its event leads to the same write again: more than % events of routes within one another', v_deepest
          using errcode = '54001', detail = 'A trigger on event_outbox, or on what it writes, writes to a routed table.';
      end if;
    end if;
    select jsonb_build_object(
      'event_domain', r.event_domain, 'event_type', r.event_type, 'event_stream', r.event_stream, 'delivery_lane', r.delivery_lane,
      'event_severity', r.default_severity, 'event_subject_table', tg_table_schema || '.' || tg_table_name,
      'actor_ref', session_user, 'source_system', 'route:' || v_code, 'payload_classification', 'safe_metadata',
      'occurred_at', clock_timestamp(), 'created_at', now()) into v_type
    from event_type_registry r
    where r.event_domain = v_route ->> 'target_event_domain' and r.event_type = v_route ->> 'target_event_type' and r.active;
    if not found then
      raise exception '%.% is not registered and active in event_type_registry', v_route ->> 'target_event_domain', v_route ->> 'target_event_type'
        using errcode = '22023';
    elsif tg_table_schema <> v_route ->> 'source_schema' or tg_table_name <> v_route ->> 'source_table' or lower(tg_op) <> v_route ->> 'sql_event' then
      raise exception 'the route is made for % of %.%', v_route ->> 'sql_event', v_route ->> 'source_schema', v_route ->> 'source_table'
        using errcode = '55000';
    end if;
    v_sql := (
      select o.rows_sql from event_route o
      where o.route_code = v_code and o.rows_consent = tg_argv[1] and o.rows_for = v_route - array['created_at', 'updated_at']
        and o.rows_shape = fn_route_shape(tg_relid, o.rows_columns));
    if v_sql is null then
      v_beyond := fn_route_beyond(v_route, fn_route_said(tg_argv[1]), (select o.consent_no from event_route o where o.route_code = v_code));
      if v_beyond <> '{}' then
        raise exception 'the owner of %.% has not agreed to: %', tg_table_schema, tg_table_name, array_to_string(v_beyond, ', ') using errcode = '42501';
      end if;
      v_sql := fn_route_rows(v_route, tg_relid, case tg_op when 'DELETE' then 'route_old n' else 'route_new n' end,
        case tg_op when 'UPDATE' then 'route_old n' end);
    end if;
    for v_event in execute v_sql loop
      v_changes := v_changes + 1;
      v_events := array_append(v_events, v_event);
      if v_changes % v_batch = 0 then
        v_told := fn_route_emit(v_route, v_type, v_events);
        v_unfit := v_unfit + v_told.unfit;
        v_wanted := v_wanted + v_told.events;
        v_emitted := v_emitted + v_told.emitted;
        v_sample := coalesce(v_sample, v_told.sample);
        v_events := '{}';
      end if;
    end loop;
    if v_events <> '{}' then
      v_told := fn_route_emit(v_route, v_type, v_events);
      v_unfit := v_unfit + v_told.unfit;
      v_wanted := v_wanted + v_told.events;
      v_emitted := v_emitted + v_told.emitted;
      v_sample := coalesce(v_sample, v_told.sample);
    end if;
    if v_is_dry and v_changes > 0 then
      insert into event_route_sample (route_code, statements, changes, events, duplicates, unfit, sample)
      values (v_code, 1, v_changes, v_wanted, v_changes - v_unfit - v_wanted, v_unfit, v_sample);
    elsif v_unfit > 0 and v_closed then
      raise exception '% of % changes have no payload that may travel', v_unfit, v_changes
        using errcode = '23514', detail = 'It has a denied key or more than 16 kB, or the subject is empty.';
    elsif v_emitted < v_wanted and v_closed then
      raise exception 'the outbox allows no second event of this type about the same subject' using errcode = '23505';
    end if;
    if v_wanted > 0 then
      insert into event_route_count (route_code, is_dry, events) values (v_code, v_is_dry, case when v_is_dry then v_wanted else v_emitted end);
    end if;
    if v_unfit > 0 then
      insert into event_route_fault (route_code, sqlstate, message, changes, dry_run)
      values (v_code, '23514', 'a payload may not travel (a denied key, or more than 16 kB), or a subject is empty', v_unfit, v_is_dry);
    end if;
    if v_emitted < v_wanted and not v_is_dry then
      insert into event_route_fault (route_code, sqlstate, message, changes, dry_run)
      values (v_code, '23505', 'the outbox allows no second event of this type about the same subject', v_wanted - v_emitted, v_is_dry);
    end if;
    return null;
  exception when others then
    get stacked diagnostics v_state = returned_sqlstate, v_said = message_text, v_detail = pg_exception_detail;
  end;
  if v_closed and v_said like 'route % refuses this %' then -- one within another
    raise exception '%', v_said using errcode = v_state, detail = coalesce(v_detail, '');
  elsif v_closed then
    raise exception 'route % refuses this % of %.%: %', v_code, lower(tg_op), tg_table_schema, tg_table_name, v_said
      using errcode = v_state, detail = coalesce(v_detail, ''),
        hint = format('The route is fail_closed. Mend what it says, or stop the route: reveille routes disable %s', v_code);
  end if;
  begin
    insert into event_route_fault (route_code, sqlstate, message, dry_run) values (v_code, v_state, left(v_said, 500), v_is_dry);
  exception when others then
    raise warning 'route % emitted no event and could not keep why: % (%); then: %', v_code, v_said, v_state, sqlerrm;
  end;
  return null;
end
$function$

-- Findings about routes: table_missing, table_unfit, key_missing, column_missing, column_denied, type_inactive, trigger_missing, trigger_disabled, consent_missing, trigger_left_over, faults, gate_closed.
CREATE OR REPLACE FUNCTION fn_route_check(p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS TABLE(route_code text, severity text, finding text, what text, hint text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
begin
  return query
  select r.route_code, x.severity, x.finding, x.what, x.hint
  from (select l ->> 'route_code' as route_code, l as route, (l ->> 'enabled')::boolean as enabled
    from fn_route_list() l where (l ->> 'is_ours')::boolean) r
  cross join lateral (
    select 'error' as severity, f.finding, f.what,
      case f.finding when 'type_inactive' then 'register or activate the type in event_type_registry'
        else format('mend the table or the route''s file (reveille routes put FILE), or reveille routes disable %s', r.route_code) end as hint
    from fn_route_findings(r.route) f
    where r.enabled
    union all
    select 'error', 'trigger_missing', format('it is enabled, and there is no trigger for it on %I.%I: nothing becomes an event', r.route ->> 'source_schema', r.route ->> 'source_table'),
      format('reveille routes enable %s', r.route_code)
    where r.enabled and r.route ->> 'trigger' = 'missing' and fn_route_relation(r.route) is not null
    union all
    select 'error', 'trigger_disabled', format('its trigger on %I.%I is disabled: nothing becomes an event', r.route ->> 'source_schema', r.route ->> 'source_table'),
      format('reveille routes enable %s', r.route_code)
    where r.enabled and r.route ->> 'trigger' = 'disabled'
    union all
    select 'error', 'consent_missing', format('the owner of %I.%I has not agreed to: %s', r.route ->> 'source_schema', r.route ->> 'source_table',
        (select string_agg(b, ', ') from jsonb_array_elements_text(r.route -> 'beyond') b)),
      format('as %s: reveille routes enable %s; or make the route say less (reveille routes put FILE)', r.route ->> 'owner', r.route_code)
    where r.enabled and r.route ->> 'trigger' = 'enabled' and r.route -> 'beyond' <> '[]'
    union all
    select 'warning', 'trigger_left_over', format('%s, and its trigger still stands on %I.%I', case when r.enabled then 'its source is another table' else 'it is disabled' end, t.table_schema, t.table_name),
      format('as the owner of the table: drop trigger %I on %I.%I', t.trigger_name, t.table_schema, t.table_name)
    from fn_route_triggers(r.route_code) t
    where not r.enabled or not t.is_right
    union all
    select 'warning', 'faults', format('%s of its writes passed without their events within a day, last: %s (%s)', f.n, f.message, f.sqlstate),
      format('reveille routes show %s', r.route_code)
    from (
      select count(*) as n, (array_agg(e.message order by e.fault_id desc))[1] as message, (array_agg(e.sqlstate order by e.fault_id desc))[1] as sqlstate
      from event_route_fault e
      where e.route_code = r.route_code and not e.dry_run and e.noted_at > coalesce(p_now, clock_timestamp()) - interval '1 day') f
    where f.n > 0) x
  union all
  select '*', 'warning', 'gate_closed', format('the gate queue.route.enabled is closed, so %s enabled routes do nothing', c.n),
    'reveille gate open queue.route.enabled --reason TEXT'
  from (
    select count(*) as n from event_route o join iu_sql_event_route r on r.route_code = o.route_code where r.enabled) c
  where c.n > 0 and not fn_gate_is_open('queue.route.enabled')
  union all
  select convert_from(a.code, getdatabaseencoding()), 'warning', 'trigger_left_over',
    format('there is no such route, and a trigger for it stands on %I.%I', n.nspname, c.relname),
    format('as the owner of the table: drop trigger %I on %I.%I', t.tgname, n.nspname, c.relname)
  from pg_trigger t
  join pg_proc p on p.oid = t.tgfoid and p.proname = 'fn_route_capture' and p.pronamespace = quote_ident(current_schema())::regnamespace
  join pg_class c on c.oid = t.tgrelid
  join pg_namespace n on n.oid = c.relnamespace
  cross join lateral (select substr(t.tgargs, 1, position('\x00'::bytea in t.tgargs) - 1) as code) a
  where not t.tgisinternal and t.tgparentid = 0 and t.tgnargs > 0
    and not exists (select from event_route o where convert_to(o.route_code, getdatabaseencoding()) = a.code)
  order by 1, 3;
end
$function$

-- What the owner of a route's table agrees to, as the argument of its trigger. Internal.
CREATE OR REPLACE FUNCTION fn_route_consent(p_route jsonb, p_dry_run boolean, p_number integer)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_contract jsonb := p_route -> 'payload_contract';
begin
  return jsonb_strip_nulls(jsonb_build_object(
    'event', (p_route ->> 'target_event_domain') || '.' || (p_route ->> 'target_event_type'),
    'columns', coalesce(v_contract -> 'columns', '[]'), 'subject_ref', v_contract -> 'subject_ref',
    'canonical_address', v_contract -> 'canonical_address', 'correlation_id', v_contract -> 'correlation_id',
    'when_changed', coalesce(v_contract ->> 'when_changed', 'contract'), 'idempotency_policy', p_route -> 'idempotency_policy',
    'fail_closed', coalesce((p_route ->> 'fail_closed')::boolean, false), 'live', not p_dry_run, 'number', p_number))::text;
end
$function$

-- What a consumer that need not be stored would do with the newest p_limit events of its domain.
CREATE OR REPLACE FUNCTION fn_route_consumer_dry_run(p_consumer jsonb, p_since timestamp with time zone DEFAULT NULL::timestamp with time zone, p_limit integer DEFAULT 1000)
 RETURNS TABLE(event_id uuid, would_enqueue boolean, reason text, job_kind text, executor text, source_ref text, target_ref text, payload_ref text, ordering_key text, idempotency_key text, event_type text, created_at timestamp with time zone, recipient text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
  v_consumer consumer_registry;
  v_problem text;
begin
  v_consumer := jsonb_populate_record(
    jsonb_populate_record(null::consumer_registry, jsonb_build_object(
      'event_type', '*', 'executor', 'PG_worker', 'priority', 100, 'delay', '0', 'source_ref', '{event_subject_ref}',
      'idempotency_key', '{consumer_key}:{event_id}' || case when p_consumer ->> 'fan_out' is null then '' else ':{recipient}' end,
      'consumer_key', 'preview', 'starts_at', '-infinity', 'dry_run', false)),
    p_consumer);
  v_consumer.event_type_like := replace(replace(v_consumer.event_type, '_', '\_'), '*', '%');
  v_problem := fn_consumer_problem(v_consumer);
  if v_problem is not null then
    raise exception 'consumer %: %', v_consumer.consumer_key, v_problem using errcode = '23514';
  end if;
  if v_consumer.fan_out is not null then
    return query select * from fn_fan_out_dry_run(v_consumer, p_since, p_limit);
    return;
  end if;
  return query
  select
    r.id,
    r.reason = 'match',
    r.reason,
    v_consumer.job_kind::text,
    v_consumer.executor::text,
    case when r.reason = 'match' then fn_template_render(v_consumer.source_ref, v_consumer.consumer_key, r.e) end,
    case when r.reason = 'match' then fn_template_render(v_consumer.target_ref, v_consumer.consumer_key, r.e) end,
    case when r.reason = 'match' then fn_template_render(v_consumer.payload_ref, v_consumer.consumer_key, r.e) end,
    case when r.reason = 'match' then fn_template_render(v_consumer.ordering_key, v_consumer.consumer_key, r.e) end,
    case when r.reason = 'match' then fn_job_key(fn_template_render(v_consumer.idempotency_key, v_consumer.consumer_key, r.e)) end,
    r.event_type,
    r.created_at,
    null::text
  from (
    select s.e, (s.e).id, (s.e).event_type, (s.e).created_at, case
      when fn_consumer_verdict(v_consumer, s.e) <> 'match' then fn_consumer_verdict(v_consumer, s.e)
      when v_consumer.job_kind is null then 'terminal'
      when not fn_event_is_digestible(v_consumer, s.e) then 'undigestible'
      else 'match'
    end as reason
    from (
      select o as e from event_outbox o
      where o.event_domain = v_consumer.event_domain and (p_since is null or o.created_at >= p_since)
      order by o.created_at desc, o.id desc
      limit p_limit) s) r
  order by r.created_at, r.id;
end
$function$

-- What a stored consumer would do with the newest p_limit events of its domain, as if it had existed then.
CREATE OR REPLACE FUNCTION fn_route_consumer_dry_run(p_consumer_key text, p_since timestamp with time zone DEFAULT NULL::timestamp with time zone, p_limit integer DEFAULT 1000)
 RETURNS TABLE(event_id uuid, would_enqueue boolean, reason text, job_kind text, executor text, source_ref text, target_ref text, payload_ref text, ordering_key text, idempotency_key text, event_type text, created_at timestamp with time zone, recipient text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_consumer jsonb;
begin
  select to_jsonb(c.*) - 'event_type_like' - 'starts_at' into v_consumer from consumer_registry c where c.consumer_key = p_consumer_key;
  if not found then
    raise exception 'consumer % does not exist', quote_literal(p_consumer_key)
      using errcode = '22023', hint = 'See `reveille consumers list`.';
  end if;
  return query select * from fn_route_consumer_dry_run(v_consumer, p_since, p_limit);
end
$function$

-- Events emitted, events of dry runs, and faults of the last day, of each route.
CREATE OR REPLACE FUNCTION fn_route_counts(p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS TABLE(route_code text, events bigint, dry_run_events bigint, faults bigint)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
begin
  return query
  select o.route_code, o.events, o.dry_run_events, f.n
  from event_route o
  cross join lateral (
    select count(*) as n
    from (select x.noted_at, x.dry_run from event_route_fault x where x.route_code = o.route_code order by x.fault_id desc limit 1000) l
    where not l.dry_run and l.noted_at > coalesce(p_now, clock_timestamp()) - interval '1 day') f
  order by o.route_code
  limit 1000;
end
$function$

-- Why columns that leave a table by a route may not, one row for each. Internal.
CREATE OR REPLACE FUNCTION fn_route_denied(p_route jsonb, p_relation oid)
 RETURNS SETOF text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_denied constant text[] := array['body', 'content', 'raw', 'vector', 'embedding', 'secret', 'token', 'password', 'ssn', 'personal_data'];
  v_contract jsonb := p_route -> 'payload_contract';
  v_columns text[] := array(select jsonb_array_elements_text(v_contract -> 'columns'));
  v_column text;
  v_types text[];
  v_parts text[];
begin
  for v_column in
    select x.c from (
      select c, 1 as rank, n from unnest(v_columns) with ordinality as u (c, n)
      union all
      select m.m[1], 2, 0 from unnest(array['subject_ref', 'canonical_address', 'correlation_id']) k cross join regexp_matches(v_contract ->> k, '\{([^{}]+)\}', 'g') as m (m)
      union all
      select c, 3, n from unnest(fn_route_key_columns(p_relation)) with ordinality as u (c, n)
      where v_contract ->> 'subject_ref' is null or coalesce(p_route ->> 'idempotency_policy', 'per_change') <> 'per_change') x (c, rank, n)
    group by x.c order by min(x.rank), min(x.n), x.c
  loop
    with recursive types (oid) as (
      select a.atttypid from pg_attribute a where a.attrelid = p_relation and a.attname = v_column and a.attnum > 0 and not a.attisdropped
      union
      select u.oid from types d join pg_type t on t.oid = d.oid
      cross join lateral (
        select t.typbasetype where t.typtype = 'd'
        union all
        select t.typelem where t.typlen = -1 and t.typelem <> 0
        union all
        select r.rngsubtype from pg_range r where t.oid in (r.rngtypid, r.rngmultitypid)
        union all
        select a.atttypid from pg_attribute a where a.attrelid = t.typrelid and t.typtype = 'c' and a.attnum > 0 and not a.attisdropped) u (oid)
    )
    select array_agg(format_type(d.oid, null) order by d.oid), array_agg(distinct lower(a.attname)) filter (where a.attname is not null)
    into v_types, v_parts
    from types d join pg_type t on t.oid = d.oid left join pg_attribute a on a.attrelid = t.typrelid and t.typtype = 'c' and a.attnum > 0 and not a.attisdropped;
    if lower(v_column) = any (v_denied) or v_parts && v_denied then
      return next format('column %I may not travel: an event carries signal, not data', v_column);
    elsif exists (select from unnest(v_types) t where t ~ '(^|\.)(bytea|xml|vector|halfvec|sparsevec)$') then
      return next format('column %I is of type %s and may not travel: an event carries signal, not data', v_column,
        (select t from unnest(v_types) t where t ~ '(^|\.)(bytea|xml|vector|halfvec|sparsevec)$' limit 1));
    elsif v_types && array['json', 'jsonb'] and v_column <> all (v_columns) then
      return next format('column %I is JSON and may travel only when the contract has it as a column, where each row is judged', v_column);
    end if;
  end loop;
end
$function$

-- Stops a route and removes its trigger: {state, was, trigger_left}; trigger_left says why the trigger could not go (not_owner, table_busy), null when it has.
CREATE OR REPLACE FUNCTION fn_route_disable(p_route_code text, p_actor text, p_reason text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET lock_timeout TO '3s'
AS $function$
declare
  v_answer jsonb := fn_route_switch(p_route_code, false, null, p_actor, p_reason);
  v_trigger record;
  v_left text;
begin
  if (v_answer ->> 'refused')::boolean then
    return v_answer;
  end if;
  if not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.route.' || p_route_code, 0)) then
    return v_answer || '{"trigger_left": "table_busy"}';
  end if;
  begin
    for v_trigger in select t.* from fn_route_triggers(p_route_code) t loop
      execute format('drop trigger %I on %I.%I', v_trigger.trigger_name, v_trigger.table_schema, v_trigger.table_name);
    end loop;
  exception
    when lock_not_available or deadlock_detected then v_left := 'table_busy';
    when insufficient_privilege then v_left := 'not_owner';
  end;
  return v_answer || jsonb_build_object('trigger_left', v_left);
end
$function$

-- Emits a batch of a route's events, or counts them in its dry run: unfit, events, emitted, sample. Internal.
CREATE OR REPLACE FUNCTION fn_route_emit(p_route jsonb, p_type jsonb, p_events jsonb[], OUT unfit bigint, OUT events bigint, OUT emitted bigint, OUT sample jsonb)
 RETURNS record
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET jit TO 'off'
AS $function$
declare
  v_code text := p_route ->> 'route_code';
  v_policy text := p_route ->> 'idempotency_policy';
  v_tx xid8 := case when v_policy = 'per_transaction' then pg_current_xact_id() end;
  v_suffix text := coalesce(':' || v_tx::text, '');
  v_first uuid := fn_uuid_v7();
  v_trace text := fn_traceparent(nullif(current_setting('reveille.traceparent', true), ''));
begin
  if v_trace is not null then
    p_events := array(
      select case when not u.event -> 'safe_payload' ? 'traceparent'
          and fn_is_signal(u.event -> 'safe_payload' || jsonb_build_object('traceparent', v_trace))
        then jsonb_set(u.event, '{safe_payload,traceparent}', to_jsonb(v_trace)) else u.event end
      from unnest(p_events) with ordinality as u (event, place) order by u.place);
  end if;
  if cardinality(p_events) = 1 and not (p_route ->> 'dry_run')::boolean then -- most statements; a third of the time of the one below
    unfit := (coalesce(octet_length(p_events[1] ->> 'event_subject_ref') between 1 and 2000 and fn_is_signal(p_events[1] -> 'safe_payload'), false) is false)::int;
    events := 1 - unfit;
    emitted := 0;
    if events = 1 and v_policy <> 'per_change' then
      insert into event_route_key (route_code, row_key, tx_id) values (v_code, (p_events[1] ->> 'row_key') || v_suffix, v_tx)
      on conflict (route_code, row_key) do nothing;
      get diagnostics events = row_count;
    end if;
    if events = 1 then
      insert into event_outbox (
        id, event_domain, event_type, event_stream, delivery_lane, event_severity, event_subject_table, event_subject_ref,
        canonical_address, actor_ref, source_system, correlation_id, payload_classification, safe_payload, occurred_at, created_at)
      select
        e.id, e.event_domain, e.event_type, e.event_stream, e.delivery_lane, e.event_severity, e.event_subject_table, e.event_subject_ref,
        e.canonical_address, e.actor_ref, e.source_system, e.correlation_id, e.payload_classification, e.safe_payload, e.occurred_at, e.created_at
      from jsonb_populate_record(null::event_outbox, p_type || p_events[1] || jsonb_build_object('id', v_first)) e
      on conflict do nothing;
      get diagnostics emitted = row_count;
    end if;
    return;
  end if;
  if (p_route ->> 'dry_run')::boolean then
    with judged as materialized (
      select u.event, coalesce(octet_length(u.event ->> 'event_subject_ref') between 1 and 2000 and fn_is_signal(u.event -> 'safe_payload'), false) as is_fit
      from unnest(p_events) as u (event)),
    wanted as (
      select j.event from judged j
      where j.is_fit and (v_policy = 'per_change'
        or not exists (select from event_route_key k where k.route_code = v_code and k.row_key = (j.event ->> 'row_key') || v_suffix)))
    select (select count(*) from judged j where not j.is_fit), (select count(*) from wanted),
      (select jsonb_agg(jsonb_build_object('subject_ref', s.event -> 'event_subject_ref', 'payload', s.event -> 'safe_payload'))
       from (select w.event from wanted w limit 3) s)
    into unfit, events, sample;
    emitted := 0;
    return;
  end if;
  with judged as materialized (
    select u.event, coalesce(octet_length(u.event ->> 'event_subject_ref') between 1 and 2000 and fn_is_signal(u.event -> 'safe_payload'), false) as is_fit
    from unnest(p_events) as u (event)),
  fresh as (
    insert into event_route_key (route_code, row_key, tx_id)
    select v_code, (j.event ->> 'row_key') || v_suffix, v_tx from judged j where j.is_fit and v_policy <> 'per_change' order by 2
    on conflict (route_code, row_key) do nothing
    returning row_key),
  wanted as materialized (
    select fn_uuid_v7_nth(v_first, (row_number() over ())::int) as id, j.event from judged j
    where j.is_fit and (v_policy = 'per_change' or (j.event ->> 'row_key') || v_suffix in (select f.row_key from fresh f))),
  taken as (
    insert into event_outbox (
      id, event_domain, event_type, event_stream, delivery_lane, event_severity, event_subject_table, event_subject_ref,
      canonical_address, actor_ref, source_system, correlation_id, payload_classification, safe_payload, occurred_at, created_at)
    select
      (e.r).id, (e.r).event_domain, (e.r).event_type, (e.r).event_stream, (e.r).delivery_lane, (e.r).event_severity, (e.r).event_subject_table,
      (e.r).event_subject_ref, (e.r).canonical_address, (e.r).actor_ref, (e.r).source_system, (e.r).correlation_id,
      (e.r).payload_classification, (e.r).safe_payload, (e.r).occurred_at, (e.r).created_at
    from (select jsonb_populate_record(null::event_outbox, p_type || w.event || jsonb_build_object('id', w.id)) as r from wanted w offset 0) e
    on conflict do nothing
    returning 1)
  select (select count(*) from judged j where not j.is_fit), (select count(*) from wanted), (select count(*) from taken)
  into unfit, events, emitted;
end
$function$

-- Makes a route's trigger with the owner's consent and enables it: {state, was, trigger, consent, gate_open}. Needs the table's owner, unless it does no more than before: refused not_owner; dry_run_missing when it would go live and its dry run has seen nothing since the route says what it says; also not_found, table_busy, trigger_name_taken, or what fn_route_findings says.
CREATE OR REPLACE FUNCTION fn_route_enable(p_route_code text, p_actor text, p_reason text, p_dry_run boolean DEFAULT NULL::boolean, p_without_dry_run boolean DEFAULT false)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
 SET lock_timeout TO '3s'
AS $function$
declare
  v_route jsonb;
  v_dry boolean;
  v_found record;
  v_refused text;
  v_answer jsonb;
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_route_enable needs an actor and a reason' using errcode = '22023';
  end if;
  begin
    perform pg_advisory_xact_lock(hashtextextended(current_schema() || '.route.' || p_route_code, 0));
  exception when lock_not_available then
    return jsonb_build_object('refused', true, 'reason', 'table_busy', 'route_code', p_route_code);
  end;
  v_route := (select l from fn_route_list(p_route_code) l);
  if v_route is null then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'route_code', p_route_code);
  elsif not (v_route ->> 'is_ours')::boolean then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'route_code', p_route_code, 'is_ours', false);
  end if;
  select f.finding, f.what into v_found from fn_route_findings(v_route) f limit 1;
  if found then
    return jsonb_build_object('refused', true, 'reason', v_found.finding, 'route_code', p_route_code, 'what', v_found.what);
  end if;
  v_dry := coalesce(p_dry_run, (v_route ->> 'dry_run')::boolean);
  if (v_route ->> 'enabled')::boolean and v_route ->> 'trigger' = 'enabled' and (v_dry or not (v_route ->> 'dry_run')::boolean)
    and fn_route_beyond(v_route || jsonb_build_object('dry_run', v_dry), v_route -> 'consent', (v_route ->> 'consent_no')::int) = '{}'
  then
    v_answer := fn_route_switch(p_route_code, true, v_dry, p_actor, p_reason);
  elsif not pg_has_role((v_route ->> 'owner')::name, 'usage') then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'route_code', p_route_code, 'owner', v_route ->> 'owner');
  elsif not v_dry and not coalesce(p_without_dry_run, false) and not (v_route ->> 'is_tried')::boolean then
    return jsonb_build_object('refused', true, 'reason', 'dry_run_missing', 'route_code', p_route_code);
  else
    begin
      v_refused := fn_route_agree(v_route, v_dry, (v_route ->> 'consent_no')::int + 1);
      if v_refused is not null then
        return jsonb_build_object('refused', true, 'reason', v_refused, 'route_code', p_route_code);
      end if;
      v_answer := fn_route_switch(p_route_code, true, v_dry, p_actor, p_reason, p_without_dry_run);
      if (v_answer ->> 'refused')::boolean then
        raise exception using errcode = 'RV001'; -- takes the trigger back
      end if;
    exception when sqlstate 'RV001' then
      null;
    end;
  end if;
  if (v_answer ->> 'refused')::boolean then
    return v_answer;
  end if;
  return v_answer || (
    select jsonb_build_object('trigger', t.trigger_name, 'consent', t.consent, 'gate_open', fn_gate_is_open('queue.route.enabled'))
    from fn_route_triggers(p_route_code) t where t.is_right order by t.is_enabled, t.trigger_name limit 1);
end
$function$

-- What keeps a route from working: table_missing, table_unfit, key_missing, column_missing, column_denied, type_inactive.
CREATE OR REPLACE FUNCTION fn_route_findings(p_route jsonb)
 RETURNS TABLE(finding text, what text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_relation oid := fn_route_relation(p_route);
  v_contract jsonb := p_route -> 'payload_contract';
  v_name text := format('%I.%I', p_route ->> 'source_schema', p_route ->> 'source_table');
  v_column text;
begin
  if v_relation is null then
    return query select 'table_missing', format('there is no table %s (a view, a foreign table and a materialised view are none)', v_name);
  elsif exists (select from pg_class c where c.oid = v_relation and c.relpersistence = 't') or p_route ->> 'source_schema' ~ '^(pg_|information_schema$)' then
    return query select 'table_unfit', v_name || ' is a table of the system or of one session';
  elsif fn_route_is_own(v_relation) then
    return query select 'table_unfit', v_name || ' is a table of Reveille: a route on it would feed itself';
  elsif fn_route_key_columns(v_relation) is null then
    return query select 'key_missing', v_name || ' has no primary key, so an event could not say which row it is about';
  end if;
  return query select 'column_denied', d from fn_route_denied(p_route, v_relation) d;
  if v_relation is not null then
    return query
    select 'column_missing', format('%s has no column %I', v_name, c) from jsonb_array_elements_text(v_contract -> 'columns') with ordinality as u (c, n)
    where not exists (select from pg_attribute a where a.attrelid = v_relation and a.attname = c and a.attnum > 0 and not a.attisdropped)
    order by n;
  end if;
  if v_relation is not null then
    for v_column in
      select distinct m.m[1]
      from unnest(array['subject_ref', 'canonical_address', 'correlation_id']) k
      cross join regexp_matches(v_contract ->> k, '\{([^{}]+)\}', 'g') as m (m)
      order by 1
    loop
      if not (coalesce(v_contract -> 'columns', '[]') ? v_column) and v_column <> all (coalesce(fn_route_key_columns(v_relation), '{}')) then
        return query select 'column_missing',
          format('a template names {%s}, which is neither a column of the contract nor one of the primary key', v_column);
      end if;
    end loop;
  end if;
  if not exists (
    select from event_type_registry r
    where r.event_domain = p_route ->> 'target_event_domain' and r.event_type = p_route ->> 'target_event_type' and r.active)
  then
    return query select 'type_inactive',
      format('%s.%s is not registered and active in event_type_registry', p_route ->> 'target_event_domain', p_route ->> 'target_event_type');
  end if;
end
$function$

-- Whether a table, or what it is a partition of, is Reveille's own or shared with the host. Internal.
CREATE OR REPLACE FUNCTION fn_route_is_own(p_relation oid)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_own constant text[] := array[
    'audit_consumer', 'audit_domain', 'audit_mark', 'consumer_backfill', 'consumer_registry', 'dead_letter_authority', 'dispatch_cursor', 'dispatch_error', 'dispatch_gap',
    'dispatch_pass', 'dispatch_sweep', 'dot_config_audit',
    'event_arrival', 'event_route', 'event_route_count', 'event_route_fault', 'event_route_key', 'event_route_sample', 'host_constraint',
    'host_object', 'job_approval', 'job_archive', 'job_archive_bound', 'job_archive_forgotten', 'job_archive_key', 'job_attempt', 'job_dead_letter',
    'job_dependency', 'job_gate', 'job_handler', 'job_order_pending', 'job_queue', 'job_rate', 'job_schedule', 'job_subscription', 'job_workflow', 'mot_template',
    'queue_heartbeat', 'queue_pause', 'reveille_migration'];
begin
  return exists (
    select from pg_class c
    where c.oid = coalesce(pg_partition_root(p_relation), p_relation) and c.relnamespace = quote_ident(current_schema())::regnamespace
      and (c.relname = any (v_own) or exists (select from host_object h where h.object_name = c.relname)));
end
$function$

-- Whether a route has run dry, or been live, since it says what it says. Internal.
CREATE OR REPLACE FUNCTION fn_route_is_tried(p_route_code text)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return exists (
    select from event_route o
    where o.route_code = p_route_code and (o.was_live
      or exists (select from event_route_sample s where s.route_code = o.route_code and s.noted_at >= o.said_at)));
end
$function$

-- The key by which a route remembers a row. Internal.
CREATE OR REPLACE FUNCTION fn_route_key(p_source text, p_key jsonb)
 RETURNS text
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_key text := p_source || p_key::text;
begin
  return case when octet_length(v_key) > 500 then 'sha256:' || encode(sha256(convert_to(v_key, 'UTF8')), 'hex') else v_key end;
end
$function$

-- The columns of a primary key in order, or null. Internal.
CREATE OR REPLACE FUNCTION fn_route_key_columns(p_relation oid)
 RETURNS text[]
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return (
    select array_agg(a.attname::text order by k.place)
    from pg_index i
    cross join unnest(i.indkey) with ordinality as k (attnum, place)
    join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where i.indrelid = p_relation and i.indisprimary);
end
$function$

-- All routes, or one: the row, is_ours, gate_open, trigger, owner, consent, beyond, is_tried, faults of the last day, last_fault.
CREATE OR REPLACE FUNCTION fn_route_list(p_route_code text DEFAULT NULL::text)
 RETURNS SETOF jsonb
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return query
  select to_jsonb(r) || jsonb_build_object(
    'is_ours', o.route_code is not null, 'actor', o.actor, 'written_by', o.written_by,
    'gate_open', fn_gate_is_open('queue.route.enabled'),
    'owner', (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = fn_route_relation(to_jsonb(r))),
    'consent', t.consent, 'consent_no', o.consent_no, 'is_tried', fn_route_is_tried(r.route_code),
    'beyond', case when t.is_enabled is not null then to_jsonb(fn_route_beyond(to_jsonb(r), t.consent, o.consent_no)) end,
    'trigger', case
      when o.route_code is null then null
      when t.is_enabled then 'enabled'
      when t.is_enabled is not null then 'disabled'
      else 'missing' end,
    'faults', (select count(*) from event_route_fault f where f.route_code = r.route_code and f.noted_at > clock_timestamp() - interval '1 day'),
    'last_fault', (
      select jsonb_build_object('noted_at', f.noted_at, 'sqlstate', f.sqlstate, 'message', f.message, 'changes', f.changes, 'dry_run', f.dry_run)
      from event_route_fault f where f.route_code = r.route_code order by f.fault_id desc limit 1))
  from iu_sql_event_route r
  left join event_route o on o.route_code = r.route_code
  left join lateral (
    select x.is_enabled, x.consent from fn_route_triggers(r.route_code) x
    where x.is_right and o.route_code is not null order by x.is_enabled, x.trigger_name limit 1) t on true
  where p_route_code is null or r.route_code = p_route_code
  order by r.route_code;
end
$function$

-- Keeps a route's statement for its trigger; true when it was another before. Internal.
CREATE OR REPLACE FUNCTION fn_route_prepare(p_route_code text)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_route jsonb := (select to_jsonb(r) from iu_sql_event_route r join event_route o on o.route_code = r.route_code where r.route_code = p_route_code);
  v_relation oid := fn_route_relation(v_route);
  v_for jsonb := v_route - array['created_at', 'updated_at'];
  v_consent text;
  v_columns text[];
  v_shape text;
begin
  if v_relation is null or fn_route_key_columns(v_relation) is null then
    return false;
  end if;
  v_consent := (
    select t.argument from event_route o cross join fn_route_triggers(p_route_code) t
    where o.route_code = p_route_code and t.is_right and fn_route_beyond(v_route, t.consent, o.consent_no) = '{}' limit 1);
  v_columns := array(
    select jsonb_array_elements_text(v_route -> 'payload_contract' -> 'columns') union select unnest(fn_route_key_columns(v_relation)) order by 1);
  v_shape := fn_route_shape(v_relation, v_columns);
  update event_route o
  set rows_for = v_for, rows_consent = v_consent, rows_columns = v_columns, rows_shape = v_shape,
      rows_sql = fn_route_rows(v_route, v_relation, case v_route ->> 'sql_event' when 'delete' then 'route_old n' else 'route_new n' end,
        case v_route ->> 'sql_event' when 'update' then 'route_old n' end)
  where o.route_code = p_route_code and (o.rows_for, o.rows_consent, o.rows_shape) is distinct from (v_for, v_consent, v_shape);
  return found;
exception when undefined_column or object_not_in_prerequisite_state then
  return false; -- fn_route_check tells of it
end
$function$

-- What the last rows of a route's table would have made, what its dry run has counted, and whether it may go live: {event, rows, dry_run, is_tried, live}. Reads only.
CREATE OR REPLACE FUNCTION fn_route_preview(p_route_code text, p_limit integer DEFAULT 20)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
 SET "TimeZone" TO 'UTC'
 SET "DateStyle" TO 'ISO, YMD'
 SET "IntervalStyle" TO 'postgres'
 SET extra_float_digits TO '1'
AS $function$
declare
  v_route jsonb := (select l from fn_route_list(p_route_code) l);
  v_relation oid;
  v_from text;
  v_found record;
  v_rows jsonb;
begin
  if p_limit is null or p_limit not between 1 and 10000 then
    raise exception 'fn_route_preview: p_limit must be from 1 to 10000' using errcode = '22023';
  elsif v_route is null then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'route_code', p_route_code);
  elsif not (v_route ->> 'is_ours')::boolean then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'route_code', p_route_code, 'is_ours', false);
  end if;
  select f.finding, f.what into v_found from fn_route_findings(v_route) f limit 1;
  if found then
    return jsonb_build_object('refused', true, 'reason', v_found.finding, 'route_code', p_route_code, 'what', v_found.what);
  end if;
  v_relation := fn_route_relation(v_route);
  select format('(select * from %I.%I t order by %s limit %s) n', v_route ->> 'source_schema', v_route ->> 'source_table',
    string_agg(format('t.%I desc', k), ', ' order by place), p_limit) into v_from
  from unnest(fn_route_key_columns(v_relation)) with ordinality as u (k, place);
  execute format('select coalesce(jsonb_agg(r.event), ''[]'') from (%s) r', fn_route_rows(v_route, v_relation, v_from)) into v_rows;
  return jsonb_build_object('refused', false, 'route_code', p_route_code,
    'event', format('%s.%s', v_route ->> 'target_event_domain', v_route ->> 'target_event_type'),
    'rows', coalesce((
      select jsonb_agg(r || jsonb_build_object('verdict', case
        when not coalesce(octet_length(r ->> 'event_subject_ref') between 1 and 2000 and fn_is_signal(r -> 'safe_payload'), false) then 'unfit'
        when v_route ->> 'idempotency_policy' = 'per_row' and r ->> 'row_key' = any (told.keys) then 'told already'
        else 'event' end))
      from jsonb_array_elements(v_rows) r
      cross join (select fn_route_told(p_route_code, array(select r ->> 'row_key' from jsonb_array_elements(v_rows) r)) as keys) told), '[]'),
    'dry_run', fn_route_seen(p_route_code), 'is_tried', v_route -> 'is_tried', 'live', (v_route ->> 'enabled')::boolean and not (v_route ->> 'dry_run')::boolean);
end
$function$

-- Adds up events, removes old faults and keys, adds up old samples: {busy, faults, keys, samples, more}.
CREATE OR REPLACE FUNCTION fn_route_prune(p_limit integer DEFAULT 10000, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_keep interval := make_interval(secs => fn_config_number('queue.route.fault_seconds', 2592000)::float8);
  v_faults bigint := 0;
  v_keys bigint;
  v_samples bigint := 0;
  v_part bigint;
  v_code text;
begin
  if p_limit is null or p_limit < 1 then
    raise exception 'fn_route_prune: p_limit must be at least 1' using errcode = '22023';
  elsif not pg_try_advisory_xact_lock(hashtextextended(current_schema() || '.fn_route_prune', 0)) then
    return jsonb_build_object('refused', false, 'busy', true, 'faults', 0, 'keys', 0, 'samples', 0, 'more', false);
  end if;
  with gone as (
    delete from event_route_count c returning c.route_code, c.is_dry, c.events)
  update event_route o
  set events = o.events + s.events, dry_run_events = o.dry_run_events + s.dry_run_events
  from (
    select g.route_code, coalesce(sum(g.events) filter (where not g.is_dry), 0) as events, coalesce(sum(g.events) filter (where g.is_dry), 0) as dry_run_events
    from gone g group by 1) s
  where o.route_code = s.route_code;
  perform fn_route_prepare(r.route_code)
  from event_route o join iu_sql_event_route r on r.route_code = o.route_code where r.enabled order by r.route_code;
  for v_code in
    select f.route_code from event_route_fault f union select s.route_code from event_route_sample s order by 1
  loop
    delete from event_route_fault f
    where f.fault_id = any (array(
      select o.fault_id from event_route_fault o
      where o.route_code = v_code and (o.noted_at < v_now - v_keep or o.fault_id <= (
        select n.fault_id from event_route_fault n where n.route_code = v_code order by n.fault_id desc offset 1000 limit 1))
      order by o.fault_id limit p_limit));
    get diagnostics v_part = row_count;
    v_faults := v_faults + v_part;
    with gone as (
      delete from event_route_sample s
      where s.sample_id = any (array(
        select o.sample_id from event_route_sample o
        where o.route_code = v_code and o.sample_id <= (
          select n.sample_id from event_route_sample n where n.route_code = v_code and n.statements = 1 order by n.sample_id desc offset 20 limit 1)
        order by o.sample_id limit p_limit))
      returning s.*),
    added as (
      insert into event_route_sample (route_code, noted_at, statements, changes, events, duplicates, unfit)
      select v_code, min(g.noted_at), sum(g.statements), sum(g.changes), sum(g.events), sum(g.duplicates), sum(g.unfit)
      from gone g having count(*) > 0)
    select count(*) into v_part from gone;
    v_samples := v_samples + v_part;
  end loop;
  delete from event_route_key k
  where k.ctid = any (array(
    select o.ctid from event_route_key o where o.tx_id is not null and o.noted_at < v_now - interval '1 day' limit p_limit));
  get diagnostics v_keys = row_count;
  return jsonb_build_object('refused', false, 'busy', false, 'faults', v_faults, 'keys', v_keys, 'samples', v_samples,
    'more', v_faults >= p_limit or v_keys >= p_limit or v_samples >= p_limit);
end
$function$

-- Writes a route, disabled and in its dry run when new: {route_code, created, changed}. Refused not_owner for the host's own, route_enabled when its source would change, consent_missing when an enabled one would do more than the table's owner agreed to, table_busy, route_table_unfit when the host's table lacks a column.
CREATE OR REPLACE FUNCTION fn_route_put(p_route jsonb, p_actor text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_answer jsonb;
  v_refused text;
begin
  -- before the row and the table, which fn_route_enable takes in the other order
  perform pg_advisory_xact_lock(hashtextextended(current_schema() || '.route.' || (p_route ->> 'route_code'), 0));
  v_answer := fn_route_write(p_route, p_actor);
  if v_answer ->> 'reason' is distinct from 'consent_missing' then
    return v_answer;
  elsif not pg_has_role((v_answer ->> 'owner')::name, 'usage') then
    return v_answer - array['route', 'consent_no'];
  end if;
  v_refused := fn_route_agree(v_answer -> 'route', (v_answer -> 'route' ->> 'dry_run')::boolean, (v_answer ->> 'consent_no')::int + 1);
  if v_refused is not null then
    return jsonb_build_object('refused', true, 'reason', v_refused, 'route_code', p_route ->> 'route_code');
  end if;
  return fn_route_write(p_route, p_actor);
end
$function$

-- The table that a route names, or null. Internal.
CREATE OR REPLACE FUNCTION fn_route_relation(p_route jsonb)
 RETURNS oid
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return (
    select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = p_route ->> 'source_schema' and c.relname = p_route ->> 'source_table' and c.relkind in ('r', 'p'));
end
$function$

-- Removes a disabled route with its samples and keys, and keeps its faults: {dry_run, samples, keys, faults_kept}. Refused not_found, not_owner, route_enabled while it is enabled, trigger_left_over while its trigger stands.
CREATE OR REPLACE FUNCTION fn_route_remove(p_route_code text, p_actor text, p_reason text, p_dry_run boolean DEFAULT true)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_enabled boolean;
  v_samples bigint;
  v_keys bigint;
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' or p_dry_run is null then
    raise exception 'fn_route_remove needs an actor, a reason, and whether it is a dry run' using errcode = '22023';
  end if;
  select r.enabled into v_enabled from iu_sql_event_route r where r.route_code = p_route_code for update;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'route_code', p_route_code);
  elsif not exists (select from event_route o where o.route_code = p_route_code) then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'route_code', p_route_code, 'is_ours', false);
  elsif v_enabled then
    return jsonb_build_object('refused', true, 'reason', 'route_enabled', 'route_code', p_route_code);
  elsif exists (select from fn_route_triggers(p_route_code)) then
    return jsonb_build_object('refused', true, 'reason', 'trigger_left_over', 'route_code', p_route_code);
  end if;
  if p_dry_run then
    v_samples := (select count(*) from event_route_sample s where s.route_code = p_route_code);
    v_keys := (select count(*) from event_route_key k where k.route_code = p_route_code);
  else
    delete from event_route_sample s where s.route_code = p_route_code;
    get diagnostics v_samples = row_count;
    delete from event_route_key k where k.route_code = p_route_code;
    get diagnostics v_keys = row_count;
    delete from event_route_count c where c.route_code = p_route_code;
    delete from event_route o where o.route_code = p_route_code;
    delete from iu_sql_event_route r where r.route_code = p_route_code;
    insert into dot_config_audit (key, old_value, new_value, actor, reason) values ('route.' || p_route_code, 'disabled', null, p_actor, p_reason);
  end if;
  return jsonb_build_object('refused', false, 'route_code', p_route_code, 'dry_run', p_dry_run, 'samples', v_samples, 'keys', v_keys,
    'faults_kept', (select count(*) from event_route_fault f where f.route_code = p_route_code));
end
$function$

-- The statement that makes events' contents of rows. Internal.
CREATE OR REPLACE FUNCTION fn_route_rows(p_route jsonb, p_relation oid, p_new text, p_old text DEFAULT NULL::text)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_contract jsonb := p_route -> 'payload_contract';
  v_columns text[] := array(select jsonb_array_elements_text(v_contract -> 'columns'));
  v_keys text[];
  v_values jsonb;
  v_missing text;
  v_denied text;
  v_key text;
  v_payload text;
  v_whole text;
  v_subject text;
begin
  v_keys := fn_route_key_columns(p_relation);
  if v_keys is null then
    raise exception '%.% has no primary key any more', p_route ->> 'source_schema', p_route ->> 'source_table' using errcode = '55000';
  end if;
  select jsonb_object_agg(a.attname, case when a.atttypid::bigint < 16384 then format('to_jsonb(n.%I)', a.attname)
    else fn_route_value('n', a.attname, a.atttypid) end) into v_values
  from pg_attribute a
  where a.attrelid = p_relation and a.attnum > 0 and not a.attisdropped and a.attname = any (v_columns || v_keys);
  if not v_values ?& v_columns then
    select c into v_missing from unnest(v_columns) c where not v_values ? c limit 1;
    raise exception '%.% has no column % any more', p_route ->> 'source_schema', p_route ->> 'source_table', quote_ident(v_missing)
      using errcode = '42703';
  end if;
  select d into v_denied from fn_route_denied(p_route, p_relation) d limit 1;
  if found then -- the table has changed since the route was written
    raise exception '%', v_denied using errcode = '55000';
  end if;
  -- 1.0 and 1.00 are one key: one row
  with recursive types (attname, oid) as (
    select a.attname, a.atttypid from pg_attribute a where a.attrelid = p_relation and a.attname = any (v_keys) and a.attnum > 0
    union all
    select d.attname, t.typbasetype from types d join pg_type t on t.oid = d.oid and t.typtype = 'd'),
  keys (value, place) as (
    select case when exists (select from types t where t.attname = k and t.oid = 'numeric'::regtype)
      then format('to_jsonb(pg_catalog.trim_scale(n.%I::pg_catalog.numeric))', k) else v_values ->> k end, place
    from unnest(v_keys) with ordinality as u (k, place))
  select string_agg(value, ', ' order by place), string_agg(format('(%s #>> ''{}'')', value), ' || ''/'' || ' order by place)
  into v_key, v_subject from keys;
  v_payload := 'jsonb_build_object(' || coalesce((select string_agg(format('%L, %s', c, v_values ->> c), ', ') from unnest(v_columns) c), '') || ')';
  v_payload := format('jsonb_build_object(''row_key'', %s, ''event_subject_ref'', %s, ''canonical_address'', %s, ''correlation_id'', %s, ''safe_payload'', %s)',
    case when p_route ->> 'idempotency_policy' = 'per_change' then 'null' else format('fn_route_key(%L, jsonb_build_array(%s))',
      format('%I.%I:%s:', p_route ->> 'source_schema', p_route ->> 'source_table', p_route ->> 'sql_event'), v_key) end,
    coalesce(fn_route_template(v_contract ->> 'subject_ref', v_values), v_subject),
    coalesce(fn_route_template(v_contract ->> 'canonical_address', v_values), 'null'),
    coalesce(fn_route_template(v_contract ->> 'correlation_id', v_values), 'null'), v_payload);
  if p_old is null then
    return format('select %s as event from %s', v_payload, p_new);
  elsif v_contract ->> 'when_changed' = 'any' then
    v_whole := 'format(''%s'', n.*)';
  else
    v_whole := format('jsonb_build_array(%s)', (select string_agg(v_values ->> c, ', ') from unnest(v_columns) c));
  end if;
  return format(
    'select x.event from (select %1$s as key, %2$s as whole, %3$s as event from %4$s) x
     left join (select %1$s as key, %2$s as whole from %5$s) o on o.key = x.key where o.key is null or o.whole is distinct from x.whole',
    format('jsonb_build_array(%s)', v_key), v_whole, v_payload, p_new, p_old);
end
$function$

-- The consent in an argument of a trigger, or null. Internal.
CREATE OR REPLACE FUNCTION fn_route_said(p_argument text)
 RETURNS jsonb
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return p_argument::jsonb;
exception when others then
  return null;
end
$function$

-- What a route's dry run has counted: {since, statements, changes, events, duplicates, unfit, samples}.
CREATE OR REPLACE FUNCTION fn_route_seen(p_route_code text)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return (
    select jsonb_build_object(
      'since', min(s.noted_at), 'statements', coalesce(sum(s.statements), 0), 'changes', coalesce(sum(s.changes), 0),
      'events', coalesce(sum(s.events), 0), 'duplicates', coalesce(sum(s.duplicates), 0), 'unfit', coalesce(sum(s.unfit), 0),
      'samples', coalesce((
        select jsonb_agg(jsonb_build_object('noted_at', n.noted_at, 'events', n.sample) order by n.sample_id desc)
        from (select x.* from event_route_sample x where x.route_code = p_route_code and x.sample is not null order by x.sample_id desc limit 5) n), '[]'))
    from event_route_sample s where s.route_code = p_route_code);
end
$function$

-- Types of some columns of a table, and its primary key, to see whether they changed; null without a key. Internal.
CREATE OR REPLACE FUNCTION fn_route_shape(p_relation oid, p_columns text[])
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return (
    select string_agg(a.attname || ' ' || a.attnum || ' ' || a.atttypid, ', ' order by a.attname)
    from pg_attribute a where a.attrelid = p_relation and a.attname = any (p_columns) and a.attnum > 0 and not a.attisdropped)
    || ' key ' || (select i.indkey::text from pg_index i where i.indrelid = p_relation and i.indisprimary);
end
$function$

-- Sets enabled and dry_run of a route's row: {state, was}. Refused not_found, not_owner for the host's own, dry_run_missing, consent_missing when its trigger holds no new consent to that.
CREATE OR REPLACE FUNCTION fn_route_switch(p_route_code text, p_enabled boolean, p_dry_run boolean, p_actor text, p_reason text, p_without_dry_run boolean DEFAULT false)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_route jsonb;
  v_number int;
  v_was text;
  v_is text;
  v_consent jsonb;
  v_beyond text[];
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'switching a route needs an actor and a reason' using errcode = '22023';
  end if;
  select to_jsonb(r), o.consent_no, case when not r.enabled then 'disabled' when r.dry_run then 'dry run' else 'live' end,
    case when not p_enabled then 'disabled' when coalesce(p_dry_run, r.dry_run) then 'dry run' else 'live' end
  into v_route, v_number, v_was, v_is
  from iu_sql_event_route r join event_route o on o.route_code = r.route_code
  where r.route_code = p_route_code for update of r;
  if not found then
    return jsonb_build_object('refused', true, 'route_code', p_route_code, 'is_ours', false, 'reason',
      case when exists (select from iu_sql_event_route r where r.route_code = p_route_code) then 'not_owner' else 'not_found' end);
  elsif p_enabled then
    if v_is = 'live' and v_was <> 'live' and not coalesce(p_without_dry_run, false) and not fn_route_is_tried(p_route_code) then
      return jsonb_build_object('refused', true, 'reason', 'dry_run_missing', 'route_code', p_route_code);
    end if;
    select t.consent into v_consent from fn_route_triggers(p_route_code) t where t.is_right order by t.is_enabled, t.trigger_name limit 1;
    if v_was = 'disabled' or v_was = 'dry run' and v_is = 'live' or v_consent -> 'number' = to_jsonb(v_number + 1) then
      v_number := v_number + 1;
    end if;
    v_beyond := fn_route_beyond(v_route || jsonb_build_object('dry_run', v_is = 'dry run'), v_consent, v_number);
    if v_beyond <> '{}' then
      return jsonb_build_object('refused', true, 'reason', 'consent_missing', 'route_code', p_route_code, 'beyond', to_jsonb(v_beyond),
        'owner', (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = fn_route_relation(v_route)));
    end if;
  else
    v_number := v_number + 1; -- a trigger that is left holds the consent of before
  end if;
  update iu_sql_event_route r set enabled = p_enabled, dry_run = v_is <> 'live' and coalesce(p_dry_run, r.dry_run) where r.route_code = p_route_code;
  update event_route o set consent_no = v_number, rows_consent = null, was_live = o.was_live or v_is = 'live' where o.route_code = p_route_code;
  if p_enabled then
    perform fn_route_prepare(p_route_code);
  end if;
  if v_was <> v_is then
    insert into dot_config_audit (key, old_value, new_value, actor, reason) values ('route.' || p_route_code, v_was, v_is, p_actor, p_reason);
  end if;
  return jsonb_build_object('refused', false, 'route_code', p_route_code, 'state', v_is, 'was', v_was);
end
$function$

-- A template of a route as an SQL expression, null when it is empty. Internal.
CREATE OR REPLACE FUNCTION fn_route_template(p_template text, p_values jsonb)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return (
    select '(' || string_agg(case when m.m[2] is null then quote_literal(m.m[1]) else format('(%s #>> ''{}'')', p_values ->> m.m[2]) end, ' || ' order by m.n) || ')'
    from regexp_matches(p_template, '([^{}]+)|\{([^{}]+)\}', 'g') with ordinality as m (m, n));
end
$function$

-- Which of some keys a route has told of already. Called by fn_route_preview.
CREATE OR REPLACE FUNCTION fn_route_told(p_route_code text, p_keys text[])
 RETURNS text[]
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  return array(select k.row_key from event_route_key k where k.route_code = p_route_code and k.row_key = any (p_keys));
end
$function$

-- The triggers of a route: whether each is enabled and where the route says, and what the owner of its table agreed to.
CREATE OR REPLACE FUNCTION fn_route_triggers(p_route_code text)
 RETURNS TABLE(relation oid, table_schema text, table_name text, trigger_name text, is_enabled boolean, is_right boolean, argument text, consent jsonb)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_head bytea := convert_to(p_route_code, getdatabaseencoding()) || '\x00'::bytea;
begin
  return query
  select x.oid, x.nspname, x.relname, x.tgname, x.tgenabled in ('O', 'A'), coalesce(x.is_right, false), x.argument, fn_route_said(x.argument)
  from (
    select c.oid, n.nspname::text, c.relname::text, t.tgname::text, t.tgenabled,
      n.nspname = r.route ->> 'source_schema' and c.relname = r.route ->> 'source_table'
        and t.tgtype = case r.route ->> 'sql_event' when 'insert' then 4 when 'delete' then 8 else 16 end as is_right,
      case when t.tgnargs > 1 then convert_from(substr(a.rest, 1, position('\x00'::bytea in a.rest) - 1), getdatabaseencoding()) end as argument
    from pg_trigger t
    join pg_proc p on p.oid = t.tgfoid and p.proname = 'fn_route_capture' and p.pronamespace = quote_ident(current_schema())::regnamespace
    join pg_class c on c.oid = t.tgrelid
    join pg_namespace n on n.oid = c.relnamespace
    cross join lateral (select substr(t.tgargs, octet_length(v_head) + 1) as rest) a
    left join (select to_jsonb(i) as route from iu_sql_event_route i where i.route_code = p_route_code) r on true
    where not t.tgisinternal and t.tgparentid = 0 and substr(t.tgargs, 1, octet_length(v_head)) = v_head) x
  order by 2, 3, 4;
end
$function$

-- An expression for a column as jsonb, which calls no code of the table's owner. Internal.
CREATE OR REPLACE FUNCTION fn_route_value(p_alias text, p_column text, p_type oid)
 RETURNS text
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_type oid := p_type;
  v_base oid;
begin
  loop
    select t.typbasetype into v_base from pg_type t where t.oid = v_type and t.typtype = 'd';
    exit when not found;
    v_type := v_base;
  end loop;
  return format(
    case when v_type::bigint < 16384 then 'to_jsonb(%1$s.%2$I)'
      else 'to_jsonb(case when num_nonnulls(%1$s.%2$I) > 0 then format(''%%s'', %1$s.%2$I) end)' end,
    p_alias, p_column);
end
$function$

-- Writes a route: as fn_route_put, but refused consent_missing whoever asks. Internal.
CREATE OR REPLACE FUNCTION fn_route_write(p_route jsonb, p_actor text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_known constant text[] := array['route_code', 'source_object_kind', 'source_schema', 'source_table', 'sql_event', 'target_event_domain',
    'target_event_type', 'idempotency_policy', 'fail_closed', 'payload_contract'];
  v_code text := p_route ->> 'route_code';
  v_contract jsonb := coalesce(p_route -> 'payload_contract', '{}');
  v_old jsonb;
  v_new jsonb;
  v_wrong text;
  v_columns text;
  v_lacks text[];
  v_consent jsonb;
  v_number int;
  v_beyond text[];
  v_aside constant text[] := array['fail_closed', 'target_event_stream', 'updated_at']; -- of no matter to what a dry run shows
begin
  if coalesce(btrim(p_actor), '') = '' or jsonb_typeof(p_route) is distinct from 'object' then
    raise exception 'fn_route_put needs a route as a JSON object, and an actor' using errcode = '22023';
  end if;
  select case
    when jsonb_typeof(p_route -> k) is null then k || ' is missing'
    when jsonb_typeof(p_route -> k) <> 'string' then k || ' must be text' end into v_wrong
  from unnest(array['route_code', 'source_table', 'sql_event', 'target_event_domain', 'target_event_type']) with ordinality as u (k, place)
  where jsonb_typeof(p_route -> k) is distinct from 'string'
  order by u.place limit 1;
  if v_wrong is null then
    select case
      when k = any (array['enabled', 'dry_run']) then k || ' is set by fn_route_enable and fn_route_disable'
      else quote_literal(k) || ' is not a key of a route; those are ' || array_to_string(v_known, ', ') end into v_wrong
    from jsonb_object_keys(p_route) k where k <> all (v_known) order by k limit 1;
  end if;
  v_wrong := case
    when v_wrong is not null then v_wrong
    when v_code !~ '^[a-z0-9][a-z0-9_.-]{0,47}$' then 'route_code must be lower case letters, digits, _, . and -, at most 48'
    when lower(p_route ->> 'sql_event') <> all (array['insert', 'update', 'delete']) then 'sql_event must be insert, update or delete'
    when coalesce(p_route ->> 'source_object_kind', 'table') <> 'table' then 'source_object_kind must be table'
    when coalesce(p_route ->> 'idempotency_policy', 'per_change') <> all (array['per_row', 'per_change', 'per_transaction'])
      then 'idempotency_policy must be per_row, per_change or per_transaction'
    when jsonb_typeof(coalesce(p_route -> 'fail_closed', 'false')) <> 'boolean' then 'fail_closed must be true or false'
    when jsonb_typeof(coalesce(p_route -> 'source_schema', '""')) <> 'string' then 'source_schema must be text'
    when jsonb_typeof(v_contract) <> 'object' then 'payload_contract must be an object'
    when jsonb_typeof(coalesce(v_contract -> 'columns', '[]')) <> 'array'
      or exists (select from jsonb_array_elements(coalesce(v_contract -> 'columns', '[]')) c where jsonb_typeof(c) <> 'string')
      then 'payload_contract.columns must be an array of names'
    when jsonb_array_length(coalesce(v_contract -> 'columns', '[]')) > 40 then 'payload_contract.columns names more than 40 columns: an event carries signal, not data'
    when coalesce(v_contract ->> 'when_changed', 'contract') <> all (array['contract', 'any']) then 'payload_contract.when_changed must be contract or any'
    when lower(p_route ->> 'sql_event') = 'update' and coalesce(v_contract ->> 'when_changed', 'contract') = 'contract'
      and jsonb_array_length(coalesce(v_contract -> 'columns', '[]')) = 0
      then 'payload_contract.columns is empty, so no update would change any of them: name columns, or say when_changed = any'
  end;
  if v_wrong is null then
    select 'payload_contract.' || k || case
      when k = any (array['subject_ref', 'canonical_address', 'correlation_id']) then ' must be a template such as {id}, at most 500 letters'
      else ' is unknown: there are columns, subject_ref, canonical_address, correlation_id and when_changed' end into v_wrong
    from jsonb_object_keys(v_contract) k
    where k <> all (array['columns', 'when_changed']) and (
      k <> all (array['subject_ref', 'canonical_address', 'correlation_id'])
      or jsonb_typeof(v_contract -> k) <> 'string' or v_contract ->> k !~ '^([^{}]|\{[^{}]+\}){1,250}$' or length(v_contract ->> k) > 500)
    order by k limit 1;
  end if;
  if v_wrong is not null then
    raise exception '%', v_wrong using errcode = '22023';
  end if;

  v_new := jsonb_build_object(
    'route_code', v_code, 'source_object_kind', 'table', 'source_schema', coalesce(nullif(p_route ->> 'source_schema', ''), current_schema()),
    'source_table', p_route ->> 'source_table', 'sql_event', lower(p_route ->> 'sql_event'), 'target_event_domain', p_route ->> 'target_event_domain',
    'target_event_type', p_route ->> 'target_event_type', 'idempotency_policy', coalesce(p_route ->> 'idempotency_policy', 'per_change'),
    'target_event_stream', (select r.event_stream from event_type_registry r
      where r.event_domain = p_route ->> 'target_event_domain' and r.event_type = p_route ->> 'target_event_type'),
    'fail_closed', coalesce(p_route -> 'fail_closed', 'false'), 'payload_contract', v_contract, 'updated_at', clock_timestamp());
  select f.what into v_wrong from fn_route_findings(v_new) f limit 1;
  if found then
    raise exception '%', v_wrong using errcode = '22023';
  end if;

  select to_jsonb(r) into v_old from iu_sql_event_route r where r.route_code = v_code for update;
  if not found then
    v_new := v_new || jsonb_build_object('enabled', false, 'dry_run', true, 'created_at', clock_timestamp());
  elsif not exists (select from event_route o where o.route_code = v_code) then
    return jsonb_build_object('refused', true, 'reason', 'not_owner', 'route_code', v_code, 'is_ours', false);
  elsif (v_old -> 'enabled' = 'true' or exists (select from fn_route_triggers(v_code)))
    and jsonb_build_array(v_old -> 'source_schema', v_old -> 'source_table', v_old -> 'sql_event')
      <> jsonb_build_array(v_new -> 'source_schema', v_new -> 'source_table', v_new -> 'sql_event')
  then
    return jsonb_build_object('refused', true, 'reason', 'route_enabled', 'route_code', v_code);
  end if;
  -- a host's table may have more columns, which keep their defaults, or lack some that we cannot do without
  v_lacks := array(
    select k from unnest(array['route_code', 'source_schema', 'source_table', 'sql_event', 'target_event_domain', 'target_event_type',
      'enabled', 'dry_run', 'fail_closed', 'idempotency_policy', 'payload_contract']) k
    where not exists (
      select from pg_attribute a
      join pg_class c on c.oid = a.attrelid and c.relnamespace = quote_ident(current_schema())::regnamespace and c.relname = 'iu_sql_event_route'
      where a.attname = k and a.attnum > 0 and not a.attisdropped));
  if v_lacks <> '{}' then
    return jsonb_build_object('refused', true, 'reason', 'route_table_unfit', 'route_code', v_code, 'lacks', to_jsonb(v_lacks),
      'what', 'the host''s table iu_sql_event_route lacks ' || array_to_string(v_lacks, ', '));
  end if;
  select string_agg(quote_ident(a.attname), ', ' order by a.attnum) into v_columns
  from pg_attribute a
  join pg_class c on c.oid = a.attrelid and c.relnamespace = quote_ident(current_schema())::regnamespace and c.relname = 'iu_sql_event_route'
  where a.attnum > 0 and not a.attisdropped and a.attname = any (array(select jsonb_object_keys(v_new)));
  v_number := (select o.consent_no from event_route o where o.route_code = v_code);
  if v_old -> 'enabled' = 'true' then
    select t.consent into v_consent from fn_route_triggers(v_code) t where t.is_right order by t.is_enabled, t.trigger_name limit 1;
    if found then
      v_number := v_number + (v_consent -> 'number' is not distinct from to_jsonb(v_number + 1))::int; -- fn_route_put has just asked for it
      v_beyond := fn_route_beyond(v_old || v_new, v_consent, v_number);
      if v_beyond <> '{}' then
        return jsonb_build_object('refused', true, 'reason', 'consent_missing', 'route_code', v_code, 'beyond', to_jsonb(v_beyond),
          'owner', (select pg_get_userbyid(c.relowner) from pg_class c where c.oid = fn_route_relation(v_new)),
          'route', v_old || v_new, 'consent_no', v_number);
      end if;
    end if;
  end if;
  if v_old is null then
    execute format('insert into iu_sql_event_route (%1$s) select %1$s from jsonb_populate_record(null::iu_sql_event_route, $1)', v_columns) using v_new;
  else
    execute format('update iu_sql_event_route r set (%1$s) = (select %1$s from jsonb_populate_record(null::iu_sql_event_route, $1)) where r.route_code = $2', v_columns)
    using v_new, v_code;
  end if;
  insert into event_route as o (route_code, actor) values (v_code, p_actor)
  on conflict (route_code) do update set actor = excluded.actor, written_by = session_user, updated_at = clock_timestamp(), consent_no = v_number;
  if v_old is not null and (v_old - v_aside) is distinct from ((v_old || v_new) - v_aside) then
    update event_route o set said_at = clock_timestamp(), was_live = v_old -> 'enabled' = 'true' and v_old -> 'dry_run' = 'false' where o.route_code = v_code;
  end if;
  perform fn_route_prepare(v_code);
  return jsonb_build_object('refused', false, 'route_code', v_code, 'created', v_old is null,
    'changed', v_old is null or (v_old - 'updated_at') is distinct from (v_old || v_new) - 'updated_at');
end
$function$

-- Findings about enabled schedules: trouble, late, no_scheduler, last_job_failed.
CREATE OR REPLACE FUNCTION fn_schedule_check(p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS TABLE(schedule_key text, severity text, finding text, what text, hint text, age_seconds numeric)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_lives boolean := exists (
    select from queue_heartbeat h
    where h.metadata ->> 'role' = 'scheduler' and h.last_beat_at >= v_now - make_interval(secs => h.stale_threshold_seconds));
begin
  return query
  select s.schedule_key, x.severity, x.finding, x.what, x.hint, round(extract(epoch from x.age)::numeric, 3)
  from (
    select k.*, isfinite(k.next_tick_at) as is_placed,
      case when isfinite(k.next_tick_at) then k.next_tick_at else greatest(k.counts_from, k.updated_at) end as due
    from job_schedule k where k.enabled) s
  left join lateral (
    select q.status::text from job_queue q where q.job_id = s.last_job_id
    union all
    select a.status::text from job_archive a where a.job_id = s.last_job_id
    limit 1) j on true
  cross join lateral (
    select 'error' as severity, 'trouble' as finding, 'it makes no jobs: ' || s.trouble as what,
      format('reveille schedules show %1$s, then reveille schedules put %1$s with what the reason names set right', s.schedule_key) as hint, null::interval as age
    where s.trouble is not null
    union all
    select case when v_lives or s.due < v_now - interval '5 minutes' then 'error' else 'warning' end,
      case when v_lives then 'late' else 'no_scheduler' end,
      case when s.is_placed then 'it was due at ' || to_char(s.due at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"') else 'nobody has found its first tick' end
        || case when v_lives then ', and a scheduler lives' else ', and no scheduler lives' end,
      case when v_lives then 'reveille tick, and see the log of reveille run' else 'reveille run, or reveille tick for once' end, v_now - s.due
    where s.trouble is null and s.next_tick_at < 'infinity' and s.due < v_now - interval '1 minute'
      and (not s.is_placed or fn_schedule_held(s.job_kind) is null)
    union all
    select 'warning', 'last_job_failed', format('its last job ended as %s', j.status), format('reveille jobs show %s', s.last_job_id), v_now - s.last_tick_at
    where j.status in ('failed', 'dead_letter')) x
  order by 1, 3;
end
$function$

-- What is to be done about schedules now: {now, schedules, held, next}. Reads only.
CREATE OR REPLACE FUNCTION fn_schedule_due(p_limit integer DEFAULT 1000, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_schedules jsonb;
  v_held bigint;
  v_next timestamptz;
begin
  select coalesce(jsonb_agg(d.schedule), '[]') into v_schedules
  from (
    select jsonb_build_object(
      'schedule_key', s.schedule_key, 'cron', s.cron, 'time_zone', s.time_zone, 'every_seconds', extract(epoch from s.every)::bigint,
      'at', s.at, 'starts_at', s.starts_at, 'ends_at', s.ends_at, 'missed', s.missed,
      'missed_window_seconds', extract(epoch from s.missed_window)::bigint, 'placed', isfinite(s.next_tick_at),
      'expected', case when isfinite(s.next_tick_at) then s.next_tick_at else s.counts_from end, 'trouble', s.trouble) as schedule
    from job_schedule s
    where s.enabled and s.next_tick_at <= v_now and (s.next_tick_at = '-infinity' or fn_schedule_held(s.job_kind) is null)
    order by s.trouble is not null, s.next_tick_at, s.schedule_key
    limit p_limit) d;
  select count(*) into v_held
  from job_schedule s
  where s.enabled and s.next_tick_at <= v_now and isfinite(s.next_tick_at) and fn_schedule_held(s.job_kind) is not null;
  select s.next_tick_at into v_next
  from job_schedule s
  where s.enabled and s.next_tick_at > v_now and s.next_tick_at < 'infinity'
  order by s.next_tick_at limit 1;
  return jsonb_build_object('refused', false, 'now', v_now, 'schedules', v_schedules, 'held', v_held, 'next', v_next);
end
$function$

-- Enables or disables a schedule: {enabled, was_enabled}, and warning as fn_schedule_put; audited in dot_config_audit as schedule.<key>.enabled. Refused not_found.
CREATE OR REPLACE FUNCTION fn_schedule_enable(p_schedule_key text, p_enabled boolean, p_actor text, p_reason text, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_was boolean;
  v_job_kind text;
begin
  if p_enabled is null or coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_schedule_enable needs p_enabled, an actor and a reason' using errcode = '22023';
  end if;
  select s.enabled, s.job_kind into v_was, v_job_kind from job_schedule s where s.schedule_key = p_schedule_key for update;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'schedule_key', p_schedule_key);
  end if;
  if v_was <> p_enabled then
    update job_schedule s
    set enabled = p_enabled, next_tick_at = '-infinity', counts_from = greatest(coalesce(p_now, clock_timestamp()), s.last_tick_at),
        trouble = null, updated_at = clock_timestamp()
    where s.schedule_key = p_schedule_key;
    insert into dot_config_audit (key, old_value, new_value, actor, reason)
    values ('schedule.' || p_schedule_key || '.enabled', v_was::text, p_enabled::text, p_actor, p_reason);
    perform pg_notify('queue_control', '');
  end if;
  return jsonb_build_object('refused', false, 'schedule_key', p_schedule_key, 'enabled', p_enabled, 'was_enabled', v_was)
    || jsonb_strip_nulls(jsonb_build_object('warning', case when p_enabled then fn_job_kind_warning(v_job_kind) end));
end
$function$

-- job_substrate_disabled or paused while schedules of this kind of job make nothing; else null.
CREATE OR REPLACE FUNCTION fn_schedule_held(p_job_kind text)
 RETURNS text
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if not fn_gate_is_open('queue.job_substrate.enabled') then
    return 'job_substrate_disabled';
  elsif exists (
    select from queue_pause p
    where p.resumed_at is null and (p.scope = 'all' or (p.scope = 'job_kind' and p.name = p_job_kind)))
  then
    return 'paused';
  end if;
  return null;
end
$function$

-- Adds a schedule, disabled, or changes all of it but that: {schedule_key, created, enabled}, and warning where no template or nobody is known for its kind.
CREATE OR REPLACE FUNCTION fn_schedule_put(p_schedule_key text, p_job_kind text, p_actor text, p_cron text DEFAULT NULL::text, p_time_zone text DEFAULT NULL::text, p_every interval DEFAULT NULL::interval, p_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_executor text DEFAULT 'PG_worker'::text, p_priority integer DEFAULT 100, p_max_attempts integer DEFAULT NULL::integer, p_safe_payload jsonb DEFAULT '{}'::jsonb, p_source_ref text DEFAULT NULL::text, p_target_ref text DEFAULT NULL::text, p_payload_ref text DEFAULT NULL::text, p_ordering_key text DEFAULT NULL::text, p_missed text DEFAULT 'once'::text, p_missed_window interval DEFAULT NULL::interval, p_starts_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_ends_at timestamp with time zone DEFAULT NULL::timestamp with time zone, p_description text DEFAULT NULL::text, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_old job_schedule;
  v_new job_schedule;
begin
  if coalesce(btrim(p_schedule_key), '') = '' or coalesce(btrim(p_actor), '') = '' then
    raise exception 'fn_schedule_put needs a key and an actor' using errcode = '22023';
  elsif p_schedule_key !~ '^[a-z0-9][a-z0-9_.-]{0,119}$' then
    raise exception 'the key of a schedule is made of small letters, digits and _ . -, begins with a letter or digit and has at most 120: not %',
      quote_literal(left(p_schedule_key, 130)) using errcode = '22023';
  elsif p_missed_window not between interval '1 minute' and interval '10 years' then
    raise exception 'fn_schedule_put: p_missed_window is from a minute to ten years, not %', p_missed_window using errcode = '22023';
  elsif p_ends_at <= p_starts_at then
    raise exception 'fn_schedule_put: it would end before it starts: p_ends_at is %, p_starts_at %', p_ends_at, p_starts_at using errcode = '22023';
  elsif num_nonnulls(p_cron, p_every, p_at) <> 1 or (p_cron is null) <> (p_time_zone is null) then
    raise exception 'fn_schedule_put: name one of p_cron (with p_time_zone), p_every and p_at' using errcode = '22023';
  end if;
  perform v_now at time zone p_time_zone; -- raises 22023 for a zone that nobody knows
  select s.* into v_old from job_schedule s where s.schedule_key = p_schedule_key for update;
  insert into job_schedule as s (
    schedule_key, cron, time_zone, every, at, job_kind, executor, priority, max_attempts, safe_payload, source_ref, target_ref,
    payload_ref, ordering_key, missed, missed_window, starts_at, ends_at, description, actor, counts_from)
  values (
    p_schedule_key, p_cron, p_time_zone, p_every, p_at, p_job_kind, coalesce(p_executor, 'PG_worker'), coalesce(p_priority, 100),
    p_max_attempts, coalesce(p_safe_payload, '{}'), p_source_ref, p_target_ref, p_payload_ref, p_ordering_key,
    coalesce(p_missed, 'once'), p_missed_window, coalesce(p_starts_at, v_old.starts_at, date_trunc('second', v_now)), p_ends_at,
    p_description, p_actor, v_now)
  on conflict (schedule_key) do update
  set cron = excluded.cron, time_zone = excluded.time_zone, every = excluded.every, at = excluded.at, job_kind = excluded.job_kind,
      executor = excluded.executor, priority = excluded.priority, max_attempts = excluded.max_attempts,
      safe_payload = excluded.safe_payload, source_ref = excluded.source_ref, target_ref = excluded.target_ref,
      payload_ref = excluded.payload_ref, ordering_key = excluded.ordering_key, missed = excluded.missed,
      missed_window = excluded.missed_window, starts_at = excluded.starts_at, ends_at = excluded.ends_at,
      description = excluded.description, actor = excluded.actor, set_by = session_user, updated_at = clock_timestamp(), trouble = null
  returning s.* into v_new;
  if v_old.schedule_key is not null
    and (v_old.cron, v_old.time_zone, v_old.every, v_old.at, v_old.starts_at, v_old.ends_at)
      is distinct from (v_new.cron, v_new.time_zone, v_new.every, v_new.at, v_new.starts_at, v_new.ends_at)
  then
    update job_schedule s set next_tick_at = '-infinity', counts_from = greatest(v_now, s.last_tick_at)
    where s.schedule_key = p_schedule_key;
  end if;
  insert into dot_config_audit (key, old_value, new_value, actor, reason)
  values ('schedule.' || p_schedule_key,
    case when v_old.schedule_key is not null
      then concat_ws(' ', v_old.job_kind, v_old.cron, v_old.time_zone, v_old.every::text, v_old.at::text) end,
    concat_ws(' ', v_new.job_kind, v_new.cron, v_new.time_zone, v_new.every::text, v_new.at::text), p_actor, 'put');
  perform pg_notify('queue_control', '');
  return jsonb_build_object('refused', false, 'schedule_key', p_schedule_key, 'created', v_old.schedule_key is null, 'enabled', v_new.enabled)
    || jsonb_strip_nulls(jsonb_build_object('warning', fn_job_kind_warning(p_job_kind)));
end
$function$

-- Takes a schedule away, and leaves its jobs: {was_enabled}. Refused not_found.
CREATE OR REPLACE FUNCTION fn_schedule_remove(p_schedule_key text, p_actor text, p_reason text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_old job_schedule;
begin
  if coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception 'fn_schedule_remove needs an actor and a reason' using errcode = '22023';
  end if;
  delete from job_schedule s where s.schedule_key = p_schedule_key returning s.* into v_old;
  if not found then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'schedule_key', p_schedule_key);
  end if;
  insert into dot_config_audit (key, old_value, new_value, actor, reason)
  values ('schedule.' || p_schedule_key,
    concat_ws(' ', v_old.job_kind, v_old.cron, v_old.time_zone, v_old.every::text, v_old.at::text), null, p_actor, p_reason);
  perform pg_notify('queue_control', '');
  return jsonb_build_object('refused', false, 'schedule_key', p_schedule_key, 'was_enabled', v_old.enabled);
end
$function$

-- Makes the jobs of ticks and moves the position, once: {moved, made, known}, or {moved: false, why: busy, taken, disabled, not_due}. Refused not_found, job_substrate_disabled, paused.
CREATE OR REPLACE FUNCTION fn_schedule_tick(p_schedule_key text, p_expected timestamp with time zone, p_ticks timestamp with time zone[], p_next timestamp with time zone, p_missed bigint DEFAULT 0, p_now timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_now timestamptz := coalesce(p_now, clock_timestamp());
  v_schedule job_schedule;
  v_is_placed boolean;
  v_held text;
  v_tick timestamptz;
  v_last timestamptz;
  v_answer jsonb;
  v_job_id uuid;
  v_made int := 0;
begin
  if p_schedule_key is null or p_expected is null or p_ticks is null or array_position(p_ticks, null) is not null
    or cardinality(p_ticks) > 1000 or coalesce(p_missed, -1) < 0 or not isfinite(coalesce(p_next, p_expected))
  then
    raise exception 'fn_schedule_tick needs a key, the position expected, at most 1000 ticks, and the next one' using errcode = '22023';
  end if;
  select s.* into v_schedule from job_schedule s where s.schedule_key = p_schedule_key for update skip locked;
  if not found then
    if not exists (select from job_schedule s where s.schedule_key = p_schedule_key) then
      return jsonb_build_object('refused', true, 'reason', 'not_found', 'schedule_key', p_schedule_key);
    end if;
    return jsonb_build_object('refused', false, 'moved', false, 'why', 'busy');
  end if;
  v_is_placed := isfinite(v_schedule.next_tick_at);
  if not v_schedule.enabled then
    return jsonb_build_object('refused', false, 'moved', false, 'why', 'disabled');
  elsif v_schedule.next_tick_at = 'infinity'
    or p_expected <> (case when v_is_placed then v_schedule.next_tick_at else v_schedule.counts_from end)
  then
    return jsonb_build_object('refused', false, 'moved', false, 'why', 'taken');
  elsif v_is_placed and v_schedule.next_tick_at > v_now then
    return jsonb_build_object('refused', false, 'moved', false, 'why', 'not_due'); -- the clock has stepped back
  end if;
  if p_next <= p_expected or (not v_is_placed and cardinality(p_ticks) > 0)
    or exists (select from unnest(p_ticks) t where t < p_expected or t > v_now or t >= p_next)
  then
    raise exception 'fn_schedule_tick: ticks of % must lie from its position to now, and the next one behind them', p_schedule_key
      using errcode = '22023';
  end if;
  if v_is_placed then
    v_held := fn_schedule_held(v_schedule.job_kind);
    if v_held is not null then
      return jsonb_build_object('refused', true, 'reason', v_held, 'schedule_key', p_schedule_key);
    end if;
  end if;
  for v_tick in select t from unnest(p_ticks) t order by t loop
    v_answer := fn_job_enqueue(
      p_job_kind => v_schedule.job_kind,
      p_actor => 'schedule:' || p_schedule_key,
      p_safe_payload => v_schedule.safe_payload,
      p_source_ref => v_schedule.source_ref,
      p_idempotency_key => p_schedule_key || ':' || to_char(v_tick at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS')
        || case when v_tick = date_trunc('second', v_tick) then '' else to_char(v_tick at time zone 'UTC', '.US') end || 'Z',
      p_target_ref => v_schedule.target_ref,
      p_payload_ref => v_schedule.payload_ref,
      p_executor => v_schedule.executor,
      p_priority => v_schedule.priority,
      p_scheduled_at => v_tick,
      p_ordering_key => v_schedule.ordering_key,
      p_max_attempts => v_schedule.max_attempts);
    if v_answer ->> 'refused' = 'true' then
      return v_answer; -- the gate was closed meanwhile; what was made keeps its key
    end if;
    v_made := v_made + (v_answer ->> 'created' = 'true')::int;
    v_last := v_tick;
    v_job_id := (v_answer ->> 'job_id')::uuid;
  end loop;
  update job_schedule s
  set next_tick_at = coalesce(p_next, 'infinity'), ticks = s.ticks + cardinality(p_ticks), ticks_missed = s.ticks_missed + p_missed,
      last_tick_at = greatest(s.last_tick_at, v_last), last_job_id = coalesce(v_job_id, s.last_job_id),
      last_missed_at = case when p_missed > 0 then v_now else s.last_missed_at end, trouble = null
  where s.schedule_key = p_schedule_key;
  return jsonb_build_object('refused', false, 'moved', true, 'made', v_made, 'known', cardinality(p_ticks) - v_made);
end
$function$

-- Notes why a schedule cannot go on: {noted}.
CREATE OR REPLACE FUNCTION fn_schedule_trouble(p_schedule_key text, p_expected timestamp with time zone, p_trouble text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  update job_schedule s set trouble = left(p_trouble, 1000)
  where s.schedule_key = p_schedule_key and s.trouble is distinct from left(p_trouble, 1000)
    and p_expected = (case when isfinite(s.next_tick_at) then s.next_tick_at else s.counts_from end);
  return jsonb_build_object('refused', false, 'noted', found);
end
$function$

-- A scope_filter as what the payload must contain or as a jsonpath, or what is wrong with it. Internal.
CREATE OR REPLACE FUNCTION fn_scope_read(p_filter jsonb, OUT contains jsonb, OUT path jsonpath, OUT problem text)
 RETURNS record
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_text text := btrim(p_filter #>> '{}');
begin
  if p_filter is null or jsonb_typeof(p_filter) = 'null' or v_text = '' then
    return;
  elsif jsonb_typeof(p_filter) = 'object' then
    contains := p_filter;
    return;
  elsif jsonb_typeof(p_filter) <> 'string' then
    problem := format('scope_filter is %s; it is an object, or a text that is a jsonpath', jsonb_typeof(p_filter));
    return;
  end if;
  begin
    if left(v_text, 1) = '{' then
      contains := v_text::jsonb;
    else
      path := v_text::jsonpath;
    end if;
  exception
    when others then
      problem := 'scope_filter: ' || sqlerrm;
      return;
  end;
  if regexp_replace(path::text, '"([^"\\]|\\.)*"', '""', 'g') ~ '\$"' then
    path := null;
    problem := 'scope_filter has a variable ($name); a filter has none, write the value itself';
    return;
  end if;
  begin
    perform jsonb_path_match_tz('{"event": {}, "payload": {}}', path, '{}', false);
  exception
    when singleton_sql_json_item_required then
      path := null;
      problem := 'scope_filter is not a predicate: write a condition such as $.payload.amount > 100, not a path';
    when others then
      null; -- strict paths may fail on the empty sample and work on real events
  end;
end
$function$

-- A text as one word of a shell. Internal.
CREATE OR REPLACE FUNCTION fn_shell_word(p_text text)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
RETURN CASE WHEN (p_text ~ '^[A-Za-z0-9_.,:/@~=+-]+$'::text) THEN p_text ELSE ((''''::text || replace(p_text, ''''::text, '''\'''''::text)) || ''''::text) END

-- Pairs of domain and stream with active types that resolve to nobody, or only by broadcast or within a scope. Called by v_subscription_gaps.
CREATE OR REPLACE FUNCTION fn_subscription_gaps(p_recent integer DEFAULT 10000)
 RETURNS TABLE(event_domain text, event_stream text, caught_by text, event_types text[], recent_events bigint, last_event_at timestamp with time zone, hint text)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
#variable_conflict use_column
begin
  return query
  with subscriptions as materialized (
    select s.*, s.scope_subject_table is not null or s.scope_contains is not null or s.scope_path is not null as is_scoped
    from fn_event_subscriptions() s
    where s.problem is null
  ),
  types as materialized (
    select t.event_domain::text as event_domain, t.event_type::text as event_type, t.event_stream::text as event_stream
    from event_type_registry t
    where t.active
  ),
  judged as materialized (
    select t.event_domain, t.event_type, t.event_stream, case
        when bool_or(not s.is_scoped and not s.is_broadcast) then null
        when bool_or(s.is_broadcast) then 'broadcast'
        when bool_or(s.is_scoped) then 'scope'
        else 'nobody'
      end as caught_by
    from types t
    left join subscriptions s on not s.mute
      and (s.event_domain is null or s.event_domain = t.event_domain)
      and (s.event_type is null or s.event_type = t.event_type)
      and (s.event_stream is null or s.event_stream = t.event_stream)
      and not exists (
        select from subscriptions m
        where m.mute and not m.is_scoped and m.recipient_ref = s.recipient_ref
          and (m.event_domain is null or m.event_domain = t.event_domain)
          and (m.event_type is null or m.event_type = t.event_type)
          and (m.event_stream is null or m.event_stream = t.event_stream))
    group by t.event_domain, t.event_type, t.event_stream
  ),
  recent as materialized (
    select n.event_domain, n.event_type, count(*) as events, max(n.created_at) as last_at
    from (
      select o.event_domain::text as event_domain, o.event_type::text as event_type, o.created_at
      from event_outbox o order by o.created_at desc limit p_recent) n
    group by n.event_domain, n.event_type
  )
  select j.event_domain, j.event_stream, j.caught_by, array_agg(j.event_type order by j.event_type), coalesce(sum(r.events), 0)::bigint,
    max(r.last_at), case j.caught_by
      when 'nobody' then 'nobody is told: add a row of event_subscription that says who shall be'
      when 'broadcast' then 'only a row of all events catches it: say whom it is for'
      else 'only rows with a scope catch it: what is outside of them is for nobody'
    end
  from judged j
  left join recent r on r.event_domain = j.event_domain and r.event_type = j.event_type
  where j.caught_by is not null
  group by j.event_domain, j.event_stream, j.caught_by
  order by array_position(array['nobody', 'scope', 'broadcast'], j.caught_by), max(r.last_at) desc nulls last, j.event_domain, j.event_stream;
end
$function$

-- Takes subscriptions of an executor away: {removed}. Refused not_found.
CREATE OR REPLACE FUNCTION fn_subscription_remove(p_executor_name text, p_actor text, p_job_kind text DEFAULT NULL::text, p_event_domain text DEFAULT NULL::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
declare
  v_removed int;
begin
  if coalesce(btrim(p_actor), '') = '' then
    raise exception 'fn_subscription_remove needs an actor' using errcode = '22023';
  end if;
  delete from job_subscription s
  where s.executor_name = p_executor_name and (p_job_kind is null or s.job_kind = p_job_kind)
    and (p_event_domain is null or s.event_domain = p_event_domain);
  get diagnostics v_removed = row_count;
  if v_removed = 0 then
    return jsonb_build_object('refused', true, 'reason', 'not_found', 'executor_name', p_executor_name);
  end if;
  insert into dot_config_audit (key, old_value, new_value, actor, reason)
  values ('job_subscription.' || p_executor_name, format('%s %s', coalesce(p_job_kind, '*'), coalesce(p_event_domain, '*')), null, p_actor, 'removed');
  perform pg_notify('queue_control', '');
  return jsonb_build_object('refused', false, 'executor_name', p_executor_name, 'removed', v_removed);
end
$function$

-- Adds or changes what an executor may claim: {executor_name, job_kind, event_domain}.
CREATE OR REPLACE FUNCTION fn_subscription_set(p_executor_name text, p_actor text, p_job_kind text DEFAULT '*'::text, p_event_domain text DEFAULT '*'::text, p_priority_floor integer DEFAULT NULL::integer, p_share real DEFAULT 1, p_description text DEFAULT NULL::text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if coalesce(btrim(p_executor_name), '') = '' or coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_job_kind), '') = ''
    or coalesce(btrim(p_event_domain), '') = ''
  then
    raise exception 'fn_subscription_set needs an executor, an actor, a job kind and a domain; * stands for all' using errcode = '22023';
  elsif p_priority_floor not between 0 and 32767 then
    raise exception 'fn_subscription_set: p_priority_floor must be from 0 to 32767, not %', p_priority_floor using errcode = '22023';
  elsif p_share is null or not (p_share > 0 and p_share <= 1000000) then
    raise exception 'fn_subscription_set: p_share must be a number above 0, not %', coalesce(p_share::text, 'null') using errcode = '22023';
  end if;
  insert into job_subscription as s (executor_name, job_kind, event_domain, priority_floor, share, description, actor)
  values (p_executor_name, p_job_kind, p_event_domain, p_priority_floor, p_share, p_description, p_actor)
  on conflict (executor_name, job_kind, event_domain) do update
  set priority_floor = excluded.priority_floor, share = excluded.share, description = excluded.description, actor = excluded.actor,
      set_by = session_user, updated_at = clock_timestamp();
  perform pg_notify('queue_control', '');
  return jsonb_build_object('refused', false, 'executor_name', p_executor_name, 'job_kind', p_job_kind, 'event_domain', p_event_domain);
end
$function$

-- Pairs that resolve to nobody, others that are told of in part or only by broadcast, malformed rows; all 0 where recipients are not used.
CREATE OR REPLACE FUNCTION fn_subscription_standing(OUT in_use boolean, OUT nobody integer, OUT others integer, OUT malformed integer)
 RETURNS record
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
 SET jit TO 'off'
AS $function$
begin
  select count(*) filter (where s.problem is not null), count(*) > 0 into malformed, in_use from fn_event_subscriptions() s;
  in_use := in_use or exists (select from consumer_registry c where c.fan_out is not null);
  nobody := 0;
  others := 0;
  if in_use then
    select count(*) filter (where g.caught_by = 'nobody'), count(*) filter (where g.caught_by <> 'nobody')
    into nobody, others from fn_subscription_gaps(0) g;
  end if;
end
$function$

-- Fills a template from {"event": …, "payload": …}.
CREATE OR REPLACE FUNCTION fn_template_expand(p_template text, p_consumer_key text, p_event jsonb)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE
RETURN (SELECT CASE WHEN bool_or((t.value IS NULL)) THEN NULL::text ELSE string_agg(t.value, ''::text ORDER BY t.n) END AS string_agg FROM (SELECT m.n, CASE WHEN (m.part[1] IS NOT NULL) THEN m.part[1] WHEN (m.part[2] = 'consumer_key'::text) THEN fn_template_expand.p_consumer_key WHEN (m.part[2] = 'event_id'::text) THEN (fn_template_expand.p_event #>> '{event,id}'::text[]) WHEN (m.part[2] ~~ 'payload.%'::text) THEN ((fn_template_expand.p_event -> 'payload'::text) ->> substr(m.part[2], 9)) ELSE ((fn_template_expand.p_event -> 'event'::text) ->> m.part[2]) END AS value FROM regexp_matches(fn_template_expand.p_template, '([^{]+)|\{([^{}]*)\}'::text, 'g'::text) WITH ORDINALITY m(part, n)) t)

-- Fills a consumer's template from an event; null when a variable has no value.
CREATE OR REPLACE FUNCTION fn_template_render(p_template text, p_consumer_key text, p_event event_outbox)
 RETURNS text
 LANGUAGE sql
 STABLE
RETURN CASE WHEN (p_template IS NULL) THEN NULL::text WHEN (p_template = '{event_subject_ref}'::text) THEN (p_event).event_subject_ref WHEN (p_template = '{consumer_key}:{event_id}'::text) THEN ((p_consumer_key || ':'::text) || ((p_event).id)::text) WHEN (p_template = '{event_id}'::text) THEN ((p_event).id)::text WHEN (p_template = '{canonical_address}'::text) THEN (p_event).canonical_address WHEN (strpos(p_template, '{'::text) = 0) THEN p_template ELSE fn_template_expand(p_template, p_consumer_key, fn_event_document(p_event)) END

-- A W3C traceparent (00-<trace id>-<parent id>-<flags>), or null when it is none; what cannot be read is counted.
CREATE OR REPLACE FUNCTION fn_traceparent(p_value text)
 RETURNS text
 LANGUAGE sql
RETURN CASE WHEN (p_value IS NULL) THEN NULL::text WHEN ((p_value ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$'::text) AND (p_value !~ '^00-(0{32}|[0-9a-f]{32}-0{16})-'::text)) THEN p_value ELSE fn_traceparent_ignore() END

-- Counts a traceparent that cannot be read, and answers null. Internal.
CREATE OR REPLACE FUNCTION fn_traceparent_ignore()
 RETURNS text
 LANGUAGE sql
 SECURITY DEFINER
RETURN CASE WHEN (nextval('traceparent_ignored'::regclass) IS NULL) THEN ''::text ELSE NULL::text END

-- How many trace contexts could not be read so far.
CREATE OR REPLACE FUNCTION fn_traceparent_ignored()
 RETURNS bigint
 LANGUAGE sql
 SECURITY DEFINER
RETURN COALESCE(pg_sequence_last_value('traceparent_ignored'::regclass), (0)::bigint)

-- The trace context of a payload, else of this transaction (set local reveille.traceparent), or null.
CREATE OR REPLACE FUNCTION fn_traceparent_of(p_safe_payload jsonb)
 RETURNS text
 LANGUAGE sql
RETURN fn_traceparent(COALESCE((p_safe_payload ->> 'traceparent'::text), NULLIF(current_setting('reveille.traceparent'::text, true), ''::text)))

-- A time-ordered uuid, version 7, milliseconds first.
CREATE OR REPLACE FUNCTION fn_uuid_v7()
 RETURNS uuid
 LANGUAGE sql
RETURN (encode(set_bit(set_bit(OVERLAY(uuid_send(gen_random_uuid()) PLACING SUBSTRING(int8send(((date_part('epoch'::text, clock_timestamp()) * (1000)::double precision))::bigint) FROM 3) FROM 1 FOR 6), (52)::bigint, 1), (53)::bigint, 1), 'hex'::text))::uuid

-- The smallest uuid, version 7, of a moment.
CREATE OR REPLACE FUNCTION fn_uuid_v7_floor(p_at timestamp with time zone)
 RETURNS uuid
 LANGUAGE sql
 STABLE
RETURN ((lpad(to_hex(fn_epoch_ms(p_at)), 12, '0'::text) || repeat('0'::text, 20)))::uuid

-- The uuid of a series that begins at p_first: its last 32 bits are p_n; -1 is the last that there can be.
CREATE OR REPLACE FUNCTION fn_uuid_v7_nth(p_first uuid, p_n integer)
 RETURNS uuid
 LANGUAGE sql
 IMMUTABLE
RETURN (encode(OVERLAY(uuid_send(p_first) PLACING int4send(p_n) FROM 13), 'hex'::text))::uuid

-- NOTIFY to all who listen on a channel, or to the one named; only when they sleep and queue.notify.bridge_enabled is open.
CREATE OR REPLACE FUNCTION fn_wake(p_channel text, p_name text DEFAULT ''::text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  if fn_wake_mark(p_channel) <= fn_epoch_ms(clock_timestamp())
    and to_regclass(quote_ident('awake_' || p_channel)) is not null -- a domain that is not dispatched: nobody listens
    and coalesce((select c.value from dot_config c where c.key = 'queue.notify.bridge_enabled'), '') = 'true'
    and coalesce(current_setting('reveille.notify', true), '') <> 'off'
    and pg_notification_queue_usage() < 0.5::float8
  then
    perform pg_notify(p_channel, p_name);
  end if;
end
$function$

-- Drops the awake mark of a channel; transactions older than the answer may have read it before.
CREATE OR REPLACE FUNCTION fn_wake_arm(p_channel text)
 RETURNS xid8
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  perform setval(to_regclass(quote_ident('awake_' || p_channel)), 1);
  return pg_current_xact_id();
end
$function$

-- Sets the awake mark of a channel so many milliseconds ahead, at most a minute.
CREATE OR REPLACE FUNCTION fn_wake_awake(p_channel text, p_milliseconds integer)
 RETURNS void
 LANGUAGE sql
 SECURITY DEFINER
 SET search_path TO 'public', 'pg_temp'
AS $function$
  select setval(to_regclass(quote_ident('awake_' || p_channel)), fn_epoch_ms(clock_timestamp()) + least(greatest(p_milliseconds, 1), 60000));
$function$

-- Creates the sequence that holds a channel's awake mark.
CREATE OR REPLACE FUNCTION fn_wake_channel_add(p_channel text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $function$
begin
  execute format('create sequence if not exists %I minvalue 1', 'awake_' || p_channel);
end
$function$

-- Until when (ms since 1970) the sleepers of a channel need no NOTIFY; 1 when they do.
CREATE OR REPLACE FUNCTION fn_wake_mark(p_channel text)
 RETURNS bigint
 LANGUAGE sql
RETURN COALESCE(pg_sequence_last_value(to_regclass(quote_ident(('awake_'::text || p_channel)))), (1)::bigint)

-- Whether the session's role may start workflows. Internal.
CREATE OR REPLACE FUNCTION fn_workflow_may_start()
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'public', 'pg_temp'
AS $function$
  select coalesce(bool_or(has_function_privilege(session_user, p.oid, 'execute')), true)
  from pg_proc p
  join pg_namespace n on n.oid = p.pronamespace
  where n.nspname = current_schema() and p.proname = 'fn_mot_graph_emit'
$function$

-- Grants to those of the roles that exist. Called by migrations only.
CREATE OR REPLACE PROCEDURE pr_grant(IN p_what text, IN p_roles text[])
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $procedure$
declare
  v_role text;
begin
  foreach v_role in array p_roles loop
    if exists (select from pg_roles where rolname = v_role) then
      execute format('grant %s to %I', p_what, v_role);
    end if;
  end loop;
end
$procedure$

-- Raises 22023 when a pause is asked for without what it needs. Internal.
CREATE OR REPLACE PROCEDURE pr_pause_check(IN p_function text, IN p_scope text, IN p_name text, IN p_actor text, IN p_reason text)
 LANGUAGE plpgsql
 SET search_path TO 'public', 'pg_temp'
AS $procedure$
begin
  if coalesce(p_scope, '') <> all (array['all', 'domain', 'consumer', 'job_kind', 'executor']) then
    raise exception '%: p_scope must be all, domain, consumer, job_kind or executor, not %', p_function, quote_nullable(p_scope)
      using errcode = '22023';
  elsif p_scope <> 'all' and p_name = '' then
    raise exception '%: p_name is missing; name the % that is meant', p_function, p_scope using errcode = '22023';
  elsif coalesce(btrim(p_actor), '') = '' or coalesce(btrim(p_reason), '') = '' then
    raise exception '% needs an actor and a reason', p_function using errcode = '22023';
  end if;
end
$procedure$

grant EXECUTE on function fn_arrival_ranges(pg_snapshot,pg_snapshot,xid8,bigint) to public

grant EXECUTE on function fn_config(text,text) to reveille_dispatcher

grant EXECUTE on function fn_config(text,text) to reveille_executor

grant EXECUTE on function fn_config(text,text) to reveille_operator

grant EXECUTE on function fn_config(text,text) to reveille_reader

grant EXECUTE on function fn_config_first(text[],text) to public

grant EXECUTE on function fn_config_number(text,numeric) to reveille_dispatcher

grant EXECUTE on function fn_config_number(text,numeric) to reveille_executor

grant EXECUTE on function fn_config_number(text,numeric) to reveille_operator

grant EXECUTE on function fn_config_number(text,numeric) to reveille_reader

grant EXECUTE on function fn_consumer_backfill(text,timestamp with time zone,timestamp with time zone,integer,boolean,text,text,numeric,integer,jsonb,integer,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_consumer_backfill_check(timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_consumer_backfill_check(timestamp with time zone) to reveille_executor

grant EXECUTE on function fn_consumer_backfill_check(timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_consumer_backfill_check(timestamp with time zone) to reveille_reader

grant EXECUTE on function fn_consumer_backfill_move(uuid,text,text,text,boolean,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_consumer_backfill_step(uuid,integer,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_consumer_decision(consumer_registry,event_outbox,boolean,boolean) to public

grant EXECUTE on function fn_consumer_diff(jsonb,integer,integer) to reveille_operator

grant EXECUTE on function fn_consumer_dispatch(uuid) to reveille_dispatcher

grant EXECUTE on function fn_consumer_dispatch(uuid) to reveille_operator

grant EXECUTE on function fn_consumer_dispatch_batch(text,integer,text) to reveille_dispatcher

grant EXECUTE on function fn_consumer_dispatch_batch(text,integer,text) to reveille_operator

grant EXECUTE on function fn_consumer_filter_check(timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_consumer_filter_check(timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_consumer_filter_check(timestamp with time zone) to reveille_reader

grant EXECUTE on function fn_consumer_pilot(timestamp with time zone,integer,text,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_consumer_problem(consumer_registry) to public

grant EXECUTE on function fn_consumer_put(jsonb,text,text,boolean) to reveille_operator

grant EXECUTE on function fn_consumer_remove(text,text,text,text) to reveille_operator

grant EXECUTE on function fn_consumer_replay(text,timestamp with time zone,timestamp with time zone,integer,boolean,text,text,uuid[],numeric,integer,jsonb,integer,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_consumer_set_enabled(text,boolean,text,text) to reveille_operator

grant EXECUTE on function fn_consumer_verdict(consumer_registry,event_outbox) to public

grant EXECUTE on function fn_dead_letter_authority(text,boolean) to public

grant EXECUTE on function fn_dead_letter_authority_set(text,name,boolean,boolean,text,text) to reveille_operator

grant EXECUTE on function fn_dead_letter_legacy() to reveille_operator

grant EXECUTE on function fn_dead_letter_legacy() to reveille_reader

grant EXECUTE on function fn_dispatch_attach() to reveille_dispatcher

grant EXECUTE on function fn_dispatch_audit(text,timestamp with time zone,timestamp with time zone,boolean,integer,jsonb,timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_dispatch_audit(text,timestamp with time zone,timestamp with time zone,boolean,integer,jsonb,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_dispatch_audit_check(timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_dispatch_audit_check(timestamp with time zone) to reveille_executor

grant EXECUTE on function fn_dispatch_audit_check(timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_dispatch_audit_check(timestamp with time zone) to reveille_reader

grant EXECUTE on function fn_dispatch_audit_counts() to reveille_dispatcher

grant EXECUTE on function fn_dispatch_audit_counts() to reveille_executor

grant EXECUTE on function fn_dispatch_audit_counts() to reveille_operator

grant EXECUTE on function fn_dispatch_audit_counts() to reveille_reader

grant EXECUTE on function fn_dispatch_audit_pass(integer,timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_dispatch_audit_pass(integer,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_dispatch_poll(text[],text,text) to reveille_dispatcher

grant EXECUTE on function fn_dispatch_prune(interval,integer) to reveille_dispatcher

grant EXECUTE on function fn_dispatch_unread(text) to reveille_dispatcher

grant EXECUTE on function fn_dispatch_unread(text) to reveille_executor

grant EXECUTE on function fn_dispatch_unread(text) to reveille_operator

grant EXECUTE on function fn_dispatch_unread(text) to reveille_reader

grant EXECUTE on function fn_domain_pause(text) to public

grant EXECUTE on function fn_epoch_ms(timestamp with time zone) to public

grant EXECUTE on function fn_event_document(event_outbox) to public

grant EXECUTE on function fn_event_emit(text,text,text,jsonb,text,text,text,text,timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_event_emit(text,text,text,jsonb,text,text,text,text,timestamp with time zone) to reveille_executor

grant EXECUTE on function fn_event_emit(text,text,text,jsonb,text,text,text,text,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_event_explain(uuid) to reveille_dispatcher

grant EXECUTE on function fn_event_explain(uuid) to reveille_operator

grant EXECUTE on function fn_event_explain(uuid) to reveille_reader

grant EXECUTE on function fn_event_is_digestible(consumer_registry,event_outbox) to public

grant EXECUTE on function fn_event_recipients(uuid) to reveille_dispatcher

grant EXECUTE on function fn_event_recipients(uuid) to reveille_operator

grant EXECUTE on function fn_event_recipients(uuid) to reveille_reader

grant EXECUTE on function fn_event_subscriptions() to reveille_dispatcher

grant EXECUTE on function fn_event_subscriptions() to reveille_operator

grant EXECUTE on function fn_event_subscriptions() to reveille_reader

grant EXECUTE on function fn_event_sweep(interval,timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_event_verdict(event_outbox,text,text,text,timestamp with time zone,jsonpath) to public

grant EXECUTE on function fn_executor_is_ours(name) to public

grant EXECUTE on function fn_executor_is_passive(text) to public

grant EXECUTE on function fn_executor_rest(text,boolean) to reveille_executor

grant EXECUTE on function fn_executor_rest_key(text) to reveille_executor

grant EXECUTE on function fn_executor_wakes_for(text,text,text[]) to reveille_dispatcher

grant EXECUTE on function fn_executor_wakes_for(text,text,text[]) to reveille_executor

grant EXECUTE on function fn_executors_live(text) to reveille_dispatcher

grant EXECUTE on function fn_executors_live(text) to reveille_executor

grant EXECUTE on function fn_executors_live(text) to reveille_operator

grant EXECUTE on function fn_executors_live(text) to reveille_reader

grant EXECUTE on function fn_gate_is_open(text) to reveille_dispatcher

grant EXECUTE on function fn_gate_is_open(text) to reveille_executor

grant EXECUTE on function fn_gate_is_open(text) to reveille_operator

grant EXECUTE on function fn_gate_is_open(text) to reveille_reader

grant EXECUTE on function fn_gate_list() to reveille_dispatcher

grant EXECUTE on function fn_gate_list() to reveille_executor

grant EXECUTE on function fn_gate_list() to reveille_operator

grant EXECUTE on function fn_gate_list() to reveille_reader

grant EXECUTE on function fn_gate_set(text,text,text,text) to reveille_operator

grant EXECUTE on function fn_is_signal(jsonb) to public

grant EXECUTE on function fn_job_approve(uuid,text,text,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_job_archive(integer,boolean,uuid,timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_job_archive(integer,boolean,uuid,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_job_archive_drop(boolean,integer,timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_job_archive_drop(boolean,integer,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_job_backlog() to reveille_dispatcher

grant EXECUTE on function fn_job_backlog() to reveille_executor

grant EXECUTE on function fn_job_backlog() to reveille_operator

grant EXECUTE on function fn_job_backlog() to reveille_reader

grant EXECUTE on function fn_job_backoff(text,integer,text,jsonb) to public

grant EXECUTE on function fn_job_busy(uuid[],bigint[]) to reveille_executor

grant EXECUTE on function fn_job_cancel(uuid,text,text) to reveille_operator

grant EXECUTE on function fn_job_cancel_done(uuid,bigint) to reveille_executor

grant EXECUTE on function fn_job_cancellations(uuid[]) to reveille_executor

grant EXECUTE on function fn_job_claim(text,integer,integer,text[],text) to reveille_executor

grant EXECUTE on function fn_job_claim_mark(text,timestamp with time zone,interval,boolean,job_lane[],job_lane[],job_lane[]) to public

grant EXECUTE on function fn_job_claim_marks(text,timestamp with time zone) to public

grant EXECUTE on function fn_job_dead_letter_redrive(jsonb,text,integer,numeric,boolean) to reveille_operator

grant EXECUTE on function fn_job_dead_letter_replay(uuid,text,boolean,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_job_dead_letter_triage(uuid,text,text,text) to reveille_operator

grant EXECUTE on function fn_job_due(text) to reveille_dispatcher

grant EXECUTE on function fn_job_due(text) to reveille_executor

grant EXECUTE on function fn_job_due(text) to reveille_operator

grant EXECUTE on function fn_job_due(text) to reveille_reader

grant EXECUTE on function fn_job_effect_hash(uuid) to reveille_operator

grant EXECUTE on function fn_job_effect_hash(uuid) to reveille_reader

grant EXECUTE on function fn_job_enqueue(text,text,jsonb,text,text,text,text,text,integer,timestamp with time zone,uuid,text,integer,text,text) to reveille_executor

grant EXECUTE on function fn_job_enqueue(text,text,jsonb,text,text,text,text,text,integer,timestamp with time zone,uuid,text,integer,text,text) to reveille_operator

grant EXECUTE on function fn_job_enqueue_many(jsonb) to reveille_executor

grant EXECUTE on function fn_job_enqueue_many(jsonb) to reveille_operator

grant EXECUTE on function fn_job_explain(uuid,timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_job_explain(uuid,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_job_explain(uuid,timestamp with time zone) to reveille_reader

grant EXECUTE on function fn_job_fail_permanent(uuid,bigint,text,boolean) to reveille_executor

grant EXECUTE on function fn_job_fail_transient(uuid,bigint,text) to reveille_executor

grant EXECUTE on function fn_job_handler_of(uuid,bigint) to reveille_executor

grant EXECUTE on function fn_job_has_succeeded(uuid,bigint) to public

grant EXECUTE on function fn_job_key(text) to public

grant EXECUTE on function fn_job_key_limit(text) to public

grant EXECUTE on function fn_job_keys_are_limited() to public

grant EXECUTE on function fn_job_kind_check() to reveille_dispatcher

grant EXECUTE on function fn_job_kind_check() to reveille_operator

grant EXECUTE on function fn_job_kind_check() to reveille_reader

grant EXECUTE on function fn_job_kind_warning(text) to reveille_operator

grant EXECUTE on function fn_job_kind_warning(text) to reveille_reader

grant EXECUTE on function fn_job_kinds(text[]) to reveille_executor

grant EXECUTE on function fn_job_lane_verdict(text,text,text,text,integer) to reveille_dispatcher

grant EXECUTE on function fn_job_lane_verdict(text,text,text,text,integer) to reveille_executor

grant EXECUTE on function fn_job_lane_verdict(text,text,text,text,integer) to reveille_operator

grant EXECUTE on function fn_job_lane_verdict(text,text,text,text,integer) to reveille_reader

grant EXECUTE on function fn_job_lease_lost(uuid,bigint) to reveille_executor

grant EXECUTE on function fn_job_lease_reaper(integer,text,boolean,integer,timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_job_lease_reaper(integer,text,boolean,integer,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_job_max_attempts(text,text) to public

grant EXECUTE on function fn_job_moment(timestamp with time zone) to public

grant EXECUTE on function fn_job_move_is_legal(text,text) to public

grant EXECUTE on function fn_job_order_sweep() to reveille_dispatcher

grant EXECUTE on function fn_job_pass_on(text,text,text[],boolean) to reveille_executor

grant EXECUTE on function fn_job_policy(text,text,jsonb) to reveille_dispatcher

grant EXECUTE on function fn_job_policy(text,text,jsonb) to reveille_executor

grant EXECUTE on function fn_job_policy(text,text,jsonb) to reveille_operator

grant EXECUTE on function fn_job_policy(text,text,jsonb) to reveille_reader

grant EXECUTE on function fn_job_policy_keys(text,text,text) to public

grant EXECUTE on function fn_job_rate_prune(integer) to reveille_dispatcher

grant EXECUTE on function fn_job_reject(uuid,text,text) to reveille_operator

grant EXECUTE on function fn_job_release(uuid,bigint) to reveille_executor

grant EXECUTE on function fn_job_release_unknown(text,interval,uuid[],text) to reveille_executor

grant EXECUTE on function fn_job_renew(uuid,bigint,integer) to reveille_executor

grant EXECUTE on function fn_job_run(uuid,bigint,text) to reveille_executor

grant EXECUTE on function fn_job_snooze(uuid,bigint,timestamp with time zone) to reveille_executor

grant EXECUTE on function fn_job_start(uuid,bigint) to reveille_executor

grant EXECUTE on function fn_job_succeed(uuid,bigint,text) to reveille_executor

grant EXECUTE on function fn_job_succeed_many(uuid[],bigint[],text[]) to reveille_executor

grant EXECUTE on function fn_job_succeed_mixed(uuid[],bigint[],text[]) to public

grant EXECUTE on function fn_job_take_back(uuid,text,text) to reveille_operator

grant EXECUTE on function fn_job_workflow_cancel(uuid,text,text) to reveille_operator

grant EXECUTE on function fn_job_workflow_check(integer,timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_job_workflow_check(integer,timestamp with time zone) to reveille_executor

grant EXECUTE on function fn_job_workflow_check(integer,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_job_workflow_check(integer,timestamp with time zone) to reveille_reader

grant EXECUTE on function fn_job_workflow_counts(timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_job_workflow_counts(timestamp with time zone) to reveille_executor

grant EXECUTE on function fn_job_workflow_counts(timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_job_workflow_counts(timestamp with time zone) to reveille_reader

grant EXECUTE on function fn_job_workflow_refresh(integer,timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_job_workflow_refresh(integer,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_job_workflow_retention(integer,boolean,timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_job_workflow_retention(integer,boolean,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_job_workflow_retry(uuid,text,text,boolean) to reveille_operator

grant EXECUTE on function fn_job_workflow_steps(uuid) to reveille_operator

grant EXECUTE on function fn_job_workflow_steps(uuid) to reveille_reader

grant EXECUTE on function fn_lease_is_ours(text) to public

grant EXECUTE on function fn_legacy_workers() to reveille_dispatcher

grant EXECUTE on function fn_legacy_workers() to reveille_executor

grant EXECUTE on function fn_legacy_workers() to reveille_operator

grant EXECUTE on function fn_legacy_workers() to reveille_reader

grant EXECUTE on function fn_maintenance_archive(jsonb) to reveille_executor

grant EXECUTE on function fn_maintenance_audit(jsonb) to reveille_executor

grant EXECUTE on function fn_maintenance_order_sweep(jsonb) to reveille_executor

grant EXECUTE on function fn_maintenance_prune(jsonb) to reveille_executor

grant EXECUTE on function fn_maintenance_reap(jsonb) to reveille_executor

grant EXECUTE on function fn_maintenance_refresh(jsonb) to reveille_executor

grant EXECUTE on function fn_maintenance_stale_check(jsonb) to reveille_executor

grant EXECUTE on function fn_mot_graph_emit(text,jsonb,text,text,boolean,uuid,text) to reveille_dispatcher

grant EXECUTE on function fn_mot_graph_emit(text,jsonb,text,text,boolean,uuid,text) to reveille_operator

grant EXECUTE on function fn_mot_graph_errors(text,jsonb,jsonb,jsonb) to reveille_operator

grant EXECUTE on function fn_mot_graph_errors(text,jsonb,jsonb,jsonb) to reveille_reader

grant EXECUTE on function fn_mot_template_put(jsonb,text,boolean) to reveille_operator

grant EXECUTE on function fn_pause(text,text,text,text) to reveille_operator

grant EXECUTE on function fn_pause_names(text) to reveille_operator

grant EXECUTE on function fn_queue_heartbeat_leave(text,text) to reveille_dispatcher

grant EXECUTE on function fn_queue_heartbeat_leave(text,text) to reveille_executor

grant EXECUTE on function fn_queue_heartbeat_register(text,text,text[],integer,integer,jsonb,text,boolean) to reveille_dispatcher

grant EXECUTE on function fn_queue_heartbeat_register(text,text,text[],integer,integer,jsonb,text,boolean) to reveille_executor

grant EXECUTE on function fn_queue_heartbeat_tick(text,text,text,uuid,text,jsonb,text) to reveille_dispatcher

grant EXECUTE on function fn_queue_heartbeat_tick(text,text,text,uuid,text,jsonb,text) to reveille_executor

grant EXECUTE on function fn_queue_heartbeat_unregister(text,text) to reveille_dispatcher

grant EXECUTE on function fn_queue_heartbeat_unregister(text,text) to reveille_executor

grant EXECUTE on function fn_queue_stale_check(integer,timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_queue_stale_check(integer,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_rate_parts(text) to public

grant EXECUTE on function fn_reason_counts(timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_reason_counts(timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_reason_counts(timestamp with time zone) to reveille_reader

grant EXECUTE on function fn_recipient_is_sound(text) to public

grant EXECUTE on function fn_recipient_template(text,text,jsonb) to public

grant EXECUTE on function fn_resume(text,text,text,text) to reveille_operator

grant EXECUTE on function fn_route_agree(jsonb,boolean,integer) to reveille_operator

grant EXECUTE on function fn_route_beyond(jsonb,jsonb,integer) to reveille_operator

grant EXECUTE on function fn_route_beyond(jsonb,jsonb,integer) to reveille_reader

grant EXECUTE on function fn_route_capture() to reveille_operator

grant EXECUTE on function fn_route_check(timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_route_check(timestamp with time zone) to reveille_executor

grant EXECUTE on function fn_route_check(timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_route_check(timestamp with time zone) to reveille_reader

grant EXECUTE on function fn_route_consent(jsonb,boolean,integer) to reveille_operator

grant EXECUTE on function fn_route_consent(jsonb,boolean,integer) to reveille_reader

grant EXECUTE on function fn_route_consumer_dry_run(jsonb,timestamp with time zone,integer) to reveille_dispatcher

grant EXECUTE on function fn_route_consumer_dry_run(jsonb,timestamp with time zone,integer) to reveille_operator

grant EXECUTE on function fn_route_consumer_dry_run(text,timestamp with time zone,integer) to reveille_dispatcher

grant EXECUTE on function fn_route_consumer_dry_run(text,timestamp with time zone,integer) to reveille_operator

grant EXECUTE on function fn_route_consumer_dry_run(text,timestamp with time zone,integer) to reveille_reader

grant EXECUTE on function fn_route_counts(timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_route_counts(timestamp with time zone) to reveille_executor

grant EXECUTE on function fn_route_counts(timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_route_counts(timestamp with time zone) to reveille_reader

grant EXECUTE on function fn_route_denied(jsonb,oid) to reveille_operator

grant EXECUTE on function fn_route_denied(jsonb,oid) to reveille_reader

grant EXECUTE on function fn_route_disable(text,text,text) to reveille_operator

grant EXECUTE on function fn_route_enable(text,text,text,boolean,boolean) to reveille_operator

grant EXECUTE on function fn_route_findings(jsonb) to reveille_operator

grant EXECUTE on function fn_route_findings(jsonb) to reveille_reader

grant EXECUTE on function fn_route_is_own(oid) to reveille_operator

grant EXECUTE on function fn_route_is_own(oid) to reveille_reader

grant EXECUTE on function fn_route_is_tried(text) to reveille_operator

grant EXECUTE on function fn_route_is_tried(text) to reveille_reader

grant EXECUTE on function fn_route_key(text,jsonb) to public

grant EXECUTE on function fn_route_key_columns(oid) to reveille_operator

grant EXECUTE on function fn_route_key_columns(oid) to reveille_reader

grant EXECUTE on function fn_route_list(text) to reveille_operator

grant EXECUTE on function fn_route_list(text) to reveille_reader

grant EXECUTE on function fn_route_preview(text,integer) to reveille_operator

grant EXECUTE on function fn_route_preview(text,integer) to reveille_reader

grant EXECUTE on function fn_route_prune(integer,timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_route_prune(integer,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_route_put(jsonb,text) to reveille_operator

grant EXECUTE on function fn_route_relation(jsonb) to reveille_operator

grant EXECUTE on function fn_route_relation(jsonb) to reveille_reader

grant EXECUTE on function fn_route_remove(text,text,text,boolean) to reveille_operator

grant EXECUTE on function fn_route_rows(jsonb,oid,text,text) to reveille_operator

grant EXECUTE on function fn_route_rows(jsonb,oid,text,text) to reveille_reader

grant EXECUTE on function fn_route_said(text) to reveille_operator

grant EXECUTE on function fn_route_said(text) to reveille_reader

grant EXECUTE on function fn_route_seen(text) to reveille_operator

grant EXECUTE on function fn_route_seen(text) to reveille_reader

grant EXECUTE on function fn_route_shape(oid,text[]) to reveille_operator

grant EXECUTE on function fn_route_shape(oid,text[]) to reveille_reader

grant EXECUTE on function fn_route_switch(text,boolean,boolean,text,text,boolean) to reveille_operator

grant EXECUTE on function fn_route_template(text,jsonb) to reveille_operator

grant EXECUTE on function fn_route_template(text,jsonb) to reveille_reader

grant EXECUTE on function fn_route_told(text,text[]) to reveille_operator

grant EXECUTE on function fn_route_told(text,text[]) to reveille_reader

grant EXECUTE on function fn_route_triggers(text) to reveille_operator

grant EXECUTE on function fn_route_triggers(text) to reveille_reader

grant EXECUTE on function fn_route_value(text,text,oid) to reveille_operator

grant EXECUTE on function fn_route_value(text,text,oid) to reveille_reader

grant EXECUTE on function fn_route_write(jsonb,text) to reveille_operator

grant EXECUTE on function fn_schedule_check(timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_schedule_check(timestamp with time zone) to reveille_executor

grant EXECUTE on function fn_schedule_check(timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_schedule_check(timestamp with time zone) to reveille_reader

grant EXECUTE on function fn_schedule_due(integer,timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_schedule_enable(text,boolean,text,text,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_schedule_held(text) to reveille_dispatcher

grant EXECUTE on function fn_schedule_held(text) to reveille_executor

grant EXECUTE on function fn_schedule_held(text) to reveille_operator

grant EXECUTE on function fn_schedule_held(text) to reveille_reader

grant EXECUTE on function fn_schedule_put(text,text,text,text,text,interval,timestamp with time zone,text,integer,integer,jsonb,text,text,text,text,text,interval,timestamp with time zone,timestamp with time zone,text,timestamp with time zone) to reveille_operator

grant EXECUTE on function fn_schedule_remove(text,text,text) to reveille_operator

grant EXECUTE on function fn_schedule_tick(text,timestamp with time zone,timestamp with time zone[],timestamp with time zone,bigint,timestamp with time zone) to reveille_dispatcher

grant EXECUTE on function fn_schedule_trouble(text,timestamp with time zone,text) to reveille_dispatcher

grant EXECUTE on function fn_subscription_gaps(integer) to reveille_dispatcher

grant EXECUTE on function fn_subscription_gaps(integer) to reveille_operator

grant EXECUTE on function fn_subscription_gaps(integer) to reveille_reader

grant EXECUTE on function fn_subscription_remove(text,text,text,text) to reveille_operator

grant EXECUTE on function fn_subscription_set(text,text,text,text,integer,real,text) to reveille_operator

grant EXECUTE on function fn_subscription_standing() to reveille_dispatcher

grant EXECUTE on function fn_subscription_standing() to reveille_executor

grant EXECUTE on function fn_subscription_standing() to reveille_operator

grant EXECUTE on function fn_subscription_standing() to reveille_reader

grant EXECUTE on function fn_template_expand(text,text,jsonb) to public

grant EXECUTE on function fn_template_render(text,text,event_outbox) to public

grant EXECUTE on function fn_traceparent(text) to reveille_dispatcher

grant EXECUTE on function fn_traceparent(text) to reveille_executor

grant EXECUTE on function fn_traceparent(text) to reveille_operator

grant EXECUTE on function fn_traceparent_ignore() to reveille_dispatcher

grant EXECUTE on function fn_traceparent_ignore() to reveille_executor

grant EXECUTE on function fn_traceparent_ignore() to reveille_operator

grant EXECUTE on function fn_traceparent_ignored() to reveille_dispatcher

grant EXECUTE on function fn_traceparent_ignored() to reveille_executor

grant EXECUTE on function fn_traceparent_ignored() to reveille_operator

grant EXECUTE on function fn_traceparent_ignored() to reveille_reader

grant EXECUTE on function fn_traceparent_of(jsonb) to reveille_dispatcher

grant EXECUTE on function fn_traceparent_of(jsonb) to reveille_executor

grant EXECUTE on function fn_traceparent_of(jsonb) to reveille_operator

grant EXECUTE on function fn_uuid_v7() to public

grant EXECUTE on function fn_uuid_v7_floor(timestamp with time zone) to public

grant EXECUTE on function fn_uuid_v7_nth(uuid,integer) to public

grant EXECUTE on function fn_wake_arm(text) to reveille_dispatcher

grant EXECUTE on function fn_wake_arm(text) to reveille_executor

grant EXECUTE on function fn_wake_awake(text,integer) to reveille_dispatcher

grant EXECUTE on function fn_wake_awake(text,integer) to reveille_executor

grant EXECUTE on function fn_wake_mark(text) to public

grant SELECT on table audit_consumer to reveille_operator

grant SELECT on table audit_consumer to reveille_reader

grant SELECT on table audit_domain to reveille_operator

grant SELECT on table audit_domain to reveille_reader

grant SELECT on table audit_mark to reveille_operator

grant SELECT on table audit_mark to reveille_reader

grant SELECT on table consumer_backfill to reveille_operator

grant SELECT on table consumer_backfill to reveille_reader

grant SELECT on table consumer_registry to reveille_operator

grant SELECT on table consumer_registry to reveille_reader

grant SELECT on table dead_letter_authority to reveille_operator

grant SELECT on table dead_letter_authority to reveille_reader

grant SELECT on table dispatch_cursor to reveille_dispatcher

grant SELECT on table dispatch_cursor to reveille_operator

grant SELECT on table dispatch_cursor to reveille_reader

grant SELECT on table dispatch_error to reveille_operator

grant SELECT on table dispatch_error to reveille_reader

grant SELECT on table dispatch_gap to reveille_operator

grant SELECT on table dispatch_gap to reveille_reader

grant SELECT on table dispatch_pass to reveille_operator

grant SELECT on table dispatch_pass to reveille_reader

grant SELECT on table dispatch_sweep to reveille_operator

grant SELECT on table dispatch_sweep to reveille_reader

grant SELECT on table dot_config to reveille_operator

grant SELECT on table dot_config to reveille_reader

grant SELECT on table dot_config_audit to reveille_operator

grant SELECT on table dot_config_audit to reveille_reader

grant SELECT on table event_arrival to reveille_operator

grant SELECT on table event_arrival to reveille_reader

grant SELECT on table event_outbox to reveille_operator

grant SELECT on table event_outbox to reveille_reader

grant SELECT on table event_route to reveille_operator

grant SELECT on table event_route to reveille_reader

grant SELECT on table event_route_count to reveille_operator

grant SELECT on table event_route_count to reveille_reader

grant SELECT on table event_route_fault to reveille_operator

grant SELECT on table event_route_fault to reveille_reader

grant SELECT on table event_route_key to reveille_operator

grant SELECT on table event_route_key to reveille_reader

grant SELECT on table event_route_sample to reveille_operator

grant SELECT on table event_route_sample to reveille_reader

grant SELECT on table event_subscription to reveille_operator

grant SELECT on table event_subscription to reveille_reader

grant SELECT on table event_type_registry to reveille_operator

grant SELECT on table event_type_registry to reveille_reader

grant SELECT on table host_constraint to reveille_operator

grant SELECT on table host_constraint to reveille_reader

grant SELECT on table iu_sql_event_route to reveille_operator

grant SELECT on table iu_sql_event_route to reveille_reader

grant SELECT on table job_approval to reveille_operator

grant SELECT on table job_approval to reveille_reader

grant SELECT on table job_archive to reveille_operator

grant SELECT on table job_archive to reveille_reader

grant SELECT on table job_archive_bound to reveille_operator

grant SELECT on table job_archive_bound to reveille_reader

grant SELECT on table job_archive_forgotten to reveille_operator

grant SELECT on table job_archive_forgotten to reveille_reader

grant SELECT on table job_archive_key to reveille_operator

grant SELECT on table job_archive_key to reveille_reader

grant SELECT on table job_attempt to reveille_operator

grant SELECT on table job_attempt to reveille_reader

grant SELECT on table job_dead_letter to reveille_operator

grant SELECT on table job_dead_letter to reveille_reader

grant SELECT on table job_dependency to reveille_operator

grant SELECT on table job_dependency to reveille_reader

grant SELECT on table job_gate to reveille_operator

grant SELECT on table job_gate to reveille_reader

grant SELECT on table job_handler to reveille_operator

grant SELECT on table job_handler to reveille_reader

grant SELECT on table job_queue to reveille_operator

grant SELECT on table job_queue to reveille_reader

grant SELECT on table job_rate to reveille_operator

grant SELECT on table job_rate to reveille_reader

grant SELECT on table job_schedule to reveille_operator

grant SELECT on table job_schedule to reveille_reader

grant SELECT on table job_subscription to reveille_operator

grant SELECT on table job_subscription to reveille_reader

grant SELECT on table job_workflow to reveille_operator

grant SELECT on table job_workflow to reveille_reader

grant SELECT on table mot_template to reveille_operator

grant SELECT on table mot_template to reveille_reader

grant SELECT on table queue_pause to reveille_operator

grant SELECT on table queue_pause to reveille_reader

grant SELECT on table reveille_migration to public

grant SELECT on table v_consumer_backfill to reveille_dispatcher

grant SELECT on table v_consumer_backfill to reveille_executor

grant SELECT on table v_consumer_backfill to reveille_operator

grant SELECT on table v_consumer_backfill to reveille_reader

grant SELECT on table v_consumer_lag to reveille_dispatcher

grant SELECT on table v_consumer_lag to reveille_executor

grant SELECT on table v_consumer_lag to reveille_operator

grant SELECT on table v_consumer_lag to reveille_reader

grant SELECT on table v_dead_letter_all to reveille_operator

grant SELECT on table v_dead_letter_all to reveille_reader

grant SELECT on table v_job_queue_backlog to reveille_dispatcher

grant SELECT on table v_job_queue_backlog to reveille_operator

grant SELECT on table v_job_queue_backlog to reveille_reader

grant SELECT on table v_job_queue_dead_letter_open to reveille_operator

grant SELECT on table v_job_queue_dead_letter_open to reveille_reader

grant SELECT on table v_job_queue_in_progress to reveille_operator

grant SELECT on table v_job_queue_in_progress to reveille_reader

grant SELECT on table v_job_schedule to reveille_dispatcher

grant SELECT on table v_job_schedule to reveille_executor

grant SELECT on table v_job_schedule to reveille_operator

grant SELECT on table v_job_schedule to reveille_reader

grant SELECT on table v_job_workflow_health to reveille_dispatcher

grant SELECT on table v_job_workflow_health to reveille_operator

grant SELECT on table v_job_workflow_health to reveille_reader

grant SELECT on table v_ordering_blocked to reveille_dispatcher

grant SELECT on table v_ordering_blocked to reveille_operator

grant SELECT on table v_ordering_blocked to reveille_reader

grant SELECT on table v_queue_health to reveille_dispatcher

grant SELECT on table v_queue_health to reveille_executor

grant SELECT on table v_queue_health to reveille_operator

grant SELECT on table v_queue_health to reveille_reader

grant SELECT on table v_reason_counts to reveille_dispatcher

grant SELECT on table v_reason_counts to reveille_operator

grant SELECT on table v_reason_counts to reveille_reader

grant SELECT on table v_subscription_gaps to reveille_dispatcher

grant SELECT on table v_subscription_gaps to reveille_operator

grant SELECT on table v_subscription_gaps to reveille_reader

event type system.queue_dispatch_gap alert delayed warning

event type system.queue_worker_recovered alert delayed info

event type system.queue_worker_silent alert delayed critical

