//! What systemd is told, over a real datagram socket.
//!
//! The socket's name is read from the environment, which no test may change while others run: so a process of its
//! own, this same test program, does the telling.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use reveille::systemd;

use crate::support::{Folder, Program, SOON, TestDb, all_became_jobs, emit_each, flow, wait_until};

/// Set for the process that tells.
const TELL: &str = "TELL_SYSTEMD";

/// This program again, running only the test that tells.
fn teller() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "systemd::tells_when_asked", "--nocapture"]);
    command.env(TELL, "1").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID").env_remove("NOTIFY_SOCKET");
    command
}

/// Run by [`teller`] alone; otherwise there is nothing to tell.
#[test]
fn tells_when_asked() {
    if std::env::var_os(TELL).is_none() {
        return;
    }
    systemd::ready("listening");
    systemd::status("line one\nREADY=1\r\nline three");
    systemd::alive();
    systemd::stopping("12 jobs left");
    println!("watchdog every {:?}", systemd::watchdog_interval());
}

#[test]
fn systemd_is_told_ready_status_alive_and_stopping() {
    let folder = Folder::open_to_all();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let told = teller().env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "10000000").output().unwrap();
    assert!(told.status.success(), "{told:?}");
    let next = || {
        let mut message = [0; 1024];
        let length = socket.recv(&mut message).expect("a message in time");
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    assert_eq!(next(), "READY=1\nSTATUS=listening\n");
    assert_eq!(next(), "STATUS=line one READY=1  line three\n", "a line break begins no message of its own");
    assert_eq!(next(), "WATCHDOG=1\n");
    assert_eq!(next(), "STOPPING=1\nSTATUS=12 jobs left\n");
    let words = String::from_utf8(told.stdout).unwrap();
    assert!(words.contains(&format!("watchdog every {:?}", Some(Duration::from_secs(5)))), "{words}");
}

#[test]
fn without_systemd_nothing_is_told_and_nothing_fails() {
    for socket in [None, Some("/nowhere/notify")] {
        let told = teller().envs(socket.map(|path| ("NOTIFY_SOCKET", path))).output().unwrap();
        assert!(told.status.success(), "{told:?}");
        assert!(String::from_utf8(told.stdout).unwrap().contains("watchdog every None"));
    }
}

#[tokio::test]
async fn the_watchdog_is_fed_while_the_check_of_the_positions_is_held_up() {
    let db = TestDb::new().await;
    let client = flow(&db).await;
    let slow = "create or replace function fn_dispatch_attach() returns jsonb language sql
        as $$ select jsonb_build_object('restored', pg_advisory_xact_lock(7045) is null) $$";
    client.batch_execute(slow).await.unwrap();
    client.batch_execute("select pg_advisory_lock(7045)").await.unwrap();
    emit_each(&client, 1).await;
    let folder = Folder::open_to_all();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON / 4)).unwrap();
    let systemd = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "400000")];
    let sidecar = Program::run(&db.url(), &systemd);
    wait_until("the check is held up", SOON, async || {
        let waits = "select exists (select from pg_stat_activity
            where datname = current_database() and wait_event = 'advisory')";
        client.query_one(waits, &[]).await.unwrap().get(0)
    })
    .await;
    let mut message = [0; 1024];
    let mut beats = 0;
    while beats < 5 {
        let length = socket.recv(&mut message).expect("a message in time");
        beats += u32::from(message[..length].starts_with(b"WATCHDOG=1"));
    }
    let jobs = client.query_one("select count(*) from job_queue", &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(jobs, 0, "nothing is read before the positions are known");
    client.batch_execute("select pg_advisory_unlock(7045)").await.unwrap();
    all_became_jobs(&client).await;
    sidecar.stops().await;
}
