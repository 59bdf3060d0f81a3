//! Reads a database address: a URL or a `key=value` string, as libpq knows them.
//!
//! `tokio_postgres` refuses some of libpq's parameters and reads others in another unit. Those are taken out
//! here and given their meaning; what we cannot honour is refused by name. Nothing here repeats a password.

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::conninfo::{Pair, Written};
use crate::error::{Error, Result};

/// A checked address: everything the text said, before our own settings are added.
#[derive(Debug)]
pub(super) struct Address {
    /// Hosts, user, password, database, TLS mode and keepalives.
    pub(super) config: tokio_postgres::Config,
    /// How far the server must prove who it is.
    pub(super) proof: Proof,
    /// `sslrootcert`, when it names a file.
    pub(super) root_cert: Option<PathBuf>,
    /// `options`, decoded.
    pub(super) options: Option<String>,
    /// `connect_timeout`, when given and not zero.
    pub(super) connect_timeout: Option<Duration>,
    /// Whether `keepalives_idle` was given.
    pub(super) says_keepalives_idle: bool,
}

/// What the server's certificate must show; the same steps as libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Proof {
    /// `prefer` and `require`: encryption only.
    Nothing,
    /// `verify-ca`: signed by an authority we trust.
    Authority,
    /// `verify-full`: and made out to the host we asked for.
    Name,
}

/// Passed on to `tokio_postgres` as they stand.
const PASSED_ON: [&str; 12] = [
    "user",
    "password",
    "dbname",
    "host",
    "hostaddr",
    "port",
    "sslnegotiation",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "channel_binding",
    "load_balance_hosts",
];

/// Without effect on us: we speak UTF-8, never GSSAPI, and set our own application name.
const IGNORED: [&str; 3] = ["application_name", "fallback_application_name", "sslsni"];

impl Address {
    /// Reads `text`; a Usage error names what is wrong and never shows a password.
    ///
    /// `root_cert` is the setting's; `sslrootcert` in the address goes before it.
    pub(super) fn parse(text: &str, root_cert: Option<PathBuf>) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::usage("no database address is set").hint(
                "set DATABASE_URL, or [database] url in config.toml, or give --database-url; \
                 for example postgres://user@localhost/dbname",
            ));
        }
        let written = Written::read(text)?;
        let mut reader =
            Reader { may_name_unknown: written.may_name_unknown, root_cert, ..Reader::default() };
        for pair in written.pairs {
            reader.take(pair)?;
        }
        reader.finish(&written.base, written.is_url)
    }

    /// Our own limits, where the address does not say otherwise; zero leaves it to the system.
    pub(super) fn set_limits(&mut self, connect: Duration, tcp_user: Duration, keepalive_idle: Duration) {
        self.config.connect_timeout(connect);
        if self.config.get_tcp_user_timeout().is_none() && !tcp_user.is_zero() {
            self.config.tcp_user_timeout(tcp_user);
        }
        if !self.says_keepalives_idle && !keepalive_idle.is_zero() {
            self.config.keepalives_idle(keepalive_idle);
        }
    }

    /// `host:port/dbname`, of every host; for messages and logs.
    pub(super) fn describe(&self) -> String {
        let hosts: Vec<String> = (0..self.config.get_hosts().len()).map(|i| self.host(i)).collect();
        let user = self.config.get_user();
        format!("{}/{}", hosts.join(","), self.config.get_dbname().or(user).unwrap_or_default())
    }

    /// `host:port` of the host at `index`.
    pub(super) fn host(&self, index: usize) -> String {
        let ports = self.config.get_ports();
        let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
        match self.config.get_hosts().get(index) {
            Some(Host::Tcp(host)) if host.contains(':') => format!("[{host}]:{port}"),
            Some(Host::Tcp(host)) => format!("{host}:{port}"),
            Some(Host::Unix(path)) => format!("{}:{port}", path.display()),
            None => String::new(),
        }
    }
}

/// What the parameters said.
#[derive(Default)]
struct Reader {
    may_name_unknown: bool,
    passed_on: Vec<(String, String)>,
    mode: Option<SslMode>,
    proof: Option<Proof>,
    root_cert: Option<PathBuf>,
    options: Option<String>,
    connect_timeout: Option<Duration>,
    tcp_user_timeout: Option<Duration>,
    target: Option<TargetSessionAttrs>,
}

impl Reader {
    fn take(&mut self, pair: Pair) -> Result<()> {
        let Pair { key, value, raw } = pair;
        match key.as_str() {
            "sslmode" => self.ssl_mode(&value)?,
            // `system` is libpq's name for the machine's own authorities, which it couples to verify-full
            "sslrootcert" if value == "system" => self.at_least(Proof::Name),
            "sslrootcert" => self.root_cert = Some(PathBuf::from(value)),
            "target_session_attrs" => self.target = Some(target(&value)?),
            "options" => self.options = Some(value),
            "connect_timeout" => {
                self.connect_timeout = Some(number("connect_timeout", &value)?)
                    .filter(|seconds| *seconds > 0)
                    .map(Duration::from_secs);
            }
            // libpq counts this one in milliseconds
            "tcp_user_timeout" => {
                self.tcp_user_timeout = Some(Duration::from_millis(number("tcp_user_timeout", &value)?));
            }
            "keepalives_count" => self.passed_on.push(("keepalives_retries".to_owned(), raw)),
            "gssencmode" if ["disable", "prefer"].contains(&value.as_str()) => {}
            "client_encoding" if ["utf8", "utf-8", "auto"].contains(&value.to_lowercase().as_str()) => {}
            known if IGNORED.contains(&known) => {}
            known if PASSED_ON.contains(&known) => self.passed_on.push((key, raw)),
            _ if self.may_name_unknown => return Err(not_supported(&key)),
            _ => {
                return Err(Error::usage("the database address has a parameter that Reveille does not know")
                    .hint("put a value with blanks between single quotes, the password too"));
            }
        }
        Ok(())
    }

    fn ssl_mode(&mut self, value: &str) -> Result<()> {
        self.mode = Some(match value {
            "disable" => SslMode::Disable,
            // libpq's `allow` tries plain first; both take what the server offers
            "allow" | "prefer" => SslMode::Prefer,
            "require" => SslMode::Require,
            "verify-ca" => {
                self.at_least(Proof::Authority);
                SslMode::Require
            }
            "verify-full" => {
                self.at_least(Proof::Name);
                SslMode::Require
            }
            _ => {
                return Err(Error::usage("the database address has an unknown sslmode")
                    .hint("it is one of disable, allow, prefer, require, verify-ca, verify-full"));
            }
        });
        Ok(())
    }

    fn at_least(&mut self, proof: Proof) {
        self.proof = self.proof.max(Some(proof));
    }

    /// A root certificate asks for proof: as libpq reads it beside an `sslmode`, and in full without one.
    fn tls(&self) -> (SslMode, Proof) {
        let has_root = self.root_cert.is_some();
        let said = self.proof.unwrap_or(Proof::Nothing);
        match self.mode {
            Some(mode) if has_root => (mode, said.max(Proof::Authority)),
            Some(mode) => (mode, said),
            None if has_root || said > Proof::Nothing => (SslMode::Require, Proof::Name),
            None => (SslMode::Prefer, Proof::Nothing),
        }
    }

    fn finish(self, base: &str, is_url: bool) -> Result<Address> {
        let written: Vec<String> = self.passed_on.iter().map(|(key, raw)| format!("{key}={raw}")).collect();
        let text = if is_url { format!("{base}?{}", written.join("&")) } else { written.join(" ") };
        let mut config: tokio_postgres::Config = text.parse().map_err(|error: tokio_postgres::Error| {
            let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            Error::usage(format!("the database address cannot be read: {why}"))
        })?;
        fill_host(&mut config)?;
        let (mode, proof) = self.tls();
        config.ssl_mode(mode);
        // a standby looks healthy and never wakes anybody: unless asked for, it will not do (trap 28)
        config.target_session_attrs(self.target.unwrap_or(TargetSessionAttrs::ReadWrite));
        if let Some(timeout) = self.tcp_user_timeout {
            config.tcp_user_timeout(timeout);
        }
        Ok(Address {
            config,
            proof,
            root_cert: self.root_cert,
            options: self.options,
            connect_timeout: self.connect_timeout,
            says_keepalives_idle: self.passed_on.iter().any(|(key, _)| key == "keepalives_idle"),
        })
    }
}

fn target(value: &str) -> Result<TargetSessionAttrs> {
    match value {
        "any" => Ok(TargetSessionAttrs::Any),
        "read-write" | "primary" => Ok(TargetSessionAttrs::ReadWrite),
        "read-only" => Ok(TargetSessionAttrs::ReadOnly),
        _ => Err(Error::usage(
            "the database address has a target_session_attrs that Reveille does not support",
        )
        .hint("it is one of read-write (the default), primary, read-only, any")),
    }
}

fn number(key: &str, value: &str) -> Result<u64> {
    value.parse().map_err(|_| Error::usage(format!("`{key}` in the database address is not a whole number")))
}

fn not_supported(key: &str) -> Error {
    let error = Error::usage(format!(
        "the database address has the parameter `{key}`, which Reveille does not support"
    ));
    match key {
        "sslcert" | "sslkey" | "sslpassword" => {
            error.hint("client certificates are not supported; use a password")
        }
        "passfile" | "service" | "servicefile" => {
            error.hint("write host, user and password into the address itself")
        }
        "ssl" => {
            error.hint("write sslmode=require, or sslmode=verify-full to have the server's name checked")
        }
        _ => error.hint("remove it from DATABASE_URL or [database] url"),
    }
}

/// Without a host: the usual socket directory, as libpq does. Hosts and addresses must pair up.
fn fill_host(config: &mut tokio_postgres::Config) -> Result<()> {
    let addresses = config.get_hostaddrs().to_vec();
    if config.get_hosts().is_empty() {
        if addresses.is_empty() {
            let usual =
                ["/var/run/postgresql", "/tmp"].into_iter().find(|path| std::path::Path::new(path).is_dir());
            config.host(usual.unwrap_or("localhost"));
        }
        for address in &addresses {
            config.host(address.to_string());
        }
    }
    let hosts = config.get_hosts().len();
    if !addresses.is_empty() && addresses.len() != hosts {
        return Err(Error::usage(format!(
            "the database address names {hosts} hosts and {} hostaddr",
            addresses.len()
        )));
    }
    let ports = config.get_ports().len();
    if ports > 1 && ports != hosts {
        return Err(Error::usage(format!("the database address names {hosts} hosts and {ports} ports")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Address {
        Address::parse(text, None).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn shown(text: &str) -> String {
        let error = Address::parse(text, None).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        format!("{error} / {}", error.hint_text().unwrap_or_default())
    }

    #[test]
    fn both_forms_say_the_same() {
        let places = [
            "postgres://ann:s%40crit@db.example:6000/app?connect_timeout=3&tcp_user_timeout=1500",
            "host=db.example port=6000 user=ann password='s@crit' dbname=app connect_timeout=3 tcp_user_timeout=1500",
        ];
        for text in places {
            let address = parse(text);
            assert_eq!(address.describe(), "db.example:6000/app");
            assert_eq!(address.config.get_password(), Some(&b"s@crit"[..]));
            assert_eq!(address.connect_timeout, Some(Duration::from_secs(3)));
            assert_eq!(address.config.get_tcp_user_timeout(), Some(&Duration::from_millis(1500)));
        }
    }

    #[test]
    fn the_description_names_every_host_and_never_the_password() {
        let address = parse("postgresql://ann:geheim@[::1]:5433,two/app");
        assert_eq!(address.describe(), "[::1]:5433,two:5432/app");
        assert_eq!(parse("postgres:///app?host=/run/pg").describe(), "/run/pg:5432/app");
        assert!(!format!("{address:?}").contains("geheim"));
    }

    #[test]
    fn sslmode_means_what_it_means_to_libpq() {
        let cases = [
            ("", SslMode::Prefer, Proof::Nothing),
            ("sslmode=allow", SslMode::Prefer, Proof::Nothing),
            ("sslmode=disable", SslMode::Disable, Proof::Nothing),
            ("sslmode=require", SslMode::Require, Proof::Nothing),
            ("sslmode=verify-ca", SslMode::Require, Proof::Authority),
            ("sslmode=verify-full", SslMode::Require, Proof::Name),
            ("sslmode=require&sslrootcert=/ca.pem", SslMode::Require, Proof::Authority),
            ("sslrootcert=/ca.pem", SslMode::Require, Proof::Name),
            ("sslrootcert=system", SslMode::Require, Proof::Name),
        ];
        for (query, mode, proof) in cases {
            let address = parse(&format!("postgres://u@h/d?{query}"));
            assert_eq!((address.config.get_ssl_mode(), address.proof), (mode, proof), "{query}");
        }
    }

    #[test]
    fn a_standby_is_not_wanted_unless_the_address_says_so() {
        let wanted = |text| parse(text).config.get_target_session_attrs();
        assert_eq!(wanted("postgres://h/d"), TargetSessionAttrs::ReadWrite);
        assert_eq!(wanted("postgres://h/d?target_session_attrs=primary"), TargetSessionAttrs::ReadWrite);
        assert_eq!(wanted("postgres://h/d?target_session_attrs=any"), TargetSessionAttrs::Any);
        assert!(shown("postgres://h/d?target_session_attrs=standby").contains("target_session_attrs"));
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for key in ["sslcert", "passfile", "service", "ssl", "require_auth", "sslmod"] {
            assert!(shown(&format!("postgres://h/d?{key}=x")).contains(&format!("`{key}`")), "{key}");
        }
        assert!(shown("mysql://u:p@h/d").contains("postgres://"));
        assert!(shown("").contains("DATABASE_URL"));
    }

    #[test]
    fn no_error_shows_the_password() {
        for text in [
            "host=h password=geheim and=more dbname=d",
            "host=h password='geheim",
            "host=h password=geheim and more",
            "postgres://u:geheim@h:port/d",
            "postgres://u:geheim@h/d?sslmode=geheim",
            "postgres://u:geheim/x@h/d",
            "postgres://u:geheim@h/d?port=%zz",
        ] {
            let shown = shown(text);
            assert!(!shown.contains("geheim") && !shown.contains("`and`"), "{text}: {shown}");
        }
    }

    #[test]
    fn without_a_host_the_usual_socket_directory_is_used() {
        let address = parse("dbname=d");
        assert_eq!(address.config.get_hosts().len(), 1);
        assert_eq!(parse("hostaddr=10.0.0.1 dbname=d").describe(), "10.0.0.1:5432/d");
        assert!(shown("host=a,b port=1,2,3").contains("3 ports"));
    }
}
