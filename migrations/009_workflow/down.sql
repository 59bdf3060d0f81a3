-- Undoes phase 009. Refuses while there are templates or workflows.
do $$
begin
  lock table mot_template, job_workflow; -- whoever is about to commit is waited for, and then seen
  if exists (select from mot_template) or exists (select from job_workflow) then
    raise exception 'mot_template and job_workflow hold templates and workflows that would be lost'
      using errcode = '55000', hint = 'Export and empty them first, then run the down step again.';
  end if;
end
$$;

drop function fn_job_workflow_counts(timestamptz);
drop function fn_job_workflow_check(int, timestamptz);
drop function fn_job_gate_waiting(int);
drop view v_job_workflow_health;
drop function fn_job_kind_warning(text);
drop function fn_mot_start();
drop function fn_job_workflow_retention(int, boolean, timestamptz);
drop function fn_mot_start_one(uuid);
drop function fn_mot_start_refused(uuid, text);
drop function fn_mot_start_lease(uuid);
drop function fn_job_workflow_steps(uuid);
drop function fn_job_workflow_retry(uuid, text, text, boolean);
drop function fn_job_workflow_cancel(uuid, text, text);
drop function fn_job_workflow_stop(uuid, text, timestamptz);
drop function fn_job_workflow_refresh(int, timestamptz);
drop function fn_job_workflow_mend(uuid);
drop function fn_job_gate_events(uuid[]);
drop function fn_job_gate_expire(int, timestamptz);
drop function fn_job_gate_lock(uuid[]);
drop function fn_job_gate_verdict(jsonpath, event_outbox);
drop function fn_job_reject(uuid, text, text);
drop function fn_job_approve(uuid, text, text, timestamptz);
drop function fn_job_effect_hash(uuid);
drop function fn_job_gate_pass(uuid, text, text, text);
drop function fn_job_workflow_settle(uuid[], uuid[]);
drop function fn_job_unblock(uuid[], text);
drop function fn_mot_graph_emit(text, jsonb, text, text, boolean, uuid, text);
drop function fn_mot_emit_refused(mot_template, text[]);
drop function fn_mot_policy(jsonb);
drop function fn_mot_template_lock(text);
drop function fn_mot_expand(mot_template, jsonb, jsonb, text, int, int, int, timestamptz);
drop function fn_mot_template_put(jsonb, text, boolean);
drop function fn_mot_graph_errors(text, jsonb, jsonb, jsonb);
drop function fn_mot_reached(jsonb);
drop function fn_gate_filter_problem(jsonpath);
drop function fn_mot_template_of(text);
drop function fn_mot_sorted(jsonb, jsonb);
drop function fn_mot_fill(jsonb, jsonb, jsonb);
drop function fn_json_schema_unknown(jsonb, text);
drop function fn_json_schema_errors(jsonb, jsonb, text);
drop index job_archive_workflow_idx;
drop index job_workflow_failed_idx;
drop index job_workflow_over_idx;
drop table job_approval;
drop table job_dependency;
drop table mot_template;
drop function fn_mot_template_refuse();
