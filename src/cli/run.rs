//! `reveille run`: the sidecar.

use super::context::{Context, Outcome};
use super::signals::Signals;
use crate::app;
use crate::config::Flag;
use crate::error::Result;
use crate::shutdown::Shutdown;

/// Run the sidecar: turn events into jobs until told to stop
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  DATABASE_URL=postgres://reveille@localhost/app reveille run

Stops softly on SIGTERM or Ctrl-C, within [shutdown] deadline; at once on the second signal.")]
pub(super) struct Args {
    /// Hear no notifications, only poll: for poolers and for closed gates
    #[arg(long)]
    poll_only: bool,
}

impl Args {
    pub(super) fn flags(&self) -> Vec<Flag> {
        let listen = Flag { name: "--poll-only", key: "dispatch.listen", value: "false".to_owned() };
        if self.poll_only { vec![listen] } else { Vec::new() }
    }
}

pub(super) async fn run(_: Args, context: &Context) -> Result<Outcome> {
    let shutdown = Shutdown::new();
    let mut signals = Signals::new()?;
    let deadline = context.settings.shutdown.deadline;
    let sidecar = app::run(&context.settings, shutdown.clone());
    tokio::pin!(sidecar);
    let outcome = tokio::select! {
        outcome = &mut sidecar => outcome,
        () = signals.two_steps(&shutdown, deadline) => sidecar.await,
    };
    outcome?;
    tracing::info!("stopped");
    Ok(Outcome::Done)
}
