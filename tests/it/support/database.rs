//! One server a run, one database a test.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use deadpool_postgres::Pool;
use reveille::config::Settings;
use reveille::postgres::Server;
use reveille::postgres::embedded::{Options, Throwaway};
use reveille::postgres::migrator::Migrator;
use tokio::sync::{Mutex, OnceCell};
use tokio_postgres::{Client, NoTls};

const TEMPLATE: &str = "reveille_template";
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);

/// The run's server, started by the first test that asks; it goes with the process.
static SERVER: OnceCell<Arc<Throwaway>> = OnceCell::const_new();
/// Copies of the template are made one at a time: each needs a checkpoint.
static CREATING: Mutex<()> = Mutex::const_new(());

/// The server that all tests share. Tests that stop, kill or slow a server take [`own_server`].
pub(crate) async fn shared_server() -> Arc<Throwaway> {
    let start = async || {
        let server = own_server(quiet_options()).await;
        admin(&server.url("postgres"), &format!("create database {TEMPLATE}")).await;
        migrate(server.url(TEMPLATE)).await;
        Arc::new(server)
    };
    Arc::clone(SERVER.get_or_init(start).await)
}

/// A server for one test alone.
pub(crate) async fn own_server(options: Options) -> Throwaway {
    Throwaway::start(options).await.unwrap_or_else(|e| panic!("{e}\n{}", e.hint_text().unwrap_or_default()))
}

/// A server for tests: forgetful, roomy, and in memory where there is enough of it.
pub(crate) fn quiet_options() -> Options {
    let options = Options { parent: memory(), ..Options::default() };
    options
        .set("max_connections", "200")
        .set("max_prepared_transactions", "20")
        .set("autovacuum", "on")
        .set("shared_buffers", "64MB")
}

/// The folder of a file system in memory, if it has 4 GB to spare: making files there costs a tenth.
fn memory() -> Option<PathBuf> {
    let free = Command::new("df").args(["-Pk", "/dev/shm"]).output().ok()?.stdout;
    let line = String::from_utf8_lossy(&free).lines().nth(1)?.to_owned();
    let kilobytes: u64 = line.split_whitespace().nth(3)?.parse().ok()?;
    (kilobytes > 4 << 20).then(|| "/dev/shm".into())
}

/// A migrated database of one test; it is dropped, with whoever is still connected, when this is.
pub(crate) struct TestDb {
    server: Arc<Throwaway>,
    name: String,
}

impl TestDb {
    /// A copy of the migrated template on the shared server; all gates are closed.
    pub(crate) async fn new() -> Self {
        let server = shared_server().await;
        let strategy = if server.binaries().version >= 15 { " strategy file_copy" } else { "" };
        let name = fresh_name();
        let one_at_a_time = CREATING.lock().await;
        let create = format!("create database {name} template {TEMPLATE}{strategy}");
        admin(&server.url("postgres"), &create).await;
        drop(one_at_a_time);
        Self { server, name }
    }

    /// An empty database, not migrated, on the shared server.
    pub(crate) async fn empty() -> Self {
        Self::create_empty(shared_server().await).await
    }

    /// A migrated database on a server of the test's own.
    pub(crate) async fn on(server: Arc<Throwaway>) -> Self {
        let database = Self::create_empty(server).await;
        migrate(database.url()).await;
        database
    }

    /// An empty database on a server of the test's own.
    pub(crate) async fn empty_on(server: Arc<Throwaway>) -> Self {
        Self::create_empty(server).await
    }

    async fn create_empty(server: Arc<Throwaway>) -> Self {
        let name = fresh_name();
        admin(&server.url("postgres"), &format!("create database {name}")).await;
        Self { server, name }
    }

    /// Brings it to the newest phase.
    pub(crate) async fn migrate(&self) {
        migrate(self.url()).await;
    }

    /// Its server.
    pub(crate) fn server(&self) -> &Arc<Throwaway> {
        &self.server
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// Its address through something else that listens on 127.0.0.1, such as a proxy.
    pub(crate) fn url_through(&self, port: u16) -> String {
        self.url().replacen(&format!(":{}/", self.server.port()), &format!(":{port}/"), 1)
    }

    /// A connection whose other half runs in the test's runtime.
    pub(crate) async fn client(&self) -> Client {
        connect(&self.url()).await
    }

    /// The program's settings with this database's address, else the defaults.
    pub(crate) fn settings(&self) -> Settings {
        settings(self.url())
    }

    /// A pool as the program makes it, with room for `size` connections.
    pub(crate) fn pool(&self, size: usize) -> Pool {
        let server = Server::from_settings(&self.settings().database).unwrap();
        server.pool("test", size, &server.session()).unwrap()
    }

    /// Opens the gates that dispatch, work and NOTIFY need.
    pub(crate) async fn open_gates(&self) {
        open_gates(&self.client().await).await;
    }
}

/// Opens the gates that dispatch, work and NOTIFY need.
pub(crate) async fn open_gates(client: &Client) {
    for key in ["queue.job_substrate.enabled", "queue.worker.enabled", "queue.notify.bridge_enabled"] {
        let open = "select fn_gate_set($1, 'true', 'test', 'opened for a test')";
        client.execute(open, &[&key]).await.unwrap();
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let drop = format!("drop database if exists {} with (force)", self.name);
        CLEANER.send((self.server.url("postgres"), drop)).unwrap();
    }
}

/// Drops databases behind the tests' backs; a test neither waits for it nor has a runtime left for it.
static CLEANER: LazyLock<mpsc::Sender<(String, String)>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel::<(String, String)>();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for (url, statement) in receiver {
            // the server of a test of its own may be gone by now, with all its databases
            let work = async {
                let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
                let driver = tokio::spawn(connection);
                client.batch_execute(&statement).await?;
                drop(client);
                driver.await.ok();
                Ok::<(), tokio_postgres::Error>(())
            };
            runtime.block_on(async { tokio::time::timeout(CONNECT_DEADLINE, work).await }).ok();
        }
    });
    sender
});

fn settings(url: String) -> Settings {
    let mut settings = Settings::default();
    settings.database.url = url;
    settings
}

/// Brings a database to the newest phase, as `reveille migrate up` does.
async fn migrate(url: String) {
    let server = Server::direct(&settings(url).database).unwrap();
    if let Err(e) = Migrator::new(server).up(None, false).await {
        panic!("migrate up: {e}\n{}", e.hint_text().unwrap_or_default());
    }
}

fn fresh_name() -> String {
    format!("test_{}", uuid::Uuid::new_v4().simple())
}

/// Runs one statement outside any test database.
async fn admin(url: &str, statement: &str) {
    let client = connect(url).await;
    if let Err(e) = client.batch_execute(statement).await {
        panic!("{statement}: {:?}", e.as_db_error());
    }
}

/// The password in the address of a throw-away server.
pub(crate) fn password(url: &str) -> &str {
    let (_, rest) = url.split_once("://postgres:").expect("an address with a password");
    rest.split('@').next().unwrap_or_default()
}

/// Makes a user with the same password as `postgres` and `more` clauses, and answers the address as theirs.
pub(crate) async fn login(client: &Client, url: &str, user: &str, more: &str) -> String {
    let create = format!("create role {user} login password '{}' {more}", password(url));
    client.batch_execute(&create).await.unwrap();
    url.replacen("://postgres:", &format!("://{user}:"), 1)
}

/// A connection to any address, driven by the current runtime.
pub(crate) async fn connect(url: &str) -> Client {
    let connecting = tokio::time::timeout(CONNECT_DEADLINE, tokio_postgres::connect(url, NoTls));
    let (client, connection) = connecting.await.expect("connected in time").expect("connected");
    tokio::spawn(connection);
    client
}
