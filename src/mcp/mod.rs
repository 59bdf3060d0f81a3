//! `reveille mcp`: the Model Context Protocol on standard input and output, for agents.
//!
//! Tools to look answer what the command line answers as JSON, by the same functions. Tools to work are there only under
//! a registered executor's name, and are the SQL functions that every executor calls: same gates, same refusals. A
//! refusal and a failure are results with `isError`, never errors of the protocol, so that the agent reads them; what
//! others wrote stands under `untrusted_data`.

mod answer;
mod executor;
mod fields;
mod looks;
mod server;
mod stdio;
mod tools;
mod working;

use std::sync::Arc;
use std::time::Duration;

use rmcp::ServiceExt as _;
use rmcp::service::{QuitReason, ServerInitializeError};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::executor::Executor;
use self::server::Agents;
use self::stdio::Input;
use crate::config::Settings;
use crate::error::{Error, Kind, Result};
use crate::model::executor::ExecutorKind;
use crate::model::refusal::Refusal;
use crate::postgres::Server;
use crate::shutdown::Shutdown;

/// Longest that the start waits for the database; after that it is answered without, and tried again.
const AT_START: Duration = Duration::from_secs(5);

/// How long answers may still be written after the end of standard input: a second more than the protocol's side waits
/// for calls that are under way.
const AFTER_INPUT: Duration = Duration::from_secs(6);
/// The same after a request to stop.
const AFTER_STOP: Duration = Duration::from_secs(3);

/// The name that the agent works under.
#[derive(Debug, Clone)]
pub struct Name {
    /// The registered name.
    pub name: String,
    /// Its kind.
    pub kind: ExecutorKind,
    /// Whether to take it from a process that still beats under it.
    pub takeover: bool,
}

/// Serves until standard input ends or it is told to stop; then gives back what is leased. Without a name it only looks.
///
/// # Errors
/// What trying again cannot mend: wrong settings, a missing right. A refusal of the name is an answer.
pub async fn serve(
    settings: &Settings,
    name: Option<Name>,
    shutdown: &Shutdown,
) -> Result<std::result::Result<(), Refusal>> {
    let server = Server::from_settings(&settings.database)?;
    let executor = name.map(|name| Executor::new(&server, settings, name)).transpose()?.map(Arc::new);
    // before the name is taken: one that is registered by a server that cannot start would fall silent
    let agents = Agents::new(server, settings, executor.clone())?;
    if let Some(executor) = &executor
        && let Err(refusal) = executor.begin(AT_START).await?
    {
        return Ok(Err(refusal));
    }
    let kept = Shutdown::new();
    let keep = async {
        match &executor {
            Some(executor) => executor.keep(&kept).await,
            None => kept.requested().await,
        }
    };
    let talk = async {
        let outcome = Box::pin(talk(agents, shutdown)).await;
        kept.request();
        outcome
    };
    let outcome = tokio::select! {
        ((), outcome) = async { tokio::join!(keep, talk) } => outcome,
        () = shutdown.was_cut() => Ok(()),
    };
    if let Some(executor) = &executor {
        executor.leave().await;
    }
    outcome.map(Ok)
}

/// Speaks until the other side has gone, or until told to stop; what was asked before is answered, if somebody reads it.
async fn talk(agents: Agents, shutdown: &Shutdown) -> Result<()> {
    let input_ended = CancellationToken::new();
    let (reader, writer) = rmcp::transport::stdio_pipes();
    let reader = Input::new(reader, input_ended.clone());
    let unread = async {
        input_ended.cancelled().await;
        sleep(AFTER_INPUT).await;
    };
    tokio::pin!(unread);
    let begun = tokio::select! {
        begun = agents.serve((reader, writer)) => begun,
        () = &mut unread => return Ok(()),
        () = shutdown.requested() => return Ok(()),
    };
    let running = match begun {
        Ok(running) => running,
        Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(error) => {
            let what = format!("standard input does not speak the Model Context Protocol: {error}");
            let error = Error::new(Kind::Io, what).because(error);
            return Err(error.hint("`reveille mcp` is started by an agent's program: docs/mcp.md"));
        }
    };
    let stop = running.cancellation_token();
    let ended = running.waiting();
    tokio::pin!(ended);
    let ended = tokio::select! {
        ended = &mut ended => Some(ended),
        () = unread => None,
        () = shutdown.requested() => {
            stop.cancel();
            timeout(AFTER_STOP, ended).await.ok()
        }
    };
    match ended {
        Some(Ok(QuitReason::JoinError(error)) | Err(error)) => {
            Err(Error::new(Kind::Io, format!("a part of the server failed: {error}")).because(error))
        }
        Some(Ok(_)) => Ok(()),
        None => {
            tracing::warn!("not all answers were read: ending without");
            Ok(())
        }
    }
}
