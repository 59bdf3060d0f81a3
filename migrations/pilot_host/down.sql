-- Undoes the pilot host. Refuses while it holds documents or pieces; its event types stay if events use them.
do $$
begin
  if exists (select from iu_core.iu_staging_record) or exists (select from iu_core.iu_piece)
    or exists (select from iu_core.iu_collection) or exists (select from entity_species)
  then
    raise exception 'the pilot host holds staging records, pieces, collections or species that would be lost'
      using errcode = '55000', hint = 'Export them, truncate iu_core.iu_staging_record, iu_core.iu_collection cascade and entity_species, then run the down step again.';
  end if;
end
$$;

delete from job_handler
 where job_kind in ('cut.copy_to_staging', 'cut.mark', 'cut.verify_mark', 'cut.cut', 'cut.verify_cut', 'cut.cleanup', 'iu.auto_instantiate', 'staging_cleanup_sweep');
delete from dot_config where key in ('iu_core.auto_instantiate_enabled', 'iu_core.composer_enabled');
delete from event_type_registry t
 where (t.event_domain, t.event_type) in (
     ('staging', 'record_created'), ('staging', 'record_approved'), ('staging', 'record_rejected'), ('staging', 'record_consumed'),
     ('staging', 'record_cleaned'), ('iu', 'template.instance_auto_composed'), ('birth_registry', 'entity_born'))
   and not exists (select from event_outbox e where e.event_domain = t.event_domain and e.event_type = t.event_type);

drop function fn_iu_job_auto_instantiate(jsonb);
drop function fn_iu_auto_instantiate_from_event(uuid, text, uuid, text, text, text, text);
delete from mot_template t where t.template_key = 'cut_pipeline' and t.used_at is null;

drop function fn_iu_job_copy_to_staging(jsonb);
drop function fn_iu_job_mark(jsonb);
drop function fn_iu_job_verify_mark(jsonb);
drop function fn_iu_job_cut(jsonb);
drop function fn_iu_job_verify_cut(jsonb);
drop function fn_iu_job_cleanup_sweep(jsonb);
drop function fn_iu_job_cleanup(jsonb);
drop function fn_iu_op_cleanup_dry_run(integer, text);
drop function fn_iu_staging_cleanup(integer, boolean, text, uuid);
drop function fn_iu_op_verify_cut(uuid, text);
drop function fn_iu_verify_cut_result(iu_core.iu_cut_run);
drop function fn_iu_op_cut(uuid, boolean, text, boolean);
drop function fn_iu_cut_from_manifest(iu_core.iu_staging_record, text, boolean);
drop function fn_iu_op_verify_mark(uuid, boolean, text, text, text);
drop function fn_iu_op_mark_file(text, text, jsonb, text, text, text, text, text);
drop function fn_iu_mark_create_manifest(text, jsonb);
drop view v_iu_staging_record;
drop table iu_auto_instantiate_event_log;
drop schema iu_core cascade;
drop table entity_species;
drop table tac_birth_gate_config;
