//! What signs in at the dashboard.
//!
//! The file that holds it is read by the process that serves the dashboard, and by nobody else: other users, who only look,
//! need not be able to read it.

use super::read::{Checked, Fault, text};
use super::settings::{Http, Secret};
use super::typed::Value;
use crate::error::{Error, Result};

/// Fewest characters of a token.
const SHORTEST: usize = 16;

pub(super) fn token(value: &Value) -> Checked<Secret> {
    let text = text(value)?;
    checked(&text).map_err(Fault::rule)?;
    Ok(Secret(text))
}

/// Short enough to be guessed is not a token. The value is never shown.
fn checked(text: &str) -> Result<(), String> {
    match text.chars().count() {
        0 | SHORTEST.. if !text.contains(char::is_whitespace) => Ok(()),
        0 | SHORTEST.. => Err("must be one word, without white space".to_owned()),
        short => Err(format!(
            "must have at least {SHORTEST} characters, not {short}: `openssl rand -hex 24` makes one"
        )),
    }
}

impl Http {
    /// The token, from `token` or from the file `token_file`; empty when neither is given.
    ///
    /// # Errors
    /// Kind Usage: the file cannot be read, or holds no token.
    pub fn read_token(&self) -> Result<Secret> {
        if self.token_file.as_os_str().is_empty() {
            return Ok(self.token.clone());
        }
        let path = self.token_file.display();
        let wrong = |rule: String| Error::usage(format!("[http] token_file: the file `{path}` {rule}"));
        let content = std::fs::read_to_string(&self.token_file)
            .map_err(|error| wrong(format!("cannot be read: {error}")).because(error))?;
        let content = content.trim();
        if content.is_empty() {
            return Err(wrong("is empty".to_owned()));
        }
        checked(content).map_err(wrong)?;
        Ok(Secret(content.to_owned()))
    }
}
