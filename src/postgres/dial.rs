//! Opens one connection: the hosts in turn, each under its own deadline.
//!
//! `connect_timeout` of `tokio_postgres` covers the TCP connect alone; a host that accepts and stays silent would
//! hold the whole attempt. Here the deadline covers the handshake too, and a silent host does not hide the next.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::config::{Host, LoadBalanceHosts};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The half of a connection that must be polled for the other half, the client, to move.
pub type Connection =
    tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// Everything needed to open connections of one sort.
#[derive(Clone)]
pub(super) struct Dialer {
    hosts: Vec<Config>,
    at_random: bool,
    tls: MakeRustlsConnect,
    deadline: Duration,
}

/// Why one host did not do.
#[derive(Debug)]
pub(super) enum Failure {
    /// It answered with an error, or could not be reached.
    Error(tokio_postgres::Error),
    /// It did not finish the handshake within the deadline.
    Silent,
}

impl Dialer {
    /// `deadline` is for each host.
    pub(super) fn new(config: &Config, tls: MakeRustlsConnect, deadline: Duration) -> Self {
        Self {
            hosts: (0..config.get_hosts().len()).map(|index| single(config, index)).collect(),
            at_random: config.get_load_balance_hosts() == LoadBalanceHosts::Random,
            tls,
            deadline,
        }
    }

    /// The longest that [`Self::dial`] takes.
    pub(super) fn longest(&self) -> Duration {
        self.deadline * u32::try_from(self.hosts.len()).unwrap_or(u32::MAX)
    }

    /// The first host that lets us in; else why each did not, with its place in the address.
    pub(super) async fn dial(&self) -> Result<(Client, Connection), Vec<(usize, Failure)>> {
        let count = self.hosts.len();
        let start = if self.at_random { random_below(count) } else { 0 };
        let mut failures = Vec::new();
        for index in (0..count).map(|step| (start + step) % count) {
            match timeout(self.deadline, self.hosts[index].connect(self.tls.clone())).await {
                Ok(Ok(opened)) => return Ok(opened),
                Ok(Err(error)) => failures.push((index, Failure::Error(error))),
                Err(_) => failures.push((index, Failure::Silent)),
            }
        }
        Err(failures)
    }
}

fn random_below(count: usize) -> usize {
    let random = uuid::Uuid::new_v4().as_u128() % (count.max(1) as u128);
    usize::try_from(random).unwrap_or_default()
}

/// The same configuration for one of its hosts.
fn single(config: &Config, index: usize) -> Config {
    let mut one = Config::new();
    match &config.get_hosts()[index] {
        Host::Tcp(host) => one.host(host),
        Host::Unix(path) => one.host_path(path),
    };
    if let Some(hostaddr) = config.get_hostaddrs().get(index) {
        one.hostaddr(*hostaddr);
    }
    let ports = config.get_ports();
    one.port(ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432));
    config.get_user().map(|user| one.user(user));
    config.get_password().map(|password| one.password(password));
    config.get_dbname().map(|dbname| one.dbname(dbname));
    config.get_options().map(|options| one.options(options));
    config.get_application_name().map(|name| one.application_name(name));
    config.get_connect_timeout().map(|timeout| one.connect_timeout(*timeout));
    config.get_tcp_user_timeout().map(|timeout| one.tcp_user_timeout(*timeout));
    config.get_keepalives_interval().map(|interval| one.keepalives_interval(interval));
    config.get_keepalives_retries().map(|retries| one.keepalives_retries(retries));
    one.keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .channel_binding(config.get_channel_binding())
        .target_session_attrs(config.get_target_session_attrs());
    one
}
