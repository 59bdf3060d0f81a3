//! The log: to standard error, one line per change of state. A message can be read alone; its fields are
//! dotted (`dispatch.domain`), with their unit in the name where they have one.

use std::fmt;
use std::io::IsTerminal as _;

use anstyle::{AnsiColor, Style};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Log, LogFormat, LogLevel};
use crate::error::{Error, Result};

/// The variables that may hold a finer filter than `[log] level`, strongest first.
const FILTER_VARIABLES: [&str; 2] = ["REVEILLE_LOG", "RUST_LOG"];

/// Starts the log of this process.
///
/// # Errors
/// A filter in `REVEILLE_LOG` or `RUST_LOG` that cannot be read.
pub fn start(settings: Log) -> Result<()> {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let dispatch = lines(settings.format, filter(settings.level)?, colour, std::io::stderr);
    dispatch.try_init().map_err(|error| Error::usage(format!("the log cannot be started twice: {error}")))
}

/// Writes each event as a line of `format`.
fn lines<W>(format: LogFormat, filter: EnvFilter, colour: bool, writer: W) -> Dispatch
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).finish().into(),
        LogFormat::Text => builder.with_ansi(colour).event_format(Line).finish().into(),
    }
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
    // the driver reports each NOTICE of the server at info, the pool each connection that a restart closed as a
    // warning, the SDK of `mcp` each message: none is a change of state
    Ok(EnvFilter::new(match level {
        LogLevel::Off => "off",
        LogLevel::Error => "error",
        LogLevel::Warn => "warn,deadpool=error",
        LogLevel::Info => "info,tokio_postgres=warn,deadpool=error,rmcp=warn",
        LogLevel::Debug => "debug,tokio_postgres=warn,deadpool=error,rmcp=warn",
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What one change of state looks like at level info.
    fn logged(format: LogFormat) -> String {
        let lines_written = Lines::default();
        let writer = lines_written.clone();
        let dispatch = lines(format, EnvFilter::new("info"), false, move || writer.clone());
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info!(dispatch.domain = "staging", dispatch.took_ms = 3, "domain is awake");
            tracing::debug!("not shown");
        });
        String::from_utf8(lines_written.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_text_line_has_time_level_message_and_dotted_fields() {
        let text = logged(LogFormat::Text);
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{text}");
        assert_eq!(rest, "INFO  domain is awake dispatch.domain=\"staging\" dispatch.took_ms=3\n");
    }

    #[test]
    fn a_json_line_has_the_same_words() {
        let line: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json)).unwrap();
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "domain is awake");
        assert_eq!(line["dispatch.domain"], "staging");
        assert_eq!(line["dispatch.took_ms"], 3);
    }
}
