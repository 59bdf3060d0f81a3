//! Arguments → settings → log → command → exit code.

use std::process::ExitCode;

use reveille::cli::output::{self, Output};
use reveille::cli::{Cli, Context, Outcome, log};
use reveille::config::LogFormat;
use reveille::error::{Error, Result};

fn main() -> ExitCode {
    let cli = match Cli::from_arguments() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let json = cli.json();
    let context = match prepare(&cli) {
        Ok(context) => context,
        Err(error) => return output::fail(&error, json),
    };
    let in_log = cli.is_service() && context.settings.log.format == LogFormat::Json;
    match run(cli, &context) {
        Ok(outcome) => output::conclude(&outcome, json),
        Err(error) if in_log && !json => output::fail_in_log(&error),
        Err(error) => output::fail(&error, json),
    }
}

fn prepare(cli: &Cli) -> Result<Context> {
    let settings = cli.settings()?;
    log::start(settings.log)?;
    Ok(Context { settings, out: Output::new(cli.json()) })
}

fn run(cli: Cli, context: &Context) -> Result<Outcome> {
    // one thread: the work is done by the server, and a hop between threads is a tenth of a wake-up
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Error::io("the runtime", error))?;
    let outcome = runtime.block_on(cli.run(context));
    runtime.shutdown_background(); // a name that is still being looked up must not keep a stopped program
    outcome
}
