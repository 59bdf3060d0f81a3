//! `reveille completions`: the completion script of a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::error::Result;

use super::{Cli, Context, Outcome};

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  reveille completions bash > /etc/bash_completion.d/reveille")]
pub(super) struct Args {
    /// The shell that will read the script
    shell: Shell,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "reveille", &mut script);
    let script = String::from_utf8_lossy(&script);
    let document = serde_json::json!({ "shell": args.shell.to_string(), "script": script });
    context.out.answer(&document, || script.trim_end().to_owned())?;
    Ok(Outcome::Done)
}
