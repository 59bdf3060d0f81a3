//! Takes the text of a database address apart, into what comes before its parameters and the parameters.

use crate::error::{Error, Result};

/// One parameter: its name, its meaning, and how to write it for `tokio_postgres`.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) raw: String,
}

/// The text taken apart: what comes before the parameters, and the parameters.
#[derive(Debug)]
pub(super) struct Written {
    /// The URL up to its `?`; empty for `key=value`.
    pub(super) base: String,
    pub(super) pairs: Vec<Pair>,
    pub(super) is_url: bool,
    /// Whether the name of an unknown parameter can be shown: it might be the rest of a password.
    pub(super) may_name_unknown: bool,
}

impl Written {
    /// Reads either form.
    pub(super) fn read(text: &str) -> Result<Self> {
        match ["postgres://", "postgresql://"].iter().find(|scheme| text.starts_with(**scheme)) {
            Some(scheme) => Self::url(text, scheme.len()),
            None => Self::pairs(text),
        }
    }

    fn url(text: &str, scheme: usize) -> Result<Self> {
        let authority = text[scheme..].find(['/', '?']).map_or(text.len(), |at| scheme + at);
        if text[scheme..authority].matches('@').count() > 1 || text[authority..].contains('@') {
            return Err(Error::usage("the database URL has an `@` where none can stand").hint(
                "in user and password write @ as %40, : as %3A, / as %2F, ? as %3F, # as %23, % as %25",
            ));
        }
        let (base, query) = match text[authority..].find('?') {
            Some(at) => (&text[..authority + at], &text[authority + at + 1..]),
            None => (text, ""),
        };
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, raw) = pair.split_once('=').unwrap_or((pair, ""));
            Ok(Pair { key: decode(key)?, value: decode(raw)?, raw: raw.to_owned() })
        });
        Ok(Self {
            base: base.to_owned(),
            pairs: pairs.collect::<Result<_>>()?,
            is_url: true,
            may_name_unknown: true,
        })
    }

    fn pairs(text: &str) -> Result<Self> {
        let not_an_address = || {
            Error::usage("the database address is neither a URL nor a list of key=value")
                .hint("write postgres://user@host:5432/dbname, or host=… port=… dbname=… user=…")
        };
        let mut pairs = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (key, after) = rest.split_once('=').ok_or_else(not_an_address)?;
            let key = key.trim_end();
            if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == ':' || c == '/') {
                return Err(not_an_address());
            }
            let (value, after) = quoted(after.trim_start()).ok_or_else(not_an_address)?;
            let raw = format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
            pairs.push(Pair { key: key.to_owned(), value, raw });
            rest = after.trim_start();
        }
        // an unquoted password with a blank in it goes on as the "name" of the next parameter
        let may_name_unknown = pairs.iter().all(|pair| pair.key != "password");
        Ok(Self { base: String::new(), pairs, is_url: false, may_name_unknown })
    }
}

/// The value at the start of `text` and what follows it; quotes and backslashes as in libpq.
fn quoted(text: &str) -> Option<(String, &str)> {
    let in_quotes = text.starts_with('\'');
    let mut value = String::new();
    let mut letters = text.char_indices().skip(usize::from(in_quotes));
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => value.push(letters.next()?.1),
            '\'' if in_quotes => return Some((value, &text[at + 1..])),
            blank if blank.is_whitespace() && !in_quotes => return Some((value, &text[at..])),
            other => value.push(other),
        }
    }
    (!in_quotes).then_some((value, ""))
}

/// Percent-decoding, as in a URL.
fn decode(text: &str) -> Result<String> {
    let broken = || Error::usage("the database URL has a broken %-sequence among its parameters");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let digits =
                after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(broken)?;
            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| broken())?);
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).map_err(|_| broken())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys_and_values(text: &str) -> Vec<(String, String)> {
        Written::read(text).unwrap().pairs.into_iter().map(|pair| (pair.key, pair.value)).collect()
    }

    #[test]
    fn quotes_and_backslashes_are_read_as_libpq_reads_them() {
        let pairs = keys_and_values(r"host = h password='it\'s \\ me'  dbname=a\ b");
        let expected = [("host", "h"), ("password", r"it's \ me"), ("dbname", "a b")];
        assert_eq!(pairs, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn url_parameters_are_decoded() {
        let pairs = keys_and_values("postgres://u:p@h/d?options=-c%20a%3Db&sslmode=require");
        let expected = [("options", "-c a=b"), ("sslmode", "require")];
        assert_eq!(pairs, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn an_at_sign_in_the_password_is_refused_without_showing_it() {
        for text in ["postgres://u:geh@eim@h/d", "postgres://u:geh/eim@h/d", "postgres://u:geh?eim@h/d"] {
            let error = Written::read(text).unwrap_err();
            let shown = format!("{error} {}", error.hint_text().unwrap_or_default());
            assert!(!shown.contains("geh") && !shown.contains("eim"), "{shown}");
            assert!(shown.contains("%40"), "{shown}");
        }
    }
}
