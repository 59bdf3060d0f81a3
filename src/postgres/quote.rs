//! Names inside SQL text and startup options, where no parameter can stand.

use crate::error::{Error, Result};

/// Postgres cuts names at 63 bytes, silently.
const LONGEST_NAME: usize = 63;

/// A name as SQL takes it, whatever is in it.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string as SQL takes it, whatever is in it.
pub(crate) fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A `do` block around this PL/pgSQL body, whatever is in it.
pub(crate) fn do_block(body: &str) -> String {
    let mut tag = "$reveille$".to_owned();
    while body.contains(&tag) {
        tag.insert(tag.len() - 1, '_');
    }
    format!("do {tag}\nbegin\n{body}\nend\n{tag};\n")
}

/// A value inside the startup parameter `options`, which the server splits at blanks.
pub(super) fn startup_value(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for letter in value.chars() {
        if letter == '\\' || letter.is_ascii_whitespace() {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

/// Refuses a schema name that Postgres would refuse, cut, or keep for itself.
pub(super) fn check_schema(schema: &str) -> Result<()> {
    let wrong = if schema.is_empty() {
        "is empty"
    } else if schema.len() > LONGEST_NAME {
        "is longer than 63 bytes"
    } else if schema.contains('\0') {
        "contains a NUL"
    } else if schema.starts_with("pg_") || schema == "information_schema" {
        "belongs to Postgres itself"
    } else {
        return Ok(());
    };
    Err(Error::usage(format!("[database] schema `{}` {wrong}", schema.escape_debug()))
        .hint("choose another name, for example `public` or `reveille`"))
}

/// The search path of every session and function: our schema, and temporary tables last, so that nobody's
/// temporary table stands in for one of ours (trap 44).
pub(crate) fn search_path(schema: &str) -> String {
    format!("{}, pg_temp", identifier(schema))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_strings_cannot_leave_their_quotes() {
        assert_eq!(identifier(r#"a"; drop"#), r#""a""; drop""#);
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'b"), r" E'a\\''b'");
        assert_eq!(do_block("a$reveille$b"), "do $reveille_$\nbegin\na$reveille$b\nend\n$reveille_$;\n");
        assert_eq!(startup_value(r#""Weird \ Name""#), r#""Weird\ \\\ Name""#);
    }

    #[test]
    fn schema_names_that_postgres_would_cut_or_refuse_are_refused() {
        for bad in ["", "pg_toast", "information_schema", &"x".repeat(64)] {
            assert!(check_schema(bad).is_err(), "{bad}");
        }
        for good in ["public", "Weird Name", "ünï", "a\"b", &"x".repeat(63)] {
            assert!(check_schema(good).is_ok(), "{good}");
        }
    }
}
