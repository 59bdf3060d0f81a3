//! `reveille mcp`: tools for agents.

use clap::builder::PossibleValuesParser;

use super::context::{Context, Outcome};
use super::signals::Signals;
use crate::config::Flag;
use crate::error::{Error, Result};
use crate::mcp::{self, Name};
use crate::model::executor::ExecutorKind;
use crate::shutdown::Shutdown;

/// Kinds of executor that agents are.
const KINDS: [&str; 3] = ["Agent", "Codex", "Hermes"];

/// Serve tools for agents on standard input and output, by the Model Context Protocol
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reveille mcp
  reveille mcp --executor reviewer-1 --kind Codex --lease 10m

An agent's program starts it; docs/mcp.md says how. Without --executor its tools only look. The log
goes to standard error. When standard input ends, or on SIGTERM, jobs that are leased are given back.")]
pub(super) struct Args {
    /// Work under this name, too: claim, renew, succeed, fail; the login that registers a name owns it
    #[arg(long, value_name = "NAME", value_parser = name)]
    executor: Option<String>,
    /// Kind of executor; it is given jobs of this kind alone
    #[arg(long, value_name = "KIND", default_value = "Agent", value_parser = PossibleValuesParser::new(KINDS), requires = "executor")]
    kind: String,
    /// Length of a lease, which the agent itself must renew; without it `[worker] lease`, else the gate key
    /// `queue.lease.duration_sec`
    #[arg(long, value_name = "DURATION", requires = "executor")]
    lease: Option<String>,
    /// Take the name from a process that still beats under it
    #[arg(long, requires = "executor")]
    takeover: bool,
}

impl Args {
    pub(super) fn flags(&self) -> Vec<Flag> {
        let lease = self.lease.clone();
        lease.map(|value| Flag { name: "--lease", key: "worker.lease", value }).into_iter().collect()
    }
}

fn name(text: &str) -> std::result::Result<String, String> {
    if text.trim().is_empty() { Err("a name is not empty".to_owned()) } else { Ok(text.to_owned()) }
}

pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome> {
    let settings = &context.settings;
    let kind: ExecutorKind = args.kind.parse().map_err(Error::usage)?;
    let name = args.executor.map(|name| Name { name, kind, takeover: args.takeover });
    let shutdown = Shutdown::new();
    let mut signals = Signals::new()?;
    let mut serve = Box::pin(mcp::serve(settings, name, &shutdown));
    let served = tokio::select! {
        served = &mut serve => served,
        () = signals.two_steps(&shutdown, settings.shutdown.deadline) => serve.await,
    }?;
    match served {
        Ok(()) => Ok(Outcome::Done),
        // as an error, because standard output belongs to the protocol
        Err(refusal) => Err(refusal.into_error("working under this name")),
    }
}
