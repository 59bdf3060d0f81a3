-- The pilot host's functions: the operator's aliases fn_iu_op_*, what they stand on, and the handlers
-- by which Reveille's worker calls them unchanged. Answers are jsonb: ok, refused and, when refused, a reason.
-- Functions return early on a refusal; they raise only on wrong arguments and broken invariants.

---------------------------------------------------------------------------------------------- ground

-- A missing key is a closed gate.
create or replace function iu_core.fn_iu_gate_open(p_config_key text) returns boolean
language sql stable set search_path from current as $$
  select coalesce((select config_value = 'true' from tac_birth_gate_config
                    where config_key = p_config_key), false)
$$;
comment on function iu_core.fn_iu_gate_open(text) is 'Pilot host: whether a gate of the host is open';

create or replace function iu_core.fn_iu_refuse(p_reason text, p_detail jsonb default '{}') returns jsonb
language sql immutable set search_path from current as $$
  select p_detail || jsonb_build_object('ok', false, 'refused', true, 'reason', p_reason)
$$;
comment on function iu_core.fn_iu_refuse(text, jsonb) is 'Pilot host: the answer that says no, and why';

create or replace function iu_core.fn_iu_accept(p_detail jsonb, p_replay boolean default false) returns jsonb
language sql immutable set search_path from current as $$
  select p_detail || jsonb_build_object('ok', true, 'refused', false, 'idempotent_replay', p_replay)
$$;
comment on function iu_core.fn_iu_accept(jsonb, boolean) is
  'Pilot host: the answer that says yes; idempotent_replay when it had been done before';

-- The fact and the change it tells of commit together. References and counts only, never text. The collection of a
-- document is the folder that it came from.
create or replace function iu_core.fn_iu_staging_emit(
  p_event_type text, p_staging_record_id uuid, p_actor text, p_safe_payload jsonb
) returns void
language plpgsql set search_path from current as $$
begin
  perform fn_event_emit(
    p_event_domain => 'staging',
    p_event_type => p_event_type,
    p_event_subject_ref => p_staging_record_id::text,
    p_safe_payload => p_safe_payload || coalesce((
      select jsonb_strip_nulls(jsonb_build_object(
          'workflow_ref', r.workflow_ref, 'collection', substring(r.source_ref from '^(.+)/[^/]*$')))
        from iu_core.iu_staging_record r
       where r.staging_record_id = p_staging_record_id), '{}'),
    p_event_subject_table => 'iu_core.iu_staging_record',
    p_actor_ref => p_actor,
    p_correlation_id => p_staging_record_id::text);
end
$$;
comment on function iu_core.fn_iu_staging_emit(text, uuid, text, jsonb) is
  'Pilot host: emits a staging event about one record; the record is also the correlation id';

-- The seven states and their legal moves. An illegal one raises, for the owner of the table too.
create or replace function iu_core.fn_iu_staging_guard() returns trigger
language plpgsql set search_path from current as $$
declare
  v_legal constant jsonb := '{
    "": ["pending", "pending_review"],
    "pending": ["pending_review", "expired"],
    "pending_review": ["approved", "rejected", "expired"],
    "approved": ["consumed", "rejected", "expired"],
    "consumed": ["cleaned"],
    "rejected": ["cleaned"],
    "expired": ["cleaned"],
    "cleaned": []}';
  v_from text := case tg_op when 'INSERT' then '' else old.lifecycle_status end;
begin
  new.updated_at := clock_timestamp();
  if v_from <> new.lifecycle_status and not (v_legal -> v_from) ? new.lifecycle_status then
    raise exception 'illegal staging transition %->% (legal=%)',
        coalesce(nullif(v_from, ''), '(new)'), new.lifecycle_status, v_legal -> v_from
      using errcode = 'check_violation', table = tg_table_name, schema = tg_table_schema;
  end if;
  return new;
end
$$;
comment on function iu_core.fn_iu_staging_guard() is 'Pilot host: refuses illegal moves of lifecycle_status';

create or replace trigger trg_iu_staging_guard before insert or update on iu_core.iu_staging_record
  for each row execute function iu_core.fn_iu_staging_guard();

------------------------------------------------------------------------------------------------ MARK

-- Where the pieces of a text begin, by its own headings and paragraphs.
--
-- A heading begins a piece (Markdown `#` and underlined, numbered titles, chapters and articles that stand
-- alone), and so does a paragraph; the paragraph below a heading stays with it, fenced code is not looked
-- into, and paragraphs are merged up to a grain (200 bytes, or 1/2000 of the text), so that no text makes
-- more than some 4,000 pieces. Blank lines belong to the piece before them. Lines are split once and
-- positions are running sums, so the time grows with the text and not with its square; a text of more
-- than 150,000 lines is divided by size alone, at ends of lines.
create or replace function iu_core.fn_iu_text_pieces(p_text text)
returns table (piece_no integer, byte_start bigint, byte_len bigint, heading_path text[])
language plpgsql immutable set search_path from current set work_mem = '64MB' set jit = off as $$
declare
  v_max_lines constant integer := 150000;
  v_bytes constant bytea := convert_to(p_text, getdatabaseencoding());
  v_total constant bigint := length(v_bytes);
  v_eol constant text := case when position(E'\n' in p_text) = 0 then E'\r' else E'\n' end;
  v_lines constant bigint := v_total - octet_length(replace(p_text, v_eol, ''));
  v_grain constant bigint := greatest(200, v_total / 2000);
  v_heading_grain constant bigint := greatest(1, v_total / 2000);
begin
  if v_total = 0 then
    return;
  elsif v_lines > v_max_lines then
    return query
    with cell as (
      select c.at + position(v_eol::bytea in substring(v_bytes from (c.at + 1)::int for v_grain::int)) as after_eol, c.at
        from generate_series(v_grain, v_total - 1, v_grain) as c(at)
    ), start as (
      select 0::bigint as at
      union
      select cell.after_eol from cell where cell.after_eol > cell.at and cell.after_eol < v_total
    )
    select (row_number() over (order by s.at))::int, s.at, lead(s.at, 1, v_total) over (order by s.at) - s.at, '{}'::text[]
      from start s;
    return;
  end if;

  return query
  with line as (
    select l.n, octet_length(l.line) + 1 as len, rtrim(l.line, E' \t\r') as bare
      from unnest(string_to_array(p_text, v_eol)) with ordinality as l(line, n)
  ), placed as (
    -- each line's position, its neighbours, and whether it stands inside fenced code
    select l.n, l.bare,
           sum(l.len) over w - l.len as at,
           coalesce(lag(l.bare) over w = '', true) as after_blank,
           lead(l.bare, 1, '') over w as below,
           (count(*) filter (where left(l.bare, 3) in ('```', '~~~')) over w) % 2
             = (left(l.bare, 3) not in ('```', '~~~'))::int as fenced
      from line l
    window w as (order by l.n rows unbounded preceding)
  ), block as (
    -- lines at which a piece could begin; a paragraph has no level
    select p.n, p.at::bigint, p.bare, p.after_blank,
           case
             when left(p.bare, 1) = '#' then length(substring(p.bare from '^(#{1,6})(?:[ \t]|$)'))
             when not p.after_blank or length(p.bare) > 80 then null
             when p.below ~ '^={2,}$' then 1
             when p.below ~ '^-{2,}$' then 2
             when p.below <> '' then null
             when p.bare ~ '^[0-9]+(\.[0-9]+)*[.)]?[ \t]+\S.*[^.,;:!?]$'
               then least(6, 2 + length(regexp_replace(substring(p.bare from '^[0-9]+(?:\.[0-9]+)*'), '[0-9]', '', 'g')))
             when p.bare ~* '^(part|book|volume|phần|quyển)[ \t]+([0-9]+|[ivxlcdm]+)\y' then 1
             when p.bare ~* '^(chapter|act|chương)[ \t]+([0-9]+|[ivxlcdm]+)\y' then 2
             when p.bare ~* '^(section|article|scene|điều|Điều|mục)[ \t]+([0-9]+|[ivxlcdm]+)\y' then 3
             when p.bare ~ '^[IVXLCDM]+\.?$' then 2
           end as level
      from placed p
     where p.bare <> '' and not p.fenced and (p.after_blank or left(p.bare, 1) = '#')
       and not (left(p.bare, 1) in ('-', '*', '_', '=') and p.bare ~ '^(-{3,}|\*{3,}|_{3,}|={3,})$') -- a rule ends what is above
  ), candidate as (
    select b.n, b.at, b.bare, b.level, max(b.at) filter (where b.level is not null) over w as heading_at
      from block b
     where b.after_blank or b.level is not null
    window w as (order by b.n rows unbounded preceding)
  ), neighboured as (
    select c.n, c.at, c.bare, c.level,
           lag(c.at) over (order by c.n) as previous_at,
           lag(c.heading_at) over (order by c.n) as heading_at
      from candidate c
  ), judged as (
    select c.*,
           case
             when c.previous_at is null then true
             when c.level is not null then
               c.heading_at is null or c.at / v_heading_grain > c.heading_at / v_heading_grain
             else
               (c.at - coalesce(c.heading_at, 0)) / v_grain > (c.previous_at - coalesce(c.heading_at, 0)) / v_grain
           end as begins
      from neighboured c
  ), numbered as materialized (
    select j.n, case when j.previous_at is null then 0 else j.at end as at, j.bare, j.level, j.begins,
           (count(*) filter (where j.begins) over (order by j.n rows unbounded preceding))::int as no
      from judged j
  ), piece as (
    select s.no, s.at, lead(s.at, 1, v_total) over (order by s.no) - s.at as len, s.n, s.level
      from numbered s
     where s.begins
  ), latest as (
    -- for each piece and level: the last heading at or above its first line
    select p.no, depth.level,
           greatest(
             max(h.n) over (partition by depth.level order by p.no rows between unbounded preceding and 1 preceding),
             case when p.level = depth.level then p.n end) as n
      from piece p
     cross join generate_series(1, 6) as depth(level)
      left join (select x.no, x.level, max(x.n) as n from numbered x where x.level is not null group by 1, 2) h
        on h.no = p.no and h.level = depth.level
  ), open as (
    -- a heading is closed by a later one of a higher rank
    select l.no, l.level, l.n,
           l.n > coalesce(max(l.n) over (partition by l.no order by l.level rows between unbounded preceding and 1 preceding), 0) as stands
      from latest l
  ), path as (
    select o.no, array_agg(left(regexp_replace(x.bare, '^[#\s]+|[#\s]+$', '', 'g'), 120) order by o.level) as titles
      from open o
      join numbered x on x.n = o.n
     where o.stands
     group by o.no
  )
  select p.no, p.at, p.len, coalesce(path.titles, '{}')
    from piece p
    left join path on path.no = p.no
   order by p.no;
  if not found then
    return query select 1, 0::bigint, v_total, '{}'::text[];
  end if;
end
$$;
comment on function iu_core.fn_iu_text_pieces(text) is
  'Pilot host: contiguous pieces of a text by its headings and paragraphs; together they are the text, byte for byte';

-- What is wrong with pieces of a text, or null: they must follow each other without gap or overlap from its
-- first byte to its last, begin at characters, and have the hashes they claim. Asked at MARK, verify and CUT.
create or replace function iu_core.fn_iu_pieces_problem(p_bytes bytea, p_pieces jsonb) returns text
language sql immutable set search_path from current as $$
  with piece as (
    select x.no, x.byte_start, x.byte_len, x.content_hash,
           coalesce(sum(x.byte_len) over (order by x.no rows between unbounded preceding and 1 preceding), 0) as expected
      from (select e.no, (e.piece ->> 'byte_start')::bigint as byte_start, (e.piece ->> 'byte_len')::bigint as byte_len,
                   e.piece ->> 'content_hash' as content_hash
              from jsonb_array_elements(p_pieces) with ordinality as e(piece, no)) x
  )
  select coalesce(
    (select case
              when p.byte_len is null or p.byte_len <= 0 then format('piece %s has no length', p.no)
              when p.byte_start is distinct from p.expected
                then format('piece %s begins at byte %s, expected %s', p.no, p.byte_start, p.expected)
              when p.byte_start + p.byte_len > length(p_bytes) then format('piece %s reaches beyond the text', p.no)
              when getdatabaseencoding() = 'UTF8' and get_byte(p_bytes, p.byte_start::int) & 192 = 128
                then format('piece %s begins inside a character', p.no)
              else format('piece %s is not what its hash says', p.no)
            end
       from piece p
      where p.byte_len is null or p.byte_len <= 0
         or p.byte_start is distinct from p.expected
         or case when p.byte_start + p.byte_len > length(p_bytes) then true
                 when getdatabaseencoding() = 'UTF8' and get_byte(p_bytes, p.byte_start::int) & 192 = 128 then true
                 else p.content_hash is distinct from
                   encode(sha256(substring(p_bytes from p.byte_start::int + 1 for p.byte_len::int)), 'hex') end
      order by p.no
      limit 1),
    (select format('the pieces hold %s of %s bytes', coalesce(sum(p.byte_len), 0), length(p_bytes))
       from piece p
     having coalesce(sum(p.byte_len), 0) <> length(p_bytes)))
$$;
comment on function iu_core.fn_iu_pieces_problem(bytea, jsonb) is
  'Pilot host: the first way in which pieces fail to be the text, or null';

-- The digest binds an approval to what was seen: source and pieces.
create or replace function iu_core.fn_iu_manifest_digest(p_source_hash text, p_source_bytes bigint, p_pieces jsonb) returns text
language sql immutable set search_path from current as $$
  select md5(p_source_hash || p_source_bytes || p_pieces::text)
$$;
comment on function iu_core.fn_iu_manifest_digest(text, bigint, jsonb) is
  'Pilot host: md5 of source hash, source size and pieces';

-- The cut manifest of a text: pieces with number, place, hash and headings. Pieces given by the operator
-- need byte_len each (heading_path, byte_start and content_hash may stand there too); without them the text
-- is divided by its own headings and paragraphs.
create or replace function fn_iu_mark_create_manifest(p_source_text text, p_pieces jsonb default null) returns jsonb
language sql immutable set search_path from current as $$
  with piece as (
    select t.piece_no, t.byte_start, t.byte_len, to_jsonb(t.heading_path) as heading_path, null::text as content_hash
      from iu_core.fn_iu_text_pieces(p_source_text) t
     where p_pieces is null
    union all
    select e.no::int,
           coalesce((e.piece ->> 'byte_start')::bigint,
             sum((e.piece ->> 'byte_len')::bigint) over (order by e.no) - (e.piece ->> 'byte_len')::bigint),
           (e.piece ->> 'byte_len')::bigint,
           coalesce(e.piece -> 'heading_path', '[]'),
           e.piece ->> 'content_hash'
      from jsonb_array_elements(p_pieces) with ordinality as e(piece, no)
  )
  select coalesce(jsonb_agg(jsonb_build_object(
           'piece_no', p.piece_no,
           'byte_start', p.byte_start,
           'byte_len', p.byte_len,
           'heading_path', p.heading_path,
           'content_hash', coalesce(p.content_hash,
             encode(sha256(substring(
               (select convert_to(p_source_text, getdatabaseencoding())) -- once, and not carried from row to row
               from greatest(p.byte_start, 0)::int + 1 for greatest(p.byte_len, 0)::int)), 'hex')))
         order by p.piece_no), '[]')
    from piece p
$$;
comment on function fn_iu_mark_create_manifest(text, jsonb) is
  'Pilot host: the pieces of a text with place, hash and headings; given ones are completed, not trusted';

-- MARK: stages a text with its cut manifest and leaves it pending_review. The same key, or the same text under
-- the same reference, is staged once.
create or replace function fn_iu_op_mark_file(
  p_source_text text, p_source_ref text, p_pieces jsonb default null, p_actor text default session_user,
  p_source_kind text default 'file', p_idempotency_key text default null, p_mark_report_md text default null,
  p_workflow_ref text default null
) returns jsonb
language plpgsql security definer set search_path from current as $$
declare
  v_bytes constant bytea := convert_to(p_source_text, getdatabaseencoding());
  v_hash constant text := encode(sha256(v_bytes), 'hex');
  v_key constant text := coalesce(p_idempotency_key, 'mark:' || p_source_ref || ':' || v_hash);
  v_pieces jsonb;
  v_problem text;
  v_record iu_core.iu_staging_record;
begin
  if p_source_text is null or coalesce(p_source_ref, '') = '' or coalesce(p_actor, '') = '' then
    raise exception 'p_source_text, p_source_ref and p_actor are needed' using errcode = 'invalid_parameter_value';
  elsif not iu_core.fn_iu_gate_open('iu_core.staging_writes_enabled') then
    return iu_core.fn_iu_refuse('gate_closed:iu_core.staging_writes_enabled');
  elsif length(v_bytes) > 10 * 1024 * 1024 then
    return iu_core.fn_iu_refuse('payload_too_large',
      jsonb_build_object('source_bytes', length(v_bytes), 'limit_bytes', 10 * 1024 * 1024));
  end if;

  select * into v_record from iu_core.iu_staging_record r where r.idempotency_key = v_key;
  if not found then
    v_pieces := fn_iu_mark_create_manifest(p_source_text, p_pieces);
    v_problem := iu_core.fn_iu_pieces_problem(v_bytes, v_pieces);
    if v_problem is not null then
      return iu_core.fn_iu_refuse('pieces_do_not_cover', jsonb_build_object('problem', v_problem));
    end if;
    insert into iu_core.iu_staging_record
      (staging_kind, lifecycle_status, owner_actor, source_ref, source_kind, source_hash, source_bytes,
       piece_count, manifest_digest, idempotency_key, workflow_ref)
    values
      ('mark_manifest', 'pending_review', p_actor, p_source_ref, p_source_kind, v_hash, length(v_bytes),
       jsonb_array_length(v_pieces), iu_core.fn_iu_manifest_digest(v_hash, length(v_bytes), v_pieces), v_key, p_workflow_ref)
    on conflict (idempotency_key) do nothing
    returning * into v_record;
    if found then
      insert into iu_core.iu_staging_payload
        (staging_record_id, part_name, payload_kind, payload_json, payload_text, byte_len, content_hash)
      select v_record.staging_record_id, part.name, part.kind, part.json, part.text, octet_length(part.bytes),
             encode(sha256(part.bytes), 'hex')
        from (values
          ('source', 'text', null::jsonb, p_source_text, v_bytes),
          ('cut_manifest', 'json', v_pieces, null, convert_to(v_pieces::text, getdatabaseencoding())),
          ('mark_report', 'text', null, p_mark_report_md, convert_to(p_mark_report_md, getdatabaseencoding()))
        ) as part(name, kind, json, text, bytes)
       where part.bytes is not null;
      perform iu_core.fn_iu_staging_emit('record_created', v_record.staging_record_id, p_actor,
        jsonb_build_object('piece_count', v_record.piece_count, 'source_bytes', v_record.source_bytes));
      return iu_core.fn_iu_accept(iu_core.fn_iu_record_brief(v_record));
    end if;
    -- another session marked it between our look and our insert
    select * into strict v_record from iu_core.iu_staging_record r where r.idempotency_key = v_key;
  end if;

  if v_record.source_hash <> v_hash then
    return iu_core.fn_iu_refuse('idempotency_conflict', iu_core.fn_iu_record_brief(v_record));
  end if;
  return iu_core.fn_iu_accept(iu_core.fn_iu_record_brief(v_record), p_replay => true);
end
$$;
comment on function fn_iu_op_mark_file(text, text, jsonb, text, text, text, text, text) is
  'Pilot host, MARK: stages a text and its cut manifest as pending_review';

-- Verify and APPROVE (or reject): looks at the coverage again, then decides. The decision and its event are one.
create or replace function fn_iu_op_verify_mark(
  p_staging_record_id uuid, p_approve boolean, p_approval_doc_id text default null,
  p_approver text default session_user, p_actor text default session_user
) returns jsonb
language plpgsql security definer set search_path from current as $$
declare
  v_to constant text := case when p_approve then 'approved' else 'rejected' end;
  v_record iu_core.iu_staging_record;
  v_problem text;
begin
  if p_approve is null then
    raise exception 'p_approve is needed: true or false' using errcode = 'invalid_parameter_value';
  elsif not iu_core.fn_iu_gate_open('iu_core.staging_writes_enabled') then
    return iu_core.fn_iu_refuse('gate_closed:iu_core.staging_writes_enabled');
  end if;
  select * into v_record from iu_core.iu_staging_record r where r.staging_record_id = p_staging_record_id for update;
  if not found then
    return iu_core.fn_iu_refuse('not_found', jsonb_build_object('staging_record_id', p_staging_record_id));
  elsif p_approve and v_record.approved_at is not null and v_record.rejected_at is null
      or not p_approve and v_record.rejected_at is not null then
    return iu_core.fn_iu_accept(iu_core.fn_iu_record_brief(v_record), p_replay => true);
  elsif v_record.lifecycle_status <> 'pending_review' and not (v_record.lifecycle_status = 'approved' and not p_approve) then
    return iu_core.fn_iu_refuse('invalid_transition',
      iu_core.fn_iu_record_brief(v_record) || jsonb_build_object('from', v_record.lifecycle_status, 'to', v_to));
  elsif p_approve and coalesce(btrim(p_approval_doc_id), '') = '' then
    return iu_core.fn_iu_refuse('approval_doc_missing', iu_core.fn_iu_record_brief(v_record));
  end if;

  if p_approve then
    v_problem := iu_core.fn_iu_staged_problem(v_record);
    if v_problem is not null then
      return iu_core.fn_iu_refuse('mark_not_verified',
        iu_core.fn_iu_record_brief(v_record) || jsonb_build_object('problem', v_problem));
    end if;
    update iu_core.iu_staging_record r
       set lifecycle_status = v_to, approved_at = clock_timestamp(), approval_doc_id = p_approval_doc_id, approved_by = p_approver
     where r.staging_record_id = p_staging_record_id
    returning * into v_record;
  else
    update iu_core.iu_staging_record r
       set lifecycle_status = v_to, rejected_at = clock_timestamp()
     where r.staging_record_id = p_staging_record_id
    returning * into v_record;
  end if;
  perform iu_core.fn_iu_staging_emit('record_' || v_to, p_staging_record_id, p_actor,
    jsonb_build_object('approver', p_approver, 'approval_doc_id', p_approval_doc_id, 'manifest_digest', v_record.manifest_digest));
  return iu_core.fn_iu_accept(iu_core.fn_iu_record_brief(v_record));
end
$$;
comment on function fn_iu_op_verify_mark(uuid, boolean, text, text, text) is
  'Pilot host, APPROVE: verifies a marked record and approves or rejects it; emits staging.record_approved or record_rejected';

-- What answers say of a record.
create or replace function iu_core.fn_iu_record_brief(p_record iu_core.iu_staging_record) returns jsonb
language sql immutable set search_path from current as $$
  select jsonb_build_object(
    'staging_record_id', p_record.staging_record_id,
    'lifecycle_status', p_record.lifecycle_status,
    'source_ref', p_record.source_ref,
    'source_bytes', p_record.source_bytes,
    'piece_count', p_record.piece_count,
    'manifest_digest', p_record.manifest_digest)
$$;
comment on function iu_core.fn_iu_record_brief(iu_core.iu_staging_record) is 'Pilot host: a staging record without any text of it';

-- The body of one staged part, or null after clean-up.
create or replace function iu_core.fn_iu_staged_source(p_staging_record_id uuid) returns bytea
language sql stable set search_path from current as $$
  select convert_to(p.payload_text, getdatabaseencoding())
    from iu_core.iu_staging_payload p
   where p.staging_record_id = p_staging_record_id and p.part_name = 'source' and p.part_no = 1
$$;
comment on function iu_core.fn_iu_staged_source(uuid) is 'Pilot host: the staged text as bytes';

create or replace function iu_core.fn_iu_staged_pieces(p_staging_record_id uuid) returns jsonb
language sql stable set search_path from current as $$
  select p.payload_json
    from iu_core.iu_staging_payload p
   where p.staging_record_id = p_staging_record_id and p.part_name = 'cut_manifest' and p.part_no = 1
$$;
comment on function iu_core.fn_iu_staged_pieces(uuid) is 'Pilot host: the pieces of the staged cut manifest';

-- Whether what is staged still is what was marked: source, manifest, coverage.
create or replace function iu_core.fn_iu_staged_problem(p_record iu_core.iu_staging_record) returns text
language plpgsql stable set search_path from current as $$
declare
  v_bytes constant bytea := iu_core.fn_iu_staged_source(p_record.staging_record_id);
  v_pieces constant jsonb := iu_core.fn_iu_staged_pieces(p_record.staging_record_id);
begin
  return case
    when v_bytes is null then 'the staged text is gone'
    when v_pieces is null then 'the cut manifest is gone'
    when encode(sha256(v_bytes), 'hex') <> p_record.source_hash then 'the staged text is not the one that was marked'
    when iu_core.fn_iu_manifest_digest(p_record.source_hash, p_record.source_bytes, v_pieces) <> p_record.manifest_digest
      then 'the cut manifest is not the one that was marked'
    else iu_core.fn_iu_pieces_problem(v_bytes, v_pieces)
  end;
end
$$;
comment on function iu_core.fn_iu_staged_problem(iu_core.iu_staging_record) is
  'Pilot host: how staged text and manifest differ from what was marked, or null';

------------------------------------------------------------------------------------------------- CUT

-- The gates G1 to G7 in order; the first closed one, or null. A dry run asks the same.
create or replace function iu_core.fn_iu_cut_gate(p_record iu_core.iu_staging_record) returns text
language sql stable set search_path from current as $$
  select case
    when not iu_core.fn_iu_gate_open('iu_core.staging_writes_enabled') then 'gate_closed:iu_core.staging_writes_enabled'
    when p_record.staging_kind <> 'mark_manifest' then 'G1_not_a_mark_manifest'
    when p_record.lifecycle_status <> 'approved' then 'G2_not_approved'
    when p_record.approved_at is null or p_record.approval_doc_id is null then 'G3_approval_missing'
    when p_record.expires_at <= clock_timestamp() then 'G4_expired'
    when not p_record.vector_excluded or not iu_core.fn_iu_gate_open('iu_core.no_vector_staging_excluded') then 'G5_vector_not_excluded'
    when exists (select from iu_core.iu_cut_run c where c.staging_record_id = p_record.staging_record_id) then 'G6_cut_before'
    when iu_core.fn_iu_staged_problem(p_record) is not null then 'G7_not_what_was_approved'
  end
$$;
comment on function iu_core.fn_iu_cut_gate(iu_core.iu_staging_record) is 'Pilot host: the first of the gates G1 to G7 that is closed, or null';

-- CUT: turns an approved record into pieces, once. With p_apply => false it says what it would do.
create or replace function fn_iu_op_cut(
  p_staging_record_id uuid, p_apply boolean default false, p_actor text default session_user,
  p_open_composer boolean default false
) returns jsonb
language plpgsql security definer set search_path from current as $$
declare
  v_record iu_core.iu_staging_record;
  v_run iu_core.iu_cut_run;
  v_gate text;
begin
  select * into v_record from iu_core.iu_staging_record r where r.staging_record_id = p_staging_record_id for update;
  if not found then
    return iu_core.fn_iu_refuse('not_found', jsonb_build_object('staging_record_id', p_staging_record_id));
  end if;
  select * into v_run from iu_core.iu_cut_run c where c.staging_record_id = p_staging_record_id;
  if found then
    return iu_core.fn_iu_accept(
      iu_core.fn_iu_record_brief(v_record) || jsonb_build_object('run_id', v_run.run_id, 'applied', p_apply), p_replay => true);
  end if;
  v_gate := iu_core.fn_iu_cut_gate(v_record);
  if v_gate is not null then
    return iu_core.fn_iu_refuse(v_gate, iu_core.fn_iu_record_brief(v_record)
      || jsonb_strip_nulls(jsonb_build_object('problem',
           case when v_gate like 'G7%' then iu_core.fn_iu_staged_problem(v_record) end)));
  elsif not p_apply then
    return iu_core.fn_iu_accept(iu_core.fn_iu_record_brief(v_record) || jsonb_build_object('run_id', null, 'applied', false));
  end if;

  v_run := fn_iu_cut_from_manifest(v_record, p_actor, p_open_composer);
  update iu_core.iu_staging_record r
     set lifecycle_status = 'consumed', consumed_at = clock_timestamp()
   where r.staging_record_id = p_staging_record_id
  returning * into v_record;
  perform iu_core.fn_iu_staging_emit('record_consumed', p_staging_record_id, p_actor,
    jsonb_build_object('run_id', v_run.run_id, 'piece_count', v_run.piece_count, 'byte_count', v_run.byte_count));
  return iu_core.fn_iu_accept(
    iu_core.fn_iu_record_brief(v_record) || jsonb_build_object('run_id', v_run.run_id, 'applied', true));
end
$$;
comment on function fn_iu_op_cut(uuid, boolean, text, boolean) is
  'Pilot host, CUT: writes the pieces of an approved record; emits staging.record_consumed with the run id';

-- Writes the run and its pieces; the caller has asked the gates.
create or replace function fn_iu_cut_from_manifest(
  p_record iu_core.iu_staging_record, p_actor text, p_open_composer boolean
) returns iu_core.iu_cut_run
language plpgsql set search_path from current as $$
declare
  v_bytes constant bytea := iu_core.fn_iu_staged_source(p_record.staging_record_id);
  v_run iu_core.iu_cut_run;
begin
  insert into iu_core.iu_cut_run
    (staging_record_id, manifest_digest, source_hash, piece_count, byte_count, open_composer, actor)
  values
    (p_record.staging_record_id, p_record.manifest_digest, p_record.source_hash, p_record.piece_count,
     p_record.source_bytes, p_open_composer, p_actor)
  returning * into v_run;
  insert into iu_core.iu_piece
    (run_id, piece_no, staging_record_id, heading_path, byte_start, byte_len, content_hash, body)
  select v_run.run_id, p.piece_no, p_record.staging_record_id, p.heading_path, p.byte_start, p.byte_len, p.content_hash,
         convert_from(substring(v_bytes from p.byte_start::int + 1 for p.byte_len::int), getdatabaseencoding())
    from jsonb_to_recordset(iu_core.fn_iu_staged_pieces(p_record.staging_record_id))
      as p(piece_no integer, byte_start bigint, byte_len bigint, heading_path text[], content_hash text);
  return v_run;
end
$$;
comment on function fn_iu_cut_from_manifest(iu_core.iu_staging_record, text, boolean) is
  'Pilot host: writes one cut run and its pieces from the staged manifest';

-- VERIFY CUT on three axes: A count, B coverage byte for byte against the staged text, C hashes. The verdict is
-- kept with the run; the same question later gets the same answer.
create or replace function fn_iu_op_verify_cut(p_run_id uuid, p_actor text default session_user) returns jsonb
language plpgsql security definer set search_path from current as $$
declare
  v_run iu_core.iu_cut_run;
  v_axes jsonb;
begin
  select * into v_run from iu_core.iu_cut_run c where c.run_id = p_run_id for update;
  if not found then
    return iu_core.fn_iu_refuse('not_found', jsonb_build_object('run_id', p_run_id));
  elsif v_run.verdict is null then
    v_axes := fn_iu_verify_cut_result(v_run);
    update iu_core.iu_cut_run c
       set verdict = case when v_axes @> '{"A": true, "B": true, "C": true}' then 'verified' else 'failed' end,
           verdict_axes = v_axes, verified_at = clock_timestamp(), verified_by = p_actor
     where c.run_id = p_run_id
    returning * into v_run;
  end if;
  return (case v_run.verdict
            when 'verified' then iu_core.fn_iu_accept('{}', p_replay => v_axes is null)
            else iu_core.fn_iu_refuse('cut_not_verified')
          end)
    || jsonb_build_object(
      'run_id', v_run.run_id, 'staging_record_id', v_run.staging_record_id, 'verdict', v_run.verdict,
      'axes', v_run.verdict_axes, 'piece_count', v_run.piece_count, 'byte_count', v_run.byte_count);
end
$$;
comment on function fn_iu_op_verify_cut(uuid, text) is
  'Pilot host, VERIFY CUT: count, coverage byte for byte and hashes of the pieces of one run; keeps the verdict';

create or replace function fn_iu_verify_cut_result(p_run iu_core.iu_cut_run) returns jsonb
language plpgsql stable set search_path from current as $$
declare
  v_count bigint;
  v_hashes boolean;
  v_whole bytea;
begin
  select count(*),
         coalesce(bool_and(encode(sha256(x.bytes), 'hex') = x.content_hash and length(x.bytes) = x.byte_len), true),
         coalesce(string_agg(x.bytes, ''::bytea order by x.piece_no), ''::bytea)
    into v_count, v_hashes, v_whole
    from (select p.piece_no, p.content_hash, p.byte_len, convert_to(p.body, getdatabaseencoding()) as bytes
            from iu_core.iu_piece p
           where p.run_id = p_run.run_id) x;
  return jsonb_build_object(
    'A', v_count = p_run.piece_count,
    'B', v_whole = iu_core.fn_iu_staged_source(p_run.staging_record_id),
    'C', v_hashes and encode(sha256(v_whole), 'hex') = p_run.source_hash);
end
$$;
comment on function fn_iu_verify_cut_result(iu_core.iu_cut_run) is
  'Pilot host: axes A (count), B (coverage byte for byte), C (hashes) of one cut run';

-------------------------------------------------------------------------------------------- CLEAN-UP

-- CLEAN-UP in three passes: expire what nobody decided on in time; remove the bodies of what is done with
-- (consumed and verified, rejected or expired) and older than p_older_than_days; archive what has been clean
-- for 15 days more. With p_apply => false the same passes only count. One record, or all.
create or replace function fn_iu_staging_cleanup(
  p_older_than_days integer default 15, p_apply boolean default false, p_actor text default session_user,
  p_staging_record_id uuid default null
) returns jsonb
language plpgsql security definer set search_path from current as $$
declare
  v_before timestamptz;
  v_expire uuid[];
  v_clean uuid[];
  v_archive uuid[];
  v_bytes bigint;
  v_id uuid;
begin
  if p_older_than_days is null or p_older_than_days < 0 then
    raise exception 'p_older_than_days is %, expected 0 or more', p_older_than_days using errcode = 'invalid_parameter_value';
  elsif p_apply and not iu_core.fn_iu_gate_open('iu_core.retention_enabled') then
    return iu_core.fn_iu_refuse('gate_closed:iu_core.retention_enabled');
  end if;
  v_before := clock_timestamp() - make_interval(days => p_older_than_days);

  -- one lock order for all passes
  select array_agg(x.id) filter (where x.pass = 'expire'), array_agg(x.id) filter (where x.pass = 'clean'),
         array_agg(x.id) filter (where x.pass = 'archive')
    into v_expire, v_clean, v_archive
    from (
      select r.staging_record_id as id,
             case
               when r.lifecycle_status in ('pending', 'pending_review', 'approved') then 'expire'
               when r.lifecycle_status = 'cleaned' then 'archive'
               else 'clean'
             end as pass
        from iu_core.iu_staging_record r
       where (p_staging_record_id is null or r.staging_record_id = p_staging_record_id)
         and case
               when r.lifecycle_status in ('pending', 'pending_review', 'approved') then r.expires_at <= clock_timestamp()
               when r.lifecycle_status = 'consumed' then r.consumed_at <= v_before
                 and exists (select from iu_core.iu_cut_run c
                              where c.staging_record_id = r.staging_record_id and c.verdict = 'verified')
               when r.lifecycle_status = 'rejected' then r.rejected_at <= v_before
               when r.lifecycle_status = 'expired' then r.expires_at <= v_before
               when r.lifecycle_status = 'cleaned' then r.archived_at is null and r.cleaned_at <= v_before - interval '15 days'
             end
       order by r.staging_record_id
         for update of r
    ) x;
  select coalesce(sum(p.byte_len), 0) into v_bytes
    from iu_core.iu_staging_payload p where p.staging_record_id = any (v_clean);

  if p_apply then
    update iu_core.iu_staging_record r set lifecycle_status = 'expired' where r.staging_record_id = any (v_expire);
    update iu_core.iu_staging_record r set archived_at = clock_timestamp() where r.staging_record_id = any (v_archive);
    delete from iu_core.iu_staging_payload p where p.staging_record_id = any (v_clean);
    foreach v_id in array coalesce(v_clean, '{}') loop
      update iu_core.iu_staging_record r set lifecycle_status = 'cleaned', cleaned_at = clock_timestamp()
       where r.staging_record_id = v_id;
      perform iu_core.fn_iu_staging_emit('record_cleaned', v_id, p_actor, jsonb_build_object('older_than_days', p_older_than_days));
    end loop;
  end if;
  return iu_core.fn_iu_accept(jsonb_build_object(
    'applied', p_apply, 'older_than_days', p_older_than_days,
    'expire', coalesce(cardinality(v_expire), 0), 'clean', coalesce(cardinality(v_clean), 0),
    'archive', coalesce(cardinality(v_archive), 0), 'bytes', v_bytes));
end
$$;
comment on function fn_iu_staging_cleanup(integer, boolean, text, uuid) is
  'Pilot host, CLEAN-UP: expire, clean, archive; only counts unless p_apply; emits staging.record_cleaned per record';

create or replace function fn_iu_op_cleanup_dry_run(p_older_than_days integer default 15, p_actor text default session_user) returns jsonb
language sql security definer set search_path from current as $$
  select fn_iu_staging_cleanup(p_older_than_days, false, p_actor)
$$;
comment on function fn_iu_op_cleanup_dry_run(integer, text) is 'Pilot host: what clean-up would do; changes nothing';

-------------------------------------------------------------------------------------------- handlers

-- What a worker calls for a job: (p_job jsonb) returns jsonb. The job carries references; the effect, its event
-- and the job's completion are one transaction. A refusal of the operator''s function becomes an error here,
-- so that the job is kept and not counted as done: a closed gate (55000) can open, anything else (22023) cannot mend itself.
create or replace function iu_core.fn_iu_job_result(p_what text, p_answer jsonb) returns jsonb
language plpgsql set search_path from current as $$
begin
  if (p_answer ->> 'refused')::boolean then
    raise exception '% refused: %', p_what, p_answer ->> 'reason'
      using errcode = case when p_answer ->> 'reason' ~ '^gate_closed:|_gate_closed$' then '55000' else '22023' end,
            detail = p_answer::text;
  end if;
  return p_answer || jsonb_build_object('result_ref', coalesce(
    p_answer ->> 'run_id', p_answer ->> 'staging_record_id', p_answer ->> 'instance_collection_id'));
end
$$;
comment on function iu_core.fn_iu_job_result(text, jsonb) is 'Pilot host: passes an answer on with its result_ref, or raises when it is a refusal';

create or replace function iu_core.fn_iu_job_actor(p_job jsonb) returns text
language sql immutable set search_path from current as $$
  select coalesce(p_job ->> 'lease_owner', p_job ->> 'actor', 'reveille')
$$;
comment on function iu_core.fn_iu_job_actor(jsonb) is 'Pilot host: who acts for a job, its executor if it has one';

-- Which record a job is about: the one that its workflow has marked, else its source_ref.
create or replace function iu_core.fn_iu_job_record(p_job jsonb) returns uuid
language sql stable set search_path from current as $$
  select coalesce(
    (select r.staging_record_id from iu_core.iu_staging_record r where r.workflow_ref = p_job ->> 'workflow_id'),
    (p_job ->> 'source_ref')::uuid)
$$;
comment on function iu_core.fn_iu_job_record(jsonb) is 'Pilot host: the staging record that a job is about';

-- The first step of the pipeline: the document as it is now, so that what happens to the original meanwhile does not matter.
create or replace function fn_iu_job_copy_to_staging(p_job jsonb) returns jsonb
language plpgsql security definer set search_path from current as $$
declare
  v_copy iu_core.iu_source_copy;
begin
  insert into iu_core.iu_source_copy (workflow_ref, source_ref, body)
  select p_job ->> 'workflow_id', s.source_ref, s.body from iu_core.iu_source s where s.source_ref = p_job ->> 'source_ref'
  on conflict (workflow_ref) do nothing;
  select * into v_copy from iu_core.iu_source_copy c where c.workflow_ref = p_job ->> 'workflow_id';
  if not found then
    raise exception 'there is no document %', p_job ->> 'source_ref' using errcode = '22023';
  end if;
  return jsonb_build_object('result_ref', 'sha256:' || encode(sha256(convert_to(v_copy.body, 'UTF8')), 'hex'));
end
$$;
comment on function fn_iu_job_copy_to_staging(jsonb) is 'Pilot host: handler of cut.copy_to_staging; source_ref is the document';

create or replace function fn_iu_job_mark(p_job jsonb) returns jsonb
language sql security definer set search_path from current as $$
  select iu_core.fn_iu_job_result('fn_iu_op_mark_file', fn_iu_op_mark_file(
    p_source_text => c.body, p_source_ref => c.source_ref, p_actor => iu_core.fn_iu_job_actor(p_job),
    p_idempotency_key => 'workflow:' || c.workflow_ref, p_workflow_ref => c.workflow_ref))
  from iu_core.iu_source_copy c where c.workflow_ref = p_job ->> 'workflow_id'
$$;
comment on function fn_iu_job_mark(jsonb) is 'Pilot host: handler of cut.mark; marks the copy of its workflow';

-- What an approver has to know: the pieces cover the document. The digest is the result, so that it is what is approved.
create or replace function fn_iu_job_verify_mark(p_job jsonb) returns jsonb
language plpgsql security definer set search_path from current as $$
declare
  v_record iu_core.iu_staging_record;
  v_problem text;
begin
  select * into strict v_record from iu_core.iu_staging_record r where r.staging_record_id = iu_core.fn_iu_job_record(p_job);
  v_problem := iu_core.fn_iu_staged_problem(v_record);
  if v_problem is not null then
    raise exception 'the marks do not hold: %', v_problem using errcode = '22023';
  end if;
  return iu_core.fn_iu_record_brief(v_record) || jsonb_build_object('result_ref', v_record.manifest_digest);
end
$$;
comment on function fn_iu_job_verify_mark(jsonb) is 'Pilot host: handler of cut.verify_mark; looks whether the pieces cover the document';

-- In a workflow the gate before this step has approved the marks; that approval is the record's.
create or replace function fn_iu_job_cut(p_job jsonb) returns jsonb
language plpgsql security definer set search_path from current as $$
declare
  v_record constant uuid := iu_core.fn_iu_job_record(p_job);
  v_approval job_approval;
begin
  select a.* into v_approval from job_approval a
  where a.workflow_id = (p_job ->> 'workflow_id')::uuid and a.decision = 'approved'
  order by a.approval_id desc limit 1;
  if found then
    perform iu_core.fn_iu_job_result('fn_iu_op_verify_mark', fn_iu_op_verify_mark(
      v_record, true, 'approval:' || v_approval.approval_id, v_approval.actor, iu_core.fn_iu_job_actor(p_job)));
  end if;
  return iu_core.fn_iu_job_result('fn_iu_op_cut', fn_iu_op_cut(
    p_staging_record_id => v_record, p_apply => true, p_actor => iu_core.fn_iu_job_actor(p_job)));
end
$$;
comment on function fn_iu_job_cut(jsonb) is 'Pilot host: handler of cut.cut; source_ref is the staging record, or it is that of the workflow';

-- Verified pieces make the staged body superfluous: clean-up is enqueued for the day its retention ends.
create or replace function fn_iu_job_verify_cut(p_job jsonb) returns jsonb
language plpgsql security definer set search_path from current as $$
declare
  v_answer constant jsonb := iu_core.fn_iu_job_result('fn_iu_op_verify_cut',
    fn_iu_op_verify_cut(coalesce(
      (select c.run_id from iu_core.iu_cut_run c where p_job ->> 'workflow_id' is not null and c.staging_record_id = iu_core.fn_iu_job_record(p_job)),
      (p_job ->> 'target_ref')::uuid), iu_core.fn_iu_job_actor(p_job)));
  v_record constant text := v_answer ->> 'staging_record_id';
  v_next jsonb;
begin
  if p_job ->> 'workflow_id' is not null then
    return v_answer; -- the next step of the workflow cleans up
  end if;
  v_next := fn_job_enqueue(
    p_job_kind => 'cut.cleanup',
    p_actor => iu_core.fn_iu_job_actor(p_job),
    p_source_ref => v_record,
    p_target_ref => v_answer ->> 'run_id',
    p_idempotency_key => 'cut.cleanup:' || v_record,
    p_scheduled_at => clock_timestamp() + make_interval(days => iu_core.fn_iu_retention_days()),
    p_correlation_id => p_job ->> 'correlation_id');
  if (v_next ->> 'refused')::boolean then
    raise exception 'clean-up of % was not enqueued: %', v_record, v_next ->> 'reason' using errcode = '55000';
  end if;
  return v_answer || jsonb_build_object('cleanup_job_id', v_next ->> 'job_id');
end
$$;
comment on function fn_iu_job_verify_cut(jsonb) is
  'Pilot host: handler of cut.verify_cut; target_ref is the cut run; enqueues cut.cleanup when verified';

-- Dry run first, then the one record; its staging.record_cleaned ends the chain.
create or replace function fn_iu_job_cleanup(p_job jsonb) returns jsonb
language plpgsql security definer set search_path from current as $$
declare
  v_record constant uuid := iu_core.fn_iu_job_record(p_job);
  v_days constant integer := iu_core.fn_iu_retention_days();
  v_actor constant text := iu_core.fn_iu_job_actor(p_job);
  v_preview jsonb;
begin
  if exists (select from iu_core.iu_staging_record r where r.staging_record_id = v_record and r.lifecycle_status = 'cleaned') then
    return iu_core.fn_iu_accept(jsonb_build_object('staging_record_id', v_record), p_replay => true);
  end if;
  v_preview := iu_core.fn_iu_job_result('fn_iu_op_cleanup_dry_run', fn_iu_op_cleanup_dry_run(v_days, v_actor));
  if (v_preview ->> 'clean')::int = 0 then
    raise exception 'nothing is due for clean-up, staging record % neither', v_record using errcode = '22023';
  end if;
  return iu_core.fn_iu_job_result('fn_iu_staging_cleanup', fn_iu_staging_cleanup(v_days, true, v_actor, v_record))
    || jsonb_build_object('staging_record_id', v_record, 'result_ref', v_record, 'previewed', v_preview -> 'clean');
end
$$;
comment on function fn_iu_job_cleanup(jsonb) is 'Pilot host: handler of cut.cleanup; source_ref is the staging record';

-- All three passes over everything: expire after 15 days, clean after the retention, archive 15 days later. Dry run first;
-- behind the closed gate of clean-up it is all there is.
create or replace function fn_iu_job_cleanup_sweep(p_job jsonb) returns jsonb
language plpgsql security definer set search_path from current as $$
declare
  v_days constant integer := iu_core.fn_iu_retention_days();
  v_actor constant text := iu_core.fn_iu_job_actor(p_job);
  v_preview constant jsonb := iu_core.fn_iu_job_result('fn_iu_op_cleanup_dry_run', fn_iu_op_cleanup_dry_run(v_days, v_actor));
begin
  if not iu_core.fn_iu_gate_open('iu_core.retention_enabled') then
    return v_preview || '{"result_ref": "dry_run"}';
  end if;
  return iu_core.fn_iu_job_result('fn_iu_staging_cleanup', fn_iu_staging_cleanup(v_days, true, v_actor));
end
$$;
comment on function fn_iu_job_cleanup_sweep(jsonb) is 'Pilot host: handler of staging_cleanup_sweep, for a schedule: expire, clean and archive whatever is due';

create or replace function iu_core.fn_iu_retention_days() returns integer
language sql stable set search_path from current as $$
  select coalesce((select config_value::integer from tac_birth_gate_config
                    where config_key = 'iu_core.staging_retention_days'), 15)
$$;
comment on function iu_core.fn_iu_retention_days() is 'Pilot host: days that a staged body is kept after CUT';

-- What seed 003 §7.2 looks at beside v_queue_health: where each staged document stands, and when it got there. The columns of
-- the record, none of which holds text of a document; bodies are in iu_staging_payload.
create or replace view v_iu_staging_record as
select
  r.staging_record_id, r.staging_kind, r.lifecycle_status, r.owner_actor, r.source_ref, r.source_kind, r.source_hash, r.source_bytes,
  r.piece_count, r.manifest_digest, r.vector_excluded, r.idempotency_key, r.workflow_ref, r.approved_at, r.approval_doc_id, r.approved_by,
  r.rejected_at, r.consumed_at, r.expires_at, r.cleaned_at, r.archived_at, r.metadata, r.created_at, r.updated_at
from iu_core.iu_staging_record r;
comment on view v_iu_staging_record is 'Pilot host: staged documents, their states and when they reached them; no text of any';

--------------------------------------------------------------------------------------- auto instantiation

-- Composes an instance of a template because of an event: a collection with the template's items, and a row of the log. Once
-- for each event, template and suffix. The caller passes the event in. `live` needs the gate of its own, `dry_run` marks an
-- instance that was made as a rehearsal; both need the composer.
create or replace function fn_iu_auto_instantiate_from_event(
  p_event_id uuid, p_event_type text, p_template_collection_id uuid, p_instance_key_suffix text,
  p_emit_mode text default 'live', p_actor text default session_user, p_note text default null
) returns jsonb
language plpgsql security definer set search_path from current as $$
declare
  v_key constant text := md5(concat_ws('|', p_event_id, p_template_collection_id, p_instance_key_suffix));
  v_template iu_core.iu_collection;
  v_instance uuid;
begin
  if p_event_id is null or coalesce(btrim(p_event_type), '') = '' or p_template_collection_id is null
    or coalesce(btrim(p_instance_key_suffix), '') = '' or coalesce(btrim(p_actor), '') = ''
  then
    return iu_core.fn_iu_refuse('invalid_input', '{"result_code": "invalid_input"}');
  elsif coalesce(p_emit_mode, '') not in ('dry_run', 'live') then
    return iu_core.fn_iu_refuse('invalid_emit_mode', '{"result_code": "invalid_emit_mode"}');
  elsif p_emit_mode = 'live' and not fn_gate_is_open('iu_core.auto_instantiate_enabled') then
    return iu_core.fn_iu_refuse('live_gate_closed', '{"result_code": "live_gate_closed"}');
  elsif not fn_gate_is_open('iu_core.composer_enabled') then
    return iu_core.fn_iu_refuse('composer_gate_closed', '{"result_code": "composer_gate_closed"}');
  end if;
  -- two callers with one template stand in line, so that the second sees what the first has made
  select * into v_template from iu_core.iu_collection c where c.collection_id = p_template_collection_id for update;
  if not found then
    return iu_core.fn_iu_refuse('template_collection_not_found', '{"result_code": "template_collection_not_found"}');
  elsif not v_template.is_template then
    return iu_core.fn_iu_refuse('template_not_marked', '{"result_code": "template_not_marked"}');
  end if;
  select l.instance_collection_id into v_instance from iu_auto_instantiate_event_log l where l.idempotency_key = v_key;
  if found then
    return iu_core.fn_iu_accept(
      jsonb_build_object('result_code', 'idempotent_replay', 'instance_collection_id', v_instance), p_replay => true);
  end if;
  insert into iu_core.iu_collection (collection_key, title, note, created_by)
  values (v_template.collection_key || ':' || p_instance_key_suffix, v_template.title, p_note, p_actor)
  on conflict (collection_key) do nothing
  returning collection_id into v_instance;
  if not found then -- another event has made an instance of that name
    return iu_core.fn_iu_refuse('invalid_input', '{"result_code": "invalid_input", "problem": "instance_key_taken"}');
  end if;
  insert into iu_core.iu_collection_item (collection_id, item_no, piece_ref)
  select v_instance, i.item_no, i.piece_ref from iu_core.iu_collection_item i where i.collection_id = p_template_collection_id;
  insert into iu_auto_instantiate_event_log
    (instance_collection_id, template_collection_id, event_id, event_type, idempotency_key, emit_mode, triggered_by)
  values (v_instance, p_template_collection_id, p_event_id, p_event_type, v_key, p_emit_mode, p_actor);
  return iu_core.fn_iu_accept(jsonb_build_object('result_code', 'ok', 'instance_collection_id', v_instance));
end
$$;
comment on function fn_iu_auto_instantiate_from_event(uuid, text, uuid, text, text, text, text) is
  'Pilot host: composes an instance of a template because of an event, once; result_code says what happened';

-- The event is read again: the job is the signal, the outbox is the truth. Who caused the event caused the instance, not
-- the executor that happened to run the job.
create or replace function fn_iu_job_auto_instantiate(p_job jsonb) returns jsonb
language plpgsql security definer set search_path from current as $$
declare
  v_event event_outbox;
begin
  select * into v_event from event_outbox e where e.id = (p_job ->> 'causation_event_id')::uuid;
  if not found then
    raise exception 'the event % of this job is gone', p_job ->> 'causation_event_id' using errcode = '22023';
  end if;
  return iu_core.fn_iu_job_result('fn_iu_auto_instantiate_from_event', fn_iu_auto_instantiate_from_event(
    p_event_id => v_event.id,
    p_event_type => v_event.event_domain || '.' || v_event.event_type,
    p_template_collection_id => (v_event.safe_payload ->> 'template_collection_id')::uuid,
    p_instance_key_suffix => v_event.safe_payload ->> 'instance_key_suffix',
    p_emit_mode => coalesce(v_event.safe_payload ->> 'emit_mode', 'live'),
    p_actor => v_event.actor_ref,
    p_note => v_event.safe_payload ->> 'note'));
end
$$;
comment on function fn_iu_job_auto_instantiate(jsonb) is
  'Pilot host: handler of iu.auto_instantiate; its arguments are in the payload of the event that made the job';

insert into job_handler (job_kind, handler) values
  ('cut.copy_to_staging', 'fn_iu_job_copy_to_staging(jsonb)'::regprocedure),
  ('cut.mark', 'fn_iu_job_mark(jsonb)'::regprocedure),
  ('cut.verify_mark', 'fn_iu_job_verify_mark(jsonb)'::regprocedure),
  ('cut.cut', 'fn_iu_job_cut(jsonb)'::regprocedure),
  ('cut.verify_cut', 'fn_iu_job_verify_cut(jsonb)'::regprocedure),
  ('cut.cleanup', 'fn_iu_job_cleanup(jsonb)'::regprocedure),
  ('iu.auto_instantiate', 'fn_iu_job_auto_instantiate(jsonb)'::regprocedure),
  ('staging_cleanup_sweep', 'fn_iu_job_cleanup_sweep(jsonb)'::regprocedure)
on conflict (job_kind) do update set handler = excluded.handler;

-- The cut pipeline as a template: six steps and a gate.
select fn_mot_template_put('{
  "template_key": "cut_pipeline", "description": "A document from its original to verified pieces",
  "params": {"type": "object", "required": ["document"], "additionalProperties": false,
    "properties": {"document": {"type": "string", "minLength": 1, "maxLength": 512}}},
  "nodes": [
    {"key": "copy_to_staging", "job_kind": "cut.copy_to_staging", "source_ref": "{params.document}"},
    {"key": "mark", "job_kind": "cut.mark"},
    {"key": "verify_mark", "job_kind": "cut.verify_mark"},
    {"key": "approval", "type": "approval"},
    {"key": "cut", "job_kind": "cut.cut"},
    {"key": "verify_cut", "job_kind": "cut.verify_cut"},
    {"key": "cleanup", "job_kind": "cut.cleanup"}],
  "edges": [
    {"from": "copy_to_staging", "to": "mark"}, {"from": "mark", "to": "verify_mark"}, {"from": "verify_mark", "to": "approval"},
    {"from": "approval", "to": "cut"}, {"from": "cut", "to": "verify_cut"}, {"from": "verify_cut", "to": "cleanup"}]}', 'pilot_host');

-- Nobody calls these by default; operators call the aliases, executors the handlers.
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid from pg_proc p
     where p.pronamespace in (quote_ident(current_schema())::regnamespace, 'iu_core'::regnamespace) and p.proname like 'fn\_iu\_%'
  loop
    execute format('revoke all on function %s from public', v_function);
  end loop;
  revoke all on v_iu_staging_record from public;
  if exists (select from pg_roles where rolname = 'reveille_reader') then
    grant select on v_iu_staging_record to reveille_reader;
  end if;
  if exists (select from pg_roles where rolname = 'reveille_operator') then
    grant select on v_iu_staging_record to reveille_operator;
    grant execute on function
      fn_iu_op_mark_file(text, text, jsonb, text, text, text, text, text),
      fn_iu_op_verify_mark(uuid, boolean, text, text, text),
      fn_iu_op_cut(uuid, boolean, text, boolean),
      fn_iu_op_verify_cut(uuid, text),
      fn_iu_op_cleanup_dry_run(integer, text),
      fn_iu_auto_instantiate_from_event(uuid, text, uuid, text, text, text, text)
    to reveille_operator;
  end if;
  if exists (select from pg_roles where rolname = 'reveille_executor') then
    grant execute on function
      fn_iu_job_copy_to_staging(jsonb), fn_iu_job_mark(jsonb), fn_iu_job_verify_mark(jsonb), fn_iu_job_cut(jsonb),
      fn_iu_job_verify_cut(jsonb), fn_iu_job_cleanup(jsonb), fn_iu_job_auto_instantiate(jsonb), fn_iu_job_cleanup_sweep(jsonb)
    to reveille_executor;
  end if;
end
$$;
