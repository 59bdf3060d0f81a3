//! Facts into the outbox, by every way in.

use futures::SinkExt;
use serde_json::Value;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::facts::Fact;
use super::ops::Way;

/// Whether it was done. Serializable transactions may be told to try again; anything else is a failure.
pub(super) fn done<T>(outcome: &Result<T, Error>) -> bool {
    match outcome {
        Ok(_) => true,
        Err(error) if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => false,
        Err(error) => panic!("{error}: {:?}", error.as_db_error()),
    }
}

pub(super) async fn write(client: &Client, way: Way, ids: &[Uuid], facts: &[Fact]) -> Result<(), Error> {
    match way {
        Way::OneStatement => insert(client, ids, facts).await,
        Way::OneByOne => {
            for (id, fact) in ids.iter().zip(facts) {
                insert(client, &[*id], std::slice::from_ref(fact)).await?;
            }
            Ok(())
        }
        Way::Copy => copy(client, ids, facts).await,
    }
}

async fn insert(client: &Client, ids: &[Uuid], facts: &[Fact]) -> Result<(), Error> {
    let rows: Vec<Value> = ids.iter().zip(facts).map(|(id, fact)| row(*id, fact)).collect();
    let insert = "
        insert into event_outbox
          (id, event_domain, event_type, event_stream, delivery_lane, event_subject_ref, safe_payload)
        select id, event_domain, event_type, event_stream, 'immediate', event_subject_ref, safe_payload
        from jsonb_populate_recordset(null::event_outbox, $1)";
    client.execute(insert, &[&Value::Array(rows)]).await.map(drop)
}

fn row(id: Uuid, fact: &Fact) -> Value {
    serde_json::json!({
        "id": id, "event_domain": fact.domain, "event_type": fact.kind, "event_stream": fact.stream,
        "event_subject_ref": fact.subject, "safe_payload": fact.payload})
}

async fn copy(client: &Client, ids: &[Uuid], facts: &[Fact]) -> Result<(), Error> {
    let escaped = |text: &str| text.replace('\\', "\\\\");
    let line = |(id, fact): (&Uuid, &Fact)| {
        let subject = fact.subject.as_deref().map_or("\\N".to_owned(), escaped);
        let payload = escaped(&fact.payload.to_string());
        let Fact { domain, kind, stream, .. } = fact;
        format!("{id}\t{domain}\t{kind}\t{stream}\timmediate\t{subject}\t{payload}\n")
    };
    let lines: String = ids.iter().zip(facts).map(line).collect();
    let copy = "copy event_outbox
        (id, event_domain, event_type, event_stream, delivery_lane, event_subject_ref, safe_payload) from stdin";
    let sink = client.copy_in::<_, std::io::Cursor<Vec<u8>>>(copy).await?;
    let mut sink = Box::pin(sink);
    sink.send(std::io::Cursor::new(lines.into_bytes())).await?;
    sink.as_mut().finish().await.map(drop)
}
