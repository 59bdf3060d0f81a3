//! What only a connection of its own can tell: whether a pooler shares sessions out, whether a notification comes through,
//! and how far the clock of this machine is from the server's. Called by `reveille doctor`.

use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, SimpleQueryMessage};

use super::{Server, explain, quote};
use crate::error::{Error, Kind, Result};
use crate::model::finding::Finding;
use crate::model::sorts;

/// Longest wait for a notification that was sent.
const CANARY: Duration = Duration::from_secs(3);

/// From here on a clock is wrong.
const SKEW_SECONDS: f64 = 2.0;

/// Two sessions at once must be two processes of the server, and each the same one from one transaction to the next.
pub async fn pooler(server: &Server) -> Result<Vec<Finding>> {
    let one = server.client("doctor", &server.session()).await?;
    let other = server.client("doctor", &server.session()).await?;
    let (mut ones, mut others) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        ones.push(word(&one, "select pg_backend_pid()").await?);
        others.push(word(&other, "select pg_backend_pid()").await?);
    }
    let is_constant = |pids: &[String]| pids.iter().all(|pid| *pid == pids[0]);
    if is_constant(&ones) && is_constant(&others) && ones[0] != others[0] {
        return Ok(Vec::new());
    }
    let what = format!(
        "two sessions were served by the same process of the server, or one by several ({}): a pooler in transaction mode stands between",
        [ones, others].concat().join(", ")
    );
    Ok(vec![sorts::POOLER_IN_THE_WAY.found(server.describe(), what, around(&word(&one, ITSELF).await?))])
}

/// The server's address as it knows it itself, behind the pooler; empty for a socket, or where it would need quoting.
const ITSELF: &str = "
    select coalesce((
      select format('postgresql://%s:PASSWORD@%s:%s/%s', current_user, case family(a.at) when 6 then '[' || host(a.at) || ']' else host(a.at) end,
        inet_server_port(), current_database())
      from (select inet_server_addr() as at) a
      where a.at is not null and current_user || current_database() ~ '^[A-Za-z0-9_.-]+$'), '')";

/// How to get around the pooler.
fn around(address: &str) -> String {
    if address.is_empty() {
        return "set [database] listen_url to the server's direct address; the pooler may stay in `url`"
            .to_owned();
    }
    format!(
        "export REVEILLE__DATABASE__LISTEN_URL={address} (or listen_url in [database]: the server's own address as it \
         knows it, with the password and the TLS words of `url`, if it has any); the pooler may stay in `url`"
    )
}

/// A canary goes round: sent on `sender`, heard on a session of its own at `listens`.
pub async fn canary(listens: &Server, sender: &Client) -> Result<Vec<Finding>> {
    let (client, mut connection) = listens.connect("doctor-listener").await?;
    let channel = quote::identifier(&format!("reveille_doctor_{}", uuid::Uuid::new_v4().simple()));
    let mut messages = futures::stream::poll_fn(move |cx| connection.poll_message(cx)).boxed();
    let (listen, notify) = (format!("listen {channel}"), format!("notify {channel}"));
    let heard = async {
        let asked = client.batch_execute(&listen);
        tokio::pin!(asked);
        let mut is_listening = false;
        loop {
            tokio::select! {
                answer = &mut asked, if !is_listening => {
                    answer.map_err(|error| Error::postgres("LISTEN", error))?;
                    is_listening = true;
                    sender.batch_execute(&notify).await.map_err(|error| Error::postgres("NOTIFY", error))?;
                }
                message = messages.next() => match message {
                    Some(Ok(AsyncMessage::Notification(_))) => return Ok(true),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(Error::postgres("listening", error)),
                    None => return Err(Error::new(Kind::Unreachable, "the listening connection was closed")),
                },
            }
        }
    };
    let what = match timeout(CANARY, heard).await {
        Ok(Ok(_)) => return Ok(Vec::new()),
        Ok(Err(error)) if error.sqlstate() == Some("0A000") => format!("LISTEN is refused: {error}"),
        Ok(Err(error)) => return Err(error),
        Err(_) => format!("a notification did not come through within {CANARY:?}"),
    };
    let mend = "set [database] listen_url to the server's direct address";
    Ok(vec![sorts::LISTEN_DEAF.found(format!("LISTEN at {}", listens.describe()), what, mend)])
}

/// How far this machine's clock is from the server's; of three looks the quickest counts.
pub async fn clock(server: &Server, client: &Client) -> Result<Vec<Finding>> {
    let mut best: Option<(f64, f64)> = None;
    for _ in 0..3 {
        let before = seconds();
        let answer = word(client, "select extract(epoch from clock_timestamp())").await?;
        let after = seconds();
        let there: f64 = answer.parse().unwrap_or(f64::NAN);
        let (took, ahead) = (after - before, f64::midpoint(before, after) - there);
        if best.is_none_or(|(quickest, _)| took < quickest) {
            best = Some((took, ahead));
        }
    }
    let Some((took, ahead)) = best.filter(|(took, ahead)| ahead.abs() - took / 2.0 > SKEW_SECONDS) else {
        return Ok(Vec::new());
    };
    let direction = if ahead > 0.0 { "ahead of" } else { "behind" };
    let what = format!(
        "it is {:.1} s {direction} that of {} (give or take {:.1} s)",
        ahead.abs(),
        server.describe(),
        took / 2.0
    );
    let mend = "let a time service keep both clocks: timedatectl set-ntp true";
    Ok(vec![sorts::CLOCK_SKEW.found("the clock of this machine", what, mend)])
}

fn seconds() -> f64 {
    Timestamp::now().as_duration().as_secs_f64()
}

/// The one word that a statement answers, asked in the simple protocol: a pooler must not be tripped up by names.
async fn word(client: &Client, sql: &str) -> Result<String> {
    let limit = Duration::from_secs(10);
    let messages = explain::within(limit, "looking at a connection", client.simple_query(sql)).await?;
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    row.ok_or_else(|| Error::new(Kind::Database, format!("{sql}: no answer")))
}

#[cfg(test)]
mod tests {
    use super::around;

    #[test]
    fn a_server_that_does_not_tell_its_address_gets_the_general_advice() {
        assert!(around("").starts_with("set [database] listen_url to"));
        let mend = around("postgresql://app:PASSWORD@10.0.0.7:5432/shop");
        assert!(
            mend.starts_with(
                "export REVEILLE__DATABASE__LISTEN_URL=postgresql://app:PASSWORD@10.0.0.7:5432/shop ("
            ),
            "{mend}"
        );
    }
}
