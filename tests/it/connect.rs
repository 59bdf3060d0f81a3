//! Connecting: what a session looks like, and what is said when there is none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reveille::config::Database;
use reveille::error::{Error, Kind};
use reveille::postgres::pool::hand_back;
use reveille::postgres::{Server, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{TestDb, connect, database_at, own_server, password, quiet_options, server_at};

mod tls;

const QUICK: Session = Session { statement_timeout: Duration::from_millis(100), synchronous_commit: false };

/// Connecting with these settings fails; the error.
async fn refused(settings: &Database) -> Error {
    let server = Server::from_settings(settings).unwrap();
    server.connect("test").await.map(|_| ()).expect_err("the connection is refused")
}

#[tokio::test]
async fn a_session_begins_with_our_schema_and_our_limits() {
    let database = TestDb::empty().await;
    let settings = Database { schema: "Weird \\ \"Näme\"".to_owned(), ..database_at(&database.url()) };
    let server = Server::from_settings(&settings).unwrap();
    let client = server.client("test", &QUICK).await.unwrap();
    let show = "select current_setting('search_path'), current_setting('application_name'), \
                current_setting('synchronous_commit'), current_setting('idle_in_transaction_session_timeout')";
    let row = client.query_one(show, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "\"Weird \\ \"\"Näme\"\"\", pg_temp");
    assert_eq!(row.get::<_, &str>(1), "reveille/test");
    assert_eq!((row.get(2), row.get(3)), ("off", "1min"));
    client.batch_execute("create schema \"Weird \\ \"\"Näme\"\"\"").await.unwrap();
    let schema: String = client.query_one("select current_schema()::text", &[]).await.unwrap().get(0);
    assert_eq!(schema, settings.schema);
}

#[tokio::test]
async fn a_slow_statement_is_given_up() {
    let database = TestDb::empty().await;
    let client = server_at(&database.url()).client("test", &QUICK).await.unwrap();
    let error = client.batch_execute("select pg_sleep(60)").await.unwrap_err();
    assert_eq!(Error::postgres("sleeping", error).kind(), Kind::Timeout);
}

#[tokio::test]
async fn options_of_the_address_are_kept_and_ours_hold() {
    let database = TestDb::empty().await;
    let url = format!("{}?options=-c%20work_mem%3D9MB%20-c%20statement_timeout%3D5", database.url());
    let client = server_at(&url).client("test", &QUICK).await.unwrap();
    let show = "select current_setting('work_mem'), current_setting('statement_timeout')";
    let row = client.query_one(show, &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), ("9MB", "100ms"));
}

#[tokio::test]
async fn an_error_says_where_and_what_to_do_and_never_the_password() {
    let server = own_server(quiet_options()).await;
    let admin = connect(&server.url("postgres")).await;
    admin.batch_execute("create role ann login password 'geheim'").await.unwrap();
    let port = server.port();
    let free = reveille::postgres::embedded::free_port().unwrap();
    let cases = [
        (format!("postgres://ann:geheim1@127.0.0.1:{port}/postgres"), Kind::Denied, "password"),
        (format!("postgres://ann@127.0.0.1:{port}/postgres"), Kind::Denied, "DATABASE_URL"),
        (format!("postgres://ann:geheim@127.0.0.1:{port}/nowhere"), Kind::Schema, "create the database"),
        (
            format!("postgres://ann:geheim@127.0.0.1:{free}/postgres"),
            Kind::Unreachable,
            "is Postgres running",
        ),
        (format!("postgres://ann:geheim@127.0.0.1:{port}/postgres?sslmode=require"), Kind::Denied, "sslmode"),
    ];
    for (url, kind, hint) in cases {
        let error = refused(&database_at(&url)).await;
        let said = format!("{error} / {}", error.hint_text().unwrap_or_default());
        assert_eq!(error.kind(), kind, "{said}");
        assert!(said.contains("127.0.0.1:") && said.contains(hint), "{said}");
        assert!(!format!("{said} {error:?}").contains("geheim"), "{said}");
    }
    let good = server_at(&format!("postgres://ann:geheim@127.0.0.1:{port}/postgres"));
    good.client("test", &QUICK).await.unwrap();
}

#[tokio::test]
async fn a_silent_host_costs_its_deadline_and_does_not_hide_the_next() {
    let database = TestDb::empty().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let settings = |url: &str| Database { connect_timeout: Duration::from_millis(500), ..database_at(url) };

    let begun = Instant::now();
    let error = refused(&settings(&format!("postgres://postgres@127.0.0.1:{port}/x"))).await;
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().contains("no answer within 500ms"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));

    let two = database.url().replacen('@', &format!("@127.0.0.1:{port},"), 1);
    let patient = Database { connect_timeout: Duration::from_secs(3), ..database_at(&two) };
    Server::from_settings(&patient).unwrap().client("test", &QUICK).await.unwrap();

    let server =
        Server::from_settings(&settings(&format!("postgres://postgres@127.0.0.1:{port}/x"))).unwrap();
    let pool = server.pool("test", 1, &QUICK).unwrap();
    let error = server.take(&pool).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable, "{error}");
}

#[tokio::test]
async fn a_standby_is_refused_unless_the_address_asks_for_it() {
    let server = own_server(quiet_options()).await;
    server.stop().await.unwrap();
    std::fs::write(server.data_dir().join("standby.signal"), "").unwrap();
    server.start_again().await.unwrap();

    let error = refused(&database_at(&server.url("postgres"))).await;
    assert_eq!(error.kind(), Kind::Unreachable);
    assert!(error.to_string().contains("standby"), "{error}");
    let pooled = server_at(&server.url("postgres"));
    let error = pooled.take(&pooled.pool("test", 1, &QUICK).unwrap()).await.map(|_| ()).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("standby"), "{error}");

    let reading = server_at(&format!("{}?target_session_attrs=any", server.url("postgres")));
    reading.client("test", &QUICK).await.unwrap();
}

#[tokio::test]
async fn of_several_hosts_the_one_that_takes_writes_is_used() {
    let (standby, database) = tokio::join!(own_server(quiet_options()), TestDb::empty());
    let url = database.url();
    let same = format!("alter role postgres password '{}'", password(&url)); // one address, one password
    connect(&standby.url("postgres")).await.batch_execute(&same).await.unwrap();
    standby.stop().await.unwrap();
    std::fs::write(standby.data_dir().join("standby.signal"), "").unwrap();
    standby.start_again().await.unwrap();
    let url = url.replacen('@', &format!("@127.0.0.1:{},", standby.port()), 1);
    let client = server_at(&url).client("test", &QUICK).await.unwrap();
    let recovering: bool = client.query_one("select pg_is_in_recovery()", &[]).await.unwrap().get(0);
    assert!(!recovering);
}

#[tokio::test]
async fn a_connection_that_met_a_read_only_server_is_not_used_again() {
    let database = TestDb::empty().await;
    let server = server_at(&database.url());
    let pool = server.pool("test", 2, &server.session()).unwrap();
    let pid = "select pg_backend_pid()";

    let client = server.take(&pool).await.unwrap();
    let first: i32 = client.query_one(pid, &[]).await.unwrap().get(0);
    client.batch_execute("set default_transaction_read_only = on").await.unwrap();
    let outcome = client.batch_execute("create table t ()").await;
    let error = hand_back(client, outcome.map_err(|error| Error::postgres("writing", error))).unwrap_err();
    assert_eq!((error.kind(), error.sqlstate()), (Kind::Unreachable, Some("25006")));

    let client = server.take(&pool).await.unwrap();
    let second: i32 = client.query_one(pid, &[]).await.unwrap().get(0);
    assert_ne!(first, second);
    let outcome = client.batch_execute("select 1/0").await;
    hand_back(client, outcome.map_err(|error| Error::postgres("dividing", error))).unwrap_err();
    let client = server.take(&pool).await.unwrap();
    let third: i32 = client.query_one(pid, &[]).await.unwrap().get(0);
    assert_eq!(second, third, "an ordinary error does not cost the connection");
}

#[tokio::test]
async fn a_pooler_that_refuses_our_options_is_explained() {
    let port = answering(refusal_of_options()).await;
    let error = refused(&database_at(&format!("postgres://ann@127.0.0.1:{port}/app?sslmode=disable"))).await;
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.hint_text().unwrap().contains("ignore_startup_parameters"), "{error}");
}

#[tokio::test]
async fn a_pooler_that_drops_our_options_is_noticed() {
    let database = TestDb::empty().await;
    let port = dropping_options(database.server().port()).await;
    let url = format!("{}?sslmode=disable", database.url_through(port));
    let settings = Database { schema: "elsewhere".to_owned(), ..database_at(&url) };
    let error = refused(&settings).await;
    assert_eq!(error.kind(), Kind::Usage);
    assert!(error.to_string().contains("does not look into schema `elsewhere`"), "{error}");

    let there =
        "create schema elsewhere; alter role postgres in database DATABASE set search_path = elsewhere";
    database.client().await.batch_execute(&there.replace("DATABASE", database.name())).await.unwrap();
    Server::from_settings(&settings).unwrap().client("test", &QUICK).await.unwrap();
}

/// What `PgBouncer` answers to a startup message with `options`.
fn refusal_of_options() -> Vec<u8> {
    let fields = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: options\0\0";
    let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
    [&b"E"[..], &length, fields].concat()
}

/// A port on which every connection gets this answer to its startup message.
async fn answering(answer: Vec<u8>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer: Arc<[u8]> = answer.into();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                startup_message(&mut client).await;
                client.write_all(&answer).await.ok();
                client.shutdown().await.ok();
            });
        }
    });
    port
}

/// A port that leads to the server at `target` and takes `options` out of every startup message.
async fn dropping_options(target: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let message = without_options(&startup_message(&mut client).await);
                let mut server = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                server.write_all(&message).await.unwrap();
                tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
            });
        }
    });
    port
}

/// The body of a startup message: the version, then names and values, each ended by a zero.
async fn startup_message(client: &mut TcpStream) -> Vec<u8> {
    let length = client.read_u32().await.unwrap();
    let mut body = vec![0; usize::try_from(length).unwrap() - 4];
    client.read_exact(&mut body).await.unwrap();
    body
}

fn without_options(body: &[u8]) -> Vec<u8> {
    let words: Vec<&[u8]> = body[4..].split(|byte| *byte == 0).collect();
    let kept = words.chunks(2).filter(|pair| pair.len() == 2 && !pair[0].is_empty() && pair[0] != b"options");
    let mut message = body[..4].to_vec();
    for pair in kept {
        message.extend([pair[0], b"\0", pair[1], b"\0"].concat());
    }
    message.push(0);
    let length = u32::try_from(message.len() + 4).unwrap().to_be_bytes();
    [&length[..], &message].concat()
}

#[tokio::test]
async fn a_pool_without_a_free_connection_is_no_server_that_is_away() {
    let database = TestDb::empty().await;
    let settings = Database { connect_timeout: Duration::from_secs(2), ..database_at(&database.url()) };
    let server = Server::from_settings(&settings).unwrap();
    let pool = server.pool("test", 1, &server.session()).unwrap();
    let taken = server.take(&pool).await.unwrap();
    let error = server.take(&pool).await.map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), Kind::Transient, "{error}");
    assert!(error.to_string().contains("1 at most"), "{error}");
    assert!(error.hint_text().unwrap().contains("other work of this process"), "{error:?}");
    drop(taken);
}
