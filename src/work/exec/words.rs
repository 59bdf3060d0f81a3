//! The line of `--exec`: words and quotes as in a shell, but no shell reads it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What only a shell would do something with.
const SHELL: &str = "|&;<>()$`";

/// The words of a line, at least one. Quotes, double quotes and backslashes group them as in a shell.
pub(super) fn split(line: &str) -> Result<Vec<String>> {
    let words =
        shell_words::split(line).map_err(|error| wrong(line, "a quote that is not closed").because(error))?;
    if let Some(letter) = unquoted(line, &words) {
        return Err(for_a_shell(line, letter));
    }
    if line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1 {
        return Err(wrong(line, "a backslash at its end"));
    }
    if words.first().is_none_or(String::is_empty) {
        return Err(wrong(line, "no program"));
    }
    Ok(words)
}

/// The first letter that a shell would do something with.
fn unquoted(line: &str, words: &[String]) -> Option<char> {
    // what stands behind the `#` of a comment is in no word
    let letters = |words: &[String]| words.iter().map(String::len).sum::<usize>();
    let shown = shell_words::split(&line.replace('#', "x"));
    if shown.is_ok_and(|shown| letters(&shown) > letters(words)) {
        return Some('#');
    }
    // a backslash changes nothing but the meaning of such a letter, and is one more letter where it has none
    let marked = |place| [&line[..place], "\\", &line[place..]].concat();
    let is_live = |place| shell_words::split(&marked(place)).is_ok_and(|same| same == words);
    let mut places = line.char_indices().filter(|(_, letter)| SHELL.contains(*letter));
    places.find(|(place, _)| is_live(*place)).map(|(_, letter)| letter)
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
            (r##"a '$b' "|" c#d '#' "#" \#"##, vec!["a", "$b", "|", "c#d", "#", "#", "#"]),
        ] {
            assert_eq!(split(line).unwrap(), words, "{line}");
        }
    }

    #[test]
    fn what_only_a_shell_understands_is_refused_instead_of_passed_on() {
        for line in ["a | b", "a; b", "a > b", "a $B", "a \"$B\"", "a `b`", "a && b", "(a)", "a # b", "'a'|b"]
        {
            assert!(split(line).unwrap_err().hint_text().unwrap().contains("sh -c"), "{line}");
        }
        for line in ["", "  ", "''", "a 'b", "a \"b", "a \\"] {
            assert!(split(line).is_err(), "{line}");
        }
    }
}
