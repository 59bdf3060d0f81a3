//! The command line as its users meet it: help, exit codes, errors in words and as JSON.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clap::CommandFactory;
use reveille::cli::Cli;

/// The built program, in a folder without `config.toml`, without settings in its environment.
pub(crate) fn reveille(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reveille"));
    command.args(arguments).current_dir(env!("CARGO_TARGET_TMPDIR"));
    for (name, _) in std::env::vars() {
        if name.starts_with("REVEILLE") || name == "DATABASE_URL" || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command
}

pub(crate) fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Every command and subcommand with the words that lead to it.
pub(crate) fn commands() -> Vec<(Vec<String>, clap::Command)> {
    fn walk(words: &[String], command: &clap::Command, found: &mut Vec<(Vec<String>, clap::Command)>) {
        found.push((words.to_vec(), command.clone()));
        for inner in command.get_subcommands() {
            walk(&[words, &[inner.get_name().to_owned()]].concat(), inner, found);
        }
    }
    let mut root = Cli::command().term_width(100);
    root.build();
    let mut found = Vec::new();
    walk(&["reveille".to_owned()], &root, &mut found);
    found
}

/// Compares with the golden file, or writes it when `UPDATE_GOLDEN` is set. Gives a complaint.
fn differs(name: &str, text: &str) -> Option<String> {
    let path = golden().join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    (golden != text).then(|| format!("--- {}\n{golden}\n--- now\n{text}", path.display()))
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/help")
}

#[test]
fn help_texts_are_as_reviewed() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::remove_dir_all(golden()).unwrap();
        std::fs::create_dir_all(golden()).unwrap();
    }
    let mut complaints = Vec::new();
    let mut names = Vec::new();
    for (words, mut command) in commands() {
        let name = format!("{}.txt", words.join("-"));
        complaints.extend(differs(&name, &command.render_long_help().to_string()));
        names.push(name);
    }
    for entry in std::fs::read_dir(golden()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !names.contains(&name) {
            complaints.push(format!("{name} belongs to no command"));
        }
    }
    assert!(
        complaints.is_empty(),
        "{}\nUPDATE_GOLDEN=1 cargo test help_texts writes them",
        complaints.join("\n")
    );
}

#[test]
fn every_command_explains_itself_and_shows_an_example() {
    let all = commands();
    for (words, command) in &all {
        let name = words.join(" ");
        assert!(command.get_about().is_some(), "{name} has no help");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name}: {} has no help", argument.get_id());
        }
        // a command's examples may stand with its parent
        if !command.has_subcommands() {
            let parent = &words[..words.len() - 1];
            let mut homes = all.iter().filter(|(home, _)| home == words || home == parent);
            let shown = homes.any(|(_, home)| {
                let after = home.get_after_help().map(ToString::to_string).unwrap_or_default();
                after.contains("Example") && after.contains(&name)
            });
            assert!(shown, "{name} shows no example");
        }
    }
    Cli::command().debug_assert();
}

#[test]
fn wrong_usage_and_wrong_settings_exit_with_2() {
    let (code, out, err) = output(&mut reveille(&["completions", "bsh"]));
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.contains("a similar value exists: 'bash'"), "{err}");

    let (code, out, err) = output(&mut reveille(&["health", "--config", "missing.toml"]));
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.contains("missing.toml"), "{err}");
}

#[test]
fn settings_are_complained_about_all_at_once_in_words_and_as_json() {
    let wrong = [("REVEILLE__DISPATCH__POL_INTERVAL", "1s"), ("REVEILLE__WORKER__KIND", "PG_wroker")];
    let (code, _, err) = output(reveille(&["health"]).envs(wrong));
    assert_eq!(code, Some(2));
    assert!(err.starts_with("error: 2 problems in the settings:\n"), "{err}");
    assert!(err.contains("did you mean `dispatch.poll_interval`?"), "{err}");
    assert!(err.contains("worker.kind (environment variable REVEILLE__WORKER__KIND)"), "{err}");

    let (code, out, err) = output(reveille(&["health", "--json"]).envs(wrong));
    assert_eq!((code, out.as_str()), (Some(2), ""));
    let error: serde_json::Value = serde_json::from_str(&err).unwrap();
    assert_eq!(error["error"]["kind"], "usage");
    assert_eq!(error["error"]["problems"][0]["guess"], "PG_worker");
    assert_eq!(error["error"]["problems"][1]["key"], "dispatch.pol_interval");
}

#[test]
fn a_log_filter_that_cannot_be_read_is_wrong_usage() {
    let (code, _, err) = output(reveille(&["health"]).env("REVEILLE_LOG", "reveille=loud"));
    assert_eq!(code, Some(2));
    assert!(err.contains("REVEILLE_LOG") && err.contains("hint:"), "{err}");
}

#[test]
fn complaints_about_arguments_are_json_when_asked() {
    let (code, out, err) = output(&mut reveille(&["--json", "healt"]));
    assert_eq!((code, out.as_str()), (Some(2), ""));
    let error: serde_json::Value = serde_json::from_str(&err).unwrap();
    assert_eq!(error["error"]["kind"], "usage");
}

#[test]
fn completions_work_in_a_folder_whose_config_toml_belongs_to_somebody_else() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("foreign");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.toml"), "theme = \"dark\"\n").unwrap();
    let (code, out, err) = output(reveille(&["completions", "bash"]).current_dir(folder));
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.contains("_reveille()"), "{out}");
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let script = format!("'{}' completions bash | head -c 1", env!("CARGO_BIN_EXE_reveille"));
    let (code, _, err) = output(Command::new("bash").args(["-o", "pipefail", "-c", &script]));
    assert_eq!((code, err.as_str()), (Some(0), ""));
}
