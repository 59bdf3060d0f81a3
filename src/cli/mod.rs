//! The commands: words in, words out.
//!
//! One file a command. Each has `Args` (clap, with help and an example) and
//! `pub(super) async fn run(args: Args, context: &Context) -> Result<Outcome>`; adding one is a file, a
//! `mod` line, a variant of [`Command`] and an arm of [`Command::run`]. A command whose flags are settings
//! also has `Args::flags`, named in [`Command::flags`].

mod audit;
mod bench;
mod completions;
mod consumers;
pub mod context;
mod demo;
mod dlq;
mod doctor;
mod events;
mod executors;
mod explain;
mod gate;
mod health;
mod jobs;
pub mod log;
mod man;
mod mcp;
mod migrate;
pub mod output;
mod pause;
mod payload;
mod progress;
mod resume;
mod routes;
mod run;
mod schedules;
mod signals;
mod subscriptions;
mod tick;
mod tries;
mod watch;
mod work;
mod workflows;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Flag, Settings, Sources};
use crate::error::Result;

pub use context::{Context, Outcome};

/// Turns committed facts into jobs, beside your Postgres.
#[derive(Debug, Parser)]
#[command(
    name = "reveille",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = "Settings come from ./config.toml or --config FILE, then the environment (DATABASE_URL,\n\
                  REVEILLE__SECTION__KEY), then flags.\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 refused by the database's rules."
)]
pub struct Cli {
    /// Read settings from this file; without it ./config.toml is read if it exists
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    config: Option<PathBuf>,
    /// Address of the database; better kept in the variable `DATABASE_URL`, where others cannot see it
    #[arg(long, global = true, value_name = "URL", help_heading = "Everywhere")]
    database_url: Option<String>,
    /// Answer with one JSON document; errors become one JSON object on standard error
    #[arg(long, global = true, help_heading = "Everywhere")]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Run(run::Args),
    Tick(tick::Args),
    Work(work::Args),
    Mcp(mcp::Args),
    Migrate(migrate::Args),
    Events(events::Args),
    Routes(routes::Args),
    Consumers(consumers::Args),
    Subscriptions(subscriptions::Args),
    Jobs(jobs::Args),
    Schedules(schedules::Args),
    Dlq(dlq::Args),
    Workflows(workflows::Args),
    Executors(executors::Args),
    Gate(gate::Args),
    Pause(pause::Args),
    Resume(resume::Args),
    Health(health::Args),
    Doctor(doctor::Args),
    Bench(bench::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    /// What the flags of this command say about settings.
    fn flags(&self) -> Vec<Flag> {
        match self {
            Self::Demo(_) => demo::Args::flags(),
            Self::Run(args) => args.flags(),
            Self::Work(args) => args.flags(),
            Self::Mcp(args) => args.flags(),
            Self::Tick(_)
            | Self::Migrate(_)
            | Self::Events(_)
            | Self::Routes(_)
            | Self::Consumers(_)
            | Self::Subscriptions(_)
            | Self::Jobs(_)
            | Self::Schedules(_)
            | Self::Dlq(_)
            | Self::Workflows(_)
            | Self::Executors(_)
            | Self::Gate(_)
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Health(_)
            | Self::Doctor(_)
            | Self::Bench(_)
            | Self::Completions(_)
            | Self::Man(_) => Vec::new(),
        }
    }

    async fn run(self, context: &Context) -> Result<Outcome> {
        match self {
            Self::Demo(args) => demo::run(args, context).await,
            Self::Run(args) => run::run(args, context).await,
            Self::Tick(args) => tick::run(args, context).await,
            Self::Work(args) => work::run(args, context).await,
            Self::Mcp(args) => mcp::run(args, context).await,
            Self::Migrate(args) => migrate::run(args, context).await,
            Self::Events(args) => events::run(args, context).await,
            Self::Routes(args) => routes::run(args, context).await,
            Self::Consumers(args) => consumers::run(args, context).await,
            Self::Subscriptions(args) => subscriptions::run(args, context).await,
            Self::Jobs(args) => jobs::run(args, context).await,
            Self::Schedules(args) => schedules::run(args, context).await,
            Self::Dlq(args) => dlq::run(args, context).await,
            Self::Workflows(args) => workflows::run(args, context).await,
            Self::Executors(args) => executors::run(args, context).await,
            Self::Gate(args) => gate::run(args, context).await,
            Self::Pause(args) => pause::run(args, context).await,
            Self::Resume(args) => resume::run(args, context).await,
            Self::Health(args) => health::run(args, context).await,
            Self::Doctor(args) => doctor::run(args, context).await,
            Self::Bench(args) => bench::run(args, context).await,
            Self::Completions(args) => completions::run(&args, context),
            Self::Man(args) => man::run(&args, context),
        }
    }
}

impl Cli {
    /// The arguments of this process.
    ///
    /// # Errors
    /// The exit code, when help, a version or a complaint has been printed and nothing is left to do.
    pub fn from_arguments() -> Result<Self, ExitCode> {
        Self::try_parse().map_err(|error| {
            let json = std::env::args_os().any(|argument| argument == "--json");
            output::complain(&error, json)
        })
    }

    /// Whether answers and errors are JSON.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Whether it runs until told to stop, and is read through its log.
    pub fn is_service(&self) -> bool {
        matches!(self.command, Command::Run(_) | Command::Work(_) | Command::Mcp(_))
    }

    /// Gathers and checks the settings.
    pub fn settings(&self) -> Result<Settings> {
        match self.command {
            // must work in any folder, whatever its config.toml is about
            Command::Completions(_) | Command::Man(_) => return Ok(Settings::default()),
            Command::Bench(_) => return Ok(bench::settings()),
            _ => {}
        }
        let mut flags = self.command.flags();
        if let Some(value) = self.database_url.clone() {
            flags.push(Flag { name: "--database-url", key: "database.url", value });
        }
        Ok(Sources::of_process(self.config.clone(), flags).load()?)
    }

    /// Runs the command.
    pub async fn run(mut self, context: &Context) -> Result<Outcome> {
        if let Command::Bench(args) = &mut self.command {
            args.server = self.database_url; // and never the operator's own DATABASE_URL
        }
        self.command.run(context).await
    }
}
