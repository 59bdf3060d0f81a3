//! Arguments → settings → log → command → exit code.

use std::process::ExitCode;

use reveille::cli::output::{self, Output};
use reveille::cli::{Cli, Context, Outcome, log};
use reveille::error::{Error, Result};

fn main() -> ExitCode {
    let cli = match Cli::from_arguments() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let json = cli.json();
    match run(cli) {
        Ok(outcome) => output::conclude(&outcome, json),
        Err(error) => output::fail(&error, json),
    }
}

fn run(cli: Cli) -> Result<Outcome> {
    let settings = cli.settings()?;
    log::start(settings.log)?;
    let context = Context { settings, out: Output::new(cli.json()) };
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Error::io("the runtime", error))?;
    runtime.block_on(cli.run(&context))
}
