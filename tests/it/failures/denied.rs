//! The server answers and does not let us: nothing is tried again, and the line says whom to ask for what.

use crate::support::{
    Program, SECRET, SOON, TestDb, connect, emit_each, flow, login, own_server, quiet_options, wait_until,
};

#[tokio::test]
async fn a_wrong_password_ends_it_at_once_and_is_not_printed() {
    let server = own_server(quiet_options()).await;
    let admin = connect(&server.url("postgres")).await;
    let make = "create role ann login password 'right'; create database app owner ann";
    for statement in make.split(';') {
        admin.batch_execute(statement).await.unwrap();
    }
    let url = |user: &str| format!("postgresql://{user}@127.0.0.1:{}/app", server.port());
    for command in ["run", "tick", "health"] {
        let wrong = url(&format!("ann:{SECRET}"));
        let ended = Program::start(&wrong, &[command], &[]).ends().await;
        assert_eq!(ended.code, Some(1), "{}", ended.err);
        let told = ended.err.contains("password authentication failed for user \"ann\" (SQLSTATE 28P01)\n");
        assert!(
            told && ended.err.contains(&format!("connecting to 127.0.0.1:{}/app", server.port())),
            "{}",
            ended.err
        );
        assert!(
            ended
                .err
                .ends_with("hint: check user and password in DATABASE_URL, and pg_hba.conf on the server")
        );
    }
    let ended = Program::start(&url("ann"), &["run"], &[]).ends().await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("the server asks for a password and there is none"), "{}", ended.err);
}

#[tokio::test]
async fn a_user_without_roles_is_told_which_to_ask_for() {
    let db = TestDb::new().await;
    let user = format!("weak_{}", db.name());
    let client = flow(&db).await;
    let url = login(&client, &db.url(), &user, "").await;
    for command in ["run", "tick"] {
        let ended = Program::start(&url, &[command], &[]).ends().await;
        assert_eq!(ended.code, Some(1));
        assert!(
            ended.err.contains("permission denied for table dispatch_cursor (SQLSTATE 42501)\n"),
            "{}",
            ended.err
        );
        assert!(
            ended
                .err
                .contains("hint: grant the user of DATABASE_URL what it does: reveille_dispatcher for `run`")
        );
    }
    client.batch_execute(&format!("drop role {user}")).await.unwrap();
}

#[tokio::test]
async fn a_right_that_is_taken_away_ends_a_running_sidecar() {
    let db = TestDb::new().await;
    let user = format!("fired_{}", db.name());
    let client = flow(&db).await;
    let url = login(&client, &db.url(), &user, "in role reveille_dispatcher").await;
    let mut sidecar = Program::run(&url, &[]);
    sidecar.says(&["is running"]).await;
    client.batch_execute(&format!("revoke reveille_dispatcher from {user}")).await.unwrap();
    emit_each(&client, 1).await;
    let ended = sidecar.ends().await;
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.err.contains("error: ") && ended.err.contains("permission denied for function fn_"),
        "{}",
        ended.err
    );
    assert!(ended.err.contains("hint: grant the user of DATABASE_URL what it does"), "{}", ended.err);
    drop(db);
    wait_until("the role can go", SOON, async || {
        let server = connect(&crate::support::shared_server().await.url("postgres")).await;
        server.batch_execute(&format!("drop role if exists {user}")).await.is_ok()
    })
    .await;
}
