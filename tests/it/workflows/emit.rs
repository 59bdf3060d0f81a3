//! From a template to a workflow: what is refused, what is made, and what is never made twice.

use serde_json::json;

use super::stage::{Stage, edge, node};

#[tokio::test]
async fn a_template_is_refused_with_everything_that_is_wrong_with_it() {
    let stage = Stage::open().await;
    let nodes = json!([
        {"key": "m", "job_kind": "a.a", "executor": "MOT"}, {"key": "k", "job_kind": "no.kind"}, {"key": "k", "job_kind": "a.a"},
        {"key": "Bad Key", "job_kind": "a.a"}, {"key": "x", "job_kind": "a.a", "colour": "red"}, {"key": "g", "type": "graph", "template": "none"},
        {"key": "p", "job_kind": "a.a", "safe_payload": {"deep": {"password": "x"}}}, {"key": "f", "job_kind": "a.a", "for_each": "list"},
        {"key": "e", "type": "event", "event_domain": "iu", "event_type": "never"}]);
    let edges = json!([{"from": "m", "to": "nobody"}, {"from": "m", "to": "x", "on": "maybe"}, {"from": "m", "to": "k"}, {"from": "m", "to": "k"}]);
    let answer = stage.put("bad", nodes, edges).await;
    assert_eq!(answer["reason"], "invalid_template");
    let errors = answer["errors"].to_string();
    for wrong in [
        "node m: MOT draws graphs and runs nothing",
        "node k: nobody knows jobs of kind no.kind",
        "node k stands twice",
        "key must be a letter",
        "node x: colour is not known",
        "node g: there is no template none",
        "node p: safe_payload must be an object of signals",
        "node f: for_each names a list",
        "the event iu.never is not registered",
        "there is no node nobody",
        "on is success, failure or always",
        "two edges join the same nodes",
    ] {
        assert!(errors.contains(wrong), "{wrong}: {errors}");
    }
    assert_eq!(stage.value("select count(*) from mot_template", &[]).await, 0);
}

#[tokio::test]
async fn a_circle_is_refused_also_one_through_another_template() {
    let stage = Stage::open().await;
    let circle =
        stage.put("circle", json!([node("a"), node("b")]), json!([edge("a", "b"), edge("b", "a")])).await;
    assert!(circle["errors"].to_string().contains("the edges go in a circle among a, b"), "{circle}");
    assert_eq!(stage.put("inner", json!([node("a")]), json!([])).await["version"], 1);
    let outer = json!([{"key": "in", "type": "graph", "template": "inner"}]);
    assert_eq!(stage.put("outer", outer, json!([])).await["version"], 1);
    let inner = json!([{"key": "out", "type": "graph", "template": "outer"}]);
    let answer = stage.put("inner", inner, json!([])).await;
    assert!(answer["errors"].to_string().contains("the graph holds itself, inner"), "{answer}");
}

#[tokio::test]
async fn a_template_that_was_used_is_never_changed() {
    let stage = Stage::open().await;
    assert_eq!(stage.put("t", json!([node("a")]), json!([])).await["version"], 1);
    assert_eq!(stage.put("t", json!([node("b")]), json!([])).await["version"], 1, "nobody has used it");
    stage.emit("t", json!({})).await;
    assert_eq!(stage.put("t", json!([node("b")]), json!([])).await["changed"], false);
    assert_eq!(stage.put("t", json!([node("c")]), json!([])).await["version"], 2);
    for change in [
        "update mot_template set nodes = '[]' where version = 1",
        "delete from mot_template where version = 1",
    ] {
        let error = stage.client.batch_execute(change).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "55000", "{change}");
    }
    stage.emit("t@1", json!({})).await;
    assert_eq!(stage.run(&[]).await, ["b", "b"]);
}

#[tokio::test]
async fn parameters_obey_their_schema_and_the_denylist() {
    let stage = Stage::open().await;
    let schema = json!({"type": "object", "required": ["doc", "list"], "additionalProperties": false, "properties": {
        "doc": {"type": "string", "maxLength": 5, "pattern": "^d"}, "list": {"type": "array", "items": {"type": "integer", "minimum": 1}, "maxItems": 3},
        "more": {"type": "object"}, "way": {"enum": ["short", "long"]}}});
    assert_eq!(stage.put_with("t", schema, json!([node("a")]), json!([])).await["refused"], false);
    for (params, wrong) in [
        (json!({}), "params.doc is missing"),
        (json!({"doc": 1, "list": []}), "params.doc must be string, not 1"),
        (json!({"doc": "d12345", "list": []}), "at most 5"),
        (json!({"doc": "x", "list": []}), "must match ^d"),
        (json!({"doc": "d", "list": [1, 1.5]}), "params.list[1] must be integer"),
        (json!({"doc": "d", "list": [0]}), "params.list[0] must be at least 1"),
        (json!({"doc": "d", "list": [1, 2, 3, 4]}), "at most 3 items"),
        (json!({"doc": "d", "list": [], "other": 1}), "params.other is unknown"),
        (json!({"doc": "d", "list": [], "way": "far"}), "params.way must be one of"),
        (json!({"doc": "d", "list": [], "more": {"secret": "x"}}), "denied key"),
    ] {
        let answer = stage.value("select fn_mot_graph_emit('t', $1, p_actor => 'test')", &[&params]).await;
        assert_eq!(answer["reason"], "invalid_params", "{params}");
        assert!(answer["errors"].to_string().contains(wrong), "{wrong}: {answer}");
    }
    let unknown = json!({"type": "object", "properties": {"a": {"type": "text", "format": "email"}}});
    let answer = stage.put_with("u", unknown, json!([node("a")]), json!([])).await;
    assert!(answer["errors"].to_string().contains("the keyword format is not known"), "{answer}");
}

#[tokio::test]
async fn an_emit_is_one_transaction_and_a_second_one_answers_the_first() {
    let stage = Stage::open().await;
    stage.put("t", json!([node("a"), node("b")]), json!([edge("a", "b")])).await;
    let emit = "select fn_mot_graph_emit('t', '{}', 'doc:1', 'test')";
    let dry = stage.value("select fn_mot_graph_emit('t', '{}', 'doc:1', 'test', true)", &[]).await;
    assert_eq!((&dry["jobs"], &dry["steps"][1]["needs"]), (&json!(2), &json!(["a"])));
    assert_eq!(stage.value("select count(*) from job_queue", &[]).await, 0, "a dry run writes nothing");
    stage.client.batch_execute(&format!("begin; {emit}; rollback")).await.unwrap();
    assert_eq!(stage.value("select count(*) from job_workflow", &[]).await, 0);

    let clients = futures::future::join_all((0..8).map(|_| stage.db.client())).await;
    let emits = clients.iter().map(async |client| {
        let row = client.query_one(emit, &[]).await.unwrap();
        row.get::<_, serde_json::Value>(0)
    });
    let answers = futures::future::join_all(emits).await;
    assert_eq!(answers.iter().filter(|answer| answer["created"] == true).count(), 1, "{answers:?}");
    assert!(answers.iter().all(|answer| answer["workflow_id"] == answers[0]["workflow_id"]));
    assert_eq!(stage.value("select count(*) from job_queue", &[]).await, 2);
    let closed = "select fn_gate_set('queue.job_substrate.enabled', 'false', 'test', 'test')";
    stage.client.batch_execute(closed).await.unwrap();
    let answer = stage.value("select fn_mot_graph_emit('t', '{}', 'doc:2', 'test')", &[]).await;
    assert_eq!(answer["reason"], "job_substrate_disabled");
}

#[tokio::test]
async fn a_list_fans_out_and_in_again_also_through_an_empty_one_and_item_by_item() {
    let stage = Stage::open().await;
    let nodes = json!([
        node("begin"), {"key": "each", "job_kind": "b.b", "for_each": "params.list", "safe_payload": {"n": "{item}", "text": "{item} of {params.doc}"}},
        {"key": "check", "job_kind": "b.b", "for_each": "params.list"}, node("end")]);
    let edges =
        json!([edge("begin", "each"), {"from": "each", "to": "check", "each": true}, edge("check", "end")]);
    assert_eq!(stage.put("t", nodes, edges).await["refused"], false);
    let full = stage.emit("t", json!({"list": [7, 8], "doc": "d"})).await;
    let payload = "select safe_payload from job_queue where idempotency_key like '%/each[2]'";
    assert_eq!(stage.value(payload, &[]).await, json!({"n": 8, "text": "8 of d"}));
    assert_eq!(stage.run(&["each[1]"]).await, ["begin", "each[1]", "each[2]", "check[2]"]);
    assert_eq!(stage.standing(full).await["check[1]"], "queued");
    let empty = stage.emit("t", json!({"list": [], "doc": "d"})).await;
    assert_eq!(stage.run(&[]).await, ["begin", "end"]);
    assert_eq!(stage.status(empty).await, "succeeded");
}

#[tokio::test]
async fn graphs_within_graphs_are_unfolded_with_parameters_of_their_own() {
    let stage = Stage::open().await;
    let inner = json!([{"key": "x", "job_kind": "a.a", "source_ref": "{params.of}"}, node("y")]);
    stage.put("inner", inner, json!([edge("x", "y")])).await;
    let outer = json!([
        node("first"), {"key": "part", "type": "graph", "template": "inner", "for_each": "params.parts", "params": {"of": "part:{item}"}}, node("last")]);
    stage.put("outer", outer, json!([edge("first", "part"), edge("part", "last")])).await;
    let id = stage.emit("outer", json!({"parts": [1, 2]})).await;
    assert_eq!(stage.run(&[]).await, ["first", "part[1]/x", "part[2]/x", "part[1]/y", "part[2]/y", "last"]);
    assert_eq!(stage.status(id).await, "succeeded");
    let refs = "select jsonb_agg(source_ref order by source_ref) from job_queue where source_ref is not null";
    assert_eq!(stage.value(refs, &[]).await, json!(["part:1", "part:2"]));
}

#[tokio::test]
async fn a_thousand_nodes_are_emitted_at_once_and_run_to_the_end() {
    let stage = Stage::open().await;
    let nodes: Vec<_> = (0..1000).map(|n| node(&format!("n{n}"))).collect();
    let edges: Vec<_> = (1..1000).map(|n| edge(&format!("n{}", (n - 1) / 10), &format!("n{n}"))).collect();
    assert_eq!(stage.put("big", json!(nodes), json!(edges)).await["refused"], false);
    let id = stage.emit("big", json!({})).await;
    // four levels and one more claim that finds nothing
    for _ in 0..6 {
        let jobs = stage.claim("one", 1000).await;
        let (ids, tokens): (Vec<_>, Vec<_>) = jobs.iter().map(|job| (job.id, job.token)).unzip();
        stage.value("select fn_job_succeed_many($1, $2)", &[&ids, &tokens]).await;
    }
    assert_eq!(stage.status(id).await, "succeeded");
    assert_eq!(stage.health(id).await["succeeded"], 1000);
}
