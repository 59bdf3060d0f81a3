//! Runs commands taken from what the program says: lines of a shell as a shell does, statements as psql would.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use uuid::Uuid;

use super::faults::Planted;
use crate::cli::output;
use crate::http::client::get;
use crate::support::{Pooler, Pooling, Program, SOON, steps, wait_until, with_secret};

/// Somebody with a shell behind a pooler, psql, and a browser.
pub(super) struct Newcomer {
    planted: Planted,
    exported: Vec<(String, String)>,
    face: SocketAddr,
    running: Vec<Program>,
}

impl Newcomer {
    /// The sidecar and a worker run; both have direct addresses.
    pub(super) async fn arrive(planted: Planted) -> Self {
        let url = planted.db.url();
        let face = [("REVEILLE__HTTP__ENABLED", "true"), ("REVEILLE__HTTP__LISTEN", "127.0.0.1:0")];
        let mut sidecar = Program::start(&url, &["run"], &face);
        let said = sidecar.says(&["http://"]).await;
        let address = said.split("http://").nth(1).and_then(|rest| rest.split(": ").next()).unwrap();
        let face = address.parse().unwrap_or_else(|_| panic!("{said}"));
        sidecar.says(&["listening"]).await;
        let mut worker = Program::start(&url, &["work"], &[]);
        worker.says(&["listening"]).await;
        let swept = "select count(*) > 0 from event_arrival where event_id = $1";
        wait_until("the sweep has found the event of which the trigger said nothing", SOON, async || {
            planted.client.query_one(swept, &[&planted.event]).await.unwrap().get(0)
        })
        .await;
        Self { planted, exported: Vec::new(), face, running: vec![sidecar, worker] }
    }

    pub(super) fn event(&self) -> Uuid {
        self.planted.event
    }

    pub(super) fn filtered(&self) -> Uuid {
        self.planted.filtered
    }

    pub(super) fn poison(&self) -> Uuid {
        self.planted.poison
    }

    pub(super) fn holder(&self) -> Uuid {
        self.planted.holder
    }

    pub(super) fn behind(&self) -> Uuid {
        self.planted.behind
    }

    /// Runs a line in a shell whose `DATABASE_URL` leads through a pooler: exit code, output, errors.
    pub(super) async fn asks(&self, line: &str) -> (Option<i32>, String, String) {
        // the one session that it shares out would still know the statements of the command before
        let pooler = Pooler::to(self.planted.db.server().port(), Pooling::Sharing).await;
        let program = Path::new(env!("CARGO_BIN_EXE_reveille"));
        let folders = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-euc", line]).env("PATH", folders).current_dir(env!("CARGO_TARGET_TMPDIR"));
        shell
            .env("DATABASE_URL", with_secret(&self.planted.db.url_through(pooler.port())))
            .env("USER", "newcomer");
        shell.envs(self.exported.iter().map(|(name, value)| (name, value)));
        output(&mut shell)
    }

    /// What the doctor finds.
    pub(super) async fn doctor(&self) -> Vec<Value> {
        let (code, out, err) = self.asks("reveille doctor --json --older-than 2s").await;
        let answer: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{code:?} {out}{err}"));
        let found = answer["findings"].as_array().unwrap().clone();
        let is_wrong = found.iter().any(|one| one["severity"] != "info");
        assert_eq!(code, Some(i32::from(is_wrong)), "{found:#?}");
        assert!(found.iter().all(|one| one["finding"] != "could_not_look"), "{found:#?}");
        found
    }

    /// What is said of an event or a job.
    pub(super) async fn explains(&self, what: &str, id: Uuid) -> String {
        let (code, out, err) = self.asks(&format!("reveille {what} explain {id}")).await;
        assert_eq!(code, Some(0), "{out}{err}");
        out
    }

    /// A page has these words.
    pub(super) async fn sees(&self, path: &str, words: &[&str]) {
        let answer = get(self.face, path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        for word in words {
            assert!(answer.body.contains(word), "{path} does not say {word}: {}", answer.body);
        }
    }

    /// Does what a finding says.
    pub(super) async fn follows(&mut self, finding: &Value) {
        for step in steps(finding["mend"].as_str().unwrap()) {
            let step = step.replace("FILTER", &filter(finding));
            self.does(&step).await;
        }
    }

    /// The password of `DATABASE_URL`.
    fn password(&self) -> String {
        let address: tokio_postgres::Config = with_secret(&self.planted.db.url()).parse().unwrap();
        String::from_utf8(address.get_password().unwrap().to_vec()).unwrap()
    }

    /// Runs one command; what asks for a reason gets one.
    pub(super) async fn does(&mut self, step: &str) {
        if let Some((name, value)) = step.strip_prefix("export ").and_then(|rest| rest.split_once('=')) {
            self.exported.push((name.to_owned(), value.replace("PASSWORD", &self.password())));
        } else if step.starts_with("reveille ") {
            let line = step.replace("TEXT", "'seen to'");
            let (mut code, mut out, mut err) = self.asks(&line).await;
            if code == Some(3) {
                // a refusal names the command that makes it possible, and is followed, too
                let before = err
                    .split('`')
                    .nth(1)
                    .unwrap_or_else(|| panic!("{line}: {err}"))
                    .replace('…', "'seen to'");
                let (opened, said, why) = self.asks(&before).await;
                assert_eq!(opened, Some(0), "{before}: {said}{why}");
                (code, out, err) = self.asks(&line).await;
            }
            assert_eq!(code, Some(0), "{line}: {out}{err}");
        } else {
            let statement = step.replace("TEXT", "seen to");
            let done = self.planted.client.batch_execute(&statement).await;
            done.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
    }

    pub(super) async fn count(&self, sql: &str) -> i64 {
        self.planted
            .client
            .query_one(sql, &[])
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
            .get(0)
    }

    /// Stops what runs.
    pub(super) async fn leaves(self) {
        for program in self.running {
            program.stops().await;
        }
    }
}

/// The filter that lets through what the finding says the events have: `PATH is VALUE (12 of them)`.
fn filter(finding: &Value) -> String {
    let what = finding["what"].as_str().unwrap();
    let Some((_, instead)) = what.split_once("instead: ") else { return String::new() };
    let has = instead.split(" (").next().unwrap().replace(" is ", " == ");
    let quoted = Value::from(has).to_string(); // it stands in a JSON text
    quoted[1..quoted.len() - 1].to_owned()
}
