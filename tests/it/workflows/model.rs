//! Random graphs against a model: whatever order executors finish in, whoever dies, and whosever lease is taken back before the
//! end, every step runs exactly when its edges allow, and the workflow ends as the model says. Processes are killed in `kills`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::stage::{Claimed, Stage};
use crate::support::Dice;

const NODES: u64 = 9;
const CASES: u64 = 40;

struct Graph {
    nodes: Vec<String>,
    /// from, to, on, otherwise
    edges: Vec<(usize, usize, &'static str, &'static str)>,
    bad: Vec<bool>,
    /// They do not go well before the second try.
    hard: Vec<bool>,
}

impl Graph {
    fn random(dice: &mut Dice) -> Self {
        let count = usize::try_from(2 + dice.roll(NODES)).unwrap();
        let mut edges = Vec::new();
        for to in 1..count {
            for from in 0..to {
                if dice.roll(3) == 0 {
                    let on =
                        ["success", "success", "failure", "always"][usize::try_from(dice.roll(4)).unwrap()];
                    let otherwise = ["fail", "skip", "continue"][usize::try_from(dice.roll(3)).unwrap()];
                    edges.push((from, to, on, otherwise));
                }
            }
        }
        let bad = (0..count).map(|_| dice.roll(4) == 0).collect();
        let hard = (0..count).map(|_| dice.roll(4) == 0).collect();
        Self { nodes: (0..count).map(|n| format!("n{n}")).collect(), edges, bad, hard }
    }

    fn template(&self) -> (Value, Value) {
        let nodes: Vec<Value> = self.nodes.iter().map(|key| json!({"key": key, "job_kind": "a.a"})).collect();
        let edge = |&(from, to, on, otherwise): &(usize, usize, &str, &str)| json!({"from": self.nodes[from], "to": self.nodes[to], "on": on, "otherwise": otherwise});
        (json!(nodes), json!(self.edges.iter().map(edge).collect::<Vec<_>>()))
    }

    /// How each step ends, and the workflow.
    fn expected(&self) -> (BTreeMap<String, &'static str>, &'static str) {
        let mut ends: Vec<&'static str> = Vec::new();
        for n in 0..self.nodes.len() {
            let needs = self.edges.iter().filter(|edge| edge.1 == n).map(|&(from, _, on, otherwise)| {
                let outcome = match ends[from] {
                    "succeeded" => "success",
                    "dead_letter" => "failure",
                    "skipped" => "skipped",
                    _ => return "open",
                };
                if on == "always" || on == outcome || otherwise == "continue" { "met" } else { otherwise }
            });
            let needs: Vec<&str> = needs.collect();
            ends.push(if needs.contains(&"skip") {
                "skipped"
            } else if needs.iter().any(|need| *need != "met") {
                "queued"
            } else if self.bad[n] {
                "dead_letter"
            } else {
                "succeeded"
            });
        }
        let is_last = |n: usize| self.edges.iter().all(|edge| edge.0 != n);
        let is_bad = ends.iter().any(|end| matches!(*end, "dead_letter" | "queued"));
        let good_end = ends.iter().enumerate().any(|(n, end)| *end == "succeeded" && is_last(n));
        let status = match (is_bad, good_end) {
            (false, _) => "succeeded",
            (true, true) => "partially_failed",
            (true, false) => "failed",
        };
        (self.nodes.iter().cloned().zip(ends).collect(), status)
    }
}

/// Its executor goes away without a word: the lease ends, the reaper frees the job, and what comes late is refused.
async fn dies(stage: &Stage, job: &Claimed) {
    let end = "update job_queue set lease_until = clock_timestamp() - interval '1 second' where job_id = $1";
    stage.client.execute(end, &[&job.id]).await.unwrap();
    let reaped = stage.value("select fn_job_lease_reaper(p_dry_run => false)", &[]).await;
    assert_eq!((&reaped["found"], &reaped["dead_lettered"]), (&json!(1), &json!(0)), "{reaped}");
    let late = stage.value("select fn_job_succeed($1, $2)", &[&job.id, &job.token]).await;
    assert_eq!(late["reason"], "lease_lost", "{late}");
    due(stage, job).await;
}

/// Nobody waits for its next try.
async fn due(stage: &Stage, job: &Claimed) {
    let due = "update job_queue set scheduled_at = clock_timestamp() where job_id = $1";
    stage.client.execute(due, &[&job.id]).await.unwrap();
}

#[tokio::test]
async fn every_step_runs_exactly_when_its_edges_allow_whoever_ends_first_and_whoever_dies() {
    let stage = Stage::open().await;
    let reaper = "select fn_gate_set('queue.lease_reaper.enabled', 'true', 'test', 'test'),
        fn_gate_set('queue.lease_reaper.dry_run_only', 'false', 'test', 'test')";
    stage.client.batch_execute(reaper).await.unwrap();
    for seed in 0..CASES {
        let mut dice = Dice(seed);
        let graph = Graph::random(&mut dice);
        let (nodes, edges) = graph.template();
        let key = format!("g{seed}");
        let put = stage.put(&key, nodes, edges).await;
        assert_eq!(put["refused"], false, "seed {seed}: {put}");
        let id = stage.emit(&key, json!({})).await;
        let mut held: Vec<Claimed> = Vec::new();
        let mut runs: BTreeMap<String, u32> = BTreeMap::new();
        let (mut tried, mut dead) = (BTreeSet::new(), BTreeSet::new());
        loop {
            let who = if dice.roll(2) == 0 { "one" } else { "two" };
            let claimed = stage.claim(who, i32::try_from(1 + dice.roll(3)).unwrap()).await;
            if held.is_empty() && claimed.is_empty() {
                break;
            }
            held.extend(claimed);
            let job = held.swap_remove(usize::try_from(dice.roll(held.len() as u64)).unwrap());
            let n: usize = job.step[1..].parse().unwrap();
            match dice.roll(6) {
                // once: who dies of a job again and again is not the job's executor alone
                5 if dead.insert(n) => dies(&stage, &job).await,
                _ if graph.hard[n] && tried.insert(n) => {
                    let fail = "select fn_job_fail_transient($1, $2, 'not yet')";
                    let answer = stage.value(fail, &[&job.id, &job.token]).await;
                    assert_eq!(answer["status"], "retry_waiting", "{answer}");
                    due(&stage, &job).await;
                }
                0 => drop(stage.value("select fn_job_take_back($1, 'test', 'died')", &[&job.id]).await),
                _ if graph.bad[n] => {
                    stage.fail(&job).await;
                    *runs.entry(job.step).or_default() += 1;
                }
                1 => {
                    // together with others that end well
                    let is_good = |job: &Claimed| {
                        let n: usize = job.step[1..].parse().unwrap();
                        !graph.bad[n] && (!graph.hard[n] || tried.contains(&n))
                    };
                    let (good, rest): (Vec<_>, Vec<_>) = held.drain(..).partition(is_good);
                    held = rest;
                    let all: Vec<&Claimed> = std::iter::once(&job).chain(&good).collect();
                    let (ids, tokens): (Vec<_>, Vec<_>) = all.iter().map(|job| (job.id, job.token)).unzip();
                    stage.value("select fn_job_succeed_many($1, $2)", &[&ids, &tokens]).await;
                    for job in all {
                        *runs.entry(job.step.clone()).or_default() += 1;
                    }
                }
                _ => {
                    stage.succeed(&job).await;
                    *runs.entry(job.step).or_default() += 1;
                }
            }
        }
        let (steps, status) = graph.expected();
        assert_eq!(stage.standing(id).await, json!(steps), "seed {seed}");
        assert_eq!(stage.status(id).await, status, "seed {seed}");
        for (step, end) in &steps {
            let ran = u32::from(matches!(*end, "succeeded" | "dead_letter"));
            assert_eq!(runs.get(step).copied().unwrap_or(0), ran, "seed {seed}, {step}");
        }
        let refreshed = stage.value("select fn_job_workflow_refresh()", &[]).await;
        assert_eq!((&refreshed["repaired"], &refreshed["finished"]), (&json!(0), &json!(0)), "seed {seed}");
    }
}
