//! `--watch`: the same look again and again, until Ctrl-C.

use std::time::Duration;

use tokio::time::sleep;

use super::context::{Context, Outcome};
use super::output::fail;
use super::signals::Signals;
use crate::error::{Kind, Result};

/// How often to look again.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Watch {
    /// Look again every so often, until Ctrl-C; with --json each look is a line
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s", value_parser = every)]
    watch: Option<Duration>,
}

fn every(text: &str) -> std::result::Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write for example 5s"))?;
    if time < Duration::from_millis(100) {
        return Err("at least 100ms".to_owned());
    }
    Ok(time)
}

/// Looks once, or until told to stop. A database that is away is said and ends
/// nothing: whoever watches wants to see it come back.
pub(super) async fn watch(
    Watch { watch }: Watch,
    context: &Context,
    look: impl AsyncFn(&Context) -> Result<Outcome>,
) -> Result<Outcome> {
    let Some(every) = watch else { return look(context).await };
    let mut signals = Signals::new()?;
    let watched = Context { settings: context.settings.clone(), out: context.out.again_and_again() };
    loop {
        tokio::select! {
            () = signals.next() => return Ok(Outcome::Done),
            seen = look(&watched) => match seen {
                Ok(Outcome::Refused(refusal)) => return Ok(Outcome::Refused(refusal)),
                Ok(_) => {}
                Err(error) if matches!(error.kind(), Kind::Unreachable | Kind::Timeout | Kind::Transient) => {
                    fail(&error, watched.out.is_json());
                }
                Err(error) => return Err(error),
            },
        }
        tokio::select! {
            () = signals.next() => return Ok(Outcome::Done),
            () = sleep(every) => {}
        }
    }
}
