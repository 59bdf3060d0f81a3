//! The superuser's password: random, of one server alone, and in no file.

use std::fmt;
use std::io::{PipeReader, Write, pipe};

use super::account::Account;
use crate::error::{Error, Result};

/// Its value is for addresses; what is printed of it is `***`.
pub(super) struct Password(String);

impl Password {
    /// 122 random bits of the operating system, of characters that need no quoting anywhere.
    pub(super) fn random() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// As a connection gives it.
    pub(super) fn value(&self) -> &str {
        &self.0
    }

    /// A pipe that holds it, for the standard input of `initdb --pwfile=/dev/stdin` run by this account.
    pub(super) fn piped(&self, account: &Account) -> Result<PipeReader> {
        let named = |error| Error::io("a pipe for the password", error);
        let (reader, mut writer) = pipe().map_err(named)?;
        account.own_pipe(&reader).map_err(named)?;
        writer.write_all(self.0.as_bytes()).map_err(named)?; // a pipe takes more without a reader
        Ok(reader)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
