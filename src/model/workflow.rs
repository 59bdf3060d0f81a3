//! A workflow's steps as a graph: drawn for a terminal, or as Mermaid.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// One step, a row of `fn_job_workflow_steps`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its key in the template, after those of the graphs that it stands in: `cut/verify[2]`.
    pub step: String,
    /// The job that it is.
    pub job_id: Uuid,
    /// The kind of job; `workflow.approval` or `workflow.event` for a gate.
    pub job_kind: String,
    /// The kind of executor that runs it.
    pub executor: String,
    /// The job's status.
    pub status: String,
    /// `approval` or `event` when it is a gate.
    pub gate: Option<String>,
    /// Unmet needs, and one more for a gate that waits.
    pub blocked_by: i32,
    /// The steps that it needs.
    pub needs: Vec<Need>,
    /// Who runs it, or ran it last.
    pub lease_owner: Option<String>,
    /// Why it failed last.
    pub last_error: Option<String>,
    /// Why it was cancelled or skipped.
    pub cancel_reason: Option<String>,
    /// What it gave.
    pub result_ref: Option<String>,
}

/// An edge, as seen from the step that needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Need {
    /// The needed step's job.
    pub job_id: Uuid,
    /// The end that meets it: `success`, `failure` or `always`.
    pub on: String,
    /// What any other end means: `fail`, `skip` or `continue`.
    pub otherwise: String,
    /// `met`, `skipped` or `failed` once the needed step has ended.
    pub state: Option<String>,
}

impl Step {
    /// How it stands, in a word that says more than the status where it waits or did not run.
    pub fn standing(&self) -> &str {
        let skipped = self.cancel_reason.as_deref().is_some_and(|reason| reason.starts_with("skipped: "));
        match (self.status.as_str(), self.gate.as_deref(), self.blocked_by) {
            ("queued", Some("approval"), 1) => "waits for approval",
            ("queued", Some(_), 1) => "waits for an event",
            ("queued", _, 0) => "ready",
            ("queued", ..) => "blocked",
            ("leased" | "in_progress", ..) => "running",
            ("cancelled", ..) if skipped => "skipped",
            (status, ..) => status,
        }
    }

    /// A sign for the standing.
    pub fn mark(&self) -> char {
        match self.standing() {
            "succeeded" | "cleaned" => '✓',
            "failed" | "dead_letter" => '✗',
            "running" => '▶',
            "skipped" | "cancelled" => '–',
            "blocked" => '·',
            _ => '○',
        }
    }
}

/// For each step how many others it comes after, at least: the length of the longest way to it.
pub fn levels(steps: &[Step]) -> Vec<usize> {
    let places: HashMap<Uuid, usize> = steps.iter().enumerate().map(|(at, step)| (step.job_id, at)).collect();
    let mut levels = vec![0; steps.len()];
    // a step that was made anew stands behind those that need it: once around is not always enough
    for _ in 0..steps.len() {
        let before = levels.clone();
        for (at, step) in steps.iter().enumerate() {
            let needed = step.needs.iter().filter_map(|need| places.get(&need.job_id));
            levels[at] = needed.map(|&need| levels[need] + 1).max().unwrap_or(0);
        }
        if levels == before {
            break;
        }
    }
    levels
}

/// The graph in lines: what comes later stands further in, and says what it comes after.
pub fn drawing(steps: &[Step]) -> String {
    let levels = levels(steps);
    let names: HashMap<Uuid, &str> = steps.iter().map(|step| (step.job_id, step.step.as_str())).collect();
    let mut order: Vec<usize> = (0..steps.len()).collect();
    order.sort_by_key(|&at| (levels[at], at));
    let width = order.iter().map(|&at| levels[at] * 2 + steps[at].step.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for at in order {
        let step = &steps[at];
        let indent = levels[at] * 2;
        let name = width - indent;
        let after: Vec<&str> =
            step.needs.iter().filter_map(|need| names.get(&need.job_id).copied()).take(3).collect();
        let more = step.needs.len().saturating_sub(after.len());
        let who = if step.gate.is_some() { "-" } else { step.executor.as_str() };
        let _ = write!(
            text,
            "{:indent$}{} {:<name$}  {:<18}  {:<12}",
            "",
            step.mark(),
            step.step,
            step.standing(),
            who
        );
        if !after.is_empty() {
            let _ = write!(text, "  ← {}", after.join(", "));
        }
        if more > 0 {
            let _ = write!(text, " and {more} more");
        }
        if let Some(error) = step.last_error.as_deref().filter(|_| step.mark() == '✗') {
            let _ = write!(text, "  {}", error.lines().next().unwrap_or_default());
        }
        let trimmed = text.trim_end().len();
        text.truncate(trimmed);
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

/// The graph in the language of Mermaid.
pub fn mermaid(steps: &[Step]) -> String {
    let places: HashMap<Uuid, usize> = steps.iter().enumerate().map(|(at, step)| (step.job_id, at)).collect();
    let mut text = "flowchart TD\n".to_owned();
    for (at, step) in steps.iter().enumerate() {
        let (open, close) = if step.gate.is_some() { ("{{", "}}") } else { ("[", "]") };
        let name = step.step.replace('"', "#quot;");
        let _ = writeln!(
            text,
            "  s{at}{open}\"{name}<br/>{}\"{close}:::{}",
            step.standing(),
            class(step.standing())
        );
    }
    for (at, step) in steps.iter().enumerate() {
        for need in &step.needs {
            let Some(from) = places.get(&need.job_id) else { continue };
            let label = match (need.on.as_str(), need.otherwise.as_str()) {
                ("success", "fail") => String::new(),
                ("always", _) => "|always|".to_owned(),
                (on, "fail") => format!("|on {on}|"),
                (on, otherwise) => format!("|on {on}, else {otherwise}|"),
            };
            let _ = writeln!(text, "  s{from} -->{label} s{at}");
        }
    }
    for (class, style) in [
        ("good", "fill:#dcfce7,stroke:#15803d,color:#14532d"),
        ("bad", "fill:#fee2e2,stroke:#b91c1c,color:#7f1d1d"),
        ("moving", "fill:#dbeafe,stroke:#1d4ed8,color:#1e3a8a"),
        ("waiting", "fill:#f4f4f5,stroke:#71717a,color:#27272a"),
    ] {
        let _ = writeln!(text, "  classDef {class} {style}");
    }
    text.truncate(text.trim_end().len());
    text
}

/// The colour of a standing: good, bad, moving or waiting.
pub fn class(standing: &str) -> &'static str {
    match standing {
        "succeeded" | "cleaned" => "good",
        "failed" | "dead_letter" => "bad",
        "running" | "ready" | "retry_waiting" => "moving",
        _ => "waiting",
    }
}

/// A template as it is written in a file, TOML or JSON.
///
/// # Errors
/// What is wrong with the text, in words.
pub fn template(text: &str, is_json: bool) -> Result<Value, String> {
    if is_json {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else {
        toml::from_str(text).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, n: u128, status: &str, blocked_by: i32, needs: &[u128]) -> Step {
        let need = |&n: &u128| Need {
            job_id: Uuid::from_u128(n),
            on: "success".to_owned(),
            otherwise: "fail".to_owned(),
            state: None,
        };
        Step {
            step: name.to_owned(),
            job_id: Uuid::from_u128(n),
            job_kind: "a.a".to_owned(),
            executor: "PG_worker".to_owned(),
            status: status.to_owned(),
            gate: None,
            blocked_by,
            needs: needs.iter().map(need).collect(),
            lease_owner: None,
            last_error: None,
            cancel_reason: None,
            result_ref: None,
        }
    }

    #[test]
    fn what_comes_later_stands_further_in_and_says_after_what() {
        let steps = [
            step("mark", 1, "succeeded", 0, &[]),
            step("cut", 2, "in_progress", 0, &[1]),
            step("tell", 3, "queued", 2, &[1, 2]),
        ];
        let lines = [
            "✓ mark      succeeded           PG_worker",
            "  ▶ cut     running             PG_worker     ← mark",
            "    · tell  blocked             PG_worker     ← mark, cut",
        ];
        assert_eq!(drawing(&steps), lines.join("\n"));
    }

    #[test]
    fn a_step_made_anew_stands_where_it_belongs() {
        let steps = [step("end", 1, "queued", 1, &[2]), step("begin~2", 2, "queued", 0, &[])];
        assert_eq!(levels(&steps), [1, 0]);
    }

    #[test]
    fn mermaid_has_every_step_and_edge_and_no_quote_breaks_it() {
        let steps = [step("a\"b", 1, "dead_letter", 0, &[]), step("c", 2, "queued", 1, &[1])];
        let text = mermaid(&steps);
        assert!(text.starts_with("flowchart TD\n  s0[\"a#quot;b<br/>dead_letter\"]:::bad\n"), "{text}");
        assert!(text.contains("\n  s0 --> s1\n"), "{text}");
    }
}
