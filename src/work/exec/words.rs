//! The line of `--exec`: words and quotes as in a shell, but no shell reads it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What only a shell would do something with.
const SHELL: &str = "|&;<>()$`";

/// The words of a line, at least one. Quotes, double quotes and backslashes group them as in a shell.
pub(super) fn split(line: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' | '"' => quoted(&mut letters, letter, word.get_or_insert_default(), line)?,
            '\\' => {
                let next = letters.next().ok_or_else(|| wrong(line, "a backslash at its end"))?;
                word.get_or_insert_default().push(next);
            }
            _ if SHELL.contains(letter) => return Err(for_a_shell(line, letter)),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    if words.first().is_none_or(String::is_empty) {
        return Err(wrong(line, "no program"));
    }
    Ok(words)
}

/// Adds what stands up to the closing quote.
fn quoted(letters: &mut std::str::Chars<'_>, quote: char, word: &mut String, line: &str) -> Result<()> {
    loop {
        match letters.next() {
            None => return Err(wrong(line, "a quote that is not closed")),
            Some(letter) if letter == quote => return Ok(()),
            Some('\\') if quote == '"' => match letters.next() {
                Some(next) if "\\\"$`".contains(next) => word.push(next),
                next => word.extend(['\\'].into_iter().chain(next)),
            },
            Some(letter) if quote == '"' && "$`".contains(letter) => return Err(for_a_shell(line, letter)),
            Some(letter) => word.push(letter),
        }
    }
}

fn wrong(line: &str, what: &str) -> Error {
    Error::usage(format!("--exec `{line}` has {what}"))
        .hint("name a program and its arguments: --exec './resize --width 80'")
}

fn for_a_shell(line: &str, letter: char) -> Error {
    Error::usage(format!("--exec `{line}` has a `{letter}`, and no shell reads it"))
        .hint("quote it to pass it on as it is, or have a shell read the line: --exec \"sh -c '…'\"")
}

/// Fails unless there is such a program: a path as it is, a name on the PATH.
pub(super) fn find(program: &str) -> Result<()> {
    let places: Vec<PathBuf> = if program.contains('/') {
        vec![PathBuf::from(program)]
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(program)).collect()
    };
    if places.iter().any(|place| can_run(place)) {
        return Ok(());
    }
    let why = match places.as_slice() {
        [place] if place.is_file() => "may not be run; `chmod +x` allows it",
        _ if program.contains('/') => "does not exist",
        _ => "is not on the PATH",
    };
    Err(Error::usage(format!("--exec: {program} {why}"))
        .hint("nothing was claimed: correct --exec and start again"))
}

fn can_run(place: &Path) -> bool {
    place.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        for (line, words) in [
            ("a", vec!["a"]),
            ("  a  b\tc\n", vec!["a", "b", "c"]),
            ("a 'b c' \"d e\"", vec!["a", "b c", "d e"]),
            ("a b' 'c\"\"d", vec!["a", "b cd"]),
            ("a '' \"\"", vec!["a", "", ""]),
            (r#"a \' "\"\n\\" '\n'"#, vec!["a", "'", r#""\n\"#, r"\n"]),
            ("sh -c 'a | b > $C'", vec!["sh", "-c", "a | b > $C"]),
            (r"a \$b \;", vec!["a", "$b", ";"]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn what_only_a_shell_understands_is_refused_instead_of_passed_on() {
        for line in ["a | b", "a; b", "a > b", "a $B", "a \"$B\"", "a `b`", "a && b", "(a)"] {
            assert!(split(line).unwrap_err().hint_text().unwrap().contains("sh -c"), "{line}");
        }
        for line in ["", "  ", "''", "a 'b", "a \"b", "a \\"] {
            assert!(split(line).is_err(), "{line}");
        }
    }
}
