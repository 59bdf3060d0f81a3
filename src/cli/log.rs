//! The log: to standard error, one line per change of state. A message can be read alone; its fields are
//! dotted (`dispatch.domain`), with their unit in the name where they have one.

use std::fmt;
use std::io::IsTerminal as _;

use anstyle::{AnsiColor, Style};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, time::FormatTime, time::SystemTime};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{Log, LogFormat, LogLevel};
use crate::error::{Error, Result};

/// The variables that may hold a finer filter than `[log] level`, strongest first.
const FILTER_VARIABLES: [&str; 2] = ["REVEILLE_LOG", "RUST_LOG"];

/// Starts the log of this process.
///
/// # Errors
/// A filter in `REVEILLE_LOG` or `RUST_LOG` that cannot be read.
pub fn start(settings: Log) -> Result<()> {
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter(settings.level)?).with_writer(std::io::stderr);
    let started = match settings.format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Text => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(colour).event_format(Line).try_init()
        }
    };
    started.map_err(|error| Error::usage(format!("the log cannot be started twice: {error}")))
}

fn filter(level: LogLevel) -> Result<EnvFilter> {
    for name in FILTER_VARIABLES {
        if let Some(text) = std::env::var(name).ok().filter(|text| !text.is_empty()) {
            return EnvFilter::try_new(&text).map_err(|error| {
                Error::usage(format!("environment variable {name}: `{text}` is not a log filter: {error}"))
                    .hint("write a level, or module=level pairs: REVEILLE_LOG=info,reveille::dispatch=debug")
            });
        }
    }
    // the driver reports each NOTICE of the server at info
    Ok(EnvFilter::new(match level {
        LogLevel::Off => "off",
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info,tokio_postgres=warn",
        LogLevel::Debug => "debug,tokio_postgres=warn",
        LogLevel::Trace => "trace",
    }))
}

/// Time, level, message, fields.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let style = if writer.has_ansi_escapes() { style(*event.metadata().level()) } else { Style::new() };
        SystemTime.format_time(&mut writer)?;
        write!(writer, " {style}{:<5}{style:#} ", event.metadata().level())?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

fn style(level: Level) -> Style {
    let colour = match level {
        Level::ERROR => AnsiColor::Red,
        Level::WARN => AnsiColor::Yellow,
        Level::INFO => AnsiColor::Green,
        _ => AnsiColor::Blue,
    };
    Style::new().fg_color(Some(colour.into()))
}
