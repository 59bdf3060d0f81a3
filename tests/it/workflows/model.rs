//! Random graphs against a model: whatever order executors finish in, and whosever lease is taken back before the end, every step
//! runs exactly when its edges allow, and the workflow ends as the model says. Nobody is killed here: see `kills`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::stage::{Claimed, Stage};
use crate::support::Dice;

const NODES: u64 = 9;
const CASES: u64 = 25;

struct Graph {
    nodes: Vec<String>,
    /// from, to, on, otherwise
    edges: Vec<(usize, usize, &'static str, &'static str)>,
    bad: Vec<bool>,
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
        Self { nodes: (0..count).map(|n| format!("n{n}")).collect(), edges, bad }
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

#[tokio::test]
async fn every_step_runs_exactly_when_its_edges_allow_whoever_ends_first_and_whosever_lease_is_taken_back() {
    let stage = Stage::open().await;
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
        loop {
            let who = if dice.roll(2) == 0 { "one" } else { "two" };
            let claimed = stage.claim(who, i32::try_from(1 + dice.roll(3)).unwrap()).await;
            if held.is_empty() && claimed.is_empty() {
                break;
            }
            held.extend(claimed);
            let job = held.swap_remove(usize::try_from(dice.roll(held.len() as u64)).unwrap());
            let n: usize = job.step[1..].parse().unwrap();
            match dice.roll(5) {
                // its lease is taken back, as the reaper does for one that has ended
                0 => drop(stage.value("select fn_job_take_back($1, 'test', 'died')", &[&job.id]).await),
                _ if graph.bad[n] => {
                    stage.fail(&job).await;
                    *runs.entry(job.step).or_default() += 1;
                }
                1 => {
                    // together with others that end well
                    let (good, rest): (Vec<_>, Vec<_>) =
                        held.drain(..).partition(|job| !graph.bad[job.step[1..].parse::<usize>().unwrap()]);
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
