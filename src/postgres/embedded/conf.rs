//! The server's settings, as the text of a configuration file.

use std::fmt::Write as _;

use super::Options;

/// What `initdb` found out about this machine. A path without `/` in front begins where this file lies.
const FOUND: &str = "include 'data/postgresql.conf'\n";

/// What every throw-away server gets.
const COMMON: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("unix_socket_directories", ""),
    ("logging_collector", "off"),
    ("log_line_prefix", "%m [%p] %q%d "),
    ("max_prepared_transactions", "20"),
];

/// What makes it fast and forgetful. Shared memory lies in files of its own directory, so that a killed
/// server leaves none behind in /dev/shm.
const FORGETFUL: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("dynamic_shared_memory_type", "mmap"),
];

/// The whole file: what was found, ours, then those of the options, then `more`.
pub(super) fn text(options: &Options, more: &[(String, String)]) -> String {
    let mut text = FOUND.to_owned();
    let forgetful = if options.durable { &[] } else { FORGETFUL };
    for (name, value) in COMMON.iter().chain(forgetful) {
        line(&mut text, name, value);
    }
    for (name, value) in options.settings.iter().chain(more) {
        line(&mut text, name, value);
    }
    text
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name} = {}", quoted(value)); // writing to a String cannot fail
}

/// A string as the server's configuration files have it: backslash and quote are doubled.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_settings_stand_below_earlier_ones_and_quotes_are_doubled() {
        let options = Options::default().set("fsync", "on");
        let text = text(&options, &[("search_path".into(), "it's \\ here".into())]);
        assert!(text.find("fsync = 'off'") < text.find("fsync = 'on'"));
        assert!(text.ends_with("search_path = 'it''s \\\\ here'\n"), "{text}");
    }

    #[test]
    fn a_durable_server_keeps_what_makes_commits_safe() {
        let text = text(&Options { durable: true, ..Options::default() }, &[]);
        assert!(!text.contains("fsync") && !text.contains("synchronous_commit"), "{text}");
    }
}
